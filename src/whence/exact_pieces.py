"""The pieces that an exact integral has found, and the gaps between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.attribution import Trace
from whence.backends import Array


class Grouping(Protocol):
    """Sums of gradient ⊙ way over groups of numbers, which pieces keep for whoever asks for them."""

    @property
    def count(self) -> int:
        """How many groups there are."""
        ...

    def sums(self, row: Int[np.ndarray, "n"], parts: Sequence[Array]) -> Float[np.ndarray, "n *K groups"]:
        """Return the sums over each group, of one array [n, (K), ...] for each of the site's."""
        ...


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

    `weight` is the width that the gradient counts for, `doubt` the part of it that it was not seen to hold in, and
    `seam` the part that rounding left unsettled; `size` is the L1 norm of gradient ⊙ way. The last three have a class
    axis where every class is explained. `held` are the sums of gradient ⊙ way over groups, of which there may be none.
    """

    row: Int[np.ndarray, "pieces"]
    middle: Float[np.ndarray, "pieces"]
    left: Float[np.ndarray, "pieces"]
    right: Float[np.ndarray, "pieces"]
    weight: Float[np.ndarray, "pieces"]
    doubt: Float[np.ndarray, "pieces"]
    seam: Float[np.ndarray, "pieces"]
    output: Float[np.ndarray, "pieces ..."]
    slope: Float[np.ndarray, "pieces ..."]
    size: Float[np.ndarray, "pieces ..."]
    held: Float[np.ndarray, "pieces *K groups"]


def affordable(
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


def ordered(found: list[Found], every: tuple[int, ...]) -> Found:
    """Return all pieces, row by row from the baseline to the input; `every` is the class axis, where there is one."""
    if not found:
        line, numbers = np.zeros(0), np.zeros((0, *every))
        where = (np.zeros(0, dtype=int), line, line, line, line, line, line)
        return Found(*where, numbers, numbers, numbers, np.zeros((0, *every, 0)))
    columns = [np.concatenate(each) for each in zip(*(vars(part).values() for part in found), strict=True)]
    order = np.lexsort((columns[1], columns[0]))
    return Found(*(column[order] for column in columns))


def trace(rows: int, found: Found) -> Trace:
    """Return the pieces as nodes: their middles, with their widths as weights, from the baseline to the input."""
    counts = np.bincount(found.row, minlength=rows)
    column = np.arange(len(found.row)) - np.repeat(np.cumsum(counts) - counts, counts)

    def table(values: np.ndarray) -> np.ndarray:
        full = np.full((rows, max(1, counts.max(initial=0)), *values.shape[1:]), np.nan)
        full[found.row, column] = values
        return full

    return Trace(*(table(each) for each in (found.middle, found.weight, found.output, found.slope)))
