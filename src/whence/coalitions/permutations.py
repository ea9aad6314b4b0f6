"""Shapley values from random orders of the features: each with its reverse, their prefixes evaluated chunk by chunk.

Nothing of the size orders x features x features is made: a prefix of an order is told by the rank of its last feature.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from whence.coalitions.game import Game
from whence.coalitions.sampling import Effort, Found, relative_error
from whence.errors import Refused
from whence.moments import Moments
from whence.random_nodes import SAFETY
from whence.shares import Shares, joined

# Up to so many features a coalition is one whole number, and none is evaluated twice.
NUMBERED = 62
# So many pairs of orders at first, with a tolerance.
FIRST = 8


class Permutations:
    """The mean gain of each feature over pairs of orders drawn so far, and its spread, for the rows still open."""

    def __init__(self, game: Game) -> None:
        self.game, self.moments = game, Moments()
        self._numbered = game.count <= NUMBERED
        self._known: dict[tuple[int, int], int] = {}
        self._values = np.zeros((len(game.problem.rows), 0, *game.full.shape[1:]))

    def explained(self, asked: Effort) -> Shares:
        """Return the shares after so many orders, or when they are sure enough; rows then leave one by one."""
        game, d = self.game, self.game.count
        each = 2 * max(1, d - 1)
        most = -(-asked.samples // 2) if asked.samples is not None else max(2, asked.most // each)
        if most < 2:
            raise Refused(
                f"shapley_sampling: {asked.samples} orders have no spread to judge by; give at least 4"
            )
        open_rows, parts, left = np.arange(len(game.problem.rows)), list[Shares](), list[np.ndarray]()
        while True:
            count = self.moments.count
            target = most if asked.rtol is None else min(most, max(FIRST, 2 * count))
            self._draw(target - count)
            found = self._found()
            error = relative_error(found)
            sure = (
                np.zeros(len(error), dtype=bool)
                if asked.rtol is None
                else (SAFETY * error <= asked.rtol).reshape(len(error), -1).all(1)
            )
            leave = sure | (target >= most)
            index = np.flatnonzero(leave)
            if len(index):
                met = np.ones(error.shape, dtype=bool) if asked.rtol is None else SAFETY * error <= asked.rtol
                every = self.game.shares(
                    found.shares, found.standard_error, efficient=True, error=error, converged=met
                )
                parts.append(every.reordered(self.game.problem.ops, index))
                left.append(open_rows[index])
            if leave.all():
                return joined(game.problem.ops, parts).reordered(
                    game.problem.ops, np.argsort(np.concatenate(left))
                )
            stay = np.flatnonzero(~leave)
            open_rows = open_rows[stay]
            self._keep(stay)

    def _keep(self, rows: Int[np.ndarray, "rows"]) -> None:
        spent = self.game.evaluations[rows]
        self.game = self.game.part(rows)
        self.game.evaluations[:] = spent
        self.moments.mean = [mean[rows] for mean in self.moments.mean]
        self.moments.sums = [[part[rows] for part in sums] for sums in self.moments.sums]
        self._values = self._values[rows]

    def _found(self) -> Found:
        (mean,), (error,) = self.moments.mean, self.moments.error_of_mean()
        return Found(mean, error)

    def _draw(self, pairs: int) -> None:
        """Fold in so many pairs of orders, a block of them at a time."""
        d = self.game.count
        # Enough for a large chunk; of many features a single pair is more than that.
        block = max(1, 4096 // max(1, 2 * (d - 1)))
        done = 0
        while done < pairs:
            some = min(block, pairs - done)
            self._fold(self.moments.count, some)
            done += some

    def _fold(self, first: int, pairs: int) -> None:
        game, d = self.game, self.game.count
        ranks = np.stack([game.problem.random("orders", first + j).permutation(d) for j in range(pairs)])
        ranks = np.stack([ranks, d - 1 - ranks], 1).reshape(-1, d)
        draw = np.repeat((first + np.arange(pairs)) % game.draws.count, 2)
        ends = self._ends(draw)
        inner = self._inner(ranks, draw)
        whole = np.concatenate([ends[:, :, None], inner, np.broadcast_to(
            game.full[:, None, None], (len(inner), len(ranks), 1, *game.full.shape[1:])
        )], 2)  # fmt: skip
        gains = np.diff(whole, axis=2)
        index = ranks.reshape(1, len(ranks), d, *(1,) * (gains.ndim - 3))
        each = np.take_along_axis(
            gains, np.broadcast_to(index, (len(gains), len(ranks), d, *gains.shape[3:])), 2
        )
        for j in range(pairs):
            self.moments.add((each[:, 2 * j : 2 * j + 2].mean(1),))

    def _ends(self, draw: Int[np.ndarray, "orders"]) -> Float[np.ndarray, "rows orders *K"]:
        """Return f where all features are absent, from each order's own draw of the baseline."""
        game = self.game
        if game.draws.count == 1:
            return np.broadcast_to(game.empty[:, None], (len(game.empty), len(draw), *game.empty.shape[1:]))
        return self._looked_up(np.zeros((len(draw), 1), dtype=np.int64), draw, None)[:, :, 0]

    def _inner(
        self, ranks: Int[np.ndarray, "orders features"], draw: Int[np.ndarray, "orders"]
    ) -> Float[np.ndarray, "rows orders steps *K"]:
        """Return f after each feature has come in, but for the last."""
        d = self.game.count
        steps = np.broadcast_to(np.arange(1, d), (len(ranks), d - 1))
        return self._looked_up(steps, draw, ranks)

    def _looked_up(
        self,
        steps: Int[np.ndarray, "orders steps"],
        draw: Int[np.ndarray, "orders"],
        ranks: np.ndarray | None,
    ) -> Float[np.ndarray, "rows orders steps *K"]:
        """Return f where the features with a rank below each step are present; nothing known is evaluated again."""
        game, shape = self.game, (len(self.game.problem.rows), *steps.shape, *self.game.full.shape[1:])
        order = np.repeat(np.arange(len(steps)), steps.shape[1])
        step = steps.ravel()

        def made(which: np.ndarray) -> np.ndarray:
            if ranks is None:
                return np.zeros((len(which), game.count), dtype=bool)
            return ranks[order[which]] < step[which, None]

        if not self._numbered:
            return game.values_from(made, draw[order]).reshape(shape)
        bits = np.uint64(1) << np.arange(game.count, dtype=np.uint64)
        keys = (made(np.arange(len(step))) * bits).sum(1, dtype=np.uint64)
        names = list(zip(keys.tolist(), draw[order].tolist(), strict=True))
        new = {name: place for place, name in reversed(list(enumerate(names))) if name not in self._known}
        fresh = np.array(sorted(new.values()), dtype=np.int64)
        for number, place in enumerate(fresh):
            self._known[names[place]] = self._values.shape[1] + number
        if len(fresh):
            found = game.values_from(lambda which: made(fresh[which]), draw[order][fresh])
            self._values = np.concatenate([self._values, found], 1)
        places = np.array([self._known[name] for name in names], dtype=np.int64)
        return self._values[:, places].reshape(shape)
