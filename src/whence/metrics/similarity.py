"""How alike two explanations are: rank correlation, correlation, angle, or structure."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.ndimage import uniform_filter

from whence.errors import BadInput, Refused
from whence.metrics.agreement import pearson, spearman
from whence.metrics.judged import Judged
from whence.naming import unknown

Similarity = Literal["spearman", "pearson", "cosine", "ssim"]
SIMILARITIES = ("spearman", "pearson", "cosine", "ssim")
Maps = Float[np.ndarray, "B d"]

# Of the structural similarity (Wang et al. 2004): the side of the window, and K1, K2.
WINDOW, STEADY = 7, (0.01, 0.03)


def check(similarity: str) -> None:
    """Refuse a similarity that there is none of."""
    if similarity not in SIMILARITIES:
        raise BadInput(unknown("similarity", similarity, SIMILARITIES))


def similar(judged: Judged, kind: Similarity, one: Maps, other: Maps) -> Float[np.ndarray, "B"]:
    """Return how alike the rows are: at most 1; NaN where it is not defined, with a note."""
    if kind == "ssim":
        return structure(one, other, sides(judged))
    found = {"spearman": spearman, "pearson": pearson, "cosine": cosine}[kind](one, other)
    if np.isnan(found).any():
        flat = "hold nothing but zeros" if kind == "cosine" else "are the same everywhere"
        judged.note(f"some explanations {flat}: the {kind} similarity is not defined for them")
    return found


def cosine(one: Maps, other: Maps) -> Float[np.ndarray, "B"]:
    """Return the cosine of the angle between the rows."""
    one, other = _scaled(one), _scaled(other)
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.divide((one * other).sum(1), size, out=np.full_like(size, np.nan), where=size > 0)


def _scaled(rows: Maps) -> Maps:
    """Return rows in parts of their largest size: squares of tiny numbers would be 0."""
    largest = np.abs(rows).max(1, keepdims=True)
    return np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)


def sides(judged: Judged) -> tuple[int, int]:
    """Return the height and width of the pictures that the shares are of.

    Raises:
        Refused: they are of no pictures, or of very small ones.
    """
    shape = tuple(side for side in judged.features().covers[0].shape if side > 1)
    if len(judged.problem.inputs) != 1 or len(shape) != 2 or min(shape) < 3:
        raise Refused('similarity "ssim" is for maps of pictures, at least 3 x 3; take "spearman" or another')
    return shape[0], shape[1]


def structure(one: Maps, other: Maps, sides: tuple[int, int]) -> Float[np.ndarray, "B"]:
    """Return the structural similarity of maps, each in parts of its largest size, with uniform windows."""
    window = min(WINDOW, min(sides) - 1 + min(sides) % 2)
    x, y = (_scaled(each).reshape(-1, *sides) for each in (one, other))
    # Maps with negative shares span 2, others 1.
    span = 1.0 + (np.minimum(x.min((1, 2)), y.min((1, 2))) < 0)[:, None, None]
    c1, c2 = ((part * span) ** 2 for part in STEADY)

    def mean(maps: Float[np.ndarray, "B h w"]) -> Float[np.ndarray, "B h w"]:
        cut = window // 2
        side: Any = (1, window, window)
        return uniform_filter(maps, side)[:, cut : sides[0] - cut, cut : sides[1] - cut]

    unbiased = window**2 / (window**2 - 1)
    mx, my = mean(x), mean(y)
    xx, yy, xy = (
        unbiased * (mean(a * b) - p * q) for a, b, p, q in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    found = ((2 * mx * my + c1) * (2 * xy + c2)) / ((mx**2 + my**2 + c1) * (xx + yy + c2))
    return found.mean((1, 2))
