"""Small pictures inside the page: inputs, right answers and maps of picture cases, and of the planted shortcut."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from whence import view
from whence.caption import written
from whence.study.truth.case import Case
from whence.study.truth.results import Study

SHOWN: Final = (
    "saliency", "integrated_gradients", "deeplift", "lrp", "guided_backprop", "kernel_shap", "lime", "occlusion",
    "gradcam", "hirescam", "rise",
)  # fmt: skip
"""The methods whose maps are shown, where they were asked for and apply; the first few of all others where none was."""
MOST: Final = 9


@dataclass(frozen=True)
class Tile:
    """A picture of the page, or, without `data`, the word that stands in its place."""

    data: str
    alt: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One line of pictures, with what stands before it."""

    title: str
    below: str
    tiles: list[Tile]


@dataclass(frozen=True)
class Mosaic:
    """Lines of pictures under common headings."""

    columns: list[str]
    rows: list[Row]


def shown(study: Study) -> list[str]:
    """Return the methods whose maps are shown."""
    able = [
        name for name in study.setup.methods
        if any(study.trials[name, case.name].maps is not None for case in study.cases if case.is_picture)
        or (name in study.probes and study.probes[name].pairs)
    ]  # fmt: skip
    return ([name for name in SHOWN if name in able] or able)[:MOST]


def cases(study: Study) -> Mosaic | None:
    """Return the picture cases: the first example, what is right, and maps with their scores."""
    pictures = [each for each in study.cases if each.is_picture]
    methods = shown(study)
    if not pictures or not methods:
        return None
    columns = ["input", "right", *(written(name) for name in methods)]
    return Mosaic(columns, [_row(study, case, methods) for case in pictures])


def _row(study: Study, case: Case, methods: Sequence[str]) -> Row:
    tiles = [
        Tile(grey(case.inputs[0, 0]), f"{case.title}: the input"),
        Tile(_right(case), f"{case.title}: what is right"),
    ]
    for name in methods:
        trial = study.trials[name, case.name]
        if trial.maps is None or trial.score is None:
            tiles.append(Tile("", "does not apply"))
            continue
        # The score of the example that is shown.
        note = f"{trial.score.examples[0]:.2f}"
        tiles.append(
            Tile(heat(trial.maps[0, 0], unsigned=trial.unsigned), f"{written(name)} on {case.title}", note)
        )
    return Row(case.title, case.name, tiles)


def _right(case: Case) -> str:
    if case.mask is not None:
        return heat(case.mask[0, 0].astype(float), unsigned=True)
    return heat(case.answers[0].values[0, 0], unsigned=False)


def shortcut(study: Study) -> Mosaic | None:
    """Return a marked picture, and maps of it in the network that learnt the mark and in the control."""
    methods = [name for name in shown(study) if name in study.probes and study.probes[name].pairs]
    if not study.pairs or not methods:
        return None
    picture = Tile(grey(study.pairs[0].marked[0] / 255.0), "a test picture with the mark")
    rows: list[Row] = []
    for group, title in (("shortcut", "learnt the mark"), ("control", "control")):
        tiles = [picture]
        for name in methods:
            map = study.probes[name].maps[group]
            words = f"{written(name)} in the network that is called: {title}"
            share = getattr(study.probes[name].pairs[0], group)[0]
            tiles.append(Tile(heat(map, unsigned=not view.is_signed(map)), words, f"{100 * share:.0f} %"))
        rows.append(Row(title, "", tiles))
    return Mosaic(["input", *(written(name) for name in methods)], rows)


def grey(picture: Float[np.ndarray, "height width"]) -> str:
    """Return a picture in grey, dark where it is large: its own smallest value is white."""
    low, high = float(picture.min()), float(picture.max())
    light = 1 - (picture - low) / ((high - low) or 1.0)
    return uri(np.rint(255 * light).astype(np.uint8)[..., None])


def heat(map: Float[np.ndarray, "height width"], *, unsigned: bool) -> str:
    """Return a map in the reports' colours, on its own scale."""
    values = np.abs(map) if unsigned else map
    return uri(view.colour(values, float(np.abs(values).max()) or 1.0, signed=not unsigned))


def uri(drawn: np.ndarray) -> str:
    """Return a picture as an address that holds all of it."""
    return f"data:image/png;base64,{base64.b64encode(view.png(drawn)).decode()}"
