"""Owen values: credit divided down a tree of features, the largest debts first."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.coalitions.game import Game
from whence.errors import BadInput
from whence.features.covers import Labels

# Coalitions evaluated in one go: enough for a chunk, few enough that the next ones are chosen well.
TOGETHER = 32
# Rows of a background from which correlations of columns are believed.
BELIEVED = 8


@dataclass(frozen=True)
class Tree:
    """A binary tree over features: `parts` are its two branches, none for a leaf; `members` all features below."""

    members: Bool[np.ndarray, "features"]
    parts: tuple[Tree, Tree] | None = None


def tree_of(game: Game, given: Any) -> Tree:
    """Return the tree of a user's linkage [d − 1, 4] (scipy's), or one that the features themselves suggest.

    Columns are joined by their correlation in the background, places by halving the space they lie in.

    Raises:
        BadInput: the linkage is not one of these features.
    """
    d = game.count
    if given is not None:
        return _of_linkage(np.asarray(given), d)
    found = _correlations(game)
    if found is not None:
        return _of_linkage(found, d)
    return _halved(np.arange(d), _places(game), d)


def _of_linkage(linkage: Float[np.ndarray, "joins 4"], count: int) -> Tree:
    if linkage.ndim != 2 or linkage.shape[0] != count - 1 or linkage.shape[1] < 2:
        raise BadInput(
            f"partition_shap: the tree is {linkage.shape}; give scipy's linkage [{count - 1}, 4] of the {count} "
            "features"
        )
    nodes = [_leaf(feature, count) for feature in range(count)]
    for joined in linkage[:, :2].astype(int):
        if not (joined < len(nodes)).all() or (joined < 0).any():
            raise BadInput("partition_shap: the tree names a cluster before it is made; give scipy's linkage")
        one, two = (nodes[each] for each in joined)
        nodes.append(Tree(one.members | two.members, (one, two)))
    if not nodes[-1].members.all():
        raise BadInput("partition_shap: the tree leaves features out; give scipy's linkage of all of them")
    return nodes[-1]


def _leaf(feature: int, count: int) -> Tree:
    return Tree(np.arange(count) == feature)


def _halved(
    features: Int[np.ndarray, "some"], places: Float[np.ndarray, "features axes"], count: int
) -> Tree:
    """Return the tree that cuts the features' places in half along the longer side, again and again."""
    if len(features) == 1:
        return _leaf(int(features[0]), count)
    mine = places[features]
    axis = int(np.argmax(mine.max(0) - mine.min(0)))
    order = features[np.argsort(mine[:, axis], kind="stable")]
    one, two = (_halved(half, places, count) for half in np.array_split(order, 2))
    return Tree(one.members | two.members, (one, two))


def _places(game: Game) -> Float[np.ndarray, "features axes"]:
    """Return where each feature lies: its array, and the mean place of its numbers there."""
    found: list[np.ndarray] = []
    for number, cover in enumerate(game.features.covers):
        if not isinstance(cover, Labels):
            return np.arange(game.count, dtype=float)[:, None]
        labels = cover.labels[0]
        inside = np.argwhere(labels >= 0)
        which = labels[labels >= 0]
        count = int(cover.counts[0])
        sizes = np.maximum(np.bincount(which, minlength=count), 1)
        sides = [np.bincount(which, inside[:, axis], count) / sizes for axis in range(inside.shape[1])]
        # Another array lies far away: it is cut off first.
        far = np.full(count, 1e6 * number)
        whole = np.stack([far, *sides], 1)
        found.append(whole)
    if game.features.shared:
        return found[0]
    most = max(each.shape[1] for each in found)
    return np.concatenate([np.pad(each, [(0, 0), (0, most - each.shape[1])]) for each in found])


def _correlations(game: Game) -> Float[np.ndarray, "joins 4"] | None:
    """Return the linkage of a table's columns by 1 − |correlation| in the background, where there is enough of it."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    problem, draws = game.problem, game.draws
    columns = len(problem.point) == 1 and problem.point[0].ndim == 2 and problem.site is None
    if not (columns and draws.count >= BELIEVED and game.count == problem.point[0].shape[1] > 1):
        return None
    every = np.arange(draws.count)
    rows = problem.ops.numpy(draws.at(np.zeros_like(every), every)[0]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        related = np.nan_to_num(np.abs(np.corrcoef(rows.T)))
    distance = np.clip(1 - related, 0, 1)
    np.fill_diagonal(distance, 0)
    return np.asarray(linkage(squareform(distance, checks=False), "complete"))


@dataclass
class Division:
    """One row's credit on its way down the tree, and what coalitions of it are known to be worth."""

    game: Game
    budget: int
    shares: Float[np.ndarray, "features *K"] = field(init=False)
    _matters: Bool[np.ndarray, "features"] = field(init=False)
    _known: dict[bytes, np.ndarray] = field(default_factory=dict[bytes, np.ndarray])
    _open: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    _pushed: int = 0

    def __post_init__(self) -> None:
        d = self.game.count
        self._matters = self.game.differing()[0]
        self.shares = np.zeros((d, *self.game.full.shape[1:]))
        self._known[self._key(np.zeros(d, dtype=bool))] = self.game.empty[0]
        self._known[self._key(np.ones(d, dtype=bool))] = self.game.full[0]

    def divide(self, tree: Tree) -> int:
        """Divide f(x) − f(x') down the tree within the budget; return how many groups stay undivided."""
        self._push(tree, np.zeros(self.game.count, dtype=bool), 1.0)
        while self._open:
            chosen = self._next()
            if not chosen:
                break
            self._evaluate([coalition for item in chosen for coalition in _needed(*item[:2])])
            for branch, outside, weight in chosen:
                assert branch.parts is not None
                one, two = branch.parts
                for part, other in ((one, two), (two, one)):
                    self._push(part, outside, weight / 2)
                    self._push(part, outside | other.members, weight / 2)
        for _, _, branch, outside, weight in self._open:
            # What there is no budget to divide is spread evenly.
            self.shares[branch.members] += weight * self._gain(branch, outside) / branch.members.sum()
        return len(self._open)

    def _push(self, tree: Tree, outside: Bool[np.ndarray, "features"], weight: float) -> None:
        gain = self._gain(tree, outside)
        if tree.parts is None:
            self.shares[tree.members] += weight * gain
            return
        # The number keeps the order of equal debts, and trees from being compared.
        self._pushed += 1
        heappush(self._open, (-weight * float(np.abs(gain).sum()), self._pushed, tree, outside, weight))

    def _gain(self, tree: Tree, outside: Bool[np.ndarray, "features"]) -> np.ndarray:
        return self._known[self._key(outside | tree.members)] - self._known[self._key(outside)]

    def _next(self) -> list[tuple[Tree, np.ndarray, float]]:
        """Return the largest debts, as many as the budget still allows in one go."""
        chosen: list[tuple[Tree, np.ndarray, float]] = []
        new: set[bytes] = set()
        while self._open and len(new) < TOGETHER:
            _, _, tree, outside, weight = self._open[0]
            more = {self._key(each) for each in _needed(tree, outside)} - new - self._known.keys()
            if len(self._known) - 2 + len(new) + len(more) > self.budget:
                break
            heappop(self._open)
            new |= more
            chosen.append((tree, outside, weight))
        return chosen

    def _evaluate(self, coalitions: list[np.ndarray]) -> None:
        new = {self._key(each): each for each in coalitions if self._key(each) not in self._known}
        if new:
            values = self.game.values(np.stack(list(new.values())))[0]
            self._known |= dict(zip(new, values, strict=True))

    def _key(self, coalition: Bool[np.ndarray, "features"]) -> bytes:
        """Return what two coalitions have in common that differ only by features that make no difference."""
        return np.packbits(coalition & self._matters).tobytes()


def _needed(tree: Tree, outside: Bool[np.ndarray, "features"]) -> list[np.ndarray]:
    assert tree.parts is not None
    return [outside | part.members for part in tree.parts]
