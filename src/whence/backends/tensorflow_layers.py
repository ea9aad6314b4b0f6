"""What every layer of a Keras model takes in and puts out on TensorFlow, and what the answer makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from whence.backends import Activation, Array, Leaves
from whence.backends.keras_activations import Watch, number
from whence.backends.tensorflow_array import Wrapped
from whence.backends.tensorflow_trace import new_tape


def activations(model: Any, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
    """Return what every layer takes in and puts out while `function` runs the model on one example, in order."""
    watch = Watch(tf.is_tensor)
    inputs = [leaf.tensor for leaf in leaves]
    with new_tape() as tape:
        tape.watch([each for each in inputs if each.dtype.is_floating])
        with watch.watching(model):
            answer = function(tuple(Wrapped(each) for each in inputs)).tensor
        answer = _mixed(answer)
    wanted = watch.wanted(_is_float)
    gradients = tape.gradient(answer, [watch.met[place].tensor for place in wanted]) if wanted else []
    reacting = {
        place: _reacting(tf.convert_to_tensor(gradient), watch.met[place].channels_last)
        for place, gradient in zip(wanted, gradients, strict=True)
        if gradient is not None
    }
    return watch.told(reacting, _is_float)


def _is_float(tensor: Any) -> bool:
    return tensor.dtype.is_floating


def _reacting(gradient: Any, channels_last: bool) -> int:
    if not channels_last or gradient.shape.rank != 3:
        # Where it is not about tokens, it only matters that the answer uses it.
        return number(gradient.shape)
    return int(tf.reduce_sum(tf.cast(tf.reduce_any(gradient != 0, -1), tf.int32)))


def _mixed(answer: Any) -> Any:
    """Return a sum in which nothing cancels that adds up to a constant, as probabilities do."""
    flat = tf.reshape(answer, [-1])
    weights = tf.cos(tf.cast(tf.range(tf.size(flat)), tf.float32))
    return tf.reduce_sum(flat * tf.cast(weights, flat.dtype))
