"""Complexity: on how few features an explanation rests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from whence.errors import BadInput
from whence.metrics.judged import Judged
from whence.metrics.metric import Metric, register
from whence.metrics.score import Score


@register(
    "sparseness", "complexity", "1 − 2 Σ_k |φ|_(k)/‖φ‖₁ · (d − k + ½)/d,  |φ|_(1) ≤ … ≤ |φ|_(d)",
    "Hurley, Rickard 2009, arXiv:0811.4706; Chalasani et al. 2020, arXiv:1810.06583", better="higher",
)  # fmt: skip
@dataclass(frozen=True)
class Sparseness(Metric):
    """The Gini index of the shares' sizes: 0 where all are the same, nearly 1 where one has everything.

    Attributes:
        features: what has a share each; None: pixels with their channels together, or single numbers.
    """

    features: Any = None

    def scored(self, judged: Judged) -> Score:
        parts = np.sort(_parts(judged, self.features), 1)
        count = parts.shape[1]
        weights = (count - np.arange(1, count + 1) + 0.5) / count
        return self.score(judged, 1 - 2 * parts @ weights, evaluations=judged.evaluations)


@register(
    "complexity", "complexity", "−Σ_i p_i ln p_i,  p_i = |φ_i| / ‖φ‖₁",
    "Bhatt, Weller, Moura 2020, arXiv:2005.00631", better="lower",
)  # fmt: skip
@dataclass(frozen=True)
class Complexity(Metric):
    """The entropy of the shares' sizes, in nats: 0 where one feature has everything, ln d where all have the same.

    Attributes:
        features: what has a share each; None: pixels with their channels together, or single numbers.
    """

    features: Any = None

    def scored(self, judged: Judged) -> Score:
        return self.score(judged, _entropy(_parts(judged, self.features)), evaluations=judged.evaluations)


@register(
    "effective_features", "complexity", "exp(−Σ_i p_i ln p_i),  p_i = |φ_i| / ‖φ‖₁",
    "Hill 1973, doi:10.2307/1934352; Bhatt, Weller, Moura 2020, arXiv:2005.00631; with a threshold, as a count: after "
    "Nguyen, Martínez 2020, arXiv:2007.07584", better="lower",
)  # fmt: skip
@dataclass(frozen=True)
class EffectiveFeatures(Metric):
    """How many features with shares of the same size would be as complex as this explanation.

    Attributes:
        threshold: count instead the features whose size is above this part of the largest size.
        features: what has a share each; None: pixels with their channels together, or single numbers.
    """

    threshold: float | None = None
    features: Any = None

    def __post_init__(self) -> None:
        """Check the threshold."""
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise BadInput(
                f"threshold is {self.threshold!r}; it is a part of the largest size, from 0 to below 1"
            )

    def scored(self, judged: Judged) -> Score:
        parts = _parts(judged, self.features)
        if self.threshold is None:
            values = np.exp(_entropy(parts))
        else:
            count = (parts > self.threshold * parts.max(1, keepdims=True)).sum(1)
            values = np.where(np.isnan(parts).any(1), np.nan, count)
        return self.score(judged, values, evaluations=judged.evaluations)


def _parts(judged: Judged, features: Any) -> Float[np.ndarray, "B d"]:
    """Return the shares' sizes in parts of their sum; NaN where all are 0, with a note."""
    sizes = np.abs(judged.shares(judged.features(features)))
    # Of very small numbers the sum may be 0 where the largest is not.
    largest = sizes.max(1, keepdims=True)
    if not largest.all():
        judged.note(
            f"{int((largest == 0).sum())} of {len(sizes)} explanations hold nothing but zeros: there is nothing to be "
            "complex or sparse"
        )
    scaled = np.divide(sizes, largest, out=np.full_like(sizes, np.nan), where=largest > 0)
    return scaled / scaled.sum(1, keepdims=True)


def _entropy(parts: Float[np.ndarray, "B d"]) -> Float[np.ndarray, "B"]:
    logarithm = np.log(parts, out=np.zeros_like(parts), where=parts != 0)
    return np.abs(-(parts * logarithm).sum(1))
