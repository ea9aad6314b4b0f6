"""Gradients at many nodes of straight lines, summed in one compiled loop: what a user would write by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from whence.backends import Array, Leaves
from whence.backends.tensorflow_array import Wrapped
from whence.backends.tensorflow_gradient import Passing, recorded, zeros
from whence.backends.tensorflow_trace import Traced, building

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
        """Put zeros in the place of the model's outputs, and look at what comes back to them."""
        self.met.append((traced, tensors))
        with self.unrecorded():
            self.outputs = zeros(traced, tensors) or list(traced.forward(*tensors))
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
    seeds = [
        tf.zeros_like(a) if g is None else tf.convert_to_tensor(g)
        for g, a in zip(found, answers, strict=True)
    ]
    places = _places(traced, tensors, leaves)
    if places is None:
        return None
    rest = y - _weighted(seeds, answers)
    extras = [each for each, place in zip(tensors, places, strict=True) if place < 0]
    fixed = [*leaves, *(step.tensor for step in steps), *extras, *seeds, rest]
    key = (tuple(places), rows)
    if key not in traced.loops:
        with building:
            counts = (len(leaves), len(leaves), len(leaves), len(extras), len(seeds))
            traced.loops[key] = _compiled(traced, places, rows, counts, fixed)
    compiled = traced.loops[key]

    def work(sums: Leaves, pairs: Pairs) -> tuple[Leaves, np.ndarray, np.ndarray]:
        bounds = np.searchsorted(pairs.pair, np.arange(0, len(pairs.row) + rows, rows))
        *new, output, slope = compiled(
            *(each.tensor for each in sums), *fixed,
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
        tf.where(seed == 0, tf.zeros_like(seed), seed * answer)
        for seed, answer in zip(seeds, answers, strict=True)
    ]
    return tf.add_n([tf.reduce_sum(tf.reshape(each, (tf.shape(each)[0], -1)), 1) for each in parts])


def _wide(tensor: Any) -> Any:
    return tensor if tensor.dtype in (tf.float32, tf.float64) else tf.cast(tensor, tf.float32)


def _flat(tensor: Any) -> Any:
    return tf.reshape(tensor, (tf.shape(tensor)[0], -1))


def _laid(numbers: Any, tensor: Any) -> Any:
    """Return one number for each row, laid beside a tensor."""
    return tf.reshape(tf.cast(numbers, tensor.dtype), (-1, *(1,) * (tensor.shape.rank - 1)))


def _compiled(
    traced: Traced, places: Sequence[int], rows: int, counts: Sequence[int], fixed: Sequence[Any]
) -> Any:
    """Return the loop as a function of flat tensors, traced once for any number of examples, pairs and sums.

    `counts` says how many sums, starts, steps, extras and seeds there are.
    """

    def gradients(tensors: list[Any], seeds: list[Any]) -> tuple[list[Any], dict[int, Any]]:
        outputs, found = traced.derived(tensors, seeds)
        by_leaf: dict[int, Any] = {}
        for place, gradient in zip(traced.floats, found, strict=True):
            if gradient is not None and places[place] >= 0:
                known = by_leaf.get(places[place])
                by_leaf[places[place]] = gradient if known is None else known + gradient
        return outputs, by_leaf

    def sweep(*arguments: Any) -> Any:
        remaining = iter(arguments)
        sums, start, ways, extras, seeds = ([next(remaining) for _ in range(count)] for count in counts)
        rest, row, pair, cell, bounds, alpha, weight = remaining
        rounds = tf.shape(bounds)[0] - 1

        def turn(number: Any, sums: Any, outputs: Any, slopes: Any) -> Any:
            begin = number * rows
            here, nodes = row[begin : begin + rows], alpha[begin : begin + rows]
            ways_here = [tf.gather(each, here) for each in ways]
            pairs = zip(start, ways_here, strict=True)
            points = [tf.gather(each, here) + _laid(nodes, way) * way for each, way in pairs]
            others = iter(extras)
            tensors = [points[place] if place >= 0 else tf.gather(next(others), here) for place in places]
            weights = [tf.gather(each, here) for each in seeds]
            found, by_leaf = gradients(tensors, weights)
            y = tf.gather(rest, here) + _weighted(weights, [found[place] for place in traced.answers])
            entries = slice(bounds[number], bounds[number + 1])
            source, scale = pair[entries] - tf.cast(begin, tf.int64), weight[entries]
            slope, new = tf.zeros_like(y, tf.float64), list[Any]()
            for leaf, total in enumerate(sums):
                gradient = _wide(by_leaf.get(leaf, tf.zeros_like(points[leaf])))
                slope += tf.cast(tf.reduce_sum(_flat(gradient * _wide(ways_here[leaf])), 1), tf.float64)
                part = tf.gather(gradient, source) * _laid(scale, gradient)
                new.append(tf.tensor_scatter_nd_add(total, cell[entries][:, None], part))
            return number + 1, new, outputs.write(number, tf.cast(y, tf.float64)), slopes.write(number, slope)

        empty = [
            tf.TensorArray(tf.float64, rounds, infer_shape=False, element_shape=(None,)) for _ in range(2)
        ]
        begun = (tf.constant(0), sums, *empty)
        more: Any = tf.while_loop(lambda number, *_: number < rounds, turn, begun, parallel_iterations=ROUNDS)
        return [*more[1], more[2].concat(), more[3].concat()]

    sums = [tf.TensorSpec((None, *each.shape[1:]), _wide(each).dtype) for each in fixed[: counts[0]]]
    given = [tf.TensorSpec((None, *each.shape[1:]), each.dtype) for each in fixed]
    lists = [tf.TensorSpec((None,), kind) for kind in (*[tf.int64] * 4, *[tf.float64] * 2)]
    made = tf.function(sweep, input_signature=[*sums, *given, *lists], autograph=False)
    return made.get_concrete_function()
