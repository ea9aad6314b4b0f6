"""Expected gradients: integrated gradients averaged over baselines, with a new baseline at every random node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from whence import random_nodes
from whence.backends import Leaves
from whence.background import DataSet, Gaussian, Uniform
from whence.baseline import resolve
from whence.counts import whole
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
        draws = _Draws(problem, rows_or_baseline(self.baseline, problem.run.pictures), self.samples)
        shares = random_nodes.integrate(problem, draws.points, self.samples, DEFAULT_RTOL, self.samples, 0)
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


@dataclass(frozen=True)
class _Draws:
    """Every example's own baselines: node k of its path starts at draw k mod `count`."""

    problem: Problem
    baseline: Any
    samples: int

    @cached_property
    def _source(self) -> Any:
        # Noise is drawn anew for every gradient: from a few starts again and again the error would be understated.
        endless = isinstance(self.baseline, (Gaussian, Uniform))
        return replace(self.baseline, draws=self.samples) if endless else self.baseline

    @property
    def count(self) -> int:
        """How many baselines an example has."""
        return min(self.samples, self._source.draws)

    @cached_property
    def _rows(self) -> Leaves | None:
        """The rows of a data set in the order of their use, which all examples share."""
        source = self._source
        if not isinstance(source, DataSet):
            return None
        return source.leaves(self.problem, source.order(self.problem, self.count))

    @cached_property
    def _only(self) -> Leaves:
        return self._source.start(self.problem, 0)

    def points(self, alpha: Float[np.ndarray, "n"], index: Rows, node: Rows) -> tuple[Leaves, Leaves]:
        """Return x' + α (x − x') and x − x', each with its own x'."""
        ops = self.problem.ops
        begin = self.at(index, node % self.count)
        ends = (ops.take(leaf, index) for leaf in self.problem.point)
        velocity = tuple(x - b for x, b in zip(ends, begin, strict=True))
        return tuple(b + per_row(alpha, v, ops) * v for b, v in zip(begin, velocity, strict=True)), velocity

    def at(self, index: Rows, draw: Rows) -> Leaves:
        """Return baselines at the site: of example `index` [n] its draw number `draw` [n]."""
        inputs = self._at_inputs(index, draw)
        return self._problem(index).project(inputs)

    def output(self) -> Float[np.ndarray, "rows ..."]:
        """Return the mean of f over each example's baselines."""
        problem, count = self.problem, self.count

        def work(part: Rows) -> Leaves:
            index = part // count
            return (problem.native_value(self.at(index, part % count), index),)

        (found,) = problem.chunked(len(problem.rows) * count, work)
        values = problem.ops.numpy(found).astype(np.float64)
        return values.reshape(len(problem.rows), count, *values.shape[1:]).mean(1)

    def _problem(self, index: Rows) -> Problem:
        problem = self.problem
        return problem.at(tuple(problem.ops.take(leaf, index) for leaf in problem.inputs), index)

    def _at_inputs(self, index: Rows, draw: Rows) -> Leaves:
        ops = self.problem.ops
        if self._rows is not None:
            return tuple(ops.take(leaf, draw) for leaf in self._rows)
        if self.count == 1:
            return tuple(ops.take(leaf, index) for leaf in self._only)
        order = np.argsort(draw, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(draw[order])) + 1)
        made = [self._source.start(self._problem(index[group]), int(draw[group[0]])) for group in groups]
        back = np.argsort(order)
        return tuple(ops.take(ops.concatenate(leaf), back) for leaf in zip(*made, strict=True))
