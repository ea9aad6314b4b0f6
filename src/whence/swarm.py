"""Dots beside each other: where the dots of one line stand so that none covers another, and their colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

# From low to high: neither the blue nor the red of shares, alike for the colour-blind, and dark enough on white.
VALUES = ("2b1055", "5a2a83", "2d6e8e", "21918c", "5ab55f", "d8b020")
GREY = (0.7, 0.7, 0.7)
# The diameter of a dot in points, where there is room for it, and the least.
LARGEST, SMALLEST = 5.5, 2.5
# Values beyond these percentiles have the colours of the ends: one extreme value does not pale all others.
ENDS = (5, 95)


@dataclass(frozen=True)
class Swarm:
    """A line's room: its limits in data, its length and its height in inches."""

    low: float
    high: float
    length: float
    height: float

    def level(self, values: Float[np.ndarray, "dots"], size: float) -> Int[np.ndarray, "dots"]:
        """Return how far above (below: negative) the line each dot stands, in dots: as near to it as there is room."""
        places = (values - self.low) / (self.high - self.low) * self.length * 72
        last: list[float] = []
        found = np.zeros(len(values), dtype=int)
        for dot in np.argsort(places, kind="stable"):
            place = float(places[dot])
            level = next((each for each, taken in enumerate(last) if taken <= place - size), len(last))
            last[level : level + 1] = [place]
            # 0, 1, -1, 2, -2 ...
            found[dot] = (level + 1) // 2 * (1 if level % 2 else -1)
        return found

    def size(self, lines: Sequence[Float[np.ndarray, "dots"]]) -> float:
        """Return the diameter, in points, of the largest dots with which no line grows higher than its room.

        Dots too small for their colour to be seen say nothing: those of a very full line lie closer instead.
        """
        for size in np.arange(LARGEST, SMALLEST, -0.5):
            most = max(int(np.abs(self.level(line, size)).max(initial=0)) for line in lines)
            if (2 * most + 1) * size <= self.height * 72 * 0.92:
                return float(size)
        return SMALLEST


def swarmed(values: Float[np.ndarray, "dots"], swarm: Swarm, size: float) -> Float[np.ndarray, "dots"]:
    """Return how far from the line each dot stands, in lines; dots of which there are too many lie closer."""
    levels = swarm.level(values, size)
    step = size / (swarm.height * 72)
    most = int(np.abs(levels).max(initial=0))
    return levels * min(step, 0.46 / max(most, 1))


def coloured(values: Sequence[Any]) -> tuple[Float[np.ndarray, "dots 3"], bool]:
    """Return the colour of each value, from low to high, and whether some are grey: text, or missing."""
    numbers = np.array([float(each) if isinstance(each, (bool, int, float)) else np.nan for each in values])
    known = np.isfinite(numbers)
    found = np.tile(np.array(GREY), (len(numbers), 1))
    if known.any():
        low, high = np.percentile(numbers[known], ENDS)
        if low == high:
            low, high = numbers[known].min(), numbers[known].max()
        share = (numbers[known] - low) / (high - low) if high > low else np.full(known.sum(), 0.5)
        found[known] = ramp(np.clip(share, 0, 1))
    return found, bool((~known).any())


def ramp(shares: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 3"]:
    """Return the colours of values from 0 (low) to 1 (high)."""
    anchors = np.array([tuple(bytes.fromhex(code)) for code in VALUES], dtype=np.float64) / 255
    levels = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(shares, levels, anchors[:, channel]) for channel in range(3)], 1)
