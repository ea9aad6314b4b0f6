"""Activations: each is one operation of PyTorch where there is one, so that rules see it whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import axis_of

Tensor = torch.Tensor
# Beyond this ln(1 + e^x) is x to the last digit of float64; torch's own 20 is to that of float32.
STRAIGHT = 40.0


@operator("Relu")
def relu(node: Node, x: Tensor) -> Tensor:
    """Return max(x, 0)."""
    return torch.relu(x)


@operator("LeakyRelu", since=6)
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """Return x, and alpha x below 0."""
    return functional.leaky_relu(x, node.real("alpha", 0.01))


@operator("PRelu", since=7)
def parametric_relu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """Return x, and slope x below 0."""
    if slope.ndim == 1 and x.ndim > 2 and slope.numel() not in (1, x.shape[-1]):
        # As old files have it: one slope for each channel.
        slope = slope.reshape(-1, *[1] * (x.ndim - 2))
    return (
        torch.ops.aten._prelu_kernel(x, slope) if x.is_floating_point() else torch.where(x < 0, x * slope, x)
    )


@operator("ThresholdedRelu", since=10)
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """Return x, and 0 up to alpha."""
    return functional.threshold(x, node.real("alpha", 1.0), 0.0)


@operator("Elu", since=6)
def elu(node: Node, x: Tensor) -> Tensor:
    """Return x, and alpha (e^x − 1) below 0."""
    return functional.elu(x, node.real("alpha", 1.0))


@operator("Selu", since=6)
def selu(node: Node, x: Tensor) -> Tensor:
    """Return gamma x, and gamma alpha (e^x − 1) below 0, with the file's own constants."""
    alpha, gamma = (
        node.real("alpha", 1.67326319217681884765625),
        node.real("gamma", 1.05070102214813232421875),
    )
    return torch.ops.aten.elu(x, alpha, gamma)


@operator("Celu", since=12)
def celu(node: Node, x: Tensor) -> Tensor:
    """Return x, and alpha (e^(x/alpha) − 1) below 0."""
    return functional.celu(x, node.real("alpha", 1.0))


@operator("Gelu", since=20)
def gelu(node: Node, x: Tensor) -> Tensor:
    """Return x Φ(x)."""
    return functional.gelu(x, approximate=node.one_of("approximate", "none", ("none", "tanh")))


@operator("Mish", since=18)
def mish(node: Node, x: Tensor) -> Tensor:
    """Return x tanh(ln(1 + e^x))."""
    return functional.mish(x)


@operator("Swish", since=24)
def swish(node: Node, x: Tensor) -> Tensor:
    """Return x σ(alpha x)."""
    alpha = node.real("alpha", 1.0)
    return functional.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


@operator("MergedSwish", domain="whence")
def merged_swish(node: Node, x: Tensor) -> Tensor:
    """Return x σ(x)."""
    return functional.silu(x)


@operator("SwiGLU", since=28)
def gated_swish(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Return the swish of the one times the other."""
    return swish(node, a) * b


@operator("HardSigmoid", since=6)
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """Return alpha x + beta, kept between 0 and 1."""
    alpha, beta = node.real("alpha", 0.2), node.real("beta", 0.5)
    # The file keeps alpha in single precision.
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return functional.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


@operator("HardSwish", since=14)
def hard_swish(node: Node, x: Tensor) -> Tensor:
    """Return x times x/6 + 1/2 kept between 0 and 1."""
    return functional.hardswish(x)


@operator("Softplus")
def softplus(node: Node, x: Tensor) -> Tensor:
    """Return ln(1 + e^x)."""
    return functional.softplus(x, threshold=STRAIGHT)


@operator("Softsign")
def softsign(node: Node, x: Tensor) -> Tensor:
    """Return x / (1 + |x|)."""
    return functional.softsign(x)


@operator("Shrink", since=9)
def shrink(node: Node, x: Tensor) -> Tensor:
    """Return x moved towards 0 by a bias, and 0 near it."""
    least, bias = node.real("lambd", 0.5), node.real("bias", 0.0)
    if not x.is_floating_point():
        real = x.double()
        moved = torch.where(real < -least, real + bias, torch.where(real > least, real - bias, 0.0))
        return moved.to(x.dtype)
    if bias == 0:
        return functional.hardshrink(x, least)
    if bias == least:
        return functional.softshrink(x, least)
    return torch.where(x < -least, x + bias, torch.where(x > least, x - bias, torch.zeros_like(x)))


@operator("Softmax", since=13, layer="shares")
def softmax(node: Node, x: Tensor) -> Tensor:
    """Return shares along an axis."""
    return torch.softmax(x, node.whole("axis", -1))


@operator("Softmax", until=12, layer="shares")
def softmax_of_rest(node: Node, x: Tensor) -> Tensor:
    """Return shares over an axis and all that follow."""
    return _of_rest(node, x, torch.softmax)


@operator("LogSoftmax", since=13, layer="shares")
def log_softmax(node: Node, x: Tensor) -> Tensor:
    """Return the logarithm of shares along an axis."""
    return torch.log_softmax(x, node.whole("axis", -1))


@operator("LogSoftmax", until=12, layer="shares")
def log_softmax_of_rest(node: Node, x: Tensor) -> Tensor:
    """Return the logarithm of shares over an axis and all that follow."""
    return _of_rest(node, x, torch.log_softmax)


@operator("Hardmax", since=13)
def hardmax(node: Node, x: Tensor) -> Tensor:
    """Return 1 at the first of the largest along an axis, and 0 elsewhere."""
    return _largest(x, node.whole("axis", -1))


@operator("Hardmax", until=12)
def hardmax_of_rest(node: Node, x: Tensor) -> Tensor:
    """Return 1 at the first of the largest over an axis and all that follow, and 0 elsewhere."""
    return _of_rest(node, x, _largest)


def _largest(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def _of_rest(node: Node, x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    axis = axis_of(node.whole("axis", 1), x.ndim)
    if axis == x.ndim - 1:
        return function(x, axis)
    return function(x.reshape(*x.shape[:axis], -1), axis).reshape(x.shape)
