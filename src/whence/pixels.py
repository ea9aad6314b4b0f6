"""Pictures as users hold them: PIL images, uint8 or float arrays, with the channels first or last."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from whence.attribution import to_numpy
from whence.backends.arrays import Array, Operations
from whence.errors import BadInput

CHANNELS = (1, 3, 4)


def read(pictures: Any) -> Any:
    """Return pictures as floats in [0, 1], in the layout they came in: [B, H, W], [B, H, W, C] or [B, C, H, W].

    Integers are 0..255 and floats 0..1, as matplotlib and scikit-image have it.

    Raises:
        BadInput: not pictures, pictures of several sizes, or floats outside [0, 1].
    """
    pictures = _array(pictures)
    if pictures.ndim not in (3, 4) or 0 in pictures.shape:
        raise BadInput(
            f"with preprocess the inputs are pictures [B, H, W, C] or [B, H, W]; this is {tuple(pictures.shape)}"
        )
    return scaled(pictures)


def scaled(values: Any) -> Any:
    """Return pixel values of any shape (a picture, a colour) as floats in [0, 1].

    Raises:
        BadInput: not pixels, or floats outside [0, 1].
    """
    values = _array(values)
    kind = str(values.dtype).removeprefix("torch.")
    if kind.startswith("float") or kind == "bfloat16":
        low, high = float(values.min()), float(values.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise BadInput(
                f"float pictures lie in [0, 1] (0 black, 1 white), these in [{low:.3g}, {high:.3g}]; "
                "give uint8 for 0..255, or leave preprocess out for inputs that are normalised already"
            )
        return values
    if kind != "uint8":
        raise BadInput(f"pictures are uint8 (0..255) or floats (0..1); these are {kind}")
    return values / np.float32(255) if isinstance(values, np.ndarray) else values.float() / 255


def within(ops: Operations, leaf: Array) -> Array:
    """Return pixels kept within [0, 1]."""
    above = ops.where(leaf < 0, leaf * 0, leaf)
    return ops.where(above > 1, above * 0 + 1, above)


def channels_last(shape: tuple[int, ...]) -> bool:
    """Tell whether a batch of pictures has its channels last; [B, H, W] counts as last."""
    return len(shape) == 3 or (len(shape) == 4 and shape[-1] in CHANNELS and shape[1] not in (1, 3))


def to_uint8(array: Any, last: bool) -> UInt8[np.ndarray, "batch height width channels"]:
    """Return float pictures in [0, 1] as uint8 [B, H, W, C]."""
    values: Float[np.ndarray, "..."] = to_numpy(array).astype(np.float64)
    if values.ndim == 3:
        values = values[..., None]
    elif not last:
        values = np.moveaxis(values, 1, -1)
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def _array(pictures: Any) -> Any:
    if isinstance(pictures, (list, tuple)) or _is_pil(pictures):
        pictures = _stacked(list(pictures) if isinstance(pictures, (list, tuple)) else [pictures])
    if not hasattr(pictures, "dtype"):
        raise BadInput(f"with preprocess the inputs are pictures; this is a {type(pictures).__name__}")
    return pictures


def _is_pil(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getbands")


def _stacked(pictures: list[Any]) -> np.ndarray:
    arrays = [
        np.asarray(each.convert("L" if each.getbands() == ("L",) else "RGB") if _is_pil(each) else each)
        for each in pictures
    ]
    shapes = {array.shape for array in arrays}
    if not shapes:
        raise BadInput("there is no picture to explain: the list is empty")
    if len(shapes) > 1:
        raise BadInput(f"the pictures differ in size ({sorted(shapes)[:3]}); explain them one at a time")
    return np.stack(arrays)
