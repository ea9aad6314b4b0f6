"""Operators that make tensors, say their shapes, and change their types."""

from __future__ import annotations

import numpy as np
import torch

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import TYPES, axis_of, ints, is_stored

Tensor = torch.Tensor


@operator("Constant")
def constant(node: Node) -> Tensor:
    """Return what the file holds."""
    if "value" not in node.settings:
        raise node.refuse("a value that is a text, or sparse")
    return node.settings["value"]


@operator("ConstantOfShape", since=9)
def filled(node: Node, shape: Tensor) -> Tensor:
    """Return a tensor of one number."""
    value = node.settings.get("value")
    value = torch.zeros(1) if value is None else value
    return value.reshape(()).expand(ints(shape)).clone()


@operator("Shape")
def shape(node: Node, x: Tensor) -> Tensor:
    """Return a tensor's sides, or some of them."""
    sides = list(x.shape)
    end = node.whole("end", len(sides)) if node.given("end") else None
    return torch.tensor(sides[node.whole("start") : end], dtype=torch.int64)


@operator("Size")
def size(node: Node, x: Tensor) -> Tensor:
    """Return how many numbers a tensor holds."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Range", since=11)
def number_range(node: Node, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    """Return numbers from a start up to a limit in steps."""
    if is_stored(start):
        return torch.from_numpy(np.arange(start.item(), limit.item(), step.item())).to(start.dtype)
    count = int(np.ceil((limit.item() - start.item()) / step.item()))
    steps = torch.arange(max(count, 0), dtype=torch.float32 if start.dtype == torch.float16 else start.dtype)
    return (start + steps * step).to(start.dtype)


@operator("EyeLike", since=9)
def eye(node: Node, x: Tensor) -> Tensor:
    """Return a matrix with ones on one of its diagonals."""
    kind = _type(node, "dtype") if node.given("dtype") else x.dtype
    place = torch.arange(x.shape[1]) - torch.arange(x.shape[0])[:, None]
    return (place == node.whole("k")).to(kind)


@operator("Cast", since=6, layer="passing")
def cast(node: Node, x: Tensor) -> Tensor:
    """Give another type."""
    return converted(x, _type(node, "to"))


@operator("CastLike", since=15, layer="passing")
def cast_like(node: Node, x: Tensor, other: Tensor) -> Tensor:
    """Give another's type."""
    return converted(x, other.dtype)


def converted(x: Tensor, kind: torch.dtype) -> Tensor:
    """Return a tensor in another type."""
    return x if x.dtype == kind else x.to(kind)


def _type(node: Node, name: str) -> torch.dtype:
    number = node.whole(name)
    if number not in TYPES:
        raise node.refuse(f"a type of number {number}, which is no plain number")
    return TYPES[number]


@operator("Trilu", since=14, layer="passing")
def triangle(node: Node, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """Keep what lies above a diagonal, or below."""
    k = 0 if diagonal is None else int(diagonal)
    return torch.triu(x, k) if node.whole("upper", 1) else torch.tril(x, k)


@operator("OneHot", since=9)
def one_hot(node: Node, index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """Return one number at the places that an index names and another elsewhere."""
    number = int(depth.reshape(-1)[0])
    axis = axis_of(node.whole("axis", -1), index.ndim + 1)
    place = index.to(torch.int64)
    place = torch.where(place < 0, place + number, place)
    sides = [1] * (index.ndim + 1)
    sides[axis] = number
    hot = place.unsqueeze(axis) == torch.arange(number).reshape(sides)
    return torch.where(hot, values[1], values[0])


@operator("NonZero", since=9)
def nonzero(node: Node, x: Tensor) -> Tensor:
    """Return the places of all that is not zero, axis by axis."""
    return torch.nonzero(x[None] if x.ndim == 0 else x).T
