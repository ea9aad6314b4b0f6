"""What was measured: a cell for each method, network and framework, and what each framework costs by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import numpy as np

from whence.study.frameworks.setup import Setup


@dataclass(frozen=True)
class Cell:
    """One method on one network in one framework: seconds of the first explanation and of later ones, or why not."""

    cold: float | None = None
    warm: list[float] = field(default_factory=list[float])
    evaluations: float | None = None
    programs: int | None = None
    reason: str = ""

    @property
    def middle(self) -> float | None:
        """The median of the warm seconds."""
        return median(self.warm) if self.warm else None

    @property
    def spread(self) -> float | None:
        """Half of what lies between the quartiles of the warm seconds."""
        if len(self.warm) < 2:
            return None
        low, _, high = quantiles(self.warm, method="inclusive")
        return (high - low) / 2


@dataclass(frozen=True)
class Ran:
    """A framework on one network.

    Attributes:
        framework, network: their names.
        versions: of its packages.
        imported: the seconds that importing it took.
        first: the seconds from starting Python until the first map.
        loaded, worked: the memory in MB that importing it added, and that all methods together added to that.
        cells: what each method did.
        unsupported: of all registered methods, why those that do not work do not; None where they were not tried.
        problem: why it could not be measured at all.
        absent: the package that is not installed.
        remark: what else went wrong.
    """

    framework: str
    network: str
    versions: dict[str, str] = field(default_factory=dict[str, str])
    imported: float | None = None
    first: float | None = None
    loaded: float | None = None
    worked: float | None = None
    cells: dict[str, Cell] = field(default_factory=dict[str, Cell])
    unsupported: dict[str, str] | None = None
    problem: str = ""
    absent: str = ""
    remark: str = ""

    @classmethod
    def read(cls, record: dict[str, Any]) -> Ran:
        """Return what a worker wrote down."""
        every: dict[str, Any] = dict(record)
        every["cells"] = {name: Cell(**each) for name, each in record["cells"].items()}
        return cls(**every)


@dataclass(frozen=True)
class Agreement:
    """How near maps are to the reference's: the largest difference over the largest value, and the mean rank."""

    difference: float
    rank: float


@dataclass(frozen=True)
class Study:
    """All that was measured; `maps` [n, 8, 8] by network, framework and method were compared with `reference`'s."""

    setup: Setup
    runs: list[Ran]
    maps: dict[tuple[str, str, str], np.ndarray]
    pictures: np.ndarray
    labels: np.ndarray
    machine: dict[str, Any]
    reference: str | None
    agreements: dict[tuple[str, str, str], Agreement]

    def ran(self, network: str | None = None) -> list[Ran]:
        """Return the frameworks that could be measured, on one network or all."""
        return [
            each for each in self.runs
            if not each.problem and not each.absent and network in (None, each.network)
        ]  # fmt: skip

    def names(self) -> list[str]:
        """Return the frameworks that could be measured, in the order they were asked for."""
        return list(dict.fromkeys(each.framework for each in self.ran()))

    def of(self, framework: str) -> list[Ran]:
        """Return one framework's measured networks."""
        return [each for each in self.ran() if each.framework == framework]

    def cell(self, network: str, framework: str, method: str) -> Cell | None:
        """Return what a method did, where it was measured."""
        found = (each for each in self.ran(network) if each.framework == framework)
        return next((each.cells.get(method) for each in found), None)

    def left_out(self) -> dict[str, str]:
        """Return why each framework that could not be measured was not, by framework (and network)."""
        found: dict[str, str] = {}
        for each in self.runs:
            if each.absent or each.problem:
                found[each.framework] = each.absent or f"{each.problem} ({each.network})"
        return found

    def remarks(self) -> dict[str, str]:
        """Return what else went wrong in those that were measured, by framework."""
        return {each.framework: each.remark for each in self.ran() if each.remark}

    def methods(self, network: str) -> list[str]:
        """Return the methods that were asked of a network."""
        return list(self.setup.methods_of(network))

    def reasons(self) -> dict[str, dict[str, list[str]]]:
        """Return, for each framework, its reasons for what it did not do, with the methods that each stopped."""
        found: dict[str, dict[str, list[str]]] = {}
        for each in self.ran():
            for method, cell in each.cells.items():
                if cell.reason:
                    methods = found.setdefault(each.framework, {}).setdefault(cell.reason, [])
                    name = method if len(self.setup.networks) == 1 else f"{method} ({each.network})"
                    methods.append(name)
        return found
