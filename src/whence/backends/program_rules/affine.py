"""What belongs to a linear layer and follows it: a bias that is added apart, a batch norm of constant statistics."""

from __future__ import annotations

import math

from whence.backends.program_rules.kinds import ELEMENTWISE, MOVES
from whence.backends.program_rules.program import Program, Step
from whence.backends.program_rules.regions import merged, region, through, with_merged

_ROOTS = ("sqrt", "rsqrt")
_DEEP = 12


# ---- along which axes a constant varies --------------------------------------------------------------------------


def spread(program: Program, variable: int, ndim: int, depth: int = _DEEP) -> frozenset[int]:
    """Return the axes of an array of `ndim` axes along which a constant that is laid over it may vary."""
    shape = program.types[variable].shape
    first = ndim - len(shape)
    maker = program.makers.get(variable)
    if maker is not None and depth and maker.kind == "broadcast":
        inner = spread(program, maker.inputs[0], len(maker.settings["axes"]), depth - 1)
        return frozenset(maker.settings["axes"][axis] + first for axis in inner)
    if maker is not None and depth and maker.kind in ELEMENTWISE:
        found: set[int] = set()
        for each in maker.inputs:
            found |= spread(program, each, len(shape), depth - 1)
        return frozenset(axis + first for axis in found)
    return frozenset(axis + first for axis, size in enumerate(shape) if size != 1)


def carried(program: Program, step: Step, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return where axes stand after a step that moves every element; None where one was taken apart."""
    before, after = (program.types[each].shape for each in (step.varied, step.outputs[0]))
    if step.kind == "convert":
        return axes
    if math.prod(before) != math.prod(after):
        return None
    if step.kind == "transpose":
        return tuple(step.settings["axes"].index(axis) for axis in axes)
    if step.kind == "broadcast":
        return tuple(step.settings["axes"][axis] for axis in axes)
    found = [_place(before, after, axis) for axis in axes]
    return None if None in found else tuple(each for each in found if each is not None)


def _place(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    inner = math.prod(before[axis + 1 :])
    for place, size in enumerate(after):
        if size == before[axis] and math.prod(after[place + 1 :]) == inner:
            return place
    return None


def alone(program: Program, variable: int) -> Step | None:
    """Return the one step that uses a variable; None where there are several, or where it is the output."""
    users = program.users.get(variable, [])
    return users[0] if len(users) == 1 and variable != program.output else None


def constant_of(program: Program, step: Step | None, kinds: tuple[str, ...]) -> int | None:
    """Return the constant that a step of some kinds has beside its one varying input."""
    if step is None or step.kind not in kinds or len(step.inputs) != 2 or len(step.moving) != 1:
        return None
    other = step.inputs[1 - step.moving[0]]
    return None if other in program.reached else other


# ---- batch norm --------------------------------------------------------------------------------------------------


def batch_norms(program: Program) -> Program:
    """Take (x − mean)/√variance · weight + bias, all of them constants of one axis, as one step."""
    found: list[Step] = []
    for step in program.met:
        axis = _normed(program, step)
        if axis is None:
            continue
        entry, exit = _first(program, step, axis), _last(program, step, axis)
        whole = region(program, entry, exit)
        if whole is not None:
            found.append(merged(program, whole, "batch_norm", "batch_norm", {"axis": axis}))
    return with_merged(program, found) if found else program


def _normed(program: Program, step: Step) -> int | None:
    """Return the axis of a multiplication by 1/√variance."""
    other = constant_of(program, step, ("multiply", "divide"))
    if other is None or step.family != "scale" or not _rooted(program, other):
        return None
    axes = spread(program, other, len(program.types[step.outputs[0]].shape))
    return next(iter(axes)) if len(axes) == 1 else None


def _rooted(program: Program, constant: int, depth: int = _DEEP) -> bool:
    maker = program.makers.get(constant)
    if maker is None or not depth:
        return False
    if maker.kind in _ROOTS or maker.settings.get("power") in (0.5, -0.5):
        return True
    return any(_rooted(program, each, depth - 1) for each in maker.inputs)


def _beside(program: Program, constant: int | None, step: Step, axis: int) -> bool:
    if constant is None:
        return False
    return spread(program, constant, len(program.types[step.outputs[0]].shape)) <= {axis}


def _first(program: Program, step: Step, axis: int) -> int:
    """Return what the norm is of: before its mean is taken off."""
    before = through(program, step.varied, ("convert",))
    constant = constant_of(program, before, ("subtract",))
    if before is None or constant is None or not before.varying[0]:
        return step.varied
    single = alone(program, before.outputs[0]) is not None
    return before.inputs[0] if single and _beside(program, constant, before, axis) else step.varied


def _last(program: Program, step: Step, axis: int) -> int:
    """Return the norm's result, with its weight and its bias."""
    scaled, exit = False, step.outputs[0]
    here = alone(program, exit)
    while here is not None and here.varying[:1]:
        if here.kind == "convert":
            here = alone(program, here.outputs[0])
            continue
        factor = constant_of(program, here, ("multiply",))
        if not scaled and factor is not None and _beside(program, factor, here, axis):
            scaled, exit = True, here.outputs[0]
            here = alone(program, exit)
            continue
        added = constant_of(program, here, ("add", "subtract"))
        if added is not None and here.kind == "add" and _beside(program, added, here, axis):
            return here.outputs[0]
        break
    return exit


# ---- biases ------------------------------------------------------------------------------------------------------


def joined_biases(program: Program) -> Program:
    """Take a layer and the bias that is added to it apart as one step."""
    found = [each for step in program.met for each in [_with_bias(program, step)] if each is not None]
    return with_merged(program, found) if found else program


def channels_of(step: Step) -> tuple[tuple[int, int], ...]:
    """Return the pairs (axis of the output, axis of the weight) of a linear layer's units."""
    return step.settings["channels"].get(weight_of(step), ())


def weight_of(step: Step) -> int:
    """Return the position of a linear layer's constant factor."""
    return step.settings.get("weight", 1 - step.moving[0])


def _with_bias(program: Program, layer: Step) -> Step | None:
    if layer.family not in ("dense", "convolution") or "bias" in layer.settings:
        return None
    weight, pairs = layer.inputs[weight_of(layer)], channels_of(layer)
    axes: tuple[int, ...] | None = tuple(axis for axis, _ in pairs)
    here = alone(program, layer.outputs[0])
    while here is not None and axes:
        constant = constant_of(program, here, ("add",))
        if constant is not None:
            shape = program.types[here.outputs[0]].shape
            along = spread(program, constant, len(shape))
            single = math.prod(shape[axis] for axis in axes) == 1
            if not along <= set(axes) or not (along or single):
                return None
            return _joined(program, layer, here, weight, constant, pairs, axes)
        if here.kind not in MOVES:
            return None
        axes = carried(program, here, axes)
        here = alone(program, here.outputs[0])
    return None


def _joined(
    program: Program, layer: Step, last: Step, weight: int, bias: int,
    pairs: tuple[tuple[int, int], ...], axes: tuple[int, ...],
) -> Step | None:  # fmt: skip
    whole = region(program, layer.varied, last.outputs[0])
    if whole is None or weight not in whole.beside or bias not in whole.beside:
        return None
    places = {each: place + 1 for place, each in enumerate(whole.beside)}
    settings = {
        "channels": {places[weight]: tuple((axis, own) for axis, (_, own) in zip(axes, pairs, strict=True))},
        "weight": places[weight],
        "bias": places[bias],
    }
    step = merged(program, whole, layer.operation, layer.kind, settings)
    return Step(
        step.operation, step.kind, step.inputs, step.outputs, step.again, step.settings, step.text,
        layer.place, layer.module,
    )  # fmt: skip
