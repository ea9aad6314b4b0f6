"""A model's weights by name, and the same model with others: which framework does it is found here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from whence.backends.lookup import loaded, resolve
from whence.errors import UnsupportedByBackend

Arrays = Mapping[str, Float[np.ndarray, "..."]]

CANNOT = (
    "{}: its weights cannot be replaced; metrics of other families work, and so do torch modules, JAX pairs (f, "
    "params), flax, equinox and Keras models, and ONNX files"
)


@dataclass(frozen=True)
class Weights:
    """The real-valued parameters of a model, in the order in which it defines them, and how to make it with others.

    `arrays` holds their values by name; `layers` the names that belong to each module, in the same order; `replaced`
    returns another model, in which those that are given stand in for the model's own. The model itself is left alone.
    """

    arrays: Arrays
    layers: Mapping[str, tuple[str, ...]]
    replaced: Callable[[Arrays], Any]


def weights_of(model: Any, inputs: Any = None) -> Weights:
    """Return a model's weights; `inputs` tell to which framework a plain function belongs.

    Raises:
        UnsupportedByBackend: they cannot be replaced, or there are none.
    """
    model = loaded(model)
    found = _found(model, resolve(model, inputs).name)
    if not found.arrays:
        raise UnsupportedByBackend(CANNOT.format(f"{_told(model)} has no named parameters"))
    return found


def _found(model: Any, backend: str) -> Weights:
    from whence.backends.onnx_graph.file import names_file

    if names_file(model):
        from whence.backends.weights_onnx import onnx_weights

        return onnx_weights(model)
    if any(each.__module__.partition(".")[0] == "keras" for each in type(model).__mro__):
        from whence.backends.weights_keras import keras_weights

        return keras_weights(model)
    if backend == "torch":
        from whence.backends.weights_torch import torch_weights

        return torch_weights(model)
    if backend == "jax":
        from whence.backends.weights_jax import jax_weights

        return jax_weights(model)
    raise UnsupportedByBackend(CANNOT.format(f"{_told(model)} is run by {backend} alone"))


def _told(model: Any) -> str:
    return getattr(model, "__name__", type(model).__name__)


def by_layer(names: Mapping[str, Any], separator: str = ".") -> dict[str, tuple[str, ...]]:
    """Return the names of each module: what stands before the last separator, or the name where there is none."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(separator)[0] or name, []).append(name)
    return {layer: tuple(own) for layer, own in layers.items()}
