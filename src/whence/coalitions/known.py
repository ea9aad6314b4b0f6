"""What coalitions are known to be worth: none is ever evaluated twice."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from whence.coalitions.game import Coalitions, Game, Values


class Known:
    """The values of all coalitions asked for so far, by their bits (and by the draw of the baseline, where given)."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self._places: dict[tuple[bytes, int], int] = {}
        self._values = np.zeros((len(game.problem.rows), 0, *game.full.shape[1:]))

    def __len__(self) -> int:
        return len(self._places)

    def values(self, coalitions: Coalitions, draw: Int[np.ndarray, "coalitions"] | None = None) -> Values:
        """Return f of coalitions, from one draw of the baseline each or averaged over all; asks for the new ones."""
        draws = np.full(len(coalitions), -1) if draw is None else draw
        keys = [
            (bits.tobytes(), int(each)) for bits, each in zip(np.packbits(coalitions, 1), draws, strict=True)
        ]
        new: list[int] = []
        for number, key in enumerate(keys):
            if key not in self._places:
                self._places[key] = self._values.shape[1] + len(new)
                new.append(number)
        if new:
            some = coalitions[new]
            found = (
                self.game.values(some)
                if draw is None
                else self.game.values_from(lambda which: some[which], draws[new])
            )
            self._values = np.concatenate([self._values, found], 1)
        return self._values[:, np.array([self._places[key] for key in keys], dtype=np.int64)]

    def keep(self, game: Game, rows: Int[np.ndarray, "some"]) -> None:
        """Go on with the game of some of the rows alone."""
        self.game, self._values = game, self._values[rows]
