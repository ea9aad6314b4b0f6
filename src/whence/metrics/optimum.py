"""The least infidelity that any explanation can have: the yardstick beside which infidelity can be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from whence.counts import whole
from whence.errors import Refused
from whence.metrics.judged import judged
from whence.metrics.perturbations import Drawn, resolve
from whence.metrics.played import Of, function_of
from whence.metrics.reactions import reactions
from whence.problem import Problem

# Draws for each number of the input that the fit needs at least, and takes where none is said.
LEAST, USUAL = 2, 4
SAMPLES = 1000
# Of more numbers the fit would hold and decompose a matrix too large.
LARGEST = 4096
# Directions in which the draws vary less than this part of the widest are not fitted.
NARROW = 1e-10


@dataclass(frozen=True, eq=False)
class Optimum:
    """The explanation that predicts a model's reactions to a perturbation best, and how well it does.

    Attributes:
        values: φ* = (E[IIᵀ])⁻¹ E[I(f(x) − f(x − I))] like the inputs (a tuple of several), float64: by least squares
            over the draws, and of several such the shortest.
        infidelity: what `values` attain, [B]: on draws that had no part in their fit (each left out in turn), so that
            it is never too good. Exact where the perturbations can be counted out.
        least: what `values` attain on the very draws that they were fitted to, [B]: on average no more than the
            infidelity of any explanation whatever. The true optimum lies between the two, on average.
        standard_error: the sampling error of `infidelity`, [B].
        samples: how many draws there were.
        notes: sentences for the user.
    """

    values: Any
    infidelity: Float[np.ndarray, "B"]
    least: Float[np.ndarray, "B"]
    standard_error: Float[np.ndarray, "B"]
    samples: int
    notes: list[str] = field(default_factory=list[str])


def optimal_explanation(
    model: Any, inputs: Any, perturbation: Any = "gaussian", *, samples: int | None = None, of: Of = "target",
    **options: Any,
) -> Optimum:  # fmt: skip
    """Return the explanation of least infidelity for a perturbation (Yeh et al. 2019, proposition 3.1).

    Args:
        model: as in `whence.explain`.
        inputs: as in `whence.explain`, [B, ...].
        perturbation: as in `Infidelity`.
        samples: draws; None takes 4 for each number of the input, and 1000 at least.
        of: "target" (the explained number) or "probability" (of the explained class).
        **options: those of `whence.metrics.judged`, such as target= and seed=.

    Raises:
        Refused: there are fewer than two draws for each number of the input, where a fit says nothing; or more than
            4,096 numbers.
    """
    with judged(model, inputs, method=_unasked, **options) as question:
        problem = function_of(question, of)
        count = draws_for(problem, samples)
        drawn = resolve(perturbation).drawn(problem, count)
        found = fitted(problem, drawn, reactions(problem, drawn, count).found)
        found.notes.extend(question.notes)
        return found


def _unasked(model: Any, inputs: Any, targets: Any) -> Any:
    raise AssertionError("the best explanation is found without another")


def draws_for(problem: Problem, samples: int | None) -> int:
    """Return how many draws a fit takes.

    Raises:
        Refused: as in `optimal_explanation`.
    """
    numbers = sum(int(np.prod(leaf.shape[1:], dtype=int)) for leaf in problem.inputs)
    if numbers > LARGEST:
        raise Refused(
            f"the best explanation of {numbers:,} numbers is too large a fit; {LARGEST:,} at most are fitted"
        )
    return max(SAMPLES, USUAL * numbers) if samples is None else whole(samples, "samples")


def fitted(problem: Problem, drawn: Drawn, found: Float[np.ndarray, "B n"]) -> Optimum:
    """Return the least squares fit of Iᵀφ to the reactions of each row."""
    rows, count = found.shape
    exact = drawn.support is not None
    shapes = [tuple(int(side) for side in leaf.shape[1:]) for leaf in problem.inputs]
    numbers = [int(np.prod(shape, dtype=int)) for shape in shapes]
    if not exact and count < LEAST * sum(numbers):
        raise Refused(
            f"{count} draws cannot tell the best of explanations of {sum(numbers)} numbers: a fit to them would look "
            f"better than it is; give samples={LEAST * sum(numbers)} or more"
        )
    values = np.zeros((rows, sum(numbers)))
    attained, least, error = np.zeros(rows), np.zeros(rows), np.zeros(rows)
    for row in range(rows):
        changes = drawn.at(np.full(count, row), np.arange(count))
        design = np.concatenate([each.reshape(count, -1) for each in changes], 1)
        values[row], residual, leverage = _least_squares(design, found[row])
        least[row] = np.mean(residual**2)
        apart = residual**2 if exact else (residual / (1 - leverage)) ** 2
        attained[row] = apart.mean()
        error[row] = 0.0 if exact else apart.std(ddof=1) / np.sqrt(count)
    parts = np.split(values, np.cumsum(numbers)[:-1], axis=1)
    leaves = tuple(part.reshape(rows, *shape) for part, shape in zip(parts, shapes, strict=True))
    return Optimum(leaves[0] if len(leaves) == 1 else leaves, attained, least, error, count)


def _least_squares(
    design: Float[np.ndarray, "n d"], found: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Return the shortest solution, its residuals, and each draw's leverage: how much it pulls its own fit."""
    left, widths, right = np.linalg.svd(design, full_matrices=False)
    wide = widths > NARROW * max(float(widths.max(initial=0.0)), 1e-300)
    left, widths, right = left[:, wide], widths[wide], right[wide]
    weights = left.T @ found
    leverage = np.minimum((left**2).sum(1), 1 - 1e-12)
    return right.T @ (weights / widths), found - left @ weights, leverage
