"""`whence study truth`: how good each method is where the right answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from whence.cli_options import QUESTION, AnswerFlags, flag

Names = tuple[str, ...]


def truth(
    *,
    method: Annotated[Names, Parameter(group=QUESTION)] = (),
    case: Annotated[Names, Parameter(group=QUESTION)] = (),
    data: Annotated[str, Parameter(group=QUESTION)] = "digits",
    data_dir: Annotated[
        Path | None,
        flag(
            "Where MNIST's four files are; else $WHENCE_DATA_DIR, else your cache.", "FOLDER", group=QUESTION
        ),
    ] = None,
    seed: Annotated[
        int, flag("Of all random draws and of the trained networks.", "N", group=QUESTION, signed=True)
    ] = 0,
    quick: Annotated[bool, Parameter(group=QUESTION)] = False,
    answer: AnswerFlags = AnswerFlags(),  # noqa: B008
) -> None:
    """Compare the methods with the truth: functions whose right answer is known, and a planted shortcut.

    Prints each method's score and the axioms that it breaks, and writes a page and a table.

    Args:
        method: A name from `whence methods`; may be repeated. All by default.
        case: A case, a family of cases (linear, additive, interaction, cancellation, saturation, gates, detectors,
            degenerate) or shortcut; may be repeated. All by default.
        data: The digits that the shortcut is planted in: digits (8 x 8, inside the install) or mnist.
        data_dir: the folder of MNIST.
        seed: of the draws.
        quick: Rougher and faster: three examples of each case, fewer samples, one pair of networks.
        answer: where the answer goes.
    """
    from whence.cli import screened
    from whence.study.truth.setup import setup

    chosen = setup(method, case, data=data, data_dir=data_dir, seed=seed, quick=quick)
    with screened(answer.json) as (console, tell):
        tell(_run(chosen, answer, console))


def _run(chosen: Any, answer: AnswerFlags, console: Any) -> dict[str, Any]:
    """Measure, print for a person, write the files, and return the same for a program."""
    from whence import cli_show, cli_work
    from whence.cli_study import progress_bar
    from whence.study.truth import findings, page, running, screen, table

    folder = answer.folder
    cli_work.check_out(folder)
    with progress_bar(cli_work.shows_progress(answer)) as say:
        found = running.run(chosen, say)
    screen.show(console, found)
    files = {
        "report": page.write(found, folder / "truth.html"),
        "scores": table.write(found, folder / "truth.csv"),
    }
    console.print()
    for name, path in files.items():
        cli_show.file_line(console, name, path)
    return found.record() | {
        "findings": findings.sentences(found),
        "files": {name: str(path) for name, path in files.items()},
        "report": str(files["report"]),
    }


EXAMPLES = {
    truth: """Examples:

  whence study truth --quick
  whence study truth --method integrated_gradients --method lrp --case saturation
  whence study truth --case shortcut --data mnist"""
}
"""The command with what its help ends with."""
