"""The exact integral of piecewise-linear networks: one gradient for each linear piece that the straight line crosses.

A point inside a gap tells how far its piece reaches to both sides; what is left of the gap is one or two smaller
gaps. A generation of gaps of all examples is one batch, and a piece is never visited twice. A bias-free network and
a zero baseline are one piece: one gradient. At the end the pieces must join: where they do not, one was missed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

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
# How far the derivative along the line may be from the gradient's, relative to the largest term, and how large an
# error still counts as exact; in half precision, so many rounding errors.
AGREEMENT, ROUNDINGS = 1e-3, 8


@dataclass
class Gaps:
    """Parts of the line that no piece covers yet: of which row, and from where to where."""

    row: Int[np.ndarray, "gaps"]
    left: Float[np.ndarray, "gaps"]
    right: Float[np.ndarray, "gaps"]

    def __len__(self) -> int:
        return len(self.row)

    def at(self, index: np.ndarray) -> Gaps:
        """Return some of the gaps."""
        return Gaps(self.row[index], self.left[index], self.right[index])

    def joined(self, other: Gaps) -> Gaps:
        """Return the gaps of both, row by row."""
        pairs = ((self.row, other.row), (self.left, other.left), (self.right, other.right))
        both = Gaps(*(np.concatenate(pair) for pair in pairs))
        return both.at(np.argsort(both.row, kind="stable"))


@dataclass
class Found:
    """Pieces: their rows, the points that were visited, how far they reach, and what the model says there.

    `weight` is the width that the gradient counts for, and `doubt` the part of it that it was not seen to hold in;
    `size` is the L1 norm of gradient ⊙ way. The last three have a class axis where every class is explained.
    """

    row: Int[np.ndarray, "pieces"]
    middle: Float[np.ndarray, "pieces"]
    left: Float[np.ndarray, "pieces"]
    right: Float[np.ndarray, "pieces"]
    weight: Float[np.ndarray, "pieces"]
    doubt: Float[np.ndarray, "pieces"]
    output: Float[np.ndarray, "pieces ..."]
    slope: Float[np.ndarray, "pieces ..."]
    size: Float[np.ndarray, "pieces ..."]


def integrate(problem: Problem, start: Leaves, max_pieces: int = DEFAULT_MAX_PIECES) -> Shares:
    """Return ∫₀¹ ∇f(x' + αΔ) dα ⊙ Δ to rounding error, for every row.

    A row with more than `max_pieces` pieces has one gradient for each gap that is left at the end, and says so:
    its error is stated and it has not converged.

    Raises:
        Refused: the network is not piecewise linear along the line, or not finite there.
    """
    walk = _Walk(problem, start)
    evaluations = np.zeros(len(problem.rows), dtype=np.int64)
    gaps, found = walk.whole(), list[Found]()
    while len(gaps):
        chosen, last = _affordable(gaps, evaluations, max_pieces)
        pieces = walk.visit(gaps.at(chosen), last[chosen])
        found.append(pieces)
        evaluations += np.bincount(pieces.row, minlength=len(evaluations))
        gaps = gaps.at(~chosen).joined(walk.remaining(gaps.at(chosen), pieces, last[chosen]))
    return walk.shares(_ordered(found, problem), evaluations, max_pieces)


def _affordable(
    gaps: Gaps, evaluations: Int[np.ndarray, "rows"], most: int
) -> tuple[Bool[np.ndarray, "gaps"], Bool[np.ndarray, "gaps"]]:
    """Return which gaps to visit now, and which of them for the last time, whatever their pieces leave.

    Each gap may leave two, and in the end each needs one gradient: near the limit only the widest are visited.
    """
    count = np.bincount(gaps.row, minlength=len(evaluations))
    chosen, last = np.ones(len(gaps), dtype=bool), np.zeros(len(gaps), dtype=bool)
    for row in np.flatnonzero((count > 0) & (evaluations + 3 * count > most)):
        mine = np.flatnonzero(gaps.row == row)
        spare = (most - evaluations[row] - count[row]) // 2
        if spare < 1:
            last[mine] = True
            continue
        widest = np.argsort(gaps.left[mine] - gaps.right[mine], kind="stable")[:spare]
        chosen[mine] = False
        chosen[mine[widest]] = True
    return chosen, last


@dataclass
class _Walk:
    """The running sums of one walk along all rows' lines."""

    problem: Problem
    start: Leaves
    ways: Leaves = field(init=False)
    totals: list[Sums] = field(init=False)
    rounding: float = field(init=False)

    def __post_init__(self) -> None:
        problem, every = self.problem, self.problem.output.shape[1:]
        ops = problem.ops
        self.ways = tuple(x - s for x, s in zip(problem.point, self.start, strict=True))
        self.totals = [
            Sums(ops, (leaf.shape[0], *every, *leaf.shape[1:]), ops.wide(leaf[:1])) for leaf in problem.point
        ]
        kinds = [str(way.dtype).rpartition(".")[2] for way in self.ways]
        self.rounding = max(2.0**-7 if kind == "bfloat16" else float(np.finfo(kind).eps) for kind in kinds)

    def whole(self) -> Gaps:
        """Return the whole line of every row that has one: an input on its baseline has none."""
        moves = sum(norms(self.problem.ops, self.problem.ops.wide(way), 1) for way in self.ways)
        row = np.flatnonzero(np.asarray(moves) > 0)
        return Gaps(row, np.zeros(len(row)), np.ones(len(row)))

    def visit(self, gaps: Gaps, last: Bool[np.ndarray, "gaps"]) -> Found:
        """Evaluate the middle of every gap and add its piece's share; for the `last` time, the whole gap's."""
        problem, ops = self.problem, self.problem.ops
        every = problem.output.shape[1:]
        ends, doubt = np.zeros((3, len(gaps))), np.zeros(len(gaps))
        numbers = np.zeros((3, len(gaps), *every))

        def work(first: int, stop: int) -> Array:
            here = gaps.at(np.arange(first, stop))
            row, middle = here.row, (here.left + here.right) / 2
            direction = tuple(ops.take(way, row) for way in self.ways)
            begin = tuple(ops.take(leaf, row) for leaf in self.start)
            point = tuple(b + per_row(middle, d, ops) * d for b, d in zip(begin, direction, strict=True))
            y, gradients, slope, left, right = problem.run.backend.pieces(
                lambda leaves: problem.evaluate(leaves, row), point, direction
            )
            reach = [middle + ops.numpy(each).astype(np.float64) for each in (left, right)]
            reach = self._snapped(here, reach[0], reach[1])
            beyond = np.where(last[first:stop], here.right - here.left - (reach[1] - reach[0]), 0.0)
            parts = [
                ops.wide(g) * ops.wide(d[:, None] if every else d)
                for g, d in zip(gradients, direction, strict=True)
            ]
            told = [ops.numpy(ops.wide(each)).astype(np.float64) for each in (y, slope)]
            size = np.asarray(sum(norms(ops, part, 1 + len(every)) for part in parts))
            _require_finite(problem, told[0] + told[1] + size, row, middle)
            self._require_agreement(parts, told[1], size, row)
            writes = self._fold(row, reach[1] - reach[0] + beyond, parts)
            ends[:, first:stop], doubt[first:stop] = (middle, *reach), beyond
            numbers[:, first:stop] = (*told, size)
            for write in writes:
                write()
            problem.run.progress.advance(len(row))
            return y

        problem.run.progress.expect(len(gaps))
        problem.run.chunks.run(problem.run.backend, len(gaps), work)
        return Found(gaps.row, *ends, ends[2] - ends[1] + doubt, doubt, *numbers)

    def _snapped(self, gaps: Gaps, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a piece's ends inside its gap; what would be left of the gap as a mere seam belongs to it."""
        seam = SEAM * self.rounding
        left, right = np.maximum(left, gaps.left), np.minimum(right, gaps.right)
        left = np.where(left - gaps.left <= seam, gaps.left, left)
        return left, np.where(gaps.right - right <= seam, gaps.right, right)

    def _fold(self, row: np.ndarray, width: np.ndarray, parts: list[Array]) -> list[object]:
        first, last = int(row[0]), int(row[-1])
        weights = np.zeros((last - first + 1, len(row)))
        weights[row - first, np.arange(len(row))] = width
        return [
            total.fold(slice(first, last + 1), row - first, weights, part.reshape(len(row), -1))
            for total, part in zip(self.totals, parts, strict=True)
        ]

    def _require_agreement(
        self, parts: list[Array], slope: np.ndarray, size: np.ndarray, row: np.ndarray
    ) -> None:
        """Check that the gradient is that of the values: a detached branch would make it another function's."""
        total = np.asarray(sum(sums(self.problem.ops, part, slope.ndim) for part in parts))
        most = max(AGREEMENT, ROUNDINGS * self.rounding)
        wrong = np.argwhere(np.abs(total - slope) > most * np.maximum(size + np.abs(slope), 1e-30))
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
        error = self._jumps(found)
        np.add.at(error, found.row, found.doubt.reshape(-1, *(1,) * len(every)) * found.size)
        keep = 1 + len(every)
        total = np.asarray(sum(norms(problem.ops, each.total, keep) for each in self.totals))
        error = np.divide(error, total, out=np.where(error > 0, np.inf, 0.0), where=total > 0)
        limit = max(AGREEMENT, ROUNDINGS * self.rounding)
        open_rows = np.bincount(found.row, found.doubt, minlength=len(error)) > SEAM * self.rounding
        if open_rows.any():
            problem.run.note(
                f"exact quadrature: example {problem.rows[np.argmax(open_rows)]} crosses more than {most} linear "
                "pieces; its last gaps have one gradient each. Raise max_evaluations, or use the default tolerance"
            )
        return Shares(
            values=tuple(each.total for each in self.totals),
            error=error,
            evaluations=evaluations,
            converged=(error <= limit) & ~open_rows.reshape(-1, *(1,) * len(every)),
            trace=_trace(len(error), found),
        )

    def _jumps(self, found: Found) -> Float[np.ndarray, "rows ..."]:
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
            f"{problem.rows[row[first]]}; its attribution is undefined: choose another baseline, or mend the model there"
        )


def _ordered(found: list[Found], problem: Problem) -> Found:
    """Return all pieces, row by row from the baseline to the input."""
    every = problem.output.shape[1:]
    if not found:
        none = (np.zeros(0) for _ in range(5))
        return Found(np.zeros(0, dtype=int), *none, *(np.zeros((0, *every)) for _ in range(3)))
    columns = [np.concatenate(each) for each in zip(*(vars(part).values() for part in found), strict=True)]
    order = np.lexsort((columns[1], columns[0]))
    return Found(*(column[order] for column in columns))


def _trace(rows: int, found: Found) -> Trace:
    """Return the pieces as nodes: their middles, with their widths as weights, from the baseline to the input."""
    counts = np.bincount(found.row, minlength=rows)
    column = np.arange(len(found.row)) - np.repeat(np.cumsum(counts) - counts, counts)

    def table(values: np.ndarray) -> np.ndarray:
        full = np.full((rows, max(1, counts.max(initial=0)), *values.shape[1:]), np.nan)
        full[found.row, column] = values
        return full

    return Trace(*(table(each) for each in (found.middle, found.weight, found.output, found.slope)))
