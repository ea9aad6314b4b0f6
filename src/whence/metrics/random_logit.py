"""The random logit test: whether an explanation of one class differs from that of another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from whence import target as targets
from whence.counts import whole
from whence.errors import Refused
from whence.metrics.defined import error_of_mean, mean
from whence.metrics.judged import Judged
from whence.metrics.laid import in_features
from whence.metrics.metric import Metric, register
from whence.metrics.score import Score
from whence.metrics.similarity import Similarity, check, similar


@register(
    "random_logit", "randomisation", "ρ(Φ(x, f_k), Φ(x, f_j)),  j ≠ k drawn at random",
    "Sixt, Granz, Landgraf 2020, arXiv:1912.09818", better="lower", needs=("method",),
)  # fmt: skip
@dataclass(frozen=True)
class RandomLogit(Metric):
    """How alike the explanations of the explained class and of another, random one are.

    The other class is the explained one plus a random step, the same for all examples of a draw. Shares are compared
    pixel by pixel, channels together.

    Attributes:
        similarity: "spearman", "pearson", "cosine" or "ssim" (the paper's).
        absolute: compare the sizes of the shares, without their signs.
        samples: how many other classes, without repetition; more than one tell the sampling error.
    """

    similarity: Similarity = "spearman"
    absolute: bool = False
    samples: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self.similarity)
        whole(self.samples, "samples")

    def scored(self, judged: Judged) -> Score:
        index, classes = _classes(judged)
        steps = 1 + judged.random("other class").permutation(classes - 1)[: self.samples]
        features = judged.features()
        before = judged.shares(features)
        found: list[np.ndarray] = []
        for step in steps:
            target = _instead(judged.call.target, (index + step) % classes)
            values = judged.again(judged.problem.inputs, np.arange(judged.count), target=target)
            after = in_features(features, values, judged.problem)
            pair = (np.abs(before), np.abs(after)) if self.absolute else (before, after)
            found.append(similar(judged, self.similarity, *pair))
        each = np.stack(found, 1)
        # Of all classes there are no others that could have been drawn.
        sampled = 1 < len(steps) < classes - 1
        return self.score(
            judged,
            mean(each, 1),
            standard_error=error_of_mean(each, 1) if sampled else None,
            draws=mean(each, 0) if sampled else None,
            evaluations=judged.evaluations,
        )


def _classes(judged: Judged) -> tuple[Int[np.ndarray, "B"], int]:
    """Return the explained class of each example, and how many there are.

    Raises:
        Refused: the explained number is of no class.
    """
    given, outputs = judged.call.target, judged.outputs
    kind = given.kind if isinstance(given, targets.Target) else "logit"
    if judged.index is None or outputs.ndim != 2 or outputs.shape[1] < 2 or kind in ("margin", "loss"):
        raise Refused(
            "the random logit test compares classes: the target must be a logit or a probability of one"
        )
    return judged.index, int(outputs.shape[1])


def _instead(given: Any, other: Int[np.ndarray, "B"]) -> Any:
    """Return the same target of other classes."""
    return replace(given, index=other) if isinstance(given, targets.Target) else other
