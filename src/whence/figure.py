"""Figures of attributions, and the words under them; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Num

from whence import view
from whence.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    from whence.attribution import Attribution, Reduce, Trace

# A figure of a whole data set would not fit a page.
MOST_ROWS = 16
MOST_BARS = 20
# The side of a panel and the height of a horizontal bar, in inches.
PANEL = 2.95
BAR = 0.24
NOT_PROMISED = "not promised by this method"
# How the field writes what an identifier cannot; every other name is its words with capitals.
SPELLING = {
    "input_x_gradient": "Input × Gradient", "smoothgrad": "SmoothGrad", "smoothgrad_squared": "SmoothGrad²",
    "vargrad": "VarGrad", "guided_backprop": "Guided Backpropagation", "deconvnet": "DeconvNet",
    "deeplift": "DeepLIFT", "deepshap": "DeepSHAP", "kernel_shap": "KernelSHAP", "gradcam": "Grad-CAM",
    "gradcam_plus_plus": "Grad-CAM++", "guided_gradcam": "Guided Grad-CAM", "hirescam": "HiResCAM",
    "xgradcam": "XGrad-CAM", "layercam": "LayerCAM", "scorecam": "Score-CAM", "ablationcam": "Ablation-CAM",
    "eigencam": "Eigen-CAM", "partition_shap": "PartitionSHAP",
}  # fmt: skip
CAPITALS = ("cam", "lrp", "lime", "rise")


# ---- words -------------------------------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    """Return a number to so many significant digits, short enough for a caption."""
    text = f"{float(value):.{digits}g}"
    if "e" not in text:
        return text.replace("-", "−")
    mantissa, exponent = text.split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.replace('-', '−')}×10{raised}"


def written(name: str) -> str:
    """Return a registered method name as the field writes it; any other text as it is."""
    if not re.fullmatch(r"[a-z0-9_]+", name):
        return name
    words = (word.upper() if word in CAPITALS else word.capitalize() for word in name.split("_"))
    return SPELLING.get(name) or " ".join(words)


def scale_text(
    map: Num[np.ndarray, "*shape"], scale: float | None = None, *, signed: bool | None = None
) -> str:
    """Return the sentence that states a map's colour scale, and how many of its values lie beyond it."""
    size = np.abs(map)
    limit = view.colour_scale(map) if scale is None else scale
    if not size.any():
        return "the map is zero everywhere"
    span = (
        f"±{number(limit)}"
        if (view.is_signed(map) if signed is None else signed)
        else f"0 to {number(limit)}"
    )
    if scale is None and limit == size.max():
        return f"colour scale {span}: the largest |value|"
    what = f"the {view.PERCENTILE:g}th percentile of |map|" if scale is None else "the same for all maps"
    return (
        f"colour scale {span}: {what}; {number(100 * float(np.mean(size > limit)), 2)} % of pixels are beyond"
    )


def at_row(values: Any, row: int) -> Any:
    """Return one example's entry of a native array [B, ...]; what is no such array, as it is."""
    from whence.attribution import to_numpy

    if not getattr(values, "ndim", 0):
        return values.item() if hasattr(values, "item") else values
    entry = to_numpy(values)[row]
    return entry.item() if entry.ndim == 0 else entry


def target_text(result: Attribution, row: int, labels: Sequence[str] | None = None) -> str:
    """Return in words what was explained for one example: the class's name, where known, and its number."""
    target = at_row(result.target, row)
    name = result.settings.get("target_name")
    if isinstance(name, (list, tuple)):
        name = name[row] if row < len(name) else None
    whole = isinstance(target, int) and not isinstance(target, bool)
    if not name and labels is not None and whole and 0 <= target < len(labels):
        name = labels[target]
    if isinstance(target, np.ndarray):
        target = tuple(target.tolist())
    text = f"class {target}" if whole else str(result.settings.get("target") or target)
    return f"{name} ({text})" if name and str(name) != text else text


def numbers(result: Attribution, row: int) -> dict[str, str]:
    """Return the numbers that say how far to trust one example's map, in plain words."""
    names = ("output", "baseline_output", "residual", "error", "evaluations", "converged")
    output, start, residual, error, evaluations, converged = (
        at_row(getattr(result, name), row) for name in names
    )
    change = None if start is None else float(output - start)
    summed = None if residual is None or change is None else number(residual + change, 4)
    spread = _standard_error(result, row)
    met = {None: NOT_PROMISED, True: "yes", False: "no: the evaluations ran out before the tolerance was met"}
    return {
        "output": number(output, 4),
        "baseline output": "this method has no baseline" if start is None else number(start, 4),
        "sum of the shares": summed or NOT_PROMISED,
        "residual": NOT_PROMISED
        if residual is None
        else f"{number(residual)}{_relative_text(residual, change)}",
        "estimated error": NOT_PROMISED if error is None else percent(error),
        "standard error": "this method does not sample" if spread is None else spread,
        "evaluations": "not counted" if evaluations is None else f"{int(evaluations):,}",
        "converged": met[None if converged is None else bool(converged)],
    }


def percent(share: float) -> str:
    """Return a share of 1 as a percentage; zero is exact."""
    return "0 (exact)" if share == 0 else f"{number(100 * share, 2)} %"


def _relative_text(residual: float, change: float | None) -> str:
    if not change:
        return ""
    share = 100 * abs(residual / change)
    size = "less than 0.0001" if 0 < share < 1e-4 else number(share, 2)
    return f" ({size} % of the change in output)"


def _standard_error(result: Attribution, row: int) -> str | None:
    if result.standard_error is None:
        return None
    from whence.attribution import _first, _map, to_numpy

    errors, values = (
        np.abs(_first(_map(each, to_numpy))[row]) for each in (result.standard_error, result.values)
    )
    mean = float(errors.mean())
    relative = f" ({percent(mean / float(values.mean()))} of the mean |value|)" if values.any() else ""
    return f"{number(mean)} on average{relative}"


def sentence(result: Attribution, row: int) -> str:
    """Return the line below a figure: what it cost, the residual, the error and whether it converged."""
    words = numbers(result, row)
    names = ["residual", "estimated error", "converged"]
    if result.standard_error is not None:
        names.insert(2, "standard error")
    parts = [f"{name}: {words[name]}" for name in names if words[name] != NOT_PROMISED]
    missing = [name.replace("converged", "a tolerance") for name in names if words[name] == NOT_PROMISED]
    if missing:
        parts.append(f"{NOT_PROMISED}: {', '.join(missing)}")
    if result.evaluations is not None:
        count = words["evaluations"]
        parts.insert(0, f"{count} evaluation{'' if count == '1' else 's'}")
    # Lines break between the numbers, never inside one.
    return " · ".join(part.replace(" ", "\u00a0") for part in parts)


def overlay_text(map: Num[np.ndarray, "h w"], size: Sequence[int], smooth: float = view.SMOOTH) -> str:
    """Return the sentence that says how an overlay on a picture of (height, width) was made."""
    sigma = view.smoothing(size, smooth)
    over = f", averaged over a neighbourhood (σ = {number(sigma, 2)} pixels)" if sigma else ""
    sides = "red or blue: the side that prevails" if sigma else "red: for the target, blue: against"
    sides = sides if view.is_signed(map) else "purple: no negative values"
    return f"the stronger the colour, the larger |map|{over}; {sides}"


# ---- one result --------------------------------------------------------------------------------------------


def figure(result: Attribution, reduce: Reduce = "sum") -> Figure:
    """Draw each example in a row: input, heat map with its stated scale, saliency mask and overlay.

    Without a picture the heat map stands alone; values without two axes become bars of the 20 largest.

    Raises:
        BadInput: the result holds every class, or values that are not finite.
    """
    from matplotlib.figure import Figure

    maps = finite_maps(result, reduce)
    rows = min(len(maps), MOST_ROWS)
    # Inches, laid out by hand: an automatic layout lets the titles run into square pictures.
    body = PANEL + 0.9 if maps.ndim == 3 else 0.7 + BAR * min(MOST_BARS, maps[0].size)
    width, height = 13.7 if maps.ndim == 3 and result.picture is not None else 7.5, body + 1.35
    whole = Figure(figsize=(width, height * rows))
    for row in range(rows):
        top = row * height
        output = number(at_row(result.output, row), 4)
        words = (written(result.method), f"target: {target_text(result, row)}", f"output:\u00a0{output}")
        title = "  ·  ".join(words)
        _text(whole, top + 0.12, _wrapped(title, width * 0.75), fontsize=12, fontweight="bold")
        _draw_row(whole, top + 0.8, result, maps[row], row)
        below = _wrapped(sentence(result, row), width)
        if row == rows - 1 and len(maps) > rows:
            below += f"\n{rows} of {len(maps)} examples are shown"
        _text(whole, top + 0.85 + body, below, fontsize=9, color="0.25")
    return whole


def bar_figure(values: Float[np.ndarray, "*shape"], names: Sequence[str] | None = None) -> Figure:
    """Draw one example's 20 largest values as horizontal bars, by the features' names where given."""
    from matplotlib.figure import Figure

    whole = Figure(figsize=(5.6, 0.8 + BAR * min(MOST_BARS, values.size)))
    _draw_bars(whole, 0.1, values, names)
    return whole


def finite_maps(result: Attribution, reduce: Reduce) -> Float[np.ndarray, "batch ..."]:
    """Return the heat maps, or at least one value an example, checked to be finite."""
    maps = view.finite(result.heatmap(reduce))
    return maps[:, None] if maps.ndim == 1 else maps


def _text(whole: Figure, top: float, text: str, **style: Any) -> None:
    """Write text, centred, from `top` inches below the figure's upper edge."""
    whole.text(0.5, 1.0 - top / whole.get_figheight(), text, ha="center", va="top", **style)


def _axes(whole: Figure, left: float, top: float, width: float, height: float) -> Any:
    """Return axes placed by inches from the figure's upper left corner."""
    across, down = whole.get_figwidth(), whole.get_figheight()
    return whole.add_axes((left / across, 1.0 - (top + height) / down, width / across, height / down))


def _draw_row(
    whole: Figure, top: float, result: Attribution, map: Float[np.ndarray, "*shape"], row: int
) -> None:
    if map.ndim != 2:
        _draw_bars(whole, top, map, result.settings.get("feature_names"))
        return
    if result.picture is not None:
        _draw_pictures(whole, top, map, result.picture[row])
        return
    axes = _axes(whole, 2.2, top, PANEL, PANEL)
    _draw_map(axes, map)
    _side_bar(whole, 2.2, top, map)
    values = f"values from {number(map.min())} to {number(map.max())}"
    axes.set_xlabel(f"{textwrap.fill(scale_text(map), 50)}\n{values}", fontsize=8)


def _draw_pictures(whole: Figure, top: float, map: Float[np.ndarray, "h w"], picture: Any) -> None:
    lefts = [0.2 + place * (PANEL + 0.3) + (0.7 if place > 1 else 0.0) for place in range(4)]
    axes = [_axes(whole, left, top, PANEL, PANEL) for left in lefts]
    for each, title in zip(axes, ("input", "heat map", "saliency mask", "overlay"), strict=True):
        _bare(each).set_title(title, fontsize=10)
    _draw_picture(axes[0], picture)
    axes[0].set_xlabel(f"{picture.shape[1]} × {picture.shape[0]} pixels", fontsize=8)
    _draw_map(axes[1], map)
    _side_bar(whole, lefts[1], top, map)
    axes[1].set_xlabel(textwrap.fill(scale_text(map), 46), fontsize=8)
    axes[2].imshow(view.saliency_mask(map), cmap="gray", vmin=0, vmax=1)
    axes[2].set_xlabel("|map| on the same scale: black 0, white full", fontsize=8)
    axes[3].imshow(view.overlay(picture, map))
    axes[3].set_xlabel(textwrap.fill(overlay_text(map, picture.shape), 46), fontsize=8)


def _side_bar(whole: Figure, left: float, top: float, map: Float[np.ndarray, "h w"]) -> None:
    """Add the bar of colours to the right of a panel, as tall as the map in it."""
    tall = PANEL * min(1.0, map.shape[0] / map.shape[1])
    axes = _axes(whole, left + PANEL + 0.08, top + (PANEL - tall) / 2, 0.13, tall)
    add_colour_bar(whole, map, view.colour_scale(map), view.is_signed(map), cax=axes)


def _draw_picture(axes: Any, picture: Any) -> None:
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if picture.shape[2] == 1 else {}
    axes.imshow(picture.squeeze(2) if grey else picture, **grey)


def _draw_map(
    axes: Any, map: Num[np.ndarray, "*shape"], scale: float | None = None, signed: bool | None = None
) -> None:
    """Draw a map in its colours, or values without two axes as small bars."""
    limit = view.colour_scale(map) if scale is None else scale
    signed = view.is_signed(map) if signed is None else signed
    if map.ndim == 2:
        _bare(axes).imshow(map, cmap=_colour_map(signed), vmin=-limit if signed else 0.0, vmax=limit)
        return
    values = map.ravel()
    axes.bar(
        np.arange(values.size), values, width=1.0 if values.size > 60 else 0.8, color=_bar_colours(values)
    )
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
    drawn.set_ticks(
        ticks, labels=[f"+{number(tick)}" if tick > 0 and signed else number(tick) for tick in ticks]
    )
    drawn.ax.tick_params(labelsize=8)


def _colour_map(signed: bool) -> ListedColormap:
    from matplotlib.colors import ListedColormap

    return ListedColormap(view.colours(signed).astype(np.float64) / 255.0)


def _draw_bars(
    whole: Figure, top: float, values: Float[np.ndarray, "*shape"], names: Sequence[str] | None = None
) -> None:
    """Draw the largest values as horizontal bars, largest on top, and say what was left out."""
    flat = values.ravel()
    order = np.argsort(-np.abs(flat), kind="stable")[:MOST_BARS]
    shown = flat[order]
    labels = [_feature_name(int(each), values.shape, names) for each in order]
    left = 0.4 + 0.075 * max(map(len, labels))
    axes = _axes(whole, left, top, whole.get_figwidth() - left - 0.2, BAR * len(order))
    axes.barh(np.arange(len(order)), shown, color=_bar_colours(flat)[order])
    axes.set_yticks(np.arange(len(order)), labels)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.axvline(0, color="0.4", linewidth=0.8)
    limit = float(np.abs(shown).max()) or 1.0
    # Room for the numbers written at the bars' ends.
    axes.set_xlim(
        -1.4 * limit if (shown < 0).any() else 0, 1.4 * limit if (shown > 0).any() else 0.05 * limit
    )
    for place, value in enumerate(shown):
        side = -1 if value < 0 else 1
        axes.annotate(number(value), (value, place), (4 * side, 0), textcoords="offset points", fontsize=8,
                      va="center", ha="left" if side > 0 else "right")  # fmt: skip
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=9)
    text = "share of the output" if view.is_signed(flat) else "share (no negative values)"
    if flat.size > len(order):
        rest = number(flat.sum() - shown.sum())
        text += f"\nthe {len(order)} largest of {flat.size:,} features; the others sum to {rest}"
    axes.set_xlabel(text, fontsize=9)


def _bar_colours(values: Num[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    signed = view.is_signed(values)
    sides = (
        np.where(values < 0, view.AGAINST, view.TOWARDS) if signed else np.full(values.shape, view.UNSIGNED)
    )
    return view.colours(signed)[sides] / 255.0


def _feature_name(index: int, shape: tuple[int, ...], names: Sequence[str] | None) -> str:
    if len(shape) == 1 and names is not None and len(names) == shape[0]:
        return _plain(textwrap.shorten(str(names[index]), 40, placeholder=" …"))
    place = tuple(int(each) for each in np.unravel_index(index, shape))
    return f"feature {place[0] if len(place) == 1 else place}"


def _bare(axes: Any) -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.75")
    return axes


def _wrapped(text: str, inches: float) -> str:
    # About 14 characters of 9-point type fit an inch.
    return "\n".join(_folded(line, max(20, int(inches * 13))) for line in text.split("\n"))


def _folded(text: str, characters: int) -> str:
    return _plain(textwrap.fill(text, characters))


def _plain(text: str) -> str:
    # Between two dollars matplotlib would read a formula.
    return text.replace("$", r"\$")


# ---- several results ---------------------------------------------------------------------------------------


def comparison_figure(results: Mapping[str, Attribution], row: int = 0, reduce: Reduce = "sum") -> Figure:
    """Draw one example's input and every method's heat map, each on its own stated scale.

    Raises:
        BadInput: there is no result, or no such row in one of them.
    """
    from matplotlib.figure import Figure

    maps = {name: _row_map(result, row, reduce) for name, result in results.items()}
    if not maps:
        raise BadInput("comparison_figure: there are no results to compare")
    first = next(iter(results.values()))
    pictures = [result.picture[row] for result in results.values() if result.picture is not None][:1]
    panels = len(maps) + len(pictures)
    rows, columns = _shape(panels, min(8, max(4, math.ceil(math.sqrt(1.5 * panels)))))
    width = max(2.15 * columns, 6.0)
    whole = Figure(figsize=(width, 2.6 * rows + 0.8), layout="constrained")
    axes = _grid(whole.subplots(rows, columns, squeeze=False), panels)
    for each, picture in zip(axes, pictures, strict=False):
        _draw_picture(_bare(each), picture)
        each.set_title("input", fontsize=10)
        each.set_xlabel(f"{picture.shape[1]} × {picture.shape[0]} pixels", fontsize=8)
    for each, (name, map) in zip(axes[len(pictures) :], maps.items(), strict=True):
        _draw_map(each, map)
        each.set_title(_folded(written(name), 24), fontsize=10)
        each.set_xlabel(_short_scale(map), fontsize=8)
    whole.suptitle(_wrapped(f"target: {target_text(first, row)}", width * 0.8), fontsize=12)
    below = (
        "Red: for the target. Blue: against it. Purple: a map without negative values. "
        f"Each map has its own scale: the {view.PERCENTILE:g}th percentile of its |map|."
    )
    whole.supxlabel(_wrapped(below, width), fontsize=9, color="0.25")
    return whole


def _shape(panels: int, most: int) -> tuple[int, int]:
    """Return the rows and columns of a grid at most `most` wide, its last row as full as can be."""
    rows = math.ceil(panels / most)
    return rows, math.ceil(panels / rows)


def _row_map(result: Attribution, row: int, reduce: Reduce) -> Float[np.ndarray, "*shape"]:
    maps = finite_maps(result, reduce)
    if not -len(maps) <= row < len(maps):
        raise BadInput(f"row {row}: the result of {result.method} holds {len(maps)} examples")
    return maps[row]


def _short_scale(map: Num[np.ndarray, "*shape"]) -> str:
    if not map.any():
        return "zero everywhere"
    limit = view.colour_scale(map)
    span = f"±{number(limit)}" if view.is_signed(map) else f"0 to {number(limit)}"
    return f"{span}; {number(100 * float(np.mean(np.abs(map) > limit)), 2)} % beyond"


def _grid(axes: Any, used: int) -> list[Any]:
    flat = list(np.ravel(axes))
    for each in flat[used:]:
        each.set_visible(False)
    return flat[:used]


def trace_figure(trace: Trace, row: int = 0, *, index: int | None = None) -> Figure:
    """Draw one example's output and its slope along the path, from the baseline (α = 0) to the input (1).

    Of a trace of every class, `index` picks one; by default the one whose output changes most.

    Raises:
        BadInput: the trace has no such row or class, or no node in that row.
    """
    from matplotlib.figure import Figure

    nodes, weights, output, derivative, index = _trace_row(trace, row, index)
    whole = Figure(figsize=(8.4, 2.9))
    left, right = (_axes(whole, start, 0.3, 3.35, 1.85) for start in (0.65, 4.85))
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
    pictures = [result.picture[row] for _, result in results if result.picture is not None][:1]
    panels = len(maps) + len(pictures)
    rows, columns = _shape(panels, 6)
    whole = Figure(figsize=(max(2.3 * columns, 6.9), 2.7 * rows + 3.3), layout="constrained")
    parts: Any = whole.subfigures(2, 1, height_ratios=[2.7 * rows + 0.6, 2.7])
    top, bottom = parts
    axes = _grid(top.subplots(rows, columns, squeeze=False), panels)
    for each, picture in zip(axes, pictures, strict=False):
        _draw_picture(_bare(each), picture)
        each.set_title("input", fontsize=10)
    _draw_checkpoints(top, axes[len(pictures) :], results, maps, row)
    _draw_course(bottom.subplots(), results, row)
    return whole


def _draw_checkpoints(
    part: Any, axes: list[Any], results: Sequence[tuple[str, Attribution]], maps: list[Any], row: int
) -> None:
    joined = np.concatenate([map.ravel() for map in maps])
    limit, signed = view.colour_scale(joined), view.is_signed(joined)
    for each, (label, result), map in zip(axes, results, maps, strict=True):
        _draw_map(each, map, limit, signed)
        each.set_title(_folded(label, 24), fontsize=10)
        each.set_xlabel("\n".join(_folded(line, 28) for line in _prediction_lines(result, row)), fontsize=8)
    if maps[0].ndim == 2:
        add_colour_bar(part, joined, limit, signed, ax=axes, fraction=0.04, pad=0.02, shrink=0.8)
    first = results[0][1]
    heading = f"{written(first.method)} during training  ·  target: {target_text(first, row)}"
    stated = scale_text(joined, limit, signed=signed)
    inches = part.figure.get_figwidth()
    part.suptitle(f"{_wrapped(heading, inches * 0.8)}\n{_wrapped(stated, inches * 0.9)}", fontsize=11)


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
    labels = [_plain(textwrap.shorten(label, 16, placeholder=" …")) for label, _ in results]
    axes.set_xticks(places[::step], labels[::step], fontsize=8)
    axes.set_ylabel("output for the target")
    axes.set_xlabel("checkpoint")
    axes.spines[["top", "right"]].set_visible(False)
