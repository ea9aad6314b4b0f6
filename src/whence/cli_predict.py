"""What a model answers for a picture: its classes and their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, UInt8

from whence import target
from whence.backends.callable import NumpyOperations
from whence.errors import BadInput
from whence.loading import Source
from whence.question import Call, outputs


@dataclass(frozen=True)
class Prediction:
    """What a model answers for one picture; probabilities are None where its output is no row of classes."""

    output: Float64[np.ndarray, "*shape"]
    probabilities: Float64[np.ndarray, " classes"] | None

    @property
    def classes(self) -> int | None:
        """How many classes there are."""
        return None if self.probabilities is None else len(self.probabilities)

    def top(self, labels: Sequence[str] | None, count: int = 5) -> list[tuple[int, str, float]]:
        """Return the most probable classes: number, name, probability."""
        if self.probabilities is None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(k), class_name(int(k), labels), float(self.probabilities[k])) for k in order]


def class_name(index: int, labels: Sequence[str] | None) -> str:
    """Return a class's name, or "class 3" where it has none."""
    return labels[index] if labels is not None and index < len(labels) else f"class {index}"


def predict(source: Source, picture: UInt8[np.ndarray, "1 h w c"], seed: int = 0) -> Prediction:
    """Run the model on one picture in pixels.

    Raises:
        BadInput: the output is not finite, or the labels are not as many as the classes.
        WorkFailed: the model raised an exception.
    """
    with source.blamed():
        output = outputs(Call(source.model, picture, preprocess=source.preprocess, seed=seed))
    if output.ndim != 2 or output.shape[1] < 2:
        return Prediction(output[0], None)
    if source.labels is not None and len(source.labels) != output.shape[1]:
        raise BadInput(
            f"there are {len(source.labels)} labels and {source.name} has {output.shape[1]} classes; "
            "give a file with one name a line, the first being class 0"
        )
    ops = NumpyOperations()
    probabilities = output if target._are_probabilities(output, ops) else target._probabilities(output, ops)
    return Prediction(output[0], probabilities[0])
