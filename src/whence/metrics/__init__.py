"""How good is an explanation? Metrics, each with its paper's formula, batched, and with its uncertainty.

    score = whence.metrics.Deletion()(model, inputs, result)
    score.mean, score.error, score.values

Names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from whence.metrics.judged import Judged as Judged
from whence.metrics.judged import judged as judged
from whence.metrics.metric import FAMILIES as FAMILIES
from whence.metrics.metric import Metric as Metric
from whence.metrics.metric import Record as Record
from whence.metrics.metric import build as build
from whence.metrics.metric import register as register
from whence.metrics.metric import registered as registered
from whence.metrics.score import Score as Score

if TYPE_CHECKING:
    from whence.metrics.axioms import Completeness as Completeness
    from whence.metrics.axioms import Dummy as Dummy
    from whence.metrics.axioms import ImplementationInvariance as ImplementationInvariance
    from whence.metrics.axioms import Linearity as Linearity
    from whence.metrics.axioms import SensitivityAxiom as SensitivityAxiom
    from whence.metrics.axioms import Symmetry as Symmetry
    from whence.metrics.completeness import CompletenessResidual as CompletenessResidual
    from whence.metrics.complexity import Complexity as Complexity
    from whence.metrics.complexity import EffectiveFeatures as EffectiveFeatures
    from whence.metrics.complexity import Sparseness as Sparseness
    from whence.metrics.control import RandomExplanation as RandomExplanation
    from whence.metrics.correlations import FaithfulnessCorrelation as FaithfulnessCorrelation
    from whence.metrics.correlations import FaithfulnessEstimate as FaithfulnessEstimate
    from whence.metrics.correlations import Monotonicity as Monotonicity
    from whence.metrics.correlations import MonotonicityCorrelation as MonotonicityCorrelation
    from whence.metrics.correlations import SensitivityN as SensitivityN
    from whence.metrics.infidelity import Infidelity as Infidelity
    from whence.metrics.infidelity import optimal_explanation as optimal_explanation
    from whence.metrics.localisation import IoU as IoU
    from whence.metrics.localisation import LocalisationAUC as LocalisationAUC
    from whence.metrics.localisation import PointingGame as PointingGame
    from whence.metrics.localisation import RelevanceMass as RelevanceMass
    from whence.metrics.localisation import RelevanceRank as RelevanceRank
    from whence.metrics.localisation import TopKIntersection as TopKIntersection
    from whence.metrics.random_logit import RandomLogit as RandomLogit
    from whence.metrics.randomisation import MPRT as MPRT
    from whence.metrics.randomisation import EfficientMPRT as EfficientMPRT
    from whence.metrics.randomisation import SmoothMPRT as SmoothMPRT
    from whence.metrics.removal import Deletion as Deletion
    from whence.metrics.removal import Insertion as Insertion
    from whence.metrics.removal import PixelFlipping as PixelFlipping
    from whence.metrics.road import ROAD as ROAD
    from whence.metrics.robustness import AverageSensitivity as AverageSensitivity
    from whence.metrics.robustness import LocalLipschitz as LocalLipschitz
    from whence.metrics.robustness import MaxSensitivity as MaxSensitivity
    from whence.metrics.stability import RelativeInputStability as RelativeInputStability
    from whence.metrics.stability import RelativeOutputStability as RelativeOutputStability
    from whence.metrics.sufficiency import Sufficiency as Sufficiency

_HOMES = {
    "axioms": (
        "Completeness",
        "Dummy",
        "ImplementationInvariance",
        "Linearity",
        "SensitivityAxiom",
        "Symmetry",
    ),
    "completeness": ("CompletenessResidual",),
    "control": ("RandomExplanation",),
    "complexity": (
        "Complexity",
        "EffectiveFeatures",
        "Sparseness",
    ),
    "correlations": (
        "FaithfulnessCorrelation",
        "FaithfulnessEstimate",
        "Monotonicity",
        "MonotonicityCorrelation",
        "SensitivityN",
    ),
    "infidelity": (
        "Infidelity",
        "optimal_explanation",
    ),
    "localisation": (
        "IoU",
        "LocalisationAUC",
        "PointingGame",
        "RelevanceMass",
        "RelevanceRank",
        "TopKIntersection",
    ),
    "random_logit": ("RandomLogit",),
    "randomisation": (
        "MPRT",
        "EfficientMPRT",
        "SmoothMPRT",
    ),
    "removal": (
        "Deletion",
        "Insertion",
        "PixelFlipping",
    ),
    "road": ("ROAD",),
    "robustness": (
        "AverageSensitivity",
        "LocalLipschitz",
        "MaxSensitivity",
    ),
    "stability": (
        "RelativeInputStability",
        "RelativeOutputStability",
    ),
    "sufficiency": ("Sufficiency",),
}
_home_of = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604
    "FAMILIES", "Judged", "Metric", "Record", "Score", "build", "judged", "register", "registered",
    *_home_of,
]  # pyright: ignore[reportUnsupportedDunderAll]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _home_of:
        value = getattr(import_module(f"whence.metrics.{_home_of[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'whence.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
