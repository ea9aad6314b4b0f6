"""Linear and additive functions: each feature's part stands in the formula, and no two conventions differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from whence.study.truth.case import Case, affine, agreed, draw, rectified, relu, weights
from whence.study.truth.cases.patterns import BAR, BLOCK, TEE, pixels, scene

ROWS: Final = 8


def cases() -> Iterator[Case]:
    """Yield the linear and additive cases."""
    yield from _linear()
    yield _linear_picture()
    yield from _additive()
    yield _additive_picture()
    yield from _sum()


def _linear() -> Iterator[Case]:
    x = draw(1, ROWS, 2)
    slopes = weights((3.0, -2.0))
    yield Case(
        "linear_weights", "Two weights", "linear", "3·x₁ − 2·x₂", "3·x₁ and −2·x₂",
        lambda x: 3 * x[:, 0] - 2 * x[:, 1], rectified(affine(slopes)), x, agreed(slopes * x),
    )  # fmt: skip

    x = np.concatenate([draw(2, ROWS, 2), np.zeros((ROWS, 1))], axis=1)
    x[:, 2] = x[:, 0] + 0.05 * draw(3, ROWS)
    slopes = weights((3.0, -2.0, 0.0))
    yield Case(
        "linear_copy", "A copy that is not read", "linear", "3·x₁ − 2·x₂, and x₃ ≈ x₁ is not read",
        "nothing for x₃, however much it goes with the output", lambda x: 3 * x[:, 0] - 2 * x[:, 1],
        rectified(affine(slopes)), x, agreed(slopes * x), dummies=np.array([False, False, True]),
    )  # fmt: skip

    x, absent = draw(4, ROWS, 3), np.array([1.0, -1.0, 0.5])
    slopes = weights((1.0, 2.0, -1.0))
    yield Case(
        "linear_baseline", "Another baseline, and a bias", "linear",
        "5 + x₁ + 2·x₂ − x₃, from x′ = (1, −1, 0.5)", "weight times change: (x₁ − 1), 2·(x₂ + 1), −(x₃ − 0.5)",
        lambda x: 5 + x[:, 0] + 2 * x[:, 1] - x[:, 2], rectified(affine(slopes, (5.0,))), x,
        agreed(slopes * (x - absent)), baseline=absent,
    )  # fmt: skip

    x = draw(5, ROWS, 2) * np.array([1.0, 0.01])
    slopes = weights((1.0, 100.0))
    yield Case(
        "linear_units", "Two units of measurement", "linear", "x₁ + 100·x₂, x₂ a hundred times smaller",
        "x₁ and 100·x₂: alike in size", lambda x: x[:, 0] + 100 * x[:, 1], rectified(affine(slopes)), x,
        agreed(slopes * x),
    )  # fmt: skip

    noise = draw(6, ROWS)
    x = np.stack([draw(7, ROWS) + noise, noise], axis=1)
    slopes = weights((1.0, -1.0))
    yield Case(
        "linear_suppressor", "A suppressor", "linear", "x₁ − x₂, x₁ = signal + x₂",
        "x₁ and −x₂: the function reads both, though x₂ alone says nothing of the signal",
        lambda x: x[:, 0] - x[:, 1], rectified(affine(slopes)), x, agreed(slopes * x),
    )  # fmt: skip

    x, slopes = draw(8, ROWS, 12), np.array([[(-0.7) ** place for place in range(12)]])
    yield Case(
        "linear_many", "Twelve weights", "linear", "Σ (−0.7)ⁱ·xᵢ, i = 0 … 11", "each its weight times itself",
        lambda x: x @ slopes[0], rectified(affine(slopes)), x, agreed(slopes * x),
    )  # fmt: skip


def _linear_picture() -> Case:
    slopes = pixels(TEE) - pixels(BAR)
    x = scene(11, {TEE: 1.0, BAR: -0.5}, distractor=BLOCK)
    return Case(
        "linear_picture", "A shape, and a distractor that goes with it", "linear",
        "Σ pixels of the T − Σ pixels of the bar; the block is as bright as the T, and not read",
        "each pixel of the T itself, each of the bar negative, nothing else",
        lambda x: (x * slopes).sum((1, 2, 3)), rectified(affine(slopes.reshape(1, 64))), x, agreed(slopes * x),
        dummies=(slopes == 0)[None], cells=4,
    )  # fmt: skip


def _additive() -> Iterator[Case]:
    x = draw(21, ROWS, 3, low=-1.5, high=1.5)
    parts = np.stack([x[:, 0] ** 2, 2 * np.sin(x[:, 1]), 1 - np.exp(x[:, 2])], axis=1)
    yield Case(
        "additive_curves", "Three curves", "additive", "x₁² + 2·sin x₂ − exp x₃", "x₁², 2·sin x₂ and 1 − exp x₃",
        lambda x: x[:, 0] ** 2 + 2 * np.sin(x[:, 1]) - np.exp(x[:, 2]), ("formula", {"name": "curves"}), x,
        agreed(parts),
    )  # fmt: skip

    x = draw(22, ROWS, 4)
    x[:, 3] = x[:, 1]
    parts = np.stack([relu(x[:, 0]), -2 * relu(x[:, 1] - 1), 0.5 * np.abs(x[:, 2]), np.zeros(ROWS)], axis=1)
    inner = weights((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, -1, 0))
    yield Case(
        "additive_bends", "Three bends", "additive",
        "relu(x₁) − 2·relu(x₂ − 1) + |x₃|/2, and x₄ = x₂ is not read", "the three terms, nothing for x₄",
        lambda x: relu(x[:, 0]) - 2 * relu(x[:, 1] - 1) + np.abs(x[:, 2]) / 2,
        rectified(affine(inner, (0, -1, 0, 0)), affine(weights((1, -2, 0.5, 0.5)))), x, agreed(parts),
        dummies=np.array([False, False, False, True]),
    )  # fmt: skip

    x = draw(23, ROWS, 2)
    parts = np.stack([np.tanh(5 * x[:, 0]), 0.2 * x[:, 1]], axis=1)
    yield Case(
        "additive_flat", "A curve that goes flat", "additive", "tanh(5·x₁) + x₂/5",
        "tanh(5·x₁) and x₂/5: the first is large where its slope is nothing",
        lambda x: np.tanh(5 * x[:, 0]) + 0.2 * x[:, 1], ("formula", {"name": "tanh"}), x, agreed(parts),
    )  # fmt: skip


def _additive_picture() -> Case:
    lit = pixels(TEE)
    x = scene(24, {TEE: 1.0}, distractor=BLOCK)
    hidden = np.eye(64)[lit.ravel() > 0]
    bias = (-0.25,) * len(hidden)
    return Case(
        "additive_picture", "A threshold for every pixel", "additive",
        "Σ relu(pixel − ¼) over the T; the block is as bright, and not read", "relu(pixel − ¼) on the T",
        lambda x: (lit * relu(x - 0.25)).sum((1, 2, 3)),
        rectified(affine(hidden, bias), affine(np.ones((1, len(hidden))))), x, agreed(lit * relu(x - 0.25)),
        dummies=(lit == 0)[None], cells=4,
    )  # fmt: skip


def _sum() -> Iterator[Case]:
    """Yield f, g and 2·f + g, whose shares are to be 2·those of f + those of g."""
    x = draw(25, ROWS, 2)
    f = np.stack([relu(x[:, 0]), -np.abs(x[:, 1])], axis=1)
    g = np.stack([x[:, 0], 2 * relu(-x[:, 1])], axis=1)
    inner = weights((1, 0), (0, 1), (0, -1))
    yield Case(
        "sum_f", "The first of two terms", "additive", "f = relu(x₁) − |x₂|", "relu(x₁) and −|x₂|",
        lambda x: relu(x[:, 0]) - np.abs(x[:, 1]), rectified(affine(inner), affine(weights((1, -1, -1)))), x,
        agreed(f),
    )  # fmt: skip
    split = weights((1, 0), (-1, 0), (0, -1))
    yield Case(
        "sum_g", "The second of two terms", "additive", "g = x₁ + 2·relu(−x₂)", "x₁ and 2·relu(−x₂)",
        lambda x: x[:, 0] + 2 * relu(-x[:, 1]), rectified(affine(split), affine(weights((1, -1, 2)))), x,
        agreed(g),
    )  # fmt: skip
    every = weights((1, 0), (0, 1), (0, -1), (-1, 0))
    yield Case(
        "sum_both", "The sum of the two terms", "additive", "2·f + g", "2·f's parts + g's parts",
        lambda x: 2 * relu(x[:, 0]) - 2 * np.abs(x[:, 1]) + x[:, 0] + 2 * relu(-x[:, 1]),
        rectified(affine(every), affine(weights((3, -2, 0, -1)))), x, agreed(2 * f + g),
        sum_of=((2.0, "sum_f"), (1.0, "sum_g")),
    )  # fmt: skip
