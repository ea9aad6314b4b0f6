"""Localisation: whether the shares lie in the right place, where that is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from whence.counts import whole
from whence.errors import BadInput, Refused
from whence.metrics.judged import Judged
from whence.metrics.metric import Metric, register
from whence.metrics.order import ranked
from whence.metrics.score import Score
from whence.naming import unknown

Relevance = Literal["signed", "positive", "absolute"]
RELEVANCES = ("signed", "positive", "absolute")
Shares = Float[np.ndarray, "B d"]
Mask = Bool[np.ndarray, "B d"]


@dataclass(frozen=True)
class Localising(Metric):
    """What all of these share: shares of pixels (channels together) beside the mask."""

    relevance: Relevance = "signed"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.relevance not in RELEVANCES:
            raise BadInput(unknown("relevance", self.relevance, RELEVANCES))

    def placed(self, judged: Judged) -> tuple[Shares, Mask]:
        """Return the relevance of each pixel, and where the right place is."""
        shares = judged.shares(judged.features())
        mask = judged.mask
        if mask.shape != shares.shape:
            raise Refused(
                f"the mask is of {mask.shape[1]} features and the explanation of {shares.shape[1]}: the right place is "
                "known for a single input alone"
            )
        if self.relevance == "positive":
            shares = np.maximum(shares, 0.0)
        return (np.abs(shares) if self.relevance == "absolute" else shares), mask

    def told(self, judged: Judged, values: Float[np.ndarray, "B"], mask: Mask, full: bool = False) -> Score:
        """Return the score; NaN for empty masks, and for `full` ones if they say nothing either."""
        empty, everywhere = ~mask.any(1), mask.all(1)
        if empty.any():
            judged.note(f"{int(empty.sum())} of {len(mask)} masks are empty: there is no right place")
        if full and everywhere.any():
            judged.note(f"{int(everywhere.sum())} of {len(mask)} masks are full: there is no wrong place")
        undefined = empty | everywhere if full else empty
        return self.score(judged, np.where(undefined, np.nan, values), evaluations=judged.evaluations)


@register(
    "pointing_game", "localisation", "1 if argmax_i φ_i lies in the mask (or within the tolerance of it), else 0",
    "Zhang et al. 2016, arXiv:1608.00507", better="higher", needs=("mask",),
)  # fmt: skip
@dataclass(frozen=True)
class PointingGame(Localising):
    """Whether the most important pixel lies in the right place.

    Attributes:
        relevance: "signed" (the largest share), "positive" (without the negative ones), or "absolute" (their sizes).
        tolerance: how many pixels off still hits (the paper: 15 in a photograph).
    """

    tolerance: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise BadInput(f"tolerance is {self.tolerance!r}; it is a number of pixels, 0 or above")

    def scored(self, judged: Judged) -> Score:
        shares, mask = self.placed(judged)
        first = ranked(judged, shares).argmin(1)
        hits = _reached(judged, mask, self.tolerance)[np.arange(len(mask)), first]
        return self.told(judged, hits.astype(np.float64), mask)


def _reached(judged: Judged, mask: Mask, tolerance: float) -> Mask:
    """Return what lies in the mask or at most so many pixels from it."""
    if tolerance == 0:
        return mask
    from scipy.ndimage import distance_transform_edt

    shape = judged.features().covers[0].shape
    sides = tuple(side for side in shape if side > 1)
    if len(shape) < 2:
        raise Refused(
            "a tolerance in pixels is for pictures; these inputs have no places that lie side by side"
        )
    away = np.full(mask.shape, np.inf)
    for row in np.flatnonzero(mask.any(1)):
        found: Any = distance_transform_edt(~mask[row].reshape(sides))
        away[row] = found.ravel()
    return away <= tolerance


@register(
    "relevance_mass", "localisation", "Σ_{i ∈ mask} φ_i⁺ / Σ_i φ_i⁺",
    "Arras, Osman, Samek 2022, arXiv:2003.07258", better="higher", needs=("mask",),
)  # fmt: skip
@dataclass(frozen=True)
class RelevanceMass(Localising):
    """What part of the relevance lies in the right place.

    Attributes:
        relevance: "positive" (negative shares count as none), "absolute" (sizes), or "signed" (then the parts may lie
            outside of 0 to 1, and mean little where the shares nearly cancel).
    """

    relevance: Relevance = "positive"

    def scored(self, judged: Judged) -> Score:
        shares, mask = self.placed(judged)
        total = shares.sum(1)
        if not total.all():
            judged.note(
                f"{int((total == 0).sum())} of {len(total)} explanations have no relevance to be in a place"
            )
        inside = np.where(mask, shares, 0.0).sum(1)
        values = np.divide(inside, total, out=np.full_like(total, np.nan), where=total != 0)
        return self.told(judged, values, mask)


@register(
    "relevance_rank", "localisation", "|top_K(φ) ∩ mask| / K,  K = |mask|",
    "Arras, Osman, Samek 2022, arXiv:2003.07258", better="higher", needs=("mask",),
)  # fmt: skip
@dataclass(frozen=True)
class RelevanceRank(Localising):
    """What part of the most important pixels, as many as the right place has, lies in it.

    Attributes:
        relevance: what the order is of: "signed", "positive" or "absolute" shares.
    """

    def scored(self, judged: Judged) -> Score:
        shares, mask = self.placed(judged)
        size = mask.sum(1)
        top = ranked(judged, shares) < size[:, None]
        return self.told(judged, (top & mask).sum(1) / np.maximum(size, 1), mask)


@register(
    "top_k_intersection", "localisation", "|top_k(φ) ∩ mask| / k",
    "Theiner, Müller-Budack, Ewerth 2021, arXiv:2104.14995", better="higher", needs=("mask",),
    title="Top-k intersection",
)  # fmt: skip
@dataclass(frozen=True)
class TopKIntersection(Localising):
    """What part of the k most important pixels lies in the right place.

    Attributes:
        relevance: what the order is of: "signed", "positive" or "absolute" shares.
        k: how many pixels; a number below 1 is a part of them. The paper has 1,000 of a photograph's.
        concept: multiply by d / |mask|, so that chance is 1 (the paper's concept influence).
    """

    k: int | float = 0.05
    concept: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if not (isinstance(self.k, float) and 0 < self.k < 1):
            whole(self.k, "k")

    def scored(self, judged: Judged) -> Score:
        shares, mask = self.placed(judged)
        count = shares.shape[1]
        k = max(1, round(self.k * count)) if self.k < 1 else int(self.k)
        if k > count:
            raise BadInput(f"k is {k} and there are {count} pixels")
        values = ((ranked(judged, shares) < k) & mask).sum(1) / k
        if self.concept:
            values = values * count / np.maximum(mask.sum(1), 1)
        return self.told(judged, values, mask)


@register(
    "iou", "localisation", "|M ∩ mask| / |M ∪ mask|,  M = top_K(φ), K = |mask|",
    "Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x; of thresholded maps: Zhou et al. 2016, arXiv:1512.04150",
    better="higher", needs=("mask",),
    title="Intersection over union",
)  # fmt: skip
@dataclass(frozen=True)
class IoU(Localising):
    """How well the important pixels and the right place cover each other.

    Attributes:
        relevance: what the order is of: "signed", "positive" or "absolute" shares.
        threshold: important is what reaches this part of the largest share; None: as many pixels as the place has.
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise BadInput(
                f"threshold is {self.threshold!r}; it is a part of the largest share, above 0, at most 1"
            )

    def scored(self, judged: Judged) -> Score:
        shares, mask = self.placed(judged)
        if self.threshold is None:
            chosen = ranked(judged, shares) < mask.sum(1, keepdims=True)
        else:
            largest = shares.max(1, keepdims=True)
            chosen = (shares >= self.threshold * largest) & (largest > 0)
        union = (chosen | mask).sum(1)
        return self.told(judged, (chosen & mask).sum(1) / np.maximum(union, 1), mask)


@register(
    "localisation_auc", "localisation", "P(φ_i > φ_j) + ½ P(φ_i = φ_j),  i ∈ mask, j ∉ mask",
    "Fawcett 2006, doi:10.1016/j.patrec.2005.10.010", better="higher", needs=("mask",), title="Localisation AUC",
)  # fmt: skip
@dataclass(frozen=True)
class LocalisationAUC(Localising):
    """How often a pixel in the right place has a larger share than one outside: the area under the ROC curve.

    Ties count half, so no lots are drawn.

    Attributes:
        relevance: what the order is of: "signed", "positive" or "absolute" shares.
    """

    def scored(self, judged: Judged) -> Score:
        shares, mask = self.placed(judged)
        inside = mask.sum(1)
        outside = mask.shape[1] - inside
        sums = np.where(mask, rankdata(shares, axis=1), 0.0).sum(1)
        values = (sums - inside * (inside + 1) / 2) / np.maximum(inside * outside, 1)
        return self.told(judged, values, mask, full=True)
