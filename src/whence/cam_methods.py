"""Class activation maps: a layer's channels, weighted, over the input.

Values are [B, 1, ...], of the layer's extent in space; the heat map is stretched to the input's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from whence import cam
from whence.backends import Array
from whence.baseline import resolve
from whence.cam_forwards import ablated, masked, pooled
from whence.errors import BadInput
from whence.problem import Problem
from whence.registry import Method, register
from whence.shares import Shares
from whence.spatial import Grid, Reshape, grid, observed, placed


@dataclass(frozen=True)
class _LayerMap(Method):
    layer: str | None = None
    reshape: Reshape = None

    def __post_init__(self) -> None:
        given: Any = self.reshape
        if given is None:
            return
        whole = isinstance(given, (tuple, list)) and all(
            isinstance(side, (int, np.integer)) for side in given
        )
        if not whole or not given or min(given) < 1:
            raise BadInput(
                f"{type(self).__name__}: reshape is {given!r}; it is (height, width) of the tokens' grid, or None"
            )
        object.__setattr__(self, "reshape", tuple(int(side) for side in given))

    def placed(self, problem: Problem) -> Problem:
        return placed(problem, self.layer, type(self).__name__)


@dataclass(frozen=True)
class _RectifiedMap(_LayerMap):
    relu: bool = True

    @property
    def sizes(self) -> bool:
        return self.relu


@dataclass(frozen=True)
class _GradientMap(_RectifiedMap):
    watches = True


def _shares(problem: Problem, maps: Array, lay: Grid, evaluations: int = 1) -> Shares:
    return Shares((lay.folded(maps),), np.full(len(problem.rows), evaluations, dtype=np.int64))


def _gradient_map(problem: Problem, method: _GradientMap, maps: Callable[[Array, Array], Array]) -> Shares:
    """Return a map that one gradient at the layer gives."""
    found, lay = observed(problem, method.reshape, lambda z, g: cam.rectified(maps(z, g), method.relu))
    if method.relu:
        _note_empty(problem, found)
    return _shares(problem, found, lay)


def _note_empty(problem: Problem, maps: Array) -> None:
    """Say so where rectification has left nothing: an empty map is easily taken for a failure."""
    rows = len(problem.rows)
    empty = int((problem.ops.numpy(maps).reshape(rows, -1).max(1) == 0).sum())
    if empty:
        problem.run.note(
            f"the map of {f'{empty} of {rows} examples' if rows > 1 else 'this example'} is zero everywhere: by this "
            "method nothing at the layer speaks for the target; relu=False shows what speaks against it, and hirescam "
            "and layercam weigh each place by itself"
        )


def _weighted_map(problem: Problem, method: _RectifiedMap, weights: np.ndarray, evaluations: int) -> Shares:
    """Return the channels' sum with weights [n, channels] (or [n, channels, K])."""
    ops = problem.ops
    lay = grid(problem, problem.point[0].shape, method.reshape)
    z = lay.unfolded(ops.wide(problem.point[0]))
    columns = np.moveaxis(weights, 2, 0) if problem.every_class else weights[None]
    maps = [cam.rectified(cam.weighted(ops.like(each, z), z), method.relu) for each in columns]
    return _shares(problem, ops.stack(maps, 1) if problem.every_class else maps[0], lay, evaluations)


@register(
    "cam", "A = Σ_k w_k z_k, where f = Σ_k w_k mean(z_k) + b",
    "Zhou, Khosla, Lapedriza, Oliva, Torralba 2016, arXiv:1512.04150",
    needs=("gradient", "layer", "global pooling"), title="CAM",
)  # fmt: skip
@dataclass(frozen=True)
class CAM(_LayerMap):
    """The map of the classifier's own weights, for networks that end in global average pooling and one linear layer.

    Attributes:
        layer: the module whose output is drawn; None takes the last with an extent in space (a note says which).
        reshape: (height, width) of the grid that tokens make; None infers that of a picture (its sides), else a line.

    Raises:
        Refused: f is not Σ w mean(z) + b, which is tried at points near the activation and far from it.
    """

    def attribute(self, problem: Problem) -> Shares:
        maps, lay, evaluations = pooled(problem, self.reshape)
        return _shares(problem, maps, lay, evaluations)


@register(
    "gradcam", "A = max(Σ_k mean(∂f/∂z_k) z_k, 0)",
    "Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra 2017, arXiv:1610.02391",
    needs=("gradient", "layer"), title="Grad-CAM",
)  # fmt: skip
@dataclass(frozen=True)
class GradCAM(_GradientMap):
    """A layer's channels, each weighted by the mean of the gradient over it, summed and rectified.

    Attributes:
        layer, reshape: as for CAM.
        relu: False keeps what speaks against the class.
    """

    def attribute(self, problem: Problem) -> Shares:
        return _gradient_map(problem, self, cam.mean_gradient)


@register(
    "gradcam_plus_plus", "A = max(Σ_k (Σ α_k max(∂f/∂z_k, 0)) z_k, 0), α = g² / (2g² + g³ Σz), g = ∂f/∂z",
    "Chattopadhay, Sarkar, Howlader, Balasubramanian 2018, arXiv:1710.11063",
    needs=("gradient", "layer"), title="Grad-CAM++",
)  # fmt: skip
@dataclass(frozen=True)
class GradCAMPlusPlus(_GradientMap):
    """Grad-CAM with every position's gradient weighed by second and third derivatives of exp(f), in closed form.

    Attributes:
        layer, reshape, relu: as for GradCAM.
    """

    def attribute(self, problem: Problem) -> Shares:
        return _gradient_map(problem, self, lambda z, g: cam.exponential(problem.ops, z, g))


@register(
    "hirescam", "A = Σ_k ∂f/∂z_k ⊙ z_k", "Draelos, Carin 2020, arXiv:2011.08891",
    needs=("gradient", "layer"), title="HiResCAM",
)  # fmt: skip
@dataclass(frozen=True)
class HiResCAM(_GradientMap):
    """The gradient times the activation, summed over channels: it shows no place that the model did not use.

    Attributes:
        layer, reshape: as for CAM.
        relu: True drops what speaks against the class, which the paper keeps.
    """

    relu: bool = False

    def attribute(self, problem: Problem) -> Shares:
        return _gradient_map(problem, self, cam.elementwise)


@register(
    "xgradcam", "A = max(Σ_k (Σ z_k ∂f/∂z_k / Σ z_k) z_k, 0)",
    "Fu, Hu, Dong, Guo, Gao, Li 2020, arXiv:2008.02312", needs=("gradient", "layer"), title="XGrad-CAM",
)  # fmt: skip
@dataclass(frozen=True)
class XGradCAM(_GradientMap):
    """Grad-CAM with gradients weighed by the activation, so that the channels' sums add up to Σ z ∂f/∂z.

    Attributes:
        layer, reshape, relu: as for GradCAM.
    """

    def attribute(self, problem: Problem) -> Shares:
        return _gradient_map(problem, self, lambda z, g: cam.axiomatic(problem.ops, z, g))


@register(
    "layercam", "A = max(Σ_k max(∂f/∂z_k, 0) ⊙ z_k, 0)",
    "Jiang, Zhang, Hou, Cheng, Wei 2021, doi:10.1109/TIP.2021.3089943",
    needs=("gradient", "layer"), title="LayerCAM",
)  # fmt: skip
@dataclass(frozen=True)
class LayerCAM(_GradientMap):
    """The positive part of the gradient times the activation: fine maps from early layers too.

    Attributes:
        layer, reshape, relu: as for GradCAM.
    """

    def attribute(self, problem: Problem) -> Shares:
        return _gradient_map(problem, self, cam.positive_elementwise)


@register(
    "scorecam", "A = max(Σ_k softmax_k(f(x' + m_k ⊙ (x − x'))) z_k, 0), m_k = z_k in [0, 1] at the input's size",
    "Wang, Wang, Du, Yang, Zhang, Ding, Mardziel, Hu 2020, arXiv:1910.01279",
    needs=("layer",), title="Score-CAM",
)  # fmt: skip
@dataclass(frozen=True)
class ScoreCAM(_RectifiedMap):
    """Channels weighted by how the model scores the input seen through each of them; no gradients.

    A channel that is the same everywhere masks nothing and gets no weight.

    Attributes:
        layer, reshape, relu: as for GradCAM.
        baseline: what stands where the mask is 0; None is black for pictures with a preprocess, else 0.
    """

    baseline: Any = None

    def attribute(self, problem: Problem) -> Shares:
        weights, evaluations = masked(problem, resolve(self.baseline, problem.run.pictures), self.reshape)
        return _weighted_map(problem, self, weights, evaluations)


@register(
    "ablationcam", "A = max(Σ_k (f(z) − f(z without k)) / f(z) z_k, 0)",
    "Desai, Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360", needs=("layer",), title="Ablation-CAM",
)  # fmt: skip
@dataclass(frozen=True)
class AblationCAM(_RectifiedMap):
    """Channels weighted by the part of the output that is lost when each is set to 0; no gradients.

    Attributes:
        layer, reshape, relu: as for GradCAM.
    """

    def attribute(self, problem: Problem) -> Shares:
        weights, evaluations = ablated(problem, self.reshape)
        return _weighted_map(problem, self, weights, evaluations)


@register(
    "eigencam", "A = zᵀ v₁, v₁ the first right singular vector of zᵀ [positions, channels]",
    "Muhammad, Yeasin 2020, arXiv:2008.00299", needs=("layer",), title="Eigen-CAM",
)  # fmt: skip
@dataclass(frozen=True)
class EigenCAM(_LayerMap):
    """The first principal component of a layer's activation: what it sees most of, whatever the class.

    Its sign is the one with which it goes along with the mean over channels.

    Attributes:
        layer, reshape: as for CAM.
    """

    @property
    def sizes(self) -> bool:
        # The sign of a singular vector is free.
        return True

    def attribute(self, problem: Problem) -> Shares:
        ops, z = problem.ops, problem.point[0]
        lay = grid(problem, z.shape, self.reshape)
        wide = lay.unfolded(ops.wide(z))
        maps = ops.like(cam.principal(ops.numpy(wide)), wide)
        if problem.every_class:
            maps = ops.stack([maps] * problem.output.shape[1], 1)
        return _shares(problem, maps, lay)
