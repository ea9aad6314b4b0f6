"""Running moments of arrays (Welford 1962; Pébay 2008 for the higher ones and for merging)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from whence.backends import Array, Leaves, Operations


@dataclass
class Moments:
    """Running mean and central moments of arrays, numerically stable: never E[x²] − E[x]²."""

    highest: int = 2
    count: int = 0
    mean: list[Array] = field(default_factory=list[Array])
    sums: list[list[Array]] = field(default_factory=list[list[Array]])

    def add(self, values: Leaves) -> None:
        """Fold one draw in."""
        if not self.count:
            self.mean = [value * 0 for value in values]
            self.sums = [[value * 0 for _ in range(2, self.highest + 1)] for value in values]
        n, self.count = self.count, self.count + 1
        for leaf, value in enumerate(values):
            delta = value - self.mean[leaf]
            step = delta / self.count
            term = delta * step * n
            sums = self.sums[leaf]
            self.mean[leaf] = self.mean[leaf] + step
            if self.highest == 4:
                total = self.count
                bend = term * step * step * (total * total - 3 * total + 3)
                sums[2] = sums[2] + bend + 6 * step * step * sums[0] - 4 * step * sums[1]
                sums[1] = sums[1] + term * step * (total - 2) - 3 * step * sums[0]
            sums[0] = sums[0] + term

    def variance(self) -> Leaves:
        """Return the unbiased variance; zero for a single draw."""
        return tuple(sums[0] / max(1, self.count - 1) for sums in self.sums)

    def error_of_mean(self) -> Leaves:
        """Return the standard error of the mean."""
        return tuple((variance / self.count) ** 0.5 for variance in self.variance())

    def error_of_variance(self) -> Leaves:
        """Return the standard error of the variance, √((m₄ − m₂² (n − 3)/(n − 1)) / n)."""
        n = self.count
        found: list[Array] = []
        for sums in self.sums:
            second, fourth = sums[0] / n, sums[2] / n
            spread = (fourth - second * second * ((n - 3) / max(1, n - 1))) / n
            found.append((spread * (spread > 0)) ** 0.5)
        return tuple(found)


@dataclass
class Running:
    """Mean and sum of squared deviations of each row's contributions, where rows may have seen different counts."""

    count: Float[np.ndarray, "rows"]
    mean: Array
    squares: Array

    def merge(
        self, ops: Operations, rows: np.ndarray, count: np.ndarray, mean: Array, squares: Array
    ) -> Callable[[], None]:
        """Fold another group's moments into some rows (Chan, Golub, LeVeque 1979), once the result is called."""
        before = self.count[rows]
        total = before + count
        delta = mean - self.mean[rows]

        def per_row(values: np.ndarray) -> Array:
            return ops.like(values.reshape(-1, *(1,) * (mean.ndim - 1)), mean)

        new_mean = self.mean[rows] + delta * per_row(count / total)
        new_squares = self.squares[rows] + squares + delta * delta * per_row(before * count / total)

        def write() -> None:
            self.mean, self.squares = (
                ops.put(self.mean, rows, new_mean),
                ops.put(self.squares, rows, new_squares),
            )
            self.count[rows] = total

        return write

    def error_of_mean(self, ops: Operations) -> Array:
        """Return the standard error of each row's mean."""
        scale = self.count * np.maximum(1, self.count - 1)
        return (self.squares / ops.like(scale.reshape(-1, *(1,) * (self.mean.ndim - 1)), self.mean)) ** 0.5
