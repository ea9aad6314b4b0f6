"""Baselines that are drawn: noise, and rows of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from whence.backends import Array, Leaves
from whence.errors import BadInput
from whence.naming import short

if TYPE_CHECKING:
    from whence.problem import Problem


@dataclass(frozen=True)
class Uniform:
    """Uniform noise between `low` and `high`: by default the range of pixels, else each example's own."""

    draws: int = 10
    low: float | None = None
    high: float | None = None

    def start(self, problem: Problem, draw: int) -> Leaves:
        generator = problem.random("baseline", draw)

        def noise(leaf: Array) -> Array:
            low, high = limits(problem, leaf, self.low, self.high)
            return (
                leaf * 0 + low + (high - low) * problem.ops.like(generator.random(leaf.shape[1:])[None], leaf)
            )

        return tuple(noise(leaf) for leaf in problem.inputs)


@dataclass(frozen=True)
class Gaussian:
    """The input plus Gaussian noise of `noise` times each example's range."""

    draws: int = 10
    noise: float = 0.5

    def start(self, problem: Problem, draw: int) -> Leaves:
        generator = problem.random("baseline", draw)

        def noisy(leaf: Array) -> Array:
            drawn = problem.ops.like(generator.standard_normal(leaf.shape[1:])[None], leaf)
            return leaf + drawn * problem.spread(leaf) * self.noise

        return tuple(noisy(leaf) for leaf in problem.inputs)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Rows of a data set: all of them, or `samples` drawn without replacement."""

    rows: Any
    samples: int | None = None

    def __repr__(self) -> str:
        return f"dataset({short(self.rows)}{'' if self.samples is None else f', samples={self.samples}'})"

    @property
    def draws(self) -> int:
        """How many rows are averaged over."""
        count = len(_first(self.rows))
        return count if self.samples is None else min(self.samples, count)

    def start(self, problem: Problem, draw: int) -> Leaves:
        rows = self.leaves(problem)
        order = self.order(problem, self.draws)
        return tuple(
            leaf * 0 + problem.ops.take(row, order[draw : draw + 1])
            for row, leaf in zip(rows, problem.inputs, strict=True)
        )

    def leaves(self, problem: Problem) -> Leaves:
        """Return the rows as native arrays, one per input, checked against the inputs' shapes."""
        rows = as_leaves(self.rows, problem)
        for row, leaf in zip(rows, problem.inputs, strict=True):
            if row.shape[1:] != leaf.shape[1:]:
                raise BadInput(
                    f"baseline dataset: its rows are {tuple(row.shape[1:])} and the inputs {tuple(leaf.shape[1:])}; "
                    "give rows of the inputs' shape"
                )
        return rows

    def order(self, problem: Problem, count: int) -> np.ndarray:
        """Return `count` row numbers: shuffled, and each used once before any is used again."""
        total = len(_first(self.rows))
        if self.samples is None and count == total:
            return np.arange(total)
        rounds = range(-(-count // total))
        return np.concatenate([problem.random("dataset", j).permutation(total) for j in rounds])[:count]


def limits(problem: Problem, leaf: Array, low: float | None, high: float | None) -> tuple[Any, Any]:
    """Return the range of a feature: as given, else of pixels, else each example's own, [n, 1, ...]."""
    if low is not None and high is not None:
        return low, high
    if problem.run.pictures:
        return (0.0 if low is None else low), (1.0 if high is None else high)
    values = problem.ops.numpy(leaf).reshape(leaf.shape[0], -1)
    shape = (-1, *(1,) * (leaf.ndim - 1))
    least = problem.ops.like(values.min(1).reshape(shape), leaf) if low is None else low
    return least, problem.ops.like(values.max(1).reshape(shape), leaf) if high is None else high


def _first(rows: Any) -> Any:
    parts = list(rows.values()) if isinstance(rows, dict) else rows if isinstance(rows, tuple) else (rows,)
    return next(part for part in parts if part is not None)


def as_leaves(given: Any, problem: Problem) -> Leaves:
    """Return a user's arrays as native ones, one for each input."""
    present = problem.run.structure.parts(given)
    if len(present) != len(problem.inputs):
        raise BadInput(
            f"the baseline has {len(present)} arrays and the inputs {len(problem.inputs)}; give one for each"
        )
    return tuple(problem.native(part, leaf) for part, leaf in zip(present, problem.inputs, strict=True))
