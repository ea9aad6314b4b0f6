"""Local rules of DeepLIFT: what one step passes back so that Σ m Δx = g Δy, for each family that has no axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from whence.backends.arrays import Array
from whence.backends.program_rules.functions import Functions, divided, larger, summed
from whence.backends.program_rules.kinds import PIECEWISE
from whence.backends.program_rules.program import Step, Values
from whence.backends.program_rules.walk import Arrived, Extras, Passed, derivative

_NODES = 16


@dataclass(frozen=True)
class Call:
    """One step at the input and at the baseline (`0`), and what has arrived."""

    functions: Functions
    step: Step
    values: Values
    values0: Values
    arrived: Arrived
    rows: int
    extras: Extras

    def x(self, position: int) -> Array:
        """Return the value of an input."""
        return self.values[self.step.inputs[position]]

    def x0(self, position: int) -> Array:
        """Return the value of an input at the baseline, for every row of the input."""
        x = self.x(position)
        return self.functions.broadcast(self.values0[self.step.inputs[position]], x.shape)

    def y(self, output: int = 0) -> Array:
        """Return the value of an output."""
        return self.values[self.step.outputs[output]]

    def y0(self, output: int = 0) -> Array:
        """Return the value of an output at the baseline."""
        return self.functions.broadcast(self.values0[self.step.outputs[output]], self.y(output).shape)

    @property
    def g(self) -> Array:
        """What has arrived at the first output."""
        arrived = self.arrived[0]
        return self.functions.zeros_like(self.y()) if arrived is None else arrived

    def derivative(self) -> Passed:
        """Return what the plain derivative passes back."""
        return derivative(self.functions, self.values, self.step, self.arrived)

    def at(self, alpha: float) -> Passed:
        """Return the derivative at a point between baseline (0) and input (1)."""
        taken = [self.values[each] for each in self.step.inputs]
        for position in self.step.moving:
            x, x0 = self.x(position), self.x0(position)
            taken[position] = x0 + (x - x0) * alpha
        found = self.functions.vjp(self.step.again, taken, self.step.moving, self.arrived)
        return dict(zip(self.step.moving, found, strict=True))


Rule = Callable[[Call], Passed]


# ---- one element at a time ---------------------------------------------------------------------------------------


def elementwise(call: Call) -> Passed:
    """M = g Δy/Δx, and the derivative where Δx is too small to divide by."""
    functions, position = call.functions, call.step.moving[0]
    plain = call.derivative()[position]
    x, x0 = call.x(position), call.x0(position)
    change = x - x0
    if call.step.kind in PIECEWISE or call.step.settings.get("piecewise"):
        small = change == 0
    else:
        size = larger(functions, abs(x), abs(x0))
        small = abs(change) <= (2 * functions.epsilon(x)) ** 0.5 * (1 + size)
    rise = (call.y() - call.y0()) * call.g
    if tuple(rise.shape) != tuple(change.shape):
        # The operand was laid over a larger array.
        rise = summed(functions, rise, change.shape)
    return {position: functions.where(small, plain, divided(functions, rise, change, 0.0))}


def hidden(call: Call) -> Passed:
    """The derivative, corrected along Δx for what the inputs without a gradient do to Δy."""
    plain, step = call.derivative(), call.step
    if step.kind == "concatenate":
        return plain
    positions = [position for position, each in enumerate(step.hidden) if each]
    changed = call.functions.any(call.x(positions[0]) != call.x0(positions[0]))
    for each in positions[1:]:
        changed = changed | call.functions.any(call.x(each) != call.x0(each))
    return _secant(call, plain, call.g * (call.y() - call.y0()), changed)


_MIXED = (
    "{} takes elements by places that depend on the input, across the examples of the batch: its share is the "
    "plain derivative's, and the residual holds what is missing"
)


def _secant(call: Call, plain: Passed, wanted: Array, where: Array | None = None) -> Passed:
    """Add to each multiplier what is missing to Σ m Δx = g Δy, in proportion to Δx.

    Element by element where all operands are shaped like the result, else example by example.
    """
    functions = call.functions
    changes = {position: call.x(position) - call.x0(position) for position in plain}
    by_row = any(tuple(change.shape) != tuple(wanted.shape) for change in changes.values())
    values = (wanted, *changes.values())
    if by_row and call.rows > 1 and any(each.ndim == 0 or each.shape[0] != call.rows for each in values):
        always = functions.any(functions.ones_like(wanted) > 0)
        call.extras.notes.append((_MIXED.format(call.step.operation), always if where is None else where))
        return plain
    missing = _by_row(wanted) if by_row else wanted
    length = functions.zeros_like(missing)
    for position, change in changes.items():
        known, square = plain[position] * change, change * change
        missing = missing - (_by_row(known) if by_row else known)
        length = length + (_by_row(square) if by_row else square)
    ratio = divided(functions, missing, length, 0.0)
    if where is not None:
        ratio = functions.where(where, ratio, 0.0)
    return {
        position: plain[position] + change * _beside(ratio, change) for position, change in changes.items()
    }


def _by_row(values: Array) -> Array:
    return values.reshape((values.shape[0], -1)).sum(1) if values.ndim > 1 else values


def _beside(ratio: Array, change: Array) -> Array:
    same = tuple(ratio.shape) == tuple(change.shape)
    return ratio if same else ratio.reshape((-1, *(1,) * (change.ndim - 1)))


# ---- several operands --------------------------------------------------------------------------------------------


def product(call: Call) -> Passed:
    """The derivative at the midpoint of all operands: exact for whatever is linear in each of two."""
    return call.at(0.5)


def quotient(call: Call) -> Passed:
    """Y = a/b: m_a = 2g/(b + b0), m_b = −g (y + y0)/(b + b0); where b changes sign, by the mean of 1/b and 1/b0."""
    functions, g = call.functions, call.g
    a, b, a0, b0 = call.x(0), call.x(1), call.x0(0), call.x0(1)
    alike = b * b0 > 0
    total = functions.where(alike, b + b0, functions.ones_like(b))
    above = functions.where(alike, 2 / total, (1 / b + 1 / b0) / 2) * g
    below = functions.where(alike, -(call.y() + call.y0()) / total, -(a + a0) / (2 * b * b0)) * g
    answers = {0: (above, a), 1: (below, b)}
    return {
        position: summed(functions, answers[position][0], answers[position][1].shape)
        for position in call.step.moving
    }


# ---- anything else -----------------------------------------------------------------------------------------------


def integral(call: Call) -> Passed:
    """The derivative averaged over 16 Gauss–Legendre nodes between baseline and input, then made exact along Δx."""
    total: dict[int, Array] = {}
    for alpha, weight in _gauss_legendre(_NODES):
        for position, gradient in call.at(alpha).items():
            share = gradient * weight
            total[position] = total[position] + share if position in total else share
    return _exact(call, total)


def order(call: Call) -> Passed:
    """The derivative, made exact along Δx, example by example."""
    return _exact(call, call.derivative())


def _exact(call: Call, passed: Passed) -> Passed:
    wanted = [
        arrived * (call.y(output) - call.y0(output))
        for output, arrived in enumerate(call.arrived)
        if arrived is not None
    ]
    total = wanted[0] if len(wanted) == 1 else _total([_by_row(each) for each in wanted])
    return _secant(call, passed, total)


def _total(parts: Sequence[Array]) -> Array:
    total = parts[0]
    for each in parts[1:]:
        total = total + each
    return total


@cache
def _gauss_legendre(count: int) -> tuple[tuple[float, float], ...]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return tuple(
        (float(node + 1) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)
    )
