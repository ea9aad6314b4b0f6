"""The shortcut's figure: every picture's share on the mark, in the network that learnt it and in the control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from whence.caption import written
from whence.study.truth.probe import Probe
from whence.study.truth.results import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's vermilion and blue, which the colour-blind tell apart; the first stands above the second besides.
COLOURS: Final = {"shortcut": "#D55E00", "control": "#0072B2"}
WORDS: Final = {"shortcut": "network that learnt the mark", "control": "control"}
HEIGHT: Final = 0.34


def figure(study: Study) -> Figure:
    """Return a line of dots for each method and network: a dot is a picture, the upright stroke the mean."""
    from matplotlib.figure import Figure

    probes = ordered(study)
    drawn = Figure(figsize=(9.5, 1.1 + HEIGHT * len(probes)), layout="constrained")
    panel: Any = drawn.subplots()
    random = np.random.default_rng(0)
    for line, probe in enumerate(probes):
        for group, up in (("shortcut", -0.18), ("control", 0.18)):
            _dots(panel, probe, group, line + up, random)
    panel.set_yticks(range(len(probes)), [written(each.method) for each in probes], fontsize=9)
    panel.set_ylim(len(probes) - 0.5, -0.5)
    panel.set_xlim(-0.01, 1.01)
    panel.set_xlabel("share of the map on the mark")
    panel.grid(axis="x", color="#e4e4ea", linewidth=0.8)
    for line in range(1, len(probes)):
        panel.axhline(line - 0.5, color="#f0f0f4", linewidth=0.8, zorder=0)
    panel.set_axisbelow(True)
    panel.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    _legend(drawn)
    return drawn


def ordered(study: Study) -> list[Probe]:
    """Return the methods that could be measured, those that tell the networks apart best first."""
    there = [each for each in study.probes.values() if each.pairs]
    return sorted(there, key=lambda each: (each.found[0], each.mean("shortcut")), reverse=True)


def _dots(panel: Any, probe: Probe, group: str, height: float, random: np.random.Generator) -> None:
    shares = np.concatenate([getattr(each, group) for each in probe.pairs])
    shaken = height + random.uniform(-0.1, 0.1, size=len(shares))
    panel.plot(shares, shaken, ".", color=COLOURS[group], markersize=3.5, alpha=0.5, markeredgewidth=0)
    panel.plot([shares.mean()] * 2, [height - 0.16, height + 0.16], color=COLOURS[group], linewidth=2)


def _legend(drawn: Figure) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="none", markersize=5, color=COLOURS[group], label=words)
        for group, words in WORDS.items()
    ]
    drawn.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
