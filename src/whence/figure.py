"""Figures of one result: its maps, its largest values, its path; matplotlib is imported when one is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from whence import view
from whence.caption import (
    at_row,
    number,
    overlay_text,
    scale_text,
    sentence,
    several_text,
    target_text,
    written,
)
from whence.errors import BadInput
from whence.panel import (
    BAR,
    MOST_BARS,
    add_colour_bar,
    axes_at,
    bare,
    draw_map,
    draw_picture,
    finite_maps,
    proportion,
    wrapped,
)
from whence.tabular_view import draw_row, shares_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whence.attribution import Attribution, Reduce, Trace

# A figure of a whole data set would not fit a page.
MOST_ROWS = 16
# The longer side of a panel, in inches, and how far the shorter may shrink: captions and bars of colours need room.
PANEL = 2.95
LOWEST, NARROWEST = 0.9, 1.9


def figure(result: Attribution, reduce: Reduce = "sum") -> Figure:
    """Draw each example in a row: input, heat map with its stated scale, saliency mask and overlay.

    Without a picture the heat map stands alone; values without two axes, and the shares of features that are no
    parts of a picture, become bars of the 20 largest. Of several inputs the first is drawn, and the caption says so.

    Raises:
        BadInput: the result holds every class, or values that are not finite.
    """
    from matplotlib.figure import Figure

    listed = shares_of(result)
    maps = finite_maps(result, reduce) if listed is None else listed
    rows = min(len(maps), MOST_ROWS)
    picture = result.picture if maps.ndim == 3 else None
    across, down = _box(maps.shape[1:], *([] if picture is None else [picture.shape[1:]]))
    # Inches, laid out by hand: an automatic layout lets the titles run into square pictures. Narrow captions are tall.
    body = (
        down + 0.9 + 0.4 * (PANEL - across) if maps.ndim == 3 else 1.05 + BAR * min(MOST_BARS, maps[0].size)
    )
    width, height = 7.5 if picture is None else 4 * across + 1.9, body + 1.35
    whole = Figure(figsize=(width, height * rows))
    for row in range(rows):
        top = row * height
        output = number(at_row(result.output, row), 4)
        words = (written(result.method), f"target: {target_text(result, row)}", f"output:\u00a0{output}")
        _write(whole, top + 0.12, wrapped("  ·  ".join(words), width * 0.75), fontsize=12, fontweight="bold")
        _draw_row(whole, top + 0.8, result, maps[row], row)
        below = [wrapped(sentence(result, row), width)]
        if row == rows - 1:
            below += [several_text(result) or ""]
            below += [f"{rows} of {len(maps)} examples are shown"] if len(maps) > rows else []
        _write(whole, top + 0.85 + body, "\n".join(filter(None, below)), fontsize=9, color="0.25")
    return whole


def _box(*shapes: Sequence[int]) -> tuple[float, float]:
    """Return the width and height, in inches, of the panels for maps and pictures of these shapes."""
    tall = proportion(*shapes)
    return max(PANEL * min(1.0, 1.0 / tall), NARROWEST), max(PANEL * min(1.0, tall), LOWEST)


def _write(whole: Figure, top: float, text: str, **style: Any) -> None:
    """Write text, centred, from `top` inches below the figure's upper edge."""
    whole.text(0.5, 1.0 - top / whole.get_figheight(), text, ha="center", va="top", **style)


def _draw_row(
    whole: Figure, top: float, result: Attribution, map: Float[np.ndarray, "*shape"], row: int
) -> None:
    if map.ndim != 2:
        draw_row(whole, top, result, row, map)
    elif result.picture is None:
        below = (
            f"{textwrap.fill(scale_text(map), 50)}\nvalues from {number(map.min())} to {number(map.max())}"
        )
        box = _box(map.shape)
        left = (whole.get_figwidth() - box[0] - 0.6) / 2
        _draw_heat_map(whole, left, top, box, map).set_xlabel(below, fontsize=8)
    else:
        _draw_panels(whole, top, map, result.picture[row], result.smooth)


def _draw_panels(
    whole: Figure, top: float, map: Float[np.ndarray, "h w"], picture: Any, smooth: float
) -> None:
    box = _box(map.shape, picture.shape)
    # More room after the heat map, for its bar of colours.
    lefts = [0.2 + place * (box[0] + 0.3) + (0.7 if place > 1 else 0.0) for place in range(4)]
    heat = _draw_heat_map(whole, lefts.pop(1), top, box, map)
    given, mask, overlay = (bare(axes_at(whole, left, top, *box)) for left in lefts)
    draw_picture(given, picture)
    mask.imshow(view.saliency_mask(map), cmap="gray", vmin=0, vmax=1)
    overlay.imshow(view.overlay(picture, map, smooth=smooth))
    for axes, title, below in (
        (given, "input", f"{picture.shape[1]} × {picture.shape[0]} pixels"),
        (heat, "heat map", scale_text(map)),
        (mask, "saliency mask", "|map| on the same scale: black 0, white full"),
        (overlay, "overlay", overlay_text(map, picture.shape, smooth)),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(textwrap.fill(below, int(46 * box[0] / PANEL)), fontsize=8)


def _draw_heat_map(
    whole: Figure, left: float, top: float, box: tuple[float, float], map: Float[np.ndarray, "h w"]
) -> Any:
    """Draw a map with its bar of colours to the right, as tall as the map; return the map's axes."""
    axes = axes_at(whole, left, top, *box)
    draw_map(axes, map)
    tall = max(min(box[1], box[0] * map.shape[0] / map.shape[1]), LOWEST)
    wide = min(box[0], box[1] * map.shape[1] / map.shape[0])
    beside = axes_at(whole, left + (box[0] + wide) / 2 + 0.08, top + (box[1] - tall) / 2, 0.13, tall)
    add_colour_bar(whole, map, view.colour_scale(map), view.is_signed(map), cax=beside)
    return axes


def bar_figure(result: Attribution, row: int = 0) -> Figure:
    """Draw one example's 20 largest shares as horizontal bars, by the features' names and values where known."""
    from matplotlib.figure import Figure

    listed = shares_of(result)
    shares = (finite_maps(result, "sum") if listed is None else listed)[row]
    whole = Figure(figsize=(7.0, 1.15 + BAR * min(MOST_BARS, shares.size)))
    draw_row(whole, 0.1, result, row, shares)
    return whole


# ---- the path ----------------------------------------------------------------------------------------------


def trace_figure(trace: Trace, row: int = 0, *, index: int | None = None) -> Figure:
    """Draw one example's output and its slope along the path, from the baseline (α = 0) to the input (1).

    Of a trace of every class, `index` picks one; by default the one whose output changes most.

    Raises:
        BadInput: the trace has no such row or class, or no node in that row.
    """
    from matplotlib.figure import Figure

    nodes, weights, output, derivative, index = _trace_row(trace, row, index)
    whole = Figure(figsize=(8.4, 2.9))
    left, right = (axes_at(whole, start, 0.3, 3.35, 1.85) for start in (0.65, 4.85))
    colour, shade = view.colours(True)[[40, 96]] / 255.0
    left.plot(nodes, output, color=colour, marker=".", markersize=4, linewidth=1.2)
    left.set_ylabel("output f" if index is None else f"output f of class {index}")
    left.set_title("the output along the path", fontsize=10)
    right.fill_between(nodes, derivative, color=shade, linewidth=0)
    right.plot(nodes, derivative, color=colour, linewidth=1.0)
    # The area of a marker grows with its weight: many small ones where the path was looked at closely.
    sizes = np.clip(22.0 * np.abs(weights) / (np.abs(weights).max() or 1.0), 2.0, None)
    right.scatter(nodes, derivative, s=sizes, color=colour, zorder=3)
    right.axhline(0, color="0.4", linewidth=0.6)
    right.set_ylabel("derivative df/dα")
    area = number(float(np.sum(weights * derivative)), 4)
    right.set_title(f"its slope; shaded area: {area} (sum over {len(nodes)} nodes)", fontsize=10)
    for axes in (left, right):
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0\nbaseline", "0.25", "0.5", "0.75", "1\ninput"])
        axes.set_xlabel("position on the path, α", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return whole


def _trace_row(trace: Trace, row: int, index: int | None) -> tuple[Any, Any, Any, Any, int | None]:
    """Return the row's nodes in order, their weights, outputs and derivatives [N], and their class."""
    if not -len(trace.nodes) <= row < len(trace.nodes):
        raise BadInput(f"row {row}: the trace holds {len(trace.nodes)} examples")
    nodes, weights, output, derivative = (
        np.asarray(each[row], dtype=np.float64)
        for each in (trace.nodes, trace.weights, trace.output, trace.derivative)
    )
    order = np.argsort(nodes)[: np.count_nonzero(np.isfinite(nodes))]
    if not len(order):
        raise BadInput(f"row {row}: the trace holds no node")
    nodes, weights, output, derivative = nodes[order], weights[order], output[order], derivative[order]
    if output.ndim == 1:
        return nodes, weights, output, derivative, None
    if index is None:
        index = int(np.argmax(np.abs(output[-1] - output[0])))
    if not 0 <= index < output.shape[1]:
        raise BadInput(f"class {index}: the trace holds {output.shape[1]} classes")
    return nodes, weights, output[:, index], derivative[:, index], index
