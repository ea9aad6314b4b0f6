"""Baselines: what "absent" means. Each gives one or several starting points per example; several are averaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from whence.backends import Array, Leaves
from whence.background import DataSet, Gaussian, Uniform, as_leaves, beside_inputs, limits
from whence.counts import whole
from whence.errors import BadInput, Refused
from whence.naming import short

if TYPE_CHECKING:
    from whence.problem import Problem


class Baseline(Protocol):
    """`draws` is how many starting points are averaged; `start` gives the j-th, shaped like the inputs.

    A random one says so with `is_random`: then the spread of its draws is a sampling error.
    """

    @property
    def draws(self) -> int: ...
    def start(self, problem: Problem, draw: int) -> Leaves: ...


@dataclass(frozen=True)
class Constant:
    """The same value everywhere; for pictures in pixels 0 is black and 1 white."""

    value: float = 0.0
    draws: int = 1

    def start(self, problem: Problem, draw: int) -> Leaves:
        ops = problem.ops
        for leaf in problem.inputs:
            if not (ops.is_float(leaf) or float(self.value).is_integer()):
                raise BadInput(
                    f"baseline is {self.value} and the inputs are whole numbers; give a token's number"
                )
        return tuple(ops.zeros(leaf.shape, leaf) + ops.like(self.value, leaf) for leaf in problem.inputs)


@dataclass(frozen=True)
class Pixel:
    """A constant named in pixels, so that it means the same before any model's normalisation."""

    name: str
    value: float
    draws: int = 1

    def start(self, problem: Problem, draw: int) -> Leaves:
        if not problem.run.pictures:
            raise Refused(
                f"baseline {self.name} is named in pixels: pass pictures with preprocess=whence.Preprocess(...), "
                "or give the model's own number, such as baseline=0.0"
            )
        return Constant(self.value).start(problem, draw)


@dataclass(frozen=True, eq=False)
class Given:
    """The user's own arrays: shaped like the inputs, or like one example of them."""

    arrays: Any
    draws: int = 1

    def __repr__(self) -> str:
        return short(self.arrays)

    def start(self, problem: Problem, draw: int) -> Leaves:
        pairs = zip(as_leaves(self.arrays, problem), problem.inputs, strict=True)
        return tuple(leaf * 0 + beside_inputs(array, leaf, problem, "the baseline") for array, leaf in pairs)


@dataclass(frozen=True)
class Mean:
    """Each example's own mean, per channel over the positions of a picture (else over all its features)."""

    draws: int = 1

    def start(self, problem: Problem, draw: int) -> Leaves:
        inputs = problem.at_inputs()

        def flat(leaf: Array) -> Array:
            axes = inputs.spatial_axes(leaf) if leaf.ndim >= 3 else tuple(range(1, leaf.ndim))
            values = problem.ops.numpy(leaf).astype(np.float64).mean(axes, keepdims=True)
            return leaf * 0 + problem.ops.like(values, leaf)

        return tuple(flat(leaf) for leaf in problem.inputs)


@dataclass(frozen=True)
class Blurred:
    """The picture blurred by a Gaussian of `sigma` pixels, mirrored at the borders."""

    sigma: float = 10.0
    draws: int = 1

    def start(self, problem: Problem, draw: int) -> Leaves:
        from whence.path import Blur

        inputs = problem.at_inputs()
        return Blur(self.sigma).start(inputs, inputs.point)


@dataclass(frozen=True)
class Opposite:
    """Each feature at the farther end of the range: what is light becomes dark, and the other way round."""

    low: float | None = None
    high: float | None = None
    draws: int = 1

    def start(self, problem: Problem, draw: int) -> Leaves:
        def flipped(leaf: Array) -> Array:
            low, high = limits(problem, leaf, self.low, self.high)
            return problem.ops.where(leaf > (low + high) / 2, leaf * 0 + low, leaf * 0 + high)

        return tuple(flipped(leaf) for leaf in problem.inputs)


@dataclass(frozen=True)
class Several:
    """Several baselines, averaged."""

    parts: tuple[Any, ...] = field(default_factory=tuple)

    @property
    def draws(self) -> int:
        """How many starting points there are in all."""
        return sum(part.draws for part in self.parts)

    def start(self, problem: Problem, draw: int) -> Leaves:
        part, draw = self.part(draw)
        return part.start(problem, draw)

    def part(self, draw: int) -> tuple[Any, int]:
        """Return the baseline that a draw belongs to, and which of its draws it is."""
        for part in self.parts:
            if draw < part.draws:
                return part, draw
            draw -= part.draws
        raise IndexError(draw)


def of_weights(baseline: Any, problem: Problem, draw: int) -> Leaves:
    """Return a baseline of weights, [n, *shape of the parameter]: a number, an array of their shape, or several.

    Raises:
        Refused: the baseline is one of inputs.
        BadInput: the array has another shape.
    """
    (own,) = problem.point
    if isinstance(baseline, Several):
        part, draw = baseline.part(draw)
        return of_weights(part, problem, draw)
    if isinstance(baseline, Constant):
        return (own * 0 + problem.ops.like(baseline.value, own),)
    shape = tuple(own.shape[1:])
    if not isinstance(baseline, Given):
        raise Refused(
            f"baseline {baseline!r} is one of inputs; weights are counted from a number, such as 0, or an array {shape}"
        )
    array = problem.ops.like(baseline.arrays, own)
    if tuple(array.shape) != shape:
        raise BadInput(
            f"the baseline has shape {tuple(array.shape)} and {problem.site!r} {shape}; give an array of that shape"
        )
    return (own * 0 + array,)


def constant(value: float = 0.0) -> Constant:
    """The same value everywhere, in the inputs' own units (pictures: 0 black, 1 white)."""
    return Constant(float(value))


def black() -> Pixel:
    """Black pixels, through the preprocessing."""
    return Pixel("black", 0.0)


def white() -> Pixel:
    """White pixels, through the preprocessing."""
    return Pixel("white", 1.0)


def mean() -> Mean:
    """Each example's own mean (per channel)."""
    return Mean()


def blur(sigma: float = 10.0) -> Blurred:
    """The picture blurred by `sigma` pixels."""
    if sigma <= 0:
        raise BadInput(f"baseline blur: sigma is {sigma}; it is a width in pixels, above 0")
    return Blurred(sigma)


def uniform(samples: int = 10, low: float | None = None, high: float | None = None) -> Uniform:
    """The mean over `samples` pictures of uniform noise."""
    return Uniform(whole(samples, "baseline uniform: samples"), low, high)


def gaussian(samples: int = 10, noise: float = 0.5) -> Gaussian:
    """The mean over `samples` copies of the input with Gaussian noise, relative to each example's range."""
    return Gaussian(whole(samples, "baseline gaussian: samples"), noise)


def dataset(rows: Any, samples: int | None = None) -> DataSet:
    """The mean over rows of a data set, structured and shaped like the inputs (all of them, or `samples`)."""
    return DataSet(rows, samples if samples is None else whole(samples, "baseline dataset: samples"))


def opposite(low: float | None = None, high: float | None = None) -> Opposite:
    """The opposite extreme of every feature, within [low, high] (pixels: [0, 1]; else each example's range)."""
    return Opposite(low, high)


def boundary(other: int | None = None, iterations: int = 50) -> Any:
    """The nearest point where the top class ties with another: explanations of "why this side of the boundary"."""
    from whence.boundary import Boundary

    return Boundary(other, whole(iterations, "baseline boundary: iterations"))


NAMES = {
    "zero": constant, "black": black, "white": white, "mean": mean, "blur": blur, "uniform": uniform,
    "gaussian": gaussian, "opposite": opposite, "boundary": boundary,
}  # fmt: skip


def strata(baseline: Any) -> list[tuple[int, bool]]:
    """Return how many draws each part of a baseline has, in order, and whether they are random."""
    if isinstance(baseline, Several):
        return [each for part in baseline.parts for each in strata(part)]
    return [(baseline.draws, bool(getattr(baseline, "is_random", False)))]


def resolve(spec: Any, pictures: bool) -> Any:
    """Return the baseline that a method's field means.

    None is black for pictures in pixels, else zero; a number is constant; a name is that baseline with its
    defaults; a list is averaged; arrays are taken as they are.

    Raises:
        BadInput: it is none of these.
    """
    if spec is None:
        return black() if pictures else constant(0.0)
    if isinstance(spec, bool):
        raise BadInput(f"baseline is {spec}; give a number, an array or whence.baseline.…")
    if isinstance(spec, (int, float, np.integer, np.floating)):
        return Constant(float(spec)) if isinstance(spec, (float, np.floating)) else Constant(int(spec))
    if isinstance(spec, str):
        if spec not in NAMES:
            from whence.naming import unknown

            raise BadInput(unknown("baseline", spec, NAMES))
        return NAMES[spec]()
    if isinstance(spec, list):
        if not spec:
            raise BadInput("baseline is an empty list; give at least one")
        return Several(tuple(resolve(part, pictures) for part in spec))
    return spec if hasattr(spec, "start") else Given(spec)
