"""Axioms: what an explanation should satisfy whatever the model; each value is by how much it does not, 0 is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from whence.counts import whole
from whence.errors import BadInput
from whence.metrics.completeness import CompletenessResidual
from whence.metrics.judged import Judged
from whence.metrics.laid import in_features
from whence.metrics.metric import Metric, register
from whence.metrics.score import Score
from whence.metrics.trials import Trials
from whence.metrics.twofold import ImplementationInvariance, Linearity, Symmetry

__all__ = [
    "Completeness", "Dummy", "ImplementationInvariance", "Linearity", "SensitivityAxiom", "Symmetry",
]  # fmt: skip

SUNDARARAJAN = "Sundararajan, Taly, Yan 2017, arXiv:1703.01365"
# Shares below this part of the largest count as none: what float noise leaves.
NOTHING = 1e-6


@register("completeness", "axioms", "|Σ_i φ_i − (f(x) − f(x'))|", SUNDARARAJAN, better="lower")
@dataclass(frozen=True)
class Completeness(Metric):
    """By how much the shares miss the sum of what the output gains over the baseline, in the output's own units.

    Attributes:
        baseline: as in CompletenessResidual.
    """

    baseline: Any = None

    def scored(self, judged: Judged) -> Score:
        found = CompletenessResidual(self.baseline, relative=False).scored(judged)
        return self.score(judged, found.values, evaluations=found.evaluations)


@register(
    "sensitivity_axiom", "axioms", "|{i : f(x'|x_i) ≠ f(x'), φ_i(x'|x_i) = 0}| / |{i : f(x'|x_i) ≠ f(x')}|",
    f"{SUNDARARAJAN} (sensitivity (a)); Nguyen, Martínez 2020, arXiv:2007.07584 (non-sensitivity)", better="lower",
    needs=("method",),
)  # fmt: skip
@dataclass(frozen=True)
class SensitivityAxiom(Metric):
    """How often a feature that alone changes the output gets no share.

    For every feature, the input that differs from the baseline in it alone is explained by the method, which must count
    from that baseline. With kind="non_sensitivity" nothing is explained again: the value is the number of features
    that have a share though they are without influence, or influence and no share (found by trying).

    Attributes:
        kind: "one_feature" (Sundararajan et al.) or "non_sensitivity" (Nguyen, Martínez).
        baseline: what the method counts from; None is the method's own.
        features: what is changed at once; None: pixels with their channels together, or single numbers.
        tries: for non_sensitivity, how often each feature is changed.
    """

    kind: Literal["one_feature", "non_sensitivity"] = "one_feature"
    baseline: Any = None
    features: Any = None
    tries: int = 4

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.kind not in ("one_feature", "non_sensitivity"):
            raise BadInput(f'kind is {self.kind!r}; it is "one_feature" or "non_sensitivity"')
        whole(self.tries, "tries")

    def scored(self, judged: Judged) -> Score:
        trials = Trials(judged, judged.features(self.features))
        if self.kind == "non_sensitivity":
            none = _nothing(judged.shares(trials.features))
            values = (none ^ ~trials.influence(self.tries)).sum(1).astype(np.float64)
            return self.score(judged, values, evaluations=judged.evaluations)
        given = self.baseline
        if given is None:
            given = getattr(judged.method, "baseline", None)
        start, output = trials.baseline(given)
        outputs, own = np.zeros((2, judged.count, trials.count))
        for made, rows, feature in trials.each_feature(start, trials.inputs):
            outputs[rows, feature] = trials.outputs(made, rows)
            values = judged.again(trials.native(made), rows)
            shares = in_features(trials.features.part(rows), values, judged.problem)
            own[rows, feature] = shares[np.arange(len(rows)), feature]
        tested = trials.noticed(outputs, output)
        missed = np.abs(own) <= NOTHING * np.abs(outputs - output[:, None])
        count = tested.sum(1)
        if not count.all():
            judged.note(f"for {int((count == 0).sum())} examples no feature alone changes the output")
        values = np.divide(
            (tested & missed).sum(1), count, out=np.full(judged.count, np.nan), where=count > 0
        )
        return self.score(judged, values, evaluations=judged.evaluations)


@register(
    "dummy", "axioms", "Σ_{i ∈ D} |φ_i| / ‖φ‖₁,  D: features that f does not depend on",
    f"{SUNDARARAJAN} (sensitivity (b)); Friedman 2004, doi:10.1007/s001820400173", better="lower",
)  # fmt: skip
@dataclass(frozen=True)
class Dummy(Metric):
    """What part of the shares goes to features that the function ignores.

    Attributes:
        features: the numbers of those features; None finds them by trying (which can miss a rare influence).
        of: what is a feature; None: pixels with their channels together, or single numbers.
        tries: how often each feature is changed, at and away from the example.
    """

    features: Sequence[int] | None = None
    of: Any = None
    tries: int = 4

    def __post_init__(self) -> None:
        """Check the number of trials."""
        whole(self.tries, "tries")

    def scored(self, judged: Judged) -> Score:
        features = judged.features(self.of)
        sizes = np.abs(judged.shares(features))
        ignored = self._ignored(judged, features, sizes.shape)
        total = sizes.sum(1)
        empty = ~ignored.any(1)
        if empty.any():
            judged.note(
                f"for {int(empty.sum())} of {judged.count} examples there is no feature that is ignored"
            )
        share = np.where(ignored, sizes, 0.0).sum(1)
        values = np.divide(share, total, out=np.zeros_like(total), where=total > 0)
        return self.score(judged, np.where(empty, np.nan, values), evaluations=judged.evaluations)

    def _ignored(self, judged: Judged, features: Any, shape: tuple[int, ...]) -> Bool[np.ndarray, "B d"]:
        if self.features is None:
            found = ~Trials(judged, features).influence(self.tries)
            judged.note(f"features that are ignored were found by {self.tries} trials each")
            return found
        chosen = np.zeros(shape, dtype=bool)
        for number in self.features:
            if not 0 <= whole(number, "features", 0) < shape[1]:
                raise BadInput(f"features: there is no number {number}; there are {shape[1]}")
            chosen[:, number] = True
        return chosen


def _nothing(shares: Float[np.ndarray, "B d"]) -> Bool[np.ndarray, "B d"]:
    """Return which shares are none."""
    return np.abs(shares) <= NOTHING * np.abs(shares).max(1, keepdims=True)
