"""Removing features one after the other, the most important first, and watching what becomes of the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from whence.baseline import blur
from whence.counts import whole
from whence.features.laying import is_picture
from whence.metrics.judged import Judged
from whence.metrics.metric import Metric, register
from whence.metrics.order import ranked
from whence.metrics.played import Of, Played, gathered, played, switched
from whence.metrics.score import Score

# The steps of a curve where there are more features, as in the paper (of 224 x 224 pixels, 224 at a time).
STEPS = 224
# The blur from which insertion starts, in pixels: the paper's, and in small pictures a quarter of the longer side.
BLUR, QUARTER = 5.0, 4


@register(
    "deletion", "faithfulness",
    "∫₀¹ p(x with the first α·d features by falling φ removed) dα, by the trapezoid rule",
    "Petsiuk, Das, Saenko 2018, arXiv:1806.07421", better="lower",
)  # fmt: skip
@dataclass(frozen=True)
class Deletion(Metric):
    """The area under the class's probability while features are removed, the most important first.

    The curve [B, S] is kept, with the removed parts of all features as its places.

    Attributes:
        features: what is removed together; None takes every pixel with its channels together (else every number).
        baseline: what stands in for what is removed; None is black for pictures in pixels, else 0.
        steps: the steps of the curve; None removes one feature at a time, and of more than 224 as many at a time as
            make 224 steps.
        of: "probability" (of the explained class) or "target" (the explained number).
    """

    features: Any = None
    baseline: Any = None
    steps: int | None = None
    of: Of = "probability"

    def scored(self, judged: Judged) -> Score:
        return _area(self, judged, self.baseline, present=False)


@register(
    "insertion", "faithfulness",
    "∫₀¹ p(blurred x with the first α·d features by falling φ put back) dα, by the trapezoid rule",
    "Petsiuk, Das, Saenko 2018, arXiv:1806.07421", better="higher",
)  # fmt: skip
@dataclass(frozen=True)
class Insertion(Metric):
    """The area under the class's probability while features are put into a blurred input, the most important first.

    The curve [B, S] is kept, with the present parts of all features as its places.

    Attributes:
        features: what is put back together; None takes every pixel with its channels together (else every number).
        baseline: what is there before; None is the picture blurred by 5 pixels (at most a quarter of its longer
            side), and for other inputs 0.
        steps: the steps of the curve; None puts back one feature at a time, and of more than 224 as many at a time as
            make 224 steps.
        of: "probability" (of the explained class) or "target" (the explained number).
    """

    features: Any = None
    baseline: Any = None
    steps: int | None = None
    of: Of = "probability"

    def scored(self, judged: Judged) -> Score:
        baseline = _blurred(judged) if self.baseline is None else self.baseline
        return _area(self, judged, baseline, present=True)


@register(
    "pixel_flipping", "faithfulness",
    "AOPC = 1/(L+1) Σ_{k=0..L} (f(x) − f(x without its k first features by falling φ))",
    "Bach et al. 2015, doi:10.1371/journal.pone.0130140; Samek et al. 2017, arXiv:1509.06321", better="higher",
    title="Pixel flipping (AOPC)",
)  # fmt: skip
@dataclass(frozen=True)
class PixelFlipping(Metric):
    """How far the output falls, on average over the steps, while features are removed, the most important first.

    The curve [B, S] is f itself at every step, before the first removal too, with the removed parts of all features as
    its places.

    Attributes:
        features: what is removed together; None takes every pixel with its channels together (else every number).
        features_in_step: how many of them are removed at each step.
        steps: L, how many steps there are; None goes on until nothing is left.
        baseline: what stands in for what is removed; None is black for pictures in pixels, else 0.
        of: "target" (the explained number) or "probability" (of the explained class).
    """

    features: Any = None
    features_in_step: int = 1
    steps: int | None = None
    baseline: Any = None
    of: Of = "target"

    def scored(self, judged: Judged) -> Score:
        size = whole(self.features_in_step, "features_in_step")
        most = None if self.steps is None else whole(self.steps, "steps")

        def counts(features: int) -> Int[np.ndarray, "S"]:
            all_steps = np.arange(-(-features // size) + 1)
            return np.minimum(size * all_steps[: None if most is None else most + 1], features)

        games = played(judged, self.of, self.features, self.baseline)
        curve = _curves(judged, games, counts, present=False)
        values = np.nanmean(curve[:, :1] - curve, axis=1)
        return _scored(self, judged, games, values, curve, counts)


def _area(metric: Deletion | Insertion, judged: Judged, baseline: Any, present: bool) -> Score:
    """Return the areas under the curves of f while features are removed, or put back."""
    steps = None if metric.steps is None else whole(metric.steps, "steps")

    def counts(features: int) -> Int[np.ndarray, "S"]:
        number = min(features, STEPS) if steps is None else steps
        return np.rint(np.linspace(0, features, number + 1)).astype(np.int64)

    games = played(judged, metric.of, metric.features, baseline)
    curve = _curves(judged, games, counts, present)
    values = np.empty(judged.count)
    for each in games:
        features = each.game.count
        places = counts(features)
        heights = curve[each.rows, : len(places)]
        values[each.rows] = np.trapezoid(heights, places / features, axis=1)
    return _scored(metric, judged, games, values, curve, counts)


def _curves(judged: Judged, games: list[Played], counts: Any, present: bool) -> Float[np.ndarray, "B S"]:
    def curve(each: Played) -> Float[np.ndarray, "n S"]:
        return switched(each.game, ranked(judged, each.shares), counts(each.game.count), present)

    return gathered(judged, games, curve)


def _scored(
    metric: Metric,
    judged: Judged,
    games: list[Played],
    values: Float[np.ndarray, "B"],
    curve: Float[np.ndarray, "B S"],
    counts: Any,
) -> Score:
    """Return the score with its curve; of examples with other numbers of features the most say where its places are."""
    most = max(each.game.count for each in games)
    return metric.score(
        judged, values, places=counts(most) / most, curve=curve, evaluations=judged.evaluations
    )


def _blurred(judged: Judged) -> Any:
    """Return the blurred picture as a baseline; None where the inputs are no pictures."""
    problem = judged.problem
    leaves = problem.inputs
    if not all(is_picture(problem, leaf) and problem.ops.is_float(leaf) for leaf in leaves):
        return None
    longer = max(int(leaf.shape[axis]) for leaf in leaves for axis in problem.spatial_axes(leaf))
    return blur(min(BLUR, longer / QUARTER))
