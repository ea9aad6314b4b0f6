"""The array functions of the rules, on wrapped tensors, and functions compiled for each kind of arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from whence.backends.arrays import Array
from whence.backends.program_rules.functions import Again, Type
from whence.backends.tensorflow_array import Wrapped, alike, native, own
from whence.backends.tensorflow_trace import Template, new_tape


def tensor_of(value: Any) -> Any:
    """Return an array of ours, or NumPy's, as a tensor."""
    return value.tensor if isinstance(value, Wrapped) else tf.convert_to_tensor(value)


def tensors_in(value: Any) -> Any:
    """Return a structure with its arrays as tensors."""
    value = native(value)
    if isinstance(value, dict):
        return {key: tensors_in(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (tuple, list)):
        return type(value)(tensors_in(each) for each in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return tf.convert_to_tensor(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value


class Compiled:
    """A pure function of arrays in tuples and dicts, traced for each structure and each set of shapes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._known: dict[Any, tuple[Any, Template]] = {}
        self._lock = threading.RLock()

    def __call__(self, *args: Any) -> Any:
        template, tensors = Template.of(tensors_in(args))
        key = (template.key, tuple((tuple(each.shape.as_list()), each.dtype) for each in tensors))
        with self._lock:
            if key not in self._known:
                self._known[key] = trace(
                    self._function, template, [tf.TensorSpec(each.shape, each.dtype) for each in tensors]
                )
        concrete, result = self._known[key]
        return own(result.filled(concrete(*tensors)))


def trace(
    function: Callable[..., Any], template: Template, specs: Sequence[tf.TensorSpec]
) -> tuple[Any, Template]:
    """Return a function of flat tensors, traced, and the template of what it gives."""
    found: list[Template] = []

    def flat(*tensors: Any) -> list[Any]:
        given, results = Template.of(tensors_in(function(*own(template.filled(tensors)))))
        found.append(given)
        return results

    concrete = tf.function(flat, input_signature=list(specs), autograph=False).get_concrete_function()
    return concrete, found[-1]


class TensorFlowFunctions:
    """The array functions of the rules."""

    def exp(self, array: Array) -> Array:
        return Wrapped(tf.exp(tensor_of(array)))

    def log(self, array: Array) -> Array:
        return Wrapped(tf.math.log(tensor_of(array)))

    def where(self, condition: Array, yes: Array | float, no: Array | float) -> Array:
        reference = yes if isinstance(yes, (Wrapped, np.ndarray)) else no
        one, two = alike(tensor_of(reference), no if reference is yes else yes)
        one, two = (one, two) if reference is yes else (two, one)
        return Wrapped(tf.where(tensor_of(condition), one, two))

    def any(self, condition: Array) -> Array:
        return Wrapped(tf.reduce_any(tensor_of(condition)))

    def zeros_like(self, array: Array) -> Array:
        return Wrapped(tf.zeros_like(tensor_of(array)))

    def ones_like(self, array: Array) -> Array:
        return Wrapped(tf.ones_like(tensor_of(array)))

    def broadcast(self, array: Array, shape: Sequence[int]) -> Array:
        return (
            array
            if tuple(array.shape) == tuple(shape)
            else Wrapped(tf.broadcast_to(tensor_of(array), list(shape)))
        )

    def transpose(self, array: Array, axes: Sequence[int]) -> Array:
        return Wrapped(tf.transpose(tensor_of(array), list(axes)))

    def cast(self, array: Array, reference: Array) -> Array:
        return Wrapped(tf.cast(tensor_of(array), tensor_of(reference).dtype))

    def first_largest(self, array: Array) -> Array:
        tensor = tensor_of(array)
        return Wrapped(tf.one_hot(tf.argmax(tensor, -1), tensor.shape[-1], dtype=tensor.dtype))

    def vjp(
        self,
        again: Again,
        values: Sequence[Array],
        positions: Sequence[int],
        cotangents: Sequence[Array | None],
    ) -> tuple[Array, ...]:
        moving = [tensor_of(values[position]) for position in positions]
        with new_tape() as tape:
            tape.watch(moving)
            outputs = [each.tensor for each in again(_with(values, positions, moving))]
        pairs = [
            (y, c) for y, c in zip(outputs, cotangents, strict=False) if c is not None and y.dtype.is_floating
        ]
        if not pairs:
            return tuple(Wrapped(tf.zeros_like(each)) for each in moving)
        seeds = [tf.broadcast_to(tf.cast(tensor_of(c), y.dtype), tf.shape(y)) for y, c in pairs]
        found = tape.gradient(
            [y for y, _ in pairs], moving, output_gradients=seeds, unconnected_gradients="zero"
        )
        return tuple(Wrapped(tf.convert_to_tensor(each)) for each in found)

    def jvp(self, again: Again, values: Sequence[Array], position: int, direction: Array) -> Array:
        # The derivative of ⟨Jᵀu, v⟩, which is linear in u, by u is Jv.
        moving = tensor_of(values[position])
        with new_tape() as outer:
            with new_tape() as inner:
                inner.watch(moving)
                y = again(_with(values, [position], [moving]))[0].tensor
            u = tf.zeros_like(y)
            outer.watch(u)
            back = inner.gradient(y, moving, u, unconnected_gradients="zero")
            total = tf.reduce_sum(back * tf.cast(tensor_of(direction), back.dtype))
        return Wrapped(outer.gradient(total, u, unconnected_gradients="zero"))

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return Compiled(function)

    def epsilon(self, array: Array) -> float:
        return _epsilon(tensor_of(array).dtype)

    def array(self, value: Any, reference: Array) -> Array:
        return Wrapped(
            tf.convert_to_tensor(np.asarray(value).astype(tensor_of(reference).dtype.as_numpy_dtype))
        )

    def numpy(self, array: Array) -> np.ndarray:
        found = np.asarray(native(array))
        return found if found.dtype.kind in "biu" else found.astype(np.float64)

    def precision(self, kind: Type) -> float:
        return _epsilon(kind.dtype)

    def random(self, kind: Type, seed: int) -> Array:
        if not kind.floating:
            return Wrapped(tf.zeros(kind.shape, kind.dtype))
        numbers = np.asarray(np.random.default_rng(seed).standard_normal(kind.shape))
        return Wrapped(tf.constant(numbers.astype(kind.dtype.as_numpy_dtype)))


def _epsilon(kind: tf.DType) -> float:
    return {tf.bfloat16: 2.0**-7, tf.float16: 2.0**-10, tf.float64: 2.0**-52}.get(kind, 2.0**-23)


def _with(values: Sequence[Array], positions: Sequence[int], moving: Sequence[Any]) -> list[Array]:
    taken = list(values)
    for position, each in zip(positions, moving, strict=True):
        taken[position] = Wrapped(each)
    return taken
