"""Every number of the study as one table in a file: CSV, or Parquet."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from whence.errors import BadInput
from whence.files import write_atomically
from whence.study.comparison.results import Comparison, Row
from whence.study.comparison.store import ASKED

FORMATS: Final = ("csv", "parquet")
CLOCK: Final = "milliseconds"


def check(kind: str) -> None:
    """Refuse a format that cannot be written, before the work begins.

    Raises:
        BadInput: it is unknown, or needs a package that is not installed.
    """
    if kind not in FORMATS:
        raise BadInput(f"--table {kind}: it is csv or parquet")
    if kind == "parquet":
        try:
            import polars  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ModuleNotFoundError:
            raise BadInput("--table parquet needs polars; pip install polars, or take csv") from None


def write(found: Comparison, folder: Path, kind: str) -> Path:
    """Write the table, with the settings and versions in its first lines, which begin with # (CSV), or its metadata.

    What the clock told stands in a table of its own: this one is the same, bit for bit, when a seed is run again.
    """
    path = folder / f"{found.setup.data}.{kind}"
    rows = [asdict(row) for row in found.rows if row.measure != CLOCK]
    asked = (found.store.folder / ASKED).read_text(encoding="utf-8")
    if kind == "parquet":
        import polars

        kept: Any = io.BytesIO()
        polars.DataFrame(rows).write_parquet(kept, metadata={"study": asked})
        content = kept.getvalue()
    else:
        told = "".join(f"# {name}: {json.dumps(each)}\n" for name, each in json.loads(asked).items())
        content = f"{told}{_csv(rows)}".encode()
    with write_atomically(path) as handle:
        handle.write(content)
    return path


def write_times(found: Comparison, folder: Path) -> Path:
    """Write what the clock told, as CSV: milliseconds of one core for each picture."""
    path = folder / f"{found.setup.data}-times.csv"
    rows = [asdict(row) for row in found.rows if row.measure == CLOCK]
    with write_atomically(path) as handle:
        handle.write(_csv(rows).encode())
    return path


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if np.isnan(value) else repr(value)
    return value


def write_maps(found: Comparison, folder: Path) -> Path:
    """Write the mean maps of every network and method as arrays: network/method/mean, /absolute, /error, /count."""
    arrays: dict[str, np.ndarray] = {}
    for network in found.setup.networks:
        for name in found.methods(network):
            for what, each in (found.mean_maps(network, name) or {}).items():
                arrays[f"{network}/{name}/{what}"] = each
    path = folder / f"{found.setup.data}-maps.npz"
    with write_atomically(path) as handle:
        np.savez_compressed(handle, **arrays)  # pyright: ignore[reportArgumentType]
    return path
