"""The twins in NumPy: what every framework is compared with, and functions for the black box."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import erf, softmax

from whence.backends.twins.twin import (
    BLOCKS,
    EPSILON,
    HEADS,
    PATCH,
    STAGES,
    TOKENS,
    WIDTH,
    Arrays,
    Twin,
    weights,
)

Pictures = Float[np.ndarray, "n 1 8 8"]
Logits = Float[np.ndarray, "n 10"]
Maps = Float[np.ndarray, "n channels height width"]
Tokens = Float[np.ndarray, "n tokens width"]


def dense(w: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    """Return a dense layer of the last axis."""
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def convolution(w: Arrays, name: str, x: Maps) -> Maps:
    """Return a 3 x 3 convolution that keeps the size."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nihwab,oiab->nohw", windows, w[f"{name}.weight"]) + w[f"{name}.bias"][:, None, None]


def batch_norm(w: Arrays, name: str, x: Maps) -> Maps:
    """Return maps normalised by the statistics of the training."""
    scale = w[f"{name}.weight"] / np.sqrt(w[f"{name}.variance"] + EPSILON)
    shift = w[f"{name}.bias"] - w[f"{name}.mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def layer_norm(w: Arrays, name: str, x: Tokens) -> Tokens:
    """Return tokens with mean 0 and variance 1, scaled and shifted."""
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
    return normed * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(w: Arrays, name: str, x: Tokens) -> Tokens:
    """Return the attention of tokens to each other."""
    both = dense(w, f"{name}.qkv", x).reshape(len(x), TOKENS, 3, HEADS, WIDTH // HEADS)
    query, key, value = np.moveaxis(both, 2, 0).swapaxes(2, 3)
    shares = softmax(query @ key.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS), axis=-1)
    return dense(w, f"{name}.out", (shares @ value).swapaxes(1, 2).reshape(x.shape))


def gelu(x: np.ndarray) -> np.ndarray:
    """Return the exact Gaussian error linear unit."""
    return (x * (1 + erf(x / np.sqrt(2))) / 2).astype(x.dtype)


def mlp(w: Arrays, x: Pictures) -> Logits:
    """Return the logits of the dense network."""
    hidden = np.maximum(dense(w, "dense1", x.reshape(len(x), -1)), 0)
    return dense(w, "dense3", np.maximum(dense(w, "dense2", hidden), 0))


def cnn(w: Arrays, x: Pictures) -> Logits:
    """Return the logits of the convolutional network."""
    for stage in STAGES:
        x = np.maximum(batch_norm(w, f"{stage}.norm", convolution(w, f"{stage}.conv", x)), 0)
        if stage == "stage1":
            x = x.reshape(*x.shape[:2], 4, 2, 4, 2).max((3, 5))
    return dense(w, "dense", x.mean((2, 3)))


def transformer(w: Arrays, x: Pictures) -> Logits:
    """Return the logits of the transformer."""
    side = x.shape[2] // PATCH
    patches = x.reshape(-1, side, PATCH, side, PATCH).swapaxes(2, 3).reshape(-1, TOKENS, PATCH * PATCH)
    tokens = patches @ w["patches.weight"].reshape(WIDTH, -1).T + w["patches.bias"] + w["positions"]
    for block in BLOCKS:
        tokens = tokens + attention(w, f"{block}.attention", layer_norm(w, f"{block}.norm1", tokens))
        hidden = gelu(dense(w, f"{block}.dense1", layer_norm(w, f"{block}.norm2", tokens)))
        tokens = tokens + dense(w, f"{block}.dense2", hidden)
    return dense(w, "dense", layer_norm(w, "norm", tokens).mean(1))


FUNCTIONS = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def build(network: str, framework: str, dtype: str) -> Twin:
    """Return a network as a function of NumPy arrays: a black box, without layers."""
    arrays, function = weights(network, dtype), FUNCTIONS[network]

    def model(pictures: Pictures) -> Logits:
        return function(arrays, pictures)

    return Twin(network, framework, model, lambda pictures: pictures.astype(dtype), model, False)
