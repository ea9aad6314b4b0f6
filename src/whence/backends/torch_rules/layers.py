"""The linear layers of a recorded run: what they multiply with, and the affine tail that is folded into them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from whence.backends.torch_rules.families import BATCH_NORMS, FACTORS
from whence.backends.torch_rules.graph import Met
from whence.backends.torch_rules.recording import Operation, aten
from whence.composite import Composite, LayerRule
from whence.errors import BadInput

RESHAPED = frozenset(
    (aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.squeeze, aten.unsqueeze, aten.permute,
     aten.transpose, aten.t)
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of a linear operation z = Wx + b, and z̃ = scale · z + shift after it (a batch norm, a bias apart)."""

    operation: Operation
    edge: int
    rule: LayerRule
    scale: torch.Tensor | None
    shift: torch.Tensor | None
    offset_is_constant: bool = True
    is_first: bool = False

    @property
    def x(self) -> torch.Tensor:
        """What varies."""
        return self.operation.arguments[self.edge]

    @property
    def z(self) -> torch.Tensor:
        """What the layer gives, with its tail."""
        z = self.operation.outputs[0]
        z = z if self.scale is None else z * self.scale
        return z if self.shift is None else z + self.shift

    @cached_property
    def weight(self) -> torch.Tensor:
        """What it multiplies with, the tail's scale included."""
        weight: torch.Tensor = self.operation.arguments[self._other]
        if self.scale is None:
            return weight
        if not self._convolves:
            return weight * self.scale
        if self.operation.arguments[6]:
            # A transposed convolution: inputs, then outputs by group.
            groups = self.operation.arguments[8]
            scale = self.scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
            return (weight.reshape(groups, -1, *weight.shape[1:]) * scale).reshape(weight.shape)
        return weight * self.scale.reshape(-1, *(1,) * (weight.ndim - 1))

    @cached_property
    def bias(self) -> torch.Tensor | None:
        """What it adds, the tail's shift included; shaped to be added to z."""
        arguments = self.operation.arguments
        if self._convolves:
            own = None if arguments[2] is None else arguments[2].reshape(-1, *(1,) * (arguments[1].ndim - 2))
        else:
            own = arguments[0] if FACTORS[self.operation.kind][0] == 1 and self.offset_is_constant else None
        own = own if own is None or self.scale is None else own * self.scale
        if own is None or self.shift is None:
            return self.shift if own is None else own
        return own + self.shift

    def multiply(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return another input times another weight, without a bias."""
        arguments = self.operation.arguments
        if self._convolves:
            return self.operation.function(x, weight, None, *arguments[3:])
        return x @ weight if self.edge < self._other else weight @ x

    @property
    def _convolves(self) -> bool:
        return self.operation.kind not in FACTORS

    @property
    def _other(self) -> int:
        return _other(self.operation, self.edge)


def layers(every: Sequence[Met], composite: Composite) -> dict[Any, Layer]:
    """Return the linear layers by their node, each with its rule; those nearest to the input last.

    Raises:
        BadInput: a rule is for a position that no layer has.
    """
    uses: dict[Any, list[Met]] = defaultdict(list)
    for each in every:
        for before, _ in each.node.next_functions:
            uses[before].append(each)
    linear = [each for each in every if each.family in ("dense", "convolution")]
    ordered = sorted(linear, key=lambda each: each.node._sequence_nr())
    for number in composite.positions if ordered else ():
        if not -len(ordered) <= number < len(ordered):
            raise BadInput(
                f"composite: there is no layer at position {number}; {len(ordered)} take a rule here"
            )
    first = _first(every, linear)
    found: dict[Any, Layer] = {}
    for position, each in enumerate(ordered):
        assert each.operation is not None
        place = each.operation.place
        module = "" if place is None else place.module
        rule = composite.chosen(module, position, len(ordered), each.node in first, each.family)
        found[each.node] = Layer(
            each.operation, _edge(each), rule, *_tail(each, _edge(each), uses),
            not each.varying[0] or _edge(each) == 0, each.node in first,
        )  # fmt: skip
    return found


def _other(operation: Operation, edge: int) -> int:
    """Return where the constant factor stands."""
    factors = FACTORS.get(operation.kind)
    return 1 if factors is None else next(place for place in factors if place != edge)


def _edge(met: Met) -> int:
    operation = met.operation
    assert operation is not None
    if operation.kind not in FACTORS:
        return 0
    return next(place for place in FACTORS[operation.kind] if met.varying[place])


def _first(every: Sequence[Met], linear: Sequence[Met]) -> set[Any]:
    """Return the nodes of the layers that have no other between them and the input."""
    layered = {each.node for each in linear}
    above: dict[Any, bool] = {}
    for each in reversed(every):
        before = [node for node, _ in each.node.next_functions]
        above[each.node] = any(node in layered or above.get(node, False) for node in before)
    return {each.node for each in linear if not above[each.node]}


def _tail(met: Met, edge: int, uses: dict[Any, list[Met]]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return scale and shift of what a layer alone is followed by: a bias that is added apart, a batch norm."""
    assert met.operation is not None
    here, z = met, met.operation.outputs[0]
    dense = met.family == "dense"
    # Of W x the units stand before the columns.
    channel = 1 if not dense else z.ndim - 1 if edge < _other(met.operation, edge) else z.ndim - 2
    beside = (1,) * (z.ndim - channel - 1)
    axis: int | None = channel
    while axis is not None and len(uses[here.node]) == 1:
        here = uses[here.node][0]
        operation = here.operation
        if operation is None or not operation.outputs:
            break
        y = operation.outputs[0]
        if operation.kind in BATCH_NORMS and here.family == "scale" and axis == 1:
            return _folded(operation, beside)
        if operation.kind in RESHAPED:
            axis = _carried(operation, axis)
            continue
        constant = _constant(here)
        # Not with an axis of 1 in front, which may be the batch.
        wanted = (z.shape[channel], *(1,) * (y.ndim - axis - 1))
        if constant is not None and dense and tuple(constant.shape) == wanted:
            return None, constant.reshape(-1, *beside)
        break
    return None, None


def _folded(operation: Operation, beside: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    _, weight, bias, mean, variance, *rest = operation.arguments
    scale = (variance + rest[-1]).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return scale.reshape(-1, *beside), shift.reshape(-1, *beside)


def _constant(met: Met) -> torch.Tensor | None:
    operation = met.operation
    if operation is None or operation.kind is not aten.add or sum(met.varying) != 1:
        return None
    constant = operation.arguments[0 if len(met.varying) > 1 and met.varying[1] else 1]
    return constant if isinstance(constant, torch.Tensor) else None


def _carried(operation: Operation, axis: int) -> int | None:
    """Return where an axis stands after a view or a permutation; None where it was taken apart."""
    before, after = operation.arguments[0].shape, operation.outputs[0].shape
    if operation.kind in (aten.permute, aten.transpose, aten.t):
        given = operation.arguments[1:]
        order = list(range(len(before)))
        if operation.kind is aten.permute:
            order = [each % len(before) for each in given[0]]
        else:
            one, two = (each % len(before) for each in (given or (0, 1)))
            order[one], order[two] = order[two], order[one]
        return order.index(axis)
    inner = math.prod(before[axis + 1 :])
    for place, size in enumerate(after):
        if size == before[axis] and math.prod(after[place + 1 :]) == inner:
            return place
    return None
