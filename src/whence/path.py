"""Paths from a baseline to the input: points and velocities; a guided one is told gradients as it moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float

from whence.backends import Array, Leaves, Operations
from whence.counts import whole
from whence.errors import BadInput

if TYPE_CHECKING:
    from whence.problem import Problem

Nodes = Float[np.ndarray, "n"]
Points = Callable[[Nodes, np.ndarray, np.ndarray], tuple[Leaves, Leaves]]
"""(α [n], example [n], number of the node [n]) -> points x(α) and velocities dx/dα, each [n, ...]."""


class Path(Protocol):
    """A way from baseline to input; `draws` is how many random trajectories are averaged (1: it is not random)."""

    draws: int

    def start(self, problem: Problem, baseline: Leaves) -> Leaves:
        """Return where the path begins, [B, ...]."""
        ...

    def between(self, problem: Problem, start: Leaves, draw: int) -> Points:
        """Return the curve from the start to the problem's point."""
        ...


def per_row(values: Nodes, leaf: Array, ops: Operations) -> Array:
    """Return one number for each row, shaped to be multiplied with a leaf [n, ...]."""
    return ops.like(values.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf)


@dataclass(frozen=True)
class Line:
    """The points of straight lines; their velocity, `steps` = x − x', is the same all along."""

    ops: Operations
    start: Leaves
    steps: Leaves

    def __call__(self, alpha: Nodes, index: np.ndarray, node: np.ndarray) -> tuple[Leaves, Leaves]:
        velocity = tuple(self.ops.take(step, index) for step in self.steps)
        begin = (self.ops.take(leaf, index) for leaf in self.start)
        return tuple(
            b + per_row(alpha, v, self.ops) * v for b, v in zip(begin, velocity, strict=True)
        ), velocity


@dataclass(frozen=True)
class Straight:
    """x(α) = x' + α (x − x'): the one path that is symmetric in the features (Sundararajan et al. 2017)."""

    draws: int = 1

    def start(self, problem: Problem, baseline: Leaves) -> Leaves:
        return baseline

    def between(self, problem: Problem, start: Leaves, draw: int) -> Points:
        return Line(problem.ops, start, tuple(x - b for x, b in zip(problem.point, start, strict=True)))


# Most of what a blur hides comes back in its last few pixels of width: σ falls with this power of 1 − α, so that
# equal steps of α change the picture about equally. The integral does not depend on it, only the nodes it needs.
BLUR_POWER = 3


@dataclass(frozen=True)
class Blur:
    """x(α) = x blurred by a Gaussian of σ(α) = σ (1 − α)³, mirrored at the borders: from coarse to fine.

    In the cosine basis the blur multiplies frequency ω by exp(−σ(α)²ω²/2), so that the velocity is exact: it
    multiplies by −ω² σ(α) σ'(α) once more (Xu, Venugopalan, Sundararajan 2020; their code differentiates by a finite
    step). `sigma` is the widest blur in pixels; None is a quarter of the longer side.
    """

    sigma: float | None = None
    draws: int = 1

    def start(self, problem: Problem, baseline: Leaves) -> Leaves:
        points = self.between(problem, (), 0)
        rows = len(problem.rows)
        return points(np.zeros(rows), np.arange(rows), np.arange(rows))[0]

    def between(self, problem: Problem, start: Leaves, draw: int) -> Points:
        ops = problem.ops
        scale_spaces = [
            _ScaleSpace(ops, leaf, problem.spatial_axes(leaf), self.sigma) for leaf in problem.point
        ]

        def points(alpha: Nodes, index: np.ndarray, node: np.ndarray) -> tuple[Leaves, Leaves]:
            both = [each.at(alpha, index) for each in scale_spaces]
            return tuple(where for where, _ in both), tuple(velocity for _, velocity in both)

        return points


@dataclass(frozen=True)
class Stochastic:
    """Random trajectories around the straight line, averaged.

    x(α) = x' + α (x − x') + noise · range · Σ_k √2 sin(kπα)/(kπ) z_k with standard normal z_k per feature: a Brownian
    bridge by its first `modes` terms (Karhunen 1947, Loève 1948), smooth, fixed at both ends, with an exact
    velocity. Each trajectory is complete, so their mean is.
    """

    draws: int = 8
    noise: float = 0.1
    modes: int = 4

    def start(self, problem: Problem, baseline: Leaves) -> Leaves:
        return baseline

    def between(self, problem: Problem, start: Leaves, draw: int) -> Points:
        ops = problem.ops
        line = Straight().between(problem, start, draw)
        generator = problem.random("path", draw)
        shapes = [(self.modes, *leaf.shape[1:]) for leaf in problem.point]
        scales = [problem.spread(leaf) for leaf in problem.point]
        waves = [
            ops.like(generator.standard_normal(shape), leaf).reshape(self.modes, -1)
            for shape, leaf in zip(shapes, problem.point, strict=True)
        ]
        order = np.pi * np.arange(1, self.modes + 1)

        def points(alpha: Nodes, index: np.ndarray, node: np.ndarray) -> tuple[Leaves, Leaves]:
            where, velocity = line(alpha, index, node)
            sine = self.noise * np.sqrt(2) * np.sin(alpha[:, None] * order) / order
            cosine = self.noise * np.sqrt(2) * np.cos(alpha[:, None] * order)

            def sway(amplitude: np.ndarray, leaf: Array, wave: Array, scale: Array) -> Array:
                return (ops.like(amplitude, leaf) @ wave).reshape(leaf.shape) * ops.take(scale, index)

            parts = list(zip(where, velocity, waves, scales, strict=True))
            moved = tuple(x + sway(sine, x, wave, scale) for x, _, wave, scale in parts)
            return moved, tuple(v + sway(cosine, v, wave, scale) for _, v, wave, scale in parts)

        return points


@dataclass(frozen=True)
class Guided:
    """At each step the features with the smallest |gradient| move towards the input first (Kapishnikov et al. 2021).

    `fraction` of the features move at once, and none strays further than `deviation` from its place on the straight
    line (the authors' code: 0.25 and 0.02). It needs one gradient after the other, so `whence.guided` walks it.
    """

    fraction: float = 0.25
    deviation: float = 0.02
    draws: int = 1

    def start(self, problem: Problem, baseline: Leaves) -> Leaves:
        return baseline

    def between(self, problem: Problem, start: Leaves, draw: int) -> Points:
        raise BadInput(
            "a guided path is not known in advance; use it with whence.GuidedIntegratedGradients or path="
        )


@dataclass(frozen=True)
class AlongInput:
    """z(x(α)): what a layer goes through while the input follows a path of its own (Dhamdhere et al. 2018)."""

    inner: Any = Straight()

    @property
    def draws(self) -> int:
        """How many random trajectories the input's path has."""
        return self.inner.draws

    def start(self, problem: Problem, baseline: Leaves) -> Leaves:
        """Return where the input's path begins; `problem` is the question at the inputs."""
        return self.inner.start(problem, baseline)

    def between(self, problem: Problem, start: Leaves, draw: int) -> Points:
        """Return the input's path."""
        return self.inner.between(problem, start, draw)


@dataclass(frozen=True)
class Through:
    """The points of an input's path, for a layer that is explained along it."""

    inputs: Points

    def __call__(self, alpha: Nodes, index: np.ndarray, node: np.ndarray) -> tuple[Leaves, Leaves]:
        return self.inputs(alpha, index, node)


def straight() -> Straight:
    """The straight line."""
    return Straight()


def blur(sigma: float | None = None) -> Blur:
    """From the picture blurred by `sigma` pixels (None: a quarter of its longer side) to the picture."""
    if sigma is not None and sigma <= 0:
        raise BadInput(f"path blur: sigma is {sigma}; it is a width in pixels, above 0")
    return Blur(sigma)


def stochastic(samples: int = 8, noise: float = 0.1, modes: int = 4) -> Stochastic:
    """`samples` random trajectories around the straight line, `noise` relative to each example's range."""
    whole(samples, "path stochastic: samples", 2)
    whole(modes, "path stochastic: modes")
    if not noise >= 0:
        raise BadInput(f"path stochastic: noise is {noise}; it is relative to the range, at least 0")
    return Stochastic(samples, noise, modes)


def guided(fraction: float = 0.25, deviation: float = 0.02) -> Guided:
    """The adaptive path of guided Integrated Gradients."""
    if not (0 < fraction <= 1 and 0 < deviation <= 1):
        raise BadInput("path guided: fraction and deviation lie in (0, 1]")
    return Guided(fraction, deviation)


def along_input(path: Any = None) -> AlongInput:
    """At a layer, along the path of the input (None: straight): conductance."""
    inner = resolve(path)
    if isinstance(inner, (Guided, AlongInput)):
        raise BadInput(
            "path input: the input itself goes straight, blurred or stochastically; a guided path follows the gradients"
        )
    return AlongInput(inner)


KINDS: dict[str, Callable[[], Any]] = {
    "straight": straight, "blur": blur, "stochastic": stochastic, "guided": guided, "input": along_input,
}  # fmt: skip


def resolve(path: Any) -> Any:
    """Return the path that a method's field means: None, a name, or a path itself."""
    if path is None:
        return Straight()
    if isinstance(path, str):
        if path not in KINDS:
            from whence.naming import unknown

            raise BadInput(unknown("path", path, KINDS))
        return KINDS[path]()
    if not hasattr(path, "between"):
        raise BadInput(f"path is {path!r}; give a name ({', '.join(KINDS)}) or whence.path.…")
    return path


class _ScaleSpace:
    """One leaf's spectrum in the cosine basis, its two axes of space last, and what it is at any blur."""

    def __init__(self, ops: Operations, leaf: Array, pair: tuple[int, int], sigma: float | None) -> None:
        self.ops = ops
        order = [axis for axis in range(leaf.ndim) if axis not in pair] + list(pair)
        self.back = [order.index(axis) for axis in range(leaf.ndim)]
        (self.rows, self.row_squares), (self.columns, self.column_squares) = (
            _cosine_basis(leaf.shape[axis]) for axis in pair
        )
        self.widest = max(leaf.shape[axis] for axis in pair) / 4 if sigma is None else sigma
        moved = ops.transpose(leaf, order)
        self.spectrum = ops.like(self.rows, leaf) @ moved @ ops.like(self.columns.T, leaf)

    def at(self, alpha: Nodes, index: np.ndarray) -> tuple[Array, Array]:
        """Return the blurred leaf at α [n] of the examples `index` [n], and its velocity."""
        ops, rest = self.ops, 1 - alpha
        sigma = self.widest * rest**BLUR_POWER
        slope = self.widest * BLUR_POWER * rest ** (BLUR_POWER - 1)
        part = ops.take(self.spectrum, index)
        between = (1,) * (part.ndim - 3)

        def factor(values: np.ndarray, row: bool) -> Array:
            return ops.like(values.reshape(len(alpha), *between, *((-1, 1) if row else (1, -1))), part)

        fading = [
            np.exp(-(sigma[:, None] ** 2) * squares / 2)
            for squares in (self.row_squares, self.column_squares)
        ]
        rise = (sigma * slope)[:, None]
        faded = part * factor(fading[0], row=True) * factor(fading[1], row=False)
        frequencies = factor(rise * self.row_squares, row=True) + factor(
            rise * self.column_squares, row=False
        )
        return self._picture(faded), self._picture(faded * frequencies)

    def _picture(self, spectrum: Array) -> Array:
        ops = self.ops
        picture = ops.like(self.rows.T, spectrum) @ spectrum @ ops.like(self.columns, spectrum)
        return ops.transpose(picture, self.back)


def _cosine_basis(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the orthonormal DCT-II matrix [frequencies, size] and the squared angular frequencies [size]."""
    k = np.arange(size)
    matrix = np.sqrt(2 / size) * np.cos(np.pi * np.outer(k, np.arange(size) + 0.5) / size)
    matrix[0] /= np.sqrt(2)
    return matrix, (np.pi * k / size) ** 2
