"""Gradients at many nodes of straight lines, summed in one compiled loop: what a user would write by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from whence.backends import Array, Leaves
from whence.backends.tensorflow_array import Wrapped
from whence.backends.tensorflow_gradient import Passing, recorded
from whence.backends.tensorflow_trace import Traced

# How many rounds of a loop may run beside each other.
ROUNDS = 4


class Pairs(Protocol):
    """Pairs of an example and a node: see `whence.sweep.Pairs`."""

    row: np.ndarray
    alpha: np.ndarray
    pair: np.ndarray
    cell: np.ndarray
    weight: np.ndarray


@dataclass
class Probe(Passing):
    """One run that shows what the model is given, and what weight each of its outputs has in the answer."""

    met: list[tuple[Traced, list[Any]]] = field(default_factory=list[tuple[Traced, list[Any]]])
    outputs: list[Any] = field(default_factory=list[Any])

    def run(self, traced: Traced, tensors: list[Any], misled: set[Traced]) -> list[Any]:
        """Run the model as it is, and look at what comes back to its outputs."""
        self.met.append((traced, tensors))
        with self.unrecorded():
            self.outputs = list(traced.forward(*tensors))
        self.tape.watch([self.outputs[place] for place in traced.answers])
        return self.outputs


def loop(ask: Callable[[Leaves], Array], start: Leaves, steps: Leaves, rows: int) -> Any:
    """Return the loop over lines; None where the model is not run as one compiled function of the leaves.

    Args:
        ask: the explained function of the examples' own points, linear in the model's outputs.
        start: where the lines begin, [examples, ...].
        steps: how far they go.
        rows: how many pairs there are in a round.
    """
    leaves = [leaf.tensor for leaf in start]
    probe = Probe(dry=False)
    y, tape = recorded(ask, leaves, probe)
    if len(probe.met) != 1 or y.shape.rank != 1:
        return None
    traced, tensors = probe.met[0]
    answers = [probe.outputs[place] for place in traced.answers]
    found = tape.gradient(y, answers)
    seeds = [tf.zeros_like(a) if g is None else tf.convert_to_tensor(g) for g, a in zip(found, answers, strict=True)]
    places = _places(traced, tensors, leaves)
    if places is None:
        return None
    rest = y - _weighted(seeds, answers)
    extras = [each for each, place in zip(tensors, places, strict=True) if place < 0]
    key = ("loop", tuple(places), rows)
    if key not in traced.loops:
        traced.loops[key] = _compiled(traced, places, rows)
    ways = [step.tensor for step in steps]

    def work(sums: Leaves, pairs: Pairs) -> tuple[Leaves, np.ndarray, np.ndarray]:
        bounds = np.searchsorted(pairs.pair, np.arange(0, len(pairs.row) + rows, rows))
        new, output, slope = traced.loops[key](
            [each.tensor for each in sums], leaves, ways, extras, seeds, rest,
            *(tf.constant(each, tf.int64) for each in (pairs.row, pairs.pair, pairs.cell, bounds)),
            *(tf.constant(each, tf.float64) for each in (pairs.alpha, pairs.weight)),
        )  # fmt: skip
        return tuple(map(Wrapped, new)), output.numpy(), slope.numpy()

    return work


def _places(traced: Traced, tensors: Sequence[Any], leaves: Sequence[Any]) -> list[int] | None:
    """Return which leaf each of the model's tensors is, −1 for those that have a row for each example.

    None where a leaf is not handed over as it is, or something else is given besides.
    """
    found: list[int] = []
    for tensor, spec in zip(tensors, traced.specs, strict=True):
        place = next((number for number, leaf in enumerate(leaves) if leaf is tensor), -1)
        if place < 0 and not (spec.shape.rank and spec.shape[0] is None):
            return None
        found.append(place)
    return found if set(range(len(leaves))) <= set(found) else None


def _weighted(seeds: Sequence[Any], answers: Sequence[Any]) -> Any:
    """Return Σ seed · answer of each row; what has no weight may be infinite."""
    parts = [
        tf.where(seed == 0, tf.zeros_like(seed), seed * answer) for seed, answer in zip(seeds, answers, strict=True)
    ]
    return tf.add_n([tf.reduce_sum(tf.reshape(each, (tf.shape(each)[0], -1)), 1) for each in parts])


def _wide(tensor: Any) -> Any:
    return tensor if tensor.dtype in (tf.float32, tf.float64) else tf.cast(tensor, tf.float32)


def _flat(tensor: Any) -> Any:
    return tf.reshape(tensor, (tf.shape(tensor)[0], -1))


def _laid(numbers: Any, tensor: Any) -> Any:
    """Return one number for each row, laid beside a tensor."""
    return tf.reshape(tf.cast(numbers, tensor.dtype), (-1, *(1,) * (tensor.shape.rank - 1)))


def _compiled(traced: Traced, places: Sequence[int], rows: int) -> Any:
    """Return the loop as a function that is traced once."""

    def gradients(tensors: list[Any], seeds: list[Any]) -> tuple[list[Any], dict[int, Any]]:
        outputs, found = traced.derived(tensors, seeds)
        by_leaf: dict[int, Any] = {}
        for place, gradient in zip(traced.floats, found, strict=True):
            if gradient is not None and places[place] >= 0:
                known = by_leaf.get(places[place])
                by_leaf[places[place]] = gradient if known is None else known + gradient
        return outputs, by_leaf

    def sweep(
        sums: Any, start: Any, ways: Any, extras: Any, seeds: Any, rest: Any, row: Any, pair: Any, cell: Any,
        bounds: Any, alpha: Any, weight: Any,
    ) -> Any:  # fmt: skip
        rounds = tf.shape(bounds)[0] - 1

        def turn(number: Any, sums: Any, outputs: Any, slopes: Any) -> Any:
            begin = number * rows
            here, nodes = row[begin : begin + rows], alpha[begin : begin + rows]
            ways_here = [tf.gather(each, here) for each in ways]
            points = [
                tf.gather(each, here) + _laid(nodes, way) * way
                for each, way in zip(start, ways_here, strict=True)
            ]
            others = iter(extras)
            tensors = [points[p] if p >= 0 else tf.gather(next(others), here) for p in places]
            weights = [tf.gather(each, here) for each in seeds]
            found, by_leaf = gradients(tensors, weights)
            y = tf.gather(rest, here) + _weighted(weights, [found[place] for place in traced.answers])
            entries = slice(bounds[number], bounds[number + 1])
            source, cells, scale = pair[entries] - tf.cast(begin, tf.int64), cell[entries], weight[entries]
            slope, new = tf.zeros_like(y, tf.float64), []
            for leaf, total in enumerate(sums):
                gradient = _wide(by_leaf.get(leaf, tf.zeros_like(points[leaf])))
                slope += tf.cast(tf.reduce_sum(_flat(gradient * _wide(ways_here[leaf])), 1), tf.float64)
                part = tf.gather(gradient, source) * _laid(scale, gradient)
                new.append(tf.tensor_scatter_nd_add(total, cells[:, None], part))
            return number + 1, new, outputs.write(number, tf.cast(y, tf.float64)), slopes.write(number, slope)

        empty = [tf.TensorArray(tf.float64, rounds, infer_shape=False, element_shape=(None,)) for _ in range(2)]
        _, sums, outputs, slopes = tf.while_loop(
            lambda number, *_: number < rounds, turn, (tf.constant(0), list(sums), *empty), parallel_iterations=ROUNDS
        )
        return sums, outputs.concat(), slopes.concat()

    return tf.function(sweep, autograph=False, reduce_retracing=True)
