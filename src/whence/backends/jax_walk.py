"""Walking a traced JAX function equation by equation, so that values with a name can be met on the way.

Names are those of `jax.ad_checkpoint.checkpoint_name`: a user's own, and ours around every module's calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.core import eval_jaxpr  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]
from jax.custom_batching import custom_vmap
from jax.extend import core

Meet = Callable[[str, Any], Any]
"""(name, value) -> the value to go on with."""

# Calls that are walked into; of the others (a loop without an end that is known) names inside are out of reach.
_BODIES = ("jaxpr", "call_jaxpr", "call", "fun_jaxpr")
_INLINED = frozenset(
    ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call", "closed_call", "core_call", "remat2",
     "checkpoint", "remat", "custom_lin")
)  # fmt: skip


def named(value: Any, name: str) -> Any:
    """Return a value that can be met by this name, with the batch as its first axis wherever it is mapped."""

    @custom_vmap
    def tagged(inner: Any) -> Any:
        return checkpoint_name(inner, name)

    @tagged.def_vmap
    def _(size: int, batched: Any, inner: Any) -> Any:
        return named(inner, name), True

    return tagged(value)


def names_in(jaxpr: Any) -> list[str]:
    """Return the names in a traced function, in the order in which they are met."""
    found: list[str] = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "name":
            found.append(equation.params["name"])
        for body in bodies(equation):
            found += names_in(body.jaxpr)
    return found


def walk(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any], meet: Meet) -> list[Any]:
    """Return what a traced function gives, with every named value met on the way."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def read(each: Any) -> Any:
        return each.val if isinstance(each, core.Literal) else known[each]

    for equation in jaxpr.eqns:
        values = [read(each) for each in equation.invars]
        for variable, value in zip(equation.outvars, _passed(equation, values, jaxpr, meet), strict=True):
            known[variable] = value
    return [read(each) for each in jaxpr.outvars]


def _passed(equation: Any, values: list[Any], whole: Any, meet: Meet) -> Sequence[Any]:
    kind = equation.primitive.name
    if kind == "name":
        return [meet(equation.params["name"], values[0])]
    inner = bodies(equation)
    if any(names_in(each.jaxpr) for each in inner):
        if kind in _INLINED:
            return walk(inner[0].jaxpr, inner[0].consts, values, meet)
        if kind == "scan":
            return _unrolled(equation.params, values, meet)
    return single(equation, whole)(*values)


def single(equation: Any, whole: Any) -> Callable[..., Sequence[Any]]:
    """Return one equation of a traced function as a function of its operands."""
    variables = [each for each in equation.invars if not isinstance(each, core.Literal)]
    unique = list(dict.fromkeys(variables))
    alone = whole.replace(constvars=[], invars=unique, outvars=list(equation.outvars), eqns=[equation])
    places = [equation.invars.index(each) for each in unique]

    def run(*values: Any) -> Sequence[Any]:
        return eval_jaxpr(alone, (), *(values[place] for place in places))

    return run


def _unrolled(settings: Any, values: list[Any], meet: Meet) -> list[Any]:
    """Run a scan step by step: the n-th step is the n-th call of what has a name in it."""
    body, fixed, carried = settings["jaxpr"], settings["num_consts"], settings["num_carry"]
    constants, state = values[:fixed], values[fixed : fixed + carried]
    rows = values[fixed + carried :]
    order = range(settings["length"])
    given: list[list[Any]] = []
    for step in reversed(order) if settings["reverse"] else order:
        out = walk(body.jaxpr, body.consts, (*constants, *state, *(each[step] for each in rows)), meet)
        state = out[:carried]
        given.append(out[carried:])
    if settings["reverse"]:
        given.reverse()
    return [*state, *(jnp.stack(each) for each in zip(*given, strict=True))]


def bodies(equation: Any) -> list[Any]:
    """Return the traced functions that an equation calls."""
    found = (equation.params.get(name) for name in _BODIES)
    return [_closed(each) for each in found if hasattr(each, "eqns") or hasattr(each, "jaxpr")]


def _closed(body: Any) -> Any:
    return body if hasattr(body, "consts") else core.ClosedJaxpr(body, ())
