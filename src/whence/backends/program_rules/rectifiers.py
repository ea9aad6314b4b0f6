"""Guided backpropagation and the deconvolution network: what a rectifier passes back."""

from __future__ import annotations

from whence.backends.arrays import Array
from whence.backends.program_rules.functions import Functions, positive
from whence.backends.program_rules.program import Program, Step, Values
from whence.backends.program_rules.walk import Arrived, Extras, Passed, derivative, walk
from whence.errors import Refused
from whence.rule import Rules


def check(program: Program, rules: Rules) -> None:
    """Check that there is a rectifier.

    Raises:
        Refused: there is none, so that the answer would be the plain gradient.
    """
    if not rules.required or not program.met or any(step.family == "relu" for step in program.met):
        return
    others = sorted({step.operation for step in program.met if step.family == "activation"})
    met = f" (it uses {', '.join(others)})" if others else ""
    raise Refused(
        f"{rules.name} rules change what a ReLU passes back, and between this output and the input there is none"
        f"{met}; the answer would be the plain gradient: use saliency, or deeplift, which has rules for them all"
    )


def back(
    functions: Functions, program: Program, values: Values, start: Array, rules: Rules
) -> tuple[tuple[Array | None, ...], Extras]:
    """Return what comes back to the leaves by one of these rules, or by the plain derivative."""

    def rule(step: Step, arrived: Arrived) -> Passed:
        if step.family != "relu" or rules.name == "gradient":
            return derivative(functions, values, step, arrived)
        if rules.name == "deconvolution":
            return {step.moving[0]: positive(functions, arrived[0])}
        return {
            position: positive(functions, each)
            for position, each in derivative(functions, values, step, arrived).items()
        }

    return walk(program, start, rule), Extras()
