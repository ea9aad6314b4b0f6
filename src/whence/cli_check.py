"""`whence check`: every operation of a model, and which rule of each method takes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from whence import cli_picture, cli_work, registry
from whence.certificate import REFUSED, Coverage, Row, coverage
from whence.errors import BadInput, WorkFailed
from whence.loading import Source

if TYPE_CHECKING:
    from whence.cli_options import ModelFlags

DERIVATIVE: Final = "derivative"


def run(
    model: str, picture: Path | None, names: Sequence[str] | None, flags: ModelFlags, console: Console
) -> dict[str, Any]:
    """Check, print for a person, return the same for a program.

    Raises:
        WorkFailed: some operation is known to no rule; it has been printed by then.
    """
    if flags.model not in (None, model):
        raise BadInput(f"check: the model is named twice, {model} and --model {flags.model}; name it once")
    source = cli_work.request(replace(flags, model=model)).load(flags.weights[0] if flags.weights else None)
    given = _given(source, picture)
    found = {name: _covered(source, given, name) for name in (_with_rules() if names is None else names)}
    _print(console, source, found)
    unknown = sorted({row.operation for each in found.values() for row in each.unknown})
    if unknown:
        raise WorkFailed(
            f"no rule knows {', '.join(unknown)}: methods with rules refuse it (gradient methods do not)"
        )
    return {
        "model": source.name,
        "complete": True,
        "methods": {
            name: {"notes": list(each.notes), "operations": [vars(row) for row in each.rows]}
            for name, each in found.items()
        },
    }


def _with_rules() -> list[str]:
    """Return the methods that have rules, the first of each set."""
    found: dict[str, str] = {}
    for name, record in registry.methods().items():
        rules = record.cls().rules()
        if rules is not None:
            found.setdefault(rules.name, name)
    return list(found.values())


def _covered(source: Source, given: UInt8[np.ndarray, "1 h w c"], name: str) -> Coverage:
    fields: dict[str, Any] = {"baseline": 0.0} if "background" in registry.methods()[name].needs else {}
    with source.blamed():
        return coverage(source.model, given, name, preprocess=source.preprocess, **fields)


def _given(source: Source, picture: Path | None) -> UInt8[np.ndarray, "1 h w c"]:
    """Return the picture that the model runs on: a given one, else noise in the size that it takes."""
    if picture is not None:
        return cli_picture.read_picture(picture, picture.stem, source.channels).given
    size = source.preprocess.crop or source.preprocess.size
    if size is None:
        raise BadInput("check: the size of the model's pictures is not known; say --size, or give a picture")
    height, width = (size, size) if isinstance(size, int) else size
    shape = (1, height, width, source.channels or 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _print(console: Console, source: Source, found: dict[str, Coverage]) -> None:
    kinds = _kinds(found)
    most = max((each.rows for each in found.values()), key=lambda rows: sum(row.count for row in rows))
    total = sum(row.count for row in most)
    console.print(f"{source.name}: {total} operations of {len(most)} kinds between the answer and the input")
    rules = [{_key(row): row.rule for row in each.rows} for each in found.values()]
    ruled = [key for key in kinds if any(each.get(key, DERIVATIVE) != DERIVATIVE for each in rules)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("operation", no_wrap=True)
    table.add_column("calls", justify="right")
    for name in found:
        # At an underscore a long name may break, and nowhere else.
        table.add_column(name.replace("_", "_\n"), overflow="fold")
    for key in ruled:
        # Empty: this method does not meet it, or sees a ReLU in it.
        row, taken = kinds[key], (each.get(key, "") for each in rules)
        cells = ("·" if text == DERIVATIVE else escape(text) for text in taken)
        table.add_row(row.operation, str(row.count), *cells, style=None if row.known else "bold red")
    console.print(Padding(table, (1, 0, 1, 2), expand=False))
    linear = [f"{row.operation} × {row.count}" for key, row in kinds.items() if key not in ruled]
    if linear:
        console.print(f"  · and these by their derivative: {', '.join(linear)}")
    for row in kinds.values():
        if not row.known:
            place = f", called at {escape(_near(row.place))}" if row.place else ""
            console.print(f"  no rule knows {row.operation}{place}", style="bold red", soft_wrap=True)
    for each in found.values():
        refused = any(row.rule == REFUSED for row in each.rows)
        refused |= any("is refused" in note for note in each.notes)
        console.print(f"  {each.method}: {'refused' if refused else 'every operation has its rule'}")
        for note in each.notes:
            console.print(f"    {note}", style="dim")


def _key(row: Row) -> tuple[str, str | None]:
    return row.operation, row.family


def _kinds(found: dict[str, Coverage]) -> dict[tuple[str, str | None], Row]:
    """Return the kinds of operations that any of the methods met: one that begins at a layer meets fewer."""
    kinds: dict[tuple[str, str | None], Row] = {}
    for row in (row for each in found.values() for row in each.rows):
        known = kinds.setdefault(_key(row), row)
        if row.count > known.count:
            kinds[_key(row)] = replace(known, count=row.count)
    return kinds


def _near(place: str) -> str:
    """Return a place with its file named from the current folder where it lies in there."""
    return place.removeprefix(f"{Path.cwd()}{os.sep}")
