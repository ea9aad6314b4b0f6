"""Covers: which feature each number of an array belongs to, and masks, sums and pictures made from that."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.errors import Refused

Rows = Int[np.ndarray, "n"]
Masks = tuple[Bool[np.ndarray, "n ..."], ...]


class Cover(Protocol):
    """The features of one array; numbers that belong to none are always present."""

    @property
    def counts(self) -> Int[np.ndarray, "rows"]:
        """How many features there are: one number, or one for each row."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The sides after the batch: the array's, or 1 where all along it belong together."""
        ...

    def named(self, count: int) -> tuple[str, ...]:
        """Return what a person calls the features."""
        ...

    def part(self, rows: Rows) -> Cover:
        """Return the cover of some rows."""
        ...

    def present(self, rows: Rows, coalitions: Bool[np.ndarray, "n features"]) -> Bool[np.ndarray, "n ..."]:
        """Return which numbers are present where these features are."""
        ...

    def absent_one(self, rows: Rows, feature: Rows) -> Bool[np.ndarray, "n ..."]:
        """Return which numbers are present where all features but one are."""
        ...

    def touched(self, differs: Bool[np.ndarray, "rows ..."]) -> Bool[np.ndarray, "rows features"]:
        """Return which features hold a number for which this is true."""
        ...

    def painted(self, shares: Float[np.ndarray, "rows features *K"]) -> Float[np.ndarray, "rows *K ..."]:
        """Return every number's share: its feature's own, or the mean over those that overlap there."""
        ...

    def summed(self, values: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows features"]:
        """Return the sum of each feature's numbers."""
        ...


@dataclass(frozen=True, eq=False)
class Labels:
    """Features that do not overlap: their numbers [1 or rows, ...], -1 for what belongs to none.

    With `own` every row has its own; sides of length 1 are shared along the array's axis. `count` is how many features
    there are, where the labels do not tell.
    """

    labels: Int[np.ndarray, "rows ..."]
    kind: str
    names: tuple[str, ...] | None = None
    own: bool = False
    count: int | None = None

    @property
    def counts(self) -> Int[np.ndarray, "rows"]:
        if self.names is not None or self.count is not None:
            return np.full(len(self.labels), len(self.names or ()) if self.count is None else self.count)
        return self._largest + 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.labels.shape[1:]

    @cached_property
    def _largest(self) -> Int[np.ndarray, "rows"]:
        return self.labels.reshape(len(self.labels), -1).max(1, initial=-1)

    def named(self, count: int) -> tuple[str, ...]:
        return self.names or tuple(f"{self.kind} {number}" for number in range(count))

    def part(self, rows: Rows) -> Labels:
        return replace(self, labels=self.labels[rows]) if self.own else self

    def present(self, rows: Rows, coalitions: Bool[np.ndarray, "n features"]) -> Bool[np.ndarray, "n ..."]:
        # The last column is never switched off: -1 finds it.
        switches = np.concatenate([coalitions, np.ones((len(coalitions), 1), dtype=bool)], 1)
        if not self.own:
            return switches[:, self.labels[0]]
        mine = self.labels[rows].reshape(len(rows), -1)
        found = np.take_along_axis(switches, np.where(mine < 0, coalitions.shape[1], mine), 1)
        return found.reshape(len(rows), *self.labels.shape[1:])

    def absent_one(self, rows: Rows, feature: Rows) -> Bool[np.ndarray, "n ..."]:
        mine = self.labels[rows] if self.own else self.labels
        return mine != feature.reshape(-1, *(1,) * (self.labels.ndim - 1))

    def touched(self, differs: Bool[np.ndarray, "rows ..."]) -> Bool[np.ndarray, "rows features"]:
        shared = tuple(i for i in range(1, differs.ndim) if self.labels.shape[i] == 1)
        there = differs.any(shared, keepdims=True) & (self.labels >= 0)
        count, rows = int(self.counts[0]), len(differs)
        labels = np.broadcast_to(self.labels, there.shape)
        row = np.broadcast_to(np.arange(rows).reshape(-1, *(1,) * (there.ndim - 1)), there.shape)
        return np.bincount((row * count + labels)[there], minlength=rows * count).reshape(rows, count) > 0

    def only(self, chosen: Bool[np.ndarray, "rows features"]) -> Labels:
        """Return the cover by these features alone, each row's numbered anew; the others belong to none."""
        rank = np.where(chosen, np.cumsum(chosen, 1) - 1, -1)
        padded = np.concatenate([rank, np.full((len(rank), 1), -1)], 1)
        rows = np.arange(len(chosen)).reshape(-1, *(1,) * (self.labels.ndim - 1))
        labels, count = padded[rows, self.labels], int(chosen[0].sum())
        return Labels(labels, self.kind, own=True, count=count)

    def painted(self, shares: Float[np.ndarray, "rows features *K"]) -> Float[np.ndarray, "rows *K ..."]:
        padded = np.concatenate([shares, np.zeros_like(shares[:, :1])], 1)
        rows = np.arange(len(shares)).reshape(-1, *(1,) * (self.labels.ndim - 1))
        found = padded[rows, self.labels]
        return np.moveaxis(found, -1, 1) if shares.ndim == 3 else found

    def summed(self, values: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows features"]:
        shared = tuple(i for i in range(1, values.ndim) if self.labels.shape[i] == 1)
        there = values.sum(shared, keepdims=True)
        count, rows = int(self.counts.max()), len(values)
        labels = np.broadcast_to(self.labels, there.shape).reshape(rows, -1)
        # One place more, for what belongs to no feature.
        place = np.where(labels < 0, count, labels) + (count + 1) * np.arange(rows)[:, None]
        found = np.bincount(place.ravel(), there.ravel(), minlength=rows * (count + 1))
        return found.reshape(rows, count + 1)[:, :count]


@dataclass(frozen=True, eq=False)
class Windows:
    """Features that may overlap: each is a list of places [features, most] in a flattened array, -1 for none."""

    places: Int[np.ndarray, "features most"]
    sides: tuple[int, ...]
    kind: str = "window"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sides

    @property
    def counts(self) -> Int[np.ndarray, "1"]:
        return np.array([len(self.places)])

    def named(self, count: int) -> tuple[str, ...]:
        return tuple(f"{self.kind} {number}" for number in range(count))

    def part(self, rows: Rows) -> Windows:
        return self

    def present(self, rows: Rows, coalitions: Bool[np.ndarray, "n features"]) -> Bool[np.ndarray, "n ..."]:
        row, feature = np.nonzero(~coalitions)
        return self._cleared(len(coalitions), row, feature)

    def absent_one(self, rows: Rows, feature: Rows) -> Bool[np.ndarray, "n ..."]:
        inside = feature < len(self.places)
        return self._cleared(
            len(feature), np.flatnonzero(inside & (feature >= 0)), feature[inside & (feature >= 0)]
        )

    def _cleared(self, count: int, row: Rows, feature: Rows) -> Bool[np.ndarray, "n ..."]:
        # One place more, for what hangs over the border.
        size = int(np.prod(self.sides, dtype=int))
        found = np.ones((count, size + 1), dtype=bool)
        found[row[:, None], self.places[feature]] = False
        return found[:, :size].reshape(count, *self.sides)

    def touched(self, differs: Bool[np.ndarray, "rows ..."]) -> Bool[np.ndarray, "rows features"]:
        shared = tuple(i + 1 for i, side in enumerate(self.sides) if side == 1)
        flat = differs.any(shared).reshape(len(differs), -1)
        padded = np.concatenate([flat, np.zeros((len(flat), 1), dtype=bool)], 1)
        return np.any(padded[:, self.places], -1)

    def painted(self, shares: Float[np.ndarray, "rows features *K"]) -> Float[np.ndarray, "rows *K ..."]:
        from scipy.sparse import csr_array

        size = int(np.prod(self.sides, dtype=int))
        feature, column = np.nonzero(self.places >= 0)
        place = self.places[feature, column]
        matrix = csr_array((np.ones(len(place)), (place, feature)), shape=(size, len(self.places)))
        times = np.maximum(np.bincount(place, minlength=size), 1)
        flat = shares.reshape(len(shares), len(self.places), -1)
        found = (matrix @ np.moveaxis(flat, 1, 0).reshape(len(self.places), -1)) / times[:, None]
        found = found.reshape(size, len(shares), -1)
        found = np.moveaxis(found, (1, 2), (0, 1)).reshape(len(shares), -1, *self.sides)
        return found if shares.ndim == 3 else found[:, 0]

    def summed(self, values: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows features"]:
        shared = tuple(i + 1 for i, side in enumerate(self.sides) if side == 1)
        flat = values.sum(shared).reshape(len(values), -1)
        return np.concatenate([flat, np.zeros((len(flat), 1))], 1)[:, self.places].sum(-1)


@dataclass(frozen=True, eq=False)
class Features:
    """The features of all arrays of a problem; with `shared` the same number in two arrays is the same feature."""

    covers: tuple[Cover, ...]
    shared: bool = False
    _made: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Refuse features of which there are none."""
        if not self.counts.max(initial=0) and not any(
            isinstance(c, Labels) and c.count == 0 for c in self.covers
        ):
            raise Refused(
                "there is no feature to switch: the mask names none (numbers below 0 are never switched)"
            )

    @property
    def counts(self) -> Int[np.ndarray, "rows"]:
        """How many features there are: one number, or one for each row."""
        return np.asarray(self.covers[0].counts if self.shared else sum(each.counts for each in self.covers))

    @property
    def alike(self) -> bool:
        """Whether every row has the same number of features in each array."""
        return all(len(np.unique(each.counts)) == 1 for each in self.covers)

    @property
    def alike_in_rows(self) -> bool:
        """Whether all rows have the same features."""
        return not any(isinstance(each, Labels) and each.own for each in self.covers)

    @property
    def count(self) -> int:
        """How many features there are, where all rows have as many."""
        return int(self.counts[0])

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The number of the first feature of each array."""
        if self.shared:
            return (0,) * len(self.covers)
        counts = [int(each.counts[0]) for each in self.covers]
        return tuple(int(each) for each in np.cumsum([0, *counts[:-1]]))

    @property
    def single(self) -> bool:
        """Whether every number is a feature of its own."""
        return all(
            isinstance(each, Labels) and each.kind == "feature" and each.names is None for each in self.covers
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What a person calls the features."""
        if self.shared:
            return self.covers[0].named(self.count)
        return tuple(name for each in self.covers for name in each.named(int(each.counts[0])))

    def part(self, rows: Rows) -> Features:
        """Return the features of some rows."""
        return Features(tuple(each.part(rows) for each in self.covers), self.shared)

    def groups(self, rows: int) -> list[Rows]:
        """Return the rows that have equally many features in each array, group by group."""
        counts = np.stack([np.broadcast_to(each.counts, (rows,)) for each in self.covers], 1)
        _, which = np.unique(counts, axis=0, return_inverse=True)
        return [np.flatnonzero(which.ravel() == number) for number in range(int(which.max()) + 1)]

    def touched(self, differs: Masks) -> Bool[np.ndarray, "rows features"]:
        """Return which features hold a number, in any array, for which this is true."""
        found = [each.touched(there) for each, there in zip(self.covers, differs, strict=True)]
        return np.any(np.stack(found), 0) if self.shared else np.concatenate(found, 1)

    def only(self, chosen: Bool[np.ndarray, "rows features"]) -> Features | None:
        """Return these features alone, as many in each array for every row; None where they overlap."""
        parts: list[Cover] = []
        for cover, mine in zip(self.covers, self.by_array(chosen), strict=True):
            if not isinstance(cover, Labels):
                return None
            parts.append(cover.only(mine))
        return Features(tuple(parts), self.shared)

    def by_array(self, each: np.ndarray) -> list[np.ndarray]:
        """Return the columns [rows, features, ...] of each array's features."""
        ends = [first + int(cover.counts[0]) for first, cover in zip(self.offsets, self.covers, strict=True)]
        return [each[:, first:end] for first, end in zip(self.offsets, ends, strict=True)]

    def present(self, rows: Rows, coalitions: Bool[np.ndarray, "n features"]) -> Masks:
        """Return which numbers of each array are present where these features are."""
        parts = self.by_array(coalitions)
        return tuple(each.present(rows, mine) for each, mine in zip(self.covers, parts, strict=True))

    def absent_one(self, rows: Rows, feature: Rows) -> Masks:
        """Return which numbers of each array are present where all features but one are."""
        return tuple(
            each.absent_one(rows, feature - first)
            for each, first in zip(self.covers, self.offsets, strict=True)
        )

    def painted(
        self, shares: Float[np.ndarray, "rows features *K"]
    ) -> tuple[Float[np.ndarray, "rows *K ..."], ...]:
        """Return the shares of every number in each array, with sides of length 1 where all share one."""
        parts = self.by_array(shares)
        return tuple(each.painted(mine) for each, mine in zip(self.covers, parts, strict=True))

    def summed(self, values: tuple[Float[np.ndarray, "rows ..."], ...]) -> Float[np.ndarray, "rows features"]:
        """Return the sum of each feature's numbers, over all arrays."""
        found = [each.summed(mine) for each, mine in zip(self.covers, values, strict=True)]
        return np.sum(found, 0) if self.shared else np.concatenate(found, 1)
