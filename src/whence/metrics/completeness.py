"""Completeness: whether the shares sum to what the output changes from the baseline to the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence.baseline import resolve
from whence.draws import Draws
from whence.metrics.judged import Judged
from whence.metrics.metric import Metric, register
from whence.metrics.score import Score


@register(
    "completeness_residual", "faithfulness", "|Σ_i φ_i − (f(x) − f(x'))| / |f(x) − f(x')|",
    "Sundararajan, Taly, Yan 2017, arXiv:1703.01365", better="lower",
)  # fmt: skip
@dataclass(frozen=True)
class CompletenessResidual(Metric):
    """How far the shares are from summing to what the output gains over the baseline.

    Attributes:
        baseline: as in IntegratedGradients: what the explanation counts from.
        relative: in parts of that gain; the value is not defined where there is none.
    """

    baseline: Any = None
    relative: bool = True

    def judge(self, judged: Judged) -> Score:
        problem = judged.problem
        draws = Draws(problem, resolve(self.baseline, problem.run.pictures))
        gain = problem.output - draws.output()
        residual = np.abs(judged.flat.sum(1) - gain)
        judged.evaluations += draws.count
        if self.relative:
            if not gain.all():
                judged.note("nothing is gained over the baseline: relative to it the residual is not defined")
            residual = np.divide(residual, np.abs(gain), out=np.full_like(residual, np.nan), where=gain != 0)
        return self.score(judged, residual, evaluations=judged.evaluations)
