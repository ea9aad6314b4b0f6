"""Chunks of rows that find their own best size, and halve when memory runs out."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from whence.backends import Backend
from whence.errors import WorkFailed

START = 8
LARGEST = 4096
# More rows must make a row this much cheaper to be worth their memory.
WORTH = 1.03
# A size is judged by the fastest of so many trials: the first pays for allocations that later ones reuse, and
# other processes disturb some. After every RENEWED chunks there is one more, in case all were disturbed.
TRIALS = 3
RENEWED = 64
# In a longer chunk (seconds) the fixed costs have vanished: more rows would cost memory and gain little, unless the
# last doubling made a row this much cheaper.
BRIEF, LONG = 0.005, 0.05
STEEP = 1.2

# How many rows a compiled model is given: padded to the next of these, so that few sizes are compiled. The last is
# taken where a row is cheap.
SIZES = (16, 48, 512)
SIZES_LARGE = (1, 4, 16)

_remembered: weakref.WeakKeyDictionary[Any, dict[Hashable, Chunks]] = weakref.WeakKeyDictionary()


@dataclass
class Search:
    """The best size for one kind of work, found uphill by doubling and halving while the rows are worked off.

    `start` is the size tried first, `sizes` the only ones where a model is compiled for each; `fastest` maps a size to
    the seconds per row of its best trial, `trials` to how many there were; `ceiling` is the most rows that fit into
    memory, `chunks` how many were worked off without a trial.
    """

    ceiling: int = LARGEST
    start: int = START
    sizes: tuple[int, ...] = ()
    fastest: dict[int, float] = field(default_factory=dict[int, float])
    trials: Counter[int] = field(default_factory=Counter[int])
    chunks: int = 0

    @property
    def best(self) -> int:
        """The smallest size that is not clearly slower than the fastest."""
        # A list, made in one step: another thread may learn something about the same model meanwhile.
        known = {size: seconds for size, seconds in list(self.fastest.items()) if size <= self.ceiling}
        least = min(known.values(), default=0.0) * WORTH
        return min(
            (size for size, each in known.items() if each <= least), default=min(self.start, self.ceiling)
        )

    @property
    def judged(self) -> bool:
        """Whether the best size has had all its trials."""
        return self.trials[self.best] >= TRIALS

    @property
    def pace(self) -> float:
        """The seconds per row of the best size."""
        return self.fastest.get(self.best, float("inf"))

    def next(self, left: int) -> tuple[int, int | None]:
        """Return how many of the rows that are left to take, and the size that this tries, if any."""
        if self.sizes:
            return self._next_compiled(left)
        best = self.best
        seconds, half = self.fastest.get(best, float("inf")), self.fastest.get(best // 2, 0.0)
        if seconds * best <= BRIEF:
            sizes = (2 * best, best, best // 2)
        else:
            # More memory only on firm ground: when this size and its half have had all their trials.
            firm = half >= STEEP * seconds and seconds * best <= LONG
            sizes = (best, best // 2, 2 * best) if firm else (best, best // 2)
        for size in sizes:
            # A chunk a little short still tells how fast its size is; the last of the rows would not.
            tells = 1 <= size <= self.ceiling and 3 * size <= 4 * left
            if tells and self.trials[size] < TRIALS + self.chunks // RENEWED:
                return min(size, left), size
        self.chunks += 1
        # Chunks of equal size rather than a small one at the end.
        return -(-left // -(-left // best)), None

    def _next_compiled(self, left: int) -> tuple[int, int | None]:
        """Return a size that is compiled, or what is left: the largest only for many rows that are cheap."""
        fitting = [size for size in self.sizes if size <= self.ceiling] or [self.ceiling]
        usual, largest = fitting[min(1, len(fitting) - 1)], fitting[-1]
        # The first trial is that of the compiler.
        cheap = self.trials[usual] > 1 and self.fastest[usual] * usual <= BRIEF
        if largest > usual and cheap and left >= largest:
            return largest, None
        # Timing a chunk means waiting for it: a size that is known runs ahead.
        tried = usual if left >= usual and self.trials[usual] < TRIALS else None
        return min(usual, left), tried

    def learn(self, size: int, seconds_per_row: float) -> None:
        """Take in one trial of a size."""
        self.trials[size] += 1
        self.fastest[size] = min(seconds_per_row, self.fastest.get(size, seconds_per_row))


@dataclass
class Chunks:
    """The searches for one model and shape, one for each kind of work; `fixed` is a user's own size instead.

    `steady` remembers that the model was seen to answer the same question twice alike. With `layouts`, pictures may
    also be tried with their channels last in memory, inside `any_layout`; `channels_last` says how the chunk at work is
    to be laid out, None as it came; `rigid` remembers that the model failed so. `splits` is the memory of
    `whence.fusion`. `sizes` are the only numbers of rows that a compiled model is given.
    """

    fixed: int | None = None
    layouts: bool = False
    sizes: tuple[int, ...] = ()
    steady: bool = False
    rigid: bool = False
    splits: dict[Any, Any] = field(default_factory=dict[Any, Any])
    searches: dict[Any, Search] = field(default_factory=dict[Any, Search])
    # Several threads may explain the same model, each with its own layout.
    _mine: threading.local = field(default_factory=threading.local)

    def holds(self, rows: int) -> bool:
        """Tell whether so many rows may be run at once: no more than a chunk, or the next larger that may be tried."""
        if self.fixed is not None:
            return rows <= self.fixed
        # A list, made in one step: another thread may begin another search meanwhile.
        known = [each for each in list(self.searches.values()) if each.fastest]
        return any(rows <= min(2 * each.best, each.ceiling) for each in known)

    def room(self, rows: int) -> int:
        """Return to how many rows a compiled model's are padded."""
        ceiling = min((each.ceiling for each in list(self.searches.values())), default=LARGEST)
        return min((size for size in self.sizes if rows <= size <= ceiling), default=rows)

    @contextmanager
    def any_layout(self, small: bool = False) -> Generator[None]:
        """Let the layout be what is fastest: for work whose accuracy is stated, and not for a fixed rule.

        Another layout rounds otherwise, and a ReLU that switches the other way at one of a few nodes is more than
        float noise. With `small` it is tried for small pictures too: where many forward passes follow.
        """
        before, self._mine.free = self._is_free, self.layouts or (small and self._may_vary)
        try:
            yield
        finally:
            self._mine.free, self._mine.channels_last = before, None

    @property
    def _may_vary(self) -> bool:
        """Whether the size, and so the rounding, is found by the clock anyway."""
        return self.fixed is None and not self.sizes

    @property
    def _is_free(self) -> bool:
        return getattr(self._mine, "free", False)

    @property
    def channels_last(self) -> bool | None:
        """How this thread's chunk is to be laid out; None: as it came."""
        return getattr(self._mine, "channels_last", None)

    def run(
        self, backend: Backend, total: int, work: Callable[[int, int], Any], kind: Hashable = None,
        begin: int = START,
    ) -> None:  # fmt: skip
        """Call `work(start, stop)` until all rows are done; it must write its results last, to allow a retry.

        A kind of work is told by its code, and by `kind`: a gradient's best size says nothing about a forward pass's.
        `begin` is the size tried first.

        Raises:
            WorkFailed: a single row does not fit into memory.
        """
        clock = getattr(backend, "clock", time.perf_counter)
        start = 0
        while start < total:
            search = self._search((getattr(work, "__code__", None), kind), begin)
            rows, tried = search.next(total - start) if self.fixed is None else (self.fixed, None)
            stop = min(start + min(rows, search.ceiling), total)
            began = clock()
            try:
                last = work(start, stop)
            except Exception as problem:
                if not backend.is_out_of_memory(problem):
                    if not self.channels_last:
                        raise
                    # A model may need its own layout (view() of what a convolution gave): what else is wrong returns.
                    self.rigid = True
                    continue
                if stop - start <= 1:
                    raise WorkFailed(
                        "a single example does not fit into memory; use a smaller input or model"
                    ) from problem
                search.ceiling = (stop - start) // 2
                continue
            if tried is not None:
                backend.synchronize(last)
                search.learn(tried, (clock() - began) / (stop - start))
            start = stop

    def _search(self, kind: Any, begin: int = START) -> Search:
        """Return the search of the layout to use next: the one not judged yet, or else the faster."""
        plain = self.searches.setdefault((kind, False), Search(start=begin, sizes=self.sizes))
        if not self._is_free or self.rigid:
            self._mine.channels_last = None
            return plain
        last = self.searches.setdefault((kind, True), Search(ceiling=plain.ceiling))
        if plain.judged and not last.fastest:
            last.start = plain.best
        chosen = plain.judged and (not last.judged or last.pace * WORTH < plain.pace)
        self._mine.channels_last = chosen
        return last if chosen else plain


def chunks_for(
    model: Any, key: Hashable, fixed: int | None, layouts: bool = False, sizes: tuple[int, ...] = ()
) -> Chunks:
    """Return the searches for a model and shape, remembered as long as the model lives."""
    if fixed is not None:
        return Chunks(fixed=fixed, sizes=(fixed,) if sizes else ())
    fresh = Chunks(layouts=layouts and not sizes, sizes=sizes)
    try:
        return _remembered.setdefault(model, {}).setdefault(key, fresh)
    except TypeError:
        # What cannot be weakly referenced (a built-in function) is searched anew each time.
        return fresh
