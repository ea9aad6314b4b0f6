"""Axioms, measured: by how much a method's maps break each, beyond its own sampling error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Float

from whence.study.truth.case import Case
from whence.study.truth.scoring import ERRORS, NOTHING

AXIOMS: Final = MappingProxyType(
    {
        "completeness": "the shares add up to f(x) − f(x′)",
        "dummy": "a feature that the function never reads gets nothing",
        "symmetry": "two features that it treats alike, and that are equal, get the same",
        "sensitivity": "the one feature that differs from the baseline gets something where the output differs",
        "linearity": "the shares of a·f + b·g are a·those of f + b·those of g",
        "implementation": "two networks of one function have the same shares",
    }
)
"""Every axiom with its meaning; implementation is short for implementation invariance."""
TOLERANCE: Final = 0.01
"""Up to this share of the map an axiom is called kept."""


@dataclass(frozen=True, eq=False)
class Maps:
    """A method's maps of a case [n, d], and their standard errors where it states some.

    `total` is what all shares add up to: a feature of several pixels repeats its one share on each of them.
    """

    case: Case
    values: Float[np.ndarray, "n d"]
    total: Float[np.ndarray, " n"]
    spread: Float[np.ndarray, "n d"] | None = None

    @property
    def size(self) -> Float[np.ndarray, " n"]:
        """The sum of the sizes of every map."""
        return np.abs(self.values).sum(1)

    @property
    def errors(self) -> Float[np.ndarray, "n d"]:
        """What sampling allows each value to be off."""
        return np.zeros_like(self.values) if self.spread is None else ERRORS * self.spread


@dataclass(frozen=True)
class Check:
    """One axiom tried on one case: by how much it is broken at the worst example, and whether that counts."""

    axiom: str
    case: str
    amount: float
    kept: bool


def checks(maps: Maps) -> list[Check]:
    """Return the axioms that one case can try by itself."""
    found = [completeness(maps)]
    if maps.case.dummies is not None:
        found.append(dummy(maps))
    if maps.case.alike is not None:
        found.append(symmetry(maps))
    if maps.case.alone is not None:
        found.append(sensitivity(maps))
    return found


def completeness(maps: Maps) -> Check:
    """Compare the sum of the shares with f(x) − f(x′), relative to what there is to share out."""
    change = maps.case.change
    away = np.abs(maps.total - change)
    parts = [np.abs(each.values).reshape(len(change), -1).sum(1) for each in maps.case.answers[:1]]
    # Where nothing is to be shared out, what was handed out is the measure.
    scale = np.maximum.reduce([np.abs(change), *parts])
    scale = np.where(scale > NOTHING, scale, maps.size)
    return _check("completeness", maps, away, maps.errors.sum(1), scale)


def dummy(maps: Maps) -> Check:
    """Find the largest share of a feature that is never read."""
    assert maps.case.dummies is not None
    unread = maps.case.dummies.ravel()
    sizes = np.abs(maps.values[:, unread])
    beyond = np.maximum(sizes - maps.errors[:, unread], 0.0)
    place = beyond.argmax(1)
    rows = np.arange(len(sizes))
    return _check("dummy", maps, sizes[rows, place], maps.errors[:, unread][rows, place], maps.size)


def symmetry(maps: Maps) -> Check:
    """Compare two features that nothing tells apart."""
    assert maps.case.alike is not None
    one, other = maps.case.alike
    away = np.abs(maps.values[:, one] - maps.values[:, other])
    return _check("symmetry", maps, away, maps.errors[:, [one, other]].sum(1), maps.size)


def sensitivity(maps: Maps) -> Check:
    """See whether the only feature that has changed gets anything."""
    assert maps.case.alone is not None
    nothing = np.abs(maps.values[:, maps.case.alone]) <= NOTHING
    due = np.abs(maps.case.change) > NOTHING
    amount = float((nothing & due).any())
    return Check("sensitivity", maps.case.name, amount, amount == 0)


def linearity(whole: Maps, parts: Sequence[tuple[float, Maps]]) -> Check:
    """Compare the map of a sum with the sum of the maps."""
    total = sum((factor * each.values for factor, each in parts), np.zeros_like(whole.values))
    allowed = sum((abs(factor) * each.errors for factor, each in parts), whole.errors)
    sizes = sum((abs(factor) * each.size for factor, each in parts), np.zeros_like(whole.size))
    scale = np.maximum(whole.size, sizes)
    return _check("linearity", whole, np.abs(whole.values - total).sum(1), allowed.sum(1), scale)


def implementation(maps: Maps, other: Maps) -> Check:
    """Compare the maps of two networks of one function."""
    away = np.abs(maps.values - other.values).sum(1)
    allowed = (maps.errors + other.errors).sum(1)
    return _check("implementation", maps, away, allowed, np.maximum(maps.size, other.size))


def _check(axiom: str, maps: Maps, away: np.ndarray, allowed: np.ndarray, scale: np.ndarray) -> Check:
    """Return the worst example, relative to its scale; what sampling explains is not held against a method."""
    scale = np.where(scale > NOTHING, scale, 1.0)
    # Of sums of numbers of order one, so much is rounding.
    away = np.where(away > NOTHING, away, 0.0)
    broken = away > TOLERANCE * scale + allowed
    amounts = away / scale
    worst = amounts[broken].max() if broken.any() else amounts.max()
    return Check(axiom, maps.case.name, float(worst), not bool(broken.any()))
