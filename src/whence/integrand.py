"""What is summed over the nodes of a path, and how a sum becomes shares.

Shares are linear in the gradients, so nearly everything can wait until the sum is done: on a straight line the
factor x − x', and with fusion the way back through the model's first affine operations too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from whence.backends import Array, Leaves, Operations, Split
from whence.fusion import fused
from whence.path import Line, Points, Through, per_row
from whence.problem import Problem
from whence.site import Layer

# So many random signs tell which part of a sum is large: as good as all features, to a few gradients in a hundred.
PROBES = 16
Nodes = Float[np.ndarray, "n"]
Rows = Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Seen:
    """One chunk's answer: f [n] (or [n, K]), what is summed [n, (K), ...] per leaf, and ∇f · dx/dα [n] (or [n, K])."""

    output: Array
    parts: Leaves
    slope: Array


class Integrand(Protocol):
    """A path's integrand, node by node."""

    @property
    def like(self) -> Leaves:
        """Arrays of the summed leaves' shapes [B, ...] and kind."""
        ...

    def at(self, alpha: Nodes, row: Rows, number: Rows) -> Seen:
        """Return what one chunk of nodes adds: `row` is each node's example, `number` counts the nodes."""
        ...

    def shares(self, sums: Leaves, row: Rows) -> Leaves:
        """Return what sums [m, (K), ...] mean for the features; `row` [m] is the example of each."""
        ...

    def probes(self, row: Rows) -> Leaves:
        """Return arrays [m, PROBES, ...] whose products with sums are those of random signs with the shares.

        Their mean square is the squared size of the shares, without the shares: the same for every kind of integrand.
        """
        ...


@dataclass(frozen=True)
class Curve:
    """∇f(x(α)) ⊙ dx/dα on any path; without `multiply` the gradient alone, for its mean."""

    problem: Problem
    points: Points
    multiply: bool = True

    @property
    def like(self) -> Leaves:
        return self.problem.point

    def at(self, alpha: Nodes, row: Rows, number: Rows) -> Seen:
        ops = self.problem.ops
        output, gradients, velocity = self._look(alpha, row, number)
        if not self.multiply:
            return _seen(ops, output, gradients, velocity)
        parts = tuple(
            ops.wide(gradient) * ops.wide(speed[:, None] if self.problem.every_class else speed)
            for gradient, speed in zip(gradients, velocity, strict=True)
        )
        return Seen(output, parts, sum(part.reshape(*output.shape, -1).sum(-1) for part in parts))

    def _look(self, alpha: Nodes, row: Rows, number: Rows) -> tuple[Array, Leaves, Leaves]:
        """Return f, its gradients and the velocity of the point."""
        where, velocity = self.points(alpha, row, number)
        return *self.problem.vjp(where, row), velocity

    def shares(self, sums: Leaves, row: Rows) -> Leaves:
        return sums

    def probes(self, row: Rows) -> Leaves:
        ops = self.problem.ops
        ones = (ops.wide(ops.take(leaf, row)) * 0 + 1 for leaf in self.like)
        return tuple(_signed(ops, one, leaf) for leaf, one in enumerate(ones))


@dataclass(frozen=True)
class Conducted(Curve):
    """∂f/∂z ⊙ dz/dα at a layer z(x(α)), while the input follows its path: the whole network is at x(α).

    With a branch around the layer the shares sum to what flows through the layer, not to f(x) − f(x').
    """

    def _look(self, alpha: Nodes, row: Rows, number: Rows) -> tuple[Array, Leaves, Leaves]:
        problem, site = self.problem, self.problem.site
        assert isinstance(site, Layer)
        where, velocity = self.points(alpha, row, number)
        there = replace(problem.at(where, row), site=site.whole)
        z, speed = there.push(velocity)
        there.__dict__["point"] = z
        output, gradients = there.vjp(z, np.arange(len(row)))
        channels = site.columns(z[0])
        if channels is None:
            return output, gradients, speed
        chosen = gradients[0][:, :, channels] if problem.every_class else gradients[0][:, channels]
        return output, (chosen,), (speed[0][:, channels],)


@dataclass(frozen=True)
class Straight:
    """∇f on a straight line; the shares are its sums times x − x'."""

    problem: Problem
    line: Line

    @property
    def like(self) -> Leaves:
        return self.problem.point

    def at(self, alpha: Nodes, row: Rows, number: Rows) -> Seen:
        where, velocity = self.line(alpha, row, number)
        output, gradients = self.problem.vjp(where, row)
        return _seen(self.problem.ops, output, gradients, velocity)

    def shares(self, sums: Leaves, row: Rows) -> Leaves:
        return _times(self.problem, sums, self.line.steps, row)

    def probes(self, row: Rows) -> Leaves:
        ops = self.problem.ops
        steps = (ops.wide(ops.take(step, row)) for step in self.line.steps)
        return tuple(_signed(ops, step, leaf) for leaf, step in enumerate(steps))


@dataclass(frozen=True)
class Fused:
    """∇f with respect to what the first affine operations z = Wx + b put out; the shares are (x − x') ⊙ Wᵀ of its sums.

    Those operations are run for the two ends only, whatever the number of nodes.
    """

    problem: Problem
    line: Line
    split: Split

    @property
    def like(self) -> Leaves:
        return self.split.end

    @cached_property
    def _ways(self) -> Leaves:
        return tuple(end - start for start, end in zip(self.split.start, self.split.end, strict=True))

    def at(self, alpha: Nodes, row: Rows, number: Rows) -> Seen:
        ops = self.problem.ops
        velocity = tuple(ops.take(way, row) for way in self._ways)
        begin = (ops.take(leaf, row) for leaf in self.split.start)
        where = tuple(b + per_row(alpha, v, ops) * v for b, v in zip(begin, velocity, strict=True))
        output, gradients = self.problem.vjp(where, row, self.split.value)
        return _seen(ops, output, gradients, velocity)

    def shares(self, sums: Leaves, row: Rows) -> Leaves:
        problem, ops = self.problem, self.problem.ops
        classes = problem.output.shape[1:]
        each = int(np.prod(classes, dtype=int))
        cotangents = tuple(
            ops.cast(total.reshape(-1, *leaf.shape[1:]), leaf)
            for total, leaf in zip(sums, self.like, strict=True)
        )
        pulled = problem.chunked(
            len(row) * each,
            lambda part: self.split.pull(
                tuple(ops.take(leaf, part) for leaf in cotangents), row[part // each]
            ),
        )
        wide = (ops.wide(leaf).reshape(len(row), *classes, *leaf.shape[1:]) for leaf in pulled)
        return _times(problem, tuple(wide), self.line.steps, row)

    def probes(self, row: Rows) -> Leaves:
        """Return what the first operations make of the signs: they run forwards here, and the sums need not go back."""
        problem, ops = self.problem, self.problem.ops
        steps = Straight(problem, self.line).probes(row)

        def pushed(part: Rows) -> Leaves:
            start = (ops.take(leaf, row[part // PROBES]) for leaf in self.line.start)
            moved = (ops.take(step.reshape(-1, *step.shape[2:]), part) for step in steps)
            x = tuple(a + ops.cast(b, a) for a, b in zip(start, moved, strict=True))
            return self.split.leaves(x, row[part // PROBES])

        z = problem.chunked(len(row) * PROBES, pushed)
        return tuple(
            ops.wide(leaf).reshape(len(row), PROBES, *leaf.shape[1:])
            - ops.wide(ops.take(begin, row))[:, None]
            for leaf, begin in zip(z, self.split.start, strict=True)
        )


def curve(problem: Problem, points: Points, multiply: bool = True) -> Curve:
    """Return a path's integrand in the form that suits any path."""
    if isinstance(points, Through):
        return Conducted(problem, points.inputs, multiply)
    return Curve(problem, points, multiply)


def integrand(problem: Problem, points: Points, steps: int, multiply: bool = True) -> Integrand:
    """Return the cheapest form of a path's integrand, for about so many steps."""
    if not (isinstance(points, Line) and multiply):
        return curve(problem, points, multiply)
    split = fused(problem, points.start, steps)
    return Straight(problem, points) if split is None else Fused(problem, points, split)


def _seen(ops: Operations, output: Array, gradients: Leaves, velocity: Leaves) -> Seen:
    parts = tuple(ops.wide(gradient) for gradient in gradients)
    slope = sum(_along(ops, part, speed, output.shape) for part, speed in zip(parts, velocity, strict=True))
    return Seen(output, parts, slope)


def _along(ops: Operations, part: Array, speed: Array, shape: tuple[int, ...]) -> Array:
    """Return Σ part · speed over the features, [n] (or [n, K]), without an array of the products."""
    rows = shape[0]
    columns = ops.wide(speed).reshape(rows, -1, 1)
    return (part.reshape(rows, -1, columns.shape[1]) @ columns).reshape(shape)


def _times(problem: Problem, sums: Leaves, steps: Leaves, row: Rows) -> Leaves:
    ops = problem.ops
    taken = (ops.wide(ops.take(step, row)) for step in steps)
    return tuple(
        total * (step[:, None] if problem.every_class else step)
        for total, step in zip(sums, taken, strict=True)
    )


def _signed(ops: Operations, array: Array, leaf: int) -> Array:
    """Return an array [m, ...] times random signs, [m, PROBES, ...]: the same signs for every row."""
    shape = tuple(array.shape[1:])
    return array[:, None] * ops.like(
        _signs(int(np.prod(shape, dtype=int)), leaf).reshape(1, PROBES, *shape), array
    )


@lru_cache(maxsize=8)
def _signs(features: int, leaf: int) -> Int[np.ndarray, "probes features"]:
    return np.random.default_rng(leaf).choice(np.array([-1, 1], dtype=np.int8), (PROBES, features))
