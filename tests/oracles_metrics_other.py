"""Slow NumPy twins of the metrics of robustness, randomisation, complexity, localisation and the axioms.

Plain loops, written from the papers' equations, one example at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Vector = np.ndarray
Explain = Callable[[Vector], Vector]


# ---- robustness --------------------------------------------------------------------------------------------


def sensitivities(explain: Explain, x: Vector, moved: Sequence[Vector], relative: bool) -> list[float]:
    """Yeh et al. 2019: ‖Φ(x + δ) − Φ(x)‖, in parts of ‖Φ(x)‖ where asked, for each draw."""
    before = explain(x)
    found = []
    for other in moved:
        after = explain(other)
        change = math.sqrt(sum((a - b) ** 2 for a, b in zip(after, before, strict=True)))
        found.append(change / math.sqrt(sum(b**2 for b in before)) if relative else change)
    return found


def lipschitz(explain: Explain, x: Vector, moved: Sequence[Vector]) -> float:
    """Alvarez-Melis, Jaakkola 2018: max ‖Φ(x) − Φ(x')‖ / ‖x − x'‖."""
    return max(
        float(np.linalg.norm(explain(x) - explain(other)) / np.linalg.norm(x - other)) for other in moved
    )


def relative_stability(
    explain: Explain,
    below: Callable[[Vector, Vector], float],
    x: Vector,
    moved: Sequence[Vector],
    power: float,
    least: float,
) -> float:
    """Agarwal et al. 2022: max ‖(Φ(x) − Φ(x'))/Φ(x)‖_p / max(below, ε), over shares that are not 0."""
    found = []
    for other in moved:
        above = 0.0
        for e, f in zip(explain(x), explain(other), strict=True):
            if e != 0:
                above += abs((e - f) / e) ** power
        found.append(above ** (1 / power) / max(below(x, other), least))
    return max(found)


# ---- similarity --------------------------------------------------------------------------------------------


def ranks(values: Vector) -> Vector:
    """Return ranks, the same for what is tied: their mean."""
    return np.array(
        [1 + (values < each).sum() + ((values == each).sum() - 1) / 2 for each in values], dtype=float
    )


def pearson(one: Vector, other: Vector) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / math.sqrt((one**2).sum() * (other**2).sum()))


def spearman(one: Vector, other: Vector) -> float:
    return pearson(ranks(one), ranks(other))


def cosine(one: Vector, other: Vector) -> float:
    return float((one * other).sum() / math.sqrt((one**2).sum() * (other**2).sum()))


def ssim(one: np.ndarray, other: np.ndarray, window: int, span: float) -> float:
    """Wang et al. 2004: the mean over windows that lie inside, with sample variances."""
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    found = []
    for top, left in itertools.product(*(range(side - window + 1) for side in one.shape)):
        a = one[top : top + window, left : left + window].ravel()
        b = other[top : top + window, left : left + window].ravel()
        ma, mb = a.mean(), b.mean()
        va, vb = a.var(ddof=1), b.var(ddof=1)
        cov = ((a - ma) * (b - mb)).sum() / (len(a) - 1)
        found.append(((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(found))


def histogram_entropy(values: Vector, bins: int) -> float:
    """Hedström et al. 2024: −Σ p ln p over the bins of a histogram."""
    low, high = values.min(), values.max()
    counts = [0] * bins
    for each in values:
        counts[min(int((each - low) / (high - low) * bins), bins - 1)] += 1
    return -sum(n / len(values) * math.log(n / len(values)) for n in counts if n)


# ---- complexity --------------------------------------------------------------------------------------------


def gini(shares: Vector) -> float:
    """Hurley, Rickard 2009: 1 − 2 Σ_k c_(k)/‖c‖₁ (N − k + ½)/N."""
    sizes = sorted(abs(each) for each in shares)
    count, total = len(sizes), sum(sizes)
    return 1 - 2 * sum(c / total * (count - k + 0.5) / count for k, c in enumerate(sizes, 1))


def entropy(shares: Vector) -> float:
    """Bhatt et al. 2020: the entropy of |φ_i| / Σ|φ|."""
    total = sum(abs(each) for each in shares)
    return -sum(abs(s) / total * math.log(abs(s) / total) for s in shares if s)


# ---- localisation ------------------------------------------------------------------------------------------


def auc(shares: Vector, mask: Vector) -> float:
    """Fawcett 2006: the chance that a share inside is larger than one outside; ties count half."""
    pairs = list(itertools.product(shares[mask], shares[~mask]))
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


def top(shares: Vector, k: int) -> set[int]:
    return set(sorted(range(len(shares)), key=lambda i: -shares[i])[:k])


def rank_accuracy(shares: Vector, mask: Vector) -> float:
    size = int(mask.sum())
    return len(top(shares, size) & set(np.flatnonzero(mask))) / size


def mass_accuracy(shares: Vector, mask: Vector) -> float:
    positive = [max(each, 0.0) for each in shares]
    return sum(p for p, there in zip(positive, mask, strict=True) if there) / sum(positive)


def iou(chosen: set[Any], mask: Vector) -> float:
    place = set(np.flatnonzero(mask))
    return len(chosen & place) / len(chosen | place)
