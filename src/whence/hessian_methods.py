"""Shares of pairs from second derivatives: how much two features give together, beyond what each gives alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from whence import hessians, kinks, precision, quadrature
from whence.coalitions.game import Game
from whence.coalitions.playing import play
from whence.counts import whole
from whence.errors import BadInput, Refused
from whence.exact import DEFAULT_MAX_PIECES
from whence.features.covers import Labels
from whence.features.laying import fine
from whence.hessians import Pairs, Stretch
from whence.naming import unknown
from whence.problem import Problem
from whence.registry import Method, register
from whence.shares import Shares
from whence.site import Parameter

DEFAULT_RTOL = 1e-4
# A matrix of this many features on a side is 128 MiB an example.
MOST_FEATURES = 4096
QUADRATURES = ("exact", "gauss")


@register(
    "integrated_hessians",
    "Γ_AB = ∫₀¹ (−u ln u) Δ_Aᵀ ∇²f(x' + uΔ) Δ_B du, and Γ_AA adds ∫₀¹ (−ln u) Δ_A·∇f(x' + uΔ) du, Δ = x − x'",
    "Janizek, Sturmfels, Lee 2021, arXiv:2002.04138",
    needs=("gradient", "piecewise linear or smooth"),
    title="Integrated Hessians",
)
@dataclass(frozen=True)
class IntegratedHessians(Method):
    """Integrated Gradients of Integrated Gradients: what each pair of features gives; rows sum to Integrated Gradients.

    Attributes:
        features: what counts as one feature; None is every number. They must not overlap, and 4,096 are the most.
        baseline: what "absent" means; None is black for pictures in pixels, else 0; several are averaged.
        rtol: the relative L1 error of the pairs that is asked for, where the network is smooth.
        steps: a fixed number of nodes (Hessians) instead of a tolerance.
        quadrature: "exact" (piecewise-linear networks, from their kinks) or "gauss" (smooth ones); None chooses by the
            operations of the network.
        max_evaluations: at most so many gradients and Hessian-vector products for each example and baseline; None is
            100,000.
    """

    features: Any = None
    baseline: Any = None
    rtol: float = DEFAULT_RTOL
    steps: int | None = None
    quadrature: str | None = None
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        if self.quadrature is not None and self.quadrature not in QUADRATURES:
            raise BadInput(unknown("quadrature of integrated Hessians", str(self.quadrature), QUADRATURES))
        quadrature.check("tolerance", None, self.rtol)
        if self.steps is not None:
            whole(self.steps, "steps")
            if self.quadrature == "exact":
                raise BadInput(
                    f"steps={self.steps} does not go with quadrature='exact'; leave one of them out"
                )
            if self.rtol != DEFAULT_RTOL:
                raise BadInput(
                    f"steps={self.steps} fixes the number of nodes and rtol={self.rtol} asks for as many as it takes; "
                    "give one"
                )
        if self.quadrature == "exact" and self.rtol != DEFAULT_RTOL:
            raise BadInput(
                f"quadrature exact does not go by a tolerance; leave rtol={self.rtol} or the quadrature out"
            )
        if self.max_evaluations is not None:
            whole(self.max_evaluations, "max_evaluations")

    def attribute(self, problem: Problem) -> Shares:
        for leaf in problem.point:
            if not problem.ops.is_float(leaf):
                raise Refused(
                    "integrated Hessians differentiate, and whole numbers have no derivative; explain a layer with "
                    "at=whence.layer(...)"
                )
        name = self.quadrature
        if name is None:
            name = "gauss" if self.steps is not None or not _piecewise_linear(problem) else "exact"
        most = DEFAULT_MAX_PIECES if self.max_evaluations is None else self.max_evaluations
        with precision.widened(problem) if name == "exact" else nullcontext() as wide:
            integrate = (
                partial(kinks.integrate, most=most, wide=wide)
                if name == "exact"
                else partial(hessians.integrate, rtol=self.rtol, steps=self.steps, most=most)
            )
            return play(problem, self.features, fine, self.baseline, partial(self._explain, integrate))

    def _explain(self, integrate: Callable[[Stretch, int], Pairs], game: Game) -> Shares:
        _require_few(game)
        shape, count = game.full.shape, game.draws.count
        matrix, error = np.zeros((*shape, game.count, game.count)), np.zeros(shape)
        evaluations, converged = np.zeros(shape[0], dtype=np.int64), np.ones(shape, dtype=bool)
        for draw in range(count):
            found = integrate(_stretch(game, draw), draw)
            matrix += found.matrix / count
            # The errors of draws may all go the same way.
            error += _times(found.error, np.abs(found.matrix).sum((-1, -2))) / count
            evaluations += found.evaluations
            converged &= found.converged
        size = np.abs(matrix).sum((-1, -2))
        shares = game.shares(
            np.moveaxis(matrix.sum(-1), -1, 1),
            efficient=True,
            interactions=matrix,
            error=np.divide(error, size, out=np.where(error > 0, np.inf, 0.0), where=size > 0),
            converged=converged,
        )
        return replace(shares, evaluations=evaluations)


def _stretch(game: Game, draw: int) -> Stretch:
    """Return the way of every row from one draw of what is absent."""
    problem, rows = game.problem, np.arange(len(game.problem.rows))
    absent = game.draws.at(rows, np.full(len(rows), draw))
    # Numbers that belong to no feature are never absent.
    always = game.features.present(rows, np.zeros((len(rows), game.count), dtype=bool))
    triples = zip(always, problem.point, absent, strict=True)
    start = tuple(problem.ops.where(problem.ops.array(mask, x), x, b) for mask, x, b in triples)
    return Stretch(problem, game.features, start)


def _require_few(game: Game) -> None:
    if not all(isinstance(cover, Labels) for cover in game.features.covers):
        raise Refused(
            "shares of pairs need features that do not overlap; give patches without a stride, or a mask"
        )
    classes = int(np.prod(game.full.shape[1:], dtype=int))
    if game.count**2 * classes > MOST_FEATURES**2:
        raise Refused(
            f"integrated Hessians of {game.count:,} features are {game.count**2 * classes:,} numbers an example; group "
            'them, for instance features=whence.features.grid(7) or "superpixels"'
            + (", or explain one class" if classes > 1 else "")
        )


def _piecewise_linear(problem: Problem) -> bool:
    """Tell whether every operation between the site and f is piecewise linear, by running it on the first example."""
    if isinstance(problem.site, Parameter):
        return False
    one = problem.part(np.arange(1))
    still = tuple(leaf * 0 for leaf in one.point)
    try:
        one.run.backend.pieces(one.evaluate_all, one.point, still)
    except Refused:
        return False
    return True


def _times(error: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.where(error == 0, 0.0, error * np.where(size > 0, size, 1.0))
