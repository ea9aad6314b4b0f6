"""How well numbers tell two groups apart: the area under the ROC curve, its standard error, and mean ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Numbers = Float[np.ndarray, " n"]


def auc(those: Numbers, others: Numbers) -> float:
    """Return the probability that one of `those` is larger than one of the others; a tie counts half.

    Raises:
        ValueError: a number is not finite, or a group is empty.
    """
    from scipy.stats import rankdata

    both = np.concatenate([those, others])
    if not np.isfinite(both).all() or not len(those) or not len(others):
        raise ValueError("an area under the curve needs finite numbers of two groups")
    ranks = rankdata(both)[: len(those)].sum()
    return float((ranks - len(those) * (len(those) + 1) / 2) / (len(those) * len(others)))


def standard_error(area: float, those: int, others: int) -> float:
    """Return the standard error of an area under the curve: Hanley and McNeil, 1982.

    Of an area of exactly 1 (or 0) their formula says 0, however few there are: so half a pair is counted the other way.
    """
    pairs = those * others
    a = (pairs * area + 0.5) / (pairs + 1)
    above, below = a / (2 - a), 2 * a * a / (1 + a)
    spread = a * (1 - a) + (those - 1) * (above - a * a) + (others - 1) * (below - a * a)
    return float(np.sqrt(max(spread, 0.0) / pairs))


def together(areas: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Return the mean of several areas and its standard error, the larger of two.

    One comes from the pictures inside each pair of networks, the other from how much the pairs differ.
    """
    count = len(areas)
    within = float(np.sqrt(np.square(errors).sum())) / count
    between = float(np.std(areas, ddof=1)) / count**0.5 if count > 1 else 0.0
    return float(np.mean(areas)), max(within, between)


def mean_rank(those: Numbers, others: Numbers) -> float:
    """Return the mean place of `those` among all, from 0 (all first: the largest) to 1 (all last)."""
    return 1 - auc(those, others)
