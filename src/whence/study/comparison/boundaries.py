"""Importance along the decision boundary: what matters where the network is torn between two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import whence
from whence import target
from whence.baseline import boundary
from whence.draws import Draws
from whence.errors import Refused
from whence.question import Call, asked
from whence.study.comparison.jobs import rows_of
from whence.study.comparison.setup import CHUNK
from whence.study.comparison.store import Part

if TYPE_CHECKING:
    from whence.study.comparison.tasks import Bench

FOUND = ("normal", "crossing", "distance", "rival")


def part(bench: Bench, number: int) -> Part:
    """Return, for a slice of pictures, two maps each: of the boundary there, and of the way back from it.

    `normal` is |∇(f_top − f_rival)| at the nearest point x* where the two classes tie: how much each pixel turns the
    answer there, the boundary's normal. `crossing` is Integrated Gradients of f_top − f_rival from x* to x: what made
    the picture be on this side. `distance` is ‖x − x*‖₂ in pixel values.

    Source: Wang, Fredrikson, Datta 2022, arXiv:2103.11257 (boundary-based saliency and integrated gradients).
    """
    rows = np.array(rows_of(number, min(bench.setup.budgets.boundary, len(bench.inputs))))
    inputs = bench.inputs[rows]
    points, kept = _nearest(bench, inputs)
    inputs, points = inputs[kept], points[kept]
    if not len(inputs):
        raise Refused(
            "no other class was reached from any of the pictures: the network's answer hardly reacts to them"
        )
    top = bench.predicted[rows][kept]
    rival = _rivals(bench, points, top)
    margin = target.margin(top, rival)
    options: dict[str, Any] = {
        "preprocess": bench.source.preprocess, "seed": bench.setup.seed, "chunk": CHUNK, "target": margin,
    }  # fmt: skip
    normal = whence.explain(bench.source.model, points, "saliency", **options)
    crossing = whence.explain(bench.source.model, inputs, "integrated_gradients", baseline=points, **options)
    distance = np.sqrt(((inputs - points) ** 2).reshape(len(points), -1).sum(1))
    return Part(
        {
            "normal": bench.maps(normal, points), "crossing": bench.maps(crossing, inputs), "distance": distance,
            "rival": rival, "top": top, "points": points[:10], "rows": rows[kept],
        },
        {"lost": int(len(rows) - kept.sum())},
    )  # fmt: skip


def _nearest(bench: Bench, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest points on the boundary, as pictures, and for which inputs one was found."""
    try:
        return _search(bench, inputs), np.ones(len(inputs), dtype=bool)
    except Refused:
        if len(inputs) == 1:
            return inputs * np.nan, np.zeros(1, dtype=bool)
        half = len(inputs) // 2
        parts = [_nearest(bench, each) for each in (inputs[:half], inputs[half:])]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _search(bench: Bench, inputs: np.ndarray) -> np.ndarray:
    call = Call(
        bench.source.model, inputs, preprocess=bench.source.preprocess, seed=bench.setup.seed, chunk=CHUNK
    )
    with asked(call) as question:
        problem = question.problem
        (leaf,) = Draws(problem, boundary()).at(np.arange(len(inputs)), np.zeros(len(inputs), dtype=int))
        return problem.ops.numpy(leaf).astype(np.float32).reshape(inputs.shape)


def _rivals(bench: Bench, points: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Return the strongest other class at each point."""
    from whence.question import outputs

    call = Call(bench.source.model, points, preprocess=bench.source.preprocess, chunk=CHUNK)
    found = outputs(call)
    found[np.arange(len(found)), top] = -np.inf
    return found.argmax(1)
