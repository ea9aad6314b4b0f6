"""The batches of a data set as a user gives them, and what tells one data set, model or setting from another."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from whence import pixels
from whence.attribution import to_numpy
from whence.errors import BadInput, WhenceError
from whence.naming import short
from whence.question import STEADY
from whence.structure import Structure, unpack


@dataclass(frozen=True)
class Batch:
    """Some examples in a row: `start` is the number of the first, `labels` [b] what came with them."""

    number: int
    start: int
    structure: Structure
    arrays: tuple[Any, ...]
    labels: np.ndarray | None

    @property
    def stop(self) -> int:
        """The number after the last example's."""
        return self.start + int(self.arrays[0].shape[0])

    @property
    def inputs(self) -> Any:
        """The examples in the structure they came in."""
        return self.structure.pack(self.arrays)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one example's arrays."""
        return tuple(tuple(int(side) for side in array.shape[1:]) for array in self.arrays)

    def rows(self, start: int, stop: int) -> Batch:
        """Return the examples with numbers from `start` to `stop`, as far as they are here."""
        low, high = max(start, self.start) - self.start, max(min(stop, self.stop) - self.start, 0)
        labels = None if self.labels is None else self.labels[low:high]
        return replace(
            self, start=self.start + low, arrays=tuple(each[low:high] for each in self.arrays), labels=labels
        )

    @property
    def checked(self) -> tuple[Any, ...]:
        """What must be the same when a run goes on: the arrays, and the labels."""
        return self.arrays if self.labels is None else (*self.arrays, self.labels)

    def checksums(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """Return the checksums of all numbers and labels up to here, however they were cut into batches."""
        pairs = zip(self.checked, before, strict=True)
        return tuple(zlib.crc32(np.ascontiguousarray(to_numpy(array)).tobytes(), old) for array, old in pairs)

    @contextmanager
    def named(self) -> Generator[None]:
        """Say in an error which batch it is about."""
        try:
            yield
        except WhenceError as problem:
            where = f"batch {self.number} (examples {self.start} to {self.stop - 1})"
            raise type(problem)(f"{where}: {problem}") from problem


def batches_of(given: Any, with_labels: bool, pictures: bool) -> Iterator[Batch]:
    """Yield what a user's iterable holds, one batch at a time; it is iterated once and never kept.

    Raises:
        BadInput: it is no iterable of batches, or a batch is not [b, ...] like the first.
    """
    start, shapes = 0, None
    for number, item in enumerate(_iterable(given)):
        try:
            batch = _batch(item, number, start, with_labels, pictures)
            if shapes is not None and batch.shapes != shapes:
                raise BadInput(f"its examples have the shapes {batch.shapes}, those before {shapes}")
        except BadInput as problem:
            raise BadInput(f"batch {number}: {problem}") from problem
        yield batch
        start, shapes = batch.stop, batch.shapes


def _iterable(given: Any) -> Iterable[Any]:
    if hasattr(given, "shape"):
        raise BadInput(
            f"batches is one array {tuple(given.shape)}, whose items would be single examples; give [array], or a list "
            "of parts of it"
        )
    if isinstance(given, (str, Mapping)) or not hasattr(given, "__iter__"):
        raise BadInput(
            f"batches is a {type(given).__name__}; give an iterable of arrays [b, ...], such as a data loader"
        )
    return given


def _batch(item: Any, number: int, start: int, with_labels: bool, pictures: bool) -> Batch:
    labels = None
    if with_labels:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise BadInput(f"labels are asked for, so it must be a pair (inputs, labels), not {_kind(item)}")
        item, labels = item[0], to_numpy(item[1])
    elif isinstance(item, list) and not pictures:
        raise BadInput(
            f"it is {_kind(item)}: say labels=True if these are (inputs, labels); several inputs come as a tuple"
        )
    structure, arrays = unpack(pixels.read(item) if pictures else item)
    if any(not hasattr(each, "shape") or not len(each.shape) or not each.shape[0] for each in arrays):
        raise BadInput(f"{short(item)} holds no examples; each batch is an array [b, ...] with b ≥ 1")
    sizes = [int(each.shape[0]) for each in arrays]
    if len(set(sizes)) > 1:
        raise BadInput(f"its inputs hold different numbers of examples: {sizes}")
    if labels is not None and labels.shape != (sizes[0],):
        raise BadInput(f"its labels have the shape {labels.shape} for {sizes[0]} examples")
    if not with_labels and len(arrays) == 2 and _are_labels(arrays[1]):
        raise BadInput(
            "it is a pair whose second part is whole numbers [b]: say labels=True if they are labels"
        )
    return Batch(number, start, structure, tuple(arrays), labels)


def _are_labels(array: Any) -> bool:
    return len(array.shape) == 1 and to_numpy(array).dtype.kind in "iu"


def _kind(item: Any) -> str:
    size = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
    return f"a {type(item).__name__}{size}"


# ---- an entry for each example ---------------------------------------------------------------------------------


def per_example(given: Any, batch: Batch, name: str) -> np.ndarray:
    """Return each example's entry [b] of what was given for the whole data set, or by a callable on a batch.

    Raises:
        BadInput: there are too few, or not one each.
    """
    if callable(given):
        entries = to_numpy(given(batch.inputs))
        wanted = batch.stop - batch.start
        if entries.shape != (wanted,):
            raise BadInput(
                f"{name} gave the shape {entries.shape} for {wanted} examples; it gives one label each"
            )
        return entries
    entries = to_numpy(given)
    if entries.ndim != 1 or len(entries) < batch.stop:
        raise BadInput(
            f"{name} has the shape {entries.shape}; it holds one entry for each example of all batches"
        )
    return entries[batch.start : batch.stop]


def word(setting: Any) -> str | None:
    """Return a setting that is a word, None for any other kind."""
    return setting if isinstance(setting, str) else None


def check_length(given: Any, count: int, name: str) -> None:
    """Refuse an array for the whole data set that is longer than the data set."""
    if hasattr(given, "shape") and len(given) != count:
        raise BadInput(f"{name} has {len(given)} entries and the batches hold {count} examples")


# ---- what a resumed run must have in common with the one before -----------------------------------------------


def told(value: Any) -> str:
    """Return a setting as a text that is the same in every process; arrays by a checksum."""
    if hasattr(value, "shape"):
        return f"{short(value)} {zlib.crc32(to_numpy(value).tobytes()):08x}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {told(part)}' for key, part in value.items())}}}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(told(part) for part in value)})"
    if is_dataclass(value) and not isinstance(value, type):
        parts = (f"{part.name}={told(getattr(value, part.name))}" for part in fields(value))
        return f"{type(value).__name__}({', '.join(parts)})"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def fingerprint(model: Any, first: Callable[[], np.ndarray]) -> dict[str, Any]:
    """Return what tells a model from another: a checksum of its weights, and its output for the first example."""
    weights = None
    if hasattr(model, "state_dict"):
        weights = 0
        for name, value in model.state_dict().items():
            weights = zlib.crc32(name.encode(), weights)
            if hasattr(value, "detach"):
                weights = zlib.crc32(np.ascontiguousarray(to_numpy(value)).data, weights)
    return {"weights": weights, "first_output": first().ravel().tolist()}


def same_model(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Tell whether two fingerprints are the same model's; another machine's outputs differ by rounding."""
    before, after = np.array(one["first_output"]), np.array(two["first_output"])
    scale = max(float(np.abs(before).max(initial=0.0)), 1e-6)
    near = before.shape == after.shape and bool(np.abs(before - after).max(initial=0.0) <= STEADY * scale)
    return near and one["weights"] == two["weights"]
