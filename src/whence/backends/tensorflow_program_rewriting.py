"""Operations of TensorFlow that are several of the rules' words, or others: each is put down in those words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import numpy as np

from whence.backends.program_rules.functions import Type
from whence.backends.program_rules.program import Step
from whence.backends.tensorflow_moments import is_held
from whence.backends.tensorflow_program_again import (
    Again,
    added,
    multiplied,
    reshaped,
    rooted,
    same,
    silu,
    squared,
    subtracted,
)

Make = Callable[[str, str, Sequence[int], Again], int]
"""Adds a step: its name, its kind, what it takes, and how it is done; returns what it gives."""


class Known(Protocol):
    """What is known of the variables so far."""

    def type_of(self, number: int) -> Type: ...
    def maker_of(self, number: int) -> Step | None: ...
    def varies(self, number: int) -> bool:
        """Tell whether a variable depends on the leaves."""
        ...

    def literal(self, value: np.ndarray) -> int:
        """Return a new variable that is a number of the program itself."""
        ...


def rewritten(known: Known, operation: Any, inputs: list[int], make: Make) -> list[int] | None:
    """Return what the steps in an operation's place give; None where it is one of the rules' words itself."""
    kind = operation.type
    if kind == "StopGradient" and is_held(operation):
        # The derivative of a variance by its mean is 0: nothing is stopped.
        return [make("Identity", "convert", inputs, same)]
    if kind.startswith("FusedBatchNorm") and operation.get_attr("is_training"):
        return None
    writer = _WRITERS.get(kind)
    return None if writer is None else writer(known, operation, inputs, make)


def _all_added(known: Known, operation: Any, inputs: list[int], make: Make) -> list[int]:
    total = inputs[0]
    for each in inputs[1:]:
        total = make("AddV2", "add", [total, each], added)
    return [total]


def _squared(known: Known, operation: Any, inputs: list[int], make: Make) -> list[int]:
    difference = make("Sub", "subtract", inputs, subtracted)
    return [make("Square", "elementwise", [difference], squared)]


def _bias_added(known: Known, operation: Any, inputs: list[int], make: Make) -> list[int]:
    value, bias = inputs
    rank = len(known.type_of(value).shape)
    if operation.get_attr("data_format") == b"NCHW" and rank > 2:
        shape = (-1, *(1,) * (rank - 2))
        bias = make("Reshape", "reshape", [bias], partial(reshaped, shape))
    return [make("AddV2", "add", [value, bias], added)]


def _added_before(known: Known, operation: Any, inputs: list[int], make: Make) -> list[int] | None:
    """Add a bias to a product's units before these are laid out in several axes (an attention's heads)."""
    for place in (0, 1):
        maker = known.maker_of(inputs[place])
        bias = inputs[1 - place]
        if maker is None or maker.kind != "reshape" or known.varies(bias):
            continue
        product = known.maker_of(maker.inputs[0])
        before, after = (known.type_of(each).shape for each in (maker.inputs[0], inputs[place]))
        units, laid = before[-1:], known.type_of(bias).shape
        split = len(after) > len(before) and after[: len(before) - 1] == before[:-1]
        if product is None or product.kind != "dot" or not split or math.prod(laid) != units[0]:
            continue
        flat = make("Reshape", "reshape", [bias], partial(reshaped, units))
        total = make("AddV2", "add", [maker.inputs[0], flat], added)
        return [make("Reshape", "reshape", [total], partial(reshaped, after))]
    return None


def _several(known: Known, operation: Any, inputs: list[int], make: Make) -> list[int]:
    """Take apart a function with a derivative of its own: TensorFlow's own SiLU, or a user's."""
    if "_gradient_op_type" not in operation.node_def.attr:
        return [make("Identity", "convert", [each], same) for each in inputs]
    if len(inputs) == 3 and _is_silu(operation):
        # It hands out x and β beside x · σ(βx).
        first = make("silu", "elementwise", inputs[1:], silu)
        return [first, *(make("Identity", "convert", [each], same) for each in inputs[1:])]
    return [make("custom_gradient", "", [each], same) for each in inputs]


def _is_silu(operation: Any) -> bool:
    """Tell TensorFlow's own x · σ(βx)."""
    made = operation.inputs[0].op
    made = made.inputs[0].op if made.type == "Identity" else made
    if made.type != "Mul" or made.inputs[1].op.type != "Sigmoid":
        return False
    inner = made.inputs[1].op.inputs[0].op
    return made.inputs[0] is operation.inputs[1] and inner.type == "Mul"


def _normed(known: Known, operation: Any, inputs: list[int], make: Make) -> list[int]:
    value, scale, offset, mean, variance = inputs
    rank = len(known.type_of(value).shape)
    form = operation.get_attr("data_format")
    shape = (-1, *(1,) * (rank - 2)) if form == b"NCHW" else (-1,)
    laid = [
        make("Reshape", "reshape", [each], partial(reshaped, shape))
        for each in (scale, offset, mean, variance)
    ]
    epsilon = known.literal(
        np.asarray(operation.get_attr("epsilon"), known.type_of(variance).dtype.as_numpy_dtype)
    )
    root = make("Rsqrt", "rsqrt", [make("AddV2", "add", [laid[3], epsilon], added)], rooted)
    centred = make("Sub", "subtract", [value, laid[2]], subtracted)
    normed = make("Mul", "multiply", [centred, root], multiplied)
    scaled = make("Mul", "multiply", [normed, laid[0]], multiplied)
    result = make("AddV2", "add", [scaled, laid[1]], added)
    rest = [mean, variance, mean, variance, mean][: len(operation.outputs) - 1]
    return [result, *rest]


_WRITERS: Final[dict[str, Callable[[Known, Any, list[int], Make], list[int] | None]]] = {
    "BiasAdd": _bias_added,
    "AddV2": _added_before,
    "Add": _added_before,
    "AddN": _all_added,
    "SquaredDifference": _squared,
    "IdentityN": _several,
    "FusedBatchNorm": _normed,
    "FusedBatchNormV2": _normed,
    "FusedBatchNormV3": _normed,
}
