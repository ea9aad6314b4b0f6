"""The exact integral of piecewise-linear networks: one gradient for each linear piece that the straight line crosses.

A point inside a gap tells how far its piece reaches to both sides; what is left of the gap is one or two smaller
gaps. A generation of gaps of all examples is one batch, and a piece is never visited twice. A bias-free network and
a zero baseline are one piece: one gradient.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from whence.attribution import Trace
from whence.backends import Array, Leaves
from whence.errors import Refused
from whence.integrate import Sums
from whence.path import per_row
from whence.problem import Problem
from whence.shares import Shares, norms, sums

# Gaps narrower than this many rounding errors are the seam between two pieces, not a piece.
SEAM = 64
# Pieces of one example; beyond it the network is too crumpled for counting and a tolerance is the better question.
DEFAULT_MAX_PIECES = 100_000
# How far the derivative along the line may be from the gradient's, relative to the largest term.
AGREEMENT = 1e-3


def integrate(problem: Problem, start: Leaves, max_pieces: int = DEFAULT_MAX_PIECES) -> Shares:
    """Return ∫₀¹ ∇f(x' + αΔ) dα ⊙ Δ to rounding error, for every row.

    Raises:
        Refused: the network is not piecewise linear along the line, or has more than `max_pieces` pieces.
    """
    if problem.every_class:
        raise Refused("exact quadrature explains one class at a time; give target= a class")
    ops, rows = problem.ops, len(problem.rows)
    ways = tuple(x - s for x, s in zip(problem.point, start, strict=True))
    totals = [Sums(ops, tuple(leaf.shape), ops.wide(leaf[:1])) for leaf in problem.point]
    seam = SEAM * float(np.finfo(str(ops.numpy(ways[0][:1]).dtype)).eps)
    found: list[np.ndarray] = []
    gaps = np.stack([np.arange(rows), np.zeros(rows), np.ones(rows)], axis=1)
    gaps = gaps[[any(bool((abs(way[row]) > 0).any()) for way in ways) for row in range(rows)]]
    evaluations = np.zeros(rows, dtype=np.int64)
    while len(gaps):
        pieces = _visit(problem, start, ways, gaps, totals)
        found.append(pieces)
        np.add.at(evaluations, pieces[:, 0].astype(int), 1)
        if evaluations.max() > max_pieces:
            raise Refused(
                f"exact quadrature: example {problem.rows[evaluations.argmax()]} crosses more than {max_pieces} linear "
                "pieces; use the default tolerance, or raise max_evaluations"
            )
        gaps = _remaining(gaps, pieces, seam)
    trace = _trace(rows, np.concatenate(found) if found else np.zeros((0, 6)))
    return Shares(
        values=tuple(each.total for each in totals),
        error=np.zeros(problem.output.shape),
        evaluations=evaluations,
        converged=np.ones(rows, dtype=bool),
        trace=trace,
    )


def _visit(
    problem: Problem, start: Leaves, ways: Leaves, gaps: np.ndarray, totals: list[Sums]
) -> Float[np.ndarray, "gaps 6"]:
    """Evaluate the middle of every gap, add its piece, and return rows of (row, middle, left, right, f, slope)."""
    ops = problem.ops
    found = np.zeros((len(gaps), 6))

    def work(first: int, last: int) -> Array:
        rows = gaps[first:last, 0].astype(int)
        middle = gaps[first:last, 1:].mean(1)
        direction = tuple(ops.take(way, rows) for way in ways)
        begin = tuple(ops.take(leaf, rows) for leaf in start)
        point = tuple(b + per_row(middle, d, ops) * d for b, d in zip(begin, direction, strict=True))
        y, gradients, slope, left, right = problem.run.backend.pieces(
            lambda leaves: problem.evaluate(leaves, rows), point, direction
        )
        reach = np.stack([ops.numpy(left), ops.numpy(right)], axis=1).astype(np.float64) + middle[:, None]
        reach = np.clip(reach, gaps[first:last, 1:2], gaps[first:last, 2:3])
        parts = [ops.wide(g) * ops.wide(d) for g, d in zip(gradients, direction, strict=True)]
        _require_agreement(problem, parts, ops.numpy(slope).astype(np.float64), rows)
        position, count = rows - rows[0], int(rows[-1] - rows[0]) + 1
        weights = np.zeros((count, len(rows)))
        weights[position, np.arange(len(rows))] = reach[:, 1] - reach[:, 0]
        writes = [
            total.fold(slice(int(rows[0]), int(rows[-1]) + 1), position, weights, part.reshape(len(rows), -1))
            for total, part in zip(totals, parts, strict=True)
        ]
        numbers = (rows, middle, reach[:, 0], reach[:, 1], ops.numpy(y), ops.numpy(slope))
        found[first:last] = np.stack(numbers, axis=1)
        for write in writes:
            write()
        problem.run.progress.advance(len(rows))
        return y

    problem.run.progress.expect(len(gaps))
    problem.run.chunks.run(problem.run.backend, len(gaps), work)
    return found


def _require_agreement(problem: Problem, parts: list[Array], slope: np.ndarray, rows: np.ndarray) -> None:
    """Check that the gradient is that of the values: a detached branch would make the integral another function's."""
    total = np.asarray(sum(sums(problem.ops, part, 1) for part in parts))
    size = np.asarray(sum(norms(problem.ops, part, 1) for part in parts)) + np.abs(slope)
    wrong = np.flatnonzero(np.abs(total - slope) > AGREEMENT * np.maximum(size, 1e-30))
    if len(wrong):
        raise Refused(
            f"exact quadrature: along the path of example {problem.rows[rows[wrong[0]]]} the model's values change by "
            f"{slope[wrong[0]]:.6g} and its gradient says {total[wrong[0]]:.6g}; a detached branch cuts its gradient"
        )


def _remaining(gaps: np.ndarray, pieces: np.ndarray, seam: float) -> np.ndarray:
    """Return what the pieces leave of their gaps, sorted by row, without seams."""
    before = np.stack([gaps[:, 0], gaps[:, 1], pieces[:, 2]], axis=1)
    after = np.stack([gaps[:, 0], pieces[:, 3], gaps[:, 2]], axis=1)
    left = np.concatenate([before, after])
    left = left[left[:, 2] - left[:, 1] > seam]
    return left[np.argsort(left[:, 0], kind="stable")]


def _trace(rows: int, found: np.ndarray) -> Trace:
    """Return the pieces as nodes: their middles, with their widths as weights, from the baseline to the input."""
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    counts = np.bincount(found[:, 0].astype(int), minlength=rows)
    column = np.concatenate([np.arange(count) for count in counts]) if len(found) else np.zeros(0, dtype=int)
    table = np.full((4, rows, max(1, counts.max(initial=0))), np.nan)
    values = (found[:, 1], found[:, 3] - found[:, 2], found[:, 4], found[:, 5])
    for part, each in zip(table, values, strict=True):
        part[found[:, 0].astype(int), column] = each
    return Trace(*table)
