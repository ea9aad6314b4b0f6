"""Finding norms: (x − mean)/√(variance + ε) in whatever words, verified on random numbers before it is taken whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from whence.backends.arrays import Array
from whence.backends.program_rules.affine import alone, constant_of, spread
from whence.backends.program_rules.functions import Functions
from whence.backends.program_rules.kinds import MOVES
from whence.backends.program_rules.program import Program, Step, Values
from whence.backends.program_rules.regions import (
    Region,
    Trials,
    downstream,
    literal,
    merged,
    region,
    through,
    told,
    upstream,
)

_ROOTS = ("sqrt", "rsqrt")
_LINEAR = MOVES | {"reduce_sum", "reduce_mean", "multiply", "divide", "scale"}
_REDUCTIONS = ("reduce_sum", "reduce_mean")
_FAR, _NEAR = 8, 12


@dataclass(frozen=True, eq=False)
class Norm:
    """How a norm is taken apart: P x is the mean laid over x, and y = w (x − P x)/√(P (x − P x)² + ε) + b.

    P is the part of the region that makes the mean; w is what the rest makes of 1, where the mean is 0 and the
    root 1.
    """

    whole: Region
    means: tuple[int, ...]
    root: int
    epsilon: float

    def mean(self, functions: Functions, values: Values, x: Array) -> Array:
        """Return P x."""
        within = Region(
            self.whole.steps, self.whole.entry, self.whole.beside, self.means[0], self.whole.literals
        )
        found = _only(within).at({**values, self.whole.entry: x})
        return functions.broadcast(found, x.shape)

    def weight(self, functions: Functions, values: Values, x: Array, mean: Values, root: Array) -> Array:
        """Return w, of which `mean` and `root` are values of the right shapes."""
        fixed = {each: functions.zeros_like(value) for each, value in mean.items()}
        fixed[self.root] = functions.ones_like(root)
        one, none = functions.ones_like(x), functions.zeros_like(x)
        up, down = (self.whole.at({**values, **fixed, self.whole.entry: each}) for each in (one, none))
        return up - down

    def parts(self, functions: Functions, values: Values) -> tuple[Array, Array, Array]:
        """Return x − P x, √(P (x − P x)² + ε) and w."""
        x = values[self.whole.entry]
        c, s = self.centred(functions, values, x)
        inner = self.whole.all_at(values)
        means = {each: inner[each] for each in self.means}
        return c, s, self.weight(functions, values, x, means, inner[self.root])

    def centred(self, functions: Functions, values: Values, x: Array) -> tuple[Array, Array]:
        """Return x − P x and √(P (x − P x)² + ε)."""
        c = x - self.mean(functions, values, x)
        return c, (self.mean(functions, values, c * c) + self.epsilon) ** 0.5


def _only(within: Region) -> Region:
    """Return a region without the steps that its exit does not need."""
    wanted, kept = {within.exit}, list[Step]()
    for step in reversed(within.steps):
        if not wanted.isdisjoint(step.outputs):
            kept.append(step)
            wanted.update(step.inputs)
    return Region(tuple(reversed(kept)), within.entry, within.beside, within.exit, within.literals)


def norms(program: Program, trials: Trials) -> Iterator[Step]:
    """Find the norms of a program, each as one step."""
    for root in program.met:
        power = root.settings.get("power")
        if root.kind not in _ROOTS and power not in (0.5, -0.5):
            continue
        found = next(_norms_of(program, root, trials), None)
        if found is not None:
            found = _with_affine(program, found)
            yield merged(program, found.whole, "norm", "norm", {"norm": found})


def _norms_of(program: Program, root: Step, trials: Trials) -> Iterator[Norm]:
    epsilon = _epsilon(program, root)
    if epsilon is None:
        return
    size = _size(program, root.outputs[0])
    statistics = upstream(program, root.outputs[0], _NEAR)
    entries = [each for each in statistics if _size(program, each) > size]
    for entry in entries:
        if region(program, entry, root.outputs[0]) is None:
            continue
        for later in downstream(program, root.outputs[0], _FAR):
            exit = later.outputs[0]
            if program.types[exit].shape != program.types[entry].shape:
                continue
            whole = region(program, entry, exit)
            means = () if whole is None else _means(program, whole, root.outputs[0])
            if whole is None or not means:
                continue
            norm = Norm(whole, means, root.outputs[0], epsilon)
            if _verified(program, norm, trials):
                yield norm


def _with_affine(program: Program, norm: Norm) -> Norm:
    """Return a norm with the weight and the bias of one axis that follow it."""
    for kinds in (("multiply",), ("add",)):
        user = alone(program, norm.whole.exit)
        constant = None if user is None else constant_of(program, user, kinds)
        if user is None or constant is None:
            continue
        along = spread(program, constant, len(program.types[user.outputs[0]].shape))
        whole = region(program, norm.whole.entry, user.outputs[0]) if len(along) == 1 else None
        norm = norm if whole is None else replace(norm, whole=whole)
    return norm


def _size(program: Program, variable: int) -> int:
    return int(np.prod(program.types[variable].shape))


def _epsilon(program: Program, root: Step) -> float | None:
    """Return what is added to the variance; None where that is not a number of the program itself."""
    added = through(program, root.inputs[0], MOVES)
    if added is None or added.kind != "add" or len(added.moving) != 1:
        return 0.0
    value = literal(program, added.inputs[1 - added.moving[0]])
    return (
        None if value is None or value.size == 0 or (value != value.flat[0]).any() else float(value.flat[0])
    )


def _means(program: Program, whole: Region, root: int) -> tuple[int, ...]:
    """Return the means that what follows the root takes: sums of the entry, scaled and laid out, and no more."""
    cut = _only(Region(tuple(step for step in whole.steps if root not in step.outputs), *_rest(whole)))
    reduced: dict[int, bool] = {whole.entry: False}
    for step in cut.steps:
        moving = step.moving
        if len(moving) == 1 and step.kind in _LINEAR and step.inputs[moving[0]] in reduced:
            reduced[step.outputs[0]] = reduced[step.inputs[moving[0]]] or step.kind in _REDUCTIONS
    shape = program.types[whole.entry].shape
    found: dict[int, None] = {}
    for step in cut.steps:
        if step.outputs[0] in reduced:
            continue
        found.update(dict.fromkeys(each for each in step.inputs if reduced.get(each)))
    return tuple(each for each in found if _fits(program.types[each].shape, shape))


def _rest(whole: Region) -> tuple[int, tuple[int, ...], int, dict[int, object]]:
    return whole.entry, whole.beside, whole.exit, dict(whole.literals)


def _fits(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    return len(shape) == len(onto) and all(a in (1, b) for a, b in zip(shape, onto, strict=True))


def _verified(program: Program, norm: Norm, trials: Trials) -> bool:
    """Tell whether a region is this norm, at random points, also where ε counts; and whether P is a projection."""
    key = ("norm", told(norm.whole.text), program.types[norm.whole.entry], norm.epsilon, len(norm.means))
    if key not in trials.found:
        scales = (1.0, max(norm.epsilon, 1e-6) ** 0.5)
        run = trials.functions.compiled(partial(_tried, trials.functions, norm))
        trials.found[key] = all(_holds(program, norm, trials, run, *each) for each in enumerate(scales))
    return trials.found[key]


def _tried(functions: Functions, norm: Norm, values: Values, other: Array) -> tuple[Array, ...]:
    """Return pairs of what has to be the same: the norm, its mean of the mean, ⟨a, P b⟩ and ⟨P a, b⟩."""
    entry = norm.whole.entry
    c, s, weight = norm.parts(functions, values)
    none = {**values, entry: functions.zeros_like(values[entry])}
    mean = values[entry] - c
    again = norm.mean(functions, values, mean)
    one, two = ((a * norm.mean(functions, values, b)).sum() for a, b in ((c + 1, other), (other, c + 1)))
    return norm.whole.at(values) - norm.whole.at(none), weight * c / s, mean, again, one, two


def _holds(
    program: Program, norm: Norm, trials: Trials, run: Callable[..., Any], seed: int, scale: float
) -> bool:
    entry = norm.whole.entry
    values = trials.known(program, norm.whole, seed, scale)
    other = trials.functions.random(program.types[entry], seed + 100)
    try:
        y, expected, mean, again, one, two = map(trials.functions.numpy, run(values, other))
    except (TypeError, ValueError):
        return False
    return bool(
        abs(one - two) <= 1e-3 * (1 + abs(one))
        and trials.near(program, y, expected, entry)
        and trials.near(program, mean, again, entry)
    )
