"""TensorFlow's operations in the words of `program_rules.kinds`, with what the rules need to know of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

KINDS: Final[dict[str, str]] = {
    name: kind
    for kind, names in {
        "move": "Slice StridedSlice Pad PadV2 MirrorPad Gather GatherV2 GatherNd ReverseV2 Roll Split SplitV Unpack "
        "SpaceToBatchND BatchToSpaceND SpaceToBatch BatchToSpace SpaceToDepth DepthToSpace Tile ExtractImagePatches "
        "ExtractVolumePatches MatrixDiagPartV3 MatrixDiagV3 MatrixBandPart Real Imag",
        "reshape": "Reshape Squeeze ExpandDims",
        "transpose": "Transpose",
        "broadcast": "BroadcastTo",
        "convert": "Cast Identity Snapshot PreventGradient CheckNumerics EnsureShape Copy OptimizationBarrier",
        "concatenate": "ConcatV2 Concat Pack",
        "select": "SelectV2 Select",
        "add": "AddV2 Add",
        "subtract": "Sub",
        "reduce_sum": "Sum",
        "reduce_mean": "Mean",
        "sum": "AvgPool AvgPool3D Cumsum ResizeBilinear ResizeBicubic ResizeNearestNeighbor ScaleAndTranslate "
        "UnsortedSegmentSum SegmentSum ScatterNd TensorScatterAdd",
        "negate": "Neg",
        "multiply": "Mul",
        "divide": "RealDiv Div DivNoNan",
        "dot": "MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum",
        "convolution": "Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput Conv3DBackpropInputV2",
        "exp": "Exp",
        "log": "Log",
        "sqrt": "Sqrt",
        "rsqrt": "Rsqrt",
        "tanh": "Tanh",
        "erf": "Erf Erfc",
        "elementwise": "Expm1 Log1p Sigmoid Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Erfinv Ndtri Lgamma "
        "Digamma Abs Sign Floor Ceil Rint Round Square Pow Atan2 Reciprocal Inv Softplus Softsign Elu Selu LeakyRelu "
        "ClipByValue Xlogy Xlog1py Xdivy BesselI0e BesselI1e FloorMod FloorDiv",
        "relu": "Relu Relu6",
        "maximum": "Maximum",
        "minimum": "Minimum",
        "reduce_maximum": "Max",
        "reduce_minimum": "Min",
        "window_maximum": "MaxPool MaxPoolV2 MaxPool3D",
        "softmax": "Softmax",
        "log_softmax": "LogSoftmax",
        "power": "Prod Cumprod CumulativeLogsumexp",
        "order": "TopK TopKV2 Sort",
        "stop": "StopGradient",
        "compare": "Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr LogicalNot IsFinite IsNan "
        "IsInf ArgMax ArgMin All Any Shape ShapeN Size Rank Range OneHot ZerosLike OnesLike Fill Where InTopKV2 "
        "Bucketize BitwiseAnd BitwiseOr BroadcastArgs",
    }.items()
    for name in names.split()
}
_PIECEWISE: Final = ("Abs", "Sign", "Floor", "Ceil", "Rint", "Round", "LeakyRelu", "ClipByValue")
_MARKED: Final = {
    **dict.fromkeys(_PIECEWISE, "piecewise"), **dict.fromkeys(("AvgPool", "AvgPool3D"), "window"), "Relu6": "clipped"
}  # fmt: skip
# Kinds that no rule can take without knowing their axes.
ALONG: Final = frozenset(("reduce_sum", "reduce_mean", "reduce_maximum", "reduce_minimum", "transpose"))
# The place of the axes among the inputs.
_AXES: Final = {"Sum": 1, "Mean": 1, "Max": 1, "Min": 1, "Transpose": 1}
Shape = tuple[int, ...]


def settings_of(
    name: str, attributes: dict[str, Any], taken: Sequence[Shape], given: Shape, fixed: Sequence[Any]
) -> dict[str, Any]:
    """Return what the rules need to know of an operation.

    Args:
        name: what TensorFlow calls it.
        attributes: its own settings.
        taken: the shapes of its inputs.
        given: the shape of its first output.
        fixed: the inputs that are known numbers, and None for the others.
    """
    kind = KINDS.get(name, "")
    if name in _AXES or kind in ("softmax", "log_softmax", "broadcast"):
        return _axes_of(name, taken, given, fixed)
    if kind in ("dot", "convolution"):
        return _channels_of(name, attributes, taken, given)
    if name == "Pow":
        return {"power": float(fixed[1])} if fixed[1] is not None and np.ndim(fixed[1]) == 0 else {}
    return {_MARKED[name]: True} if name in _MARKED else {}


def _axes_of(name: str, taken: Sequence[Shape], given: Shape, fixed: Sequence[Any]) -> dict[str, Any]:
    """Return the axes that an operation acts along (or, where it broadcasts, those of what it takes)."""
    if name == "BroadcastTo":
        first = len(given) - len(taken[0])
        return {"axes": tuple(axis + first for axis in range(len(taken[0])))}
    if name not in _AXES:
        return {"axes": (len(given) - 1,)}
    axes = fixed[_AXES[name]]
    return {} if axes is None else {"axes": _positive(axes, len(taken[0]))}


def _channels_of(
    name: str, attributes: dict[str, Any], taken: Sequence[Shape], given: Shape
) -> dict[str, Any]:
    """Return where the units of a linear operation stand."""
    if name == "Einsum":
        return {"channels": _einsum_channels(attributes["equation"].decode(), taken)}
    if KINDS[name] == "dot":
        return {"channels": _product_channels(attributes, taken, given)}
    return _convolution(name, attributes, taken, given)


def _positive(axes: Any, count: int) -> tuple[int, ...]:
    return tuple(int(axis) % count for axis in np.ravel(axes)) if count else ()


def _product_channels(attributes: dict[str, Any], taken: Sequence[Shape], given: Shape) -> dict[int, Any]:
    """Return, for either operand as the constant one, where its free axes stand in the product."""
    turned = [
        attributes.get(one, attributes.get(two, False))
        for one, two in (("transpose_a", "adj_x"), ("transpose_b", "adj_y"))
    ]
    found: dict[int, Any] = {}
    for side, shape in enumerate(taken[:2]):
        rank, first = len(shape), len(given) - len(shape)
        batched = tuple((first + axis, axis) for axis in range(rank - 2) if shape[axis] != 1)
        # The free axis is the first of the left operand and the last of the right one, unless they are turned.
        own = rank - 2 if bool(turned[side]) == bool(side) else rank - 1
        found[side] = (*batched, (len(given) - 2 + side, own))
    return found


def _einsum_channels(equation: str, taken: Sequence[Shape]) -> dict[int, Any]:
    left, _, result = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if len(operands) != 2:
        return {}
    written = [_written(operand, len(shape)) for operand, shape in zip(operands, taken, strict=True)]
    most = max(len(letters) for letters in written)
    result = result.replace("...", "".join(_letters(most))) if "..." in result else result
    result = "".join(letter for letter in result if letter in written[0] or letter in written[1])
    return {
        side: tuple((result.index(letter), axis) for axis, letter in enumerate(own) if letter in result)
        for side, own in enumerate(written)
    }


def _written(operand: str, rank: int) -> str:
    """Return an operand's letters with an ellipsis written out."""
    if "..." not in operand:
        return operand
    missing = rank - len(operand) + 3
    letters = _letters(rank)
    return operand.replace("...", "".join(letters[len(letters) - missing :]) if missing else "")


def _letters(count: int) -> list[str]:
    return [chr(0x100 + count - place) for place in range(count, 0, -1)][-count:] if count else []


def _convolution(
    name: str, attributes: dict[str, Any], taken: Sequence[Shape], given: Shape
) -> dict[str, Any]:
    form = attributes["data_format"].decode()
    channels, filters = form.index("C"), taken[1]
    if name == "DepthwiseConv2dNative":
        # Where each channel has several filters, no one axis of the weight is that of the units.
        return {"channels": {1: ((channels, 2),) if filters[3] == 1 else ()}}
    if "Backprop" in name:
        return {"weight": 1, "channels": {1: ((channels, len(filters) - 2),)}}
    return {"channels": {1: ((channels, len(filters) - 1),)}}
