"""Other weights for JAX's models: (f, params), flax's modules with their variables, equinox's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from whence.backends.jax_models import is_pair, packages_of
from whence.backends.weights import CANNOT, Arrays, Weights, by_layer
from whence.errors import UnsupportedByBackend


def jax_weights(model: Any) -> Weights:
    """Return the arrays that a JAX model is called with.

    Raises:
        UnsupportedByBackend: it is a plain function, whose arrays nobody can name.
    """
    packages = packages_of(model)
    if is_pair(model):
        return _pair(*model)
    if "flax" in packages and hasattr(model, "apply"):
        return _pair(*model.unbind())
    if "flax" in packages:
        return _nnx(model)
    if "equinox" in packages:
        return _equinox(model, lambda module: module)
    raise UnsupportedByBackend(CANNOT.format("the model is a plain function of JAX arrays; pass (f, params)"))


def _pair(function: Any, parameters: Any) -> Weights:
    packages = packages_of(function)
    if "equinox" in packages:
        # What stands beside an equinox module is its state.
        return _equinox(function, lambda module: (module, parameters))
    if "flax" in packages and hasattr(function, "apply") and "params" in parameters:
        # The other collections of variables are no weights: the means of batch normalisation.
        rest = {name: each for name, each in parameters.items() if name != "params"}
        return _tree(parameters["params"], lambda tree: (function, {**rest, "params": tree}))
    return _tree(parameters, lambda tree: (function, tree))


def _tree(tree: Any, rebuilt: Callable[[Any], Any]) -> Weights:
    arrays = {name: np.asarray(each) for name, each in _leaves(tree) if _is_real(each)}
    return Weights(arrays, by_layer(arrays), lambda other: rebuilt(_put(tree, other, "")))


def _inside(value: Any) -> list[tuple[str, Any]] | None:
    """Return what a container of the tree holds, in its own order: JAX would sort the names."""
    if isinstance(value, Mapping):
        return [(str(key), each) for key, each in value.items()]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType, reportAttributeAccessIssue]
    if isinstance(value, (list, tuple)):
        return [(str(place), each) for place, each in enumerate(value)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return None


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    inside = _inside(value)
    if inside is None:
        yield name or "parameters", value
        return
    for key, each in inside:
        yield from _leaves(each, f"{name}.{key}" if name else key)


def _put(value: Any, arrays: Arrays, name: str) -> Any:
    """Return a tree in which some leaves are other arrays."""
    inside = _inside(value)
    if inside is None:
        new = arrays.get(name or "parameters")
        return value if new is None else jnp.asarray(new, dtype=value.dtype)
    parts = [(key, _put(each, arrays, f"{name}.{key}" if name else key)) for key, each in inside]
    if isinstance(value, Mapping):
        made: Any = dict(zip(value, (each for _, each in parts), strict=True))  # pyright: ignore[reportUnknownArgumentType]
        return made if type(value) is dict else type(value)(made)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType, reportCallIssue]
    values = [each for _, each in parts]
    return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)


def _is_real(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def _nnx(model: Any) -> Weights:
    from flax import nnx

    structure, state, rest = nnx.split(model, nnx.Param, ...)

    def rebuilt(tree: Any) -> Any:
        # A state of its own: this one is written into.
        own = nnx.split(nnx.clone(model), nnx.Param, ...)[1]
        nnx.replace_by_pure_dict(own, tree)
        return nnx.merge(structure, own, rest)

    found = _tree(nnx.to_pure_dict(state), rebuilt)
    # Flax sorts the names; a module's attributes stand in the order in which it made them.
    arrays = dict(sorted(found.arrays.items(), key=lambda each: _places(model, each[0].split("."))))
    return Weights(arrays, by_layer(arrays), found.replaced)


def _places(value: Any, path: list[str]) -> list[int]:
    """Return the place of each step of a path among the attributes or items that stand beside it."""
    places: list[int] = []
    for step in path:
        inside = dict(_inside(value) or vars(value).items())
        if step not in inside:
            break
        places.append(list(inside).index(step))
        value = inside[step]
    return places


def _equinox(model: Any, rebuilt: Callable[[Any], Any]) -> Weights:
    import equinox
    import jax

    from whence.backends.jax_models import joined_path

    paths, structure = jax.tree_util.tree_flatten_with_path(model)
    arrays = {joined_path(path): np.asarray(each) for path, each in paths if equinox.is_inexact_array(each)}

    def replaced(other: Arrays) -> Any:
        leaves = [
            jnp.asarray(other[name], dtype=each.dtype) if (name := joined_path(path)) in other else each
            for path, each in paths
        ]
        return rebuilt(jax.tree_util.tree_unflatten(structure, leaves))

    return Weights(arrays, by_layer(arrays), partial(replaced))
