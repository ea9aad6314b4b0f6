"""Operators that sum up along axes, and those that put in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import axis_of, ints

Tensor = torch.Tensor
Axes = tuple[int, ...]


def _reduction(name: str, function: Callable[[Tensor, Axes, bool], Tensor]) -> None:
    @operator(name)
    def run(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:  # pyright: ignore[reportUnusedFunction]
        given = node.wholes("axes") if axes is None else ints(axes)
        if not given:
            if given is not None and x.ndim == 0:
                return function(x[None], (0,), False)
            if node.whole("noop_with_empty_axes"):
                # Nothing is reduced, and what comes before and after the sum is done all the same.
                return function(x[None], (0,), False)
            given = list(range(x.ndim))
        if x.ndim == 0:
            return function(x[None], (0,), False)
        chosen = tuple(axis_of(axis, x.ndim) for axis in given)
        return function(x, chosen, bool(node.whole("keepdims", 1)))


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return torch.div(_sum(x, axes, keep), _count(x, axes), rounding_mode="trunc")


def _count(x: Tensor, axes: Axes) -> int:
    number = 1
    for axis in axes:
        number *= x.shape[axis]
    return number


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _largest(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _extreme(x, axes, keep, torch.amax, low=True)


def _smallest(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _extreme(x, axes, keep, torch.amin, low=False)


def _extreme(x: Tensor, axes: Axes, keep: bool, function: Callable[..., Tensor], low: bool) -> Tensor:
    if _count(x, axes):
        return function(x, axes, keepdim=keep)
    # The largest of nothing is less than anything.
    if x.is_floating_point():
        worst: Any = -torch.inf if low else torch.inf
    else:
        worst = (
            not low
            if x.dtype == torch.bool
            else (torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max)[not low]
        )
    return torch.full_like(_sum(x, axes, keep), worst)


def _norm(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, axes, keepdim=keep)
    return torch.linalg.vector_norm(x.double(), 2, axes, keepdim=keep).to(x.dtype)


def _log(x: Tensor) -> Tensor:
    return x.log() if x.is_floating_point() else x.double().log().to(x.dtype)


def _log_of_exponents(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep)


_reduction("ReduceSum", _sum)
_reduction("ReduceMean", _mean)
_reduction("ReduceProd", _product)
_reduction("ReduceMax", _largest)
_reduction("ReduceMin", _smallest)
_reduction("ReduceL1", lambda x, axes, keep: _sum(x.abs(), axes, keep))
_reduction("ReduceL2", _norm)
_reduction("ReduceSumSquare", lambda x, axes, keep: _sum(x * x, axes, keep))
_reduction("ReduceLogSum", lambda x, axes, keep: _log(_sum(x, axes, keep)))
_reduction("ReduceLogSumExp", _log_of_exponents)


def _place(node: Node, x: Tensor, function: Callable[..., Tensor]) -> Tensor:
    axis, keep = axis_of(node.whole("axis"), x.ndim), bool(node.whole("keepdims", 1))
    if not node.whole("select_last_index"):
        return function(x, axis, keepdim=keep)
    return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)


@operator("ArgMax")
def place_of_largest(node: Node, x: Tensor) -> Tensor:
    """Return where the largest number along an axis stands, the first of them or the last."""
    return _place(node, x, torch.argmax)


@operator("ArgMin")
def place_of_smallest(node: Node, x: Tensor) -> Tensor:
    """Return where the smallest number along an axis stands, the first of them or the last."""
    return _place(node, x, torch.argmin)


@operator("TopK", until=9)
def top_given(node: Node, x: Tensor) -> Any:
    """Return the k largest numbers along an axis, and where they stand."""
    return _top(node, x, node.whole("k"), True)


@operator("TopK", since=10)
def top(node: Node, x: Tensor, count: Tensor) -> Any:
    """Return the k largest (or smallest) numbers along an axis, and where they stand."""
    return _top(node, x, int(count), bool(node.whole("largest", 1)))


def _top(node: Node, x: Tensor, count: int, largest: bool) -> Any:
    # Sorted, so that of equal numbers the first comes first.
    axis = node.whole("axis", -1)
    if x.dtype in (torch.uint16, torch.uint32, torch.uint64):
        found, place = torch.sort(x.to(torch.int64), dim=axis, descending=largest, stable=True)
        return found.narrow(axis, 0, count).to(x.dtype), place.narrow(axis, 0, count)
    found, place = torch.sort(x, dim=axis, descending=largest, stable=True)
    return found.narrow(axis, 0, count), place.narrow(axis, 0, count)


@operator("CumSum", since=11)
def running_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Return sums of all up to each place, from either end, with or without the place itself."""
    return _running(node, x, int(axis), lambda value, along: value.cumsum(along, dtype=value.dtype), 0)


@operator("CumProd", since=26)
def running_product(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Return products of all up to each place, from either end, with or without the place itself."""
    return _running(node, x, int(axis), lambda value, along: value.cumprod(along, dtype=value.dtype), 1)


def _running(
    node: Node, x: Tensor, axis: int, function: Callable[[Tensor, int], Tensor], start: int
) -> Tensor:
    axis = axis_of(axis, x.ndim)
    if node.whole("reverse"):
        x = x.flip(axis)
    if node.whole("exclusive"):
        first = torch.full_like(x.narrow(axis, 0, 1), start)
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    found = function(x, axis)
    return found.flip(axis) if node.whole("reverse") else found
