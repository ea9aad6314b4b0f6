"""Judging by switching features: the games of a question's examples, and curves of f while features come or go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.coalitions.game import Game
from whence.coalitions.playing import absence
from whence.draws import Draws
from whence.errors import BadInput
from whence.metrics.judged import Judged
from whence.metrics.laid import in_features
from whence.problem import Problem

Of = Literal["probability", "target"]


@dataclass(frozen=True, eq=False)
class Played:
    """Examples that have equally many features: which they are, their game, and the features' shares."""

    rows: Int[np.ndarray, "n"]
    game: Game
    shares: Float[np.ndarray, "n d"]


def function_of(judged: Judged, of: Of) -> Problem:
    """Return the function that is watched: the explained class's probability, or what is explained itself.

    Raises:
        BadInput: it is neither.
    """
    if of not in ("probability", "target"):
        raise BadInput(f'of is {of!r}; it is "probability" or "target"')
    return judged.probability if of == "probability" else judged.problem


def played(judged: Judged, of: Of, spec: Any, baseline: Any) -> list[Played]:
    """Return the games of all examples, those with as many features together."""
    problem = function_of(judged, of)
    features, draws = judged.features(spec), Draws(problem, absence(baseline, problem))
    found: list[Played] = []
    for rows in features.groups(judged.count):
        game = Game(problem, features, draws)
        for some, part in _by_presence(game if len(rows) == judged.count else game.part(rows)):
            own = rows[some]
            values = tuple(each[own] for each in judged.explained)
            found.append(Played(own, part, in_features(part.features, values, problem)))
    return found


def _by_presence(game: Game) -> list[tuple[Int[np.ndarray, "n"], Game]]:
    """Return the games of rows that have equally many of the features: a user's mask may leave some out of a row."""
    features, rows = game.features, np.arange(len(game.problem.rows))
    if features.alike_in_rows:
        return [(rows, game)]
    there = features.touched(tuple(np.ones((len(rows), *each.shape), dtype=bool) for each in features.covers))
    if there.all():
        return [(rows, game)]
    found: list[tuple[Int[np.ndarray, "n"], Game]] = []
    counts = np.stack([each.sum(1) for each in features.by_array(there)], 1)
    _, kind = np.unique(counts, axis=0, return_inverse=True)
    for number in range(int(kind.max()) + 1):
        some = np.flatnonzero(kind.ravel() == number)
        part = game.part(some)
        own = part.features.only(there[some])
        assert own is not None, "features of one's own do not overlap"
        found.append((some, Game(part.problem, own, part.draws)))
    return found


def gathered(
    judged: Judged, games: list[Played], measure: Callable[[Played], np.ndarray]
) -> Float[np.ndarray, "B *S"]:
    """Return what is measured of every game, in the examples' order; shorter rows are filled with NaN."""
    with judged.problem.run.chunks.any_layout(small=True):
        parts = [measure(each) for each in games]
    shape = (judged.count, *(max(sides) for sides in zip(*(part.shape[1:] for part in parts), strict=True)))
    found = np.full(shape, np.nan)
    for each, part in zip(games, parts, strict=True):
        found[(each.rows, *(slice(side) for side in part.shape[1:]))] = part
        judged.evaluations[each.rows] += each.game.evaluations
    return found


def switched(
    game: Game, rank: Int[np.ndarray, "n d"], counts: Int[np.ndarray, "S"], present: bool
) -> Float[np.ndarray, "n S"]:
    """Return f where the first `counts` features by rank are alone present (or alone absent).

    Steps that change no number of the input are not run again: a black pixel that is made black.
    """
    differing = game.differing()
    changed = _changed(differing, rank, counts)
    new = np.diff(changed, axis=1, prepend=-1) > 0
    known = changed == (differing.sum(1, keepdims=True) if present else 0)
    found = np.broadcast_to(game.full[:, None], changed.shape).copy()
    row, step = np.nonzero(new & ~known)

    def made(place: Int[np.ndarray, "m"]) -> Bool[np.ndarray, "m d"]:
        first = rank[row[place]] < counts[step[place], None]
        return first if present else ~first

    found[row, step] = game.values_where(row, made)
    # What was not run is what it was at the step that last changed something.
    last = np.maximum.accumulate(np.where(new, np.arange(len(counts)), 0), axis=1)
    return np.take_along_axis(found, last, 1)


def _changed(
    differing: Bool[np.ndarray, "n d"], rank: Int[np.ndarray, "n d"], counts: Int[np.ndarray, "S"]
) -> Int[np.ndarray, "n S"]:
    """Return how many of the first `counts` features by rank are others where they are absent."""
    by_rank = np.zeros_like(differing)
    np.put_along_axis(by_rank, rank, differing, 1)
    sums = np.concatenate([np.zeros((len(rank), 1), dtype=int), np.cumsum(by_rank, 1)], 1)
    return sums[:, counts]
