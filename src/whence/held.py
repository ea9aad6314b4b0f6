"""Features held at the input: a mask names those that take the path, and the others stay where they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from whence.backends import Array, Leaves
from whence.background import beside_inputs
from whence.errors import BadInput
from whence.path import Line, Points
from whence.problem import Problem


def place(problem: Problem, points: Leaves, where: Any) -> Leaves:
    """Return points [n, ...] of the problem's rows with the features outside the mask as they are in the inputs.

    Raises:
        BadInput: the mask does not fit the inputs.
    """
    if where is None:
        return points
    leaves = zip(_masks(problem, where), points, problem.inputs, strict=True)
    return tuple(problem.ops.where(mask, point + x * 0, x) for mask, point, x in leaves)


def curve(problem: Problem, points: Points, where: Any) -> Points:
    """Return a curve on which the features outside the mask neither move nor leave the input."""
    # A straight line begins and ends with them at the input.
    if where is None or isinstance(points, Line):
        return points
    ops = problem.ops
    masks = tuple(x * 0 + mask for mask, x in zip(_masks(problem, where), problem.inputs, strict=True))

    def held(alpha: np.ndarray, index: np.ndarray, node: np.ndarray) -> tuple[Leaves, Leaves]:
        there: list[Array] = []
        speed: list[Array] = []
        for mask, x, point, velocity in zip(masks, problem.inputs, *points(alpha, index, node), strict=True):
            chosen = ops.take(mask, index)
            there.append(ops.where(chosen, point, ops.take(x, index)))
            speed.append(ops.where(chosen, velocity, velocity * 0))
        return tuple(there), tuple(speed)

    return held


def _masks(problem: Problem, where: Any) -> Leaves:
    given = problem.run.structure.parts(where)
    if len(given) != len(problem.inputs):
        raise BadInput(f"where has {len(given)} masks for {len(problem.inputs)} inputs; give one for each")
    ops = problem.ops
    return tuple(
        beside_inputs(ops.like(mask, x), x, problem, "where")
        for mask, x in zip(given, problem.inputs, strict=True)
    )
