"""Operators on lists of tensors."""

from __future__ import annotations

import torch

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import axis_of, ints

Tensor = torch.Tensor


@operator("SequenceConstruct", since=11)
def listed(node: Node, *values: Tensor) -> list[Tensor]:
    """Return a list of tensors."""
    return list(values)


@operator("SequenceEmpty", since=11)
def empty(node: Node) -> list[Tensor]:
    """Return an empty list."""
    return []


@operator("SequenceAt", since=11)
def at(node: Node, values: list[Tensor], place: Tensor) -> Tensor:
    """Return one of a list."""
    return values[int(place)]


@operator("SequenceInsert", since=11)
def inserted(node: Node, values: list[Tensor], value: Tensor, place: Tensor | None = None) -> list[Tensor]:
    """Return a list with one more."""
    found = list(values)
    found.insert(len(found) if place is None else int(place), value)
    return found


@operator("SequenceErase", since=11)
def erased(node: Node, values: list[Tensor], place: Tensor | None = None) -> list[Tensor]:
    """Return a list without one of its tensors."""
    found = list(values)
    del found[-1 if place is None else int(place)]
    return found


@operator("SequenceLength", since=11)
def length(node: Node, values: list[Tensor]) -> Tensor:
    """Return how many a list holds."""
    return torch.tensor(len(values), dtype=torch.int64)


@operator("SplitToSequence", since=11)
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    """Take a tensor apart along an axis into a list."""
    axis = axis_of(node.whole("axis"), x.ndim)
    if sizes is None:
        parts = list(torch.split(x, 1, axis))
        return parts if node.whole("keepdims", 1) else [each.squeeze(axis) for each in parts]
    return list(torch.split(x, int(sizes) if sizes.ndim == 0 else ints(sizes), axis))


@operator("ConcatFromSequence", since=11)
def joined(node: Node, values: list[Tensor]) -> Tensor:
    """Put the tensors of a list one after the other, or one upon the other."""
    axis = node.whole("axis")
    return torch.stack(values, axis) if node.whole("new_axis") else torch.cat(values, axis)
