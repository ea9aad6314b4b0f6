"""Where LRP's relevance went: what operations took in, less what they handed on, by the kind of operation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from typing import Any

import torch

from whence.backends.torch_rules.engine import Gradients, Recorded
from whence.backends.torch_rules.graph import Met
from whence.backends.torch_rules.recording import Operation

BIASES, EPSILON, ELSEWHERE = "biases and constants", "epsilon", "elsewhere"
SIDES = "biases, and units of one sign"
_LABELS = {
    **dict.fromkeys(("dense", "convolution", "sum", "scale", "norm", "move", "maximum"), BIASES),
    **dict.fromkeys(("relu", "activation", "cell"), "activations"),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp"), "softmax"),
    "quotient": "quotients", "product": "products", "power": "statistics",
}  # fmt: skip


class Account:
    """The relevance that kinds of operations have kept (or, where negative, made), summed over all rows of a run."""

    def __init__(self, flagged: Set[Any]) -> None:
        self.kept: dict[str, float] = defaultdict(float)
        self._flagged = flagged

    def take(self, run: Recorded, met: Met, label: str, sign: float = 1.0) -> None:
        """Count what arrives at a node, as it is after the rules that were put there before."""
        kept, values = self.kept, (met.operation.outputs if met.operation is not None else [met.given])
        relevant = met.node in self._flagged

        def count(outputs: Gradients) -> Gradients:
            for each, y in zip(outputs, values, strict=False):
                kept[label] += sign * _total(each, None if relevant else y)
            return outputs

        run.prehook(met, count)

    def give(self, run: Recorded, met: Met, label: str) -> None:
        """Count what a node hands on, as it is after the rules that were put there before."""
        kept, values, varying = self.kept, operands(met), met.varying
        relevant = [before in self._flagged for before, _ in met.node.next_functions]

        def count(inputs: Gradients, outputs: Gradients) -> Gradients:
            for edge, each in enumerate(inputs):
                if varying[edge]:
                    kept[label] -= _total(each, None if relevant[edge] else values.get(edge))
            return inputs

        run.hook(met, count)


def label_of(met: Met, one_sided: bool = False) -> str:
    """Return under what name an operation's loss is counted; `one_sided` rules may lose a whole side of a unit."""
    if one_sided:
        return SIDES
    return _LABELS.get(met.family or "", ELSEWHERE)


def operands(met: Met) -> Mapping[int, torch.Tensor]:
    """Return a node's operands by the edge that leads to them."""
    if met.operation is None:
        return {} if met.taken is None else {0: met.taken}
    tensors = _tensors(met.operation)
    if len(met.varying) == 1:
        return {0: next(each for each in tensors if each is not None)} if tensors else {}
    return {i: each for i, each in enumerate(tensors) if each is not None and i < len(met.varying)}


def _tensors(operation: Operation) -> list[torch.Tensor | None]:
    first = operation.arguments[0] if operation.arguments else None
    if isinstance(first, (list, tuple)):
        return list(first)
    found: list[torch.Tensor | None] = []
    for each in operation.arguments:
        if each is None or (
            isinstance(each, torch.Tensor) and (each.is_floating_point() or each.is_complex())
        ):
            found.append(each)
    return found


def _total(arrived: torch.Tensor | None, value: torch.Tensor | None) -> float:
    if arrived is None:
        return 0.0
    # Where nothing arrives nothing is kept, also of what a mask made infinite.
    share = arrived if value is None else torch.where(arrived == 0, 0.0, arrived * value)
    return float(share.double().sum())
