"""What a twin is: one of three small networks, as one framework has it, with the names of its layers there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
from jaxtyping import Float

NETWORKS: Final = ("mlp", "cnn", "transformer")
EPSILON: Final = 2.0**-16
"""What batch and layer norms add to a variance: ONNX keeps it in float32, which has this number exactly."""
SIDE: Final = 8
"""The side of the pictures, in pixels."""
PATCH: Final = 2
"""The side of a transformer's patches, in pixels."""
TOKENS: Final = (SIDE // PATCH) ** 2
WIDTH: Final = 24
"""How many numbers a token of the transformer has."""
HEADS: Final = 6
"""Of 4 numbers each: frameworks that keep 1/√4 in float32 are exact too."""
HIDDEN: Final = 48
BLOCKS: Final = ("block1", "block2")
STAGES: Final = ("stage1", "stage2")
"""The convolutional network's halves: convolution, batch norm, ReLU; between them lies max pooling."""

Arrays = Mapping[str, np.ndarray]
"""Weights by name, laid out as PyTorch has them: dense [out, in], convolutions [out, in, height, width]."""


@dataclass(frozen=True)
class Twin:
    """One network in one framework.

    Attributes:
        network: one of `NETWORKS`.
        framework: the spelling, such as "keras-subclassed".
        model: what `whence.explain` takes.
        array: from NumPy to an array as the model takes it.
        run: from such an array to the logits in NumPy, by the framework itself.
        channels_last: whether the model takes [B, 8, 8, 1] and not [B, 1, 8, 8].
        layers: the framework's own name of each place that it can name; places are called as in PyTorch.
    """

    network: str
    framework: str
    model: Any
    array: Callable[[np.ndarray], Any]
    run: Callable[[Any], np.ndarray]
    channels_last: bool
    layers: Mapping[str, str] = field(default_factory=dict[str, str])

    def inputs(self, pictures: Float[np.ndarray, "n 1 8 8"]) -> Any:
        """Return pictures as the model takes them."""
        return self.array(np.moveaxis(pictures, 1, -1) if self.channels_last else pictures)

    def outputs(self, pictures: Float[np.ndarray, "n 1 8 8"]) -> Float[np.ndarray, "n 10"]:
        """Return the logits of pictures, in NumPy."""
        return np.asarray(self.run(self.inputs(pictures)))

    def channels_first(self, values: np.ndarray) -> np.ndarray:
        """Return values of pictures or of a layer's [n, ...] in PyTorch's layout."""
        return np.moveaxis(values, -1, 1) if self.channels_last and values.ndim == 4 else values


@cache
def _stored(network: str) -> Arrays:
    from safetensors.numpy import load

    path = files("whence") / "weights" / f"twins-{network}.safetensors"
    return load(path.read_bytes())


def weights(network: str, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Return copies of a network's weights by name."""
    return {name: array.astype(dtype) for name, array in sorted(_stored(network).items())}


def same_names(*places: str) -> dict[str, str]:
    """Return the names of layers that are called as the places themselves."""
    return {place: place for place in places}


def places(network: str) -> tuple[str, ...]:
    """Return the places at which every framework with layers can be asked: outputs in the order they are made."""
    if network == "mlp":
        return ("dense1", "dense2", "dense3")
    if network == "cnn":
        return (*(f"{stage}{part}" for stage in STAGES for part in (".conv", ".norm", "")), "dense")
    return ("patches", *BLOCKS, "norm", "dense")
