"""What the network confuses, and why: its mistakes, by the two classes, explained by the margin between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whence import target
from whence.study.comparison.store import Part

if TYPE_CHECKING:
    from whence.study.comparison.tasks import Bench

METHOD = "integrated_gradients"
EXAMPLES = 4
"""Mistakes of a pair that are shown, the surest ones."""


def part(bench: Bench) -> Part:
    """Return the confusion matrix, and the commonest mistakes: for each pair its examples and the mean map of all.

    The map of a mistake says which pixels speak for the class that the network chose and against the true one: the
    attribution of f_predicted − f_true.
    """
    outputs = bench.store.read(f"predict/{bench.network}").arrays["outputs"]
    predicted, labels = outputs.argmax(1), bench.pictures.labels
    classes = outputs.shape[1]
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: bench.setup.budgets.pairs]
    pairs = [divmod(int(each), classes) for each in order if wrong.flat[each]]
    method = bench.method(METHOD)
    arrays: dict[str, np.ndarray] = {"matrix": matrix, "pairs": np.array(pairs).reshape(-1, 2)}
    for number, (true, chosen) in enumerate(pairs):
        rows = np.flatnonzero((labels == true) & (predicted == chosen))
        margin = outputs[rows, chosen] - outputs[rows, true]
        rows = rows[np.argsort(-margin, kind="stable")]
        inputs = bench.inputs[rows]
        maps = bench.maps(bench.explain(method, inputs, target.margin(chosen, true)), inputs)
        arrays[f"rows{number}"] = rows
        arrays[f"maps{number}"] = maps[:EXAMPLES]
        arrays[f"mean{number}"] = maps.mean(0)
    return Part(arrays, {"method": repr(method), "wrong": int(wrong.sum()), "of": len(labels)})
