"""Operators that calculate element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import is_stored, through_numpy

Tensor = torch.Tensor


def _unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    @operator(name)
    def run(node: Node, x: Tensor) -> Tensor:  # pyright: ignore[reportUnusedFunction]
        return function(x)


for _name in ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Erf", "Exp", "Log", "Reciprocal",
              "Sigmoid", "Sin", "Sinh", "Sqrt", "Tan", "Tanh"):  # fmt: skip
    _unary(_name, getattr(torch, _name.lower()))


def _stepwise(name: str, function: Callable[[Tensor], Tensor], twin: Callable[..., Any]) -> None:
    @operator(name)
    def run(node: Node, x: Tensor) -> Tensor:  # pyright: ignore[reportUnusedFunction]
        return through_numpy(twin, x) if is_stored(x) else function(x)


_stepwise("Abs", torch.abs, np.abs)
_stepwise("Neg", torch.neg, np.negative)
_stepwise("Sign", torch.sign, np.sign)
# Halves go to the even number, in both.
_stepwise("Round", torch.round, np.round)
_stepwise("Ceil", torch.ceil, np.ceil)
_stepwise("Floor", torch.floor, np.floor)


def _binary(name: str, function: Callable[[Tensor, Tensor], Tensor], twin: Callable[..., Any]) -> None:
    # Before opset 7 shapes were stretched by attributes.
    @operator(name, since=7)
    def run(node: Node, a: Tensor, b: Tensor) -> Tensor:  # pyright: ignore[reportUnusedFunction]
        return through_numpy(twin, a, b) if is_stored(a) else function(a, b)


_binary("Add", torch.add, np.add)
_binary("Sub", torch.sub, np.subtract)
_binary("Mul", torch.mul, np.multiply)


@operator("Div", since=7)
def divide(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Divide; of whole numbers towards zero."""
    if is_stored(a):
        return through_numpy(np.floor_divide, a, b)
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Pow", since=7)
def power(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Raise to a power; the answer is of the first's type."""
    if is_stored(a, b):
        return through_numpy(lambda x, y: np.power(x, y).astype(x.dtype), a, b)
    if b.numel() == 1 and b.ndim <= a.ndim and not b.requires_grad:
        # As a number, so that it is the same operation as in `x ** 2`.
        exponent = b.item()
        if a.is_floating_point():
            return torch.pow(a, int(exponent) if exponent == int(exponent) else exponent)
    if not a.is_floating_point() and b.is_floating_point():
        return torch.pow(a.double(), b.double()).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


@operator("Mod", since=10)
def modulo(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Return what a division leaves: with the divisor's sign, or with `fmod` the dividend's."""
    if node.whole("fmod"):
        return through_numpy(np.fmod, a, b) if is_stored(a) else torch.fmod(a, b)
    return through_numpy(np.mod, a, b) if is_stored(a) else torch.remainder(a, b)


@operator("Sum", since=8)
def total(node: Node, *values: Tensor) -> Tensor:
    """Add several tensors."""
    return reduce(torch.add, values)


@operator("Mean", since=8)
def mean(node: Node, *values: Tensor) -> Tensor:
    """Average several tensors."""
    return reduce(torch.add, values) / len(values)


@operator("Max", since=8)
def maximum(node: Node, *values: Tensor) -> Tensor:
    """Return the largest of several tensors, element by element."""
    if is_stored(*values):
        return reduce(lambda a, b: through_numpy(np.maximum, a, b), values)
    return reduce(torch.maximum, values)


@operator("Min", since=8)
def minimum(node: Node, *values: Tensor) -> Tensor:
    """Return the smallest of several tensors, element by element."""
    if is_stored(*values):
        return reduce(lambda a, b: through_numpy(np.minimum, a, b), values)
    return reduce(torch.minimum, values)


@operator("Clip", until=10)
def clip_between(node: Node, x: Tensor) -> Tensor:
    """Keep values between two numbers."""
    low = node.real("min") if node.given("min") else None
    high = node.real("max") if node.given("max") else None
    return _clipped(x, low, high)


@operator("Clip", since=11)
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Keep values between two numbers, which are inputs."""
    if is_stored(x):
        least, most = (None if each is None else each.numpy() for each in (low, high))
        return through_numpy(lambda values: _numpy_clip(values, least, most), x)
    if any(each is not None and each.requires_grad for each in (low, high)):
        x = x if low is None else torch.maximum(x, low)
        return x if high is None else torch.minimum(x, high)
    return _clipped(x, None if low is None else low.item(), None if high is None else high.item())


def _clipped(x: Tensor, low: Any, high: Any) -> Tensor:
    # As numbers: max(x, 0) is then seen to be a rectifier.
    return x if low is None and high is None else torch.clamp(x, low, high)


def _numpy_clip(values: Any, low: Any, high: Any) -> Any:
    values = values if low is None else np.maximum(values, low)
    return values if high is None else np.minimum(values, high)


@operator("Where", since=9)
def where(node: Node, condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Choose between two tensors, element by element."""
    if is_stored(yes):
        return through_numpy(np.where, condition, yes, no)
    return torch.where(condition, yes, no)


@operator("Det", since=11)
def determinant(node: Node, x: Tensor) -> Tensor:
    """Return the determinants of matrices."""
    return torch.linalg.det(x)
