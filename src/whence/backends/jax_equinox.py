"""equinox: modules of one example, in inference mode, mapped over the batch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox
import jax

from whence.backends.jax_models import Meet, Parts


def equinox_parts(model: Any, state: Any = None) -> Parts:
    """Return an equinox module's arrays and function of one example; `state` is what stateful layers need."""
    model = equinox.nn.inference_mode(model)
    arrays, static = equinox.partition(model, equinox.is_array)
    state_arrays, state_static = equinox.partition(state, equinox.is_array)
    return Parts(
        {"model": arrays, "state": state_arrays},
        partial(_applied, static, state_static),
        layers=partial(_names, model, ""),
        named=True,
        single=True,
        channels_last=False,
    )


def _applied(
    static: Any,
    state_static: Any,
    parameters: Any,
    arguments: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    meet: Meet | None,
) -> Any:
    model = equinox.combine(parameters["model"], static)
    if meet is not None:
        model = _watched(model, "", meet)
    if jax.tree.leaves(parameters["state"]):
        output, _ = model(*arguments, equinox.combine(parameters["state"], state_static), **kwargs)
        return output
    return model(*arguments, **kwargs)


def _names(value: Any, name: str) -> list[str]:
    """Return the names of the modules inside a value, outermost first."""
    own = [name] if name and isinstance(value, equinox.Module) and callable(value) else []
    return own + [
        each for key, part in _parts(value) for each in _names(part, f"{name}.{key}" if name else str(key))
    ]


def _parts(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, equinox.Module):
        return list(vars(value).items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    return list(value.items()) if isinstance(value, dict) else []


def _watched(value: Any, name: str, meet: Meet) -> Any:
    """Return a value in which every module that can be called is another one that is watched; nothing is changed."""
    inner = {key: _watched(part, f"{name}.{key}" if name else str(key), meet) for key, part in _parts(value)}
    if isinstance(value, equinox.Module):
        kind = _watched_kind(type(value), name, meet) if callable(value) else type(value)
        copy = object.__new__(kind)
        for key, part in inner.items():
            object.__setattr__(copy, key, part)
        return copy
    if isinstance(value, dict):
        return inner
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*inner.values())
    return type(value)(inner.values()) if type(value) in (list, tuple) else value


def _watched_kind(kind: Any, name: str, meet: Meet) -> Any:
    """Return a class whose calls are met: a module still, that can be mapped, scanned and taken apart like its own."""

    def call(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        if arguments:
            arguments = (meet(name, self, arguments[0], True), *arguments[1:])
        return meet(name, self, kind.__call__(self, *arguments, **kwargs), False)

    return type(kind)(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
