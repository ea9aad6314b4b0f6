"""`whence study`: questions about attribution that are answered by measuring."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from whence import cli_study_comparison, cli_study_truth
from whence.cli_options import ANSWER, QUESTION, AnswerFlags, flag

if TYPE_CHECKING:
    from whence.study.frameworks.results import Ran, Study

study = App(
    name="study",
    help="Answer a question about attribution by measuring: a table and a page.",
    help_epilogue="""Examples:

  whence study frameworks
  whence study frameworks --quick --network cnn""",
)

Names = tuple[str, ...]

for _command, _examples in (cli_study_comparison.EXAMPLES | cli_study_truth.EXAMPLES).items():
    study.command(_command, help_epilogue=_examples)


@study.command(
    help_epilogue="""Examples:

  whence study frameworks
  whence study frameworks --network cnn --framework torch --framework jax
  whence study frameworks --method saliency --method lrp --dtype float64"""
)
def frameworks(
    *,
    network: Annotated[Names, Parameter(group=QUESTION)] = (),
    method: Annotated[Names, Parameter(group=QUESTION)] = (),
    framework: Annotated[Names, Parameter(group=QUESTION)] = (),
    samples: Annotated[int, flag("How many digits are explained.", "N", group=QUESTION, signed=True)] = 16,
    dtype: Annotated[str, Parameter(group=QUESTION)] = "float32",
    seed: Annotated[
        int, flag("Of the digits and of all random draws.", "N", group=QUESTION, signed=True)
    ] = 0,
    quick: Annotated[bool, Parameter(group=QUESTION)] = False,
    answer: AnswerFlags = AnswerFlags(),  # noqa: B008
    save: Annotated[bool, Parameter(group=ANSWER)] = False,
) -> None:
    """Compare the frameworks: the same methods, weights and digits in each, its maps, times and memory.

    Each framework is measured in a process of its own. One that is not installed is named and left out.

    Args:
        network: mlp, cnn or transformer; may be repeated. mlp and cnn by default.
        method: A name from `whence methods`; may be repeated. Ten of them by default.
        framework: torch, jax, flax, equinox, keras, tensorflow, onnx or callable; may be repeated. All by default.
        samples: how many digits.
        dtype: float32 or float64.
        seed: of the digits and draws.
        quick: Rougher and faster: fewer steps and samples, times from three runs, and not every method tried.
        answer: where the answer goes.
        save: Also write the maps as numbers: a NumPy archive.
    """
    from whence.cli import screened
    from whence.study.frameworks.setup import setup

    chosen = setup(network, framework, method, samples=samples, dtype=dtype, seed=seed, quick=quick)
    with screened(answer.json) as (console, tell):
        tell(_run(chosen, answer, save, console))


def _run(chosen: Any, answer: AnswerFlags, save: bool, console: Any) -> dict[str, Any]:
    """Measure, print for a person, write the page, and return the same for a program."""
    from whence import cli_show, cli_work
    from whence.study.frameworks import page, processes, screen

    folder = answer.folder
    cli_work.check_out(folder)
    with progress_bar(cli_work.shows_progress(answer)) as say:
        found = processes.run(chosen, say)
    screen.show(console, found)
    files = {"report": page.write(found, folder / "frameworks.html")}
    if save:
        files["maps"] = _saved(found, folder / "frameworks.npz")
    console.print()
    for name, path in files.items():
        cli_show.file_line(console, name, path)
    return _payload(found) | {
        "files": {name: str(path) for name, path in files.items()},
        "report": str(files["report"]),
    }


@contextlib.contextmanager
def progress_bar(shown: bool) -> Generator[Callable[[str, float], None]]:
    """Yield a function that says what is being measured, and draws how much of all has been."""
    if not shown:
        yield lambda text, share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda text, share: bar.update(task, description=text.replace("[", "\\["), completed=share)


def _saved(found: Study, path: Path) -> Path:
    import numpy as np

    from whence.files import write_atomically

    arrays: dict[str, Any] = {"/".join(key): each for key, each in found.maps.items()}
    with write_atomically(path) as handle:
        np.savez(handle, pictures=found.pictures, labels=found.labels, **arrays)
    return path


def _payload(found: Study) -> dict[str, Any]:
    """Return the study as JSON's types."""
    from whence.study.frameworks import choice, findings

    return {
        "settings": found.setup.record(),
        "machine": found.machine,
        "reference": found.reference,
        "findings": findings.sentences(found),
        "choices": [asdict(each) for each in choice.choices(found)],
        "runs": [_run_record(found, each) for each in found.runs],
    }


def _run_record(found: Study, ran: Ran) -> dict[str, Any]:
    record = asdict(ran)
    for method, cell in ran.cells.items():
        near = found.agreements.get((ran.network, ran.framework, method))
        agreement = None if near is None else asdict(near)
        record["cells"][method] |= {"warm_median": cell.middle, "agreement": agreement}
    return record
