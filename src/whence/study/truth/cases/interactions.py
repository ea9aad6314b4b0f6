"""Products and XOR: what features give together, and how the conventions divide it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from whence.study.truth.case import Case, affine, agreed, differing, draw, pair, rectified, weights
from whence.study.truth.cases.patterns import BAR, BLOCK, TEE, large, pixels, scene

ROWS: Final = 8


def cases() -> Iterator[Case]:
    """Yield the cases with interactions."""
    yield from _products()
    yield _product_picture()
    yield from _exclusive()
    yield _exclusive_picture()


def _halves(value: np.ndarray, count: int = 2) -> np.ndarray:
    """Return a value shared out evenly, each example's in a row."""
    return np.repeat(value[:, None] / count, count, axis=1)


def _products() -> Iterator[Case]:
    x = draw(31, ROWS, 3)
    x[:, 2] = x[:, 0] + 0.05 * draw(32, ROWS)
    parts = np.concatenate([_halves(x[:, 0] * x[:, 1]), np.zeros((ROWS, 1))], axis=1)
    yield Case(
        "product", "A product of two", "interaction", "x₁·x₂, and x₃ ≈ x₁ is not read",
        "half of the product each, nothing for x₃", lambda x: x[:, 0] * x[:, 1],
        ("formula", {"name": "product"}), x, agreed(parts), dummies=np.array([False, False, True]),
    )  # fmt: skip

    x = draw(33, ROWS, 2)
    whole = x[:, 0] * x[:, 1] ** 2
    yield Case(
        "product_power", "A product with a square", "interaction", "x₁·x₂²",
        "path integral: ⅓ and ⅔ of it (the degrees); Shapley value: half each",
        lambda x: x[:, 0] * x[:, 1] ** 2, ("formula", {"name": "power"}), x,
        differing(np.stack([whole / 3, 2 * whole / 3], axis=1), _halves(whole)),
    )  # fmt: skip

    x = draw(34, ROWS, 3)
    yield Case(
        "product_three", "A product of three", "interaction", "x₁·x₂·x₃", "a third of the product each",
        lambda x: x[:, 0] * x[:, 1] * x[:, 2], ("formula", {"name": "triple"}), x,
        agreed(_halves(x[:, 0] * x[:, 1] * x[:, 2], 3)),
    )  # fmt: skip

    x, absent = draw(35, ROWS, 2), np.array([1.0, -0.5])
    change = x - absent
    parts = np.stack(
        [change[:, 0] * (absent[1] + change[:, 1] / 2), change[:, 1] * (absent[0] + change[:, 0] / 2)], axis=1
    )
    yield Case(
        "product_baseline", "A product from another baseline", "interaction", "x₁·x₂, from x′ = (1, −½)",
        "each its change times the mean of the other on the way: Δ₁·(x′₂ + Δ₂/2) and Δ₂·(x′₁ + Δ₁/2)",
        lambda x: x[:, 0] * x[:, 1], ("formula", {"name": "product"}), x, agreed(parts), baseline=absent,
    )  # fmt: skip

    x = np.repeat(draw(36, ROWS, 1), 2, axis=1)
    yield Case(
        "square_alike", "Two that are alike", "interaction", "(x₁ + x₂)², x₁ = x₂",
        "half each: nothing tells them apart",
        lambda x: (x[:, 0] + x[:, 1]) ** 2, ("formula", {"name": "square of sum"}), x,
        agreed(_halves((x[:, 0] + x[:, 1]) ** 2)), alike=(0, 1),
    )  # fmt: skip


def _product_picture() -> Case:
    one, other = pixels(TEE) / 16, pixels(BAR) / 8
    x = scene(37, {TEE: 1.0, BAR: 1.0}, distractor=BLOCK)
    sums = [(x * each).sum((1, 2, 3), keepdims=True) for each in (one, other)]
    parts = 10 * (one * x * sums[1] + other * x * sums[0]) / 2
    return Case(
        "product_picture", "A product of two shapes", "interaction",
        "10 · mean of the T · mean of the bar; the block is as bright as the T, and not read",
        "half of the product to each shape, by brightness",
        lambda x: 10 * (x * one).sum((1, 2, 3)) * (x * other).sum((1, 2, 3)),
        ("product", {"one": one, "other": other, "factor": 10.0}), x, agreed(parts),
        dummies=((one + other) == 0)[None], cells=4,
    )  # fmt: skip


def _exclusive() -> Iterator[Case]:
    x = weights((1, 0), (0, 1), (1, 1))
    right = weights((1, 0), (0, 1), (0, 0))
    yield Case(
        "xor", "XOR as a polynomial", "interaction", "x₁ + x₂ − 2·x₁·x₂ at (1, 0), (0, 1) and (1, 1)",
        "1 to the one that is on; nothing where both are", lambda x: x[:, 0] + x[:, 1] - 2 * x[:, 0] * x[:, 1],
        ("formula", {"name": "xor"}), x, agreed(right),
    )  # fmt: skip
    gate = rectified(affine(weights((1, -1), (-1, 1))), affine(weights((1, 1))))
    yield Case(
        "xor_gate", "XOR of two ReLUs", "interaction", "relu(x₁ − x₂) + relu(x₂ − x₁) at (1, 0), (0, 1) and (1, 1)",
        "1 to the one that is on; nothing where both are", lambda x: np.abs(x[:, 0] - x[:, 1]), gate, x, agreed(right),
    )  # fmt: skip
    x = draw(41, ROWS, 2)
    sign = np.sign(x[:, 0] - x[:, 1])
    worth = [np.abs(x[:, 0]), np.abs(x[:, 1]), np.abs(x[:, 0] - x[:, 1])]
    yield Case(
        "difference", "The size of a difference", "interaction", "|x₁ − x₂|, of two ReLUs",
        "path integral: ±x₁ and ∓x₂, whichever is larger; Shapley value: the mean over both orders",
        lambda x: np.abs(x[:, 0] - x[:, 1]), gate, x,
        differing(np.stack([sign * x[:, 0], -sign * x[:, 1]], axis=1), pair(*worth)),
    )  # fmt: skip


def _exclusive_picture() -> Case:
    one, other = pixels(TEE) / 16, pixels(BLOCK) / 16
    random = np.random.RandomState(42)
    lit = weights((1, 0), (0, 1), (1, 1), (1, 0), (0, 1), (1, 1))
    shapes = lit[:, 0, None, None] * pixels(TEE) + lit[:, 1, None, None] * pixels(BLOCK)
    # The distractor is lit exactly where XOR is 1, and nothing reads it.
    odd = np.abs(lit[:, 0] - lit[:, 1])[:, None, None] * pixels(BAR)
    unread = large(random.uniform(-0.1, 0.1, size=(len(lit), 4, 4))) * ((one + other) == 0)
    x = (shapes + odd + unread)[:, None]
    kernel = np.stack([one.ravel() - other.ravel(), other.ravel() - one.ravel()])
    right = (np.abs(lit[:, 0] - lit[:, 1])[:, None, None] * (one + other) * shapes)[:, None]
    return Case(
        "xor_picture", "XOR of two shapes", "interaction",
        "|mean of the T − mean of the block|; the bar is lit whenever this is 1, and not read",
        "the shape that is lit, evenly; nothing where both are",
        lambda x: np.abs((x * (one - other)).sum((1, 2, 3))),
        rectified(affine(kernel), affine(weights((1, 1)))), x, agreed(right),
        dummies=((one + other) == 0)[None], cells=4,
    )  # fmt: skip
