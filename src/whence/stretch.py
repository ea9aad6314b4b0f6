"""The straight way from what is absent to the input, cut into features, and the shares of pairs along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.backends import Array, Leaves
from whence.features.covers import Features, Labels
from whence.naming import floating
from whence.path import per_row
from whence.problem import Problem

Rows = Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Pairs:
    """The shares of pairs [n, *K, d, d], their relative error, what they cost, and whether they are good enough."""

    matrix: Float[np.ndarray, "rows *K d d"]
    error: Float[np.ndarray, "rows *K"]
    evaluations: Int[np.ndarray, "rows"]
    converged: Bool[np.ndarray, "rows *K"]


@dataclass(frozen=True, eq=False)
class Stretch:
    """The straight way Δ of every row from what is absent to the input, cut into features that do not overlap."""

    problem: Problem
    features: Features
    start: Leaves

    @property
    def count(self) -> int:
        """How many features there are."""
        return self.features.count

    @cached_property
    def ways(self) -> Leaves:
        """Δ = x − x', [n, ...]."""
        return tuple(x - s for x, s in zip(self.problem.point, self.start, strict=True))

    @cached_property
    def rounding(self) -> float:
        """The rounding error of the site's coarsest array."""
        kinds = [floating(way) for way in self.ways]
        return max(2.0**-7 if kind == "bfloat16" else float(np.finfo(kind).eps) for kind in kinds)

    @cached_property
    def _labels(self) -> tuple[Int[np.ndarray, "rows numbers"], ...]:
        def wide(labels: np.ndarray, leaf: Array, first: int) -> np.ndarray:
            full = np.broadcast_to(labels, (len(labels), *leaf.shape[1:])).reshape(len(labels), -1)
            return np.where(full < 0, -1, full + first)

        covers = [cover for cover in self.features.covers if isinstance(cover, Labels)]
        triples = zip(covers, self.problem.point, self.features.offsets, strict=True)
        return tuple(wide(cover.labels, leaf, first) for cover, leaf, first in triples)

    def part(self, rows: Rows) -> Stretch:
        """Return the ways of some rows."""
        ops = self.problem.ops
        problem = self.problem.part(rows)
        problem.__dict__["output"] = self.problem.output[rows]
        return Stretch(problem, self.features.part(rows), tuple(ops.take(leaf, rows) for leaf in self.start))

    def sums(self, row: Rows, parts: Sequence[Array]) -> Float[np.ndarray, "n *K features"]:
        """Return the sums over the numbers of each feature, of one array [n, (K), ...] for each of the site's."""
        ops, every = self.problem.ops, self.problem.output.shape[1:]
        total = np.zeros((len(row), *every, self.count))
        for part, labels in zip(parts, self._labels, strict=True):
            values = ops.numpy(ops.wide(part)).astype(np.float64).reshape(len(row), *every, -1)
            if len(labels) == 1:
                total += _grouped(values, labels[0], self.count)
                continue
            for one in np.unique(row):
                total[row == one] += _grouped(values[row == one], labels[one], self.count)
        return total

    def towards(self, row: Rows, signs: Float[np.ndarray, "n features"]) -> Leaves:
        """Return the way with the features times numbers."""
        ops = self.problem.ops
        padded = np.concatenate([signs, np.zeros((len(row), 1))], 1)

        def leaf(way: Array, labels: np.ndarray) -> Array:
            mine = labels[row] if len(labels) > 1 else np.broadcast_to(labels, (len(row), labels.shape[1]))
            factor = np.take_along_axis(padded, np.where(mine < 0, self.count, mine), 1)
            taken = ops.take(way, row)
            return taken * ops.like(factor.reshape(taken.shape), taken)

        return tuple(leaf(way, labels) for way, labels in zip(self.ways, self._labels, strict=True))

    def at(self, row: Rows, u: Float[np.ndarray, "n"]) -> Leaves:
        """Return points x' + uΔ."""
        ops = self.problem.ops
        pairs = [
            tuple(ops.take(leaf, row) for leaf in pair) for pair in zip(self.start, self.ways, strict=True)
        ]
        return tuple(begin + per_row(u, way, ops) * way for begin, way in pairs)


def _grouped(
    values: Float[np.ndarray, "n *K numbers"], labels: Int[np.ndarray, "numbers"], count: int
) -> np.ndarray:
    if len(labels) == count and (labels == np.arange(count)).all():
        return values
    order = np.argsort(labels, kind="stable")
    first = np.flatnonzero(np.diff(labels[order], prepend=-2))
    names = labels[order][first]
    total = np.zeros((*values.shape[:-1], count))
    # Features are numbered from 0: what belongs to none comes first.
    total[..., names[names >= 0]] = np.add.reduceat(values[..., order], first, axis=-1)[..., names >= 0]
    return total
