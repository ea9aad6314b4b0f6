"""Other weights for a torch module: a structural copy whose parameters are new ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from whence.backends.torch_copy import structural_copy
from whence.backends.torch_reach import original_of, reached
from whence.backends.weights import CANNOT, Arrays, Weights, by_layer
from whence.errors import UnsupportedByBackend


def torch_weights(model: Any) -> Weights:
    """Return a module's weights; the copies that are made have the module's own structure and buffers.

    Raises:
        UnsupportedByBackend: the model is a plain function, or cannot be copied (a scripted module).
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedByBackend(CANNOT.format("the model is a plain function of torch tensors"))
    hindrance = reached(model).hindrance
    if hindrance:
        raise UnsupportedByBackend(CANNOT.format(f"{type(model).__name__} cannot be copied: {hindrance}"))
    plain: Any = original_of(model)
    arrays = {name: _array(each) for name, each in plain.named_parameters() if each.dtype.is_floating_point}
    return Weights(arrays, by_layer(arrays), partial(_replaced, plain))


def _array(parameter: torch.Tensor) -> np.ndarray:
    values = parameter.detach().cpu()
    return (values if values.dtype == torch.float64 else values.float()).numpy()


def _replaced(model: nn.Module, arrays: Arrays) -> nn.Module:
    copy: nn.Module = structural_copy(model, reached(model))
    own = dict(copy.named_parameters())
    for name, array in arrays.items():
        # The parameter is the copy's own, its numbers are shared with the original: new numbers, not written into.
        old = own[name]
        old.data = torch.as_tensor(np.asarray(array), dtype=old.dtype, device=old.device)
    return copy
