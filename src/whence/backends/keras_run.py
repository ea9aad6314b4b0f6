"""One run of a Keras model that changes nothing on it: with other values in place of weights, and layers watched."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import keras

from whence.backends import Swap, Tap
from whence.backends.keras_layers import Meet, chosen, first, missed, replaced, watching
from whence.errors import BadInput
from whence.naming import unknown

_RANDOM = "seed_generator_state"


class Scope(keras.StatelessScope):
    """Keeps what a run would write to variables; `updated` are these, by identity."""

    def __init__(self, values: Sequence[tuple[Any, Any]]) -> None:
        super().__init__(state_mapping=values)
        self.updated: dict[int, Any] = {}

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Keep one new value."""
        self.updated[id(update[0])] = update[0]
        super().add_update(update)


@dataclass(frozen=True)
class Ran:
    """The output, what was seen at the last tap, and the generators that numbers were drawn from, with their states."""

    output: Any
    seen: Any
    drawn: list[tuple[Any, Any]]


class _Stop(BaseException):
    """Ends a forward pass early; not an Exception, so that a model's own handlers let it through."""


def require_built(model: Any) -> None:
    """Refuse a model without weights.

    Raises:
        BadInput: it has never been called, nor built.
    """
    if not model.built:
        raise BadInput(f"the model's {type(model).__name__} has no weights yet; run the model once first")


def run(
    model: Any,
    inputs: Any,
    kwargs: Mapping[str, Any],
    taps: Sequence[Tap | Swap],
    generators: Sequence[tuple[Any, Any]],
    is_tensor: Callable[[Any], bool],
    leaf: Callable[[Any], Any] = lambda value: value,
) -> Ran:
    """Run a model in inference mode.

    Args:
        model: a Keras layer or model.
        inputs: arrays of the framework, alone or in a tuple or dict.
        kwargs: more arguments.
        taps: what is seen and replaced, and in place of which parameters.
        generators: the states that random generators of the model begin with.
        is_tensor: tells an array of the framework.
        leaf: makes of an array one that what follows can be differentiated by, where a tap asks for it.

    Raises:
        BadInput: a tap's layer is unknown, never runs, or gives no array.
    """
    swaps = [
        (parameter_of(model, each.parameter), each.replacement) for each in taps if isinstance(each, Swap)
    ]
    meetings = [_Meeting(each, is_tensor, leaf) for each in taps if isinstance(each, Tap)]
    output = None
    with Scope([*swaps, *generators]) as scope, watching(_watches(model, meetings)), suppress(_Stop):
        output = called(model, inputs, dict(kwargs))
    last = meetings[-1].tap if meetings and meetings[-1].seen else None
    for each in meetings:
        if not each.seen:
            raise BadInput(missed(each.tap, last))
    drawn = [each for each in scope.updated.values() if each.name == _RANDOM]
    states = [(each, scope.get_current_value(each)) for each in drawn]
    return Ran(output, meetings[-1].seen[0] if meetings else None, states)


@dataclass
class _Meeting:
    """One tap, and how often its layer has been met."""

    tap: Tap
    is_tensor: Callable[[Any], bool]
    leaf: Callable[[Any], Any]
    calls: int = 0

    def __post_init__(self) -> None:
        self.seen: list[Any] = []

    def meet(self, value: Any) -> Any:
        """Look at what the layer puts out (or takes in), and hand out what stands in its place."""
        self.calls += 1
        if self.calls - 1 != self.tap.call:
            return None
        found = first(value, self.is_tensor)
        if found is None:
            raise BadInput(
                f"layer {self.tap.layer!r} gives a {type(value).__name__}, not a tensor; choose another layer"
            )
        shown = self.leaf(found) if self.tap.leaf else found
        self.seen.append(shown)
        if self.tap.stop:
            raise _Stop
        instead = shown if self.tap.replacement is None else self.tap.replacement
        return None if instead is found else replaced(value, found, instead)


def _watches(model: Any, meetings: Sequence[_Meeting]) -> dict[int, tuple[Any, Meet | None, Meet | None]]:
    """Return the layers to watch; several taps may meet the same one."""
    found: dict[int, tuple[Any, list[Meet], list[Meet]]] = {}
    for each in meetings:
        layer = chosen(model, each.tap.layer)
        _, before, after = found.setdefault(id(layer), (layer, [], []))
        (before if each.tap.input else after).append(each.meet)
    return {key: (layer, _chain(before), _chain(after)) for key, (layer, before, after) in found.items()}


def _chain(meets: Sequence[Meet]) -> Meet | None:
    if not meets:
        return None

    def met(value: Any) -> Any:
        now = value
        for each in meets:
            instead = each(now)
            now = now if instead is None else instead
        return now

    return met


def called(model: Any, inputs: Any, kwargs: dict[str, Any]) -> Any:
    """Return what a model in inference mode makes of arrays: alone, or in a tuple or dict, as it takes them."""
    kwargs.setdefault("training", False)
    if not isinstance(inputs, (tuple, Mapping)):
        return model(inputs, **kwargs)
    names = _names(model)
    if isinstance(inputs, Mapping):
        spread = names is not None and set(inputs) <= set(names)
        return model(**inputs, **kwargs) if spread else model(dict(inputs), **kwargs)
    spread = names is not None and len(names) >= len(inputs)
    return model(*inputs, **kwargs) if spread else model(list(inputs), **kwargs)


def _names(model: Any) -> list[str] | None:
    """Return the arguments for arrays of a model that was written down as Python; None: it takes one structure."""
    if isinstance(model, (keras.Sequential, keras.Model)) and hasattr(model, "_operations"):
        return None
    if isinstance(model, keras.Sequential):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.call).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        return [f"argument {place}" for place in range(99)]
    return [each.name for each in parameters if each.kind in kinds and each.name not in ("training", "mask")]


# ---- parameters ----------------------------------------------------------------------------------------------------


def parameters(model: Any) -> dict[str, Any]:
    """Return a model's weights by their paths, such as "dense/kernel"."""
    return {each.path: each for each in model.weights if each.name != _RANDOM}


def parameter_of(model: Any, name: str) -> Any:
    """Return a weight by its path, or without the model's own name in front of it.

    Raises:
        BadInput: there is none, or it holds whole numbers.
    """
    known = parameters(model)
    prefix = f"{getattr(model, 'name', '')}/"
    short = {path.removeprefix(prefix): each for path, each in known.items()}
    found = known.get(name, short.get(name))
    if found is None:
        raise BadInput(unknown("parameter", name, short))
    if not keras.backend.is_float_dtype(found.dtype):
        raise BadInput(
            f"parameter {name!r} holds {found.dtype}: whole numbers have no gradient; choose another"
        )
    return found
