"""Whole numbers that users give: how many samples, draws, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from whence.errors import BadInput


def whole(value: Any, name: str, least: int = 1) -> int:
    """Return a count as an int.

    Raises:
        BadInput: it is not a whole number, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise BadInput(f"{name} is {value!r}; it is a whole number, at least {least}")
    if value < least:
        raise BadInput(f"{name} is {value}; at least {least} are needed")
    return int(value)
