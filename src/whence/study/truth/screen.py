"""The study in the terminal: what was found, scores by family, axioms broken, and the shortcut."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from whence import cli_show
from whence.study.truth import findings
from whence.study.truth.axioms import AXIOMS
from whence.study.truth.case import FAMILIES
from whence.study.truth.findings import amount, decimals
from whence.study.truth.results import Study

NONE = "—"
SHORT = {
    "linear": "lin",
    "additive": "add",
    "interaction": "prod",
    "cancellation": "canc",
    "saturation": "satu",
    "gates": "gate",
    "detectors": "dete",
    "degenerate": "none",
}
"""The families in four letters: nine columns and the methods' names fit into 80."""


def show(console: Console, study: Study) -> None:
    """Print the study."""
    for sentence in findings.sentences(study):
        console.print(escape(sentence))
    if study.cases:
        _scores(console, study)
        _axioms(console, study)
    if study.probes:
        _shortcut(console, study)
    _refused(console, study)


def _scores(console: Console, study: Study) -> None:
    console.print("\n[bold]Scores: 1 is right, 0 has nothing in common with it[/]")
    table = _table("method", ("mean", *(SHORT[each] for each in study.families)))
    for name in study.ranked:
        means = [study.mean(name), *(study.mean(name, family) for family in study.families)]
        table.add_row(name, *map(_score, means))
    console.print(table)
    counts = ", ".join(f"{SHORT[each]}: {FAMILIES[each]} ({len(study.of(each))})" for each in study.families)
    cli_show.note(
        console,
        f"the mean over the cases that a method applies to; a dash: to none. {counts}.",
    )


def _axioms(console: Console, study: Study) -> None:
    rows = [(name, study.broken(name)) for name in study.ranked]
    if not any(broken for _, broken in rows):
        return
    console.print("\n[bold]Axioms broken, by how much of the map, and where[/]")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    table.add_column("broken", overflow="fold")
    for name, broken in rows:
        if broken:
            worst = [(axiom, study.kept(name, axiom).worst) for axiom in broken]
            table.add_row(
                name, ", ".join(f"{axiom} {amount(w.amount)} ({w.case})" for axiom, w in worst if w)
            )
    console.print(table)
    cli_show.note(
        console,
        "the worst example of the worst case. " + "; ".join(f"{k}: {v}" for k, v in AXIOMS.items()) + ".",
    )


def _shortcut(console: Console, study: Study) -> None:
    console.print("\n[bold]The planted shortcut: share of the map on the mark[/]")
    table = _table("method", ("AUC", "± SE", "rank", "shortcut", "control"))
    there = [(name, each) for name, each in study.probes.items() if each.pairs]
    for name, each in sorted(there, key=lambda pair: pair[1].found[0], reverse=True):
        area, error = each.found
        shares = [f"{100 * each.mean(group):.0f} %" for group in ("shortcut", "control")]
        table.add_row(name, decimals(area), f"{error:.4f}", decimals(each.ranked[0]), *shares)
    console.print(table)
    count = max((sum(len(part.shortcut) for part in each.pairs) for _, each in there), default=0)
    networks = f"{len(study.pairs)} pair{'s' if len(study.pairs) > 1 else ''} of networks"
    cli_show.note(
        console,
        f"AUC: of shares in the network that learnt the mark against those in its control, {count} marked pictures "
        f"({study.setup.data}) each, {networks}. rank: of marked pictures against others, in the first network.",
    )


def _refused(console: Console, study: Study) -> None:
    console.print()
    for reason, names in study.reasons().items():
        cli_show.note(console, f"does not apply: {', '.join(names)}: {reason}")
    for method, case, reason in study.failed():
        cli_show.note(console, f"{method} went wrong on {case}: {reason}")


def _score(value: float | None) -> Text:
    if value is None:
        return Text(NONE, style="dim")
    style = "green" if value >= findings.RIGHT else "red" if value < 0.5 else ""
    return Text(f"{value:.2f}", style=style)


def _table(first: str, columns: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for each in columns:
        table.add_column(each, justify="right", no_wrap=True)
    return table
