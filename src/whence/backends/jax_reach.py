"""Which inputs an answer's gradient can reach: JAX gives zeros where it cannot, and does not say so."""

from __future__ import annotations

from typing import Any

import jax
from jax.extend import core

from whence.backends.jax_walk import bodies

# What passes no gradient on. Comparisons and the like are told by the type of what they give.
_CUTS = frozenset(("stop_gradient", "sign", "floor", "ceil", "round", "argmax", "argmin", "eq", "iota"))
_LOOPS = frozenset(("scan", "while", "cond"))


def reaching(jaxpr: Any) -> list[bool]:
    """Tell for each input of a traced function whether a way that carries a gradient leads from it to the value."""
    places = range(len(jaxpr.invars))
    return [any(_reached(jaxpr, [place == number for place in places])) for number in places]


def _reached(jaxpr: Any, given: list[bool]) -> list[bool]:
    known: dict[Any, bool] = dict(zip(jaxpr.invars, given, strict=True))

    def read(each: Any) -> bool:
        return not isinstance(each, core.Literal) and known.get(each, False)

    for equation in jaxpr.eqns:
        moved = [read(each) for each in equation.invars]
        inner = bodies(equation)
        if equation.primitive.name in _CUTS:
            out = [False] * len(equation.outvars)
        elif inner and equation.primitive.name not in _LOOPS and len(inner[0].jaxpr.invars) == len(moved):
            out = _reached(inner[0].jaxpr, moved)
        else:
            out = [any(moved)] * len(equation.outvars)
        for variable, reaches in zip(equation.outvars, out, strict=True):
            known[variable] = reaches and jax.numpy.issubdtype(variable.aval.dtype, jax.numpy.inexact)
    return [read(each) for each in jaxpr.outvars]
