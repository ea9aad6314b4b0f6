"""Runs the study: every method on every case, and then on the networks of the planted shortcut."""

from __future__ import annotations

import time
from collections.abc import Callable

from whence.errors import WorkFailed
from whence.explainer import versions
from whence.study.truth import probe, shortcut
from whence.study.truth.results import Study
from whence.study.truth.setup import Setup
from whence.study.truth.trial import Bench, Trial

Say = Callable[[str, float], None]
PAIRS, PICTURES = 3, 60
"""How many pairs of networks are trained, and with how many test pictures each is asked."""
QUICK_PAIRS, QUICK_PICTURES = 1, 30
SHORTCUT_SHARE = 0.7
"""The share of the time that the shortcut takes, for the bar of progress."""


def run(setup: Setup, say: Say) -> Study:
    """Measure what was asked.

    Args:
        setup: what is asked.
        say: told what is being measured, and how much of all has been.

    Raises:
        WorkFailed: PyTorch or the digits are missing, or nothing could be measured.
    """
    began = time.perf_counter()
    whole = 1 - SHORTCUT_SHARE * setup.shortcut
    trials = _trials(setup, lambda text, share: say(text, whole * share))
    pairs: tuple[shortcut.Pair, ...] = ()
    probes: dict[str, probe.Probe] = {}
    if setup.shortcut:
        pairs = _pairs(setup, lambda text, share: say(text, whole + 0.1 * share))
        for place, name in enumerate(setup.methods):
            say(f"{name} on the shortcut", whole + 0.1 + (0.9 - whole) * place / len(setup.methods))
            probes[name] = probe.probe(name, pairs, setup.data, setup.seed, setup.quick)
    cases = tuple(each.first(setup.examples) for each in setup.chosen())
    seconds = time.perf_counter() - began
    study = Study(setup, cases, trials, probes, pairs, versions("torch"), seconds)
    if not any(each.score for each in trials.values()) and not any(each.pairs for each in probes.values()):
        raise WorkFailed(f"nothing could be measured: {_first_reason(study)}")
    return study


def _trials(setup: Setup, say: Say) -> dict[tuple[str, str], Trial]:
    bench = Bench(setup.seed, setup.quick, setup.examples)
    found: dict[tuple[str, str], Trial] = {}
    for place, name in enumerate(setup.methods):
        for case in setup.chosen():
            say(f"{name} on {case.name}", place / len(setup.methods))
            found[name, case.name] = bench.trial(name, case)
    return found


def _pairs(setup: Setup, say: Say) -> tuple[shortcut.Pair, ...]:
    count, pictures = (QUICK_PAIRS, QUICK_PICTURES) if setup.quick else (PAIRS, PICTURES)
    dataset = shortcut.digits(setup)
    found: list[shortcut.Pair] = []
    for number in range(count):
        say(f"training pair {number + 1} of {count}", number / count)
        found.append(shortcut.pair(setup, dataset, number, pictures))
    return tuple(found)


def _first_reason(study: Study) -> str:
    for each in (*study.trials.values(), *study.probes.values()):
        if each.refused or each.failed:
            return f"{each.method}: {each.refused or each.failed}"
    return "no method and no case"
