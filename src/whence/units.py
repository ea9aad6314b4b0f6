"""The units of a layer or a parameter: what the shares of a whole filter, channel or neuron add up to, and a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from whence.attribution import first_array
from whence.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whence.attribution import Attribution

# Units whose own shares are drawn, how many of them in a line, and examples in a figure.
MOST_MAPS, IN_A_LINE, MOST_ROWS = 12, 6, 8
# Inches: the figure's width, the height of a strip of weights.
WIDTH, STRIP = 7.5, 0.24


def importance(
    result: Attribution, axis: int | None = None, absolute: bool = False
) -> Float[np.ndarray, "batch units"]:
    """Return each unit's importance: its shares (or their absolute values) summed over all other axes.

    Args:
        result: an explanation of a layer, a parameter, or an input.
        axis: the axis of the units, after the batch; None is a layer's channels, and a weight's output units (0).
        absolute: sum |share|, so that shares of opposite signs do not cancel.

    Raises:
        BadInput: the values have no such axis, or hold every class.
    """
    if result.every_class:
        raise BadInput("units: this result holds every class; take one with .for_class(index)")
    values = _by_unit(result, axis)
    return (np.abs(values) if absolute else values).reshape(*values.shape[:2], -1).sum(2)


def _by_unit(result: Attribution, axis: int | None = None) -> Float[np.ndarray, "batch units ..."]:
    values = first_array(result.values).astype(np.float64)
    axes = values.ndim - 1
    axis = (result.channel_axis or 1) - 1 if axis is None else axis
    if not -axes <= axis < axes:
        raise BadInput(
            f"units: axis {axis} is out of range; after the batch the values have {axes} axes, {values.shape[1:]}"
        )
    return np.moveaxis(values, 1 + axis % axes, 1)


def ranked(result: Attribution, row: int = 0, count: int = 5) -> list[tuple[str, float]]:
    """Return the units of one example with the largest |importance|, named, the largest first."""
    values, names = importance(result)[row], _names(result)
    return [(names[unit], float(values[unit])) for unit in _largest(values, count)]


def kind(result: Attribution) -> str:
    """Return what one unit of the result is called."""
    axes = first_array(result.values).ndim - 1
    if of_parameters(result):
        return "filter" if axes > 2 else "unit"
    return "channel" if axes > 1 else "unit"


def _names(result: Attribution) -> list[str]:
    """Return the units' names; where only some channels of a layer were explained, by their own numbers."""
    numbers = result.settings.get("channels") or range(_by_unit(result).shape[1])
    return [f"{kind(result)} {number}" for number in numbers]


def of_parameters(result: Attribution) -> bool:
    """Tell whether a result explains a parameter, whose shares lie over no picture."""
    return str(result.settings.get("site", "")).startswith("parameter")


def _largest(values: Float[np.ndarray, "units"], count: int) -> list[int]:
    return [int(each) for each in np.argsort(-np.abs(values), kind="stable")[:count]]


# ---- drawn -------------------------------------------------------------------------------------------------


def figure(result: Attribution) -> Figure:
    """Draw each example's most important units as bars, and below them where in those units the shares lie.

    A filter's kernel (or a channel's map) is a small square, summed over its input channels; the weights of a neuron
    are a strip. All of one example have the same scale, which is stated.

    Raises:
        BadInput: the result holds every class, or values that are not finite.
    """
    from matplotlib.figure import Figure

    from whence import view
    from whence.caption import sentence
    from whence.panel import BAR, MOST_BARS, draw_bars, wrapped

    totals, values = view.finite(importance(result)), _by_unit(result)
    rows = min(len(totals), MOST_ROWS)
    bars = BAR * min(MOST_BARS, totals.shape[1])
    below = 1.0 if values.ndim == 2 else 1.3 + _height(values[0])
    height = 0.75 + bars + 0.55 + below
    whole = Figure(figsize=(WIDTH, height * rows))
    names = _names(result)
    for row in range(rows):
        top = row * height
        _write(whole, top + 0.1, wrapped(_title(result, row), WIDTH * 0.75), fontsize=12, fontweight="bold")
        draw_bars(whole, top + 0.75, totals[row], names, f"{kind(result)}s")
        if values.ndim > 2:
            _draw_inside(whole, top + 0.75 + bars + 0.85, values[row], totals[row], names)
        _write(whole, top + height - 0.45, wrapped(sentence(result, row), WIDTH), fontsize=8, color="0.25")
    if rows < len(totals):
        _write(whole, height * rows - 0.15, f"{rows} of {len(totals)} examples are shown", fontsize=8)
    return whole


def _title(result: Attribution, row: int) -> str:
    from whence.caption import at_row, number, target_text, written

    site = str(result.settings.get("site", "the input"))
    output = number(at_row(result.output, row), 4)
    return f"{site} by {written(result.method)}\ntarget: {target_text(result, row)}  ·  output:\u00a0{output}"


def _write(whole: Figure, top: float, text: str, **style: Any) -> None:
    whole.text(0.5, 1.0 - top / whole.get_figheight(), text, ha="center", va="top", **style)


def _maps(values: Float[np.ndarray, "units ..."]) -> Float[np.ndarray, "units height width"]:
    """Return each unit's shares as a map: further axes are summed, a neuron's weights are one line."""
    if values.ndim == 2:
        return values[:, None]
    return values.reshape(len(values), -1, *values.shape[-2:]).sum(1)


def _height(values: Float[np.ndarray, "units ..."]) -> float:
    """Return the inches that the maps of one example need."""
    shown = min(MOST_MAPS, len(values))
    if values.ndim == 2:
        return STRIP * shown
    side = _side()
    return (side + 0.25) * -(-shown // IN_A_LINE)


def _side() -> float:
    return (WIDTH - 1.6) / IN_A_LINE - 0.12


def _draw_inside(
    whole: Figure,
    top: float,
    values: Float[np.ndarray, "units ..."],
    totals: Float[np.ndarray, "units"],
    names: list[str],
) -> None:
    """Draw the shares inside the most important units, all on one scale, with its bar of colours."""
    from whence import view
    from whence.caption import scale_text
    from whence.panel import add_colour_bar, axes_at, draw_map

    chosen = _largest(totals, MOST_MAPS)
    maps = _maps(values)[chosen]
    limit, signed = view.colour_scale(maps), view.is_signed(maps)
    strips, side = values.ndim == 2, _side()
    for place, (unit, map) in enumerate(zip(chosen, maps, strict=True)):
        if strips:
            axes = axes_at(whole, 1.0, top + STRIP * place, WIDTH - 1.9, STRIP * 0.85)
            draw_map(axes, map, limit, signed)
            axes.set_aspect("auto")
            axes.set_ylabel(names[unit], rotation=0, ha="right", va="center", fontsize=8)
            continue
        line, column = divmod(place, IN_A_LINE)
        axes = axes_at(whole, 0.3 + column * (side + 0.12), top + 0.2 + line * (side + 0.25), side, side)
        draw_map(axes, map, limit, signed)
        axes.set_title(names[unit], fontsize=8, pad=2)
    beside = axes_at(whole, WIDTH - 0.75, top + 0.1, 0.12, max(_height(values) - 0.2, 0.6))
    add_colour_bar(whole, maps, limit, signed, cax=beside)
    summed = ", summed over its input channels" if values.ndim > 3 else ""
    what = (
        "each strip: the weights of one unit" if strips else f"each square: one {names[0].split()[0]}{summed}"
    )
    sides = "red: for the target, blue: against" if signed else "purple: no negative values"
    text = f"{what}; {sides}\n{scale_text(maps).replace('pixels', 'values')}"
    _write(whole, top + _height(values) + 0.08, text, fontsize=8)
