"""The same question in float64: asked of a copy of the model, where that is the same function."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from whence.backends import WideSession
from whence.chunk import Chunks
from whence.naming import floating
from whence.problem import Problem
from whence.run import Run
from whence.stretch import Stretch

# Outputs further from the model's own than this, and than so many of its rounding errors, are another function's.
ALIKE, ROUNDINGS = 1e-3, 16


@dataclass(frozen=True)
class Wide:
    """One explanation's run on a copy of the model in float64, and the copy's session."""

    run: Run
    session: WideSession


@dataclass(frozen=True)
class Asked:
    """A stretch in float64, of which rows it is the same function, and what hinders the others."""

    stretch: Stretch
    alike: Bool[np.ndarray, "rows"]
    hindrance: str


@contextmanager
def widened(problem: Problem) -> Generator[Wide | None]:
    """Hold a copy of the problem's model in float64; None where it is in float64 already, or cannot be copied."""
    run = problem.run
    wide = all(floating(leaf) == "float64" for leaf in problem.point)
    held = None if wide else run.session.widened()
    if held is None:
        yield None
        return
    with held as session:
        # What was learnt of the chunks of a model in its own precision does not hold in another.
        chunks = Chunks(fixed=run.chunks.fixed)
        yield Wide(
            replace(run, session=session, kwargs=session.widen(dict(run.kwargs)), chunks=chunks), session
        )


def asked(stretch: Stretch, wide: Wide | None) -> Asked:
    """Return a stretch in float64, compared at both ends with the model's own answers, row by row."""
    none = np.zeros(len(stretch.problem.rows), dtype=bool)
    if wide is None:
        return Asked(stretch, none, "it cannot be copied")
    other = _in_float64(stretch, wide)
    try:
        with wide.session.watched() as rounded:
            ends = [other.problem.value(each) for each in (other.problem.point, other.start)]
    except Exception as failure:
        return Asked(stretch, none, str(failure).partition("\n")[0] or type(failure).__name__)
    if rounded:
        return Asked(stretch, none, f"its forward pass rounds: {rounded[0]}")
    own = [stretch.problem.output, stretch.problem.value(stretch.start)]
    other.problem.__dict__["output"] = ends[0]
    away, scale = (
        np.abs(np.stack(each, 1)).reshape(len(none), -1).max(1)
        for each in ([one - two for one, two in zip(ends, own, strict=True)], own)
    )
    alike = away <= max(ALIKE, ROUNDINGS * stretch.rounding) * scale
    return Asked(other, np.asarray(alike), "" if alike.all() else "its outputs are others there")


def _in_float64(stretch: Stretch, wide: Wide) -> Stretch:
    """Return the same way, from and to the very same numbers."""
    problem, widen = stretch.problem, wide.session.widen
    other = replace(problem, run=wide.run, inputs=widen(problem.inputs), weights=widen(problem.weights))
    other.__dict__["point"] = widen(problem.point)
    return Stretch(other, stretch.features, widen(stretch.start))
