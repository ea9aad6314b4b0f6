"""Whether an output reacts to its input at all: what tells a gradient that is cut from an input that is not used."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from whence.backends import Array, Leaves
from whence.naming import floating

if TYPE_CHECKING:
    from whence.problem import Problem

# What rounding may change, by the floating type: a batch of another size rounds otherwise.
_ROUNDING = {"float16": 2.0**-4, "bfloat16": 2.0**-2, "float32": 2.0**-17}


def reacts(problem: Problem, leaf: int | None) -> bool:
    """Tell whether f changes when the site (or one leaf of it) is changed a lot."""
    return any(_moves(problem, probe) for probe in _probes(problem, leaf))


def _moves(problem: Problem, point: Leaves) -> bool:
    try:
        found = problem.native_value(point)
    except Exception:
        # A model that refuses a value (an index out of range) has looked at it.
        return True
    here, there = problem.output, problem.ops.numpy(found).astype(np.float64)
    scale = max(float(np.abs(each).max(initial=0.0)) for each in (here, there))
    return not bool((np.abs(there - here) <= _ROUNDING.get(floating(found), 2.0**-46) * scale).all())


def _probes(problem: Problem, leaf: int | None) -> Generator[Leaves]:
    """Yield points far from the site's: multiples, and noise that also moves what is zero."""
    for draw, factor in enumerate((0.0, -1.0, 3.0, 1.0)):
        generator = problem.random("probe", draw)

        def moved(x: Array, factor: float = factor, generator: np.random.Generator = generator) -> Array:
            noise = problem.ops.like(generator.standard_normal(x.shape[1:])[None], x)
            return x * factor + noise * (abs(x) + 1) * (factor == 1)

        yield tuple(moved(x) if leaf in (None, i) else x for i, x in enumerate(problem.point))
