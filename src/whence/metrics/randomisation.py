"""Randomisation: whether an explanation notices that the model's weights are drawn anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from whence.backends import Array
from whence.counts import whole
from whence.errors import BadInput
from whence.metrics.defined import error_of_mean, mean
from whence.metrics.judged import Judged
from whence.metrics.laid import in_features
from whence.metrics.metric import Metric, register
from whence.metrics.perturbed import moved_by, slices
from whence.metrics.randomised import ORDERS, Order, drawn, models, stages, weights
from whence.metrics.score import Score
from whence.metrics.similarity import Similarity, check, similar
from whence.naming import unknown


@dataclass(frozen=True)
class Layerwise(Metric):
    """What both layer-by-layer tests share: the similarity to the explanations of models with ever more new weights."""

    order: Order = "top_down"
    similarity: Similarity = "spearman"
    absolute: bool = False
    draws: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.order not in ORDERS:
            raise BadInput(unknown("order", self.order, ORDERS))
        check(self.similarity)
        whole(self.draws, "draws")

    def explained(self, judged: Judged, model: Any = None) -> Float[np.ndarray, "B d"]:
        """Return each pixel's share in the explanation of a model, by default the judged one."""
        raise NotImplementedError

    def scored(self, judged: Judged) -> Score:
        found = weights(judged)
        before = self._seen(self.explained(judged))
        curves: list[Float[np.ndarray, "B layers"]] = []
        for draw in range(self.draws):
            steps = [
                similar(judged, self.similarity, before, self._seen(self.explained(judged, model)))
                for model in models(judged, found, self.order, draw)
            ]
            curves.append(np.stack(steps, 1))
        told = [layer for layer, _ in stages(found, self.order)]
        judged.note(f"layers, in the order in which they are drawn anew: {', '.join(told)}")
        each = np.stack([mean(curve, 1) for curve in curves], 1)
        return self.score(
            judged,
            mean(each, 1),
            standard_error=error_of_mean(each, 1) if self.draws > 1 else None,
            draws=mean(each, 0) if self.draws > 1 else None,
            places=np.arange(1.0, len(told) + 1),
            curve=mean(np.stack(curves), 0),
            evaluations=judged.evaluations,
        )

    def _seen(self, maps: Float[np.ndarray, "B d"]) -> Float[np.ndarray, "B d"]:
        return np.abs(maps) if self.absolute else maps


@register(
    "mprt", "randomisation", "1/L Σ_l ρ(Φ(x, f), Φ(x, f_l)),  f_l: the first l layers from the output drawn anew",
    "Adebayo et al. 2018, arXiv:1810.03292", better="lower", needs=("method", "weights"),
    title="Parameter randomisation",
)  # fmt: skip
@dataclass(frozen=True)
class MPRT(Layerwise):
    """How alike the explanation stays when the model's layers are drawn anew, one after the other.

    A parameter is drawn from a normal distribution with the mean and the standard deviation of its own numbers, the
    same in every framework: initialisers differ between them, and are not known of a trained model. The curve has the
    similarity for each number of layers. Shares are compared pixel by pixel, channels together.

    Attributes:
        order: "top_down" (cascading from the output, as in the paper), "bottom_up" (from the input), or "independent"
            (one layer at a time).
        similarity: "spearman", "pearson", "cosine" or "ssim".
        absolute: compare the sizes of the shares, without their signs.
        draws: how often all weights are drawn anew; more than one tell the sampling error.
    """

    def explained(self, judged: Judged, model: Any = None) -> Float[np.ndarray, "B d"]:
        if model is None:
            return judged.shares(judged.features())
        values = judged.again(judged.problem.inputs, np.arange(judged.count), model=model)
        return in_features(judged.features(), values, judged.problem)


@register(
    "smooth_mprt", "randomisation", "1/L Σ_l ρ(Φ̄(x, f), Φ̄(x, f_l)),  Φ̄(x, f) = 1/N Σ_n Φ(x + ε_n, f)",
    "Hedström et al. 2024, arXiv:2401.06465", better="lower", needs=("method", "weights"),
    title="Smooth parameter randomisation",
)  # fmt: skip
@dataclass(frozen=True)
class SmoothMPRT(Layerwise):
    """How alike the explanation, averaged over noise, stays when the layers are drawn anew.

    Attributes:
        order: "top_down" (cascading from the output), "bottom_up" (from the input), or "independent".
        similarity: "spearman", "pearson", "cosine" or "ssim".
        absolute: compare the sizes of the shares, without their signs.
        draws: how often all weights are drawn anew; more than one tell the sampling error.
        samples: N, explanations of noisy inputs that are averaged first.
        noise: the standard deviation of the noise, in parts of each example's range.
    """

    samples: int = 50
    noise: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        whole(self.samples, "samples")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise BadInput(f"noise is {self.noise!r}; it is a part of the inputs' range, 0 or above")

    def explained(self, judged: Judged, model: Any = None) -> Float[np.ndarray, "B d"]:
        problem, features = judged.problem, judged.features()
        spreads = [
            np.ptp(problem.ops.numpy(leaf).astype(np.float64).reshape(judged.count, -1), axis=1)
            for leaf in problem.inputs
        ]

        def noise(number: int, leaf: Array, draw: int) -> Float[np.ndarray, "B ..."]:
            made = judged.random(f"smooth {number}", draw).normal(
                0.0, self.noise, tuple(int(side) for side in leaf.shape[1:])
            )
            return spreads[number].reshape(-1, *(1,) * made.ndim) * made

        total = 0.0
        for part in slices(judged, self.samples):
            moved = moved_by(judged, part, noise)
            values = judged.again(moved.inputs, moved.rows, model=model)
            shares = in_features(features.part(moved.rows), values, problem)
            total = total + shares.reshape(len(part), judged.count, -1).sum(0)
        return np.asarray(total) / self.samples


@register(
    "efficient_mprt", "randomisation", "(H(Φ(x, f̂)) − H(Φ(x, f))) / H(Φ(x, f)),  f̂: all weights drawn anew",
    "Hedström et al. 2024, arXiv:2401.06465", better="higher", needs=("method", "weights"),
    title="Efficient parameter randomisation",
)  # fmt: skip
@dataclass(frozen=True)
class EfficientMPRT(Metric):
    """By what part the explanation's complexity rises when all weights are drawn anew.

    The complexity H is the entropy of the histogram of the shares, over their own range.

    Attributes:
        bins: of the histogram.
        absolute: take the sizes of the shares, without their signs.
        draws: how often all weights are drawn anew; more than one tell the sampling error.
    """

    bins: int = 100
    absolute: bool = False
    draws: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        whole(self.bins, "bins", 2)
        whole(self.draws, "draws")

    def scored(self, judged: Judged) -> Score:
        found, features = weights(judged), judged.features()
        before = self._complexity(judged.shares(features))
        rises: list[Float[np.ndarray, "B"]] = []
        for draw in range(self.draws):
            model = found.replaced(drawn(judged, found, draw))
            values = judged.again(judged.problem.inputs, np.arange(judged.count), model=model)
            after = self._complexity(in_features(features, values, judged.problem))
            rises.append(
                np.divide(after - before, before, out=np.full_like(before, np.nan), where=before > 0)
            )
        if not before.all():
            judged.note(
                "some explanations are the same everywhere: their complexity of 0 cannot rise by a part"
            )
        each = np.stack(rises, 1)
        return self.score(
            judged,
            mean(each, 1),
            standard_error=error_of_mean(each, 1) if self.draws > 1 else None,
            draws=mean(each, 0) if self.draws > 1 else None,
            evaluations=judged.evaluations,
        )

    def _complexity(self, maps: Float[np.ndarray, "B d"]) -> Float[np.ndarray, "B"]:
        maps = np.abs(maps) if self.absolute else maps
        return np.array([_histogram_entropy(each, self.bins) for each in maps])


def _histogram_entropy(values: Float[np.ndarray, "d"], bins: int) -> float:
    if values.min() == values.max():
        return 0.0
    # In parts of the largest: of a very narrow range there would be no bins.
    counts = np.histogram(values / np.abs(values).max(), bins)[0]
    parts = counts[counts > 0] / counts.sum()
    return float(-(parts * np.log(parts)).sum())
