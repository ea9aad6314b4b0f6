"""Sites: where the shares are handed out. None is the inputs; else a layer's value, or the model's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whence.backends import Array, Operations
from whence.errors import BadInput


@dataclass(frozen=True)
class Layer:
    """The n-th call of a named module: what it puts out (or takes in), all channels or some."""

    name: str
    channels: tuple[int, ...] | None = None
    input: bool = False
    call: int = 0

    @property
    def words(self) -> str:
        """What messages call it."""
        call = f" (call {self.call + 1})" if self.call else ""
        return f"{'the input of ' if self.input else ''}layer {self.name!r}{call}"

    @property
    def whole(self) -> Layer:
        """The same place with all its channels."""
        return replace(self, channels=None)

    def narrow(self, z: Array) -> Array:
        """Return the chosen channels of the layer's value [n, C, ...]."""
        columns = self.columns(z)
        return z if columns is None else z[:, columns]

    def columns(self, z: Array) -> list[int] | None:
        """Return the chosen channels' places in the layer's value [n, C, ...]; None where all are chosen.

        Raises:
            BadInput: it has no such channels, or one is named twice.
        """
        if self.channels is None:
            return None
        if z.ndim < 2 or any(not -z.shape[1] <= channel < z.shape[1] for channel in self.channels):
            raise BadInput(
                f"layer {self.name!r}: channels {self.channels} are out of range for {tuple(z.shape)}"
            )
        if len({channel % z.shape[1] for channel in self.channels}) < len(self.channels):
            raise BadInput(f"layer {self.name!r}: channels {self.channels} name one of {z.shape[1]} twice")
        return list(self.channels)

    def widen(self, part: Array, whole: Array, index: np.ndarray, ops: Operations) -> Array:
        """Return the full value with the chosen channels replaced by `part` [n, ...], differentiably."""
        if self.channels is None:
            return part
        full = ops.take(whole, index)
        chosen = [channel % full.shape[1] for channel in self.channels]
        columns = [part[:, chosen.index(c)] if c in chosen else full[:, c] for c in range(full.shape[1])]
        return ops.stack(columns, 1)


@dataclass(frozen=True)
class Parameter:
    """One of the model's parameters, of which every example hands out shares of its own."""

    name: str

    def __repr__(self) -> str:
        return f"parameters({self.name!r})"

    @property
    def words(self) -> str:
        """What messages call it."""
        return f"parameter {self.name!r}"


Site = Layer | Parameter


def parameters(name: str) -> Parameter:
    """Explain a parameter of the model, by the framework's own name: which weights matter for each example.

    The values are [B, *shape of the parameter]; a baseline is one of weights, a number or an array of their shape. A
    tensor that the model uses under several names is one parameter.

    Args:
        name: such as "fc.weight".
    """
    return Parameter(name)


def layer(name: str, channels: Sequence[int] | None = None, input: bool = False, call: int = 0) -> Layer:
    """Explain a layer inside the model, by the framework's own name of the module.

    Args:
        name: such as "features.3".
        channels: only these channels of it are explained; the others keep their values.
        input: what the module takes in, rather than what it puts out.
        call: which of its calls, when the module is used several times.

    Raises:
        BadInput: no channel is named, or one twice.
    """
    chosen = None if channels is None else tuple(int(channel) for channel in channels)
    if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
        raise BadInput(f"layer {name!r}: channels are {list(chosen)}; name at least one, and each only once")
    return Layer(name, chosen, input, call)
