"""One array, or a tuple or dict of arrays and Nones: taken apart for the engine, and put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from whence.backends import Array, Leaves
from whence.errors import BadInput
from whence.table import Table


@dataclass(frozen=True)
class Structure:
    """How the inputs were given: `keys` names the places (None for a single array), `present` those with an array.

    `table` turns a frame into the one array, and back.
    """

    kind: type | None
    keys: tuple[Any, ...]
    present: tuple[bool, ...]
    table: Table | None = None

    def given(self, leaves: Leaves) -> Any:
        """Return what the model is given for these leaves: them in their places, or a frame like the user's."""
        return self.pack(leaves) if self.table is None else self.table.decode(leaves[0])

    def coded(self, columns: int) -> Bool[np.ndarray, "columns"]:
        """Return which columns of a table hold something that is no number."""
        return np.zeros(columns, dtype=bool) if self.table is None else self.table.coded

    def pack(self, leaves: Leaves) -> Any:
        """Return the leaves in the places of the original structure."""
        if self.kind is None:
            return leaves[0]
        remaining = iter(leaves)
        parts = [next(remaining) if present else None for present in self.present]
        return dict(zip(self.keys, parts, strict=True)) if self.kind is dict else tuple(parts)

    def parts(self, given: Any) -> list[Any]:
        """Return the arrays of something else given in this structure (a baseline, a mask), in the leaves' order.

        Raises:
            BadInput: a name is not one of the inputs'.
        """
        if isinstance(given, Mapping):
            if self.kind is not dict or set(given) - set(self.keys):
                raise BadInput(f"{list(given)} does not name the inputs, which are {list(self.keys)}")
            given = tuple(given.get(key) for key in self.keys)
        parts = [part for part in (given if isinstance(given, tuple) else (given,)) if part is not None]
        return parts if self.table is None else [self.table.checked(part) for part in parts]

    def name(self, leaf: int) -> str:
        """Return how a person would call the leaf in an error."""
        if self.kind is None:
            return "the input"
        return f"input {[key for key, there in zip(self.keys, self.present, strict=True) if there][leaf]!r}"


def unpack(inputs: Any) -> tuple[Structure, Sequence[Array]]:
    """Take inputs apart into their structure and the arrays in it.

    Raises:
        BadInput: there is no array in them.
    """
    if isinstance(inputs, Mapping):
        keys, parts, kind = tuple(inputs), list(inputs.values()), dict
    elif isinstance(inputs, tuple):
        keys, parts, kind = tuple(range(len(inputs))), list(inputs), tuple
    else:
        keys, parts, kind = (0,), [inputs], None
    present = tuple(part is not None for part in parts)
    if not any(present):
        raise BadInput("inputs hold no array; pass an array, or a tuple or dict of arrays")
    return Structure(kind, keys, present), [part for part in parts if part is not None]
