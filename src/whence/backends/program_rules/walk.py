"""The way back through a program: what arrives at each variable is added up, and a rule answers for each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whence.backends.arrays import Array
from whence.backends.program_rules.functions import Functions
from whence.backends.program_rules.program import Program, Step, Values

Arrived = Sequence[Array | None]
"""What has come back to each output of a step."""
Passed = Mapping[int, Array]
"""What a step passes back to its inputs, by their position."""
Rule = Callable[[Step, Arrived], Passed]


@dataclass
class Extras:
    """What a way back tells beside its result: sums by name, and notes that hold where their flag does."""

    sums: dict[str, Array] = field(default_factory=dict[str, Any])
    notes: list[tuple[str, Array]] = field(default_factory=list[tuple[str, Any]])

    def add(self, name: str, amount: Array) -> None:
        """Add to a sum."""
        self.sums[name] = self.sums[name] + amount if name in self.sums else amount


def walk(program: Program, start: Array, rule: Rule) -> tuple[Array | None, ...]:
    """Return what comes back to the leaves from what starts at the output."""
    messages: dict[int, Array] = {program.output: start}
    for step in program.met:
        arrived = [messages.get(each) for each in step.outputs]
        if all(each is None for each in arrived):
            continue
        for position, passed in rule(step, arrived).items():
            variable = step.inputs[position]
            messages[variable] = messages[variable] + passed if variable in messages else passed
    return tuple(messages.get(each) for each in program.leaves)


def derivative(functions: Functions, values: Values, step: Step, arrived: Arrived) -> Passed:
    """Return what the plain derivative passes back."""
    positions = step.moving
    taken = [values[each] for each in step.inputs]
    return dict(zip(positions, functions.vjp(step.again, taken, positions, arrived), strict=True))
