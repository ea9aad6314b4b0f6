"""Integrated Hessians of smooth networks: a single integral, by Hessian-vector products at Gauss nodes.

The double integral of the definition collapses (substitute u = αβ): Γ_AB = ∫₀¹ (−u ln u) Δ_Aᵀ H(u) Δ_B du, and the
diagonal adds ∫₀¹ (−ln u) Δ_A·g(u) du. Each of the weights has a Gauss rule of its own, which spends no node on its
logarithm. How many nodes it takes is found along a few directions, each of which costs one product a node instead of
one for every feature.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.backends import Array, Leaves
from whence.errors import NoGradient, Refused
from whence.problem import Problem
from whence.quadrature import gauss
from whence.shares import norms
from whence.stretch import Pairs, Stretch

Rows = Int[np.ndarray, "n"]
Weight = Literal["plain", "log", "bend"]
WEIGHTS: dict[Weight, Callable[[np.ndarray], np.ndarray]] = {
    "plain": np.ones_like,
    "log": lambda u: -np.log(u),
    "bend": lambda u: -u * np.log(u),
}
# The rules that are tried, one after the other: each tells the error of the one before, and is better than that.
LADDER = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# The directions that are looked along: the whole way, and the features with random signs.
PROBES = 3
# Rows whose sums are so many tolerances away from Integrated Gradients (this much at most, and so many rounding errors
# at least) are those of another function. From so many nodes on, where four times as many did not halve what is
# missing, more of them will not mend it.
MISSING, TOLERATED, ROUNDINGS, ENOUGH = 10, 0.01, 1e3, 48


@lru_cache
def rule(weight: Weight, steps: int) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Return the Gauss rule of a weight 1, −ln u or −u ln u on [0, 1] (Golub and Welsch 1969).

    Its recurrence is that of a fine Gauss–Legendre rule in t, u = t⁴, to which the logarithm is smooth (Lanczos's, as
    Gautschi 1982 has it).
    """
    t, w = gauss(4 * steps + 100)
    u = t**4
    mass = w * 4 * t**3 * WEIGHTS[weight](u)
    vectors = np.zeros((steps + 1, len(u)))
    vectors[0] = np.sqrt(mass / mass.sum())
    middle, beside = np.zeros(steps), np.zeros(steps)
    for k in range(steps):
        step = u * vectors[k]
        middle[k] = step @ vectors[k]
        # Twice: once leaves rounding errors that grow with the number of nodes.
        for _ in range(2):
            step = step - vectors[: k + 1].T @ (vectors[: k + 1] @ step)
        beside[k] = np.linalg.norm(step)
        vectors[k + 1] = step / beside[k]
    nodes, basis = np.linalg.eigh(np.diag(middle) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
    return nodes, mass.sum() * basis[0] ** 2


# ---- sums over nodes --------------------------------------------------------------------------------------------


def gradients(stretch: Stretch, weight: Weight, steps: int) -> Float[np.ndarray, "rows *K features"]:
    """Return ∫ weight(u) Δ_A·g(u) du for every feature A, by so many nodes."""
    problem, (nodes, weights) = stretch.problem, rule(weight, steps)
    total = np.zeros((*problem.output.shape, stretch.count))

    def work(first: int, stop: int) -> Array:
        row, node = np.divmod(np.arange(first, stop), steps)
        y, found = problem.vjp(stretch.at(row, nodes[node]), row)
        _add(stretch, total, (row,), row, weights[node], found)
        return y

    problem.run.chunks.run(problem.run.backend, len(problem.rows) * steps, work)
    return total


def products(
    stretch: Stretch, signs: Float[np.ndarray, "directions features"] | None, steps: int
) -> Float[np.ndarray, "rows directions *K features"]:
    """Return ∫ (−u ln u) Δ_Aᵀ H(u) (s ⊙ Δ) du for every feature A, and each of some signs or each feature alone."""
    problem, (nodes, weights) = stretch.problem, rule("bend", steps)
    every = problem.output.shape[1:]
    many = stretch.count if signs is None else len(signs)
    total = np.zeros((len(problem.rows), many, *every, stretch.count))

    def work(first: int, stop: int) -> Array:
        rest, which = np.divmod(np.arange(first, stop), many)
        row, node = np.divmod(rest, steps)
        direction = stretch.towards(row, which[:, None] == np.arange(many) if signs is None else signs[which])
        point = stretch.at(row, nodes[node])
        found = [_bent(problem, point, direction, row, k) for k in (range(every[0]) if every else [None])]
        columns = zip(*(each[1] for each in found), strict=True)
        bent = tuple(problem.ops.stack(each, 1) if every else each[0] for each in columns)
        _add(stretch, total, (row, which), row, weights[node], bent)
        problem.run.progress.advance(len(row))
        return found[-1][0]

    problem.run.progress.expect(len(problem.rows) * steps * many)
    problem.run.chunks.run(problem.run.backend, len(problem.rows) * steps * many, work)
    return total


def _bent(
    problem: Problem, point: Leaves, direction: Leaves, row: Rows, column: int | None
) -> tuple[Array, Leaves]:
    """Return f and the Hessian times a direction, of one class where all are explained."""

    def function(leaves: Leaves) -> Array:
        y = problem.evaluate(leaves, row)
        return y if column is None else y[:, column]

    try:
        y, _, bent = problem.run.backend.hessian_vector(function, point, direction)
        return y, bent
    except NoGradient:
        # The gradients were asked for first, and have said why.
        return function(point), tuple(problem.ops.zeros(leaf.shape, leaf) for leaf in point)


def _add(
    stretch: Stretch, total: np.ndarray, place: tuple[Rows, ...], row: Rows, weight: np.ndarray, found: Leaves
) -> None:
    """Add Δ ⊙ what was found, feature by feature."""
    ops, every = stretch.problem.ops, stretch.problem.every_class
    ways = (ops.wide(ops.take(way, row)) for way in stretch.ways)
    parts = [ops.wide(g) * (d[:, None] if every else d) for g, d in zip(found, ways, strict=True)]
    sums = stretch.sums(row, parts)
    wrong = np.flatnonzero(~np.isfinite(sums).reshape(len(row), -1).all(1))
    if len(wrong):
        raise Refused(
            f"the model's first or second derivative is not finite on the path of example "
            f"{stretch.problem.rows[row[wrong[0]]]}; choose another baseline, or mend the model"
        )
    np.add.at(total, place, sums * weight.reshape(-1, *(1,) * (sums.ndim - 1)))


# ---- how many nodes, and the pairs --------------------------------------------------------------------------------


def integrate(stretch: Stretch, draw: int, rtol: float, steps: int | None, most: int) -> Pairs:
    """Return the shares of pairs to a tolerance, or by a fixed number of nodes.

    Raises:
        Refused: their rows do not sum to Integrated Gradients (the network has kinks, which no Hessian sees), a
            derivative is not finite, or `most` derivatives are too few.
    """
    search = _Search(stretch, draw, rtol, steps, most)
    search.run()
    matrix = np.zeros((*stretch.problem.output.shape, stretch.count, stretch.count))
    diagonal = np.arange(stretch.count)
    for nodes in np.unique(search.nodes[search.nodes > 0]):
        rows = np.flatnonzero(search.nodes == nodes)
        part = stretch.part(rows)
        half = np.moveaxis(products(part, None, int(nodes)), 1, -1) / 2
        both = half + np.swapaxes(half, -1, -2)
        both[..., diagonal, diagonal] += gradients(part, "log", int(nodes))
        matrix[rows] = both
    spent = search.spent + search.nodes * (stretch.count + 1)
    good = search.error <= (rtol if steps is None else np.inf)
    return Pairs(matrix, search.error, spent, good)


class _Search:
    """How many nodes each row needs, found along a few directions s: rule by rule, Γs is compared with the last."""

    def __init__(self, stretch: Stretch, draw: int, rtol: float, steps: int | None, most: int) -> None:
        problem, shape = stretch.problem, stretch.problem.output.shape
        self.stretch, self.rtol, self.steps, self.most = stretch, rtol, steps, most
        self.missing = max(min(MISSING * rtol, TOLERATED), ROUNDINGS * stretch.rounding)
        # The first is the whole way: there Γs is Integrated Gradients, or something is missing from the Hessian.
        self.signs = problem.random("integrated_hessians", draw).choice([-1.0, 1.0], (PROBES, stretch.count))
        self.signs[0] = 1
        self.nodes, self.spent = np.zeros((2, len(problem.rows)), dtype=np.int64)
        self.error = np.zeros(shape)
        self.seen = np.zeros((shape[0], PROBES, *shape[1:], stretch.count))
        self.lacks = np.zeros((len(LADDER), *shape))

    def run(self) -> None:
        """Look until every row is done, or no more can be paid for."""
        moves = np.asarray(sum(norms(self.stretch.problem.ops, way, 1) for way in self.stretch.ways))
        moving = active = np.flatnonzero(moves > 0)
        for place in range(len(LADDER)):
            if not len(active) or not self._affordable(place):
                break
            done = self._climb(active, place)
            # Not the rule before, good enough along these directions: a pair may be worse than they are.
            self.nodes[active] = LADDER[place]
            active = active[~done]
        if self.steps is not None and len(moving):
            self.nodes[moving] = self.steps
            known, (here, _) = self.seen[moving], self._look(moving, self.steps)
            self.error[moving] = _relative(_size(here - known), _size(known))

    def _affordable(self, place: int) -> bool:
        """Tell whether the next rule can be looked at, and the pairs be had by it."""
        looks = (PROBES + 2) * sum(LADDER[: place + 1])
        if self.steps is not None:
            return place == 0 or looks <= self.most
        cost = looks + LADDER[place] * (self.stretch.count + 1)
        if cost > self.most and place == 0:
            raise Refused(
                f"integrated Hessians of {self.stretch.count} features take at least {cost} derivatives, and "
                f"max_evaluations is {self.most}; raise it, or group the numbers into fewer features"
            )
        return cost <= self.most

    def _climb(self, active: Rows, place: int) -> Bool[np.ndarray, "active"]:
        """Look with the next rule, and tell which rows the one before was good enough for."""
        here, plain = self._look(active, LADDER[place])
        size = _size(here)
        lacks = _relative(np.abs(here[:, 0] - plain).sum(-1), size)
        change = _relative(_size(here - self.seen[active]), size) if place else np.full_like(size, np.inf)
        self.seen[active], self.lacks[place, active] = here, lacks
        self.error[active] = np.maximum(change, lacks)
        if LADDER[place] >= ENOUGH:
            self._require_whole(active, lacks, self.lacks[place - 4, active])
        good = (change <= self.rtol) & (lacks <= self.missing)
        return np.asarray(good.reshape(len(active), -1).all(1))

    def _look(self, rows: Rows, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Return Γs for each of the directions [rows, directions, *K, features], and Integrated Gradients."""
        part = self.stretch.part(rows)
        straight = gradients(part, "log", steps)
        signs = self.signs.reshape(PROBES, *(1,) * (straight.ndim - 2), -1)
        plain = gradients(part, "plain", steps)
        self.spent[rows] += (PROBES + 2) * steps
        return products(part, self.signs, steps) + signs * straight[:, None], plain

    def _require_whole(self, active: Rows, lacks: np.ndarray, before: np.ndarray) -> None:
        wrong = (lacks > self.missing) & (lacks > before / 2)
        wrong = np.flatnonzero(wrong.reshape(len(active), -1).any(1))
        if len(wrong):
            example, part = self.stretch.problem.rows[active[wrong[0]]], min(1, lacks[wrong[0]].max())
            raise Refused(
                f"integrated Hessians: along the path of example {example} the gradient jumps (ReLU, max-pool), which "
                f"no Hessian sees: {part:.0%} of the shares would be missing. Explain a logit of a piecewise-linear "
                "network without quadrature and steps, or use shapley_interaction"
            )


def _size(values: Float[np.ndarray, "rows directions *K features"]) -> Float[np.ndarray, "rows *K"]:
    return np.abs(values).sum((1, -1)) / PROBES


def _relative(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.where(part > 0, np.inf, 0.0), where=whole > 0)
