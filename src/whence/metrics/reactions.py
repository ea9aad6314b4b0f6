"""How the output reacts to perturbations: f(x) − f(x − I) beside Iᵀφ, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from whence.backends import Array
from whence.errors import Refused
from whence.metrics.perturbations import Changes, Drawn, Rows
from whence.problem import Problem

Beside = Callable[[int, Rows, Changes], None]
"""Takes the number of a chunk's first draw, its rows [n] and their perturbations."""

# Numbers of I that are made at once where no model is run beside them.
NUMBERS = 2**22


@dataclass(frozen=True, eq=False)
class Reactions:
    """What draws of a perturbation did to every row, whatever the explanation.

    `found` [B, n] is f(x) − f(x − I); `moved` [B] whether any I was other than 0. `exact`: the draws are all there are.
    """

    found: Float[np.ndarray, "B n"]
    moved: Bool[np.ndarray, "B"]
    exact: bool


def reactions(problem: Problem, drawn: Drawn, samples: int, beside: Beside | None = None) -> Reactions:
    """Return the reactions to `samples` draws, or to all perturbations where they can be counted out.

    `beside` is given each chunk's numbers and perturbations, which are made but once.
    """
    ops, rows = problem.ops, len(problem.rows)
    count = draws_of(drawn, samples)
    outputs = np.zeros((count, rows))
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
        if beside is not None:
            beside(start, row, changes)
        moved[row[_any(changes)]] = True
        return y

    with problem.run.chunks.any_layout(small=True):
        problem.run.chunks.run(problem.run.backend, rows * count, chunk)
    return Reactions(problem.output[:, None] - outputs.T, moved, drawn.support is not None)


def draws_of(drawn: Drawn, samples: int) -> int:
    """Return how many draws there are."""
    return samples if drawn.support is None else drawn.support


@dataclass(eq=False)
class Told:
    """What an explanation says of every draw, Iᵀφ: taken chunk by chunk beside the model's runs, or by itself."""

    values: tuple[Float[np.ndarray, "B ..."], ...]
    products: Float[np.ndarray, "n B"]
    taken: int = 0

    @classmethod
    def empty(cls, values: tuple[Float[np.ndarray, "B ..."], ...], count: int) -> Told:
        """Return the same before the first of `count` draws."""
        return cls(values, np.zeros((count, len(values[0]))))

    def __call__(self, start: int, row: Rows, changes: Changes) -> None:
        """Take a chunk of perturbations."""
        self.taken = start + len(row)
        self.products.reshape(-1)[start : self.taken] = _products(changes, self.values, row)

    def finished(self, problem: Problem, drawn: Drawn) -> Float[np.ndarray, "B n"]:
        """Return Iᵀφ; perturbations that no model was run on are made here."""
        rows, total = self.products.shape[1], self.products.size
        length = sum(int(np.prod(leaf.shape[1:], dtype=int)) for leaf in problem.inputs)
        step = max(1, NUMBERS // max(1, length))
        while self.taken < total:
            draw, row = np.divmod(np.arange(self.taken, min(self.taken + step, total)), rows)
            self(self.taken, row, drawn.at(row, draw))
        return self.products.T


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
