"""What steps can be, in words that every framework's operations are translated to, and the family of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

KINDS: Mapping[str, str] = MappingProxyType(
    {
        # One element to one place.
        "move": "elements copied to other places: slices, padding, a gather by places that carry no gradient",
        "reshape": "the same elements in another shape",
        "transpose": "axes in another order; settings: axes",
        "broadcast": "repeated along new axes, or along axes of size 1; settings: axes (where each old axis stands)",
        "convert": "the same numbers in another dtype, or a copy",
        "concatenate": "several arrays side by side, or stacked",
        "select": "one of several arrays, element by element; the choice is the first input",
        # Sums.
        "add": "a + b",
        "subtract": "a − b",
        "reduce_sum": "a sum along axes; settings: axes",
        "reduce_mean": "a mean along axes; settings: axes",
        "sum": "any other fixed sum: cumulative, scattering, interpolation, pooling; settings: window (of pooling)",
        # Products.
        "negate": "−a",
        "multiply": "a · b",
        "divide": "a / b",
        "dot": "a matrix product; settings: linear",
        "convolution": "a convolution, transposed or not; settings: linear",
        "scale": "any other elementwise multiplication by a constant",
        # Functions of one element.
        "exp": "eᵃ",
        "log": "ln a",
        "sqrt": "√a",
        "rsqrt": "1/√a",
        "tanh": "tanh a",
        "erf": "erf a, or erfc a",
        "elementwise": "any other function of the elements at one place; settings: piecewise (linear in pieces)",
        "call": "several steps as one: a named function of one array, element by element; its family is found out",
        "cell": "a function with a derivative of its own, element by element",
        "relu": "max(x, 0), also clipped from above",
        # Several elements at once.
        "maximum": "the larger of a and b",
        "minimum": "the smaller of a and b",
        "reduce_maximum": "the largest along axes; settings: axes",
        "reduce_minimum": "the smallest along axes; settings: axes",
        "window_maximum": "max pooling",
        "softmax": "settings: axes",
        "log_softmax": "settings: axes",
        "logsumexp": "settings: axes",
        "norm": "made by `norms`",
        "batch_norm": "with constant statistics, made by `affine`; settings: axis",
        "power": "nonlinear in many elements at once",
        "order": "places depend on values: sorting",
        # Without a gradient.
        "stop": "a stopped gradient",
        "compare": "comparisons, places of maxima, whatever gives no real numbers",
    }
)
GRADIENTLESS = frozenset(("stop", "compare"))
ELEMENTWISE = frozenset(
    ("add", "subtract", "negate", "multiply", "divide", "exp", "log", "sqrt", "rsqrt", "tanh", "erf", "elementwise",
     "call", "cell", "relu", "maximum", "minimum", "convert", "select", "compare", "scale", "stop")
)  # fmt: skip
MOVES = frozenset(("reshape", "transpose", "broadcast", "convert"))
"""Moves that keep every element, through which a layer's channel can be followed."""
PIECEWISE = frozenset(("relu", "maximum", "minimum", "select"))

_MOVED = MOVES | {"move", "concatenate"}
_ALONE = frozenset(
    ("exp", "log", "sqrt", "rsqrt", "tanh", "erf", "elementwise", "call", "cell", "maximum", "minimum")
)
_PRODUCTS = {
    "multiply": ("scale", "product"),
    "divide": ("scale", "quotient"),
    "dot": ("dense", "product"),
    "convolution": ("convolution", "product"),
}
_FIXED = {
    **dict.fromkeys(("add", "subtract", "reduce_sum", "reduce_mean", "sum"), "sum"),
    **dict.fromkeys(("negate", "scale", "batch_norm"), "scale"),
    **dict.fromkeys(("reduce_maximum", "reduce_minimum", "window_maximum"), "maximum"),
    **{
        each: each
        for each in ("softmax", "log_softmax", "logsumexp", "norm", "power", "order", "relu", "cell")
    },
}


def family(kind: str, varying: Sequence[bool], settings: Mapping[str, Any]) -> str | None:
    """Return the family of a step by its kind and by which of its inputs vary; None where no rule knows it."""
    several = sum(varying) > 1
    if kind in _MOVED or (kind == "select" and not varying[0]):
        return "move"
    if kind in _PRODUCTS:
        # Of a division it counts whether the divisor varies.
        both = varying[1] if kind == "divide" else several
        return _PRODUCTS[kind][both]
    if kind in _ALONE and several:
        return "maximum" if kind in ("maximum", "minimum") else "power"
    if kind in _FIXED:
        return _FIXED[kind]
    return "activation" if kind in _ALONE else None
