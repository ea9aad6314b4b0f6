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
    from scipy.stats import rankdata

    count = len(maps)
    ranks = np.stack([rankdata(each.reshape(len(each), -1), axis=1) for each in maps])
    centred = ranks - ranks.mean(-1, keepdims=True)
    size = np.sqrt((centred**2).sum(-1, keepdims=True))
    scaled = np.divide(centred, size, out=np.full_like(centred, np.nan), where=size > 0)
    mean, error = np.full((count, count), np.nan), np.full((count, count), np.nan)
    for one in range(count):
        each = np.einsum("mnp,np->mn", scaled, scaled[one])
        known = np.isfinite(each)
        there = np.maximum(known.sum(1), 1)
        mean[one] = np.where(known.any(1), np.where(known, each, 0).sum(1) / there, np.nan)
        spread = np.where(known, (each - mean[one][:, None]) ** 2, 0).sum(1) / np.maximum(there - 1, 1)
        error[one] = np.where(known.sum(1) > 1, np.sqrt(spread / there), np.nan)
    return mean, error
