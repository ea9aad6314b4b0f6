"""The twins as Equinox modules of one picture [1, 8, 8]: run under `jax.vmap`."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from whence.backends.twins.jax_arrays import check, transfer
from whence.backends.twins.twin import (
    EPSILON,
    HEADS,
    HIDDEN,
    PATCH,
    TOKENS,
    WIDTH,
    Arrays,
    Twin,
    places,
    same_names,
    weights,
)

KEY = jax.random.PRNGKey(0)
"""Of the first weights, none of which stays."""


class Dense(eqx.Module):
    """Three dense layers."""

    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear
    dense3: eqx.nn.Linear

    def __init__(self) -> None:
        self.dense1 = eqx.nn.Linear(64, 48, key=KEY)
        self.dense2 = eqx.nn.Linear(48, 32, key=KEY)
        self.dense3 = eqx.nn.Linear(32, 10, key=KEY)

    def __call__(self, picture: jax.Array) -> jax.Array:
        """Return the logits of one picture."""
        hidden = jax.nn.relu(self.dense1(picture.reshape(-1)))
        return self.dense3(jax.nn.relu(self.dense2(hidden)))


class Norm(eqx.Module):
    """Batch norm by the statistics of the training: Equinox's own keeps them in a state beside the model."""

    weight: jax.Array
    bias: jax.Array
    mean: jax.Array
    variance: jax.Array

    def __init__(self, size: int) -> None:
        self.weight, self.variance = jnp.ones(size), jnp.ones(size)
        self.bias, self.mean = jnp.zeros(size), jnp.zeros(size)

    def __call__(self, maps: jax.Array) -> jax.Array:
        """Return the normalised maps [channels, height, width]."""
        weight, bias, mean, variance = (
            each[:, None, None] for each in (self.weight, self.bias, self.mean, self.variance)
        )
        return (maps - mean) / jnp.sqrt(variance + EPSILON) * weight + bias


class Stage(eqx.Module):
    """A convolution, batch norm and ReLU."""

    conv: eqx.nn.Conv2d
    norm: Norm

    def __init__(self, inputs: int, outputs: int) -> None:
        self.conv = eqx.nn.Conv2d(inputs, outputs, 3, padding=1, key=KEY)
        self.norm = Norm(outputs)

    def __call__(self, maps: jax.Array) -> jax.Array:
        """Return the rectified maps."""
        return jax.nn.relu(self.norm(self.conv(maps)))


class Convolutional(eqx.Module):
    """Two stages with max pooling between them and global average pooling after them."""

    stage1: Stage
    pool1: eqx.nn.MaxPool2d
    stage2: Stage
    dense: eqx.nn.Linear

    def __init__(self) -> None:
        self.stage1, self.pool1 = Stage(1, 12), eqx.nn.MaxPool2d(2, 2)
        self.stage2 = Stage(12, 24)
        self.dense = eqx.nn.Linear(24, 10, key=KEY)

    def __call__(self, picture: jax.Array) -> jax.Array:
        """Return the logits of one picture."""
        maps = self.stage2(self.pool1(self.stage1(picture)))
        return self.dense(maps.mean((1, 2)))


class Block(eqx.Module):
    """A transformer's block: attention and a small network of each token, both beside a residual."""

    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self) -> None:
        biases = {f"use_{part}_bias": True for part in ("query", "key", "value", "output")}
        self.norm1 = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=KEY, **biases)
        self.norm2 = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
        self.dense1 = eqx.nn.Linear(WIDTH, HIDDEN, key=KEY)
        self.dense2 = eqx.nn.Linear(HIDDEN, WIDTH, key=KEY)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return the tokens, [n, width]."""
        normed = jax.vmap(self.norm1)(tokens)
        tokens = tokens + self.attention(normed, normed, normed)
        hidden = jax.vmap(self.dense1)(jax.vmap(self.norm2)(tokens))
        return tokens + jax.vmap(self.dense2)(jax.nn.gelu(hidden, approximate=False))


class Transformer(eqx.Module):
    """Patches with positions, two blocks, and the mean over the tokens."""

    patches: eqx.nn.Conv2d
    positions: jax.Array
    block1: Block
    block2: Block
    norm: eqx.nn.LayerNorm
    dense: eqx.nn.Linear

    def __init__(self) -> None:
        self.patches = eqx.nn.Conv2d(1, WIDTH, PATCH, stride=PATCH, key=KEY)
        self.positions = jnp.zeros((TOKENS, WIDTH))
        self.block1, self.block2 = Block(), Block()
        self.norm = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
        self.dense = eqx.nn.Linear(WIDTH, 10, key=KEY)

    def __call__(self, picture: jax.Array) -> jax.Array:
        """Return the logits of one picture."""
        tokens = self.patches(picture).reshape(WIDTH, TOKENS).T + self.positions
        tokens = jax.vmap(self.norm)(self.block2(self.block1(tokens)))
        return self.dense(tokens.mean(0))


MODULES = {"mlp": Dense, "cnn": Convolutional, "transformer": Transformer}


def spelled(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return weights by Equinox's names, which splits an attention's in three and gives maps' biases an extent."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        place, _, part = name.rpartition(".")
        if ".attention.qkv." in name:
            thirds = zip(("query", "key", "value"), np.split(array, 3), strict=True)
            found |= {name.replace("qkv", f"{one}_proj"): third for one, third in thirds}
        elif part == "bias" and arrays[f"{place}.weight"].ndim == 4:
            found[name] = array[:, None, None]
        else:
            found[name.replace("attention.out", "attention.output_proj")] = array
    return found


def build(network: str, framework: str, dtype: str) -> Twin:
    """Return a network as a module of one example."""
    check(dtype)
    given = spelled(weights(network, dtype))

    def placed(path: tuple[Any, ...], leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return jnp.asarray(given.pop(name)) if eqx.is_array(leaf) else leaf

    model = jax.tree_util.tree_map_with_path(placed, MODULES[network]())
    assert not given, f"weights without a place: {sorted(given)}"
    model = eqx.nn.inference_mode(model)
    batched = jax.jit(jax.vmap(model))

    def run(inputs: jax.Array) -> np.ndarray:
        return np.asarray(batched(inputs))

    return Twin(network, framework, model, transfer(dtype), run, False, same_names(*places(network)))
