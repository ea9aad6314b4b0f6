"""How far off a refined integral is, and which segments of the path to refine next.

With T the trapezoid sum of segment s and D_s its last change:

- Gradients that jump (ReLU, max-pool): independent jumps leave the error D_s/√3 in a segment, so ‖Σ_s D_s‖₁/√3 is the
  L1 error to expect. From few jumps it scatters, so it is raised by MARGIN / (their effective number) ^ POWER, at most
  by WIDEST.
- Smooth gradients: D shrinks fourfold with each halving, in every direction. Then T + D/3 is of fourth order
  (Richardson 1911), and what D deviates from fourfold is how much that sum still changes; its error is a fifteenth of
  it (a quarter is stated).
- Whatever the gradients: the error is never below the completeness residual, |ΣA − (f(x) − f(x'))| ≤ ‖A − A*‖₁. A
  model that jumps itself keeps its residual, and so never converges.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.backends import Array, Leaves, Operations
from whence.naming import floating
from whence.segments import Segments
from whence.shares import norms

# Chosen on the digits' networks and four photographs, so that at least 95 % of examples are within their tolerance.
MARGIN, POWER, WIDEST = 3.7, 0.6, 0.7
# Smooth, where the changes shrink fourfold up to this relative deviation.
SMOOTH, FEWEST_SEGMENTS = 0.2, 4
# Of the last change of the extrapolated sum, whose error of fourth order is a fifteenth of it: the safe side.
SMOOTH_ERROR = 0.25
# Halving a segment leaves this much of the variance of its error, and the prediction is a little careful.
HALVED, CAREFUL = 0.25, 0.98
# A round costs more than its gradients: it adds at least this part of those spent so far. Gradients of large inputs
# are dear.
LEAST, LEAST_OF_LARGE, LARGE = 1.0, 0.05, 10_000
# The resolution of f in each dtype, times a few operations.
_ROUNDING = {"float64": 2.0**-50, "float32": 2.0**-21, "float16": 2.0**-8, "bfloat16": 2.0**-5}
# No answer of a model in half precision is better than its last place.
_FINEST = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Verdict:
    """The shares of some rows, their relative L1 errors, which are smooth, and each segment's part in the error.

    Where it is `incomplete`, the residual is more than the gradients' own jumps explain.
    """

    values: Leaves
    error: Float[np.ndarray, "rows *classes"]
    smooth: Bool[np.ndarray, "rows *classes"]
    incomplete: Bool[np.ndarray, "rows *classes"]
    part: Float[np.ndarray, "rows segments"]


def judge(
    state: Segments, rows: Int[np.ndarray, "some"], rise: Float[np.ndarray, "some *classes"]
) -> Verdict:
    """Estimate the errors of some rows; `rise` is f(x) − f(x'), NaN where the shares need not sum to it."""
    ops, keep = state.problem.ops, rise.ndim
    values, changes = state.shares(rows)
    size, change = (np.asarray(sum(norms(ops, leaf, keep) for leaf in each)) for each in (values, changes))
    margin = np.minimum(MARGIN / _effective_jumps(state, rows) ** POWER, WIDEST)
    jumps = change / sqrt(3) * (1 + margin)
    residual, extrapolated = _residuals(state, rows, rise)
    bend = _deviation(state, rows)
    smooth = (bend <= SMOOTH) & (extrapolated <= SMOOTH * change)
    error = np.maximum(jumps, residual)
    if smooth.any():
        error = np.where(smooth, np.maximum(change * np.minimum(bend, 1) * SMOOTH_ERROR, extrapolated), error)
        values = tuple(_extrapolated(ops, *each, smooth) for each in zip(values, changes, strict=True))
    finest = _FINEST.get(floating(state.problem.point[0]), 0.0)
    error = np.maximum(_relative(error, size), np.where(size > 0, finest, 0.0))
    return Verdict(values, error, smooth, ~smooth & (residual > jumps), state.parts(rows))


def _extrapolated(
    ops: Operations, values: Array, change: Array, smooth: Bool[np.ndarray, "some *classes"]
) -> Array:
    third = smooth.reshape(*smooth.shape, *(1,) * (values.ndim - smooth.ndim)) / 3
    return values + change * ops.like(third, values)


def choose(
    state: Segments, rows: Int[np.ndarray, "some"], verdict: Verdict, rtol: float, budget: int
) -> Bool[np.ndarray, "all segments"]:
    """Return which segments to halve: of each row, those that promise most for a gradient, until rtol is in sight."""
    error = verdict.error.reshape(len(rows), -1).max(1)
    whole = verdict.part.sum(1, keepdims=True)
    part = np.where(whole > 0, verdict.part / np.where(whole > 0, whole, 1), 1 / state.count)
    cost = state.cells[rows]
    order = np.argsort(-part / cost, axis=1, kind="stable")
    gone = np.cumsum(np.take_along_axis(part, order, 1), axis=1) * (1 - HALVED)
    with np.errstate(invalid="ignore"):
        predicted = error[:, None] * np.sqrt(np.maximum(1 - gone, 0))
    # Those before the first that reaches the goal, and that one; enough of them to be worth another round.
    spent = np.cumsum(np.take_along_axis(cost, order, 1), axis=1)
    least = LEAST_OF_LARGE if state.features >= LARGE else LEAST
    met = (predicted <= CAREFUL * rtol) & (spent >= least * state.evaluations[rows][:, None])
    wanted = np.asarray(np.cumsum(met, axis=1) - met == 0)
    # Halving divides a segment's promise by eight; one that promises less than that has to wait.
    promise = np.take_along_axis(part / cost, order, 1)
    wanted &= promise >= promise[:, :1] * HALVED / 2
    smooth = np.asarray(verdict.smooth.reshape(len(rows), -1).all(1))
    wanted |= (smooth | ~np.isfinite(error))[:, None]
    spent = np.cumsum(np.take_along_axis(cost, order, 1) * wanted, axis=1) + state.evaluations[rows][:, None]
    chosen = np.zeros(state.cells.shape, dtype=bool)
    chosen[rows[:, None], order] = wanted & (spent <= budget)
    return chosen


def _effective_jumps(state: Segments, rows: np.ndarray) -> Float[np.ndarray, "some *classes"]:
    """Return (Σ√q)² / Σq over the jumps q of the derivative between neighbouring nodes, weighted by their distance."""
    nodes = state.nodes.sorted(rows)
    alpha = (nodes.u**2).reshape(-1, *(1,) * (nodes.slope.ndim - 1))
    jump = np.abs(np.diff(nodes.slope, axis=0) * np.diff(alpha, axis=0))
    jump[nodes.row[1:] != nodes.row[:-1]] = 0
    # One more entry: the last node of a row has no neighbour to its right.
    jump = np.concatenate([jump, jump[:1] * 0])
    first = np.searchsorted(nodes.row, rows)
    roots, whole = (np.add.reduceat(each, first) for each in (np.sqrt(jump), jump))
    return np.where(whole > 0, roots**2 / np.where(whole > 0, whole, 1), 1.0)


def _residuals(
    state: Segments, rows: np.ndarray, rise: np.ndarray
) -> tuple[Float[np.ndarray, "some *classes"], Float[np.ndarray, "some *classes"]]:
    """Return how far the sums, and the extrapolated sums, are from f(x) − f(x'), beyond the rounding of f."""
    total, third = state.slope_total[rows].sum(1), state.slope_change[rows].sum(1) / 3
    kind = floating(state.problem.point[0])
    output = np.abs(state.problem.output[state.rows[rows]])
    rounding = _ROUNDING.get(kind, 0.0) * (2 * output + np.abs(rise))
    # Where no sum is promised, nothing tells the error but the changes.
    known = np.isfinite(rise)
    return (
        np.where(known, np.maximum(np.abs(total - rise) - rounding, 0), 0.0),
        np.where(known, np.maximum(np.abs(total + third - rise) - rounding, 0), 0.0),
    )


def _deviation(state: Segments, rows: np.ndarray) -> Float[np.ndarray, "some *classes"]:
    """Return Σ_s ‖4D_s − D_s before‖ / 3 Σ_s ‖D_s‖, by products with random signs; infinite where it is not known.

    Few segments may shrink fourfold by luck, and so may the derivative along the path, in which features cancel.
    """
    shape = state.slope_total[rows].sum(1).shape
    if state.count < FEWEST_SEGMENTS:
        return np.full(shape, np.inf)
    after, before = state.probed[rows], state.probed_before[rows]
    away, size = (np.sqrt((each**2).sum(3)).sum(1) for each in (4 * after - before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = away / (3 * size)
    return np.where(np.isnan(found), np.inf, found).reshape(shape)


def _relative(error: Float[np.ndarray, "..."], size: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return error / size, and zero where both vanish: an input equal to its baseline has an exact answer."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, 0.0, error / size)
