"""The path driver: A = ∫₀¹ ∇f(x(α)) ⊙ dx/dα dα, to a tolerance, with a fixed rule, or at random nodes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from whence import random_nodes
from whence.attribution import Trace
from whence.convergence import LARGE, choose, judge
from whence.errors import Diverged
from whence.integrand import Integrand, integrand
from whence.path import Points
from whence.problem import Problem
from whence.quadrature import RULES, Name
from whence.segments import FIRST_CELLS, SEGMENTS, Segments
from whence.shares import Shares, joined
from whence.visit import Visit, visit

DEFAULT_RTOL = 0.02
DEFAULT_MAX_EVALUATIONS = 1024
DEFAULT_STEPS = 50
# Rows are integrated together as far as their sums, with what judging them needs, stay within these bytes.
MEMORY = 2**29
# A tolerance below which the first look of 16 nodes is seldom enough.
SHARP = 0.025


@dataclass(frozen=True)
class Accuracy:
    """How the integral is taken: which quadrature, with how many nodes, or to which tolerance."""

    quadrature: Name = "tolerance"
    steps: int | None = None
    rtol: float = DEFAULT_RTOL
    max_evaluations: int = DEFAULT_MAX_EVALUATIONS


def integrate(
    problem: Problem,
    points: Points,
    accuracy: Accuracy,
    baseline_output: Float[np.ndarray, "rows *classes"],
    draw: int = 0,
    multiply: bool = True,
) -> Shares:
    """Integrate the gradient along a curve for every row of a problem; `baseline_output` is f where it begins.

    It is NaN where the shares need not sum to the difference. Without `multiply` the gradients are averaged, not
    multiplied with the way.

    Raises:
        Refused: a gradient is not finite; the message names the node and the example.
    """
    try:
        return _integrate(problem, points, accuracy, baseline_output, draw, multiply)
    except Diverged:
        # The model's way depends on its data: no operation may be taken out of the loop.
        problem.run.record.pop("fused", None)
        plain = replace(problem, run=replace(problem.run, fuse=False))
        return _integrate(plain, points, accuracy, baseline_output, draw, multiply)


def _integrate(
    problem: Problem,
    points: Points,
    accuracy: Accuracy,
    baseline_output: np.ndarray,
    draw: int,
    multiply: bool,
) -> Shares:
    if accuracy.quadrature == "monte_carlo":
        return random_nodes.integrate(
            problem, points, accuracy.steps, accuracy.rtol, accuracy.max_evaluations, draw, multiply
        )
    if accuracy.quadrature in RULES:
        steps = accuracy.steps or min(DEFAULT_STEPS, accuracy.max_evaluations)
        nodes, weights = RULES[accuracy.quadrature](steps)
        return _with_rule(problem, integrand(problem, points, steps, multiply), nodes, weights)
    if accuracy.max_evaluations < FIRST_CELLS:
        # A single gradient, at the input: nothing tells its error.
        shares = _with_rule(problem, integrand(problem, points, 1, multiply), np.ones(1), np.ones(1))
        return replace(shares, converged=np.zeros(problem.output.shape, dtype=bool))
    rise = problem.output - baseline_output
    cells = _first_cells(problem, accuracy)
    kernel = integrand(problem, points, SEGMENTS * cells, multiply)
    segments = min(SEGMENTS, accuracy.max_evaluations // cells)
    # Not by what fusion put in the place of the inputs: fused or not, the nodes are the same.
    bytes_each = 8 * 6 * problem.features * rise[:1].size
    if bytes_each * segments > MEMORY:
        segments = 1
    together = max(1, MEMORY // (bytes_each * segments))
    parts: list[Shares] = []
    for first in range(0, len(rise), together):
        rows = np.arange(first, min(first + together, len(rise)))
        try:
            with problem.run.chunks.any_layout():
                parts.append(_to_tolerance(problem, kernel, rows, rise[rows], (segments, cells), accuracy))
        except KeyboardInterrupt:
            if not parts:
                raise
            parts[-1] = replace(parts[-1], interrupted=True)
        if parts[-1].interrupted:
            break
    done = sum(len(part.evaluations) for part in parts)
    if done < len(rise):
        parts.append(_nothing_yet(problem, np.arange(done, len(rise))))
    return joined(problem.ops, parts)


def _nothing_yet(problem: Problem, rows: Int[np.ndarray, "rows"]) -> Shares:
    """Return what is known of rows that an interruption left unvisited: nothing."""
    shape = (len(rows), *problem.output.shape[1:])
    ops, nodes = problem.ops, np.full((len(rows), 1), np.nan)
    unseen = np.full((len(rows), 1, *shape[1:]), np.nan)
    return Shares(
        values=tuple(ops.zeros((*shape, *leaf.shape[1:]), ops.wide(leaf[:1])) for leaf in problem.point),
        error=np.full(shape, np.inf),
        evaluations=np.zeros(len(rows), dtype=int),
        converged=np.zeros(shape, dtype=bool),
        trace=Trace(nodes, nodes, unseen, unseen),
        interrupted=True,
    )


def _first_cells(problem: Problem, accuracy: Accuracy) -> int:
    """Return how many cells a segment begins with: more where a round costs more than its gradients would.

    It depends on the example's size and on what is asked, so that an example has the same nodes in any batch.
    """
    sharp = accuracy.rtol <= SHARP and accuracy.max_evaluations >= 2 * SEGMENTS * FIRST_CELLS
    return 2 * FIRST_CELLS if sharp and problem.features < LARGE else FIRST_CELLS


def _to_tolerance(
    problem: Problem,
    kernel: Integrand,
    rows: Int[np.ndarray, "rows"],
    rise: Float[np.ndarray, "rows *classes"],
    grid: tuple[int, int],
    accuracy: Accuracy,
) -> Shares:
    """Refine some rows until each one's estimated error is within the tolerance; those that are leave the batch.

    `grid` is the number of segments and that of each one's first cells.
    """
    state = Segments(problem, kernel, rows, *grid)
    active, interrupted = np.arange(len(rows)), False
    verdict = judge(state, active, rise)
    values, error = verdict.values, verdict.error
    smooth, incomplete = verdict.smooth, verdict.incomplete
    try:
        while True:
            done = (verdict.error <= accuracy.rtol).reshape(len(active), -1).all(1)
            chosen = choose(state, active, verdict, accuracy.rtol, accuracy.max_evaluations)
            active = active[~done & chosen[active].any(1)]
            if not len(active):
                break
            gone = np.setdiff1d(np.arange(len(rows)), active)
            chosen[gone] = False
            state.refine(chosen)
            verdict = judge(state, active, rise[active])
            pairs = zip(values, verdict.values, strict=True)
            values = tuple(problem.ops.put(leaf, active, new) for leaf, new in pairs)
            error[active], smooth[active] = verdict.error, verdict.smooth
            incomplete[active] = verdict.incomplete
    except KeyboardInterrupt:
        interrupted = True
    if not interrupted and (incomplete & (error > accuracy.rtol)).any():
        problem.run.note(
            "the shares of at least one example do not sum to f(x) − f(x'): along its path the model's output jumps (a "
            "threshold, a rounding, an argmax), or changes between the nodes, and its gradients do not see it"
        )
    return Shares(
        values=values,
        error=error,
        evaluations=state.evaluations,
        converged=error <= accuracy.rtol,
        trace=state.trace(smooth),
        interrupted=interrupted,
    )


def _with_rule(problem: Problem, kernel: Integrand, nodes: np.ndarray, weights: np.ndarray) -> Shares:
    """Sum over a fixed rule's nodes."""
    rows, steps = len(problem.rows), len(nodes)
    row = np.repeat(np.arange(rows), steps)
    found = visit(problem, kernel, Visit.plain(row, np.tile(nodes, rows), row, np.tile(weights, rows), rows))
    shape = (rows, steps, *problem.output.shape[1:])
    order = np.argsort(nodes, kind="stable")
    return Shares(
        values=kernel.shares(found.sums, np.arange(rows)),
        evaluations=np.full(rows, steps),
        converged=np.ones(problem.output.shape, dtype=bool),
        trace=Trace(
            np.broadcast_to(nodes[order], (rows, steps)),
            np.broadcast_to(weights[order], (rows, steps)),
            found.output.reshape(shape)[:, order],
            found.slope.reshape(shape)[:, order],
        ),
    )
