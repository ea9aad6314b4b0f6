"""Trying what a function depends on: inputs with some features changed, and whether the output notices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.backends import Leaves
from whence.baseline import resolve
from whence.draws import Draws
from whence.errors import Refused
from whence.features.covers import Features
from whence.metrics.judged import Judged

# Rows that are made at once, and of how many numbers at most.
ROWS, HELD = 1024, 2**24
# By what part of the largest output a number must move it to count: float noise is below it.
NOTICED = 1e-5

Arrays = tuple[Float[np.ndarray, "n ..."], ...]


@dataclass(frozen=True)
class Trials:
    """Inputs in which single features were changed, for every example, feature after feature."""

    judged: Judged
    features: Features

    def __post_init__(self) -> None:
        """Refuse inputs whose values have no between, and features that differ between examples."""
        ops = self.judged.problem.ops
        if not all(ops.is_float(leaf) for leaf in self.judged.problem.inputs):
            raise Refused("trying what the function depends on takes inputs of real numbers")
        if not self.features.alike:
            raise Refused("the examples have different numbers of features; give the same features for all")

    @property
    def count(self) -> int:
        """How many features there are."""
        return self.features.count

    @cached_property
    def inputs(self) -> Arrays:
        """The examples' numbers."""
        return self._numbers(self.judged.problem.inputs)

    def _numbers(self, leaves: Leaves) -> Arrays:
        return tuple(self.judged.problem.ops.numpy(leaf).astype(np.float64) for leaf in leaves)

    def native(self, arrays: Arrays) -> Leaves:
        """Return arrays as the framework's, in the inputs' type."""
        problem = self.judged.problem
        return tuple(problem.ops.like(each, leaf) for each, leaf in zip(arrays, problem.inputs, strict=True))

    def outputs(self, arrays: Arrays, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Return the explained number for other inputs of examples `rows`."""
        np.add.at(self.judged.evaluations, rows, 1)
        return self.judged.problem.value(self.native(arrays), rows)

    def baseline(self, given: Any) -> tuple[Arrays, Float[np.ndarray, "B"]]:
        """Return a baseline for every example, and the explained number there.

        Raises:
            Refused: it is several.
        """
        problem = self.judged.problem
        draws = Draws(problem, resolve(given, problem.run.pictures))
        if draws.count != 1:
            raise Refused("the axiom compares with one baseline, and this one is several")
        rows = np.arange(self.judged.count)
        start = self._numbers(draws.at(rows, np.zeros(len(rows), dtype=int)))
        return start, self.outputs(start, rows)

    def anywhere(self, number: int) -> Arrays:
        """Return a point of each example's box: the range of its inputs, or [0, 1] for pixels."""
        made: list[np.ndarray] = []
        for place, leaf in enumerate(self.inputs):
            part = self.judged.random(f"box {place}", number).random(leaf.shape[1:])
            flat = leaf.reshape(len(leaf), -1)
            shape = (len(leaf), *(1,) * (leaf.ndim - 1))
            low, high = flat.min(1).reshape(shape), flat.max(1).reshape(shape)
            if self.judged.problem.run.pictures:
                low, high = np.zeros_like(low), np.ones_like(high)
            # Of an example that is the same everywhere there is no range.
            high = np.where(high > low, high, low + 1)
            made.append(low + (high - low) * part)
        return tuple(made)

    def each_feature(
        self, base: Arrays, other: Arrays
    ) -> Iterator[tuple[Arrays, Int[np.ndarray, "n"], Int[np.ndarray, "n"]]]:
        """Return inputs that are `base`, but for one feature that is `other`: with their examples and features."""
        size = sum(int(np.prod(each.shape[1:])) for each in base)
        step = max(1, min(ROWS, HELD // size))
        total = self.judged.count * self.count
        for start in range(0, total, step):
            number = np.arange(start, min(start + step, total))
            rows, feature = number // self.count, number % self.count
            kept = self.features.absent_one(rows, feature)
            made = tuple(
                np.where(same, a[rows], b[rows]) for same, a, b in zip(kept, base, other, strict=True)
            )
            yield made, rows, feature

    def moves(self, base: Arrays, other: Arrays) -> Bool[np.ndarray, "B d"]:
        """Return which features move the output when they alone become those of `other`."""
        at_base = self.outputs(base, np.arange(self.judged.count))
        found = np.zeros((self.judged.count, self.count))
        for made, rows, feature in self.each_feature(base, other):
            found[rows, feature] = self.outputs(made, rows)
        return self.noticed(found, at_base)

    def noticed(
        self, found: Float[np.ndarray, "B d"], before: Float[np.ndarray, "B"]
    ) -> Bool[np.ndarray, "B d"]:
        """Return where outputs differ from those before by more than float noise."""
        largest = np.maximum(
            np.abs(found).max(1), np.maximum(np.abs(before), np.abs(self.judged.problem.output))
        )
        return np.abs(found - before[:, None]) > NOTICED * largest[:, None]

    def influence(self, tries: int, first: Arrays | None = None) -> Bool[np.ndarray, "B d"]:
        """Return which features move the output in some of the trials; the first starts at the examples themselves."""
        moved = np.zeros((self.judged.count, self.count), dtype=bool)
        base = self.inputs
        for trial in range(tries):
            other = first if first is not None and trial == 0 else self.anywhere(2 * trial)
            moved |= self.moves(base, other)
            base = self.anywhere(2 * trial + 1)
        return moved
