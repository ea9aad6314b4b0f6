"""Operators that take numbers out by their places."""

from __future__ import annotations

import torch

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import axis_of, ints

Tensor = torch.Tensor


def counted(index: Tensor, side: int) -> Tensor:
    """Return places counted from the front."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + side, index)


@operator("Gather", layer="embedding")
def gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """Take whole slices along an axis."""
    axis = axis_of(node.whole("axis"), x.ndim)
    place = counted(index, x.shape[axis])
    if place.ndim == 0:
        return x.select(axis, int(place))
    taken = x.index_select(axis, place.reshape(-1))
    return taken if place.ndim == 1 else taken.reshape(*x.shape[:axis], *place.shape, *x.shape[axis + 1 :])


@operator("GatherElements", since=11)
def gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """Take single numbers along an axis."""
    axis = axis_of(node.whole("axis"), x.ndim)
    return torch.gather(x, axis, counted(index, x.shape[axis]))


@operator("GatherND", since=11)
def gather_slices(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """Take slices by places along several axes."""
    shared, depth = node.whole("batch_dims"), index.shape[-1]
    return x[places(index, tuple(x.shape), shared, depth)]


def places(index: Tensor, sides: tuple[int, ...], shared: int, depth: int) -> tuple[Tensor, ...]:
    """Return the places that `depth` columns of an index name after `shared` axes that go along, axis by axis."""
    outer = index.shape[:-1]
    along: list[Tensor] = []
    for axis in range(shared):
        shape = [1] * len(outer)
        shape[axis] = sides[axis]
        along.append(torch.arange(sides[axis]).reshape(shape).expand(outer))
    return (*along, *(counted(index[..., i], sides[shared + i]) for i in range(depth)))


@operator("Compress", since=9)
def compress(node: Node, x: Tensor, chosen: Tensor) -> Tensor:
    """Take the slices along an axis (or the single numbers) that a mask names."""
    if not node.given("axis"):
        return x.reshape(-1)[torch.nonzero(chosen).reshape(-1)]
    return x.index_select(node.whole("axis"), torch.nonzero(chosen).reshape(-1))


@operator("ReverseSequence", since=10)
def reversed_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """Turn the first places of every sequence around."""
    time, batch = node.whole("time_axis"), node.whole("batch_axis", 1)
    place = torch.arange(x.shape[time])[:, None]
    length = lengths[None, :]
    turned = torch.where(place < length, length - 1 - place, place)
    turned = turned if time < batch else turned.T
    shape = [1] * x.ndim
    shape[time], shape[batch] = x.shape[time], x.shape[batch]
    return torch.gather(x, time, turned.reshape(shape).expand(x.shape))


@operator("Unique", since=11)
def unique(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """Return each number (or slice along an axis) once, where each was first, which one each is, and how often."""
    axis = node.whole("axis") if node.given("axis") else None
    flat = x.reshape(-1) if axis is None else x
    found, inverse, counts = torch.unique(
        flat, sorted=True, return_inverse=True, return_counts=True, dim=axis or 0
    )
    inverse = inverse.reshape(-1)
    first = torch.full((len(counts),), len(inverse)).scatter_reduce(
        0, inverse, torch.arange(len(inverse)), "amin"
    )
    if not node.whole("sorted", 1):
        order = torch.argsort(first)
        found, first, counts = found.index_select(axis or 0, order), first[order], counts[order]
        inverse = torch.argsort(order)[inverse]
    return (found, first, inverse, counts)[: node.wanted] if node.wanted > 1 else found  # pyright: ignore[reportReturnType]


@operator("ArrayFeatureExtractor", domain="ai.onnx.ml")
def columns(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """Take columns."""
    return x.reshape(-1, x.shape[-1]).index_select(1, torch.tensor(ints(index)))
