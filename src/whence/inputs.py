"""Inputs: what the user gave, checked against the method and the model's framework, as native arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whence.backends import Array, Backend, Leaves
from whence.backends.callable import takes_frames
from whence.errors import BadInput
from whence.registry import switching
from whence.site import Site
from whence.structure import Structure, unpack
from whence.table import Table, is_frame

# The methods that a user without plain numbers is told of.
MOST_NAMED = 6


@dataclass(frozen=True)
class Call:
    """What a user asked: the arguments of `whence.explain` that are not the method's."""

    model: Any
    inputs: Any
    target: Any = None
    at: Site | None = None
    kwargs: Mapping[str, Any] | None = None
    output: Any = None
    preprocess: Any = None
    seed: int = 0
    chunk: int | None = None
    progress: bool = False
    fuse: bool = True
    on_unknown: str = "error"
    switches: bool = False


def native(call: Call, given: Any, backend: Backend) -> tuple[Structure, Leaves, tuple[np.dtype[Any], ...]]:
    """Return the inputs' structure, their arrays in the framework, and their types where they came as NumPy arrays.

    Raises:
        BadInput: they cannot be explained: their shapes, or what they hold for this method and model.
    """
    structure, arrays = _tabled(call, backend) if is_frame(given) else unpack(given)
    leaves = tuple(_prepared(call, backend, array) for array in arrays)
    _check_batch(structure, leaves, backend)
    _check_site(structure, leaves, backend, call)
    numpy = all(isinstance(array, np.ndarray) for array in arrays)
    return structure, leaves, tuple(array.dtype for array in arrays) if numpy else ()


def _tabled(call: Call, backend: Backend) -> tuple[Structure, Sequence[Array]]:
    """Return a frame's structure and its numbers, with what it holds checked against the model and the method.

    Raises:
        BadInput: a column holds something that the model or the method has no use for.
    """
    table = Table.of(call.inputs)
    table.frames = not backend.differentiable and takes_frames(call.model, table.trouble is None)
    if table.trouble is not None and backend.differentiable:
        raise BadInput(
            f"{table.trouble}, and a {backend.name} model is given numbers; encode them first, or pass a function that "
            "takes a frame"
        )
    if table.trouble is not None and not call.switches:
        raise BadInput(
            f"{table.trouble}, and this method calculates with the inputs; methods that only switch columns on and off "
            f"work: {_switching()}"
        )
    return Structure(None, (0,), (True,), table), [table.array]


def _switching() -> str:
    return ", ".join(switching()[:MOST_NAMED]) or "none yet"


def _prepared(call: Call, backend: Backend, array: Any) -> Array:
    prepared = backend.prepare(call.model, array)
    # A function of tokens looks them up: they stay whole where nothing calculates with them.
    whole = (
        call.switches and not backend.differentiable and getattr(array, "dtype", prepared.dtype).kind in "iub"
    )
    return prepared.astype(array.dtype) if whole else prepared


def _check_batch(structure: Structure, leaves: Leaves, backend: Backend) -> None:
    for number, leaf in enumerate(leaves):
        name = structure.name(number)
        if leaf.ndim == 0 or leaf.shape[0] == 0:
            raise BadInput(
                f"{name} has shape {tuple(leaf.shape)}; axis 0 is the batch and holds at least one example"
            )
        if not backend.ops.is_finite(leaf):
            raise BadInput(f"{name} holds NaN or infinity; clean it first: no share can be given to it")
    sizes = {int(leaf.shape[0]) for leaf in leaves}
    if len(sizes) > 1:
        raise BadInput(
            f"the inputs' batches differ: {sorted(sizes)}; axis 0 of every input is the same batch"
        )


def _check_site(structure: Structure, leaves: Leaves, backend: Backend, call: Call) -> None:
    at: Any = call.at
    if at is not None and not isinstance(at, Site):
        raise BadInput(
            f"at is {at!r}; give None for the inputs, whence.layer(name) or whence.parameters(name)"
        )
    if at is not None:
        return
    for number, leaf in enumerate(leaves):
        if "complex" in str(leaf.dtype):
            raise BadInput(
                f"{structure.name(number)} is {leaf.dtype}: shares of complex numbers are not defined; pass the real "
                "and the imaginary part as two inputs"
            )
        if not backend.ops.is_float(leaf) and not call.switches:
            raise BadInput(
                f"{structure.name(number)} is {leaf.dtype}: whole numbers have no gradient; explain what they become "
                'inside, such as at=whence.layer("embedding"), pass floats (pictures: preprocess=...), or take a '
                f"method that only switches features on and off: {_switching()}"
            )
