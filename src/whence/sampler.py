"""Samplers: repetition with noise, or over baselines and trajectories, folded into running moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from whence.backends import Array, Leaves, Operations
from whence.errors import Refused
from whence.moments import Moments
from whence.problem import Problem
from whence.shares import Shares

Statistic = Literal["mean", "square", "variance"]
# Rows that are explained together when draws are batched: enough to fill a chunk, little enough to hold.
ROWS_TOGETHER = 64


def average(draws: int, draw: Callable[[int], Shares]) -> Shares:
    """Return the mean of several explanations of the same rows (baselines, trajectories), with standard errors."""
    first = draw(0)
    if draws == 1:
        return first
    moments = Moments()
    moments.add(first.values)
    parts = [_numbers(first)]
    for index in range(1, draws):
        shares = draw(index)
        moments.add(shares.values)
        parts.append(_numbers(shares))
    return Shares(
        values=tuple(moments.mean),
        standard_error=moments.error_of_mean(),
        evaluations=np.sum([part.evaluations for part in parts], axis=0),
        converged=_all([part.converged for part in parts]),
        error=_mean([part.error for part in parts]),
        output=first.output,
        baseline_output=_mean([part.baseline_output for part in parts]),
        residual=_mean([part.residual for part in parts]),
    )


def _numbers(shares: Shares) -> Shares:
    """Return the shares without their large arrays, which would add up over the draws."""
    return replace(shares, values=(), standard_error=None, trace=None)


def _mean(parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    return np.mean(known, axis=0) if len(known) == len(parts) else None


def _all(parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    return np.all(known, axis=0) if len(known) == len(parts) else None


def repeat(
    problem: Problem, explain: Callable[[Problem], Shares], samples: int, noise: float, statistic: Statistic
) -> Shares:
    """Explain noisy copies of every row and return a statistic of the values, with its standard error.

    The noise of draw j is the same array for every row (times the row's own range), so that an example's answer
    does not depend on its batch mates. Draws are explained together, a bounded number of rows at a time.

    Raises:
        Refused: the inputs are integers, to which no noise can be added.
    """
    ops, rows = problem.ops, len(problem.rows)
    if not all(ops.is_float(leaf) for leaf in problem.inputs):
        raise Refused("noise cannot be added to integer inputs (tokens); use the method without its sampler")
    scales = [problem.spread(leaf) * noise for leaf in problem.inputs]
    moments = Moments(highest=4 if statistic == "variance" else 2)
    evaluations = np.zeros(rows, dtype=np.int64)
    converged = np.ones(problem.output.shape, dtype=bool)
    together = max(1, ROWS_TOGETHER // rows)
    for first in range(0, samples, together):
        draws = range(first, min(first + together, samples))
        noisy = _noisy(problem, scales, draws)
        shares = explain(problem.at(noisy, np.tile(np.arange(rows), len(draws))))
        for j in range(len(draws)):
            part = tuple(leaf[j * rows : (j + 1) * rows] for leaf in shares.values)
            moments.add(tuple(leaf * leaf for leaf in part) if statistic == "square" else part)
        evaluations += shares.evaluations.reshape(len(draws), rows).sum(0)
        if shares.converged is not None:
            converged &= shares.converged.reshape(len(draws), *converged.shape).all(0)
    varies = statistic == "variance"
    return Shares(
        values=moments.variance() if varies else tuple(moments.mean),
        standard_error=moments.error_of_variance() if varies else moments.error_of_mean(),
        evaluations=evaluations,
        converged=converged,
    )


def _noisy(problem: Problem, scales: list[Array], draws: range) -> Leaves:
    ops: Operations = problem.ops
    generators = [problem.random("noise", draw) for draw in draws]
    copies: list[list[Array]] = [[] for _ in problem.inputs]
    for generator in generators:
        for leaf, (x, scale) in enumerate(zip(problem.inputs, scales, strict=True)):
            copies[leaf].append(x + ops.like(generator.standard_normal(x.shape[1:])[None], x) * scale)
    return tuple(ops.concatenate(each) for each in copies)
