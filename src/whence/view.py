"""Attributions as pictures: one number per position, an honest colour scale, masks and overlays.

Figures (matplotlib) live in modules of their own and are reached from here too: `view.figure`, `view.trace_figure`,
`view.comparison_figure`, `view.development_figure`; of tables `view.beeswarm`, `view.importance_bars`,
`view.interaction_figure`; of text `view.to_text`, `view.text_html`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Num, UInt8

from whence.errors import BadInput
from whence.pictures import as_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whence.comparison import comparison_figure as comparison_figure  # noqa: PLC0414
    from whence.comparison import development_figure as development_figure  # noqa: PLC0414
    from whence.figure import figure as figure  # noqa: PLC0414
    from whence.figure import trace_figure as trace_figure  # noqa: PLC0414
    from whence.interaction_view import interaction_figure as interaction_figure  # noqa: PLC0414
    from whence.tabular_view import beeswarm as beeswarm  # noqa: PLC0414
    from whence.tabular_view import importance_bars as importance_bars  # noqa: PLC0414
    from whence.text_view import text_html as text_html  # noqa: PLC0414
    from whence.text_view import to_text as to_text  # noqa: PLC0414

# Where each figure is drawn: those modules build on this one, so they are imported when they are first used.
FIGURES = {
    "figure": "whence.figure",
    "trace_figure": "whence.figure",
    "comparison_figure": "whence.comparison",
    "development_figure": "whence.comparison",
    "beeswarm": "whence.tabular_view",
    "importance_bars": "whence.tabular_view",
    "interaction_figure": "whence.interaction_view",
    "to_text": "whence.text_view",
    "text_html": "whence.text_view",
}
PERCENTILE = 99.5
# Pixel maps of photographs are salt and pepper: averaged over 2 % of the shorter side the subject appears.
SMOOTH = 0.02
# Below this many pixels a side, a pixel is itself something to see: it is never blurred, and magnified.
TINY = 96
MAGNIFIED = 224
# ColorBrewer's RdBu turned round (safe for the colour-blind: both ends darken alike), its middle made white.
DIVERGING = ("053061", "2166ac", "4393c3", "92c5de", "d1e5f0", "ffffff",
             "fddbc7", "f4a582", "d6604d", "b2182b", "67001f")  # fmt: skip
# Another hue for maps without a sign, so that nobody reads "for" and "against" into them.
SEQUENTIAL = ("ffffff", "f5e3f6", "e6b8e9", "d487da", "bd4fc4", "9b1fb0", "720c8c", "4a0566")
# Where in the 255 colours an overlay takes its blue, its red, and its purple.
AGAINST, TOWARDS, UNSIGNED = 30, 224, 170


def __getattr__(name: str) -> Any:
    if name in FIGURES:
        return getattr(import_module(FIGURES[name]), name)
    raise AttributeError(f"module 'whence.view' has no attribute {name!r}")


# ---- maps --------------------------------------------------------------------------------------------------


def reduce_channels(
    values: Float[np.ndarray, "batch ..."], channel_axis: int | None, reduce: str = "sum"
) -> Float[np.ndarray, "batch ..."]:
    """Return one number per position: the channels summed ("sum"), summed in absolute value or normed (L2).

    Values without a channel axis keep their shape; "abs" and "norm" then take the absolute value.

    Raises:
        BadInput: `reduce` is none of the three, or the values have no such axis.
    """
    if reduce not in ("sum", "abs", "norm"):
        raise BadInput(f'reduce is {reduce!r}; it is "sum", "abs" or "norm"')
    if channel_axis is None or values.ndim < 3:
        return values if reduce == "sum" else np.abs(values)
    if not -values.ndim < channel_axis < values.ndim or channel_axis == 0:
        raise BadInput(f"channel_axis {channel_axis} does not fit values of shape {values.shape}")
    if reduce == "sum":
        return values.sum(channel_axis)
    if reduce == "abs":
        return np.abs(values).sum(channel_axis)
    return np.sqrt(np.square(values).sum(channel_axis))


def resize_maps(maps: Num[np.ndarray, "batch *old"], size: Sequence[int]) -> Float[np.ndarray, "batch *new"]:
    """Return the maps at `size`, (height, width) in pixels or a length: bilinear, and averaging where they shrink."""
    maps = maps.astype(np.float64)
    for axis, new in enumerate(size, 1):
        maps = np.moveaxis(np.moveaxis(maps, axis, -1) @ _bilinear(maps.shape[axis], new).T, -1, axis)
    return maps


def _bilinear(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Return the matrix that resamples a line of `old` pixels at the centres of `new` ones."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    distance = np.abs(np.arange(old) - centres[:, None]) / max(1.0, old / new)
    weights = np.maximum(0.0, 1.0 - distance)
    return weights / weights.sum(1, keepdims=True)


def smoothing(size: Sequence[int], smooth: float = SMOOTH) -> float:
    """Return the Gaussian's σ, in pixels, for a picture of (height, width); 0 for tiny pictures."""
    shorter = min(size[:2])
    return smooth * shorter if shorter >= TINY else 0.0


def smooth_map(map: Num[np.ndarray, "height width"], sigma: float) -> Float[np.ndarray, "height width"]:
    """Return the map averaged by a Gaussian of `sigma` pixels, which keeps its sum."""
    if sigma <= 0:
        return map.astype(np.float64)
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(map.astype(np.float64), sigma, mode="reflect"))


# ---- colours -----------------------------------------------------------------------------------------------


def colour_scale(map: Num[np.ndarray, "*shape"]) -> float:
    """Return the limit of the scale, symmetric about zero: the 99.5th percentile of |map|.

    It is the largest |value| where the percentile is zero, and 1 for a map of zeros.

    Raises:
        BadInput: the map is empty or holds NaN or infinity.
    """
    size = np.abs(finite(map))
    return float(np.percentile(size, PERCENTILE)) or float(size.max()) or 1.0


def is_signed(map: Num[np.ndarray, "*shape"]) -> bool:
    """Return whether the map takes sides, which decides its colours: it has a negative value."""
    return bool((map < 0).any())


def saliency_mask(map: Num[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Return |map| over its colour scale, cut at 1: the strength in [0, 1] (float64)."""
    return _relative(np.abs(map), colour_scale(map))


def colour(
    map: Num[np.ndarray, "*shape"], scale: float | None = None, *, signed: bool = True
) -> UInt8[np.ndarray, "... 3"]:
    """Return the map in colour (RGB): blue below zero, white at zero, red above, full at ±`scale`.

    Maps that are not `signed` go from white at zero (and below) to dark purple at `scale`.

    Raises:
        BadInput: the map is empty or holds NaN or infinity.
    """
    limit = colour_scale(map) if scale is None else scale
    share = _relative(finite(map), limit)
    level = (share + 1.0) * 127.0 if signed else np.maximum(share, 0.0) * 254.0
    return colours(signed)[np.rint(level).astype(np.intp)]


def colours(signed: bool) -> UInt8[np.ndarray, "255 3"]:
    """Return the 255 colours of the diverging scale (`signed`) or the sequential one."""
    codes = DIVERGING if signed else SEQUENTIAL
    anchors = np.array([tuple(bytes.fromhex(code)) for code in codes], dtype=np.float64)
    levels = np.linspace(0.0, len(anchors) - 1.0, 255)
    channels = [np.interp(levels, np.arange(len(anchors)), anchors[:, i]) for i in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def _relative(map: Num[np.ndarray, "*shape"], scale: float) -> Float[np.ndarray, "*shape"]:
    with np.errstate(over="ignore"):
        return np.clip(map.astype(np.float64) / scale, -1.0, 1.0)


def finite(map: Num[np.ndarray, "*shape"]) -> Num[np.ndarray, "*shape"]:
    """Return the map as it is.

    Raises:
        BadInput: it is empty or holds NaN or infinity.
    """
    if not map.size:
        raise BadInput(f"there is nothing to draw: the map has shape {map.shape}")
    if not np.isfinite(map).all():
        raise BadInput(
            f"cannot draw the map: {np.count_nonzero(~np.isfinite(map))} of its values are not finite"
        )
    return map


# ---- pictures ----------------------------------------------------------------------------------------------


def overlay(
    picture: UInt8[np.ndarray, "height width channels"],
    map: Num[np.ndarray, "h w"],
    *,
    smooth: float = SMOOTH,
    signed: bool | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the map laid over the paled picture, at the picture's size: the stronger, the more opaque.

    |map| sets the opacity, averaged by a Gaussian of σ = `smooth` of the picture's shorter side (not in tiny
    pictures); red or blue is the sign that prevails there, purple a map without negative values (or
    one that is not `signed`).

    Raises:
        BadInput: this is no picture, or the map is no finite [h, w].
    """
    if map.ndim != 2:
        raise BadInput(
            f"overlay: only maps with a height and a width can be laid over a picture; this one has shape {map.shape}: "
            "plot() draws it as bars"
        )
    background = paled(as_pictures(picture)[0])
    height, width = background.shape[:2]
    map = finite(map)
    signed = is_signed(map) if signed is None else signed
    if map.shape != (height, width):
        map = resize_maps(map[None], (height, width))[0]
    sigma = smoothing((height, width), smooth)
    # The sign of the sum, but the strength of the absolute values: a photograph's noise cancels in a sum.
    opaque = opacity(saliency_mask(smooth_map(np.abs(map), sigma)))[..., None]
    sides = np.where(smooth_map(map, sigma) < 0, AGAINST, TOWARDS) if signed else np.full(map.shape, UNSIGNED)
    return np.rint(background * (1.0 - opaque) + colours(signed)[sides] * opaque).astype(np.uint8)


def opacity(strength: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return how opaque an overlay is where the map has a strength in [0, 1]: the picture always shines through."""
    return 0.85 * strength**1.4


def paled(picture: UInt8[np.ndarray, "height width channels"]) -> Float[np.ndarray, "height width 3"]:
    """Return the picture in light grey (0..255), so that colours laid over it are the map's alone."""
    weights = [0.299, 0.587, 0.114] if picture.shape[2] == 3 else [1.0]
    return np.repeat(255.0 - 0.5 * (255.0 - picture @ np.array(weights))[..., None], 3, axis=2)


def magnify(
    picture: UInt8[np.ndarray, "h w c"], least: int = MAGNIFIED
) -> UInt8[np.ndarray, "height width c"]:
    """Return a tiny picture with its pixels as squares, about `least` pixels a side; others unchanged."""
    shorter, longer = sorted(picture.shape[:2])
    # A long strip grows no longer than twice that.
    factor = max(1, min(-(-least // shorter), 2 * least // longer)) if shorter < TINY else 1
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def png(drawing: Figure | np.ndarray) -> bytes:
    """Return a figure or one picture (as `as_pictures` takes it) as the bytes of a PNG file.

    Raises:
        BadInput: this is neither.
    """
    buffer = io.BytesIO()
    if not isinstance(drawing, np.ndarray):
        drawing.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()
    from PIL import Image

    picture = as_pictures(drawing)[0]
    if picture.shape[2] == 1:
        Image.fromarray(picture[..., 0]).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()
    code = picture.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
    codes, levels = np.unique(code, return_inverse=True)
    if len(codes) > 256:
        Image.fromarray(picture).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()
    # A map in colour has at most 255 colours: as a palette it is a third of the size, without loss.
    indexed = Image.fromarray(levels.reshape(code.shape).astype(np.uint8), "P")
    indexed.putpalette(b"".join(int(each).to_bytes(3, "big") for each in codes))
    indexed.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
