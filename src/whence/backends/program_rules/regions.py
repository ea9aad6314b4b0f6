"""Regions of a program: what lies between one variable and another, taken as one step, and tried on random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whence.backends.arrays import Array
from whence.backends.program_rules.functions import Functions
from whence.backends.program_rules.program import Program, Step

Formula = Callable[[np.ndarray], np.ndarray]
_MOST = 64
_LARGEST_LITERAL = 65_536


@dataclass(frozen=True, eq=False)
class Region:
    """Steps in order from one entry to one exit; `beside` is what else they take: constants, stopped gradients."""

    steps: tuple[Step, ...]
    entry: int
    beside: tuple[int, ...]
    exit: int
    literals: Mapping[int, Any]

    def __call__(self, values: Sequence[Array]) -> tuple[Array, ...]:
        """Return the exit's value from those of the entry and what stands beside."""
        return (self.at({self.entry: values[0], **dict(zip(self.beside, values[1:], strict=True))}),)

    def at(self, known: Mapping[int, Array]) -> Array:
        """Return the exit's value where some variables are known, also such as the steps would give otherwise."""
        return self.all_at(known)[self.exit]

    def all_at(self, known: Mapping[int, Array]) -> dict[int, Array]:
        """Return every value, where some are known."""
        values: dict[int, Array] = {**self.literals, **known}
        for step in self.steps:
            if all(each in known for each in step.outputs):
                continue
            results = step.again([values[each] for each in step.inputs])
            values.update(
                (each, value) for each, value in zip(step.outputs, results, strict=True) if each not in known
            )
        return values

    @property
    def text(self) -> str:
        """All that tells it from another region: its steps, and how they hang together."""
        numbers = {each: place for place, each in enumerate((self.entry, *self.beside))}
        parts: list[str] = []
        for step in self.steps:
            taken = [numbers.get(each, repr(self.literals.get(each))) for each in step.inputs]
            for each in step.outputs:
                numbers.setdefault(each, len(numbers))
            parts.append(f"{step.operation}{taken}{step.settings if not step.text else step.text}")
        return ";".join(parts)


def region(program: Program, entry: int, exit: int) -> Region | None:
    """Return what lies between entry and exit; None where the exit depends on the leaves in another way too.

    Of stopped gradients only the result is taken.
    """
    found: dict[int, None] = {}
    beside: dict[int, None] = {}
    order = {step.outputs[0]: place for place, step in enumerate(program.steps)}
    waiting, seen = [exit], {entry}
    inner: list[Step] = []
    while waiting:
        variable = waiting.pop()
        if variable in seen:
            continue
        seen.add(variable)
        maker = program.makers.get(variable)
        if variable not in program.reached or (maker is not None and maker.kind == "stop"):
            if variable not in program.literals:
                beside[variable] = None
            continue
        if maker is None or len(inner) > _MOST:
            return None
        if maker.outputs[0] not in found:
            found[maker.outputs[0]] = None
            inner.append(maker)
            waiting += maker.inputs
    if not inner:
        return None
    inner.sort(key=lambda step: order[step.outputs[0]])
    literals = {
        each: program.literals[each] for step in inner for each in step.inputs if each in program.literals
    }
    return Region(tuple(inner), entry, tuple(beside), exit, literals)


def merged(program: Program, found: Region, operation: str, kind: str, settings: Mapping[str, Any]) -> Step:
    """Return a region as one step."""
    last = program.makers[found.exit]
    return Step(
        operation, kind, (found.entry, *found.beside), (found.exit,), found, settings,
        found.text, last.place, last.module,
    )  # fmt: skip


def with_merged(program: Program, steps: Iterable[Step]) -> Program:
    """Return a program in which each of these stands in the place of the step that gave its result."""
    by_output = {step.outputs[0]: step for step in steps}
    return program.with_steps(by_output.get(step.outputs[0], step) for step in program.steps)


def downstream(program: Program, variable: int, depth: int) -> list[Step]:
    """Return the steps that use a variable, and those that use theirs, in order."""
    found: dict[int, Step] = {}
    front = [variable]
    for _ in range(depth):
        users = [user for each in front for user in program.users.get(each, ())]
        front = [each for user in users if user.outputs[0] not in found for each in user.outputs]
        found.update((user.outputs[0], user) for user in users)
    return sorted(found.values(), key=lambda step: step.outputs[0])


def upstream(program: Program, variable: int, depth: int) -> list[int]:
    """Return the varying variables that one is made of, the nearest first."""
    found: dict[int, None] = {}
    front = [variable]
    for _ in range(depth):
        makers = [program.makers[each] for each in front if each in program.makers]
        front = [
            each for maker in makers for each in maker.inputs if each in program.moving and each not in found
        ]
        found.update(dict.fromkeys(front))
    return list(found)


def through(program: Program, variable: int, kinds: Iterable[str], depth: int = 4) -> Step | None:
    """Return what made a variable, looking through steps of some kinds that have one varying input."""
    allowed = frozenset(kinds)
    for _ in range(depth):
        maker = program.makers.get(variable)
        if maker is None or maker.kind not in allowed or len(maker.moving) != 1:
            return maker
        variable = maker.varied
    return program.makers.get(variable)


def literal(program: Program, variable: int) -> np.ndarray | None:
    """Return a constant that is part of the program itself; None where it comes from outside, or varies."""
    if variable in program.literals:
        return np.asarray(program.literals[variable])
    maker = program.makers.get(variable)
    if maker is None or variable in program.reached:
        return None
    if int(np.prod(program.types[variable].shape)) > _LARGEST_LITERAL:
        return None
    taken = [literal(program, each) for each in maker.inputs]
    if any(each is None for each in taken):
        return None
    try:
        return np.asarray(maker.again(taken)[maker.outputs.index(variable)])
    except (TypeError, ValueError):
        return None


# ---- trying ------------------------------------------------------------------------------------------------------


def told(text: str) -> str:
    """Return a short text in the place of a long one."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Trials:
    """Tries regions on random numbers; what was found is remembered by what the region is."""

    functions: Functions
    found: dict[Any, bool]

    def agrees(self, program: Program, tried: Region, name: str, expected: Formula) -> bool:
        """Tell whether a region is a function of its entry, by its values at random points."""
        kind = program.types[tried.entry]
        key = (name, told(tried.text), kind)
        if key not in self.found:
            run = self.functions.compiled(tried.at)
            self.found[key] = all(self._once(program, tried, run, expected, seed) for seed in (1, 2))
        return self.found[key]

    def known(self, program: Program, tried: Region, seed: int, scale: float = 1.0) -> dict[int, Array]:
        """Return random values for a region's entry and what stands beside; constants of its own as they are."""
        known: dict[int, Array] = {}
        for place, each in enumerate((tried.entry, *tried.beside)):
            kind = program.types[each]
            fixed = literal(program, each) if place else None
            array = self.functions.random(kind, seed + 7 * place)
            if fixed is not None:
                known[each] = self.functions.array(fixed, array)
            elif kind.floating:
                moved = array * scale if place == 0 else abs(array) + 0.5
                known[each] = self.functions.cast(moved, array)
            else:
                known[each] = array
        return known

    def near(self, program: Program, one: np.ndarray, two: np.ndarray, variable: int) -> bool:
        """Tell whether two arrays are the same but for rounding in a variable's dtype."""
        if one.shape != two.shape or not np.isfinite(one).all():
            return False
        tolerance = max(1e-9, min(0.05, 2_000 * self.functions.precision(program.types[variable])))
        return bool(np.abs(one - two).max(initial=0) <= tolerance * max(1.0, np.abs(two).max(initial=0)))

    def _once(
        self, program: Program, tried: Region, run: Callable[..., Array], expected: Formula, seed: int
    ) -> bool:
        known = self.known(program, tried, seed, 3.0)
        found = self.functions.numpy(run(known))
        with np.errstate(all="ignore"):
            wanted = expected(self.functions.numpy(known[tried.entry]))
        return self.near(program, found, wanted, tried.entry)


def renamed(step: Step, **changes: Any) -> Step:
    """Return a step with some things changed."""
    return replace(step, **changes)
