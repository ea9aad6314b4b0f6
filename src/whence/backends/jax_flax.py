"""flax: NNX modules (split into structure and arrays, in eval mode) and linen modules with their variables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from flax import linen, nnx

from whence.backends.jax_models import Meet, Parts


def nnx_parts(model: Any) -> Parts:
    """Return an NNX module's arrays and function, in eval mode; the module itself is left as it is."""
    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    structure, state = nnx.split(copy)
    return Parts(
        state,
        partial(_nnx, structure),
        layers=lambda: [name for name, _ in _modules(copy)],
        named=True,
    )


def _modules(model: Any) -> list[tuple[str, Any]]:
    found = ((".".join(map(str, path)), module) for path, module in nnx.iter_modules(model))
    return [(name, module) for name, module in found if callable(module)]


def _nnx(
    structure: Any,
    parameters: Any,
    arguments: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    meet: Meet | None,
) -> Any:
    model = nnx.merge(structure, parameters)
    if meet is not None:
        for name, module in _modules(model):
            module.__class__ = _watched(type(module), name, meet)
    return model(*arguments, **kwargs)


def _watched(kind: Any, name: str, meet: Meet) -> type[Any]:
    """Return a class for one module of our own copy, whose calls are met."""

    def call(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        if arguments:
            arguments = (meet(name, self, arguments[0], True), *arguments[1:])
        return meet(name, self, kind.__call__(self, *arguments, **kwargs), False)

    return type(kind)(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


def linen_parts(module: Any, variables: Any) -> Parts:
    """Return a linen module's variables and function."""
    return Parts(
        dict(variables),
        partial(_linen, module),
        layers=partial(_linen_names, variables),
        named=True,
    )


def _linen_names(variables: Mapping[str, Any]) -> list[str]:
    """Return the paths of the modules that have variables: others are known only when they run."""
    found: dict[str, None] = {}

    def visit(tree: Any, path: tuple[str, ...]) -> None:
        for key, value in tree.items():
            if hasattr(value, "items"):
                found[".".join((*path, key))] = None
                visit(value, (*path, key))

    for collection in variables.values():
        visit(collection, ())
    return list(found)


def _linen(
    module: Any,
    variables: Any,
    arguments: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    meet: Meet | None,
) -> Any:
    if meet is None:
        return module.apply(variables, *arguments, **kwargs)

    def intercept(call: Any, args: tuple[Any, ...], keywords: dict[str, Any], context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **keywords)
        name = ".".join(context.module.path)
        if args:
            args = (meet(name, context.module, args[0], True), *args[1:])
        return meet(name, context.module, call(*args, **keywords), False)

    with linen.intercept_methods(intercept):
        return module.apply(variables, *arguments, **kwargs)
