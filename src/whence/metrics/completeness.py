"""Completeness: whether the shares sum to what the output changes from the baseline to the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from whence.attribution import to_numpy
from whence.baseline import resolve
from whence.draws import Draws
from whence.errors import Refused
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
        baseline: as in IntegratedGradients: what the explanation counts from; or "own": what the method says that it
            counts from (LRP from its roots, a blurred path from the blurred picture).
        relative: in parts of that gain; the value is not defined where there is none.
    """

    baseline: Any = None
    relative: bool = True

    def scored(self, judged: Judged) -> Score:
        gain, residual = _told(judged) if _own(self.baseline) else _counted(judged, self.baseline)
        if self.relative:
            if not gain.all():
                judged.note("nothing is gained over the baseline: relative to it the residual is not defined")
            residual = np.divide(residual, np.abs(gain), out=np.full_like(residual, np.nan), where=gain != 0)
        return self.score(judged, residual, evaluations=judged.evaluations)


def _own(baseline: Any) -> bool:
    return isinstance(baseline, str) and baseline == "own"


def _counted(judged: Judged, baseline: Any) -> tuple[Float[np.ndarray, "B"], Float[np.ndarray, "B"]]:
    """Return what is gained over a baseline, and by how much the shares miss it."""
    problem = judged.problem
    draws = Draws(problem, resolve(baseline, problem.run.pictures))
    gain = problem.output - draws.output()
    judged.evaluations += draws.count
    return gain, np.abs(judged.flat.sum(1) - gain)


def _told(judged: Judged) -> tuple[Float[np.ndarray, "B"], Float[np.ndarray, "B"]]:
    """Return the same as the explanation itself tells it."""
    result = judged.result
    if result is None:
        raise Refused('baseline "own" is told by what whence.explain returns, not by an array or a method')
    if result.residual is None or result.baseline_output is None:
        raise Refused("the method does not promise that its shares sum to anything")
    output, before, residual = (
        to_numpy(each).astype(np.float64) for each in (result.output, result.baseline_output, result.residual)
    )
    return output - before, np.abs(residual)
