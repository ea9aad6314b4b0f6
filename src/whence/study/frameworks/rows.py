"""The study's tables as texts, for the terminal and the page: the same numbers in both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whence import registry
from whence.study.frameworks import findings
from whence.study.frameworks.results import Cell, Ran, Study

NONE = "—"


@dataclass(frozen=True)
class Grid:
    """One network's table: a row for each method, a column for each framework, and what stands beside."""

    network: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def agreement(study: Study) -> list[Grid]:
    """Return the largest differences to the reference's maps, and in the last column the lowest rank correlation."""
    others = [each for each in study.names() if each != study.reference]

    def texts(network: str, method: str) -> list[str]:
        found = [study.agreements.get((network, each, method)) for each in others]
        ranks = [each.rank for each in found if each is not None]
        away = [NONE if each is None else _small(each.difference) for each in found]
        return [*away, rank(min(ranks)) if ranks else NONE]

    return _grids(study, [*others, "rank"], texts) if others else []


def cold(study: Study) -> list[Grid]:
    """Return the seconds of the first explanations."""
    return _grids(
        study, study.names(), _cells(study, lambda each: None if each.cold is None else _seconds(each.cold))
    )


def warm(study: Study) -> list[Grid]:
    """Return the milliseconds of later explanations, with half of what lies between their quartiles."""
    return _grids(study, study.names(), _cells(study, _milliseconds))


def evaluations(study: Study) -> list[Grid]:
    """Return how many runs of the model each example took."""
    texts = _cells(study, lambda each: None if each.evaluations is None else f"{each.evaluations:,.0f}")
    return _grids(study, study.names(), texts)


def _milliseconds(cell: Cell) -> str | None:
    if cell.middle is None:
        return None
    spread = "" if cell.spread is None else f" ±{_plain(1000 * cell.spread)}"
    return f"{_plain(1000 * cell.middle)}{spread}"


def _plain(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def _small(difference: float) -> str:
    return "0" if difference == 0 else f"{difference:.0e}".replace("e-0", "e-").replace("e+00", "")


def rank(correlation: float) -> str:
    """Return a rank correlation, never rounded up to 1."""
    return "1" if correlation >= 1 - 1e-9 else f"{min(correlation, 0.9999):.4f}"


def _cells(study: Study, text: Callable[[Cell], str | None]) -> Callable[[str, str], list[str]]:
    def texts(network: str, method: str) -> list[str]:
        found = (study.cell(network, each, method) for each in study.names())
        return [(None if each is None else text(each)) or NONE for each in found]

    return texts


def _grids(study: Study, columns: list[str], texts: Callable[[str, str], list[str]]) -> list[Grid]:
    networks = dict.fromkeys(each.network for each in study.ran())
    return [
        Grid(network, columns, [(method, texts(network, method)) for method in study.methods(network)])
        for network in networks
    ]


# ---- what each is like ---------------------------------------------------------------------------------------

LIKE = ("version", "import, s", "first map, s", "memory, MB", "methods", "compiled")


def like(study: Study) -> list[tuple[str, list[str]]]:
    """Return what each framework costs by itself, in the columns `LIKE`."""
    return [(name, _like(study, name)) for name in study.names()]


def _like(study: Study, name: str) -> list[str]:
    runs = study.of(name)
    known = (findings.imported(study, name), findings.first_map(study, name))
    times = [NONE if value is None else _seconds(value) for value in known]
    return [_version(runs[0]), *times, _memory(runs), _methods(study, name), compiled(runs)]


def _seconds(value: float) -> str:
    for least, digits in ((9.95, 0), (0.995, 1), (0.0995, 2), (0.0005, 3)):
        if value >= least:
            return f"{value:.{digits}f}"
    return "0"


def _version(ran: Ran) -> str:
    own = ran.versions.get(ran.framework) or next(iter(ran.versions.values()), NONE)
    return own.partition("+")[0]


def _memory(runs: list[Ran]) -> str:
    loaded = max((ran.loaded or 0.0 for ran in runs), default=0.0)
    worked = max((ran.worked or 0.0 for ran in runs), default=0.0)
    return f"{loaded:.0f} + {worked:.0f}"


def _methods(study: Study, name: str) -> str:
    count = findings.supported(study, name)
    if count is not None:
        return f"{count} of {len(registry.methods())}"
    done, asked = findings.working(study, name)
    return f"{done} of {asked} asked"


def compiled(runs: list[Ran]) -> str:
    """Return how many programs one explanation had compiled: the fewest and the most."""
    counts = [cell.programs for ran in runs for cell in ran.cells.values() if cell.programs is not None]
    if not counts:
        return NONE
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
