"""The global random generators that a model may draw from: seeded while it is explained, and put back.

With one thread, the generators are seeded for the whole session and put back after it. With several, other threads
must neither lose their numbers nor take ours: then only the model's own runs have seeded streams, under a lock, and
once it is known that a model draws nothing its runs need none. (While a model that does draw is running, what
another thread draws from the global generators comes from its stream.)
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from operator import and_
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_running = threading.RLock()


@dataclass(frozen=True)
class Source:
    """One kind of global generator: how to read its state (comparable with ==), seed it and put a state back."""

    state: Callable[[], Any]
    seed: Callable[[int], None]
    put_back: Callable[[Any], None]


class Streams:
    """One session's own streams of random numbers, which stand in for the global ones."""

    def __init__(self, seed: int, sources: Sequence[Source], watched: Sequence[Source]) -> None:
        self._seed, self._sources, self._watched = int(seed), sources, watched
        self._alone = threading.active_count() == 1
        # Whether anything was drawn, and whether from what is watched: the latter alone can be told without a lock.
        self._drawn = self._seen = False
        self._start: list[Any] = []
        self._own: list[Any] = []

    @property
    def drawn(self) -> bool:
        """Whether random numbers were drawn from the watched generators since the session began."""
        if self._alone and not self._seen:
            self._seen = _states(self._watched) != self._start
        return self._seen

    @contextmanager
    def opened(self) -> Generator[Streams]:
        """Hold the streams for one session."""
        if not self._alone:
            yield self
            return
        theirs = _states(self._sources)
        try:
            self._sow()
            self._start = _states(self._watched)
            yield self
        finally:
            _put_back(self._sources, theirs)

    def run(self, work: Callable[[], T]) -> T:
        """Return what the model's run gives, when it draws from these streams."""
        if self._alone:
            return work()
        if self._drawn or not self._own or once.get():
            return self._swapped(work)
        before = _states(self._watched)
        result = work()
        if _states(self._watched) == before:
            return result
        # The model draws now, though not at first; or it was another thread, whose numbers are its own.
        again = self._swapped(work)
        if self._drawn:
            _put_back(self._watched, before)
        return again

    def _swapped(self, work: Callable[[], T]) -> T:
        with _running:
            theirs = _states(self._sources)
            try:
                if self._own:
                    _put_back(self._sources, self._own)
                else:
                    self._sow()
                    self._own = _states(self._sources)
                return work()
            finally:
                ended = _states(self._sources)
                moved = [one != two for one, two in zip(ended, self._own, strict=True)]
                watched = [source in self._watched for source in self._sources]
                self._drawn = self._drawn or any(moved)
                self._seen = self._seen or any(map(and_, moved, watched))
                self._own = ended
                _put_back(self._sources, theirs)

    def _sow(self) -> None:
        for source in self._sources:
            source.seed(self._seed)


def _states(sources: Sequence[Source]) -> list[Any]:
    return [source.state() for source in sources]


def _put_back(sources: Sequence[Source], states: list[Any]) -> None:
    for source, state in zip(sources, states, strict=True):
        source.put_back(state)


def _numpy_state() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    name, key, *rest = state
    # As bytes, so that two states can be compared.
    return (name, key.tobytes(), *rest)


def _put_numpy_back(state: tuple[Any, ...]) -> None:
    name, key, *rest = state
    np.random.set_state((name, np.frombuffer(key, dtype=np.uint32), *rest))


NUMPY = Source(_numpy_state, lambda seed: np.random.seed(seed % 2**32), _put_numpy_back)
PYTHON = Source(random.getstate, random.seed, random.setstate)

streams_in_use: ContextVar[Streams | None] = ContextVar("streams_in_use", default=None)
once: ContextVar[bool] = ContextVar("once", default=False)
"""Whether a run must not be repeated, because what it does is being recorded."""


@contextmanager
def numpy_and_python(seed: int) -> Generator[Streams]:
    """Hold streams for a model that draws from NumPy's and Python's global generators alone."""
    sources = (NUMPY, PYTHON)
    with Streams(seed, sources, sources).opened() as streams:
        yield streams
