"""The maps of one digit, a row for each method and a column for each framework, as small pictures inside the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from whence import view
from whence.caption import written
from whence.study.frameworks.findings import title
from whence.study.frameworks.results import Study


@dataclass(frozen=True)
class Tile:
    """One map as a picture of the page; no `data` where there is no map."""

    data: str
    alt: str


@dataclass(frozen=True)
class Mosaic:
    """One network's maps of the first digit."""

    network: str
    label: int
    digit: Tile
    columns: list[str]
    rows: list[tuple[str, list[Tile]]]


def mosaics(study: Study) -> list[Mosaic]:
    """Return a mosaic for each network."""
    networks = dict.fromkeys(each.network for each in study.ran())
    return [_mosaic(study, network) for network in networks]


def _mosaic(study: Study, network: str) -> Mosaic:
    picture = np.rint(255 * (1 - study.pictures[0])).astype(np.uint8)[..., None]
    label = int(study.labels[0])
    names = study.names()
    rows = [(written(method), _row(study, network, method, names)) for method in study.methods(network)]
    rows = [(name, tiles) for name, tiles in rows if any(tile.data for tile in tiles)]
    return Mosaic(
        network, label, Tile(_uri(picture), f"the digit {label}"), [title(each) for each in names], rows
    )


def _row(study: Study, network: str, method: str, names: list[str]) -> list[Tile]:
    found = [study.maps.get((network, name, method)) for name in names]
    there = [each[0] for each in found if each is not None]
    if not there:
        return [Tile("", "") for _ in names]
    # One scale and one kind of colours for the row: what is equal looks equal.
    wanted = study.maps.get((network, study.reference or "", method))
    scale = view.colour_scale(there[0] if wanted is None else wanted[0])
    signed = any(view.is_signed(each) for each in there)
    return [
        Tile("", "") if each is None
        else Tile(_uri(view.colour(each[0], scale, signed=signed)), f"{written(method)} in {title(name)}")
        for name, each in zip(names, found, strict=True)
    ]  # fmt: skip


def _uri(picture: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(view.png(picture)).decode()}"
