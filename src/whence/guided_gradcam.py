"""Guided Grad-CAM: the fine lines of guided backprop where the coarse map of Grad-CAM says that they matter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from whence.backends import Array
from whence.cam_forwards import axes_of, stretched
from whence.cam_methods import GradCAM
from whence.errors import Refused
from whence.problem import Problem
from whence.registry import Method, register
from whence.rule import Rules
from whence.rule_methods import by_rules, plain
from whence.shares import Shares
from whence.site import Parameter
from whence.spatial import Reshape, grid


@register(
    "guided_gradcam",
    "A = guided ∂f/∂x ⊙ Grad-CAM, stretched to the input",
    "Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra 2017, arXiv:1610.02391",
    needs=("gradient", "relu", "pictures", "layer"),
    title="Guided Grad-CAM",
)
@dataclass(frozen=True)
class GuidedGradCAM(Method):
    """Guided backprop at the input (or at a layer), times the Grad-CAM of a layer stretched over it.

    Attributes:
        layer, reshape: as for GradCAM.
    """

    layer: str | None = None
    reshape: Reshape = None

    def rules(self) -> Rules:
        return Rules("guided")

    def attribute(self, problem: Problem) -> Shares:
        if isinstance(problem.site, Parameter):
            raise Refused(
                f"guided_gradcam draws a map, and {problem.site.words} has no place in one; leave at= out"
            )
        coarse = GradCAM(self.layer, self.reshape)
        above = coarse.placed(replace(problem, site=None))
        maps = problem.ops.numpy(coarse.attribute(above).values[0]).astype(np.float64)
        lay = grid(above, above.point[0].shape, coarse.reshape)
        fine = by_rules(problem, self.rules(), plain)
        axes = [axes_of(problem, leaf, lay) for leaf in problem.point]
        if not any(axes):
            raise Refused(
                f"guided_gradcam lays a map of {lay.space} positions over the input, and no input has such an extent; "
                "take gradcam or guided_backprop alone"
            )
        trio = zip(fine.values, problem.point, axes, strict=True)
        values = tuple(_masked(problem, each, maps, x, where) for each, x, where in trio)
        return Shares(values, fine.evaluations + 1)


def _masked(problem: Problem, fine: Array, maps: np.ndarray, x: Array, axes: tuple[int, ...]) -> Array:
    """Return guided gradients [n, ...] (or [n, K, ...]) times maps [n, 1, *space] (or [n, K, 1, *space]).

    An input without the map's extent has no place in it, and no share.
    """
    ops = problem.ops
    if not axes:
        return fine * 0
    if not problem.every_class:
        return fine * ops.wide(stretched(problem, maps[:, 0], x, axes))
    columns = [ops.wide(stretched(problem, maps[:, k, 0], x, axes)) for k in range(maps.shape[1])]
    return fine * ops.stack(columns, 1)
