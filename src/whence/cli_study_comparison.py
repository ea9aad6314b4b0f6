"""`whence study mnist`, `digits` and `my`: every method on a classifier's pictures, judged and set side by side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from whence.cli_options import ANSWER, QUESTION, AnswerFlags, ModelFlags, flag
from whence.errors import BadInput, WorkFailed

if TYPE_CHECKING:
    from whence.study.comparison.setup import Setup

Names = tuple[str, ...]
PARTS = "parts"
"""The folder of finished work, inside the answer's."""


@Parameter(name="*", group=QUESTION)
@dataclass(frozen=True)
class ComparisonFlags:
    """What is compared."""

    method: Annotated[
        Names, flag("A name from `whence methods`; may be repeated. All by default.", "NAME")
    ] = ()
    metric: Annotated[
        Names, flag("A metric's name; may be repeated. All that apply by default.", "NAME")
    ] = ()
    seed: Annotated[
        int, flag("Of the order of the pictures and of all draws; 0 by default.", "N", signed=True)
    ] = 0
    quick: Annotated[bool, flag("Rougher and faster: 64 pictures instead of thousands.")] = False
    table: Annotated[
        str, flag("The format of the table of all numbers: csv or parquet.", "KIND", group=ANSWER)
    ] = "csv"


def mnist(
    *,
    data: Annotated[
        str,
        flag("mnist (downloaded once, 11 MB) or digits (8 x 8, inside the install).", "NAME", group=QUESTION),
    ] = "mnist",
    network: Annotated[
        Names,
        flag(
            "mnist-cnn or mnist-mlp (digits-cnn for digits); may be repeated. All by default.",
            "NAME",
            group=QUESTION,
        ),
    ] = (),
    data_dir: Annotated[
        Path | None,
        flag(
            "Where MNIST's four files are; else $WHENCE_DATA_DIR, else your cache.", "FOLDER", group=QUESTION
        ),
    ] = None,
    what: ComparisonFlags = ComparisonFlags(),
    answer: AnswerFlags = AnswerFlags(),  # noqa: B008
) -> None:
    """Compare all methods on MNIST's networks: maps, metrics, global importance, confusions, decision boundary.

    Writes one page and one table. It can be stopped at any time: the same command goes on where it was. A later run
    into the same folder repeats nothing that is finished.
    """
    if data not in ("mnist", "digits"):
        raise BadInput(
            f"--data {data}: it is mnist or digits; pictures of your own go through whence study my"
        )
    _handwritten(data, network, data_dir, what, answer)


def digits(
    *,
    what: ComparisonFlags = ComparisonFlags(),
    answer: AnswerFlags = AnswerFlags(),  # noqa: B008
) -> None:
    """Compare all methods on the digits inside the install; as `study mnist --data digits`."""
    _handwritten("digits", (), None, what, answer)


def my(
    *,
    data: Annotated[
        Path,
        flag(
            "A folder with a folder of pictures for each class, or an .npz archive with images (uint8) and labels, and "
            "perhaps masks of the right place and background pictures.",
            "PATH",
            group=QUESTION,
        ),
    ],
    model: ModelFlags = ModelFlags(),  # noqa: B008
    what: ComparisonFlags = ComparisonFlags(),
    answer: AnswerFlags = AnswerFlags(),  # noqa: B008
) -> None:
    """Put a classifier of your own through the same study, on pictures of your own."""
    from whence import zoo
    from whence.cli_work import request
    from whence.study.comparison.setup import setup
    from whence.study.comparison.subject import own

    asked = request(model)
    if len(model.weights) > 1:
        raise BadInput("study my takes one --weights; checkpoints are for whence explain")
    record = {
        "model": asked.model, "arguments": dict(asked.arguments), "trust": asked.trust, "size": asked.size,
        "labels": None if asked.labels is None else str(asked.labels.absolute()), "crop": asked.crop,
        "mean": asked.mean, "std": asked.std,
        "weights": str(model.weights[0].absolute()) if model.weights else None,
    }  # fmt: skip
    labels = None if asked.labels is None else zoo.read_labels(asked.labels)
    if labels is None and asked.model in zoo.names():
        labels = zoo.entry(str(asked.model)).labels
    # A name for files and tables: a path or a module has signs that they have no use for.
    name = re.sub(r"[^\w.]+", "-", str(asked.model)).strip("-")
    chosen = setup("my", [name], what.method, what.metric, seed=what.seed, quick=what.quick, request=record)
    pictures = own(data, labels, what.seed, chosen.budgets.most)
    _run(chosen, pictures, what, answer)


EXAMPLES = {
    mnist: """Examples:

  whence study mnist --quick
  whence study mnist --data digits
  whence study mnist --network mnist-cnn --method saliency --method lrp""",
    digits: """Examples:

  whence study digits --quick""",
    my: """Examples:

  whence study my --model my_module:make --weights net.safetensors \\
      --size 32 --data photos/ --quick""",
}


def _handwritten(
    data: str, network: Names, data_dir: Path | None, what: ComparisonFlags, answer: AnswerFlags
) -> None:
    from whence.cli_work import shows_progress
    from whence.study.comparison.setup import setup
    from whence.study.comparison.subject import handwritten

    chosen = setup(data, network, what.method, what.metric, seed=what.seed, quick=what.quick)
    pictures = handwritten(data, data_dir, what.seed, chosen.budgets.most, shows_progress(answer))
    _run(chosen, pictures, what, answer)


def _run(chosen: Setup, pictures: Any, what: ComparisonFlags, answer: AnswerFlags) -> None:
    """Do the study, print for a person, write the page and the table, and return the same for a program."""
    from whence.cli import screened
    from whence.cli_study import progress_bar

    with screened(answer.json) as (console, tell):
        from whence import cli_show, cli_work
        from whence.cli_options import COMMAND
        from whence.metrics.metric import registered
        from whence.study.comparison import page, screen, table
        from whence.study.comparison.results import Comparison
        from whence.study.comparison.run import run

        table.check(what.table)
        for name in what.metric if pictures.masks is None else ():
            if "mask" in registered()[name.strip().replace("-", "_")].needs:
                raise BadInput(
                    f"--metric {name} compares with the right place: give masks in the .npz archive"
                )
        folder = answer.folder
        cli_work.check_out(folder)
        try:
            with progress_bar(cli_work.shows_progress(answer)) as say:
                store = run(chosen, pictures, folder / PARTS, say)
        except KeyboardInterrupt:
            done = len(list((folder / PARTS).glob("*--*.npz")))
            console.print(
                f"stopped; {done} finished parts are kept in {folder / PARTS}: the same command goes on"
            )
            raise
        found = Comparison(chosen, pictures, store)
        screen.show(console, found)
        files = {
            "report": page.write(found, folder / f"{chosen.data}.html", COMMAND.get()),
            "table": table.write(found, folder, what.table),
            "times": table.write_times(found, folder),
            "maps": table.write_maps(found, folder),
        }
        console.print()
        for name, path in files.items():
            cli_show.file_line(console, name, path)
        tell(
            found.payload()
            | {"files": {name: str(path) for name, path in files.items()}, "report": str(files["report"])}
        )
    failures = found.failures()
    if failures:
        raise WorkFailed(f"{len(failures)} parts failed, the first: {failures[0]}; the page holds the rest")
