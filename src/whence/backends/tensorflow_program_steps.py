"""A traced function of TensorFlow as flat steps: calls of other functions are entered, and every shape is known.

Each operation is put once more into a graph of our own, with the shapes of these leaves: so a function that was traced
for any number of rows has steps of fixed shapes, and what is about shapes alone becomes constant.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import signature
from typing import Any, Final

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import tensor_util  # pyright: ignore[reportMissingImports]
from tensorflow.python.framework.func_graph import FuncGraph  # pyright: ignore[reportMissingImports]

from whence.backends.program_rules.functions import Type
from whence.backends.program_rules.program import Program, Step
from whence.backends.tensorflow_array import Wrapped
from whence.backends.tensorflow_moments import is_held
from whence.backends.tensorflow_program_functions import tensor_of
from whence.backends.tensorflow_program_kinds import KINDS, settings_of

Again = Callable[[Sequence[Any]], tuple[Any, ...]]
_CALLS: Final = ("PartitionedCall", "StatefulPartitionedCall")
_OWN: Final = ("/whence/", "/tensorflow/", "/keras/", "/site-packages/")


@dataclass(frozen=True)
class Handle:
    """A variable: `place` is that of its handle among what the traced function has captured."""

    place: int


@dataclass(frozen=True)
class Given:
    """Where a program's constants come from.

    That is a captured tensor, or the value of a captured variable (`read`); or a constant of the function itself, by its
    number there, or of one that it calls, which stays the same.
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
        return Wrapped(tensor if self.read is None else tf.raw_ops.ReadVariableOp(resource=tensor, dtype=self.read))


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

    def _captured(self, place: int, external: Any) -> Entry:
        if external.dtype == tf.resource:
            return Handle(place)
        number = self._new(tf.compat.v1.placeholder(external.dtype, external.shape))
        self.given[number] = Given(place)
        return number

    def _read(self, handle: Handle, kind: tf.DType, shape: Any) -> int:
        key = (handle.place, kind)
        if key not in self._reads:
            number = self._new(tf.compat.v1.placeholder(kind, shape))
            self.given[number] = Given(handle.place, kind)
            self._reads[key] = number
        return self._reads[key]

    def _literal(self, value: np.ndarray) -> int:
        number = self._new(tf.constant(value))
        self._literals[number] = value
        return number

    # ---- graphs --------------------------------------------------------------------------------------------------

    def _enter(
        self, graph: Any, entries: Sequence[Entry], wanted: Sequence[Any], outer: bool = False, scope: str = ""
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
        if name in _CALLS:
            inner = operation.graph._get_function(operation.get_attr("f").name).graph
            # TensorFlow adds to a graph's outputs when it makes the way back.
            return self._enter(inner, taken, inner.outputs[: len(operation.outputs)], scope=f"{scope}/{operation.name}")
        if name == "ReadVariableOp" and isinstance(taken[0], Handle):
            return [self._read(taken[0], operation.get_attr("dtype"), _variable_shape(operation))]
        if name == "ResourceGather" and isinstance(taken[0], Handle):
            return self._gathered(operation, taken[0], taken[1], scope)
        if any(isinstance(each, Handle) for each in taken):
            return list(taken[:1]) if name == "Identity" else self._unknown(operation, taken, scope)
        inputs = [each for each in taken if isinstance(each, int)]
        if name == "Const":
            return [self._constant(operation, outer)]
        return [*self._step(operation, inputs, scope)]

    def _constant(self, operation: Any, outer: bool) -> int:
        value = constant_of(operation)
        number = self._literal(value)
        if is_given(value):
            del self._literals[number]
            self.given[number] = Given(number=self._constants) if outer else Given(constant=value)
            self._constants += outer
        return number

    def _gathered(self, operation: Any, handle: Handle, places: Entry, scope: str) -> list[Entry]:
        assert isinstance(places, int)
        table = self._read(handle, operation.get_attr("dtype"), _variable_shape(operation))
        return [self._made("GatherV2", "move", [table, places], _gather, operation, scope)]

    def _unknown(self, operation: Any, taken: Sequence[Entry], scope: str) -> list[Entry]:
        """Take an operation on variables that no rule knows; it may stand beside what is explained."""
        raise tf.errors.UnimplementedError(None, None, f"{operation.type} in {scope}")

    # ---- steps ---------------------------------------------------------------------------------------------------

    def _step(self, operation: Any, inputs: list[int], scope: str) -> list[int]:
        rewritten = self._rewritten(operation, inputs, scope)
        if rewritten is not None:
            return rewritten
        again = partial(_again, _recipe(operation))
        return self._emitted(operation.type, None, inputs, again, operation, scope)

    def _emitted(
        self, name: str, kind: str | None, inputs: Sequence[int], again: Again, operation: Any, scope: str,
        settings: dict[str, Any] | None = None,
    ) -> list[int]:  # fmt: skip
        fixed = [self._fixed(each) for each in inputs]
        symbols = [each.tensor for each in again([Wrapped(self._symbols[each]) for each in inputs])]
        literals = [self._folded(each, again, fixed, place) for place, each in enumerate(symbols)]
        if all(each is not None for each in literals):
            return [self._literal(each) for each in literals if each is not None]
        outputs = [self._new(each) for each in symbols]
        attributes = _attributes(operation)
        shapes = [self._types[each].shape for each in inputs]
        given = self._types[outputs[0]].shape
        chosen = KINDS.get(name, "") if kind is None else kind
        told = settings_of(name, attributes, shapes, given, fixed) if settings is None else settings
        text = f"{name}{_written(operation, name)}{shapes}{[self._types[each].shape for each in outputs]}"
        self._add(
            Step(name, chosen, tuple(inputs), tuple(outputs), again, told, text, *self._where(operation, scope))
        )
        return outputs

    def _made(
        self, name: str, kind: str, inputs: Sequence[int], again: Again, operation: Any, scope: str,
        settings: dict[str, Any] | None = None,
    ) -> int:  # fmt: skip
        return self._emitted(name, kind, inputs, again, operation, scope, settings or {})[0]

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        self._makers.update(dict.fromkeys(step.outputs, step))
        if not self._reached.isdisjoint(step.inputs):
            self._reached.update(step.outputs)

    def _fixed(self, number: int) -> Any:
        return self._literals.get(number)

    def _folded(self, symbol: Any, again: Again, fixed: Sequence[Any], place: int) -> np.ndarray | None:
        """Return the value of whole numbers that are known before any run: shapes and axes."""
        if symbol.dtype.is_floating or symbol.dtype == tf.variant:
            return None
        value = tensor_util.constant_value(symbol)
        if value is None and fixed and all(each is not None for each in fixed):
            with tf.init_scope():
                value = again(fixed)[place].tensor.numpy()
        return None if value is None else np.asarray(value)

    # ---- operations that are several, or others, in the words of the rules ----------------------------------------

    def _rewritten(self, operation: Any, inputs: list[int], scope: str) -> list[int] | None:
        make = partial(self._made, operation=operation, scope=scope)
        match operation.type:
            case "BiasAdd":
                return [self._bias_added(operation, inputs, make)]
            case "AddV2" | "Add":
                return self._added_before(operation, inputs, make)
            case "AddN":
                total = inputs[0]
                for each in inputs[1:]:
                    total = make("AddV2", "add", [total, each], _added)
                return [total]
            case "SquaredDifference":
                difference = make("Sub", "subtract", inputs, _subtracted)
                return [make("Square", "elementwise", [difference], _squared)]
            case "StopGradient" if is_held(operation):
                # The derivative of a variance by its mean is 0: nothing is stopped.
                return [make("Identity", "convert", inputs, _same)]
            case "IdentityN":
                return self._several(operation, inputs, make)
            case "FusedBatchNormV3" | "FusedBatchNormV2" | "FusedBatchNorm":
                return None if operation.get_attr("is_training") else self._normed(operation, inputs, make)
            case _:
                return None

    def _bias_added(self, operation: Any, inputs: list[int], make: Callable[..., int]) -> int:
        value, bias = inputs
        rank = len(self._types[value].shape)
        if operation.get_attr("data_format") == b"NCHW" and rank > 2:
            shape = (-1, *(1,) * (rank - 2))
            bias = make("Reshape", "reshape", [bias], partial(_reshaped, shape))
        return make("AddV2", "add", [value, bias], _added)

    def _added_before(self, operation: Any, inputs: list[int], make: Callable[..., int]) -> list[int] | None:
        """Add a bias to a product's units before these are laid out in several axes (an attention's heads)."""
        for place in (0, 1):
            maker = self._makers.get(inputs[place])
            bias = inputs[1 - place]
            if maker is None or maker.kind != "reshape" or bias in self._reached:
                continue
            product = self._makers.get(maker.inputs[0])
            before, after = (self._types[each].shape for each in (maker.inputs[0], inputs[place]))
            units, added = before[-1:], self._types[bias].shape
            split = len(after) > len(before) and after[: len(before) - 1] == before[:-1]
            if product is None or product.kind != "dot" or not split or math.prod(added) != units[0]:
                continue
            flat = make("Reshape", "reshape", [bias], partial(_reshaped, units))
            total = make("AddV2", "add", [maker.inputs[0], flat], _added)
            return [make("Reshape", "reshape", [total], partial(_reshaped, after))]
        return None

    def _several(self, operation: Any, inputs: list[int], make: Callable[..., int]) -> list[int]:
        """Take apart a function with a derivative of its own: TensorFlow's own SiLU, or a user's."""
        if "_gradient_op_type" not in operation.node_def.attr:
            return [make("Identity", "convert", [each], _same) for each in inputs]
        maker = operation.inputs[0].op
        # What TensorFlow makes of x is x · σ(βx), and it hands out x and β beside it.
        if len(inputs) == 3 and maker.type == "Identity" or maker.type == "Mul":
            product = maker.inputs[0].op if maker.type == "Identity" else maker
            if product.type == "Mul" and product.inputs[1].op.type == "Sigmoid" and len(inputs) == 3:
                first = make("silu", "elementwise", [inputs[1], inputs[2]], _silu)
                return [first, *(make("Identity", "convert", [each], _same) for each in inputs[1:])]
        results = [make("custom_gradient", "", [each, *inputs[:0]], _same) for each in inputs]
        return results

    def _normed(self, operation: Any, inputs: list[int], make: Callable[..., int]) -> list[int]:
        value, scale, offset, mean, variance = inputs
        rank = len(self._types[value].shape)
        form = operation.get_attr("data_format")
        shape = (-1, *(1,) * (rank - 2)) if form == b"NCHW" else (-1,)
        laid = [make("Reshape", "reshape", [each], partial(_reshaped, shape)) for each in (scale, offset, mean, variance)]
        epsilon = self._literal(np.asarray(operation.get_attr("epsilon"), self._types[variance].dtype.as_numpy_dtype))
        root = make("Rsqrt", "rsqrt", [make("AddV2", "add", [laid[3], epsilon], _added)], _rooted)
        centred = make("Sub", "subtract", [value, laid[2]], _subtracted)
        normed = make("Mul", "multiply", [centred, root], _multiplied)
        scaled = make("Mul", "multiply", [normed, laid[0]], _multiplied)
        result = make("AddV2", "add", [scaled, laid[1]], _added)
        rest = [mean, variance, mean, variance, mean][: len(operation.outputs) - 1]
        return [result, *rest]

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


# ---- doing an operation once more --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How to do an operation again: TensorFlow's function, which argument takes how many inputs, and its settings."""

    function: Any
    arguments: tuple[tuple[str, int | None], ...]
    settings: dict[str, Any]


def _recipe(operation: Any) -> Recipe:
    definition = operation.op_def
    arguments: list[tuple[str, int | None]] = []
    for each in definition.input_arg:
        if each.number_attr:
            arguments.append((each.name, int(operation.get_attr(each.number_attr))))
        elif each.type_list_attr:
            arguments.append((each.name, len(operation.get_attr(each.type_list_attr))))
        else:
            arguments.append((each.name, None))
    function, attributes = getattr(tf.raw_ops, operation.type), _attributes(operation)
    names = _names(operation.type)
    # TensorFlow's functions call some arguments otherwise than its operations do: "axis", not "reduction_indices".
    defined = [name for name, _ in arguments]
    others = iter(name for name in names if name not in defined and name not in attributes and name != "name")
    renamed = tuple((name if name in names else next(others), count) for name, count in arguments)
    return Recipe(function, renamed, {name: value for name, value in attributes.items() if name in names})


@lru_cache(maxsize=512)
def _names(kind: str) -> tuple[str, ...]:
    return tuple(signature(getattr(tf.raw_ops, kind)).parameters)


def _attributes(operation: Any) -> dict[str, Any]:
    return {name: operation.get_attr(name) for name in operation.node_def.attr if not name.startswith("_")}


def _written(operation: Any, name: str) -> str:
    """Return an operation's settings as text: of what was made of it only where it is still itself."""
    if name != operation.type:
        return f" of {operation.type}"
    return str(sorted((key, value.SerializeToString()) for key, value in operation.node_def.attr.items()))


def _again(recipe: Recipe, values: Sequence[Any]) -> tuple[Any, ...]:
    rest = iter(values)
    arguments: dict[str, Any] = {}
    for name, count in recipe.arguments:
        arguments[name] = (
            tensor_of(next(rest)) if count is None else [tensor_of(next(rest)) for _ in range(count)]
        )
    found: Any = recipe.function(**arguments, **recipe.settings)
    if isinstance(found, tf.Tensor):
        return (Wrapped(found),)
    return tuple(Wrapped(each) for each in tf.nest.flatten(found))


def _added(values: Sequence[Any]) -> tuple[Any, ...]:
    return (Wrapped(tensor_of(values[0]) + tensor_of(values[1])),)


def _subtracted(values: Sequence[Any]) -> tuple[Any, ...]:
    return (Wrapped(tensor_of(values[0]) - tensor_of(values[1])),)


def _multiplied(values: Sequence[Any]) -> tuple[Any, ...]:
    return (Wrapped(tensor_of(values[0]) * tensor_of(values[1])),)


def _squared(values: Sequence[Any]) -> tuple[Any, ...]:
    return (Wrapped(tf.square(tensor_of(values[0]))),)


def _rooted(values: Sequence[Any]) -> tuple[Any, ...]:
    return (Wrapped(tf.math.rsqrt(tensor_of(values[0]))),)


def _same(values: Sequence[Any]) -> tuple[Any, ...]:
    return (Wrapped(tf.identity(tensor_of(values[0]))),)


def _silu(values: Sequence[Any]) -> tuple[Any, ...]:
    x, beta = map(tensor_of, values)
    return (Wrapped(x * tf.sigmoid(beta * x)),)


def _reshaped(shape: tuple[int, ...], values: Sequence[Any]) -> tuple[Any, ...]:
    return (Wrapped(tf.reshape(tensor_of(values[0]), shape)),)


def _gather(values: Sequence[Any]) -> tuple[Any, ...]:
    return (Wrapped(tf.gather(tensor_of(values[0]), tensor_of(values[1]))),)


def _variable_shape(operation: Any) -> Any:
    """Return the shape of the variable that an operation reads."""
    if operation.type == "ReadVariableOp":
        return operation.outputs[0].shape
    return None


def constant_of(operation: Any) -> np.ndarray:
    """Return a constant's value."""
    return tensor_util.MakeNdarray(operation.get_attr("value"))


def is_given(value: np.ndarray) -> bool:
    """Tell a constant that is given to a program, such as weights or what chooses outputs, from one that is part of it."""
    return value.ndim > 0 and (value.dtype.kind in "fbV")


# ---- which functions are the same --------------------------------------------------------------------------------


def signature_of(concrete: Any) -> tuple[Any, list[Any]]:
    """Return what two traced functions have in common only if they are the same program, and the graphs it names."""
    numbers: dict[str, int] = {}
    lines: list[str] = []
    called: list[Any] = []
    for each in concrete.graph.inputs:
        numbers[each.name] = len(numbers)
        lines.append(f"{each.dtype}{each.shape}")
    for operation in concrete.graph.get_operations():
        if operation.type == "Placeholder":
            continue
        for each in operation.outputs:
            numbers[each.name] = len(numbers)
        taken = [numbers[each.name] for each in operation.inputs]
        lines.append(f"{operation.type}{taken}{_told(operation, called)}")
    lines.append(str([numbers[each.name] for each in concrete.outputs]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), called


def _told(operation: Any, called: list[Any]) -> str:
    if operation.type in _CALLS:
        graph = operation.graph._get_function(operation.get_attr("f").name).graph
        called.append(graph)
        return str(id(graph))
    if operation.type == "Const":
        value = constant_of(operation)
        return f"{value.dtype}{value.shape}" + ("" if is_given(value) else str(value.tolist()))
    attributes = operation.node_def.attr
    return str(sorted((name, attributes[name].SerializeToString()) for name in attributes if not name.startswith("_")))
