"""Which coalitions to visit: every one where they are few, else pairs of complements, each of them once.

A plan gives coalitions round by round and turns what they are worth into shares; `sampled` asks it for as many as a
budget allows, or for twice as many until the shares are as sure as was asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float

from whence.coalitions.game import Coalitions, Game, Values, all_coalitions
from whence.counts import whole
from whence.errors import BadInput
from whence.random_nodes import HALF_NORMAL, SAFETY
from whence.shares import Shares

FIRST, MOST = 256, 100_000
# Up to so many features all their subsets are visited, where as many samples are asked for.
ENUMERATED = 20
# Fewer pairs of one size than this are listed and shuffled; of more, random ones are hardly ever drawn twice.
LISTED = 50_000
# The draws of the seed that shuffle the lists: rounds are counted from 1.
LISTING = 1_000_000


@dataclass(frozen=True)
class Found:
    """Shares per feature [n, d, *K], their standard errors where they are sampled, and how well a surrogate fits."""

    shares: Float[np.ndarray, "rows features *K"]
    standard_error: Float[np.ndarray, "rows features *K"] | None = None
    fidelity: Float[np.ndarray, "rows *K"] | None = None
    interactions: Float[np.ndarray, "rows *K features features"] | None = None


class Plan(Protocol):
    """Coalitions to visit, and what is learnt from them."""

    least: int

    def more(self, count: int) -> Coalitions:
        """Return so many new coalitions, or fewer, or none where there are no others."""
        ...

    def found(self, game: Game, values: Values) -> Found:
        """Return the shares that follow from the values of all coalitions given so far."""
        ...


@dataclass(frozen=True)
class Effort:
    """How many coalitions: `samples`, or as many as the tolerance takes up to `most`."""

    samples: int | None
    rtol: float | None
    most: int = MOST


def effort(method: str, samples: Any, rtol: Any, most: Any, default: int, least: int = 1) -> Effort:
    """Return what a method's fields ask for; a tolerance takes the place of the default number.

    Raises:
        BadInput: both a number and a tolerance are given, or one that cannot be meant.
    """
    if rtol is not None and samples != default:
        raise BadInput(
            f"{method}: samples={samples} fixes the number of subsets and rtol={rtol} asks for as many as it takes; "
            "give one of them"
        )
    if rtol is not None and not (isinstance(rtol, (int, float)) and rtol > 0):
        raise BadInput(f"{method}: rtol is {rtol!r}; it is a relative error above 0, such as 0.05")
    count = whole(samples, f"{method}: samples", least)
    limit = MOST if most is None else whole(most, f"{method}: max_evaluations", least)
    return Effort(count if rtol is None else None, rtol, limit)


def sampled(game: Game, plan: Plan, asked: Effort, efficient: bool) -> Shares:
    """Return the shares of a plan; with a tolerance, rows leave when theirs are sure enough.

    The error is √(2/π) Σ standard errors / Σ |shares|, the L1 error that is expected of normal ones.
    """
    if asked.rtol is None:
        assert asked.samples is not None
        if plan.least > asked.samples:
            game.problem.run.note(
                f"{asked.samples} subsets cannot tell {game.count} features apart: {plan.least} were taken"
            )
        values = game.values(plan.more(max(asked.samples, plan.least)))
        return _shares(game, plan.found(game, values), efficient, None)
    open_rows = np.arange(len(game.problem.rows))
    parts: list[Shares] = []
    rows: list[np.ndarray] = []
    values = np.zeros((len(open_rows), 0, *game.full.shape[1:]))
    part, count = game, max(min(FIRST, asked.most), plan.least)
    while True:
        new = plan.more(count)
        values = np.concatenate([values, part.values(new)], 1)
        found = plan.found(part, values)
        error = relative_error(found)
        sure = (SAFETY * error <= asked.rtol).reshape(len(error), -1).all(1)
        spent = not len(new) or values.shape[1] >= asked.most
        leave = np.ones_like(sure) if spent else sure
        if leave.any():
            every = _shares(part, found, efficient, asked.rtol)
            index = np.flatnonzero(leave)
            parts.append(every.reordered(game.problem.ops, index))
            rows.append(open_rows[index])
        if leave.all():
            break
        stay = np.flatnonzero(~leave)
        open_rows, values = open_rows[stay], values[stay]
        before = part.evaluations[stay]
        part = part.part(stay)
        part.evaluations[:] = before
        count = min(values.shape[1], asked.most - values.shape[1])
    from whence.shares import joined

    whole_answer = joined(game.problem.ops, parts)
    return whole_answer.reordered(game.problem.ops, np.argsort(np.concatenate(rows)))


def relative_error(found: Found) -> Float[np.ndarray, "rows *K"]:
    """Return the relative L1 error that is expected of shares with these standard errors; 0 where they are exact."""
    if found.standard_error is None:
        return np.zeros((len(found.shares), *found.shares.shape[2:]))
    sums = HALF_NORMAL * found.standard_error.sum(1)
    size = np.abs(found.shares).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums == 0, 0.0, sums / size)


def _shares(game: Game, found: Found, efficient: bool, rtol: float | None) -> Shares:
    error = relative_error(found)
    return game.shares(
        found.shares,
        found.standard_error,
        efficient,
        error=error,
        converged=np.ones(error.shape, dtype=bool) if rtol is None else SAFETY * error <= rtol,
        fidelity=found.fidelity,
        interactions=found.interactions,
    )


# ---- features on or off by chance ---------------------------------------------------------------------------------


class Chance:
    """Coalitions in which each feature is on by chance; each is evaluated once, and counts as often as it was drawn.

    Where as many are asked for as there are subsets, all are visited instead: then they are `exact`.
    """

    def __init__(self, game: Game, probability: float = 0.5) -> None:
        self.game, self.probability = game, probability
        self.least = min(4, 2**game.count)
        self.coalitions = np.zeros((0, game.count), dtype=bool)
        self.times = np.zeros(0, dtype=np.int64)
        self.exact = False
        self._places: dict[bytes, int] = {}
        self._rounds = 0

    def more(self, count: int) -> Coalitions:
        """Return so many new coalitions, less those that were drawn before."""
        d = self.game.count
        if self.exact:
            return self.coalitions[:0]
        if d <= ENUMERATED and 2**d <= count + int(self.times.sum()):
            self.exact = True
            return self._entered(all_coalitions(d)(np.arange(2**d)), counted=False)
        drawn = self.game.problem.random("coalitions", self._rounds).random((count, d)) < self.probability
        if not self._rounds:
            # The first is the input itself.
            drawn[0] = True
        self._rounds += 1
        return self._entered(drawn, counted=True)

    def _entered(self, drawn: Coalitions, counted: bool) -> Coalitions:
        before, new = len(self.times), list[int]()
        places = np.zeros(len(drawn), dtype=np.int64)
        for number, bits in enumerate(np.packbits(drawn, axis=1)):
            next_place = before + len(new)
            places[number] = self._places.setdefault(bits.tobytes(), next_place)
            if places[number] == next_place:
                new.append(number)
        self.coalitions = np.concatenate([self.coalitions, drawn[new]])
        self.times = np.concatenate([self.times, np.zeros(len(new), dtype=np.int64)])
        if counted:
            np.add.at(self.times, places, 1)
        else:
            self.times[:] = 1
        return drawn[new]


# ---- pairs of complements, without repetition ------------------------------------------------------------------


class Pairs:
    """Pairs of a coalition and its complement, drawn by size without repetition; small sizes are visited whole.

    Pairs of size s and d − s are a stratum of C(d, s) pairs (half as many where s = d/2). Draws are spread over the
    strata in proportion to `weights`, and what one cannot take goes to the others: leverage sampling (Musco, Witter
    2025, arXiv:2410.01917), where every size weighs alike.
    """

    def __init__(self, count: int, generator: Callable[[int], np.random.Generator]) -> None:
        self.count, self._random = count, generator
        self.sizes = np.arange(1, count // 2 + 1)
        self.totals = [math.comb(count, int(size)) // (2 if 2 * size == count else 1) for size in self.sizes]
        self.taken = [0] * len(self.sizes)
        self._listed: dict[int, Bool[np.ndarray, "pairs features"]] = {}
        self._seen: set[bytes] = set()
        self._rounds = 0
        self.coalitions = np.zeros((0, count), dtype=bool)
        self.stratum = np.zeros(0, dtype=np.int64)

    @property
    def total(self) -> int:
        """How many pairs there are in all: one less than half of 2^d."""
        return sum(self.totals)

    def draw(self, pairs: int) -> Bool[np.ndarray, "pairs features"]:
        """Return so many new pairs (their smaller halves), or all that are left."""
        self._rounds += 1
        generator = self._random(self._rounds)
        new: list[np.ndarray] = []
        for place, wanted in enumerate(self._spread(pairs + sum(self.taken))):
            more = wanted - self.taken[place]
            if more > 0:
                new.append(self._of_size(place, more, generator))
                self.taken[place] = wanted
                self.stratum = np.concatenate([self.stratum, np.full(more, place)])
        found = np.concatenate(new) if new else np.zeros((0, self.count), dtype=bool)
        self.coalitions = np.concatenate([self.coalitions, found])
        return found

    def _spread(self, pairs: int) -> list[int]:
        """Return how many pairs of each stratum there are to be, of so many in all; none ever loses one."""
        if pairs >= self.total:
            return list(self.totals)
        weights = np.where(2 * self.sizes == self.count, 0.5, 1.0) / np.sqrt(
            self.sizes * (self.count - self.sizes)
        )
        totals = np.array([float(total) for total in self.totals])
        low, high = 0.0, float(pairs) / weights.min()
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if np.minimum(totals, middle * weights).sum() <= pairs else (low, middle)
            )
        exact = np.minimum(totals, low * weights)
        found = np.maximum(np.floor(exact), self.taken)
        for place in np.argsort(np.floor(exact) - exact, kind="stable"):
            if found.sum() < pairs and found[place] < totals[place]:
                found[place] += 1
        return [int(each) for each in found]

    def _of_size(self, place: int, count: int, generator: np.random.Generator) -> np.ndarray:
        size, taken = int(self.sizes[place]), self.taken[place]
        if self.totals[place] <= LISTED:
            if place not in self._listed:
                self._listed[place] = self._all_of_size(place)
            return self._listed[place][taken : taken + count]
        found: list[np.ndarray] = []
        while len(found) < count:
            drawn = np.zeros((count - len(found), self.count), dtype=bool)
            chosen = np.argsort(generator.random((len(drawn), self.count)), axis=1)[:, :size]
            np.put_along_axis(drawn, chosen, True, 1)
            if 2 * size == self.count:
                # A half and its complement are one pair: it is known by the half without the first feature.
                drawn = np.where(drawn[:, :1], ~drawn, drawn)
            for each, key in zip(drawn, np.packbits(drawn, axis=1), strict=True):
                name = key.tobytes()
                if name not in self._seen:
                    self._seen.add(name)
                    found.append(each)
        return np.stack(found)

    def _all_of_size(self, place: int) -> np.ndarray:
        """Return every pair of a stratum, shuffled by the seed."""
        size, total = int(self.sizes[place]), self.totals[place]
        # Of halves those without the first feature are the second half of the list.
        halves = 2 * size == self.count
        chosen = np.array(list(combinations(range(1 if halves else 0, self.count), size)))
        found = np.zeros((total, self.count), dtype=bool)
        np.put_along_axis(found, chosen, True, 1)
        return found[self._random(LISTING + place).permutation(total)]
