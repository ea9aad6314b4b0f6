"""Keras models on the PyTorch backend: run in a scope that keeps what they would write, layers by Keras's names."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from whence.backends import Activation, Array, Leaves, Swap, Tap
from whence.backends.generators import Streams
from whence.backends.keras_activations import Watch, number
from whence.backends.keras_layers import channels_last, named
from whence.backends.keras_run import parameter_of, require_built, run


class KerasTorchSession:
    """Runs one Keras model for one explanation. Nothing is copied: a scope holds what a run would change."""

    def __init__(self, model: Any, streams: Streams) -> None:
        require_built(model)
        self.function = model
        self._streams = streams
        self._generators: dict[int, tuple[Any, Any]] = {}
        self._drawn = False

    @property
    def draws_randomness(self) -> bool:
        """Whether the model has drawn random numbers since the session began."""
        return self._drawn or self._streams.drawn

    @property
    def channels_last(self) -> bool:
        """Whether layers have their channels at the end."""
        return channels_last(self.function)

    def notes(self) -> list[str]:
        return []

    def widened(self) -> None:
        return None

    def names(self) -> Mapping[int, str]:
        return {id(layer): name for name, layer in named(self.function).items()}

    def layers(self) -> list[str]:
        return list(named(self.function))

    def parameter(self, name: str) -> Array:
        return parameter_of(self.function, name).value.detach()

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], *taps: Tap | Swap | None
    ) -> tuple[Any, Array | None]:
        places = [each for each in taps if each is not None]
        states = list(self._generators.values())

        def work() -> Any:
            return run(self.function, inputs, kwargs, places, states, torch.is_tensor, _leaf)

        ran = self._streams.run(work)
        for variable, state in ran.drawn:
            self._drawn = True
            self._generators[id(variable)] = variable, state
        return ran.output, ran.seen

    def activations(self, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
        watch = Watch(torch.is_tensor)
        leaves = tuple(_leaf(leaf) if leaf.dtype.is_floating_point else leaf for leaf in leaves)
        with watch.watching(self.function):
            answer = function(leaves)
        wanted = [each for each in watch.wanted(_is_float) if watch.met[each].tensor.requires_grad]
        gradients: Any = []
        if answer.requires_grad and wanted:
            flat = answer.flatten()
            # Nothing cancels in it that adds up to a constant, as probabilities do.
            mixed = flat @ torch.cos(torch.arange(len(flat), dtype=flat.dtype, device=flat.device))
            gradients = torch.autograd.grad(
                mixed, [watch.met[each].tensor for each in wanted], allow_unused=True
            )
        pairs = [(place, each) for place, each in zip(wanted, gradients, strict=False) if each is not None]
        return watch.told(
            {place: _reacting(each, watch.met[place].channels_last) for place, each in pairs}, _is_float
        )


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().requires_grad_()


def _is_float(tensor: torch.Tensor) -> bool:
    return tensor.dtype.is_floating_point


def _reacting(gradient: torch.Tensor, last: bool) -> int:
    # Where it is not about tokens, it only matters that the answer uses it.
    return int((gradient != 0).any(-1).sum()) if last and gradient.ndim == 3 else number(gradient.shape)


@contextmanager
def opened(model: Any, streams: Streams) -> Generator[KerasTorchSession]:
    """Yield a session on a Keras model."""
    yield KerasTorchSession(model, streams)
