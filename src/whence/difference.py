"""Central differences: the sensitivity of a model that gives values and no gradients."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from whence.backends import Array, Leaves, Operations
from whence.errors import Refused
from whence.problem import Problem
from whence.shares import Shares


def squared_differences(problem: Problem, step: float) -> Shares:
    """Return ((f(x + h e_i) − f(x − h e_i)) / 2h)² for every feature i, h relative to each row's range.

    It is divided by the step that was really taken, which the inputs' precision rounds. Two forwards a feature and row,
    in chunks; nothing of the size features x features is ever made.

    Raises:
        Refused: no float inputs, a step that rounding swallows, or an output that is not finite nearby.
    """
    ops, rows = problem.ops, len(problem.rows)
    if not all(ops.is_float(leaf) for leaf in problem.point):
        raise Refused("finite differences need float inputs; explain a layer: at=whence.layer(...)")
    # A black box takes numbers of any kind: in half precision neither the step nor the output could be told apart.
    wide = not problem.run.backend.differentiable
    point = tuple(ops.wide(x) if wide else x for x in problem.point)
    values: list[Array] = []
    for leaf, x in enumerate(point):
        features = int(np.prod(x.shape[1:], dtype=int))
        width = ops.numpy(problem.spread(x)).astype(np.float64).reshape(rows) * step
        width = np.where(width > 0, width, step)
        slopes = _slopes(problem, point, leaf, width)
        shape = (rows, *problem.output.shape[1:], *x.shape[1:])
        squared = np.moveaxis(slopes.reshape(rows, features, -1), 1, 2) ** 2
        values.append(ops.wide(ops.array(squared.reshape(shape), ops.wide(x))))
    forwards = 2 * sum(int(np.prod(x.shape[1:], dtype=int)) for x in point)
    return Shares(tuple(values), np.full(rows, forwards))


def _slopes(
    problem: Problem, point: Leaves, leaf: int, width: Float[np.ndarray, "rows"]
) -> Float[np.ndarray, "pairs ..."]:
    """Return the central difference of every (row, feature) pair, [rows · features] or [rows · features, K]."""
    ops, backend = problem.ops, problem.run.backend
    features = int(np.prod(point[leaf].shape[1:], dtype=int))
    total = len(problem.rows) * features
    slopes = np.zeros((total, *problem.output.shape[1:]))

    def work(start: int, stop: int) -> Array:
        pair = np.arange(start, stop)
        row, feature = pair // features, pair % features
        outputs: list[np.ndarray] = []
        places: list[np.ndarray] = []
        y: Array = None
        for sign in (1.0, -1.0):
            moved = [ops.take(each, row) + 0 for each in point]
            flat = moved[leaf].reshape(len(pair), -1)
            moves = np.zeros((len(pair), features))
            moves[np.arange(len(pair)), feature] = sign * width[row]
            flat = flat + ops.like(moves, flat)
            moved[leaf] = flat.reshape(moved[leaf].shape)
            places.append(_entries(ops, flat, feature))
            y = backend.value(lambda leaves: problem.evaluate(leaves, row), tuple(moved))
            outputs.append(ops.numpy(y).astype(np.float64))
        span = places[0] - places[1]
        if not span.all():
            lost = int(np.argmin(np.abs(span)))
            raise Refused(
                f"finite differences: a step of {width[row[lost]]:.3g} from {places[0][lost]:.6g} is lost in "
                f"{str(flat.dtype).rpartition('.')[2]}; give a larger step=, or inputs (and a model) in a wider dtype"
            )
        slopes[pair] = (outputs[0] - outputs[1]) / span.reshape(-1, *(1,) * (outputs[0].ndim - 1))
        problem.run.progress.advance(2 * len(pair))
        return y

    problem.run.progress.expect(2 * total)
    problem.run.chunks.run(backend, total, work)
    if not np.isfinite(slopes).all():
        raise Refused("the model's output is not finite near the input; its sensitivity is undefined")
    return slopes


def _entries(ops: Operations, flat: Array, column: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return one entry of each row of [n, d], in float64."""
    place = ops.array(column[:, None], flat)
    return ops.numpy(ops.wide(ops.along(flat, place)))[:, 0].astype(np.float64)
