"""How near the maps of one framework are to those of another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from whence.study.frameworks.results import Agreement

Maps = Float[np.ndarray, "n height width"]


def all_of(
    maps: Mapping[tuple[str, str, str], Maps], reference: str
) -> dict[tuple[str, str, str], Agreement]:
    """Return how near the maps by network, framework and method are to the reference's, where it has them."""
    found: dict[tuple[str, str, str], Agreement] = {}
    for (network, framework, method), each in maps.items():
        wanted = maps.get((network, reference, method))
        if wanted is not None and framework != reference:
            found[network, framework, method] = Agreement(difference(each, wanted), rank(each, wanted))
    return found


def difference(found: Maps, wanted: Maps) -> float:
    """Return the largest difference, relative to the largest value: for the whole batch."""
    scale = float(np.abs(wanted).max())
    away = float(np.abs(found - wanted).max())
    return away / scale if scale else float(away > 0)


def rank(found: Maps, wanted: Maps) -> float:
    """Return the mean over examples of Spearman's rank correlation of the pixels."""
    return float(np.mean([_spearman(one, other) for one, other in zip(found, wanted, strict=True)]))


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    from scipy.stats import rankdata

    # What differs by less than the arithmetic keeps is a tie, as it is in exact numbers.
    grain = 1e-6 * float(np.abs(other).max()) or 1.0
    ranks = [rankdata(np.rint(each / grain).ravel()) for each in (one, other)]
    if any(np.ptp(each) == 0 for each in ranks):
        return float(all(np.ptp(each) == 0 for each in ranks))
    return float(np.corrcoef(*ranks)[0, 1])
