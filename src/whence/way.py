"""The way of one method: from which baselines, along which path, and its integrals averaged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whence import exact, guided, held, taylor
from whence import path as paths
from whence.backends import Leaves
from whence.baseline import of_weights, strata
from whence.errors import BadInput, Refused
from whence.integrate import Accuracy, integrate
from whence.path import Guided, Through
from whence.problem import Problem
from whence.sampler import Stratum, average
from whence.shares import Shares
from whence.site import Parameter


@dataclass(frozen=True)
class Way:
    """From which baselines, along which path, with which features held at the input, and whether times the way."""

    baseline: Any
    path: Any
    where: Any
    multiply: bool = True

    @property
    def draws(self) -> int:
        """How many integrals are averaged."""
        return self.baseline.draws * self.path.draws

    def average(self, problem: Problem, accuracy: Accuracy) -> Shares:
        """Return the mean of the integrals from all baselines, along all trajectories."""

        def draw(number: int) -> Shares:
            travels = self._travels(problem)
            absent = _absent(travels, self.baseline, number // self.path.draws, self.where)
            start = self.path.start(travels, absent)
            # A blurred path begins elsewhere than at the baseline.
            start = held.place(travels, start, self.where) if travels.site is None else start
            output = travels.value(start)
            shares = self._integral(problem, start, output, accuracy, number)
            if self.multiply:
                return shares.with_residual(problem, output)
            return replace(shares, output=problem.output, baseline_output=output)

        return average(problem.ops, self._strata(), draw)

    def _travels(self, problem: Problem) -> Problem:
        """Return the question at the place that goes along the path: the site, or the inputs before it."""
        return problem.at_inputs() if isinstance(self.path, paths.AlongInput) else problem

    def _strata(self) -> list[Stratum]:
        trajectories = self.path.draws
        found: list[Stratum] = []
        for count, is_random in strata(self.baseline):
            if is_random:
                found.append(Stratum(count, trajectories, random=True))
            elif trajectories > 1:
                found += [Stratum(trajectories, random=True)] * count
            else:
                found.append(Stratum(count))
        return found

    def _integral(
        self, problem: Problem, start: Leaves, absent: np.ndarray, accuracy: Accuracy, number: int
    ) -> Shares:
        """Take one integral from one start, where f is `absent`, by whatever quadrature or path is asked for."""
        path = self.path
        if accuracy.quadrature in ("taylor", "exact"):
            if not isinstance(path, paths.Straight):
                raise Refused(
                    f"quadrature {accuracy.quadrature} goes along the straight line; leave path out"
                )
            if accuracy.quadrature == "taylor":
                return taylor.integrate(problem, start)
            return exact.integrate(problem, start, accuracy.max_evaluations)
        if isinstance(path, Guided):
            return guided.integrate(problem, start, path, accuracy)
        travels = self._travels(problem)
        points = path.between(travels, start, number)
        points = held.curve(travels, points, self.where) if travels.site is None else points
        if travels is not problem:
            # A branch around the layer carries a part of the difference, so that it does not tell the error.
            points, absent = Through(points), absent * np.nan
        elif not self.multiply:
            absent = absent * np.nan
        return integrate(problem, points, accuracy, absent, number, self.multiply)


def _absent(problem: Problem, baseline: Any, draw: int, where: Any) -> Leaves:
    """Return a baseline at the site; features of the input outside the mask are left as they are."""
    weights = isinstance(problem.site, Parameter)
    start: Leaves = of_weights(baseline, problem, draw) if weights else baseline.start(problem, draw)
    for leaf in start:
        if not problem.ops.is_finite(leaf):
            raise BadInput("the baseline holds NaN or infinity; nothing can be counted from there")
    return start if weights else problem.project(held.place(problem, start, where))
