"""What the study of the truth is asked: methods, cases, and the digits of the planted shortcut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from whence import data, registry
from whence.errors import BadInput
from whence.naming import unknown
from whence.study.truth import catalogue
from whence.study.truth.case import Case

SHORTCUT: Final = "shortcut"
"""What the command line calls the planted shortcut, among the cases."""
DATA: Final = ("digits", "mnist")


@dataclass(frozen=True)
class Setup:
    """Everything that the study's numbers depend on.

    Attributes:
        methods: registered names.
        cases: names of cases.
        shortcut: whether the planted shortcut is measured.
        data: the digits it is planted in: digits or mnist.
        data_dir: the folder of MNIST's files.
        seed: of all random draws and of the trained networks.
        quick: two examples of each case, fewer samples, and one pair of networks.
    """

    methods: tuple[str, ...]
    cases: tuple[str, ...]
    shortcut: bool = True
    data: str = "digits"
    data_dir: str | None = None
    seed: int = 0
    quick: bool = False

    @property
    def examples(self) -> int | None:
        """How many examples of each case are explained; None for all."""
        return 3 if self.quick else None

    def chosen(self) -> tuple[Case, ...]:
        """Return the cases themselves."""
        every = catalogue.every()
        return tuple(every[name] for name in self.cases)

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON's types."""
        return asdict(self)


def setup(
    methods: Sequence[str], cases: Sequence[str], *, data: str, data_dir: Path | None, seed: int, quick: bool
) -> Setup:
    """Return a setup: all methods and all cases where none are named.

    Raises:
        BadInput: a name is unknown, or the seed is negative.
    """
    if data not in DATA:
        raise BadInput(unknown("set of digits", data, DATA))
    if seed < 0:
        raise BadInput(f"--seed is {seed}; it is 0 or more")
    there = registry.methods()
    asked = [name.strip().replace("-", "_") for name in methods]
    for name in asked:
        if name not in there:
            raise BadInput(unknown("method", name, there))
    plain = [name for name in cases if name.strip() != SHORTCUT]
    found = () if cases and not plain else catalogue.chosen(plain)
    where = _folder(data_dir) if data == "mnist" else None
    return Setup(
        tuple(dict.fromkeys(asked)) or tuple(there),
        tuple(each.name for each in found),
        shortcut=not cases or len(plain) < len(cases),
        data=data,
        data_dir=where,
        seed=seed,
        quick=quick,
    )


def _folder(data_dir: Path | None) -> str | None:
    """Return the folder that MNIST is read from, where one is named."""
    return str(data_dir) if data_dir is not None else os.environ.get(data.DATA_DIR_VARIABLE)
