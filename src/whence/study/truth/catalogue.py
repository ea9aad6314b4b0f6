"""All cases by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import MappingProxyType

from whence.errors import BadInput
from whence.naming import unknown
from whence.study.truth.case import FAMILIES, Case
from whence.study.truth.cases import degenerate, detectors, folds, interactions, linear


@cache
def every() -> MappingProxyType[str, Case]:
    """Return every case by name, family by family."""
    found = [each for kind in (linear, interactions, folds, detectors, degenerate) for each in kind.cases()]
    order = list(FAMILIES)
    found.sort(key=lambda case: order.index(case.family))
    return MappingProxyType({case.name: case for case in found})


def chosen(names: Sequence[str]) -> tuple[Case, ...]:
    """Return the cases of these names, or of these families; all where none is named.

    Raises:
        BadInput: there is no such case.
    """
    there = every()
    if not names:
        return tuple(there.values())
    wanted: dict[str, Case] = {}
    for name in names:
        plain = name.strip().replace("-", "_")
        family = {key: case for key, case in there.items() if case.family == plain}
        if plain not in there and not family:
            raise BadInput(unknown("case", name, [*there, *FAMILIES]))
        wanted |= family or {plain: there[plain]}
    return tuple(wanted.values())
