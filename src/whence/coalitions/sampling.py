"""Plans: which coalitions to visit, and what is learnt from them; one of them lets chance switch each feature."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Int

from whence.coalitions import rounds
from whence.coalitions.effort import Effort
from whence.coalitions.game import Coalitions, Game, Values, all_coalitions
from whence.coalitions.rounds import SURE, Found
from whence.shares import Shares

FIRST = 256
# Up to so many features all their subsets are visited, where as many samples are asked for.
ENUMERATED = 20
# So many subsets are drawn at a time: the chances that they are drawn from take 64 times their memory.
BLOCK = 4096


class Plan(Protocol):
    """Coalitions to visit, and what is learnt from them; `least` is how few can say anything."""

    least: int
    sure: float

    @property
    def exhausted(self) -> bool:
        """Whether there is no other coalition."""
        ...

    def more(self, count: int) -> Coalitions:
        """Return so many new coalitions, or fewer where there are no others (or some were drawn before)."""
        ...

    def found(self, game: Game, values: Values) -> Found:
        """Return the shares that follow from the values of all coalitions given so far."""
        ...


class _Planned:
    """The values of a plan's coalitions, for the rows still open."""

    def __init__(self, game: Game, plan: Plan) -> None:
        self.game, self.plan, self.sure = game, plan, plan.sure
        self._drawn = 0
        self._values = np.zeros((len(game.problem.rows), 0, *game.full.shape[1:]))

    def grow(self, count: int) -> bool:
        new = self.game.values(self.plan.more(count - self._drawn))
        self._drawn, self._values = count, np.concatenate([self._values, new], 1)
        return not self.plan.exhausted

    def found(self) -> Found:
        return self.plan.found(self.game, self._values)

    def keep(self, rows: Int[np.ndarray, "some"]) -> None:
        self.game, self._values = self.game.part(rows), self._values[rows]


def sampled(game: Game, plan: Plan, asked: Effort, efficient: bool) -> Shares:
    """Return the shares of a plan's coalitions, so many of them or to a tolerance."""
    most = asked.samples or asked.most
    if plan.least > most:
        game.problem.run.note(
            f"{most} subsets cannot tell {game.count} features apart: {plan.least} were taken"
        )
        most = plan.least
    return rounds.explained(_Planned(game, plan), asked, max(FIRST, plan.least), most, efficient)


class Chance:
    """Coalitions in which each feature is on by chance; each is evaluated once, and counts as often as it was drawn.

    Where as many are asked for as there are subsets, all are visited instead: then they are `exact`.
    """

    sure = SURE

    def __init__(self, game: Game, probability: float = 0.5) -> None:
        self.game, self.probability = game, probability
        self.least = min(4, 2**game.count)
        self.coalitions = np.zeros((0, game.count), dtype=bool)
        self.times = np.zeros(0, dtype=np.int64)
        self.exact, self.each = False, 1.0
        self._places: dict[bytes, int] = {}
        self._rounds = 0

    @property
    def exhausted(self) -> bool:
        """Whether all subsets have been visited."""
        return self.exact

    def more(self, count: int) -> Coalitions:
        """Return so many new coalitions, less those that were drawn before."""
        d = self.game.count
        if self.exact:
            return self.coalitions[:0]
        if d <= ENUMERATED and 2**d <= count + int(self.times.sum()):
            # All of them together weigh as much as the draws that were asked for.
            self.exact, self.each = True, (count + int(self.times.sum())) / 2**d
            return self._entered(all_coalitions(d)(np.arange(2**d)), counted=False)
        parts = [self._drawn(min(BLOCK, count - first)) for first in range(0, count, BLOCK)]
        return self._entered(np.concatenate(parts), counted=True)

    def _drawn(self, count: int) -> Coalitions:
        generator = self.game.problem.random("coalitions", self._rounds)
        drawn = generator.random((count, self.game.count)) < self.probability
        if not self._rounds:
            # The first is the input itself.
            drawn[0] = True
        self._rounds += 1
        return drawn

    def _entered(self, drawn: Coalitions, counted: bool) -> Coalitions:
        before, new = len(self.times), list[int]()
        places = np.zeros(len(drawn), dtype=np.int64)
        for number, bits in enumerate(np.packbits(drawn, axis=1)):
            next_place = before + len(new)
            places[number] = self._places.setdefault(bits.tobytes(), next_place)
            if places[number] == next_place:
                new.append(number)
        self.coalitions = np.concatenate([self.coalitions, drawn[new]])
        self.times = np.concatenate([self.times, np.zeros(len(new), dtype=np.int64)])
        if counted:
            np.add.at(self.times, places, 1)
        else:
            self.times[:] = 1
        return drawn[new]
