"""Figures of several results: methods side by side, and the checkpoints of a training."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from whence import view
from whence.caption import at_row, number, scale_text, several_text, short_scale_text, target_text, written
from whence.errors import BadInput
from whence.panel import (
    add_colour_bar,
    draw_map,
    draw_picture,
    finite_maps,
    folded,
    plain,
    proportion,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whence.attribution import Attribution, Reduce


# The side of a panel, in inches; titles need some width.
PANEL, NARROWEST = 2.15, 1.95

# ---- methods -----------------------------------------------------------------------------------------------


def comparison_figure(results: Mapping[str, Attribution], row: int = 0, reduce: Reduce = "sum") -> Figure:
    """Draw one example's input and every method's heat map, each on its own stated scale.

    Raises:
        BadInput: there is no result, or no such row in one of them.
    """
    from matplotlib.figure import Figure

    maps = [_row_map(result, row, reduce) for result in results.values()]
    if not maps:
        raise BadInput("comparison_figure: there are no results to compare")
    first = next(iter(results.values()))
    pictures = _input_of(results.values(), row)
    panels = len(maps) + len(pictures)
    across, down = _box([*maps, *pictures])
    most = min(8, max(4, math.ceil(math.sqrt(1.5 * panels))))
    rows, columns = _shape(panels, min(most, max(2, int(most * PANEL / across))) if across > PANEL else most)
    width = max(across * columns, 6.0)
    whole = Figure(figsize=(width, (down + 0.55) * rows + 0.9), layout="constrained")
    axes = _grid(whole, rows, columns, panels)
    for picture in pictures:
        given = axes.pop(0)
        draw_picture(given, picture)
        given.set_title("input", fontsize=10)
        given.set_xlabel(f"{picture.shape[1]} × {picture.shape[0]} pixels", fontsize=8)
    for each, name, map in zip(axes, results, maps, strict=True):
        draw_map(each, map)
        each.set_title(folded(written(name), 24), fontsize=10)
        each.set_xlabel(short_scale_text(map), fontsize=8)
    whole.suptitle(wrapped(f"target: {target_text(first, row)}", width * 0.8), fontsize=12)
    below = (
        "Red: for the target. Blue: against it. Purple: a map without negative values. "
        f"Each map has its own scale: the {view.PERCENTILE:g}th percentile of its |map|."
    )
    several = several_text(first)
    below += f" {several}." if several else ""
    whole.supxlabel(wrapped(below, width), fontsize=9, color="0.25")
    return whole


def _box(drawn: Sequence[Any]) -> tuple[float, float]:
    """Return the width and height, in inches, that the panels of these maps and pictures take."""
    tall = proportion(*(each.shape for each in drawn))
    across = (
        float(np.clip(PANEL / tall, NARROWEST, PANEL)) if tall > 1 else min(PANEL * max(1.0, 0.4 / tall), 4.3)
    )
    return across, min(across * tall, 1.25 * PANEL)


def _row_map(result: Attribution, row: int, reduce: Reduce) -> Float[np.ndarray, "*shape"]:
    maps = finite_maps(result, reduce)
    if not -len(maps) <= row < len(maps):
        raise BadInput(f"row {row}: the result of {result.method} holds {len(maps)} examples")
    return maps[row]


def _input_of(results: Iterable[Attribution], row: int) -> list[Any]:
    """Return the example's picture, in a list that is empty where no result has one."""
    return [result.picture[row] for result in results if result.picture is not None][:1]


def _shape(panels: int, most: int) -> tuple[int, int]:
    """Return the rows and columns of a grid at most `most` wide, its last row as full as can be."""
    rows = math.ceil(panels / most)
    return rows, math.ceil(panels / rows)


def _grid(part: Any, rows: int, columns: int, used: int) -> list[Any]:
    """Return as many axes of a grid as are used; the others are hidden."""
    flat = list(np.ravel(part.subplots(rows, columns, squeeze=False)))
    for each in flat[used:]:
        each.set_visible(False)
    return flat[:used]


# ---- checkpoints -------------------------------------------------------------------------------------------


def development_figure(
    results: Sequence[tuple[str, Attribution]], row: int = 0, reduce: Reduce = "sum"
) -> Figure:
    """Draw one example's map at each checkpoint of a training, on one stated scale, and its output over them.

    A panel's caption is `settings["prediction"]` and `settings["probability"]`, where there, and the output.

    Raises:
        BadInput: there is no result, or no such row in one of them.
    """
    from matplotlib.figure import Figure

    maps = [_row_map(result, row, reduce) for _, result in results]
    if not maps:
        raise BadInput("development_figure: there are no checkpoints to draw")
    pictures = _input_of((result for _, result in results), row)
    panels = len(maps) + len(pictures)
    rows, columns = _shape(panels, 6)
    across, down = _box([*maps, *pictures])
    maps_height = (down + 0.6) * rows + 0.7
    whole = Figure(
        figsize=(max((across + 0.15) * columns + 0.6, 6.9), maps_height + 2.7), layout="constrained"
    )
    parts: Any = whole.subfigures(2, 1, height_ratios=[maps_height, 2.7])
    top, bottom = parts
    axes = _grid(top, rows, columns, panels)
    for picture in pictures:
        given = axes.pop(0)
        draw_picture(given, picture)
        given.set_title("input", fontsize=10)
    _draw_checkpoints(top, axes, results, maps, row)
    _draw_course(bottom.subplots(), results, row)
    return whole


def _draw_checkpoints(
    part: Any, axes: list[Any], results: Sequence[tuple[str, Attribution]], maps: list[Any], row: int
) -> None:
    joined = np.concatenate([map.ravel() for map in maps])
    limit, signed = view.colour_scale(joined), view.is_signed(joined)
    for each, (label, result), map in zip(axes, results, maps, strict=True):
        draw_map(each, map, limit, signed)
        each.set_title(folded(label, 24), fontsize=10)
        each.set_xlabel("\n".join(folded(line, 28) for line in _prediction_lines(result, row)), fontsize=8)
    if maps[0].ndim == 2:
        add_colour_bar(part, joined, limit, signed, ax=axes, fraction=0.04, pad=0.02, shrink=0.8)
    first = results[0][1]
    heading = f"{written(first.method)} during training  ·  target: {target_text(first, row)}"
    stated = scale_text(joined, limit, signed=signed)
    inches = part.figure.get_figwidth()
    part.suptitle(f"{wrapped(heading, inches * 0.8)}\n{wrapped(stated, inches * 0.9)}", fontsize=11)


def _prediction_lines(result: Attribution, row: int) -> Iterable[str]:
    prediction, probability = result.settings.get("prediction"), result.settings.get("probability")
    if prediction is not None:
        sure = "" if probability is None else f", {number(100 * float(probability), 3)} %"
        yield f"predicts {prediction}{sure}"
    yield f"output {number(at_row(result.output, row), 4)}"


def _draw_course(axes: Any, results: Sequence[tuple[str, Attribution]], row: int) -> None:
    outputs = [float(at_row(result.output, row)) for _, result in results]
    places = np.arange(len(outputs))
    axes.plot(places, outputs, color=view.colours(True)[40] / 255.0, marker="o", markersize=4)
    step = math.ceil(len(places) / 14)
    labels = [plain(textwrap.shorten(label, 16, placeholder=" …")) for label, _ in results]
    axes.set_xticks(places[::step], labels[::step], fontsize=8)
    axes.set_ylabel("output for the target")
    axes.set_xlabel("checkpoint")
    axes.spines[["top", "right"]].set_visible(False)
