"""The twins as functions of TensorFlow's own operations (tf.function), on pictures [B, 8, 8, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from whence.backends.twins.twin import BLOCKS, EPSILON, HEADS, PATCH, STAGES, TOKENS, WIDTH, Twin, weights

Weights = dict[str, Any]
Function = Callable[[Weights, Any], Any]


def dense(w: Weights, name: str, x: Any) -> Any:
    """Return a dense layer of the last axis."""
    return tf.identity(tf.linalg.matmul(x, w[f"{name}.weight"], transpose_b=True) + w[f"{name}.bias"], name)


def stage(w: Weights, name: str, x: Any) -> Any:
    """Return a 3 x 3 convolution that keeps the size, its batch norm and ReLU."""
    kernel = tf.transpose(w[f"{name}.conv.weight"], (2, 3, 1, 0))
    maps = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), w[f"{name}.conv.bias"])
    normed = tf.nn.batch_normalization(
        maps,
        w[f"{name}.norm.mean"],
        w[f"{name}.norm.variance"],
        w[f"{name}.norm.bias"],
        w[f"{name}.norm.weight"],
        EPSILON,
    )
    return tf.nn.relu(normed, name=name)


def layer_norm(w: Weights, name: str, x: Any) -> Any:
    """Return tokens with mean 0 and variance 1, scaled and shifted."""
    mean = tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
    normed = (x - mean) * tf.math.rsqrt(variance + EPSILON)
    return tf.identity(normed * w[f"{name}.weight"] + w[f"{name}.bias"], name)


def attention(w: Weights, name: str, x: Any) -> Any:
    """Return the attention of tokens to each other."""
    both = tf.reshape(dense(w, f"{name}.qkv", x), (-1, TOKENS, 3, HEADS, WIDTH // HEADS))
    query, key, value = tf.unstack(both, axis=2)
    scores = tf.einsum("nqhc,nkhc->nhqk", query, key) / np.sqrt(WIDTH // HEADS).item()
    mixed = tf.einsum("nhqk,nkhc->nqhc", tf.nn.softmax(scores), value)
    return dense(w, f"{name}.out", tf.reshape(mixed, (-1, TOKENS, WIDTH)))


def gelu(x: Any) -> Any:
    """Return the exact Gaussian error linear unit: tf.nn.gelu has the root of 2 in float32 alone."""
    return x * (1 + tf.math.erf(x / np.sqrt(2).item())) / 2


def mlp(w: Weights, x: Any) -> Any:
    """Return the logits of the dense network."""
    hidden = tf.nn.relu(dense(w, "dense1", tf.reshape(x, (-1, 64))))
    return dense(w, "dense3", tf.nn.relu(dense(w, "dense2", hidden)))


def cnn(w: Weights, x: Any) -> Any:
    """Return the logits of the convolutional network."""
    maps = tf.nn.max_pool2d(stage(w, STAGES[0], x), 2, 2, "VALID")
    return dense(w, "dense", tf.reduce_mean(stage(w, STAGES[1], maps), (1, 2)))


def transformer(w: Weights, x: Any) -> Any:
    """Return the logits of the transformer."""
    kernel = tf.transpose(w["patches.weight"], (2, 3, 1, 0))
    patches = tf.nn.conv2d(x, kernel, PATCH, "VALID") + w["patches.bias"]
    tokens = tf.reshape(patches, (-1, TOKENS, WIDTH)) + w["positions"]
    for block in BLOCKS:
        tokens = tokens + attention(w, f"{block}.attention", layer_norm(w, f"{block}.norm1", tokens))
        hidden = dense(w, f"{block}.dense1", layer_norm(w, f"{block}.norm2", tokens))
        tokens = tokens + dense(w, f"{block}.dense2", gelu(hidden))
        tokens = tf.identity(tokens, block)
    return dense(w, "dense", tf.reduce_mean(layer_norm(w, "norm", tokens), 1))


FUNCTIONS: dict[str, Function] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def build(network: str, framework: str, dtype: str) -> Twin:
    """Return a network as a traced function; its layers are operations of a graph, which have no names to ask by."""
    function = FUNCTIONS[network]
    held = {name: tf.constant(array) for name, array in weights(network, dtype).items()}

    def logits(pictures: Any) -> Any:
        return function(held, pictures)

    model: Any = tf.function(logits, autograph=False)

    def array(pictures: np.ndarray) -> Any:
        return tf.constant(pictures.astype(dtype))

    return Twin(network, framework, model, array, lambda inputs: model(inputs).numpy(), True)
