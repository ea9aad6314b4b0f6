"""Weights of a layer's channels from forward passes: through masks, without a channel, or of the classifier itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from whence import cam
from whence.backends import Array, Leaves
from whence.errors import Refused
from whence.naming import floating
from whence.problem import Problem
from whence.run import Rows
from whence.spatial import Grid, Reshape, grid, observed

Weights = Float[np.ndarray, "n channels *K"]
# Where a head that pools must be as linear: near the activation, and far from it to both sides, in two directions.
MOVES = ((0, 0.5), (0, 4.0), (0, -4.0), (1, 4.0), (1, -4.0))


def masked(problem: Problem, baseline: Any, reshape: Reshape) -> tuple[Weights, int]:
    """Return the softmax over channels of f(x' + m (x − x')), and how many masks m that took.

    Raises:
        Refused: no input has the layer's extent in space, or the baseline is several.
    """
    if baseline.draws > 1:
        raise Refused(f"Score-CAM covers the input by one baseline; {baseline!r} is {baseline.draws}")
    ops, inputs = problem.ops, problem.at_inputs()
    z = problem.point[0]
    lay = grid(problem, z.shape, reshape)
    masks, varies = cam.normalised(ops.numpy(lay.unfolded(ops.wide(z))).astype(np.float64))
    axes = [axes_of(inputs, leaf, lay) for leaf in inputs.inputs]
    if not any(axes):
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in inputs.inputs)
        raise Refused(
            f"Score-CAM covers the input with maps of {lay.space} positions, and inputs of shape {shapes} have no such "
            "extent; take a CAM that weighs by gradients, such as gradcam"
        )
    start = baseline.start(inputs, 0)
    channels = masks.shape[1]

    def work(index: Rows) -> Leaves:
        rows, channel = index // channels, index % channels
        seen = masks[rows, channel].reshape(len(index), *lay.space)

        def covered(x: Array, base: Array, where: tuple[int, ...]) -> Array:
            x, base = ops.take(x, rows), ops.take(base, rows)
            return base + stretched(problem, seen, x, where) * (x - base) if where else x

        point = tuple(covered(*each) for each in zip(inputs.inputs, start, axes, strict=True))
        return (ops.wide(problem.run.backend.value(lambda given: inputs.evaluate(given, rows), point)),)

    scores = _table(problem, channels, *problem.chunked(len(problem.rows) * channels, work))
    return cam.softmax(scores, varies), channels


def axes_of(inputs: Problem, leaf: Array, lay: Grid) -> tuple[int, ...]:
    """Return the axes of an input over which a mask is laid; none where it has no such extent."""
    if not inputs.ops.is_float(leaf) or len(lay.space) > 2:
        return ()
    if len(lay.space) == 2:
        return inputs.spatial_axes(leaf) if leaf.ndim == 4 else (1, 2) if leaf.ndim == 3 else ()
    if leaf.ndim == 3:
        # Tokens and signals: the places of [n, tokens, features], or of [n, channels, length].
        return (1,) if lay.channels_last else (2,)
    return (1,) if leaf.ndim == 2 else ()


def stretched(problem: Problem, masks: np.ndarray, x: Array, axes: tuple[int, ...]) -> Array:
    """Return masks [n, *space] at the size of an input, with an axis of 1 wherever it has others."""
    ops = problem.ops
    wide = ops.wide(x)
    size = tuple(x.shape[axis] for axis in axes)
    flat = ops.like(masks.reshape(len(masks), 1, -1, masks.shape[-1]), wide)
    resized = ops.resize(flat, (1, *size) if len(size) == 1 else (size[0], size[1]))
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(1, x.ndim)]
    return ops.cast(resized.reshape(len(masks), *shape), x)


def ablated(problem: Problem, reshape: Reshape) -> tuple[Weights, int]:
    """Return (f − f without channel k) / f, and how many forward passes that took; 0 where f is 0."""
    ops, z = problem.ops, problem.point[0]
    last = grid(problem, z.shape, reshape).channels_last
    channels = z.shape[-1] if last else z.shape[1]
    shape = (*(1,) * (z.ndim - 2), channels) if last else (channels, *(1,) * (z.ndim - 2))

    def work(index: Rows) -> Leaves:
        rows, channel = index // channels, index % channels
        kept = np.ones((len(index), channels))
        kept[np.arange(len(index)), channel] = 0
        part = ops.take(z, rows)
        point = (part * ops.like(kept.reshape(len(index), *shape), part),)
        return (ops.wide(problem.run.backend.value(lambda given: problem.evaluate(given, rows), point)),)

    without = _table(problem, channels, *problem.chunked(len(problem.rows) * channels, work))
    # Not the output of the plain run: what is subtracted must have been computed the same way.
    whole = problem.value((z,))[:, None]
    return np.where(whole == 0, 0.0, (whole - without) / np.where(whole == 0, 1.0, whole)), channels


def _table(problem: Problem, channels: int, found: Array) -> np.ndarray:
    """Return answers for every row and channel [n, channels] (or [n, channels, K]) in float64."""
    values = problem.ops.numpy(found).astype(np.float64)
    return values.reshape(len(problem.rows), channels, *values.shape[1:])


def pooled(problem: Problem, reshape: Reshape) -> tuple[Array, Grid, int]:
    """Return Σ_k w_k z_k where f = Σ_k w_k mean(z_k) + b, and how many evaluations it took to be sure of that.

    The gradient must be the same at every position, and f must follow it to other points.

    Raises:
        Refused: f is no such function of the layer.
    """
    ops, site, z = problem.ops, problem.site, problem.point[0]
    lay, rounding = grid(problem, z.shape, reshape), _rounding(z)
    noises = [_noise(problem, lay, draw) for draw in range(2)]
    even: list[bool] = []

    def maps(here: Array, g: Array) -> Array:
        each, mean = ops.numpy(g), ops.numpy(g.mean(-1))
        uneven = np.abs(each - mean[:, :, None]).max((1, 2), initial=0.0)
        even.append(bool((uneven <= rounding * np.abs(mean).max(1, initial=0.0)).all()))
        weights = g.sum(-1)
        slopes = [(weights * lay.unfolded(noise).mean(-1)).sum(1) for noise in noises]
        return ops.concatenate([cam.weighted(weights, here), ops.stack(slopes, 1)], 1)

    found, lay = observed(problem, reshape, maps)
    slopes = ops.numpy(found).astype(np.float64)[..., -len(noises) :]
    if not (
        all(even)
        and all(_follows(problem, noises[i] * far, slopes[..., i] * far, rounding) for i, far in MOVES)
    ):
        assert site is not None
        raise Refused(
            f"CAM explains networks that end in global average pooling and one linear layer; after {site.words} this "
            "one does not (probabilities are not linear either: explain the logit). gradcam works for any head"
        )
    return found[..., : -len(noises)], lay, 1 + len(noises)


def _noise(problem: Problem, lay: Grid, draw: int) -> Array:
    """Return how every row's activation is moved, [1, ...]: each channel as a whole, and at each of its positions."""
    z = problem.point[0]
    generator = problem.random("cam", draw)
    channel = [z.shape[-1] if lay.channels_last else z.shape[1]]
    rest = [1] * (z.ndim - 2)
    whole = generator.standard_normal(rest + channel if lay.channels_last else channel + rest)
    return problem.ops.like((whole + generator.standard_normal(z.shape[1:]))[None], problem.ops.wide(z))


def _follows(problem: Problem, move: Array, slope: np.ndarray, rounding: float) -> bool:
    """Tell whether f changes by `slope` [n] (or [n, K]) for every unit of a move, whose length is that of z."""
    ops, z = problem.ops, problem.point[0]
    size = np.abs(ops.numpy(ops.wide(z))).reshape(len(problem.rows), -1).max(1)
    size = np.where(size == 0, 1.0, size)
    there = ops.wide(z) + ops.like(size.reshape(-1, *(1,) * (z.ndim - 1)), ops.wide(z)) * move
    change = problem.value((ops.cast(there, z),)) - problem.output
    told = slope * size.reshape(-1, *(1,) * (slope.ndim - 1))
    scale = np.abs(problem.output) + np.abs(change) + np.abs(told)
    return bool((np.abs(change - told) <= rounding * scale).all())


def _rounding(z: Array) -> float:
    """Return what a sum over a layer may lose to the floating type of the model."""
    kind = floating(z)
    return {"float16": 2.0**-4, "bfloat16": 2.0**-3, "float32": 1e-3}.get(kind, 1e-8)
