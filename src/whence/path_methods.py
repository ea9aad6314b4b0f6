"""Methods that integrate gradients along a path: each one expression over baseline, path and quadrature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence import exact, guided, quadrature, random_nodes, taylor
from whence import path as paths
from whence.backends import Array, Leaves
from whence.background import DataSet
from whence.baseline import resolve
from whence.errors import BadInput, Refused
from whence.integrate import DEFAULT_MAX_EVALUATIONS, DEFAULT_RTOL, Accuracy, integrate
from whence.path import FromData, Guided
from whence.problem import Problem
from whence.registry import Method, register
from whence.sampler import average
from whence.shares import Shares


@register(
    "integrated_gradients",
    "A = (x − x') ⊙ ∫₀¹ ∇f(x' + α(x − x')) dα",
    "Sundararajan, Taly, Yan 2017, arXiv:1703.01365",
)
@dataclass(frozen=True)
class IntegratedGradients(Method):
    """The gradient averaged along a path from a baseline to the input, times the way: its shares sum to f(x) − f(x').

    Attributes:
        baseline: what "absent" means; None is black for pictures in pixels, else 0; several are averaged.
        path: None is the straight line; "stochastic", "blur", "guided" or whence.path.…
        rtol: the relative L1 error that is asked for.
        steps: a fixed number of nodes instead of a tolerance (Gauss–Legendre unless `quadrature` says otherwise).
        quadrature: tolerance, gauss, midpoint, trapezoid, left, right, monte_carlo, taylor (second order at the
            input, Δ ⊙ (∇f − ½ HΔ)) or exact (piecewise-linear networks, one gradient for each linear piece).
        max_evaluations: at most so many gradients for each example and baseline; None is 1,024, and 100,000 pieces
            for exact.
        where: a mask of the features that take the path; the others stay at the input.
        normalize: map each example to [0, 1] by its own range before anything else.
    """

    baseline: Any = None
    path: Any = None
    rtol: float = DEFAULT_RTOL
    steps: int | None = None
    quadrature: str | None = None
    max_evaluations: int | None = None
    where: Any = None
    normalize: bool = False

    def attribute(self, problem: Problem) -> Shares:
        problem = _normalized(problem) if self.normalize else problem
        baseline, path = resolve(self.baseline, problem.run.pictures), paths.resolve(self.path)
        name = quadrature.check(self.quadrature, self.steps, self.rtol)
        least = 2 if name == "monte_carlo" else 1
        most = self.max_evaluations
        if most is None:
            most = exact.DEFAULT_MAX_PIECES if name == "exact" else DEFAULT_MAX_EVALUATIONS
        if most < least:
            raise BadInput(f"max_evaluations is {most}; at least {least} are needed here")
        accuracy = Accuracy(name, self.steps, self.rtol, most)

        def draw(number: int) -> Shares:
            from_baseline, trajectory = divmod(number, path.draws)
            absent = _absent(problem, baseline, from_baseline, self.where)
            start = path.start(problem, problem.project(absent))
            output = problem.value(start)
            shares = _integral(problem, start, output, path, accuracy, (trajectory, number))
            return shares.with_residual(problem, output)

        return average(baseline.draws * path.draws, draw)


def _integral(
    problem: Problem, start: Leaves, absent: np.ndarray, path: Any, accuracy: Accuracy, draw: tuple[int, int]
) -> Shares:
    """Take one integral from one start, where f is `absent`, by whatever quadrature or path is asked for.

    `draw` holds the number of the trajectory and that of the draw.
    """
    trajectory, number = draw
    if accuracy.quadrature in ("taylor", "exact"):
        if not isinstance(path, paths.Straight):
            raise Refused(f"quadrature {accuracy.quadrature} goes along the straight line; leave path out")
        if accuracy.quadrature == "taylor":
            return taylor.integrate(problem, start)
        return exact.integrate(problem, start, accuracy.max_evaluations)
    if isinstance(path, Guided):
        return guided.integrate(problem, start, path, accuracy)
    return integrate(problem, path.between(problem, start, trajectory), accuracy, absent, number)


def _absent(problem: Problem, baseline: Any, draw: int, where: Any) -> Leaves:
    """Return a baseline at the input, with the features outside the mask left as they are."""
    start: Leaves = baseline.start(problem, draw)
    for leaf in start:
        if not problem.ops.is_finite(leaf):
            raise BadInput("the baseline holds NaN or infinity; nothing can be counted from there")
    if where is None:
        return start
    masks = problem.run.structure.parts(where)
    if len(masks) != len(start):
        raise BadInput(f"where has {len(masks)} masks for {len(start)} inputs; give one for each")
    return tuple(_masked(problem, *each) for each in zip(masks, start, problem.inputs, strict=True))


def _masked(problem: Problem, mask: Any, start: Array, x: Array) -> Array:
    mask = problem.ops.like(mask, x)
    if mask.ndim == x.ndim and mask.shape[0] == problem.run.batch and len(problem.rows) != problem.run.batch:
        mask = problem.ops.take(mask, problem.rows)
    shape = tuple(x.shape)
    if mask.ndim > x.ndim or any(
        own not in (1, full) for own, full in zip(mask.shape[::-1], shape[::-1], strict=False)
    ):
        raise BadInput(f"where has shape {tuple(mask.shape)}, which does not fit the input {shape}")
    return problem.ops.where(mask, start + x * 0, x)


def _normalized(problem: Problem) -> Problem:
    """Return the question about inputs mapped to [0, 1], each example by its own range."""
    ops = problem.ops

    def mapped(leaf: Array) -> Array:
        least = ops.numpy(leaf).reshape(leaf.shape[0], -1).min(1).reshape(-1, *(1,) * (leaf.ndim - 1))
        spread = problem.spread(leaf)
        return (leaf - ops.like(least, leaf)) / ops.where(spread > 0, spread, spread + 1)

    return problem.at(tuple(mapped(leaf) for leaf in problem.inputs), np.arange(len(problem.rows)))


@register(
    "expected_gradients",
    "A = E_{x'∼D, α∼U(0,1)} [(x − x') ⊙ ∇f(x' + α(x − x'))]",
    "Erion, Janizek, Sturmfels, Lundberg, Lee 2021, Nature Machine Intelligence 3",
    needs=("gradient", "background"),
)
@dataclass(frozen=True)
class ExpectedGradients(Method):
    """Integrated gradients averaged over baselines drawn from a data set: one random baseline and node per gradient.

    Attributes:
        baseline: rows of a data set, whence.baseline.dataset(rows) or an array of rows.
        samples: how many pairs of baseline and node; the standard error says what they are worth.
    """

    baseline: Any = None
    samples: int = 200

    def attribute(self, problem: Problem) -> Shares:
        if self.baseline is None:
            raise Refused("expected_gradients needs a background: baseline=whence.baseline.dataset(rows)")
        if self.samples < 2:
            raise BadInput(
                f"expected_gradients: samples is {self.samples}; a standard error needs at least 2"
            )
        data = self.baseline if hasattr(self.baseline, "start") else DataSet(self.baseline)
        inputs = _drawn(problem, data, self.samples)
        count = len(inputs[0])
        background = _project_rows(problem, inputs)
        order = np.arange(self.samples) % count
        points = FromData(background, order).between(problem, background, 0)
        shares = random_nodes.integrate(problem, points, self.samples, DEFAULT_RTOL, self.samples, 0)
        used = np.unique(order)
        rows, chosen = np.repeat(np.arange(len(problem.rows)), len(used)), np.tile(used, len(problem.rows))
        outputs = problem.value(tuple(problem.ops.take(leaf, chosen) for leaf in background), rows)
        outputs = outputs.reshape(len(problem.rows), len(used), *outputs.shape[1:])
        return shares.with_residual(problem, outputs.mean(1))


def _drawn(problem: Problem, data: Any, samples: int) -> Leaves:
    """Return the baseline rows that are used, in the order of use: [rows, ...] per leaf."""
    if isinstance(data, DataSet):
        order = data.order(problem, min(samples, data.draws))
        return tuple(problem.ops.take(leaf, order) for leaf in data.leaves(problem))
    first = problem.at(tuple(leaf[:1] for leaf in problem.inputs), np.arange(1))
    draws = [data.start(first, j) for j in range(min(samples, data.draws))]
    return tuple(problem.ops.concatenate(each) for each in zip(*draws, strict=True))


def _project_rows(problem: Problem, rows: Leaves) -> Leaves:
    """Return background rows at the site; they borrow the first example's keyword arguments."""
    count = rows[0].shape[0]
    return problem.at(rows, np.zeros(count, dtype=int)).project(rows)


@register(
    "blur_integrated_gradients",
    "A = ∫₀¹ ∇f(x(α)) ⊙ dx/dα dα, x(α) = x blurred by (1 − α)³σ",
    "Xu, Venugopalan, Sundararajan 2020, arXiv:2004.03383",
    needs=("gradient", "pictures"),
)
@dataclass(frozen=True)
class BlurIntegratedGradients(Method):
    """Integrated gradients along the scale space: from the picture blurred by sigma pixels to the sharp one.

    Attributes:
        sigma: the widest blur, in pixels; None is a quarter of the longer side.
        rtol, steps, quadrature, max_evaluations: as for IntegratedGradients.
    """

    sigma: float | None = None
    rtol: float = DEFAULT_RTOL
    steps: int | None = None
    quadrature: str | None = None
    max_evaluations: int | None = None

    def attribute(self, problem: Problem) -> Shares:
        # The path begins at the blurred picture, whatever the baseline; the input stands in for it unread.
        return IntegratedGradients(
            baseline=0.0, path=paths.blur(self.sigma), rtol=self.rtol, steps=self.steps, quadrature=self.quadrature,
            max_evaluations=self.max_evaluations,
        ).attribute(problem)  # fmt: skip


@register(
    "guided_integrated_gradients",
    "A = Σ_k ∇f(x_k) ⊙ (x_{k+1} − x_k), smallest |∇f| moving first",
    "Kapishnikov, Venugopalan, Avci, Wedin, Terry, Bolukbasi 2021, arXiv:2106.09788",
)
@dataclass(frozen=True)
class GuidedIntegratedGradients(Method):
    """Integrated gradients along a path that moves the features with the smallest gradients first.

    Attributes:
        baseline: as for IntegratedGradients.
        steps: how many gradients, one after the other; None doubles them until two walks agree to `rtol`.
        rtol: the relative L1 change between two walks that is accepted, with steps=None.
        fraction: how many of the features move at once.
        deviation: how far a feature may stray from its place on the straight line, relative to its way.
        max_evaluations: at most so many gradients in all walks, with steps=None.
    """

    baseline: Any = None
    steps: int | None = guided.DEFAULT_STEPS
    rtol: float = DEFAULT_RTOL
    fraction: float = 0.25
    deviation: float = 0.02
    max_evaluations: int | None = None

    def attribute(self, problem: Problem) -> Shares:
        return IntegratedGradients(
            baseline=self.baseline, path=paths.guided(self.fraction, self.deviation), rtol=self.rtol, steps=self.steps,
            max_evaluations=self.max_evaluations,
        ).attribute(problem)  # fmt: skip
