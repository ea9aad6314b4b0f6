"""The study's figures: how far the methods agree, and what they cost beside how they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from whence.caption import titled
from whence.study.comparison.results import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
                text = f"{100 * value:.0f}".replace("-", "−")
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
        row, cost = found.cell(network, name, metric), found.cell(network, name, "milliseconds")
        if row is not None and cost is not None and np.isfinite(row.value) and cost.value > 0:
            points.append((name, cost.value, row.value, float(np.nan_to_num(row.standard_error))))
    if record is None or len(points) < 3:
        return None
    drawn = Figure(figsize=(9.6, 6.6), layout="constrained")
    axes: Any = drawn.subplots()
    axes.set_xscale("log")
    _, x, y, error = zip(*points, strict=True)
    axes.errorbar(x, y, yerror_of(error), fmt="o", color="#4d4d63", ecolor="0.7", markersize=5)
    _labelled(axes, points)
    axes.set_xlabel("milliseconds a picture, one core, logarithmic")
    direction = f" ({record.better} is better)" if record.better else ""
    axes.set_ylabel(f"{record.title}{direction}")
    axes.grid(color="#ececf1", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.12, y=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def yerror_of(error: Any) -> list[float]:
    """Return bars of two standard errors."""
    return [2 * float(each) for each in error]


def _labelled(axes: Any, points: list[tuple[str, float, float, float]]) -> None:
    """Write the names beside their points, moved apart where they would cover each other."""
    placed: list[tuple[float, float]] = []
    height = max(each[2] for each in points) - min(each[2] for each in points) or 1.0
    for name, x, y, _ in sorted(points, key=lambda each: -each[2]):
        across, down = np.log10(x), y / height
        while any(abs(across - a) < 0.7 and abs(down - d) < 0.03 for a, d in placed):
            down -= 0.01
        placed.append((across, down))
        axes.annotate(
            titled(name), (x, y), (x * 1.12, down * height), fontsize=7, va="center", color="0.2",
            arrowprops={"arrowstyle": "-", "color": "0.85", "linewidth": 0.6},
        )  # fmt: skip
