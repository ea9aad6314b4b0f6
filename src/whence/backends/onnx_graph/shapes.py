"""Operators that lay numbers out anew: shapes, orders of axes, parts put side by side, and margins."""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from whence.backends.onnx_graph.node import ROWS, Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import axis_of, ints

Tensor = torch.Tensor


@operator("Reshape", since=5, layer="passing")
def reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Give another shape; 0 keeps a side and -1 takes what is left."""
    sides = ints(shape)
    if not node.whole("allowzero"):
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return x.reshape(_for_rows(node, x, sides))


def _for_rows(node: Node, x: Tensor, sides: list[int]) -> list[int]:
    """Return a shape that was written down for a fixed number of examples, for as many as there are now."""
    rows = ROWS.get()
    if node.batch is None or rows is None or rows == node.batch or not sides or sides[0] != node.batch:
        return sides
    return [rows, *sides[1:]]


@operator("Flatten", layer="passing")
def flatten(node: Node, x: Tensor) -> Tensor:
    """Make a matrix of what comes before an axis and what follows."""
    axis = axis_of(node.whole("axis", 1), x.ndim)
    if axis == 1 and x.ndim > 1 and x.numel():
        return x.flatten(1)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Squeeze", layer="passing")
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Take axes of one place away."""
    given = node.wholes("axes") if axes is None else ints(axes)
    if given is None:
        return x.squeeze()
    return x.squeeze(tuple(axis_of(axis, x.ndim) for axis in given))


@operator("Unsqueeze", layer="passing")
def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Put axes of one place in."""
    given = node.wholes("axes") or [] if axes is None else ints(axes)
    for axis in sorted(axis_of(axis, x.ndim + len(given)) for axis in given):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose", layer="passing")
def transpose(node: Node, x: Tensor) -> Tensor:
    """Give the axes another order."""
    order = node.wholes("perm")
    return x.permute(tuple(reversed(range(x.ndim))) if order is None else order)


@operator("Expand", since=8, layer="passing")
def expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Stretch axes of one place."""
    sides = _for_rows(node, x, ints(shape))
    return x.expand(torch.broadcast_shapes(x.shape, tuple(sides)))


@operator("Tile", since=6, layer="passing")
def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat along axes."""
    return x.repeat(ints(repeats))


@operator("Concat", since=4)
def concatenate(node: Node, *values: Tensor) -> Tensor:
    """Put tensors one after the other."""
    return torch.cat(values, node.whole("axis"))


@operator("Split", since=2, until=12, layer="passing")
def split_as_given(node: Node, x: Tensor) -> Any:
    """Take a tensor apart along an axis."""
    return _parts(node, x, node.wholes("split"))


@operator("Split", since=13, layer="passing")
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> Any:
    """Take a tensor apart along an axis."""
    return _parts(node, x, None if sizes is None else ints(sizes))


def _parts(node: Node, x: Tensor, sizes: list[int] | None) -> Any:
    axis = axis_of(node.whole("axis"), x.ndim)
    number = node.whole("num_outputs", node.wanted)
    if sizes is None:
        each = -(-x.shape[axis] // number)
        sizes = [min(each, x.shape[axis] - i * each) for i in range(number)]
    parts = torch.split(x, sizes, axis)
    return parts[0] if node.wanted == 1 else parts


@operator("DepthToSpace", layer="passing")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Lay channels out in space."""
    block = node.whole("blocksize")
    if node.one_of("mode", "DCR", ("DCR", "CRD")) == "CRD":
        return functional.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth", layer="passing")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Lay space out in channels."""
    block = node.whole("blocksize")
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if node.one_of("mode", "DCR", ("DCR", "CRD")) == "DCR" else (0, 1, 3, 5, 2, 4)
    return y.permute(order).reshape(n, c * block**2, h // block, w // block)


@operator("Identity", layer="passing")
def identity(node: Node, x: Any) -> Any:
    """Pass on."""
    return x


@operator("Slice", until=9, layer="passing")
def slice_as_given(node: Node, x: Tensor) -> Tensor:
    """Cut parts out along axes."""
    starts, ends = node.wholes("starts") or [], node.wholes("ends") or []
    return _cut(x, starts, ends, node.wholes("axes"), None)


@operator("Slice", since=10, layer="passing")
def slice_(
    node: Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Cut parts out along axes, with steps, also backwards."""
    chosen, strides = (None if each is None else ints(each) for each in (axes, steps))
    return _cut(x, ints(starts), ints(ends), chosen, strides)


def _cut(
    x: Tensor, starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None
) -> Tensor:
    axes = list(range(len(starts))) if axes is None else axes
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        axis = axis_of(axis, x.ndim)
        if step < 0:
            chosen = range(x.shape[axis])[_within(start, end, step, x.shape[axis])]
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
        else:
            x = x[(*[slice(None)] * axis, slice(start, end, step))]
    return x


def _within(start: int, end: int, step: int, side: int) -> slice:
    """Return a backward slice; an end far below zero means all the way to the front."""
    return slice(start, None if end < -side else end, step)


# ---- margins -----------------------------------------------------------------------------------------------

_MODES: Final = ("constant", "reflect", "edge", "wrap")


@operator("Pad", since=2, until=10, layer="passing")
def pad_as_given(node: Node, x: Tensor) -> Tensor:
    """Put margins around, or cut them off."""
    return _padded(node, x, node.wholes("pads") or [], list(range(x.ndim)), node.real("value"))


@operator("Pad", since=11, layer="passing")
def pad(
    node: Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Put margins around, or cut them off."""
    chosen = list(range(x.ndim)) if axes is None else [axis_of(axis, x.ndim) for axis in ints(axes)]
    return _padded(node, x, ints(pads), chosen, 0.0 if value is None else value.item())


def _padded(node: Node, x: Tensor, pads: list[int], axes: list[int], value: Any) -> Tensor:
    mode = node.one_of("mode", "constant", _MODES)
    around = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    if mode == "constant":
        flat = [each for axis in reversed(range(x.ndim)) for each in around.get(axis, (0, 0))]
        while flat[-2:] == [0, 0]:
            flat = flat[:-2]
        return functional.pad(x, flat, value=value) if flat else x
    for axis, (before, after) in around.items():
        if before or after:
            x = x.index_select(axis, _reflected(mode, x.shape[axis], before, after))
    return x


def _reflected(mode: str, side: int, before: int, after: int) -> Tensor:
    """Return from where the numbers of an axis with its margins are taken."""
    place = np.arange(-before, side + after)
    if mode == "edge":
        place = np.clip(place, 0, side - 1)
    elif mode == "wrap":
        place = place % side
    else:
        period = max(2 * (side - 1), 1)
        place = place % period
        place = np.where(place >= side, period - place, place)
    return torch.from_numpy(place)


@operator("CenterCropPad", since=18)
def centred(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Cut the middle out, or put zeros around, to a shape."""
    axes = node.wholes("axes") or list(range(x.ndim))
    for axis, side in zip(axes, ints(shape), strict=True):
        axis = axis_of(axis, x.ndim)
        over = x.shape[axis] - side
        if over >= 0:
            x = x.narrow(axis, over // 2, side)
        else:
            around = [0, 0] * (x.ndim - 1 - axis) + [-over // 2, -over - (-over // 2)]
            x = functional.pad(x, around)
    return x
