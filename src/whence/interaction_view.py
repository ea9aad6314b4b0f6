"""A figure of interactions: what pairs of features give together, as a matrix and, the strongest pairs, as bars."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from whence import view
from whence.attribution import to_numpy
from whence.caption import at_row, number, target_text, written
from whence.errors import BadInput
from whence.panel import BAR, add_colour_bar, axes_at, draw_bars, plain, wrapped
from whence.tabular_view import names_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whence.attribution import Attribution

# The sides of a matrix whose names can be read, and of what is shown of a larger one.
MOST_NAMED, MOST_SHOWN = 40, 20
# Up to here the numbers are written into the cells.
MOST_WRITTEN = 8
PAIRS = 12
# Below this share of the largest value a pair is the rounding of others.
NOTHING = 1e-9
LONGEST = 22


def interaction_figure(result: Attribution, row: int = 0) -> Figure:
    """Draw one example's interactions as a matrix in colour, and the pairs that matter most as bars beside it.

    A cell off the diagonal is half of what its two features give together, one on it what a feature gives alone. Of
    more than 40 features the 20 with the strongest rows are shown.

    Raises:
        BadInput: the result holds no interactions, every class, no such example, or values that are not finite.
    """
    from matplotlib.figure import Figure

    matrix = _matrix(result, row)
    names = names_of(result, len(matrix))
    shown = np.arange(len(matrix))
    if len(matrix) > MOST_NAMED:
        shown = np.sort(np.argsort(-np.abs(matrix).sum(1), kind="stable")[:MOST_SHOWN])
    labels = [plain(textwrap.shorten(names[each], LONGEST, placeholder="…")) for each in shown]
    side = float(np.clip(0.24 * len(shown), 2.6, 7.0))
    room = 0.3 + 0.075 * max(map(len, labels))
    pairs, together = _pairs(matrix, names)
    beside = room + side + 0.95
    width = beside + 3.6 + 0.075 * max(map(len, pairs), default=0)
    height = 0.75 + max(side + room, BAR * len(pairs) + 0.85) + 0.7
    whole = Figure(figsize=(width, height))
    words = (written(result.method), f"target: {target_text(result, row)}",
             f"output:\u00a0{number(at_row(result.output, row), 4)}")  # fmt: skip
    whole.text(0.5, 1 - 0.12 / height, wrapped("  ·  ".join(words), width * 0.75), ha="center", va="top", fontsize=12,
               fontweight="bold")  # fmt: skip
    limit = _draw_matrix(whole, (room, 0.75, side), matrix[np.ix_(shown, shown)], labels)
    if pairs:
        label = "what two features give together,\nbeyond what each gives alone"
        label += (
            f"\n(the {len(pairs)} strongest of {len(matrix) * (len(matrix) - 1) // 2:,} pairs)"
            if len(pairs) > 1
            else ""
        )
        draw_bars(whole, 0.75, together, pairs, label=label, box=(beside, width))
    below = _below(names, len(shown), limit)
    whole.text(0.5, 0.12 / height, wrapped(below, width), ha="center", va="bottom", fontsize=8,
               color="0.25")  # fmt: skip
    return whole


def _matrix(result: Attribution, row: int) -> Float[np.ndarray, "d d"]:
    if result.every_class:
        raise BadInput("interaction_figure: this result holds every class; take one with .for_class(index)")
    if result.interactions is None:
        raise BadInput(
            f"interaction_figure: {result.method} gives no interactions; shapley_interaction and integrated_hessians do"
        )
    found = to_numpy(result.interactions).astype(np.float64)
    if not -len(found) <= row < len(found):
        raise BadInput(f"interaction_figure: row {row}: there are {len(found)} examples")
    matrix = found[row]
    # An example with fewer features than another ends in NaN.
    known = np.isfinite(matrix).any(1)
    return view.finite(matrix[np.ix_(known, known)])


def _draw_matrix(
    whole: Figure, place: tuple[float, float, float], matrix: Float[np.ndarray, "d d"], labels: list[str]
) -> float:
    """Draw the matrix with its bar of colours, and return the limit of the scale: that of the pairs."""
    from matplotlib.patches import Rectangle

    left, top, side = place
    count = len(matrix)
    apart = matrix[~np.eye(count, dtype=bool)]
    limit = view.colour_scale(apart if apart.size else matrix)
    axes = axes_at(whole, left, top, side, side)
    axes.imshow(view.colour(matrix, limit))
    size = float(np.clip(9 - 0.08 * count, 6, 9))
    axes.set_xticks(np.arange(count), labels, rotation=90, fontsize=size)
    axes.set_yticks(np.arange(count), labels, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.75")
    for each in range(count):
        axes.add_patch(Rectangle((each - 0.5, each - 0.5), 1, 1, fill=False, edgecolor="0.35", linewidth=0.8))
    if count <= MOST_WRITTEN:
        _write_numbers(axes, matrix, limit)
    bar = axes_at(whole, left + side + 0.12, top, 0.13, side)
    add_colour_bar(whole, matrix, limit, True, cax=bar)
    return limit


def _write_numbers(axes: Any, matrix: Float[np.ndarray, "d d"], limit: float) -> None:
    # As many decimals as tell the pairs apart: two digits of the limit.
    decimals = int(np.clip(1 - np.floor(np.log10(limit)), 0, 4))
    for (one, two), value in np.ndenumerate(matrix):
        text = f"{value:.{decimals}f}".replace("-", "−")
        text = "0" if not float(text.replace("−", "-")) else text
        dark = abs(value) > 0.6 * limit
        axes.text(two, one, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "0.15")


def _pairs(
    matrix: Float[np.ndarray, "d d"], names: list[str]
) -> tuple[list[str], Float[np.ndarray, "pairs"]]:
    """Return the strongest pairs by their features' names, and what they give together."""
    one, two = np.triu_indices(len(matrix), 1)
    together = matrix[one, two] + matrix[two, one]
    order = np.argsort(-np.abs(together), kind="stable")[:PAIRS]
    order = order[np.abs(together[order]) > NOTHING * np.abs(matrix).max()]
    return [f"{_cut(names[one[each]])} & {_cut(names[two[each]])}" for each in order], together[order]


def _cut(name: str) -> str:
    return textwrap.shorten(name, 17, placeholder="…")


def _below(names: list[str], shown: int, limit: float) -> str:
    told = [
        "a cell: half of what two features give together; framed: what one gives alone; colour scale "
        f"±{number(limit)}, that of the pairs; a row sums to its feature's share; red: for the target, blue: against"
    ]
    if names[0] == "patch 0":
        told.append("patches are counted from the upper left, row by row")
    if shown < len(names):
        told.append(f"the {shown} of {len(names)} features with the strongest rows are shown")
    return " · ".join(told)
