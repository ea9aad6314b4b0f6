"""How much a sampled method may ask the model: a number of draws, or as many as a tolerance takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence.counts import whole
from whence.errors import BadInput

MOST = 100_000


@dataclass(frozen=True)
class Effort:
    """How many draws: `samples`, or as many as the tolerance takes up to `most` evaluations."""

    samples: int | None
    rtol: float | None
    most: int = MOST


def effort(method: str, samples: Any, rtol: Any, most: Any, default: int, least: int = 1) -> Effort:
    """Return what a method's fields ask for; a tolerance takes the place of the default number.

    Raises:
        BadInput: both a number and a tolerance are given, or one that cannot be meant.
    """
    if rtol is not None and samples != default:
        raise BadInput(
            f"{method}: samples={samples} fixes the number of draws and rtol={rtol} asks for as many as it takes; "
            "give one of them"
        )
    if rtol is not None:
        rtol = above_zero(rtol, f"{method}: rtol", "0.05")
    if most is not None and rtol is None:
        raise BadInput(
            f"{method}: max_evaluations={most} is the limit of a tolerance; give rtol= with it, or samples= instead"
        )
    count = whole(samples, f"{method}: samples", least)
    limit = MOST if most is None else whole(most, f"{method}: max_evaluations", least)
    return Effort(count if rtol is None else None, rtol, limit)


def above_zero(value: Any, name: str, example: str, zero: bool = False) -> float:
    """Return a number above 0 (or, with `zero`, not below it) as a float.

    Raises:
        BadInput: it is none.
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or value < 0 or (value == 0 and not zero):
        least = "0 or above" if zero else "above 0"
        raise BadInput(f"{name} is {value!r}; it is a number {least}, such as {example}")
    return float(value)
