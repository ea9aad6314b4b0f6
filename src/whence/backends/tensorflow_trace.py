"""A model traced once, as TensorFlow compiles it: the forward run, and in one graph with it the way back.

The number of rows is left open, so that one trace serves every number of rows. What is traced holds nothing of the
user's model but its variables, and is remembered as long as the model lives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tensorflow as tf

from whence.backends.tensorflow_moments import released
from whence.backends.tensorflow_state import draws, operations_of, writes

_PLAIN: Final = (bool, int, float, str, bytes, type(None))


# TensorFlow makes a function's way back in the function's own graph, in which only one thread may work.
building: Final = threading.RLock()


def new_tape(persistent: bool = False) -> Any:
    """Return a tape that records what is told to it alone, and no variables."""
    return tf.GradientTape(persistent=persistent, watch_accessed_variables=False)


class Untraceable(Exception):
    """A model gave something that cannot leave a trace; it is run operation by operation."""


@dataclass(frozen=True)
class Template:
    """Where the tensors of a structure stand; plain values are kept as they are."""

    structure: Any

    @staticmethod
    def of(value: Any) -> tuple[Template, list[Any]]:
        """Return a structure's template and its tensors.

        Raises:
            Untraceable: it holds something else, in which tensors may hide.
        """
        tensors: list[Any] = []
        return Template(_taken_out(value, tensors)), tensors

    def filled(self, tensors: Sequence[Any]) -> Any:
        """Return the structure with other tensors."""
        return _put_in(self.structure, iter(tensors))

    @property
    def key(self) -> Any:
        """What tells one structure from another."""
        return _hashable(self.structure)


class _Place:
    """Stands where a tensor was."""


_PLACE: Final = _Place()


def _taken_out(value: Any, tensors: list[Any]) -> Any:
    if isinstance(value, (tf.Tensor, tf.Variable)):
        tensors.append(tf.convert_to_tensor(value))
        return _PLACE
    if isinstance(value, dict):
        return _like(value, {key: _taken_out(each, tensors) for key, each in value.items()})  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (tuple, list)):
        return _like(value, [_taken_out(each, tensors) for each in value])  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, _PLAIN):
        raise Untraceable
    return value


def _put_in(value: Any, tensors: Iterator[Any]) -> Any:
    if value is _PLACE:
        return next(tensors)
    if isinstance(value, dict):
        return _like(value, {key: _put_in(each, tensors) for key, each in value.items()})  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (tuple, list)):
        return _like(value, [_put_in(each, tensors) for each in value])  # pyright: ignore[reportUnknownVariableType]
    return value


def _like(value: Any, parts: Any) -> Any:
    """Return the parts in a structure of the same type."""
    if type(value) in (dict, list):
        return parts
    if isinstance(value, dict):
        return type(value)(**parts) if all(isinstance(key, str) for key in parts) else type(value)(parts)
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return type(value), tuple((key, _hashable(each)) for key, each in value.items())  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(_hashable, value))  # pyright: ignore[reportUnknownArgumentType]
    return value if value is _PLACE else (type(value), value)


class Traced:
    """One way of running a model (with its taps), as compiled functions of a flat list of tensors."""

    def __init__(self, call: Callable[[list[Any]], Any], specs: Sequence[tf.TensorSpec], inner: int) -> None:
        """Trace the forward run; the last `inner` tensors are states that nothing is differentiated by."""
        self.specs = list(specs)
        self.floats = [
            place for place, spec in enumerate(specs[: len(specs) - inner]) if spec.dtype.is_floating
        ]
        found: list[Template] = []

        def forward(*tensors: Any) -> list[Any]:
            template, given = Template.of(call(list(tensors)))
            found.append(template)
            return given

        traced = tf.function(forward, input_signature=self.specs, autograph=False).get_concrete_function()
        self.forward = released(traced, self.specs)
        self.template = found[-1]
        # A copy: TensorFlow adds to the list when it makes the way back.
        outputs = list(self.forward.outputs)
        self.kinds = [each.dtype for each in outputs]
        self.answers = [place for place, each in enumerate(outputs) if each.dtype.is_floating]
        self._seeds = [tf.TensorSpec(outputs[place].shape, outputs[place].dtype) for place in self.answers]
        operations = operations_of(self.forward.graph)
        self.draws, self.writes = draws(operations), writes(operations)
        self._reached = [_reached(outputs[place]) for place in self.answers]
        self._derived: Any = None
        self.connected: tuple[bool, ...] = ()
        self.shapes: dict[tuple[Any, ...], list[Any]] = {}
        self.loops: dict[Any, Any] = {}

    @property
    def alone(self) -> bool:
        """Whether a second run would say the same, so that the way back may run the model once more."""
        return not (self.draws or self.writes)

    def derived(self, tensors: Sequence[Any], seeds: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return the outputs, and the gradients of the float inputs (None: unused) for seeds of the float outputs."""
        if self._derived is None:
            with building:
                self._derived = self._derived or self._trace_derived()
        outputs, gradients = self._derived(*tensors, *seeds)
        remaining = iter(gradients)
        return list(outputs), [next(remaining) if there else None for there in self.connected]

    def unused(self, gradients: list[Any], seeds: Sequence[Any]) -> list[Any]:
        """Return gradients with None for inputs that no output with a weight uses: of several, some may."""
        if len(self.answers) < 2:
            return gradients
        used = [bool(tf.reduce_any(each != 0)) for each in seeds]
        names = [self.forward.graph.inputs[place].name for place in self.floats]
        return [
            gradient
            if any(told and name in reached for told, reached in zip(used, self._reached, strict=True))
            else None
            for gradient, name in zip(gradients, names, strict=True)
        ]

    def _trace_derived(self) -> Any:
        count = len(self.specs)

        def derive(*arguments: Any) -> tuple[list[Any], list[Any]]:
            tensors, seeds = arguments[:count], arguments[count:]
            inputs = [tensors[place] for place in self.floats]
            with new_tape() as tape:
                tape.watch(inputs)
                outputs = list(self.forward(*tensors))
            answers = [outputs[place] for place in self.answers]
            found = tape.gradient(answers, inputs, output_gradients=list(seeds)) if inputs and answers else []
            self.connected = tuple(each is not None for each in found)
            return outputs, [tf.convert_to_tensor(each) for each in found if each is not None]

        specs = [*self.specs, *self._seeds]
        return tf.function(derive, input_signature=specs, autograph=False).get_concrete_function()


def _reached(output: Any) -> set[str]:
    """Return the names of the tensors that an output of a graph is made of."""
    waiting, found = [output], set[str]()
    while waiting:
        tensor = waiting.pop()
        if tensor.name not in found:
            found.add(tensor.name)
            waiting += tensor.op.inputs
    return found
