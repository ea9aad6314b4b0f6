"""Infidelity: how well an explanation predicts what perturbations of the input do to the output."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from whence.coalitions.playing import absence
from whence.counts import whole
from whence.draws import Draws
from whence.errors import Refused
from whence.metrics.judged import Judged
from whence.metrics.metric import Metric, register
from whence.metrics.optimum import Optimum, draws_for, fitted, optimal_explanation
from whence.metrics.perturbations import differences, resolve
from whence.metrics.played import Of, function_of
from whence.metrics.reactions import Told, draws_of, reactions
from whence.metrics.score import Score

__all__ = ["Infidelity", "InfidelityScore", "optimal_explanation"]


@dataclass(frozen=True, repr=False)
class InfidelityScore(Score):
    """Infidelity, with the least that any explanation could have had where it was asked for.

    Attributes:
        optimum: the best explanation of the same reactions, and what it attains; None where it was not asked for.
    """

    optimum: Optimum | None = None


@register(
    "infidelity", "faithfulness", "E_I [(Iᵀφ − (f(x) − f(x − I)))²]",
    "Yeh, Hsieh, Suggala, Inouye, Ravikumar 2019, arXiv:1901.09392", better="lower",
)  # fmt: skip
@dataclass(frozen=True)
class Infidelity(Metric):
    """The mean squared error with which Iᵀφ predicts how the output falls when I is taken away from the input.

    It has the unit of the output squared: compare it with `yardstick=True`, or with another explanation's.

    Attributes:
        perturbation: what I is: "gaussian", "square" or "noisy_baseline", one of `whence.metrics.perturbations` with
            its settings, or a function (inputs [n, ...], numbers of draws [n]) -> I [n, ...].
        samples: draws of I, shared by all examples.
        contributions: the explanation holds contributions, into which x − x' is multiplied (integrated gradients,
            DeepLIFT, Shapley values, gradient x input): they are divided by it, as Iᵀφ needs. Where x = x' they are
            taken for 0. None asks the question's method whether its numbers are slopes; without one they are.
        baseline: x' of those contributions; None is black for pictures in pixels, else 0.
        rescale: multiply each explanation with the number that makes its infidelity least, so that its scale does not
            count; nor does its sign: that number may be negative, and φ and −φ get the same value.
        yardstick: also find the explanation of least infidelity, as `optimum` of the score; at least four draws for
            each number of the input are taken then.
        of: "target" (the explained number) or "probability" (of the explained class).
    """

    perturbation: Any = "gaussian"
    samples: int = 200
    contributions: bool | None = None
    baseline: Any = None
    rescale: bool = False
    yardstick: bool = False
    of: Of = "target"

    def scored(self, judged: Judged) -> InfidelityScore:
        problem = function_of(judged, self.of)
        samples = whole(self.samples, "samples", 2)
        count = max(samples, draws_for(problem, None)) if self.yardstick else samples
        if count > samples:
            judged.note(f"{count} draws instead of {samples}: the best explanation cannot be told from fewer")
        drawn = resolve(self.perturbation).drawn(problem, count)
        told = Told.empty(self._slopes(judged), draws_of(drawn, count))
        found = judged.once(
            ("reactions", self.perturbation, self.of, count), lambda: reactions(problem, drawn, count, told)
        )
        products = told.finished(problem, drawn)
        factor = _scales(products, found.found) if self.rescale else np.ones(len(products))
        squares = (factor[:, None] * products - found.found) ** 2
        if not found.moved.all():
            judged.note("nothing of some examples was perturbed: their infidelity is not defined")
            squares[~found.moved] = np.nan
        judged.evaluations += squares.shape[1]
        error = squares.std(axis=1, ddof=1) / np.sqrt(squares.shape[1]) if squares.shape[1] > 1 else None
        score = self.score(
            judged,
            squares.mean(1),
            standard_error=np.where(found.moved, 0.0, np.nan) if found.exact else error,
            evaluations=judged.evaluations,
        )
        own = {each.name: getattr(score, each.name) for each in fields(score)}
        return InfidelityScore(**own, optimum=fitted(problem, drawn, found.found) if self.yardstick else None)

    def _slopes(self, judged: Judged) -> tuple[Float[np.ndarray, "B ..."], ...]:
        """Return φ such that Iᵀφ predicts a change: contributions are divided by x − x'."""
        problem, values = judged.problem, judged.explained
        if any(each.shape[1:] != leaf.shape[1:] for each, leaf in zip(values, problem.inputs, strict=True)):
            judged.note(
                "the explanation has one number for each pixel: each of its channels carries that number"
            )
        slopes = getattr(judged.method, "slopes", True)
        if not (not slopes if self.contributions is None else self.contributions):
            return values
        draws = Draws(problem, absence(self.baseline, problem))
        if draws.count > 1:
            raise Refused("contributions are divided by x − x', and this baseline has several x': give one")
        rows = np.arange(judged.count)
        gaps = differences(problem, draws, rows, np.zeros_like(rows))
        return tuple(
            np.divide(value, gap, out=np.zeros_like(gap), where=gap != 0)
            for value, gap in zip(values, gaps, strict=True)
        )


def _scales(told: Float[np.ndarray, "B n"], found: Float[np.ndarray, "B n"]) -> Float[np.ndarray, "B"]:
    """Return the factor of each explanation with which its infidelity is least."""
    size = (told**2).sum(1)
    return np.divide((told * found).sum(1), size, out=np.zeros_like(size), where=size > 0)
