"""What a user calls a picture, as uint8 [B, H, W, 1 or 3]."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Num, UInt8

from whence.attribution import to_numpy
from whence.errors import BadInput


def as_pictures(image: Any) -> UInt8[np.ndarray, "batch height width channels"]:
    """Return pictures as uint8 [B, H, W, 1 or 3]; transparency is laid on white.

    Takes one PIL picture, an array [H, W], [B, H, W], [H, W, C] or [B, H, W, C] (integers 0..255 or floats
    0..1), or a list of these, all of one size.

    Raises:
        BadInput: the shape, type or range is none of a picture's, or the sizes differ.
    """
    if isinstance(image, (list, tuple)):
        pictures = [as_pictures(each) for each in image]
        if len({each.shape[1:] for each in pictures}) != 1:
            sizes = sorted({"x".join(str(side) for side in each.shape[1:]) for each in pictures})
            raise BadInput(f"pictures of one size are needed; these are {', '.join(sizes) or 'none'}")
        return np.concatenate(pictures)
    if hasattr(image, "getbands"):
        transparent = "A" in image.getbands() or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "L" if image.mode in ("1", "L") else "RGB")
    return _on_white(_as_bytes(_with_axes(to_numpy(image))))


def _with_axes(array: Num[np.ndarray, "*shape"]) -> Num[np.ndarray, "batch height width channels"]:
    if array.ndim == 2:
        array = array[None, :, :, None]
    elif array.ndim == 3:
        array = array[None] if array.shape[2] in (1, 3, 4) else array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3, 4) or not array.size:
        shape = tuple(array.shape)
        raise BadInput(
            f"a picture is [H, W], [H, W, C] or [B, H, W, C], C 1, 3 or 4, channels last; got {shape}"
        )
    return array


def _as_bytes(array: Num[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    if array.dtype.kind not in "buif":
        raise BadInput(f"a picture is made of integers 0..255 or floats 0..1, not {array.dtype}")
    if array.dtype == np.uint8:
        return array
    whole = array.dtype.kind in "ui"
    highest = 255 if whole else 1
    # Written so that NaN fails too; resizing may leave floats a rounding error outside.
    if not (array.min() >= -1e-3 and array.max() <= highest + 1e-3):
        raise BadInput(
            f"a picture of {array.dtype} lies in 0..{highest}; this one in {array.min():g}..{array.max():g}"
        )
    return array.astype(np.uint8) if whole else np.rint(np.clip(array, 0, 1) * 255.0).astype(np.uint8)


def _on_white(array: UInt8[np.ndarray, "b h w c"]) -> UInt8[np.ndarray, "b h w c"]:
    if array.shape[3] != 4:
        return array
    alpha = array[..., 3:] / 255.0
    return np.rint(array[..., :3] * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)
