"""The global random generators that a model may draw from: seeded while it is explained, and put back."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Guard:
    """Seeds generators, and puts their states back when the last of several threads is done."""

    def __init__(
        self, states: Callable[[], Any], seed: Callable[[int], None], put_back: Callable[[Any], None]
    ) -> None:
        self._states, self._seed, self._put_back = states, seed, put_back
        self._lock = threading.RLock()
        self._depth = 0
        self._before: Any = None

    @contextmanager
    def __call__(self, seed: int) -> Generator[None]:
        with self._lock:
            if self._depth == 0:
                self._before = self._states()
                self._seed(seed)
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._put_back(self._before)


def _seed(seed: int) -> None:
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _put_back(states: tuple[Any, Any]) -> None:
    np.random.set_state(states[0])
    random.setstate(states[1])


numpy_and_python = Guard(lambda: (np.random.get_state(), random.getstate()), _seed, _put_back)
