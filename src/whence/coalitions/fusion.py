"""Fusion of coalitions with a model's first affine operations z = Wx + b: z(S) = z(x') + Σ_{j∈S} W Δ_j.

Those operations then run once for each feature instead of once for each coalition, and what is left of them is one
product of a row of zeros and ones with the table W Δ. It is the same number but for rounding; it is done where the
product is cheaper than the operations themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from whence.backends import Array, Leaves, Split
from whence.draws import Draws
from whence.errors import Diverged
from whence.features.covers import Features, Labels, Rows
from whence.fusion import fused as split_of
from whence.problem import Problem

# A table of more numbers than this is not worth its memory.
LARGEST = 2**24


@dataclass(frozen=True, eq=False)
class Fused:
    """The model after its first affine operations, and what each feature adds to what goes into it."""

    problem: Problem
    split: Split
    start: Leaves
    tables: tuple[Array, ...]

    def values(self, rows: Rows, coalitions: Bool[np.ndarray, "n features"]) -> Array:
        """Return f [n] (or [n, K]) where the features of each coalition are present."""
        ops = self.problem.ops
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        ends = [*first[1:], len(rows)]

        def leaf(start: Array, table: Array) -> Array:
            parts = [
                ops.like(coalitions[a:b], table)
                @ ops.take(table, rows[a : a + 1])[0].reshape(table.shape[1], -1)
                for a, b in zip(first, ends, strict=True)
            ]
            moved = ops.concatenate(parts) if len(parts) > 1 else parts[0]
            return ops.take(start, rows) + moved.reshape(len(rows), *start.shape[1:])

        z = tuple(leaf(start, table) for start, table in zip(self.start, self.tables, strict=True))
        return self.problem.run.backend.value(lambda leaves: self.split.value(leaves, rows), z)


def fused(problem: Problem, features: Features, draws: Draws, count: int) -> Fused | None:
    """Return the fused game, where the model can be split, its features do not overlap, and it is cheaper."""
    labels = all(isinstance(each, Labels) for each in features.covers)
    floats = all(problem.ops.is_float(leaf) for leaf in problem.point)
    if not (labels and floats and draws.count == 1) or count <= 2 * features.count:
        return None
    rows = np.arange(len(problem.rows))
    start = draws.at(rows, np.zeros(len(rows), dtype=int))
    split = split_of(problem, start, count)
    if split is None or split.multiplications <= features.count:
        return None
    try:
        z, sizes = split.start, sum(int(np.prod(leaf.shape[1:])) for leaf in split.start)
        if len(rows) * features.count * sizes > LARGEST:
            return None
        return Fused(problem, split, z, _tables(problem, features, split, start))
    except Diverged:
        return None


def _tables(problem: Problem, features: Features, split: Split, start: Leaves) -> tuple[Array, ...]:
    """Return what each feature alone adds to z, [rows, features, ...]."""
    ops, count = problem.ops, features.count

    def work(part: Rows) -> Leaves:
        rows, feature = part // count, part % count
        masks = features.present(rows, feature[:, None] == np.arange(count))
        pairs: Any = zip(masks, problem.point, start, strict=True)
        point = tuple(
            ops.where(ops.array(mask, x), ops.take(x, rows), ops.take(b, rows)) for mask, x, b in pairs
        )
        found = split.leaves(point, rows)
        return tuple(z - ops.take(base, rows) for z, base in zip(found, split.start, strict=True))

    tables = problem.chunked(len(problem.rows) * count, work)
    return tuple(each.reshape(len(problem.rows), count, *each.shape[1:]) for each in tables)
