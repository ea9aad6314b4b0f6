"""The integral of the gradient's first-order expansion at the input: one Hessian-vector product."""

from __future__ import annotations

import numpy as np

from whence.backends import Array, Leaves
from whence.errors import Refused
from whence.problem import Problem
from whence.shares import Shares


def integrate(problem: Problem, start: Leaves) -> Shares:
    """Return Δ ⊙ (∇f(x) − ½ HΔ), the integral of the gradient's first-order expansion at the input."""
    ops = problem.ops
    ways = tuple(x - s for x, s in zip(problem.point, start, strict=True))
    parts: dict[int, Leaves] = {}

    def chunk(first: int, last: int) -> Array:
        rows = np.arange(first, last)
        point, way = (tuple(ops.take(leaf, rows) for leaf in leaves) for leaves in (problem.point, ways))
        classes = range(problem.output.shape[1]) if problem.every_class else [None]
        found = [_expanded(problem, point, way, rows, k) for k in classes]
        columns = list(zip(*(each[1] for each in found), strict=True))
        parts[first] = tuple(ops.stack(c, 1) if problem.every_class else c[0] for c in columns)
        return found[-1][0]

    problem.run.chunks.run(problem.run.backend, len(problem.rows), chunk)
    pieces = [parts[first] for first in sorted(parts)]
    values = tuple(ops.concatenate(each) for each in zip(*pieces, strict=True))
    for leaf in values:
        if not ops.is_finite(leaf):
            raise Refused("the second-order expansion is not finite at the input; use another quadrature")
    return Shares(values, np.full(len(problem.rows), 2))


def _expanded(
    problem: Problem, point: Leaves, way: Leaves, rows: np.ndarray, column: int | None
) -> tuple[Array, Leaves]:
    def function(leaves: Leaves) -> Array:
        y = problem.evaluate(leaves, rows)
        return y if column is None else y[:, column]

    ops = problem.ops
    y, gradients, bends = problem.run.backend.hessian_vector(function, point, way)
    parts = zip(way, gradients, bends, strict=True)
    return y, tuple(ops.wide(d) * (ops.wide(g) - 0.5 * ops.wide(h)) for d, g, h in parts)
