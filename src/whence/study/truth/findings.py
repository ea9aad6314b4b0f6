"""What the numbers of the study say, in sentences: none of them is there unless the numbers bear it out."""

from __future__ import annotations

from typing import Final

from whence.caption import written
from whence.study.truth.axioms import AXIOMS
from whence.study.truth.results import Study

RIGHT: Final = 0.99
"""From here on a score is called right."""
FOUND: Final = 0.99
"""The area under the curve from which a method is said to have found the shortcut."""
NAMED: Final = 8
"""More names than these are counted, not listed."""


def listed(names: list[str]) -> str:
    """Return names as a list in a sentence; of many, their number."""
    if len(names) > NAMED:
        return f"{len(names)} methods"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def decimals(area: float) -> str:
    """Return an area under the curve, never rounded up to 1."""
    return "1" if area == 1 else f"{min(area, 0.9999):.4f}"


def amount(share: float) -> str:
    """Return by how much of the map an axiom is broken."""
    return f"{share:.2f}" if share < 9.95 else f"{share:,.0f}"


def sentences(study: Study) -> list[str]:
    """Return what was found, the most important first."""
    found = [
        _right(study),
        _saturation(study),
        _axioms(study),
        _shortcut(study),
        _missed(study),
        _failed(study),
    ]
    return [each[0].upper() + each[1:] for each in found if each]


def _right(study: Study) -> str:
    if not study.cases:
        return ""
    whole = [
        name for name in study.ranked
        if len(found := study.scores(name)) == len(study.cases) and min(found) >= RIGHT
    ]  # fmt: skip
    if not whole:
        best = study.ranked[0]
        mean = study.mean(best)
        return "" if mean is None else f"{written(best)} has the highest mean score, {mean:.2f}."
    cases = f"all {len(study.cases)} cases" if len(study.cases) > 1 else "the one case"
    verb = "gives" if len(whole) == 1 else "give"
    return f"{listed([written(each) for each in whole])} {verb} a right answer in {cases}."


def _saturation(study: Study) -> str:
    """Say which method that is right on linear functions fails most where they go flat."""
    if not {"linear", "saturation"} <= set(study.families):
        return ""
    pairs = [
        (name, study.mean(name, "linear"), study.mean(name, "saturation")) for name in study.setup.methods
    ]
    fallen = [
        (name, one, other)
        for name, one, other in pairs
        if one is not None and other is not None and one - other > 0.3
    ]
    if not fallen:
        return ""
    names = [written(name) for name, _, _ in sorted(fallen, key=lambda each: each[2])]
    low, high = (pick(each[2] for each in fallen) for pick in (min, max))
    span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"between {low:.2f} and {high:.2f}"
    verb = "scores" if len(names) == 1 else "score"
    return f"where functions saturate, {listed(names)} {verb} far less than on linear ones: {span}."


def _axioms(study: Study) -> str:
    tried = [name for name in study.setup.methods if study.scores(name)]
    clean = [written(name) for name in study.ranked if name in tried and not study.broken(name)]
    if not tried:
        return ""
    if not clean:
        return f"every method was seen to break at least one of {len(AXIOMS)} axioms."
    broken = len(tried) - len(clean)
    rest = f"; {broken} broke at least one" if broken else ""
    verb, them = ("was", "it") if len(clean) == 1 else ("were", "them")
    return f"{listed(clean)} {verb} seen to break no axiom that could be tried on {them}{rest}."


def _shortcut(study: Study) -> str:
    there = {name: each.found[0] for name, each in study.probes.items() if each.pairs}
    if not there:
        return ""
    found = [name for name, area in there.items() if area >= FOUND]
    turned = min(each.shortcut.turned for each in study.pairs)
    kept = max(each.control.turned for each in study.pairs)
    deed = (
        f"the planted mark turns {100 * turned:.0f} % of other digits into a 3 in the network that learnt it, and "
        f"{100 * kept:.1f} % in the control"
    )
    if not found:
        return (
            f"{deed}. No method tells the two networks apart with an area under the curve of {FOUND} or more."
        )
    return (
        f"{deed}. By the share of the map on the mark, {len(found)} of {len(there)} methods tell the two networks "
        f"apart (area under the curve at least {FOUND})."
    )


def _missed(study: Study) -> str:
    there = {name: each.found[0] for name, each in study.probes.items() if each.pairs}
    missed = sorted((area, name) for name, area in there.items() if area < FOUND)
    if not missed or len(missed) == len(there):
        return ""
    return f"not so: {listed([f'{written(name)} ({decimals(area)})' for area, name in missed])}."


def _failed(study: Study) -> str:
    failed = study.failed()
    if not failed:
        return ""
    method, case, reason = failed[0]
    many = len(failed) > 1
    words = (
        f"{len(failed)} explanations went wrong and have" if many else "one explanation went wrong and has"
    )
    return f"{words} no score: {method} on {case}: {reason}."
