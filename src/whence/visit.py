"""Visiting nodes: every (example, node) pair once, chunk by chunk, folded into sums as it comes.

Whatever the number of nodes, the memory is the sums and one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from whence import sweep
from whence.backends import Array, Leaves
from whence.errors import Refused
from whence.integrand import Integrand, Straight
from whence.problem import Problem


@dataclass(frozen=True)
class Visit:
    """Nodes to visit, and the sums that they add to.

    Pair p is example `row[p]` at `alpha[p]`; entry e adds `weight[e]` times what pair `pair[e]` gives to sum
    `cell[e]`. Entries are in the order of their pairs; a pair may have several. `number[p]` counts an example's nodes,
    for paths that need it.
    """

    row: Int[np.ndarray, "pairs"]
    alpha: Float[np.ndarray, "pairs"]
    pair: Int[np.ndarray, "entries"]
    cell: Int[np.ndarray, "entries"]
    weight: Float[np.ndarray, "entries"]
    cells: int
    number: Int[np.ndarray, "pairs"] | None = None

    @staticmethod
    def plain(
        row: Int[np.ndarray, "pairs"],
        alpha: Float[np.ndarray, "pairs"],
        cell: Int[np.ndarray, "pairs"],
        weight: Float[np.ndarray, "pairs"],
        cells: int,
    ) -> Visit:
        """Return a visit in which every pair adds to one sum."""
        return Visit(row, alpha, np.arange(len(row)), cell, weight, cells)


@dataclass(frozen=True)
class Visited:
    """The sums [cells, (K), ...] per leaf; f and its derivative along the path at the pairs, [pairs] or [pairs, K]."""

    sums: Leaves
    output: np.ndarray
    slope: np.ndarray


def visit(problem: Problem, integrand: Integrand, todo: Visit) -> Visited:
    """Visit the pairs in chunks.

    Raises:
        Refused: an output or a gradient is not finite; the message names the node and the example.
    """
    ops, classes, pairs = problem.ops, problem.output.shape[1:], len(todo.row)
    sums = sweep.zeros(problem, integrand.like, todo.cells)
    found = _swept(problem, integrand, todo, tuple(sums))
    if found is not None:
        return found
    output = np.zeros((pairs, *classes))
    slope = np.zeros_like(output)
    number = np.zeros(pairs, dtype=int) if todo.number is None else todo.number

    waiting: list[tuple[slice, Array, Array]] = []

    def fetch() -> None:
        """Take over the numbers of the chunk before: its device may have worked on while the next was prepared."""
        for here, *values in waiting:
            output[here], slope[here] = (ops.numpy(each)[: here.stop - here.start] for each in values)
        waiting.clear()

    def work(start: int, stop: int) -> Array:
        here, count = slice(start, stop), stop - start
        padded = _padding(problem, count)
        seen = integrand.at(todo.alpha[here][padded], todo.row[here][padded], number[here][padded])
        entries = slice(*np.searchsorted(todo.pair, [start, stop]))
        source, cell, weight = todo.pair[entries] - start, todo.cell[entries], todo.weight[entries]
        # Each pair has an entry: as many as pairs are one each.
        alone = len(source) == count == len(padded)
        if problem.run.backend.compiled:
            source, cell, weight = _with_nothing(source, cell, weight, len(padded))
        writes: list[Callable[[], Array]] = []
        for total, part in zip(sums, seen.parts, strict=True):
            flat = part.reshape(len(padded), -1)
            chosen = flat if alone else ops.take(flat, source)
            writes.append(ops.accumulate(total, cell, weight, chosen))
        fetch()
        waiting.append((here, seen.output, seen.slope))
        if start == 0 or not problem.run.backend.compiled:
            # The first tells whether a chunk of this size fits into memory.
            fetch()
        # Nothing is written to the sums before all of the chunk's arrays exist: memory may run out until then,
        # and the chunk is tried again.
        sums[:] = [write() for write in writes]
        problem.run.progress.advance(stop - start)
        return seen.output

    problem.run.progress.expect(pairs)
    problem.run.chunks.run(problem.run.backend, pairs, work)
    fetch()
    require_finite(problem, todo.row, todo.alpha, output, slope)
    return Visited(tuple(sums), output, slope)


def _swept(problem: Problem, integrand: Integrand, todo: Visit, sums: Leaves) -> Visited | None:
    """Visit the pairs in the backend's own loop, where it has one for them."""
    if not isinstance(integrand, Straight) or todo.number is not None or not len(todo.row):
        return None
    loop = sweep.loop_of(problem, integrand.line.start, integrand.line.steps)
    pairs = sweep.Pairs(todo.row, todo.alpha, todo.pair, todo.cell, todo.weight)
    found = None if loop is None else sweep.swept(problem, loop, pairs, sums)
    if found is None:
        return None
    require_finite(problem, todo.row, todo.alpha, found[1], found[2])
    return Visited(*found)


def _padding(problem: Problem, count: int) -> Int[np.ndarray, "room"]:
    """Return the pairs of a chunk, the last again and again where a compiled model takes only certain numbers."""
    return np.minimum(np.arange(problem.run.chunks.room(count)), count - 1)


def _with_nothing(
    source: np.ndarray, cell: np.ndarray, weight: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return entries filled up with some that add nothing, so that there are few numbers of them too."""
    more = -len(source) % step
    whole = np.arange(len(source) + more)
    first = np.minimum(whole, len(source) - 1)
    return source[first], cell[first], np.where(whole < len(source), weight[first], 0.0)


def require_finite(
    problem: Problem, row: np.ndarray, alpha: np.ndarray, output: np.ndarray, slope: np.ndarray
) -> None:
    """Refuse what pairs of rows and nodes gave if any of it is not finite, by the node and the example."""
    for values, name in ((output, "output"), (slope, "gradient")):
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            pair = int(wrong[0][0])
            raise Refused(
                f"the model's {name} is not finite at α = {alpha[pair]:.6g} on the path of example "
                f"{problem.rows[row[pair]]}; its attribution is undefined: choose another baseline, or mend the "
                "model there"
            )
