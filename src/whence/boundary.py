"""The nearest decision boundary: the closest point at which the model would start to say something else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from whence import pixels
from whence.backends import Array, Leaves
from whence.errors import Refused
from whence.problem import Problem
from whence.shares import sums
from whence.target import Resolved

BISECTIONS = 25
# Step a little past the linear estimate, or a curved boundary is approached for ever without being crossed.
OVERSHOOT = 1.02
# Classes that may lie across the nearest boundary: the strongest few, or a thousand gradients would be needed.
RIVALS = 10


@dataclass(frozen=True)
class Boundary:
    """Walk down the smallest margin over its gradient, then bisect onto the boundary (Moosavi-Dezfooli et al. 2016).

    Each step is x ← x − m ∇m/‖∇m‖² for the class whose boundary is nearest, |m|/‖∇m‖, with m = f_top − f_class. It
    is a local search: the boundary found is near, and no nearer one is excluded. Pictures stay pictures: a pixel that
    is black or white already is moved no further that way.
    """

    other: int | None = None
    iterations: int = 50
    draws: int = 1

    def start(self, problem: Problem, draw: int) -> Leaves:
        """Return the points on the boundary, shaped like the inputs."""
        search = _Search(problem, self.other)
        here, crossed = problem.inputs, np.zeros(len(problem.rows), dtype=bool)
        for _ in range(self.iterations):
            here = search.step(here, crossed)
            crossed = search.crossed(here)
            if crossed.all():
                break
        if not crossed.all():
            raise Refused(
                f"baseline boundary: no other class was reached from example {problem.rows[~crossed][0]} in "
                f"{self.iterations} steps; allow more (iterations=) or choose another baseline"
            )
        return search.bisect(here)


class _Search:
    """The rival classes of every row, and the moves towards them."""

    def __init__(self, problem: Problem, other: int | None) -> None:
        raw = problem.at_inputs(Resolved(lambda y, rows: y, "all", "every class", every_class=True))
        if raw.output.ndim != 2 or raw.output.shape[1] < 2:
            raise Refused(
                "baseline boundary needs a model with an output [batch, classes] of at least two classes"
            )
        order = np.argsort(-raw.output, axis=1)
        self.problem, self.raw, self.ops = problem, raw, problem.ops
        self.top = order[:, 0]
        self.rivals = order[:, 1 : RIVALS + 1]
        if other is not None:
            if not 0 <= other < raw.output.shape[1]:
                raise Refused(
                    f"baseline boundary: class {other} is out of range; the model has {raw.output.shape[1]}"
                )
            self.rivals = np.where(self.top == other, order[:, 1], other)[:, None]

    def _margin(self, rank: int) -> Problem:
        top, rival = self.top, self.rivals[:, rank]
        positions = np.arange(len(top))

        def select(y: Array, rows: np.ndarray) -> Array:
            signs = np.zeros(tuple(y.shape))
            signs[positions[: len(rows)], top[rows]] += 1
            signs[positions[: len(rows)], rival[rows]] -= 1
            return (y * self.ops.like(signs, y)).sum(1)

        target = Resolved(select, None, "margin")
        question = self.problem.at_inputs(target)
        # Within this search a row is its own example: the chosen classes belong to rows.
        return replace(question, choose=np.arange(len(top)))

    def step(self, here: Leaves, crossed: np.ndarray) -> Leaves:
        """Move every row that has not crossed to its nearest linearised boundary."""
        ops = self.ops
        best = np.full(len(crossed), np.inf)
        move = tuple(leaf * 0 for leaf in here)
        for rank in range(self.rivals.shape[1]):
            margin, gradient = self._margin(rank).gradient(here)
            gradient = self._free(gradient, here)
            squared = np.asarray(sum(sums(ops, g * g, 1) for g in gradient))
            with np.errstate(divide="ignore", invalid="ignore"):
                distance = np.where(squared > 0, np.maximum(margin, 0) / np.sqrt(squared), np.inf)
                length = np.where(squared > 0, np.maximum(margin, 1e-6) / squared, 0.0)
            nearer = (distance < best) & ~crossed
            best = np.where(nearer, distance, best)
            scale = [
                ops.like((OVERSHOOT * length).reshape(-1, *(1,) * (leaf.ndim - 1)), leaf) for leaf in here
            ]
            chosen = [ops.like(nearer.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf) for leaf in here]
            moves = zip(chosen, scale, gradient, move, strict=True)
            move = tuple(ops.where(use, -size * g, old) for use, size, g, old in moves)
        moved = tuple(leaf + by for leaf, by in zip(here, move, strict=True))
        return tuple(pixels.within(ops, leaf) for leaf in moved) if self.problem.run.pictures else moved

    def _free(self, gradient: Leaves, here: Leaves) -> Leaves:
        """Return the gradient of the numbers that can be moved against it: of pixels not those at the end already."""
        if not self.problem.run.pictures:
            return gradient
        still = [((x <= 0) & (g > 0)) | ((x >= 1) & (g < 0)) for g, x in zip(gradient, here, strict=True)]
        return tuple(self.ops.where(stop, g * 0, g) for stop, g in zip(still, gradient, strict=True))

    def crossed(self, here: Leaves) -> np.ndarray:
        """Tell which rows are no longer of their first class (or have passed the asked rival)."""
        y = self.raw.value(here)
        rows = np.arange(len(y))
        rivals = np.take_along_axis(y, self.rivals, 1).max(1)
        return rivals >= y[rows, self.top]

    def bisect(self, beyond: Leaves) -> Leaves:
        """Return the first point of the other class on the way from each input to the one beyond, to 2⁻²⁵ of it."""
        near, far = np.zeros(len(self.top)), np.ones(len(self.top))
        for _ in range(BISECTIONS):
            middle = (near + far) / 2
            over = self.crossed(self._between(beyond, middle))
            near, far = np.where(over, near, middle), np.where(over, middle, far)
        return self._between(beyond, far)

    def _between(self, beyond: Leaves, part: np.ndarray) -> Leaves:
        pairs = zip(self.problem.inputs, beyond, strict=True)
        return tuple(x + (b - x) * self.ops.like(part.reshape(-1, *(1,) * (x.ndim - 1)), x) for x, b in pairs)
