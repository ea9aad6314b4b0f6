"""Guided backpropagation and the deconvolution network: what a rectifier passes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from whence.backends.torch_rules.engine import Gradients, Recorded
from whence.backends.torch_rules.families import WITH_CONSTANTS
from whence.backends.torch_rules.graph import Met
from whence.backends.torch_rules.recording import aten
from whence.errors import Refused
from whence.rule import Rules

Hook = Callable[[Gradients, Gradients], Gradients]
# Max(x, 0) may also be spelt with these: by a mask, or by a tensor of zeros.
_DISGUISES = (
    frozenset((aten.mul, aten.where, aten.masked_fill, aten.index_put, aten.clamp, aten.clamp_min))
    | WITH_CONSTANTS
)


def keeps(kind: Any, moving: int, arguments: Sequence[Any]) -> bool:
    """Keep the values of what may be a rectifier in disguise."""
    return kind in _DISGUISES and (
        moving > 1 or kind in WITH_CONSTANTS or kind in (aten.clamp, aten.clamp_min)
    )


def attach(run: Recorded, rules: Rules) -> None:
    """Put the rule on every rectifier.

    Raises:
        Refused: there is none, so that the answer would be the plain gradient.
    """
    rule = _guided if rules.name == "guided" else _deconvolution
    rectifiers = [each for each in run.every if is_rectifier(each)]
    if run.every and not rectifiers and rules.required:
        others = sorted({each.name for each in run.every if each.family == "activation"})
        met = f" (it uses {', '.join(others)})" if others else ""
        raise Refused(
            f"{rules.name} rules change what a ReLU passes back, and between this output and the input there is none"
            f"{met}; the answer would be the plain gradient: use saliency, or deeplift, which has rules for them all"
        )
    for each in rectifiers:
        run.hook(each, rule)


def is_rectifier(met: Met) -> bool:
    """Tell whether a node is max(x, 0), by its name or by what it does to these values."""
    if met.family == "relu":
        return True
    operation = met.operation
    if (
        operation is None
        or operation.kind not in _DISGUISES
        or not operation.arguments
        or sum(met.varying) != 1
    ):
        return False
    y = operation.outputs[0]
    operands = [
        each for each in operation.arguments if isinstance(each, torch.Tensor) and each.is_floating_point()
    ]
    return any(each.shape == y.shape and torch.equal(each.clamp(min=0), y) for each in operands)


def _guided(inputs: Gradients, outputs: Gradients) -> Gradients:
    # In place: what a rectifier's node returns is its own.
    return tuple(None if each is None else each.clamp_(min=0) for each in inputs)


def _deconvolution(inputs: Gradients, outputs: Gradients) -> Gradients:
    arrived = outputs[0]
    passed = None if arrived is None else arrived.clamp(min=0)
    return tuple(None if each is None else passed for each in inputs)
