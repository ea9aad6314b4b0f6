"""How far two rows of numbers agree: Pearson's and Spearman's correlations, and their sampling errors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

# Numbers that differ by less than so many rounding errors of the largest are the same.
SAME = 64 * 2.0**-52


def is_constant(values: Float[np.ndarray, "n m"]) -> Bool[np.ndarray, "n"]:
    """Tell which rows hold one number only, but for float64's rounding."""
    spread = values.max(1) - values.min(1)
    return spread <= SAME * np.abs(values).max(1)


def pearson(one: Float[np.ndarray, "n m"], other: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n"]:
    """Return Pearson's correlation of each pair of rows; NaN where one of them is constant."""
    found = np.full(len(one), np.nan)
    if not one.shape[1]:
        return found
    varied = ~(is_constant(one) | is_constant(other))
    a, b = (_unit(each[varied]) for each in (one, other))
    found[varied] = np.clip((a * b).sum(1), -1, 1)
    return found


def _unit(values: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    centred = values - values.mean(1, keepdims=True)
    # Scaled first: squares of small numbers vanish.
    centred = centred / np.abs(centred).max(1, keepdims=True)
    return centred / np.sqrt((centred**2).sum(1, keepdims=True))


def spearman(one: Float[np.ndarray, "n m"], other: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n"]:
    """Return Spearman's correlation of each pair of rows: that of their ranks, equal numbers sharing theirs."""
    from scipy.stats import rankdata

    flat = is_constant(one) | is_constant(other) if one.shape[1] else np.zeros(len(one), dtype=bool)
    found = pearson(*(np.asarray(rankdata(each, axis=1), dtype=np.float64) for each in (one, other)))
    found[flat] = np.nan
    return found


def pearson_error(one: Float[np.ndarray, "n m"], other: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n"]:
    """Return the standard error of Pearson's correlation over draws: the jackknife's, every draw left out in turn."""
    count = one.shape[1]
    found = np.full(len(one), np.nan)
    varied = ~(is_constant(one) | is_constant(other)) if count > 2 else np.zeros(len(one), dtype=bool)
    if not varied.any():
        return found
    a, b = (_unit(each[varied]) for each in (one, other))
    # Without draw i: sums less their part of it, over centres that moved by x_i / (m − 1).
    grow = count / (count - 1)
    products = (a * b).sum(1, keepdims=True) - grow * a * b
    squares = (1 - grow * a**2) * (1 - grow * b**2)
    left_out = np.divide(
        products, np.sqrt(np.maximum(squares, 0)), out=np.zeros_like(products), where=squares > 0
    )
    spread = left_out - left_out.mean(1, keepdims=True)
    found[varied] = np.sqrt((count - 1) / count * (spread**2).sum(1))
    return found
