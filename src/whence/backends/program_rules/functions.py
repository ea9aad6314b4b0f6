"""The array functions that the engine of rules needs of a framework, beside its arrays' own operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from whence.backends.arrays import Array

Again = Callable[[Sequence[Array]], tuple[Array, ...]]
"""A step done once more: values of its inputs to values of its outputs."""


@dataclass(frozen=True)
class Type:
    """What is known of a variable before it has a value."""

    shape: tuple[int, ...]
    dtype: Any
    floating: bool


class Functions(Protocol):
    """Array functions; arrays offer operators, `.shape`, `.ndim`, `.dtype`, `.reshape`, `.sum`, `.mean`, `.max`."""

    def exp(self, array: Array) -> Array: ...
    def log(self, array: Array) -> Array: ...
    def where(self, condition: Array, yes: Array | float, no: Array | float) -> Array: ...
    def any(self, condition: Array) -> Array:
        """Return whether a condition holds anywhere, as an array of no axes."""
        ...

    def zeros_like(self, array: Array) -> Array: ...
    def ones_like(self, array: Array) -> Array: ...
    def broadcast(self, array: Array, shape: Sequence[int]) -> Array: ...
    def transpose(self, array: Array, axes: Sequence[int]) -> Array: ...
    def cast(self, array: Array, reference: Array) -> Array:
        """Return the array in the reference's dtype."""
        ...

    def first_largest(self, array: Array) -> Array:
        """Return ones where the last axis has its largest element (the first of several), and zeros elsewhere."""
        ...

    def vjp(
        self,
        again: Again,
        values: Sequence[Array],
        positions: Sequence[int],
        cotangents: Sequence[Array | None],
    ) -> tuple[Array, ...]:
        """Return the derivative of a step with respect to some of its inputs, times cotangents of its outputs."""
        ...

    def jvp(self, again: Again, values: Sequence[Array], position: int, direction: Array) -> Array:
        """Return the derivative of a step's first output along a direction of one input."""
        ...

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a pure function of arrays (in tuples and dicts), compiled where the framework can."""
        ...

    def epsilon(self, array: Array) -> float:
        """Return the distance from 1 to the next number of the array's dtype."""
        ...

    def array(self, value: Any, reference: Array) -> Array:
        """Return numbers as an array of the reference's dtype."""
        ...

    def numpy(self, array: Array) -> np.ndarray:
        """Return an array's numbers; real ones in float64."""
        ...

    def precision(self, kind: Type) -> float:
        """Return the distance from 1 to the next number of a type."""
        ...

    def random(self, kind: Type, seed: int) -> Array:
        """Return normal random numbers of a type; of booleans and integers zeros."""
        ...


def positive(functions: Functions, array: Array) -> Array:
    """Return what is above zero, and zero elsewhere."""
    return functions.where(array > 0, array, functions.zeros_like(array))


def negative(functions: Functions, array: Array) -> Array:
    """Return what is below zero, and zero elsewhere."""
    return functions.where(array < 0, array, functions.zeros_like(array))


def larger(functions: Functions, one: Array, two: Array) -> Array:
    """Return the larger of two, element by element."""
    return functions.where(one > two, one, two)


def summed(functions: Functions, array: Array, shape: Sequence[int]) -> Array:
    """Sum an array over the axes along which one of that shape was broadcast, and broadcast it to the others."""
    shape = tuple(shape)
    if tuple(array.shape) == shape:
        return array
    before = array.ndim - len(shape)
    if before > 0:
        array = array.sum(tuple(range(before)))
    ones = tuple(
        axis for axis, size in enumerate(shape) if before >= 0 and size == 1 and array.shape[axis] != 1
    )
    if ones:
        array = array.sum(ones, keepdims=True)
    return array if tuple(array.shape) == shape else functions.broadcast(array, shape)


def divided(functions: Functions, above: Array, below: Array, empty: Array | float) -> Array:
    """Return above / below, and `empty` where below is 0."""
    nothing = below == 0
    return functions.where(
        nothing, empty, above / functions.where(nothing, functions.ones_like(below), below)
    )


def count(shape: Sequence[int]) -> int:
    """Return how many elements an array of a shape has."""
    return math.prod(shape)
