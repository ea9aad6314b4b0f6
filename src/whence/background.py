"""Baselines that are drawn: noise, and rows of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Int

from whence.attribution import to_numpy
from whence.backends import Array, Leaves
from whence.errors import BadInput
from whence.naming import short
from whence.table import Table, is_frame, taken

if TYPE_CHECKING:
    from whence.problem import Problem


@dataclass(frozen=True)
class Uniform:
    """Uniform noise between `low` and `high`: by default the range of pixels, else each example's own."""

    draws: int = 10
    low: float | None = None
    high: float | None = None
    is_random: ClassVar[bool] = True

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
    is_random: ClassVar[bool] = True

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

    def __post_init__(self) -> None:
        """Check what can be checked without the inputs."""
        counts = {_length(part) for part in _parts(self.rows)}
        if not counts or 0 in counts:
            raise BadInput("baseline dataset: it has no row; give at least one")
        if len(counts) > 1:
            raise BadInput(
                f"baseline dataset: its arrays have {sorted(counts)} rows; row k of each belongs to the same example"
            )

    def __repr__(self) -> str:
        return f"dataset({short(self.rows)}{'' if self.samples is None else f', samples={self.samples}'})"

    @property
    def draws(self) -> int:
        """How many rows are averaged over."""
        return self.count if self.samples is None else min(self.samples, self.count)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return _length(_parts(self.rows)[0])

    @property
    def is_random(self) -> bool:
        """Whether the rows are drawn from more: an average over all of them leaves nothing to chance."""
        return self.draws < self.count

    def start(self, problem: Problem, draw: int) -> Leaves:
        rows = self.leaves(problem, self.order(problem, self.draws)[draw : draw + 1])
        return tuple(leaf * 0 + row for row, leaf in zip(rows, problem.inputs, strict=True))

    def leaves(self, problem: Problem, numbers: Int[np.ndarray, "some"]) -> Leaves:
        """Return some rows as native arrays, one per input, checked against the inputs' shapes."""
        # Only what is used is made native: a data set may be large.
        structure = problem.run.structure
        # A table makes numbers of a frame, and that too of the rows that are used.
        given = structure.parts(self.rows) if structure.table is None else _parts(self.rows)
        rows = as_leaves(tuple(_taken(part, numbers, structure.table) for part in given), problem)
        for row, leaf in zip(rows, problem.inputs, strict=True):
            if row.shape[1:] != leaf.shape[1:]:
                raise BadInput(
                    f"baseline dataset: its rows are {tuple(row.shape[1:])} and the inputs {tuple(leaf.shape[1:])}; "
                    "give rows of the inputs' shape"
                )
        return rows

    def order(self, problem: Problem, count: int) -> np.ndarray:
        """Return `count` row numbers: shuffled, and each used once before any is used again."""
        total = self.count
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


def _parts(rows: Any) -> list[Any]:
    parts = rows.values() if isinstance(rows, Mapping) else rows if isinstance(rows, tuple) else (rows,)
    return [part for part in parts if part is not None]


def _length(part: Any) -> int:
    try:
        return len(part)
    except TypeError:
        raise BadInput(
            f"baseline dataset: {short(part)} has no rows; give an array [rows, ...] for each input"
        ) from None


def _taken(part: Any, numbers: Int[np.ndarray, "some"], table: Table | None) -> Any:
    if isinstance(part, list):
        return [part[number] for number in numbers]
    if table is not None and is_frame(part):
        return taken(part, numbers)
    part = part.to_numpy() if hasattr(part, "to_numpy") else part
    try:
        return part[numbers]
    except TypeError:
        # TensorFlow's arrays take no other arrays as an index.
        return np.asarray(part)[numbers]


def as_leaves(given: Any, problem: Problem) -> Leaves:
    """Return a user's arrays as native ones, one for each input."""
    present = problem.run.structure.parts(given)
    if len(present) != len(problem.inputs):
        raise BadInput(
            f"the baseline has {len(present)} arrays and the inputs {len(problem.inputs)}; give one for each"
        )
    return tuple(_native(problem, part, leaf) for part, leaf in zip(present, problem.inputs, strict=True))


def _native(problem: Problem, part: Any, leaf: Array) -> Array:
    if not problem.ops.is_float(leaf) and _has_fractions(part):
        raise BadInput(
            f"the baseline holds fractions, which the inputs, whole numbers ({leaf.dtype}), cannot take on; give the "
            "inputs as floats, or a baseline of whole numbers"
        )
    return problem.native(part, leaf)


def _has_fractions(part: Any) -> bool:
    values = to_numpy(part)
    return values.dtype.kind == "f" and bool((values != np.rint(values)).any())


def beside_inputs(array: Array, leaf: Array, problem: Problem, name: str) -> Array:
    """Return a user's array so that it broadcasts against an input [n, ...] of the problem.

    It is shaped like one example, or has one row for each of the user's examples; sides of length 1 are stretched.
    A sampler repeats examples: each copy keeps its own example's row.

    Raises:
        BadInput: it has another shape; `name` is what the user called it.
    """
    shape, wanted = tuple(array.shape), (problem.run.batch, *leaf.shape[1:])
    sides = zip(shape[::-1], wanted[::-1], strict=False)
    if len(shape) > len(wanted) or any(own not in (1, full) for own, full in sides):
        raise BadInput(
            f"{name} has shape {shape}, which does not fit the input {wanted}; give the input's, or one example's"
        )
    each_its_own = len(shape) == len(wanted) and shape[0] == problem.run.batch
    return problem.ops.take(array, problem.rows) if each_its_own else array
