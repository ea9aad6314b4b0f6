"""A control: explanations that know nothing. What a metric gives them is what any explanation has to beat."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from whence.attribution import to_numpy

NAME: Final = "random"
TITLE: Final = "Random (control)"


@dataclass(frozen=True)
class RandomExplanation:
    """Noise in the place of an explanation: normal numbers that depend on the seed and on each example's own numbers.

    It is a method as metrics take it: `method=RandomExplanation()`. The same input always gets the same noise, and the
    slightest other input another.
    """

    seed: int = 0
    slopes: ClassVar[bool] = False

    def __call__(self, model: Any, inputs: Any, target: Any = None) -> Any:
        """Return noise of the inputs' structure and shapes, float64."""
        if isinstance(inputs, Mapping):
            return {name: None if part is None else self._noise(part) for name, part in inputs.items()}
        if isinstance(inputs, tuple):
            return tuple(None if part is None else self._noise(part) for part in inputs)
        return self._noise(inputs)

    def _noise(self, part: Any) -> np.ndarray:
        array = to_numpy(part)
        found = np.empty(array.shape)
        for row, example in enumerate(array):
            key = zlib.crc32(np.ascontiguousarray(example).tobytes())
            sequence = np.random.SeedSequence(self.seed, spawn_key=(key,))
            found[row] = np.random.Generator(np.random.Philox(sequence)).standard_normal(example.shape)
        return found
