"""One panel of a figure: a map in its colours with the bar that explains them, a picture, or bars of values."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Num

from whence import view
from whence.caption import number

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    from whence.attribution import Attribution, Reduce

MOST_BARS = 20
# The height of a horizontal bar, in inches.
BAR = 0.24


def finite_maps(result: Attribution, reduce: Reduce) -> Float[np.ndarray, "batch ..."]:
    """Return the heat maps, or at least one value an example, checked to be finite."""
    maps = view.finite(result.heatmap(reduce))
    return maps[:, None] if maps.ndim == 1 else maps


def axes_at(whole: Figure, left: float, top: float, width: float, height: float) -> Any:
    """Return axes placed by inches from the figure's upper left corner."""
    across, down = whole.get_figwidth(), whole.get_figheight()
    return whole.add_axes((left / across, 1.0 - (top + height) / down, width / across, height / down))


def proportion(*shapes: Sequence[int]) -> float:
    """Return the largest height over width among shapes of pictures and maps; 1 where none has two axes."""
    return max((shape[0] / shape[1] for shape in shapes if len(shape) >= 2), default=1.0)


def bare(axes: Any) -> Any:
    """Return the axes without ticks, in a pale frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.75")
    return axes


# ---- what is drawn -----------------------------------------------------------------------------------------


def draw_picture(axes: Any, picture: Any) -> None:
    """Draw a picture [H, W, 1 or 3] in its own colours."""
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if picture.shape[2] == 1 else {}
    bare(axes).imshow(picture.squeeze(2) if grey else picture, **grey)


def draw_map(
    axes: Any, map: Num[np.ndarray, "*shape"], scale: float | None = None, signed: bool | None = None
) -> None:
    """Draw a map in its colours, or values without two axes as small bars."""
    limit = view.colour_scale(map) if scale is None else scale
    signed = view.is_signed(map) if signed is None else signed
    if map.ndim == 2:
        bare(axes).imshow(map, cmap=_colour_map(signed), vmin=-limit if signed else 0.0, vmax=limit)
        return
    values = map.ravel()
    width = 1.0 if values.size > 60 else 0.8
    axes.bar(np.arange(values.size), values, width=width, color=_bar_colours(values))
    axes.axhline(0, color="0.4", linewidth=0.6)
    axes.set_ylim(-1.05 * limit if signed else 0.0, 1.05 * limit)
    axes.tick_params(labelsize=7)


def add_colour_bar(
    whole: Any, map: Num[np.ndarray, "*shape"], limit: float, signed: bool, **place: Any
) -> None:
    """Add the bar of colours with its limits; it is pointed where values lie beyond them."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(-limit if signed else 0.0, limit), _colour_map(signed))
    below, above = bool(signed and map.min() < -limit), bool(map.max() > limit)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    drawn = whole.colorbar(colours, extend=extend[below, above], **place)
    ticks = [-limit, 0.0, limit] if signed else [0.0, limit]
    labels = [f"+{number(tick)}" if tick > 0 and signed else number(tick) for tick in ticks]
    drawn.set_ticks(ticks, labels=labels)
    drawn.ax.tick_params(labelsize=8)


def draw_bars(
    whole: Figure,
    top: float,
    values: Float[np.ndarray, "*shape"],
    names: Sequence[str] | None = None,
    what: str = "features",
    errors: Float[np.ndarray, "*shape"] | None = None,
    label: str | None = None,
    box: tuple[float, float] | None = None,
) -> None:
    """Draw the largest values as horizontal bars, largest on top, and say what was left out.

    `errors` are whiskers; `label` stands below in place of "share of the output"; `box` is where it begins and ends
    from the left, in inches.
    """
    flat = values.ravel()
    order = np.argsort(-np.abs(flat), kind="stable")[:MOST_BARS]
    shown = flat[order]
    labels = [_feature_name(int(each), values.shape, names) for each in order]
    start, end = box or (0.0, whole.get_figwidth())
    left = start + 0.4 + 0.075 * max(map(len, labels))
    axes = axes_at(whole, left, top, end - left - 0.2, BAR * len(order))
    axes.barh(np.arange(len(order)), shown, color=_bar_colours(flat)[order])
    axes.set_yticks(np.arange(len(order)), labels)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.axvline(0, color="0.4", linewidth=0.8)
    spread = np.zeros(len(order)) if errors is None else errors.ravel()[order]
    if errors is not None:
        axes.errorbar(shown, np.arange(len(order)), xerr=spread, fmt="none", ecolor="0.25", elinewidth=0.8,
                      capsize=1.5, capthick=0.8)  # fmt: skip
    limit = float(np.abs(shown).max()) or 1.0
    # What is nothing beside the longest bar is the rounding of it.
    texts = [number(value) if abs(value) > 1e-9 * limit else "0" for value in shown]
    axes.set_xlim(_with_room(shown, spread, texts, end - left - 0.2))
    for place, (value, beyond, text) in enumerate(zip(shown, spread, texts, strict=True)):
        side = -1 if value < 0 else 1
        axes.annotate(text, (value + side * beyond, place), (4 * side, 0), textcoords="offset points", fontsize=8,
                      va="center", ha="left" if side > 0 else "right")  # fmt: skip
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=9)
    text = label or ("share of the output" if view.is_signed(flat) else "share (no negative values)")
    if flat.size > len(order):
        rest = number(flat.sum() - shown.sum())
        text += f"\nthe {len(order)} largest of {flat.size:,} {what}; the others sum to {rest}"
    if errors is not None:
        text += "\nwhiskers: ± one standard error"
    axes.set_xlabel(text, fontsize=9)


def _with_room(
    values: Float[np.ndarray, "bars"], errors: Float[np.ndarray, "bars"], texts: Sequence[str], inches: float
) -> tuple[float, float]:
    """Return the limits of an axis on which there is room for the numbers at the bars' ends, and for whiskers."""
    least = min(0.0, float((values - errors).min()))
    most = max(0.0, float((values + errors).max()))

    def room(there: np.ndarray) -> float:
        return max(
            (0.15 + 0.068 * len(text) for text, is_there in zip(texts, there, strict=True) if is_there),
            default=0.05,
        )

    before, after = room(values < 0), room(values >= 0)
    each = ((most - least) or 1.0) / max(inches - before - after, 0.5)
    return least - before * each, most + after * each


def _colour_map(signed: bool) -> ListedColormap:
    from matplotlib.colors import ListedColormap

    return ListedColormap(view.colours(signed).astype(np.float64) / 255.0)


def _bar_colours(values: Num[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    signed = view.is_signed(values)
    towards = view.TOWARDS if signed else view.UNSIGNED
    return view.colours(signed)[np.where(values < 0, view.AGAINST, towards)] / 255.0


def _feature_name(index: int, shape: tuple[int, ...], names: Sequence[str] | None) -> str:
    if len(shape) == 1 and names is not None and len(names) == shape[0]:
        return plain(textwrap.shorten(str(names[index]), 40, placeholder=" …"))
    place = tuple(int(each) for each in np.unravel_index(index, shape))
    return f"feature {place[0] if len(place) == 1 else place}"


# ---- text --------------------------------------------------------------------------------------------------


def wrapped(text: str, inches: float) -> str:
    """Return text in lines that fit so many inches; its own line breaks stay."""
    # About 14 characters of 9-point type fit an inch.
    return "\n".join(folded(line, max(20, int(inches * 13))) for line in text.split("\n"))


def folded(text: str, characters: int) -> str:
    """Return text in lines of so many characters."""
    return plain(textwrap.fill(text, characters))


def plain(text: str) -> str:
    """Return text that matplotlib takes literally: between two dollars it would read a formula."""
    return text.replace("$", r"\$")
