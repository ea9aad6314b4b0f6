"""Arrays of ONNX as tensors: their types, and what torch cannot calculate with itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

TYPES: Final[dict[int, torch.dtype]] = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.uint32, 13: torch.uint64, 14: torch.complex64,
    15: torch.complex128, 16: torch.bfloat16,
}  # fmt: skip
"""The element types of ONNX that are known, by their number."""
# Types that torch keeps and does not calculate with.
_STORED: Final = frozenset({torch.uint16, torch.uint32, torch.uint64})


def tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor with memory of its own."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


def array(value: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array."""
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def ints(value: Any) -> list[int]:
    """Return a tensor of whole numbers (a shape, axes) as Python's."""
    return [int(each) for each in value.reshape(-1).tolist()]


def is_stored(*values: Any) -> bool:
    """Tell whether any of some tensors is of a type that torch does not calculate with."""
    return any(isinstance(each, torch.Tensor) and each.dtype in _STORED for each in values)


def through_numpy(function: Callable[..., Any], *values: torch.Tensor) -> torch.Tensor:
    """Return what NumPy's function gives: for whole numbers without a sign, of which no gradient is asked."""
    with np.errstate(all="ignore"):
        return tensor(np.asarray(function(*(each.detach().numpy() for each in values))))


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return axis + rank if axis < 0 else axis
