"""Tensors that report what a model does with them, and two ways of running a recorded model again.

A call in which a standing tensor takes part is an event: an affine one, or one that consumes its value, a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from whence.backends import Leaves
from whence.backends.torch_affine import HARMLESS, tensors
from whence.errors import Diverged, WhenceError

Function = Callable[[Leaves, np.ndarray], torch.Tensor]
Axes = tuple[tuple[int, int], ...]
"""A shape for any number of rows: each axis as (fixed, per row)."""
untold = torch._C.DisableTorchFunctionSubclass
"""A context in which standing tensors do not report."""
OVERWRITTEN: Final = -1
"""In place of the number of a leaf: a standing tensor that something not affine has overwritten."""


class Unfit(WhenceError):
    """The model does something that a split cannot follow."""


class _Finished(BaseException):
    """Ends a run when all leaves are known; not an Exception, so that a model's own handlers let it through."""


class Standing(torch.Tensor):
    """A tensor that passes every function called with it to the run it belongs to, as long as that lasts."""

    walk: Any
    slot: int

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if args and args[0].__class__ is Standing:
            first = args[0]
        else:
            found = standing_in(args, kwargs or {})
            if not found:
                raise Diverged(f"the tensors given to {func} cannot be found")
            first = found[0]
        if first.walk.runs:
            return first.walk.meet(func, args, kwargs or {})
        with untold():
            return func(*args, **(kwargs or {}))


def stand(tensor: torch.Tensor, walk: Any, slot: int) -> Any:
    """Make a tensor that nobody else holds a standing one."""
    tensor.__class__ = Standing
    tensor.walk, tensor.slot = walk, slot  # pyright: ignore[reportAttributeAccessIssue]
    return tensor


def standing_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the standing tensors among nested arguments, in order."""
    found: list[Any] = []
    # Not by `tensors` where it can be helped: this is the time that a replay costs.
    for each in (*args, *kwargs.values()) if kwargs else args:
        if each.__class__ is Standing:
            found.append(each)
        elif isinstance(each, (tuple, list, dict)):
            found += [one for one in tensors((each,)) if one.__class__ is Standing]
    return found


@dataclass(frozen=True, slots=True)
class Event:
    """One call: its function and the numbers of the standing tensors in it.

    Affine calls have `outputs`, the numbers of what they return, nested as they return it. Others have `sources`, for
    each standing tensor the leaf it is, or that it was overwritten; `writes` says which of them they overwrite.
    """

    function: Any
    slots: tuple[int, ...]
    affine: bool
    outputs: Any = None
    sources: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Script:
    """What was recorded.

    Attributes:
        events: every call with a standing tensor, in order.
        inputs: how many of the standing tensors are the model's inputs; they come first.
        leaves: for each leaf, the number of the standing tensor that it is the value of.
        output: the leaf that f itself is, where f is affine.
        like: the dtype and device of each standing tensor.
        shapes: their shapes for any number of rows, once they are known.
    """

    events: tuple[Event, ...]
    inputs: int
    leaves: tuple[int, ...]
    output: int | None
    like: tuple[tuple[torch.dtype, torch.device], ...]
    shapes: tuple[Axes, ...] = ()


class Following:
    """A run that computes everything as recorded, reads the leaves, and ends when all are known."""

    def __init__(self, script: Script) -> None:
        self.script, self.runs = script, True
        self.shapes: list[torch.Size] = [torch.Size()] * len(script.like)
        self._position = 0
        self._found: dict[int, torch.Tensor] = {}

    def run(self, function: Function, inputs: Leaves, index: np.ndarray) -> Leaves:
        """Return the leaves at these inputs, differentiable in them.

        Raises:
            Diverged: the events are not the recorded ones.
        """
        given = tuple(self._new(leaf.view_as(leaf), slot) for slot, leaf in enumerate(inputs))
        try:
            y: Any = function(given, index)
        except _Finished:
            pass
        else:
            if self.script.output is not None and y.__class__ is Standing:
                with untold():
                    self._found[self.script.output] = y.clone()
        finally:
            self.runs = False
        if len(self._found) < len(self.script.leaves):
            raise Diverged("the model consumes fewer values than when it was recorded")
        return tuple(self._found[leaf] for leaf in range(len(self._found)))

    def meet(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call, which must be the recorded one."""
        with untold():
            if function in HARMLESS:
                return function(*args, **kwargs)
            standing = standing_in(args, kwargs)
            event = _expected(self.script, self._position, function, standing)
            self._position += 1
            for each, source in zip(standing, event.sources, strict=False):
                if source != OVERWRITTEN and source not in self._found:
                    # A copy: what comes after may work in place.
                    self._found[source] = each.clone()
            if self.script.output is None and len(self._found) == len(self.script.leaves):
                raise _Finished
            result = function(*args, **kwargs)
            if event.affine:
                self._mark(result, event.outputs)
            return result

    def _mark(self, result: Any, slots: Any) -> None:
        if isinstance(slots, (list, tuple)):
            for each, slot in zip(result, slots, strict=True):
                self._mark(each, slot)
        elif slots is not None:
            self._new(result, slots)

    def _new(self, tensor: torch.Tensor, slot: int) -> Any:
        self.shapes[slot] = tensor.shape
        return stand(tensor, self, slot)


class Replaying:
    """A run for one number of rows that computes no affine call; it may be used again, by one thread at a time.

    With `suspicious`, a constant that was made from an empty tensor behind our back is an error.
    """

    def __init__(self, script: Script, rows: int, suspicious: bool = False) -> None:
        self.script, self.runs = script, False
        self._suspicious = suspicious
        # NaN: whatever reads an empty tensor unseen shows.
        self._empty = [
            stand(_empty(dtype, device, [fixed + rows * grown for fixed, grown in axes]), self, slot)
            for slot, ((dtype, device), axes) in enumerate(zip(script.like, script.shapes, strict=True))
        ]
        self._results = [_nested(event.outputs, self._empty) for event in script.events]
        self._position = 0
        self._leaves: Leaves = ()
        self._overwritten: dict[int, torch.Tensor] = {}

    def run(self, function: Function, leaves: Leaves, index: np.ndarray) -> torch.Tensor:
        """Return f with these leaves in place of what is affine.

        Raises:
            Diverged: the events are not the recorded ones.
        """
        self._position, self._leaves, self._overwritten, self.runs = 0, leaves, {}, True
        try:
            y: Any = function(tuple(self._empty[: self.script.inputs]), index)
            if self._position < len(self.script.events):
                raise Diverged("the model consumes fewer values than when it was recorded")
            return self._value_of(y)
        finally:
            self._leaves, self._overwritten, self.runs = (), {}, False

    def _value_of(self, y: Any) -> torch.Tensor:
        if y.__class__ is not Standing:
            return y
        if y.slot in self._overwritten:
            return self._overwritten[y.slot]
        if self.script.output is None or self.script.leaves[self.script.output] != y.slot:
            raise Diverged("the model returns another value than when it was recorded")
        return self._leaves[self.script.output].clone()

    def meet(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Skip one call, or run it with the leaves it consumes."""
        events, position = self.script.events, self._position
        recorded = position < len(events) and function is events[position].function
        if not recorded and function in HARMLESS:
            with untold():
                return function(*args, **kwargs)
        standing = standing_in(args, kwargs)
        event = _expected(self.script, position, function, standing)
        self._position = position + 1
        if event.affine:
            if self._suspicious:
                _require_numbers(args, kwargs)
            return self._results[position]
        return self._consume(event, standing, args, kwargs)

    def _consume(self, event: Event, standing: list[Any], args: Any, kwargs: dict[str, Any]) -> Any:
        values: dict[int, torch.Tensor] = {}
        for each, source in zip(standing, event.sources, strict=True):
            slot = each.slot
            if source == OVERWRITTEN:
                values[slot] = self._overwritten[slot]
            elif slot in event.writes:
                values[slot] = self._overwritten[slot] = self._leaves[source].clone()
            else:
                values[slot] = self._leaves[source]
        if len(standing) == 1 and args and args[0] is standing[0]:
            result = event.function(values[standing[0].slot], *args[1:], **kwargs)
        else:
            result = event.function(*_swapped(args, values), **_swapped(kwargs, values))
        for slot, value in values.items():
            if result is value:
                return self._empty[slot]
        return result


def _expected(script: Script, position: int, function: Any, standing: list[Any]) -> Event:
    event = script.events[position] if position < len(script.events) else None
    alike = event is not None and (event.function is function or event.function == function)
    if event is None or not alike or event.slots != tuple([each.slot for each in standing]):
        name = getattr(function, "__name__", function)
        raise Diverged(f"the model calls {name} where it did not when it was recorded")
    return event


def _empty(dtype: torch.dtype, device: torch.device, shape: Sequence[int]) -> torch.Tensor:
    return torch.full((), torch.nan, dtype=dtype, device=device).expand(shape).requires_grad_()


def _nested(slots: Any, values: Sequence[Any]) -> Any:
    if isinstance(slots, (list, tuple)):
        return type(slots)([_nested(each, values) for each in slots])
    return None if slots is None else values[slots]


def _swapped(value: Any, values: dict[int, torch.Tensor]) -> Any:
    """Return nested arguments with the standing tensors replaced."""
    if value.__class__ is Standing:
        return values[value.slot]
    if isinstance(value, (list, tuple)):
        return type(value)([_swapped(each, values) for each in value])
    return {key: _swapped(each, values) for key, each in value.items()} if isinstance(value, dict) else value


def _require_numbers(args: Any, kwargs: dict[str, Any]) -> None:
    for each in tensors((args, kwargs)):
        if each.__class__ in (Standing, nn.Parameter) or not each.is_floating_point():
            continue
        if bool(each.isnan().any()):
            raise Unfit("an empty tensor was read unseen")
