"""Where there is nothing to find: functions that ignore their input, inputs that are the baseline, and ties."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from whence.study.truth.case import Case, affine, agreed, draw, rectified, relu, weights

ROWS: Final = 8


def cases() -> Iterator[Case]:
    """Yield the cases whose right answer is nothing, or the same for all."""
    x = draw(81, ROWS, 3)
    nothing, every = np.zeros((ROWS, 3)), np.ones(3, dtype=bool)
    yield Case(
        "constant", "A network that ignores its input", "degenerate", "7 + 0·x₁ + 0·x₂ + 0·x₃", "nothing for anyone",
        lambda x: np.full(len(x), 7.0), rectified(affine(weights((0, 0, 0)), (7,))), x, agreed(nothing), dummies=every,
    )  # fmt: skip
    yield Case(
        "cancelled", "A function that cancels to nothing", "degenerate", "relu(x₁) − relu(x₁) + x₂ − x₂ + 0·x₃",
        "nothing for anyone", lambda x: np.zeros(len(x)),
        rectified(affine(weights((1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 1, 0))), affine(weights((1, -1, 1, -1)))), x,
        agreed(nothing), dummies=every,
    )  # fmt: skip
    x = draw(82, ROWS, 2, low=0.2, high=2.0)
    yield Case(
        "dead", "A ReLU that never opens", "degenerate", "2 + relu(−x₁ − x₂ − 1), both positive",
        "nothing for anyone: between the baseline and the input the output stands still",
        lambda x: 2 + relu(-x[:, 0] - x[:, 1] - 1),
        rectified(affine(weights((-1, -1)), (-1,)), affine(weights((1,)), (2,))), x, agreed(np.zeros((ROWS, 2))),
    )  # fmt: skip
    x, absent = np.array([[1.0, -2.0, 0.5]]), np.array([1.0, -2.0, 0.5])
    yield Case(
        "at_baseline", "The input is the baseline", "degenerate", "x₁ + 2·x₂ + 3·x₃ at x = x′ = (1, −2, ½)",
        "nothing for anyone: nothing has changed", lambda x: x @ np.array([1.0, 2.0, 3.0]),
        rectified(affine(weights((1, 2, 3)))), x, agreed(np.zeros((1, 3))), baseline=absent,
    )  # fmt: skip
    x = np.repeat(draw(83, ROWS, 1, low=0.5, high=2.0), 4, axis=1)
    yield Case(
        "ties", "All alike", "degenerate", "x₁ + x₂ + x₃ + x₄, all equal",
        "a quarter each: a map of one colour is right",
        lambda x: x.sum(1), rectified(affine(weights((1, 1, 1, 1)))), x, agreed(x.copy()), alike=(0, 3),
    )  # fmt: skip
