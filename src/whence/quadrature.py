"""Fixed quadratures: nodes and weights on [0, 1], whose weights sum to one, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from whence.errors import BadInput
from whence.naming import unknown

Name = Literal[
    "tolerance", "gauss", "midpoint", "trapezoid", "left", "right", "monte_carlo", "taylor", "exact"
]
Nodes = Float[np.ndarray, "nodes"]


@lru_cache
def gauss(steps: int) -> tuple[Nodes, Nodes]:
    """Gauss–Legendre: exact for polynomials of degree 2·steps − 1 (Gauss 1814)."""
    from scipy.special import roots_legendre

    # SciPy solves a banded problem: numpy's leggauss would build a dense steps x steps matrix.
    nodes, weights = roots_legendre(steps)
    return (nodes + 1) / 2, weights / 2


def midpoint(steps: int) -> tuple[Nodes, Nodes]:
    """Midpoint rule: second order, no end points."""
    return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)


def trapezoid(steps: int) -> tuple[Nodes, Nodes]:
    """Trapezoid rule with both end points at half weight: second order (two nodes at least)."""
    if steps < 2:
        raise BadInput(f"quadrature trapezoid: steps is {steps}; it needs its two end points")
    weights = np.full(steps, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps), weights


def left(steps: int) -> tuple[Nodes, Nodes]:
    """Left Riemann sum: first order, starts at the baseline."""
    return np.arange(steps) / steps, np.full(steps, 1 / steps)


def right(steps: int) -> tuple[Nodes, Nodes]:
    """Right Riemann sum: first order, ends at the input."""
    return np.arange(1, steps + 1) / steps, np.full(steps, 1 / steps)


RULES: dict[str, Callable[[int], tuple[Nodes, Nodes]]] = {
    "gauss": gauss, "midpoint": midpoint, "trapezoid": trapezoid, "left": left, "right": right,
}  # fmt: skip
NAMES: tuple[str, ...] = ("tolerance", *RULES, "monte_carlo", "taylor", "exact")


def check(quadrature: str | None, steps: Any, rtol: Any) -> Name:
    """Return the quadrature that the fields of a method ask for.

    Raises:
        BadInput: an unknown name, steps below one, or a tolerance that is not positive.
    """
    name = quadrature or ("gauss" if steps is not None else "tolerance")
    if name not in NAMES:
        raise BadInput(unknown("quadrature", name, NAMES))
    least = 2 if name == "monte_carlo" else 1  # one random node has no standard error
    if steps is not None and (
        isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < least
    ):
        raise BadInput(f"steps is {steps!r}; it is a whole number of nodes, at least {least}")
    if steps is not None and name in ("tolerance", "taylor", "exact"):
        raise BadInput(
            f"steps={steps} does not go with quadrature={name!r}; choose one of {', '.join(RULES)}"
        )
    if rtol is not None and not (isinstance(rtol, (int, float, np.floating)) and 0 < rtol < 1):
        raise BadInput(f"rtol is {rtol!r}; it is a relative error between 0 and 1, such as 0.02")
    return name  # type: ignore[return-value]
