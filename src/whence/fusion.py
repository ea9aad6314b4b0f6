"""Fusion: whether a model's first affine operations z = Wx + b are taken out of a path's loop.

On a straight line z moves on a straight line too, so those operations need to run for the two ends only, and Wᵀ once
for the summed gradients: the same numbers, not an approximation. What was learnt about a model and shape is remembered:
that it does not pay, or the order of its operations; each run tests it anew.
"""

from __future__ import annotations

import numpy as np

from whence.backends import Leaves, Split
from whence.errors import Diverged
from whence.problem import Problem

# So many gradients at least must be asked for: below, finding the operations costs more than leaving them out saves.
FEWEST = 64
# How far f at the end of the path, from z, may be from f at the input: float noise is far below it.
SAME = {"float64": 1e-9, "float32": 1e-4}


def fused(problem: Problem, start: Leaves, nodes: int) -> Split | None:
    """Return f taken apart after its first affine operations, where it can be, pays and is wanted."""
    run = problem.run
    backend, known = run.backend, run.chunks.splits
    if not run.fuse or len(problem.rows) * nodes < FEWEST:
        return None
    key = (repr(run.preprocess), *sorted(run.kwargs))
    template = known.get(key, False)
    if template is None:
        return None
    found = template.again(problem.evaluate, start, problem.point) if template else None
    if found is None or not _agrees(problem, found):
        found = backend.split(problem.evaluate, start, problem.point)
        known[key] = None if found is None else found.template()
    if found is not None:
        run.record["fused"] = True
    return found


def _agrees(problem: Problem, split: Split) -> bool:
    """Tell whether f from z is f at the first input."""
    one = np.zeros(1, dtype=int)
    try:
        z = tuple(problem.ops.take(leaf, one) for leaf in split.end)
        y = problem.ops.numpy(problem.run.backend.value(lambda leaves: split.value(leaves, one), z))
    except Diverged:
        return False
    kind = str(problem.point[0].dtype).rpartition(".")[2]
    wanted = problem.output[:1]
    return bool((np.abs(y - wanted) <= SAME.get(kind, 0.02) * max(1e-30, np.abs(problem.output).max())).all())
