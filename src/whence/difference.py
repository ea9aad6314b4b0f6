"""Central differences: the sensitivity of a model that gives values and no gradients."""

from __future__ import annotations

import numpy as np

from whence.backends import Array
from whence.errors import Refused
from whence.problem import Problem
from whence.shares import Shares


def squared_differences(problem: Problem, step: float) -> Shares:
    """Return ((f(x + h e_i) − f(x − h e_i)) / 2h)² for every feature i, h relative to each row's range.

    Two forwards a feature and row, in chunks; nothing of the size features x features is ever made.
    """
    ops, rows = problem.ops, len(problem.rows)
    if not all(ops.is_float(leaf) for leaf in problem.point):
        raise Refused("finite differences need float inputs; explain a layer: at=whence.layer(...)")
    values: list[Array] = []
    for leaf, x in enumerate(problem.point):
        features = int(np.prod(x.shape[1:], dtype=int))
        width = ops.numpy(problem.spread(x)).astype(np.float64).reshape(rows) * step
        width = np.where(width > 0, width, step)
        slopes = _slopes(problem, leaf, features, width)
        shape = (rows, *problem.output.shape[1:], *x.shape[1:])
        squared = np.moveaxis(slopes.reshape(rows, features, -1), 1, 2) ** 2
        values.append(ops.wide(ops.array(squared.reshape(shape), ops.wide(x))))
    forwards = 2 * sum(int(np.prod(x.shape[1:], dtype=int)) for x in problem.point)
    return Shares(tuple(values), np.full(rows, forwards))


def _slopes(problem: Problem, leaf: int, features: int, width: np.ndarray) -> np.ndarray:
    """Return the central difference of every (row, feature) pair, [rows · features] or [rows · features, K]."""
    ops, backend = problem.ops, problem.run.backend
    total = len(problem.rows) * features
    slopes = np.zeros((total, *problem.output.shape[1:]))

    def work(start: int, stop: int) -> Array:
        pair = np.arange(start, stop)
        row, feature = pair // features, pair % features
        sides: list[np.ndarray] = []
        y: Array = None
        for sign in (1.0, -1.0):
            point = [ops.take(each, row) + 0 for each in problem.point]
            flat = point[leaf].reshape(len(pair), -1)
            moves = np.zeros((len(pair), features))
            moves[np.arange(len(pair)), feature] = sign * width[row]
            point[leaf] = (flat + ops.like(moves, flat)).reshape(point[leaf].shape)
            moved = tuple(point)
            y = backend.value(lambda leaves: problem.evaluate(leaves, row), moved)
            sides.append(ops.numpy(y).astype(np.float64))
        span = 2 * width[row].reshape(-1, *(1,) * (sides[0].ndim - 1))
        slopes[pair] = (sides[0] - sides[1]) / span
        problem.run.progress.advance(2 * len(pair))
        return y

    problem.run.progress.expect(2 * total)
    problem.run.chunks.run(backend, total, work)
    if not np.isfinite(slopes).all():
        raise Refused("the model's output is not finite near the input; its sensitivity is undefined")
    return slopes
