"""Figures of tables: one row's shares beside the features' values, and those of many rows at once."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from whence import view
from whence.attribution import first_array, to_numpy
from whence.caption import at_row, number, target_text, written
from whence.errors import BadInput
from whence.panel import BAR, MOST_BARS, axes_at, draw_bars, plain, wrapped
from whence.swarm import Swarm, coloured, ramp, swarmed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whence.attribution import Attribution

# Features of these kinds are parts of a picture: their shares are seen where they lie.
OF_PICTURES = ("patch ", "window ", "superpixel ")
# The characters of a bar's label, and of the value in it.
LONGEST, LONGEST_VALUE = 38, 18
# The dots of one feature; of more examples some are drawn.
MOST_DOTS = 1500
WIDTH, LINE = 8.0, 0.46
PALE = "0.62"


# ---- what a table's result holds -------------------------------------------------------------------------------


def shares_of(result: Attribution) -> Float[np.ndarray, "batch features"] | None:
    """Return one share per feature, where features are groups that are no parts of a picture."""
    values, names = first_array(result.values), _names(result)
    pictured = result.picture is not None or values.ndim - int(result.every_class) > 3
    if result.shares is None or result.every_class or pictured or any(map(_is_part, names or ())):
        return None
    shares = to_numpy(result.shares).astype(np.float64)
    return None if shares.ndim != 2 else shares


def _is_part(name: str) -> bool:
    return name.startswith(OF_PICTURES)


def _table(result: Attribution, what: str) -> Float[np.ndarray, "batch features"]:
    """Return the shares of all examples.

    Raises:
        BadInput: the result holds every class, or is of no table.
    """
    if result.every_class:
        raise BadInput(f"{what}: this result holds every class; take one with .for_class(index)")
    shares = shares_of(result)
    values = first_array(result.values).astype(np.float64) if shares is None else shares
    if values.ndim != 2:
        raise BadInput(
            f"{what}: it shows the features of tables, one number for each; these values are {values.shape}: plot() "
            "draws them"
        )
    return values


def _names(result: Attribution) -> list[str] | None:
    names = result.settings.get("feature_names")
    return None if names is None else [str(each) for each in names]


def names_of(result: Attribution, count: int) -> list[str]:
    """Return what the features are called."""
    names = _names(result)
    return (
        names if names is not None and len(names) == count else [f"feature {place}" for place in range(count)]
    )


def values_of(result: Attribution, row: int, names: Sequence[str]) -> list[Any] | None:
    """Return what stands in an example's features, None where one has several columns; None where it was not kept."""
    kept = result.settings.get("feature_values")
    if not kept or row >= len(kept):
        return None
    columns = result.settings.get("columns")
    if columns is None or len(kept[row]) == len(names):
        return list(kept[row]) if len(kept[row]) == len(names) else None
    # Some columns are one feature together.
    told = dict(zip(columns, kept[row], strict=True))
    return [told.get(name) for name in names]


def value_text(value: Any) -> str:
    """Return a value of a table in a few characters."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        # A year or a price is read whole, not by its first three digits.
        whole = value == int(value) and abs(value) < 1e9
        return str(int(value)).replace("-", "−") if whole else number(value, 4)
    return textwrap.shorten(str(value), LONGEST_VALUE, placeholder="…") or "empty"


# ---- one example -----------------------------------------------------------------------------------------------


def draw_row(
    whole: Figure, top: float, result: Attribution, row: int, shares: Float[np.ndarray, "*shape"]
) -> None:
    """Draw one example's largest shares as bars, with the features' values, whiskers, and what they add up to."""
    # An example with fewer features than another ends in NaN.
    shares = view.finite(shares[: int(np.isfinite(shares).sum())] if shares.ndim == 1 else shares)
    names = _labels(result, row, shares) if shares.ndim == 1 else None
    draw_bars(
        whole, top, shares, names, errors=_errors(result, row, shares), label=_sum_text(result, row, shares)
    )


def _labels(result: Attribution, row: int, shares: Float[np.ndarray, "features"]) -> list[str] | None:
    names = names_of(result, len(shares))
    values = values_of(result, row, names)
    if values is None:
        return names if _names(result) else None
    grouped = result.settings.get("columns")
    single = [grouped is None or len(grouped) == len(names) or name in grouped for name in names]
    texts = [value_text(value) if alone else "" for value, alone in zip(values, single, strict=True)]
    return [_label(name, text) for name, text in zip(names, texts, strict=True)]


def _label(name: str, text: str) -> str:
    if not text:
        return name
    return f"{textwrap.shorten(name, LONGEST - len(text) - 3, placeholder='…')} = {text}"


def _errors(result: Attribution, row: int, shares: Any) -> Float[np.ndarray, "*shape"] | None:
    if result.standard_error is None:
        return None
    errors = first_array(result.standard_error)[row].astype(np.float64)
    if errors.shape != shares.shape:
        # A feature of many numbers has its share, and its error, on each of them.
        values = first_array(result.values)[row]
        there = [values == share for share in shares.astype(values.dtype)]
        if shares.ndim != 1 or errors.shape != values.shape or not all(each.any() for each in there):
            return None
        errors = np.array([errors[each].max() for each in there])
    return errors if np.isfinite(errors).all() else None


def _sum_text(result: Attribution, row: int, shares: Float[np.ndarray, "*shape"]) -> str:
    """Return what stands below the bars: what they are shares of, and from where they count."""
    what = "share of the output" if view.is_signed(shares) else "share (no negative values)"
    if result.baseline_output is None:
        return what
    start, output = (float(at_row(each, row)) for each in (result.baseline_output, result.output))
    sign = "−" if output < start else "+"
    sums = f"{number(start, 4)} {sign} {number(abs(output - start), 4)} = {number(output, 4)}"
    return f"{what}\nbaseline output {sign} shares = output: {sums}"


# ---- many examples ---------------------------------------------------------------------------------------------


def beeswarm(result: Attribution, most: int = 12) -> Figure:
    """Draw a line for each feature, those that matter most on top, and on it a dot for each example at its share.

    A dot's colour is the feature's value in that example, from low to high; grey is text, or missing.

    Raises:
        BadInput: the result is of no table, holds every class, or values that are not finite.
    """
    from matplotlib.figure import Figure

    shares = view.finite(_table(result, "beeswarm"))
    mean = np.abs(shares).mean(0)
    order = np.argsort(-mean, kind="stable")[:most]
    names = names_of(result, shares.shape[1])
    rows = np.unique(np.linspace(0, len(shares) - 1, min(len(shares), MOST_DOTS)).round().astype(int))
    labels = [plain(textwrap.shorten(names[each], LONGEST, placeholder="…")) for each in order]
    left = 0.35 + 0.08 * max(map(len, labels))
    whole = Figure(figsize=(WIDTH, 1.75 + LINE * len(order)))
    _title(whole, result, len(shares))
    axes = axes_at(whole, left, 0.75, WIDTH - left - 1.75, LINE * len(order))
    drawn = shares[rows][:, order]
    limit = float(np.abs(drawn).max()) or 1.0
    low, high = min(float(drawn.min()), 0.0), max(float(drawn.max()), 0.0)
    low, high = low - 0.06 * (high - low or limit), high + 0.06 * (high - low or limit)
    swarm = Swarm(low, high, WIDTH - left - 1.75, LINE)
    size = swarm.size([drawn[:, place] for place in range(len(order))])
    grey = False
    kept = [values_of(result, int(row), names) for row in rows]
    for place, feature in enumerate(order):
        colours, some = coloured([None if each is None else each[feature] for each in kept])
        grey = grey or some
        height = swarmed(drawn[:, place], swarm, size)
        axes.scatter(drawn[:, place], place + height, s=size**2, c=colours, linewidths=0, zorder=3)
        told = number(mean[feature]) if mean[feature] > 1e-9 * limit else "0"
        axes.annotate(told, (1.02, place), xycoords=("axes fraction", "data"), fontsize=8, va="center")
    _finish(axes, labels, (low, high))
    axes.annotate(
        "mean\n|share|", (1.02, 1.0), xycoords="axes fraction", fontsize=8, va="bottom", color="0.3"
    )
    _value_bar(whole, 0.75, LINE * len(order), grey)
    _write_below(whole, _below(mean, order, len(rows), len(shares)))
    return whole


def _finish(axes: Any, labels: Sequence[str], limits: tuple[float, float]) -> None:
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=1)
    for place in range(len(labels)):
        axes.axhline(place, color="0.9", linewidth=0.6, zorder=0)
    axes.set_yticks(np.arange(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(*limits)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=9)
    axes.set_xlabel("share of the output (right of 0: for the target, left: against it)", fontsize=9)


def _value_bar(whole: Figure, top: float, height: float, grey: bool) -> None:
    tall = min(height, 2.2)
    bar = axes_at(whole, WIDTH - 0.85, top + (height - tall) / 2, 0.11, tall)
    bar.imshow(ramp(np.linspace(1, 0, 64))[:, None], aspect="auto")
    bar.set_xticks([])
    bar.set_yticks([0, 63], ["high", "low"])
    bar.yaxis.tick_right()
    bar.tick_params(labelsize=8, length=0)
    bar.spines[:].set_visible(False)
    bar.set_title("value", fontsize=8)
    if grey:
        bar.set_xlabel("grey: text\nor missing", fontsize=7)


def _below(mean: Float[np.ndarray, "features"], order: Any, drawn: int, examples: int) -> str:
    told = []
    if len(order) < len(mean):
        rest = number(float(mean.sum() - mean[order].sum()))
        told.append(
            f"{len(order)} of {len(mean)} features are shown; the others' mean |share| together: {rest}"
        )
    if drawn < examples:
        told.append(f"{drawn:,} of {examples:,} examples are drawn; the means are over all")
    return " · ".join(told)


def importance_bars(result: Attribution) -> Figure:
    """Draw each feature's mean |share| over all examples as bars, with its standard error over them as whiskers.

    Raises:
        BadInput: the result is of no table, holds every class, or values that are not finite.
    """
    from matplotlib.figure import Figure

    shares = np.abs(view.finite(_table(result, "importance_bars")))
    count = len(shares)
    errors = shares.std(0, ddof=1) / np.sqrt(count) if count > 1 else None
    whole = Figure(figsize=(7.5, 1.85 + BAR * min(MOST_BARS, shares.shape[1])))
    _title(whole, result, count)
    label = f"mean |share| over {count:,} example{'s' if count > 1 else ''}"
    draw_bars(whole, 0.75, shares.mean(0), names_of(result, shares.shape[1]), errors=errors, label=label)
    return whole


def _title(whole: Figure, result: Attribution, count: int) -> None:
    targets = {target_text(result, row) for row in range(count)}
    target = targets.pop() if len(targets) == 1 else "each example's own class"
    text = f"{written(result.method)}  ·  target: {target}  ·  {count:,} example{'s' if count > 1 else ''}"
    width = whole.get_figwidth()
    whole.text(0.5, 1 - 0.12 / whole.get_figheight(), wrapped(text, width * 0.75), ha="center", va="top", fontsize=12,
               fontweight="bold")  # fmt: skip


def _write_below(whole: Figure, text: str) -> None:
    whole.text(0.5, 0.12 / whole.get_figheight(), text, ha="center", va="bottom", fontsize=8, color="0.25")
