"""The exact integral of piecewise-linear networks: one gradient for each linear piece that the straight line crosses.

A point inside a gap tells how far its piece reaches to both sides; what is left of the gap is one or two smaller
gaps. A generation of gaps of all examples is one batch, and a piece is never visited twice. A bias-free network and
a zero baseline are one piece: one gradient. At the end the pieces must join: where they do not, one was missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.backends import Array, Leaves
from whence.errors import Refused
from whence.exact_pieces import Found, Gaps, Grouping, affordable, ordered, trace
from whence.naming import floating
from whence.path import per_row
from whence.problem import Problem
from whence.shares import Shares, norms, sums

# Gaps narrower than this many rounding errors are the seam between two pieces, not a piece.
SEAM = 64
# Pieces of one example; beyond it the network is too crumpled for counting and a tolerance is the better question.
DEFAULT_MAX_PIECES = 100_000
# How far the derivative along the line may be from the gradient's, relative to the largest term, and how large an
# error still counts as exact; in half precision, so many rounding errors.
AGREEMENT, ROUNDINGS = 1e-3, 8


def integrate(problem: Problem, start: Leaves, max_pieces: int = DEFAULT_MAX_PIECES) -> Shares:
    """Return ∫₀¹ ∇f(x' + αΔ) dα ⊙ Δ to rounding error, for every row.

    A row with more than `max_pieces` pieces has one gradient for each gap that is left at the end, and says so:
    its error is stated and it has not converged.

    Raises:
        Refused: the network is not piecewise linear along the line, or not finite there.
    """
    return walked(problem, start, max_pieces)[0]


def walked(
    problem: Problem, start: Leaves, max_pieces: int = DEFAULT_MAX_PIECES, grouping: Grouping | None = None
) -> tuple[Shares, Found]:
    """Return the integral, and the pieces themselves; each holds what the grouping makes of its gradient ⊙ Δ.

    Raises:
        Refused: as for `integrate`.
    """
    problem.run.record["exact"] = True
    walk = _Walk(problem, start, grouping)
    found, evaluations = _all_pieces(walk, max_pieces)
    if len(problem.rows) > 1 and walk.jumps(found).any():
        # Perhaps a layer whose batch is not its first axis was misread: one point at a time it cannot be.
        walk = _Walk(problem, start, grouping, alone=True)
        found, evaluations = _all_pieces(walk, max_pieces)
    return walk.shares(found, evaluations, max_pieces), found


def _all_pieces(walk: _Walk, max_pieces: int) -> tuple[Found, Int[np.ndarray, "rows"]]:
    """Return the pieces of every row, in order, and how many gradients they took."""
    evaluations = np.zeros(len(walk.problem.rows), dtype=np.int64)
    gaps, found = walk.whole(), list[Found]()
    while len(gaps):
        chosen, last = affordable(gaps, evaluations, max_pieces)
        pieces = walk.visit(gaps.at(chosen), last[chosen])
        found.append(pieces)
        evaluations += np.bincount(pieces.row, minlength=len(evaluations))
        gaps = gaps.at(~chosen).joined(walk.remaining(gaps.at(chosen), pieces, last[chosen]))
    return ordered(found, walk.problem.output.shape[1:]), evaluations


@dataclass
class _Walk:
    """The running sums of one walk along all rows' lines."""

    problem: Problem
    start: Leaves
    grouping: Grouping | None = None
    alone: bool = False
    ways: Leaves = field(init=False)
    totals: list[Array] = field(init=False)
    rounding: float = field(init=False)

    def __post_init__(self) -> None:
        problem, every = self.problem, self.problem.output.shape[1:]
        ops = problem.ops
        self.ways = tuple(x - s for x, s in zip(problem.point, self.start, strict=True))
        self.totals = [
            ops.zeros((leaf.shape[0], *every, *leaf.shape[1:]), ops.wide(leaf[:1])) for leaf in problem.point
        ]
        kinds = [floating(way) for way in self.ways]
        self.rounding = max(2.0**-7 if kind == "bfloat16" else float(np.finfo(kind).eps) for kind in kinds)

    @property
    def coarse(self) -> bool:
        """Whether rounding is an error worth stating: it is not in float64."""
        return self.rounding > float(np.finfo(np.float64).eps)

    def whole(self) -> Gaps:
        """Return the whole line of every row that has one: an input on its baseline has none."""
        moves = sum(norms(self.problem.ops, self.problem.ops.wide(way), 1) for way in self.ways)
        row = np.flatnonzero(np.asarray(moves) > 0)
        return Gaps(row, np.zeros(len(row)), np.ones(len(row)))

    def visit(self, gaps: Gaps, last: Bool[np.ndarray, "gaps"]) -> Found:
        """Evaluate the middle of every gap and add its piece's share; for the `last` time, the whole gap's."""
        problem, ops = self.problem, self.problem.ops
        every = problem.output.shape[1:]
        ends, doubts = np.zeros((3, len(gaps))), np.zeros((2, len(gaps)))
        numbers = np.zeros((3, len(gaps), *every))
        held = np.zeros((len(gaps), *every, 0 if self.grouping is None else self.grouping.count))

        def work(first: int, stop: int) -> Array:
            here = gaps.at(np.arange(first, stop))
            row, middle = here.row, (here.left + here.right) / 2
            y, gradients, direction, slope, left, right = self._look(row, middle)
            reach = [middle + ops.numpy(each).astype(np.float64) for each in (left, right)]
            reach, seam = self._snapped(here, reach[0], reach[1])
            beyond = np.where(last[first:stop], here.right - here.left - (reach[1] - reach[0]), 0.0)
            parts = [
                ops.wide(g) * ops.wide(d[:, None] if every else d)
                for g, d in zip(gradients, direction, strict=True)
            ]
            told = [ops.numpy(ops.wide(each)).astype(np.float64) for each in (y, slope)]
            size = np.asarray(sum(norms(ops, part, 1 + len(every)) for part in parts))
            _require_finite(problem, told[0] + told[1] + size, row, middle)
            # A point on a border belongs to no piece, and its gradient to no side.
            self._require_agreement(parts, told[1], size, row, reach[1] > reach[0])
            writes = self._fold(row, reach[1] - reach[0] + beyond, parts)
            ends[:, first:stop], doubts[:, first:stop] = (middle, *reach), (beyond, seam)
            numbers[:, first:stop] = (*told, size)
            if self.grouping is not None:
                held[first:stop] = self.grouping.sums(row, parts)
            self.totals[:] = [write() for write in writes]
            problem.run.progress.advance(len(row))
            return y

        problem.run.progress.expect(len(gaps))
        problem.run.chunks.run(problem.run.backend, len(gaps), work)
        middle, left, right = ends
        weight = right - left + doubts[0]
        return Found(
            gaps.row,
            middle,
            left,
            right,
            weight,
            doubts[0],
            doubts[1],
            numbers[0],
            numbers[1],
            numbers[2],
            held,
        )

    def _look(
        self, row: Int[np.ndarray, "n"], middle: Float[np.ndarray, "n"]
    ) -> tuple[Array, Leaves, Leaves, Array, Array, Array]:
        """Return f, its gradients, the way, f's slope along it and the reach of the pieces, at points of the line."""
        ops = self.problem.ops
        if self.alone and len(row) > 1:
            one = [self._look(row[i : i + 1], middle[i : i + 1]) for i in range(len(row))]
            y, gradients, ways, slope, left, right = zip(*one, strict=True)
            leaves = [tuple(map(ops.concatenate, zip(*each, strict=True))) for each in (gradients, ways)]
            joined = [ops.concatenate(each) for each in (y, slope, left, right)]
            return joined[0], leaves[0], leaves[1], joined[1], joined[2], joined[3]
        direction = tuple(ops.take(way, row) for way in self.ways)
        begin = tuple(ops.take(leaf, row) for leaf in self.start)
        point = tuple(b + per_row(middle, d, ops) * d for b, d in zip(begin, direction, strict=True))
        y, gradients, slope, left, right = self.problem.run.backend.pieces(
            lambda leaves: self.problem.evaluate(leaves, row), point, direction
        )
        return y, gradients, direction, slope, left, right

    def _snapped(
        self, gaps: Gaps, left: np.ndarray, right: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Return a piece's ends inside its gap, and the seam: what is too narrow to be a gap belongs to the piece."""
        narrow = SEAM * self.rounding
        left, right = np.maximum(left, gaps.left), np.minimum(right, gaps.right)
        before, after = left - gaps.left, gaps.right - right
        ends = (
            np.where(before <= narrow, gaps.left, left),
            np.where(after <= narrow, gaps.right, right),
        )
        return ends, np.where(before <= narrow, before, 0) + np.where(after <= narrow, after, 0)

    def _fold(self, row: np.ndarray, width: np.ndarray, parts: list[Array]) -> list[Callable[[], Array]]:
        return [
            self.problem.ops.accumulate(total, row, width, part.reshape(len(row), -1))
            for total, part in zip(self.totals, parts, strict=True)
        ]

    def _require_agreement(
        self, parts: list[Array], slope: np.ndarray, size: np.ndarray, row: np.ndarray, inside: np.ndarray
    ) -> None:
        """Check that the gradient is that of the values: a detached branch would make it another function's."""
        total = np.asarray(sum(sums(self.problem.ops, part, slope.ndim) for part in parts))
        most = max(AGREEMENT, ROUNDINGS * self.rounding)
        away = np.abs(total - slope) > most * np.maximum(size + np.abs(slope), 1e-30)
        wrong = np.argwhere(away & inside.reshape(-1, *(1,) * (slope.ndim - 1)))
        if len(wrong):
            where = tuple(wrong[0])
            raise Refused(
                f"exact quadrature: along the path of example {self.problem.rows[row[where[0]]]} the model's values "
                f"change by {slope[where]:.6g} and its gradient says {total[where]:.6g}; a detached branch cuts its "
                "gradient"
            )

    def remaining(self, gaps: Gaps, pieces: Found, last: Bool[np.ndarray, "gaps"]) -> Gaps:
        """Return what the pieces leave of their gaps."""
        before = Gaps(gaps.row, gaps.left, pieces.left).at((pieces.left > gaps.left) & ~last)
        after = Gaps(gaps.row, pieces.right, gaps.right).at((pieces.right < gaps.right) & ~last)
        return before.joined(after)

    def shares(self, found: Found, evaluations: Int[np.ndarray, "rows"], most: int) -> Shares:
        """Return the finished integrals, with the error that the pieces' joints and open gaps tell."""
        problem, every = self.problem, self.problem.output.shape[1:]
        error = self.jumps(found)
        doubt = found.doubt + (found.seam if self.coarse else 0.0)
        np.add.at(error, found.row, doubt.reshape(-1, *(1,) * len(every)) * found.size)
        keep = 1 + len(every)
        total = np.asarray(sum(norms(problem.ops, each, keep) for each in self.totals))
        error = np.divide(error, total, out=np.where(error > 0, np.inf, 0.0), where=total > 0)
        if self.coarse:
            error = np.maximum(error, np.where(total > 0, SEAM * self.rounding, 0.0))
        limit = max(AGREEMENT, ROUNDINGS * self.rounding)
        open_rows = np.bincount(found.row, found.doubt, minlength=len(error)) > SEAM * self.rounding
        if open_rows.any():
            problem.run.note(
                f"exact quadrature: example {problem.rows[np.argmax(open_rows)]} crosses more than {most} linear "
                "pieces; its last gaps have one gradient each. Raise max_evaluations, or use the default tolerance"
            )
        return Shares(
            values=tuple(self.totals),
            error=error,
            evaluations=evaluations,
            converged=(error <= limit) & ~open_rows.reshape(-1, *(1,) * len(every)),
            trace=trace(len(error), found),
        )

    def jumps(self, found: Found) -> Float[np.ndarray, "rows ..."]:
        """Return Σ |jumps of f| from piece to piece and at both ends, less what rounding explains."""
        problem = self.problem
        jumps = np.zeros(problem.output.shape)
        if not len(found.row):
            return jumps

        def reached(ends: np.ndarray) -> np.ndarray:
            return found.output + found.slope * (ends - found.middle).reshape(-1, *(1,) * (jumps.ndim - 1))

        left, right = reached(found.left), reached(found.right)
        first = np.flatnonzero(np.diff(found.row, prepend=-1))
        before = np.roll(right, 1, axis=0)
        before[first] = problem.value(self.start)[found.row[first]]
        scale = np.abs(left) + np.abs(before) + np.abs(found.slope) + found.size
        np.add.at(jumps, found.row, np.maximum(np.abs(left - before) - SEAM * self.rounding * scale, 0))
        last = np.append(first[1:], len(found.row)) - 1
        ends, scale = problem.output[found.row[last]], scale[last]
        jumps[found.row[last]] += np.maximum(np.abs(right[last] - ends) - SEAM * self.rounding * scale, 0)
        return jumps


def _require_finite(problem: Problem, numbers: np.ndarray, row: np.ndarray, middle: np.ndarray) -> None:
    wrong = np.argwhere(~np.isfinite(numbers))
    if len(wrong):
        first = wrong[0][0]
        raise Refused(
            f"the model's output or gradient is not finite at α = {middle[first]:.6g} on the path of example "
            f"{problem.rows[row[first]]}; its attribution is undefined: choose another baseline, or mend the model"
        )
