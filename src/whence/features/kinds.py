"""The kinds of features, each as the cover that it lays over an array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from whence.backends import Array
from whence.counts import whole
from whence.errors import BadInput, Refused
from whence.features.covers import Cover, Labels, Windows
from whence.naming import short, unknown

if TYPE_CHECKING:
    from whence.problem import Problem


@dataclass(frozen=True)
class Elements:
    """Every number is a feature of its own."""

    def cover(self, problem: Problem, leaf: Array) -> Cover:
        shape = tuple(leaf.shape[1:])
        return Labels(np.arange(int(np.prod(shape, dtype=int))).reshape(1, *shape), "feature")


@dataclass(frozen=True)
class Patches:
    """Windows over a picture (or a signal, or tokens), all channels together; they may overlap.

    Raises:
        Refused: the input has no such axes, or is smaller than the window.
    """

    window: int | tuple[int, ...]
    stride: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the sides."""
        for name, given in (("window", self.window), ("stride", self.stride)):
            for side in () if given is None else given if isinstance(given, tuple) else (given,):
                whole(side, f"patches: {name}")

    def cover(self, problem: Problem, leaf: Array) -> Cover:
        axes = self._axes(problem, leaf)
        sizes = [leaf.shape[axis] for axis in axes]
        window, stride = self._sides(self.window, len(axes)), self._sides(self.stride, len(axes))
        if any(side > size for side, size in zip(window, sizes, strict=True)):
            raise Refused(f"patches of {window} do not fit into {tuple(sizes)}; give a smaller window")
        shape = tuple(leaf.shape[i] if i in axes else 1 for i in range(1, leaf.ndim))
        # A last window that would hang over the border is cut there, so that nothing is left out.
        starts = [_starts(*each) for each in zip(sizes, window, stride, strict=True)]
        if window == stride:
            order = np.argsort(np.argsort(axes))
            cells = [np.arange(n) // w for n, w in zip(sizes, window, strict=True)]
            counts = [len(each) for each in starts]
            grids = np.meshgrid(*cells, indexing="ij")
            labels = np.ravel_multi_index(tuple(grids), tuple(counts)).transpose(order)
            return Labels(labels.reshape(1, *shape), "patch")
        corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, len(axes))
        offsets = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), -1).reshape(-1, len(axes))
        place = corners[:, None] + offsets
        inside = (place < np.array(sizes)).all(-1)
        strides = np.array([int(np.prod(shape[axis:], dtype=int)) for axis in axes])
        return Windows(np.where(inside, (place * strides).sum(-1), -1), shape)

    def _axes(self, problem: Problem, leaf: Array) -> tuple[int, ...]:
        if isinstance(self.window, tuple) and len(self.window) == leaf.ndim - 1:
            return tuple(range(1, leaf.ndim))
        axes = (1,) if leaf.ndim == 2 else space(problem, leaf, "patches")
        if isinstance(self.window, tuple) and len(self.window) != len(axes):
            raise Refused(
                f"patches: window {self.window} has {len(self.window)} sides; an input {tuple(leaf.shape[1:])} takes "
                f"{len(axes)} or {leaf.ndim - 1}"
            )
        return axes

    def _sides(self, given: int | tuple[int, ...] | None, count: int) -> tuple[int, ...]:
        if given is None:
            return self._sides(self.window, count)
        sides = given if isinstance(given, tuple) else (given,) * count
        if len(sides) != count:
            raise BadInput(f"patches: stride {given} has {len(sides)} sides and the window {count}")
        return tuple(int(side) for side in sides)


@dataclass(frozen=True)
class Grid:
    """A picture cut into rows x columns cells of about equal size, all channels together."""

    rows: int
    columns: int

    def cover(self, problem: Problem, leaf: Array) -> Cover:
        axes = space(problem, leaf, "a grid")
        height, width = (int(leaf.shape[axis]) for axis in axes)
        if self.rows > height or self.columns > width:
            raise Refused(
                f"a grid of {self.rows} x {self.columns} cells does not fit into {height} x {width}"
            )
        cells = (np.arange(height) * self.rows // height)[:, None] * self.columns
        labels = cells + np.arange(width) * self.columns // width
        shape = [leaf.shape[i] if i in axes else 1 for i in range(1, leaf.ndim)]
        return Labels(labels.reshape(1, *shape), "patch")


@dataclass(frozen=True)
class Superpixels:
    """Regions of similar colour, found in each picture anew by one of scikit-image's segmentations."""

    method: str = "slic"
    count: int | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def cover(self, problem: Problem, leaf: Array) -> Cover:
        from whence.features.regions import regions

        if problem.site is not None:
            raise Refused(f"superpixels are regions of pictures, and {problem.site.words} is none")
        axes = space(problem, leaf, "superpixels")
        found = regions(problem.ops.numpy(problem.ops.wide(leaf)), axes, self)
        shape = [leaf.shape[i] if i in axes else 1 for i in range(1, leaf.ndim)]
        return Labels(found.reshape(len(found), *shape), "superpixel", own=True)


@dataclass(frozen=True)
class Along:
    """One feature for each place along an axis (counted with the batch as 0): channels, tokens, time."""

    axis: int | None
    kind: str

    def cover(self, problem: Problem, leaf: Array) -> Cover:
        axis = channel_axis(problem, leaf) if self.axis is None else self.axis
        if not -leaf.ndim < axis < leaf.ndim or axis == 0:
            raise Refused(f"{self.kind}s: an input of shape {tuple(leaf.shape)} has no axis {axis}")
        axis %= leaf.ndim
        shape = [leaf.shape[i] if i == axis else 1 for i in range(1, leaf.ndim)]
        return Labels(np.arange(leaf.shape[axis]).reshape(1, *shape), self.kind)


@dataclass(frozen=True)
class Columns:
    """The columns of a table [rows, columns]: each a feature of its own, but those that are grouped."""

    groups: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    names: tuple[str, ...] | None = None

    def cover(self, problem: Problem, leaf: Array) -> Cover:
        if leaf.ndim != 2:
            raise Refused(f"columns are those of a table [rows, columns]; this input is {tuple(leaf.shape)}")
        count = int(leaf.shape[1])
        names = self.names or problem.run.columns
        if names is not None and len(names) != count:
            raise BadInput(f"columns: {len(names)} names for {count} columns")
        labels = np.full(count, -1)
        told: list[str] = []
        for group, members in self.groups:
            for member in members:
                place = _column(member, names, count)
                if labels[place] >= 0:
                    raise BadInput(f"columns: {member!r} is in two groups, or twice in one")
                labels[place] = len(told)
            told.append(group)
        for place in np.flatnonzero(labels < 0):
            labels[place] = len(told)
            told.append(str(names[place]) if names else f"column {place}")
        return Labels(labels[None], "column", names=tuple(told))


@dataclass(frozen=True, eq=False)
class Given:
    """A user's own mask of whole numbers: equal numbers are one feature, below 0 is never switched off."""

    masks: Any

    def __repr__(self) -> str:
        return f"mask({short(self.masks)})"

    def cover(self, problem: Problem, leaf: Array) -> Cover:
        from whence.features.laying import masked

        return masked(problem, [self.masks], [leaf])[0]


def _starts(size: int, window: int, stride: int) -> np.ndarray:
    """Return where windows begin: up to the first that reaches the end."""
    starts = np.arange(-(-(size - window) // stride) + 1) * stride
    return starts[starts < size]


def space(problem: Problem, leaf: Array, what: str) -> tuple[int, int]:
    """Return the axes of height and width.

    Raises:
        Refused: the array has no two axes of space.
    """
    if leaf.ndim < 3:
        raise Refused(
            f"{what} need a height and a width; this input is [batch, "
            f"{', '.join(map(str, leaf.shape[1:]))}]: leave features out, or name columns, tokens or a mask"
        )
    return (leaf.ndim - 3, leaf.ndim - 2) if problem.channels_last(leaf) else (leaf.ndim - 2, leaf.ndim - 1)


def channel_axis(problem: Problem, leaf: Array) -> int:
    """Return the axis of channels: a picture's, or the first after the batch."""
    return leaf.ndim - 1 if problem.channels_last(leaf) else 1


def _column(member: Any, names: Sequence[str] | None, count: int) -> int:
    if isinstance(member, (int, np.integer)) and not isinstance(member, bool):
        if not -count <= member < count:
            raise BadInput(f"columns: there is no column {member}; there are {count}")
        return int(member) % count
    if names is None or str(member) not in names:
        raise BadInput(f"columns: {unknown('column', str(member), names or ())}")
    return list(names).index(str(member))
