"""Local rules of DeepLIFT for operations that act along axes: norms, softmax and its kin, maxima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from whence.backends.torch_rules.engine import Gradients
from whence.backends.torch_rules.local import Call, integral, placed
from whence.backends.torch_rules.recording import Operation, aten


def norm(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """C = x − mean, s = √(mean c² + ε): m_c = 2g/(s + s0) − (c + c0)/(s + s0)² · mean(g (y + y0)), less its mean."""
    arrived, x = outputs[0], call.arguments[0]
    if arrived is None or inputs[0] is None:
        return inputs
    if any(call.varying[1:]):
        return integral(call, inputs, outputs)
    grouped, weight, epsilon = _normalised(call)
    weighted = grouped(arrived if weight is None else arrived * weight)
    c, s = _centred(grouped(x), epsilon)
    # One row may stand for all at the baseline; a batch's own statistics mix the rows.
    c0, s0 = _centred(grouped(call.arguments0[0].expand_as(x)), epsilon)
    total = s + s0
    mean = (weighted * (c / s + c0 / s0)).mean(-1, keepdim=True)
    m = 2 * weighted / total - (c + c0) / total.square() * mean
    return placed(call, [(0, _ungrouped(call, m - m.mean(-1, keepdim=True), x))], inputs)


def _centred(grouped: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    c = grouped - grouped.mean(-1, keepdim=True)
    return c, (c.square().mean(-1, keepdim=True) + epsilon).sqrt()


def held_norm(operation: Operation, arrived: torch.Tensor) -> torch.Tensor:
    """Return the derivative of a norm whose standard deviation is held: w g/s less its mean."""
    x = operation.arguments[0]
    grouped, weight, epsilon = _normalised(operation)
    weighted = grouped(arrived if weight is None else arrived * weight)
    m = weighted / _centred(grouped(x), epsilon)[1]
    return _ungrouped(operation, m - m.mean(-1, keepdim=True), x)


def _normalised(
    call: Call | Operation,
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor | None, float]:
    """Return how values are laid out with the normalised elements last, the weight beside the values, and ε."""
    if call.kind is aten.native_layer_norm:
        axes = len(call.arguments[1])
        return lambda z: z.flatten(-axes), call.arguments[2], call.arguments[4]
    if call.kind is aten.native_group_norm:
        groups, weight = call.arguments[6], call.arguments[1]
        return (
            lambda z: z.reshape(z.shape[0], groups, -1),
            _per_channel(weight, call.arguments[0]),
            call.arguments[7],
        )
    weight = _per_channel(call.arguments[1], call.arguments[0])
    return lambda z: z.transpose(0, 1).flatten(1), weight, call.arguments[7]


def _per_channel(weight: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if weight is None else weight.reshape(-1, *(1,) * (like.ndim - 2))


def _ungrouped(call: Call | Operation, m: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if call.kind in (aten.native_layer_norm, aten.native_group_norm):
        return m.reshape(like.shape)
    return m.reshape(like.shape[1], like.shape[0], *like.shape[2:]).transpose(0, 1)


def _logarithmic_mean(p: torch.Tensor, p0: torch.Tensor, logs: torch.Tensor) -> torch.Tensor:
    """Λ = (p − p0)/(ln p − ln p0), with the difference of the logarithms given; p where they are equal."""
    small = logs.abs() < 1e-4
    # (e^h − 1)/h near 0, by its series: the difference quotient loses half the digits there.
    series = p0 * (1 + logs / 2 * (1 + logs / 3 * (1 + logs / 4)))
    exact = (p - p0) / torch.where(small, torch.ones_like(logs), logs)
    found = torch.where(small, series, exact)
    return torch.where((p == 0) & (p0 == 0), torch.zeros_like(found), found)


def _softmax_parts(call: Call, axes: Any, x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    logs = [z - torch.logsumexp(z, axes, keepdim=True) for z in (x, x0)]
    difference = torch.nan_to_num(logs[0] - logs[1], nan=0.0, posinf=0.0, neginf=0.0)
    return _logarithmic_mean(logs[0].exp(), logs[1].exp(), difference)


def softmax(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """Λ = (y − y0)/(ln y − ln y0): m = Λ (g − ΣΛg/ΣΛ)."""
    arrived, axis = outputs[0], call.arguments[1]
    if arrived is None:
        return inputs
    mean = _softmax_parts(call, (axis,), call.arguments[0], call.arguments0[0])
    middle = (mean * arrived).sum(axis, keepdim=True) / mean.sum(axis, keepdim=True)
    return placed(call, [(0, torch.nan_to_num(mean * (arrived - middle)))], inputs)


def log_softmax(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """M = g − Λ Σg/ΣΛ, with Λ that of the softmax."""
    arrived, axis = outputs[0], call.arguments[1]
    if arrived is None:
        return inputs
    mean = _softmax_parts(call, (axis,), call.arguments[0], call.arguments0[0])
    total = arrived.sum(axis, keepdim=True) / mean.sum(axis, keepdim=True)
    return placed(call, [(0, arrived - mean * total)], inputs)


def logsumexp(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """M = g Λ/ΣΛ, with Λ that of the softmax over the same axes."""
    arrived, x = outputs[0], call.arguments[0]
    if arrived is None:
        return inputs
    axes = tuple(axis % x.ndim for axis in call.arguments[1])
    mean = _softmax_parts(call, axes, x, call.arguments0[0])
    beside = arrived.reshape([1 if axis in axes else size for axis, size in enumerate(x.shape)])
    return placed(call, [(0, beside * mean / mean.sum(axes, keepdim=True))], inputs)


# ---- maxima --------------------------------------------------------------------------------------------------


def maximum(call: Call, inputs: Gradients, outputs: Gradients) -> Gradients:
    """The winner at the input carries a rise, the winner at the baseline a fall: m = g Δy/Δx of the winner.

    Overlapping windows add up.
    """
    arrived = outputs[0]
    if arrived is None:
        return inputs
    if sum(call.varying) > 1:
        return _of_two(call, inputs, arrived)
    x, x0 = call.arguments[0], call.arguments0[0]
    y, y0 = (each[0].reshape(arrived.shape) if each[0].numel() == arrived.numel() else each[0]
             for each in (call.outputs, call.outputs0))  # fmt: skip
    places = _winners(call, x, call.outputs, call.arguments)
    if places is None:
        return integral(call, inputs, outputs)
    axes, here = places
    _, there = _winners(call, x0, call.outputs0, call.arguments0) or places
    change = _laid(x - x0, axes)
    flat = _laid_out(arrived, axes, x.ndim)
    rise = _laid_out(y - y0, axes, x.ndim)
    winner = torch.where(rise < 0, there.expand_as(here), here)
    moved = change.gather(-1, winner)
    passed = torch.where(
        moved == 0, flat, flat * rise / torch.where(moved == 0, torch.ones_like(moved), moved)
    )
    m = torch.zeros_like(change).scatter_add_(-1, winner, passed)
    return placed(call, [(0, _laid_back(m, axes, x))], inputs)


class Pool:
    """The rule of maxima for max pooling, around the node's own answer, which scatters to the winners at the input.

    Only what falls, and to a winner elsewhere, has to be scattered here.
    """

    def __init__(self, spatial: int, call: Callable[[], Call]) -> None:
        self._spatial, self._call = spatial, call
        self._falls: tuple[torch.Tensor, torch.Tensor] | None = None

    def before(self, outputs: Gradients) -> Gradients:
        """Turn what arrives into multipliers of the winners, and keep those that the node would misplace."""
        arrived, call = outputs[0], self._call()
        if arrived is None:
            return outputs
        (x, x0), (y, y0) = (call.arguments[0], call.arguments0[0]), (call.outputs[0], call.outputs0[0])
        here, there = call.outputs[1], call.outputs0[1].expand_as(call.outputs[1])
        rise = y - y0
        winner = torch.where(rise < 0, there, here).flatten(-self._spatial)
        moved = self._at(x, winner).sub_(self._at(x0, winner)).view(arrived.shape)
        # Where the winner did not move, nothing rose or fell: 0/0 is 1 there.
        passed = rise.div_(moved).nan_to_num_(nan=1.0).mul_(arrived)
        fallen = passed * (winner.view(here.shape) != here)
        self._falls = (winner, fallen.flatten(-self._spatial))
        return (passed.sub_(fallen), *outputs[1:])

    def after(self, inputs: Gradients, outputs: Gradients) -> Gradients:
        """Add the falls to what the node has scattered."""
        scattered, falls = inputs[0], self._falls
        self._falls = None
        if scattered is None or falls is None:
            return inputs
        whole = scattered.contiguous()
        whole.view(*whole.shape[: -self._spatial], -1).scatter_add_(-1, *falls)
        return (whole, *inputs[1:])

    def _at(self, x: torch.Tensor, winner: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(-self._spatial)
        return flat.expand(*winner.shape[:-1], flat.shape[-1]).gather(-1, winner)


def _winners(
    call: Call, x: torch.Tensor, outputs: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[tuple[int, ...], torch.Tensor] | None:
    """Return the axes that a maximum runs over, and the winners' places in them, flattened, [..., windows]."""
    name = call.operation.name if call.operation is not None else ""
    if "pool" in name:
        spatial = 3 if "3d" in name else 2
        axes = tuple(range(x.ndim - spatial, x.ndim))
        return axes, outputs[1].flatten(-spatial)
    axes = _reduced(arguments, x.ndim)
    laid = _laid(x, axes)
    least = name in ("min", "amin")
    return axes, (laid.argmin(-1, keepdim=True) if least else laid.argmax(-1, keepdim=True))


def _reduced(arguments: tuple[Any, ...], ndim: int) -> tuple[int, ...]:
    given = arguments[1] if len(arguments) > 1 else None
    if given is None or given == []:
        return tuple(range(ndim))
    return tuple(sorted(axis % ndim for axis in (given if isinstance(given, (list, tuple)) else [given])))


def _order(axes: tuple[int, ...], ndim: int) -> list[int]:
    return [axis for axis in range(ndim) if axis not in axes] + list(axes)


def _laid(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Return an array with some axes flattened into the last."""
    kept = x.ndim - len(axes)
    moved = x.permute(_order(axes, x.ndim))
    return moved.reshape(*moved.shape[:kept], -1)


def _laid_out(y: torch.Tensor, axes: tuple[int, ...], ndim: int) -> torch.Tensor:
    """Return a maximum's result [...] or [..., windows] with its windows last."""
    kept = ndim - len(axes)
    if y.ndim == ndim and all(axis >= kept for axis in axes):
        return y.reshape(*y.shape[:kept], -1)
    sizes = y.permute(_order(axes, ndim)).shape[:kept] if y.ndim == ndim else y.shape
    return y.reshape(*sizes, 1)


def _laid_back(m: torch.Tensor, axes: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    order = _order(axes, like.ndim)
    shaped = m.reshape([like.shape[axis] for axis in order])
    return shaped.permute([order.index(axis) for axis in range(like.ndim)])


def _of_two(call: Call, inputs: Gradients, arrived: torch.Tensor) -> Gradients:
    """The larger (or smaller) of two arrays, element by element."""
    (edge, _, a, a0), (edge2, _, b, b0) = call.operands()
    name = call.operation.name if call.operation is not None else ""
    sign = -1 if name in ("minimum", "fmin", "min") else 1
    y, y0 = call.outputs[0], call.outputs0[0]
    change = y - y0
    first, first0 = sign * a >= sign * b, sign * a0 >= sign * b0
    takes = torch.where(sign * change >= 0, first, first0)
    answers: list[tuple[int, torch.Tensor]] = []
    for place, x, x0, wins in ((edge, a, a0, takes), (edge2, b, b0, ~takes)):
        moved = (x - x0).expand_as(change)
        ratio = torch.where(moved == 0, torch.ones_like(change), change / torch.where(moved == 0, 1.0, moved))
        answers.append((place, torch.where(wins, arrived * ratio, 0.0).sum_to_size(x.shape)))
    return placed(call, answers, inputs)
