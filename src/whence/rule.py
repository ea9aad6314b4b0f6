"""Rules: another derivative for named operations, as data that every framework reads in the same way.

An operation belongs to a family (FAMILIES), and a set of rules says what is passed back through each family in place
of its derivative. What is linear needs no rule in most sets: its derivative is the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "move": "elements that are copied to other places: views, slices, concatenation, padding, a choice by a mask",
        "sum": "fixed sums: addition, means, average pooling, interpolation",
        "scale": "elementwise multiplication by a constant, batch norm in eval mode",
        "dense": "a matrix product with a constant matrix",
        "convolution": "a convolution (or transposed one) with constant weights",
        "relu": "max(x, 0), also clipped from above",
        "activation": "every other function of one element",
        "product": "a product of two operands that both vary: elementwise, of matrices, a convolution's weight",
        "quotient": "a division whose divisor varies",
        "norm": "(x − mean)/√(variance + ε) over axes of the same array: layer, group and instance norm",
        "softmax": "softmax along an axis",
        "log_softmax": "its logarithm",
        "logsumexp": "log Σ exp along an axis",
        "maximum": "the largest (or smallest) of several: max pooling, amax, maximum",
        "power": "a variance, a standard deviation, a norm: nonlinear in many elements at once",
        "order": "the places of elements depend on their values: sorting, topk, median",
        "cell": "a custom function that acts on each element alone, as far as it was tried",
    }
)

NOT_CONSERVING = frozenset(("softmax", "log_softmax", "logsumexp", "power"))
UNCONSERVED = (
    "LRP cannot conserve relevance through softmax, its kin, and statistics such as a variance: there the input's "
    "share is that of the derivative, and the residual holds what is lost or made"
)
LINEAR = ("move", "sum", "scale", "dense", "convolution")
"""The families whose derivative is exact at any distance."""


@dataclass(frozen=True)
class Met:
    """An operation between the output and the input: its name, its family (None: unknown), and where it was called.

    `rule` is what takes it, in the words of the table; "" where its derivative is passed.
    """

    operation: str
    family: str | None
    rule: str
    place: str = ""


@dataclass(frozen=True)
class Rules:
    """A set of backward rules.

    Attributes:
        name: "gradient" (none), "guided", "deconvolution", "rescale" or "relevance".
        composite: for "relevance", which rule each layer takes (whence.composite).
        on_unknown: "error" refuses an operation that no rule knows; "gradient" passes its derivative, and says so.
        required: whether "guided" and "deconvolution" are refused where there is no ReLU for them.
        account: for "relevance", whether to count what each kind of operation keeps.
    """

    name: str
    composite: Any = None
    on_unknown: str = "error"
    account: bool = False
    required: bool = True


# What a set does with a family, in the words of the coverage table; families that are not named keep their derivative.
TABLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "gradient": {},
        "guided": {"relu": "max(g, 0) · 1[x > 0]"},
        "deconvolution": {"relu": "max(g, 0)"},
        "rescale": {
            "relu": "Δy/Δx",
            "activation": "Δy/Δx",
            "cell": "Δy/Δx",
            "product": "midpoint",
            "quotient": "midpoint of the quotient",
            "norm": "midpoint of the norm",
            "softmax": "Λ of softmax",
            "log_softmax": "Λ of log-softmax",
            "logsumexp": "Λ of logsumexp",
            "maximum": "Δy/Δ of the winner",
            "power": "local integral",
            "order": "local integral",
        },
        "relevance": {
            "dense": "layer rule",
            "convolution": "layer rule",
            "relu": "y/x",
            "activation": "y/x",
            "cell": "y/x",
            "product": "half to each operand",
            "quotient": "divisor constant",
            "norm": "statistics constant",
        },
    }
)
