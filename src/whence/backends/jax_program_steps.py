"""A jaxpr laid out flat: calls are entered, loops unrolled, and every equation is a step that can be done again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import core

from whence.backends.jax_compiled import INPUT, OUTPUT
from whence.backends.jax_program_equations import (
    CUSTOM,
    ENTERED,
    acts_alone,
    body,
    called,
    is_of_jax,
    place,
    scopes,
    text,
)
from whence.backends.jax_program_kinds import ACTIVATIONS, PIECEWISE_CALLS, described
from whence.backends.program_rules.functions import Type
from whence.backends.program_rules.program import Program, Step

_MOST_STEPS = 50_000


def program_of(closed: Any, names: Sequence[str]) -> Program:
    """Return a closed jaxpr, whose arguments are the leaves, as a program that is not recognised yet."""
    return _Layout(closed.jaxpr, names).program


def type_of(aval: Any) -> Type:
    """Return what is known of an abstract value."""
    dtype = getattr(aval, "dtype", None)
    floating = dtype is not None and bool(jnp.issubdtype(dtype, jnp.inexact))
    return Type(tuple(getattr(aval, "shape", ())), dtype, floating)


class _Layout:
    """Numbers variables, and collects the steps of a jaxpr and of those inside of it."""

    def __init__(self, jaxpr: Any, names: Sequence[str]) -> None:
        self._types: dict[int, Type] = {}
        self._literals: dict[int, Any] = {}
        self._steps: list[Step] = []
        self._marks: list[str] = []
        self._names = sorted((name for name in names if name), key=len, reverse=True)
        given = [self._new(each.aval) for each in jaxpr.constvars]
        leaves = [self._new(each.aval) for each in jaxpr.invars]
        self._reached = set(leaves)
        (output,) = self._enter(jaxpr, [*given, *leaves], ())
        self.program = Program(
            tuple(self._steps), tuple(leaves), tuple(given), self._literals, output, self._types
        )

    def _new(self, aval: Any) -> int:
        number = len(self._types)
        self._types[number] = type_of(aval)
        return number

    def _literal(self, value: Any, aval: Any) -> int:
        number = self._new(aval)
        self._literals[number] = value
        return number

    def _enter(self, jaxpr: Any, taken: Sequence[int], stack: tuple[str, ...]) -> list[int]:
        """Lay out a jaxpr whose constants and arguments have these numbers; return those of its results."""
        known: dict[Any, int] = dict(zip((*jaxpr.constvars, *jaxpr.invars), taken, strict=True))
        for eqn in jaxpr.eqns:
            inputs = [self._read(each, known) for each in eqn.invars]
            here = (*stack, *scopes(eqn))
            outputs = self._laid(eqn, inputs, here)
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [self._read(each, known) for each in jaxpr.outvars]

    def _read(self, each: Any, known: dict[Any, int]) -> int:
        return self._literal(each.val, each.aval) if isinstance(each, core.Literal) else known[each]

    def _closed(self, closed: Any, taken: Sequence[int], stack: tuple[str, ...]) -> list[int]:
        jaxpr = getattr(closed, "jaxpr", closed)
        consts = [
            self._literal(value, var.aval)
            for value, var in zip(getattr(closed, "consts", ()), jaxpr.constvars, strict=True)
        ]
        return self._enter(jaxpr, [*consts, *taken], stack)

    # ---- one equation ------------------------------------------------------------------------------------

    def _laid(self, eqn: Any, inputs: list[int], stack: tuple[str, ...]) -> list[int]:
        name, params, inner = eqn.primitive.name, eqn.params, body(eqn)
        reaches = any(each in self._reached for each in inputs)
        if name == "name":
            self._mark(params["name"])
            return inputs
        if name in CUSTOM and reaches:
            return self._custom(eqn, inner, inputs, stack)
        if (name in ENTERED or name in CUSTOM) and inner is not None:
            if reaches and params.get("name") in ACTIVATIONS and self._is_one(inner, inputs):
                return self._step(eqn, inputs, stack, "call", params["name"])
            return self._closed(inner, inputs, stack)
        return self._branching(eqn, inputs, stack) if reaches else self._step(eqn, inputs, stack)

    def _branching(self, eqn: Any, inputs: list[int], stack: tuple[str, ...]) -> list[int]:
        name, params = eqn.primitive.name, eqn.params
        if name == "scan" and params["length"] * len(params["jaxpr"].jaxpr.eqns) < _MOST_STEPS:
            return self._unrolled(eqn, inputs, stack)
        if name == "cond" and inputs[0] not in self._reached:
            return self._chosen(eqn, inputs, stack)
        return self._step(eqn, inputs, stack)

    def _custom(self, eqn: Any, inner: Any, inputs: list[int], stack: tuple[str, ...]) -> list[int]:
        """Take a function with a derivative of its own as one step where it acts on each element alone."""
        name = called(eqn, inner)
        if self._is_alone(inner, inputs):
            known = name in ACTIVATIONS or is_of_jax(eqn)
            several = sum(each in self._reached for each in inputs) > 1
            return self._step(
                eqn, inputs, stack, ("elementwise" if several else "call") if known else "cell", name
            )
        if eqn.primitive.name == "custom_jvp_call" and (is_of_jax(eqn) or name in ACTIVATIONS):
            return self._closed(inner, inputs, stack)
        return self._step(eqn, inputs, stack, "", name)

    def _is_one(self, inner: Any, inputs: list[int]) -> bool:
        return sum(each in self._reached for each in inputs) == 1 and self._is_alone(inner, inputs)

    def _is_alone(self, inner: Any, inputs: list[int]) -> bool:
        """Tell whether a call acts on each element of what varies alone, and gives one array of that shape."""
        shapes = {self._types[each].shape for each in inputs if each in self._reached}
        jaxpr = getattr(inner, "jaxpr", inner)
        if len(shapes) != 1 or len(jaxpr.outvars) != 1:
            return False
        reached = {var for var, each in zip(jaxpr.invars, inputs, strict=True) if each in self._reached}
        return acts_alone(jaxpr, reached, next(iter(shapes)))

    def _step(
        self, eqn: Any, inputs: Sequence[int], stack: tuple[str, ...], kind: str | None = None, name: str = ""
    ) -> list[int]:
        outputs = [self._new(each.aval) for each in eqn.outvars]
        taken, given = ([self._types[each] for each in some] for some in (inputs, outputs))
        found, settings = described(eqn.primitive.name, eqn.params, taken, given)
        if kind is not None:
            found, settings = kind, {"piecewise": True} if name in PIECEWISE_CALLS else {}
        name = name or eqn.primitive.name
        self._add(
            Step(
                name, found, tuple(inputs), tuple(outputs), partial(_again, eqn), settings,
                f"{eqn.primitive.name}{text(eqn)}{[each.shape for each in (*taken, *given)]}",
                place(eqn, self._module(stack)), self._module(stack),
            )
        )  # fmt: skip
        return outputs

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        if not self._reached.isdisjoint(step.inputs):
            self._reached.update(step.outputs)

    def _made(
        self,
        name: str,
        kind: str,
        inputs: Sequence[int],
        aval: Any,
        again: Any,
        text: str,
        stack: tuple[str, ...],
    ) -> int:
        """Add a step of no equation of its own."""
        output = self._new(aval)
        self._add(Step(name, kind, tuple(inputs), (output,), again, {}, text, "", self._module(stack)))
        return output

    def _mark(self, mark: str) -> None:
        """Follow the marks around what a module takes in and gives out."""
        if mark.startswith(INPUT):
            self._marks.append(mark.removeprefix(INPUT))
        elif mark.startswith(OUTPUT) and mark.removeprefix(OUTPUT) in self._marks:
            while self._marks.pop() != mark.removeprefix(OUTPUT):
                pass

    def _module(self, stack: tuple[str, ...]) -> str:
        """Return the innermost layer: by its marks, or of a stack of scopes by the model's own names."""
        if self._marks:
            return self._marks[-1]
        for scope in reversed(stack):
            if scope in self._names:
                return scope
        joined = ".".join(stack)
        for name in self._names:
            if joined == name or joined.endswith(f".{name}"):
                return name
        for name in self._names:
            if f".{name}." in f".{joined}.":
                return name
        return joined.partition(".")[2] or joined

    # ---- loops and branches ------------------------------------------------------------------------------

    def _unrolled(self, eqn: Any, inputs: list[int], stack: tuple[str, ...]) -> list[int]:
        params, turned = eqn.params, eqn.params["jaxpr"]
        fixed, carries, length = params["num_consts"], params["num_carry"], params["length"]
        consts, carry, over = inputs[:fixed], inputs[fixed : fixed + carries], inputs[fixed + carries :]
        avals = [var.aval for var in turned.jaxpr.invars[fixed + carries :]]
        given: list[list[int]] = [[] for _ in turned.jaxpr.outvars[carries:]]
        order = range(length - 1, -1, -1) if params["reverse"] else range(length)
        for turn in order:
            rows = [
                self._made("slice", "move", [each], aval, partial(_row, turn), f"row{turn}", stack)
                for each, aval in zip(over, avals, strict=True)
            ]
            results = self._closed(turned, [*consts, *carry, *rows], stack)
            carry = results[:carries]
            for rest, each in zip(given, results[carries:], strict=True):
                rest.append(each)
        if params["reverse"]:
            given = [rest[::-1] for rest in given]
        stacked = [
            self._made("stack", "concatenate", rest, var.aval, _stacked, f"stack{len(rest)}", stack)
            for rest, var in zip(given, eqn.outvars[carries:], strict=True)
        ]
        return [*carry, *stacked]

    def _chosen(self, eqn: Any, inputs: list[int], stack: tuple[str, ...]) -> list[int]:
        """Lay out the branch that a constant chooses; all of them where it is not known before the run."""
        branches, (chooser, *taken) = eqn.params["branches"], inputs
        if chooser in self._literals:
            number = min(max(int(self._literals[chooser]), 0), len(branches) - 1)
            return self._closed(branches[number], taken, stack)
        every = [self._closed(branch, taken, stack) for branch in branches]
        return [
            self._made("cond", "select", [chooser, *cases], var.aval, _select, "cond", stack)
            for cases, var in zip(zip(*every, strict=True), eqn.outvars, strict=True)
        ]


# ---- what steps do -----------------------------------------------------------------------------------------------


def _again(eqn: Any, values: Sequence[Any]) -> tuple[Any, ...]:
    with eqn.ctx.manager:
        found = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return tuple(found) if eqn.primitive.multiple_results else (found,)


def _row(turn: int, values: Sequence[Any]) -> tuple[Any, ...]:
    return (jax.lax.index_in_dim(values[0], turn, 0, keepdims=False),)


def _stacked(values: Sequence[Any]) -> tuple[Any, ...]:
    return (jnp.stack(values),)


def _select(values: Sequence[Any]) -> tuple[Any, ...]:
    chooser, *cases = values
    chosen = cases[0]
    for number, each in enumerate(cases[1:], start=1):
        chosen = jnp.where(jnp.asarray(chooser, jnp.int32) >= number, each, chosen)
    return (chosen,)
