"""Backward rules in TensorFlow: a function traced to a program, whose way back is compiled once for each structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from whence.backends.arrays import Array, Leaves
from whence.backends.program_rules.functions import Type
from whence.backends.program_rules.program import Program
from whence.backends.program_rules.recognise import recognised
from whence.backends.program_rules.remembered import Remembered
from whence.backends.program_rules.ruled import Engine, Function, ProgramRuled, Traced
from whence.backends.tensorflow_array import Wrapped
from whence.backends.tensorflow_program_again import constant_of, is_given, signature_of
from whence.backends.tensorflow_program_functions import TensorFlowFunctions, tensors_in, trace
from whence.backends.tensorflow_program_steps import Given, Layout
from whence.backends.tensorflow_trace import Template, building
from whence.rule import Rules


def ruled(
    session: Any, function: Function, leaves: Leaves, rules: Rules, where: bool = False
) -> ProgramRuled:
    """Return f at the leaves with other derivatives, step by step.

    Raises:
        Refused: an operation is known to no rule.
    """
    names = tuple(session.layers()) if session is not None else ()
    return ProgramRuled(TensorFlowMachine(names), function, leaves, rules, names)


_programs, _engines = Remembered(), Remembered()


class TensorFlowMachine:
    """Traces functions of wrapped tensors, and compiles."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self._functions = TensorFlowFunctions()
        self._names = names

    @property
    def functions(self) -> TensorFlowFunctions:
        return self._functions

    def traced(self, function: Function, leaves: Leaves) -> Traced:
        specs = [tf.TensorSpec(leaf.shape, leaf.tensor.dtype) for leaf in leaves]

        def flat(*tensors: Any) -> Any:
            return function(tuple(map(Wrapped, tensors))).tensor

        concrete = tf.function(flat, input_signature=specs, autograph=False).get_concrete_function()
        signature, called = signature_of(concrete)
        key = (signature, self._names)

        def make() -> tuple[Program, list[Given], list[Any]]:
            layout = Layout(concrete, specs, self._names)
            # What the key names by identity must live as long as it.
            return recognised(layout.program, self.functions), list(layout.given.values()), called

        with building:
            program, given, _ = _programs.get(key, make)
        captured = [external for external, _ in concrete.graph.captures]
        constants = _constants_of(concrete)
        values = tuple(each.value(captured, constants) for each in given)
        return Traced(program, values, key)

    def engine(self, key: Any, make: Callable[[], Engine]) -> Engine:
        return _engines.get(key, make)

    def needed(self, back: Callable[..., Any], program: Program, values: Sequence[int]) -> list[int]:
        given = tuple(_blank(program.types[each]) for each in program.given)
        known = {each: _blank(program.types[each]) for each in values}
        template, tensors = Template.of(tensors_in((given, known, _blank(program.types[program.output]))))
        concrete, _ = trace(back, template, [tf.TensorSpec(each.shape, each.dtype) for each in tensors])
        looked = _looked_at(concrete)
        places = concrete.graph.inputs[len(given) : len(given) + len(known)]
        return [each for each, place in zip(known, places, strict=True) if place.op.name in looked]

    def ones(self, y: Array) -> Array:
        return Wrapped(tf.ones_like(y.tensor))

    def blank(self, kind: Type) -> Array:
        return _blank(kind)


def _blank(kind: Type) -> Wrapped:
    return Wrapped(tf.zeros(kind.shape, kind.dtype))


def _looked_at(concrete: Any) -> set[str]:
    """Return the names of the operations that a traced function's results depend on."""
    waiting = [each.op for each in concrete.outputs]
    seen: set[str] = set()
    while waiting:
        operation = waiting.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            waiting += [each.op for each in operation.inputs]
    return seen


def _constants_of(concrete: Any) -> list[Any]:
    """Return the constants of a traced function that are given to its program, in their order."""
    values = [constant_of(each) for each in concrete.graph.get_operations() if each.type == "Const"]
    return [value for value in values if is_given(value)]
