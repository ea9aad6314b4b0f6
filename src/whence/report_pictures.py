"""A report's pictures: each is part of the page, as a data URI, small enough for an attachment."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pillow

from whence import units, view
from whence.attribution import Attribution, Trace
from whence.caption import number, overlay_text, scale_text
from whence.figure import bar_figure, trace_figure
from whence.panel import finite_maps
from whence.tabular_view import shares_of

# Pixels of the longer side: enough for a screen.
LARGEST = 448


@dataclass(frozen=True)
class Bar:
    """A strip of colours with what stands at its ends."""

    data: str
    low: str
    high: str
    middle: str = ""


@dataclass(frozen=True)
class Image:
    """A picture as a data URI, its words, and whether its pixels are to stay squares."""

    data: str
    alt: str
    caption: str
    square: bool = False
    wide: bool = False
    bar: Bar | None = None


def input_image(picture: UInt8[np.ndarray, "h w c"], name: str | None) -> Image:
    """Return the picture that was explained; `name` is its file's."""
    height, width = picture.shape[:2]
    caption = f"{f'{name}, ' if name else ''}{width} × {height} pixels, as the maps see it."
    return Image(_photograph(picture), "The input", caption, min(height, width) < view.TINY)


def map_images(result: Attribution, name: str) -> list[Image]:
    """Return the heat map and, where there is a picture, the overlay; or bars of values without two axes."""
    if units.of_parameters(result):
        drawn = units.figure(result.example(0))
        return [Image(_uri(view.png(drawn)), f"The most important units by {name}", "", wide=True)]
    map = finite_maps(result, "sum")[0]
    if map.ndim != 2 or shares_of(result) is not None:
        drawn = bar_figure(result)
        images = [Image(_uri(view.png(drawn)), f"The largest shares by {name}", "", wide=True)]
        return [*images, *_pairs(result, name)]
    square = min(map.shape) < view.TINY
    images = [_heat_map(map, name, square)]
    if result.picture is not None:
        picture = result.picture[0]
        words = f"Overlay; {overlay_text(map, picture.shape, result.smooth)}."
        drawn = view.overlay(picture, map, smooth=result.smooth)
        images.append(Image(_photograph(drawn), f"Overlay of {name}", words, square))
    return [*images, *_pairs(result, name)]


def _pairs(result: Attribution, name: str) -> list[Image]:
    """Return the figure of what pairs of features give together, where that was asked."""
    if result.interactions is None:
        return []
    drawn = _uri(view.png(view.interaction_figure(result)))
    return [Image(drawn, f"What pairs of features give together, by {name}", "", wide=True)]


def _heat_map(map: Float[np.ndarray, "h w"], name: str, square: bool) -> Image:
    limit, signed = view.colour_scale(map), view.is_signed(map)
    # A PNG, never a JPEG, whose colours bleed from pixel to pixel.
    drawn = _uri(view.png(_fitted(view.magnify(view.colour(map, limit, signed=signed)))))
    bar = (
        Bar(_strip(signed), number(-limit), number(limit), "0")
        if signed
        else Bar(_strip(signed), "0", number(limit))
    )
    return Image(drawn, f"Heat map of {name}", f"Heat map; {scale_text(map)}.", square, bar=bar)


def trace_image(trace: Trace) -> str:
    """Return the figure of what a method saw on its path."""
    return _uri(view.png(trace_figure(trace)))


def legends() -> list[Bar]:
    """Return the two scales of colours with what their ends mean."""
    return [
        Bar(_strip(signed=True), "against", "towards", "0"),
        Bar(_strip(signed=False), "no part", "large part"),
    ]


# ---- bytes -------------------------------------------------------------------------------------------------


def _strip(signed: bool) -> str:
    return _uri(view.png(view.colours(signed)[None]))


def _photograph(picture: UInt8[np.ndarray, "h w c"]) -> str:
    """Return a picture as a PNG or a JPEG, whichever is smaller; small ones as a PNG."""
    fitted = _fitted(view.magnify(picture))
    lossless = view.png(fitted)
    if min(picture.shape[:2]) < view.TINY:
        return _uri(lossless)
    buffer = io.BytesIO()
    _pillow(fitted).save(buffer, "JPEG", quality=88)
    packed = buffer.getvalue()
    return _uri(packed, "jpeg") if len(packed) < len(lossless) else _uri(lossless)


def _fitted(picture: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "height width c"]:
    """Return the picture with its longer side at most `LARGEST` pixels."""
    height, width = picture.shape[:2]
    factor = LARGEST / max(height, width)
    if factor >= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    drawn = _pillow(picture).resize(size, Pillow.Resampling.BOX)
    return np.asarray(drawn).reshape(size[1], size[0], -1)


def _pillow(picture: UInt8[np.ndarray, "h w c"]) -> Pillow.Image:
    return Pillow.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture)


def _uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
