"""From a map and the right answer to a score in [0, 1] that no factor of the map changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from whence.study.truth.case import Case

NOTHING: Final = 1e-9
"""A map whose sizes add up to no more than this is all zero: cases are of the order of 1, in float64."""
ERRORS: Final = 4.0
"""So many standard errors are allowed, where a method states them."""
ON_MASK: Final = "share on the mask"


@dataclass(frozen=True)
class Score:
    """A method's score on a case, the convention whose answer was nearest, and every example's score."""

    value: float
    convention: str
    examples: tuple[float, ...]


def overlap(
    found: Float[np.ndarray, "n *shape"], wanted: Float[np.ndarray, "n *shape"]
) -> Float[np.ndarray, " n"]:
    """Return 1 − ½ Σ|φ/‖φ‖₁ − t/‖t‖₁| for every example: how much of their shares two maps have in common.

    Where nothing is right, a map of nothing scores 1 and any other 0; where something is, a map of nothing scores 0.
    """
    maps, answers = _flat(found), _flat(wanted)
    sizes, right = np.abs(maps).sum(1), np.abs(answers).sum(1)
    some, any_right = sizes > NOTHING, right > NOTHING
    shares = maps / np.where(some, sizes, 1.0)[:, None]
    wanted_shares = answers / np.where(any_right, right, 1.0)[:, None]
    common = 1 - np.abs(shares - wanted_shares).sum(1) / 2
    return np.where(some & any_right, np.clip(common, 0.0, 1.0), np.where(some | any_right, 0.0, 1.0))


def on_mask(
    found: Float[np.ndarray, "n *shape"], mask: Bool[np.ndarray, "n *shape"]
) -> Float[np.ndarray, " n"]:
    """Return the share of a map's sizes that lies on a mask, for every example; a map of nothing scores 0."""
    sizes = np.abs(_flat(found))
    total = sizes.sum(1)
    inside = (sizes * _flat(mask)).sum(1)
    return np.where(total > NOTHING, inside / np.where(total > NOTHING, total, 1.0), 0.0)


def score(
    case: Case,
    found: Float[np.ndarray, "n *shape"],
    *,
    unsigned: bool,
    spread: Float[np.ndarray, "n d"] | None = None,
) -> Score:
    """Score maps on a case: against each right answer as a whole, of which the nearest counts.

    A method that states its own standard errors says nothing where no value is beyond `ERRORS` of them.

    Args:
        case: the case.
        found: a map for each of its examples.
        unsigned: the maps have no sign, and are compared with the sizes of the right answer.
        spread: the standard errors of the maps, where they are known.

    Raises:
        ValueError: a value is not finite: that has no score.
    """
    if not np.isfinite(found).all():
        raise ValueError("a map that is not finite has no score")
    if case.mask is not None:
        each = on_mask(found, case.mask)
        return Score(float(each.mean()), ON_MASK, tuple(each.tolist()))
    every: list[Score] = []
    for answer in case.answers:
        maps = _settled(found, answer.values, spread)
        each = overlap(np.abs(maps), np.abs(answer.values)) if unsigned else overlap(maps, answer.values)
        every.append(Score(float(each.mean()), answer.convention, tuple(each.tolist())))
    return max(every, key=lambda each: each.value)


def _settled(found: np.ndarray, wanted: np.ndarray, spread: np.ndarray | None) -> np.ndarray:
    """Return the maps, those of nothing but sampling error as zeros where nothing is right."""
    if spread is None:
        return found
    beyond = np.abs(_flat(found)) > ERRORS * spread
    empty = (np.abs(_flat(wanted)).sum(1) <= NOTHING) & ~beyond.any(1)
    return np.where(empty.reshape(-1, *[1] * (found.ndim - 1)), 0.0, found)


def saying_nothing(case: Case) -> float:
    """Return what a map of one colour would score: whoever is below says less than that."""
    return score(case, np.ones_like(case.inputs), unsigned=True).value


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)
