"""Which of a model's further arguments have a row for each example, found by trying: their shapes alone cannot tell."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from itertools import product

import numpy as np

from whence.backends import Array, Leaves
from whence.chunk import Chunks
from whence.errors import BadInput
from whence.run import Run

# Two ways of giving an argument whose outputs differ by less than this are the same way.
ALIKE = 1e-5
# Outputs of a steady model differ by less than this between batches of different sizes, also in half precision.
STEADY = 0.05
# With more arguments than this that might go along with the batch, either all or none of them do.
MOST = 4


def fitted(run: Run, leaves: Leaves) -> Run:
    """Return the run with the names of the arguments that are repeated along with the examples.

    An array whose axis 0 is as long as the batch may hold a row for each example, or only happen to be as long
    (one weight for each of 3 features, beside 3 examples). The whole batch is run, and a few examples of it with
    each reading; the reading that gives the same outputs is the right one.

    Raises:
        BadInput: the model accepts neither reading for another number of examples.
    """
    ops = run.backend.ops
    unsure = [
        name
        for name, value in run.kwargs.items()
        if ops.is_array(value) and value.ndim > 0 and value.shape[0] == run.batch
    ]
    if not unsure:
        return run
    try:
        whole = _outputs(run, leaves, np.arange(run.batch))
    except Exception as problem:
        if not run.backend.is_out_of_memory(problem):
            raise
        return replace(run, along=frozenset(unsure))
    # More than one row, so that nothing broadcasts by accident, and another number than the batch's own.
    rows = np.arange(3 if run.batch == 2 else 2) % run.batch
    failure: Exception | None = None
    best, least = None, np.inf
    for along in _readings(unsure, run.batch):
        tried = replace(run, along=along)
        try:
            found = _outputs(tried, leaves, rows)
        except Exception as problem:
            failure = failure or problem
            continue
        distance = _distance(found, whole[rows])
        if distance < least:
            best, least = tried, distance
        if distance <= ALIKE:
            return tried
    if best is None:
        raise BadInput(
            f"the model runs on {run.batch} examples with {_listed(unsure)}, and on {len(rows)} of them neither with "
            f"the rows that belong to them nor with all rows ({_first_line(failure)}); explain one example at a time"
        ) from failure
    if least > STEADY:
        run.note(
            f"it cannot be told whether {_listed(unsure)} has a row for each example: the outputs of fewer examples "
            f"differ either way; it was {'repeated along with them' if best.along else 'passed on as it is'}"
        )
    return best


def _readings(names: list[str], batch: int) -> Generator[frozenset[str]]:
    """Yield the sets of arguments that may go along with the batch, the likeliest first."""
    # One row for one example broadcasts, so it need not be repeated unless the model insists.
    order = (False, True) if batch == 1 else (True, False)
    for chosen in product(order, repeat=len(names) if len(names) <= MOST else 1):
        flags = chosen if len(names) <= MOST else chosen * len(names)
        yield frozenset(name for name, flag in zip(names, flags, strict=True) if flag)


def _outputs(run: Run, leaves: Leaves, rows: np.ndarray) -> np.ndarray:
    # Not filled up with more rows, which an argument would not have.
    ops, run = run.backend.ops, replace(run, chunks=Chunks())
    taken = tuple(ops.take(leaf, rows) for leaf in leaves)

    def forward(given: Leaves) -> Array:
        return run.forward(given, rows)[0]

    return ops.numpy(run.backend.value(forward, taken)).astype(np.float64)


def _distance(one: np.ndarray, two: np.ndarray) -> float:
    if one.shape != two.shape:
        return np.inf
    scale = max(float(np.abs(two).max(initial=0.0)), 1e-12)
    return float(np.abs(one - two).max(initial=0.0)) / scale


def _listed(names: list[str]) -> str:
    return "argument " + " and ".join(repr(name) for name in names)


def _first_line(problem: Exception | None) -> str:
    return str(problem).partition("\n")[0][:200]
