"""Playing the games of a problem's rows: those that have equally many features together, and put together again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from whence.backends import Array
from whence.background import DataSet
from whence.baseline import resolve
from whence.coalitions.game import Game, Whole
from whence.draws import Draws
from whence.features import laying
from whence.features.covers import Features, Rows
from whence.features.kinds import channel_axis
from whence.problem import Problem
from whence.shares import Shares, joined
from whence.site import Parameter

# Names of more features than these are numbers that nobody reads.
MOST_NAMES = 256


def play(
    problem: Problem,
    spec: Any,
    default: Callable[[Problem, Array], Any],
    baseline: Any,
    explain: Callable[[Game], Shares],
    only_differing: bool = False,
) -> Shares:
    """Explain the games of a problem's rows; rows with other numbers of features are games of their own.

    With `only_differing` those features alone play whose numbers are others where they are absent.
    """
    laid, absent = laying.lay(problem, spec, default), absence(baseline, problem)
    _record(problem, laid)
    games: list[tuple[Rows, Game]] = []
    for rows in laid.groups(len(problem.rows)):
        game = Game(problem, laid, Draws(problem, absent))
        if len(rows) < len(problem.rows):
            game = game.part(rows)
        split = _without_dummies(game) if only_differing else _by_idleness(game)
        games += [(rows[some], part) for some, part in split]
    parts = [explain(game) if game.count else _nothing(game) for _, game in games]
    back = np.argsort(np.concatenate([rows for rows, _ in games]))
    return parts[0] if len(parts) == 1 else joined(problem.ops, parts).reordered(problem.ops, back)


def _by_idleness(game: Game) -> list[tuple[Rows, Game]]:
    """Return the game of the rows that can change, and that of those that cannot."""
    changing = np.asarray(np.any(game.differing(), 1))
    if changing.all():
        return [(np.arange(len(changing)), game)]
    found: list[tuple[Rows, Game]] = []
    for rows, idle in ((np.flatnonzero(changing), False), (np.flatnonzero(~changing), True)):
        if len(rows):
            found.append((rows, replace(game.part(rows), idle=idle)))
    return found


def _without_dummies(game: Game) -> list[tuple[Rows, Game]]:
    """Return the games of the features that can make a difference, for rows that have equally many of them."""
    differing = game.differing()
    if differing.all():
        return [(np.arange(len(differing)), game)]
    counts = np.stack([each.sum(1) for each in game.features.by_array(differing)], 1)
    _, which = np.unique(counts, axis=0, return_inverse=True)
    found: list[tuple[Rows, Game]] = []
    for number in range(int(which.max()) + 1):
        rows = np.flatnonzero(which.ravel() == number)
        part = game.part(rows)
        some = part.features.only(differing[rows])
        if some is None:
            return [(np.arange(len(differing)), game)]
        found.append((rows, Game(part.problem, some, part.draws, Whole(part.features, differing[rows]))))
    return found


def _nothing(game: Game) -> Shares:
    """Return the shares of rows in which no feature makes a difference."""
    game.__dict__["empty"] = game.full
    zeros = np.zeros((len(game.full), 0, *game.full.shape[1:]))
    game.problem.run.note(
        "the input is its baseline: nothing changes when features are absent, and every share is 0"
    )
    exact = np.zeros(game.full.shape)
    return game.shares(zeros, efficient=True, error=exact, converged=exact == 0)


def _record(problem: Problem, laid: Features) -> None:
    record = problem.run.record
    record["features"], leaf = int(laid.counts.max()), problem.point[0]
    channel = channel_axis(problem, leaf)
    if leaf.ndim == 4 and leaf.shape[channel] > laid.covers[0].shape[channel - 1] == 1:
        # Every channel has its pixel's share: a map of them is their mean.
        record["repeated"] = True
    if laid.alike and not laid.single and laid.count <= MOST_NAMES:
        record["feature_names"] = _names(problem, laid)


def _names(problem: Problem, laid: Features) -> list[str]:
    """Return the features' names; of several inputs with the name of the input before them."""
    if laid.shared or len(laid.covers) == 1:
        return list(laid.names)
    inputs = [
        problem.run.structure.name(leaf).partition(" ")[2].strip("'") for leaf in range(len(laid.covers))
    ]
    each = [cover.named(int(cover.counts[0])) for cover in laid.covers]
    return [f"{name}: {feature}" for name, own in zip(inputs, each, strict=True) for feature in own]


def absence(spec: Any, problem: Problem) -> Any:
    """Return the baseline that a method's field means; of a table without one, the rows given are the background."""
    run = problem.run
    pictures = run.pictures and not isinstance(problem.site, Parameter)
    table = run.structure.table
    if spec is None and table is not None:
        return DataSet(table.background(run))
    if table is not None and table.is_frame(spec):
        return DataSet(spec)
    return resolve(spec, pictures)
