"""Keras models on the JAX backend: their variables and a pure function of them, layers watched by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from whence.backends.jax_models import Meet, Parts
from whence.backends.keras_layers import first, named, replaced, watching
from whence.backends.keras_run import Scope, called, require_built


def keras_parts(model: Any) -> Parts:
    """Return a Keras model's variables and function, with its layers in inference mode."""
    require_built(model)
    variables = {each.path.removeprefix(f"{model.name}/"): each for each in model.variables}
    state = {path: each.value for path, each in variables.items()}
    return Parts(
        state,
        partial(_called, model, variables),
        layers=lambda: list(named(model)),
        named=True,
    )


def _called(
    model: Any,
    variables: Mapping[str, Any],
    state: Mapping[str, Any],
    arguments: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    meet: Meet | None,
) -> Any:
    arrays = {name: each for name, each in kwargs.items() if _is_array(each)}
    inputs: Any = arguments[0] if len(arguments) == 1 else arguments or arrays
    rest = kwargs if arguments else {name: each for name, each in kwargs.items() if name not in arrays}
    watches = {} if meet is None else _watches(model, meet)
    with Scope([(variables[path], value) for path, value in state.items()]), watching(watches):
        return called(model, inputs, dict(rest))


def _watches(model: Any, meet: Meet) -> dict[int, tuple[Any, Any, Any]]:
    layers: dict[int, tuple[Any, Any, Any]] = {}
    for name, layer in named(model).items():
        takes, gives = (partial(_met, meet, name, layer, side) for side in (True, False))
        layers.setdefault(id(layer), (layer, takes, gives))
    return layers


def _met(meet: Callable[..., Any], name: str, layer: Any, takes: bool, value: Any) -> Any:
    found = first(value, _is_array)
    return None if found is None else replaced(value, found, meet(name, layer, found, takes))


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array)
