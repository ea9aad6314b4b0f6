"""`whence compare`: every method on one picture, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from whence import cli_parse, cli_picture, cli_show, cli_work, registry
from whence.attribution import Attribution
from whence.cli_picture import Picture
from whence.errors import BadInput, Refused, UnsupportedByBackend
from whence.files import write_atomically
from whence.loading import Source

if TYPE_CHECKING:
    from whence.cli_options import AccuracyFlags, AnswerFlags, ModelFlags, QuestionFlags


COLUMNS: Final = (
    "runs: of the model, forward and backward. error: estimated for the whole map; ± where it is random; "
    "— where the method promises none."
)


@dataclass(frozen=True)
class Contestants:
    """The methods that are compared, and what --quick changed in each."""

    methods: dict[str, registry.Method]
    notes: dict[str, str]
    named: bool


def contestants(names: Sequence[str] | None, question: QuestionFlags, accuracy: AccuracyFlags) -> Contestants:
    """Return the registered methods of these names, or all of them; each takes those of the flags that it has.

    Raises:
        BadInput: a flag belongs to none of them.
    """
    records = registry.methods()
    flags = cli_work.method_fields(accuracy, question.baseline)
    options = cli_parse.pairs(accuracy.option, "--option")
    methods: dict[str, registry.Method] = {}
    notes: dict[str, str] = {}
    unused = {*flags, *options}
    for name in records if names is None else names:
        own = records[name].fields
        mine, others = (
            {key: value for key, value in given.items() if key in own} for given in (flags, options)
        )
        methods[name], notes[name] = cli_parse.build(name, mine, others, accuracy.quick)
        unused -= {*own}
    if unused:
        raise BadInput(
            f"none of the methods has an option {' or '.join(sorted(unused))}; see `whence methods`"
        )
    return Contestants(methods, notes, names is not None)


def tour(
    source: Source, picture: Picture, methods: Contestants, target: Any, words: str | None,
    question: QuestionFlags, accuracy: AccuracyFlags, *, shown: bool,
) -> tuple[dict[str, Attribution], dict[str, str]]:  # fmt: skip
    """Explain one picture by every method; those that cannot are in the second dictionary, with the reason.

    Raises:
        Refused: none of them can, or one that was asked for by name cannot.
    """
    results: dict[str, Attribution] = {}
    skipped: dict[str, str] = {}
    with cli_work.status(shown) as say:
        for number, (name, method) in enumerate(methods.methods.items()):
            say(f"{name} ({number + 1} of {len(methods.methods)})")
            try:
                ready = cli_work.with_baseline(method, source, picture, question)
                notes = (methods.notes[name],)
                results[name] = cli_work.explained(
                    source, picture, ready, target, words, at=question.at, accuracy=accuracy, notes=notes
                )
            except (Refused, UnsupportedByBackend) as problem:
                if methods.named and len(methods.methods) == 1:
                    raise
                skipped[name] = str(problem)
    if not results:
        reasons = "; ".join(dict.fromkeys(skipped.values()))
        raise Refused(f"no method can explain {source.name}: {reasons}")
    return results, skipped


def run(
    image: Path, methods: Sequence[str] | None, model: ModelFlags, question: QuestionFlags, accuracy: AccuracyFlags,
    answer: AnswerFlags, console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Compare, print for a person, return the same for a program."""
    chosen = contestants(methods, question, accuracy)
    asked = cli_parse.ask(question.target)
    if asked.kind == "all" or len(model.weights) > 1:
        what = "--target all" if asked.kind == "all" else "several --weights"
        raise BadInput(f"compare: {what} goes with whence explain; compare methods on one class of one model")
    cli_parse.check_baselines(question.baseline)
    request = cli_work.request(model)
    files = cli_picture.picture_files([image])
    if len(files) > 1:
        raise BadInput(f"{image} holds {len(files)} pictures; compare methods on one of them")
    cli_work.check_out(answer.folder)
    source = request.load(model.weights[0] if model.weights else None)
    picture = cli_picture.read_picture(*files[0], source.channels)
    prediction = cli_work.answer_of(source, picture, accuracy)
    cli_show.heading(console, picture, source.name)
    cli_show.prediction(console, prediction, source.labels)
    target, words = cli_work.fitted_target(asked, source, prediction)
    shown = cli_work.shows_progress(answer)
    results, skipped = tour(source, picture, chosen, target, words, question, accuracy, shown=shown)
    print_tour(console, results, skipped)
    drawn = write_figure(results, answer.folder / f"{picture.stem}.comparison.png")
    report = write_report(
        results, skipped, [(prediction, source)], answer.folder / f"{picture.stem}.comparison.html"
    )
    console.print()
    cli_show.file_line(console, "picture", drawn)
    cli_show.file_line(console, "report", report)
    return {
        "model": source.name,
        "input": str(picture.path),
        "prediction": cli_show.answer_record(prediction, source.labels),
        "methods": {name: cli_show.record(each, source.labels) for name, each in results.items()},
        "skipped": skipped,
        "files": {"picture": str(drawn)},
        "report": str(report),
    }


def print_tour(console: Console, results: dict[str, Attribution], skipped: dict[str, str]) -> None:
    """Print the table of methods, their notes, and what was left out."""
    console.print()
    cli_show.methods_table(console, results)
    console.print()
    cli_show.note(
        console,
        "residual: the sum less the change of the output from baseline to picture, which it should equal. "
        f"{COLUMNS}",
    )
    notes: dict[str, list[str]] = {}
    for name, result in results.items():
        for each in result.notes:
            notes.setdefault(each, []).append(name)
    for text, names in notes.items():
        who = "" if len(names) == len(results) else f" ({', '.join(names)})"
        cli_show.note(console, f"note: {text}{who}")
    cli_show.left_out(console, skipped)


def write_figure(results: dict[str, Attribution], path: Path) -> Path:
    """Write all maps as one PNG."""
    from whence import view

    drawn = view.png(view.comparison_figure(results))
    with write_atomically(path) as handle:
        handle.write(drawn)
    return path


def write_report(
    results: dict[str, Attribution], skipped: dict[str, str], predictions: Sequence[tuple[Any, Source]], path: Path,
    **words: Any,
) -> Path:  # fmt: skip
    """Write all maps as one HTML file."""
    from whence import report

    bars = cli_work.in_report(predictions)
    labels = predictions[0][1].labels
    return report.write(results, path, labels=labels, predictions=bars, skipped=skipped, **words)
