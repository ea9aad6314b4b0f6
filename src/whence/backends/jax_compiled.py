"""A JAX model traced for one shape of its arguments, and compiled for each set of places that is watched in it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.core import eval_jaxpr  # pyright: ignore[reportMissingImports]

from whence.backends import Array, Tap
from whence.backends.jax_models import Parts
from whence.backends.jax_signature import signature
from whence.backends.jax_walk import bodies, named, walk
from whence.errors import BadInput

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""A call's arguments and keywords."""
INPUT, OUTPUT = "whence takes ", "whence gives "
"""What the names of our own marks begin with; a user's checkpoint_name has neither."""


@dataclass
class Store:
    """What was compiled of a model, by the equations of its trace.

    What a model computes may have changed since the last explanation (a closure, a setting), so it is traced in each;
    where the equations are the same, what was compiled of them serves again, with the present constants. `traces` keeps
    the traces alive, whose parts are told by their identity; `fused` is the memory of `jax_fused`.
    """

    runners: dict[Any, dict[Any, Any]] = field(default_factory=dict[Any, dict[Any, Any]])
    traces: dict[Any, Any] = field(default_factory=dict[Any, Any])
    fused: OrderedDict[Any, Any] = field(default_factory=OrderedDict[Any, Any])


def kinds_of(given: Any) -> Any:
    """Return what a traced program depends on: the arrays' shapes and types, and the values of all else."""
    leaves, tree = jax.tree.flatten(given)
    return tree, tuple(
        (tuple(each.shape), str(each.dtype)) if is_array(each) else _constant(each) for each in leaves
    )


def _constant(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def is_array(value: Any) -> bool:
    """Tell whether an argument is an array, which a compiled program takes anew at each call."""
    return isinstance(value, (jax.Array, np.ndarray))


@dataclass(frozen=True)
class Mark:
    """A value that is met: its module's name (or its own), and whether it is what the module takes in.

    `width` is the number of its channels where the module tells it; `passive` ones made nothing to look at.
    """

    name: str
    input: bool = False
    width: int | None = None
    passive: bool = False


@dataclass
class Program:
    """A traced model: `closed` takes the leaves of the parameters and the arrays among the arguments."""

    closed: Any
    outputs: Any
    marks: dict[str, Mark]
    runners: dict[Any, Any]

    @classmethod
    def traced(cls, parts: Parts, given: Given, tagged: bool, store: Store) -> Program:
        """Trace a model for arguments of these shapes; with `tagged` its modules' values can be met."""
        leaves, tree = jax.tree.flatten(given)
        arrays = [place for place, each in enumerate(leaves) if is_array(each)]
        marks: dict[str, Mark] = {}
        shape: list[Any] = []

        def flat(parameters: Sequence[Any], dynamic: Sequence[Any]) -> list[Any]:
            full = list(leaves)
            for place, each in zip(arrays, dynamic, strict=True):
                full[place] = each
            arguments, kwargs = jax.tree.unflatten(tree, full)
            meet = _tagging(marks) if tagged and parts.named else None
            whole = jax.tree.unflatten(jax.tree.structure(parts.parameters), parameters)
            output = parts.applied(whole, arguments, kwargs, meet)
            found, outputs = jax.tree.flatten(output)
            shape[:] = [outputs, [None if is_array(each) else each for each in found]]
            return [each for each in found if is_array(each)]

        kinds = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in jax.tree.leaves(parts.parameters)]
        closed = jax.make_jaxpr(flat)(
            kinds, [jax.ShapeDtypeStruct(leaves[place].shape, leaves[place].dtype) for place in arrays]
        )
        key = (signature(closed), _inner_constants(closed.jaxpr), str(shape))
        store.traces.setdefault(key, closed.jaxpr)
        return cls(closed, tuple(shape), marks, store.runners.setdefault(key, {}))

    def run(self, parameters: Sequence[Any], given: Given, taps: Sequence[Tap]) -> tuple[Any, Array | None]:
        """Return the model's output, and what was seen at the last of the places.

        Raises:
            BadInput: a place is never reached.
        """
        wanted = tuple(
            (tap.layer, tap.call, tap.input, tap.replacement is not None, tap.stop) for tap in taps
        )
        runner = self.runners.get(wanted)
        if runner is None:
            runner = self.runners[wanted] = jax.jit(_runner(self.closed.jaxpr, wanted))
        arrays = [each for each in jax.tree.leaves(given) if is_array(each)]
        replacements = [tap.replacement for tap in taps if tap.replacement is not None]
        found, seen = runner(self.closed.consts, parameters, arrays, replacements)
        return None if found is None else self.output(found), seen

    def output(self, found: Sequence[Any]) -> Any:
        """Return the arrays that were given, in the model's own structure."""
        tree, fixed = self.outputs
        rest = iter(found)
        return jax.tree.unflatten(tree, [next(rest) if each is None else each for each in fixed])


class _Stop(BaseException):
    """Ends a walk early."""


def _runner(jaxpr: Any, wanted: tuple[Any, ...]) -> Callable[..., Any]:
    def run(constants: Any, parameters: Any, arrays: Any, replacements: Any) -> tuple[Any, Any]:
        if not wanted:
            return eval_jaxpr(jaxpr, constants, *parameters, *arrays), None
        return _watched(jaxpr, wanted, (constants, (*parameters, *arrays)), replacements)

    return run


def _watched(
    jaxpr: Any, wanted: tuple[Any, ...], given: tuple[Any, Any], replacements: Sequence[Any]
) -> tuple[Any, Any]:
    calls: Counter[tuple[str, bool]] = Counter()
    seen: dict[int, Any] = {}
    rest = {
        place: each
        for place, each in zip((i for i, w in enumerate(wanted) if w[3]), replacements, strict=True)
    }

    def meet(mark: str, value: Any) -> Any:
        name, takes = told(mark)
        number = calls[name, takes]
        calls[name, takes] += 1
        for place, (layer, call, input, _, stop) in enumerate(wanted):
            if (layer, input, call) == (name, takes, number):
                value = rest.get(place, value).astype(value.dtype)
                seen[place] = value
                if stop:
                    raise _Stop
        return value

    found = None
    with suppress(_Stop):
        found = walk(jaxpr, given[0], given[1], meet)
    for place, (layer, call, _, _, _) in enumerate(wanted):
        if place not in seen:
            raise BadInput(_missed(layer, call, wanted[-1][0] if len(wanted) - 1 in seen else None, calls))
    return found, seen[len(wanted) - 1]


def _missed(layer: str, call: int, last: str | None, calls: Mapping[tuple[str, bool], int]) -> str:
    if last is not None:
        return (
            f"layer {layer!r} runs only after layer {last!r}, whose unit is explained: nothing of that comes from it; "
            "choose an earlier layer"
        )
    if (layer, False) in calls or (layer, True) in calls:
        return f"layer {layer!r} does not run {call + 1} times for this input; choose another layer or call"
    from whence.naming import unknown

    return unknown("layer", layer, dict.fromkeys(name for name, _ in calls if name))


def told(mark: str) -> tuple[str, bool]:
    """Return the module's name in a mark, and whether it is what the module takes in."""
    if mark.startswith(INPUT):
        return mark.removeprefix(INPUT), True
    return mark.removeprefix(OUTPUT), False


def _tagging(marks: dict[str, Mark]) -> Callable[..., Any]:
    """Return what marks every module's value with its name."""
    from whence.backends.jax_layers import described

    def meet(name: str, module: Any, value: Any, input: bool) -> Any:
        first, several = (value[0], True) if isinstance(value, tuple) and value else (value, False)
        if not isinstance(first, jax.Array) or not first.ndim:
            return value
        width, passive = described(module)
        mark = (INPUT if input else OUTPUT) + name
        marks[mark] = Mark(name, input, width, passive)
        first = named(first, mark)
        return (first, *value[1:]) if several else first

    return meet


def _inner_constants(jaxpr: Any) -> tuple[int, ...]:
    """Return the identities of the constants that calls inside a traced function hold."""
    found: list[int] = []
    for equation in jaxpr.eqns:
        for body in bodies(equation):
            found += [id(each) for each in body.consts]
            found += _inner_constants(body.jaxpr)
    return tuple(found)
