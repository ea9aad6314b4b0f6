"""The units of work of a comparison, and the order in which they are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whence.metrics.control import NAME
from whence.metrics.metric import registered
from whence.study.comparison.setup import SLICE, Setup, together
from whence.study.comparison.store import Store


@dataclass(frozen=True)
class Job:
    """A unit of work by its key: kind/network/method/what, and about how many seconds it takes."""

    key: str
    weight: float = 1.0

    @property
    def parts(self) -> tuple[str, ...]:
        """The words of the key."""
        return tuple(self.key.split("/"))

    @property
    def keys(self) -> tuple[str, ...]:
        """The parts that it makes: several where metrics share their work."""
        head, _, last = self.key.rpartition("/")
        return tuple(f"{head}/{each}" for each in last.split("+"))

    @property
    def words(self) -> str:
        """What a person is told is being done."""
        kind, network, *rest = self.parts
        verbs = {
            "predict": "answers",
            "explain": "explained by",
            "metric": "judged:",
            "mean": "mean map by",
            "confusion": "what is confused",
            "boundary": "decision boundary",
            "agreement": "agreement of methods",
        }
        more = [each.replace("+", ", ") for each in rest if not each.isdigit()]
        return " ".join([f"{network}:", verbs[kind], *more])


def first(setup: Setup) -> list[Job]:
    """Return what everything else builds on: the answers, and the explanations that are judged."""
    found = [Job(f"predict/{network}", 0.5) for network in setup.networks]
    return found + [Job(f"explain/{network}/{name}") for name in setup.everyone for network in setup.networks]


def then(setup: Setup, store: Store, pictures: int, masked: bool) -> list[Job]:
    """Return the rest, in an order that no clock has a say in; the methods that were refused are left out."""
    found: list[Job] = []
    for network in setup.networks:
        found += [Job(f"confusion/{network}", 5.0), Job(f"agreement/{network}", 5.0)]
        found += [
            Job(f"boundary/{network}/{number}", 4.0)
            for number in range(-(-min(setup.budgets.boundary, pictures) // SLICE))
        ]
        for name in setup.everyone:
            found += _of_method(setup, store, network, name, pictures, masked)
    return found


def _of_method(
    setup: Setup, store: Store, network: str, name: str, pictures: int, masked: bool
) -> Iterator[Job]:
    explained = store.read(f"explain/{network}/{name}")
    if explained.refused or explained.failed:
        return
    budgets, seconds = setup.budgets, float(explained.told["seconds"])
    records, grouped = registered(), together(setup.metrics)
    for metric in setup.metrics:
        needs = records[metric].needs
        if ("mask" in needs and not masked) or metric in grouped:
            continue
        if {"method", "weights"} & {*needs}:
            weight = 5 * seconds * budgets.again
        else:
            weight = (0.002 if records[metric].family == "faithfulness" else 0.0001) * budgets.metrics
        yield Job(f"metric/{network}/{name}/{metric}", weight)
    if grouped:
        yield Job(f"metric/{network}/{name}/{'+'.join(grouped)}", 10 * seconds * budgets.again)
    if name == NAME:
        return
    whole = setup.mean_of(name, float(explained.told["evaluations"]))
    for number in range(-(-min(whole, pictures) // SLICE)):
        count = min(SLICE, min(whole, pictures) - number * SLICE)
        yield Job(f"mean/{network}/{name}/{number}", seconds * count)


def rows_of(number: int, most: int) -> range:
    """Return the pictures of a slice."""
    return range(number * SLICE, min((number + 1) * SLICE, most))
