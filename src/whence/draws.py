"""Draws: every example's own baselines at the site, number by number, made as they are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from whence.backends import Leaves
from whence.background import DataSet, Gaussian, Uniform
from whence.baseline import of_weights
from whence.errors import BadInput
from whence.problem import Problem
from whence.site import Parameter

Rows = Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Draws:
    """Starts drawn from a baseline, for each row of a problem: `samples` of them, or as many as it has."""

    problem: Problem
    baseline: Any
    samples: int | None = None

    @cached_property
    def _source(self) -> Any:
        # Noise is drawn anew each time: from a few starts again and again the error would be understated.
        endless = self.samples is not None and isinstance(self.baseline, (Gaussian, Uniform))
        return replace(self.baseline, draws=self.samples) if endless else self.baseline

    @property
    def count(self) -> int:
        """How many baselines an example has."""
        own = int(self._source.draws)
        return own if self.samples is None else min(self.samples, own)

    @cached_property
    def _rows(self) -> Leaves | None:
        """The rows of a data set in the order of their use, which all examples share."""
        source = self._source
        if not isinstance(source, DataSet) or self._of_weights:
            return None
        return self._finite(source.leaves(self.problem, source.order(self.problem, self.count)))

    @property
    def _of_weights(self) -> bool:
        return isinstance(self.problem.site, Parameter)

    @cached_property
    def _only(self) -> Leaves:
        if self._of_weights:
            return of_weights(self._source, self.problem, 0)
        return self.problem.project(self._finite(self._source.start(self.problem, 0)))

    def _finite(self, leaves: Leaves) -> Leaves:
        if not all(self.problem.ops.is_finite(leaf) for leaf in leaves):
            raise BadInput("the baseline holds NaN or infinity; nothing can be counted from there")
        return leaves

    def at(self, index: Rows, draw: Rows) -> Leaves:
        """Return baselines at the site: of example `index` [n] its draw number `draw` [n]."""
        ops = self.problem.ops
        if self.count == 1 and self._rows is None:
            return tuple(ops.take(leaf, index) for leaf in self._only)
        return self._problem(index).project(self._at_inputs(index, draw))

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
        order = np.argsort(draw, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(draw[order])) + 1)
        made = [
            self._finite(self._source.start(self._problem(index[group]), int(draw[group[0]])))
            for group in groups
        ]
        back = np.argsort(order)
        return tuple(ops.take(ops.concatenate(leaf), back) for leaf in zip(*made, strict=True))
