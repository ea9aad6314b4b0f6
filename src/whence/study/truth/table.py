"""All scores as one table, for other programs: a line for each method and case."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Final

from whence.files import write_atomically
from whence.study.truth.axioms import AXIOMS
from whence.study.truth.results import Study

COLUMNS: Final = ("method", "family", "case", "score", "nearest", "outcome", "reason", "seconds", *AXIOMS)
"""Under an axiom's name stands by how much it was broken there; 0 where it was kept, nothing where it was not tried."""


def lines(study: Study) -> list[list[str]]:
    """Return the table without its heading; of the shortcut the score is the area under the curve."""
    found: list[list[str]] = []
    for method in study.setup.methods:
        for case in study.cases:
            trial = study.trials[method, case.name]
            amounts = {each.axiom: 0.0 if each.kept else each.amount for each in trial.checks}
            score = trial.score
            found.append([
                method, case.family, case.name, "" if score is None else _number(score.value),
                "" if score is None else score.convention, *_outcome(trial.refused, trial.failed),
                f"{trial.seconds:.4f}", *(_number(amounts[each]) if each in amounts else "" for each in AXIOMS),
            ])  # fmt: skip
        if method in study.probes:
            probe = study.probes[method]
            area = _number(probe.found[0]) if probe.pairs else ""
            found.append([
                method, "shortcut", "shortcut", area, "area under the curve" if area else "",
                *_outcome(probe.refused, probe.failed), f"{probe.seconds:.4f}", *("" for _ in AXIOMS),
            ])  # fmt: skip
    return found


def write(study: Study, path: Path) -> Path:
    """Write the table and return its path."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(lines(study))
    with write_atomically(path) as handle:
        handle.write(text.getvalue().encode())
    return path


def _outcome(refused: str, failed: str) -> tuple[str, str]:
    """Return what came of it in a word, and why."""
    if failed:
        return "failed", failed
    return ("does not apply", refused) if refused else ("scored", "")


def _number(value: float) -> str:
    return f"{value:.6g}"
