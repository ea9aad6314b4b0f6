"""Slow twins of everything that switches features on and off, in plain NumPy, written from the papers' definitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np

Game = Callable[[tuple[int, ...]], Any]
"""The features that are present, in ascending order -> what they are worth: a number, or one for each class."""


class Recorder:
    """A black box that keeps every row it is asked, and how many at once."""

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        self.function = function
        self.batches: list[int] = []
        self.parts: list[np.ndarray] = []

    def __call__(self, x: np.ndarray) -> Any:
        self.batches.append(len(x))
        self.parts.append(x.copy())
        return self.function(x)

    @property
    def rows(self) -> np.ndarray:
        """Every row in the order of asking."""
        return np.concatenate(self.parts)

    def after(self, first: int) -> np.ndarray:
        """The rows that were asked after so many calls: the first of them are the inputs themselves."""
        return np.concatenate(self.parts[first:])


def smooth(features: int, classes: int | None = None, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Return a random smooth function [n, features] -> [n, classes] (or [n]) with interactions of every order."""
    generator = np.random.default_rng(seed)
    first = generator.normal(size=(features, 8))
    last = generator.normal(size=(8,) if classes is None else (8, classes))
    return lambda x: np.tanh(x @ first + 0.3) @ last + 0.5


def game_of(
    function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, background: np.ndarray, labels: Any = None
) -> tuple[Game, int]:
    """Return v(S) = mean over background rows b of f(x where the label is in S, b elsewhere), and d.

    Labels below 0 are always present. Each value is worked out once.
    """
    labels = np.arange(x.size).reshape(x.shape) if labels is None else np.broadcast_to(labels, x.shape)
    known: dict[tuple[int, ...], Any] = {}

    def value(present: tuple[int, ...]) -> Any:
        if present not in known:
            on = np.isin(labels, present) | (labels < 0)
            known[present] = np.mean([function(np.where(on, x, b)[None])[0] for b in background], axis=0)
        return known[present]

    return value, int(labels.max()) + 1


def subsets(features: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every subset of some features."""
    return [each for size in range(len(features) + 1) for each in combinations(features, size)]


def joined(*parts: Sequence[int] | int) -> tuple[int, ...]:
    """Return the union of features and sets of them, in ascending order."""
    return tuple(
        sorted({f for part in parts for f in (part if isinstance(part, (tuple, list)) else (part,))})
    )


# ---- Shapley's value and its kin -------------------------------------------------------------------------------


def shapley_by_orders(v: Game, d: int) -> np.ndarray:
    """Return the mean gain of each feature over all d! orders (Shapley 1953)."""
    found = np.zeros((d, *np.shape(v(()))))
    for order in permutations(range(d)):
        for place, feature in enumerate(order):
            before = joined(order[:place])
            found[feature] += v(joined(before, feature)) - v(before)
    return found / math.factorial(d)


def shapley_by_subsets(v: Game, d: int) -> np.ndarray:
    """Return Σ_S |S|! (d − |S| − 1)! / d! (v(S ∪ i) − v(S))."""
    found = np.zeros((d, *np.shape(v(()))))
    for i in range(d):
        for s in subsets([j for j in range(d) if j != i]):
            weight = math.factorial(len(s)) * math.factorial(d - len(s) - 1) / math.factorial(d)
            found[i] += weight * (v(joined(s, i)) - v(s))
    return found


def interaction_index(v: Game, d: int) -> np.ndarray:
    """Return I_ij = Σ_S |S|! (d − |S| − 2)! / (d − 1)! (v(S∪ij) − v(S∪i) − v(S∪j) + v(S)); the diagonal is 0."""
    found = np.zeros((d, d, *np.shape(v(()))))
    for i, j in combinations(range(d), 2):
        for s in subsets([k for k in range(d) if k not in (i, j)]):
            weight = math.factorial(len(s)) * math.factorial(d - len(s) - 2) / math.factorial(d - 1)
            found[i, j] += weight * (v(joined(s, i, j)) - v(joined(s, i)) - v(joined(s, j)) + v(s))
        found[j, i] = found[i, j]
    return found


def leave_one_out(v: Game, d: int) -> np.ndarray:
    """Return f(x) − f(x without feature i)."""
    every = tuple(range(d))
    return np.array([v(every) - v(tuple(j for j in every if j != i)) for i in every])


def owen_values(v: Game, tree: Any) -> dict[int, Any]:
    """Return the Owen values of a binary tree of nested pairs: half the gain without the sister, half with her."""
    found: dict[int, Any] = {}

    def below(node: Any) -> tuple[int, ...]:
        return (node,) if isinstance(node, int) else joined(below(node[0]), below(node[1]))

    def divide(node: Any, outside: tuple[int, ...], weight: float) -> None:
        if isinstance(node, int):
            found[node] = found.get(node, 0.0) + weight * (v(joined(outside, node)) - v(outside))
            return
        for part, sister in (node, node[::-1]):
            divide(part, outside, weight / 2)
            divide(part, joined(outside, below(sister)), weight / 2)

    divide(tree, (), 1.0)
    return found


def tree_of_linkage(linkage: np.ndarray) -> Any:
    """Return scipy's linkage as nested pairs of features."""
    nodes: list[Any] = list(range(len(linkage) + 1))
    for one, two in linkage[:, :2].astype(int):
        nodes.append((nodes[one], nodes[two]))
    return nodes[-1]


# ---- windows ---------------------------------------------------------------------------------------------------


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Return where windows start until one reaches the border (where it is cut), none of them outside."""
    starts = [0]
    while starts[-1] + window < size and starts[-1] + stride < size:
        starts.append(starts[-1] + stride)
    return starts


def occlusion(
    function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, absent: np.ndarray,
    window: tuple[int, int], stride: tuple[int, int],
) -> np.ndarray:  # fmt: skip
    """Return, for each pixel [..., h, w] of one example, the mean loss over the windows that cover it."""
    total, times = np.zeros(x.shape), np.zeros(x.shape)
    full = function(x[None])[0]
    for top in window_starts(x.shape[-2], window[0], stride[0]):
        for left in window_starts(x.shape[-1], window[1], stride[1]):
            where = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            covered = x.copy()
            covered[where] = absent[where]
            total[where] += full - function(covered[None])[0]
            times[where] += 1
    return total / np.maximum(times, 1)


# ---- RISE and LIME ---------------------------------------------------------------------------------------------


def rise_by_enumeration(v: Game, d: int, probability: float) -> np.ndarray:
    """Return E[v(S) | i ∈ S] where each feature is in S by chance, from all 2^d subsets."""
    top, bottom = np.zeros((d, *np.shape(v(())))), np.zeros(d)
    for s in subsets(range(d)):
        chance = probability ** len(s) * (1 - probability) ** (d - len(s))
        for i in s:
            top[i] += chance * v(s)
            bottom[i] += chance
    return top / bottom.reshape(-1, *(1,) * (top.ndim - 1))


def conditional_mean(masks: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return Σ_M f_M M_i / Σ_M M_i (Petsiuk, Das, Saenko 2018, equation 6 with the sampled masks' own mean)."""
    top = sum(f * mask for f, mask in zip(outputs, masks, strict=True))
    return top / masks.sum(0)


def lime_of_pictures(
    design: np.ndarray, outputs: np.ndarray, ridge: float, width: float = 0.25
) -> tuple[np.ndarray, float]:
    """Return the weights and the weighted R² of Ribeiro et al.'s surrogate of coalitions [n, d].

    Weights √exp(−D²/width²) with D the cosine distance from the coalition of all features, and ridge regression.
    """
    from sklearn.linear_model import Ridge
    from sklearn.metrics import pairwise_distances, r2_score

    every = np.ones((1, design.shape[1]))
    distance = pairwise_distances(design.astype(float), every, metric="cosine").ravel()
    weights = np.sqrt(np.exp(-(distance**2) / width**2))
    model = Ridge(alpha=ridge, solver="svd").fit(design.astype(float), outputs, sample_weight=weights)
    return model.coef_, r2_score(outputs, model.predict(design.astype(float)), sample_weight=weights)
