"""Cancellation, saturation, and gates of minima and maxima: functions that fold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from whence.study.truth.case import Case, affine, agreed, differing, draw, pair, rectified, relu, weights
from whence.study.truth.cases.patterns import BLOCK, TEE, large, pixels

ROWS: Final = 8


def cases() -> Iterator[Case]:
    """Yield the cases that fold."""
    yield from _cancelling()
    yield from _saturating()
    yield _saturated_picture()
    yield from _thresholds()
    yield from _gates()
    yield _largest()
    yield from _twice()


def _cancelling() -> Iterator[Case]:
    x = draw(51, ROWS, 2)
    branches = rectified(affine(weights((1, 0), (1, 0), (0, 1), (0, -1))), affine(weights((1, -1, 1, -1))))
    yield Case(
        "cancel_branches", "Two branches that cancel", "cancellation", "relu(x₁) − relu(x₁) + x₂",
        "nothing for x₁, x₂ for x₂", lambda x: x[:, 1], branches, x,
        agreed(np.stack([np.zeros(ROWS), x[:, 1]], axis=1)), dummies=np.array([True, False]),
    )  # fmt: skip

    x = np.repeat(draw(52, ROWS, 1, low=0.5), 2, axis=1)
    slopes = weights((1, -1))
    yield Case(
        "cancel_sum", "Two parts that add up to nothing", "cancellation", "x₁ − x₂, x₁ = x₂",
        "x₁ and −x₂, though the output is that of the baseline", lambda x: x[:, 0] - x[:, 1],
        rectified(affine(slopes)), x, agreed(slopes * x),
    )  # fmt: skip

    x = np.stack([draw(53, ROWS, low=1.0, high=2.0), draw(54, ROWS, low=-0.9, high=0.9)], axis=1)
    parts = [np.zeros(ROWS), x[:, 1], 2 * x[:, 1]]
    yield Case(
        "cancel_hidden", "A feature that cancels inside", "cancellation", "relu(x₁ + x₂) − relu(x₁ − x₂), x₁ > |x₂|",
        "path integral: nothing for x₁ and 2·x₂; Shapley value: x₂/2 and 3·x₂/2, for x₁ opens the gates",
        lambda x: relu(x[:, 0] + x[:, 1]) - relu(x[:, 0] - x[:, 1]),
        rectified(affine(weights((1, 1), (1, -1))), affine(weights((1, -1)))), x,
        differing(np.stack([parts[0], parts[2]], axis=1), pair(*parts)),
    )  # fmt: skip


def _saturating() -> Iterator[Case]:
    x = np.stack([draw(61, ROWS, low=1.2, high=3.0), np.zeros(ROWS)], axis=1)
    yield Case(
        "saturated_one", "One feature, past its bend", "saturation", "1 − relu(1 − x₁ + x₂), x₁ > 1, x₂ = 0",
        "1 for x₁, the only one that differs from the baseline, though the slope there is 0",
        lambda x: 1 - relu(1 - x[:, 0] + x[:, 1]),
        rectified(affine(weights((-1, 1)), (1,)), affine(weights((-1,)), (1,))), x,
        agreed(np.stack([np.ones(ROWS), np.zeros(ROWS)], axis=1)), alone=0,
    )  # fmt: skip

    x, flat = np.ones((1, 2)), rectified(affine(weights((-1, -1)), (1,)), affine(weights((-1,)), (1,)))
    yield Case(
        "saturated_or", "Either would do", "saturation", "1 − relu(1 − x₁ − x₂) at (1, 1)",
        "half each: either alone gives all of it", lambda x: 1 - relu(1 - x[:, 0] - x[:, 1]), flat, x,
        agreed(weights((0.5, 0.5))), alike=(0, 1),
    )  # fmt: skip

    x = draw(62, ROWS, 2, low=0.6, high=2.0)
    one = np.ones(ROWS)
    yield Case(
        "saturated_sum", "A sum past its bend", "saturation", "1 − relu(1 − x₁ − x₂), x₁ + x₂ > 1",
        "path integral: by size, x₁/(x₁ + x₂); Shapley value: from min(1, x₁) and min(1, x₂) alone and 1 together",
        lambda x: 1 - relu(1 - x[:, 0] - x[:, 1]), flat, x,
        differing(x / x.sum(1, keepdims=True), pair(np.minimum(x[:, 0], 1), np.minimum(x[:, 1], 1), one)),
    )  # fmt: skip

    x = draw(63, ROWS, 2, low=0.1, high=1.0)

    def curve(total: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(4 - 8 * total))

    rise = [curve(each) - curve(np.zeros(1)) for each in (x[:, 0], x[:, 1], x.sum(1))]
    yield Case(
        "saturated_sigmoid", "A steep sigmoid", "saturation", "σ(8·(x₁ + x₂) − 4)",
        "path integral: by size, x₁/(x₁ + x₂) of the rise; Shapley value: the mean over both orders",
        lambda x: curve(x[:, 0] + x[:, 1]), ("formula", {"name": "sigmoid"}), x,
        differing(rise[2][:, None] * x / x.sum(1, keepdims=True), pair(*rise)),
    )  # fmt: skip


def _saturated_picture() -> Case:
    lit = pixels(TEE)
    random = np.random.RandomState(64)
    rows = 6
    unread = large(random.uniform(-0.1, 0.1, size=(rows, 4, 4))) * (lit == 0)
    x = (lit + unread + pixels(BLOCK))[:, None]
    right = np.broadcast_to(lit / 16, x.shape).copy()
    return Case(
        "saturated_picture", "More of a shape than is needed", "saturation",
        "1 − relu(1 − 2 · mean of the T), all of it lit; the block is as bright, and not read",
        "the T, evenly: any half of it would do", lambda x: 1 - relu(1 - 2 * (x * lit / 16).sum((1, 2, 3))),
        rectified(affine(-lit.reshape(1, 64) / 8, (1,)), affine(weights((-1,)), (1,))), x, agreed(right),
        dummies=(lit == 0)[None], cells=4,
    )  # fmt: skip


def _thresholds() -> Iterator[Case]:
    x = draw(65, ROWS, 2, low=0.6, high=2.0)
    rise = [relu(x[:, 0] - 1), relu(x[:, 1] - 1), relu(x.sum(1) - 1)]
    path = rise[2][:, None] * x / x.sum(1, keepdims=True)
    yield Case(
        "threshold", "A sum past a threshold", "saturation", "relu(x₁ + x₂ − 1)",
        "path integral: by size, x₁/(x₁ + x₂) of the output; Shapley value: the mean over both orders",
        lambda x: relu(x[:, 0] + x[:, 1] - 1),
        rectified(affine(weights((1, 1)), (-1,)), affine(weights((1,)))), x, differing(path, pair(*rise)),
    )  # fmt: skip


def _gates() -> Iterator[Case]:
    x = draw(71, ROWS, 2, low=0.2, high=2.0)
    none, least, most = np.zeros(ROWS), x.min(1), x.max(1)
    smaller = x * (x == least[:, None])
    right = differing(smaller, pair(none, none, least))
    words = "path integral: all to the smaller; Shapley value: half each"
    yield Case(
        "minimum", "The smaller of two", "gates", "min(x₁, x₂), both positive", words,
        lambda x: np.minimum(x[:, 0], x[:, 1]), ("formula", {"name": "minimum"}), x, right,
    )  # fmt: skip
    folded = rectified(affine(weights((1, 0), (-1, 0), (1, -1))), affine(weights((1, -1, -1))))
    yield Case(
        "minimum_gate", "The smaller of two, of ReLUs", "gates", "x₁ − relu(x₁ − x₂), both positive", words,
        lambda x: np.minimum(x[:, 0], x[:, 1]), folded, x, right, same_as="minimum",
    )  # fmt: skip

    larger = x * (x == most[:, None])
    right = differing(larger, pair(x[:, 0], x[:, 1], most))
    words = "path integral: all to the larger; Shapley value: half of the smaller to it, and the rest to the larger"
    yield Case(
        "maximum", "The larger of two", "gates", "max(x₁, x₂), both positive", words,
        lambda x: np.maximum(x[:, 0], x[:, 1]), ("formula", {"name": "maximum"}), x, right,
    )  # fmt: skip
    folded = rectified(affine(weights((0, 1), (0, -1), (1, -1))), affine(weights((1, -1, 1))))
    yield Case(
        "maximum_gate", "The larger of two, of ReLUs", "gates", "x₂ + relu(x₁ − x₂), both positive", words,
        lambda x: np.maximum(x[:, 0], x[:, 1]), folded, x, right, same_as="maximum",
    )  # fmt: skip
    x = np.ones((1, 2))
    yield Case(
        "and_gate", "Both are needed", "gates", "relu(x₁ + x₂ − 1) at (1, 1)",
        "half each: neither alone gives anything",
        lambda x: relu(x[:, 0] + x[:, 1] - 1), rectified(affine(weights((1, 1)), (-1,)), affine(weights((1,)))), x,
        agreed(weights((0.5, 0.5))), alike=(0, 1),
    )  # fmt: skip


def _largest() -> Case:
    x = draw(72, ROWS, 4, low=0.2, high=2.0)
    x[:, 3] = x[:, :3].max(1)
    first = np.sort(x[:, :3], axis=1)
    steps = np.diff(first, axis=1, prepend=0.0) / np.array([3.0, 2.0, 1.0])
    places = x[:, :3].argsort(1).argsort(1)
    shapley = np.take_along_axis(steps.cumsum(1), places, axis=1)
    path = x[:, :3] * (x[:, :3] == first[:, 2:])
    none = np.zeros((ROWS, 1))
    return Case(
        "largest", "The largest of three", "gates",
        "max(x₁, x₂, x₃) by max pooling, all positive; x₄ = the largest is not read",
        "path integral: all to the largest; Shapley value: every step up is shared by those that reach it",
        lambda x: x[:, :3].max(1), ("formula", {"name": "largest"}), x,
        differing(np.concatenate([path, none], axis=1), np.concatenate([shapley, none], axis=1)),
        dummies=np.array([False, False, False, True]),
    )  # fmt: skip


def _twice() -> Iterator[Case]:
    """Yield one function as two networks: those of Sundararajan, Taly and Yan, 2017, figure 3."""
    x = np.stack([draw(73, ROWS, low=2.2, high=4.0), draw(74, ROWS, low=0.2, high=1.0)], axis=1)
    whole = x[:, 0] - x[:, 1] - 1
    path = np.stack([x[:, 0], -x[:, 1]], axis=1) * (whole / (whole + 1))[:, None]
    right = differing(path, pair(x[:, 0] - 1, np.zeros(ROWS), whole))
    words = "path integral: x₁ and −x₂, each times 1 − 1/(x₁ − x₂); Shapley value: the mean over both orders"

    def function(x: np.ndarray) -> np.ndarray:
        return relu(relu(x[:, 0] - 1) - relu(x[:, 1]))

    last = affine(weights((1,)))
    yield Case(
        "nested", "One function, first network", "gates", "relu(relu(x₁ − 1) − relu(x₂)), x₁ > 1 + x₂ > 1", words,
        function, rectified(affine(weights((1, 0), (0, 1)), (-1, 0)), affine(weights((1, -1))), last), x, right,
    )  # fmt: skip
    yield Case(
        "nested_again", "One function, second network", "gates",
        "relu(relu(x₁) − 1 − relu(x₂)), x₁ > 1 + x₂ > 1", words,
        function, rectified(affine(weights((1, 0), (0, 1))), affine(weights((1, -1)), (-1,)), last), x, right,
        same_as="nested",
    )  # fmt: skip
