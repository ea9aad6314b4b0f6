"""Relative stability: by what part an explanation changes, for the part by which the input or the output does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from whence.errors import BadInput
from whence.metrics.judged import Judged
from whence.metrics.metric import register
from whence.metrics.perturbed import Moved, Perturbing, numbers
from whence.metrics.robustness import largest
from whence.metrics.score import Score


@dataclass(frozen=True)
class Relative(Perturbing):
    """What the two stabilities share: the largest relative change of the explanation over a change of something."""

    same_class: bool = True
    power: float = 2.0
    least: float = 1e-6
    zeros: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        if not self.power >= 1:
            raise BadInput(f"power is {self.power!r}; the norm of a vector has a power of at least 1")
        for name, value in (("least", self.least), ("zeros", self.zeros)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise BadInput(f"{name} is {value!r}; it is a number above 0")

    def below(self, moved: Moved) -> Float[np.ndarray, "draws B"]:
        """Return the size of the change that is divided by."""
        raise NotImplementedError

    def scored(self, judged: Judged) -> Score:
        def measure(
            moved: Moved, before: Float[np.ndarray, "B d"], after: Float[np.ndarray, "draws B d"]
        ) -> Float[np.ndarray, "draws B"]:
            if self.zeros is None and not before.all():
                judged.note(
                    f"{int((before == 0).sum())} of {before.size} shares are 0 and have no relative change: they are "
                    "left out (zeros= puts a number in their place)"
                )
            above = self.norm(self.relative(after - before, before))
            # With no share but 0 there is nothing whose part could change.
            above = np.where(np.any(before, 1) | (self.zeros is not None), above, np.nan)
            return above / np.maximum(self.below(moved), self.least)

        values = largest(self.measured(judged, measure), judged)
        return self.score(judged, values, evaluations=judged.evaluations)

    def relative(
        self, change: Float[np.ndarray, "draws B d"], before: Float[np.ndarray, "B d"]
    ) -> Float[np.ndarray, "draws B d"]:
        """Return changes in parts of what was there."""
        if self.zeros is not None:
            return change / np.where(before == 0, self.zeros, before)
        before = np.broadcast_to(before, change.shape)
        return np.divide(change, before, out=np.zeros_like(change), where=before != 0)

    def norm(self, change: Float[np.ndarray, "draws B d"]) -> Float[np.ndarray, "draws B"]:
        """Return the size of changes."""
        return np.linalg.norm(change, ord=self.power, axis=-1)


@register(
    "relative_input_stability", "robustness", "max_x' ‖(Φ(x) − Φ(x'))/Φ(x)‖_p / max(‖(x − x')/x‖_p, ε)",
    "Agarwal et al. 2022, arXiv:2203.06877", better="lower", needs=("method",),
)  # fmt: skip
@dataclass(frozen=True)
class RelativeInputStability(Relative):
    """By what part the explanation changes at most, for the part by which the input is moved.

    Attributes:
        samples: draws x', uniform in the box around x.
        radius: each number is moved by at most so much, in the inputs' own units (pixels: of [0, 1]).
        same_class: only draws that predict the same class count, as in the paper.
        power: p of the norms.
        least: ε, below which no change of the input is divided by.
        zeros: what shares and inputs that are 0 are divided by; None leaves them out: in the paper they are infinite.
    """

    def below(self, moved: Moved) -> Float[np.ndarray, "draws B"]:
        """Return the relative change of the input."""
        return self.norm(self.relative(moved.distance, numbers(moved.judged, moved.judged.problem.inputs)))


@register(
    "relative_output_stability", "robustness", "max_x' ‖(Φ(x) − Φ(x'))/Φ(x)‖_p / max(‖h(x) − h(x')‖_p, ε)",
    "Agarwal et al. 2022, arXiv:2203.06877", better="lower", needs=("method",),
)  # fmt: skip
@dataclass(frozen=True)
class RelativeOutputStability(Relative):
    """By what part the explanation changes at most, for what the model's outputs change.

    Attributes:
        samples: draws x', uniform in the box around x.
        radius: each number is moved by at most so much, in the inputs' own units (pixels: of [0, 1]).
        same_class: only draws that predict the same class count, as in the paper.
        power: p of the norms.
        least: ε, below which no change of the outputs is divided by.
        zeros: what shares that are 0 are divided by; None leaves them out: in the paper they are infinite.
    """

    def below(self, moved: Moved) -> Float[np.ndarray, "draws B"]:
        """Return the change of all outputs together."""
        outputs = moved.outputs
        change = (outputs - moved.judged.outputs).reshape(*outputs.shape[:2], -1)
        return self.norm(change)
