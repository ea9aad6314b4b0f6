"""The order of features by their shares: the most important first, ties as the seed's lots fall."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from whence.metrics.judged import Judged


def ranked(judged: Judged, shares: Float[np.ndarray, "n d"]) -> Int[np.ndarray, "n d"]:
    """Return each feature's place when the largest share comes first, from 0.

    Equal shares are in an order that depends on the seed and the number of features alone; a note counts them.
    """
    lot = judged.random("order of ties").permutation(shares.shape[1])
    order = np.lexsort((np.broadcast_to(lot, shares.shape), -shares))
    tied = _tied(np.take_along_axis(shares, order, 1))
    if tied.any():
        judged.note(
            f"ties: up to {tied.max()} of an example's {shares.shape[1]} features have the same share as another "
            f"({tied.mean():.3g} on average); their order is drawn by the seed"
        )
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(shares.shape[1]), order.shape), 1)
    return rank


def _tied(falling: Float[np.ndarray, "n d"]) -> Int[np.ndarray, "n"]:
    """Return how many numbers of each row have a neighbour that is the same."""
    same = falling[:, 1:] == falling[:, :-1]
    none = np.zeros((len(falling), 1), dtype=bool)
    return (np.concatenate([same, none], 1) | np.concatenate([none, same], 1)).sum(1)
