"""The result of a metric: one number for each example, how sure it is, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Better = Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Score:
    """What a metric says of each example's explanation.

    Attributes:
        metric: the metric's registered name.
        values: one number for each example [B], float64; NaN where it is not defined (the notes say why).
        better: whether explanations are better where it is "higher" or "lower"; None where neither is.
        standard_error: the sampling error of each value [B], where the metric draws lots; else None.
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
        """The standard error of the mean, as an estimate for all such examples: spread / √count.

        Draws are the same for all examples. What a draw does to each example differently is part of the spread; what it
        does to all of them alike (one set of new weights in mprt and efficient_mprt, one other class in random_logit,
        the noise of infidelity) is not, and only more draws make it smaller. Of a single example it is that example's
        own sampling error alone, and NaN where there is none.
        """
        known = self.values[self.defined]
        if len(known) > 1:
            return float(known.std(ddof=1) / np.sqrt(len(known)))
        if len(known) and self.standard_error is not None:
            return float(self.standard_error[self.defined][0])
        return float("nan")

    def __repr__(self) -> str:
        told = f"{self.metric}: {self.mean:.4g} ± {self.error:.2g}"
        direction = "" if self.better is None else f", {self.better} is better"
        return f"Score({told} over {self.count} of {len(self.values)} examples{direction})"
