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
    leaves, tree = jax.tree.flatten(static)
    state_arrays, state_static = equinox.partition(state, equinox.is_array)
    return Parts(
        {"model": arrays, "state": state_arrays},
        (tree, tuple(leaves), jax.tree.structure(state_static)),
        partial(_applied, static, state_static),
        layers=partial(_names, model, ""),
        named=True,
        single=True,
        channels_last=False,
        kind="equinox",
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
    """Return a value of our own copy in which every module that can be called is watched."""
    inner = {key: _watched(part, f"{name}.{key}" if name else str(key), meet) for key, part in _parts(value)}
    if isinstance(value, equinox.Module):
        for key, part in inner.items():
            object.__setattr__(value, key, part)
        return _Watched(value, name, meet) if callable(value) else value
    if isinstance(value, dict):
        return inner
    if type(value) in (list, tuple):
        return type(value)(inner.values())
    return value


class _Watched:
    """A module of our own copy, whose calls are met; in every other way the module itself."""

    def __init__(self, module: Any, name: str, meet: Meet) -> None:
        self.__dict__.update(_module=module, _name=name, _meet=meet)

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return type(self._module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)

    def __getitem__(self, place: Any) -> Any:
        return self._module[place]

    def __call__(self, *arguments: Any, **kwargs: Any) -> Any:
        if arguments:
            arguments = (self._meet(self._name, self._module, arguments[0], True), *arguments[1:])
        return self._meet(self._name, self._module, self._module(*arguments, **kwargs), False)
