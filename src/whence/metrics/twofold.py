"""Axioms that compare two explanations: of two networks, of a sum of functions, of two features that are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from whence import question
from whence.counts import whole
from whence.errors import BadInput, Refused, UnsupportedByBackend
from whence.metrics.judged import Judged
from whence.metrics.metric import Metric, register
from whence.metrics.perturbed import flat
from whence.metrics.score import Score
from whence.metrics.trials import Trials

SUNDARARAJAN = "Sundararajan, Taly, Yan 2017, arXiv:1703.01365"
# How far two networks' outputs may differ and still be one function's: float noise is below it.
SAME = 1e-3


@register(
    "implementation_invariance", "axioms", "‖Φ(x, f₁) − Φ(x, f₂)‖₁ / max(‖Φ(x, f₁)‖₁, ‖Φ(x, f₂)‖₁),  f₁ = f₂",
    SUNDARARAJAN, better="lower", needs=("method", "other"),
)  # fmt: skip
@dataclass(frozen=True)
class ImplementationInvariance(Metric):
    """By how much the explanations of two networks differ that compute the same function.

    Attributes:
        other: the other network; that its outputs agree at the examples is checked first.
    """

    other: Any = None

    def scored(self, judged: Judged) -> Score:
        if self.other is None:
            raise BadInput("implementation invariance compares two networks: give other=, the second one")
        call = replace(judged.call, model=self.other, at=None)
        theirs, own = question.outputs(call), judged.outputs
        scale = max(float(np.abs(own).max(initial=0.0)), 1e-6)
        if theirs.shape != own.shape or np.abs(theirs - own).max(initial=0.0) > SAME * scale:
            raise Refused(
                "the other network computes something else: its outputs at the examples are not the same"
            )
        judged.evaluations += 1
        again = judged.again(judged.problem.inputs, np.arange(judged.count), model=self.other)
        return self.score(judged, _apart(judged.flat, flat(again)), evaluations=judged.evaluations)


@register(
    "linearity", "axioms", "‖Φ(x, af + bg) − (a Φ(x, f) + b Φ(x, g))‖₁, in parts of the larger of the two norms",
    SUNDARARAJAN, better="lower", needs=("method", "other"),
)  # fmt: skip
@dataclass(frozen=True)
class Linearity(Metric):
    """By how much the explanation of a weighted sum of two functions is not the weighted sum of their explanations.

    Attributes:
        other: g, of the same framework, with an output like f's.
        weights: (a, b).
    """

    other: Any = None
    weights: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        """Check the weights."""
        if len(self.weights) != 2 or not all(math.isfinite(each) for each in self.weights):
            raise BadInput(f"weights is {self.weights!r}; give two numbers, (a, b)")

    def scored(self, judged: Judged) -> Score:
        if self.other is None:
            raise BadInput("linearity is of a f + b g: give other=, the function g")
        if judged.call.output is not None:
            raise Refused(
                "linearity adds up whole outputs; wrap the models so that they return what output= picks"
            )
        a, b = self.weights
        rows, inputs = np.arange(judged.count), judged.problem.inputs
        both = _sum_of(_called(judged.call.model), _called(self.other), a, b)
        summed = a * judged.flat + b * flat(judged.again(inputs, rows, model=self.other))
        whole_sum = flat(judged.again(inputs, rows, model=both))
        return self.score(judged, _apart(whole_sum, summed), evaluations=judged.evaluations)


def _called(model: Any) -> Any:
    """Return a model as a function of a batch.

    Raises:
        UnsupportedByBackend: it is none, as files and modules of single examples are not.
    """
    pair: Any = model
    packages = {each.__module__.partition(".")[0] for each in type(model).__mro__}
    if isinstance(model, tuple) and len(pair) == 2 and callable(pair[0]) and not hasattr(pair[0], "apply"):
        function, parameters = pair
        return lambda *arrays, **named: function(parameters, *arrays, **named)
    if not callable(model) or "equinox" in packages:
        raise UnsupportedByBackend(
            f"linearity runs a f + b g as a function, and a {type(model).__name__} is none; wrap it as one"
        )
    return model


def _sum_of(f: Any, g: Any, a: float, b: float) -> Any:
    def both(*arrays: Any, **named: Any) -> Any:
        return a * f(*arrays, **named) + b * g(*arrays, **named)

    return both


@register(
    "symmetry", "axioms", "max_{(i, j)} |φ_i − φ_j| / ‖φ‖₁,  f(…, u, …, v, …) = f(…, v, …, u, …), x_i = x_j",
    SUNDARARAJAN, better="lower", needs=("pairs",),
)  # fmt: skip
@dataclass(frozen=True)
class Symmetry(Metric):
    """By how much the shares of two inputs differ that the function treats alike and that have the same value.

    Where the two values differ, the example with the second made like the first is explained again, which takes the
    method. That the function treats them alike is tried first.

    Attributes:
        pairs: the numbers (i, j), counted through the flattened inputs.
        tries: how often the two are swapped, with other values each time.
    """

    pairs: Sequence[tuple[int, int]] = ()
    tries: int = 4

    def __post_init__(self) -> None:
        """Check the number of trials."""
        whole(self.tries, "tries")

    def scored(self, judged: Judged) -> Score:
        if not self.pairs:
            raise BadInput("symmetry is of pairs of inputs: give pairs=[(i, j), ...]")
        trials = Trials(judged, judged.features())
        worst = np.zeros(judged.count)
        for i, j in self.pairs:
            self._check(trials, i, j)
            worst = np.maximum(worst, _difference(judged, trials, i, j))
        return self.score(judged, worst, evaluations=judged.evaluations)

    def _check(self, trials: Trials, i: int, j: int) -> None:
        """Refuse a pair that is none, or that the function does not treat alike."""
        count = sum(int(np.prod(each.shape[1:])) for each in trials.inputs)
        if not all(0 <= whole(each, "pairs", 0) < count for each in (i, j)):
            raise BadInput(f"pairs: ({i}, {j}) are not both numbers below {count}")
        rows = np.arange(trials.judged.count)
        for trial in range(self.tries):
            base = trials.anywhere(trial) if trial else trials.inputs
            swapped = _row(base)
            swapped[:, [i, j]] = swapped[:, [j, i]]
            after = trials.outputs(_like(swapped, base), rows)
            if trials.noticed(after[:, None], trials.outputs(base, rows)).any():
                raise Refused(
                    f"pairs: the output changes when inputs {i} and {j} are swapped: they are not alike"
                )


def _difference(judged: Judged, trials: Trials, i: int, j: int) -> Float[np.ndarray, "B"]:
    numbers = _row(trials.inputs)
    rows = np.flatnonzero(numbers[:, i] != numbers[:, j])
    shares = judged.flat.copy() if len(rows) < judged.count or not len(rows) else np.zeros_like(numbers)
    if shares.shape != numbers.shape:
        raise Refused(
            "symmetry compares single inputs, and the explanation has fewer shares than there are inputs"
        )
    if len(rows):
        alike = numbers[rows]
        alike[:, j] = alike[:, i]
        parts = tuple(each[rows] for each in trials.inputs)
        shares[rows] = flat(judged.again(trials.native(_like(alike, parts)), rows))
    total = np.abs(shares).sum(1)
    apart = np.abs(shares[:, i] - shares[:, j])
    return np.divide(apart, total, out=np.zeros_like(total), where=total > 0)


def _row(arrays: tuple[np.ndarray, ...]) -> Float[np.ndarray, "n d"]:
    return np.concatenate([each.reshape(len(each), -1) for each in arrays], 1)


def _like(rows: Float[np.ndarray, "n d"], arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    ends = np.cumsum([int(np.prod(each.shape[1:])) for each in arrays])[:-1]
    return tuple(
        part.reshape(each.shape) for part, each in zip(np.split(rows, ends, axis=1), arrays, strict=True)
    )


def _apart(one: Float[np.ndarray, "B d"], other: Float[np.ndarray, "B d"]) -> Float[np.ndarray, "B"]:
    """Return the L1 distance of explanations in parts of the larger one; 0 where both are 0."""
    size = np.maximum(np.abs(one).sum(1), np.abs(other).sum(1))
    return np.divide(np.abs(one - other).sum(1), size, out=np.zeros_like(size), where=size > 0)
