"""TensorFlow's operations done once more with other values, and when two traced functions are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any, Final

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import tensor_util  # pyright: ignore[reportMissingImports]

from whence.backends.tensorflow_array import Wrapped
from whence.backends.tensorflow_program_functions import tensor_of

Again = Callable[[Sequence[Any]], tuple[Any, ...]]
CALLS: Final = ("PartitionedCall", "StatefulPartitionedCall")


@dataclass(frozen=True)
class Recipe:
    """How to do an operation again: TensorFlow's function, which argument takes how many inputs, and its settings."""

    function: Any
    arguments: tuple[tuple[str, int | None], ...]
    settings: dict[str, Any]


def recipe_of(operation: Any) -> Recipe:
    """Return how an operation is done again."""
    definition = operation.op_def
    arguments: list[tuple[str, int | None]] = []
    for each in definition.input_arg:
        if each.number_attr:
            arguments.append((each.name, int(operation.get_attr(each.number_attr))))
        elif each.type_list_attr:
            arguments.append((each.name, len(operation.get_attr(each.type_list_attr))))
        else:
            arguments.append((each.name, None))
    function, attributes = getattr(tf.raw_ops, operation.type), attributes_of(operation)
    names = _names(operation.type)
    # TensorFlow's functions call some arguments otherwise than its operations do: "axis", not "reduction_indices".
    defined = [name for name, _ in arguments]
    others = iter(name for name in names if name not in defined and name not in attributes and name != "name")
    renamed = tuple((name if name in names else next(others), count) for name, count in arguments)
    return Recipe(function, renamed, {name: value for name, value in attributes.items() if name in names})


@lru_cache(maxsize=512)
def _names(kind: str) -> tuple[str, ...]:
    return tuple(signature(getattr(tf.raw_ops, kind)).parameters)


def attributes_of(operation: Any) -> dict[str, Any]:
    """Return an operation's own settings."""
    return {name: operation.get_attr(name) for name in operation.node_def.attr if not name.startswith("_")}


def written(operation: Any, name: str) -> str:
    """Return an operation's settings as text: of what was made of it only where it is still itself."""
    if name != operation.type:
        return f" of {operation.type}"
    return str(sorted((key, value.SerializeToString()) for key, value in operation.node_def.attr.items()))


def again(recipe: Recipe, values: Sequence[Any]) -> tuple[Any, ...]:
    """Do an operation with these values."""
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


def added(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return a + b."""
    return (Wrapped(tensor_of(values[0]) + tensor_of(values[1])),)


def subtracted(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return a − b."""
    return (Wrapped(tensor_of(values[0]) - tensor_of(values[1])),)


def multiplied(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return a · b."""
    return (Wrapped(tensor_of(values[0]) * tensor_of(values[1])),)


def squared(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return a²."""
    return (Wrapped(tf.square(tensor_of(values[0]))),)


def rooted(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return 1/√a."""
    return (Wrapped(tf.math.rsqrt(tensor_of(values[0]))),)


def same(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return a itself."""
    return (Wrapped(tf.identity(tensor_of(values[0]))),)


def silu(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return x · σ(βx)."""
    x, beta = map(tensor_of, values)
    return (Wrapped(x * tf.sigmoid(beta * x)),)


def reshaped(shape: tuple[int, ...], values: Sequence[Any]) -> tuple[Any, ...]:
    """Return an array in another shape."""
    return (Wrapped(tf.reshape(tensor_of(values[0]), shape)),)


def gathered(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return rows of a table."""
    return (Wrapped(tf.gather(tensor_of(values[0]), tensor_of(values[1]))),)


def constant_of(operation: Any) -> np.ndarray:
    """Return a constant's value."""
    return tensor_util.MakeNdarray(operation.get_attr("value"))


def is_given(value: np.ndarray) -> bool:
    """Tell a constant that is given to a program (weights, what chooses outputs) from one that is part of it."""
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
    if operation.type in CALLS:
        graph = operation.graph._get_function(operation.get_attr("f").name).graph
        called.append(graph)
        return str(id(graph))
    if operation.type == "Const":
        value = constant_of(operation)
        return f"{value.dtype}{value.shape}" + ("" if is_given(value) else str(value.tolist()))
    attributes = operation.node_def.attr
    return str(
        sorted(
            (name, attributes[name].SerializeToString()) for name in attributes if not name.startswith("_")
        )
    )
