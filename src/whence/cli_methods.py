"""`whence methods`: every method, and for a framework which of them work there."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whence import cli_show, registry, support


def listed(console: Console) -> list[dict[str, Any]]:
    """Print every method, and return the same for a program."""
    cli_show.registry_table(console)
    names = ("name", "summary", "needs", "equation", "citation", "fields")
    return [{name: getattr(each, name) for name in names} for each in registry.methods().values()]


def tried(backend: str, console: Console) -> list[dict[str, Any]]:
    """Try every method in a framework, print which work, and return the same for a program.

    Raises:
        BadInput: there is no such backend.
        WorkFailed: its framework is not installed.
    """
    trials = list(support.trials(backend))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    table.add_column("works", no_wrap=True)
    table.add_column("remark", overflow="fold")
    for each in trials:
        works = "yes" if each.works else "[bold red]no[/]"
        table.add_row(each.method, works, escape(each.reason), style=None if each.works else "dim")
    console.print(table)
    working = sum(each.works for each in trials)
    console.print(f"\n{backend}: {working} of {len(trials)} methods work, tried on small networks")
    return [asdict(each) for each in trials]
