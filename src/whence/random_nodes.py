"""Integrals at random nodes: means of ∇f(x(α)) ⊙ dx/dα over α ∼ U(0, 1), with standard errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from whence.attribution import Trace
from whence.backends import Array
from whence.integrand import Curve, curve
from whence.moments import Running
from whence.path import Points
from whence.problem import Problem
from whence.shares import Shares, norms
from whence.visit import require_finite

FIRST = 64
# An example has converged when its estimated error times this is within the tolerance: that estimate is of the
# expected error, and a promise should hold for nearly all examples, not for the mean one.
SAFETY = 1.25
# The mean absolute value of a normal variable of unit variance: from standard errors to an expected L1 error.
HALF_NORMAL = np.sqrt(2 / np.pi)


def integrate(
    problem: Problem,
    points: Points,
    steps: int | None,
    rtol: float,
    most: int,
    draw: int,
    multiply: bool = True,
) -> Shares:
    """Draw nodes, the same for every row: `steps` of them, or twice as many until the error is within the tolerance.

    The error is √(2/π) Σ standard errors / ‖A‖₁, the L1 error that is expected of normal ones.
    """
    state = _State(problem, curve(problem, points, multiply))
    generator, rows = problem.random("nodes", draw), np.arange(len(problem.rows))
    active, error = rows, np.full(problem.output.shape, np.nan)
    count, evaluations = steps or min(FIRST, most), np.zeros(len(rows), dtype=np.int64)
    while len(active):
        state.visit(generator.random(count), active)
        evaluations[active] += count
        error[active] = state.error(active)
        used = len(state.alpha)
        if steps is not None or used >= most:
            break
        open_still = (SAFETY * error[active] > rtol).reshape(len(active), -1).any(1)
        active, count = active[open_still], min(used, most - used)
    met = np.ones(error.shape, dtype=bool) if steps is not None else SAFETY * error <= rtol
    return Shares(
        values=tuple(each.mean for each in state.running),
        error=error,
        standard_error=tuple(each.error_of_mean(problem.ops) for each in state.running),
        evaluations=evaluations,
        converged=met,
        trace=state.trace(evaluations),
    )


class _State:
    """The running moments of every row, and what was seen at the nodes."""

    def __init__(self, problem: Problem, curve: Curve) -> None:
        ops, shape = problem.ops, problem.output.shape
        self.problem, self.curve = problem, curve
        zeros = [ops.zeros((*shape, *leaf.shape[1:]), ops.wide(leaf[:1])) for leaf in problem.point]
        self.running = [Running(np.zeros(shape[0]), zero, zero * 0) for zero in zeros]
        self.alpha = np.zeros(0)
        self.output, self.slope = np.zeros((shape[0], 0, *shape[1:])), np.zeros((shape[0], 0, *shape[1:]))

    def visit(self, alpha: np.ndarray, active: np.ndarray) -> None:
        """Visit new nodes of some rows, row by row, in chunks."""
        nodes, problem = len(alpha), self.problem
        output = np.full((len(problem.rows), nodes, *self.output.shape[2:]), np.nan)
        slope = np.full_like(output, np.nan)
        first = len(self.alpha)

        def work(start: int, stop: int) -> Array:
            pair = np.arange(start, stop)
            row, node = active[pair // nodes], pair % nodes
            seen = self.curve.at(alpha[node], row, node + first)
            mine, place = np.unique(row, return_inverse=True)
            writes = [
                self._merged(each, part, mine, place)
                for each, part in zip(self.running, seen.parts, strict=True)
            ]
            output[row, node], slope[row, node] = (
                problem.ops.numpy(seen.output),
                problem.ops.numpy(seen.slope),
            )
            for write in writes:
                write()
            problem.run.progress.advance(len(pair))
            return seen.output

        problem.run.progress.expect(len(active) * nodes)
        problem.run.chunks.run(problem.run.backend, len(active) * nodes, work)
        flat = ((each[active]).reshape(-1, *each.shape[2:]) for each in (output, slope))
        require_finite(problem, np.repeat(active, nodes), np.tile(alpha, len(active)), *flat)
        self.alpha = np.concatenate([self.alpha, alpha])
        self.output = np.concatenate([self.output, output], axis=1)
        self.slope = np.concatenate([self.slope, slope], axis=1)

    def _merged(
        self, running: Running, part: Array, mine: np.ndarray, place: np.ndarray
    ) -> Callable[[], None]:
        """Return what merges one chunk's contributions [n, ...] into its rows' moments."""
        ops, flat = self.problem.ops, part.reshape(part.shape[0], -1)
        belongs = np.zeros((len(mine), len(place)))
        belongs[place, np.arange(len(place))] = 1
        count = belongs.sum(1)
        matrix = ops.like(belongs, flat)
        mean = (matrix @ flat) / ops.like(count[:, None], flat)
        centred = flat - ops.take(mean, place)
        shape = (len(mine), *part.shape[1:])
        return running.merge(
            ops, mine, count, mean.reshape(shape), (matrix @ (centred * centred)).reshape(shape)
        )

    def error(self, rows: np.ndarray) -> np.ndarray:
        """Return the relative L1 error that is expected of some rows."""
        ops, keep = self.problem.ops, self.problem.output.ndim

        def total(values: list[Array]) -> np.ndarray:
            return np.asarray(sum(norms(ops, ops.take(each, rows), keep) for each in values))

        size = total([each.mean for each in self.running])
        error = total([each.error_of_mean(ops) for each in self.running]) * HALF_NORMAL
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(error == 0, 0.0, error / size)

    def trace(self, evaluations: np.ndarray) -> Trace:
        """Return the nodes in order, each of equal weight; a row that left early ends in NaN."""
        seen = np.arange(len(self.alpha)) < evaluations[:, None]
        order = np.argsort(np.where(seen, self.alpha, np.inf), axis=1, kind="stable")

        def sorted_(values: np.ndarray) -> np.ndarray:
            indices = order.reshape(*order.shape, *(1,) * (values.ndim - 2))
            return np.take_along_axis(values, indices, 1)

        nodes = np.where(seen, self.alpha, np.nan)
        weights = np.where(seen, 1 / evaluations[:, None], np.nan)
        return Trace(*(sorted_(each) for each in (nodes, weights, self.output, self.slope)))
