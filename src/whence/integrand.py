"""What is summed over the nodes of a path, and how a sum becomes shares.

Shares are linear in the gradients, so nearly everything can wait until the sum is done: on a straight line the
factor x − x', and with fusion the way back through the model's first affine operations too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from whence.backends import Array, Leaves, Operations, Split
from whence.fusion import fused
from whence.path import Line, Points, per_row
from whence.problem import Problem

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

    def squares(self, sums: Leaves, row: Rows) -> Float[np.ndarray, "m cells"]:
        """Return about how large sums [m, cells, (K), ...] are as shares: their squares, summed, each K in its own scale."""
        ...


@dataclass(frozen=True)
class Curve:
    """∇f(x(α)) ⊙ dx/dα on any path."""

    problem: Problem
    points: Points

    @property
    def like(self) -> Leaves:
        return self.problem.point

    def at(self, alpha: Nodes, row: Rows, number: Rows) -> Seen:
        ops = self.problem.ops
        where, velocity = self.points(alpha, row, number)
        output, gradients = self.problem.vjp(where, row)
        parts = tuple(
            ops.wide(gradient) * ops.wide(speed[:, None] if self.problem.every_class else speed)
            for gradient, speed in zip(gradients, velocity, strict=True)
        )
        return Seen(output, parts, sum(part.reshape(*output.shape, -1).sum(-1) for part in parts))

    def shares(self, sums: Leaves, row: Rows) -> Leaves:
        return sums

    def squares(self, sums: Leaves, row: Rows) -> Float[np.ndarray, "m cells"]:
        return _squares(self.problem, sums, None, row)


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

    def squares(self, sums: Leaves, row: Rows) -> Float[np.ndarray, "m cells"]:
        return _squares(self.problem, sums, self.line.steps, row)


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

    def squares(self, sums: Leaves, row: Rows) -> Float[np.ndarray, "m cells"]:
        # The leaves' own shares will do: what they are carried back to costs too much to be asked for each cell.
        return _squares(self.problem, sums, self._ways, row)


def integrand(problem: Problem, points: Points, steps: int) -> Integrand:
    """Return the cheapest form of a path's integrand, for about so many steps."""
    if not isinstance(points, Line):
        return Curve(problem, points)
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


def _squares(problem: Problem, sums: Leaves, ways: Leaves | None, row: Rows) -> Float[np.ndarray, "m cells"]:
    ops, each = problem.ops, int(np.prod(problem.output.shape[1:], dtype=int))
    found = np.zeros((*sums[0].shape[:2], each))
    for leaf, total in enumerate(sums):
        flat = total.reshape(*total.shape[:2], each, -1)
        if ways is not None:
            way = ops.wide(ops.take(ways[leaf], row))
            flat = flat * way.reshape(len(row), 1, 1, -1)
        found += ops.numpy((flat * flat).sum(-1)).astype(np.float64)
    whole = found.sum(1, keepdims=True)
    return (found / np.where(whole > 0, whole, 1)).sum(-1)
