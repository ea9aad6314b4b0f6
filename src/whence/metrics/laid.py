"""Explanations laid over the inputs: from a result's values to numbers of elements, and to shares of features."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.attribution import Attribution, to_numpy
from whence.errors import BadInput, Refused
from whence.features.covers import Features
from whence.features.kinds import channel_axis
from whence.problem import Problem


def element_values(result: Attribution, problem: Problem) -> tuple[Float[np.ndarray, "B ..."], ...]:
    """Return a result's values as arrays like the inputs, such that those of a feature sum to its share.

    A layer's map, stretched over the picture, is one number for each pixel: its channel axis has length 1.

    Raises:
        BadInput: the result holds every class.
        Refused: it is of a layer or of weights, and has no map over the input.
    """
    if result.every_class:
        raise BadInput("the explanation holds every class; take one with .for_class(index)")
    parts = problem.run.structure.parts(result.values)
    arrays = [to_numpy(part).astype(np.float64) for part in parts]
    shapes = [tuple(leaf.shape[1:]) for leaf in problem.inputs]
    if [each.shape[1:] for each in arrays] != shapes:
        return (_stretched(result, problem),)
    if result.shares is None:
        return tuple(arrays)
    return _spread(arrays, to_numpy(result.shares).astype(np.float64))


def _stretched(result: Attribution, problem: Problem) -> Float[np.ndarray, "B ..."]:
    """Return a layer's map as one number for each pixel of the input."""
    leaf = problem.inputs[0]
    map = result.heatmap() if len(problem.inputs) == 1 and result.size is not None else None
    channel = channel_axis(problem, leaf)
    sides = [int(side) for axis, side in enumerate(leaf.shape) if axis not in (0, channel)]
    if leaf.ndim == 3 and map is not None and map.shape[1:] == tuple(leaf.shape[1:]):
        return map
    if map is None or leaf.ndim != 4 or list(map.shape[1:]) != sides:
        raise Refused(
            f"the explanation is of {result.settings.get('site', 'another place')} and has no map over the input: "
            "metrics judge shares of the input"
        )
    return np.expand_dims(map, channel)


def _spread(
    arrays: list[Float[np.ndarray, "B ..."]], shares: Float[np.ndarray, "B d"]
) -> tuple[Float[np.ndarray, "B ..."], ...]:
    """Return values of which every element carries its part of its feature's share, instead of all of it.

    The elements that carry a number are those of the features that have it as their share: so many features to so many
    elements. Where features of unequal size have exactly the same share, all their elements get the same number: the
    sum of these shares is right, and divided evenly over them.
    """
    rows = len(shares)
    flat = np.concatenate([each.reshape(rows, -1) for each in arrays], 1)
    for row in range(rows):
        own = shares[row][np.isfinite(shares[row])].astype(flat.dtype)
        known, elements = np.unique(flat[row], return_inverse=True)
        carried = np.bincount(elements.ravel(), minlength=len(known))
        features = np.bincount(_nearest(known, own), minlength=len(known))
        flat[row] *= (features / carried)[elements.ravel()]
    ends = np.cumsum([int(np.prod(each.shape[1:])) for each in arrays])[:-1]
    return tuple(
        part.reshape(each.shape) for part, each in zip(np.split(flat, ends, axis=1), arrays, strict=True)
    )


def _nearest(known: Float[np.ndarray, "n"], wanted: Float[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
    """Return the places of the ascending numbers that are nearest: shares may be rounded otherwise than values."""
    above = np.searchsorted(known, wanted).clip(0, len(known) - 1)
    below = (above - 1).clip(0)
    return np.where(wanted - known[below] <= known[above] - wanted, below, above)


def in_features(
    features: Features, values: tuple[Float[np.ndarray, "B ..."], ...], problem: Problem
) -> Float[np.ndarray, "B d"]:
    """Return each feature's sum of values.

    Raises:
        Refused: the values are one number for several features.
    """
    for cover, array in zip(features.covers, values, strict=True):
        if any(have == 1 < wanted for have, wanted in zip(array.shape[1:], cover.shape, strict=True)):
            raise Refused(
                f"the explanation has the shape {array.shape[1:]}, one number for several of the features; take "
                "features with the channels together, such as patches:1"
            )
    return features.summed(values)


def mask_of(given: Any, features: Features, problem: Problem) -> Bool[np.ndarray, "B d"]:
    """Return a mask, like the inputs or one example, for every feature of its one array; a pixel's channels together.

    Raises:
        BadInput: it holds NaN or infinity, or does not fit the inputs.
    """
    array, count = to_numpy(given), len(problem.rows)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput("mask holds NaN or infinity")
    shape = tuple(features.covers[0].shape)
    wanted = {shape, tuple(side for side in shape if side > 1), tuple(problem.inputs[0].shape[1:])}
    one = next((each for each in sorted(wanted, key=len) if array.shape in (each, (count, *each))), None)
    if one is None:
        raise BadInput(
            f"mask has shape {array.shape}; it is like the inputs, or one example: {sorted(wanted)}"
        )
    whole = np.broadcast_to(array != 0, (count, *one))
    if one != shape and len(one) == len(shape):
        whole = whole.any(next(i + 1 for i, side in enumerate(shape) if side != one[i]), keepdims=True)
    return whole.reshape(count, -1)
