"""RISE: the mean output over random masks, for each place over those that leave it visible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from whence.backends import Array, Leaves
from whence.baseline import resolve
from whence.coalitions.effort import Effort, above_zero, effort
from whence.coalitions.game import Game, Values
from whence.coalitions.playing import play
from whence.coalitions.rounds import SURE_TOGETHER, Found
from whence.coalitions.sampling import FIRST, Chance, Plan, sampled
from whence.counts import whole
from whence.draws import Draws
from whence.errors import BadInput, Refused
from whence.features import laying
from whence.features.kinds import space
from whence.problem import Problem
from whence.random_nodes import HALF_NORMAL
from whence.registry import Method, register
from whence.shares import Shares
from whence.site import Parameter

DEFAULT_SAMPLES = 1000


@register(
    "rise", "A_i = Σ_M f(x' + M ⊙ (x − x')) M_i / Σ_M M_i",
    "Petsiuk, Das, Saenko 2018, arXiv:1806.07421", needs=("values",), title="RISE",
)  # fmt: skip
@dataclass(frozen=True)
class RISE(Method):
    """The mean output over random masks, for each place over those that leave it visible.

    The masks of a picture are a coarse grid of zeros and ones, enlarged bilinearly and shifted at random. With
    features (or an input that is no picture) each of them is on or off by chance.

    Attributes:
        cells: of the grid, along each side of the picture.
        probability: that a cell (a feature) is on.
        features: switched on and off instead of a grid's cells; as for FeatureAblation.
        baseline: as for Occlusion.
        samples: how many masks.
        rtol: instead, the relative L1 error that is asked for.
        max_evaluations: at most so many masks, with rtol; None is 100,000.
    """

    cells: int = 7
    probability: float = 0.5
    features: Any = None
    baseline: Any = None
    samples: int = DEFAULT_SAMPLES
    rtol: float | None = None
    max_evaluations: int | None = None
    switches = True

    def __post_init__(self) -> None:
        whole(self.cells, "rise: cells")
        if above_zero(self.probability, "rise: probability", "0.5") >= 1:
            raise BadInput(f"rise: probability is {self.probability}; it lies between 0 and 1")
        self._effort()

    def _effort(self) -> Effort:
        # A standard error needs two.
        return effort("rise", self.samples, self.rtol, self.max_evaluations, DEFAULT_SAMPLES, 2)

    def attribute(self, problem: Problem) -> Shares:
        picture = len(problem.point) == 1 and laying.is_picture(problem, problem.point[0])
        if self.features is None and picture and problem.ops.is_float(problem.point[0]):
            pictures = problem.run.pictures and not isinstance(problem.site, Parameter)
            baseline = resolve(self.baseline, pictures)
            if baseline.draws > 1:
                raise Refused(
                    f"rise covers the input by one baseline, and {baseline.draws} were given; give one of them, or "
                    "features="
                )
            return _Soft(problem, Draws(problem, baseline), self.cells, self.probability).explained(
                self._effort()
            )
        return play(problem, self.features, laying.coarse, self.baseline, self._explained)

    def _explained(self, game: Game) -> Shares:
        return sampled(game, _Hard(game, self.probability), self._effort(), efficient=False)


class _Hard(Chance, Plan):
    """Features on or off by chance: the mean output where each of them is on."""

    sure = SURE_TOGETHER

    def found(self, game: Game, values: Values) -> Found:
        on = self.coalitions
        chance = (
            self.probability ** on.sum(1) * (1 - self.probability) ** (~on).sum(1) if self.exact else None
        )
        weights = self.times.astype(float) if chance is None else chance
        # Counted from f(x), so that a large constant does not drown the spread.
        full = game.full[:, None]
        values = values - full
        seen = weights @ on
        seen = np.where(seen > 0, seen, 1.0)
        mean = np.einsum("p,pd,np...->nd...", weights, on, values) / _beside(seen, values)
        if self.exact:
            return Found(mean + full, np.zeros_like(mean))
        squares = np.einsum("p,pd,np...->nd...", weights, on, values**2) / _beside(seen, values)
        spread = np.maximum(squares - mean**2, 0) / _beside(np.maximum(seen - 1, 1), values)
        return Found(mean + full, np.sqrt(spread))


def _beside(numbers: Float[np.ndarray, "features"], values: Values) -> np.ndarray:
    return numbers.reshape(1, -1, *(1,) * (values.ndim - 2))


@dataclass
class _Soft:
    """The running sums of masks times outputs, place by place."""

    problem: Problem
    draws: Draws
    cells: int
    probability: float

    def __post_init__(self) -> None:
        leaf = self.problem.point[0]
        self.axes = space(self.problem, leaf, "RISE's masks")
        self.size = tuple(int(leaf.shape[axis]) for axis in self.axes)
        rows, places = len(self.problem.rows), self.size[0] * self.size[1]
        self.classes = self.problem.output.shape[1:]
        self.full = self.problem.output.reshape(rows, -1)
        self.count = np.zeros(rows)
        # Σ M, Σ M² and, for each class, Σ f M, Σ f M², Σ f² M².
        self.weights = np.zeros((2, rows, places))
        self.sums = np.zeros((3, rows, int(np.prod(self.classes, dtype=int)), places))

    def explained(self, asked: Effort) -> Shares:
        """Return the shares after so many masks, or when they are sure enough; a row then needs no more."""
        rows, used = np.arange(len(self.problem.rows)), 0
        most = asked.samples or asked.most
        while len(rows):
            wanted = most if asked.rtol is None else min(most, max(FIRST, 2 * used))
            self._draw(rows, used, wanted)
            used = wanted
            _, error = self._found()
            open_ = np.zeros(len(error), dtype=bool) if asked.rtol is None else ~self._sure(error, asked.rtol)
            rows = rows[open_[rows]] if used < most else rows[:0]
        return self._shares(asked)

    def _sure(self, error: np.ndarray, rtol: float) -> np.ndarray:
        return np.all((SURE_TOGETHER * self._relative(error) <= rtol).reshape(len(error), -1), 1)

    def _found(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the conditional means [rows, K, places] and their standard errors (ratio estimates, Cochran 1977)."""
        seen = np.maximum(self.weights[0], 1e-12)[:, None]
        mean = self.sums[0] / seen
        spread = self.sums[2] - 2 * mean * self.sums[1] + mean**2 * self.weights[1][:, None]
        count = self.count[:, None, None]
        return mean, np.sqrt(np.maximum(spread, 0) * count / np.maximum(count - 1, 1)) / seen

    def _relative(self, error: np.ndarray) -> np.ndarray:
        size = np.abs(self._found()[0] + self.full[..., None]).sum(-1)
        sums = HALF_NORMAL * error.sum(-1)
        return np.where(sums == 0, 0.0, sums / np.where(size > 0, size, 1.0))

    def _draw(self, rows: Int[np.ndarray, "some"], first: int, end: int) -> None:
        problem, ops, many = self.problem, self.problem.ops, end - first

        def chunk(start: int, stop: int) -> Array:
            number = np.arange(start, stop)
            row, which = rows[number // many], first + number % many
            masks = np.stack([self._mask(int(each)) for each in which])
            y = problem.run.backend.value(lambda given: problem.evaluate(given, row), self._point(row, masks))
            told = ops.numpy(y).astype(np.float64).reshape(len(row), -1)
            if not np.isfinite(told).all():
                raise Refused(
                    "the model's output is not finite behind a mask; choose another baseline, or mend the model"
                )
            # Counted from f(x), so that a large constant does not drown the spread.
            told = told - self.full[row]
            self._fold(row, masks.reshape(len(row), -1).astype(np.float64), told)
            problem.run.progress.advance(len(number))
            return y

        problem.run.progress.expect(len(rows) * many)
        problem.run.chunks.run(problem.run.backend, len(rows) * many, chunk)
        self.count[rows] += many

    def _fold(
        self, row: np.ndarray, masks: Float[np.ndarray, "n places"], told: Float[np.ndarray, "n K"]
    ) -> None:
        squares = masks**2
        for mine in np.unique(row):
            part = row == mine
            m, m2, f = masks[part], squares[part], told[part].T
            self.weights[:, mine] += np.stack([m.sum(0), m2.sum(0)])
            self.sums[:, mine] += np.stack([f @ m, f @ m2, f**2 @ m2])

    def _mask(self, draw: int) -> Float[np.ndarray, "height width"]:
        """Return a grid of zeros and ones, enlarged to one cell more than the picture and cut out at a random shift."""
        generator = self.problem.random("masks", draw)
        grid = (generator.random((self.cells, self.cells)) < self.probability).astype(np.float32)
        sides = [
            _enlarged(size, self.cells, int(generator.integers(-(-size // self.cells)))) for size in self.size
        ]
        return sides[0] @ grid @ sides[1].T

    def _point(self, row: np.ndarray, masks: Float[np.ndarray, "n height width"]) -> Leaves:
        ops, leaf = self.problem.ops, self.problem.point[0]
        shape = [leaf.shape[i] if i in self.axes else 1 for i in range(1, leaf.ndim)]
        (absent,) = self.draws.at(row, np.zeros(len(row), dtype=int))
        present = ops.take(leaf, row)
        return (absent + ops.like(masks.reshape(len(row), *shape), leaf) * (present - absent),)

    def _shares(self, asked: Effort) -> Shares:
        problem = self.problem
        leaf = problem.point[0]
        mean, error = self._found()
        mean = mean + self.full[..., None]
        relative = self._relative(error).reshape(len(mean), *self.classes)
        shape = [leaf.shape[i] if i in self.axes else 1 for i in range(1, leaf.ndim)]

        def laid(each: np.ndarray) -> Leaves:
            lying = each.reshape(len(mean), *self.classes, *shape)
            full = np.broadcast_to(lying, (len(mean), *self.classes, *leaf.shape[1:]))
            return (problem.ops.like(full, problem.ops.wide(leaf[:1])),)

        met = (
            np.ones(relative.shape, dtype=bool)
            if asked.rtol is None
            else SURE_TOGETHER * relative <= asked.rtol
        )
        problem.run.record["repeated"] = True
        return Shares(
            values=laid(mean), standard_error=laid(error), error=relative, converged=met, output=problem.output,
            evaluations=self.count.astype(np.int64),
        )  # fmt: skip


def _enlarged(size: int, cells: int, shift: int) -> Float[np.ndarray, "size cells"]:
    """Return the matrix that enlarges a line of cells bilinearly to cells + 1 of them, and cuts `size` pixels out."""
    cell = -(-size // cells)
    place = (np.arange(size) + shift + 0.5) * cells / ((cells + 1) * cell) - 0.5
    place = np.clip(place, 0, cells - 1)
    distance = np.abs(place[:, None] - np.arange(cells))
    return np.maximum(0, 1 - distance).astype(np.float32)
