"""What came of a comparison: the parts put together as tables, rows and maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from whence import registry
from whence.metrics.metric import Record, registered
from whence.study.comparison import jobs, means
from whence.study.comparison.boundaries import FOUND
from whence.study.comparison.setup import Setup
from whence.study.comparison.store import Part, Store
from whence.study.comparison.subject import Pictures

COSTS: Final = ("evaluations", "milliseconds")
"""What a method costs each picture; the clock's part alone is not the same when a seed is run again."""


@dataclass(frozen=True)
class Row:
    """One number of the study: what was measured, its mean over pictures, its standard error, and their number."""

    network: str
    method: str
    measure: str
    value: float
    standard_error: float
    count: int
    better: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """A finished study."""

    setup: Setup
    pictures: Pictures
    store: Store

    # ---- which -------------------------------------------------------------------------------------------------

    def explained(self, network: str, method: str) -> Part:
        """Return what a method gave for the pictures that are judged."""
        return self.store.read(f"explain/{network}/{method}")

    def methods(self, network: str) -> list[str]:
        """Return the methods that apply to a network, in the registry's order; the control is last."""
        found = [name for name in self.setup.everyone if not self.reason(network, name)]
        order = {name: place for place, name in enumerate(registry.methods())}
        return sorted(found, key=lambda name: order.get(name, len(order)))

    def reason(self, network: str, method: str) -> str:
        """Return why a method does not apply to a network; empty where it does."""
        part = self.explained(network, method)
        return part.refused or part.failed

    def left_out(self) -> list[tuple[str, str, str]]:
        """Return what does not apply or failed: network, method (and metric), reason."""
        found: list[tuple[str, str, str]] = []
        for network in self.setup.networks:
            for name in self.setup.everyone:
                reason = self.reason(network, name)
                if reason:
                    found.append((network, name, reason))
        for job in self._metric_jobs:
            part = self.store.read(job.key)
            if part.refused or part.failed:
                found.append((job.parts[1], f"{job.parts[2]}, {job.parts[3]}", part.refused or part.failed))
        return found

    def failures(self) -> list[str]:
        """Return what went wrong, rather than not applying."""
        every = [jobs.Job(key) for job in (*jobs.first(self.setup), *self._rest) for key in job.keys]
        return [f"{job.words}: {part.failed}" for job in every if (part := self.store.read(job.key)).failed]

    @cached_property
    def _rest(self) -> list[jobs.Job]:
        return jobs.then(self.setup, self.store, len(self.pictures.labels), self.pictures.masks is not None)

    @cached_property
    def _metric_jobs(self) -> list[jobs.Job]:
        every = [job for job in self._rest if job.parts[0] == "metric"]
        return [jobs.Job(key) for job in every for key in job.keys]

    @cached_property
    def measured(self) -> list[Record]:
        """The metrics that were asked and apply, in the order of the study."""
        there = {job.parts[3] for job in self._metric_jobs}
        return [record for name, record in registered().items() if name in there]

    # ---- numbers -----------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> list[Row]:
        """Every number of the study."""
        return list(self._rows())

    def cell(self, network: str, method: str, measure: str) -> Row | None:
        """Return one number, where it was measured and is defined."""
        return self._table.get((network, method, measure))

    @cached_property
    def _table(self) -> dict[tuple[str, str, str], Row]:
        return {(row.network, row.method, row.measure): row for row in self.rows}

    def values(self, network: str, method: str, metric: str) -> np.ndarray | None:
        """Return a metric's value for each picture, where it was measured."""
        return self._arrays(f"metric/{network}/{method}/{metric}").get("values")

    def draws(self, network: str, method: str, metric: str) -> np.ndarray | None:
        """Return a metric's mean over the pictures in each draw that they share, where there are several."""
        return self._arrays(f"metric/{network}/{method}/{metric}").get("draws")

    def _arrays(self, key: str) -> Mapping[str, np.ndarray]:
        if key not in self._kept:
            self._kept[key] = self.store.read(key).arrays if self.store.path(key).is_file() else {}
        return self._kept[key]

    @cached_property
    def _kept(self) -> dict[str, Mapping[str, np.ndarray]]:
        return {}

    def _rows(self) -> Iterator[Row]:
        for network in self.setup.networks:
            yield self._accuracy(network)
            for name in self.methods(network):
                told = self.explained(network, name).told
                count = len(self.explained(network, name).arrays["values"])
                nothing = float("nan")
                yield Row(network, name, "evaluations", float(told["evaluations"]), nothing, count, "lower")
                yield Row(
                    network, name, "milliseconds", 1000 * float(told["seconds"]), nothing, count, "lower"
                )
            yield from self._agreements(network)
            yield from self._distances(network)
        for job in self._metric_jobs:
            part = self.store.read(job.key)
            if part.refused or part.failed:
                continue
            _, network, name, metric = job.parts
            told = part.told
            mean, error = float(told["mean"]), float(told["error"])
            yield Row(network, name, metric, mean, error, int(told["count"]), told["better"] or "")

    def _accuracy(self, network: str) -> Row:
        right = self.predicted(network) == self.pictures.labels
        share = float(right.mean())
        return Row(
            network,
            "",
            "accuracy",
            share,
            float(np.sqrt(share * (1 - share) / len(right))),
            len(right),
            "higher",
        )

    def _agreements(self, network: str) -> Iterator[Row]:
        part = self.store.read(f"agreement/{network}")
        names = part.told.get("methods", [])
        for one, first in enumerate(names):
            for two, second in enumerate(names[:one]):
                value, error = (float(part.arrays[each][one, two]) for each in ("rank", "error"))
                count = len(self.explained(network, first).arrays["values"])
                yield Row(network, first, f"rank correlation with {second}", value, error, count, "")

    def _distances(self, network: str) -> Iterator[Row]:
        found = self.boundary(network)
        if found is not None and len(found["distance"]):
            away = found["distance"]
            error = float(away.std(ddof=1) / np.sqrt(len(away))) if len(away) > 1 else float("nan")
            yield Row(
                network, "", "distance to the decision boundary", float(away.mean()), error, len(away), ""
            )

    # ---- maps --------------------------------------------------------------------------------------------------

    def outputs(self, network: str) -> np.ndarray:
        """Return the network's outputs for all pictures."""
        return self.store.read(f"predict/{network}").arrays["outputs"]

    def predicted(self, network: str) -> np.ndarray:
        """Return the network's class for every picture."""
        return self.outputs(network).argmax(1)

    def labels(self, network: str) -> list[str]:
        """Return the classes' names, or their numbers."""
        told = self.store.read(f"predict/{network}").told.get("labels") or []
        count = self.outputs(network).shape[1]
        return [str(each) for each in told] if len(told) == count else [str(each) for each in range(count)]

    def mean_maps(self, network: str, method: str) -> dict[str, np.ndarray] | None:
        """Return a method's mean maps of each class over the data set, with counts and standard errors."""
        keys = [job.key for job in self._rest if job.parts[:3] == ("mean", network, method)]
        parts = [self.store.read(key) for key in keys]
        parts = [part for part in parts if not part.refused and not part.failed]
        return means.together(parts) if parts else None

    def confusion(self, network: str) -> Part | None:
        """Return what is confused."""
        part = self.store.read(f"confusion/{network}")
        return None if part.refused or part.failed else part

    def boundary(self, network: str) -> dict[str, np.ndarray] | None:
        """Return what was found along the decision boundary, over all slices."""
        keys = [job.key for job in self._rest if job.parts[:2] == ("boundary", network)]
        parts = [part for key in keys if not (part := self.store.read(key)).refused and not part.failed]
        if not parts:
            return None
        return {
            name: np.concatenate([part.arrays[name] for part in parts]) for name in (*FOUND, "top", "rows")
        }

    def agreement(self, network: str) -> tuple[list[str], np.ndarray]:
        """Return the methods and the matrix of their mean rank correlations."""
        part = self.store.read(f"agreement/{network}")
        return list(part.told.get("methods", [])), part.arrays.get("rank", np.zeros((0, 0)))

    # ---- for programs ------------------------------------------------------------------------------------------

    def payload(self) -> dict[str, Any]:
        """Return the study as JSON's types."""
        return {
            "settings": self.setup.record(),
            "rows": [asdict(row) for row in self.rows],
            "left_out": [
                dict(zip(("network", "method", "reason"), each, strict=True)) for each in self.left_out()
            ],
            "failures": self.failures(),
        }
