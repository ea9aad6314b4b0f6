"""Backward rules in JAX: a function traced to a program, whose way back is compiled once for each structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import core

from whence.backends.arrays import Array, Leaves
from whence.backends.jax_compiled import is_array
from whence.backends.jax_program_steps import program_of
from whence.backends.jax_signature import signature
from whence.backends.program_rules.functions import Again, Type
from whence.backends.program_rules.program import Program
from whence.backends.program_rules.recognise import recognised
from whence.backends.program_rules.remembered import Remembered
from whence.backends.program_rules.ruled import Engine, Function, ProgramRuled, Traced
from whence.rule import Rules


def ruled(
    session: Any, function: Function, leaves: Leaves, rules: Rules, where: bool = False
) -> ProgramRuled:
    """Return f at the leaves with other derivatives, step by step.

    Raises:
        Refused: an operation is known to no rule.
    """
    named = where or (rules.name == "relevance" and bool(rules.composite.layers))
    names = tuple(session.layers()) if named and session is not None else ()
    return ProgramRuled(JaxMachine(names, session if names else None), function, leaves, rules, names)


_programs, _engines = Remembered(), Remembered()


class JaxMachine:
    """Traces functions of JAX arrays, and compiles.

    With a session the model is traced with marks around its layers, whose names are `names`.
    """

    def __init__(self, names: tuple[str, ...] = (), session: Any = None) -> None:
        self._functions = JaxFunctions()
        self._names, self._session = names, session

    @property
    def functions(self) -> JaxFunctions:
        return self._functions

    def traced(self, function: Function, leaves: Leaves) -> Traced:
        with nullcontext() if self._session is None else self._session.observing(_with_marks):
            closed = jax.make_jaxpr(function)(tuple(leaves))
        key = (signature(closed), self._names, bool(jax.config.jax_enable_x64))  # pyright: ignore[reportAttributeAccessIssue]
        program = _programs.get(key, lambda: recognised(program_of(closed, self._names), self.functions))
        return Traced(program, tuple(closed.consts), key)

    def engine(self, key: Any, make: Callable[[], Engine]) -> Engine:
        return _engines.get(key, make)

    def needed(self, back: Callable[..., Any], program: Program, values: Sequence[int]) -> list[int]:
        given = tuple(_abstract(program.types[each]) for each in program.given)
        known = {each: _abstract(program.types[each]) for each in values}
        start = _abstract(program.types[program.output])
        closed = jax.make_jaxpr(back)(given, known, start)
        arguments = closed.jaxpr.invars[len(given) : len(given) + len(known)]
        looked = _looked_at(closed.jaxpr)
        # In the order of a dict's keys, which JAX sorts.
        return [each for each, var in zip(sorted(known), arguments, strict=True) if var in looked]

    def ones(self, y: Array) -> Array:
        return jnp.ones_like(y)

    def blank(self, kind: Type) -> Array:
        return jnp.zeros(kind.shape, kind.dtype)


def _with_marks(program: Any, parameters: Sequence[Any], given: Any) -> Any:
    """Run a traced model with the marks of its layers."""
    arrays = [each for each in jax.tree.leaves(given) if is_array(each)]
    return program.output(core.eval_jaxpr(program.closed.jaxpr, program.closed.consts, *parameters, *arrays))


def _abstract(kind: Type) -> Any:
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype)


def _looked_at(jaxpr: Any) -> set[Any]:
    """Return the variables that a jaxpr's results depend on."""
    wanted = {each for each in jaxpr.outvars if not hasattr(each, "val")}
    for eqn in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(eqn.outvars):
            wanted.update(each for each in eqn.invars if not hasattr(each, "val"))
    return wanted


# ---- array functions ---------------------------------------------------------------------------------------------


class JaxFunctions:
    """The array functions of the rules, on JAX arrays."""

    def exp(self, array: Array) -> Array:
        return jnp.exp(array)

    def log(self, array: Array) -> Array:
        return jnp.log(array)

    def where(self, condition: Array, yes: Array | float, no: Array | float) -> Array:
        return jnp.where(condition, yes, no)

    def any(self, condition: Array) -> Array:
        return jnp.any(condition)

    def zeros_like(self, array: Array) -> Array:
        return jnp.zeros_like(array)

    def ones_like(self, array: Array) -> Array:
        return jnp.ones_like(array)

    def broadcast(self, array: Array, shape: Sequence[int]) -> Array:
        return array if array.shape == tuple(shape) else jnp.broadcast_to(array, tuple(shape))

    def transpose(self, array: Array, axes: Sequence[int]) -> Array:
        return jnp.transpose(array, tuple(axes))

    def cast(self, array: Array, reference: Array) -> Array:
        return array.astype(reference.dtype)

    def first_largest(self, array: Array) -> Array:
        return jax.nn.one_hot(jnp.argmax(array, -1), array.shape[-1], dtype=array.dtype)

    def vjp(
        self,
        again: Again,
        values: Sequence[Array],
        positions: Sequence[int],
        cotangents: Sequence[Array | None],
    ) -> tuple[Array, ...]:
        def moved(*moving: Array) -> tuple[Array, ...]:
            taken = list(values)
            for position, each in zip(positions, moving, strict=True):
                taken[position] = each
            return tuple(again(taken))

        y, back = jax.vjp(moved, *(values[position] for position in positions))
        arrived = [*cotangents, *[None] * (len(y) - len(cotangents))]
        return back(tuple(_cotangent(*each) for each in zip(arrived, y, strict=True)))

    def jvp(self, again: Again, values: Sequence[Array], position: int, direction: Array) -> Array:
        def moved(moving: Array) -> Array:
            taken = list(values)
            taken[position] = moving
            return again(taken)[0]

        return jax.jvp(moved, (values[position],), (direction,))[1]

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(function)

    def epsilon(self, array: Array) -> float:
        return float(jnp.finfo(array.dtype).eps)

    def array(self, value: Any, reference: Array) -> Array:
        return jnp.asarray(value, dtype=reference.dtype)

    def numpy(self, array: Array) -> np.ndarray:
        found = np.asarray(array)
        return (
            found
            if found.dtype.kind in "biu"
            else np.asarray(jnp.asarray(array, jnp.float32) if found.dtype.kind == "V" else found, np.float64)
        )

    def precision(self, kind: Type) -> float:
        return float(jnp.finfo(kind.dtype).eps)

    def random(self, kind: Type, seed: int) -> Array:
        if not kind.floating:
            return np.zeros(kind.shape, kind.dtype)
        return np.asarray(np.random.default_rng(seed).standard_normal(kind.shape)).astype(kind.dtype)


def _cotangent(arrived: Array | None, y: Array) -> Array:
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        return np.zeros(y.shape, jax.dtypes.float0)
    return jnp.zeros_like(y) if arrived is None else jnp.broadcast_to(arrived, y.shape).astype(y.dtype)
