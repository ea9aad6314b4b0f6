"""Rounds of draws: as many as were asked for, or twice as many until the shares are as sure as was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from whence.coalitions.effort import Effort
from whence.coalitions.game import Game
from whence.random_nodes import HALF_NORMAL
from whence.shares import Shares, joined

# A row has converged when its estimated error times this is within the tolerance. That estimate is of the expected
# error, and a promise is to hold for 95 of 100 rows: measured, Shapley values need up to 1.1 / 0.8 of it. The errors
# of means of one and the same output move together, at worst as one, and then it takes 1.96 / 0.8.
SURE, SURE_TOGETHER = 1.4, 2.45


@dataclass(frozen=True)
class Found:
    """Shares per feature [n, d, *K], their standard errors where they are sampled, and how well a surrogate fits.

    Of pairs of features there is the matrix, and its own relative error.
    """

    shares: Float[np.ndarray, "rows features *K"]
    standard_error: Float[np.ndarray, "rows features *K"] | None = None
    fidelity: Float[np.ndarray, "rows *K"] | None = None
    interactions: Float[np.ndarray, "rows *K features features"] | None = None
    error_of_pairs: Float[np.ndarray, "rows *K"] | None = None

    @property
    def error(self) -> Float[np.ndarray, "rows *K"]:
        """The relative L1 error that is expected, √(2/π) Σ standard errors / Σ |shares|; 0 where they are exact."""
        if self.error_of_pairs is not None:
            return self.error_of_pairs
        if self.standard_error is None:
            return np.zeros((len(self.shares), *self.shares.shape[2:]))
        return relative(self.standard_error.sum(1), np.abs(self.shares).sum(1))


def relative(errors: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the expected L1 error of numbers with such a sum of standard errors, relative to their size."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors == 0, 0.0, HALF_NORMAL * errors / size)


class Draws(Protocol):
    """What has been drawn so far for the rows that are still open, and what it says."""

    game: Game
    sure: float

    def grow(self, count: int) -> bool:
        """Draw until there are so many in all; tell whether there are more to draw."""
        ...

    def found(self) -> Found:
        """Return what the draws so far say."""
        ...

    def keep(self, rows: Int[np.ndarray, "some"]) -> None:
        """Go on with some of the rows alone."""
        ...


def explained(draws: Draws, asked: Effort, first: int, most: int, efficient: bool) -> Shares:
    """Return the shares after `most` draws; with a tolerance, rows leave when theirs are sure enough.

    Which draws there are depends on the seed alone, so an answer does not depend on the row's batch mates.
    """
    ops, open_rows = draws.game.problem.ops, np.arange(len(draws.game.problem.rows))
    parts: list[Shares] = []
    left: list[np.ndarray] = []
    count = most if asked.rtol is None else min(first, most)
    while True:
        more = draws.grow(count)
        found = draws.found()
        met = np.ones(found.error.shape, dtype=bool)
        if asked.rtol is not None:
            met = draws.sure * found.error <= asked.rtol
        leave = met.reshape(len(met), -1).all(1) | (count >= most) | (not more)
        index = np.flatnonzero(leave)
        if len(index):
            parts.append(_shares(draws.game, found, met, efficient).reordered(ops, index))
            left.append(open_rows[index])
        stay = np.flatnonzero(~leave)
        if not len(stay):
            return joined(ops, parts).reordered(ops, np.argsort(np.concatenate(left)))
        open_rows = open_rows[stay]
        draws.keep(stay)
        count = min(2 * count, most)


def _shares(game: Game, found: Found, met: np.ndarray, efficient: bool) -> Shares:
    return game.shares(
        found.shares, found.standard_error, efficient, error=found.error, converged=met, fidelity=found.fidelity,
        interactions=found.interactions,
    )  # fmt: skip
