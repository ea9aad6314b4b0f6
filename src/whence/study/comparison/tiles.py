"""Small pictures inside the page: digits, and maps on the scale of their row."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whence import view
from whence.caption import titled
from whence.study.comparison.results import Comparison


@dataclass(frozen=True)
class Tile:
    """One picture of the page, and what it is in words."""

    data: str
    alt: str


@dataclass(frozen=True)
class Strip:
    """A row of tiles with its heading, and a remark at its end."""

    heading: str
    tiles: list[Tile]
    remark: str = ""


def picture(image: np.ndarray, alt: str) -> Tile:
    """Return a picture: grey ones dark on white, as on paper."""
    drawn = (255 - image)[..., None] if image.ndim == 2 else image
    return Tile(_uri(drawn.astype(np.uint8)), alt)


def strip(heading: str, maps: Sequence[np.ndarray], alts: Sequence[str], remark: str = "") -> Strip:
    """Return maps of one method, each on its own scale; all signed or all not."""
    signed = any(view.is_signed(each) for each in maps)
    tiles = [
        Tile(_uri(view.colour(each, view.colour_scale(each), signed=signed)), alt)
        for each, alt in zip(maps, alts, strict=True)
    ]
    return Strip(heading, tiles, remark)


def mosaic(found: Comparison, network: str) -> tuple[Strip, list[Strip]]:
    """Return one picture of each class, and every method's maps of them."""
    labels = found.labels(network)
    rows = _shown(found, network)
    digits = Strip(
        "", [picture(found.pictures.images[row], labels[found.pictures.labels[row]]) for row in rows]
    )
    names = [labels[found.pictures.labels[row]] for row in rows]
    strips = [
        strip(
            titled(name), list(found.explained(network, name).arrays["shown"].astype(np.float64)),
            [f"{titled(name)} of {each}" for each in names],
        )
        for name in found.methods(network)
    ]  # fmt: skip
    return digits, strips


def _shown(found: Comparison, network: str) -> list[int]:
    from whence.study.comparison.tasks import Bench

    return [int(each) for each in Bench(found.setup, found.pictures, found.store, network).shown()]


def global_maps(found: Comparison, network: str, which: str) -> list[Strip]:
    """Return every method's mean ("mean") or mean absolute ("absolute") map of each class over the data set."""
    labels = found.labels(network)
    strips: list[Strip] = []
    for name in found.methods(network):
        maps = found.mean_maps(network, name)
        if maps is None:
            continue
        there = [k for k in range(len(labels)) if maps["count"][k] > 0][:10]
        remark = f"{int(maps['count'].sum()):,} pictures"
        if which == "mean":
            error, size = (np.nansum(np.abs(maps[each])) for each in ("error", "mean"))
            remark += f", error {100 * error / size:.0f} %" if size else ""
        alts = [f"{titled(name)}, class {labels[k]}" for k in there]
        strips.append(strip(titled(name), [maps[which][k] for k in there], alts, remark))
    return strips


def confusions(found: Comparison, network: str) -> list[Strip]:
    """Return the commonest mistakes: examples beside what spoke for the wrong class and against the true one."""
    part, labels = found.confusion(network), found.labels(network)
    if part is None:
        return []
    strips: list[Strip] = []
    for number, (true, chosen) in enumerate(part.arrays["pairs"]):
        rows, maps = part.arrays[f"rows{number}"], part.arrays[f"maps{number}"].astype(np.float64)
        tiles: list[Tile] = []
        for row, each in zip(rows, maps, strict=False):
            drawn = strip("", [each], [f"why {labels[chosen]} and not {labels[true]}"]).tiles[0]
            tiles += [
                picture(found.pictures.images[row], f"a {labels[true]} taken for {labels[chosen]}"),
                drawn,
            ]
        mean = part.arrays[f"mean{number}"].astype(np.float64)
        tiles += strip("", [mean], [f"the mean of all {len(rows)}"]).tiles
        strips.append(Strip(f"{labels[true]} taken for {labels[chosen]}", tiles, f"{len(rows)} times"))
    return strips


def boundary(found: Comparison, network: str) -> list[Strip]:
    """Return what matters along the decision boundary, by the class on this side of it."""
    values, labels = found.boundary(network), found.labels(network)
    if values is None:
        return []
    there = [k for k in range(len(labels)) if (values["top"] == k).any()][:10]
    strips: list[Strip] = []
    for which, heading in (("normal", "the boundary's normal"), ("crossing", "what keeps it on this side")):
        maps = [values[which][values["top"] == k].astype(np.float64).mean(0) for k in there]
        strips.append(strip(heading, maps, [f"{heading}, class {labels[k]}" for k in there]))
    return strips


def boundary_classes(found: Comparison, network: str) -> list[str]:
    """Return, for each class with pictures near its boundary, its name, the commonest rival and the mean distance."""
    values, labels = found.boundary(network), found.labels(network)
    told: list[str] = []
    if values is None:
        return told
    for k in range(len(labels)):
        mine = values["top"] == k
        if mine.any():
            rival = int(np.bincount(values["rival"][mine]).argmax())
            told.append(f"{labels[k]} | {labels[rival]}, {values['distance'][mine].mean():.1f}")
    return told[:10]


def _uri(drawn: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(view.png(drawn)).decode()}"
