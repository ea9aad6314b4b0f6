"""Robustness: how much an explanation changes where its input hardly does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from whence.metrics.judged import Judged
from whence.metrics.metric import register
from whence.metrics.perturbed import Moved, Perturbing
from whence.metrics.score import Score


@dataclass(frozen=True)
class Sensitivity(Perturbing):
    """What the two sensitivities share: ‖Φ(x + δ) − Φ(x)‖, relative to ‖Φ(x)‖ if asked."""

    relative: bool = True
    absolute: bool = False
    scaled: bool = False

    def changes(self, judged: Judged) -> Float[np.ndarray, "B samples"]:
        """Return by how much the explanation changes in every draw."""

        def measure(
            moved: Moved, before: Float[np.ndarray, "B d"], after: Float[np.ndarray, "draws B d"]
        ) -> Float[np.ndarray, "draws B"]:
            before = self._seen(before)
            change = np.linalg.norm(self._seen(after) - before, axis=-1)
            if not self.relative:
                return change
            size = np.linalg.norm(before, axis=1)
            if not size.all():
                judged.note(
                    f"{int((size == 0).sum())} explanations hold nothing but zeros: relative to them a change is not "
                    "defined (relative=False measures it as it is)"
                )
            return ratio(change, np.broadcast_to(size, change.shape))

        return self.measured(judged, measure)

    def _seen(self, values: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
        """Return the explanations as they are compared."""
        values = np.abs(values) if self.absolute else values
        if not self.scaled:
            return values
        largest = np.abs(values).max(-1, keepdims=True)
        return np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)


@register(
    "max_sensitivity", "robustness", "max_δ ‖Φ(x + δ) − Φ(x)‖ / ‖Φ(x)‖, |δ_i| ≤ r",
    "Yeh et al. 2019, arXiv:1901.09392", better="lower", needs=("method",),
)  # fmt: skip
@dataclass(frozen=True)
class MaxSensitivity(Sensitivity):
    """How much the explanation changes at most where the input is moved a little.

    The paper's equation has the change as it is (relative=False); its authors' own code divides it by ‖Φ(x)‖, as nearly
    everybody does. A maximum over draws is a lower bound of that over the box, and has no standard error: more samples
    raise it.

    Attributes:
        samples: draws δ, uniform in the box.
        radius: each number is moved by at most so much, in the inputs' own units (pixels: of [0, 1]).
        same_class: draws in which another class is predicted are left out; the explained class stays the same anyway.
        relative: divide by the norm of the explanation; not defined where that is 0.
        absolute: compare the sizes of the shares, without their signs.
        scaled: first divide each explanation by its own largest size (Quantus' normalise=True).
    """

    def scored(self, judged: Judged) -> Score:
        values = largest(self.changes(judged), judged)
        return self.score(judged, values, evaluations=judged.evaluations)


@register(
    "average_sensitivity", "robustness", "E_δ ‖Φ(x + δ) − Φ(x)‖ / ‖Φ(x)‖, |δ_i| ≤ r",
    "Bhatt, Weller, Moura 2020, arXiv:2005.00631; Yeh et al. 2019, arXiv:1901.09392", better="lower",
    needs=("method",),
)  # fmt: skip
@dataclass(frozen=True)
class AverageSensitivity(Sensitivity):
    """How much the explanation changes on average where the input is moved a little.

    Attributes:
        samples: draws δ, uniform in the box.
        radius: each number is moved by at most so much, in the inputs' own units (pixels: of [0, 1]).
        same_class: draws in which another class is predicted are left out; the explained class stays the same anyway.
        relative: divide by the norm of the explanation; not defined where that is 0.
        absolute: compare the sizes of the shares, without their signs.
        scaled: first divide each explanation by its own largest size.
    """

    def scored(self, judged: Judged) -> Score:
        changes = self.changes(judged)
        kept = np.isfinite(changes)
        count = kept.sum(1)
        total = np.where(kept, changes, 0.0).sum(1)
        mean = ratio(total, count.astype(np.float64))
        _note_empty(mean, judged)
        spread = np.where(kept, (changes - mean[:, None]) ** 2, 0.0).sum(1)
        error = np.sqrt(ratio(spread, np.maximum(count - 1.0, 0.0) * count))
        return self.score(judged, mean, standard_error=error, evaluations=judged.evaluations)


@register(
    "local_lipschitz", "robustness", "max_δ ‖Φ(x + δ) − Φ(x)‖₂ / ‖δ‖₂, |δ_i| ≤ r",
    "Alvarez-Melis, Jaakkola 2018, arXiv:1806.08049", better="lower", needs=("method",), title="Local Lipschitz",
)  # fmt: skip
@dataclass(frozen=True)
class LocalLipschitz(Perturbing):
    """How fast the explanation changes at most, for each step that the input is moved.

    Attributes:
        samples: draws δ, uniform in the box.
        radius: each number is moved by at most so much, in the inputs' own units (pixels: of [0, 1]).
        same_class: draws in which another class is predicted are left out.
    """

    def scored(self, judged: Judged) -> Score:
        def measure(
            moved: Moved, before: Float[np.ndarray, "B d"], after: Float[np.ndarray, "draws B d"]
        ) -> Float[np.ndarray, "draws B"]:
            steps = np.linalg.norm(moved.distance, axis=-1)
            return ratio(np.linalg.norm(after - before, axis=-1), steps)

        values = largest(self.measured(judged, measure), judged)
        return self.score(judged, values, evaluations=judged.evaluations)


def ratio(
    above: Float[np.ndarray, "*shape"], below: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Return a quotient; NaN where nothing can be divided by."""
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def largest(found: Float[np.ndarray, "B samples"], judged: Judged) -> Float[np.ndarray, "B"]:
    """Return the maximum over the draws that are defined; NaN where none is."""
    values = np.where(np.isfinite(found), found, -np.inf).max(1)
    values[~np.isfinite(values)] = np.nan
    _note_empty(values, judged)
    return values


def _note_empty(values: Float[np.ndarray, "B"], judged: Judged) -> None:
    if np.isnan(values).any():
        judged.note(f"for {int(np.isnan(values).sum())} of {len(values)} examples no draw has a value")
