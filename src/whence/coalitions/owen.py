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
# Debts smaller than this part of the largest are not divided in the same go.
WORTH = 0.25
# Rows of a background from which correlations of columns are believed.
BELIEVED = 8


@dataclass(frozen=True)
class Branch:
    """A part of a tree: its features, from `first` to `end` in the tree's order, and its branches, none for a leaf."""

    first: int
    end: int
    parts: tuple[Branch, Branch] | None = None

    @property
    def size(self) -> int:
        """How many features it has."""
        return self.end - self.first


@dataclass(frozen=True)
class Tree:
    """A binary tree over features, each branch of which lies together in `order`."""

    order: Int[np.ndarray, "features"]
    root: Branch


def tree_of(game: Game, given: Any) -> Tree:
    """Return the tree of a user's linkage [d − 1, 4] (scipy's), or one that the features themselves suggest.

    Columns are joined by their correlation in the background, places by halving the space they lie in.

    Raises:
        BadInput: the linkage is not one of these features.
    """
    d = game.count
    if given is not None:
        return _of_linkage(_checked(given, d), d)
    found = _correlations(game)
    if found is not None:
        return _of_linkage(found, d)
    order: list[int] = []
    root = _halved(np.arange(d), _places(game), order)
    return Tree(np.array(order), root)


def _checked(given: Any, count: int) -> Float[np.ndarray, "joins 4"]:
    wanted = f"give scipy's linkage [{count - 1}, 4] of the {count} features"
    try:
        linkage = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"partition_shap: the tree holds no numbers; {wanted}") from None
    if linkage.ndim != 2 or linkage.shape[0] != count - 1 or linkage.shape[1] < 2:
        raise BadInput(f"partition_shap: the tree is {linkage.shape}; {wanted}")
    pairs = linkage[:, :2]
    if not (np.isfinite(pairs).all() and (pairs == np.rint(pairs)).all()):
        raise BadInput(f"partition_shap: the tree's clusters are no whole numbers; {wanted}")
    if (pairs >= count + np.arange(count - 1)[:, None]).any() or (pairs < 0).any():
        raise BadInput("partition_shap: the tree names a cluster before it is made; give scipy's linkage")
    if len(np.unique(pairs)) < 2 * (count - 1):
        raise BadInput("partition_shap: the tree uses a cluster twice; give scipy's linkage")
    return linkage


def _of_linkage(linkage: Float[np.ndarray, "joins 4"], count: int) -> Tree:
    """Return the tree; from the top down without recursion, for it may be as deep as it has features."""
    pairs = linkage[:, :2].astype(np.int64)
    sizes = np.ones(2 * count - 1, dtype=np.int64)
    for join, (one, two) in enumerate(pairs):
        sizes[count + join] = sizes[one] + sizes[two]
    starts = np.zeros(2 * count - 1, dtype=np.int64)
    for join in range(count - 2, -1, -1):
        one, two = pairs[join]
        starts[one], starts[two] = starts[count + join], starts[count + join] + sizes[one]
    branches = [Branch(int(starts[feature]), int(starts[feature]) + 1) for feature in range(count)]
    for join, (one, two) in enumerate(pairs):
        first = int(starts[count + join])
        branches.append(Branch(first, first + int(sizes[count + join]), (branches[one], branches[two])))
    return Tree(np.argsort(starts[:count]), branches[-1])


def _halved(
    features: Int[np.ndarray, "some"], places: Float[np.ndarray, "features axes"], order: list[int]
) -> Branch:
    """Return the tree that cuts the features' places in half along the longer side, again and again."""
    first = len(order)
    if len(features) == 1:
        order.append(int(features[0]))
        return Branch(first, first + 1)
    mine = places[features]
    axis = int(np.argmax(mine.max(0) - mine.min(0)))
    sides = np.array_split(features[np.argsort(mine[:, axis], kind="stable")], 2)
    one, two = (_halved(half, places, order) for half in sides)
    return Branch(first, len(order), (one, two))


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
    for column in np.flatnonzero(problem.run.structure.coded(rows.shape[1])):
        # A code's size means nothing: words are counted off.
        rows[:, column] = np.unique(rows[:, column], return_inverse=True)[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        related = np.nan_to_num(np.abs(np.corrcoef(rows.T)))
    distance = np.clip(1 - related, 0, 1)
    np.fill_diagonal(distance, 0)
    return np.asarray(linkage(squareform(distance, checks=False), "complete"))


@dataclass
class Division:
    """One row's credit on its way down a tree, and what coalitions of it are known to be worth."""

    game: Game
    order: Int[np.ndarray, "features"]
    budget: int
    shares: Float[np.ndarray, "features *K"] = field(init=False)
    _matters: Bool[np.ndarray, "features"] = field(init=False)
    _known: dict[bytes, np.ndarray] = field(default_factory=dict[bytes, np.ndarray])
    _open: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    _pushed: int = 0

    def __post_init__(self) -> None:
        d = self.game.count
        # In the tree's order, in which every branch lies together.
        self._matters = self.game.differing()[0][self.order]
        self.shares = np.zeros((d, *self.game.full.shape[1:]))
        self._known[self._key(np.zeros(d, dtype=bool))] = self.game.empty[0]
        self._known[self._key(np.ones(d, dtype=bool))] = self.game.full[0]

    def divide(self, root: Branch) -> int:
        """Divide f(x) − f(x') down the tree within the budget; return how many groups stay undivided."""
        self._push(root, np.zeros(self.game.count, dtype=bool), 1.0)
        while self._open:
            chosen = self._next()
            if not chosen:
                break
            self._evaluate([each for branch, outside, _ in chosen for each in _needed(branch, outside)])
            for branch, outside, weight in chosen:
                assert branch.parts is not None
                one, two = branch.parts
                for part, other in ((one, two), (two, one)):
                    self._push(part, outside, weight / 2)
                    self._push(part, _with(outside, other), weight / 2)
        for _, _, branch, outside, weight in self._open:
            # What there is no budget to divide is spread evenly.
            self._credit(branch, weight * self._gain(branch, outside) / branch.size)
        return len(self._open)

    def _credit(self, branch: Branch, each: np.ndarray) -> None:
        self.shares[self.order[branch.first : branch.end]] += each

    def _push(self, branch: Branch, outside: Bool[np.ndarray, "features"], weight: float) -> None:
        gain = self._gain(branch, outside)
        if branch.parts is None:
            self._credit(branch, weight * gain)
            return
        # The number keeps the order of equal debts, and branches from being compared.
        self._pushed += 1
        heappush(self._open, (-weight * float(np.abs(gain).sum()), self._pushed, branch, outside, weight))

    def _gain(self, branch: Branch, outside: Bool[np.ndarray, "features"]) -> np.ndarray:
        return self._known[self._key(_with(outside, branch))] - self._known[self._key(outside)]

    def _next(self) -> list[tuple[Branch, np.ndarray, float]]:
        """Return the largest debts, as many as the budget still allows in one go."""
        chosen: list[tuple[Branch, np.ndarray, float]] = []
        new: set[bytes] = set()
        largest = self._open[0][0]
        while self._open and len(new) < TOGETHER:
            debt, _, branch, outside, weight = self._open[0]
            more = {self._key(each) for each in _needed(branch, outside)} - new - self._known.keys()
            spent = len(self._known) - 2 + len(new) + len(more) > self.budget
            # A small debt waits: what comes below a large one may be larger.
            if spent or (chosen and debt > largest * WORTH):
                break
            heappop(self._open)
            new |= more
            chosen.append((branch, outside, weight))
        return chosen

    def _evaluate(self, coalitions: list[np.ndarray]) -> None:
        new = {self._key(each): each for each in coalitions if self._key(each) not in self._known}
        if new:
            found = np.zeros((len(new), self.game.count), dtype=bool)
            found[:, self.order] = np.stack(list(new.values()))
            self._known |= dict(zip(new, self.game.values(found)[0], strict=True))

    def _key(self, coalition: Bool[np.ndarray, "features"]) -> bytes:
        """Return what two coalitions have in common that differ only by features that make no difference."""
        return np.packbits(coalition & self._matters).tobytes()


def _with(outside: Bool[np.ndarray, "features"], branch: Branch) -> Bool[np.ndarray, "features"]:
    found = outside.copy()
    found[branch.first : branch.end] = True
    return found


def _needed(branch: Branch, outside: Bool[np.ndarray, "features"]) -> list[np.ndarray]:
    assert branch.parts is not None
    return [_with(outside, part) for part in branch.parts]
