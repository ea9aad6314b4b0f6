"""Shapley values from random orders of the features: each with its reverse, their prefixes evaluated chunk by chunk.

Nothing of the size orders x features x features is made: a prefix of an order is told by the rank of its last feature.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from whence.coalitions import rounds
from whence.coalitions.effort import Effort
from whence.coalitions.estimate import shapley_values
from whence.coalitions.game import Game, all_coalitions
from whence.coalitions.known import Known
from whence.coalitions.rounds import SURE, Found
from whence.coalitions.sampling import ENUMERATED
from whence.errors import Refused
from whence.moments import Moments
from whence.shares import Shares

# Of up to so many features orders meet the same subsets again; of more, hardly ever.
REMEMBERED = 64
# So many pairs of orders at first, with a tolerance; and so many subsets in one block of them.
FIRST, BLOCK = 8, 4096


class Permutations:
    """The mean gain of each feature over pairs of orders drawn so far, and its spread, for the rows still open."""

    sure = SURE

    def __init__(self, game: Game) -> None:
        self.game, self.moments = game, Moments()
        self._known = Known(game) if game.count <= REMEMBERED else None

    @property
    def cost(self) -> int:
        """How many subsets a pair of orders visits, at the most."""
        return 2 * max(1, self.game.count - 1)

    def explained(self, asked: Effort) -> Shares:
        """Return the shares after so many orders, or when they are sure enough; rows then leave one by one.

        Raises:
            Refused: the budget is less than two pairs of orders.
        """
        pairs = asked.most // self.cost if asked.samples is None else -(-asked.samples // 2)
        if pairs < 2:
            raise Refused(
                f"shapley_sampling: an order of {self.game.count:,} features and its reverse take {self.cost:,} "
                f"subsets, and it takes two such pairs to tell an error; raise max_evaluations to {2 * self.cost:,} or "
                "group the features"
            )
        return rounds.explained(self, asked, FIRST, pairs, efficient=True)

    def grow(self, count: int) -> bool:
        block = max(1, BLOCK // self.cost)
        while self.moments.count < count:
            self._fold(self.moments.count, min(block, count - self.moments.count))
        return not self._complete

    @property
    def _complete(self) -> bool:
        """Whether the orders have met every subset there is."""
        game = self.game
        few = self._known is not None and game.draws.count == 1 and game.count <= ENUMERATED
        return few and self._known is not None and len(self._known) >= 2**game.count - 2

    def found(self) -> Found:
        game = self.game
        if self._complete and self._known is not None:
            made = all_coalitions(game.count)(np.arange(1, 2**game.count - 1))
            ends = game.empty[:, None], game.full[:, None]
            values = np.concatenate([ends[0], self._known.values(made), ends[1]], 1)
            exact = shapley_values(values, game.count)
            return Found(exact, np.zeros_like(exact))
        (mean,), (error,) = self.moments.mean, self.moments.error_of_mean()
        return Found(mean, error)

    def keep(self, rows: Int[np.ndarray, "rows"]) -> None:
        self.game = self.game.part(rows)
        self.moments.mean = [mean[rows] for mean in self.moments.mean]
        self.moments.sums = [[part[rows] for part in sums] for sums in self.moments.sums]
        if self._known is not None:
            self._known.keep(self.game, rows)

    def _fold(self, first: int, pairs: int) -> None:
        """Draw so many more pairs of orders, and fold the gains in."""
        game, d = self.game, self.game.count
        ranks = np.stack([game.problem.random("orders", first + j).permutation(d) for j in range(pairs)])
        ranks = np.stack([ranks, d - 1 - ranks], 1).reshape(-1, d)
        draw = np.repeat(self._rows(first, pairs), 2)
        gains = np.diff(self._values(ranks, draw), axis=2)
        index = ranks.reshape(1, len(ranks), d, *(1,) * (gains.ndim - 3))
        each = np.take_along_axis(gains, np.broadcast_to(index, gains.shape), 2)
        for j in range(pairs):
            self.moments.add((each[:, 2 * j : 2 * j + 2].mean(1),))

    def _rows(self, first: int, pairs: int) -> Int[np.ndarray, "pairs"]:
        """Return each pair's draw of the baseline: in an order of chance, every one once before any comes again."""
        game, count = self.game, self.game.draws.count
        numbers = first + np.arange(pairs)
        orders = {
            each: game.problem.random("background", each).permutation(count)
            for each in {*(numbers // count).tolist()}
        }
        return np.array([orders[number // count][number % count] for number in numbers.tolist()])

    def _values(
        self, ranks: Int[np.ndarray, "orders features"], draw: Int[np.ndarray, "orders"]
    ) -> Float[np.ndarray, "rows orders steps *K"]:
        """Return f before the first feature of each order has come in, and after each of them."""
        game, d = self.game, self.game.count
        shape = (len(game.full), len(ranks), 1, *game.full.shape[1:])
        last = np.broadcast_to(game.full[:, None, None], shape)
        if game.draws.count == 1:
            before = np.broadcast_to(game.empty[:, None, None], shape)
            return np.concatenate([before, self._prefixes(ranks, draw, np.arange(1, d)), last], 2)
        return np.concatenate([self._prefixes(ranks, draw, np.arange(d)), last], 2)

    def _prefixes(
        self,
        ranks: Int[np.ndarray, "orders features"],
        draw: Int[np.ndarray, "orders"],
        steps: Int[np.ndarray, "steps"],
    ) -> Float[np.ndarray, "rows orders steps *K"]:
        """Return f where the features with a rank below each step are present."""
        game, many = self.game, max(1, len(steps))

        def made(which: np.ndarray) -> np.ndarray:
            return ranks[which // many] < steps[which % many, None]

        count = len(ranks) * len(steps)
        if self._known is None:
            found = game.values_from(made, np.repeat(draw, len(steps)))
        else:
            # With one draw a subset is the same from whichever order it comes.
            each = np.repeat(draw, len(steps)) if game.draws.count > 1 else None
            found = self._known.values(made(np.arange(count)), each)
        return found.reshape(len(game.full), len(ranks), len(steps), *game.full.shape[1:])
