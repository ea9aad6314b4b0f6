"""Piecewise-linear networks, piece by piece: how far a straight line stays in one linear piece of the model.

While the model runs, every tensor that depends on the input carries its derivative along a direction, kept in a
mirror of its storage (so views and in-place operations need no rule of their own). At each switch (a ReLU's sign, a
maximum's winner) value and derivative tell where on the line it turns next; the nearest turn ends the piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from whence.backends import Array, Leaves
from whence.backends.torch_linear import AFFINE, COMPARISONS, CONSTANT, CORNERS, LINEAR, PRODUCTS, Operation
from whence.errors import Refused

aten = torch.ops.aten


class Pieces(TorchDispatchMode):
    """Runs with the model; afterwards `left` and `right` [n] bound the piece, in steps of the direction."""

    def __init__(self, leaves: Leaves, directions: Leaves) -> None:
        super().__init__()
        rows = leaves[0].shape[0]
        self.left = torch.full((rows,), -math.inf, dtype=torch.float64, device=leaves[0].device)
        self.right = -self.left
        self.mirrors: dict[int, tuple[Any, torch.Tensor]] = {}
        self._zero = torch.zeros((), dtype=leaves[0].dtype, device=leaves[0].device)
        for leaf, direction in zip(leaves, directions, strict=True):
            self.remember(leaf, direction)

    # ---- mirrors ---------------------------------------------------------------------------------------------

    def derivative(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the derivative of a varying tensor, shaped like it."""
        _, flat = self.mirrors[tensor.untyped_storage()._cdata]
        return torch.as_strided(flat, tensor.size(), tensor.stride(), tensor.storage_offset())

    def varies(self, value: Any) -> bool:
        """Tell whether a value depends on the input."""
        return isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in self.mirrors

    def remember(self, tensor: torch.Tensor, derivative: torch.Tensor) -> None:
        """Write a tensor's derivative into the mirror of its storage, made when it is new."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.mirrors:
            count = storage.nbytes() // tensor.element_size()
            # The storage is kept alive with its mirror: its address is its name.
            self.mirrors[storage._cdata] = (
                storage,
                torch.zeros(count, dtype=tensor.dtype, device=tensor.device),
            )
        self.derivative(tensor).copy_(derivative)

    # ---- switches --------------------------------------------------------------------------------------------

    def turn(self, distance: torch.Tensor, speed: torch.Tensor) -> None:
        """Shorten the piece to where `distance` [n, ...], which changes by `speed`, becomes zero."""
        step = torch.where(speed != 0, -distance / speed, math.inf).double().reshape(distance.shape[0], -1)
        step = torch.where(torch.isnan(step), math.inf, step)
        if not step.shape[1]:
            return
        # A point on a border bounds both sides by nothing: its gradient belongs to no piece.
        self.right = torch.minimum(self.right, torch.where(step >= 0, step, math.inf).amin(1))
        self.left = torch.maximum(self.left, torch.where(step <= 0, step, -math.inf).amax(1))

    # ---- the table -------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view or not any(self.varies(each) for each in _flat((*args, *kwargs.values()))):
            return func(*args, **kwargs)
        call = Operation(func, args, kwargs)
        if call.kind in WINNERS:
            output = call.run()
            derivative = WINNERS[call.kind](self, call, output)
        else:
            # Before the call: an in-place operation overwrites what its derivative is made from.
            derivative = TABLE.get(call.kind, Pieces._unknown)(self, call)
            output = call.run()
        for tensor, change in zip(_flat((output,)), _flat((derivative,)), strict=False):
            if isinstance(tensor, torch.Tensor) and tensor.dtype.is_floating_point and change is not None:
                self.remember(tensor, change)
        return output

    def _unknown(self, call: Operation) -> Any:
        raise Refused(
            f"exact quadrature needs a piecewise-linear network, and this one uses {call.name}; "
            "use the default tolerance, or explain the logit instead of a probability or loss"
        )

    def _constant(self, call: Operation) -> Any:
        return self._of(None) if call.in_place else None

    def _linear(self, call: Operation) -> Any:
        # Of several terms (cat, where, copy) the constant ones contribute nothing.
        return call.func(*(self._swap(each, True, call.in_place) for each in call.args), **call.kwargs)

    def _product(self, call: Operation) -> Any:
        self._require_one(call, call.args[:2])
        return call.func(*(self._swap(each, False, call.in_place) for each in call.args), **call.kwargs)

    def _affine(self, call: Operation) -> Any:
        self._require_one(
            call, call.args[1:3] if call.kind in (aten.addmm, aten.baddbmm, aten.addmv) else call.args[:3]
        )
        moved = call.func(*(self._swap(each, False, True) for each in call.args), **call.kwargs)
        still = call.func(*(self._swap(each, False, True, zero=True) for each in call.args), **call.kwargs)
        pairs = zip(_flat((moved,)), _flat((still,)), strict=True)
        return tuple(a - b if a.dtype.is_floating_point else None for a, b in pairs)

    def _require_one(self, call: Operation, factors: Sequence[Any]) -> None:
        if sum(self.varies(each) for each in factors) > 1:
            raise Refused(
                f"exact quadrature: the model multiplies two varying tensors ({call.name}), which is not piecewise "
                "linear; use the default tolerance"
            )

    def _sum(self, call: Operation) -> torch.Tensor:
        scale = call.kwargs.get("alpha", 1)
        one, two = self._of(call.args[0]), self._of(call.args[1])
        if call.kind is aten.rsub:
            return two - one * scale
        return one + two * scale if call.kind is aten.add else one - two * scale

    def _quotient(self, call: Operation) -> torch.Tensor:
        self._require_one(call, [call.args[1], call.args[1]])
        return self._of(call.args[0]) / call.args[1]

    def _filled(self, call: Operation) -> torch.Tensor:
        return call.kind(self._of(call.args[0]), call.args[1], 0.0)

    def _bend(self, call: Operation) -> torch.Tensor:
        z, speed = call.args[0], self._of(call.args[0])
        self._require_one(call, [each for each in call.args[1:] for _ in range(2)])
        corners, slopes = CORNERS[call.kind](*call.args[1:], **call.kwargs)
        slope = torch.zeros_like(z) + slopes[0]
        for corner, after in zip(corners, slopes[1:], strict=True):
            self.turn(z - corner, speed)
            slope = torch.where(z > corner, after, slope)
        return speed * slope

    def _comparison(self, call: Operation) -> None:
        one, two = call.args
        self.turn(one - two, torch.zeros_like(one - two) + self._of(one) - self._of(two))

    def _larger(self, call: Operation) -> torch.Tensor:
        self._comparison(call)
        one, two = call.args
        first = (one > two) == (call.kind is aten.maximum)
        return torch.where(first, self._of(one), self._of(two))

    def _pooled(self, call: Operation, output: Any) -> Any:
        values, index = output
        x, speed = call.args[0], self._of(call.args[0])
        picked = speed.flatten(2).gather(2, index.flatten(2)).reshape(values.shape)
        windows = _windows(x, speed, *call.args[1:])
        self._race(*windows, values.flatten(2)[:, :, None], picked.flatten(2)[:, :, None])
        return picked, None

    def _extreme(self, call: Operation, output: Any) -> Any:
        x, speed = call.args[0], self._of(call.args[0])
        if len(call.args) > 1 and isinstance(call.args[1], torch.Tensor):
            self._unknown(call)
        values = output[0] if isinstance(output, (tuple, list)) else output
        given = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
        dims = [given] if isinstance(given, int) else given or range(x.ndim)
        dims = sorted({each % x.ndim for each in dims})
        kept = values.reshape([1 if i in dims else n for i, n in enumerate(x.shape)])
        wins = (x == kept).to(x.dtype)
        picked = (speed * wins).sum(dims, keepdim=True) / wins.sum(dims, keepdim=True)
        self._race(x, speed, kept, picked)
        return picked.reshape(values.shape), None

    # ---- helpers ---------------------------------------------------------------------------------------------

    def _swap(self, value: Any, silent: bool, copied: bool, zero: bool = False) -> Any:
        """Replace a varying tensor by its derivative (or zero), and with `silent` a constant float one by zero."""
        if isinstance(value, (list, tuple)):
            return type(value)(self._swap(each, silent, copied, zero) for each in value)
        if self.varies(value):
            if zero:
                return torch.zeros_like(value)
            return self.derivative(value).clone() if copied else self.derivative(value)
        floating = isinstance(value, torch.Tensor) and value.dtype.is_floating_point
        return torch.zeros_like(value) if silent and floating else value

    def _of(self, value: Any) -> torch.Tensor:
        """Return a value's derivative: zero for what does not vary."""
        return self.derivative(value) if self.varies(value) else self._zero

    def _race(self, x: torch.Tensor, speed: torch.Tensor, best: torch.Tensor, pace: torch.Tensor) -> None:
        """Shorten the piece to where another contender reaches the winner."""
        self.turn(best - x, pace - speed)


# What becomes of the derivative, operation by operation; what is not here is refused by its name.
TABLE: dict[Any, Callable[[Pieces, Operation], Any]] = {
    **dict.fromkeys(LINEAR, Pieces._linear),
    **dict.fromkeys(PRODUCTS, Pieces._product),
    **dict.fromkeys(AFFINE, Pieces._affine),
    **dict.fromkeys(CONSTANT, Pieces._constant),
    **dict.fromkeys(CORNERS, Pieces._bend),
    **dict.fromkeys(COMPARISONS, Pieces._comparison),
    **dict.fromkeys((aten.add, aten.sub, aten.rsub), Pieces._sum),
    **dict.fromkeys((aten.maximum, aten.minimum), Pieces._larger),
    **dict.fromkeys((aten.constant_pad_nd, aten.masked_fill), Pieces._filled),
    aten.div: Pieces._quotient,
}
# These need the operation's own answer, to know who won.
WINNERS: dict[Any, Callable[[Pieces, Operation, Any], Any]] = {
    aten.max_pool2d_with_indices: Pieces._pooled,
    **dict.fromkeys((aten.amax, aten.amin, aten.max, aten.min), Pieces._extreme),
}


def _windows(
    x: torch.Tensor, speed: torch.Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return values and derivatives of every pooling window, [n, channels, places in a window, windows]."""

    def pair(value: Any) -> tuple[int, int]:
        value = value if isinstance(value, (list, tuple)) else (value,)
        return (value[0], value[0]) if len(value) == 1 else tuple(value)

    kernel, padding, dilation = pair(kernel), pair(padding), pair(dilation)
    stride = pair(stride) if stride else kernel
    # With ceil_mode a last window may hang over the edge: padding it with −∞ leaves it to the real contenders.
    over = [s - 1 if ceil_mode else 0 for s in stride]
    edges = (padding[1], padding[1] + over[1], padding[0], padding[0] + over[0])

    def unfolded(values: torch.Tensor, fill: float) -> torch.Tensor:
        padded = aten.constant_pad_nd(values, edges, fill)
        columns = aten.im2col(padded, kernel, dilation, (0, 0), stride)
        return columns.reshape(len(values), values.shape[1], kernel[0] * kernel[1], -1)

    return unfolded(x, -math.inf), unfolded(speed, 0.0)


def _flat(values: Any) -> list[Any]:
    """Return the tensors (and other things) in nested arguments."""
    found: list[Any] = []
    for value in values:
        found.extend(_flat(value) if isinstance(value, (list, tuple)) else [value])
    return found


def pieces(
    function: Callable[[Leaves], Array], leaves: Leaves, directions: Leaves
) -> tuple[Array, Leaves, Array, Array, Array]:
    """Return f [n], its gradients, its derivative along the directions, and how far the piece reaches left and right.

    Raises:
        Refused: the function is not piecewise linear; the message names the operation.
    """
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    with Pieces(leaves, directions) as mode:
        y = function(leaves)
    gradients = tuple(torch.zeros_like(leaf) for leaf in leaves)
    if not mode.varies(y):
        return y.detach(), gradients, torch.zeros_like(y), mode.left, mode.right
    if y.requires_grad:
        gradients = torch.autograd.grad(y.sum(), leaves, allow_unused=True, materialize_grads=True)
    return y.detach(), gradients, mode.derivative(y.detach()), mode.left, mode.right
