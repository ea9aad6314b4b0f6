"""Piecewise-linear networks, piece by piece: how far a straight line stays in one linear piece of the model.

While the model runs, every tensor that depends on the input carries its derivative along a direction, kept in a
mirror of its storage (so views and in-place operations need no rule of their own). At each switch (a ReLU's sign, a
maximum's winner) value and derivative tell where on the line it turns next; the nearest turn ends the piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from whence.backends import Array, Leaves
from whence.backends import torch_bends as bends
from whence.backends import torch_linear as linear
from whence.backends.torch_linear import Operation, Rule

aten = torch.ops.aten
# What becomes of the derivative, operation by operation; what is not here is refused by its name.
TABLE: dict[Any, Rule] = {**linear.RULES, **bends.RULES}


@dataclass
class Postponed:
    """The turns of a ReLU's output that no operation has read yet; a max-pool may have raced them already."""

    output: torch.Tensor
    value: torch.Tensor
    speed: torch.Tensor
    raced: bool = False


class Pieces(TorchDispatchMode):
    """Runs with the model; afterwards `reach` bounds the piece, in steps of the direction."""

    def __init__(self, leaves: Leaves, directions: Leaves) -> None:
        super().__init__()
        self._rows = leaves[0].shape[0]
        never = torch.zeros(self._rows, dtype=leaves[0].dtype, device=leaves[0].device)
        self._least, self._most = [never], [never]
        # The storages are kept alive with their mirrors: an address is a name.
        self._mirrors: dict[int, tuple[Any, torch.Tensor]] = {}
        self._owned: set[int] = set()
        self._postponed: dict[int, Postponed] = {}
        self._next: tuple[torch.Tensor, torch.Tensor] | None = None
        self._zero = torch.zeros((), dtype=leaves[0].dtype, device=leaves[0].device)
        for leaf, direction in zip(leaves, directions, strict=True):
            self.remember(leaf, direction.clone())

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Models run here uncompiled; to hide from the compiler, torch would first import it (a second or more).
        return False

    # ---- mirrors ---------------------------------------------------------------------------------------------

    def derivative(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the derivative of a varying tensor, shaped like it."""
        flat = self._mirrors[tensor.untyped_storage()._cdata][1]
        return torch.as_strided(flat, tensor.size(), tensor.stride(), tensor.storage_offset())

    def of(self, value: Any) -> torch.Tensor:
        """Return a value's derivative: zero for what does not vary."""
        return self.derivative(value) if self.varies(value) else self._zero

    def varies(self, value: Any) -> bool:
        """Tell whether a value depends on the input."""
        return isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in self._mirrors

    def remember(self, tensor: torch.Tensor, derivative: torch.Tensor) -> None:
        """Write a tensor's derivative into the mirror of its storage, made when it is new."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._mirrors:
            count = storage.nbytes() // tensor.element_size()
            if self._fits(derivative, tensor, count):
                self._keep(storage, derivative.as_strided((count,), (1,), 0))
                return
            self._keep(storage, torch.zeros(count, dtype=tensor.dtype, device=tensor.device))
        self.derivative(tensor).copy_(derivative)

    def _keep(self, storage: Any, flat: torch.Tensor) -> None:
        self._mirrors[storage._cdata] = (storage, flat)
        self._owned.add(flat.untyped_storage()._cdata)

    def _fits(self, derivative: torch.Tensor, tensor: torch.Tensor, count: int) -> bool:
        """Tell whether a derivative can be the mirror itself: laid out like the storage, and no one else's."""
        whole = derivative.untyped_storage()
        return (
            derivative.shape == tensor.shape
            and derivative.stride() == tensor.stride()
            and derivative.dtype == tensor.dtype
            and derivative.storage_offset() == tensor.storage_offset() == 0
            and whole.nbytes() == count * tensor.element_size()
            and whole._cdata not in self._owned
            and whole._cdata not in self._mirrors
        )

    # ---- turns -----------------------------------------------------------------------------------------------

    def turn(self, distance: torch.Tensor, speed: torch.Tensor) -> None:
        """Shorten the piece to where `distance` [n, ...], which changes by `speed`, becomes zero."""
        ratio = self._by_row(speed / distance)
        if not ratio.numel():
            return
        # The nearest zero, −distance/speed, has the largest ratio: what never gets there (0) needs no exception.
        least, most = torch.aminmax(ratio, dim=1)
        if not math.isfinite(float((least - most).sum())):
            ratio = ratio.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)
            least, most = torch.aminmax(ratio, dim=1)
            # A point on a border bounds both sides by nothing: its gradient belongs to no piece.
            border = least.isinf() | most.isinf()
            least, most = torch.where(border, -math.inf, least), torch.where(border, math.inf, most)
        self._least.append(least)
        self._most.append(most)

    def _by_row(self, values: torch.Tensor) -> torch.Tensor:
        """Return [n, -1]: values of one row, or of several readings where the batch is not the first axis."""
        rows, first = self._rows, values.shape[0] if values.ndim else 0
        if first == rows:
            return values.reshape(rows, -1)
        readings = [values.movedim(i, 0).reshape(rows, -1) for i, n in enumerate(values.shape) if n == rows]
        if first and first % rows == 0:
            readings.append(values.reshape(rows, -1))
        if not readings:
            # Rows cannot be told apart: each is bound by all.
            return values.reshape(1, -1).expand(rows, -1)
        return readings[0] if len(readings) == 1 else torch.cat(readings, 1)

    def postpone(self, value: torch.Tensor, speed: torch.Tensor) -> None:
        """Keep the turns of a ReLU's input until its output, which is made next, is read."""
        self._next = (value, speed)

    def take_postponed(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the input of a ReLU (and its derivative) whose whole output this is, for a race instead of turns."""
        found = self._postponed.get(tensor.untyped_storage()._cdata)
        if found is None:
            return None
        found.raced = True
        return found.value, found.speed

    def reach(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how far the piece reaches to the left and to the right, each [n], for a function with output y."""
        for storage, each in self._postponed.items():
            if not each.raced or storage == y.untyped_storage()._cdata:
                self.turn(each.value, each.speed)
        self._postponed.clear()
        least = torch.stack([each.double() for each in self._least]).amin(0)
        most = torch.stack([each.double() for each in self._most]).amax(0)
        return torch.where(most > 0, -1 / most, -math.inf), torch.where(least < 0, -1 / least, math.inf)

    def _settle_read(self, pooled: bool, values: Sequence[Any]) -> None:
        for value in values:
            if not isinstance(value, torch.Tensor):
                continue
            found = self._postponed.get(value.untyped_storage()._cdata)
            if found is None or (pooled and _same_view(value, found.output)):
                continue
            del self._postponed[value.untyped_storage()._cdata]
            self.turn(found.value, found.speed)

    # ---- every operation of the model ------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view:
            # It has its tensor's storage, and so its mirror and its postponed turns.
            return func(*args, **kwargs)
        given = _flat((*args, *kwargs.values()))
        if not any(self.varies(each) for each in given):
            return func(*args, **kwargs)
        if self._postponed:
            self._settle_read(func.overloadpacket is aten.max_pool2d_with_indices, given)
        call = Operation.of(func, args, kwargs)
        if call.kind in bends.WINNERS:
            output = call.run()
            derivative = bends.WINNERS[call.kind](self, call, output)
        else:
            # Before the call: an in-place operation overwrites what its derivative is made from.
            derivative = TABLE.get(call.kind, linear.unknown)(self, call)
            output = call.run()
        for tensor, change in zip(_flat((output,)), _flat((derivative,)), strict=False):
            if isinstance(tensor, torch.Tensor) and tensor.dtype.is_floating_point and change is not None:
                self.remember(tensor, change)
        if self._next is not None:
            self._postponed[output.untyped_storage()._cdata] = Postponed(output, *self._next)
            self._next = None
        return output


def _same_view(one: torch.Tensor, two: torch.Tensor) -> bool:
    places = ((each.shape, each.stride(), each.storage_offset()) for each in (one, two))
    return next(places) == next(places)


def _flat(values: Sequence[Any]) -> list[Any]:
    """Return the tensors (and other things) in nested arguments."""
    found: list[Any] = []
    for value in values:
        found.extend(_flat(value) if isinstance(value, (list, tuple)) else [value])
    return found


def pieces(
    function: Callable[[Leaves], Array], leaves: Leaves, directions: Leaves
) -> tuple[Array, Leaves, Array, Array, Array]:
    """Return f [n] or [n, K], its gradients [n, ...] or [n, K, ...], its derivative and its piece's reach.

    The derivative along the directions is shaped like f; the reach to the left (below 0) and to the right is [n],
    in steps of the directions.

    Raises:
        Refused: the function is not piecewise linear; the message names the operation.
    """
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    with Pieces(leaves, directions) as mode:
        y = function(leaves)
    varies = mode.varies(y)
    gradients = _gradients(y, leaves) if varies and y.requires_grad else _zeros(y, leaves)
    y = y.detach()
    with torch.no_grad():
        slope = mode.derivative(y) if varies else torch.zeros_like(y)
        return y, gradients, slope, *mode.reach(y)


def _zeros(y: torch.Tensor, leaves: Leaves) -> Leaves:
    return tuple(leaf.new_zeros((*y.shape, *leaf.shape[1:])) for leaf in leaves)


def _gradients(y: torch.Tensor, leaves: Leaves) -> Leaves:
    """Return the gradients of every row, with a class axis where y has one."""

    def pulled(column: torch.Tensor, last: bool) -> Leaves:
        return torch.autograd.grad(
            column.sum(), leaves, retain_graph=not last, allow_unused=True, materialize_grads=True
        )

    if y.ndim == 1:
        return pulled(y, True)
    columns = [pulled(y[:, k], k == y.shape[1] - 1) for k in range(y.shape[1])]
    return tuple(torch.stack(each, 1) for each in zip(*columns, strict=True))
