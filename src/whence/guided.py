"""The guided path: one gradient after the other, because where it goes next depends on what it saw."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np

from whence.attribution import Trace
from whence.backends import Array, Leaves, Operations
from whence.errors import Refused
from whence.integrate import Accuracy
from whence.path import Guided
from whence.problem import Problem
from whence.shares import Shares, norms

DEFAULT_STEPS = 200
FIRST_STEPS = 25


def integrate(problem: Problem, start: Leaves, path: Guided, accuracy: Accuracy) -> Shares:
    """Walk the guided path with a fixed number of steps, or with twice as many until two walks agree.

    A longer walk is another path, so nothing of a shorter one can be reused, and the difference itself is the
    estimate of the error.
    """
    if accuracy.steps is not None:
        return _walk(problem, start, path, accuracy.steps)
    steps = min(FIRST_STEPS, accuracy.max_evaluations)
    best = _walk(problem, start, path, steps)
    spent, ops, keep, active = steps, problem.ops, problem.output.ndim, np.arange(len(problem.rows))
    error, evaluations, trace = np.full(problem.output.shape, np.inf), best.evaluations, best.trace
    while len(active) and spent + 2 * steps <= accuracy.max_evaluations:
        steps *= 2
        spent += steps
        # Examples whose two walks agreed stay as they are, whatever the others of the batch still need.
        begin, inputs = (
            tuple(ops.take(leaf, active) for leaf in leaves) for leaves in (start, problem.inputs)
        )
        fine = _walk(problem.at(inputs, active), begin, path, steps)
        both = [(new, ops.take(old, active)) for new, old in zip(fine.values, best.values, strict=True)]
        change = np.asarray(sum(norms(ops, new - old, keep) for new, old in both))
        size = np.asarray(sum(norms(ops, new, keep) for new, _ in both))
        error[active] = np.where(change == 0, 0.0, change / np.where(size == 0, np.inf, size))
        pairs = zip(best.values, fine.values, strict=True)
        best = replace(best, values=tuple(ops.put(leaf, active, new) for leaf, new in pairs))
        evaluations[active] += steps
        trace = _replaced(trace, fine.trace, active)
        active = active[(error[active] > accuracy.rtol).reshape(len(active), -1).any(1)]
    known, converged = np.isfinite(error).all(), np.asarray(error <= accuracy.rtol)
    return Shares(best.values, evaluations, error if known else None, None, converged, trace=trace)


def _replaced(trace: Trace | None, longer: Trace | None, rows: np.ndarray) -> Trace:
    """Return a trace in which some rows are those of a longer one; the others end in NaN."""
    assert trace is not None
    assert longer is not None

    def filled(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        full = np.full((len(old), *new.shape[1:]), np.nan)
        full[:, : old.shape[1]] = old
        full[rows] = new
        return full

    return Trace(*(filled(getattr(trace, part.name), getattr(longer, part.name)) for part in fields(Trace)))


def _walk(problem: Problem, start: Leaves, path: Guided, steps: int) -> Shares:
    """Follow Kapishnikov et al. (2021), algorithm 1, for every row (and class) by itself."""
    ops, classes = problem.ops, problem.output.shape[1:]
    rows, each = len(problem.rows), int(np.prod(problem.output.shape[1:], dtype=int))
    index, column = np.repeat(np.arange(rows), each), np.tile(np.arange(each), rows)
    origin, goal = _flat(problem, start, index), _flat(problem, problem.point, index)
    here, values = origin, origin * 0
    total = abs(goal - origin).sum(1)
    seen = np.zeros((2, rows * each, steps))
    for step in range(steps):
        y, gradient = _gradients(problem, _leaves(problem, here), index, column)
        moved = _move(ops, here, origin, goal, gradient, total, (step + 1) / steps, path)
        part = (moved - here) * gradient
        values, here = values + part, moved
        seen[:, :, step] = y, ops.numpy(part.sum(1)) * steps
    output, derivative = (np.moveaxis(part.reshape(rows, *classes, steps), -1, 1) for part in seen)
    nodes = np.broadcast_to(np.arange(steps) / steps, (rows, steps))
    trace = Trace(nodes, np.full((rows, steps), 1 / steps), output, derivative)
    leaves = tuple(leaf.reshape(rows, *classes, *leaf.shape[1:]) for leaf in _leaves(problem, values))
    met = np.ones(problem.output.shape, dtype=bool)
    return Shares(leaves, np.full(rows, steps), converged=met, trace=trace)


def _move(
    ops: Operations,
    here: Array,
    origin: Array,
    goal: Array,
    gradient: Array,
    total: Array,
    progress: float,
    path: Guided,
) -> Array:
    """Return the next points [n, d]: features with the smallest |gradient| move until the L1 distance is right.

    After the step `progress` of the way has been gone, in L1 distance. No feature may stray further from its place
    on the straight line than `path.deviation` of its way. Features move in groups of `path.fraction` of all; the
    last group moves in part.
    """
    way = goal - origin
    low, high = max(0.0, progress - path.deviation), min(1.0, progress + path.deviation)
    behind = abs(here - origin) < abs(way) * low
    here = ops.where(behind, origin + way * low, here)
    ceiling = origin + way * high if high < 1 else goal
    distance = abs(ceiling - here)
    to_go = abs(goal - here).sum(1) - total * (1 - progress)
    # Features that are at the end of their interval already take no place in a group (background that never moves).
    order = ops.argsort(abs(gradient) + ops.where(distance > 0, distance * 0, distance * 0 + math.inf))
    size = max(1, math.ceil(path.fraction * here.shape[1]))
    ends = np.minimum(np.arange(size, here.shape[1] + size, size), here.shape[1]) - 1
    reached = ops.along(distance, order).cumsum(1)[:, ends]
    group = np.arange(here.shape[1]) // size
    before = (reached - _differences(ops, reached))[:, group]
    inside = _differences(ops, reached)[:, group]
    part = (to_go[:, None] - before) / ops.where(inside > 0, inside, inside + 1)
    part = ops.along(part * (part > 0), ops.argsort(order))
    return ops.where(part >= 1, ceiling, here + (ceiling - here) * part)


def _differences(ops: Operations, cumulative: Array) -> Array:
    """Return what each entry of a running sum [n, groups] adds to the one before."""
    first = cumulative[:, :1]
    return ops.concatenate([first, cumulative[:, 1:] - cumulative[:, :-1]], axis=1)


def _gradients(
    problem: Problem, leaves: Leaves, index: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, Array]:
    """Return f and the flattened gradients of the walkers, each for its own class."""
    ops, every = problem.ops, problem.every_class
    y = np.zeros(len(index))
    parts: dict[int, Array] = {}

    def chunk(first: int, last: int) -> Array:
        rows = np.arange(first, last)
        value, gradients = problem.vjp(tuple(ops.take(leaf, rows) for leaf in leaves), index[rows])
        where = (np.arange(len(rows)), column[rows])
        picked = [gradient[where] if every else gradient for gradient in gradients]
        flat = [ops.wide(gradient).reshape(len(rows), -1) for gradient in picked]
        output = ops.numpy(value)
        y[rows] = output[where] if every else output
        parts[first] = ops.concatenate(flat, axis=1)
        problem.run.progress.advance(len(rows))
        return value

    problem.run.progress.expect(len(index))
    problem.run.chunks.run(problem.run.backend, len(index), chunk)
    gradient = ops.concatenate([parts[first] for first in sorted(parts)])
    if not (np.isfinite(y).all() and ops.is_finite(gradient)):
        raise Refused(
            "the model's output or gradient is not finite on the guided path; choose another baseline"
        )
    return y, gradient


def _flat(problem: Problem, leaves: Leaves, index: np.ndarray) -> Array:
    """Return the leaves of each row side by side, [n, d], in at least float32."""
    ops = problem.ops
    parts = [ops.wide(ops.take(leaf, index)).reshape(len(index), -1) for leaf in leaves]
    return ops.concatenate(parts, axis=1)


def _leaves(problem: Problem, flat: Array) -> Leaves:
    """Return the leaves that `_flat` laid side by side, in their own shapes and dtype."""
    leaves: list[Array] = []
    first = 0
    for leaf in problem.point:
        last = first + int(np.prod(leaf.shape[1:], dtype=int))
        leaves.append(problem.ops.cast(flat[:, first:last], leaf).reshape(-1, *leaf.shape[1:]))
        first = last
    return tuple(leaves)
