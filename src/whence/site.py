"""Sites: where the shares are handed out. None is the inputs; else a layer's value, or the model's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from whence.backends import Array, Operations
from whence.errors import BadInput


@dataclass(frozen=True)
class Layer:
    """The n-th call of a named module: what it puts out (or takes in), all channels or some.

    `channels_end` says that pictures inside the model have their channels as the last axis [n, ..., C], and not as the
    second; the framework tells.
    """

    name: str
    channels: tuple[int, ...] | None = None
    input: bool = False
    call: int = 0
    channels_end: bool = field(default=False, repr=False, compare=False)

    @property
    def words(self) -> str:
        """What messages call it."""
        call = f" (call {self.call + 1})" if self.call else ""
        return f"{'the input of ' if self.input else ''}layer {self.name!r}{call}"

    @property
    def whole(self) -> Layer:
        """The same place with all its channels."""
        return replace(self, channels=None)

    def channel_axis(self, axes: int) -> int:
        """Return the axis of the channels in a value of so many axes."""
        return axes - 1 if self.channels_end and axes >= 4 else 1

    def narrow(self, z: Array) -> Array:
        """Return the chosen channels of the layer's value, [n, C, ...] or [n, ..., C]."""
        columns = self.columns(z)
        if columns is None:
            return z
        return z[:, columns] if self.channel_axis(z.ndim) == 1 else z[..., columns]

    def columns(self, z: Array) -> list[int] | None:
        """Return the chosen channels' places in the layer's value; None where all are chosen.

        Raises:
            BadInput: it has no such channels, or one is named twice.
        """
        if self.channels is None:
            return None
        count = z.shape[self.channel_axis(z.ndim)] if z.ndim > 1 else 0
        if any(not -count <= channel < count for channel in self.channels):
            raise BadInput(
                f"layer {self.name!r}: channels {self.channels} are out of range for {tuple(z.shape)}"
            )
        if len({channel % count for channel in self.channels}) < len(self.channels):
            raise BadInput(f"layer {self.name!r}: channels {self.channels} name one of {count} twice")
        return list(self.channels)

    def widen(self, part: Array, whole: Array, index: np.ndarray, ops: Operations) -> Array:
        """Return the full value with the chosen channels replaced by `part` [n, ...], differentiably."""
        if self.channels is None:
            return part
        full = ops.take(whole, index)
        axis = self.channel_axis(full.ndim)
        chosen = [channel % full.shape[axis] for channel in self.channels]

        def column(array: Array, place: int) -> Array:
            return array[:, place] if axis == 1 else array[..., place]

        columns = [
            column(part, chosen.index(c)) if c in chosen else column(full, c) for c in range(full.shape[axis])
        ]
        return ops.stack(columns, axis)


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
