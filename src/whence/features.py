"""Features: what is switched on and off together, from single numbers to superpixels, columns and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from whence.backends import Array
from whence.counts import whole
from whence.errors import BadInput, Refused
from whence.feature_covers import Cover, Features, Labels, Windows
from whence.naming import short, unknown

if TYPE_CHECKING:
    from whence.problem import Problem

# Pictures at least so many pixels wide have superpixels by default; in smaller ones a few pixels are a thing to see.
LARGE = 96
# The cells of a side of a small picture's default grid, and of the grid of methods that visit every subset.
CELLS, FEW_CELLS = 7, 3
SUPERPIXELS = 50


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
        starts = [np.arange(-(-(n - w) // s) + 1) * s for n, w, s in zip(sizes, window, stride, strict=True)]
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
        from whence.superpixels import regions

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
    last = problem.run.channels_last and problem.site is None
    return (1, 2) if last and leaf.ndim == 4 else (leaf.ndim - 2, leaf.ndim - 1)


def channel_axis(problem: Problem, leaf: Array) -> int:
    """Return the axis of channels: a picture's, or the first after the batch."""
    return 3 if problem.run.channels_last and problem.site is None and leaf.ndim == 4 else 1


def _column(member: Any, names: Sequence[str] | None, count: int) -> int:
    if isinstance(member, (int, np.integer)) and not isinstance(member, bool):
        if not -count <= member < count:
            raise BadInput(f"columns: there is no column {member}; there are {count}")
        return int(member) % count
    if names is None or str(member) not in names:
        raise BadInput(f"columns: {unknown('column', str(member), names or ())}")
    return list(names).index(str(member))


# ---- the words a user writes ---------------------------------------------------------------------------------


def elements() -> Elements:
    """Every number is a feature of its own."""
    return Elements()


def patches(window: int | tuple[int, ...], stride: int | tuple[int, ...] | None = None) -> Patches:
    """Windows of (height, width), or of every axis after the batch; without a stride they lie side by side."""
    return Patches(window, stride)


def grid(rows: int, columns: int | None = None) -> Grid:
    """A picture cut into rows x columns cells."""
    return Grid(whole(rows, "grid: rows"), whole(rows if columns is None else columns, "grid: columns"))


def superpixels(method: str = "slic", count: int | None = None, **options: Any) -> Superpixels:
    """Regions of similar colour: slic, felzenszwalb, quickshift or watershed, with scikit-image's own options.

    `count` is about how many regions there are to be (slic, watershed); 50 by default.
    """
    return Superpixels(method, count, tuple(sorted(options.items())))


def channels(axis: int | None = None) -> Along:
    """One feature for each channel (a colour, a filter); `axis` counts the batch as 0."""
    return Along(axis, "channel")


def tokens(axis: int = 1) -> Along:
    """One feature for each place along an axis: a token, a moment in time."""
    return Along(axis, "token")


def columns(groups: Mapping[str, Sequence[Any]] | None = None, names: Sequence[str] | None = None) -> Columns:
    """The columns of a table, some of them in groups: {"money": ["income", "capital"]}, by name or number."""
    named = {} if groups is None else {str(name): tuple(members) for name, members in groups.items()}
    for name, members in named.items():
        if not members:
            raise BadInput(f"columns: the group {name!r} is empty; name at least one column")
    return Columns(tuple(named.items()), None if names is None else tuple(map(str, names)))


def mask(masks: Any) -> Given:
    """A mask of whole numbers, shaped like an input or one example: equal numbers are one feature, below 0 is none.

    For several inputs, a tuple or dict of masks; the same number in two of them is the same feature.
    """
    return Given(masks)


def _needs_number(name: str) -> Callable[[], Any]:
    def refuse() -> Any:
        raise BadInput(f"features {name!r}: {_usage(name)}")

    return refuse


def _usage(name: str) -> str:
    return f"write {name}:7" if NAMES[name][1] is not None else f"{name} takes no number; write {name}"


# By name alone, and by name:number: how many superpixels, the cells of a grid's side, a patch's side, an axis.
NAMES: dict[str, tuple[Callable[[], Any], Callable[[int], Any] | None]] = {
    "elements": (elements, None),
    "superpixels": (superpixels, lambda count: superpixels("slic", count)),
    "grid": (_needs_number("grid"), grid),
    "patches": (_needs_number("patches"), patches),
    "channels": (channels, channels),
    "tokens": (tokens, tokens),
    "columns": (columns, None),
    "slic": (superpixels, lambda count: superpixels("slic", count)),
    "watershed": (lambda: superpixels("watershed"), lambda count: superpixels("watershed", count)),
    "felzenszwalb": (lambda: superpixels("felzenszwalb"), None),
    "quickshift": (lambda: superpixels("quickshift"), None),
}


# ---- laid over a problem's arrays --------------------------------------------------------------------------------


def lay(problem: Problem, spec: Any, default: Callable[[Problem, Array], Any]) -> Features:
    """Return the features of a problem's arrays; `default` chooses them where the user has not.

    Raises:
        BadInput: the specification cannot be meant.
        Refused: it does not fit the arrays, or there is no feature at all.
    """
    if isinstance(spec, Given) or _is_mask(spec):
        return Features(_masked(problem, spec.masks if isinstance(spec, Given) else spec), shared=True)
    several = isinstance(spec, (tuple, dict))
    parts = problem.run.structure.parts(spec) if several and problem.site is None else [spec]
    if len(parts) == 1:
        parts = parts * len(problem.point)
    if len(parts) != len(problem.point):
        raise BadInput(f"features: {len(parts)} are given for {len(problem.point)} inputs; give one for each")
    covers = tuple(
        resolve(default(problem, leaf) if each is None else each).cover(problem, leaf)
        for each, leaf in zip(parts, problem.point, strict=True)
    )
    return Features(covers)


def resolve(spec: Any) -> Any:
    """Return the features that a word or an object means.

    Raises:
        BadInput: it means none.
    """
    if isinstance(spec, str):
        name, colon, argument = spec.partition(":")
        if name not in NAMES:
            raise BadInput(unknown("kind of features", name, NAMES))
        if not colon:
            return NAMES[name][0]()
        counted = NAMES[name][1]
        if counted is None or not argument.isdigit() or int(argument) < 1:
            raise BadInput(f"features {spec!r}: {_usage(name)}")
        return counted(int(argument))
    if not hasattr(spec, "cover"):
        raise BadInput(
            f"features is {short(spec)}; give a name ({', '.join(NAMES)}), one of whence.features, or a mask of whole "
            "numbers"
        )
    return spec


def coarse(problem: Problem, leaf: Array) -> Any:
    """Return features that some hundred evaluations can tell apart: superpixels, cells, tokens, columns."""
    if not is_picture(problem, leaf):
        return _plain(leaf)
    sides = [int(leaf.shape[axis]) for axis in space(problem, leaf, "features")]
    if min(sides) >= LARGE and problem.site is None:
        return superpixels(count=SUPERPIXELS)
    cells = [min(CELLS, -(-side // 2)) for side in sides]
    return Grid(*cells)


def few(problem: Problem, leaf: Array) -> Any:
    """Return so few features that every subset of them can be visited: the cells of a coarse grid."""
    if not is_picture(problem, leaf):
        return _plain(leaf)
    return Grid(*(min(FEW_CELLS, int(leaf.shape[axis])) for axis in space(problem, leaf, "features")))


def fine(problem: Problem, leaf: Array) -> Any:
    """Return every number as a feature, or every token."""
    return elements()


def _plain(leaf: Array) -> Any:
    return columns() if leaf.ndim == 2 else elements() if leaf.ndim < 2 else tokens()


def is_picture(problem: Problem, leaf: Array) -> bool:
    """Tell whether an array has a height and a width: four axes, or three of pictures in pixels."""
    return leaf.ndim == 4 or (problem.run.pictures and problem.site is None and leaf.ndim == 3)


def _is_mask(spec: Any) -> bool:
    parts = (
        list(spec.values()) if isinstance(spec, dict) else list(spec) if isinstance(spec, tuple) else [spec]
    )
    return any(hasattr(part, "dtype") or isinstance(part, list) for part in parts)


def _masked(problem: Problem, masks: Any) -> tuple[Cover, ...]:
    parts = problem.run.structure.parts(masks) if problem.site is None else [masks]
    if len(parts) != len(problem.point):
        raise BadInput(
            f"features: {len(parts)} masks are given for {len(problem.point)} inputs; give one for each"
        )
    arrays = [
        _beside(problem, np.asarray(part) if not hasattr(part, "detach") else problem.ops.numpy(part), leaf)
        for part, leaf in zip(parts, problem.point, strict=True)
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
