"""Fusion: whether a model's first affine operations z = Wx + b are taken out of a path's loop.

On a straight line z moves on a straight line too, so those operations need to run for the two ends only, and Wᵀ once
for the summed gradients: the same numbers, not an approximation. What was learnt about a model and shape is remembered:
that it does not pay, or the order of its operations; each run tests it anew.
"""

from __future__ import annotations

import numpy as np

from whence.backends import Leaves, Split
from whence.errors import Diverged
from whence.naming import floating
from whence.preprocess import Preprocess
from whence.problem import Problem

# So many gradients at least must be asked for: below, finding the operations costs more than leaving them out saves.
FEWEST = 64
# So many rows at once a chunk must hold: the operations are found with them.
ROWS = 4
# How far f and its gradient from z may be from those at the input, relative to the largest: float noise is below it.
SAME = {"float64": 1e-9, "float32": 1e-4}


def fused(problem: Problem, start: Leaves, nodes: int) -> Split | None:
    """Return f taken apart after its first affine operations, where it can be, pays and is wanted."""
    run = problem.run
    backend, known = run.backend, run.chunks.splits
    kind = floating(problem.point[0])
    small = len(problem.rows) * nodes < FEWEST or (run.chunks.fixed or ROWS) < ROWS
    if not run.fuse or small or kind not in SAME:
        # In half precision the sums would be rounded on their way back.
        return None
    plain = run.preprocess is None or isinstance(run.preprocess, Preprocess)
    key = (repr(run.preprocess), *sorted(run.kwargs)) if plain else None
    template = known.get(key, False) if plain else False
    if template is None:
        return None
    found = template.again(problem.evaluate, start, problem.point) if template else None
    if found is None or not _agrees(problem, found):
        found = backend.split(problem.evaluate, start, problem.point)
        if found is not None and not _agrees(problem, found):
            found = None
        if plain:
            known[key] = None if found is None else found.template()
    if found is not None:
        run.record["fused"] = True
    return found


def _agrees(problem: Problem, split: Split) -> bool:
    """Tell whether f and its gradient from z are those at the first input."""
    one, ops = np.zeros(1, dtype=int), problem.ops
    x, z = (tuple(ops.take(leaf, one) for leaf in leaves) for leaves in (problem.point, split.end))
    try:
        y, slopes = problem.vjp(z, one, split.value)
        if problem.every_class:
            slopes = tuple(slope[:, 0] for slope in slopes)
        found = split.pull(slopes, one)
    except Diverged:
        return False
    wanted, expected = problem.vjp(x, one)
    if problem.every_class:
        expected = tuple(gradient[:, 0] for gradient in expected)
    allowed = SAME[floating(problem.point[0])]
    largest = float(np.abs(problem.output).max())
    pairs = [
        (y, wanted, largest),
        *((a, b, float(abs(b).max())) for a, b in zip(found, expected, strict=True)),
    ]
    return all(float(abs(a - b).max()) <= allowed * max(1e-30, size) for a, b, size in pairs)
