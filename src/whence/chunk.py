"""Chunks of rows that find their own best size, and halve when memory runs out."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from whence.backends import Backend
from whence.errors import WorkFailed

START = 8
LARGEST = 4096
# A doubled chunk must be this much faster per row to be kept: below it the larger memory buys nothing.
WORTH = 1.05

_remembered: weakref.WeakKeyDictionary[Any, dict[Hashable, Chunks]] = weakref.WeakKeyDictionary()


@dataclass
class Chunks:
    """The search for one model and shape: double while rows per second rise, then stay.

    `fixed` is a user's own size (then nothing is searched). `tried` maps a size to its best seconds per row.
    """

    fixed: int | None = None
    size: int = START
    settled: bool = False
    ceiling: int = LARGEST
    tried: dict[int, float] = field(default_factory=dict[int, float])

    def run(self, backend: Backend, total: int, work: Callable[[int, int], Any]) -> None:
        """Call `work(start, stop)` until all rows are done; it must write its results last, to allow a retry.

        Raises:
            WorkFailed: a single row does not fit into memory.
        """
        start = 0
        if self.fixed is not None:
            self.size, self.settled = min(self.fixed, self.ceiling), True
        while start < total:
            stop = min(start + self.size, total)
            began = time.perf_counter()
            try:
                last = work(start, stop)
            except Exception as problem:
                if not backend.is_out_of_memory(problem):
                    raise
                self._halve(stop - start, problem)
                continue
            # Another thread may explain the same model, and learn at the same time: what it changes is read once.
            size = self.size
            if not self.settled and stop - start == size:
                backend.synchronize(last)
                self._learn(size, time.perf_counter() - began)
            start = stop

    def _learn(self, size: int, seconds: float) -> None:
        first = size not in self.tried
        per_row = seconds / size
        self.tried[size] = best = min(per_row, self.tried.get(size, per_row))
        if first:
            # The first call of a size pays for allocations that later ones reuse: judge by the second.
            return
        smaller = self.tried.get(size // 2)
        if smaller is not None and best * WORTH > smaller:
            self.size, self.settled = size // 2, True
        elif size * 2 > self.ceiling:
            self.settled = True
        else:
            self.size = size * 2

    def _halve(self, rows: int, problem: BaseException) -> None:
        if rows <= 1:
            raise WorkFailed(
                "a single example does not fit into memory; use a smaller input or model"
            ) from problem
        self.size = self.ceiling = max(1, rows // 2)
        self.settled = True


def chunks_for(model: Any, key: Hashable, fixed: int | None) -> Chunks:
    """Return the search for a model and shape, remembered as long as the model lives."""
    if fixed is not None:
        return Chunks(fixed=fixed)
    try:
        return _remembered.setdefault(model, {}).setdefault(key, Chunks())
    except TypeError:
        # What cannot be weakly referenced (a built-in function) is searched anew each time.
        return Chunks()
