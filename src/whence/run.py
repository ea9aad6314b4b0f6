"""One explanation's run of the model: what is called, with what, and which array of the answer is explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from whence.backends import Array, Backend, Leaves, Operations, Session, Swap, Tap
from whence.chunk import Chunks
from whence.errors import BadInput
from whence.preprocess import Preprocess
from whence.progress import Progress
from whence.structure import Structure
from whence.target import Neuron, Resolved

Rows = np.ndarray
"""[n] int: for each row, the number of an example."""


@dataclass(frozen=True)
class Answered:
    """The model's output for all rows and what a layer gave on the way, with the graph from the one to the other."""

    inputs: Leaves
    output: Array
    seen: Array


@dataclass(frozen=True)
class Run:
    """What every part of one explanation shares: the model's session, the call's settings, the notes so far.

    `along` names the further arguments that have a row for each example. `answered` keeps the first run of the model
    for a method that asks for the gradient at a layer, so that it need not be run again.
    """

    backend: Backend
    session: Session
    structure: Structure
    chunks: Chunks
    batch: int
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    along: frozenset[str] = frozenset()
    output: Any = None
    preprocess: Any = None
    neuron: Neuron | None = None
    target: Resolved | None = None
    seed: int = 0
    fuse: bool = True
    on_unknown: str = "error"
    record: dict[str, Any] = field(default_factory=dict[str, Any])
    channels_last: bool = False
    read: Callable[[Any], Any] | None = None
    notes: list[str] = field(default_factory=list[str])
    progress: Progress = field(default_factory=Progress)
    answered: list[Answered] = field(default_factory=list["Answered"])

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of a table's columns."""
        return None if self.structure.table is None else self.structure.table.names

    def note(self, text: str) -> None:
        """Keep a sentence for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def pictures(self) -> bool:
        """Whether the inputs are pictures in pixels, so that black and white mean 0 and 1."""
        return self.preprocess is not None

    def forward(
        self, inputs: Leaves, rows: Rows, tap: Tap | Swap | None = None
    ) -> tuple[Array, Array | None]:
        """Return the model's output [n, ...] for these rows (or the explained unit [n]), and what the tap saw."""
        ops, count = self.backend.ops, len(rows)
        room = self.chunks.room(count)
        if room > count:
            # The last row again: what is added is cut off, and no other number of rows need be compiled.
            more = np.minimum(np.arange(room), count - 1)
            inputs, rows = tuple(ops.take(leaf, more) for leaf in inputs), rows[more]
            if isinstance(tap, Tap) and tap.replacement is not None:
                tap = replace(tap, replacement=ops.take(tap.replacement, more))
            output, seen = self._forward(inputs, rows, tap)
            return output[:count], None if seen is None else seen[:count]
        return self._forward(inputs, rows, tap)

    def _forward(self, inputs: Leaves, rows: Rows, tap: Tap | Swap | None) -> tuple[Array, Array | None]:
        ops = self.backend.ops
        # What the model writes into its input (an in-place activation) must not reach ours, nor the user's.
        inputs = tuple(ops.copy(leaf) for leaf in inputs)
        if isinstance(self.preprocess, Preprocess):
            inputs = tuple(self.preprocess.apply(ops, leaf, self.channels_last) for leaf in inputs)
        elif self.preprocess is not None:
            inputs = tuple(ops.own(self.preprocess(ops.native(leaf))) for leaf in inputs)
        if self.chunks.channels_last is not None:
            inputs = tuple(ops.laid_out(leaf, self.chunks.channels_last) for leaf in inputs)
        kwargs = {
            name: ops.take(value, rows) if name in self.along else value
            for name, value in self.kwargs.items()
        }
        stops = isinstance(tap, Tap) and tap.stop
        # The explained unit comes last: a layer that is replaced has been, where it is the unit's own.
        unit = None if stops or self.neuron is None else Tap(self.neuron.layer, self.neuron.call, stop=True)
        given = self.structure.given(inputs)
        try:
            output, seen = self.session.run(given, kwargs, tap, unit)
        except Exception as problem:
            problem.add_note(f"raised by the model for {shapes_of(inputs)}")
            raise
        if stops:
            return seen, seen
        if unit is not None:
            return self._neuron_value(seen), None
        try:
            return _checked(_picked(output, self.output, ops), len(rows), ops), seen
        except BadInput as problem:
            raise BadInput(f"{problem} (given {shapes_of(inputs)})") from None

    def _neuron_value(self, seen: Array) -> Array:
        assert self.neuron is not None
        index = self.neuron.index if isinstance(self.neuron.index, tuple) else (self.neuron.index,)
        shape = tuple(seen.shape[1:])
        if len(index) > len(shape) or any(not -n <= i < n for i, n in zip(index, shape, strict=False)):
            raise BadInput(f"{self.neuron!r} is out of range: the layer's axes after the batch are {shape}")
        unit = seen[(slice(None), *index)]
        return unit.reshape(unit.shape[0], -1).sum(1) if unit.ndim > 1 else unit


def shapes_of(inputs: Leaves) -> str:
    """Return in words what the model was given."""
    return f"inputs of shape {', '.join(f'{tuple(leaf.shape)} {leaf.dtype}' for leaf in inputs)}"


def _checked(output: Array, rows: int, ops: Operations) -> Array:
    if output.ndim == 0 or output.shape[0] != rows:
        raise BadInput(
            f"the model gave an output of shape {tuple(output.shape)} for {rows} examples; axis 0 must be the batch"
        )
    if getattr(output.dtype, "kind", "f") not in "fiub" and not ops.is_float(output):
        raise BadInput(
            f"the model's output holds {output.dtype} values, not numbers; explain its scores instead"
        )
    return output


def _picked(output: Any, which: Any, ops: Operations) -> Array:
    """Take the array to explain out of whatever the model returned."""
    if which is not None:
        picked = _pick(output, which)
        if not ops.is_array(picked):
            raise BadInput(f"output={which!r} picked a {type(picked).__name__}, not an array")
        return ops.own(picked)
    if ops.is_array(output):
        return ops.own(output)
    if isinstance(output, Mapping):
        names = [name for name, value in output.items() if ops.is_array(value)]
        if len(names) == 1:
            return ops.own(output[names[0]])
        raise BadInput(
            f"the model returns {type(output).__name__} with {names}; say which: output={next(iter(names), 0)!r}"
        )
    if isinstance(output, (tuple, list)):
        arrays = [i for i, value in enumerate(output) if ops.is_array(value)]
        if len(arrays) == 1:
            return ops.own(output[arrays[0]])
        raise BadInput(
            f"the model returns {len(output)} values; say which one to explain: output=0, or a callable"
        )
    found = "None" if output is None else f"a {type(output).__name__}"
    raise BadInput(f"the model returns {found}; say how to get the array: output=name or a callable")


def _pick(output: Any, which: Any) -> Any:
    if callable(which):
        return which(output)
    try:
        if isinstance(which, str) and not isinstance(output, Mapping):
            return getattr(output, which)
        return output[which]
    except (KeyError, IndexError, AttributeError, TypeError):
        known = list(output) if isinstance(output, Mapping) else f"{type(output).__name__}"
        raise BadInput(f"output={which!r} is not in what the model returns ({known})") from None
