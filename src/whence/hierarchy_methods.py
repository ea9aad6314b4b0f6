"""Shapley values of features in groups of groups, and of pairs of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence.coalitions.effort import Effort, effort
from whence.coalitions.estimate import interaction_values, shapley_values
from whence.coalitions.game import Game
from whence.coalitions.neighbours import FIRST, Neighbours, completed
from whence.coalitions.owen import Division, Tree, tree_of
from whence.coalitions.playing import play
from whence.counts import whole
from whence.errors import Refused
from whence.features import laying
from whence.problem import Problem
from whence.registry import Method, register
from whence.shapley_methods import MOST_EXACT, every_subset
from whence.shares import Shares, joined

DEFAULT_BUDGET, DEFAULT_SAMPLES = 500, 2000
# The matrix of pairs is d x d, and a round of sampling visits each pair.
MOST_FEATURES = 256
# A tree is made of Python objects.
MOST_LEAVES = 2**16


@register(
    "partition_shap", "A(G) = ½ Σ over S ∈ {∅, sister of G} of v(outside ∪ S ∪ G) − v(outside ∪ S), down a tree",
    "Owen 1977; Lundberg et al. 2020, Nature Machine Intelligence 2 (shap's partition explainer)",
    needs=("values",), title="PartitionSHAP",
)  # fmt: skip
@dataclass(frozen=True)
class PartitionShap(Method):
    """Owen values: credit is divided between the two branches of a tree of features, then within each, to the leaves.

    Features that belong together (neighbours in a picture, correlated columns) share a branch. The largest debts are
    divided first; what the budget leaves undivided is spread evenly over its features, and a note says so.

    Attributes:
        features: as for FeatureAblation.
        baseline: as for Occlusion.
        tree: scipy's linkage [d − 1, 4] of the features; None halves space, and joins a table's columns by their
            correlation in the background.
        max_evaluations: at most so many subsets (each is run with every row of a background); all of a balanced
            tree's are about d²·4/3.
    """

    features: Any = None
    baseline: Any = None
    tree: Any = None
    max_evaluations: int = DEFAULT_BUDGET
    switches = True

    def __post_init__(self) -> None:
        whole(self.max_evaluations, "partition_shap: max_evaluations")

    def attribute(self, problem: Problem) -> Shares:
        return play(problem, self.features, laying.coarse, self.baseline, self._explained)

    def _explained(self, game: Game) -> Shares:
        if game.count > MOST_LEAVES:
            raise Refused(
                f"partition_shap: a tree of {game.count:,} features is too large (at most {MOST_LEAVES:,}); group them "
                "(features=...)"
            )
        games = [game.part(np.array([row])) for row in range(len(game.full))]
        # Of superpixels every row has its own.
        whole = tree_of(game, self.tree) if game.features.alike_in_rows else None
        return joined(
            game.problem.ops, [self._row(each, whole or tree_of(each, self.tree)) for each in games]
        )

    def _row(self, game: Game, tree: Tree) -> Shares:
        division = Division(game, tree.order, self.max_evaluations)
        undivided = division.divide(tree.root)
        if undivided:
            game.problem.run.note(
                f"partition_shap: {self.max_evaluations} subsets did not reach all the way down the tree: what the "
                "smallest groups are worth is spread evenly over their features; raise max_evaluations"
            )
        shares = division.shares[None]
        met = np.full(game.full.shape, not undivided)
        # Of what is spread evenly nobody knows how far off it is: no error is stated.
        return game.shares(shares, efficient=True, converged=met)


@register(
    "shapley_interaction", "I_ij = Σ_{S∌i,j} |S|!(d−|S|−2)!/(d−1)! (v(S∪ij) − v(S∪i) − v(S∪j) + v(S))",
    "Grabisch, Roubens 1999; Lundberg et al. 2020", needs=("values", "few features"), title="Shapley interaction",
)  # fmt: skip
@dataclass(frozen=True)
class ShapleyInteraction(Method):
    """What pairs of features do together that neither does alone: the Shapley interaction index, and Shapley values.

    `interactions` [B, d, d] holds I_ij / 2 in both places of a pair and, on the diagonal, what is left of the Shapley
    value, so that its rows sum to the shares. With at least 2^d samples it is exact; else every round of orders visits
    each pair twice, and `error` is that of the matrix.

    Attributes:
        features: as for ExactShapley, and no more than 256.
        baseline: as for Occlusion.
        samples: how many subsets.
        rtol: instead, the relative L1 error that is asked for.
        max_evaluations: at most so many subsets, with rtol; None is 100,000.
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
        return effort("shapley_interaction", self.samples, self.rtol, self.max_evaluations, DEFAULT_SAMPLES)

    def attribute(self, problem: Problem) -> Shares:
        return play(problem, self.features, laying.few, self.baseline, self._explained, only_differing=True)

    def _explained(self, game: Game) -> Shares:
        asked = self._effort()
        if game.count > MOST_FEATURES:
            raise Refused(
                f"shapley_interaction: {game.count:,} features make too many pairs (at most {MOST_FEATURES}); group "
                "them (features=...)"
            )
        if game.count < 2:
            every = (game.full - game.empty)[:, None]
            exact = np.zeros(game.full.shape)
            matrix = np.moveaxis(every[:, None], (1, 2), (-2, -1))
            return game.shares(every, efficient=True, error=exact, interactions=matrix)
        pairs = Neighbours(game)
        # To a tolerance all subsets are visited where they are fewer than the first look.
        budget = min(asked.most, FIRST * pairs.cost) if asked.samples is None else asked.samples
        if game.count <= MOST_EXACT and 2**game.count <= budget:
            values = every_subset(game, "shapley_interaction", "integrated_hessians")
            shares = shapley_values(values, game.count)
            matrix = completed(interaction_values(values, game.count) / 2, shares)
            exact = np.zeros(game.full.shape)
            return game.shares(shares, efficient=True, error=exact, interactions=matrix)
        return pairs.explained(asked)
