"""The study's figures: how far the methods agree, and what they cost beside how they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from whence.caption import short_number, titled
from whence.metrics import control
from whence.study.comparison.results import Comparison, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS: Final = 400
"""Steps in which the labels of a figure are moved apart."""


def agreement(found: Comparison, network: str) -> Figure | None:
    """Draw the rank correlations of all pairs, methods that agree beside each other; None for fewer than three."""
    from matplotlib.figure import Figure

    names, rank = found.agreement(network)
    if len(names) < 3:
        return None
    order = _by_likeness(rank)
    shown = rank[np.ix_(order, order)]
    titles = [titled(names[each]) for each in order]
    side = 2.6 + 0.24 * len(names)
    drawn = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes: Any = drawn.subplots()
    image = axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(titles)), titles, rotation=90, fontsize=8)
    axes.set_yticks(range(len(titles)), titles, fontsize=8)
    axes.tick_params(length=0)
    for row in range(len(titles)):
        for column in range(len(titles)):
            value = shown[row, column]
            if np.isfinite(value) and len(titles) <= 40:
                colour = "white" if abs(value) > 0.5 else "0.25"
                text = f"{round(100 * value)}".replace("-", "−")
                axes.text(column, row, text, ha="center", va="center", fontsize=5.5, color=colour)
    bar = drawn.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label("rank correlation of the pixels (in the cells: × 100)", fontsize=9)
    return drawn


def _by_likeness(rank: np.ndarray) -> np.ndarray:
    """Return an order in which methods that agree stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    away = 1 - np.nan_to_num((rank + rank.T) / 2)
    np.fill_diagonal(away, 0)
    return leaves_list(
        linkage(squareform(np.maximum(away, 0), checks=False), "average", optimal_ordering=True)
    )


def costs(found: Comparison, network: str, metric: str) -> Figure | None:
    """Draw a metric against what each method costs, with its uncertainty; None where it was not measured."""
    from matplotlib.figure import Figure

    record = next((each for each in found.measured if each.name == metric), None)
    points: list[tuple[str, float, float, float]] = []
    for name in found.methods(network):
        if name == control.NAME:
            continue
        row, cost = found.cell(network, name, metric), found.cell(network, name, "milliseconds")
        if row is not None and cost is not None and np.isfinite(row.value) and cost.value > 0:
            points.append((name, cost.value, row.value, float(np.nan_to_num(row.standard_error))))
    if record is None or len(points) < 3:
        return None
    drawn = Figure(figsize=(9.6, 6.6), layout="constrained")
    axes: Any = drawn.subplots()
    axes.set_xscale("log")
    _, x, y, error = zip(*points, strict=True)
    axes.errorbar(x, y, [2 * each for each in error], fmt="o", color="#4d4d63", ecolor="0.7", markersize=5)
    axes.set_xlabel("milliseconds a picture, one core, logarithmic")
    direction = f" ({record.better} is better)" if record.better else ""
    axes.set_ylabel(f"{record.title}{direction}")
    axes.grid(color="#ececf1", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.12, y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    _with_control(axes, found.cell(network, control.NAME, metric))
    _labelled(drawn, axes, points)
    return drawn


def _with_control(axes: Any, row: Row | None) -> None:
    """Draw what random maps get as a line, or say where it lies: it would press the methods together."""
    if row is None or not np.isfinite(row.value):
        return
    low, high = axes.get_ylim()
    style = {"fontsize": 8, "color": "0.45", "ha": "right", "transform": axes.get_yaxis_transform()}
    if low < row.value < high:
        axes.axhline(row.value, color="0.6", linestyle="--", linewidth=1)
        axes.text(0.995, row.value, "random maps", va="bottom", **style)
        return
    below = row.value <= low
    words = f"{'↓' if below else '↑'} random maps get {short_number(row.value)}"
    axes.text(0.995, low if below else high, words, va="bottom" if below else "top", **style)


def _labelled(drawn: Figure, axes: Any, points: list[tuple[str, float, float, float]]) -> None:
    """Write the names beside their points, where they cover neither one another nor a point."""
    from adjustText import adjust_text

    names, x, y, _ = zip(*points, strict=True)
    labels = [
        axes.text(across, up, titled(name), fontsize=7.5, color="0.15")
        for name, across, up in zip(names, x, y, strict=True)
    ]
    # The axes have their final place before the labels are moved, and keep it.
    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")
    # A number of steps instead of a time: the same figure on a busy machine.
    adjust_text(
        labels, list(x), list(y), ax=axes, iter_lim=STEPS, expand=(1.2, 1.6), force_static=(0.3, 0.5),
        arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkB": 3},
    )  # fmt: skip
