"""Operators that sample pictures at other places: larger, smaller, turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import axis_of, ints

Tensor = torch.Tensor
_COORDINATES: Final = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)  # fmt: skip
_NEAREST: Final = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class _Axis:
    """How one axis is sampled: its sides before and after, and the part of it (`roi`) that is looked at."""

    axis: int
    before: int
    after: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


@operator("Upsample", since=7, until=8)
def enlarge(node: Node, x: Tensor) -> Tensor:
    """Enlarge a picture."""
    return _resized(node, x, _scaled(x, node.reals("scales") or []), "asymmetric", "floor")


@operator("Upsample", since=9, until=9)
@operator("Resize", since=10, until=10)
def enlarge_by(node: Node, x: Tensor, scales: Tensor) -> Tensor:
    """Enlarge a picture, or make it smaller."""
    return _resized(node, x, _scaled(x, scales.tolist()), "asymmetric", "floor")


@operator("Resize", since=11)
def resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Give a picture other sides."""
    axes = [axis_of(axis, x.ndim) for axis in node.wholes("axes") or range(x.ndim)]
    if scales is not None and scales.numel():
        laid = _scaled(x, scales.tolist(), axes)
    elif sizes is not None:
        laid = _sized(node, x, ints(sizes), axes)
    else:
        raise node.refuse("neither scales nor sizes")
    if roi is not None and roi.numel() == 2 * len(axes):
        ends = roi.reshape(2, -1).T.tolist()
        laid = [
            _Axis(each.axis, each.before, each.after, each.scale, (float(pair[0]), float(pair[1])))
            for each, pair in zip(laid, ends, strict=True)
        ]
    coordinates = node.one_of("coordinate_transformation_mode", "half_pixel", _COORDINATES)
    nearest = node.one_of("nearest_mode", "round_prefer_floor", _NEAREST)
    return _resized(node, x, laid, coordinates, nearest)


def _scaled(x: Tensor, scales: list[float], axes: list[int] | None = None) -> list[_Axis]:
    axes = list(range(x.ndim)) if axes is None else axes
    pairs = zip(axes, scales, strict=True)
    return [_Axis(axis, x.shape[axis], int(x.shape[axis] * scale), scale) for axis, scale in pairs]


def _sized(node: Node, x: Tensor, sizes: list[int], axes: list[int]) -> list[_Axis]:
    policy = node.one_of("keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller"))
    ratios = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    if policy != "stretch":
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [ratio] * len(axes)
        sizes = [int(np.floor(x.shape[axis] * ratio + 0.5)) for axis in axes]
    return [
        _Axis(axis, x.shape[axis], size, ratio) for axis, size, ratio in zip(axes, sizes, ratios, strict=True)
    ]


def _resized(node: Node, x: Tensor, laid: list[_Axis], coordinates: str, nearest: str) -> Tensor:
    mode = node.one_of("mode", "nearest", ("nearest", "linear", "bilinear", "cubic"))
    crops = coordinates == "tf_crop_and_resize"
    # A crop may lie outside even where an axis keeps its side.
    laid = [each for each in laid if crops or each.scale != 1 or each.before != each.after]
    found = _by_torch(node, x, laid, mode, coordinates, nearest)
    if found is not None:
        return found
    outside: Tensor | None = None
    real = x if x.is_floating_point() else x.double()
    for each in laid:
        at = _places(each, coordinates)
        index, weight = _taps(node, at, each, mode, nearest)
        real = _sampled(real, each.axis, index, weight)
        if crops:
            shape = [1] * x.ndim
            shape[each.axis] = each.after
            far = torch.from_numpy((at < 0) | (at > each.before - 1)).reshape(shape)
            outside = far if outside is None else outside | far
    if outside is not None and bool(outside.any()):
        real = torch.where(outside, node.real("extrapolation_value"), real)
    return real if x.is_floating_point() else real.round().to(x.dtype)


def _by_torch(
    node: Node, x: Tensor, laid: list[_Axis], mode: str, coordinates: str, nearest: str
) -> Tensor | None:
    """Return what torch's own operation gives, where it samples at the same places."""
    space = tuple(each.axis for each in laid) == tuple(range(2, x.ndim)) and x.is_floating_point()
    exact = all(each.before * each.scale == each.after for each in laid)
    if not (space and exact and 3 <= x.ndim <= 5) or node.whole("antialias"):
        return None
    size = [each.after for each in laid]
    if mode == "nearest":
        whole = all(each.scale == int(each.scale) for each in laid)
        same = (coordinates, nearest) in (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"),
                                          ("half_pixel", "round_prefer_ceil"))  # fmt: skip
        return functional.interpolate(x, size) if whole and same else None
    name = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("bilinear", 4): "bilinear",
            ("cubic", 4): "bicubic"}.get((mode, x.ndim))  # fmt: skip
    plain = mode != "cubic" or (
        node.real("cubic_coeff_a", -0.75) == -0.75 and not node.whole("exclude_outside")
    )
    centred = coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and min(size) > 1)
    if name is None or not plain or not (centred or coordinates == "align_corners"):
        return None
    return functional.interpolate(x, size, mode=name, align_corners=coordinates == "align_corners")


def _places(each: _Axis, coordinates: str) -> np.ndarray:
    """Return where along an axis the new numbers lie, in places of the old ones."""
    # The side after may be a fraction here, which was rounded down.
    x, before, after = np.arange(each.after, dtype=np.float64), each.before, each.before * each.scale
    start, end = each.roi if coordinates == "tf_crop_and_resize" else (0.0, 1.0)
    centred = (x + 0.5) / each.scale - 0.5
    between = x * (end - start) * (before - 1) / (after - 1) if after != 1 else x * 0
    found = {
        "align_corners": between,
        "tf_crop_and_resize": start * (before - 1) + between
        if after != 1
        else x + (start + end) / 2 * (before - 1),
        "asymmetric": x / each.scale,
        "tf_half_pixel_for_nn": centred + 0.5,
        "pytorch_half_pixel": centred if each.after > 1 else x * 0,
        # So that what is cut off by rounding the side down is cut off on either side.
        "half_pixel_symmetric": before / 2 * (1 - each.after / after) + centred,
    }
    return found.get(coordinates, centred)


def _taps(node: Node, at: np.ndarray, each: _Axis, mode: str, nearest: str) -> tuple[np.ndarray, np.ndarray]:
    """Return from which places [taps, n] each new number is taken, and with which weights."""
    last = each.before - 1
    if mode == "nearest":
        rounded = {"round_prefer_floor": lambda: np.ceil(at - 0.5), "round_prefer_ceil": lambda: np.floor(at + 0.5),
                   "floor": lambda: np.floor(at), "ceil": lambda: np.ceil(at)}[nearest]()  # fmt: skip
        return np.clip(rounded, 0, last).astype(np.int64)[None], np.ones((1, len(at)))
    # A filter against jagged edges is as much wider as the picture becomes smaller.
    narrow = min(each.scale, 1.0) if node.whole("antialias") else 1.0
    half = 2 if mode == "cubic" else 1
    reach = int(np.ceil(half / narrow))
    base = np.floor(at)
    steps = np.arange(1 - reach, reach + 1)[:, None]
    distance = np.abs(steps - (at - base)) * narrow
    weight = (
        _cubic(distance, node.real("cubic_coeff_a", -0.75)) if half == 2 else np.clip(1 - distance, 0, None)
    )
    index = base + steps
    if node.whole("exclude_outside"):
        weight = np.where((index < 0) | (index > last), 0, weight)
    return np.clip(index, 0, last).astype(np.int64), weight / weight.sum(0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _sampled(x: Tensor, axis: int, index: np.ndarray, weight: np.ndarray) -> Tensor:
    """Return weighted sums of what stands along an axis at some places."""
    if len(index) == 1:
        return x.index_select(axis, torch.from_numpy(index[0]))
    shape = [1] * x.ndim
    shape[axis] = index.shape[1]
    found: Tensor | None = None
    for place, share in zip(index, weight, strict=True):
        if not share.any():
            continue
        part = x.index_select(axis, torch.from_numpy(place)) * torch.from_numpy(share).to(x.dtype).reshape(
            shape
        )
        found = part if found is None else found + part
    assert found is not None
    return found


_GRID_MODES: Final = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "nearest": "nearest",
    "cubic": "bicubic",
    "bicubic": "bicubic",
}


@operator("GridSample", since=16)
def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """Sample a picture at places that an input names."""
    mode = node.text("mode", "linear")
    name = _GRID_MODES.get(mode)
    if name is None or (name == "bicubic" and x.ndim != 4):
        raise node.refuse(f"mode={mode!r} for {x.ndim - 2} axes of space")
    around = node.one_of("padding_mode", "zeros", ("zeros", "border", "reflection"))
    return functional.grid_sample(x, grid.to(x.dtype), name, around, bool(node.whole("align_corners")))


@operator("AffineGrid", since=20)
def affine_grid(node: Node, theta: Tensor, size: Tensor) -> Tensor:
    """Return the places of a picture that is turned, stretched and moved."""
    return functional.affine_grid(theta, ints(size), align_corners=bool(node.whole("align_corners")))
