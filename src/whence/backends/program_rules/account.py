"""Where LRP's relevance went: what steps took in, less what they handed on, by the kind of step."""

from __future__ import annotations

from whence.backends.arrays import Array
from whence.backends.program_rules.functions import Functions
from whence.backends.program_rules.program import Step, Values
from whence.backends.program_rules.walk import Arrived, Extras, Passed

BIASES, EPSILON, ELSEWHERE = "biases and constants", "epsilon", "elsewhere"
SIDES = "biases, and units of one sign"
_LABELS = {
    **dict.fromkeys(("dense", "convolution", "sum", "scale", "norm", "move", "maximum"), BIASES),
    **dict.fromkeys(("relu", "activation", "cell"), "activations"),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp"), "softmax"),
    "quotient": "quotients", "product": "products", "power": "statistics",
}  # fmt: skip


class Account:
    """The relevance that kinds of steps have kept (or, where negative, made), summed over all rows."""

    def __init__(self, functions: Functions, values: Values, flagged: frozenset[int], extras: Extras) -> None:
        self._functions, self._values, self._flagged, self._extras = functions, values, flagged, extras

    def take(self, step: Step, arrived: Arrived, label: str, sign: float = 1.0) -> None:
        """Count what arrives at a step."""
        for variable, each in zip(step.outputs, arrived, strict=True):
            if each is not None:
                self._extras.add(label, sign * self._total(variable, each))

    def density(self, step: Step, arrived: Array, sign: float, *labels: str) -> None:
        """Count a density that has been made of what arrived at a step's first output."""
        for label in labels:
            self._extras.add(label, sign * self._share(arrived, self._values[step.outputs[0]]))
            sign = -sign

    def give(self, step: Step, passed: Passed, label: str) -> None:
        """Count what a step hands on."""
        for position, each in passed.items():
            self._extras.add(label, -self._total(step.inputs[position], each))

    def _total(self, variable: int, arrived: Array) -> Array:
        return arrived.sum() if variable in self._flagged else self._share(arrived, self._values[variable])

    def _share(self, arrived: Array, value: Array) -> Array:
        # Where nothing arrives nothing is kept, also of what a mask made infinite.
        return self._functions.where(arrived == 0, 0.0, arrived * value).sum()


def label_of(step: Step, one_sided: bool = False) -> str:
    """Return under what name a step's loss is counted; `one_sided` rules may lose a whole side of a unit."""
    return SIDES if one_sided else _LABELS.get(step.family or "", ELSEWHERE)
