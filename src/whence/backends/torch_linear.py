"""Which tensor operations are linear, affine or bent at corners: the table that exact integrals rest on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

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
# Affine: the derivative is the operation's answer to it, less its answer to zero.
AFFINE = {
    aten.addmm, aten.baddbmm, aten.addmv, aten.convolution, aten.native_batch_norm,
    aten._native_batch_norm_legit_no_training, aten.cudnn_batch_norm, aten._batch_norm_no_update,
}  # fmt: skip
# Made in the shape of a varying tensor, and constant.
CONSTANT = {
    aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_empty,
    aten.new_full, aten.zero, aten.fill,
}  # fmt: skip
COMPARISONS = {aten.gt, aten.lt, aten.ge, aten.le, aten.eq, aten.ne}
# Elementwise with corners: where they are, and the slope between them, from the operation's own arguments.
CORNERS: dict[Any, Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]] = {
    aten.relu: lambda: ((0.0,), (0.0, 1.0)),
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


@dataclass(frozen=True)
class Operation:
    """One call of a tensor operation while the model runs."""

    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """The operation's name, as an error would give it."""
        return self.func.overloadpacket._qualified_op_name.removeprefix("aten::")

    @property
    def in_place(self) -> bool:
        """Whether it writes into its first argument."""
        return self.name.endswith("_")

    @property
    def kind(self) -> Any:
        """The operation without its spelling: an in-place one shares the rule of the other."""
        return (
            getattr(aten, self.name[:-1], self.func.overloadpacket)
            if self.in_place
            else self.func.overloadpacket
        )

    def run(self) -> Any:
        """Do it."""
        return self.func(*self.args, **self.kwargs)
