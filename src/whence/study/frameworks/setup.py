"""What the study of the frameworks compares: frameworks, networks, methods and their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

from whence import registry
from whence.errors import BadInput
from whence.naming import unknown

LISTS: Final = ("networks", "frameworks", "methods")
NETWORKS: Final = ("mlp", "cnn", "transformer")
DEFAULT_NETWORKS: Final = ("mlp", "cnn")
DEFAULT_METHODS: Final = (
    "saliency", "integrated_gradients", "smoothgrad", "guided_backprop", "deconvnet", "deeplift", "lrp", "gradcam",
    "occlusion", "kernel_shap",
)  # fmt: skip
# What draws the map of a layer needs one with an extent in space; of these networks the middle one has the classic one.
MAPPED: Final = MappingProxyType({"cnn": "stage2", "transformer": "block2"})


@dataclass(frozen=True)
class Framework:
    """A way of writing a network down: the twins' name for it, what it imports, and how to get that.

    `compiles` says what stands behind its number of programs: "xla", "traces", or nothing.
    """

    name: str
    title: str
    spelling: str
    packages: tuple[str, ...]
    install: str
    compiles: str = ""


FRAMEWORKS: Final = MappingProxyType(
    {
        each.name: each
        for each in (
            Framework("torch", "PyTorch", "torch", ("torch",), "whence[torch]"),
            Framework("jax", "JAX (f, params)", "jax-pair", ("jax",), "whence[jax]", "xla"),
            Framework("flax", "Flax NNX", "flax", ("jax", "flax"), "flax", "xla"),
            Framework("equinox", "Equinox", "equinox", ("jax", "equinox"), "equinox", "xla"),
            Framework("keras", "Keras", "keras", ("tensorflow", "keras"), "whence[tensorflow]", "traces"),
            Framework(
                "tensorflow", "tf.function", "tensorflow", ("tensorflow",), "whence[tensorflow]", "traces"
            ),
            Framework("onnx", "ONNX", "onnx", ("onnx", "onnxruntime", "torch"), "whence[onnx]"),
            Framework("callable", "black box", "numpy", (), ""),
        )
    }
)


@dataclass(frozen=True)
class Setup:
    """Everything that the maps of a study depend on, and how carefully its times are taken."""

    networks: tuple[str, ...] = DEFAULT_NETWORKS
    frameworks: tuple[str, ...] = tuple(FRAMEWORKS)
    methods: tuple[str, ...] = DEFAULT_METHODS
    samples: int = 16
    dtype: str = "float32"
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        known = (
            ("framework", self.frameworks, FRAMEWORKS),
            ("network", self.networks, NETWORKS),
            ("method", self.methods, registry.methods()),
            ("dtype", (self.dtype,), ("float32", "float64")),
        )
        for kind, names, there in known:
            for name in names:
                if name not in there:
                    raise BadInput(unknown(kind, name, there))
        if self.samples < 1:
            raise BadInput(f"--samples is {self.samples}; compare at least one digit")

    @property
    def repeats(self) -> int:
        """How often a warm explanation is timed."""
        return 3 if self.quick else 9

    @property
    def seconds(self) -> float:
        """How long the warm explanations of one method may take together."""
        return 2.0 if self.quick else 8.0

    def methods_of(self, network: str) -> tuple[str, ...]:
        """Return the methods that have a meaning for a network."""
        records = registry.methods()
        return tuple(name for name in self.methods if network in MAPPED or "layer" not in records[name].needs)

    @classmethod
    def read(cls, record: dict[str, Any]) -> Setup:
        """Return a setup from its record."""
        every: dict[str, Any] = {key: tuple(each) if key in LISTS else each for key, each in record.items()}
        return cls(**every)

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON's types."""
        return asdict(self)


def setup(networks: Sequence[str], frameworks: Sequence[str], methods: Sequence[str], **more: Any) -> Setup:
    """Return a setup; what is empty is the default.

    Raises:
        BadInput: a name is unknown.
    """
    given = {
        "networks": networks,
        "frameworks": frameworks,
        "methods": [_underscored(each) for each in methods],
    }
    chosen = {name: tuple(dict.fromkeys(values)) for name, values in given.items() if values}
    every: dict[str, Any] = {**chosen, **more}
    return Setup(**every)


def _underscored(name: str) -> str:
    return name.strip().replace("-", "_")


def fields(name: str, layers: Any, network: str, background: Any, quick: bool) -> dict[str, Any]:
    """Return the settings with which a method is compared: fixed budgets, the same in every framework."""
    record = registry.methods()[name]
    found: dict[str, Any] = {}
    if "background" in record.needs:
        found["baseline"] = background
    if "layer" in record.needs and network in MAPPED:
        found["layer"] = layers.get(MAPPED[network])
    if "features" in record.fields and "window" not in record.fields:
        found["features"] = (
            "grid:2" if {"few features", "piecewise linear or smooth"} & {*record.needs} else "grid:4"
        )
    if "few features" in record.needs:
        return found
    if "steps" in record.fields:
        found["steps"] = 10 if quick else 50
    if "samples" in record.fields:
        found["samples"] = (
            (10 if quick else 25) if "features" not in record.fields else (64 if quick else 256)
        )
    return found
