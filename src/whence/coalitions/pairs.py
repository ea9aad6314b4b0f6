"""Pairs of a coalition and its complement, drawn by size without repetition."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

# A size with so few pairs is listed and shuffled at once, a larger one when much of it is asked for: till then random
# ones are hardly ever drawn twice.
LISTED, MUCH = 5_000, 4
# The draws of the seed that shuffle the lists: rounds are counted from 1.
LISTING = 1_000_000
# Counts above this are all the same to a budget, and still fit a float.
MANY = 2**62


class Pairs:
    """Pairs of a coalition and its complement, drawn by size without repetition; small sizes are visited whole.

    Pairs of size s and d − s are a stratum of C(d, s) pairs (half as many where s = d/2). Draws are spread over the
    strata in proportion to 1/√(s (d − s)), and what one cannot take goes to the others. That is the geometric mean of
    leverage scores, by which every size weighs alike (Musco, Witter 2025, arXiv:2410.01917), and of the Shapley kernel
    (Chen et al. 2025, arXiv:2506.05216); measured, it errs less than either.
    """

    def __init__(self, count: int, generator: Callable[[int], np.random.Generator]) -> None:
        self.count, self._random = count, generator
        self.sizes = np.arange(1, count // 2 + 1)
        self.totals = [math.comb(count, int(size)) // (2 if 2 * size == count else 1) for size in self.sizes]
        self.capped = np.array([float(min(total, MANY)) for total in self.totals])
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
        totals = self.capped
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

    @property
    def missing(self) -> Float[np.ndarray, "strata"]:
        """Which part of each stratum was not visited."""
        return 1 - np.array(self.taken) / self.capped

    @property
    def standing(self) -> Float[np.ndarray, "strata"]:
        """Return the Shapley kernel's weight of a whole stratum over the pairs taken: what one of them stands for.

        Of one coalition it is (d − 1) / (C(d, s) s (d − s)) (Lundberg, Lee 2017), of all of a size s without C(d, s).
        """
        halves = np.where(2 * self.sizes == self.count, 0.5, 1.0)
        whole = halves * (self.count - 1) / (self.sizes * (self.count - self.sizes))
        return whole / np.maximum(self.taken, 1)

    def _of_size(
        self, place: int, count: int, generator: np.random.Generator
    ) -> Bool[np.ndarray, "pairs features"]:
        total = self.totals[place]
        if total <= LISTED or MUCH * (self.taken[place] + count) >= total:
            if place not in self._listed:
                self._listed[place] = self._all_of_size(place)
            listed = self._listed[place]
            self._listed[place] = listed[count:]
            return listed[:count]
        found: list[np.ndarray] = []
        while len(found) < count:
            found += self._new(self._drawn(int(self.sizes[place]), count - len(found), generator))
        return np.stack(found)

    def _drawn(
        self, size: int, count: int, generator: np.random.Generator
    ) -> Bool[np.ndarray, "pairs features"]:
        drawn = np.zeros((count, self.count), dtype=bool)
        chosen = np.argsort(generator.random((count, self.count)), axis=1)[:, :size]
        np.put_along_axis(drawn, chosen, True, 1)
        # A half and its complement are one pair: it is known by the half without the first feature.
        return np.where(drawn[:, :1], ~drawn, drawn) if 2 * size == self.count else drawn

    def _new(self, drawn: Bool[np.ndarray, "pairs features"]) -> list[np.ndarray]:
        """Return those that were not drawn before, each once."""
        found: list[np.ndarray] = []
        for each, key in zip(drawn, np.packbits(drawn, axis=1), strict=True):
            name = key.tobytes()
            if name not in self._seen:
                self._seen.add(name)
                found.append(each)
        return found

    def _all_of_size(self, place: int) -> Bool[np.ndarray, "pairs features"]:
        """Return every pair of a stratum that was not drawn yet, shuffled by the seed."""
        size = int(self.sizes[place])
        # A half is known by the one of the pair that is without the first feature.
        first = 1 if 2 * size == self.count else 0
        chosen = np.array(list(combinations(range(first, self.count), size)))
        found = np.zeros((len(chosen), self.count), dtype=bool)
        np.put_along_axis(found, chosen, True, 1)
        if self.taken[place]:
            found = np.stack(self._new(found))
        return found[self._random(LISTING + place).permutation(len(found))]
