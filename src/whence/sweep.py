"""Visiting nodes of straight lines in one compiled loop, where a backend has one and the question is plain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from whence.backends import Array, Leaves
from whence.problem import Problem

# Pairs between two looks at the keyboard.
LOT = 1_024
# Rows in one round of the loop, for small inputs and for large ones (numbers in a row).
SMALL, FEW, LARGE = 64, 8, 10_000


@dataclass(frozen=True)
class Pairs:
    """Some pairs of an example and a node on its line, and the sums that they add to, as in `whence.visit.Visit`."""

    row: Int[np.ndarray, "pairs"]
    alpha: Float[np.ndarray, "pairs"]
    pair: Int[np.ndarray, "entries"]
    cell: Int[np.ndarray, "entries"]
    weight: Float[np.ndarray, "entries"]

    def lot(self, start: int, stop: int) -> Pairs:
        """Return some of the pairs, with their entries."""
        here, entries = slice(start, stop), slice(*np.searchsorted(self.pair, [start, stop]))
        return Pairs(
            self.row[here], self.alpha[here], self.pair[entries] - start, self.cell[entries], self.weight[entries]
        )  # fmt: skip


Loop = Callable[[Leaves, Pairs], tuple[Leaves, np.ndarray, np.ndarray]]
"""From the sums so far and some pairs to the new sums, and f and its slope at the pairs."""


def loop_of(problem: Problem, start: Leaves, steps: Leaves) -> Loop | None:
    """Return the loop over gradients on the lines start + α step; None where the backend has none for this question."""
    make: Any = getattr(problem.run.backend, "loop", None)
    run, target = problem.run, problem.target or problem.run.target
    plain = target is not None and target.linear and run.neuron is None and not run.along
    if make is None or not plain or len(start) != len(problem.point):
        return None
    rows = run.chunks.fixed or (SMALL if problem.features < LARGE else FEW)
    return make(problem.evaluate_all, start, steps, rows)


def swept(
    problem: Problem, loop: Loop, pairs: Pairs, sums: Leaves
) -> tuple[Leaves, np.ndarray, np.ndarray] | None:
    """Return the sums, and f and its slope at all pairs; None where memory runs out."""
    count = len(pairs.row)
    output, slope = np.zeros(count), np.zeros(count)
    problem.run.progress.expect(count)
    try:
        for begin in range(0, count, LOT):
            end = min(begin + LOT, count)
            sums, output[begin:end], slope[begin:end] = loop(sums, pairs.lot(begin, end))
            problem.run.progress.advance(end - begin)
    except Exception as problem_met:
        if not problem.run.backend.is_out_of_memory(problem_met):
            raise
        return None
    return sums, output, slope


def zeros(problem: Problem, like: Leaves, cells: int) -> list[Array]:
    """Return sums of nothing."""
    ops, classes = problem.ops, problem.output.shape[1:]
    return [ops.zeros((cells, *classes, *leaf.shape[1:]), ops.wide(leaf[:1])) for leaf in like]
