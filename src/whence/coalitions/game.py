"""The game of features: f where some of them are as in the input and the others are absent, chunk by chunk.

The one driver of every method that switches features on and off. What is on is a row of booleans, a coalition; masks of
the inputs' size are made for one chunk of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.backends import Array, Leaves
from whence.coalitions.fusion import Fused, fused
from whence.draws import Draws
from whence.errors import Diverged, Refused
from whence.features.covers import Features, Masks, Rows
from whence.naming import floating
from whence.problem import Problem
from whence.shares import Shares

Coalitions = Bool[np.ndarray, "coalitions features"]
Values = Float[np.ndarray, "rows coalitions *K"]
# So many rounding errors apart, two numbers are the same: black is black by whatever way it was worked out.
ROUNDINGS = 4
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}


@dataclass(frozen=True, eq=False)
class Whole:
    """All features of rows whose game is played by some of them, `chosen` [rows, features]."""

    features: Features
    chosen: Bool[np.ndarray, "rows features"]

    def expanded(self, each: np.ndarray, axis: int = 1) -> np.ndarray:
        """Return numbers of the chosen features among zeros for the others, along an axis."""
        moved = np.moveaxis(each, axis, 1)
        found = np.zeros((len(each), self.chosen.shape[1], *moved.shape[2:]))
        found[self.chosen] = moved.reshape(-1, *moved.shape[2:])
        return np.moveaxis(found, 1, axis)


@dataclass(eq=False)
class Game:
    """A problem's rows as games: what each coalition of features is worth, averaged over the baseline's draws.

    Where `whole` is given, only the features that can make a difference play, and the shares of the others are 0. In
    `idle` rows none can, and the model is not asked.
    `evaluations` [n] counts the runs of the model so far, for each row.
    """

    problem: Problem
    features: Features
    draws: Draws
    whole: Whole | None = None
    idle: bool = False
    evaluations: Int[np.ndarray, "rows"] = field(init=False)
    _unfused: bool = False
    _fused: Fused | None = None

    def __post_init__(self) -> None:
        self.evaluations = np.zeros(len(self.problem.rows), dtype=np.int64)

    @property
    def count(self) -> int:
        """How many features there are."""
        return self.features.count

    @property
    def full(self) -> Float[np.ndarray, "rows *K"]:
        """F where every feature is as in the input."""
        return self.problem.output

    @cached_property
    def empty(self) -> Float[np.ndarray, "rows *K"]:
        """F where every feature is absent."""
        if self.idle:
            return self.full
        return self.values_of(1, lambda which: np.zeros((len(which), self.count), dtype=bool))[:, 0]

    def values(self, coalitions: Coalitions) -> Values:
        """Return f where the features of each coalition are present, in float64; of all and of none it is known."""
        if self.idle:
            return np.repeat(self.full[:, None], len(coalitions), 1)
        found = np.zeros((len(self.problem.rows), len(coalitions), *self.full.shape[1:]))
        size = coalitions.sum(1)
        inner = np.flatnonzero((size > 0) & (size < self.count))
        for ends, known in ((size == self.count, "full"), (size == 0, "empty")):
            if ends.any():
                found[:, ends] = getattr(self, known)[:, None]
        if len(inner):
            found[:, inner] = self.values_of(len(inner), lambda which: coalitions[inner[which]])
        return found

    def every(self) -> Values:
        """Return f of all 2^d coalitions, bit j of a number being feature j."""
        made = all_coalitions(self.count)
        inner = self.values_of(2**self.count - 2, lambda which: made(which + 1))
        return np.concatenate([self.empty[:, None], inner, self.full[:, None]], 1)

    def values_of(self, count: int, made: Callable[[Rows], Coalitions]) -> Values:
        """Return f for coalitions that are made from their numbers, when their chunk comes."""
        if not count:
            return np.zeros((len(self.problem.rows), 0, *self.full.shape[1:]))
        found = self._fused_values(count, made)
        if found is None:
            found = self._every(count, lambda rows, which: self.features.present(rows, made(which)))
        return found

    def values_each(self, count: int, made: Callable[[Rows, Rows], Coalitions]) -> Values:
        """Return f for `count` coalitions of each row, made for its own from the rows' and their numbers."""
        if not count:
            return np.zeros((len(self.problem.rows), 0, *self.full.shape[1:]))
        return self._every(count, lambda rows, which: self.features.present(rows, made(rows, which)))

    def values_where(
        self, rows: Rows, made: Callable[[Rows], Coalitions], only: Rows | None = None
    ) -> Float[np.ndarray, "n *K"]:
        """Return f of one coalition for each place in `rows` [n], made from the places when their chunk comes.

        Each is the mean over the baseline's draws, or from the one draw in `only` [n].
        """
        if not len(rows):
            return np.zeros((0, *self.full.shape[1:]))
        found = self._evaluated(
            len(rows),
            lambda number: (rows[number], number),
            lambda row, place: self.features.present(row, made(place)),
            only,
        )
        draws = self.draws.count if only is None else 1
        self.evaluations += np.bincount(rows, minlength=len(self.evaluations)) * draws
        return found

    def values_from(self, coalitions: Callable[[Rows], Coalitions], draw: Rows) -> Values:
        """Return f for coalitions that are made from their numbers, each from one draw of the baseline alone."""
        if self.draws.count == 1:
            return self.values_of(len(draw), coalitions)
        return self._every(
            len(draw), lambda rows, which: self.features.present(rows, coalitions(which)), draw
        )

    def without_each(self) -> Values:
        """Return f where one feature is absent, for each of them; where that changes nothing it is f(x)."""
        found = np.repeat(self.full[:, None], self.count, 1)
        rows, feature = np.nonzero(self.differing())
        masks = self.features.absent_one
        found[rows, feature] = self._evaluated(
            len(rows), lambda number: (rows[number], feature[number]), masks
        )
        self.evaluations += np.bincount(rows, minlength=len(found)) * self.draws.count
        return found

    def differing(self) -> Bool[np.ndarray, "rows features"]:
        """Return which features are other numbers where they are absent, by any of the baseline's draws."""
        problem = self.problem
        rows = np.arange(len(problem.rows))
        found = np.zeros((len(rows), self.count), dtype=bool)
        for draw in range(self.draws.count):
            absent = self.draws.at(rows, np.full(len(rows), draw))
            masks = tuple(self._apart(x, b) for x, b in zip(problem.point, absent, strict=True))
            found |= self.features.touched(masks)
            if found.all():
                break
        return found

    def _apart(self, x: Array, absent: Array) -> Bool[np.ndarray, "rows ..."]:
        """Return which numbers are others than where they are absent; in their last few digits they are the same."""
        ops = self.problem.ops
        if not ops.is_float(x) or self.problem.run.structure.table is not None:
            return ops.numpy(x != absent)
        one, two = (ops.numpy(ops.wide(each)) for each in (x, absent))
        digits = ROUNDINGS * EPSILON.get(floating(x), 2.0**-52)
        return np.abs(one - two) > digits * np.maximum(np.abs(one), np.abs(two))

    def part(self, rows: Rows) -> Game:
        """Return the games of some rows, with a count of their own."""
        problem = self.problem.part(rows)
        output = self.problem.output[rows]
        problem.__dict__["output"] = output
        whole = self.whole
        if whole is not None:
            whole = Whole(whole.features.part(rows), whole.chosen[rows])
        some = Game(problem, self.features.part(rows), replace(self.draws, problem=problem), whole, self.idle)
        some.evaluations = self.evaluations[rows]
        if "empty" in self.__dict__:
            some.__dict__["empty"] = self.empty[rows]
        return some

    def _fused_values(self, count: int, made: Callable[[Rows], Coalitions]) -> Values | None:
        """Return the values by way of the model's first affine operations, where that is cheaper."""
        if self._unfused:
            return None
        table = self._fused or fused(self.problem, self.features, self.draws, count)
        self._fused = table
        if table is None:
            return None
        rows = len(self.problem.rows)
        try:
            found = self._run(
                rows * count,
                lambda n: (n // count, n % count),
                lambda row, which, draw: table.values(row, made(which)),
            )
        except Diverged:
            self._unfused = True
            return None
        self.evaluations += count
        return found.reshape(rows, count, *self.full.shape[1:])

    def _every(self, count: int, masks: Callable[[Rows, Rows], Masks], only: Rows | None = None) -> Values:
        """Return f for every row and coalition."""
        rows = len(self.problem.rows)
        found = self._evaluated(rows * count, lambda number: (number // count, number % count), masks, only)
        self.evaluations += count * (self.draws.count if only is None else 1)
        return found.reshape(rows, count, *self.full.shape[1:])

    def _evaluated(
        self,
        total: int,
        place: Callable[[Rows], tuple[Rows, Rows]],
        masks: Callable[[Rows, Rows], Masks],
        only: Rows | None = None,
    ) -> Float[np.ndarray, "total *K"]:
        problem = self.problem

        def work(rows: Rows, which: Rows, draw: Rows) -> Array:
            point = self._mixed(rows, draw, masks(rows, which))
            return problem.run.backend.value(lambda leaves: problem.evaluate(leaves, rows), point)

        return self._run(total, place, work, only)

    def _run(
        self,
        total: int,
        place: Callable[[Rows], tuple[Rows, Rows]],
        work: Callable[[Rows, Rows, Rows], Array],
        only: Rows | None = None,
    ) -> Float[np.ndarray, "total *K"]:
        """Return what `work` gives for the row and coalition in each place: the mean over draws, or from `only` one."""
        problem, draws = self.problem, self.draws.count if only is None else 1
        found = np.zeros((total, *self.full.shape[1:]))

        def chunk(start: int, stop: int) -> Array:
            number = np.arange(start, stop)
            row, which = place(number // draws)
            y = work(row, which, number % draws if only is None else only[which])
            told = problem.ops.numpy(y).astype(np.float64)
            _require_finite(told, problem, row)
            if draws == 1:
                found[number] = told
            else:
                np.add.at(found, number // draws, told / draws)
            problem.run.progress.advance(len(number))
            return y

        problem.run.progress.expect(total * draws)
        problem.run.chunks.run(problem.run.backend, total * draws, chunk, kind=work.__code__)
        return found

    def _mixed(self, rows: Rows, draw: Rows, masks: Masks) -> Leaves:
        """Return points whose numbers come from the input where a mask is true, else from the baseline."""
        ops, problem = self.problem.ops, self.problem
        absent = self.draws.at(rows, draw)
        present = (ops.take(leaf, rows) for leaf in problem.point)
        return tuple(
            ops.where(ops.array(mask, x), x, b) for mask, x, b in zip(masks, present, absent, strict=True)
        )

    def shares(
        self,
        each: Float[np.ndarray, "rows features *K"],
        standard_error: Float[np.ndarray, "rows features *K"] | None = None,
        efficient: bool = False,
        **numbers: Any,
    ) -> Shares:
        """Return one number per feature as shares; `efficient` ones promise to sum to f(x) − f(x')."""
        residual = each.sum(1) - (self.full - self.empty) if efficient else None
        whole, features = self.whole, self.features
        if whole is not None:
            features, each = whole.features, whole.expanded(each)
            standard_error = None if standard_error is None else whole.expanded(standard_error)
            if numbers.get("interactions") is not None:
                pairs = numbers["interactions"]
                numbers["interactions"] = whole.expanded(whole.expanded(pairs, -1), -2)
        return Shares(
            values=self._laid(each, features),
            standard_error=None if standard_error is None else self._laid(standard_error, features),
            evaluations=self.evaluations.copy(),
            output=self.full,
            baseline_output=self.empty if efficient else None,
            residual=residual,
            features=None if features.single else np.moveaxis(each, 1, -1),
            **numbers,
        )

    def _laid(self, each: Float[np.ndarray, "rows features *K"], features: Features) -> Leaves:
        """Return numbers per feature laid over the arrays."""
        ops, classes = self.problem.ops, self.full.shape[1:]

        def leaf(painted: np.ndarray, x: Array) -> Array:
            wide = ops.wide(x[:1]) if ops.is_float(x) else None
            full = np.broadcast_to(painted, (len(self.problem.rows), *classes, *x.shape[1:]))
            # Of whole numbers the shares are floats.
            return ops.array(np.ascontiguousarray(full), x) if wide is None else ops.like(full, wide)

        return tuple(
            leaf(painted, x) for painted, x in zip(features.painted(each), self.problem.point, strict=True)
        )


def all_coalitions(count: int) -> Callable[[Rows], Coalitions]:
    """Return a function from the numbers of coalitions to the coalitions: bit j of the number is feature j."""
    bits = np.arange(count)
    return lambda which: (which[:, None] >> bits & 1).astype(bool)


def _require_finite(values: np.ndarray, problem: Problem, row: Rows) -> None:
    wrong = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
    if len(wrong):
        raise Refused(
            f"the model's output is not finite where features of example {problem.rows[row[wrong[0]]]} are absent; "
            "choose another baseline, or mend the model"
        )
