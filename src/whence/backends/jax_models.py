"""A JAX model taken apart: its arrays, and a pure function of them in which every module can be watched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from whence.errors import BadInput


class Meet(Protocol):
    """What is called with each module's value: it returns the value to go on with."""

    def __call__(self, name: str, module: Any, value: Any, input: bool) -> Any: ...


@dataclass(frozen=True)
class Parts:
    """A model as a pure function: `apply(parameters, arguments, kwargs, meet)`, traceable.

    `single` models take one example, and are mapped over the batch. `layers` are the names of the modules, where there
    are any; `named` says that modules are watched by name (else places marked in the code).
    """

    parameters: Any
    apply: Callable[[Any, tuple[Any, ...], Mapping[str, Any], Meet | None], Any]
    layers: Callable[[], list[str]] = list
    named: bool = False
    single: bool = False
    channels_last: bool = True

    def applied(
        self, parameters: Any, arguments: tuple[Any, ...], kwargs: Mapping[str, Any], meet: Meet | None = None
    ) -> Any:
        """Return the model's answer to a batch."""
        if not self.single:
            return self.apply(parameters, arguments, kwargs, meet)
        # Inputs that are given by name come as keywords: what has rows is mapped.
        rows = {} if arguments else {name: each for name, each in kwargs.items() if getattr(each, "ndim", 0)}
        rest = {name: each for name, each in kwargs.items() if name not in rows}

        def one(arguments: tuple[Any, ...], rows: Mapping[str, Any]) -> Any:
            return self.apply(parameters, arguments, {**rows, **rest}, meet)

        return jax.vmap(one)(arguments, rows)

    @property
    def dtype(self) -> Any:
        """The floating type of the parameters, or JAX's own default."""
        for leaf in jax.tree.leaves(self.parameters):
            if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf.dtype
        return jax.dtypes.canonicalize_dtype(float)


def taken_apart(model: Any) -> Parts:
    """Return a model's arrays and function.

    Raises:
        BadInput: it is a module without its arrays.
    """
    packages = packages_of(model)
    if "keras" in packages:
        from whence.backends.jax_keras import keras_parts

        return keras_parts(model)
    if is_pair(model):
        return _pair(*model)
    if "flax" in packages and hasattr(model, "apply"):
        return _bound(model)
    if "flax" in packages:
        from whence.backends.jax_flax import nnx_parts

        return nnx_parts(model)
    if "equinox" in packages:
        from whence.backends.jax_equinox import equinox_parts

        return equinox_parts(model)
    return Parts((), partial(_called, model))


def is_jax(model: Any, arrays: Sequence[Any]) -> bool:
    """Tell whether a model is JAX's: a module, a compiled function, (f, params), or a function given JAX's arrays."""
    packages = packages_of(model[0] if is_pair(model) else model)
    if packages & {"flax", "equinox", "jax", "jaxlib"}:
        return True
    if "keras" in packages:
        return sys.modules["keras"].backend.backend() == "jax"
    bound: Any = model[1] if is_pair(model) else ()
    if isinstance(model, partial):
        bound = model.args, model.keywords
    return any(isinstance(each, jax.Array) for each in (*arrays, *jax.tree.leaves(bound)))


def packages_of(model: Any) -> set[str]:
    """Return the packages that a model's classes come from."""
    return {each.__module__.partition(".")[0] for each in type(model).__mro__}


def is_pair(model: Any) -> bool:
    """Tell whether a model is a function (or a module) and its parameters: (f, params)."""
    pair: Any = model
    return isinstance(model, tuple) and len(pair) == 2 and callable(pair[0]) and not callable(pair[1])


def _pair(function: Any, parameters: Any) -> Parts:
    packages = packages_of(function)
    if "flax" in packages and hasattr(function, "apply"):
        from whence.backends.jax_flax import linen_parts

        return linen_parts(function, parameters)
    if "equinox" in packages:
        from whence.backends.jax_equinox import equinox_parts

        return equinox_parts(function, parameters)
    parameters = jax.tree.map(jnp.asarray, parameters)
    return Parts(parameters, partial(_with_parameters, function))


def _bound(module: Any) -> Parts:
    from whence.backends.jax_flax import linen_parts

    if module.scope is None:
        raise BadInput(
            f"the linen module {type(module).__name__} comes without its variables; pass the pair (module, variables), "
            "or module.bind(variables)"
        )
    return linen_parts(*module.unbind())


def _called(
    function: Callable[..., Any],
    parameters: Any,
    arguments: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    meet: Any,
) -> Any:
    return function(*arguments, **kwargs)


def _with_parameters(
    function: Callable[..., Any],
    parameters: Any,
    arguments: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    meet: Any,
) -> Any:
    return function(parameters, *arguments, **kwargs)


def joined_path(path: tuple[Any, ...]) -> str:
    """Return a path through a tree as a name with dots."""
    parts = (getattr(each, "key", getattr(each, "name", getattr(each, "idx", each))) for each in path)
    return ".".join(str(each) for each in parts)
