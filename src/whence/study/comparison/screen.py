"""The comparison in the terminal: what was found, a short table for each network, and what went wrong."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from whence.caption import short_number, titled
from whence.study.comparison import findings
from whence.study.comparison.results import Comparison
from whence.study.comparison.setup import metric_title

COLUMNS: Final = ("deletion", "insertion", "max_sensitivity", "sparseness")
"""The metrics that a terminal has room for; all are on the page."""


def show(console: Console, found: Comparison) -> None:
    """Print what was found."""
    for sentence in findings.sentences(found):
        console.print(sentence, markup=False)
    records = [each for each in found.measured if each.name in COLUMNS] or found.measured[:4]
    for network in found.setup.networks:
        console.print()
        console.print(f"[bold]{network}[/bold]")
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        table.add_column("method", no_wrap=True)
        for record in records:
            title = f"{metric_title(record)} {record.arrow}"
            table.add_column(title, justify="right", min_width=min(11, max(map(len, title.split(" ")))))
        table.add_column("ms", justify="right", no_wrap=True)
        best = {record.name: findings.near_best(found, network, record) for record in records}
        for name in found.methods(network):
            cells: list[str] = []
            for record in records:
                row = found.cell(network, name, record.name)
                text = "—" if row is None or row.value != row.value else short_number(row.value)
                cells.append(f"[bold]{text}[/bold]" if name in best[record.name] else text)
            row = found.cell(network, name, "milliseconds")
            cells.append("—" if row is None else short_number(row.value))
            table.add_row(titled(name), *cells)
        console.print(table)
    console.print()
    console.print(
        "[dim]Bold: cannot be told apart from the best. ms: of one core, a picture. All metrics are on the page: they "
        "disagree, so read them together.[/dim]"
    )
    for failure in found.failures():
        console.print(f"[red]failed[/red] {failure}", highlight=False)
