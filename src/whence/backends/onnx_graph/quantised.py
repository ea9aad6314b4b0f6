"""Operators on numbers that were rounded to few bits."""

from __future__ import annotations

from typing import Any

import torch

from whence.backends.onnx_graph.linear import convolution
from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import TYPES, axis_of

Tensor = torch.Tensor


def _laid(x: Tensor, value: Tensor, axis: int, block: int) -> Tensor:
    """Return scales (or zero points), one for all, for each place of an axis, or for each block of it, beside x."""
    if value.ndim == 0 or (value.numel() == 1 and not block):
        return value.reshape(())
    axis = axis_of(axis, x.ndim)
    if block:
        return value.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = -1
    return value.reshape(shape)


@operator("QuantizeLinear", since=10)
def quantise(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Round to whole numbers of few bits."""
    kind = zero.dtype if zero is not None else TYPES.get(node.whole("output_dtype") or 2)
    if kind is None or kind.is_floating_point or node.given("precision"):
        raise node.refuse("a type that is no plain whole number, or a precision of its own")
    axis, block = node.whole("axis", 1), node.whole("block_size")
    whole = torch.round(x / _laid(x, scale, axis, block).to(x.dtype))
    if zero is not None:
        whole = whole + _laid(x, zero.to(torch.int32), axis, block)
    return _saturated(whole, kind)


def _saturated(whole: Tensor, kind: torch.dtype) -> Tensor:
    limits = torch.iinfo(kind)
    return whole.clamp(limits.min, limits.max).to(kind)


@operator("DequantizeLinear", since=10)
def restore(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Turn whole numbers of few bits back into real ones."""
    axis, block = node.whole("axis", 1), node.whole("block_size")
    whole = x.to(torch.int32)
    if zero is not None:
        whole = whole - _laid(x, zero.to(torch.int32), axis, block)
    kind = TYPES[node.whole("output_dtype")] if node.whole("output_dtype") else scale.dtype
    return (whole.to(scale.dtype) * _laid(x, scale, axis, block)).to(kind)


@operator("DynamicQuantizeLinear", since=11)
def quantise_by_range(node: Node, x: Tensor) -> Any:
    """Round to 8 bits, over the range of the values themselves."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round(-low / scale).clamp(0, 255)
    return _saturated(torch.round(x / scale) + zero, torch.uint8), scale, zero.to(torch.uint8)


@operator("MatMulInteger", since=10)
def whole_product(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """Return a matrix product of whole numbers."""
    return (_centred(a, a_zero, -2) @ _centred(b, b_zero, -1)).to(torch.int32)


def _centred(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    # In float64 whole numbers of so few bits are exact.
    x = x.double()
    if zero is None:
        return x
    zero = zero.double()
    return x - (_laid(x, zero, axis, 0) if zero.ndim < 2 else zero)


@operator("ConvInteger", since=10)
def whole_convolution(
    node: Node, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, weight_zero: Tensor | None = None
) -> Tensor:
    """Slide filters of whole numbers."""
    y = convolution(node, _centred(x, x_zero, 0), _centred(weight, weight_zero, 0))
    return y.round().to(torch.int32)


@operator("QLinearMatMul", since=10)
def rounded_product(
    node: Node, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    """Return a matrix product of rounded numbers, rounded."""
    product = _centred(a, a_zero, -2) @ _centred(b, b_zero, -1)
    scale = _laid(a, a_scale.double(), -2, 0) * _laid(b, b_scale.double(), -1, 0)
    whole = torch.round(product * scale / _laid(product, y_scale.double(), -2, 0))
    return _saturated(whole + _laid(product, y_zero.double(), -2, 0), y_zero.dtype)


@operator("QLinearConv", since=10)
def rounded_convolution(
    node: Node, x: Tensor, x_scale: Tensor, x_zero: Tensor, weight: Tensor, w_scale: Tensor, w_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Slide filters of rounded numbers, and round."""
    whole = None if bias is None else bias.double()
    y = convolution(node, _centred(x, x_zero, 0), _centred(weight, w_zero, 0), whole)
    scale = x_scale.double() * _laid(y, w_scale.double(), 1, 0) / y_scale.double()
    return _saturated(torch.round(y * scale) + y_zero.double(), y_zero.dtype)
