"""Methods that take features away one at a time: what the output loses is their share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence.backends import Array
from whence.coalitions.game import Game
from whence.coalitions.playing import play
from whence.errors import BadInput
from whence.features import laying
from whence.features.kinds import Patches, space
from whence.problem import Problem
from whence.registry import Method, register
from whence.shares import Shares

# A window's side where none is given: so much of the shorter side of the picture, and at least so many pixels.
SHARE, LEAST = 8, 2


@register(
    "occlusion", "A_i = mean of f(x) − f(x with window W absent) over the windows W that cover i",
    "Zeiler, Fergus 2014, arXiv:1311.2901", needs=("values",),
)  # fmt: skip
@dataclass(frozen=True)
class Occlusion(Method):
    """What the output loses where a window of the input is absent, window by window; where they overlap, the mean.

    Attributes:
        window: its sides, (height, width) or one number for both, or every axis after the batch; None is an eighth of
            the shorter side of a picture.
        stride: how far it moves at a time; None is half a window.
        features: other features than windows, such as whence.features.superpixels(); then leave window and stride out.
        baseline: what "absent" means; None is black for pictures in pixels, else 0; the rows of a table given.
            Over several the output is averaged.
    """

    window: Any = None
    stride: Any = None
    features: Any = None
    baseline: Any = None
    switches = True

    def __post_init__(self) -> None:
        if self.features is not None and (self.window is not None or self.stride is not None):
            raise BadInput("occlusion: features and window say the same thing in two ways; give one of them")
        for name in ("window", "stride"):
            given = getattr(self, name)
            if isinstance(given, list):
                object.__setattr__(self, name, tuple(given))
        if self.window is not None:
            Patches(self.window, self.stride)

    def attribute(self, problem: Problem) -> Shares:
        return play(problem, self.features, self._windows, self.baseline, _taken_away)

    def _windows(self, problem: Problem, leaf: Array) -> Any:
        if self.window is None and not laying.is_picture(problem, leaf):
            return laying.coarse(problem, leaf)
        window = self.window
        if window is None:
            sides = [int(leaf.shape[axis]) for axis in space(problem, leaf, "occlusion")]
            window = min(max(LEAST, min(sides) // SHARE), *sides)
        return Patches(window, _half(window) if self.stride is None else self.stride)


def _half(window: int | tuple[int, ...]) -> int | tuple[int, ...]:
    if isinstance(window, tuple):
        return tuple(max(1, side // 2) for side in window)
    return max(1, window // 2)


@register(
    "feature_ablation", "A_i = f(x) − f(x with feature i absent)",
    "leave one out: Cook 1977; Robnik-Šikonja, Kononenko 2008, IEEE TKDE 20", needs=("values",),
)  # fmt: skip
@dataclass(frozen=True)
class FeatureAblation(Method):
    """What the output loses where one feature is absent, feature by feature.

    Attributes:
        features: what is switched on and off together: a name (elements, superpixels, channels, tokens, columns), one
            of whence.features, a mask of whole numbers, or one of them for each input. None takes superpixels for
            large pictures, the cells of a grid for small ones, else columns or tokens.
        baseline: as for Occlusion.
    """

    features: Any = None
    baseline: Any = None
    switches = True

    def attribute(self, problem: Problem) -> Shares:
        return play(problem, self.features, laying.coarse, self.baseline, _taken_away)


def _taken_away(game: Game) -> Shares:
    lost = game.full[:, None] - game.without_each()
    # Nothing is estimated: it is what it says.
    return game.shares(lost, error=np.zeros(game.full.shape))
