"""One framework, measured in this process: imported, and every method explained cold and warm."""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from whence import registry, support
from whence.backends import twins
from whence.errors import WhenceError
from whence.preprocess import Preprocess
from whence.study.frameworks import measure
from whence.study.frameworks.results import Cell, Ran
from whence.study.frameworks.setup import Framework, Setup, fields

SETTLING: Final = 2
"""Explanations after the first that are not timed: in these the fastest number of rows is still being found."""


@dataclass
class Trial:
    """A framework on one network: `pictures` [n, 8, 8] in [0, 1], the last four of them background alone."""

    framework: Framework
    network: str
    setup: Setup
    pictures: np.ndarray
    background: np.ndarray
    labels: np.ndarray
    began: float

    def run(self, tell: Callable[[str], None]) -> tuple[Ran, dict[str, np.ndarray]]:
        """Measure every method, and return the maps [n, 8, 8] of those that work.

        Raises:
            ModuleNotFoundError: the framework is not installed.
        """
        bare, before = measure.peak(), time.perf_counter()
        for package in self.framework.packages:
            importlib.import_module(package)
        imported_in, imported = time.perf_counter() - before, measure.peak()
        count = measure.programs(self.framework.compiles)
        cells: dict[str, Cell] = {}
        maps: dict[str, np.ndarray] = {}
        first: float | None = None
        for name in self.setup.methods_of(self.network):
            tell(name)
            cells[name], found = self._measured(name, count)
            if found is not None:
                maps[name] = found
                first = time.time() - self.began if first is None else first
        most = measure.peak()
        ran = Ran(
            self.framework.name, self.network, versions(self.framework), imported_in, first,
            imported - bare, most - imported, cells,
        )  # fmt: skip
        return ran, maps

    def _measured(self, name: str, count: Callable[[], int | None]) -> tuple[Cell, np.ndarray | None]:
        """Explain by one method, with a model that is new and nothing compiled."""
        measure.forget(self.framework.compiles)
        gc.collect()
        twin = twins.build(self.network, self.framework.spelling, self.setup.dtype)
        before = count()
        try:
            cold, result = self._explained(name, twin)
            for _ in range(SETTLING):
                self._explained(name, twin)
        except WhenceError as problem:
            return Cell(reason=short(problem)), None
        except Exception as problem:
            return Cell(reason=f"failed with {type(problem).__name__}: {short(problem)}"), None
        warm = [seconds for seconds, _ in self._again(name, twin)]
        after = count()
        spent = None if result.evaluations is None else float(np.mean(result.numpy_evaluations))
        programs = None if before is None or after is None else after - before
        return Cell(cold, warm, spent, programs), result.map

    def _again(self, name: str, twin: twins.Twin) -> Iterator[tuple[float, Answer]]:
        until = time.perf_counter() + self.setup.seconds
        for number in range(self.setup.repeats):
            if number and time.perf_counter() > until:
                return
            yield self._explained(name, twin)

    def _explained(self, name: str, twin: twins.Twin) -> tuple[float, Answer]:
        import whence

        settings = fields(name, twin.layers, self.network, self.background, self.setup.quick)
        layout = "NHWC" if twin.channels_last else "NCHW"
        began = time.perf_counter()
        result = whence.explain(
            twin.model, self.pictures, name, target=self.labels, preprocess=Preprocess(layout=layout),
            seed=self.setup.seed, **settings,
        )  # fmt: skip
        # The map in NumPy is part of the work: a framework may still be computing when it returns an array.
        found = np.asarray(result.heatmap(), dtype=np.float64)
        return time.perf_counter() - began, Answer(found, result.evaluations)

    def supported(self, tell: Callable[[str], None]) -> dict[str, str] | None:
        """Try every registered method, and return why those that do not work do not; None for a quick look."""
        if self.setup.quick or self.network != self.setup.networks[0]:
            return None
        tell("all methods, tried")
        built = [twins.build(network, self.framework.spelling) for network in support.ORDER]
        tried = (support._tried(name, built) for name in registry.methods())
        return {each.method: each.reason for each in tried if not each.works}


@dataclass(frozen=True)
class Answer:
    """One explanation's map, and what it cost each example."""

    map: np.ndarray
    evaluations: Any

    @property
    def numpy_evaluations(self) -> np.ndarray:
        """The costs as NumPy has them."""
        return np.asarray(self.evaluations, dtype=np.float64)


def short(problem: BaseException) -> str:
    """Return the first clause of a message."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text.partition("; ")[0].partition(". ")[0].removesuffix(".")


def versions(framework: Framework) -> dict[str, str]:
    """Return the versions of a framework's packages."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for package in framework.packages or ("numpy",):
        # TensorFlow is installed under several names.
        for name in (package, f"{package}-cpu"):
            try:
                found[package] = version(name)
                break
            except PackageNotFoundError:
                continue
    return found
