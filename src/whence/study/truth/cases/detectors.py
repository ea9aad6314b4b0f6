"""Hand-set convolution detectors: what fires them is known, and other shapes leave them cold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from whence.study.truth.case import Case, agreed, relu

CROSS: Final = np.array([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])
SALTIRE: Final = np.array([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
DOT: Final = np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
ROW: Final = np.array([[0.0, 0, 0], [1, 1, 1], [0, 0, 0]])
COLUMN: Final = ROW.T.copy()
EDGE: Final = np.array([[-1.0, 1, 0], [-1, 1, 0], [-1, 1, 0]])
# What a detector of each weighs: its own pixels for it, those of the other shape against it.
CROSSES: Final = CROSS - (SALTIRE - DOT)
SALTIRES: Final = SALTIRE - (CROSS - DOT)
NEEDED: Final = 4.5
"""More than any shape but a detector's own gives it: its own gives 5."""
# Where shapes are put, the centre of each, so that no two windows meet.
PLACES: Final = (((1, 1), (5, 5)), ((1, 5), (5, 2)), ((6, 6), (2, 1)), ((5, 1), (2, 5)))
DOTS: Final = ((2, 6), (2, 2), (2, 5), (6, 5))
Place = tuple[int, int]


def cases() -> Iterator[Case]:
    """Yield the cases of detectors."""
    yield _one("detector_mean", "mean")
    yield _one("detector_max", "max")
    yield _two()
    yield _against()
    yield _several()
    yield _edge()
    yield _deep()


def drawn(shapes: Sequence[tuple[np.ndarray, Place]]) -> Float[np.ndarray, "8 8"]:
    """Return a picture of shapes of 3 × 3 pixels, each around its place."""
    picture = np.zeros((8, 8))
    for shape, (row, column) in shapes:
        picture[row - 1 : row + 2, column - 1 : column + 2] += shape
    return picture


def _masks(places: Sequence[Sequence[Place]]) -> Bool[np.ndarray, "n 1 8 8"]:
    """Return the windows around the places of every example."""
    return np.stack([drawn([(np.ones((3, 3)), each) for each in row]) > 0 for row in places])[:, None]


def response(pictures: np.ndarray, kernel: np.ndarray, threshold: float) -> Float[np.ndarray, "n 8 8"]:
    """Return how strongly a detector fires at every place: relu(kernel ∗ picture − threshold)."""
    padded = np.pad(pictures[:, 0], ((0, 0), (1, 1), (1, 1)))
    found = np.full(pictures[:, 0].shape, -threshold)
    for row in range(3):
        for column in range(3):
            found += kernel[row, column] * padded[:, row : row + 8, column : column + 8]
    return relu(found)


def _network(
    kernels: Sequence[np.ndarray], threshold: float, weights: Any, pool: str
) -> tuple[str, Mapping[str, Any]]:
    stacked = np.stack(kernels)[:, None]
    arguments = {
        "kernels": [stacked],
        "thresholds": [np.full(len(kernels), threshold)],
        "weights": np.array(weights, dtype=np.float64),
        "pool": pool,
    }
    return "detector", arguments


def _fires(kernel: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: 64 * response(x, kernel, NEEDED).mean((1, 2))


def _one(name: str, pool: str) -> Case:
    x = np.stack([drawn([(CROSS, one), (SALTIRE, other)]) for one, other in PLACES])[:, None]

    def largest(x: np.ndarray) -> np.ndarray:
        return response(x, CROSSES, NEEDED).max((1, 2))

    mean = pool == "mean"
    words, function, scale = ("mean", _fires(CROSSES), 64.0) if mean else ("largest", largest, 1.0)
    what = "64 · the mean" if mean else "the largest"
    return Case(
        name, f"A cross, by the {words}", "detectors",
        f"{what} over all places of relu(pixels of a cross − those at its corners − 4½); beside it a saltire",
        "all within the cross's window: the saltire leaves the detector cold", function,
        _network([CROSSES], NEEDED, [[scale]], pool), x, mask=_masks([[one] for one, _ in PLACES]),
    )  # fmt: skip


def _two() -> Case:
    x = np.stack([drawn([(CROSS, one), (SALTIRE, other)]) for one, other in PLACES])[:, None]
    return Case(
        "detector_class", "Two classes in one picture", "detectors",
        "class 0: 64 · the mean firing for a cross; class 1: for a saltire; class 0 is explained",
        "all within the cross's window: the saltire speaks for the other class alone", _fires(CROSSES),
        _network([CROSSES, SALTIRES], NEEDED, [[64, 0], [0, 64]], "mean"), x, mask=_masks([[one] for one, _ in PLACES]),
    )  # fmt: skip


def _against() -> Case:
    scenes = zip(PLACES, DOTS, strict=True)
    x = np.stack([drawn([(CROSS, one), (SALTIRE, other), (DOT, dot)]) for (one, other), dot in scenes])[
        :, None
    ]
    # Each pixel of a shape adds as much as any other of it, and half of a shape adds nothing.
    parts = [drawn([(0.1 * CROSS, one), (-0.1 * SALTIRE, other)]) for one, other in PLACES]
    return Case(
        "detector_against", "One for, one against", "detectors",
        "64 · (the mean firing for a cross − that for a saltire); a dot beside them",
        "the cross's pixels for it, evenly, the saltire's against it, nothing for the dot",
        lambda x: _fires(CROSSES)(x) - _fires(SALTIRES)(x),
        _network([CROSSES, SALTIRES], NEEDED, [[64, -64]], "mean"), x,
        agreed(np.stack(parts)[:, None]),
    )  # fmt: skip


def _several() -> Case:
    scenes = zip(PLACES, DOTS, strict=True)
    x = np.stack([drawn([(CROSS, one), (CROSS, other), (DOT, dot)]) for (one, other), dot in scenes])[:, None]
    return Case(
        "detector_ties", "Two crosses, equally strong", "detectors",
        "the largest over all places of relu(pixels of a cross − those at its corners − 4½); two crosses, and a dot",
        "all within the crosses' windows: either may be named, or both",
        lambda x: response(x, CROSSES, NEEDED).max((1, 2)),
        _network([CROSSES], NEEDED, [[1]], "max"), x, mask=_masks(PLACES),
    )  # fmt: skip


def _edge() -> Case:
    rows = [(1, 3), (3, 4), (5, 2), (2, 5)]
    x, mask = np.zeros((4, 1, 8, 8)), np.zeros((4, 1, 8, 8), dtype=bool)
    for picture, lit, (row, column) in zip(x, mask, rows, strict=True):
        picture[0, row - 1 : row + 2, column] = 1.0
        lit[0, row - 1 : row + 2, column - 1 : column + 2] = True
        # A lying bar, far enough away: its ends are edges of one pixel, and three are needed.
        picture[0, 7 if row < 4 else 0, 0:3] = 1.0
    return Case(
        "detector_edge", "An upright edge", "detectors",
        "64 · the mean over all places of relu(right column − left column − 2½); beside it a lying bar",
        "all within the upright bar's window: the lying bar is no upright edge",
        lambda x: 64 * response(x, EDGE, 2.5).mean((1, 2)), _network([EDGE], 2.5, [[64]], "mean"), x, mask=mask,
    )  # fmt: skip


def _deep() -> Case:
    """Return the case of a second layer that asks for two lines in one place."""
    crossing = [(1, 2), (5, 5), (2, 5), (6, 1)]
    lying = [(6, 5), (1, 2), (6, 2), (1, 5)]
    x = np.stack([drawn([(CROSS, one), (ROW, other)]) for one, other in zip(crossing, lying, strict=True)])[
        :, None
    ]
    second = np.zeros((1, 2, 3, 3))
    second[0, :, 1, 1] = 1.0
    arguments = {
        "kernels": [np.stack([ROW, COLUMN])[:, None], second],
        "thresholds": [np.full(2, 2.5), np.array([0.75])],
        "weights": np.array([[64.0]]),
        "pool": "mean",
    }

    def function(x: np.ndarray) -> np.ndarray:
        return 64 * relu(response(x, ROW, 2.5) + response(x, COLUMN, 2.5) - 0.75).mean((1, 2))

    return Case(
        "detector_deep", "Two lines that cross", "detectors",
        "64 · the mean over all places of relu(a lying line here + an upright line here − ¾); beside it a lying line",
        "all within the window where the lines cross", function, ("detector", arguments), x,
        mask=_masks([[each] for each in crossing]),
    )  # fmt: skip
