"""Whether the shares of features agree with what removing them does to the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.baseline import uniform
from whence.counts import whole
from whence.errors import BadInput, Refused
from whence.metrics.agreement import pearson, pearson_error, spearman
from whence.metrics.judged import Judged
from whence.metrics.metric import Metric, register
from whence.metrics.order import ranked
from whence.metrics.played import Of, Played, gathered, played, switched
from whence.metrics.score import Score

Pairs = Float[np.ndarray, "n m"]
CONSTANT = "the shares, or what removing them does, are the same everywhere for {} examples: no correlation is defined"
# A subset's size where none is given, in parts of all features.
QUARTER = 4
# The sizes of sensitivity-n: so many from 1 to this part of all features, evenly by their logarithm.
SIZES, LARGEST = 10, 0.8
# What falls by less than this part of the largest number has not fallen.
ROUNDING = 1e-6


@register(
    "faithfulness_correlation", "faithfulness", "corr_S (Σ_{i∈S} φ_i, f(x) − f(x without S)) over random S, |S| = n",
    "Bhatt, Weller, Moura 2020, arXiv:2005.00631", better="higher",
)  # fmt: skip
@dataclass(frozen=True)
class FaithfulnessCorrelation(Metric):
    """The correlation between the summed shares of random features and what removing them together takes away.

    Attributes:
        size: how many features are removed at once; None is a quarter of them.
        samples: random subsets, shared by all examples that have as many features.
        features: what is removed together; None takes every pixel with its channels together (else every number).
        baseline: what stands in for what is removed; None is black for pictures in pixels, else 0.
        of: "target" (the explained number) or "probability" (of the explained class).
    """

    size: int | None = None
    samples: int = 100
    features: Any = None
    baseline: Any = None
    of: Of = "target"

    def scored(self, judged: Judged) -> Score:
        samples = whole(self.samples, "samples", 3)

        def measure(each: Played) -> Float[np.ndarray, "n 2"]:
            size = _size(self.size, each.game.count)
            told, found = _subsets(judged, each, size, samples, (self.of, self.features, self.baseline))
            return np.stack([pearson(told, found), pearson_error(told, found)], 1)

        both = gathered(judged, played(judged, self.of, self.features, self.baseline), measure)
        _note_undefined(judged, both[:, 0])
        return self.score(judged, both[:, 0], standard_error=both[:, 1], evaluations=judged.evaluations)


@register(
    "sensitivity_n", "faithfulness",
    "mean over n of corr_S (Σ_{i∈S} φ_i, f(x) − f(x without S)) over random S, |S| = n",
    "Ancona, Ceolini, Öztireli, Gross 2018, arXiv:1711.06104", better="higher", title="Sensitivity-n",
)  # fmt: skip
@dataclass(frozen=True)
class SensitivityN(Metric):
    """The correlation between summed shares and what removing n features takes away, averaged over several n.

    The curve [B, S] holds the correlation at each size, with the sizes as its places (where examples have other
    numbers of features: those of the example that has most).

    Attributes:
        sizes: the numbers of features that are removed at once; None takes 10 from 1 to 80 % of the features, evenly
            by their logarithm.
        samples: random subsets of each size, shared by all examples that have as many features.
        features: what is removed together; None takes every pixel with its channels together (else every number).
        baseline: what stands in for what is removed; None is black for pictures in pixels, else 0.
        of: "target" (the explained number) or "probability" (of the explained class).
    """

    sizes: tuple[int, ...] | None = None
    samples: int = 100
    features: Any = None
    baseline: Any = None
    of: Of = "target"

    def scored(self, judged: Judged) -> Score:
        samples = whole(self.samples, "samples", 3)
        games = played(judged, self.of, self.features, self.baseline)

        def measure(each: Played) -> Float[np.ndarray, "n S 2"]:
            settings = (self.of, self.features, self.baseline)
            sizes = self._sizes(each.game.count)
            pairs = [_subsets(judged, each, size, samples, settings) for size in sizes]
            return np.stack([[pearson(*pair), pearson_error(*pair)] for pair in pairs]).transpose(2, 0, 1)

        both = gathered(judged, games, measure)
        curve, error = both[..., 0], both[..., 1]
        known = np.isfinite(curve)
        count = known.sum(1)
        values = np.divide(
            np.where(known, curve, 0).sum(1), count, out=np.full(len(curve), np.nan), where=count > 0
        )
        spread = np.sqrt((np.where(known, error, 0) ** 2).sum(1))
        _note_undefined(judged, values)
        sizes = self._sizes(max(each.game.count for each in games))
        return self.score(
            judged, values, places=np.array(sizes, dtype=np.float64), curve=curve, evaluations=judged.evaluations,
            standard_error=np.divide(spread, count, out=np.full(len(curve), np.nan), where=count > 0),
        )  # fmt: skip

    def _sizes(self, features: int) -> tuple[int, ...]:
        if self.sizes is None:
            largest = max(1, int(LARGEST * features))
            return tuple(int(each) for each in np.unique(np.rint(np.geomspace(1, largest, SIZES))))
        if not self.sizes:
            raise BadInput("sizes is empty; give at least one number of features")
        return tuple(_size(each, features) for each in self.sizes)


@register(
    "faithfulness_estimate", "faithfulness", "corr_i (φ_i, p(x) − p(x without feature i))",
    "Alvarez-Melis, Jaakkola 2018, arXiv:1806.07538", better="higher",
)  # fmt: skip
@dataclass(frozen=True)
class FaithfulnessEstimate(Metric):
    """The correlation between each feature's share and what removing it alone takes away.

    Attributes:
        features: what is removed together; None takes every pixel with its channels together (else every number).
        features_in_step: how many of them, next to each other in the order of their shares, are removed at once.
        baseline: what stands in for what is removed; None is black for pictures in pixels, else 0.
        of: "probability" (of the explained class) or "target" (the explained number).
    """

    features: Any = None
    features_in_step: int = 1
    baseline: Any = None
    of: Of = "probability"

    def scored(self, judged: Judged) -> Score:
        size = whole(self.features_in_step, "features_in_step")

        def measure(each: Played) -> Float[np.ndarray, "n 1"]:
            return pearson(*_groups(judged, each, size))[:, None]

        values = gathered(judged, played(judged, self.of, self.features, self.baseline), measure)[:, 0]
        _note_undefined(judged, values)
        return self.score(judged, values, evaluations=judged.evaluations)


@register(
    "monotonicity", "faithfulness", "1 if p does not fall as features are put in by rising φ, else 0",
    "Luss et al. 2019, arXiv:1905.12698; Arya et al. 2019, arXiv:1909.03012", better="higher",
)  # fmt: skip
@dataclass(frozen=True)
class Monotonicity(Metric):
    """Whether the class's probability never falls while features are put in, the least important first.

    The curve [B, S] is the probability, from the baseline on, with the present parts of all features as its places. A
    fall by less than a millionth of the curve's largest number is none: networks round.

    Attributes:
        features: what is put in together; None takes every pixel with its channels together (else every number).
        features_in_step: how many of them at each step.
        baseline: what is there before; None is black for pictures in pixels, else 0.
        absolute: by rising |φ| instead of φ.
        of: "probability" (of the explained class) or "target" (the explained number).
    """

    features: Any = None
    features_in_step: int = 1
    baseline: Any = None
    absolute: bool = False
    of: Of = "probability"

    def scored(self, judged: Judged) -> Score:
        size = whole(self.features_in_step, "features_in_step")

        def counts(features: int) -> Int[np.ndarray, "S"]:
            return np.minimum(size * np.arange(-(-features // size) + 1), features)

        def measure(each: Played) -> Float[np.ndarray, "n S"]:
            shares = np.abs(each.shares) if self.absolute else each.shares
            return switched(each.game, ranked(judged, -shares), counts(each.game.count), present=True)

        games = played(judged, self.of, self.features, self.baseline)
        curve = gathered(judged, games, measure)
        most = max(each.game.count for each in games)
        noise = ROUNDING * np.nanmax(np.abs(curve), axis=1, keepdims=True)
        falls = (np.diff(curve, axis=1) < -noise).any(1)
        return self.score(
            judged, (~falls).astype(np.float64), places=counts(most) / most, curve=curve,
            evaluations=judged.evaluations,
        )  # fmt: skip


@register(
    "monotonicity_correlation", "faithfulness", "Spearman's ρ_i (|φ_i|, E_v [(f(x) − f(x with feature i = v))²])",
    "Nguyen, Martínez 2020, arXiv:2007.07584", better="higher",
)  # fmt: skip
@dataclass(frozen=True)
class MonotonicityCorrelation(Metric):
    """The rank correlation between |share| and how far the output moves when a feature takes random values.

    Attributes:
        features: what takes random values together; None takes every pixel with its channels together (else every
            number).
        features_in_step: how many of them, next to each other in the order of their |shares|, at once.
        baseline: where the values come from; None is 10 pictures of uniform noise, as `whence.baseline.uniform`.
        of: "target" (the explained number) or "probability" (of the explained class).
    """

    features: Any = None
    features_in_step: int = 1
    baseline: Any = None
    of: Of = "target"

    def scored(self, judged: Judged) -> Score:
        size = whole(self.features_in_step, "features_in_step")
        baseline = uniform() if self.baseline is None else self.baseline

        def measure(each: Played) -> Float[np.ndarray, "n 1"]:
            return spearman(*_movements(judged, each, size))[:, None]

        values = gathered(judged, played(judged, self.of, self.features, baseline), measure)[:, 0]
        _note_undefined(judged, values)
        return self.score(judged, values, evaluations=judged.evaluations)


def _size(given: int | None, features: int) -> int:
    """Return how many features a subset holds."""
    if given is None:
        return max(1, features // QUARTER)
    size = whole(given, "size")
    if size > features:
        raise Refused(f"subsets of {size} features cannot be drawn from {features}")
    return size


def _subsets(
    judged: Judged, each: Played, size: int, samples: int, settings: tuple[Any, ...]
) -> tuple[Pairs, Pairs]:
    """Return, for random subsets, their summed shares and what removing them takes away."""
    game = each.game
    chosen = np.zeros((samples, game.count), dtype=bool)
    for draw in range(samples):
        picked = judged.random(f"subsets of {size}", draw).permutation(game.count)[:size]
        chosen[draw, picked] = True

    def taken() -> tuple[Pairs, Int[np.ndarray, "n"]]:
        before = game.evaluations.copy()
        found = game.full[:, None] - game.values_of(samples, lambda which: ~chosen[which])
        spent = game.evaluations - before
        game.evaluations -= spent
        return found, spent

    found, spent = judged.once(("subsets", settings, size, samples, each.rows.tobytes()), taken)
    # What another explanation has already had worked out counts for this one too: scores do not depend on the order.
    game.evaluations += spent
    return each.shares @ chosen.T.astype(np.float64), found


def _in_steps(judged: Judged, shares: Pairs, size: int) -> tuple[Int[np.ndarray, "n d"], Pairs]:
    """Return which step each feature belongs to, by falling share, and the summed shares of each step."""
    # One by one, the order of the steps is no matter, and no tie is broken.
    rank = np.broadcast_to(np.arange(shares.shape[1]), shares.shape) if size == 1 else ranked(judged, shares)
    step = rank // size
    count = -(-shares.shape[1] // size)
    sums = np.zeros((len(shares), count))
    np.add.at(sums, (np.arange(len(shares))[:, None], step), shares)
    return step, sums


def _groups(judged: Judged, each: Played, size: int) -> tuple[Pairs, Pairs]:
    """Return the summed shares of each step's features, and what removing them alone takes away."""
    game = each.game
    step, sums = _in_steps(judged, each.shares, size)
    row, which = np.nonzero(_touched(game.differing(), step, sums.shape[1]))

    def made(place: Int[np.ndarray, "m"]) -> Bool[np.ndarray, "m d"]:
        return step[row[place]] != which[place, None]

    found = np.zeros_like(sums)
    found[row, which] = game.full[row] - game.values_where(row, made)
    return sums, found


def _movements(judged: Judged, each: Played, size: int) -> tuple[Pairs, Pairs]:
    """Return the summed |shares| of each step's features, and the mean square by which their values move f."""
    game = each.game
    step, sums = _in_steps(judged, np.abs(each.shares), size)
    row, which, draw = (part.ravel() for part in np.indices((len(sums), sums.shape[1], game.draws.count)))

    def made(place: Int[np.ndarray, "m"]) -> Bool[np.ndarray, "m d"]:
        return step[row[place]] != which[place, None]

    found = game.values_where(row, made, draw).reshape(*sums.shape, game.draws.count)
    return sums, ((game.full[:, None, None] - found) ** 2).mean(2)


def _touched(
    differing: Bool[np.ndarray, "n d"], step: Int[np.ndarray, "n d"], count: int
) -> Bool[np.ndarray, "n steps"]:
    """Return in which steps there is a feature that makes a difference."""
    found = np.zeros((len(step), count), dtype=bool)
    rows, features = np.nonzero(differing)
    found[rows, step[rows, features]] = True
    return found


def _note_undefined(judged: Judged, values: Float[np.ndarray, "B"]) -> None:
    undefined = int(np.isnan(values).sum())
    if undefined:
        judged.note(CONSTANT.format(undefined))
