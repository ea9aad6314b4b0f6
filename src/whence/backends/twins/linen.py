"""The dense and the convolutional twin as Flax Linen modules, on pictures [B, 8, 8, 1]."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from whence.backends.twins.flax import spelled
from whence.backends.twins.jax_arrays import check, transfer
from whence.backends.twins.twin import EPSILON, Twin, places, same_names, weights


class Dense(linen.Module):
    """Three dense layers."""

    dtype: Any

    @linen.compact
    def __call__(self, pictures: jax.Array) -> jax.Array:
        """Return the logits."""
        hidden = pictures.reshape(len(pictures), -1)
        hidden = linen.relu(linen.Dense(48, param_dtype=self.dtype, name="dense1")(hidden))
        hidden = linen.relu(linen.Dense(32, param_dtype=self.dtype, name="dense2")(hidden))
        return linen.Dense(10, param_dtype=self.dtype, name="dense3")(hidden)


class Stage(linen.Module):
    """A convolution, batch norm and ReLU."""

    outputs: int
    dtype: Any

    @linen.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        """Return the rectified maps."""
        maps = linen.Conv(self.outputs, (3, 3), param_dtype=self.dtype, name="conv")(maps)
        norm = linen.BatchNorm(use_running_average=True, epsilon=EPSILON, param_dtype=self.dtype, name="norm")
        return linen.relu(norm(maps))


class Convolutional(linen.Module):
    """Two stages with max pooling between them and global average pooling after them."""

    dtype: Any

    @linen.compact
    def __call__(self, pictures: jax.Array) -> jax.Array:
        """Return the logits."""
        maps = linen.max_pool(Stage(12, self.dtype, name="stage1")(pictures), (2, 2), strides=(2, 2))
        maps = Stage(24, self.dtype, name="stage2")(maps)
        return linen.Dense(10, param_dtype=self.dtype, name="dense")(maps.mean((1, 2)))


MODULES = {"mlp": Dense, "cnn": Convolutional}


def build(network: str, framework: str, dtype: str) -> Twin:
    """Return a network as a pair: a Linen module and its variables."""
    check(dtype)
    model = MODULES[network](jnp.dtype(dtype))
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in spelled(weights(network, dtype)).items():
        collection = "batch_stats" if name.endswith((".mean", ".var")) else "params"
        *path, last = name.split(".")
        place = variables[collection]
        for part in path:
            place = place.setdefault(part, {})
        place[last] = jnp.asarray(array)

    def run(inputs: jax.Array) -> np.ndarray:
        return np.asarray(model.apply(variables, inputs))

    layers = same_names(*places(network))
    return Twin(network, framework, (model, variables), transfer(dtype), run, True, layers)
