"""What the numbers say in sentences: strengths and weaknesses, none of them beyond what the uncertainty allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from whence.caption import number, titled
from whence.metrics import control
from whence.metrics.defined import error_of_mean, mean
from whence.metrics.metric import Record
from whence.study.comparison.results import Comparison, Row
from whence.study.comparison.setup import metric_title

APART: Final = 2.0
"""Two means are told apart where they lie more standard errors of their difference apart than this."""
FASTER: Final = 3.0
"""A method is called cheap or dear where it costs so many times less or more than the middle one."""


@dataclass(frozen=True)
class Character:
    """A method's strengths and weaknesses on one network, as metrics' titles."""

    method: str
    strong: list[str]
    weak: list[str]
    cost: str


def standing(found: Comparison, network: str, record: Record) -> dict[str, float]:
    """Return each method's place on a metric: 1 the best, 0 the worst, ties between; none where nothing is better."""
    rows = _rows(found, network, record.name)
    if record.better is None or len(rows) < 2:
        return {}
    from scipy.stats import rankdata

    sign = 1 if record.better == "higher" else -1
    places = rankdata([sign * row.value for row in rows.values()])
    return {name: float((place - 1) / (len(rows) - 1)) for name, place in zip(rows, places, strict=True)}


def near_best(found: Comparison, network: str, record: Record) -> set[str]:
    """Return the methods that cannot be told apart from the best on a metric.

    None where that is most of them, or where the best itself cannot be told apart from random maps.
    """
    rows = _rows(found, network, record.name)
    if record.better is None or not rows:
        return set()
    pick = max if record.better == "higher" else min
    best = pick(rows.values(), key=lambda row: row.value)
    if best.method in no_better(found, network, record):
        return set()
    near = {name for name, row in rows.items() if row is best or not _apart(found, row, best)}
    # Where most cannot be told apart, none stands out.
    return near if 2 * len(near) <= len(rows) or len(rows) < 3 else set()


def characters(found: Comparison, network: str) -> list[Character]:
    """Return what each method is among the best and the worst at: the outer quarters, clearly apart from the middle."""
    real = [name for name in found.methods(network) if name != control.NAME]
    strong: dict[str, list[str]] = {name: [] for name in real}
    weak: dict[str, list[str]] = {name: [] for name in real}
    for record in found.measured:
        if record.family == "localisation" and found.setup.data != "my":
            # That the ink is the right place is a habit, and no finding.
            continue
        rows, places = _rows(found, network, record.name), standing(found, network, record)
        if len(rows) < 4:
            continue
        middle = float(np.median([row.value for row in rows.values()]))
        for name, place in places.items():
            row = rows[name]
            if not abs(row.value - middle) > APART * row.standard_error:
                continue
            if place >= 0.75:
                strong[name].append(record.title)
            elif place <= 0.25:
                weak[name].append(record.title)
    costs = {name: found.cell(network, name, "milliseconds") for name in real}
    typical = float(np.median([row.value for row in costs.values() if row is not None] or [0.0]))
    return [
        Character(name, strong[name], weak[name], _cost(row.value if row else 0.0, typical))
        for name, row in costs.items()
    ]


def sentences(found: Comparison) -> list[str]:
    """Return what to take home, for all networks."""
    told: list[str] = []
    for network in found.setup.networks:
        accuracy = found.cell(network, "", "accuracy")
        assert accuracy is not None
        right = f"{network} names {100 * accuracy.value:.2f} % of {accuracy.count:,} pictures right"
        names, rank = found.agreement(network)
        real = [place for place, name in enumerate(names) if name != control.NAME]
        pairs = [rank[i, j] for i in real for j in real if j < i and np.isfinite(rank[i, j])]
        if pairs:
            middle = float(np.median(pairs))
            right += f"; two of the {len(real)} methods' maps have a rank correlation of {middle:.2f} in the middle"
        told.append(right + ".")
        told += _leaders(found, network)
    told.append(
        "No single metric crowns a method: each asks another question, and methods that win one lose another. Read "
        "them beside each other, with their uncertainty."
    )
    return told


def _leaders(found: Comparison, network: str) -> list[str]:
    """Return who is best at what is asked most, with all who cannot be told apart."""
    told: list[str] = []
    for name in ("deletion", "insertion", "road"):
        record = next((each for each in found.measured if each.name == name), None)
        if record is None:
            continue
        best = near_best(found, network, record)
        rows = _rows(found, network, name)
        if not best or len(best) > 4 or len(best) == len(rows):
            continue
        order = sorted(best, key=lambda each: rows[each].value, reverse=record.better == "higher")
        listed = ", ".join(f"{titled(each)} ({number(rows[each].value, 2)})" for each in order)
        told.append(
            f"{network}, {metric_title(record).lower()}: {listed} {'leads' if len(best) == 1 else 'lead'}."
        )
    return told


def _rows(found: Comparison, network: str, metric: str) -> dict[str, Row]:
    rows = {
        name: found.cell(network, name, metric) for name in found.methods(network) if name != control.NAME
    }
    return {name: row for name, row in rows.items() if row is not None and np.isfinite(row.value)}


def no_better(found: Comparison, network: str, record: Record) -> set[str]:
    """Return the methods that cannot be told apart from random maps on a metric, or are worse."""
    mine = found.cell(network, control.NAME, record.name)
    if mine is None or record.better is None or not np.isfinite(mine.value):
        return set()
    sign = 1 if record.better == "higher" else -1
    rows = _rows(found, network, record.name)
    return {
        name
        for name, row in rows.items()
        if sign * (row.value - mine.value) <= 0 or not _apart(found, row, mine)
    }


def _apart(found: Comparison, one: Row, two: Row) -> bool:
    """Tell two methods' means apart, by the differences on the pictures and in the draws that both have.

    Unknown errors tell nothing.
    """
    apart = abs(one.value - two.value)
    values = _difference(found.values, one, two)
    if values is None:
        error = float(np.hypot(one.standard_error, two.standard_error))
    else:
        apart = abs(float(mean(values, 0)))
        error = float(error_of_mean(values, 0))
        draws = _difference(found.draws, one, two)
        if draws is not None:
            error = float(np.hypot(error, _few(len(draws)) * error_of_mean(draws, 0)))
    return bool(np.isfinite(error)) and apart > APART * error


def _few(draws: int) -> float:
    """Return by what the error of a mean of few draws is widened: Student's t in the place of the normal's bounds."""
    from scipy.stats import norm, t

    return float(t.ppf(norm.cdf(APART), draws - 1) / APART) if draws > 1 else float("nan")


def _difference(read: Callable[[str, str, str], np.ndarray | None], one: Row, two: Row) -> np.ndarray | None:
    first, second = (read(row.network, row.method, row.measure) for row in (one, two))
    return None if first is None or second is None or len(first) != len(second) else first - second


def _cost(milliseconds: float, typical: float) -> str:
    if milliseconds * FASTER <= typical:
        return "cheap"
    return "dear" if milliseconds >= FASTER * typical else "middling"
