"""Means and their errors over the values that are defined: NaN stands for what is not."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def mean(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Return the mean along an axis; NaN where nothing is defined."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def error_of_mean(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Return the standard error of the mean along an axis, spread / √n; NaN of fewer than two."""
    known = np.isfinite(values)
    count = known.sum(axis)
    off = values - np.expand_dims(mean(values, axis), axis)
    squares = np.where(known, off**2, 0.0).sum(axis)
    below = count * (count - 1.0)
    return np.sqrt(np.divide(squares, below, out=np.full(squares.shape, np.nan), where=below > 0))
