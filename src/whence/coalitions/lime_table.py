"""LIME of a table: rows drawn column by column from a background, and which values fall into the input's bins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.backends import Array
from whence.background import DataSet
from whence.coalitions.effort import Effort
from whence.coalitions.estimate import fitted
from whence.coalitions.game import Game
from whence.coalitions.rounds import SURE
from whence.errors import BadInput
from whence.features.covers import Labels
from whence.shares import Shares, joined

if TYPE_CHECKING:
    from whence.surrogate_methods import LIME

BINS = {"quartile": 4, "decile": 10}
WIDTH = 0.75
FIRST = 256


def is_table(game: Game, absent: Any, bins: str) -> bool:
    """Tell whether a problem is one table whose features are columns or groups of them, with rows to fill bins."""
    problem, cover = game.problem, game.features.covers[0]
    columns = len(problem.point) == 1 and problem.point[0].ndim == 2 and problem.site is None
    if not (columns and isinstance(cover, Labels) and isinstance(absent, DataSet)):
        return False
    if absent.draws <= BINS[bins]:
        problem.run.note(
            f"lime: {absent.draws} rows of background fill no {bins}s; each column is switched on and off instead"
        )
        return False
    return True


def explained(game: Game, method: LIME, asked: Effort) -> Shares:
    """Return the surrogate of each row of a table, one after the other: what is near it is its own."""
    rows = [_row(game.part(np.array([row])), method, asked) for row in range(len(game.problem.rows))]
    return joined(game.problem.ops, rows)


def _row(game: Game, method: LIME, asked: Effort) -> Shares:
    problem, d = game.problem, game.count
    source = game.draws.baseline
    numbers = np.arange(source.count) if source.samples is None else source.order(problem, source.draws)
    background = problem.ops.numpy(source.leaves(problem, numbers)[0]).astype(np.float64)
    own = problem.ops.numpy(problem.point[0])[0].astype(np.float64)
    coded = problem.run.structure.coded(background.shape[1])
    same = _same_bin(own, background, coded, BINS[method.bins or "quartile"])
    alone = [int(column) for column in np.flatnonzero(~same.any(0))]
    if alone:
        names = problem.run.columns
        problem.run.note(
            f"lime: no row of the background is in the input's bin of {'column' if names is None else ''} "
            f"{', '.join(str(each) if names is None else repr(names[each]) for each in alone)}: its weight says little"
        )
    labels = game.features.covers[0]
    assert isinstance(labels, Labels)
    wide = method.kernel_width or WIDTH * np.sqrt(d)
    design, values = np.zeros((0, d), dtype=bool), np.zeros((1, 0, *game.full.shape[1:]))
    most = asked.samples or asked.most
    count, draw = (most if asked.rtol is None else min(FIRST, most)), 0
    while True:
        drawn = problem.random("table", draw).integers(0, len(background), (count, background.shape[1]))
        if not draw:
            # The first is the row itself.
            drawn[0] = -1
        new, found = _looked(game, own, background, same, drawn, labels)
        design, values = np.concatenate([design, new]), np.concatenate([values, found], 1)
        weights = np.exp(-((~design).sum(1) / (2 * wide**2)))
        times = np.ones(len(design), dtype=np.int64)
        told = fitted(design, weights, times, values, method.ridge, method.keep, exact=False)
        error = told.error
        met = np.ones(error.shape, dtype=bool) if asked.rtol is None else SURE * error <= asked.rtol
        if asked.rtol is None or met.all() or len(design) >= most:
            return game.shares(
                told.shares, told.standard_error, error=error, converged=met, fidelity=told.fidelity
            )
        count, draw = min(len(design), most - len(design)), draw + 1


def _looked(
    game: Game, own: np.ndarray, background: np.ndarray, same: np.ndarray, drawn: Int[np.ndarray, "n columns"],
    labels: Labels,
) -> tuple[Bool[np.ndarray, "n features"], Float[np.ndarray, "1 n *K"]]:  # fmt: skip
    """Return which features of drawn rows are in the input's bins, and f there."""
    problem, ops = game.problem, game.problem.ops
    columns = np.arange(len(own))
    rows = np.where(drawn < 0, own, background[drawn, columns])
    inside = np.where(drawn < 0, True, same[drawn, columns])
    label = np.broadcast_to(labels.labels[0], own.shape)
    # Columns of no feature stay as they are; a group is in its bin where all its columns are.
    rows = np.where(label < 0, own, rows)
    present = np.stack([inside[:, label == feature].all(1) for feature in range(game.count)], 1)
    zeros = np.zeros(len(rows), dtype=int)

    def work(part: np.ndarray) -> tuple[Array, ...]:
        point = (ops.like(rows[part], problem.point[0]),)
        return (
            ops.wide(problem.run.backend.value(lambda given: problem.evaluate(given, zeros[part]), point)),
        )

    (found,) = problem.chunked(len(rows), work)
    game.evaluations += len(rows)
    values = ops.numpy(found).astype(np.float64)
    if not np.isfinite(values).all():
        raise BadInput("the model's output is not finite on rows drawn from the background; mend the model")
    return present, values[None]


def _same_bin(
    own: Float[np.ndarray, "columns"],
    background: Float[np.ndarray, "rows columns"],
    coded: Bool[np.ndarray, "columns"],
    bins: int,
) -> Bool[np.ndarray, "rows columns"]:
    """Return which values of the background lie between the same quantiles as the input's; of words, are the same."""
    edges = np.quantile(background, np.arange(1, bins) / bins, axis=0)
    # As lime has it: a value on an edge belongs below.
    place = (background[:, None] > edges).sum(1)
    mine = (own > edges).sum(0)
    few = np.array(
        [
            len(np.unique(column)) <= bins and value in column
            for column, value in zip(background.T, own, strict=True)
        ]
    )
    exact = coded | few
    return np.where(exact, background == own, place == mine)
