"""The twins as Keras models, on pictures [B, 8, 8, 1]: functional, sequential and subclassed ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import keras
import numpy as np

from whence.backends.twins.twin import (
    BLOCKS,
    EPSILON,
    HEADS,
    HIDDEN,
    PATCH,
    SIDE,
    STAGES,
    TOKENS,
    WIDTH,
    Twin,
    weights,
)

Layers = Mapping[str, Any]
L: Final = keras.layers
CHAINS: Final = {
    "mlp": ("flatten", "dense1", "relu1", "dense2", "relu2", "dense3"),
    "cnn": (
        *(f"stage1.{part}" for part in ("conv", "norm", "relu")),
        "pool1",
        *(f"stage2.{part}" for part in ("conv", "norm", "relu")),
        "pool2",
        "dense",
    ),
}
"""The networks that are one layer after the other."""


def own_name(place: str) -> str:
    """Return what Keras calls a place: names with dots are those of no variable."""
    return place.replace(".", "_")


@keras.saving.register_keras_serializable("whence")
def gelu(x: Any) -> Any:
    """Return the exact Gaussian error linear unit: TensorFlow's has the root of 2 in float32 alone."""
    error: Any = keras.ops.erf(x / np.sqrt(2).item())
    return x * (1 + error) / 2


@keras.saving.register_keras_serializable("whence")
class Positions(keras.layers.Layer):
    """Adds what is learned of each token's place."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the only weight."""
        self.positions = self.add_weight(shape=(TOKENS, WIDTH), name="positions")

    def call(self, tokens: Any) -> Any:
        """Return the tokens with their places."""
        return tokens + self.positions


def layers(network: str, dtype: str) -> dict[str, Any]:
    """Return the layers of a network by their places, without weights."""
    makers = {"mlp": _dense_layers, "cnn": _convolutional_layers, "transformer": _transformer_layers}
    return {place: make(name=own_name(place), dtype=dtype) for place, make in makers[network]().items()}


def _maker(kind: Any, *args: Any, **options: Any) -> Callable[..., Any]:
    return lambda **common: kind(*args, **options, **common)


def _dense_layers() -> dict[str, Callable[..., Any]]:
    return {
        "flatten": _maker(L.Flatten),
        "dense1": _maker(L.Dense, 48),
        "relu1": _maker(L.ReLU),
        "dense2": _maker(L.Dense, 32),
        "relu2": _maker(L.Activation, "relu"),
        "dense3": _maker(L.Dense, 10),
    }


def _convolutional_layers() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for stage, outputs in zip(STAGES, (12, 24), strict=True):
        found[f"{stage}.conv"] = _maker(L.Conv2D, outputs, 3, padding="same")
        found[f"{stage}.norm"] = _maker(L.BatchNormalization, epsilon=EPSILON)
        found[f"{stage}.relu"] = _maker(L.ReLU)
    return found | {
        "pool1": _maker(L.MaxPooling2D, 2),
        "pool2": _maker(L.GlobalAveragePooling2D),
        "dense": _maker(L.Dense, 10),
    }


def _transformer_layers() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {
        "patches": _maker(L.Conv2D, WIDTH, PATCH, strides=PATCH),
        "tokens": _maker(L.Reshape, (TOKENS, WIDTH)),
        "positions": _maker(Positions),
        "norm": _maker(L.LayerNormalization, epsilon=EPSILON),
        "pool": _maker(L.GlobalAveragePooling1D),
        "dense": _maker(L.Dense, 10),
    }
    for block in BLOCKS:
        found |= {
            f"{block}.norm1": _maker(L.LayerNormalization, epsilon=EPSILON),
            f"{block}.attention": _maker(L.MultiHeadAttention, HEADS, WIDTH // HEADS),
            f"{block}.between": _maker(L.Add),
            f"{block}.norm2": _maker(L.LayerNormalization, epsilon=EPSILON),
            f"{block}.dense1": _maker(L.Dense, HIDDEN, activation=gelu),
            f"{block}.dense2": _maker(L.Dense, WIDTH),
            block: _maker(L.Add),
        }
    return found


def connected(network: str, parts: Layers, pictures: Any) -> Any:
    """Return the logits that a network's layers make of pictures."""
    value = pictures
    for place in CHAINS.get(network, ()):
        value = parts[place](value)
    return value if network in CHAINS else _transformed(parts, pictures)


def _transformed(parts: Layers, pictures: Any) -> Any:
    value = parts["positions"](parts["tokens"](parts["patches"](pictures)))
    for block in BLOCKS:
        normed = parts[f"{block}.norm1"](value)
        value = parts[f"{block}.between"]([value, parts[f"{block}.attention"](normed, normed)])
        hidden = parts[f"{block}.dense1"](parts[f"{block}.norm2"](value))
        value = parts[block]([value, parts[f"{block}.dense2"](hidden)])
    return parts["dense"](parts["pool"](parts["norm"](value)))


class Subclassed(keras.Model):
    """A network that is written down as Python, and not as a graph of layers."""

    def __init__(self, network: str, dtype: str) -> None:
        super().__init__(name=f"subclassed_{network}", dtype=dtype)
        self.network = network
        self.parts = layers(network, dtype)

    def call(self, pictures: Any) -> Any:
        """Return the logits."""
        return connected(self.network, self.parts, pictures)


def fill(parts: Layers, arrays: Mapping[str, np.ndarray]) -> None:
    """Copy weights into layers that have been called."""
    for place, layer in parts.items():
        if layer.weights:
            layer.set_weights(_arrays(place, arrays))


def _arrays(place: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return a layer's weights in Keras's order and layout."""
    if place == "positions":
        return [arrays["positions"]]
    if place.endswith(".attention"):
        return _attention(place, arrays)
    weight, bias = arrays[f"{place}.weight"], arrays[f"{place}.bias"]
    if weight.ndim == 1:
        statistics = [
            arrays[f"{place}.{part}"] for part in ("mean", "variance") if f"{place}.{part}" in arrays
        ]
        return [weight, bias, *statistics]
    return [weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T, bias]


def _attention(place: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    size = WIDTH // HEADS
    kernels = np.split(arrays[f"{place}.qkv.weight"], 3)
    biases = np.split(arrays[f"{place}.qkv.bias"], 3)
    found: list[np.ndarray] = []
    for kernel, bias in zip(kernels, biases, strict=True):
        found += [kernel.T.reshape(WIDTH, HEADS, size), bias.reshape(HEADS, size)]
    out = arrays[f"{place}.out.weight"].T.reshape(HEADS, size, WIDTH)
    return [*found, out, arrays[f"{place}.out.bias"]]


def build(network: str, framework: str, dtype: str) -> Twin:
    """Return a network as a functional ("keras"), sequential or subclassed Keras model."""
    shape = (SIDE, SIDE, 1)
    if framework == "keras-subclassed":
        model: Any = Subclassed(network, dtype)
        parts = model.parts
        model(np.zeros((1, *shape), dtype))
    elif framework == "keras-sequential":
        parts = layers(network, dtype)
        model = keras.Sequential(
            [keras.Input(shape, dtype=dtype), *(parts[each] for each in CHAINS[network])]
        )
    else:
        parts = layers(network, dtype)
        pictures = keras.Input(shape, dtype=dtype)
        model = keras.Model(pictures, connected(network, parts, pictures))
    fill(parts, weights(network, dtype))

    def run(inputs: Any) -> np.ndarray:
        return np.asarray(model(inputs, training=False))

    def array(pictures: np.ndarray) -> Any:
        return keras.ops.convert_to_tensor(pictures.astype(dtype))

    names = {place: own_name(place) for place in parts} | {
        stage: own_name(f"{stage}.relu") for stage in STAGES if network == "cnn"
    }
    return Twin(network, framework, model, array, run, True, names)
