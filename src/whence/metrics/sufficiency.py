"""Sufficiency: whether examples that are explained alike are decided alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from whence.errors import BadInput
from whence.metrics.judged import Judged
from whence.metrics.metric import Metric, register
from whence.metrics.score import Score


@register(
    "sufficiency", "faithfulness", "P(class of x' = class of x | explanation of x' near that of x)",
    "Dasgupta, Frost, Moshkovitz 2022, arXiv:2202.00734", better="higher",
)  # fmt: skip
@dataclass(frozen=True)
class Sufficiency(Metric):
    """The part of the other examples with a similar explanation that the model puts into the same class.

    The other examples of the call are the population: give enough of them. The class is the model's own top class.

    Attributes:
        threshold: explanations are alike up to this distance.
        distance: "seuclidean" (every number in parts of its own spread over the examples), "euclidean" or "cosine".
        relative: the distance is in parts of the largest between two of the examples.
    """

    threshold: float = 0.6
    distance: Literal["seuclidean", "euclidean", "cosine"] = "seuclidean"
    relative: bool = True

    def scored(self, judged: Judged) -> Score:
        if not self.threshold >= 0:
            raise BadInput(f"threshold is {self.threshold}; it is a distance, 0 or above")
        alike = self._distances(judged.flat) <= self.threshold
        np.fill_diagonal(alike, val=False)
        near = alike.sum(1)
        same = (alike & (judged.predicted[:, None] == judged.predicted)).sum(1)
        if not near.all():
            judged.note(
                f"{int((near == 0).sum())} examples have no other whose explanation is like theirs: no value is defined"
            )
        values = np.divide(same, near, out=np.full(judged.count, np.nan), where=near > 0)
        return self.score(judged, values, evaluations=judged.evaluations)

    def _distances(self, flat: Float[np.ndarray, "B d"]) -> Float[np.ndarray, "B B"]:
        from scipy.spatial.distance import cdist

        if self.distance not in ("seuclidean", "euclidean", "cosine"):
            raise BadInput(f"distance is {self.distance!r}; it is seuclidean, euclidean or cosine")
        if self.distance == "seuclidean":
            spread = flat.std(0, ddof=1) if len(flat) > 1 else np.zeros(flat.shape[1])
            # What is the same in every explanation sets none apart.
            flat = np.divide(flat, spread, out=np.zeros_like(flat), where=spread > 0)
        kind = "cosine" if self.distance == "cosine" else "euclidean"
        found = np.nan_to_num(cdist(flat, flat, kind), nan=1.0)
        largest = found.max(initial=0.0)
        return found / largest if self.relative and largest > 0 else found
