"""What the numbers of the study say, in sentences: none of them is there unless the numbers bear it out."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Final

from whence import registry
from whence.caption import number
from whence.study.frameworks.results import Study
from whence.study.frameworks.setup import FRAMEWORKS

ALIKE: Final = {"float32": 1e-4, "float64": 1e-6}
"""Up to here maps of one type are called the same."""
ROUNDING: Final = {"float32": 1e-5, "float64": 1e-13}
"""Up to here their difference is what single operations round, added up."""
APART: Final = 1.25
"""Medians of noisy clocks differ by chance: up to this ratio two frameworks are called equally fast."""


@dataclass(frozen=True)
class Speed:
    """How a framework's times compare with the reference's: the median ratio over what both did, and of how many."""

    framework: str
    cold: float
    warm: float
    count: int


def title(framework: str) -> str:
    """Return a framework's name for readers."""
    return FRAMEWORKS[framework].title


def listed(names: list[str]) -> str:
    """Return names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plain(value: float) -> str:
    """Return a positive number to two digits, without powers of ten where it is large."""
    return f"{value:,.0f}" if value >= 10 else number(value, 2)


def sentences(study: Study) -> list[str]:
    """Return what was found, the most important first."""
    found = [
        _agreement(study),
        _support(study),
        *_speed(study),
        _first(study),
        _memory(study),
        _left_out(study),
    ]
    return [each[0].upper() + each[1:] for each in found if each]


def speeds(study: Study) -> list[Speed]:
    """Return every framework's times over the reference's, the fastest once warm first."""
    found: list[Speed] = []
    assert study.reference is not None
    for framework in study.names():
        ratios = [ratio for ran in study.of(framework) for ratio in _ratios(study, ran.network, framework)]
        if ratios:
            cold, warm = (median(each[place] for each in ratios) for place in (0, 1))
            found.append(Speed(framework, cold, warm, len(ratios)))
    return sorted(found, key=lambda each: each.warm)


def _ratios(study: Study, network: str, framework: str) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    assert study.reference is not None
    for method in study.methods(network):
        own, other = (study.cell(network, name, method) for name in (framework, study.reference))
        if own and other and own.middle and other.middle and own.cold and other.cold:
            found.append((own.cold / other.cold, own.middle / other.middle))
    return found


def working(study: Study, framework: str) -> tuple[int, int]:
    """Return how many of the methods that were asked for a framework did, and how many there were."""
    cells = [cell for ran in study.of(framework) for cell in ran.cells.values()]
    return sum(not cell.reason for cell in cells), len(cells)


def supported(study: Study, framework: str) -> int | None:
    """Return how many of all registered methods work in a framework, where they were tried."""
    tried = [ran.unsupported for ran in study.of(framework) if ran.unsupported is not None]
    return len(registry.methods()) - len(tried[0]) if tried else None


def first_map(study: Study, framework: str) -> float | None:
    """Return the seconds from starting Python to the first map."""
    return _median([ran.first for ran in study.of(framework)])


def imported(study: Study, framework: str) -> float | None:
    """Return the seconds that importing the framework takes."""
    return _median([ran.imported for ran in study.of(framework)])


def memory(study: Study, framework: str) -> float | None:
    """Return the memory in MB that the framework and all explanations together took, at most."""
    both = [
        ran.loaded + ran.worked
        for ran in study.of(framework)
        if ran.loaded is not None and ran.worked is not None
    ]
    return max(both, default=None)


def _median(values: list[float | None]) -> float | None:
    there = [each for each in values if each is not None]
    return median(there) if there else None


def worst(study: Study) -> tuple[tuple[str, str, str], float] | None:
    """Return which map differs most from the reference's, and by how much of its largest value."""
    pairs = [(key, each.difference) for key, each in study.agreements.items()]
    return max(pairs, key=lambda pair: pair[1]) if pairs else None


# ---- the sentences -------------------------------------------------------------------------------------------


def _agreement(study: Study) -> str:
    most = worst(study)
    names = study.names()
    if most is None:
        return f"Only {title(names[0])} could be compared." if len(names) == 1 else ""
    assert study.reference is not None
    limit = ALIKE[study.setup.dtype]
    others = listed([title(each) for each in names if each != study.reference])
    apart = {key: each.difference for key, each in study.agreements.items() if each.difference > limit}
    whole = f"{len(study.agreements) - len(apart)} of the {len(study.agreements)} maps that were compared"
    if not apart:
        rounding = (
            f", which is the rounding of {study.setup.dtype}"
            if most[1] <= ROUNDING[study.setup.dtype]
            else ""
        )
        return (
            f"{others} give{'s' if len(names) == 2 else ''} the same maps as {title(study.reference)}: over "
            f"{len(study.agreements)} comparisons no value is further away than {number(most[1], 2)} of its map's "
            f"largest{rounding}."
        )
    (network, framework, method), away = most
    return (
        f"{whole} are those of {title(study.reference)} to within {number(limit, 1)} of their largest value. "
        f"{len(apart)} are not; furthest away is {method} in {title(framework)} on {network}, by {number(away, 2)}."
    )


def _support(study: Study) -> str:
    whole: list[str] = []
    parts: list[str] = []
    for framework in study.names():
        done, asked = working(study, framework)
        if done == asked:
            whole.append(title(framework))
        else:
            parts.append(f"{title(framework)} {done} of {asked}")
    every = f"{listed(whole)} did everything that was asked" if whole else ""
    some = f"{listed(parts)} (why is said below)" if parts else ""
    return f"{'; '.join(filter(None, (every, some)))}." if every or some else ""


def _speed(study: Study) -> list[str]:
    every = broad(study)
    if len(every) < 2:
        return []
    assert study.reference is not None
    rest = title(study.reference)
    near = [title(each.framework) for each in every if each.warm <= APART * every[0].warm]
    told = [
        f"in {title(each.framework)} {plain(each.warm)} times"
        for each in speeds(study) if each.framework != study.reference
    ]  # fmt: skip
    if len(near) == len(every):
        lines = [f"Once warm, all are equally fast, to within a factor of {number(APART)}."]
    else:
        lines = [
            f"Once warm, {listed(near)} {'is' if len(near) == 1 else 'are'} fastest. Compared with {rest}, by the "
            f"median over what both do, an explanation takes {listed(told)} as long."
        ]
    cold = sorted(every, key=lambda each: each.cold)
    if cold[-1].cold > APART * cold[0].cold:
        lines.append(
            f"Cold, with a new model and nothing compiled, {title(cold[0].framework)} is fastest and "
            f"{title(cold[-1].framework)} slowest, by a factor of {plain(cold[-1].cold / cold[0].cold)}."
        )
    return lines


def broad(study: Study) -> list[Speed]:
    """Return the times of those that did at least half of what the reference did: the others had another task."""
    every = speeds(study)
    most = max((each.count for each in every), default=0)
    return [each for each in every if 2 * each.count >= most]


def _first(study: Study) -> str:
    known = {each: seconds for each in study.names() if (seconds := first_map(study, each)) is not None}
    if len(known) < 2:
        return ""
    quick, slow = min(known, key=lambda each: known[each]), max(known, key=lambda each: known[each])
    return (
        f"From starting Python, imports included, the first map is there after {plain(known[quick])} s with "
        f"{title(quick)} and {plain(known[slow])} s with {title(slow)}."
    )


def _memory(study: Study) -> str:
    known = {each: size for each in study.names() if (size := memory(study, each)) is not None}
    if len(known) < 2:
        return ""
    small, large = min(known, key=lambda each: known[each]), max(known, key=lambda each: known[each])
    return (
        f"{title(small)} adds least memory to Python and whence ({known[small]:.0f} MB), {title(large)} most "
        f"({known[large]:.0f} MB)."
    )


def _left_out(study: Study) -> str:
    missing = study.left_out()
    if not missing:
        return ""
    names = listed([title(each) for each in missing])
    return f"{names} could not be measured: {'; '.join(dict.fromkeys(missing.values()))}."
