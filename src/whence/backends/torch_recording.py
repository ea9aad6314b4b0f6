"""The first run of a model that is to be split: which calls are affine in the input, and where their values go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from whence.backends import Leaves
from whence.backends.torch_affine import HARMLESS, MOVES, Call, multiply_adds, tensors
from whence.backends.torch_standing import (
    OVERWRITTEN,
    Event,
    Function,
    Script,
    Standing,
    Unfit,
    stand,
    standing_in,
    untold,
)

# The number of every tensor behind the leaves: in a replay it is an ordinary tensor.
VARIES: Final = -1
_KNOWN = (torch.Tensor, nn.Parameter, Standing)


@dataclass(frozen=True)
class _Made(Call):
    """A call that was made, with the versions of the tensors before it, and those it has overwritten."""

    given: list[torch.Tensor]
    versions: dict[int, int]
    result: Any
    written: list[Any]

    @property
    def results(self) -> list[Any]:
        """The tensors in the result."""
        return tensors((self.result,))


class Recording:
    """Runs with the model once; every tensor that depends on the input is a standing one.

    `multiply_adds` and `operations` count the affine part: its products, and its calls that compute something;
    `elements` counts those of all leaves.
    With `rows_first` a call that moves the rows away from axis 0 ends the affine part.
    """

    def __init__(self, rows_first: bool = False) -> None:
        self._rows_first = rows_first
        self._rows, self.runs = 0, True
        self.multiply_adds = self.operations = self.elements = 0
        self._events: list[Event] = []
        self._standing: list[Any] = []
        # By the number of a standing tensor and its version, since its value may be changed in place.
        self._leaves: dict[tuple[int, int], int] = {}
        self._overwritten: set[int] = set()
        # Storages: overwritten by something not affine, and shared by a leaf with a tensor behind it.
        self._spoilt: set[int] = set()
        self._exposed: set[int] = set()
        # Once a value has been read, what follows may depend on it in any way, and counts as affine no more.
        self._read = False
        self._calls = self._noted = 0

    def run(self, function: Function, leaves: Leaves, index: np.ndarray) -> Script:
        """Run the function and return what it did, as yet without shapes.

        Raises:
            Unfit: no split can follow it.
        """
        self._rows = len(index)
        given = tuple(self._new(leaf.detach().requires_grad_().view_as(leaf)) for leaf in leaves)
        try:
            y: Any = function(given, index)
        finally:
            self.runs = False
        if self._calls != self._noted:
            raise Unfit("the model carries on after an error")
        if y.__class__ is not Standing:
            raise Unfit("the output does not depend on the input, as far as can be seen")
        output = None
        with untold():
            if y.slot != VARIES and y.slot not in self._overwritten:
                self._require_unspoilt([y])
                output = self._leaf(y, y._version)
            self.elements = sum(self._standing[slot].numel() for slot, _ in self._leaves)
            like = tuple((each.dtype, each.device) for each in self._standing)
        # They know this recording, and it knows them: let go, so that their memory is free at once.
        self._standing.clear()
        return Script(tuple(self._events), len(given), tuple(slot for slot, _ in self._leaves), output, like)

    def meet(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one call as it is, and note it."""
        with untold():
            if function in HARMLESS:
                return function(*args, **kwargs)
            self._calls += 1
            given = tensors((args, kwargs))
            versions = {id(each): each._version for each in given}
            varying = standing_in(args, kwargs)
            result = function(*args, **kwargs)
            written = [each for each in given if each._version != versions[id(each)]]
            self._note(_Made(function, args, kwargs, varying, given, versions, result, written))
            self._noted += 1
            return result

    def _note(self, call: _Made) -> None:
        if any(each.__class__ not in _KNOWN for each in call.given):
            raise Unfit("a tensor of another kind takes part")
        if any(each.__class__ is not Standing or _storage(each) in self._exposed for each in call.written):
            raise Unfit(f"{call.function} overwrites a tensor that cannot be followed")
        sound = [each for each in call.varying if self._is_sound(each)]
        self._require_unspoilt(sound)
        if sound and not torch.is_grad_enabled():
            raise Unfit(f"gradients are switched off for {call.function}")
        behind = self._read or len(sound) < len(call.varying)
        if not behind and _is_affine(call) and not (self._rows_first and self._moves_rows(call)):
            self._note_affine(call)
        else:
            self._note_other(call, sound)

    def _is_sound(self, tensor: Any) -> bool:
        """Whether a tensor is affine in the input."""
        return tensor.slot != VARIES and tensor.slot not in self._overwritten

    def _moves_rows(self, call: _Made) -> bool:
        return any(each.ndim == 0 or each.shape[0] != self._rows for each in call.results)

    def _note_affine(self, call: _Made) -> None:
        self.multiply_adds += multiply_adds(call, call.result)
        self.operations += call.function not in MOVES
        slots = tuple(each.slot for each in call.varying)
        self._events.append(Event(call.function, slots, True, self._outputs(call.result, call.given)))

    def _outputs(self, result: Any, given: list[torch.Tensor]) -> Any:
        if isinstance(result, (list, tuple)):
            return type(result)([self._outputs(each, given) for each in result])
        if result is None or result.__class__ is Standing:
            return None if result is None else result.slot
        if _is_among(result, given):
            raise Unfit("a constant is passed on as a result")
        return self._new(result).slot

    def _note_other(self, call: _Made, sound: list[Any]) -> None:
        standing = [each for each in call.varying if each.slot != VARIES]
        reads = not call.results and not call.written
        if reads and standing:
            raise Unfit(f"{call.function} reads a value")
        self._read |= reads or call.is_shaped_by_values
        if standing:
            sources = tuple(
                self._leaf(each, call.versions[id(each)]) if self._is_sound(each) else OVERWRITTEN
                for each in standing
            )
            writes = tuple({each.slot for each in call.written} - {VARIES})
            slots = tuple(each.slot for each in standing)
            self._events.append(Event(call.function, slots, False, None, sources, writes))
        for each in call.results:
            self._note_result(each, call, sound)
        for each in call.written:
            self._spoilt.add(_storage(each))
            self._overwritten |= {each.slot} - {VARIES}

    def _note_result(self, tensor: Any, call: _Made, sound: list[Any]) -> None:
        overwritten = _is_among(tensor, call.written)
        if tensor.__class__ is not Standing:
            if not _is_among(tensor, call.given):
                stand(tensor, self, VARIES)
        elif (_is_among(tensor, sound) and not overwritten) or (
            tensor.slot != VARIES and tensor is not call.result
        ):
            # A replay can hand back only what it has overwritten itself, and only as the whole result.
            raise Unfit(f"{call.function} returns what it was given")
        if not overwritten:
            self._exposed |= {_storage(tensor)} & {_storage(each) for each in sound}

    def _leaf(self, tensor: Any, version: int) -> int:
        return self._leaves.setdefault((tensor.slot, version), len(self._leaves))

    def _require_unspoilt(self, standing: Sequence[Any]) -> None:
        if any(_storage(each) in self._spoilt for each in standing):
            raise Unfit("a tensor is used after its memory was overwritten through another")

    def _new(self, tensor: torch.Tensor) -> Any:
        # All are kept while the model runs: the address of a storage must not be given away again.
        self._standing.append(stand(tensor, self, len(self._standing)))
        return self._standing[-1]


def _is_affine(call: _Made) -> bool:
    width, device = max(each.itemsize for each in call.varying), call.varying[0].device
    alike = (
        each.is_floating_point() and each.itemsize >= width and each.device == device for each in call.results
    )
    return call.is_affine and all(alike)


def _is_among(tensor: Any, others: Sequence[Any]) -> bool:
    return any(tensor is each for each in others)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
