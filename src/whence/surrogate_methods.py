"""LIME: a linear model of the output near the input, fitted to what happens when features are taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from whence.coalitions import lime_table
from whence.coalitions.effort import Effort, above_zero, effort
from whence.coalitions.estimate import fitted
from whence.coalitions.game import Coalitions, Game, Values
from whence.coalitions.playing import absence, play
from whence.coalitions.rounds import Found
from whence.coalitions.sampling import Chance, Plan, sampled
from whence.counts import whole
from whence.errors import BadInput
from whence.features import laying
from whence.problem import Problem
from whence.registry import Method, register
from whence.shares import Shares

DEFAULT_SAMPLES = 1000
# Ribeiro et al.'s widths: of cosine distances between coalitions, and of Euclidean ones for each column's root.
WIDTH, WIDTH_OF_TABLES = 0.25, 0.75


@register(
    "lime", "A = argmin_β Σ_z √exp(−D(z)²/w²) (f(x_z) − a − β·z)² + λ‖β‖²",
    "Ribeiro, Singh, Guestrin 2016, arXiv:1602.04938", needs=("values",), title="LIME",
)  # fmt: skip
@dataclass(frozen=True)
class LIME(Method):
    """The weights of a linear model of the output near the input: ridge regression on random subsets of the features.

    For pictures as in the paper: superpixels, each on or off by chance, nearer the more of them are on (cosine
    distance). For a table with a background of rows: columns cut into quartiles (categories as they are), each drawn
    from the background's own column; a column is on where its value falls into the input's own bin. `fidelity` is the
    linear model's weighted R² on what it was fitted to.

    Attributes:
        features: as for FeatureAblation.
        baseline: as for Occlusion; rows of a data set make it a table's LIME.
        samples: how many random subsets (rows, of a table).
        rtol: instead, the relative L1 error that is asked for.
        max_evaluations: at most so many subsets, with rtol; None is 100,000.
        kernel_width: how far away still counts; None is 0.25, and for a table 0.75 times the root of its columns.
        ridge: how strongly the weights are shrunk.
        keep: only so many features, those with the largest weights, are fitted again and explained; None keeps all.
        bins: of a table's numbers: "quartile", "decile", or None, which leaves the columns on or off by chance.
    """

    features: Any = None
    baseline: Any = None
    samples: int = DEFAULT_SAMPLES
    rtol: float | None = None
    max_evaluations: int | None = None
    kernel_width: float | None = None
    ridge: float = 1.0
    keep: int | None = None
    bins: str | None = "quartile"
    switches = True

    def __post_init__(self) -> None:
        self._effort()
        above_zero(self.ridge, "lime: ridge", "1", zero=True)
        if self.kernel_width is not None:
            above_zero(self.kernel_width, "lime: kernel_width", "0.25")
        if self.keep is not None:
            whole(self.keep, "lime: keep")
        if self.bins is not None and self.bins not in [*lime_table.BINS]:
            raise BadInput(
                f"lime: bins is {self.bins!r}; it is {' or '.join(map(repr, lime_table.BINS))}, or None"
            )

    def _effort(self) -> Effort:
        return effort("lime", self.samples, self.rtol, self.max_evaluations, DEFAULT_SAMPLES, 2)

    def attribute(self, problem: Problem) -> Shares:
        return play(problem, self.features, laying.coarse, self.baseline, self._explained)

    def _explained(self, game: Game) -> Shares:
        if self.bins is not None and lime_table.is_table(
            game, absence(self.baseline, game.problem), self.bins
        ):
            return lime_table.explained(game, self, self._effort())
        plan = _Near(game, self._weights(WIDTH, _cosine), self.ridge, self.keep)
        return sampled(game, plan, self._effort(), efficient=False)

    def _weights(
        self, width: float, distance: Callable[[Coalitions], Float[np.ndarray, "n"]]
    ) -> Callable[[Coalitions], Float[np.ndarray, "n"]]:
        wide = self.kernel_width or width
        return lambda coalitions: np.exp(-(distance(coalitions) ** 2) / (2 * wide**2))


def _cosine(coalitions: Coalitions) -> Float[np.ndarray, "n"]:
    """Return 1 − √(|S|/d), the cosine distance of each coalition from the whole."""
    return 1 - np.sqrt(coalitions.mean(1))


class _Near(Chance, Plan):
    """Features on or off by chance, and ridge regression on them, weighted by nearness."""

    def __init__(
        self,
        game: Game,
        weights: Callable[[Coalitions], Float[np.ndarray, "n"]],
        ridge: float,
        keep: int | None,
    ) -> None:
        super().__init__(game)
        self.weights, self.ridge, self.keep = weights, ridge, keep

    def found(self, game: Game, values: Values) -> Found:
        weights = self.weights(self.coalitions) * self.times * self.each
        return fitted(self.coalitions, weights, self.times, values, self.ridge, self.keep, self.exact)
