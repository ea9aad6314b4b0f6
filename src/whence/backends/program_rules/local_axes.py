"""Local rules of DeepLIFT for steps that act along axes: norms, softmax and its kin, maxima."""

from __future__ import annotations

from collections.abc import Sequence

from whence.backends.arrays import Array
from whence.backends.program_rules.functions import Functions, divided, summed
from whence.backends.program_rules.local import Call
from whence.backends.program_rules.norms import Norm
from whence.backends.program_rules.program import Step, Values
from whence.backends.program_rules.walk import Passed


def norm(call: Call) -> Passed:
    """C = x − mean, s = √(mean c² + ε): m_c = 2g/(s + s0) − (c + c0)/(s + s0)² · mean(g (y + y0)), less its mean."""
    functions, found = call.functions, _norm_of(call.step)
    values = _taken(call.step, call.values)
    c, s, weight = found.parts(functions, values)
    # One row may stand for all at the baseline; a batch's own statistics mix the rows.
    c0, s0 = found.centred(functions, values, call.x0(0))
    weighted, total = call.g * weight, s + s0
    mean = found.mean(functions, values, weighted * (c / s + c0 / s0))
    m = 2 * weighted / total - (c + c0) / (total * total) * mean
    return {0: m - found.mean(functions, values, m)}


def held_norm(functions: Functions, step: Step, values: Values, arrived: Array) -> Array:
    """Return the derivative of a norm whose standard deviation is held: w g/s less its mean."""
    found, taken = _norm_of(step), _taken(step, values)
    _, s, weight = found.parts(functions, taken)
    m = arrived * weight / s
    return m - found.mean(functions, taken, m)


def _norm_of(step: Step) -> Norm:
    return step.settings["norm"]


def _taken(step: Step, values: Values) -> Values:
    return {each: values[each] for each in step.inputs}


# ---- softmax -----------------------------------------------------------------------------------------------------


def _logarithmic_mean(functions: Functions, p: Array, p0: Array, logs: Array) -> Array:
    """Λ = (p − p0)/(ln p − ln p0), with the difference of the logarithms given; p where they are equal."""
    small = abs(logs) < 1e-4
    # (e^h − 1)/h near 0, by its series: the difference quotient loses half the digits there.
    series = p0 * (1 + logs / 2 * (1 + logs / 3 * (1 + logs / 4)))
    exact = (p - p0) / functions.where(small, functions.ones_like(logs), logs)
    found = functions.where(small, series, exact)
    return functions.where(p == 0, functions.where(p0 == 0, 0.0, found), found)


def _logarithms(functions: Functions, x: Array, axes: Sequence[int]) -> Array:
    most = x.max(axis=tuple(axes), keepdims=True)
    # Where all are −∞ nothing is taken off.
    shifted = x - functions.where(abs(most) < float("inf"), most, functions.zeros_like(most))
    return shifted - functions.log(functions.exp(shifted).sum(tuple(axes), keepdims=True))


def _softmax_parts(call: Call) -> Array:
    functions, axes = call.functions, call.step.settings["axes"]
    logs, logs0 = (_logarithms(functions, each, axes) for each in (call.x(0), call.x0(0)))
    difference = _finite(functions, logs - logs0)
    return _logarithmic_mean(functions, functions.exp(logs), functions.exp(logs0), difference)


def _finite(functions: Functions, array: Array) -> Array:
    return functions.where(abs(array) < float("inf"), array, functions.zeros_like(array))


def softmax(call: Call) -> Passed:
    """Λ = (y − y0)/(ln y − ln y0): m = Λ (g − ΣΛg/ΣΛ)."""
    axes, mean, g = call.step.settings["axes"], _softmax_parts(call), call.g
    middle = (mean * g).sum(axes, keepdims=True) / mean.sum(axes, keepdims=True)
    return {0: _finite(call.functions, mean * (g - middle))}


def log_softmax(call: Call) -> Passed:
    """M = g − Λ Σg/ΣΛ, with Λ that of the softmax."""
    axes, mean, g = call.step.settings["axes"], _softmax_parts(call), call.g
    return {0: g - mean * (g.sum(axes, keepdims=True) / mean.sum(axes, keepdims=True))}


def logsumexp(call: Call) -> Passed:
    """M = g Λ/ΣΛ, with Λ that of the softmax over the same axes."""
    axes, mean = call.step.settings["axes"], _softmax_parts(call)
    return {0: laid_beside(call.g, call.x(0), axes) * mean / mean.sum(axes, keepdims=True)}


def laid_beside(result: Array, x: Array, axes: Sequence[int]) -> Array:
    """Return what was reduced along axes with those axes again, of size 1."""
    return result.reshape(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)))


# ---- maxima ------------------------------------------------------------------------------------------------------


def maximum(call: Call) -> Passed:
    """The winner at the input carries a rise, the winner at the baseline a fall: m = g Δy/Δx of the winner.

    Overlapping windows add up.
    """
    if len(call.step.moving) > 1:
        return _of_two(call)
    if call.step.kind == "window_maximum":
        return _of_windows(call)
    return _of_axes(call)


def _of_windows(call: Call) -> Passed:
    """Max pooling: its derivative picks winners, its transpose scatters to them."""
    functions, again = call.functions, call.step.again
    taken = [call.values[each] for each in call.step.inputs]
    taken0 = [call.x0(0), *taken[1:]]
    change, rise, g = call.x(0) - call.x0(0), call.y() - call.y0(), call.g
    falls = rise < 0
    moved = functions.where(
        falls, functions.jvp(again, taken0, 0, change), functions.jvp(again, taken, 0, change)
    )
    passed = divided(functions, g * rise, moved, g)
    none = functions.zeros_like(passed)
    (up,) = functions.vjp(again, taken, [0], [functions.where(falls, none, passed)])
    (down,) = functions.vjp(again, taken0, [0], [functions.where(falls, passed, none)])
    return {0: up + down}


def _of_axes(call: Call) -> Passed:
    """The largest (or smallest) along axes: the first of several winners takes all."""
    functions, axes = call.functions, call.step.settings["axes"]
    sign = -1 if call.step.kind == "reduce_minimum" else 1
    x, x0 = call.x(0), call.x0(0)
    order = (*(axis for axis in range(x.ndim) if axis not in axes), *axes)
    kept = tuple(x.shape[axis] for axis in order[: x.ndim - len(axes)])

    def laid(array: Array) -> Array:
        return functions.transpose(array, order).reshape((*kept, -1))

    change = laid(x - x0)
    rise, g = ((each).reshape((*kept, 1)) for each in (call.y() - call.y0(), call.g))
    here, there = (functions.first_largest(sign * laid(each)) for each in (x, x0))
    winner = functions.where(functions.broadcast(rise < 0, change.shape), there, here)
    moved = (winner * change).sum(-1, keepdims=True)
    m = winner * divided(functions, g * rise, moved, g)
    shaped = m.reshape((*kept, *(x.shape[axis] for axis in axes)))
    return {0: functions.transpose(shaped, tuple(order.index(axis) for axis in range(x.ndim)))}


def _of_two(call: Call) -> Passed:
    """The larger (or smaller) of two arrays, element by element."""
    functions = call.functions
    sign = -1 if call.step.kind == "minimum" else 1
    a, b, a0, b0 = call.x(0), call.x(1), call.x0(0), call.x0(1)
    change = call.y() - call.y0()
    takes = ((sign * change >= 0) & (sign * a >= sign * b)) | ((sign * change < 0) & (sign * a0 >= sign * b0))
    answers: dict[int, Array] = {}
    for position, x, moved in ((0, a, a - a0), (1, b, b - b0)):
        moved = functions.broadcast(moved, change.shape)
        passed = call.g * divided(functions, change, moved, 1.0)
        none = functions.zeros_like(passed)
        won = functions.where(takes, passed, none) if position == 0 else functions.where(takes, none, passed)
        answers[position] = summed(functions, won, x.shape)
    return answers
