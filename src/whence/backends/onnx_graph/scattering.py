"""Operators that put numbers in by their places."""

from __future__ import annotations

from typing import Final

import torch

from whence.backends.onnx_graph.indexing import counted, places
from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import axis_of

Tensor = torch.Tensor
_REDUCTIONS: Final = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Scatter", "ScatterElements", since=9)
def scatter_elements(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """Put single numbers in along an axis, or combine them with what is there."""
    axis = axis_of(node.whole("axis"), x.ndim)
    place = counted(index, x.shape[axis])
    how = node.one_of("reduction", "none", ("none", *_REDUCTIONS))
    if how == "none":
        return x.scatter(axis, place, updates)
    if how == "add":
        return x.scatter_add(axis, place, updates)
    return x.scatter_reduce(axis, place, updates, _REDUCTIONS[how])


@operator("ScatterND", since=11)
def scatter_slices(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """Put slices in by places along several axes, or combine them with what is there."""
    how = node.one_of("reduction", "none", ("none", *_REDUCTIONS))
    depth = index.shape[-1]
    where = places(index, tuple(x.shape), 0, depth)
    if how in ("none", "add"):
        return x.index_put(where, updates, accumulate=how == "add")
    # A slice's place among all slices, flat.
    flat = torch.zeros(index.shape[:-1], dtype=torch.int64)
    for axis, each in enumerate(where):
        flat = flat * x.shape[axis] + each
    rows = x.reshape(-1, *x.shape[depth:])
    given = updates.reshape(-1, *x.shape[depth:])
    spread = flat.reshape(-1, *[1] * (rows.ndim - 1)).expand(given.shape)
    return rows.scatter_reduce(0, spread, given, _REDUCTIONS[how]).reshape(x.shape)


@operator("TensorScatter", since=24)
def scatter_cache(node: Node, past: Tensor, update: Tensor, start: Tensor | None = None) -> Tensor:
    """Write new entries into a cache, for every example from a place of its own on."""
    axis = axis_of(node.whole("axis", -2), past.ndim)
    mode = node.one_of("mode", "linear", ("linear", "circular"))
    length = update.shape[axis]
    begin = torch.zeros(past.shape[0], dtype=torch.int64) if start is None else start.to(torch.int64)
    place = begin[:, None] + torch.arange(length)
    if mode == "circular":
        place = place % past.shape[axis]
    shape = [1] * past.ndim
    shape[0], shape[axis] = past.shape[0], length
    return past.scatter(axis, place.reshape(shape).expand(update.shape), update)
