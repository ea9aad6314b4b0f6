"""Laying features over a problem's arrays: as the user says, by default, or by a mask of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from whence.backends import Array
from whence.errors import BadInput
from whence.features import columns, elements, resolve, superpixels, tokens
from whence.features.covers import Features, Labels
from whence.features.kinds import Given, Grid, space

if TYPE_CHECKING:
    from whence.problem import Problem

# Pictures at least so many pixels wide have superpixels by default; in smaller ones a few pixels are a thing to see.
LARGE = 96
# The cells of a side of a small picture's default grid, and of the grid of methods that visit every subset.
CELLS, FEW_CELLS = 7, 3
SUPERPIXELS = 50


def lay(problem: Problem, spec: Any, default: Callable[[Problem, Array], Any]) -> Features:
    """Return the features of a problem's arrays; `default` chooses them where the user has not.

    Raises:
        BadInput: the specification cannot be meant.
        Refused: it does not fit the arrays, or there is no feature at all.
    """
    whole = spec.masks if isinstance(spec, Given) else spec
    several = isinstance(whole, (tuple, dict)) and problem.site is None
    parts: list[Any] = _each(problem, whole) if several else [whole]
    if all(map(_is_mask, parts)):
        # Equal numbers in two inputs are one feature.
        if len(parts) != len(problem.point):
            raise BadInput(
                f"features: {len(parts)} masks are given for {len(problem.point)} inputs; give one for each"
            )
        return Features(masked(problem, parts, problem.point), shared=True)
    parts = [Given(part) if _is_mask(part) else part for part in parts]
    if len(parts) == 1:
        parts = parts * len(problem.point)
    if len(parts) != len(problem.point):
        raise BadInput(f"features: {len(parts)} are given for {len(problem.point)} inputs; give one for each")
    covers = tuple(
        resolve(default(problem, leaf) if each is None else each).cover(problem, leaf)
        for each, leaf in zip(parts, problem.point, strict=True)
    )
    return Features(covers)


def coarse(problem: Problem, leaf: Array) -> Any:
    """Return features that some hundred evaluations can tell apart: superpixels, cells, tokens, columns."""
    if not is_picture(problem, leaf):
        return _plain(problem, leaf)
    sides = [int(leaf.shape[axis]) for axis in space(problem, leaf, "features")]
    if min(sides) >= LARGE and problem.site is None:
        return superpixels(count=SUPERPIXELS)
    cells = [min(CELLS, -(-side // 2)) for side in sides]
    return Grid(*cells)


def few(problem: Problem, leaf: Array) -> Any:
    """Return so few features that every subset of them can be visited: the cells of a coarse grid."""
    if not is_picture(problem, leaf):
        return _plain(problem, leaf)
    return Grid(*(min(FEW_CELLS, int(leaf.shape[axis])) for axis in space(problem, leaf, "features")))


def fine(problem: Problem, leaf: Array) -> Any:
    """Return every number as a feature, or every token."""
    return elements()


def _plain(problem: Problem, leaf: Array) -> Any:
    if leaf.ndim < 2:
        return elements()
    return columns() if leaf.ndim == 2 and problem.ops.is_float(leaf) else tokens()


def is_picture(problem: Problem, leaf: Array) -> bool:
    """Tell whether an array has a height and a width: four axes, or three of pictures in pixels."""
    return leaf.ndim == 4 or (problem.run.pictures and problem.site is None and leaf.ndim == 3)


def _each(problem: Problem, spec: Any) -> list[Any]:
    """Return what is said of each input that is there; None is its default."""
    structure = problem.run.structure
    if isinstance(spec, dict):
        if structure.kind is not dict or set(spec) - set(structure.keys):
            raise BadInput(
                f"features: {list(spec)} does not name the inputs, which are {list(structure.keys)}"
            )
        spec = tuple(spec.get(key) for key in structure.keys)
    if len(spec) != len(structure.present):
        return list(spec)
    return [part for part, there in zip(spec, structure.present, strict=True) if there]


def _is_mask(part: Any) -> bool:
    return hasattr(part, "dtype") or isinstance(part, list)


def masked(problem: Problem, parts: Sequence[Any], leaves: Sequence[Array]) -> tuple[Labels, ...]:
    """Return the covers of arrays by a user's masks, one for each; equal numbers are one feature."""
    arrays = [
        _beside(problem, np.asarray(part) if not hasattr(part, "detach") else problem.ops.numpy(part), leaf)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    known = np.unique(np.concatenate([array.ravel() for array in arrays]))
    known = known[known >= 0]
    names = tuple(f"feature {number}" for number in known)

    def compact(array: Int[np.ndarray, "..."]) -> Labels:
        labels = np.where(array < 0, -1, np.searchsorted(known, array))
        return Labels(labels, "feature", names=names, own=len(labels) > 1)

    return tuple(compact(array) for array in arrays)


def _beside(problem: Problem, array: np.ndarray, leaf: Array) -> Int[np.ndarray, "rows ..."]:
    """Return a user's mask with the batch as its first axis, and sides that are its input's or 1."""
    if array.dtype.kind not in "iub":
        raise BadInput(
            f"features: a mask holds whole numbers, one for each feature; this one holds {array.dtype}"
        )
    shape, wanted = array.shape, tuple(leaf.shape)
    if len(shape) <= leaf.ndim:
        array = array.astype(np.int64).reshape((1,) * (leaf.ndim - len(shape)) + shape)
    rows = array.shape[0] if array.ndim == leaf.ndim else 0
    sides = zip(array.shape[1:], wanted[1:], strict=False)
    if rows not in (1, problem.run.batch) or any(own not in (1, full) for own, full in sides):
        raise BadInput(f"features: a mask of shape {shape} does not fit an input of shape {wanted}")
    return array if rows == 1 else array[problem.rows]
