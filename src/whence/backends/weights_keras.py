"""Other weights for Keras models, on whatever backend: a clone of the model that is given them."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from whence.backends.keras_run import require_built
from whence.backends.weights import CANNOT, Arrays, Weights, by_layer
from whence.errors import UnsupportedByBackend

# What normalisation has seen is no weight.
COUNTED = ("moving_mean", "moving_variance")


def keras_weights(model: Any) -> Weights:
    """Return a built Keras model's weights, without the means that its normalisation keeps."""
    require_built(model)
    arrays = {
        name: np.array(each)
        for name, each in zip(_names(model), model.get_weights(), strict=True)
        if np.issubdtype(each.dtype, np.floating) and name.rpartition("/")[2] not in COUNTED
    }
    return Weights(arrays, by_layer(arrays, "/"), partial(_replaced, model))


def _names(model: Any) -> list[str]:
    """Return the weights' names, without the model's own; its order is the model's."""
    names = [each.path.removeprefix(f"{model.name}/") for each in model.weights]
    return [name if names.count(name) == 1 else f"{name}:{place}" for place, name in enumerate(names)]


def _replaced(model: Any, arrays: Arrays) -> Any:
    with _no_lots_drawn():
        try:
            import keras

            copy: Any = keras.models.clone_model(model)
            if not copy.weights and model.weights:
                copy.build(model.input_shape)
        except Exception as problem:
            raise UnsupportedByBackend(
                CANNOT.format(f"{type(model).__name__} cannot be cloned by Keras ({problem})")
            ) from problem
    if len(copy.weights) != len(model.weights):
        raise UnsupportedByBackend(CANNOT.format(f"{type(model).__name__}: its clone has other weights"))
    own = zip(_names(model), model.get_weights(), strict=True)
    copy.set_weights([arrays.get(name, each) for name, each in own])
    return copy


@contextmanager
def _no_lots_drawn() -> Generator[None]:
    """Leave the generators that initialisers draw their seeds from as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
