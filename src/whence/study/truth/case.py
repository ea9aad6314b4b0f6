"""A case: a function, inputs, and the right answer, known in closed form or by construction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from whence.errors import WorkFailed

FAMILIES: Final = MappingProxyType(
    {
        "linear": "Linear",
        "additive": "Additive",
        "interaction": "Products and XOR",
        "cancellation": "Cancellation",
        "saturation": "Saturation",
        "gates": "Min and max gates",
        "detectors": "Detectors",
        "degenerate": "Nothing to find",
    }
)
"""The families of cases, in the order in which they are shown."""
ALL: Final = "path integral and Shapley value"
"""The name of an answer on which path integrals along the straight line and Shapley values agree."""
PATH: Final = "path integral"
SHAPLEY: Final = "Shapley value"

Values = Float[np.ndarray, "n *shape"]


@dataclass(frozen=True, eq=False)
class Answer:
    """A right answer: the convention that gives it, and every feature's part of f(x) − f(x')."""

    convention: str
    values: Values


@dataclass(frozen=True, eq=False)
class Case:
    """A function whose right answer is known.

    Attributes:
        name: what the command line and the tables call it.
        title: what it is, in a few words.
        family: one of `FAMILIES`.
        formula: the function, for readers.
        right: the right answer, for readers.
        function: the same function in NumPy: what the network says is checked against it before anything is scored.
        network: which of `whence.backends.torch_truth`'s networks it is, and with which weights.
        inputs: the examples [n, ...].
        baseline: what "absent" means, like one example.
        answers: the right answers; several where conventions differ, and then the nearest counts.
        mask: where no parts are known: which features take part, like the inputs.
        target: which output is explained.
        dummies: features that the function never looks at, like one example.
        alike: two features that the function treats alike, and whose values are equal in every example.
        alone: the one feature in which the inputs differ from the baseline.
        same_as: the case that has the same function and inputs and another network.
        sum_of: the cases f and g, with factors, of which this is the sum.
        cells: how many cells a side switching methods divide a picture into; None switches every number by itself.
    """

    name: str
    title: str
    family: str
    formula: str
    right: str
    function: Callable[[np.ndarray], np.ndarray]
    network: tuple[str, Mapping[str, Any]]
    inputs: Values
    answers: tuple[Answer, ...] = ()
    mask: Bool[np.ndarray, "n *shape"] | None = None
    baseline: Float[np.ndarray, "*shape"] | None = None
    target: int = 0
    dummies: Bool[np.ndarray, "*shape"] | None = None
    alike: tuple[int, int] | None = None
    alone: int | None = None
    same_as: str = ""
    sum_of: tuple[tuple[float, str], ...] = ()
    cells: int | None = None

    @property
    def absent(self) -> Float[np.ndarray, "*shape"]:
        """The baseline, zeros where none is named."""
        return np.zeros(self.inputs.shape[1:]) if self.baseline is None else self.baseline

    @property
    def is_picture(self) -> bool:
        """Whether the inputs are pictures [n, 1, height, width]."""
        return self.inputs.ndim == 4

    @property
    def change(self) -> Float[np.ndarray, " n"]:
        """What there is to share out: f(x) − f(x')."""
        return self.function(self.inputs) - self.function(self.absent[None])

    def first(self, count: int | None) -> Case:
        """Return the case with its first examples alone."""
        answers = tuple(Answer(each.convention, each.values[:count]) for each in self.answers)
        mask = None if self.mask is None else self.mask[:count]
        return replace(self, inputs=self.inputs[:count], answers=answers, mask=mask)

    def model(self) -> Any:
        """Return the network, a PyTorch module in float64.

        Raises:
            WorkFailed: PyTorch is not installed.
        """
        network, arguments = self.network
        return torch_part("torch_truth").build(network, **arguments)


def torch_part(name: str) -> Any:
    """Return a module of the PyTorch backend, importing PyTorch only now.

    Raises:
        WorkFailed: PyTorch is not installed.
    """
    try:
        return import_module(f"whence.backends.{name}")
    except ModuleNotFoundError as problem:
        if problem.name != "torch":
            raise
        raise WorkFailed("the networks of this study need PyTorch; pip install 'whence[torch]'") from None


# ---- making cases --------------------------------------------------------------------------------------------


def draw(seed: int, *shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Return random numbers that are the same everywhere and for good."""
    # RandomState's numbers are frozen for good; default_rng's may change between releases of NumPy.
    return np.random.RandomState(seed).uniform(low, high, size=shape)


def relu(values: np.ndarray) -> np.ndarray:
    """Return the positive part."""
    return np.maximum(values, 0.0)


def agreed(values: np.ndarray) -> tuple[Answer, ...]:
    """Return the one answer that both conventions give."""
    return (Answer(ALL, values),)


def differing(path: np.ndarray, shapley: np.ndarray) -> tuple[Answer, ...]:
    """Return the two answers of a case in which the conventions differ."""
    return Answer(PATH, path), Answer(SHAPLEY, shapley)


def pair(alone1: np.ndarray, alone2: np.ndarray, both: np.ndarray) -> np.ndarray:
    """Return the Shapley values of two features from what they are worth alone and together.

    Args:
        alone1: f with feature 1 present alone, less f(x').
        alone2: the same of feature 2.
        both: the same of both.
    """
    one, two = (alone1 + both - alone2) / 2, (alone2 + both - alone1) / 2
    return np.stack([one, two], axis=1)


def weights(*rows: tuple[float, ...]) -> np.ndarray:
    """Return a matrix of weights."""
    return np.array(rows, dtype=np.float64)


def affine(matrix: np.ndarray, biases: tuple[float, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return a linear layer, without biases where none are given."""
    return matrix, np.zeros(len(matrix)) if biases is None else np.array(biases, dtype=np.float64)


def rectified(*layers: tuple[np.ndarray, np.ndarray]) -> tuple[str, Mapping[str, Any]]:
    """Return a network of linear layers with a ReLU between each two."""
    return "rectified", {"layers": layers}
