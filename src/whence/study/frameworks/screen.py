"""The study in the terminal: what was found, three tables, and what is not supported."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whence import cli_show
from whence.study.frameworks import choice, findings, rows
from whence.study.frameworks.results import Study
from whence.study.frameworks.rows import Grid

WIDEST = 11
"""Characters of a framework's column: eight of them and the methods' names fit into 100."""


def show(console: Console, study: Study) -> None:
    """Print the study."""
    count, kind = len(study.labels), study.setup.dtype
    console.print(
        f"{count} digit{'s' if count > 1 else ''} of 8 × 8 pixels, the same weights in {kind} everywhere.\n"
    )
    for sentence in findings.sentences(study):
        console.print(escape(sentence))
    if study.reference is not None and len(study.names()) > 1:
        _grids(console, f"Agreement with {findings.title(study.reference)}", rows.agreement(study))
        cli_show.note(
            console,
            "the largest difference over the largest value; rank: the lowest mean rank correlation of the pixels.",
        )
    _grids(console, "Cold: seconds of the first explanation", rows.cold(study))
    _grids(console, "Warm: milliseconds of a later one", rows.warm(study))
    cli_show.note(
        console,
        "cold: a new model, and nothing compiled. warm: the median, ± half of what lies between the quartiles.",
    )
    _like(console, study)
    _choices(console, study)
    for framework, reasons in study.reasons().items():
        for reason, methods in reasons.items():
            cli_show.note(console, f"{framework} did not do {', '.join(methods)}: {reason}")
    for framework, remark in study.remarks().items():
        cli_show.note(console, f"{framework}: {remark}")
    cli_show.left_out(console, study.left_out())


def _grids(console: Console, name: str, grids: Sequence[Grid]) -> None:
    if not grids:
        return
    console.print(f"\n[bold]{escape(name)}[/]")
    table = _table()
    table.add_column("method", no_wrap=True)
    for column in grids[0].columns:
        table.add_column(column, justify="right", no_wrap=True, max_width=WIDEST)
    for grid in grids:
        if len(grids) > 1:
            table.add_row(f"[dim]{grid.network}[/]")
        for method, texts in grid.rows:
            table.add_row(method, *texts)
    console.print(table)


def _like(console: Console, study: Study) -> None:
    console.print("\n[bold]What each is like[/]")
    table = _table()
    table.add_column("framework", no_wrap=True)
    for column in rows.LIKE:
        table.add_column(column, justify="right", no_wrap=True)
    for name, texts in rows.like(study):
        table.add_row(name, *texts)
    console.print(table)
    cli_show.note(
        console,
        "first map: from starting Python, imports included. memory: what importing adds to Python and whence, and "
        "what all explanations add to that. compiled: programs (JAX, small ones too) or traces of the model "
        "(TensorFlow) for one method.",
    )


def _choices(console: Console, study: Study) -> None:
    console.print("\n[bold]How to choose[/]")
    table = _table()
    for column in ("you want", "take", "because"):
        table.add_column(column, overflow="fold")
    for each in choice.choices(study):
        table.add_row(escape(each.wish), f"[bold]{escape(each.answer)}[/]", escape(each.because))
    console.print(table)


def _table() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
