"""Expected gradients: integrated gradients averaged over baselines, with a new baseline at every random node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from whence import random_nodes
from whence.backends import Leaves
from whence.background import DataSet
from whence.baseline import resolve
from whence.counts import whole
from whence.draws import Draws
from whence.errors import Refused
from whence.integrate import DEFAULT_RTOL
from whence.path import per_row
from whence.problem import Problem
from whence.registry import Method, register
from whence.shares import Shares

Rows = Int[np.ndarray, "n"]


@register(
    "expected_gradients",
    "A = E_{x'∼D, α∼U(0,1)} [(x − x') ⊙ ∇f(x' + α(x − x'))]",
    "Erion, Janizek, Sturmfels, Lundberg, Lee 2021, Nature Machine Intelligence 3",
    needs=("gradient", "background"),
)
@dataclass(frozen=True)
class ExpectedGradients(Method):
    """Integrated gradients averaged over baselines drawn from a data set: one random baseline and node per gradient.

    Attributes:
        baseline: rows of a data set, whence.baseline.dataset(rows) or an array of rows; other baselines, numbers,
            names and lists of them are taken as in IntegratedGradients.
        samples: how many pairs of baseline and node; the standard error says what they are worth.
    """

    baseline: Any = None
    samples: int = 200

    def __post_init__(self) -> None:
        # A standard error needs two.
        whole(self.samples, "expected_gradients: samples", 2)

    def attribute(self, problem: Problem) -> Shares:
        if self.baseline is None:
            raise Refused("expected_gradients needs a background: baseline=whence.baseline.dataset(rows)")
        draws = Draws(problem, rows_or_baseline(self.baseline, problem.run.pictures), self.samples)
        points = partial(_points, draws)
        shares = random_nodes.integrate(problem, points, self.samples, DEFAULT_RTOL, self.samples, 0)
        return shares.with_residual(problem, draws.output())


def rows_or_baseline(spec: Any, pictures: bool) -> Any:
    """Return the baseline that is drawn from: arrays, and nested lists of numbers, are rows of a data set."""
    if hasattr(spec, "start"):
        return spec
    named = (str, int, float, np.integer, np.floating)
    parts: Iterable[Any] = spec if isinstance(spec, list) else [spec]
    if all(isinstance(part, named) or hasattr(part, "start") for part in parts):
        return resolve(spec, pictures)
    return DataSet(spec)


def _points(draws: Draws, alpha: Float[np.ndarray, "n"], index: Rows, node: Rows) -> tuple[Leaves, Leaves]:
    """Return x' + α (x − x') and x − x', each with its own x': node k starts at draw k mod the number of draws."""
    ops = draws.problem.ops
    begin = draws.at(index, node % draws.count)
    ends = (ops.take(leaf, index) for leaf in draws.problem.point)
    velocity = tuple(x - b for x, b in zip(ends, begin, strict=True))
    return tuple(b + per_row(alpha, v, ops) * v for b, v in zip(begin, velocity, strict=True)), velocity
