"""A program: what a function does between its leaves and its output, as a flat list of steps of no framework's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from whence.backends.arrays import Array
from whence.backends.program_rules.functions import Again, Type
from whence.backends.program_rules.kinds import GRADIENTLESS, family

Values = Mapping[int, Array]
"""Arrays by the number of the variable that they are the value of."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operation.

    Attributes:
        operation: what the framework calls it.
        kind: what it is, one of `kinds.KINDS`; "" where that is unknown.
        inputs: the variables that it takes: varying ones, hidden ones, constants.
        outputs: the variables that it gives.
        again: does it with other values, differentiably.
        settings: what its kind needs to be known of it, see `kinds`.
        text: all that tells it from other steps of its kind, its shapes included.
        place: where in the user's code it stands.
        module: the layer that it belongs to.
        varying: which inputs depend on the leaves with a gradient; filled in by `marked`.
        hidden: which inputs depend on the leaves without one (comparisons, stopped gradients).
        family: one of `whence.rule.FAMILIES`; None where no rule knows it, or nothing varies.
    """

    operation: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    again: Again
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    text: str = ""
    place: str = ""
    module: str = ""
    varying: tuple[bool, ...] = ()
    hidden: tuple[bool, ...] = ()
    family: str | None = None

    @property
    def moving(self) -> list[int]:
        """The positions of the inputs that vary."""
        return [position for position, varies in enumerate(self.varying) if varies]

    @property
    def varied(self) -> int:
        """The first input that varies."""
        return self.inputs[self.moving[0]]


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order: those of constants too, each before what uses it.

    `given` are constants from outside (weights), `literals` those that are part of the program itself.
    """

    steps: tuple[Step, ...]
    leaves: tuple[int, ...]
    given: tuple[int, ...]
    literals: Mapping[int, Any]
    output: int
    types: Mapping[int, Type]

    @cached_property
    def makers(self) -> dict[int, Step]:
        """The step that gives each variable."""
        return {variable: step for step in self.steps for variable in step.outputs}

    @cached_property
    def users(self) -> dict[int, list[Step]]:
        """The steps that take each variable, one entry for each time."""
        found: dict[int, list[Step]] = {}
        for step in self.steps:
            for variable in step.inputs:
                found.setdefault(variable, []).append(step)
        return found

    @cached_property
    def reached(self) -> frozenset[int]:
        """The variables that depend on the leaves in any way."""
        found = set(self.leaves)
        for step in self.steps:
            if not found.isdisjoint(step.inputs):
                found.update(step.outputs)
        return frozenset(found)

    @cached_property
    def moving(self) -> frozenset[int]:
        """The variables that depend on the leaves with a gradient."""
        found = set(self.leaves)
        for step in self.steps:
            if step.kind not in GRADIENTLESS and not found.isdisjoint(step.inputs):
                found.update(each for each in step.outputs if self.types[each].floating)
        return frozenset(found)

    @cached_property
    def met(self) -> list[Step]:
        """The steps on the way from the leaves to the output, consumers first."""
        wanted = {self.output} & self.moving
        found: list[Step] = []
        for step in reversed(self.steps):
            if any(step.varying) and not wanted.isdisjoint(step.outputs):
                found.append(step)
                wanted.update(step.inputs[position] for position in step.moving)
        return found

    @cached_property
    def constants(self) -> list[Step]:
        """The steps that depend on no leaf."""
        return [step for step in self.steps if self.reached.isdisjoint(step.outputs)]

    @property
    def connected(self) -> bool:
        """Whether the output depends on the leaves with a gradient."""
        return self.output in self.moving

    def with_steps(self, steps: Iterable[Step], types: Mapping[int, Type] | None = None) -> Program:
        """Return the program with other steps, without those that nothing uses, marked."""
        return marked(replace(self, steps=tuple(steps), types={**self.types, **(types or {})}))


def marked(program: Program) -> Program:
    """Return a program in which each step knows which of its inputs vary, and its family; unused steps are left out."""
    wanted, kept = {program.output}, list[Step]()
    for step in reversed(program.steps):
        if not wanted.isdisjoint(step.outputs):
            kept.append(step)
            wanted.update(step.inputs)
    program = replace(program, steps=tuple(reversed(kept)))
    moving, reached = program.moving, program.reached
    found: list[Step] = []
    for step in program.steps:
        gives = not moving.isdisjoint(step.outputs)
        varying = tuple(gives and each in moving for each in step.inputs)
        hidden = tuple(
            each in reached and not varies for each, varies in zip(step.inputs, varying, strict=True)
        )
        known = family(step.kind, varying, step.settings) if gives else None
        found.append(replace(step, varying=varying, hidden=hidden, family=known))
    return replace(program, steps=tuple(found))


def run(
    program: Program, given: Sequence[Array], leaves: Sequence[Array], steps: Iterable[Step] | None = None
) -> dict[int, Array]:
    """Return the value of every variable (with `steps`: of those that these give)."""
    values: dict[int, Array] = dict(program.literals)
    values.update(zip(program.given, given, strict=True))
    values.update(zip(program.leaves, leaves, strict=False))
    for step in program.steps if steps is None else steps:
        results = step.again([values[each] for each in step.inputs])
        values.update(zip(step.outputs, results, strict=True))
    return values
