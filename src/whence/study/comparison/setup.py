"""What the comparison does: which networks, methods and metrics, and how many pictures each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final

from whence import registry
from whence.errors import BadInput
from whence.metrics import control
from whence.metrics.metric import Record, registered
from whence.metrics.perturbed import Perturbing
from whence.naming import unknown

NETWORKS: Final = MappingProxyType({"mnist": ("mnist-cnn", "mnist-mlp"), "digits": ("digits-cnn",)})
"""The zoo's networks for each data set that comes with the library."""
CHUNK: Final = 64
"""Rows in one forward: a fixed number, so that a seed gives the same bits again."""


@dataclass(frozen=True)
class Budgets:
    """How many pictures each part of the study gets.

    Attributes:
        metrics: those on which explanations are judged.
        again: the first so many of them, for metrics that explain again.
        whole: those of the mean maps, by methods of up to `cheap` evaluations a picture.
        dear: the first so many of them, for the dearer methods.
        cheap: evaluations a picture up to which a method is cheap.
        boundary: those whose nearest decision boundary is looked for.
        pairs: the commonest confusions that are shown.
        most: the network's answers, and so its accuracy and confusions, are of so many at most.
    """

    metrics: int = 1000
    again: int = 50
    whole: int = 10_000
    dear: int = 200
    cheap: int = 100
    boundary: int = 500
    pairs: int = 6
    most: int = 10_000


QUICK: Final = Budgets(metrics=64, again=8, whole=64, dear=64, boundary=64, pairs=3)
SLICE: Final = 1000
"""Pictures in one unit of work: what an interruption can lose."""


@dataclass(frozen=True)
class Setup:
    """Everything that the numbers of a comparison depend on, but for the pictures and the networks themselves."""

    data: str
    networks: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    seed: int = 0
    quick: bool = False
    budgets: Budgets = field(default_factory=Budgets)
    request: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def everyone(self) -> tuple[str, ...]:
        """The methods, and the control that they are held against."""
        return (*self.methods, control.NAME)

    def mean_of(self, method: str, evaluations: float) -> int:
        """Return of how many pictures a method's maps are averaged, by the evaluations that it takes for each."""
        record = registry.methods().get(method)
        # An evaluation of these is a whole Hessian.
        pairs = record is not None and "piecewise linear or smooth" in record.needs
        cheap = evaluations <= self.budgets.cheap and not pairs
        return self.budgets.whole if cheap else self.budgets.dear

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON's types."""
        return asdict(self)

    @classmethod
    def read(cls, record: dict[str, Any]) -> Setup:
        """Return a setup from its record."""
        lists = {name: tuple(record[name]) for name in ("networks", "methods", "metrics")}
        every: dict[str, Any] = {**record, **lists, "budgets": Budgets(**record["budgets"])}
        return cls(**every)


# The metrics of the study, with the settings that differ from their defaults: fewer steps and draws a picture, because
# there are many pictures. Left out are those that ask the same at a higher price (smooth_mprt,
# monotonicity_correlation), and those that need a second network or told pairs (whence study truth measures axioms).
METRICS: Final[MappingProxyType[str, dict[str, Any]]] = MappingProxyType(
    {
        "deletion": {"steps": 56},
        "insertion": {"steps": 56},
        "pixel_flipping": {"features_in_step": 14},
        "road": {"percentages": (10, 30, 50)},
        "infidelity": {"perturbation": "square", "rescale": True, "samples": 100},
        "faithfulness_correlation": {"samples": 50},
        "faithfulness_estimate": {"features_in_step": 14},
        "monotonicity": {"features_in_step": 14},
        "sensitivity_n": {"sizes": (8, 32, 128), "samples": 20},
        "sufficiency": {},
        "completeness_residual": {},
        "max_sensitivity": {"samples": 10},
        "average_sensitivity": {"samples": 10},
        "local_lipschitz": {"samples": 10},
        "relative_input_stability": {"samples": 10},
        "relative_output_stability": {"samples": 10},
        "mprt": {"draws": 3},
        "efficient_mprt": {"draws": 3},
        "random_logit": {"samples": 3},
        "sparseness": {},
        "effective_features": {},
        "relevance_mass": {},
        "localisation_auc": {},
    }
)


def setup(
    data: str, networks: Sequence[str], methods: Sequence[str], metrics: Sequence[str], **more: Any
) -> Setup:
    """Return a setup; what is empty is all there is.

    Raises:
        BadInput: a name is unknown.
    """
    chosen = {
        "method": tuple(dict.fromkeys(each.strip().replace("-", "_") for each in methods))
        or tuple(registry.methods()),
        "metric": tuple(dict.fromkeys(each.strip().replace("-", "_") for each in metrics))
        or tuple(each for each in METRICS if each in registered()),
    }
    for kind, known in (("method", registry.methods()), ("metric", registered())):
        for name in chosen[kind]:
            if name not in known:
                raise BadInput(unknown(kind, name, known))
    for name in chosen["metric"]:
        if {"other", "pairs"} & {*registered()[name].needs}:
            raise BadInput(f"{name} needs more than a model and pictures; ask it in Python: whence.metrics")
    there = NETWORKS.get(data, ())
    for name in networks:
        if there and name not in there:
            raise BadInput(unknown(f"network for {data}", name, there))
    quick = bool(more.get("quick"))
    budgets = more.pop("budgets", None) or (QUICK if quick else Budgets())
    return Setup(data, tuple(networks) or there, chosen["method"], chosen["metric"], budgets=budgets, **more)


def method_fields(name: str, background: Any) -> dict[str, Any]:
    """Return the settings with which a method takes part: its own defaults, but for what it cannot do without."""
    record = registry.methods()[name]
    found: dict[str, Any] = {}
    if "background" in record.needs:
        found["baseline"] = background
    if "piecewise linear or smooth" in record.needs:
        # Pairs of 784 pixels are 600,000 numbers: the cells of a coarse grid are what it divides.
        found |= {"features": "grid:3", "max_evaluations": 50}
    return found


LOGARITHMIC: Final = ("relative_input_stability", "relative_output_stability")
"""Metrics whose values reach over many powers of ten: what is averaged is their decimal logarithm."""


def together(metrics: Sequence[str]) -> list[str]:
    """Return those metrics that look at the same moved pictures: these are explained once for all of them."""
    records = registered()
    return [name for name in metrics if issubclass(records[name].cls, Perturbing)]


def metric_title(record: Record) -> str:
    """Return a metric's name for readers; of logarithms it says so."""
    return f"{record.title}, log₁₀" if record.name in LOGARITHMIC else record.title
