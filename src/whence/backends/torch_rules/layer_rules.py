"""LRP's rules of one linear layer, for inputs and outputs of any sign (the generalised forms, with zennit's signs).

Each takes the relevance of the layer's output and returns what its input gets: the density q (relevance divided by
the input), or relevance itself for the rules that give some to inputs that are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from whence.backends.torch_rules.layers import Layer

Bounds = tuple[Any, Any]


def ratio(relevance: torch.Tensor, z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return R / (z + ε sign z), and 0 where z is 0: nothing contributes there, and R/ε may be infinite in float16."""
    return torch.where(z == 0, 0, relevance / torch.where(z < 0, z - epsilon, z + epsilon))


def damped(z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return |z| / (|z| + ε): what the ε rule makes of a density."""
    if epsilon == 0:
        return torch.ones_like(z)
    size = z.abs()
    return size.div_(size + epsilon)


def gamma(layer: Layer, relevance: torch.Tensor) -> torch.Tensor:
    """Positive contributions weigh 1 + γ times as much, for outputs of either sign."""
    factor, weight = layer.rule.gamma, layer.weight
    risen = weight + factor * weight.clamp(min=0)
    fallen = weight + factor * weight.clamp(max=0)
    bias = layer.bias
    raised = None if bias is None else bias + factor * bias.clamp(min=0)
    lowered = None if bias is None else bias + factor * bias.clamp(max=0)
    up = torch.where(layer.z > 0, relevance, 0)
    down = torch.where(layer.z < 0, relevance, 0)
    above = _shared(layer, ((1, risen), (-1, fallen)), raised, up)
    below = _shared(layer, ((1, fallen), (-1, risen)), lowered, down)
    return above + below


def alpha_beta(layer: Layer, relevance: torch.Tensor) -> torch.Tensor:
    """Positive and negative contributions apart, α and −β times."""
    rule, weight, bias = layer.rule, layer.weight, layer.bias
    rising, falling = weight.clamp(min=0), weight.clamp(max=0)
    raised, lowered = (None, None) if bias is None else (bias.clamp(min=0), bias.clamp(max=0))
    passed = _shared(layer, ((1, rising), (-1, falling)), raised, relevance * rule.alpha)
    if rule.beta == 0:
        return passed
    return passed - _shared(layer, ((1, falling), (-1, rising)), lowered, relevance * rule.beta)


def _shared(
    layer: Layer,
    parts: Sequence[tuple[int, torch.Tensor]],
    bias: torch.Tensor | None,
    relevance: torch.Tensor,
) -> torch.Tensor:
    """Return the density of R shared out by z' = Σ x_sign w_sign + b over the positive and the negative inputs."""
    x = layer.x.detach()
    taken: list[tuple[int, torch.Tensor]] = []
    with torch.enable_grad():
        z: torch.Tensor | None = None
        for sign, weight in parts:
            if sign < 0 and not bool((x < 0).any()):
                continue
            part = (x.clamp(min=0) if sign > 0 else x.clamp(max=0)).requires_grad_()
            term = layer.multiply(part, weight)
            z = term if z is None else z + term
            taken.append((sign, part))
        assert z is not None
        total = z.detach() if bias is None else z.detach() + bias
        share = ratio(relevance, total, layer.rule.epsilon)
        gradients = torch.autograd.grad(z, [part for _, part in taken], share)
    found = gradients[0]
    for (sign, _), gradient in zip(taken[1:], gradients[1:], strict=True):
        assert sign < 0
        found = torch.where(x < 0, gradient, found)
    return found


def box(layer: Layer, relevance: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    """Relevance by x w − l w⁺ − h w⁻, for inputs in [l, h]."""
    weight, x = layer.weight, layer.x.detach()
    low, high = (torch.as_tensor(bound).to(x).expand_as(x) for bound in bounds)
    parts = ((x, weight), (low, -weight.clamp(min=0)), (high, -weight.clamp(max=0)))
    with torch.enable_grad():
        values = [part.clone().requires_grad_() for part, _ in parts]
        z = sum(layer.multiply(value, w) for value, (_, w) in zip(values, parts, strict=True))
        assert isinstance(z, torch.Tensor)
        share = ratio(relevance, z.detach(), layer.rule.epsilon)
        gradients = torch.autograd.grad(z, values, share)
    total = sum(value.detach() * gradient for value, gradient in zip(values, gradients, strict=True))
    assert isinstance(total, torch.Tensor)
    return total


def spread(layer: Layer, relevance: torch.Tensor) -> torch.Tensor:
    """Relevance by w² (or evenly), whatever the input; a bias counts as one more input, but not when spread evenly."""
    evenly, bias = layer.rule.kind == "flat", layer.bias
    weight = torch.ones_like(layer.weight) if evenly else layer.weight.square()
    with torch.enable_grad():
        ones = torch.ones_like(layer.x).requires_grad_()
        z = layer.multiply(ones, weight)
        total = z.detach() if evenly or bias is None else z.detach() + bias.square()
        return torch.autograd.grad(z, ones, ratio(relevance, total, layer.rule.epsilon))[0]
