"""What a method says of the planted shortcut: how much of every map lies on the mark."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8

from whence import registry
from whence.errors import WhenceError, WorkFailed
from whence.study.truth import separation
from whence.study.truth.methods import CHUNK, cost
from whence.study.truth.scoring import NOTHING
from whence.study.truth.shortcut import CLASS, SCALES, Network, Pair
from whence.study.truth.trial import NOT_FINITE, short

FEW: Final = 6
"""How many pictures are explained by methods that visit every set, or every pair, of features: those are slow."""
GROUPS: Final = ("shortcut", "control", "clean")


@dataclass(frozen=True, eq=False)
class Shares:
    """One pair's shares on the mark: marked pictures in both networks, and pictures without it in the first."""

    shortcut: Float[np.ndarray, " n"]
    control: Float[np.ndarray, " n"]
    clean: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Probe:
    """What came of one method.

    Attributes:
        method: its name.
        pairs: its shares on the mark, pair by pair.
        maps: its maps of the first pair's first picture, by "shortcut" and "control".
        refused, failed: why there are none.
        seconds: what all explanations took.
    """

    method: str
    pairs: tuple[Shares, ...] = ()
    maps: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    refused: str = ""
    failed: str = ""
    seconds: float = 0.0

    @property
    def areas(self) -> list[float]:
        """The area under the curve of shortcut against control, of each pair."""
        return [separation.auc(each.shortcut, each.control) for each in self.pairs]

    @property
    def found(self) -> tuple[float, float]:
        """The mean area of shortcut against control, and its standard error."""
        errors = [
            separation.standard_error(area, len(each.shortcut), len(each.control))
            for area, each in zip(self.areas, self.pairs, strict=True)
        ]
        return separation.together(self.areas, errors)

    @property
    def ranked(self) -> tuple[float, float]:
        """The same of marked pictures against others, both in the network that learnt the shortcut."""
        areas = [separation.auc(each.shortcut, each.clean) for each in self.pairs]
        errors = [
            separation.standard_error(area, len(each.shortcut), len(each.clean))
            for area, each in zip(areas, self.pairs, strict=True)
        ]
        return separation.together(areas, errors)

    def mean(self, group: str) -> float:
        """Return the mean share on the mark in one of `GROUPS`."""
        return float(np.mean([getattr(each, group).mean() for each in self.pairs]))


def probe(method: str, pairs: Sequence[Pair], name: str, seed: int, quick: bool) -> Probe:
    """Explain `CLASS` in every network by a method.

    Args:
        method: a registered name.
        pairs: the networks.
        name: of the digits.
        seed: of all random draws.
        quick: fewer samples.
    """
    began = time.perf_counter()
    maps: dict[str, np.ndarray] = {}
    found: list[Shares] = []
    try:
        for pair in pairs:
            shares: dict[str, np.ndarray] = {}
            for group, network, pictures in _questions(pair):
                strength = _strength(method, network, pictures, pair, name, seed, quick)
                shares[group] = on_mark(np.abs(strength), SCALES[name].side)
                maps.setdefault(group, strength[0])
            found.append(Shares(**shares))
    except WorkFailed:
        raise
    except WhenceError as problem:
        return Probe(method, refused=short(problem))
    except Exception as problem:
        return Probe(method, failed=f"{type(problem).__name__}: {short(problem)}")
    return Probe(method, tuple(found), maps, seconds=time.perf_counter() - began)


def on_mark(strength: Float[np.ndarray, "n height width"], side: int) -> Float[np.ndarray, " n"]:
    """Return the share of every map's strength on the corner; a map of nothing has nothing there."""
    total = strength.sum((1, 2))
    some = total > NOTHING
    return np.where(some, strength[:, :side, :side].sum((1, 2)) / np.where(some, total, 1.0), 0.0)


def _questions(pair: Pair) -> list[tuple[str, Network, UInt8[np.ndarray, "n height width"]]]:
    return [
        ("shortcut", pair.shortcut, pair.marked),
        ("control", pair.control, pair.marked),
        ("clean", pair.shortcut, pair.clean),
    ]


def _strength(
    method: str, network: Network, pictures: np.ndarray, pair: Pair, name: str, seed: int, quick: bool
) -> Float[np.ndarray, "n height width"]:
    """Return a map of each picture.

    Raises:
        ValueError: a map is not finite.
    """
    given, most = fields(method, name, pair.background, quick)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = registry.build(method, given)(
            network.model,
            pictures[:most, ..., None],
            target=CLASS,
            preprocess=pair.preprocess,
            seed=seed,
            chunk=CHUNK,
        )
    found = np.asarray(result.heatmap(), dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(NOT_FINITE)
    return found


def fields(method: str, name: str, background: np.ndarray, quick: bool) -> tuple[dict[str, Any], int | None]:
    """Return the fields with which a method is asked about the mark, and how many pictures at most."""
    record = registry.methods()[method]
    slow = {"few features", "piecewise linear or smooth"} & {*record.needs}
    found = cost(record, quick) if "features" in record.fields and not slow else {}
    if "background" in record.needs:
        found["baseline"] = background[..., None]
    if "features" in record.fields:
        found["features"] = f"grid:{SCALES[name].coarse if slow else SCALES[name].grid}"
    return found, FEW if slow else None
