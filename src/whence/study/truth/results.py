"""What was measured: every trial of a method on a case, and what each method says of the planted shortcut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence.study.truth.axioms import AXIOMS, Check
from whence.study.truth.case import FAMILIES, Case
from whence.study.truth.probe import Probe
from whence.study.truth.setup import Setup
from whence.study.truth.shortcut import Pair
from whence.study.truth.trial import Trial


@dataclass(frozen=True)
class Kept:
    """An axiom and a method: on how many cases it was tried and broken, and the worst of those."""

    tried: int
    broken: int
    worst: Check | None


@dataclass(frozen=True, eq=False)
class Study:
    """All that was measured.

    Attributes:
        setup: what was asked.
        cases: the cases, with the examples that were explained.
        trials: by method and case.
        probes: by method; empty where the shortcut was not measured.
        pairs: the networks of the shortcut.
        versions: of the packages that matter.
        seconds: what all of it took.
    """

    setup: Setup
    cases: tuple[Case, ...]
    trials: dict[tuple[str, str], Trial]
    probes: dict[str, Probe]
    pairs: tuple[Pair, ...]
    versions: dict[str, str]
    seconds: float

    @property
    def families(self) -> list[str]:
        """The families that have a case here."""
        return [each for each in FAMILIES if any(case.family == each for case in self.cases)]

    @property
    def ranked(self) -> list[str]:
        """The methods, those with the highest mean first; those without one last."""

        def order(name: str) -> float:
            found = self.mean(name)
            return -1.0 if found is None else found

        return sorted(self.setup.methods, key=order, reverse=True)

    def of(self, family: str | None = None) -> list[Case]:
        """Return the cases of a family, or all."""
        return [each for each in self.cases if family in (None, each.family)]

    def scores(self, method: str, family: str | None = None) -> list[float]:
        """Return a method's scores in a family, or in all; what does not apply has none."""
        found = [self.trials[method, each.name].score for each in self.of(family)]
        return [each.value for each in found if each is not None]

    def mean(self, method: str, family: str | None = None) -> float | None:
        """Return a method's mean score over the cases that it applies to; None where there are none."""
        found = self.scores(method, family)
        return float(np.mean(found)) if found else None

    def kept(self, method: str, axiom: str) -> Kept:
        """Return what was seen of an axiom."""
        found = [
            check
            for case in self.cases
            for check in self.trials[method, case.name].checks
            if check.axiom == axiom
        ]
        broken = [each for each in found if not each.kept]
        return Kept(len(found), len(broken), max(broken, key=lambda each: each.amount, default=None))

    def broken(self, method: str) -> list[str]:
        """Return the axioms that a method was seen to break."""
        return [axiom for axiom in AXIOMS if self.kept(method, axiom).broken]

    def reasons(self) -> dict[str, dict[str, int]]:
        """Return why methods do not apply: each reason once, with the methods and from how many cases it keeps them."""
        every = [(method, trial.refused) for (method, _), trial in self.trials.items()]
        every += [(method, probe.refused) for method, probe in self.probes.items()]
        found: dict[str, dict[str, int]] = {}
        for method, reason in every:
            if reason:
                counts = found.setdefault(_plain(method, reason), {})
                counts[method] = counts.get(method, 0) + 1
        return found

    def failed(self) -> list[tuple[str, str, str]]:
        """Return what went wrong: method, case and reason."""
        found = [(method, case, each.failed) for (method, case), each in self.trials.items() if each.failed]
        return found + [(name, "shortcut", each.failed) for name, each in self.probes.items() if each.failed]

    def record(self) -> dict[str, Any]:
        """Return the study as JSON's types."""
        return {
            "settings": self.setup.record(),
            "versions": self.versions,
            "seconds": self.seconds,
            "cases": [_case(each) for each in self.cases],
            "methods": [self._method(name) for name in self.ranked],
            "shortcut": self._shortcut(),
            "failed": [dict(zip(("method", "case", "reason"), each, strict=True)) for each in self.failed()],
        }

    def _method(self, name: str) -> dict[str, Any]:
        return {
            "method": name,
            "mean": self.mean(name),
            "families": {family: self.mean(name, family) for family in self.families},
            "cases": {case.name: _trial(self.trials[name, case.name]) for case in self.cases},
            "broken": {axiom: _worst(self.kept(name, axiom)) for axiom in self.broken(name)},
        }

    def _shortcut(self) -> dict[str, Any] | None:
        if not self.pairs:
            return None
        return {
            "networks": [
                {
                    name: {"accuracy": network.accuracy, "turned": network.turned}
                    for name, network in (("shortcut", pair.shortcut), ("control", pair.control))
                }
                for pair in self.pairs
            ],
            "methods": {name: _probe(each) for name, each in self.probes.items()},
        }


def _plain(method: str, reason: str) -> str:
    """Return a reason without what differs from one method or case to the next: who gives it, what is in brackets."""
    first, _, rest = reason.partition(" ")
    own = first.lower().replace("-", "") in {method.replace("_", ""), "gradcam"}
    return (rest if own else reason).partition(" (")[0]


def _case(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "title": case.title,
        "family": case.family,
        "function": case.formula,
        "right": case.right,
        "conventions": [each.convention for each in case.answers],
        "examples": len(case.inputs),
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "score": None if trial.score is None else trial.score.value,
        "nearest": None if trial.score is None else trial.score.convention,
        "refused": trial.refused or None,
        "failed": trial.failed or None,
        "seconds": trial.seconds,
    }


def _worst(kept: Kept) -> dict[str, Any]:
    worst = kept.worst
    assert worst is not None
    return {"case": worst.case, "amount": worst.amount, "broken": kept.broken, "tried": kept.tried}


def _probe(probe: Probe) -> dict[str, Any]:
    if not probe.pairs:
        return {"refused": probe.refused or None, "failed": probe.failed or None}
    (area, error), (ranked, spread) = probe.found, probe.ranked
    return {
        "auc": area,
        "standard_error": error,
        "areas": probe.areas,
        "rank_auc": ranked,
        "rank_standard_error": spread,
        "on_mark": {group: probe.mean(group) for group in ("shortcut", "control", "clean")},
        "pictures": sum(len(each.shortcut) for each in probe.pairs),
        "seconds": probe.seconds,
    }
