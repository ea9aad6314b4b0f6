"""Derivatives along a direction: forward mode, and where an operation lacks it, the way back taken twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd import forward_ad

from whence.backends import Array, Leaves
from whence.errors import Refused


def jvp(function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves) -> tuple[Array, Array]:
    """Return f(x) and J(x) v for one function of several leaves.

    Raises:
        Refused: an operation has neither a forward derivative nor a second one.
    """
    direction = tuple(d.to(leaf.dtype) for d, leaf in zip(direction, leaves, strict=True))
    try:
        return _forward(function, leaves, direction)
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError) as problem:
        if "forward" not in str(problem).lower():
            raise
        return _twice_back(function, leaves, direction)


def _forward(function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves) -> tuple[Array, Array]:
    with torch.no_grad(), forward_ad.dual_level():
        pairs = zip(leaves, direction, strict=True)
        y = function(tuple(forward_ad.make_dual(leaf.detach(), d.detach().contiguous()) for leaf, d in pairs))
        value, slope = forward_ad.unpack_dual(y)
        return value.detach().clone(), torch.zeros_like(value) if slope is None else slope.detach().clone()


def _twice_back(
    function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
) -> tuple[Array, Array]:
    """Differentiate Jᵀu, which is linear in u, by u: the derivative of ⟨Jᵀu, v⟩ is Jv."""
    from whence.backends.torch_rules.settings import attention_apart

    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    with attention_apart():
        y = function(leaves)
    if not y.requires_grad:
        return y.detach(), torch.zeros_like(y)
    u = torch.zeros_like(y, requires_grad=True)
    try:
        back = torch.autograd.grad(y, leaves, u, create_graph=True, materialize_grads=True)
        along = [(g * d).sum() for g, d in zip(back, direction, strict=True)]
        total = torch.stack(along).sum()
        slope = torch.autograd.grad(total, u)[0] if total.requires_grad else torch.zeros_like(y)
    except (NotImplementedError, RuntimeError) as problem:
        if isinstance(problem, torch.OutOfMemoryError):
            raise
        raise Refused(
            f"the speed of a layer's value along the input's path cannot be had: {problem}; leave path out, and the "
            "layer's path runs straight between its own two ends"
        ) from problem
    return y.detach(), slope.detach()
