"""Shapes on pictures of 8 × 8 pixels, drawn in cells of 2 × 2, with distractors that go with the signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float

CELLS: Final = 4
"""Cells a side: pictures are constant on each, so that nothing is lost by switching whole cells on and off."""
ROWS: Final = 6
Shape = tuple[tuple[int, int], ...]

TEE: Final[Shape] = ((0, 0), (0, 1), (0, 2), (1, 1))
BAR: Final[Shape] = ((3, 0), (3, 1))
BLOCK: Final[Shape] = ((2, 2), (2, 3), (3, 2), (3, 3))


def pixels(shape: Shape) -> Float[np.ndarray, "8 8"]:
    """Return 1 on the shape's pixels and 0 elsewhere."""
    cells = np.zeros((CELLS, CELLS))
    for row, column in shape:
        cells[row, column] = 1.0
    return large(cells)


def large(cells: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 8 8"]:
    """Return cells as pixels."""
    return cells.repeat(2, axis=-2).repeat(2, axis=-1)


def scene(
    seed: int, signals: Mapping[Shape, float], distractor: Shape, rows: int = ROWS
) -> Float[np.ndarray, "n 1 8 8"]:
    """Return pictures of shapes and noise; the distractor is as bright as the first shape, up to a little noise.

    Args:
        seed: of the brightness and the noise.
        signals: the shapes, with their brightness.
        distractor: the shape that goes with the first.
        rows: how many pictures.
    """
    random = np.random.RandomState(seed)
    found = large(random.uniform(-0.05, 0.05, size=(rows, CELLS, CELLS)))
    strength = random.uniform(0.5, 1.0, size=(rows, len(signals)))
    for place, (shape, bright) in enumerate(signals.items()):
        found += bright * strength[:, place, None, None] * pixels(shape)
    first = next(iter(signals.values()))
    beside = first * strength[:, 0] + random.uniform(-0.02, 0.02, size=rows)
    return (found + beside[:, None, None] * pixels(distractor))[:, None]
