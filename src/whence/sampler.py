"""Samplers: repetition with noise, or over baselines and trajectories, folded into running moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int

from whence.backends import Array, Leaves, Operations
from whence.errors import Refused
from whence.integrate import Accuracy
from whence.moments import Moments
from whence.problem import Problem
from whence.random_nodes import SAFETY
from whence.shares import Shares, norms

Statistic = Literal["mean", "square", "variance"]
# Rows that are explained together when draws are batched: enough to fill a chunk, little enough to hold.
ROWS_TOGETHER = 64
# A second pass aims at this much of the tolerance, and halves that of the draws at most so often.
ENOUGH, MOST_HALVINGS = 0.8, 7


@dataclass(frozen=True)
class Stratum:
    """Draws in a row: `units` of `each` draws; the units are independent of each other where they are random."""

    units: int
    each: int = 1
    random: bool = False

    @property
    def draws(self) -> int:
        """How many draws there are."""
        return self.units * self.each


def average(ops: Operations, strata: Sequence[Stratum], draw: Callable[[int], Shares]) -> Shares:
    """Return the mean of several explanations of the same rows (baselines, trajectories).

    Its standard error is that of a stratified sample, √Σ_s (n_s/n)² Var_s/units_s over the random strata (Cochran
    1977); None where nothing is random, or a random stratum is a single unit. Its error is √Σ (e_j ‖A_j‖₁)² / n ‖A‖₁:
    the shares of the draws may cancel, and their errors e_j, which are independent, do not.
    """
    count = sum(stratum.draws for stratum in strata)
    first = draw(0)
    if count == 1:
        return first
    parts: list[Shares] = []
    sizes: list[np.ndarray] = []
    means: list[list[Array]] = []
    variances: list[list[Array]] = []
    for stratum in strata:
        units, weight = Moments(), stratum.draws / count
        for _ in range(stratum.units):
            unit = Moments()
            for _ in range(stratum.each):
                shares = draw(len(parts)) if parts else first
                if shares.interrupted:
                    # A mean of some draws would answer another question.
                    raise KeyboardInterrupt
                unit.add(shares.values)
                sizes.append(_sizes(ops, shares.values, shares))
                parts.append(_numbers(shares))
            units.add(tuple(unit.mean))
        means.append([weight * mean for mean in units.mean])
        if stratum.random:
            scale = weight**2 / stratum.units
            variances.append([scale * variance for variance in units.variance()])
    values = tuple(_total(leaf) for leaf in zip(*means, strict=True))
    known = variances and not any(stratum.random and stratum.units == 1 for stratum in strata)
    error = _error(parts, sizes, _sizes(ops, values, first))
    return Shares(
        values=values,
        standard_error=tuple(_total(leaf) ** 0.5 for leaf in zip(*variances, strict=True)) if known else None,
        evaluations=np.sum([part.evaluations for part in parts], axis=0),
        converged=_all([part.converged for part in parts]),
        error=error,
        output=first.output,
        baseline_output=_mean([part.baseline_output for part in parts]),
        residual=_mean([part.residual for part in parts]),
    )


def tightened(
    problem: Problem,
    shares: Shares,
    draws: int,
    accuracy: Accuracy,
    explain: Callable[[Problem, Accuracy], Shares],
) -> Shares:
    """Judge a mean of `draws` by its own error, and take it again where that is too large, to a tighter tolerance.

    The tolerance of the draws is halved as often as the row's own error asks for, so that it does not depend on batch
    mates. All passes stay within the budget together: a row that has not enough left for another one stays as it is.
    """
    if accuracy.steps is not None or accuracy.quadrature not in ("tolerance", "monte_carlo"):
        return shares
    if shares.error is None or shares.interrupted:
        return shares
    goal = accuracy.rtol / (SAFETY if accuracy.quadrature == "monte_carlo" else 1.0)
    rows, most = len(problem.rows), accuracy.max_evaluations
    halvings = np.zeros(rows, dtype=int)
    for budget in (most // 2, most // 4):
        error = np.asarray(shares.error).reshape(rows, -1).max(1)
        left = shares.evaluations <= draws * (most - budget)
        open_rows = (error > goal) & left & (halvings < MOST_HALVINGS) & (budget > 1)
        with np.errstate(divide="ignore"):
            missing = np.maximum(np.ceil(np.log2(error / (ENOUGH * goal))), 1)
        halvings = np.where(open_rows, np.minimum(halvings + missing, MOST_HALVINGS), halvings).astype(int)
        for times in np.unique(halvings[open_rows]):
            index = np.flatnonzero(open_rows & (halvings == times))
            part = problem.at(tuple(problem.ops.take(leaf, index) for leaf in problem.inputs), index)
            tight = replace(accuracy, rtol=accuracy.rtol / 2.0**times, max_evaluations=budget)
            try:
                shares = _improved(problem.ops, shares, index, explain(part, tight))
            except KeyboardInterrupt:
                return replace(shares, converged=np.asarray(shares.error) <= goal, interrupted=True)
    return replace(shares, converged=np.asarray(shares.error) <= goal)


def _improved(ops: Operations, shares: Shares, rows: Int[np.ndarray, "some"], new: Shares) -> Shares:
    """Return the shares with new answers for some rows where they are better; what was spent adds up."""
    evaluations = shares.evaluations.copy()
    evaluations[rows] += new.evaluations
    both = (np.asarray(shares.error)[rows], np.asarray(new.error))
    before, after = (error.reshape(len(rows), -1).max(1) for error in both)
    better = np.flatnonzero(after < before)
    rows = rows[better]
    if not len(rows):
        return replace(shares, evaluations=evaluations)

    def put(name: str) -> np.ndarray:
        old = np.array(getattr(shares, name))
        old[rows] = getattr(new, name)[better]
        return old

    def put_all(old: Leaves, found: Leaves) -> Leaves:
        pairs = zip(old, found, strict=True)
        return tuple(ops.put(leaf, rows, ops.take(part, better)) for leaf, part in pairs)

    spread = shares.standard_error
    if spread is not None and new.standard_error is not None:
        spread = put_all(spread, new.standard_error)
    numbers = {name: put(name) for name in ("error", "residual", "baseline_output")}
    return replace(
        shares,
        values=put_all(shares.values, new.values),
        standard_error=spread,
        evaluations=evaluations,
        **numbers,
    )


def _total(arrays: Sequence[Array]) -> Array:
    return sum(arrays[1:], arrays[0])


def _sizes(ops: Operations, values: Leaves, shares: Shares) -> np.ndarray:
    """Return ‖A‖₁ of every row (and class)."""
    keep = 1 if shares.output is None else shares.output.ndim
    return np.asarray(sum(norms(ops, leaf, keep) for leaf in values))


def _error(parts: list[Shares], sizes: list[np.ndarray], size: np.ndarray) -> np.ndarray | None:
    """Return the relative L1 error of the mean of integrals whose errors are known."""
    if any(part.error is None for part in parts):
        return None
    absolute = [
        np.where(part.error == 0, 0.0, part.error * one) for part, one in zip(parts, sizes, strict=True)
    ]
    error = np.sqrt(np.sum(np.square(absolute), axis=0)) / len(parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, 0.0, error / size)


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
    if not all(ops.is_float(leaf) for leaf in problem.given):
        raise Refused("noise cannot be added to integer inputs (tokens); use the method without its sampler")
    scales = [problem.spread(leaf) * noise for leaf in problem.given]
    moments = Moments(highest=4 if statistic == "variance" else 2)
    evaluations = np.zeros(rows, dtype=np.int64)
    converged = np.ones(problem.output.shape, dtype=bool)
    together = max(1, ROWS_TOGETHER // rows)
    for first in range(0, samples, together):
        draws = range(first, min(first + together, samples))
        noisy = _noisy(problem, scales, draws)
        shares = explain(problem.moved(noisy, np.tile(np.arange(rows), len(draws))))
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
    copies: list[list[Array]] = [[] for _ in problem.given]
    for generator in generators:
        for leaf, (x, scale) in enumerate(zip(problem.given, scales, strict=True)):
            copies[leaf].append(x + ops.like(generator.standard_normal(x.shape[1:])[None], x) * scale)
    return tuple(ops.concatenate(each) for each in copies)
