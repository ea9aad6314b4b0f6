"""What has been finished: a file for each unit of work, written whole or not at all, and found by a later run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from whence.errors import BadInput
from whence.files import write_atomically

ASKED: Final = "asked.json"
PICTURES: Final = "pictures.npz"
TOLD: Final = "_told"
"""The entry of a part that holds words and numbers as JSON."""


@dataclass(frozen=True)
class Part:
    """One finished unit of work: its arrays, and what is told beside them."""

    arrays: Mapping[str, np.ndarray]
    told: Mapping[str, Any]

    @property
    def refused(self) -> str:
        """Why the method or metric does not apply; empty where it does."""
        return str(self.told.get("refused", ""))

    @property
    def failed(self) -> str:
        """How the work failed; empty where it did not."""
        return str(self.told.get("failed", ""))


@dataclass(frozen=True)
class Store:
    """A folder of finished parts."""

    folder: Path

    def begin(self, question: Mapping[str, Any]) -> None:
        """Take the folder for a question: a new one, or one that was asked the same.

        Raises:
            BadInput: it holds the parts of another question.
        """
        path = self.folder / ASKED
        told = json.loads(json.dumps(question))
        if path.is_file():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                before = {}
            differing = [name for name in told if told[name] != before.get(name)]
            if differing:
                raise BadInput(
                    f"{self.folder} holds finished work of another study (another {', '.join(differing)}); give "
                    "another --out, or delete that folder"
                )
            return
        with write_atomically(path) as handle:
            handle.write(json.dumps(told, indent=1).encode())

    def path(self, key: str) -> Path:
        """Return the file of a part."""
        return self.folder / f"{key.replace('/', '--')}.npz"

    def has(self, key: str) -> bool:
        """Tell whether a part is finished; what failed is not."""
        return self.path(key).is_file() and not self.read(key).failed

    def read(self, key: str) -> Part:
        """Return a finished part."""
        with np.load(self.path(key)) as stored:
            arrays = {name: stored[name] for name in stored.files if name != TOLD}
            return Part(arrays, json.loads(str(stored[TOLD])))

    def write(self, key: str, part: Part) -> None:
        """Write a part, all of it or nothing."""
        with write_atomically(self.path(key)) as handle:
            # The archive's own dates would make equal parts differ in their bytes; NumPy writes none.
            told = {TOLD: np.array(json.dumps(dict(part.told)))}
            np.savez_compressed(handle, **told, **part.arrays)  # pyright: ignore[reportArgumentType]
