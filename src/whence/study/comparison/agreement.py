"""How far methods agree: the rank correlation of their maps, picture by picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Maps = Float[np.ndarray, "n height width"]


def correlations(maps: Sequence[Maps]) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, "m m"]]:
    """Return the mean over pictures of Spearman's ρ between the maps of every two methods, and its standard error.

    ρ is Pearson's correlation of the ranks of the pixels' signed values, ties sharing their mean rank. A picture on
    which a map is constant says nothing of it, and does not count.

    Source: Spearman 1904.
    """
    each = np.stack([_of_one([method[row] for method in maps]) for row in range(len(maps[0]))])
    known = np.isfinite(each)
    count = known.sum(0)
    there = np.maximum(count, 1)
    mean = np.where(count > 0, np.where(known, each, 0).sum(0) / there, np.nan)
    spread = np.where(known, (each - mean) ** 2, 0).sum(0) / np.maximum(count - 1, 1)
    return mean, np.where(count > 1, np.sqrt(spread / there), np.nan)


def _of_one(maps: Sequence[Float[np.ndarray, "height width"]]) -> Float[np.ndarray, "m m"]:
    """Return ρ between the maps of one picture by every two methods; NaN where one is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(np.stack([each.ravel() for each in maps]), axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    size = np.sqrt((centred**2).sum(1, keepdims=True))
    scaled = np.divide(centred, size, out=np.full_like(centred, np.nan), where=size > 0)
    return scaled @ scaled.T
