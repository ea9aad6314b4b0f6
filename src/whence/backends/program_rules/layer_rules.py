"""LRP's rules of one linear layer, for inputs and outputs of any sign (the generalised forms, with zennit's signs).

Each takes the relevance of the layer's output and returns what its input gets: the density q (relevance divided by
the input), or relevance itself for the rules that give some to inputs that are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whence.backends.arrays import Array
from whence.backends.program_rules.functions import Functions, negative, positive
from whence.backends.program_rules.layers import Linear

Bounds = tuple[Any, Any]


def ratio(functions: Functions, relevance: Array, z: Array, epsilon: float) -> Array:
    """Return R / (z + ε sign z), and 0 where z is 0: nothing contributes there, and R/ε may be infinite in float16."""
    empty = z == 0
    moved = functions.where(z < 0, z - epsilon, z + epsilon)
    return functions.where(empty, 0.0, relevance / functions.where(empty, functions.ones_like(z), moved))


def damped(functions: Functions, z: Array, epsilon: float) -> Array:
    """Return |z| / (|z| + ε): what the ε rule makes of a density."""
    return functions.ones_like(z) if epsilon == 0 else abs(z) / (abs(z) + epsilon)


def gamma(linear: Linear, relevance: Array) -> Array:
    """Positive contributions weigh 1 + γ times as much, for outputs of either sign."""
    functions, factor, weight = linear.functions, linear.layer.rule.gamma, linear.weight
    risen = weight + factor * positive(functions, weight)
    fallen = weight + factor * negative(functions, weight)
    bias = linear.bias
    raised = None if bias is None else bias + factor * positive(functions, bias)
    lowered = None if bias is None else bias + factor * negative(functions, bias)
    none = functions.zeros_like(relevance)
    up = functions.where(linear.z > 0, relevance, none)
    down = functions.where(linear.z < 0, relevance, none)
    above = _shared(linear, ((1, risen), (-1, fallen)), raised, up)
    return above + _shared(linear, ((1, fallen), (-1, risen)), lowered, down)


def alpha_beta(linear: Linear, relevance: Array) -> Array:
    """Positive and negative contributions apart, α and −β times."""
    functions, rule, weight, bias = linear.functions, linear.layer.rule, linear.weight, linear.bias
    rising, falling = positive(functions, weight), negative(functions, weight)
    raised = None if bias is None else positive(functions, bias)
    lowered = None if bias is None else negative(functions, bias)
    passed = _shared(linear, ((1, rising), (-1, falling)), raised, relevance * rule.alpha)
    if rule.beta == 0:
        return passed
    return passed - _shared(linear, ((1, falling), (-1, rising)), lowered, relevance * rule.beta)


def _shared(
    linear: Linear, parts: Sequence[tuple[int, Array]], bias: Array | None, relevance: Array
) -> Array:
    """Return the density of R shared out by z' = Σ x_sign w_sign + b over the positive and the negative inputs."""
    functions, x = linear.functions, linear.x
    (_, rising), (_, falling) = parts
    if linear.layer.rectified:
        total = linear.multiply(x, rising)
        share = ratio(
            functions, relevance, total if bias is None else total + bias, linear.layer.rule.epsilon
        )
        return linear.back(x, rising, share)
    above, below = positive(functions, x), negative(functions, x)
    total = linear.multiply(above, rising) + linear.multiply(below, falling)
    share = ratio(functions, relevance, total if bias is None else total + bias, linear.layer.rule.epsilon)
    up, down = linear.back(above, rising, share), linear.back(below, falling, share)
    return functions.where(x < 0, down, up)


def box(linear: Linear, relevance: Array, bounds: Bounds) -> Array:
    """Relevance by x w − l w⁺ − h w⁻, for inputs in [l, h]."""
    functions, weight, x = linear.functions, linear.weight, linear.x
    low, high = (functions.broadcast(functions.array(bound, x), x.shape) for bound in bounds)
    parts = ((x, weight), (low, -positive(functions, weight)), (high, -negative(functions, weight)))
    z = linear.multiply(*parts[0]) + linear.multiply(*parts[1]) + linear.multiply(*parts[2])
    share = ratio(functions, relevance, z, linear.layer.rule.epsilon)
    one, two, three = (value * linear.back(value, w, share) for value, w in parts)
    return one + two + three


def spread(linear: Linear, relevance: Array) -> Array:
    """Relevance by w² (or evenly), whatever the input; a bias counts as one more input, but not when spread evenly."""
    functions, evenly, bias = linear.functions, linear.layer.rule.kind == "flat", linear.bias
    weight = functions.ones_like(linear.weight) if evenly else linear.weight * linear.weight
    ones = functions.ones_like(linear.x)
    z = linear.multiply(ones, weight)
    total = z if evenly or bias is None else z + bias * bias
    return linear.back(ones, weight, ratio(functions, relevance, total, linear.layer.rule.epsilon))
