"""Which traced functions are the same program: equal equations, with functions of someone's own told by identity."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any, NamedTuple

import jax
import numpy as np

_signatures: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def signature(value: Any) -> str:
    """Return a text that two jaxprs have in common only if they are the same program."""
    jaxpr = getattr(value, "jaxpr", value)
    known = _signatures.get(jaxpr)
    if known is None:
        known = hashlib.sha256(_written(jaxpr).encode()).hexdigest()
        _signatures[jaxpr] = known
    consts = getattr(value, "consts", ())
    return f"{known}{[(np.shape(each), str(getattr(each, 'dtype', type(each)))) for each in consts]}"


def _written(jaxpr: Any) -> str:
    numbers: dict[Any, int] = {}

    def number(each: Any) -> str:
        if hasattr(each, "val"):
            value = np.asarray(each.val) if each.aval.dtype != jax.dtypes.float0 else each.val
            return f"{each.aval}={value.tolist() if value.size <= 64 else hashlib.sha256(value.tobytes()).hexdigest()}"
        return f"{numbers.setdefault(each, len(numbers))}"

    lines = [f"{number(each)}:{each.aval}" for each in (*jaxpr.constvars, *jaxpr.invars)]
    for eqn in jaxpr.eqns:
        taken = ",".join(number(each) for each in eqn.invars)
        given = ",".join(f"{number(each)}:{each.aval}" for each in eqn.outvars)
        params = ";".join(f"{key}={_told(value)}" for key, value in sorted(eqn.params.items()))
        lines.append(f"{eqn.primitive.name}[{params}]({taken})->{given} {eqn.source_info.name_stack}")
    return "\n".join((*lines, ",".join(number(each) for each in jaxpr.outvars)))


def _told(value: Any) -> str:
    """Return what tells a parameter of an equation from another."""
    if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
        inner = "".join(str(id(each)) for each in getattr(value, "consts", ()))
        return signature(value) + inner
    if isinstance(value, (tuple, list)):
        return f"({','.join(_told(each) for each in value)})"
    if hasattr(value, "debug_info") and hasattr(value, "f"):
        # A derivative of someone's own: the same function is the same derivative, and the program keeps it alive.
        return str(id(_written_by(value)))
    if callable(value) and not isinstance(value, type):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return repr(value)


def _written_by(wrapped: Any, depth: int = 4) -> Any:
    """Return the function that JAX has wrapped, anew for each trace."""
    function = wrapped.f
    for cell in (getattr(function, "__closure__", None) or ()) if depth else ():
        inner = cell.cell_contents
        if hasattr(inner, "f"):
            return _written_by(inner, depth - 1)
        if callable(inner) and getattr(inner, "__closure__", None):
            found = _written_by(_Closure(inner), depth - 1)
            if found is not inner:
                return found
    return function


class _Closure(NamedTuple):
    """A function, to be looked into."""

    f: Any
