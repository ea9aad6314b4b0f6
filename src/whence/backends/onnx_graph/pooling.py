"""Pools over windows and over all of space."""

from __future__ import annotations

from math import prod
from typing import Any, Final

import torch
from torch.nn import functional

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.windows import Windows, windows

Tensor = torch.Tensor
_MAXIMA: Final = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEANS: Final = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _laid(node: Node, x: Tensor) -> Windows:
    kernel = node.wholes("kernel_shape") or []
    if not 1 <= len(kernel) <= 3:
        raise node.refuse(f"{len(kernel)} axes of space")
    return windows(node, x, kernel)


@operator("MaxPool", layer="max pool")
def max_pool(node: Node, x: Tensor) -> Any:
    """Return the largest number in every window, and where it stands."""
    if not x.is_floating_point():
        whole = max_pool(node, x.double())
        return (whole[0].to(x.dtype), whole[1]) if isinstance(whole, tuple) else whole.to(x.dtype)
    w = _laid(node, x)
    run: Any = _MAXIMA[len(w.kernel)]
    if w.poolable:
        taken, pads = x, w.begin
        found = run(x, w.kernel, w.strides, w.begin, w.dilations, w.ceil, node.wanted > 1)
    else:
        taken, pads = w.padded(x, -torch.inf), (0,) * len(w.kernel)
        found = run(taken, w.kernel, w.strides, 0, w.dilations, False, node.wanted > 1)
    if node.wanted < 2:
        return found
    begin = tuple(one - two for one, two in zip(w.begin, pads, strict=True))
    return found[0], _places(x, taken, found[1], begin, bool(node.whole("storage_order")))


def _places(x: Tensor, taken: Tensor, index: Tensor, begin: tuple[int, ...], columns: bool) -> Tensor:
    """Return places in all of x from places in each channel of what was pooled."""
    rest = index
    along: list[Tensor] = []
    for side, before in reversed(list(zip(taken.shape[2:], begin, strict=True))):
        along.insert(0, rest % side - before)
        rest = rest // side
    sides = x.shape[2:]
    if columns:
        along, sides = along[::-1], sides[::-1]
    flat = torch.zeros_like(index)
    for place, side in zip(along, sides, strict=True):
        flat = flat * side + place
    channel = torch.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * len(sides))
    return flat + channel * prod(sides)


@operator("AveragePool", since=7, layer="average pool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """Return the mean of every window."""
    w, counted = _laid(node, x), bool(node.whole("count_include_pad"))
    run: Any = _MEANS[len(w.kernel)]
    if w.poolable and set(w.dilations) == {1}:
        return run(x, w.kernel, w.strides, w.begin, w.ceil, counted)
    ones = x.new_ones((1, 1, *x.shape[2:]))
    if counted:
        around = [e for b, a in reversed(list(zip(w.begin, w.end, strict=True))) for e in (b, a)]
        within = Windows(w.kernel, w.strides, w.dilations, (0,) * len(w.kernel), (0,) * len(w.kernel))
        ones = functional.pad(ones, around, value=1.0)
        ones = _fitted(ones, w.padded(x[:1, :1], 0.0).shape[2:])
        number = _summed(within, ones)
    else:
        number = _summed(w, w.padded(ones, 0.0))
    return _summed(w, w.padded(x, 0.0)) / number


def _fitted(x: Tensor, sides: Any) -> Tensor:
    """Cut a tensor off, or fill it up with zeros, at the end of every axis."""
    pairs = zip(sides, x.shape[2:], strict=True)
    return functional.pad(x, [e for want, have in reversed(list(pairs)) for e in (0, want - have)])


def _summed(w: Windows, padded: Tensor) -> Tensor:
    parts = w.places(padded)
    found = parts[0]
    for each in parts[1:]:
        found = found + each
    return found


@operator("LpPool", since=2, layer="average pool")
def norm_pool(node: Node, x: Tensor) -> Tensor:
    """Return the p-norm of every window."""
    w, p = _laid(node, x), node.whole("p", 2)
    return _summed(w, w.padded(x.abs().pow(p), 0.0)).pow(1 / p)


@operator("GlobalAveragePool", layer="global pool")
def global_mean(node: Node, x: Tensor) -> Tensor:
    """Return the mean over all of space."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool", layer="max pool")
def global_maximum(node: Node, x: Tensor) -> Tensor:
    """Return the largest number over all of space."""
    pool: Any = {3: functional.adaptive_max_pool1d, 4: functional.adaptive_max_pool2d}.get(x.ndim)
    return x.amax(tuple(range(2, x.ndim)), keepdim=True) if pool is None else pool(x, 1)


@operator("GlobalLpPool", since=2, layer="global pool")
def global_norm(node: Node, x: Tensor) -> Tensor:
    """Return the p-norm over all of space."""
    return torch.linalg.vector_norm(x, node.whole("p", 2), tuple(range(2, x.ndim)), keepdim=True)


@operator("MaxUnpool", since=9)
def max_unpool(node: Node, x: Tensor, index: Tensor, shape: Tensor | None = None) -> Tensor:
    """Put numbers back to where a max-pool found them, zeros elsewhere."""
    w = _laid(node, x)
    sides = [
        (side - 1) * stride + k - b - e
        for side, stride, k, b, e in zip(x.shape[2:], w.strides, w.kernel, w.begin, w.end, strict=True)
    ]
    full = (*x.shape[:2], *sides)
    flat = x.new_zeros(prod(full)).scatter(0, index.reshape(-1), x.reshape(-1)).reshape(full)
    if shape is None:
        return flat
    # What is larger than it need be is filled up at the end, as the places are those of the smaller one.
    wanted = [int(each) for each in shape.tolist()]
    return _fitted(flat, wanted[2:])
