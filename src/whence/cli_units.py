"""The most important units of a layer or a parameter, for the terminal and for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from whence import units
from whence.attribution import Attribution
from whence.caption import number
from whence.cli_show import note

MOST = 5


def table(console: Console, result: Attribution) -> None:
    """Print the units with the largest |sum of shares|; nothing where the inputs were explained."""
    if "site" not in result.settings or units.importance(result).shape[1] < 2:
        return
    found = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    found.add_column(f"most important {units.kind(result)}s of {result.settings['site']}", overflow="fold")
    found.add_column("sum of shares", justify="right", no_wrap=True)
    for name, value in units.ranked(result, count=MOST):
        found.add_row(name, number(value, 4))
    console.print()
    console.print(Padding(found, (0, 0, 0, 2), expand=False))
    others = units.importance(result).shape[1] - MOST
    if others > 0:
        note(console, f"and {others:,} others")


def record(result: Attribution) -> dict[str, Any]:
    """Return the same as JSON's types."""
    if "site" not in result.settings or result.every_class:
        return {}
    return {"units": [{"unit": name, "sum": value} for name, value in units.ranked(result, count=MOST)]}
