"""A picture with a strip below it that says what it shows: method, class, baseline, and what the colours mean."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Num, UInt8

from whence import view
from whence.attribution import Attribution
from whence.caption import at_row, number, target_text, written
from whence.panel import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pixels: narrower pictures stand on a wider strip, tiny ones are enlarged to about this.
NARROWEST = 420
TINY = 280
GAP = 12
SMALLEST_TEXT, LARGEST_TEXT = 13.0, 40.0
# Characters of the font are on average so wide, in parts of its height.
CHARACTER = 0.62


def captioned_overlay(
    result: Attribution, picture: UInt8[np.ndarray, "h w c"], row: int = 0
) -> UInt8[np.ndarray, "height width 3"]:
    """Return one example's map laid over its picture, enlarged where it is tiny, with a strip that explains it."""
    map = result.heatmap()[row]
    drawn = view.overlay(picture, map, smooth=result.smooth)
    if min(picture.shape[:2]) < view.TINY:
        # Beneath its colours a picture of a few pixels is hard to make out, so it stands beside them as well.
        drawn = _beside(view.magnify(np.broadcast_to(picture, drawn.shape), TINY), view.magnify(drawn, TINY))
    signed = view.is_signed(map)
    details = [f"output {number(at_row(result.output, row), 4)}"]
    if result.settings.get("baseline"):
        details.insert(0, f"compared with {result.settings['baseline']}")
    if result.settings.get("at"):
        details.append(f"at {result.settings.get('site', result.settings['at'])}")
    heading = f"{written(result.method)}: {target_text(result, row)}"
    return with_strip(drawn, heading, [" · ".join(details)], signed, zero=not map.any())


def with_strip(
    drawn: UInt8[np.ndarray, "h w c"],
    heading: str,
    details: Sequence[str],
    signed: bool,
    *,
    zero: bool = False,
) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture on a white strip with a heading, lines of details and the legend of an overlay's colours."""
    width = max(drawn.shape[1], NARROWEST)
    text = float(np.clip(width / 40.0, SMALLEST_TEXT, LARGEST_TEXT))
    lines = [(line, True) for line in _fitted(heading, width, 1.12 * text)]
    lines += [(line, False) for each in details for line in _fitted(each, width, text)]
    strip = _strip(width, text, lines, signed, zero)
    left = (width - drawn.shape[1]) // 2
    canvas = np.full((drawn.shape[0] + len(strip), width, 3), 255, dtype=np.uint8)
    canvas[: len(drawn), left : left + drawn.shape[1]] = drawn
    canvas[len(drawn) :] = strip
    return canvas


def _beside(
    one: UInt8[np.ndarray, "h w 3"], two: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h width 3"]:
    # A long strip of a picture has its overlay below it.
    axis = 1 if one.shape[1] <= 2 * one.shape[0] else 0
    shape = (one.shape[0], GAP, 3) if axis == 1 else (GAP, one.shape[1], 3)
    return np.concatenate([one, np.full(shape, 255, dtype=np.uint8), two], axis)


def _strip(
    width: int, text: float, lines: Sequence[tuple[str, bool]], signed: bool, zero: bool
) -> UInt8[np.ndarray, "h w 3"]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    step = 1.45 * text
    height = round(step * (len(lines) + 1) + 1.1 * text)
    # 72 dots an inch make a point one pixel.
    whole = Figure(figsize=(width / 72.0, height / 72.0), dpi=72)
    canvas = FigureCanvasAgg(whole)
    middle = 0.5 * text + 0.5 * step
    for line, bold in lines:
        style: dict[str, Any] = {"fontweight": "bold"} if bold else {"color": "0.25"}
        whole.text(0.6 * text / width, 1 - middle / height, line, va="center", fontsize=text, **style)
        middle += step
    if zero:
        whole.text(
            0.6 * text / width, 1 - middle / height, "the map is zero everywhere", va="center", fontsize=text
        )
    else:
        _legend(whole, width, height, text, middle, signed)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:height, :width, :3]


def _legend(whole: Figure, width: int, height: int, text: float, middle: float, signed: bool) -> None:
    """Draw a ramp of the overlay's colours between the words for its two ends."""
    left, right = (
        ("against the target", "for the target") if signed else ("no effect", "a strong effect, either way")
    )
    start = 0.6 * text
    y = 1 - middle / height

    def put(x: float, words: str) -> Any:
        return whole.text(x / width, y, words, va="center", fontsize=text, color="0.25")

    said = put(start, left).get_window_extent().width
    ramp = start + said + 0.6 * text
    across = min(8.0 * text, 0.4 * width)
    axes = whole.add_axes((ramp / width, y - 0.5 * text / height, across / width, text / height))
    axes.imshow(_ramp(signed), aspect="auto")
    axes.set_axis_off()
    put(ramp + across + 0.6 * text, right)


def _ramp(signed: bool) -> Num[np.ndarray, "1 n 3"]:
    share = np.linspace(-1.0 if signed else 0.0, 1.0, 101)[:, None]
    end = np.where(share < 0, view.AGAINST, view.TOWARDS if signed else view.UNSIGNED)[:, 0]
    opacity = view.opacity(np.abs(share))
    return (255.0 * (1 - opacity) + view.colours(signed)[end] * opacity)[None] / 255.0


def _fitted(text: str, width: int, size: float) -> list[str]:
    characters = int((width - 1.2 * size) / (CHARACTER * size))
    return plain(textwrap.fill(text, max(20, characters))).split("\n")
