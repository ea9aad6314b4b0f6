"""A traced function of TensorFlow as flat steps: calls of other functions are entered, and every shape is known.

Each operation is put once more into a graph of our own, with the shapes of these leaves: so a function that was traced
for any number of rows has steps of fixed shapes, and what is about shapes alone becomes constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import tensor_util  # pyright: ignore[reportMissingImports]
from tensorflow.python.framework.func_graph import FuncGraph  # pyright: ignore[reportMissingImports]

from whence.backends.program_rules.functions import Type
from whence.backends.program_rules.program import Program, Step
from whence.backends.tensorflow_array import Wrapped
from whence.backends.tensorflow_program_again import (
    CALLS,
    Again,
    again,
    attributes_of,
    constant_of,
    gathered,
    is_given,
    recipe_of,
    written,
)
from whence.backends.tensorflow_program_kinds import ALONG, KINDS, settings_of
from whence.backends.tensorflow_program_rewriting import rewritten
from whence.errors import Refused

_OWN: Final = ("/whence/", "/tensorflow/", "/keras/", "/site-packages/")


@dataclass(frozen=True)
class Handle:
    """A variable: `place` is that of its handle among what the traced function has captured."""

    place: int


@dataclass(frozen=True)
class Given:
    """Where a program's constants come from.

    That is a captured tensor, or the value of a captured variable (`read`); or a constant of the function itself, by
    its number there, or of one that it calls, which stays the same.
    """

    capture: int | None = None
    read: tf.DType | None = None
    number: int | None = None
    constant: Any = None

    def value(self, captured: Sequence[Any], constants: Sequence[Any]) -> Any:
        """Return the constant's present value."""
        if self.capture is None:
            return Wrapped(tf.constant(self.constant if self.number is None else constants[self.number]))
        tensor = captured[self.capture]
        return Wrapped(
            tensor if self.read is None else tf.raw_ops.ReadVariableOp(resource=tensor, dtype=self.read)
        )


Entry = int | Handle


class Layout:
    """Numbers variables, and collects the steps of a traced function and of those that it calls."""

    def __init__(self, concrete: Any, shapes: Sequence[tf.TensorSpec], names: Sequence[str]) -> None:
        self._types: dict[int, Type] = {}
        self._literals: dict[int, Any] = {}
        self._steps: list[Step] = []
        self._makers: dict[int, Step] = {}
        self._symbols: dict[int, Any] = {}
        self._reads: dict[tuple[int, Any], int] = {}
        self.given: dict[int, Given] = {}
        self._constants = 0
        self._names = sorted((name for name in names if name), key=len, reverse=True)
        graph = concrete.graph
        self._external = [external for external, _ in graph.captures]
        with FuncGraph("steps").as_default():
            leaves = [self._new(tf.compat.v1.placeholder(each.dtype, each.shape)) for each in shapes]
            self._reached = set(leaves)
            entries: list[Entry] = [*leaves]
            for place, (external, _) in enumerate(graph.captures):
                entries.append(self._captured(place, external))
            (output, *_) = self._enter(graph, entries, concrete.outputs, outer=True)
        assert isinstance(output, int)
        self.program = Program(
            tuple(self._steps), tuple(leaves), tuple(self.given), self._literals, output, self._types
        )

    def _new(self, symbol: Any) -> int:
        number = len(self._types)
        kind = symbol.dtype
        self._types[number] = Type(tuple(symbol.shape.as_list()), kind, kind.is_floating)
        self._symbols[number] = symbol
        return number

    def type_of(self, number: int) -> Type:
        """Return what is known of a variable."""
        return self._types[number]

    def maker_of(self, number: int) -> Step | None:
        """Return the step that gives a variable."""
        return self._makers.get(number)

    def varies(self, number: int) -> bool:
        """Tell whether a variable depends on the leaves."""
        return number in self._reached

    def _captured(self, place: int, external: Any) -> Entry:
        if external.dtype == tf.resource:
            return Handle(place)
        number = self._new(tf.compat.v1.placeholder(external.dtype, external.shape))
        self.given[number] = Given(place)
        return number

    def _read(self, handle: Handle, kind: tf.DType) -> int:
        key = (handle.place, kind)
        if key not in self._reads:
            with tf.init_scope():
                shape = tf.raw_ops.VariableShape(input=self._external[handle.place]).numpy()
            number = self._new(tf.compat.v1.placeholder(kind, shape))
            self.given[number] = Given(handle.place, kind)
            self._reads[key] = number
        return self._reads[key]

    def literal(self, value: np.ndarray) -> int:
        """Return a new variable that is a number of the program itself."""
        number = self._new(tf.constant(value))
        self._literals[number] = value
        return number

    # ---- graphs --------------------------------------------------------------------------------------------------

    def _enter(
        self,
        graph: Any,
        entries: Sequence[Entry],
        wanted: Sequence[Any],
        outer: bool = False,
        scope: str = "",
    ) -> list[Entry]:
        """Lay out a graph whose inputs have these entries; return those of what is wanted of it."""
        known: dict[Any, Entry] = {
            tensor.name: entry for tensor, entry in zip(graph.inputs, entries, strict=True)
        }
        for operation in graph.get_operations():
            if operation.type in ("Placeholder", "NoOp") or not operation.outputs:
                continue
            taken = [known.get(each.name) for each in operation.inputs]
            if any(each is None for each in taken):
                # It hangs on what a run cannot have.
                continue
            found = self._laid(operation, [each for each in taken if each is not None], outer, scope)
            known.update((tensor.name, entry) for tensor, entry in zip(operation.outputs, found, strict=True))
        return [known[each.name] for each in wanted]

    def _laid(self, operation: Any, taken: list[Entry], outer: bool, scope: str) -> list[Entry]:
        name = operation.type
        if name in CALLS:
            inner = operation.graph._get_function(operation.get_attr("f").name).graph
            # TensorFlow adds to a graph's outputs when it makes the way back.
            return self._enter(
                inner, taken, inner.outputs[: len(operation.outputs)], scope=f"{scope}/{operation.name}"
            )
        if name == "ReadVariableOp" and isinstance(taken[0], Handle):
            return [self._read(taken[0], operation.get_attr("dtype"))]
        if name == "ResourceGather" and isinstance(taken[0], Handle):
            return self._gathered(operation, taken[0], taken[1], scope)
        if any(isinstance(each, Handle) for each in taken):
            if name != "Identity":
                raise Refused(
                    f"rules: no rule can see through {name} ({operation.name}), which works on variables"
                )
            return list(taken[:1])
        inputs = [each for each in taken if isinstance(each, int)]
        if name == "Const":
            return [self._constant(operation, outer)]
        return [*self._step(operation, inputs, scope)]

    def _constant(self, operation: Any, outer: bool) -> int:
        value = constant_of(operation)
        number = self.literal(value)
        if is_given(value):
            del self._literals[number]
            self.given[number] = Given(number=self._constants) if outer else Given(constant=value)
            self._constants += outer
        return number

    def _gathered(self, operation: Any, handle: Handle, places: Entry, scope: str) -> list[Entry]:
        assert isinstance(places, int)
        table = self._read(handle, operation.get_attr("dtype"))
        return [self._made("GatherV2", "move", [table, places], gathered, operation, scope)]

    # ---- steps ---------------------------------------------------------------------------------------------------

    def _step(self, operation: Any, inputs: list[int], scope: str) -> list[int]:
        make = partial(self._made, operation=operation, scope=scope)
        others = rewritten(self, operation, inputs, make)
        if others is not None:
            return others
        return self._emitted(
            operation.type, None, inputs, partial(again, recipe_of(operation)), operation, scope
        )

    def _emitted(
        self, name: str, kind: str | None, inputs: Sequence[int], does: Again, operation: Any, scope: str,
        settings: dict[str, Any] | None = None,
    ) -> list[int]:  # fmt: skip
        fixed = [self._fixed(each) for each in inputs]
        try:
            symbols = [each.tensor for each in does([Wrapped(self._symbols[each]) for each in inputs])]
        except (AttributeError, TypeError, ValueError) as problem:
            # A loop, or an operation of the user's own library.
            raise Refused(f"rules: no rule can see through {name} ({operation.name}): {problem}") from problem
        literals = [self._folded(each, does, fixed, place) for place, each in enumerate(symbols)]
        if all(each is not None for each in literals):
            return [self.literal(each) for each in literals if each is not None]
        outputs = [self._new(each) for each in symbols]
        attributes = attributes_of(operation)
        shapes = [self._types[each].shape for each in inputs]
        given = self._types[outputs[0]].shape
        chosen = KINDS.get(name, "") if kind is None else kind
        told = settings_of(name, attributes, shapes, given, fixed) if settings is None else settings
        if chosen in ALONG and "axes" not in told:
            chosen = ""
        text = f"{name}{written(operation, name)}{shapes}{[self._types[each].shape for each in outputs]}"
        self._add(
            Step(
                name, chosen, tuple(inputs), tuple(outputs), does, told, text, *self._where(operation, scope)
            )
        )
        return outputs

    def _made(
        self, name: str, kind: str, inputs: Sequence[int], does: Again, operation: Any, scope: str,
        settings: dict[str, Any] | None = None,
    ) -> int:  # fmt: skip
        return self._emitted(name, kind, inputs, does, operation, scope, settings or {})[0]

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        self._makers.update(dict.fromkeys(step.outputs, step))
        if not self._reached.isdisjoint(step.inputs):
            self._reached.update(step.outputs)

    def _fixed(self, number: int) -> Any:
        return self._literals.get(number)

    def _folded(self, symbol: Any, does: Again, fixed: Sequence[Any], place: int) -> np.ndarray | None:
        """Return the value of whole numbers that are known before any run: shapes and axes."""
        if symbol.dtype.is_floating or symbol.dtype == tf.variant:
            return None
        value = tensor_util.constant_value(symbol)
        if value is None and fixed and all(each is not None for each in fixed):
            with tf.init_scope():
                value = does(fixed)[place].tensor.numpy()
        return None if value is None else np.asarray(value)

    # ---- where ---------------------------------------------------------------------------------------------------

    def _where(self, operation: Any, scope: str) -> tuple[str, str]:
        """Return the user's line that an operation comes from, and the innermost layer that it belongs to."""
        path = f"{scope}/{operation.name}".rpartition("/")[0] + "/"
        module = next((name for name in self._names if f"/{name}/" in path), "")
        line = _line(operation)
        if line:
            return (f"{line} in {module}" if module else line), module
        return (f"in {module}" if module else ""), module


def _line(operation: Any) -> str:
    for frame in reversed(operation.traceback or ()):
        if not any(part in frame.filename for part in _OWN) and not frame.filename.startswith("<"):
            return f"{frame.filename}:{frame.lineno}"
    return ""
