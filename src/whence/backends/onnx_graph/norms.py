"""Normalisations: each is one operation of PyTorch where there is one, so that rules see it whole."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import axis_of

Tensor = torch.Tensor


@operator("BatchNormalization", since=7, layer="scaled")
def batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Scale and move every channel, by fixed numbers."""
    if node.whole("training_mode") or node.wanted > 1:
        raise node.refuse("a batch's own statistics (training mode)")
    kind = x.dtype
    mean, variance, scale, bias = (each.to(kind) for each in (mean, variance, scale, bias))
    return functional.batch_norm(x, mean, variance, scale, bias, eps=node.real("epsilon", 1e-5))


@operator("InstanceNormalization", since=6, layer="scaled")
def instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise every channel over space."""
    return functional.group_norm(x, x.shape[1], scale, bias, node.real("epsilon", 1e-5))


@operator("GroupNormalization", since=18, layer="grouped")
def group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise groups of channels."""
    groups = node.whole("num_groups", 1)
    if node.opset < 21:
        # One scale for each group, then.
        scale, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, bias))
    return functional.group_norm(x, groups, scale.to(x.dtype), bias.to(x.dtype), node.real("epsilon", 1e-5))


@operator("LayerNormalization", since=17, layer="normalised")
def layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    """Normalise over the last axes."""
    axis, epsilon = axis_of(node.whole("axis", -1), x.ndim), node.real("epsilon", 1e-5)
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        y = functional.layer_norm(x, shape, scale, bias, epsilon)
    else:
        y = functional.layer_norm(x, shape, eps=epsilon) * scale
        y = y if bias is None else y + bias
    if node.wanted < 2:
        return y
    axes = tuple(range(axis, x.ndim))
    real = x if x.dtype == torch.float64 else x.float()
    mean = real.mean(axes, keepdim=True)
    return (y, mean, torch.rsqrt((real - mean).square().mean(axes, keepdim=True) + epsilon))[: node.wanted]


@operator("MergedLayerNorm", domain="whence", layer="normalised")
def merged_layer_norm(
    node: Node, x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Normalise over axes that follow one another: with torch's layer norm where they are the last."""
    axes, epsilon = [axis_of(axis, x.ndim) for axis in node.wholes("axes") or []], node.real("epsilon")
    if axes[-1] == x.ndim - 1:
        shape = x.shape[axes[0] :]
        fits = all(each is None or each.shape == shape for each in (scale, bias))
        y = functional.layer_norm(x, shape, *((scale, bias) if fits else (None, None)), epsilon)
        if fits:
            return y
    else:
        centred = x - x.mean(axes, keepdim=True)
        y = centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    y = y if scale is None else y * scale
    return y if bias is None else y + bias


@operator("RMSNormalization", since=23, layer="normalised")
def rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """Divide by the root of the mean square over the last axes."""
    axis, epsilon = axis_of(node.whole("axis", -1), x.ndim), node.real("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape:
        return functional.rms_norm(x, shape, scale.to(x.dtype), epsilon)
    return functional.rms_norm(x, shape, eps=epsilon) * scale


@operator("LRN")
def response_norm(node: Node, x: Tensor) -> Tensor:
    """Divide by what the neighbouring channels say."""
    size, channels = node.whole("size", 1), x.shape[1]
    below, above = (size - 1) // 2, size // 2
    space = [0, 0] * (x.ndim - 2)
    squares = functional.pad(x * x, [*space, below, above])
    total = squares[:, :channels]
    for step in range(1, size):
        total = total + squares[:, step : step + channels]
    alpha, beta, bias = node.real("alpha", 1e-4), node.real("beta", 0.75), node.real("bias", 1.0)
    return x / (total * (alpha / size) + bias).pow(beta)


@operator("LpNormalization")
def norm_one(node: Node, x: Tensor) -> Tensor:
    """Divide by the norm along an axis; zeros stay zeros."""
    size = torch.linalg.vector_norm(x, node.whole("p", 2), node.whole("axis", -1), keepdim=True)
    return x / torch.where(size == 0, 1.0, size)


@operator("MeanVarianceNormalization", since=9)
def standardised(node: Node, x: Tensor) -> Tensor:
    """Take the mean away and divide by the standard deviation, over some axes."""
    given = node.wholes("axes")
    axes = [0, 2, 3] if given is None else given
    centred = x - x.mean(axes, keepdim=True)
    deviation = ((x * x).mean(axes, keepdim=True) - x.mean(axes, keepdim=True).square()).sqrt()
    return centred / (deviation + 1e-9)


@operator("Dropout", layer="passing")
def dropout(node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Any:
    """Pass on: nothing is dropped outside of training."""
    if training is not None and bool(training):
        raise node.refuse("training_mode: it draws random numbers")
    if node.opset < 7 and not node.whole("is_test"):
        raise node.refuse("is_test=0: it draws random numbers")
    return x if node.wanted < 2 else (x, torch.ones_like(x, dtype=torch.bool))
