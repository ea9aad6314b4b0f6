"""Where piecewise-linear tensor operations bend: corners, comparisons, maxima and max-pools."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from whence.backends.torch_linear import Operation, Rule, require_constant, unknown

if TYPE_CHECKING:
    from whence.backends.torch_pieces import Pieces

aten = torch.ops.aten

# So many rounding errors behind the winner a contender counts as tied with it: otherwise noise decides the race on
# a flat patch, and cuts the line into pieces that are not there.
TIED = 8

COMPARISONS = {aten.gt, aten.lt, aten.ge, aten.le, aten.eq, aten.ne}
# Elementwise with corners: where they are, and the slope between them, from the operation's own arguments.
CORNERS: dict[Any, Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]] = {
    aten.threshold: lambda threshold, value: ((threshold,), (0.0, 1.0)),
    aten.leaky_relu: lambda negative_slope=0.01: ((0.0,), (negative_slope, 1.0)),
    aten.hardtanh: lambda min_val=-1.0, max_val=1.0: ((min_val, max_val), (0.0, 1.0, 0.0)),
    aten.clamp: lambda min=None, max=None: _clamped(min, max),
    aten.clamp_min: lambda min: ((min,), (0.0, 1.0)),
    aten.clamp_max: lambda max: ((max,), (1.0, 0.0)),
    aten.abs: lambda: ((0.0,), (-1.0, 1.0)),
    aten._prelu_kernel: lambda slope: ((0.0,), (slope, 1.0)),
    aten.hardsigmoid: lambda: ((-3.0, 3.0), (0.0, 1 / 6, 0.0)),
}


def _clamped(low: Any, high: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    corners = tuple(each for each in (low, high) if each is not None)
    slopes = (*((0.0,) if low is not None else ()), 1.0, *((0.0,) if high is not None else ()))
    return corners, slopes


def _relu(mode: Pieces, call: Operation) -> torch.Tensor:
    z, speed = call.args[0], mode.of(call.args[0])
    change = aten.threshold_backward(speed, z, 0.0)
    # Not yet a turn: a max-pool behind it does not mind how its losers bend.
    mode.postpone(z.clone() if call.in_place else z, speed.clone() if call.in_place else speed)
    return change


def _bend(mode: Pieces, call: Operation) -> torch.Tensor:
    z, speed = call.args[0], mode.of(call.args[0])
    require_constant(mode, call, (*call.args[1:], *call.kwargs.values()))
    corners, slopes = CORNERS[call.kind](*call.args[1:], **call.kwargs)
    change = speed * slopes[0]
    for corner, slope in zip(corners, slopes[1:], strict=True):
        mode.turn(z - corner, speed)
        change = torch.where(z > corner, speed * slope, change)
    return change


def _comparison(mode: Pieces, call: Operation) -> None:
    one, two = call.args
    mode.turn(one - two, mode.of(one) - mode.of(two))


def _larger(mode: Pieces, call: Operation) -> torch.Tensor:
    _comparison(mode, call)
    one, two = call.args
    first = (one > two) == (call.kind is aten.maximum)
    return torch.where(first, mode.of(one), mode.of(two))


def _pooled(mode: Pieces, call: Operation, output: Any) -> Any:
    values, index = output
    x, speed = call.args[0], mode.of(call.args[0])
    picked = speed.flatten(-2).gather(-1, index.flatten(-2)).reshape(values.shape)
    before = mode.take_postponed(x)
    if before is not None:
        # max(0, z₁, z₂, …): the floor is one more contender, and losers below it bend unseen.
        mode.turn(values + torch.finfo(values.dtype).tiny, picked)
        x, speed = before
    best = _ahead(values)
    for contender, pace in _places(x, speed, values.shape[-2:], *call.args[1:]):
        mode.turn(best - contender, picked - pace)
    return picked, None


def _extreme(mode: Pieces, call: Operation, output: Any) -> Any:
    x, speed = call.args[0], mode.of(call.args[0])
    if len(call.args) > 1 and isinstance(call.args[1], torch.Tensor):
        unknown(mode, call)
    values = output[0] if isinstance(output, (tuple, list)) else output
    given = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    dims = [given] if isinstance(given, int) else given or range(x.ndim)
    dims = sorted({each % x.ndim for each in dims})
    kept = values.reshape([1 if i in dims else n for i, n in enumerate(x.shape)])
    wins = (x == kept).to(x.dtype)
    picked = (speed * wins).sum(dims, keepdim=True) / wins.sum(dims, keepdim=True)
    sign = 1.0 if call.kind in (aten.amax, aten.max) else -1.0
    mode.turn(_ahead(sign * kept) - sign * x, sign * (picked - speed))
    return picked.reshape(values.shape), None


def _ahead(best: torch.Tensor) -> torch.Tensor:
    """Return the winners, a few rounding errors further ahead."""
    information = torch.finfo(best.dtype)
    return best + (TIED * information.eps * best.abs() + information.tiny)


def _places(
    x: torch.Tensor, speed: torch.Tensor, size: Any, kernel: Any, stride: Any = (), padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # fmt: skip
    """Yield values and derivatives at each place of the pooling windows, in the output's shape."""
    kernel, padding, dilation = _pair(kernel), _pair(padding), _pair(dilation)
    stride = _pair(stride) if stride else kernel
    # A last window may hang over the edge: −∞ leaves it to the real contenders.
    over = [
        max(0, (size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - x.shape[i - 2] - padding[i])
        for i in (0, 1)
    ]
    edges = (padding[1], over[1], padding[0], over[0])
    if any(edges):
        x, speed = aten.constant_pad_nd(x, edges, -math.inf), aten.constant_pad_nd(speed, edges, 0.0)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            down, right = (
                slice(first * d, first * d + (count - 1) * s + 1, s)
                for first, d, count, s in zip((i, j), dilation, size, stride, strict=True)
            )
            yield x[..., down, right], speed[..., down, right]


def _pair(value: Any) -> tuple[int, int]:
    value = value if isinstance(value, (list, tuple)) else (value,)
    return (value[0], value[0]) if len(value) == 1 else tuple(value)


RULES: dict[Any, Rule] = {
    aten.relu: _relu,
    **dict.fromkeys(CORNERS, _bend),
    **dict.fromkeys(COMPARISONS, _comparison),
    **dict.fromkeys((aten.maximum, aten.minimum), _larger),
}
# These need the operation's own answer, to know who won.
WINNERS: dict[Any, Callable[[Pieces, Operation, Any], Any]] = {
    aten.max_pool2d_with_indices: _pooled,
    **dict.fromkeys((aten.amax, aten.amin, aten.max, aten.min), _extreme),
}
