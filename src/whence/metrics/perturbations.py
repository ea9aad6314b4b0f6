"""Perturbations I of infidelity: what is taken away from the input, x − I, by lots that all examples share.

A perturbation is named ("gaussian", "square", "noisy_baseline"), made with its settings (`square(size=4)`), or a
function of inputs [n, ...] and the numbers of draws [n] that returns I [n, ...].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from whence.backends import Array
from whence.coalitions.playing import absence
from whence.counts import whole
from whence.draws import Draws
from whence.errors import BadInput, Refused
from whence.naming import short, unknown
from whence.problem import Problem

Rows = Int[np.ndarray, "n"]
Changes = tuple[Float[np.ndarray, "n ..."], ...]
# A square's side where none is given, in parts of the picture's shorter side.
PART = 4
# A generator is made for so many draws, or so many numbers: making one costs as much as some hundred numbers.
DRAWS, NUMBERS = 64, 2**16


class Drawn(Protocol):
    """A perturbation of one problem's rows.

    `support` is how many different perturbations there are, where they are equally likely and numbered from 0; else
    None.
    """

    @property
    def support(self) -> int | None: ...

    def at(self, rows: Rows, draws: Rows) -> Changes:
        """Return I for each row [n] and number of a draw [n], in float64."""
        ...


class Perturbation(Protocol):
    """What is drawn, whatever the inputs are."""

    def drawn(self, problem: Problem, samples: int) -> Drawn:
        """Return the perturbation of a problem's rows, of which `samples` will be asked for."""
        ...


@dataclass(eq=False)
class _Lots:
    """Rows of random numbers, each known by its number; the last block of them is kept."""

    problem: Problem
    purpose: str
    length: int
    normal: bool = True
    _kept: dict[int, np.ndarray] = field(default_factory=dict[int, np.ndarray])

    def at(self, draws: Rows) -> Float[np.ndarray, "n length"]:
        size = max(1, min(DRAWS, NUMBERS // max(1, self.length)))
        blocks, which = np.unique(draws // size, return_inverse=True)
        made = {int(block): self._block(int(block), size) for block in blocks}
        self._kept = dict(list(made.items())[-1:])
        return np.concatenate(list(made.values()))[which.ravel() * size + draws % size]

    def _block(self, block: int, size: int) -> Float[np.ndarray, "size length"]:
        if block in self._kept:
            return self._kept[block]
        generator, shape = self.problem.random(self.purpose, block), (size, self.length)
        return generator.standard_normal(shape) if self.normal else generator.random(shape)


@dataclass(frozen=True, eq=False)
class _Noise:
    """I = Gaussian noise, of a standard deviation that is a part of each example's range."""

    problem: Problem
    part: float
    support: int | None = None

    def at(self, rows: Rows, draws: Rows) -> Changes:
        sides = [tuple(int(side) for side in leaf.shape[1:]) for leaf in self.problem.inputs]
        ends = np.cumsum([int(np.prod(each, dtype=int)) for each in sides])[:-1]
        parts = np.split(self._lots.at(draws), ends, axis=1)
        return tuple(
            scale[rows] * part.reshape(len(rows), *each)
            for scale, part, each in zip(self._scales, parts, sides, strict=True)
        )

    @cached_property
    def _lots(self) -> _Lots:
        length = sum(int(np.prod(leaf.shape[1:], dtype=int)) for leaf in self.problem.inputs)
        return _Lots(self.problem, "infidelity: noise", length)

    @cached_property
    def _scales(self) -> list[Float[np.ndarray, "rows ..."]]:
        problem = self.problem
        spreads = [problem.ops.numpy(problem.spread(leaf)).astype(np.float64) for leaf in problem.inputs]
        return [self.part * spread for spread in spreads]


def _noise(problem: Problem, part: float, name: str) -> _Noise:
    if not all(problem.ops.is_float(leaf) for leaf in problem.inputs):
        raise Refused(f"perturbation {name} adds noise, and the inputs are whole numbers: choose square")
    if not part >= 0:
        raise BadInput(
            f"perturbation {name}: noise is {part}; it is a part of each input's range, 0 or above"
        )
    return _Noise(problem, part)


@dataclass(frozen=True)
class Gaussian:
    """I = noise: how the output reacts near the input. SmoothGrad's gradient is what explains it best.

    Attributes:
        noise: the standard deviation, in parts of each example's range max − min.
    """

    noise: float = 0.2

    def drawn(self, problem: Problem, samples: int) -> Drawn:
        return _noise(problem, self.noise, "gaussian")


@dataclass(frozen=True)
class NoisyBaseline:
    """I = x − (x' + noise): nearly everything is taken away.

    Attributes:
        noise: the standard deviation around the baseline, in parts of each example's range max − min.
        baseline: x'; None is black for pictures in pixels, else 0.
    """

    noise: float = 0.2
    baseline: Any = None

    def drawn(self, problem: Problem, samples: int) -> Drawn:
        noise = _noise(problem, self.noise, "noisy_baseline")
        return _FromBaseline(problem, Draws(problem, absence(self.baseline, problem)), noise)


@dataclass(frozen=True, eq=False)
class _FromBaseline:
    problem: Problem
    draws: Draws
    noise: _Noise
    support: int | None = None

    def at(self, rows: Rows, draws: Rows) -> Changes:
        gaps = differences(self.problem, self.draws, rows, draws)
        return tuple(gap - noise for gap, noise in zip(gaps, self.noise.at(rows, draws), strict=True))


@dataclass(frozen=True)
class Square:
    """I = x − x' within a square at a random place, else 0.

    Where there are no more places than samples, each is taken once: the mean over them is exact.

    Attributes:
        size: the square's side, or several, of which each draw takes one; None is a quarter of the picture's shorter
            side.
        baseline: x'; None is black for pictures in pixels, else 0.
    """

    size: int | tuple[int, ...] | None = None
    baseline: Any = None

    def drawn(self, problem: Problem, samples: int) -> Drawn:
        draws = Draws(problem, absence(self.baseline, problem))
        found = _Squares(problem, draws, self._sizes(problem))
        places = found.places
        exact = places is not None and places <= samples
        return _Squares(problem, draws, found.sizes, places) if exact else found

    def _sizes(self, problem: Problem) -> tuple[int, ...]:
        shorter = min(int(leaf.shape[axis]) for leaf in problem.inputs for axis in _axes(problem, leaf))
        given = max(1, shorter // PART) if self.size is None else self.size
        sizes = tuple(
            whole(each, "square: size") for each in (given if isinstance(given, tuple) else (given,))
        )
        if not sizes or max(sizes) > shorter:
            raise Refused(f"squares of {sizes} do not fit into an input whose shorter side is {shorter}")
        return sizes


@dataclass(frozen=True, eq=False)
class _Squares:
    problem: Problem
    draws: Draws
    sizes: tuple[int, ...]
    support: int | None = None

    @property
    def places(self) -> int | None:
        """How many squares there are, where they can be counted out: of one input, one size and one baseline."""
        leaves = self.problem.inputs
        if len(leaves) != 1 or len(self.sizes) != 1 or self.draws.count != 1:
            return None
        return int(np.prod([side - self.sizes[0] + 1 for side in self._plane(leaves[0])]))

    def at(self, rows: Rows, draws: Rows) -> Changes:
        gaps = differences(self.problem, self.draws, rows, draws)
        if self.support is not None:
            width = self._plane(self.problem.inputs[0])[1]
            size = np.full(len(draws), self.sizes[0])
            across = width - self.sizes[0] + 1
            corners = [(draws // across, draws % across)]
        else:
            lots = self._lots.at(draws)
            size = np.array(self.sizes)[(lots[:, 0] * len(self.sizes)).astype(int)]
            corners = [
                tuple(
                    (lots[:, 1 + 2 * number + axis] * (side - size + 1)).astype(int)
                    for axis, side in enumerate(self._plane(leaf))
                )
                for number, leaf in enumerate(self.problem.inputs)
            ]
        return tuple(
            gap * self._inside(leaf, corner, size)
            for gap, leaf, corner in zip(gaps, self.problem.inputs, corners, strict=True)
        )

    def _inside(self, leaf: Array, corner: tuple[Rows, ...], size: Rows) -> Float[np.ndarray, "n ..."]:
        """Return 1 within each square and 0 elsewhere, with sides of 1 along the other axes."""
        found = np.ones((len(size), *(1,) * (leaf.ndim - 1)))
        for axis, first in zip(_axes(self.problem, leaf), corner, strict=True):
            place = np.arange(int(leaf.shape[axis]))
            inside = (place >= first[:, None]) & (place < (first + size)[:, None])
            shape = [len(size), *(1,) * (leaf.ndim - 1)]
            shape[axis] = len(place)
            found = found * inside.reshape(shape)
        return found

    def _plane(self, leaf: Array) -> tuple[int, ...]:
        return tuple(int(leaf.shape[axis]) for axis in _axes(self.problem, leaf))

    @cached_property
    def _lots(self) -> _Lots:
        return _Lots(self.problem, "infidelity: squares", 1 + 2 * len(self.problem.inputs), normal=False)


@dataclass(frozen=True, eq=False)
class Given:
    """The user's own function of inputs [n, ...] (a tuple of several) and the numbers of draws [n].

    Attributes:
        function: returns I, like the inputs it is given; the same for the same draw.
    """

    function: Callable[[Any, Rows], Any]

    def drawn(self, problem: Problem, samples: int) -> Drawn:
        return _Called(problem, self.function)


@dataclass(frozen=True, eq=False)
class _Called:
    problem: Problem
    function: Callable[[Any, Rows], Any]
    support: int | None = None

    def at(self, rows: Rows, draws: Rows) -> Changes:
        ops = self.problem.ops
        inputs = tuple(ops.numpy(ops.take(leaf, rows)).astype(np.float64) for leaf in self.problem.inputs)
        found = self.function(inputs[0] if len(inputs) == 1 else inputs, draws)
        parts = found if isinstance(found, tuple) else (found,)
        changes = tuple(np.asarray(each, dtype=np.float64) for each in parts)
        if [each.shape for each in changes] != [each.shape for each in inputs]:
            raise BadInput(
                f"the perturbation gave {[each.shape for each in changes]} for inputs of "
                f"{[each.shape for each in inputs]}; I is like them"
            )
        return changes


def differences(problem: Problem, draws: Draws, rows: Rows, draw: Rows) -> Changes:
    """Return x − x' for rows [n], each from one draw of its baseline, in float64."""
    ops = problem.ops
    absent = draws.at(rows, draw % draws.count)
    return tuple(
        ops.numpy(ops.wide(ops.take(leaf, rows))).astype(np.float64) - ops.numpy(ops.wide(other))
        if ops.is_float(leaf)
        else ops.numpy(ops.take(leaf, rows)).astype(np.float64) - ops.numpy(other)
        for leaf, other in zip(problem.inputs, absent, strict=True)
    )


def _axes(problem: Problem, leaf: Array) -> tuple[int, int]:
    if leaf.ndim < 3:
        raise Refused(
            f"perturbation square needs pictures, and this input is {tuple(leaf.shape)}: choose gaussian or "
            "noisy_baseline"
        )
    return problem.spatial_axes(leaf)


def gaussian(noise: float = 0.2) -> Gaussian:
    """Noise of a part of each example's range."""
    return Gaussian(noise)


def square(size: int | tuple[int, ...] | None = None, baseline: Any = None) -> Square:
    """A square at a random place, replaced by the baseline."""
    return Square(size, baseline)


def noisy_baseline(noise: float = 0.2, baseline: Any = None) -> NoisyBaseline:
    """Everything replaced by the baseline with noise."""
    return NoisyBaseline(noise, baseline)


NAMES: dict[str, Callable[[], Perturbation]] = {
    "gaussian": gaussian, "square": square, "noisy_baseline": noisy_baseline,
}  # fmt: skip


def resolve(spec: Any) -> Perturbation:
    """Return the perturbation that a metric's field means.

    Raises:
        BadInput: it is no name, no perturbation and no function.
    """
    if isinstance(spec, str):
        if spec not in NAMES:
            raise BadInput(unknown("perturbation", spec, NAMES))
        return NAMES[spec]()
    if hasattr(spec, "drawn"):
        return spec
    if callable(spec):
        return Given(spec)
    raise BadInput(f"perturbation is {short(spec)}; give a name ({', '.join(NAMES)}), or a function")
