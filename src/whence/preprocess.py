"""From a picture in pixels to what the model takes, differentiably, so that maps come back in the picture's size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from whence.errors import BadInput

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """The fixed affine way from a picture to the model's input: resize, crop, scale, normalise.

    Pictures are integers 0..255 or floats 0..1, [B, H, W, C] (or [B, C, H, W], or [B, H, W]). With p in [0, 1]
    the model gets ((low + (high − low) p) − mean) / std in `layout`.

    Attributes:
        size: the resized picture, (height, width); an int is a square, or with `crop` the shorter side.
        crop: the centre that is kept after resizing, (height, width) or an int.
        mean: subtracted per channel, in the units of `range`.
        std: divided by per channel, in the units of `range`.
        range: (low, high), what black and white become before `mean` and `std`.
        layout: "NCHW" or "NHWC", the order of the model's axes.
        channels: 1 or 3, what the model takes; None takes what `mean` says, else the picture's own.
    """

    size: Size | None = None
    crop: Size | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    range: tuple[float, float] = (0.0, 1.0)
    layout: str = "NCHW"
    channels: int | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without a picture."""
        for name in ("mean", "std"):
            value = getattr(self, name)
            object.__setattr__(
                self, name, (float(value),) if isinstance(value, (int, float)) else tuple(value)
            )
        if self.layout not in ("NCHW", "NHWC"):
            raise BadInput(f'Preprocess: layout is {self.layout!r}; it is "NCHW" or "NHWC"')
        for name in ("mean", "std", "range"):
            if not all(math.isfinite(value) for value in getattr(self, name)):
                raise BadInput(f"Preprocess: {name} is {getattr(self, name)}; its numbers are finite")
        if any(value == 0 for value in self.std):
            raise BadInput("Preprocess: a std of 0 divides by zero")
        for name in ("size", "crop"):
            object.__setattr__(self, name, _sides(name, getattr(self, name)))

    @property
    def expected_channels(self) -> int | None:
        """The channels the model takes, where the settings tell."""
        if self.channels is not None:
            return self.channels
        length = max(len(self.mean), len(self.std))
        return length if length > 1 else None

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of a picture of (height, width) after resizing, before cropping."""
        if self.size is None:
            return height, width
        if not isinstance(self.size, int):
            return self.size
        if self.crop is None:
            return self.size, self.size
        # The longer side is cut off, not rounded, and the crop's place is rounded: as torchvision has it, with which
        # most published models were trained.
        shorter = min(height, width)
        return int(height * self.size / shorter), int(width * self.size / shorter)

    def apply(self, ops: Any, picture: Any, channels_last: bool = True) -> Any:
        """Return the model's input [B, C, h, w] (or NHWC) of float pictures in [0, 1].

        Pictures are [B, H, W] or, with `channels_last`, [B, H, W, C], else [B, C, H, W].
        """
        x = (
            picture[:, None]
            if picture.ndim == 3
            else ops.transpose(picture, (0, 3, 1, 2))
            if channels_last
            else picture
        )
        channels = self.expected_channels
        if channels is not None and x.shape[1] != channels:
            raise BadInput(
                f"the picture has {x.shape[1]} channels and the model takes {channels}; "
                "convert it first (whence.data.to_channels)"
            )
        x = self._cropped(ops, x)
        low, high = self.range
        mean = ops.like([[[value]] for value in self.mean], x)
        std = ops.like([[[value]] for value in self.std], x)
        x = (x * (high - low) + low - mean) / std
        return x if self.layout == "NCHW" else ops.transpose(x, (0, 2, 3, 1))

    def _cropped(self, ops: Any, x: Any) -> Any:
        height, width = self.resized(*x.shape[2:])
        if (height, width) != tuple(x.shape[2:]):
            x = ops.resize(x, (height, width))
        if self.crop is None:
            return x
        crop_height, crop_width = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        if crop_height > height or crop_width > width:
            raise BadInput(
                f"Preprocess: crop {self.crop} is larger than the resized picture {height} x {width}"
            )
        top, left = round((height - crop_height) / 2), round((width - crop_width) / 2)
        return x[:, :, top : top + crop_height, left : left + crop_width]


def _sides(name: str, size: Any) -> Size | None:
    """Return a size as ints: one for a square, or (height, width)."""
    if size is None:
        return None
    if isinstance(size, (tuple, list)):
        if len(size) != 2:
            raise BadInput(f"Preprocess: {name} is {size}; give one side, or (height, width)")
        return _side(name, size[0]), _side(name, size[1])
    return _side(name, size)


def _side(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise BadInput(f"Preprocess: {name} is {value!r}; sides are whole numbers, at least 1 pixel")
    return int(value)
