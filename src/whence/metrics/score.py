"""The result of a metric: one number for each example, how sure it is, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.metrics.defined import error_of_mean

Better = Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Score:
    """What a metric says of each example's explanation.

    Attributes:
        metric: the metric's registered name.
        values: one number for each example [B], float64; NaN where it is not defined (the notes say why).
        better: whether explanations are better where it is "higher" or "lower"; None where neither is.
        standard_error: the sampling error of each value [B], where the metric draws lots; else None.
        draws: the mean over the examples in each draw [R], where a draw (of new weights, another class) is one for all
            examples and there are several; else None.
        places: where curves were evaluated [S]; None where the metric has no curve.
        curve: each example's curve [B, S] (NaN where it is not defined); None where the metric has none.
        evaluations: runs of the model for each example [B]; those of explaining again are counted too.
        notes: sentences for the user.
        settings: what was asked.
    """

    metric: str
    values: Float[np.ndarray, "B"]
    better: Better = None
    standard_error: Float[np.ndarray, "B"] | None = None
    draws: Float[np.ndarray, "R"] | None = None
    places: Float[np.ndarray, "S"] | None = None
    curve: Float[np.ndarray, "B S"] | None = None
    evaluations: Int[np.ndarray, "B"] | None = None
    notes: list[str] = field(default_factory=list[str])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def defined(self) -> Bool[np.ndarray, "B"]:
        """For which examples there is a value [B]."""
        return np.isfinite(self.values)

    @property
    def count(self) -> int:
        """How many examples have a value."""
        return int(self.defined.sum())

    @property
    def mean(self) -> float:
        """The mean over the examples that have a value; NaN where none has."""
        return float(self.values[self.defined].mean()) if self.count else float("nan")

    @property
    def error(self) -> float:
        """The standard error of the mean, as an estimate for all such examples and draws: √(spread²/B + spread²/R).

        The first part is the spread of the values over the B examples, which holds what a draw does to each of them
        differently. The second is the spread of the R means of `draws`: what a draw does to all examples alike. Where
        there are no such means (one draw of new weights, one other class; the noise of infidelity), it is not known and
        left out. Of a single example it is that example's own sampling error alone, and NaN where there is none.
        """
        known = self.values[self.defined]
        if len(known) > 1:
            return float(np.hypot(error_of_mean(known, 0), self._error_of_draws))
        if len(known) and self.standard_error is not None:
            return float(self.standard_error[self.defined][0])
        return float("nan")

    @property
    def _error_of_draws(self) -> float:
        found = 0.0 if self.draws is None else float(error_of_mean(self.draws, 0))
        return found if np.isfinite(found) else 0.0

    def __repr__(self) -> str:
        told = f"{self.metric}: {self.mean:.4g} ± {self.error:.2g}"
        direction = "" if self.better is None else f", {self.better} is better"
        return f"Score({told} over {self.count} of {len(self.values)} examples{direction})"
