"""Slow twins of the faithfulness metrics for one example: plain loops, written from the papers' formulas.

`f` is a function of one example [...] to a number; `parts` are lists of places in the flattened example, one for each
feature; `shares` are the features' shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Function = Callable[[np.ndarray], float]
Parts = Sequence[Sequence[int]]


def elements(x: np.ndarray) -> list[list[int]]:
    """Every number as a feature."""
    return [[place] for place in range(x.size)]


def pixels(x: np.ndarray) -> list[list[int]]:
    """Every pixel of [channels, height, width] as a feature, its channels together."""
    channels, area = x.shape[0], x.shape[1] * x.shape[2]
    return [[channel * area + place for channel in range(channels)] for place in range(area)]


def shares_of(phi: np.ndarray, parts: Parts) -> list[float]:
    return [sum(float(phi.ravel()[place]) for place in part) for part in parts]


def replaced(x: np.ndarray, other: np.ndarray, parts: Parts, which: Sequence[int]) -> np.ndarray:
    """Return x with some features as they are in another."""
    found = x.copy().ravel()
    for feature in which:
        for place in parts[feature]:
            found[place] = other.ravel()[place]
    return found.reshape(x.shape)


def falling(shares: Sequence[float]) -> list[int]:
    return sorted(range(len(shares)), key=lambda feature: -shares[feature])


# ---- Petsiuk et al. 2018; Bach et al. 2015; Samek et al. 2017 ---------------------------------------------------


def removal_curve(
    f: Function,
    x: np.ndarray,
    other: np.ndarray,
    parts: Parts,
    shares: Sequence[float],
    counts: Sequence[int],
) -> list[float]:
    """f where the first features by falling share are replaced."""
    order = falling(shares)
    return [f(replaced(x, other, parts, order[:count])) for count in counts]


def area(curve: Sequence[float], places: Sequence[float]) -> float:
    total = 0.0
    for step in range(1, len(curve)):
        total += (places[step] - places[step - 1]) * (curve[step] + curve[step - 1]) / 2
    return total


def even(features: int, steps: int) -> list[int]:
    return [int(np.rint(features * step / steps)) for step in range(steps + 1)]


def deletion(
    f: Function, x: np.ndarray, black: np.ndarray, parts: Parts, shares: Sequence[float], steps: int
) -> float:
    counts = even(len(parts), steps)
    return area(removal_curve(f, x, black, parts, shares, counts), [count / len(parts) for count in counts])


def insertion(
    f: Function, x: np.ndarray, blurred: np.ndarray, parts: Parts, shares: Sequence[float], steps: int
) -> float:
    counts = even(len(parts), steps)
    return area(removal_curve(f, blurred, x, parts, shares, counts), [count / len(parts) for count in counts])


def aopc(
    f: Function,
    x: np.ndarray,
    other: np.ndarray,
    parts: Parts,
    shares: Sequence[float],
    size: int,
    steps: int | None,
) -> float:
    """(1/(L+1)) Σ_{k=0..L} f(x^0) − f(x^k)."""
    most = math.ceil(len(parts) / size) if steps is None else steps
    order, total = falling(shares), 0.0
    for step in range(most + 1):
        total += f(x) - f(replaced(x, other, parts, order[: step * size]))
    return total / (most + 1)


# ---- Yeh et al. 2019 -----------------------------------------------------------------------------------------------


def infidelity(f: Function, x: np.ndarray, phi: np.ndarray, perturbations: Sequence[np.ndarray]) -> float:
    """The mean over I of (Iᵀφ − (f(x) − f(x − I)))²."""
    total = 0.0
    for change in perturbations:
        said = sum(float(a) * float(b) for a, b in zip(change.ravel(), phi.ravel(), strict=True))
        total += (said - (f(x) - f(x - change))) ** 2
    return total / len(perturbations)


def rescaled_infidelity(
    f: Function, x: np.ndarray, phi: np.ndarray, perturbations: Sequence[np.ndarray]
) -> float:
    """The least over β of the infidelity of βφ."""
    above = sum(float((change * phi).sum()) * (f(x) - f(x - change)) for change in perturbations)
    below = sum(float((change * phi).sum()) ** 2 for change in perturbations)
    return infidelity(f, x, phi * (above / below), perturbations)


def squares(x: np.ndarray, other: np.ndarray, size: int) -> list[np.ndarray]:
    """Every square of [channels, height, width] as what is taken away: x − x' inside, 0 outside."""
    found: list[np.ndarray] = []
    for top in range(x.shape[1] - size + 1):
        for left in range(x.shape[2] - size + 1):
            change = np.zeros_like(x)
            inside = (slice(None), slice(top, top + size), slice(left, left + size))
            change[inside] = (x - other)[inside]
            found.append(change)
    return found


def optimum(f: Function, x: np.ndarray, perturbations: Sequence[np.ndarray]) -> np.ndarray:
    """(E[IIᵀ])⁻¹ E[I(f(x) − f(x − I))], with the pseudo-inverse where it is singular."""
    size = x.size
    second, first = np.zeros((size, size)), np.zeros(size)
    for change in perturbations:
        flat = change.ravel()
        second += np.outer(flat, flat) / len(perturbations)
        first += flat * (f(x) - f(x - change)) / len(perturbations)
    return (np.linalg.pinv(second, rcond=1e-12) @ first).reshape(x.shape)


# ---- correlations ----------------------------------------------------------------------------------------------------


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    count = len(one)
    a, b = sum(one) / count, sum(other) / count
    above = sum((x - a) * (y - b) for x, y in zip(one, other, strict=True))
    below = math.sqrt(sum((x - a) ** 2 for x in one) * sum((y - b) ** 2 for y in other))
    return above / below


def ranks(values: Sequence[float]) -> list[float]:
    """Places from 1; equal numbers share the mean of theirs."""
    return [
        1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    return correlation(ranks(one), ranks(other))


def jackknife(one: Sequence[float], other: Sequence[float]) -> float:
    """The standard error of a correlation: √((m − 1)/m Σ (r without i − their mean)²)."""
    count = len(one)
    left = [correlation([*one[:i], *one[i + 1 :]], [*other[:i], *other[i + 1 :]]) for i in range(count)]
    mean = sum(left) / count
    return math.sqrt((count - 1) / count * sum((each - mean) ** 2 for each in left))


def subsets_correlation(
    f: Function,
    x: np.ndarray,
    other: np.ndarray,
    parts: Parts,
    shares: Sequence[float],
    subsets: Sequence[Sequence[int]],
) -> tuple[float, float]:
    """Bhatt et al. 2020, equation 1; Ancona et al. 2018, section 3.3: the correlation, and its jackknife error."""
    told = [sum(shares[feature] for feature in subset) for subset in subsets]
    found = [f(x) - f(replaced(x, other, parts, subset)) for subset in subsets]
    return correlation(told, found), jackknife(told, found)


def faithfulness_estimate(
    f: Function, x: np.ndarray, other: np.ndarray, parts: Parts, shares: Sequence[float], size: int = 1
) -> float:
    """Alvarez-Melis, Jaakkola 2018, section 5: relevance against the drop of the probability."""
    order = falling(shares)
    groups = [order[first : first + size] for first in range(0, len(order), size)]
    told = [sum(shares[feature] for feature in group) for group in groups]
    return correlation(told, [f(x) - f(replaced(x, other, parts, group)) for group in groups])


def monotonicity(
    f: Function, x: np.ndarray, other: np.ndarray, parts: Parts, shares: Sequence[float], size: int = 1
) -> float:
    """Luss et al. 2019: features are put into the baseline by rising importance, and p must not fall."""
    order = falling(shares)[::-1]
    before, counts = f(other), [*range(size, len(order), size), len(order)]
    for count in counts:
        now = f(replaced(other, x, parts, order[:count]))
        if now < before:
            return 0.0
        before = now
    return 1.0


def monotonicity_correlation(
    f: Function, x: np.ndarray, others: Sequence[np.ndarray], parts: Parts, shares: Sequence[float]
) -> float:
    """Nguyen, Martínez 2020: Spearman's ρ of |share| and the expected squared loss when a feature is drawn."""
    loss = [
        sum((f(x) - f(replaced(x, other, parts, [feature]))) ** 2 for other in others) / len(others)
        for feature in range(len(parts))
    ]
    return rank_correlation([abs(share) for share in shares], loss)


# ---- Rong et al. 2022 ------------------------------------------------------------------------------------------------


def linear_imputation(picture: np.ndarray, removed: np.ndarray, rounds: int = 20_000) -> np.ndarray:
    """Each removed pixel is the weighted mean of its eight neighbours, found by going over them again and again."""
    found = picture.copy()
    channels, height, width = picture.shape
    found[:, removed] = 0.0
    for _ in range(rounds):
        worst = 0.0
        for y in range(height):
            for x in range(width):
                if not removed[y, x]:
                    continue
                total, weights = np.zeros(channels), 0.0
                for down in (-1, 0, 1):
                    for right in (-1, 0, 1):
                        inside = 0 <= y + down < height and 0 <= x + right < width
                        if inside and (down, right) != (0, 0):
                            weight = 1 / 12 if down and right else 1 / 6
                            total += weight * found[:, y + down, x + right]
                            weights += weight
                new = total / weights
                worst = max(worst, float(np.abs(new - found[:, y, x]).max()))
                found[:, y, x] = new
        if worst < 1e-13:
            break
    return found


# ---- Dasgupta et al. 2022 --------------------------------------------------------------------------------------------


def sufficiency(explanations: np.ndarray, classes: Sequence[int], threshold: float) -> list[float]:
    """The part of the others whose explanation is near that are in the same class; NaN where there is none."""
    count, numbers = explanations.shape
    spread = [float(np.std(explanations[:, number], ddof=1)) for number in range(numbers)]
    distance = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            distance[i, j] = math.sqrt(
                sum(
                    ((explanations[i, n] - explanations[j, n]) / spread[n]) ** 2
                    for n in range(numbers)
                    if spread[n] > 0
                )
            )
    distance /= distance.max()
    found: list[float] = []
    for i in range(count):
        near = [j for j in range(count) if j != i and distance[i, j] <= threshold]
        found.append(sum(classes[j] == classes[i] for j in near) / len(near) if near else float("nan"))
    return found
