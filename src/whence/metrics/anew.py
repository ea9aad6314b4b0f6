"""Explaining again: other inputs of the judged examples, or another model, as the explanations themselves were made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from whence import pixels, registry
from whence import target as targets
from whence.attribution import Attribution, to_numpy
from whence.backends import Leaves
from whence.metrics.given import arrays_of, checked, rows_of
from whence.metrics.laid import element_values

if TYPE_CHECKING:
    from whence.metrics.judged import Judged


def explained(
    judged: Judged, inputs: Leaves, rows: Int[np.ndarray, "n"], model: Any, options: dict[str, Any]
) -> tuple[tuple[Float[np.ndarray, "n ..."], ...], Int[np.ndarray, "n"]]:
    """Return the explanations of inputs [n, ...] of the examples `rows` [n], and the runs of the model for each.

    Pictures in pixels are kept within [0, 1]; `options` stand in for those of the question.
    """
    problem, method, spent = judged.problem, judged.method, np.zeros(len(rows), dtype=np.int64)
    assert method is not None
    model = judged.call.model if model is None else model
    target = options["target"] if "target" in options else _target(judged, rows)
    if problem.run.pictures:
        inputs = tuple(problem.ops.native(pixels.within(problem.ops, leaf)) for leaf in inputs)
    given = problem.run.structure.pack(tuple(problem.ops.native(leaf) for leaf in inputs))
    if isinstance(method, registry.Method):
        found = method(model, given, **(_options(judged, rows) | options | {"target": target}))
    else:
        found = method(model, given, target)
        if not isinstance(found, Attribution):
            return checked(arrays_of(found), problem, len(rows)), spent
    if found.evaluations is not None:
        counted = to_numpy(found.evaluations).astype(np.float64).reshape(len(rows), -1).max(1)
        spent = np.rint(counted).astype(np.int64)
    return checked(element_values(found, problem), problem, len(rows)), spent


def _options(judged: Judged, rows: Int[np.ndarray, "n"]) -> dict[str, Any]:
    """Return how the question was asked; of what has an entry for each example, those of `rows`."""
    call, along = judged.call, judged.problem.run.along
    named = {name: value[rows] if name in along else value for name, value in (call.kwargs or {}).items()}
    return dict(
        kwargs=named or None, output=call.output, preprocess=call.preprocess, seed=call.seed, chunk=call.chunk,
        on_unknown=call.on_unknown, fuse=call.fuse, at=call.at,
    )  # fmt: skip


def _target(judged: Judged, rows: Int[np.ndarray, "n"]) -> Any:
    given, index = judged.call.target, judged.index
    own = None if index is None else index[rows]
    if isinstance(given, targets.Target):
        return replace(given, index=own, other=rows_of(given.other, rows))
    return given if own is None else own
