"""The twins as pure JAX functions of weights and pictures [B, 8, 8, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from whence.backends.twins.jax_arrays import check, transfer
from whence.backends.twins.twin import (
    BLOCKS,
    EPSILON,
    HEADS,
    PATCH,
    STAGES,
    TOKENS,
    WIDTH,
    Twin,
    places,
    same_names,
    weights,
)

Weights = dict[str, jax.Array]
Function = Callable[[Weights, jax.Array], jax.Array]


def dense(w: Weights, name: str, x: jax.Array) -> jax.Array:
    """Return a dense layer of the last axis."""
    return checkpoint_name(x @ w[f"{name}.weight"].T + w[f"{name}.bias"], name)


def stage(w: Weights, name: str, x: jax.Array) -> jax.Array:
    """Return a 3 x 3 convolution that keeps the size, its batch norm and ReLU."""
    kernel = w[f"{name}.conv.weight"].transpose(2, 3, 1, 0)
    layout = ("NHWC", "HWIO", "NHWC")
    maps = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
    maps = checkpoint_name(maps + w[f"{name}.conv.bias"], f"{name}.conv")
    scale = w[f"{name}.norm.weight"] * jax.lax.rsqrt(w[f"{name}.norm.variance"] + EPSILON)
    maps = (maps - w[f"{name}.norm.mean"]) * scale + w[f"{name}.norm.bias"]
    return checkpoint_name(jax.nn.relu(checkpoint_name(maps, f"{name}.norm")), name)


def layer_norm(w: Weights, name: str, x: jax.Array) -> jax.Array:
    """Return tokens with mean 0 and variance 1, scaled and shifted."""
    normed = jax.nn.standardize(x, axis=-1, epsilon=EPSILON)
    return checkpoint_name(normed * w[f"{name}.weight"] + w[f"{name}.bias"], name)


def attention(w: Weights, name: str, x: jax.Array) -> jax.Array:
    """Return the attention of tokens to each other."""
    both = dense(w, f"{name}.qkv", x).reshape(len(x), TOKENS, 3, HEADS, WIDTH // HEADS)
    query, key, value = (both[:, :, part] for part in range(3))
    scores = jnp.einsum("nqhc,nkhc->nhqk", query, key) / np.sqrt(WIDTH // HEADS).item()
    mixed = jnp.einsum("nhqk,nkhc->nqhc", jax.nn.softmax(scores), value)
    return dense(w, f"{name}.out", mixed.reshape(x.shape))


def mlp(w: Weights, x: jax.Array) -> jax.Array:
    """Return the logits of the dense network."""
    hidden = jax.nn.relu(dense(w, "dense1", x.reshape(len(x), -1)))
    return dense(w, "dense3", jax.nn.relu(dense(w, "dense2", hidden)))


def cnn(w: Weights, x: jax.Array) -> jax.Array:
    """Return the logits of the convolutional network."""
    maps = stage(w, STAGES[0], x)
    window = (1, 2, 2, 1)
    maps = jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, window, window, "VALID")
    return dense(w, "dense", stage(w, STAGES[1], maps).mean((1, 2)))


def transformer(w: Weights, x: jax.Array) -> jax.Array:
    """Return the logits of the transformer."""
    side = x.shape[1] // PATCH
    patches = x.reshape(-1, side, PATCH, side, PATCH).swapaxes(2, 3).reshape(-1, TOKENS, PATCH * PATCH)
    kernel = w["patches.weight"].reshape(WIDTH, -1).T
    tokens = checkpoint_name(patches @ kernel + w["patches.bias"], "patches") + w["positions"]
    for block in BLOCKS:
        tokens = tokens + attention(w, f"{block}.attention", layer_norm(w, f"{block}.norm1", tokens))
        hidden = dense(w, f"{block}.dense1", layer_norm(w, f"{block}.norm2", tokens))
        tokens = tokens + dense(w, f"{block}.dense2", jax.nn.gelu(hidden, approximate=False))
        tokens = checkpoint_name(tokens, block)
    return dense(w, "dense", layer_norm(w, "norm", tokens).mean(1))


FUNCTIONS: dict[str, Function] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def build(network: str, framework: str, dtype: str) -> Twin:
    """Return a network as a function with its weights beside it ("jax-pair"), or with them inside ("jax")."""
    check(dtype)
    function = FUNCTIONS[network]
    held = {name: jnp.asarray(array) for name, array in weights(network, dtype).items()}

    def closed(x: jax.Array) -> jax.Array:
        return function(held, x)

    model: Any = (function, held) if framework == "jax-pair" else closed
    return Twin(
        network, framework, model, transfer(dtype), _runner(closed), True, same_names(*places(network))
    )


def _runner(function: Callable[[jax.Array], jax.Array]) -> Callable[[Any], np.ndarray]:
    compiled = jax.jit(function)
    return lambda inputs: np.asarray(compiled(inputs))
