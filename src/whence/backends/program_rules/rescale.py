"""DeepLIFT's rescale rule: each step passes back what makes Σ m Δx = g Δy exact, step by step.

(Shrikumar et al. 2017; the rules for products, norms, softmax and maxima are whence's, see docs/numerics.md.)
"""

from __future__ import annotations

from whence.backends.arrays import Array
from whence.backends.program_rules import local, local_axes
from whence.backends.program_rules.functions import Functions
from whence.backends.program_rules.program import Program, Step, Values
from whence.backends.program_rules.walk import Arrived, Extras, Passed, derivative, walk
from whence.errors import Unpaired
from whence.rule import LINEAR

RULES: dict[str, local.Rule] = {
    "relu": local.elementwise, "activation": local.elementwise, "cell": local.elementwise, "product": local.product,
    "quotient": local.quotient, "norm": local_axes.norm, "softmax": local_axes.softmax,
    "log_softmax": local_axes.log_softmax, "logsumexp": local_axes.logsumexp, "maximum": local_axes.maximum,
    "power": local.integral, "order": local.order,
}  # fmt: skip


def rule_of(step: Step) -> local.Rule | None:
    """Return the rule of a step; None where its derivative is exact at any distance, or it is unknown."""
    if step.family in LINEAR:
        return local.hidden if any(step.hidden) else None
    return RULES.get(step.family or "")


def back(
    functions: Functions, program: Program, values: Values, values0: Values, start: Array, rows: int
) -> tuple[tuple[Array | None, ...], Extras]:
    """Return the multipliers of the leaves relative to a baseline, whose values go by this program's variables."""
    extras = Extras()

    def rule(step: Step, arrived: Arrived) -> Passed:
        own = rule_of(step)
        if own is None:
            return derivative(functions, values, step, arrived)
        return own(local.Call(functions, step, values, values0, arrived, rows, extras))

    return walk(program, start, rule), extras


def paired(program: Program, other: Program) -> dict[int, int]:
    """Return which variable of another program stands for each of this one's, where a rule compares them.

    Raises:
        Unpaired: it has other steps, or its values have shapes that do not fit.
    """
    one, two = ([step for step in each.met if rule_of(step) is not None] for each in (program, other))
    if len(one) != len(two):
        raise Unpaired(f"{len(one)} operations at the input and {len(two)} at the baseline")
    found: dict[int, int] = {}
    for step, step0 in zip(one, two, strict=True):
        same = step.operation == step0.operation and len(step.inputs) == len(step0.inputs)
        pairs = list(zip((*step.inputs, *step.outputs), (*step0.inputs, *step0.outputs), strict=False))
        if not same or not all(_fit(program, other, *pair) for pair in pairs if pair[0] in program.reached):
            raise Unpaired(f"{step.operation} at the input, {step0.operation} at the baseline")
        for variable, variable0 in pairs:
            if variable in program.reached:
                found.setdefault(variable, variable0)
    return found


def _fit(program: Program, other: Program, variable: int, variable0: int) -> bool:
    """Tell whether a value at the baseline can be laid beside that at the input: the same, or one row for all."""
    shape, shape0 = program.types[variable].shape, other.types[variable0].shape
    return len(shape) == len(shape0) and all(a in (b, 1) for a, b in zip(shape0, shape, strict=True))
