"""Methods that integrate gradients along a path: each one expression over baseline, path and quadrature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence import exact, guided, quadrature
from whence import path as paths
from whence.backends import Array
from whence.baseline import resolve
from whence.counts import whole
from whence.errors import BadInput, Refused
from whence.integrate import DEFAULT_MAX_EVALUATIONS, DEFAULT_RTOL, Accuracy
from whence.path import Guided
from whence.problem import Problem
from whence.registry import Method, register
from whence.sampler import tightened
from whence.shares import Shares
from whence.site import Layer, Parameter
from whence.target import Resolved
from whence.way import Way


@register(
    "integrated_gradients",
    "A = (x − x') ⊙ ∫₀¹ ∇f(x' + α(x − x')) dα",
    "Sundararajan, Taly, Yan 2017, arXiv:1703.01365",
)
@dataclass(frozen=True)
class IntegratedGradients(Method):
    """The gradient averaged along a path from a baseline to the input, times the way: its shares sum to f(x) − f(x').

    Attributes:
        baseline: what "absent" means; None is black for pictures in pixels, else 0; several are averaged, and the
            error is that of the mean.
        path: None is the straight line; "stochastic", "blur", "guided" or whence.path.… At a layer "input" follows the
            input's path instead of running straight between the layer's two ends: conductance.
        rtol: the relative L1 error that is asked for.
        steps: a fixed number of nodes instead of a tolerance (Gauss–Legendre unless `quadrature` says otherwise).
        quadrature: tolerance, gauss, midpoint, trapezoid, left, right, monte_carlo, taylor (second order at the
            input, Δ ⊙ (∇f − ½ HΔ)) or exact (piecewise-linear networks, one gradient for each linear piece).
        max_evaluations: at most so many gradients for each example and baseline (for the mean baseline of several);
            None is 1,024, and 100,000 pieces for exact.
        where: a mask of the features that take the path; the others stay at the input.
        normalize: map each example to [0, 1] by its own range before it is explained; without a target, the class is
            still the top one of the inputs as given.
        multiply: False leaves the mean gradient on the path, not times the way (at a layer, with path="input": internal
            influence). Its shares sum to nothing in particular.
    """

    baseline: Any = None
    path: Any = None
    rtol: float = DEFAULT_RTOL
    steps: int | None = None
    quadrature: str | None = None
    max_evaluations: int | None = None
    where: Any = None
    normalize: bool = False
    multiply: bool = True

    def __post_init__(self) -> None:
        _check_accuracy(self.quadrature, self.steps, self.rtol, self.max_evaluations)

    def attribute(self, problem: Problem) -> Shares:
        problem = _normalized(problem) if self.normalize else problem
        pictures = problem.run.pictures and not isinstance(problem.site, Parameter)
        path = paths.resolve(self.path)
        way = Way(resolve(self.baseline, pictures), path, self.where, self.multiply)
        self._check_path(way.path, problem)
        name = quadrature.check(self.quadrature, self.steps, self.rtol)
        most = self.max_evaluations
        if most is None:
            most = exact.DEFAULT_MAX_PIECES if name == "exact" else DEFAULT_MAX_EVALUATIONS
        accuracy = Accuracy(name, self.steps, self.rtol, most)
        shares = way.average(problem, accuracy)
        return tightened(problem, shares, way.draws, accuracy, way.average) if way.draws > 1 else shares

    def _check_path(self, path: Any, problem: Problem) -> None:
        if isinstance(path, paths.AlongInput):
            _require_layer(problem)
            path = path.inner
        elif isinstance(path, paths.Blur) and self.where is not None and problem.site is not None:
            raise Refused(
                "where names features of the input, and a blurred path at a layer blurs the layer's own; leave it out"
            )
        if self.where is not None and isinstance(problem.site, Parameter):
            raise Refused(f"where names features of the input, and the path is that of {problem.site.words}")
        if isinstance(path, paths.Blur) and self.baseline is not None:
            raise Refused(
                "a blurred path begins at the blurred picture and takes no baseline; leave baseline out"
            )
        if isinstance(path, Guided) and self.quadrature not in (None, "tolerance"):
            raise BadInput(
                f"a guided path goes step by step and takes no quadrature {self.quadrature}; leave one of them out"
            )
        if self.quadrature == "exact" and isinstance(problem.site, Parameter):
            raise Refused(
                f"exact quadrature walks the linear pieces of inputs and layers, not of {problem.site.words}; use rtol"
            )
        if not self.multiply and (isinstance(path, Guided) or self.quadrature in ("exact", "taylor")):
            raise Refused(
                "multiply=False is a mean of gradients over nodes; a guided path, exact and taylor give shares alone"
            )


def _require_layer(problem: Problem) -> None:
    if not isinstance(problem.site, Layer):
        raise Refused(
            'path "input" carries a layer along the path of the input; name the layer with at=whence.layer(...), or '
            "leave path out"
        )
    if not all(problem.ops.is_float(leaf) for leaf in problem.inputs):
        raise Refused(
            'path "input": whole numbers have no way between baseline and input; leave path out, and the layer goes '
            "straight"
        )


def _check_accuracy(name: str | None, steps: Any, rtol: Any, most: Any) -> None:
    """Refuse settings that cannot be meant, before anything costly starts."""
    chosen = quadrature.check(name, steps, rtol)
    if most is not None:
        whole(most, "max_evaluations", 2 if chosen == "monte_carlo" else 1)
    if rtol == DEFAULT_RTOL:
        return
    if steps is not None:
        raise BadInput(
            f"steps={steps} fixes the number of gradients and rtol={rtol} asks for as many as it takes; give one"
        )
    if chosen not in ("tolerance", "monte_carlo"):
        raise BadInput(
            f"quadrature {chosen} does not go by a tolerance; leave rtol={rtol} or the quadrature out"
        )


def _normalized(problem: Problem) -> Problem:
    """Return the question about inputs mapped to [0, 1], each example by its own range."""
    ops = problem.ops

    def mapped(leaf: Array) -> Array:
        least = ops.numpy(leaf).reshape(leaf.shape[0], -1).min(1).reshape(-1, *(1,) * (leaf.ndim - 1))
        spread = problem.spread(leaf)
        return (leaf - ops.like(least, leaf)) / ops.where(spread > 0, spread, spread + 1)

    there = problem.at(tuple(mapped(leaf) for leaf in problem.inputs), np.arange(len(problem.rows)))
    _note_other_class(problem, there)
    return there


def _note_other_class(problem: Problem, there: Problem) -> None:
    """Say so where the class that was chosen from the inputs as given is not the top one of the mapped ones."""
    target = problem.run.target
    classes = None if target is None else target.recorded
    if not isinstance(classes, np.ndarray):
        return
    every = Resolved(lambda y, rows: y, "all", "every class", every_class=True)
    raw, mapped = (each.at_inputs(every).value(each.inputs) for each in (problem, there))
    if raw.ndim == 2 and (raw.argmax(1) == classes[problem.rows]).all():
        changed = problem.rows[raw.argmax(1) != mapped.argmax(1)]
        if len(changed):
            problem.run.note(
                "normalize: the explained class is the top class of the inputs as given; of the normalised ones "
                f"another is, in example {changed[0]}"
            )


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

    def __post_init__(self) -> None:
        _check_accuracy(self.quadrature, self.steps, self.rtol, self.max_evaluations)

    def attribute(self, problem: Problem) -> Shares:
        return IntegratedGradients(
            path=paths.blur(self.sigma), rtol=self.rtol, steps=self.steps, quadrature=self.quadrature,
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
        steps: how many gradients, one after the other; None is 200, unless a tolerance is given.
        rtol: the relative L1 change between two walks, each of twice the steps of the one before, that is accepted.
        fraction: how many of the features move at once.
        deviation: how far a feature may stray from its place on the straight line, relative to its way.
        max_evaluations: at most so many gradients in all walks, with rtol; None is 1,024.
    """

    baseline: Any = None
    steps: int | None = None
    rtol: float | None = None
    fraction: float = 0.25
    deviation: float = 0.02
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        self._integrated()

    def attribute(self, problem: Problem) -> Shares:
        return self._integrated().attribute(problem)

    def _integrated(self) -> IntegratedGradients:
        if self.steps is not None and self.rtol is not None:
            raise BadInput(
                f"steps={self.steps} fixes the number of gradients and rtol={self.rtol} asks for as many as it takes; "
                "give one of them"
            )
        return IntegratedGradients(
            baseline=self.baseline,
            path=paths.guided(self.fraction, self.deviation),
            rtol=DEFAULT_RTOL if self.rtol is None else self.rtol,
            steps=guided.DEFAULT_STEPS if self.steps is None and self.rtol is None else self.steps,
            max_evaluations=self.max_evaluations,
        )
