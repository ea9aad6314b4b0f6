"""whence: what a neural network based its prediction on, to a stated accuracy.

Names are loaded when they are first used, so that `import whence` (and `whence --help`) costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whence import baseline as baseline
    from whence import composite as composite
    from whence import data as data
    from whence import features as features
    from whence import metrics as metrics
    from whence import path as path
    from whence import quadrature as quadrature
    from whence import target as target
    from whence import units as units
    from whence import view as view
    from whence import zoo as zoo
    from whence.archive import load as load
    from whence.attribution import Attribution as Attribution
    from whence.attribution import Trace as Trace
    from whence.cam_methods import CAM as CAM
    from whence.cam_methods import AblationCAM as AblationCAM
    from whence.cam_methods import EigenCAM as EigenCAM
    from whence.cam_methods import GradCAM as GradCAM
    from whence.cam_methods import GradCAMPlusPlus as GradCAMPlusPlus
    from whence.cam_methods import HiResCAM as HiResCAM
    from whence.cam_methods import LayerCAM as LayerCAM
    from whence.cam_methods import ScoreCAM as ScoreCAM
    from whence.cam_methods import XGradCAM as XGradCAM
    from whence.certificate import Coverage as Coverage
    from whence.certificate import coverage as coverage
    from whence.data_set import MeanAttribution as MeanAttribution
    from whence.data_set import mean_attribution as mean_attribution
    from whence.deconvolution import DeconvNet as DeconvNet
    from whence.errors import BadInput as BadInput
    from whence.errors import Interrupted as Interrupted
    from whence.errors import Refused as Refused
    from whence.errors import UnsupportedByBackend as UnsupportedByBackend
    from whence.errors import WhenceError as WhenceError
    from whence.errors import WorkFailed as WorkFailed
    from whence.expected_gradients import ExpectedGradients as ExpectedGradients
    from whence.explainer import explain as explain
    from whence.gradient_methods import InputXGradient as InputXGradient
    from whence.gradient_methods import Saliency as Saliency
    from whence.gradient_methods import Sensitivity as Sensitivity
    from whence.guided_gradcam import GuidedGradCAM as GuidedGradCAM
    from whence.hessian_methods import IntegratedHessians as IntegratedHessians
    from whence.hierarchy_methods import PartitionShap as PartitionShap
    from whence.hierarchy_methods import ShapleyInteraction as ShapleyInteraction
    from whence.path_methods import BlurIntegratedGradients as BlurIntegratedGradients
    from whence.path_methods import GuidedIntegratedGradients as GuidedIntegratedGradients
    from whence.path_methods import IntegratedGradients as IntegratedGradients
    from whence.preprocess import Preprocess as Preprocess
    from whence.registry import methods as methods
    from whence.relevance_methods import LRP as LRP
    from whence.rise_methods import RISE as RISE
    from whence.rule_methods import DeepLift as DeepLift
    from whence.rule_methods import DeepShap as DeepShap
    from whence.rule_methods import GuidedBackprop as GuidedBackprop
    from whence.sampler_methods import SmoothGrad as SmoothGrad
    from whence.sampler_methods import SmoothGradSquared as SmoothGradSquared
    from whence.sampler_methods import VarGrad as VarGrad
    from whence.shapley_methods import ExactShapley as ExactShapley
    from whence.shapley_methods import KernelShap as KernelShap
    from whence.shapley_methods import ShapleySampling as ShapleySampling
    from whence.side_by_side import Comparison as Comparison
    from whence.side_by_side import compare as compare
    from whence.site import layer as layer
    from whence.site import parameters as parameters
    from whence.surrogate_methods import LIME as LIME
    from whence.switching_methods import FeatureAblation as FeatureAblation
    from whence.switching_methods import Occlusion as Occlusion

__version__ = "0.1.0"

_HOMES = {
    "archive": ("load",),
    "attribution": ("Attribution", "Trace"),
    "cam_methods": (
        "CAM", "AblationCAM", "EigenCAM", "GradCAM", "GradCAMPlusPlus", "HiResCAM", "LayerCAM", "ScoreCAM", "XGradCAM",
    ),
    "certificate": ("Coverage", "coverage"),
    "data_set": ("MeanAttribution", "mean_attribution"),
    "deconvolution": ("DeconvNet",),
    "errors": ("BadInput", "Interrupted", "Refused", "UnsupportedByBackend", "WhenceError", "WorkFailed"),
    "explainer": ("explain",),
    "expected_gradients": ("ExpectedGradients",),
    "gradient_methods": ("InputXGradient", "Saliency", "Sensitivity"),
    "guided_gradcam": ("GuidedGradCAM",),
    "path_methods": (
        "BlurIntegratedGradients", "GuidedIntegratedGradients", "IntegratedGradients",
    ),
    "hessian_methods": ("IntegratedHessians",),
    "hierarchy_methods": ("PartitionShap", "ShapleyInteraction"),
    "relevance_methods": ("LRP",),
    "rise_methods": ("RISE",),
    "rule_methods": ("DeepLift", "DeepShap", "GuidedBackprop"),
    "sampler_methods": ("SmoothGrad", "SmoothGradSquared", "VarGrad"),
    "preprocess": ("Preprocess",),
    "registry": ("methods",),
    "shapley_methods": ("ExactShapley", "KernelShap", "ShapleySampling"),
    "side_by_side": ("Comparison", "compare"),
    "site": ("layer", "parameters"),
    "surrogate_methods": ("LIME",),
    "switching_methods": ("FeatureAblation", "Occlusion"),
}  # fmt: skip
_MODULES = (
    "baseline",
    "composite",
    "data",
    "features",
    "metrics",
    "path",
    "quadrature",
    "target",
    "units",
    "view",
    "zoo",
)
_home_of = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_home_of, *_MODULES]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"whence.{name}")
    if name in _home_of:
        value = getattr(import_module(f"whence.{_home_of[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'whence' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
