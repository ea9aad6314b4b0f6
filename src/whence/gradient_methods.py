"""Methods of one gradient at the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence.backends import Array
from whence.difference import squared_differences
from whence.errors import BadInput
from whence.problem import Problem
from whence.registry import Method, register
from whence.shares import Shares


def _gradient_shares(problem: Problem, values: Any) -> Shares:
    """Return shares made from one gradient at the input: `values(gradient, x)` per leaf."""
    ops = problem.ops
    output, gradients = problem.gradient()
    pairs = zip(gradients, problem.point, strict=True)
    wide = tuple(values(ops.wide(g), ops.wide(_beside(x, problem))) for g, x in pairs)
    return Shares(wide, np.ones(len(problem.rows), dtype=np.int64), output=output)


def _beside(leaf: Array, problem: Problem) -> Array:
    """Give a leaf the class axis of the gradients it is multiplied with."""
    return leaf[:, None] if problem.every_class else leaf


@register("saliency", "A = |∇f(x)|", "Simonyan, Vedaldi, Zisserman 2014, arXiv:1312.6034")
@dataclass(frozen=True)
class Saliency(Method):
    """How strongly the output reacts to each feature: the gradient's absolute value.

    Attributes:
        absolute: False keeps the gradient's sign.
    """

    absolute: bool = True

    @property
    def slopes(self) -> bool:
        return True

    @property
    def sizes(self) -> bool:
        return self.absolute

    def attribute(self, problem: Problem) -> Shares:
        return _gradient_shares(problem, lambda g, x: abs(g) if self.absolute else g)


@register(
    "sensitivity",
    "A = (∇f(x))²",
    "Zurada, Malinowski, Cloete 1994, ISCAS; Gevrey et al. 2003",
    needs=("values",),
)
@dataclass(frozen=True)
class Sensitivity(Method):
    """The squared gradient; for black boxes by central differences, the one gradient method that works on them.

    Attributes:
        step: half the width of the central difference, relative to each example's range; None takes the gradient
            where there is one, else 0.01.
    """

    step: float | None = None

    @property
    def slopes(self) -> bool:
        return True

    @property
    def sizes(self) -> bool:
        return True

    def attribute(self, problem: Problem) -> Shares:
        if self.step is not None and self.step <= 0:
            raise BadInput(
                f"sensitivity: step is {self.step}; it is above 0, such as 0.01 of the input's range"
            )
        if problem.run.backend.differentiable and self.step is None:
            return _gradient_shares(problem, lambda g, x: g * g)
        return squared_differences(problem, 0.01 if self.step is None else self.step)


@register(
    "input_x_gradient",
    "A = x ⊙ ∇f(x)",
    "Shrikumar, Greenside, Shcherbina, Kundaje 2016, arXiv:1605.01713",
    title="Input × gradient",
)
@dataclass(frozen=True)
class InputXGradient(Method):
    """The gradient times the input: the first-order share of each feature, counted from zero."""

    def attribute(self, problem: Problem) -> Shares:
        return _gradient_shares(problem, lambda g, x: g * x)
