"""Inputs moved a little and explained again: what the metrics of robustness share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence import pixels
from whence.backends import Array, Leaves
from whence.counts import whole
from whence.errors import BadInput, Refused
from whence.metrics.judged import AGAIN, Judged
from whence.metrics.laid import in_features
from whence.metrics.metric import Metric

# Numbers of all explanations that are held at once.
HELD = 2**24


@dataclass(frozen=True)
class Moved:
    """Some draws of moved inputs, draw by draw: the arrays [draws x B, ...], the example of each row, and the draws.

    What is found out about them stays in `known`, for other metrics that look at the same; each counts its runs.
    """

    judged: Judged
    inputs: Leaves
    rows: Int[np.ndarray, "n"]
    draws: range
    known: dict[str, tuple[Any, Int[np.ndarray, "B"]]] = field(
        default_factory=dict[str, tuple[Any, Int[np.ndarray, "B"]]]
    )

    @cached_property
    def compared(self) -> tuple[Float[np.ndarray, "B d"], Float[np.ndarray, "draws B d"]]:
        """The explanations of the inputs and of the moved inputs: number by number where both have the same shape.

        Else (one number for each pixel beside one for each channel) in the features that are judged.
        """
        return self._once("compared", self._compare)

    def _compare(self) -> tuple[Float[np.ndarray, "B d"], Float[np.ndarray, "draws B d"]]:
        judged = self.judged
        before, after = judged.explained, judged.again(self.inputs, self.rows)
        if all(one.shape[1:] == other.shape[1:] for one, other in zip(before, after, strict=True)):
            return judged.flat, self._shaped(flat(after))
        features = judged.features()
        return judged.shares(features), self._shaped(
            in_features(features.part(self.rows), after, judged.problem)
        )

    @cached_property
    def outputs(self) -> Float[np.ndarray, "draws B ..."]:
        """The model's whole output for the moved inputs."""
        return self._once("outputs", self._run)

    def _run(self) -> Float[np.ndarray, "draws B ..."]:
        self.judged.evaluations += len(self.draws)
        return self._shaped(self.judged.raw.value(self.inputs, self.rows))

    def _once(self, name: str, work: Callable[[], Any]) -> Any:
        if name not in self.known:
            self.known[name] = self.judged.apart(work)
        found, spent = self.known[name]
        self.judged.evaluations += spent
        return found

    def _shaped(self, array: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "draws B ..."]:
        return array.reshape(len(self.draws), self.judged.count, *array.shape[1:])

    @cached_property
    def distance(self) -> Float[np.ndarray, "draws B d"]:
        """By how much the inputs were moved, number by number; pixels that would leave [0, 1] are moved less."""
        return self._shaped(numbers(self.judged, self.inputs)) - numbers(
            self.judged, self.judged.problem.inputs
        )


Measure = Callable[
    [Moved, Float[np.ndarray, "B d"], Float[np.ndarray, "draws B d"]], Float[np.ndarray, "draws B"]
]
"""What is measured of each draw: from the moved inputs and the explanations before and after; NaN where undefined."""


@dataclass(frozen=True)
class Perturbing(Metric):
    """A metric that explains inputs drawn from the box of half a side `radius` around each example."""

    samples: int = 10
    radius: float = 0.1
    same_class: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        whole(self.samples, "samples")
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise BadInput(f"radius is {self.radius!r}; it is a number above 0, in the units of the inputs")

    def measured(self, judged: Judged, measure: Measure) -> Float[np.ndarray, "B samples"]:
        """Return what is measured of each draw; NaN for draws that are left out or where it is not defined."""
        found: list[Float[np.ndarray, "draws B"]] = []
        changes: list[Bool[np.ndarray, "draws B"]] = []
        for moved in _all_moved(judged, self.samples, self.radius):
            before, after = moved.compared
            if before is not judged.flat:
                judged.note(
                    "the explanation and those that the method makes have different shapes: they are compared feature "
                    "by feature, the channels of a pixel together"
                )
            values = measure(moved, before, after)
            changed = self._changed(moved)
            if changed is not None:
                changes.append(changed)
                if self.same_class:
                    values = np.where(changed, np.nan, values)
            found.append(values)
        self._note(judged, changes)
        return np.concatenate(found).T

    def _changed(self, moved: Moved) -> Bool[np.ndarray, "draws B"] | None:
        """Return in which draws another class is predicted; None where there are no classes and nobody asks."""
        judged = moved.judged
        if not self.same_class and judged.outputs.ndim != 2:
            return None
        outputs = moved.outputs
        top = judged.top(outputs.reshape(len(moved.rows), *outputs.shape[2:]))
        return top.reshape(outputs.shape[:2]) != judged.predicted

    def _note(self, judged: Judged, changes: list[Bool[np.ndarray, "draws B"]]) -> None:
        if not changes:
            return
        changed = np.concatenate(changes)
        if changed.any():
            done = "are left out" if self.same_class else "count as well (same_class=True leaves them out)"
            judged.note(
                f"another class is predicted in {int(changed.sum())} of {changed.size} draws "
                f"({int(changed.any(0).sum())} of {changed.shape[1]} examples); they {done}"
            )


def flat(values: tuple[Float[np.ndarray, "n ..."], ...]) -> Float[np.ndarray, "n d"]:
    """Return all numbers of each explanation in a row."""
    return np.concatenate([each.reshape(len(each), -1) for each in values], 1)


def numbers(judged: Judged, inputs: Leaves) -> Float[np.ndarray, "n d"]:
    """Return the real numbers of inputs in a row, in float64."""
    ops = judged.problem.ops
    arrays = [ops.numpy(leaf).astype(np.float64) for leaf in inputs if ops.is_float(leaf)]
    return np.concatenate([each.reshape(len(each), -1) for each in arrays], 1)


def together(judged: Judged) -> int:
    """Return how many copies of the batch are explained at once."""
    size = judged.count * max(judged.flat.shape[1], 1)
    return max(1, min(AGAIN // judged.count, HELD // size))


def slices(judged: Judged, samples: int) -> Iterator[range]:
    """Return the draws, so many at once as memory allows."""
    step = together(judged)
    for start in range(0, samples, step):
        yield range(start, min(start + step, samples))


def moved_by(judged: Judged, draws: range, noise: Callable[[int, Array, int], Array]) -> Moved:
    """Return inputs of all examples, each number moved by what `noise(leaf number, leaf, draw)` gives."""
    problem, ops = judged.problem, judged.problem.ops
    rows = np.tile(np.arange(judged.count), len(draws))
    leaves: list[Array] = []
    for number, leaf in enumerate(problem.inputs):
        if ops.is_float(leaf):
            steps = [leaf + ops.like(noise(number, leaf, draw), leaf) for draw in draws]
            made = ops.concatenate(steps)
            leaves.append(pixels.within(ops, made) if problem.run.pictures else made)
        else:
            leaves.append(ops.take(leaf, rows))
    return Moved(judged, tuple(leaves), rows, draws)


def _all_moved(judged: Judged, samples: int, radius: float) -> Iterator[Moved]:
    """Return the draws, a few at a time; the noise of a draw is the same for every example."""
    if not any(judged.problem.ops.is_float(leaf) for leaf in judged.problem.inputs):
        raise Refused("the inputs hold whole numbers, and there is no such thing as moving those a little")

    def noise(number: int, leaf: Array, draw: int) -> Float[np.ndarray, "1 ..."]:
        generator = judged.random(f"box {number}", draw)
        return generator.uniform(-radius, radius, (1, *(int(side) for side in leaf.shape[1:])))

    for draws in slices(judged, samples):
        key = ("box", radius, draws)
        if key not in judged.kept:
            made = moved_by(judged, draws, noise)
            if judged.count * samples * judged.flat.shape[1] > HELD:
                yield made
                continue
            judged.kept[key] = made
        # A look of its own for each metric.
        yield replace(judged.kept[key])
