"""Making a program's granularity that of PyTorch's operations: norms, softmax and activations whole, biases joined."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from whence.backends.program_rules.affine import alone, batch_norms, constant_of, joined_biases
from whence.backends.program_rules.functions import Functions
from whence.backends.program_rules.kinds import ELEMENTWISE, MOVES
from whence.backends.program_rules.norms import norms
from whence.backends.program_rules.program import Program, Step, marked
from whence.backends.program_rules.regions import (
    Formula,
    Region,
    Trials,
    downstream,
    literal,
    merged,
    region,
    renamed,
    through,
    upstream,
    with_merged,
)

_VERDICTS: dict[object, bool] = {}
_MOST_VERDICTS = 4_096


def recognised(program: Program, functions: Functions) -> Program:
    """Return a program with its well-known parts taken as one step each; what is not sure stays as it is."""
    if len(_VERDICTS) > _MOST_VERDICTS:
        _VERDICTS.clear()
    trials = Trials(functions, _VERDICTS)
    program = marked(program)
    for each in (_calls, _rectifiers, _clipped, _gelus, _softmaxes, _logarithms, norms, _means):
        steps = list(each(program, trials))
        program = with_merged(program, steps) if steps else program
    return joined_biases(batch_norms(program))


# ---- rectifiers and activations ----------------------------------------------------------------------------------


def _calls(program: Program, trials: Trials) -> Iterator[Step]:
    """Tell rectifiers from other named functions."""
    for step in program.steps:
        if step.kind == "call" and sum(step.varying) == 1:
            found = region(program, step.varied, step.outputs[0])
            if found is not None and trials.agrees(
                program, found, "relu", _rectified_like(program, found, trials)
            ):
                yield renamed(step, kind="relu")


def _rectified_like(program: Program, found: Region, trials: Trials) -> Formula:
    """Return max(x, 0), clipped at the largest value that a region gives."""

    def rectified(x: np.ndarray) -> np.ndarray:
        known = trials.known(program, found, 1)
        known[found.entry] = trials.functions.ones_like(known[found.entry]) * 1e4
        most = float(trials.functions.numpy(found.at(known)).max(initial=0))
        return np.clip(x, 0, most if most > 0 else np.nan)

    return rectified


def _rectifiers(program: Program, trials: Trials) -> Iterator[Step]:
    """Find max(x, 0) in other words: with a constant, by a choice, by a mask."""
    for step in program.met:
        if step.kind == "maximum" and step.family == "activation":
            other = literal(program, step.inputs[1 - step.moving[0]])
            if other is not None and not other.any():
                yield renamed(step, kind="relu")
        elif any(step.hidden) and step.kind in ("multiply", "select"):
            for position in step.moving:
                found = region(program, step.inputs[position], step.outputs[0])
                if found is None or not _alone(program, found):
                    continue
                if trials.agrees(program, found, "relu", lambda x: np.maximum(x, 0)):
                    yield merged(program, found, step.operation, "relu", {})
                    break


def _clipped(program: Program, trials: Trials) -> Iterator[Step]:
    """Take min(max(x, 0), c) for one rectifier."""
    for step in program.met:
        if step.kind != "minimum" or step.family != "activation":
            continue
        below = program.makers.get(step.varied)
        most = literal(program, step.inputs[1 - step.moving[0]])
        if below is None or below.kind != "relu" or most is None or not (most > 0).all():
            continue
        found = region(program, below.varied, step.outputs[0])
        if found is not None and len(program.users[step.varied]) == 1:
            yield merged(program, found, "clip", "relu", {"clipped": True})


def _alone(program: Program, found: Region) -> bool:
    """Tell whether a region acts on each element alone."""
    shape = program.types[found.entry].shape
    return program.types[found.exit].shape == shape and all(step.kind in ELEMENTWISE for step in found.steps)


def _gelus(program: Program, trials: Trials) -> Iterator[Step]:
    """Find GELU, exact or by tanh, written out."""
    for step in program.met:
        if step.kind not in ("erf", "tanh") or step.family != "activation":
            continue
        found = next(_gelus_of(program, step, trials), None)
        if found is not None:
            yield merged(program, found, "gelu", "elementwise", {})


def _gelus_of(program: Program, step: Step, trials: Trials) -> Iterator[Region]:
    for later in downstream(program, step.outputs[0], 4):
        if later.kind != "multiply" or later.family != "product":
            continue
        # The half of it may be taken before, or of the product.
        halved = alone(program, later.outputs[0])
        exits = [
            later,
            *([halved] if constant_of(program, halved, ("multiply", "divide")) is not None else []),
        ]
        for entry, exit in product(upstream(program, step.outputs[0], 6), exits):
            found = region(program, entry, exit.outputs[0]) if exit is not None else None
            if found is None or not _alone(program, found):
                continue
            for name, formula in (("gelu", _gelu), ("gelu by tanh", _gelu_by_tanh)):
                if trials.agrees(program, found, name, formula):
                    yield found


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return x * (1 + erf(x / np.sqrt(2))) / 2


def _gelu_by_tanh(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


# ---- softmax and its kin -----------------------------------------------------------------------------------------


def _softmaxes(program: Program, trials: Trials) -> Iterator[Step]:
    """Find exp(x − m) / Σ exp(x − m)."""
    for step in program.met:
        if step.family != "quotient" or not step.varying[0]:
            continue
        above = through(program, step.inputs[0], MOVES)
        below = through(program, step.inputs[1], MOVES)
        if above is None or below is None or above.kind != "exp" or below.kind != "reduce_sum":
            continue
        axes = below.settings["axes"]
        for entry in _entries(program, above):
            found = _same_shaped(program, entry, step.outputs[0])
            if found is not None and trials.agrees(
                program, found, f"softmax{axes}", lambda x, a=axes: _softmax(x, a)
            ):
                yield merged(program, found, "softmax", "softmax", {"axes": axes})
                break


def _logarithms(program: Program, trials: Trials) -> Iterator[Step]:
    """Find log Σ exp(x − m) + m, and x − that."""
    for step in program.met:
        if step.kind != "log" or step.family != "activation":
            continue
        total = through(program, step.inputs[0], MOVES | {"elementwise"})
        power = (
            None if total is None or total.kind != "reduce_sum" else through(program, total.inputs[0], MOVES)
        )
        if total is not None and power is not None and power.kind == "exp":
            found = next(_logarithms_of(program, step, power, total.settings["axes"], trials), None)
            if found is not None:
                yield found


def _logarithms_of(
    program: Program, step: Step, power: Step, axes: tuple[int, ...], trials: Trials
) -> Iterator[Step]:
    exits = [step.outputs[0], *(later.outputs[0] for later in downstream(program, step.outputs[0], 4))]
    for entry in _entries(program, power):
        for exit in exits:
            found = _same_shaped(program, entry, exit)
            if found is not None and trials.agrees(
                program, found, f"log_softmax{axes}", lambda x: np.log(_softmax(x, axes))
            ):
                yield merged(program, found, "log_softmax", "log_softmax", {"axes": axes})
        for exit in exits:
            found = region(program, entry, exit)
            shape = program.types[exit].shape
            if found is not None and trials.agrees(
                program, found, f"logsumexp{axes}", lambda x, s=shape: _logsumexp(x, axes, s)
            ):
                yield merged(program, found, "logsumexp", "logsumexp", {"axes": axes})


def _means(program: Program, trials: Trials) -> Iterator[Step]:
    """Take a sum that is divided by the number of its elements for one mean."""
    for step in program.met:
        if step.kind not in ("multiply", "divide") or step.family != "scale" or not step.varying[0]:
            continue
        total = through(program, step.varied, MOVES)
        if total is None or not (total.kind == "reduce_sum" or total.settings.get("window")):
            continue
        number = literal(program, step.inputs[1])
        same = number is not None and number.size > 0 and (number == number.flat[0]).all()
        if not same and not total.settings.get("window"):
            continue
        found = region(program, total.varied, step.outputs[0])
        if found is not None and _single(program, found):
            yield merged(program, found, "mean", "sum", {})


def _single(program: Program, found: Region) -> bool:
    """Tell whether nothing but a region uses what is inside of it."""
    inner = {each for step in found.steps for each in step.outputs} - {found.exit}
    own = {step.outputs[0] for step in found.steps}
    return all(user.outputs[0] in own for each in inner for user in program.users.get(each, ()))


def _entries(program: Program, power: Step) -> list[int]:
    """Return what a softmax's exponential is of: before its maximum is taken off, then after."""
    before = through(program, power.inputs[0], ("convert",))
    entries = [power.inputs[0]]
    if before is not None and before.kind == "subtract" and before.varying[0]:
        entries.insert(0, before.inputs[0])
    return entries


def _same_shaped(program: Program, entry: int, exit: int) -> Region | None:
    if program.types[entry].shape != program.types[exit].shape:
        return None
    return region(program, entry, exit)


def _softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    powers = np.exp(x - x.max(axes, keepdims=True))
    return powers / powers.sum(axes, keepdims=True)


def _logsumexp(x: np.ndarray, axes: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    found = np.log(np.exp(x).sum(axes))
    return found.reshape(shape) if found.size == np.prod(shape, dtype=int) else found
