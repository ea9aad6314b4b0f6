"""Shapley interactions from orders of the features in which every pair comes side by side.

Where i and j follow each other in a random order, with S before them, v(S∪ij) − v(S∪i) − v(S∪j) + v(S) has the
interaction index as its mean. The zigzag orders of Walecki (Lucas 1883) lay every pair side by side once; a round takes
them under a random naming of the features, forwards and backwards, so each pair is seen twice and the sizes of S are
spread evenly.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from whence.coalitions import rounds
from whence.coalitions.effort import Effort
from whence.coalitions.game import Game
from whence.coalitions.known import Known
from whence.coalitions.rounds import SURE, Found
from whence.errors import Refused
from whence.moments import Moments
from whence.shares import Shares

# So many rounds at first, with a tolerance.
FIRST = 4


def completed(
    pairs: Float[np.ndarray, "rows d d *K"], shares: Float[np.ndarray, "rows d *K"]
) -> Float[np.ndarray, "rows *K d d"]:
    """Return pairs with the diagonal that makes rows sum to the shares."""
    d = pairs.shape[1]
    pairs = pairs.copy()
    pairs[:, np.arange(d), np.arange(d)] = shares - pairs.sum(2)
    return np.moveaxis(pairs, (1, 2), (-2, -1))


def zigzags(count: int) -> Int[np.ndarray, "orders features"]:
    """Return orders of the features in which each pair is side by side twice, forwards and backwards."""
    even = count + count % 2
    steps = np.arange(1, even) // 2 + np.arange(1, even) % 2
    offsets = np.concatenate([[0], np.where(np.arange(1, even) % 2, steps, -steps)])
    forward = (np.arange(even // 2)[:, None] + offsets) % even
    return np.concatenate([forward, forward[:, ::-1]])


class Neighbours:
    """The means over rounds of every pair's interaction and every feature's gain, and how they vary."""

    sure = SURE

    def __init__(self, game: Game) -> None:
        self.game, self.moments, self._known = game, Moments(), Known(game)
        self.orders = zigzags(game.count)

    @property
    def cost(self) -> int:
        """How many subsets a round visits, at the most."""
        return 2 * len(self.orders) * self.game.count

    def explained(self, asked: Effort) -> Shares:
        """Return the shares after so many rounds, or when a row's pairs are sure enough.

        Raises:
            Refused: the budget is less than two rounds.
        """
        most = (asked.samples or asked.most) // self.cost
        if most < 2:
            raise Refused(
                f"shapley_interaction: {self.game.count} features take {self.cost:,} subsets a round, and at least two "
                f"rounds; give samples={2 * self.cost} or more, or fewer features"
            )
        return rounds.explained(self, asked, FIRST, most, efficient=True)

    def grow(self, count: int) -> bool:
        while self.moments.count < count:
            self.moments.add(self._round(self.moments.count))
        return True

    def keep(self, rows: Int[np.ndarray, "rows"]) -> None:
        self.game = self.game.part(rows)
        self._known.keep(self.game, rows)
        self.moments.mean = [mean[rows] for mean in self.moments.mean]
        self.moments.sums = [[part[rows] for part in sums] for sums in self.moments.sums]

    def found(self) -> Found:
        (pairs, shares), (spread, error) = self.moments.mean, self.moments.error_of_mean()
        matrix = completed(pairs / 2, shares)
        # The diagonal takes on the errors of its row.
        diagonal = np.sqrt(error**2 + (spread**2 / 4).sum(2))
        errors = spread.sum((1, 2)) / 2 + diagonal.sum(1)
        relative = rounds.relative(errors, np.abs(matrix).sum((-2, -1)))
        return Found(shares, error, interactions=matrix, error_of_pairs=relative)

    def _round(self, number: int) -> tuple[Float[np.ndarray, "rows d d *K"], Float[np.ndarray, "rows d *K"]]:
        """Return what one round says of pairs [n, d, d, *K] and of features [n, d, *K]."""
        game, d = self.game, self.game.count
        naming = game.problem.random("orders", number).permutation(self.orders.shape[1])
        named = naming[self.orders]
        # Of an odd number one place is a stand-in that is left out.
        orders = np.stack([order[order < d] for order in named])
        ranks = np.argsort(orders, axis=1)
        values, swapped = self._values(ranks, orders)
        gains = np.diff(values, axis=2)
        shares = np.zeros((len(values), d, *values.shape[3:]))
        pairs = np.zeros((len(values), d, d, *values.shape[3:]))
        for place, (order, whole) in enumerate(zip(orders, named, strict=True)):
            shares[:, order] += gains[:, place] / len(orders)
            one, two = order[:-1], order[1:]
            both = values[:, place, 2:] - values[:, place, 1:-1] - swapped[:, place] + values[:, place, :-2]
            # Two that the stand-in keeps apart are side by side in another order.
            gap = np.flatnonzero(whole >= d)
            beside = np.ones(d - 1, dtype=bool)
            if len(gap) and 0 < gap[0] < d:
                beside[gap[0] - 1] = False
            for a, b in ((one, two), (two, one)):
                pairs[:, a[beside], b[beside]] += both[:, beside] / 2
        return pairs, shares

    def _values(
        self, ranks: Int[np.ndarray, "orders d"], orders: Int[np.ndarray, "orders d"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return v of every prefix [n, orders, d + 1, *K], and of every prefix with its last two exchanged."""
        game, d = self.game, self.game.count
        prefixes = ranks[:, None, :] < np.arange(1, d)[None, :, None]
        # S ∪ j: the first k features and the one after the next.
        exchanged = ranks[:, None, :] < np.arange(d - 1)[None, :, None]
        order, step = np.meshgrid(np.arange(len(orders)), np.arange(d - 1), indexing="ij")
        exchanged[order, step, orders[order, step + 1]] = True
        every = np.concatenate([prefixes.reshape(-1, d), exchanged.reshape(-1, d)])
        found = self._known.values(every)
        inner, swapped = (
            part.reshape(len(part), len(orders), d - 1, *part.shape[2:])
            for part in np.split(found, 2, axis=1)
        )
        shape = (len(found), len(orders), 1, *found.shape[2:])
        ends = [np.broadcast_to(each[:, None, None], shape) for each in (game.empty, game.full)]
        return np.concatenate([ends[0], inner, ends[1]], 2), swapped
