"""What a model does while it runs: every tensor operation that its input reaches, and the node it made in the graph."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Made in the shape of a tensor, and independent of its values.
_FRESH = frozenset(
    (aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.rand_like, aten.randn_like,
     aten.new_zeros, aten.new_ones, aten.new_empty, aten.new_full, aten.new_empty_strided, aten.empty_strided)
)  # fmt: skip
# Frames of these say nothing about the user's code, and beyond the session's own the model does not run.
_OWN, _SESSION = ("torch", "whence."), "whence.backends.torch_model"


@dataclass(frozen=True)
class Place:
    """Where a model calls an operation: the line of its code, and the module (by name) whose forward it is."""

    file: str
    line: int
    module: str

    def __str__(self) -> str:
        line = f"{self.file}:{self.line}" if self.file else ""
        return f"{line} in {self.module}".strip() if self.module else line


@dataclass(eq=False)
class Operation:
    """One call: `kind` is the operation without its spelling (`relu_` is relu), `number` that of the node it made.

    `settings` are its arguments without the tensors; `arguments` and `outputs` are kept where the rules asked for
    them. `hidden` says that an argument depends on the input but carries no gradient (a comparison, detach, no_grad).
    """

    number: int
    function: Any
    kind: Any
    settings: tuple[Any, ...]
    arguments: list[Any]
    keywords: dict[str, Any]
    hidden: bool
    on_view: bool
    place: Place | None
    source: int | None = None
    outputs: list[Any] = field(default_factory=list[Any])

    @property
    def name(self) -> str:
        """What people call it."""
        return spelt(self.function)[0]


class Recorder(TorchDispatchMode):
    """Records operations while a model runs; values are kept for those that `keeps` asks for.

    What is kept is copied before it is overwritten in place. With `modules` (names by identity) the place of every
    call is noted.
    """

    def __init__(
        self,
        leaves: Sequence[torch.Tensor],
        keeps: Callable[[Any, int, Sequence[Any]], bool],
        modules: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        # What custom functions took and gave behind the graph: their operands and results are among it.
        self.unrecorded: list[tuple[torch.Tensor, Place | None]] = []
        self._leaves = {id(leaf) for leaf in leaves}
        self._keeps, self._modules = keeps, modules
        # By storage: tensors that depend on the input without a gradient, and those kept for the rules.
        self._hidden: dict[int, list[torch.Tensor]] = {}
        self._kept: dict[int, list[tuple[list[Any], int]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        varying = hidden = 0
        for each in _tensors((*args, *kwargs.values())):
            if each.requires_grad and (not each.is_leaf or id(each) in self._leaves):
                varying += 1
            elif self._hidden and not each.requires_grad and _storage(each) in self._hidden:
                hidden += 1
        written = written_by(func)
        if written and self._kept:
            self._rescue(args, kwargs, written)
        if not (varying or hidden):
            return func(*args, **kwargs)
        kind = spelt(func)[1]
        recorded = bool(varying) and torch.is_grad_enabled() and kind is not aten.detach
        if varying and not torch.is_grad_enabled():
            self.unrecorded += [(each, None) for each in _tensors(args) if each.requires_grad]
        operation = (
            self._recorded(func, kind, args, kwargs, varying + hidden, bool(hidden)) if recorded else None
        )
        result = func(*args, **kwargs)
        self._see(result, kind, recorded, operation)
        return result

    def _recorded(self, func: Any, kind: Any, args: Any, kwargs: Any, moving: int, hidden: bool) -> Operation:
        written = written_by(func)
        target = (
            args[written[0]] if written and isinstance(written[0], int) and written[0] < len(args) else None
        )
        on_view = isinstance(target, torch.Tensor) and target._is_view() and target._base is not None
        settings = (*args, *kwargs.values())
        keep = self._keeps(kind, moving, settings)
        arguments = list(args) if keep else []
        operation = Operation(
            self._number(target), func, kind,
            tuple(None if isinstance(each, (torch.Tensor, list)) else each for each in settings),
            arguments, kwargs, hidden, on_view,
            None if self._modules is None else _place(sys._getframe(2), self._modules),
            _storage(args[0]) if kind is aten.clone else None,
        )  # fmt: skip
        if keep:
            for position in written:
                if isinstance(position, int) and position < len(arguments):
                    arguments[position] = arguments[position].detach().clone()
            self._remember(arguments)
        self.operations.append(operation)
        return operation

    def _number(self, target: Any) -> int:
        """Return the number of the node that was made last, but for copies of what is about to be overwritten."""
        number = torch.autograd._get_sequence_nr() - 1  # pyright: ignore[reportPrivateImportUsage]
        for before in reversed(self.operations):
            saved = before.kind is aten.clone and before.number == number
            if target is None or not saved or before.source != _storage(target):
                break
            number -= 1
        return number

    def _see(self, result: Any, kind: Any, recorded: bool, operation: Operation | None) -> None:
        if kind in _FRESH:
            return
        for each in _tensors((result,)):
            if not (recorded and each.is_floating_point()):
                self._hidden.setdefault(_storage(each), []).append(each)
            if not torch.is_grad_enabled():
                place = None if self._modules is None else _place(sys._getframe(2), self._modules)
                self.unrecorded.append((each, place))
        if operation is not None:
            operation.outputs = list(result) if isinstance(result, (tuple, list)) else [result]
            if operation.arguments:
                self._remember(operation.outputs)
            else:
                operation.outputs = []

    def _remember(self, values: list[Any]) -> None:
        for position, each in enumerate(values):
            if isinstance(each, torch.Tensor):
                values[position] = each.detach() if each.requires_grad else each
                self._kept.setdefault(_storage(each), []).append((values, position))

    def _rescue(self, args: Any, kwargs: Any, written: tuple[int | str, ...]) -> None:
        """Copy what was kept of memory that is about to be overwritten."""
        for place in written:
            value = (
                kwargs.get(place) if isinstance(place, str) else args[place] if place < len(args) else None
            )
            for tensor in _tensors((value,)):
                copies: dict[int, torch.Tensor] = {}
                for values, position in self._kept.pop(_storage(tensor), ()):
                    kept = values[position]
                    values[position] = copies.setdefault(id(kept), kept.clone())

    def forget(self) -> None:
        """Let go of what only the recording itself needed."""
        self._hidden.clear()
        self._kept.clear()
        self.unrecorded.clear()


@cache
def spelt(function: Any) -> tuple[str, Any]:
    """Return an operation's name, and its kind: the operation itself, whether in place or not."""
    packet = function.overloadpacket
    name: str = packet._qualified_op_name.removeprefix("aten::")
    if not name.endswith("_"):
        return name, packet
    return name, getattr(aten, name[:-1], packet)


@cache
def written_by(function: Any) -> tuple[int | str, ...]:
    """Return the places of the arguments that an operation writes to."""
    found: list[int | str] = []
    for position, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(argument.name if argument.kwarg_only else position)
    return tuple(found)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for each in values:
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, (list, tuple)):
            yield from _tensors(each)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _place(frame: FrameType | None, modules: Mapping[int, str]) -> Place:
    """Return the innermost line of the user's own code, and the innermost module of the model."""
    file, line, module = "", 0, None
    while frame is not None:
        package = frame.f_globals.get("__name__", "")
        if package == _SESSION:
            return Place(file, line, module or "")
        if not package.startswith(_OWN) and not file:
            file, line = frame.f_code.co_filename, frame.f_lineno
        holder = frame.f_locals.get("self")
        if module is None and isinstance(holder, nn.Module):
            module = modules.get(id(holder))
        frame = frame.f_back
    # Beyond the model: the target, the preprocessing.
    return Place("", 0, "")
