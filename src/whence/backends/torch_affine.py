"""Which tensor functions are affine in one input, as a model calls them, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

_OWNERS = (torch, torch.Tensor, functional, torch._C._nn)


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
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full new_tensor"
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
    "add add_ sub sub_ subtract subtract_ rsub __rsub__ cat concat concatenate stack hstack vstack dstack __setitem__"
)
# Affine in each of their tensors, the others held fixed.
_PRODUCTS = _functions(
    "mul mul_ multiply multiply_ linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "matmul __rmatmul__ mm bmm mv dot inner tensordot einsum addmm baddbmm addbmm addmv"
)
_QUOTIENTS = _functions("div div_ divide divide_ true_divide true_divide_")
_NORMS = _functions("batch_norm")
_DROPOUTS = _functions("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout")
_CHOICES = _functions("where")
# What they return is as long as there are values of some kind.
_SELECTIONS = _functions("nonzero argwhere masked_select unique unique_consecutive bincount")


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


def is_affine(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], varying: Sequence[torch.Tensor]
) -> bool:
    """Tell whether a call is affine in its `varying` arguments (a tensor given twice is listed twice)."""
    if function in _SUMS:
        return function is not torch.Tensor.__setitem__ or not _any_of(varying, (args[1],))
    if function in _CHOICES:
        return len(args) == 3 and not _any_of(varying, (args[0],))
    if len(varying) != 1:
        return False
    if function in _PRODUCTS:
        return True
    if not args or args[0] is not varying[0]:
        return False
    if function in MOVES or function in _LINEAR:
        return True
    if function in _QUOTIENTS:
        return len(args) == 2 and kwargs.get("rounding_mode") is None
    if function in _NORMS:
        return not _argument(args, kwargs, 5, "training", False)
    if function in _DROPOUTS:
        return not _argument(args, kwargs, 2, "training", kwargs.get("train", True))
    return False


def is_shaped_by_values(function: Any, args: Sequence[Any], varying: Sequence[torch.Tensor]) -> bool:
    """Tell whether the shape of a call's result depends on values of its `varying` arguments."""
    if function is torch.Tensor.__getitem__:
        return _any_of(varying, (args[1],))
    return function in _SELECTIONS or (function in _CHOICES and len(args) == 1)


def multiply_adds(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    """Return the multiplications of a product, a convolution or a linear layer; 0 for all else."""
    if function not in _PRODUCTS or not isinstance(result, torch.Tensor):
        return 0
    name = function.__name__
    given = [each for each in tensors((args, kwargs)) if each.ndim]
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


def _any_of(varying: Sequence[torch.Tensor], values: Iterable[Any]) -> bool:
    return any(one is two for one in tensors(values) for two in varying)


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)
