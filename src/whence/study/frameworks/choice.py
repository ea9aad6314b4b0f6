"""How to choose a framework: what a reader wants, whom the numbers name, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from whence import registry
from whence.caption import number
from whence.study.frameworks import findings
from whence.study.frameworks.findings import listed, title
from whence.study.frameworks.results import Study

FILE: Final = "both run without it; ONNX has layers by node name, a SavedModel has none"
BOX: Final = "methods that switch features on and off need nothing but values"


@dataclass(frozen=True)
class Choice:
    """One wish, the answer, and the measurement or fact that it rests on."""

    wish: str
    answer: str
    because: str


def choices(study: Study) -> list[Choice]:
    """Return what to take for each wish; what was measured comes from this run alone."""
    found = [_stay(study), _most(study), _warm(study), _once(study), _memory(study)]
    fixed = [
        Choice("You have a file and not its code", "ONNX, or a SavedModel with TensorFlow", FILE),
        Choice("You have something that can only be called", "black box", BOX),
    ]
    return [each for each in found if each is not None] + fixed


def _stay(study: Study) -> Choice | None:
    most = findings.worst(study)
    if most is None or most[1] > findings.ALIKE[study.setup.dtype]:
        return None
    return Choice(
        "You have the model already",
        "stay in its framework",
        f"the maps are the same, to {number(most[1], 2)} of their largest value",
    )


def _most(study: Study) -> Choice | None:
    counts = {each: findings.supported(study, each) for each in study.names()}
    known = {each: count for each, count in counts.items() if count is not None}
    whole = len(registry.methods())
    if not known:
        counts = {each: findings.working(study, each) for each in study.names()}
        known, whole = (
            {each: done for each, (done, _) in counts.items()},
            max(all for _, all in counts.values()),
        )
    best = max(known.values())
    names = [title(each) for each, count in known.items() if count == best]
    return Choice("Every method is to work", listed(names), f"{best} of {whole} methods work there")


def _warm(study: Study) -> Choice | None:
    every = findings.broad(study)
    if len(every) < 2:
        return None
    names = [title(each.framework) for each in every if each.warm <= findings.APART * every[0].warm]
    slowest, times = title(every[-1].framework), findings.plain(every[-1].warm / every[0].warm)
    because = f"fastest once warm; the slowest, {slowest}, takes {times} times as long"
    return Choice("Many maps of one model", listed(names), because)


def _once(study: Study) -> Choice | None:
    return _least(
        study, "One map, from the command line", findings.first_map, "s from starting Python to the first map"
    )


def _memory(study: Study) -> Choice | None:
    return _least(study, "Little memory", findings.memory, "MB more than Python and whence alone")


def _least(
    study: Study, wish: str, measured: Callable[[Study, str], float | None], what: str
) -> Choice | None:
    """Return who has least of something, of those that did most of what was asked."""
    done = {each: findings.working(study, each)[0] for each in study.names()}
    able = [each for each in done if done[each] == max(done.values())]
    known = {each: value for each in able if (value := measured(study, each)) is not None}
    if len(known) < 2:
        return None
    best = min(known, key=lambda each: known[each])
    return Choice(
        wish,
        title(best),
        f"{findings.plain(known[best])} {what}, the least of those that do the most methods",
    )
