"""The explained function: one number per row (or one per class) of the inputs, or of a layer inside the model."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from whence import reaction
from whence.backends import Array, Leaves, Operations, Swap, Tap
from whence.errors import NoGradient, Refused
from whence.pixels import scaled
from whence.run import Rows, Run
from whence.site import Layer, Parameter, Site
from whence.target import Resolved

NO_DEPENDENCE = "the explained output does not depend on the input: every share is 0"


@dataclass(frozen=True)
class Problem:
    """Rows to explain: the inputs of each, which of the user's examples it belongs to, and the site.

    Samplers make new problems with other inputs (`at`); methods read `point` and call `vjp`, `gradient`, `value`.
    `target` stands in for the run's, and `choose` says which of its classes belongs to each row. `weights` are the
    parameter of each row [n, ...], where it is the site and a sampler has moved it.
    """

    run: Run
    inputs: Leaves
    rows: Rows
    site: Site | None = None
    target: Resolved | None = None
    choose: Rows | None = None
    weights: Leaves | None = None

    @property
    def ops(self) -> Operations:
        """The framework's array functions."""
        return self.run.backend.ops

    @property
    def every_class(self) -> bool:
        """Whether f has a class axis."""
        return self._target is not None and self._target.every_class

    @property
    def _target(self) -> Resolved | None:
        return self.target or self.run.target

    @cached_property
    def point(self) -> Leaves:
        """Where the shares are handed out, [n, ...]: the inputs, the layer's activation, or each row's parameter."""
        return self.project(self.inputs) if self.weights is None else self.weights

    @property
    def given(self) -> Leaves:
        """What a sampler adds noise to, [n, ...]: the inputs, or the weights where they are explained."""
        return self.point if isinstance(self.site, Parameter) else self.inputs

    @property
    def features(self) -> int:
        """How many numbers each row of the site has."""
        return sum(math.prod(leaf.shape[1:]) for leaf in self.point)

    @cached_property
    def output(self) -> np.ndarray:
        """F at the inputs, [n] or [n, K]."""
        return self.value(self.point)

    def at(self, inputs: Leaves, rows: Rows) -> Problem:
        """Return the same question about other inputs; `rows` are positions in this problem."""
        weights = None if self.weights is None else tuple(self.ops.take(leaf, rows) for leaf in self.weights)
        return replace(self, inputs=inputs, rows=self.rows[rows], weights=weights)

    def part(self, rows: Rows) -> Problem:
        """Return the same question about some of the rows, with what is already known of them."""
        some = self.at(tuple(self.ops.take(leaf, rows) for leaf in self.inputs), rows)
        if "point" in self.__dict__:
            some.__dict__["point"] = tuple(self.ops.take(leaf, rows) for leaf in self.point)
        return some if self.choose is None else replace(some, choose=self.choose[rows])

    def moved(self, given: Leaves, rows: Rows) -> Problem:
        """Return the same question with other values of what was `given`."""
        if not isinstance(self.site, Parameter):
            return self.at(given, rows)
        inputs = tuple(self.ops.take(leaf, rows) for leaf in self.inputs)
        return replace(self, inputs=inputs, rows=self.rows[rows], weights=given)

    def at_inputs(self, target: Resolved | None = None) -> Problem:
        """Return the question asked at the inputs instead of at the site, with another target where given."""
        run = replace(self.run, neuron=None) if target is not None else self.run
        return Problem(run, self.inputs, self.rows, None, target or self.target)

    def native(self, array: Array, leaf: Array) -> Array:
        """Return a user's array (a baseline) in the framework and dtype of an input; of pictures, as pixels."""
        return self.ops.like(scaled(array) if self.run.pictures else array, leaf)

    def project(self, inputs: Leaves) -> Leaves:
        """Return the site's values for inputs [n, ...] of this problem's rows."""
        site = self.site
        if site is None:
            return inputs
        if isinstance(site, Parameter):
            if inputs is not self.inputs:
                raise Refused(
                    f"{site.words} does not follow from the inputs: methods that compare inputs have no way to it"
                )
            own = self.run.session.parameter(site.name)
            return (self.ops.take(own[None], np.zeros(len(self.rows), dtype=int)),)

        def seen(index: Rows) -> Array:
            leaves = tuple(self.ops.take(leaf, index) for leaf in inputs)
            return self.run.backend.value(lambda given: self.tapped(given, self.rows[index]), leaves)

        return (site.narrow(self._gather(seen)),)

    def push(self, velocity: Leaves) -> tuple[Leaves, Leaves]:
        """Return a layer's values at the inputs, and how they change when those move at a velocity [n, ...].

        For one chunk of rows.
        """
        z, speed = self.run.backend.jvp(lambda given: self.tapped(given, self.rows), self.inputs, velocity)
        return (z,), (speed,)

    def tapped(self, inputs: Leaves, rows: Rows | None = None) -> Array:
        """Return all channels of the layer's value for inputs [n, ...] of some of the user's examples."""
        assert isinstance(self.site, Layer)
        tap = Tap(self.site.name, self.site.call, self.site.input, stop=True)
        return self.run.forward(inputs, self.rows if rows is None else rows, tap)[0]

    def evaluate(self, point: Leaves, index: Rows) -> Array:
        """Return f [n] (or [n, K]) at points of the site; `index` [n] is the position of each in this problem."""
        return self.selected(self._output(point, index, self.rows[index]), index)

    def selected(self, output: Array, index: Rows) -> Array:
        """Return f [n] (or [n, K]) of the model's output for rows at these positions in this problem."""
        if self._target is None:
            return output
        return self._target.select(output, (self.rows if self.choose is None else self.choose)[index])

    def evaluate_all(self, point: Leaves) -> Array:
        """Return f [n] (or [n, K]) where every row of this problem has its own point [n, ...]."""
        return self.evaluate(point, np.arange(len(self.rows)))

    def evaluate_one(self, inputs: Leaves) -> Array:
        """Return f [n] (or [n, K]) where every row has the one input [1, ...]: the model runs once."""
        output = self.ops.take(
            self.run.forward(inputs, self.rows[:1])[0], np.zeros(len(self.rows), dtype=int)
        )
        if self._target is None:
            return output
        return self._target.select(output, self.rows if self.choose is None else self.choose)

    def _output(self, point: Leaves, index: Rows, rows: Rows) -> Array:
        site = self.site
        if site is None:
            return self.run.forward(point, rows)[0]
        inputs = tuple(self.ops.take(leaf, index) for leaf in self.inputs)
        if isinstance(site, Layer):
            replacement = site.widen(point[0], self._whole, index, self.ops)
            return self.run.forward(inputs, rows, Tap(site.name, site.call, site.input, replacement))[0]

        def alone(row: int) -> Array:
            # A model takes one array for all rows, and here each has its own: it is run for one at a time.
            one = tuple(leaf[row : row + 1] for leaf in inputs)
            return self.run.forward(one, rows[row : row + 1], Swap(site.name, point[0][row]))[0]

        return self.ops.concatenate([alone(row) for row in range(len(index))])

    @cached_property
    def _whole(self) -> Array:
        """The layer's full activation, for sites of some channels only."""
        assert isinstance(self.site, Layer)
        return replace(self, site=self.site.whole).point[0]

    def value(self, point: Leaves, index: Rows | None = None) -> np.ndarray:
        """Return f at points of the site, [n] or [n, K], in float64, without gradients."""
        return self.ops.numpy(self.native_value(point, index)).astype(np.float64)

    def native_value(self, point: Leaves, index: Rows | None = None) -> Array:
        """Return f at points of the site as the framework's own array."""
        index = np.arange(len(self.rows)) if index is None else index

        def work(part: Rows) -> Array:
            leaves = tuple(self.ops.take(leaf, part) for leaf in point)
            return self.run.backend.value(lambda given: self.evaluate(given, index[part]), leaves)

        return self._gather(work, len(index))

    def chunked(self, total: int, work: Callable[[Rows], Leaves]) -> Leaves:
        """Return what `work` gives for parts of `total` rows, put together."""
        parts: dict[int, Leaves] = {}

        def chunk(start: int, stop: int) -> Array:
            parts[start] = work(np.arange(start, stop))
            return parts[start][0]

        self.run.chunks.run(self.run.backend, total, chunk)
        pieces = [parts[start] for start in sorted(parts)]
        return tuple(self.ops.concatenate(leaf) for leaf in zip(*pieces, strict=True))

    def _gather(self, work: Callable[[Rows], Array], total: int | None = None) -> Array:
        total = len(self.rows) if total is None else total
        parts: dict[int, Array] = {}

        def chunk(start: int, stop: int) -> Array:
            parts[start] = work(np.arange(start, stop))
            return parts[start]

        self.run.chunks.run(self.run.backend, total, chunk)
        return self.ops.concatenate([parts[start] for start in sorted(parts)])

    def vjp(
        self, point: Leaves, index: Rows, function: Callable[[Leaves, Rows], Array] | None = None
    ) -> tuple[Array, Leaves]:
        """Return f [n] (or [n, K]) and its gradients, each [n, ...] (or [n, K, ...]), for one chunk of points.

        `function` stands in for `evaluate` where the points are not the site's (fusion).
        """
        function = function or self.evaluate
        try:
            y, pull = self.run.backend.vjp(lambda leaves: function(leaves, index), point)
            pulled = [pull(each) for each in self._units(y)]
        except NoGradient:
            if self.reacts():
                raise
            where = "the input" if self.site is None else self.site.words
            self.run.note(f"the explained output does not depend on {where}: every share is 0")
            y = self.run.backend.value(lambda leaves: function(leaves, index), point)
            return y, tuple(self.ops.zeros((*y.shape, *leaf.shape[1:]), leaf) for leaf in point)
        columns = [self.filled(each, point) for each in pulled]
        if not self.every_class:
            return y, columns[0]
        return y, tuple(self.ops.stack(each, 1) for each in zip(*columns, strict=True))

    def _units(self, y: Array) -> list[Array | None]:
        """Return the weights of the outputs for each way back that is asked for: every class, or f itself."""
        return [unit(self.ops, y, k) for k in range(y.shape[1])] if self.every_class else [None]

    def gradient(self, point: Leaves | None = None) -> tuple[np.ndarray, Leaves]:
        """Return f and its gradients at every row, chunk by chunk."""
        point = self.point if point is None else point
        parts: dict[int, tuple[Array, Leaves]] = {}

        def chunk(start: int, stop: int) -> Array:
            index = np.arange(start, stop)
            parts[start] = self.vjp(tuple(self.ops.take(leaf, index) for leaf in point), index)
            return parts[start][0]

        self.run.chunks.run(self.run.backend, len(self.rows), chunk)
        pieces = [parts[start] for start in sorted(parts)]
        y = self.ops.numpy(self.ops.concatenate([piece[0] for piece in pieces])).astype(np.float64)
        gradients = tuple(
            self.ops.concatenate(leaf) for leaf in zip(*(piece[1] for piece in pieces), strict=True)
        )
        for gradient in gradients:
            if not self.ops.is_finite(gradient):
                raise Refused(
                    "the model's gradient at the input is not finite (NaN or infinity); nothing can be shared"
                )
        return y, gradients

    def filled(self, gradients: tuple[Array | None, ...], point: Leaves) -> Leaves:
        """Return gradients with zeros where there are none, and a note that says why."""
        for leaf, gradient in enumerate(gradients):
            # Of what fusion put in the place of an input there may be several leaves: one of them says nothing.
            if gradient is None and len(gradients) == len(self.point):
                name = self.run.structure.name(leaf) if self.site is None else self.site.words
                self.run.note(
                    f"the explained output depends on {name}, but its gradient is cut inside the model (detached, or "
                    "a step): its shares are 0 and the residual holds what is missing"
                    if self.reacts(leaf)
                    else f"the explained output does not use {name}: its shares are 0"
                )
        pairs = zip(gradients, point, strict=True)
        return tuple(self.ops.zeros(leaf.shape, leaf) if g is None else g for g, leaf in pairs)

    def reacts(self, leaf: int | None = None) -> bool:
        """Whether f changes when the site (or one leaf of it) is changed a lot: then the gradient is cut."""
        if leaf not in self._reactions:
            self._reactions[leaf] = reaction.reacts(self, leaf)
        return self._reactions[leaf]

    @cached_property
    def _reactions(self) -> dict[int | None, bool]:
        return {}

    # ---- what the parts need to know about the data ------------------------------------------------------

    def random(self, purpose: str, draw: int) -> np.random.Generator:
        """Return a generator that depends on the seed, the purpose and the draw, and on nothing else."""
        sequence = np.random.SeedSequence(self.run.seed, spawn_key=(zlib.crc32(purpose.encode()), draw))
        return np.random.Generator(np.random.Philox(sequence))

    def spread(self, leaf: Array) -> Array:
        """Return each row's range max − min, [n, 1, ...]."""
        flat = leaf.reshape(leaf.shape[0], -1)
        shape = (leaf.shape[0], *(1,) * (leaf.ndim - 1))
        values = self.ops.numpy(flat)
        return self.ops.like((values.max(1) - values.min(1)).reshape(shape), leaf)

    def spatial_axes(self, leaf: Array) -> tuple[int, int]:
        """Return the axes of height and width.

        Raises:
            Refused: the array has no two axes of space, or is no picture.
        """
        if isinstance(self.site, Parameter):
            raise Refused(f"blurring needs pictures, and {self.site.words} is none; leave it out")
        if leaf.ndim < 3:
            raise Refused(
                f"blurring needs pictures, [batch, ..., height, width]; this input is {tuple(leaf.shape)}"
            )
        return (leaf.ndim - 3, leaf.ndim - 2) if self.channels_last(leaf) else (leaf.ndim - 2, leaf.ndim - 1)

    def channels_last(self, leaf: Array) -> bool:
        """Tell whether an array at the site is of pictures whose channels are the last axis."""
        if isinstance(self.site, Layer):
            # How the pictures are held says nothing about a layer; the framework does.
            return self.site.channel_axis(leaf.ndim) != 1
        return self.run.channels_last and self.site is None and leaf.ndim == 4


def unit(ops: Operations, y: Array, column: int) -> Array:
    """Return weights [n, K] that choose one class of an output."""
    weights = np.zeros(tuple(y.shape))
    weights[:, column] = 1
    return ops.like(weights, y)
