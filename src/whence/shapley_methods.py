"""Shapley values: each feature's mean gain over all orders in which the features may come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence.coalitions.effort import Effort, effort
from whence.coalitions.estimate import constrained_least_squares, shapley_values
from whence.coalitions.game import Coalitions, Game, Values
from whence.coalitions.pairs import Pairs
from whence.coalitions.permutations import FIRST, Permutations
from whence.coalitions.playing import play
from whence.coalitions.rounds import SURE, Found
from whence.coalitions.sampling import Plan, sampled
from whence.errors import Refused
from whence.features import laying
from whence.problem import Problem
from whence.registry import Method, register
from whence.shares import Shares

# All subsets of so many features are visited; of more there are too many.
MOST_EXACT = 20
# A design of pairs needs a d x d system: above, features are to be grouped.
MOST_FEATURES = 4096
DEFAULT_SAMPLES, DEFAULT_ORDERS = 1000, 20
# So many pairs for each feature always tell all features apart.
CERTAIN = 4


@register(
    "exact_shapley", "A_i = Σ_{S∌i} |S|!(d−|S|−1)!/d! (v(S∪i) − v(S)), v(S) = mean over x' of f(x_S, x'_rest)",
    "Shapley 1953; Štrumbelj, Kononenko 2010, JMLR 11", needs=("values", "few features"), title="Exact Shapley",
)  # fmt: skip
@dataclass(frozen=True)
class ExactShapley(Method):
    """Shapley values from all 2^d subsets of the features: no sampling, and shares that sum to f(x) − f(x').

    Attributes:
        features: as for FeatureAblation, and no more than 20; None takes the cells of a 3 x 3 grid for pictures.
        baseline: as for Occlusion.

    Raises:
        Refused: there are more than 20 features.
    """

    features: Any = None
    baseline: Any = None
    switches = True

    def attribute(self, problem: Problem) -> Shares:
        return play(problem, self.features, laying.few, self.baseline, _exact, only_differing=True)


def _exact(game: Game) -> Shares:
    values = every_subset(game, "exact_shapley", "kernel_shap or shapley_sampling")
    exact = np.zeros(game.full.shape)
    return game.shares(shapley_values(values, game.count), efficient=True, error=exact)


def every_subset(game: Game, method: str, others: str) -> Values:
    """Return the values of all 2^d coalitions, bit j of a number being feature j.

    Raises:
        Refused: there are too many.
    """
    if game.count > MOST_EXACT:
        raise Refused(
            f"{method} visits all 2^d subsets of at most {MOST_EXACT} features, and {game.count:,} make a difference "
            f"here; group them (features=whence.features.grid(4)), or take {others}"
        )
    return game.every()


@register(
    "kernel_shap", "A = argmin_φ Σ_S (d−1)/(C(d,|S|)|S|(d−|S|)) (v(S) − v(∅) − Σ_{i∈S} φ_i)², Σφ = f(x) − f(x')",
    "Lundberg, Lee 2017, arXiv:1705.07874; Musco, Witter 2025, arXiv:2410.01917", needs=("values",), title="KernelSHAP",
)  # fmt: skip
@dataclass(frozen=True)
class KernelShap(Method):
    """Shapley values by least squares over sampled subsets: pairs of complements, none of them twice.

    Sizes are drawn by the geometric mean of leverage scores and kernel weights. With at least 2^d samples all subsets
    are visited and the values are exact.

    Attributes:
        features: as for FeatureAblation.
        baseline: as for Occlusion.
        samples: how many subsets, at least two for each feature.
        rtol: instead, the relative L1 error that is asked for.
        max_evaluations: at most so many subsets, with rtol; None is 100,000.

    Raises:
        Refused: there are more than 4,096 features.
    """

    features: Any = None
    baseline: Any = None
    samples: int = DEFAULT_SAMPLES
    rtol: float | None = None
    max_evaluations: int | None = None
    switches = True

    def __post_init__(self) -> None:
        self._effort()

    def _effort(self) -> Effort:
        return effort("kernel_shap", self.samples, self.rtol, self.max_evaluations, DEFAULT_SAMPLES)

    def attribute(self, problem: Problem) -> Shares:
        return play(
            problem, self.features, laying.coarse, self.baseline, self._explained, only_differing=True
        )

    def _explained(self, game: Game) -> Shares:
        if game.count > MOST_FEATURES:
            raise Refused(
                f"kernel_shap solves a system of d x d, and {game.count:,} features make it too large (at most "
                f"{MOST_FEATURES:,}); group them (features=...), or take shapley_sampling"
            )
        return sampled(game, _KernelPlan(game), self._effort(), efficient=True)


class _KernelPlan(Plan):
    """Pairs of complements under the Shapley kernel."""

    sure = SURE

    def __init__(self, game: Game) -> None:
        self.pairs = Pairs(game.count, lambda draw: game.problem.random("coalitions", draw))
        self.least = min(2 * (game.count + 1), 2 * self.pairs.total)

    @property
    def exhausted(self) -> bool:
        return self.pairs.total == sum(self.pairs.taken)

    def more(self, count: int) -> Coalitions:
        new = self.pairs.draw(max(1, count // 2))
        while not self._spans() and len(more := self.pairs.draw(max(1, self.pairs.count // 2))):
            new = np.concatenate([new, more])
        return np.stack([new, ~new], 1).reshape(-1, new.shape[1])

    def _spans(self) -> bool:
        """Tell whether the pairs so far tell all features apart."""
        pairs, d = self.pairs.coalitions, self.pairs.count
        if len(pairs) >= CERTAIN * d:
            return True
        signs = pairs - 0.5
        return bool(np.linalg.matrix_rank(signs - signs.mean(1, keepdims=True)) >= d - 1)

    def found(self, game: Game, values: Values) -> Found:
        change, pairs = game.full - game.empty, self.pairs
        if game.count == 1:
            return Found(change[:, None], np.zeros((len(change), 1, *change.shape[1:])))
        odd = (values[:, ::2] - values[:, 1::2]) / 2
        weights = pairs.standing[pairs.stratum]
        shares, error = constrained_least_squares(
            pairs.coalitions, weights, odd, change, pairs.stratum, pairs.missing
        )
        return Found(shares, np.full_like(shares, np.inf) if error is None else error)


@register(
    "shapley_sampling", "A_i = mean over orders π of v(before i in π, and i) − v(before i in π)",
    "Štrumbelj, Kononenko 2014, KAIS 41; antithetic: Mitchell, Cooper, Frank, Holmes 2022, JMLR 23", needs=("values",),
)  # fmt: skip
@dataclass(frozen=True)
class ShapleySampling(Method):
    """Shapley values by the mean gain over random orders of the features, each with its reverse.

    With a background of many rows every pair of orders starts from the next of them. With as many samples as there
    are subsets, all are visited and the values are exact.

    Attributes:
        features: as for FeatureAblation; None is the same.
        baseline: as for Occlusion.
        samples: how many orders, at least 4, each of d − 1 new subsets at the most.
        rtol: instead, the relative L1 error that is asked for.
        max_evaluations: at most so many subsets, with rtol; None is 100,000.
    """

    features: Any = None
    baseline: Any = None
    samples: int = DEFAULT_ORDERS
    rtol: float | None = None
    max_evaluations: int | None = None
    switches = True

    def __post_init__(self) -> None:
        self._effort()

    def _effort(self) -> Effort:
        return effort("shapley_sampling", self.samples, self.rtol, self.max_evaluations, DEFAULT_ORDERS, 4)

    def attribute(self, problem: Problem) -> Shares:
        return play(
            problem, self.features, laying.coarse, self.baseline, self._explained, only_differing=True
        )

    def _explained(self, game: Game) -> Shares:
        asked, orders = self._effort(), Permutations(game)
        # To a tolerance all subsets are visited where they are fewer than the first look.
        count = orders.cost * (FIRST if asked.samples is None else -(-asked.samples // 2))
        if game.count <= MOST_EXACT and 2**game.count <= count and game.draws.count == 1:
            return _exact(game)
        if self.samples == DEFAULT_ORDERS and asked.samples is not None and orders.cost * 10 > asked.most:
            raise Refused(
                f"shapley_sampling: {DEFAULT_ORDERS} orders of {game.count:,} features take {orders.cost * 10:,} "
                "subsets; group them (features=...), or say with samples= how many orders you can wait for"
            )
        return orders.explained(asked)
