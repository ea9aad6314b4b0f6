"""ROAD: removing pixels such that their absence cannot be seen, and asking the model again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.backends import Array
from whence.errors import BadInput, Refused
from whence.features.laying import is_picture
from whence.metrics.imputation import imputed
from whence.metrics.judged import Judged
from whence.metrics.metric import Metric, register
from whence.metrics.order import ranked
from whence.metrics.played import function_of
from whence.metrics.score import Score
from whence.problem import Problem

PERCENTAGES = (10, 20, 30, 40, 50, 70, 90)


@register(
    "road", "faithfulness",
    "mean over p of [class kept] where the first p % of pixels by falling φ are replaced: "
    "x_i = Σ_j w_ij x_j / Σ_j w_ij + noise, w = 1/6 for direct and 1/12 for diagonal neighbours",
    "Rong, Leemann, Borisov, Kasneci, Kasneci 2022, arXiv:2202.00449", better="lower", title="ROAD",
)  # fmt: skip
@dataclass(frozen=True)
class ROAD(Metric):
    """How often the class is kept while pixels are replaced by what their neighbours say, the most important first.

    The curve [B, S] is kept, with the percentages as its places. With `order="least"` higher is better, and the score
    says so.

    Attributes:
        percentages: of the pixels, how many are removed; above 0 and below 100.
        order: "most" removes the most important first (MoRF), "least" the least important (LeRF).
        of: "kept" (1 where the top class is still the explained one), "probability" (of the explained class) or
            "target" (the explained number).
        noise: the standard deviation of the Gaussian noise on replaced pixels, in the inputs' units.
    """

    percentages: tuple[float, ...] = PERCENTAGES
    order: Literal["most", "least"] = "most"
    of: Literal["kept", "probability", "target"] = "kept"
    noise: float = 0.01

    def scored(self, judged: Judged) -> Score:
        self._check(judged.problem)
        problem = judged.raw if self.of == "kept" else function_of(judged, self.of)
        features = judged.features()
        shares = judged.shares(features)
        rank = ranked(judged, shares if self.order == "most" else -shares)
        # Pixels number as the picture's rows do.
        removed = [int(features.count * each / 100) for each in self.percentages]
        outputs = self._outputs(judged, problem, rank, np.array(removed))
        curve = self._kept(judged, outputs) if self.of == "kept" else outputs
        judged.evaluations += len(removed)
        found = self.score(
            judged, curve.mean(1), places=np.array(self.percentages, dtype=np.float64), curve=curve,
            evaluations=judged.evaluations,
        )  # fmt: skip
        return found if self.order == "most" else replace(found, better="higher")

    def _check(self, problem: Problem) -> None:
        if self.order not in ("most", "least"):
            raise BadInput(f'order is {self.order!r}; it is "most" or "least" (important first)')
        if self.of not in ("kept", "probability", "target"):
            raise BadInput(f'of is {self.of!r}; it is "kept", "probability" or "target"')
        if not self.percentages or not all(0 < each < 100 for each in self.percentages):
            raise BadInput(f"percentages are {self.percentages}; give some above 0 and below 100")
        leaf = problem.inputs[0]
        if len(problem.inputs) != 1 or not is_picture(problem, leaf) or not problem.ops.is_float(leaf):
            raise Refused(
                "ROAD replaces pixels by their neighbours, and this input is no picture: choose Deletion"
            )

    def _outputs(
        self, judged: Judged, problem: Problem, rank: Int[np.ndarray, "B d"], removed: Int[np.ndarray, "S"]
    ) -> Float[np.ndarray, "B S *K"]:
        """Return the function where the first pixels by rank are replaced, for every number of them."""
        ops, leaf, count = problem.ops, problem.inputs[0], len(removed)
        noises = [judged.random("ROAD", number).standard_normal(leaf.shape[1:]) for number in range(count)]
        parts: dict[int, np.ndarray] = {}

        def chunk(start: int, stop: int) -> Array:
            row, number = np.divmod(np.arange(start, stop), count)
            pictures = ops.numpy(ops.wide(ops.take(leaf, row))).astype(np.float64)
            gone = rank[row] < removed[number, None]
            changed = [
                _replaced(problem, picture, mask, self.noise * noises[each])
                for picture, mask, each in zip(pictures, gone, number, strict=True)
            ]
            point = (ops.like(np.stack(changed), leaf),)
            y = problem.run.backend.value(lambda leaves: problem.evaluate(leaves, row), point)
            parts[start] = ops.numpy(y).astype(np.float64)
            return y

        with problem.run.chunks.any_layout(small=True):
            problem.run.chunks.run(problem.run.backend, len(rank) * count, chunk)
        found = np.concatenate([parts[start] for start in sorted(parts)])
        if not np.isfinite(found).all():
            raise Refused("the model's output is not finite where pixels are replaced; mend the model")
        return found.reshape(len(rank), count, *found.shape[1:])

    def _kept(self, judged: Judged, outputs: Float[np.ndarray, "B S *K"]) -> Float[np.ndarray, "B S"]:
        """Return 1 where the top class is the explained one, else 0."""
        wanted = judged.predicted if judged.index is None else judged.index
        top = judged.top(outputs.reshape(-1, *outputs.shape[2:]))
        return (top.reshape(outputs.shape[:2]) == wanted[:, None]).astype(np.float64)


def _replaced(
    problem: Problem,
    picture: Float[np.ndarray, "..."],
    gone: Bool[np.ndarray, "d"],
    noise: Float[np.ndarray, "..."],
) -> Float[np.ndarray, "..."]:
    """Return one picture [...] with its pixels that are `gone` replaced, and noise on them."""
    tall, wide = (axis - 1 for axis in problem.spatial_axes(problem.inputs[0]))
    planes = np.moveaxis(picture, (tall, wide), (-2, -1))
    mask = gone.reshape(planes.shape[-2:])
    found = imputed(planes.reshape(-1, *mask.shape), mask).reshape(planes.shape)
    shape = [side if axis in (tall, wide) else 1 for axis, side in enumerate(picture.shape)]
    return np.moveaxis(found, (-2, -1), (tall, wide)) + noise * mask.reshape(shape)
