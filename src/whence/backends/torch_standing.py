"""Tensors that report what a model does with them, and three ways of running a model with them.

A call in which a standing tensor takes part is an event: affine, or the place where its value, a leaf, is consumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from whence.backends import Leaves
from whence.backends.torch_affine import (
    HARMLESS,
    MOVES,
    is_affine,
    is_shaped_by_values,
    multiply_adds,
    tensors,
)  # fmt: skip
from whence.errors import WhenceError

Function = Callable[[Leaves, np.ndarray], torch.Tensor]
_plain = torch._C.DisableTorchFunctionSubclass
# Numbers of tensors that are no standing ones: of what varies behind the leaves, of what was overwritten in place.
_VARIES, _OVERWRITTEN = -1, -1
_KNOWN = (torch.Tensor, torch.nn.Parameter)


class Unfit(WhenceError):
    """The model does something that a split cannot follow."""


class Diverged(WhenceError):
    """The model took another way than when it was recorded: its control flow depends on data."""


class _Finished(BaseException):
    """Ends a run when all leaves are known; not an Exception, so that a model's own handlers let it through."""


class Standing(torch.Tensor):
    """A tensor that passes every function called with it to the run it belongs to."""

    walk: Any
    slot: int

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if args and args[0].__class__ is Standing:
            return args[0].walk.meet(func, args, kwargs or {})
        for each in tensors((args, kwargs)):
            if each.__class__ is Standing:
                return each.walk.meet(func, args, kwargs or {})
        raise Unfit(f"the tensors given to {func} cannot be found")


def _stand(tensor: torch.Tensor, walk: Any, slot: int) -> Any:
    tensor.__class__ = Standing
    tensor.walk, tensor.slot = walk, slot  # pyright: ignore[reportAttributeAccessIssue]
    return tensor


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


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
    """What was recorded: the events, the leaves, and for each standing tensor its axes as (fixed, per row).

    `leaves` holds the number of the standing tensor that each leaf is the value of; `output` is the leaf that f
    itself is, if it is affine, or the number of the overwritten tensor that it is.
    """

    events: tuple[Event, ...]
    inputs: int
    leaves: tuple[int, ...]
    output: int | None
    overwritten: int | None
    like: tuple[tuple[torch.dtype, torch.device], ...]
    leaf_shapes: tuple[torch.Size, ...]
    shapes: tuple[tuple[tuple[int, int], ...], ...] = ()


class Recording:
    """The first run, in which it is decided what is affine."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.multiply_adds = self.operations = 0
        self._standing: list[Any] = []
        self._leaves: dict[tuple[int, int], int] = {}
        self._overwritten: set[int] = set()
        # A value was read: what follows may depend on it in any way, and counts as affine no more.
        self._read = False
        self._spoilt: set[int] = set()
        self._exposed: set[int] = set()
        self._inputs = 0
        self._output: int | None = None
        self._last: int | None = None

    def run(self, function: Function, leaves: Leaves, index: np.ndarray) -> None:
        """Run the function and note every event.

        Raises:
            Unfit: no split can follow what it does.
        """
        given = tuple(self._new(leaf.detach().requires_grad_().view_as(leaf)) for leaf in leaves)
        self._inputs = len(given)
        y: Any = function(given, index)
        if y.__class__ is not Standing:
            raise Unfit("the output does not depend on the input, as far as can be seen")
        if y.slot in self._overwritten:
            self._last = y.slot
        elif y.slot != _VARIES:
            with _plain():
                self._require_unspoilt([y])
                self._output = self._leaf(y, y._version)
        if not self._leaves:
            raise Unfit("no leaf was found")

    def script(self, shapes: Sequence[tuple[tuple[int, int], ...]] = ()) -> Script:
        """Return what was recorded."""
        with _plain():
            like = tuple((each.dtype, each.device) for each in self._standing)
            slots = tuple(slot for slot, _ in self._leaves)
            leaf_shapes = tuple(self._standing[slot].shape for slot in slots)
        return Script(
            tuple(self.events),
            self._inputs,
            slots,
            self._output,
            self._last,
            like,
            leaf_shapes,
            tuple(shapes),
        )

    def meet(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call as it is, and note it."""
        with _plain():
            if function in HARMLESS:
                return function(*args, **kwargs)
            given = tensors((args, kwargs))
            before = {id(each): each._version for each in given}
            result = function(*args, **kwargs)
            written = [each for each in given if each._version != before[id(each)]]
            if any(each.__class__ not in (Standing, *_KNOWN) for each in given):
                raise Unfit("a tensor of another kind takes part")
            if any(each.__class__ is not Standing or _storage(each) in self._exposed for each in written):
                raise Unfit(f"{function} overwrites a tensor that cannot be followed")
            varying: list[Any] = [each for each in given if each.__class__ is Standing]
            sound = [each for each in varying if each.slot != _VARIES and each.slot not in self._overwritten]
            self._require_unspoilt(sound)
            if sound and not torch.is_grad_enabled():
                raise Unfit(f"gradients are switched off for {function}")
            if len(sound) == len(varying) and not self._read and self._affine(function, args, kwargs, result):
                self._note_affine(function, args, kwargs, given, result)
            else:
                self._note_other(function, args, varying, before, result, written, given)
            return result

    def _affine(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
        varying = _standing(args, kwargs)
        width, device = max(each.itemsize for each in varying), varying[0].device
        alike = (
            each.is_floating_point() and each.itemsize >= width and each.device == device
            for each in tensors((result,))
        )
        return is_affine(function, args, kwargs, varying) and all(alike)

    def _note_affine(
        self, function: Any, args: Any, kwargs: dict[str, Any], given: list[Any], result: Any
    ) -> None:
        slots = tuple(each.slot for each in _standing(args, kwargs))
        self.multiply_adds += multiply_adds(function, args, kwargs, result)
        self.operations += function not in MOVES
        self.events.append(Event(function, slots, True, self._outputs(result, given)))

    def _outputs(self, result: Any, given: list[Any]) -> Any:
        if isinstance(result, (list, tuple)):
            return type(result)([self._outputs(each, given) for each in result])
        if result is None or result.__class__ is Standing:
            return None if result is None else result.slot
        if any(result is each for each in given):
            raise Unfit("a constant is passed on as a result")
        return self._new(result).slot

    def _note_other(
        self,
        function: Any,
        args: tuple[Any, ...],
        varying: list[Any],
        before: dict[int, int],
        result: Any,
        written: list[Any],
        given: list[Any],
    ) -> None:
        standing = [each for each in varying if each.slot != _VARIES]
        sound = [each for each in standing if each.slot not in self._overwritten]
        made: list[Any] = tensors((result,))
        if not made and not written and standing:
            raise Unfit(f"{function} reads a value")
        if (not made and not written) or is_shaped_by_values(function, args, varying):
            self._read = True
        if standing:
            sources = tuple(
                _OVERWRITTEN if each.slot in self._overwritten else self._leaf(each, before[id(each)])
                for each in standing
            )
            slots, writes = (
                tuple(each.slot for each in standing),
                tuple({each.slot for each in written} - {_VARIES}),
            )
            self.events.append(Event(function, slots, False, None, sources, writes))
        for each in made:
            if each.__class__ is Standing:
                # Its own argument: it must be one that a replay can hand back too.
                unknown = any(each is other for other in sound) and all(
                    each is not other for other in written
                )
                if unknown or (each.slot != _VARIES and each is not result):
                    raise Unfit(f"{function} returns what it was given")
            elif not any(each is other for other in given):
                _stand(each, self, _VARIES)
            if all(each is not other for other in written):
                self._exposed |= {_storage(each)} & {_storage(other) for other in sound}
        for each in written:
            self._spoilt.add(_storage(each))
            self._overwritten |= {each.slot} - {_VARIES}

    def _leaf(self, tensor: Any, version: int) -> int:
        return self._leaves.setdefault((tensor.slot, version), len(self._leaves))

    def _require_unspoilt(self, standing: Sequence[Any]) -> None:
        if any(_storage(each) in self._spoilt for each in standing):
            raise Unfit("a tensor is used after its memory was overwritten through another")

    def _new(self, tensor: torch.Tensor) -> Any:
        # All are kept: the address of a storage must not be given away again.
        self._standing.append(_stand(tensor, self, len(self._standing)))
        return self._standing[-1]


class Following:
    """A run that computes everything as recorded, reads the leaves, and ends when all are known."""

    def __init__(self, script: Script) -> None:
        self.script = script
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
                with _plain():
                    self._found[self.script.output] = y.clone()
        if len(self._found) < len(self.script.leaves):
            raise Diverged("the model consumes fewer values than when it was recorded")
        return tuple(self._found[leaf] for leaf in range(len(self._found)))

    def meet(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call, which must be the recorded one."""
        with _plain():
            if function in HARMLESS:
                return function(*args, **kwargs)
            standing = _standing(args, kwargs)
            event = _expected(self.script, self._position, function, standing)
            self._position += 1
            for each, source in zip(standing, event.sources, strict=False):
                if source != _OVERWRITTEN and source not in self._found:
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
        return _stand(tensor, self, slot)


class Replaying:
    """A run for one number of rows that computes no affine call; it may be used again, by one thread at a time.

    With `suspicious`, a constant that was made from an empty tensor behind our back is an error.
    """

    def __init__(self, script: Script, rows: int, suspicious: bool = False) -> None:
        self.script = script
        self._suspicious = suspicious
        # NaN: whatever reads an empty tensor unseen shows.
        self._empty = [
            _stand(_empty(dtype, device, [fixed + rows * each for fixed, each in axes]), self, slot)
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
        self._position, self._leaves, self._overwritten = 0, leaves, {}
        try:
            y: Any = function(tuple(self._empty[: self.script.inputs]), index)
            if self._position < len(self.script.events):
                raise Diverged("the model consumes fewer values than when it was recorded")
            return self._value_of(y)
        finally:
            self._leaves, self._overwritten = (), {}

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
            with _plain():
                return function(*args, **kwargs)
        standing = _standing(args, kwargs)
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
            if source == _OVERWRITTEN:
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


def _standing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the standing tensors among the arguments, in order."""
    found: list[Any] = []
    # Not by `tensors` where it can be helped: this is the time that a replay costs.
    for each in (*args, *kwargs.values()) if kwargs else args:
        if each.__class__ is Standing:
            found.append(each)
        elif isinstance(each, (tuple, list, dict)):
            found += [one for one in tensors((each,)) if one.__class__ is Standing]
    return found


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
        if each.__class__ is not Standing and each.is_floating_point() and bool(each.isnan().any()):
            raise Unfit("an empty tensor was read unseen")
