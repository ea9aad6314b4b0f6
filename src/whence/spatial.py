"""Layers with an extent in space: choosing one, laying its activation out on a grid, and its map over the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import isqrt, prod

import numpy as np

from whence import pixels
from whence.backends import Activation, Array, Leaves, Tap
from whence.errors import BadInput, NoGradient, Refused
from whence.problem import Problem, unit
from whence.run import Rows
from whence.site import Layer, Parameter

Reshape = tuple[int, ...] | None
Maps = Callable[[Array, Array], Array]
"""The activation and f's gradient there, both [n, channels, positions], to a map [n, positions]."""


@dataclass(frozen=True)
class SpatialLayer(Layer):
    """A layer whose activation [n, ...] has an extent in space, before or after its channels."""

    channels_last: bool = False

    def __repr__(self) -> str:
        told = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(Layer) if each.repr)
        return f"Layer({', '.join(told)})"


# ---- choosing the layer --------------------------------------------------------------------------------------


def placed(problem: Problem, layer: str | None, method: str) -> Problem:
    """Return the problem at the layer whose map is drawn: the caller's site, `layer`, or the last one that has a map.

    Raises:
        Refused: the model has no such layer, or the one that is named has no extent in space.
    """
    if isinstance(problem.site, Parameter):
        raise Refused(f"{method} draws a layer's map, and {problem.site.words} has none; leave at= out")
    site = problem.site or (None if layer is None else Layer(layer))
    met = _activations(problem, choosing=site is None)
    chosen = _last(met, method) if site is None else _named(met, site)
    if site is None:
        assert chosen is not None
        site = Layer(chosen.name, call=chosen.call)
        problem.run.note(
            f"no layer was named: this is the map of {_words(site)}, the last with an extent in space"
        )
    if chosen is not None and len(chosen.shape) < 3:
        raise Refused(
            f"{method}: {site.words} gives [batch, {', '.join(map(str, chosen.shape[1:]))}], which has no extent in "
            "space; name a convolution, a block or a layer of tokens, or leave it out"
        )
    places = {each.name: getattr(site, each.name) for each in fields(Layer)}
    last = chosen is not None and chosen.channels_last
    return replace(problem, site=SpatialLayer(**places, channels_last=last))


def _words(site: Layer) -> str:
    return f"layer {site.name!r}" + (f" (call {site.call})" if site.call else "")


def _activations(problem: Problem, choosing: bool) -> list[Activation]:
    """Return what the modules do with the first example; its gradients too where a layer is to be chosen."""
    inputs, first = problem.at_inputs(), np.arange(1)

    def answer(leaves: Leaves) -> Array:
        return inputs.evaluate(leaves, first)

    def quick(leaves: Leaves) -> Array:
        return problem.run.backend.value(answer, leaves)

    one = tuple(problem.ops.take(leaf, first) for leaf in inputs.inputs)
    return problem.run.session.activations(answer if choosing else quick, one)


def _named(met: Sequence[Activation], site: Layer) -> Activation | None:
    found = (each for each in met if (each.name, each.call, each.input) == (site.name, site.call, site.input))
    return next(found, None)


def _last(met: Sequence[Activation], method: str) -> Activation:
    """Return the outermost module of the last activation that has an extent in space and is a place to look at.

    Of tokens it must be more than one that the answer reacts to: after the last attention a class token is alone.
    """
    candidates = [each for each in met if not each.passive and each.maker == met.index(each)]
    known = any(each.reacting is not None for each in candidates)
    stream: tuple[int, ...] | None = None
    for each in reversed(candidates):
        if each.shape[0] != 1 or max(_space(each), default=1) == 1 or (known and each.reacting is None):
            continue
        if each.channels_last and each.reacting == 1:
            # Only where the same tokens pass may the map be taken instead: not among queries, keys and values.
            stream = stream or each.shape
        elif stream is None or each.shape == stream:
            same = [other for other in met if other.maker == each.maker and other.name and not other.input]
            return min(same, key=lambda other: other.name.count(".") + other.name.count("/"))
    raise Refused(
        f"{method} draws the map of a layer with an extent in space, and no module of this model gives one; name a "
        "layer that does (layer=...), or take a method for inputs, such as integrated_gradients"
    )


def _space(activation: Activation) -> tuple[int, ...]:
    shape = activation.shape
    return (shape[1:-1] if activation.channels_last else shape[2:]) if len(shape) > 2 else ()


# ---- activations on a grid -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """How an activation [n, ...] lies in space: `space` positions, its channels before or after them.

    Tokens beyond `space`, such as a class token, come first and have no place in it.
    """

    space: tuple[int, ...]
    channels_last: bool

    def unfolded(self, z: Array) -> Array:
        """Return an activation as [n, channels, positions]."""
        if not self.channels_last:
            return z.reshape(z.shape[0], z.shape[1], -1)
        tokens = z.reshape(z.shape[0], -1, z.shape[-1])
        return tokens[:, tokens.shape[1] - prod(self.space) :].swapaxes(1, 2)

    def folded(self, maps: Array) -> Array:
        """Return maps [..., positions] as [..., 1, *space]."""
        return maps.reshape(*maps.shape[:-1], 1, *self.space)


def grid(problem: Problem, shape: Sequence[int], reshape: Reshape) -> Grid:
    """Return the grid of an activation of this shape: tokens of pictures lie as these do, others in a line.

    Raises:
        BadInput: the tokens make no such grid, or do not fill the one that was given.
    """
    site = problem.site
    last = isinstance(site, SpatialLayer) and site.channels_last
    if len(shape) != 3:
        if reshape is not None:
            raise BadInput(f"reshape is for tokens; the layer's value {tuple(shape)} has its own extent")
        return Grid(tuple(shape[1:-1] if last else shape[2:]), last)
    tokens = shape[1]
    if reshape is not None:
        if prod(reshape) > tokens:
            raise BadInput(
                f"reshape is {reshape}, {prod(reshape)} positions, and the layer has {tokens} tokens"
            )
        return Grid(tuple(reshape), True)
    if not last:
        return Grid((shape[2],), False)
    if problem.inputs[0].ndim < 4 and not problem.run.pictures:
        return Grid((tokens,), True)
    height, width = _picture_size(problem)
    for places in (tokens, tokens - 1):
        # Patches are square, so their grid has the sides of the picture: h : w = height : width.
        rows = isqrt(places * height // width)
        if rows and rows * rows * width == places * height and rows * width % height == 0:
            return Grid((rows, rows * width // height), True)
    raise BadInput(
        f"{tokens} tokens, with a class token or without, make no grid of the picture's {height} : {width}; say which "
        "they make: reshape=(height, width)"
    )


def _picture_size(problem: Problem) -> tuple[int, int]:
    """Return height and width of the picture that the model sees."""
    shown = problem.run.preprocess
    given = getattr(shown, "crop", None) or getattr(shown, "size", None)
    if given is not None:
        return (given, given) if isinstance(given, int) else (given[0], given[1])
    leaf = problem.inputs[0]
    one, two = problem.at_inputs().spatial_axes(leaf)
    return int(leaf.shape[one]), int(leaf.shape[two])


def observed(problem: Problem, reshape: Reshape, maps: Maps) -> tuple[Array, Grid]:
    """Return `maps` of the layer's activation and f's gradient there, [n, positions] (or [n, K, positions]).

    The activation, f and the gradient come from one run of the model.

    Raises:
        Refused: the gradient is not finite.
    """
    ops = problem.ops
    grids: list[Grid] = []

    def work(index: Rows) -> Leaves:
        y, z, gradients = _one_run(problem, index)
        lay = grid(problem, z.shape, reshape)
        grids.append(lay)
        here = lay.unfolded(ops.wide(z))
        found: list[Array] = []
        for gradient in gradients:
            if not ops.is_finite(gradient):
                raise Refused(
                    "the model's gradient at the layer is not finite (NaN or infinity); nothing can be drawn"
                )
            found.append(maps(here, lay.unfolded(ops.wide(gradient))))
        return (ops.stack(found, 1) if problem.every_class else found[0]), z, y

    rows = len(problem.rows)
    found, z, y = work(np.arange(rows)) if _answered(problem) else problem.chunked(rows, work)
    # What was seen on the way need not be run again.
    problem.__dict__["point"] = (z,)
    problem.__dict__.setdefault("output", ops.numpy(y).astype(np.float64))
    return found, grids[0]


def _one_run(problem: Problem, index: Rows) -> tuple[Array, Array, list[Array]]:
    """Return f, the layer's value and f's gradient there (one for each class) for some rows."""
    site = problem.site
    assert isinstance(site, Layer)
    part = problem.at(tuple(problem.ops.take(leaf, index) for leaf in problem.inputs), index)
    everyone = np.arange(len(index))
    if problem.run.neuron is None:
        try:
            y, z, pull = problem.run.backend.vjp_within(lambda: _seen(problem, part, site))
        except NoGradient:
            # The general way says what stands in the way.
            pass
        else:
            units = [unit(problem.ops, y, k) for k in range(y.shape[1])] if problem.every_class else [None]
            pulled = [pull(weights)[0] for weights in units]
            if all(gradient is not None for gradient in pulled):
                return y, site.narrow(z), [site.narrow(gradient) for gradient in pulled]
    y, (gradient,) = part.vjp(part.point, everyone)
    several = [gradient[:, k] for k in range(y.shape[1])] if problem.every_class else [gradient]
    return y, part.point[0], several


def _answered(problem: Problem) -> bool:
    """Tell whether these very rows have been run with a graph from the layer on."""
    return any(each.inputs is problem.inputs for each in problem.run.answered)


def _seen(problem: Problem, part: Problem, site: Layer) -> tuple[Array, Array]:
    """Return f and the layer's value for some rows, as the leaf of a graph."""
    if _answered(problem):
        # The graph is gone when its gradient is there.
        answered = problem.run.answered.pop()
        return part.selected(answered.output, np.arange(len(part.rows))), answered.seen
    tap = Tap(site.name, site.call, site.input, leaf=True)
    output, seen = part.run.forward(part.inputs, part.rows, tap)
    return part.selected(output, np.arange(len(part.rows))), seen


# ---- a layer's map over the input ----------------------------------------------------------------------------


def extent(problem: Problem, values: Array) -> tuple[int | None, tuple[int, ...] | None]:
    """Return the channel axis of values (once a class is chosen), and the input's size where they are a layer's."""
    shape = tuple(values.shape[:1]) + tuple(values.shape[2 if problem.every_class else 1 :])
    x = problem.inputs[0]
    if isinstance(problem.site, Parameter):
        return None, None
    if problem.site is None:
        return ((3 if problem.run.channels_last else 1) if len(shape) == 4 else None), None
    channel = _channel_axis(shape, tuple(x.shape))
    if not isinstance(problem.site, SpatialLayer) and len(shape) > 3:
        channel = problem.site.channel_axis(len(shape))
    if channel is None:
        return None, None
    space = len(shape) - 2
    if x.ndim == space + 1:
        return channel, tuple(x.shape[1:])
    last = problem.run.channels_last or (x.ndim == 4 and pixels.channels_last(tuple(x.shape)))
    # The tokens of an input [n, tokens, features].
    last = last or (space == 1 and isinstance(problem.site, SpatialLayer) and problem.site.channels_last)
    return channel, tuple(x.shape[1:-1] if last else x.shape[2:]) if x.ndim == space + 2 else None


def _channel_axis(shape: tuple[int, ...], x: tuple[int, ...]) -> int | None:
    """Return the axis of a layer's channels: [n, channels, length] of signals, [n, tokens, channels] of pictures."""
    if len(shape) != 3:
        return 1 if len(shape) > 3 else None
    if shape[1] == 1 or (len(x) == 3 and shape[1] != x[1]):
        return 1
    return 2 if len(x) > 3 else None
