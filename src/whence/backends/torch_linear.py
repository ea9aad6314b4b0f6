"""Linear and affine tensor operations: how a derivative along a line goes through each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from whence.errors import Refused

if TYPE_CHECKING:
    from whence.backends.torch_pieces import Pieces

aten = torch.ops.aten

# Linear in their varying arguments: the derivative goes through the operation itself.
LINEAR = {
    aten.alias, aten.clone, aten._to_copy, aten.mean, aten.sum, aten.neg, aten.index, aten.gather, aten.index_select,
    aten.flip, aten.roll, aten.cumsum, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d,
    aten._adaptive_avg_pool3d, aten.reflection_pad1d, aten.reflection_pad2d, aten.replication_pad1d,
    aten.replication_pad2d, aten.im2col, aten.col2im, aten._unsafe_view, aten.repeat, aten.upsample_nearest2d,
    aten.upsample_bilinear2d, aten._upsample_bilinear2d_aa, aten.pixel_shuffle, aten.tril, aten.triu,
    aten._reshape_copy, aten.cat, aten.stack, aten.where, aten.copy,
}  # fmt: skip
# Linear in one varying operand; two that vary make a curve.
PRODUCTS = {aten.mul, aten.mm, aten.bmm, aten.mv, aten.dot}
# A product plus a constant first argument: the plain product, and where its factors stand.
ADDED = {aten.addmm: aten.mm, aten.baddbmm: aten.bmm, aten.addmv: aten.mv}
# Batch norm, and whether it has an argument `training` (a batch's own statistics are not linear).
NORMS = {
    aten.native_batch_norm: True, aten.cudnn_batch_norm: True, aten._native_batch_norm_legit_no_training: False,
    aten._batch_norm_no_update: False,
}  # fmt: skip
# Made in the shape of a varying tensor, and constant.
CONSTANT = {
    aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_empty,
    aten.new_full, aten.zero, aten.fill,
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """One call of a tensor operation while the model runs."""

    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    name: str
    in_place: bool
    kind: Any

    @classmethod
    def of(cls, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Operation:
        """Return a call; its kind is the operation without its spelling, so that in-place shares the rule."""
        name, in_place, kind = _known.get(func) or _known.setdefault(func, _spelt(func))
        return cls(func, args, kwargs, name, in_place, kind)

    def run(self) -> Any:
        """Do it."""
        return self.func(*self.args, **self.kwargs)


Rule = Callable[["Pieces", Operation], Any]
_known: dict[Any, tuple[str, bool, Any]] = {}


def _spelt(func: Any) -> tuple[str, bool, Any]:
    packet = func.overloadpacket
    name: str = packet._qualified_op_name.removeprefix("aten::")
    return name, name.endswith("_"), getattr(aten, name[:-1], packet) if name.endswith("_") else packet


def unknown(mode: Pieces, call: Operation) -> Any:
    """Refuse an operation that has no rule."""
    raise Refused(
        f"exact quadrature needs a piecewise-linear network, and this one uses {call.name}; "
        "use the default tolerance, or explain the logit instead of a probability or loss"
    )


def require_one(mode: Pieces, call: Operation, factors: Sequence[Any]) -> None:
    """Refuse a product of several varying tensors."""
    if sum(mode.varies(each) for each in factors) > 1:
        raise Refused(
            f"exact quadrature: the model multiplies two varying tensors ({call.name}), which is not piecewise "
            "linear; use the default tolerance"
        )


def require_constant(mode: Pieces, call: Operation, values: Sequence[Any]) -> None:
    """Refuse a divisor, a slope or a border that varies."""
    require_one(mode, call, [each for each in values for _ in range(2)])


# ---- rules: from an operation's call to its output's derivative ------------------------------------------------


def _constant(mode: Pieces, call: Operation) -> Any:
    return mode.of(None) if call.in_place else None


def _linear(mode: Pieces, call: Operation) -> Any:
    # Of several terms (cat, where, copy) the constant ones contribute nothing.
    return call.func(*(_swapped(mode, each, True, call.in_place) for each in call.args), **call.kwargs)


def _product(mode: Pieces, call: Operation) -> Any:
    require_one(mode, call, call.args[:2])
    return call.func(*(_swapped(mode, each, False, call.in_place) for each in call.args), **call.kwargs)


def _added(mode: Pieces, call: Operation) -> Any:
    offset, one, two = call.args
    require_one(mode, call, (one, two))
    scale, weight = call.kwargs.get("alpha", 1), call.kwargs.get("beta", 1)
    change = 0.0
    if mode.varies(one) or mode.varies(two):
        change = ADDED[call.kind](*(_swapped(mode, each, False, False) for each in (one, two)))
        change = change if scale == 1 else change * scale
    return change + weight * mode.of(offset) if mode.varies(offset) else change


def _convolution(mode: Pieces, call: Operation) -> Any:
    signal, weight, offset, *rest = call.args
    require_one(mode, call, (signal, weight, offset))
    if mode.varies(offset):
        unknown(mode, call)
    swapped = (_swapped(mode, each, False, False) for each in (signal, weight))
    return call.func(*swapped, None, *rest, **call.kwargs)


def _batch_norm(mode: Pieces, call: Operation) -> Any:
    signal, weight, offset, mean, *rest = call.args
    require_constant(mode, call, (weight, offset, mean, rest[0]))
    if NORMS[call.kind] and rest[1]:
        unknown(mode, call)
    zeros = (torch.zeros_like(each) if each is not None else None for each in (offset, mean))
    return call.func(mode.of(signal), weight, *zeros, *rest, **call.kwargs)[0], None, None


def _sum(mode: Pieces, call: Operation) -> torch.Tensor:
    scale = call.kwargs.get("alpha", 1)
    one, two = mode.of(call.args[0]), mode.of(call.args[1])
    if call.kind is aten.rsub:
        return two - one * scale
    scaled = two if scale == 1 else two * scale
    return one + scaled if call.kind is aten.add else one - scaled


def _quotient(mode: Pieces, call: Operation) -> torch.Tensor:
    require_constant(mode, call, call.args[1:2])
    if call.kwargs.get("rounding_mode") is not None:
        unknown(mode, call)
    return mode.of(call.args[0]) / call.args[1]


def _filled(mode: Pieces, call: Operation) -> torch.Tensor:
    return call.kind(mode.of(call.args[0]), call.args[1], 0.0)


def _swapped(mode: Pieces, value: Any, silent: bool, copied: bool) -> Any:
    """Replace a varying tensor by its derivative, and with `silent` a constant float one by zero."""
    if isinstance(value, (list, tuple)):
        return type(value)(_swapped(mode, each, silent, copied) for each in value)
    if mode.varies(value):
        return mode.derivative(value).clone() if copied else mode.derivative(value)
    floating = isinstance(value, torch.Tensor) and value.dtype.is_floating_point
    return torch.zeros_like(value) if silent and floating else value


RULES: dict[Any, Rule] = {
    **dict.fromkeys(LINEAR, _linear),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(ADDED, _added),
    **dict.fromkeys(NORMS, _batch_norm),
    **dict.fromkeys(CONSTANT, _constant),
    **dict.fromkeys((aten.add, aten.sub, aten.rsub), _sum),
    **dict.fromkeys((aten.constant_pad_nd, aten.masked_fill), _filled),
    aten.convolution: _convolution,
    aten.div: _quotient,
}
