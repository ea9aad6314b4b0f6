"""How the output reacts to perturbations: f(x) − f(x − I) beside Iᵀφ, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from whence.backends import Array
from whence.errors import Refused
from whence.metrics.perturbations import Changes, Drawn, Rows
from whence.problem import Problem


@dataclass(frozen=True, eq=False)
class Reactions:
    """What draws of a perturbation did to every row.

    `told` [B, n] is Iᵀφ, what the explanation said; `found` [B, n] is f(x) − f(x − I); `moved` [B] whether any I was
    other than 0. `exact`: the draws are all that there are.
    """

    told: Float[np.ndarray, "B n"]
    found: Float[np.ndarray, "B n"]
    moved: Bool[np.ndarray, "B"]
    exact: bool


def reactions(
    problem: Problem, drawn: Drawn, samples: int, values: tuple[Float[np.ndarray, "B ..."], ...]
) -> Reactions:
    """Return the reactions to `samples` draws, or to all perturbations where they can be counted out."""
    ops, rows = problem.ops, len(problem.rows)
    count = samples if drawn.support is None else drawn.support
    told, outputs = np.zeros((count, rows)), np.zeros((count, rows))
    moved = np.zeros(rows, dtype=bool)

    def chunk(start: int, stop: int) -> Array:
        # All rows of a draw together: its noise is made once.
        draw, row = np.divmod(np.arange(start, stop), rows)
        changes = drawn.at(row, draw)
        point = tuple(
            ops.take(leaf, row) - ops.like(change, leaf)
            for leaf, change in zip(problem.inputs, changes, strict=True)
        )
        y = problem.run.backend.value(lambda leaves: problem.evaluate(leaves, row), point)
        output = ops.numpy(y).astype(np.float64)
        _require_finite(output, problem, row)
        outputs.reshape(-1)[start:stop] = output
        told.reshape(-1)[start:stop] = _products(changes, values, row)
        moved[row[_any(changes)]] = True
        return y

    with problem.run.chunks.any_layout(small=True):
        problem.run.chunks.run(problem.run.backend, rows * count, chunk)
    return Reactions(told.T, problem.output[:, None] - outputs.T, moved, drawn.support is not None)


def _products(
    changes: Changes, values: tuple[Float[np.ndarray, "B ..."], ...], row: Rows
) -> Float[np.ndarray, "n"]:
    """Return Iᵀφ of each draw; a map of one number for each pixel counts for all its channels."""
    found = np.zeros(len(row))
    for change, value in zip(changes, values, strict=True):
        own = value[row]
        if own.shape != change.shape:
            own = np.broadcast_to(own, change.shape)
        found += np.einsum("nd,nd->n", change.reshape(len(row), -1), own.reshape(len(row), -1))
    return found


def _any(changes: Changes) -> Bool[np.ndarray, "n"]:
    return np.any([each.reshape(len(each), -1).any(1) for each in changes], axis=0)


def _require_finite(output: Float[np.ndarray, "n"], problem: Problem, row: Rows) -> None:
    wrong = np.flatnonzero(~np.isfinite(output))
    if len(wrong):
        raise Refused(
            f"the model's output is not finite where example {problem.rows[row[wrong[0]]]} is perturbed; choose "
            "another perturbation, or mend the model"
        )
