"""Matrix products and convolutions."""

from __future__ import annotations

from typing import Final

import torch
from torch.nn import functional

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.windows import windows

Tensor = torch.Tensor
_FORWARD: Final = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_BACK: Final = {
    1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d,
}  # fmt: skip


@operator("Gemm", since=7, layer="linear")
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Return alpha A B + beta C, with A or B turned over."""
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    a = a.T if node.whole("transA") else a
    if alpha == beta == 1 and a.is_floating_point() and (c is None or c.ndim == 1):
        # As a linear layer has it; a bias of one number is stretched.
        weight = b if node.whole("transB") else b.T
        return functional.linear(a, weight, None if c is None else c.expand(weight.shape[0]))
    product = a @ (b.T if node.whole("transB") else b)
    product = product if alpha == 1 else alpha * product
    if c is None or beta == 0:
        return product.to(a.dtype)
    return (product + (c if beta == 1 else beta * c)).to(a.dtype)


@operator("MatMul", layer="linear")
def matrix_product(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Return A B, with the axes before the last two as a batch."""
    return torch.matmul(a, b)


@operator("Einsum", since=12)
def einsum(node: Node, *values: Tensor) -> Tensor:
    """Return the sums of products that an equation says."""
    return torch.einsum(node.text("equation").replace(" ", ""), *values)


@operator("Conv", layer="convolution")
def convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Slide filters over one, two or three axes of space."""
    w = windows(node, x, weight.shape[2:])
    run = _FORWARD.get(len(w.kernel))
    if run is None:
        raise node.refuse(f"{len(w.kernel)} axes of space")
    if w.even:
        return run(x, weight, bias, w.strides, w.begin, w.dilations, node.whole("group", 1))
    return run(w.padded(x, 0.0), weight, bias, w.strides, 0, w.dilations, node.whole("group", 1))


@operator("ConvTranspose", layer="transposed")
def transposed_convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Spread filters over one, two or three axes of space."""
    w = windows(node, x, weight.shape[2:])
    run, rank = _BACK.get(len(w.kernel)), len(w.kernel)
    if run is None:
        raise node.refuse(f"{rank} axes of space")
    extra = node.wholes("output_padding") or [0] * rank
    full = [(side - 1) * s + r for side, s, r in zip(x.shape[2:], w.strides, w.reach, strict=True)]
    begin, end = _cut(node, x, w.begin, w.end, w.strides, [f + e for f, e in zip(full, extra, strict=True)])
    group = node.whole("group", 1)
    small = all(e < max(s, d) for e, s, d in zip(extra, w.strides, w.dilations, strict=True))
    if begin == end and min(begin) >= 0 and small:
        return run(x, weight, bias, w.strides, begin, extra, group, w.dilations)
    y = run(x, weight, None, w.strides, 0, 0, group, w.dilations)
    # Whatever lies around what the filters reach is zero, and has the bias all the same.
    around = [each for i in reversed(range(rank)) for each in (-begin[i], extra[i] - end[i])]
    y = functional.pad(y, around)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _cut(
    node: Node, x: Tensor, begin: tuple[int, ...], end: tuple[int, ...], strides: tuple[int, ...], full: list[int]
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Return how much is cut off at either end of every axis."""
    automatic, sides = node.text("auto_pad", "NOTSET"), node.wholes("output_shape")
    if sides is None and automatic.startswith("SAME"):
        sides = [side * stride for side, stride in zip(x.shape[2:], strides, strict=True)]
    if sides is None:
        return list(begin), list(end)
    over = [f - side for f, side in zip(full, sides[-len(full) :], strict=True)]
    less = [each // 2 if automatic == "SAME_UPPER" else each - each // 2 for each in over]
    return less, [each - one for each, one in zip(over, less, strict=True)]
