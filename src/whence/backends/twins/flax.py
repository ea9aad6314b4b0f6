"""The twins as Flax NNX modules, on pictures [B, 8, 8, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from whence.backends.twins.jax_arrays import check, transfer
from whence.backends.twins.twin import (
    EPSILON,
    HEADS,
    HIDDEN,
    PATCH,
    TOKENS,
    WIDTH,
    Twin,
    places,
    same_names,
    weights,
)


class Dense(nnx.Module):
    """Three dense layers."""

    def __init__(self, rngs: nnx.Rngs, dtype: Any) -> None:
        self.dense1 = nnx.Linear(64, 48, rngs=rngs, param_dtype=dtype)
        self.dense2 = nnx.Linear(48, 32, rngs=rngs, param_dtype=dtype)
        self.dense3 = nnx.Linear(32, 10, rngs=rngs, param_dtype=dtype)

    def __call__(self, pictures: jax.Array) -> jax.Array:
        """Return the logits."""
        hidden = nnx.relu(self.dense1(pictures.reshape(len(pictures), -1)))
        return self.dense3(nnx.relu(self.dense2(hidden)))


class Stage(nnx.Module):
    """A convolution, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs, dtype: Any) -> None:
        self.conv = nnx.Conv(inputs, outputs, (3, 3), rngs=rngs, param_dtype=dtype)
        self.norm = nnx.BatchNorm(
            outputs, use_running_average=True, epsilon=EPSILON, rngs=rngs, param_dtype=dtype
        )

    def __call__(self, maps: jax.Array) -> jax.Array:
        """Return the rectified maps."""
        return nnx.relu(self.norm(self.conv(maps)))


class Convolutional(nnx.Module):
    """Two stages with max pooling between them and global average pooling after them."""

    def __init__(self, rngs: nnx.Rngs, dtype: Any) -> None:
        self.stage1 = Stage(1, 12, rngs, dtype)
        self.stage2 = Stage(12, 24, rngs, dtype)
        self.dense = nnx.Linear(24, 10, rngs=rngs, param_dtype=dtype)

    def __call__(self, pictures: jax.Array) -> jax.Array:
        """Return the logits."""
        maps = nnx.max_pool(self.stage1(pictures), (2, 2), strides=(2, 2))
        return self.dense(self.stage2(maps).mean((1, 2)))


def attended(query: jax.Array, key: jax.Array, value: jax.Array, **_: Any) -> jax.Array:
    """Return the attention of heads [B, n, heads, size]: JAX's own takes its softmax in float32, also of float64."""
    scores = jnp.einsum("nqhc,nkhc->nhqk", query, key) / np.sqrt(query.shape[-1]).item()
    return jnp.einsum("nhqk,nkhc->nqhc", jax.nn.softmax(scores), value)


class Block(nnx.Module):
    """A transformer's block: attention and a small network of each token, both beside a residual."""

    def __init__(self, rngs: nnx.Rngs, dtype: Any) -> None:
        self.norm1 = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs, param_dtype=dtype)
        self.attention = nnx.MultiHeadAttention(
            HEADS, WIDTH, WIDTH, attention_fn=attended, decode=False, rngs=rngs, param_dtype=dtype
        )
        self.norm2 = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs, param_dtype=dtype)
        self.dense1 = nnx.Linear(WIDTH, HIDDEN, rngs=rngs, param_dtype=dtype)
        self.dense2 = nnx.Linear(HIDDEN, WIDTH, rngs=rngs, param_dtype=dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return the tokens, [B, n, width]."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.dense2(nnx.gelu(self.dense1(self.norm2(tokens)), approximate=False))


class Transformer(nnx.Module):
    """Patches with positions, two blocks, and the mean over the tokens."""

    def __init__(self, rngs: nnx.Rngs, dtype: Any) -> None:
        side = (PATCH, PATCH)
        self.patches = nnx.Conv(1, WIDTH, side, strides=side, padding="VALID", rngs=rngs, param_dtype=dtype)
        self.positions = nnx.Param(jnp.zeros((TOKENS, WIDTH), dtype))
        self.block1, self.block2 = Block(rngs, dtype), Block(rngs, dtype)
        self.norm = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs, param_dtype=dtype)
        self.dense = nnx.Linear(WIDTH, 10, rngs=rngs, param_dtype=dtype)

    def __call__(self, pictures: jax.Array) -> jax.Array:
        """Return the logits."""
        tokens = self.patches(pictures).reshape(len(pictures), TOKENS, WIDTH) + self.positions[...]
        return self.dense(self.norm(self.block2(self.block1(tokens))).mean(1))


MODULES = {"mlp": Dense, "cnn": Convolutional, "transformer": Transformer}


def spelled(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights by Flax's names and in its layout: kernels [in, out] and [height, width, in, out]."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        module, _, part = name.rpartition(".")
        if ".attention" in name:
            found |= _attention(module, part, array)
        elif part != "weight":
            found[{"variance": f"{module}.var"}.get(part, name)] = array
        elif array.ndim == 1:
            found[f"{module}.scale"] = array
        else:
            found[f"{module}.kernel"] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return found


def _attention(module: str, part: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parts of an attention, whose kernels tell heads from the numbers of each."""
    place, size = module.rpartition(".")[0], WIDTH // HEADS
    if module.endswith(".out"):
        kernel = array.T.reshape(HEADS, size, WIDTH) if part == "weight" else array
        return {f"{place}.out.{_part(part)}": kernel}
    thirds = zip(("query", "key", "value"), np.split(array, 3), strict=True)
    return {f"{place}.{name}.{_part(part)}": _heads(third) for name, third in thirds}


def _heads(third: np.ndarray) -> np.ndarray:
    size = WIDTH // HEADS
    return third.T.reshape(WIDTH, HEADS, size) if third.ndim == 2 else third.reshape(HEADS, size)


def _part(part: str) -> str:
    return "kernel" if part == "weight" else part


def build(network: str, framework: str, dtype: str) -> Twin:
    """Return a network as an NNX module in eval mode."""
    check(dtype)
    model = MODULES[network](nnx.Rngs(0), jnp.dtype(dtype))
    given = spelled(weights(network, dtype))
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        variable.set_value(jnp.asarray(given.pop(".".join(map(str, path)))))
    assert not given, f"weights without a place: {sorted(given)}"
    model.eval()

    def run(inputs: jax.Array) -> np.ndarray:
        return np.asarray(model(inputs))

    return Twin(network, framework, model, transfer(dtype), run, True, same_names(*places(network)))
