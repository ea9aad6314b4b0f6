"""What every layer of a Keras model takes in and puts out, in order: the same on every backend of Keras."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import keras

from whence.backends import Activation
from whence.backends.keras_layers import Meet, first, named, watching

# What they put out is another's, pooled, thinned or laid out anew; by the names of their classes.
_PASSIVE: Final = (
    "Pooling", "Pool", "Dropout", "Flatten", "Reshape", "Permute", "RepeatVector", "UpSampling", "ZeroPadding",
    "Cropping", "Softmax", "Identity", "InputLayer", "Transpose", "Squeeze", "ExpandDims", "GetItem", "Mean",
    "Cast", "GaussianNoise", "Rescaling", "Resizing", "Masking", "ActivityRegularization",
)  # fmt: skip
# Layers whose last axis is that of the channels, and the attribute that says how many there are.
_LAST: Final = {"units": True, "output_dim": True, "_output_dim": True}


@dataclass(frozen=True)
class Met:
    """One activation with its tensor, which is kept so that its identity is not given to another."""

    name: str
    call: int
    input: bool
    tensor: Any
    channels_last: bool
    passive: bool
    maker: int


@dataclass
class Watch:
    """What was met so far: `last` and `width` say where the channels are, and how many, as far as layers tell."""

    is_tensor: Callable[[Any], bool]
    met: list[Met] = field(default_factory=list[Met])
    makers: dict[int, int] = field(default_factory=dict[int, int])
    calls: Counter[str] = field(default_factory=Counter[str])
    last: bool = True
    width: int | None = None

    def watching(self, model: Any) -> AbstractContextManager[None]:
        """Watch every layer of a model, and the model itself."""
        names: dict[int, tuple[Any, str]] = {id(model): (model, "")}
        for name, layer in named(model).items():
            names.setdefault(id(layer), (layer, name))
        self.last = keras.config.image_data_format() == "channels_last"
        return watching({key: (layer, *self._meets(layer, name)) for key, (layer, name) in names.items()})

    def _meets(self, layer: Any, name: str) -> tuple[Meet, Meet]:
        def before(value: Any) -> None:
            self._meet(name, value, True, True)

        def after(value: Any) -> None:
            self._tell(layer)
            # What the model itself puts out is the answer, not a place inside of it.
            self._meet(name, value, False, not name or _is_passive(layer))
            self.calls[name] += 1

        return before, after

    def _tell(self, layer: Any) -> None:
        """Learn from a layer where its channels are."""
        if isinstance(layer, keras.Model):
            return
        form = getattr(layer, "data_format", None)
        if form is not None:
            self.last = form == "channels_last"
        width = getattr(layer, "filters", None)
        for name in _LAST:
            if isinstance(getattr(layer, name, None), int):
                self.last, width = True, getattr(layer, name)
        self.width = width if isinstance(width, int) else self.width

    def _meet(self, name: str, value: Any, input: bool, passive: bool) -> None:
        tensor = first(value, self.is_tensor)
        if tensor is None or not len(tensor.shape):
            return
        place = len(self.met)
        maker = self.makers.setdefault(id(tensor), place)
        passive = passive if maker == place else self.met[maker].passive or not name
        # Of an attention's queries, keys and scores no axis is the channels'.
        mixed = (
            len(tensor.shape) >= 4
            and self.width is not None
            and self.width not in (tensor.shape[1], tensor.shape[-1])
        )
        last = self.last and len(tensor.shape) >= 3
        self.met.append(Met(name, self.calls[name], input, tensor, last, passive or mixed, maker))

    def wanted(self, is_float: Callable[[Any], bool]) -> list[int]:
        """Return the places of the activations that the answer's gradient is asked for at."""
        return [place for place, each in enumerate(self.met) if not each.passive and is_float(each.tensor)]

    def told(self, reacting: dict[int, int], is_float: Callable[[Any], bool]) -> list[Activation]:
        """Return what was met, with the number of positions at which the answer's gradient is not 0."""
        # A model's answer may be one of the arrays inside of it.
        output = {each.maker for each in self.met if not each.name and not each.input}
        return [
            Activation(
                each.name,
                each.call,
                each.input,
                tuple(each.tensor.shape),
                each.channels_last,
                each.passive or each.input or each.maker in output or not is_float(each.tensor),
                each.maker,
                reacting.get(place),
            )
            for place, each in enumerate(self.met)
        ]


def _is_passive(layer: Any) -> bool:
    kind = type(layer).__name__
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    return (
        kind == "Dense"
        or (kind == "Activation" and activation == "softmax")
        or any(part in kind for part in _PASSIVE)
    )


def number(shape: Sequence[int]) -> int:
    """Return how many numbers an array of this shape holds."""
    total = 1
    for size in shape:
        total *= int(size)
    return total
