"""A function's value and gradient as one compiled program, found again by its equations.

The function is a closure made anew for each chunk, around a model that was compiled: tracing it costs a millisecond,
and what differs from chunk to chunk (rows, masks, the model's parameters) are constants of the trace, which the
compiled program takes as arguments. A forward and a backward pass compiled together are faster than two that hand over.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr  # pyright: ignore[reportMissingImports]
from jax.extend import core

from whence.backends import Array, Leaves
from whence.backends.jax_reach import reaching
from whence.backends.jax_walk import bodies

# So many programs are kept, those used last.
KEPT = 128


@dataclass(frozen=True)
class Fused:
    """A compiled program: (constants, leaves, weights on f [n], or None for ones) to f and its gradients.

    `reached` tells for each leaf whether a gradient can reach it: JAX gives zeros where it cannot. The trace is kept
    beside it: the identities of the calls in its key stay theirs as long as it lives.
    """

    trace: Any
    run: Callable[[Any, Leaves, Array | None], tuple[Array, Leaves]]
    reached: Sequence[bool]


Programs = OrderedDict[Any, Fused]
# Those of the model at work, which are gone when it is: a trace may hold weights.
_programs: ContextVar[Programs] = ContextVar("programs")
_lock = threading.Lock()


@contextmanager
def remembering(programs: Programs) -> Generator[None]:
    """Let compiled programs be looked for, and kept, among these."""
    before = _programs.set(programs)
    try:
        yield
    finally:
        _programs.reset(before)


def fused(closed: Any) -> Fused:
    """Return the compiled program of a traced function."""
    key, programs = _equations(closed.jaxpr), _programs.get(OrderedDict())
    with _lock:
        if key in programs:
            programs.move_to_end(key)
            return programs[key]
    jaxpr = closed.jaxpr

    def run(constants: Any, leaves: Leaves, weights: Any) -> Any:
        y, back = jax.vjp(lambda *given: eval_jaxpr(jaxpr, constants, *given)[0], *leaves)
        return y, back(jnp.ones_like(y) if weights is None else weights)

    made = Fused(jaxpr, jax.jit(run), reaching(jaxpr))
    with _lock:
        programs[key] = made
        if len(programs) > KEPT:
            programs.popitem(last=False)
    return made


def _equations(jaxpr: Any) -> Any:
    """Return a key of a traced function: its equations, with the functions they call by identity."""
    number: dict[Any, int] = {}

    def told(each: Any) -> Any:
        if isinstance(each, core.Literal):
            return repr(each.val), each.aval.str_short()
        return number.setdefault(each, len(number))

    given = tuple((told(each), each.aval.str_short()) for each in (*jaxpr.constvars, *jaxpr.invars))
    equations = tuple(
        (
            each.primitive.name,
            tuple(told(value) for value in each.invars),
            tuple((told(value), value.aval.str_short()) for value in each.outvars),
            _settings(each),
        )
        for each in jaxpr.eqns
    )
    return given, equations, tuple(told(each) for each in jaxpr.outvars)


def _settings(equation: Any) -> Any:
    inner = {id(each) for each in equation.params.values()} if bodies(equation) else ()
    return tuple(
        (
            name,
            id(value) if id(value) in inner or callable(value) or hasattr(value, "eqns") else _plain(value),
        )
        for name, value in equation.params.items()
    )


def _plain(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
