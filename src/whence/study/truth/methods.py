"""How every method is asked, of the finest features that it can take."""

from __future__ import annotations

from typing import Any, Final

from whence import registry
from whence.study.truth.case import Case

CELLS: Final = "grid:{}"
RTOL: Final = 1e-4
"""The tolerance of the methods that take one: far below what tells one answer from another."""
CHUNK: Final = 256
"""Rows in one forward: with it, and one number of threads, the same seed gives the same numbers bit for bit."""
QUICK: Final = 200
"""The most samples of a quick study."""


def fields(name: str, case: Case, quick: bool = False) -> dict[str, Any]:
    """Return the fields with which a method explains a case.

    Every baseline is the case's own, given as a data set of one row to methods that average over one: then all are
    asked the same. Features are single numbers, or the cells of a picture that is constant on cells.
    """
    record = registry.methods()[name]
    found: dict[str, Any] = cost(record, quick)
    if "background" in record.needs:
        found["baseline"] = case.absent[None]
    elif "baseline" in record.fields:
        found["baseline"] = 0.0 if case.baseline is None else case.baseline
    if "features" in record.fields and (case.cells is not None or not case.is_picture):
        found["features"] = "elements" if case.cells is None else CELLS.format(case.cells)
    elif "features" in record.fields and "window" not in record.fields:
        found["features"] = "elements"
    return found


def cost(record: registry.Record, quick: bool) -> dict[str, Any]:
    """Return how carefully a method works: a tight tolerance where it takes one, its own number of samples else."""
    found: dict[str, Any] = {}
    if record.fields.get("rtol") is not None:
        found["rtol"] = 10 * RTOL if quick else RTOL
    samples = record.fields.get("samples")
    if quick and isinstance(samples, int) and samples > QUICK and "few features" not in record.needs:
        found["samples"] = QUICK
    return found
