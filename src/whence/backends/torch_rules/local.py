"""Local rules of DeepLIFT: what one operation passes back so that Σ m Δx = g Δy, for each family that has no axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from whence.backends.torch_rules import families
from whence.backends.torch_rules.engine import Gradients
from whence.backends.torch_rules.recording import Operation, aten

Tensors = tuple[Any, ...]
# Of a function that is piecewise linear the difference quotient is exact at any distance.
_PIECEWISE = frozenset(
    families._named("relu hardtanh clamp clamp_min clamp_max threshold leaky_relu abs softshrink hardshrink "
                    "_prelu_kernel hardsigmoid maximum minimum rrelu_with_noise")
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One operation at the input and at the baseline: arguments, outputs, and which of its operands vary."""

    operation: Operation | None
    family: str | None
    varying: tuple[bool, ...]
    arguments: Tensors
    arguments0: Tensors
    outputs: Tensors
    outputs0: Tensors
    rows: int
    notes: list[str]

    @classmethod
    def of(
        cls,
        one: Operation,
        two: Operation,
        family: str | None,
        varying: tuple[bool, ...],
        rows: int,
        notes: list[str],
    ) -> Call:
        """Lay two recorded operations side by side."""
        return cls(
            one, family, varying, tuple(one.arguments), tuple(two.arguments), tuple(one.outputs), tuple(two.outputs),
            rows, notes,
        )  # fmt: skip

    @property
    def kind(self) -> Any:
        """The operation without its spelling."""
        return None if self.operation is None else self.operation.kind

    def operands(self) -> list[tuple[int, int, torch.Tensor, torch.Tensor]]:
        """Return (edge, position among the arguments, value, value at the baseline) of the operands that vary."""
        tensors = [(i, a) for i, a in enumerate(self.arguments) if isinstance(a, torch.Tensor)]
        if len(self.varying) == 1:
            floating = [(i, a) for i, a in tensors if a.is_floating_point()][:1]
            return [(0, i, a, self.arguments0[i]) for i, a in floating]
        floats = [(i, a) for i, a in enumerate(self.arguments)
                  if a is None or (isinstance(a, torch.Tensor) and a.is_floating_point())]  # fmt: skip
        found: list[tuple[int, int, torch.Tensor, torch.Tensor]] = []
        for edge, varies in enumerate(self.varying):
            position, value = floats[edge] if edge < len(floats) else (0, None)
            if varies and value is not None:
                found.append((edge, position, value, self.arguments0[position]))
        return found

    def again(self, arguments: Sequence[Any]) -> Any:
        """Do the operation with other arguments, out of place."""
        assert self.operation is not None
        function = self.operation.function
        plain = getattr(self.operation.kind, function._overloadname)
        return plain(*arguments, **self.operation.keywords)


Rule = Callable[[Call, Gradients, Gradients], Gradients]


def fits(x: torch.Tensor, x0: torch.Tensor) -> bool:
    """Tell whether a value at the baseline lies beside that at the input: the same, or one row for all."""
    return x.ndim == x0.ndim and all(a in (b, 1) or b == a for a, b in zip(x0.shape, x.shape, strict=True))


def placed(call: Call, gradients: Sequence[tuple[int, torch.Tensor]], inputs: Gradients) -> Gradients:
    """Return the answer of a node with some of its entries replaced."""
    changed = dict(gradients)
    return tuple(changed.get(edge, each) for edge, each in enumerate(inputs))


def _summed(gradient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Sum a gradient over the axes along which an operand was broadcast."""
    return gradient if gradient.shape == like.shape else gradient.sum_to_size(like.shape)


# ---- one element at a time -----------------------------------------------------------------------------------


def elementwise(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """M = g Δy/Δx, and the derivative where Δx is too small to divide by."""
    edge, _, x, x0 = call.operands()[0]
    plain, arrived = inputs[edge], outputs[0]
    if plain is None or arrived is None:
        return inputs
    y, y0 = call.outputs[0], call.outputs0[0]
    change = x - x0
    passed = (y - y0).div_(change).mul_(arrived)
    if call.kind in _PIECEWISE:
        small = change == 0
    else:
        eps = torch.finfo(x.dtype).eps
        small = change.abs_() <= (2 * eps) ** 0.5 * (1 + torch.maximum(x.abs(), x0.abs()))
    # A slope that is nowhere wanted (infinite, or a hidden operand moved) is the plain one.
    passed = _summed(passed, plain)
    # Into the node's own answer where that can be: fresh memory costs more than the arithmetic.
    own = plain if plain.is_contiguous() and passed.dtype == plain.dtype else None
    return placed(call, [(edge, torch.where(small, plain, passed, out=own))], inputs)


def hidden(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """The derivative, corrected along Δx for what the operand without a gradient does to Δy."""
    operands = call.operands() if call.kind not in (aten.cat, aten.stack) else []
    arrived = outputs[0]
    changed = any(
        not torch.equal(a.expand_as(b), b)
        for a, b in zip(call.arguments0, call.arguments, strict=True)
        if isinstance(b, torch.Tensor) and all(position[2] is not b for position in operands)
    ) or any(isinstance(each, (list, tuple)) for each in call.arguments)
    if not changed or arrived is None or not operands:
        return inputs
    y, y0 = call.outputs[0], call.outputs0[0]
    return _secant(call, inputs, [(edge, x - x0) for edge, _, x, x0 in operands], arrived * (y - y0))


def _secant(
    call: Call, inputs: Gradients, changes: list[tuple[int, torch.Tensor]], wanted: torch.Tensor
) -> Gradients:
    """Add to each multiplier what is missing to Σ m Δx = g Δy, in proportion to Δx.

    Element by element where all operands are shaped like the result, else example by example.
    """
    parts = [(edge, inputs[edge], change) for edge, change in changes]
    known = [(edge, plain, change) for edge, plain, change in parts if plain is not None]
    if len(known) < len(parts):
        return inputs
    summed = _itself
    if any(change.shape != wanted.shape for _, change in changes):
        summed = _by_row
        values = (wanted, *(change for _, change in changes))
        if call.rows > 1 and any(each.shape[:1] != (call.rows,) for each in values):
            call.notes.append(_MIXED.format(call.operation.name if call.operation else "a custom function"))
            return inputs
    missing, length = summed(wanted), torch.zeros_like(summed(wanted))
    for _, plain, change in known:
        missing = missing - summed(plain * change)
        length = length + summed(change * change)
    ratio = torch.where(length > 0, missing / length, torch.zeros_like(missing))
    return placed(
        call, [(edge, plain + change * _beside(ratio, change)) for edge, plain, change in known], inputs
    )


_MIXED = (
    "{} takes elements by places that depend on the input, across the examples of the batch: its share is the "
    "plain derivative's, and the residual holds what is missing"
)


def _itself(values: torch.Tensor) -> torch.Tensor:
    return values


def _by_row(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).sum(1) if values.ndim > 1 else values


def _beside(ratio: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return ratio if ratio.shape == change.shape else ratio.reshape(-1, *(1,) * (change.ndim - 1))


# ---- several operands ----------------------------------------------------------------------------------------


def product(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """The derivative at the midpoint of all operands: exact for whatever is linear in each of two."""
    arrived = outputs[0]
    if arrived is None:
        return inputs
    if call.kind is aten.mul:
        (edge, _, a, a0), (edge2, _, b, b0) = call.operands()
        one = _summed((b + b0).div_(2).mul(arrived), a)
        two = _summed((a + a0).div_(2).mul(arrived), b)
        return placed(call, [(edge, one), (edge2, two)], inputs)
    return placed(call, _at(call, 0.5, arrived), inputs)


def _at(call: Call, alpha: float, arrived: torch.Tensor, output: int = 0) -> list[tuple[int, torch.Tensor]]:
    """Return the derivative of one output at a point between baseline (0) and input (1)."""
    operands, arguments = call.operands(), list(call.arguments)
    between: list[torch.Tensor] = []
    with torch.enable_grad():
        for _, position, x, x0 in operands:
            between.append((x0 + (x - x0) * alpha).detach().requires_grad_())
            arguments[position] = between[-1]
        result = call.again(arguments)
        y = result[output] if isinstance(result, (tuple, list)) else result
        gradients = torch.autograd.grad(y, between, arrived, allow_unused=True, materialize_grads=True)
    return [(edge, gradient) for (edge, *_), gradient in zip(operands, gradients, strict=True)]


def quotient(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """Y = a/b: m_a = 2g/(b + b0), m_b = −g (y + y0)/(b + b0); where b changes sign, by the mean of 1/b and 1/b0."""
    arrived = outputs[0]
    if arrived is None:
        return inputs
    a, b = call.arguments[:2]
    a0, b0 = call.arguments0[:2]
    y, y0 = call.outputs[0], call.outputs0[0]
    alike = torch.as_tensor(b * b0 > 0)
    total = torch.where(alike, b + b0, torch.ones_like(b))
    above = torch.where(alike, 2 / total, (1 / b + 1 / b0) / 2) * arrived
    below = torch.where(alike, -(y + y0) / total, -(a + a0) / (2 * b * b0)) * arrived
    answers = {0: (above, a), 1: (below, b)}
    return placed(
        call, [(edge, _summed(*answers[edge])) for edge, varies in enumerate(call.varying) if varies], inputs
    )


# ---- anything else ------------------------------------------------------------------------------------------


def integral(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """The derivative averaged over 16 Gauss–Legendre nodes between baseline and input, then made exact along Δx."""
    if call.operation is None:
        return inputs
    nodes, weights = (torch.as_tensor(each) for each in _GAUSS)
    total: dict[int, torch.Tensor] = {}
    for alpha, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        for output, arrived in enumerate(outputs):
            for edge, gradient in [] if arrived is None else _at(call, alpha, arrived, output):
                total[edge] = total[edge] + gradient * weight if edge in total else gradient * weight
    averaged = placed(call, list(total.items()), inputs)
    return order(call, averaged, outputs)


def order(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """The derivative, made exact along Δx, example by example."""
    values = zip(outputs, call.outputs, call.outputs0, strict=False)
    wanted = [arrived * (y - y0) for arrived, y, y0 in values if arrived is not None]
    if not wanted:
        return inputs
    total = wanted[0] if len(wanted) == 1 else torch.stack([_by_row(each) for each in wanted]).sum(0)
    return _secant(call, inputs, [(edge, x - x0) for edge, _, x, x0 in call.operands()], total)


def _gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(count)
    return list((nodes + 1) / 2), list(weights / 2)


_GAUSS = _gauss_legendre(16)
