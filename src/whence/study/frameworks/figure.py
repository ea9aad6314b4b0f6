"""The study's figure: cold and warm times of every method in every framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from whence.caption import written
from whence.study.frameworks.findings import title
from whence.study.frameworks.results import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart, and a shape for each besides.
STYLES: Final = {
    "torch": ("#D55E00", "o"),
    "jax": ("#0072B2", "s"),
    "flax": ("#56B4E9", "D"),
    "equinox": ("#004466", "^"),
    "keras": ("#009E73", "v"),
    "tensorflow": ("#7FB800", "P"),
    "onnx": ("#CC79A7", "X"),
    "callable": ("#555555", "*"),
}
SIZES: Final = (("cold", "first explanation (cold)"), ("middle", "a later one (warm)"))


def figure(study: Study) -> Figure:
    """Return the times, one panel for cold and one for warm in each network's row; seconds on a logarithmic scale."""
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(each.network for each in study.ran()))
    heights = [len(study.methods(network)) for network in networks]
    drawn = Figure(figsize=(9.5, 1.6 + 0.36 * sum(heights) + 0.5 * len(networks)), layout="constrained")
    axes: Any = drawn.subplots(
        len(networks), 2, sharey="row", sharex="col", squeeze=False, height_ratios=heights
    )
    for row, network in zip(axes, networks, strict=True):
        for panel, (which, words) in zip(row, SIZES, strict=True):
            _panel(panel, study, network, which)
            panel.set_title(f"{network}: {words}", fontsize=10, loc="left")
    for panel in axes[-1]:
        panel.set_xlabel("seconds, logarithmic")
    handles, labels = _all(axes)
    drawn.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return drawn


def _panel(panel: Any, study: Study, network: str, which: str) -> None:
    methods = study.methods(network)
    panel.set_xscale("log")
    names = study.names()
    for place, name in enumerate(names):
        colour, shape = STYLES[name]
        found = [(row, study.cell(network, name, method)) for row, method in enumerate(methods)]
        points = [
            (getattr(cell, which), row) for row, cell in found if cell is not None and getattr(cell, which)
        ]
        # A little apart, so that equal times do not cover each other.
        shift = 0.5 * ((place + 0.5) / len(names) - 0.5)
        panel.plot(
            [x for x, _ in points], [y + shift for _, y in points], shape, color=colour,
            markersize=9 if shape == "*" else 6, markeredgecolor="white", markeredgewidth=0.5,
            label=title(name), linestyle="none",
        )  # fmt: skip
    panel.set_yticks(range(len(methods)), [written(each) for each in methods], fontsize=9)
    panel.set_ylim(len(methods) - 0.5, -0.5)
    panel.grid(axis="x", color="#e4e4ea", linewidth=0.8)
    for line in range(1, len(methods)):
        panel.axhline(line - 0.5, color="#f0f0f4", linewidth=0.8, zorder=0)
    panel.set_axisbelow(True)
    panel.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _all(axes: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axes[0][0].get_legend_handles_labels()
    return list(handles), list(labels)
