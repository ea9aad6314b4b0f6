"""Which tensor functions are affine in one input, as a model calls them, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

_OWNERS = (torch, torch.Tensor, functional)


def _functions(names: str) -> frozenset[Any]:
    """Return every function and method of these names: a model may spell an operation in many ways."""
    pairs = ((owner, name) for name in names.split() for owner in _OWNERS)
    return frozenset(getattr(owner, name) for owner, name in pairs if hasattr(owner, name))


def _properties(names: str) -> frozenset[Any]:
    return frozenset(getattr(torch.Tensor, name).__get__ for name in names.split())


# What a tensor tells without giving away a value, and what is made in its shape only.
HARMLESS = _properties(
    "shape ndim device dtype layout is_cuda is_sparse is_quantized is_nested is_meta is_mkldnn requires_grad itemsize"
) | _functions(
    "size dim ndimension numel nelement __len__ get_device element_size is_floating_point is_complex "
    "zeros_like ones_like empty_like rand_like randn_like new_zeros new_ones new_empty"
)
# The numbers stay what they are; only their arrangement changes.
MOVES = _properties("T mT") | _functions(
    "clone view reshape flatten unflatten squeeze unsqueeze permute transpose t swapaxes swapdims movedim moveaxis "
    "ravel view_as reshape_as expand expand_as broadcast_to contiguous to float double type_as narrow select "
    "__getitem__ index_select gather take_along_dim chunk split tensor_split unbind flip rot90 roll repeat tile "
    "repeat_interleave unfold pixel_shuffle pixel_unshuffle channel_shuffle"
)
# Linear or affine in their first argument, whatever the other (constant) ones are.
_LINEAR = _functions(
    "neg neg_ negative positive pad mean sum cumsum diff fold interpolate avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d masked_fill masked_fill_ tril triu"
)
# Affine in all their tensors together.
_SUMS = _functions(
    "add add_ sub sub_ subtract subtract_ rsub __rsub__ cat concat concatenate stack hstack vstack dstack where"
)
_ASSIGNMENTS = _functions("__setitem__")
# Affine in each of their tensors, the others held fixed.
_PRODUCTS = _functions(
    "mul mul_ multiply multiply_ linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "matmul __rmatmul__ mm bmm mv dot inner tensordot einsum addmm baddbmm addbmm addmv"
)
_QUOTIENTS = _functions("div div_ divide divide_ true_divide true_divide_")
_NORMS = _functions("batch_norm")
_DROPOUTS = _functions("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout")
# What they return is as long as there are values of some kind.
_SELECTIONS = _functions("nonzero argwhere masked_select unique unique_consecutive bincount where")


def tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    """Return the tensors in nested arguments, in order."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(tensors(value))
        elif isinstance(value, dict):
            found.extend(tensors(value.values()))
    return found


@dataclass(frozen=True)
class Call:
    """One call of a function; `varying` are the tensors in it that depend on the input, as often as each is given."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    varying: Sequence[Any]

    @property
    def is_affine(self) -> bool:
        """Whether the call is affine in its varying tensors together."""
        return any(self.function in functions and rule(self) for functions, rule in _RULES)

    @property
    def has_one(self) -> bool:
        """Whether one tensor varies, and stands once in the call."""
        return len(self.varying) == 1

    @property
    def is_of_first(self) -> bool:
        """Whether the first argument varies and no other."""
        return self.has_one and bool(self.args) and self.args[0] is self.varying[0]

    def argument(self, position: int, name: str, default: Any) -> Any:
        """Return an argument, by its position or its name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def varies_in(self, position: int) -> bool:
        """Whether something in one of the arguments varies."""
        return any(one is two for one in tensors(self.args[position : position + 1]) for two in self.varying)

    @property
    def is_shaped_by_values(self) -> bool:
        """Whether the shape of the result depends on values of what varies."""
        if self.function is torch.Tensor.__getitem__:
            return self.varies_in(1)
        return self.function in _SELECTIONS and len(self.args) < 3


_RULES: tuple[tuple[frozenset[Any], Callable[[Call], bool]], ...] = (
    (MOVES | _LINEAR, lambda call: call.is_of_first),
    (_SUMS, lambda call: True),
    (_ASSIGNMENTS, lambda call: not call.varies_in(1)),
    (_PRODUCTS, lambda call: call.has_one),
    (_QUOTIENTS, lambda call: call.is_of_first and call.kwargs.get("rounding_mode") is None),
    (_NORMS, lambda call: call.is_of_first and not call.argument(5, "training", False)),
    (_DROPOUTS, lambda call: call.is_of_first and not call.argument(2, "training", True)),
)


def multiply_adds(call: Call, result: Any) -> int:
    """Return the multiplications of a product, a convolution or a linear layer; 0 for all else."""
    if call.function not in _PRODUCTS or not isinstance(result, torch.Tensor):
        return 0
    name = call.function.__name__
    given = [each for each in tensors((call.args, call.kwargs)) if each.ndim]
    if name.startswith("conv"):
        weight = given[1]
        if "transpose" in name:
            return given[0].numel() * math.prod(weight.shape[1:])
        return result.numel() * math.prod(weight.shape[1:])
    if name.startswith("mul") or len(given) < 2:
        return 0
    one, two = given[1:3] if name.startswith(("add", "baddbmm")) else given[:2]
    if name in ("linear", "matmul", "mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv"):
        return result.numel() * one.shape[-1]
    # Of a product of [i, k] and [k, j] the length k is the root of (ik)(kj) / (ij).
    return round(result.numel() * math.sqrt(one.numel() * two.numel() / max(result.numel(), 1)))
