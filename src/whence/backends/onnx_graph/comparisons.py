"""Operators that compare, and those of truth values and bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import TYPES, is_stored, through_numpy

Tensor = torch.Tensor


def _binary(
    name: str, function: Callable[[Tensor, Tensor], Tensor], twin: Callable[..., Any], since: int = 7
) -> None:
    @operator(name, since=since)
    def run(node: Node, a: Tensor, b: Tensor) -> Tensor:  # pyright: ignore[reportUnusedFunction]
        return through_numpy(twin, a, b) if is_stored(a) else function(a, b)


_binary("Equal", torch.eq, np.equal)
_binary("Greater", torch.gt, np.greater)
_binary("GreaterOrEqual", torch.ge, np.greater_equal, 12)
_binary("Less", torch.lt, np.less)
_binary("LessOrEqual", torch.le, np.less_equal, 12)
_binary("And", torch.logical_and, np.logical_and)
_binary("Or", torch.logical_or, np.logical_or)
_binary("Xor", torch.logical_xor, np.logical_xor)
_binary("BitwiseAnd", torch.bitwise_and, np.bitwise_and, 18)
_binary("BitwiseOr", torch.bitwise_or, np.bitwise_or, 18)
_binary("BitwiseXor", torch.bitwise_xor, np.bitwise_xor, 18)


@operator("Not")
def negation(node: Node, x: Tensor) -> Tensor:
    """Turn true into false."""
    return torch.logical_not(x)


@operator("BitwiseNot", since=18)
def inverted(node: Node, x: Tensor) -> Tensor:
    """Turn every bit around."""
    return through_numpy(np.bitwise_not, x) if is_stored(x) else torch.bitwise_not(x)


@operator("BitShift", since=11)
def shifted(node: Node, x: Tensor, places: Tensor) -> Tensor:
    """Move bits to the left or the right; bits of signed numbers keep the sign."""
    direction = node.one_of("direction", "", ("LEFT", "RIGHT"))
    return through_numpy(np.left_shift if direction == "LEFT" else np.right_shift, x, places)


@operator("BitCast", since=26)
def reinterpreted(node: Node, x: Tensor) -> Tensor:
    """Read the same bits as another type of the same width."""
    kind = TYPES.get(node.whole("to"))
    if kind is None:
        raise node.refuse(f"a type of number {node.whole('to')}")
    return x.view(kind)


@operator("IsNaN", since=9)
def is_nan(node: Node, x: Tensor) -> Tensor:
    """Tell what is not a number."""
    return torch.isnan(x)


@operator("IsInf", since=10)
def is_infinite(node: Node, x: Tensor) -> Tensor:
    """Tell what is infinite, on either side or on one."""
    above, below = node.whole("detect_positive", 1), node.whole("detect_negative", 1)
    if above and below:
        return torch.isinf(x)
    return (
        torch.isposinf(x) if above else torch.isneginf(x) if below else torch.zeros_like(x, dtype=torch.bool)
    )
