"""Global importance: the mean map and the mean absolute map of every class over the whole test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from whence.study.comparison.jobs import rows_of
from whence.study.comparison.setup import CHUNK
from whence.study.comparison.store import Part

if TYPE_CHECKING:
    from whence.study.comparison.tasks import Bench

STRATIFIED = "integrated_gradients"
"""The method whose mean takes few gradients a picture, each picture with its own offset (see mean_attribution)."""
NODES = 4


def part(bench: Bench, name: str, number: int) -> Part:
    """Return the sums, by label, of a slice of pictures: of the maps, their absolute values and the squares of both.

    What is explained is the label's own output, right or wrong.
    """
    explained = bench.store.read(f"explain/{bench.network}/{name}").told
    most = bench.setup.mean_of(name, float(explained["evaluations"]))
    rows = np.array(rows_of(number, min(most, len(bench.inputs))))
    classes = bench.store.read(f"predict/{bench.network}").arrays["outputs"].shape[1]
    # The channels of a coloured picture are one pixel's: their maps are put together before they are averaged.
    if name == STRATIFIED and bench.pictures.images.ndim == 3:
        return _stratified(bench, rows, classes)
    sums = [np.zeros((classes, *bench.pictures.images.shape[1:3])) for _ in range(4)]
    count = np.zeros(classes)
    method = bench.method(name)
    for start in range(0, len(rows), 250):
        some = rows[start : start + 250]
        labels = bench.pictures.labels[some]
        maps = bench.maps(bench.explain(method, bench.inputs[some], labels), bench.inputs[some]).astype(
            np.float64
        )
        for total, each in zip(sums, (maps, np.abs(maps), maps**2), strict=False):
            np.add.at(total, labels, each)
        count += np.bincount(labels, minlength=classes)
    return Part(
        {"sum": sums[0], "absolute": sums[1], "squares": sums[2], "count": count}, {"how": "every map whole"}
    )


def _stratified(bench: Bench, rows: np.ndarray, classes: int) -> Part:
    """Return the same by `mean_attribution`: the errors of the single integrals average out."""
    from whence.data_set import mean_attribution

    labels = bench.pictures.labels[rows]
    batches = ((bench.inputs[rows[i : i + 250]], labels[i : i + 250]) for i in range(0, len(rows), 250))
    found = mean_attribution(
        bench.source.model, batches, nodes=NODES, target="label", by="label", labels=True,
        preprocess=bench.source.preprocess, seed=bench.setup.seed, chunk=CHUNK,
    )  # fmt: skip
    space = bench.pictures.images.shape[1:3]
    arrays = {name: np.zeros((classes, *space)) for name in ("sum", "absolute", "squares")}
    count = np.zeros(classes)
    assert found.labels is not None
    for place, label in enumerate(found.labels):
        n = int(found.count[place])
        mean, error = (_pixels(each[place], space) for each in (found.values, found.standard_error))
        count[label] = n
        arrays["sum"][label] = n * mean
        arrays["absolute"][label] = n * _pixels(found.absolute[place], space)
        # From the standard error back to the sum of squares, so that slices can be put together.
        variance = np.nan_to_num(error) ** 2 * n * (n - 1)
        arrays["squares"][label] = variance + n * mean**2
    return Part({**arrays, "count": count}, {"how": f"{NODES} gradients a picture, each with its own offset"})


def _pixels(values: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    if values.ndim == 2:
        return values
    return values.sum(-1 if values.shape[:2] == space else 0)


def together(parts: Sequence[Part]) -> dict[str, Float[np.ndarray, "classes ..."]]:
    """Return the means over all slices: the mean map, the mean absolute map, the standard error of the first, counts.

    The standard error is that of the mean as an estimate for all such pictures: spread / √n; NaN for a single picture.
    """
    total = {name: np.sum([part.arrays[name] for part in parts], 0) for name in parts[0].arrays}
    count = total["count"].reshape(-1, 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total["sum"] / count
        spread = np.maximum(total["squares"] - count * mean**2, 0) / np.where(count > 1, count - 1, np.nan)
        return {
            "mean": mean, "absolute": total["absolute"] / count, "error": np.sqrt(spread / count),
            "count": total["count"],
        }  # fmt: skip
