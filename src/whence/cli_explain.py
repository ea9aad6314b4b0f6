"""`whence explain`: pictures in, overlays, numbers and a report out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Console

from whence import cli_parse, cli_picture, cli_show, cli_units, cli_work, registry
from whence.attribution import Attribution
from whence.cli_picture import Picture
from whence.cli_predict import Prediction, class_name
from whence.errors import BadInput, Interrupted
from whence.files import write_atomically
from whence.loading import Request, Source

if TYPE_CHECKING:
    from whence.cli_options import AccuracyFlags, AnswerFlags, ModelFlags, QuestionFlags

MOST_IN_FULL: Final = 3
"""More pictures than this get a line each instead of a table each."""
MOST_CLASSES: Final = 10
"""How many classes of --target all are drawn."""
SHARED: Final = 32
"""Up to so many classes are explained together; of more, only the most probable."""


@dataclass(frozen=True)
class Job:
    """What `whence explain` was asked, understood."""

    files: list[tuple[Path, str]]
    request: Request
    weights: tuple[Path, ...]
    method: registry.Method
    name: str
    target: cli_parse.Asked
    question: QuestionFlags
    accuracy: AccuracyFlags
    answer: AnswerFlags
    save: bool
    notes: tuple[str, ...]
    stopped: list[str] = field(default_factory=list[str])

    def path(self, stem: str, ending: str) -> Path:
        """Return where a file of the answer goes."""
        return self.answer.folder / f"{stem}.{ending}"


@dataclass
class Done:
    """One picture's answer: what goes to the report, and the files that were written."""

    picture: Picture
    prediction: Prediction
    results: dict[str, Attribution]
    files: dict[str, Path] = field(default_factory=dict[str, Path])


def understood(
    images: Sequence[Path], method: str, model: ModelFlags, question: QuestionFlags, accuracy: AccuracyFlags,
    answer: AnswerFlags, save: bool,
) -> Job:  # fmt: skip
    """Check everything that can be checked before the model is loaded.

    Raises:
        BadInput: something in the call cannot be meant.
    """
    fields = cli_work.method_fields(accuracy, question.baseline)
    chosen, note = cli_parse.build(
        method, fields, cli_parse.pairs(accuracy.option, "--option"), accuracy.quick
    )
    if question.background is not None and "background" not in registry.methods()[method].needs:
        raise BadInput(
            f"--background: {method} compares with no data set; say what is absent with --baseline"
        )
    target = cli_parse.ask(question.target)
    if target.kind == "all" and len(model.weights) > 1:
        raise BadInput("--target all goes with one --weights; choose a class to follow it through several")
    cli_parse.check_baselines(question.baseline)
    cli_work.site(question.at)
    request = cli_work.request(model)
    files = cli_picture.picture_files(images)
    cli_work.check_out(answer.folder)
    name = registry.name_of(chosen)
    return Job(files, request, model.weights, chosen, name, target, question, accuracy, answer, save, (note,))


def run(job: Job, console: Console) -> dict[str, Any]:
    """Do it: print for a person, return the same for a program."""
    development = len(job.weights) > 1
    source = job.request.load(job.weights[-1] if job.weights else None)
    many = len(job.files) > MOST_IN_FULL
    done: list[Done] = []
    with cli_work.status(cli_work.shows_progress(job.answer) and len(job.files) > 1) as say:
        for number, (path, stem) in enumerate(job.files):
            say(f"{path.name} ({number + 1} of {len(job.files)})")
            picture = cli_picture.read_picture(path, stem, source.channels)
            answer = cli_work.answer_of(source, picture, job.accuracy)
            if not many:
                console.print(end="\n" if number else "")
                cli_show.heading(console, picture, source.name)
                cli_show.prediction(console, answer, source.labels)
            work = _developed if development else _every_class if job.target.kind == "all" else _one
            each = work(job, source, picture, answer, console, many)
            done.append(each)
            if not many:
                _print_files(console, each)
            if job.stopped:
                break
    if many:
        _print_lines(console, done, source)
    report = _report(job, source, done)
    cli_show.file_line(console, "report", report)
    if job.stopped:
        raise KeyboardInterrupt
    return {
        "model": source.name,
        "method": job.name,
        "pictures": [_record(each, source) for each in done],
        "report": str(report),
    }


# ---- one picture -------------------------------------------------------------------------------------------


def _one(
    job: Job, source: Source, picture: Picture, answer: Prediction, console: Console, many: bool
) -> Done:
    target, words = cli_work.fitted_target(job.target, source, answer)
    result = _explained(job, source, picture, target, words)
    files = _files(job, result, picture)
    if not many:
        cli_show.numbers(console, result, job.method, source.labels)
        cli_units.table(console, result)
    return Done(picture, answer, {job.name: result}, files)


def _every_class(
    job: Job, source: Source, picture: Picture, answer: Prediction, console: Console, many: bool
) -> Done:
    if answer.classes is None:
        raise BadInput(f"--target all: the output of {source.name} is no row of classes; leave --target out")
    order = [int(k) for k in np.argsort(-answer.output, kind="stable")]
    if answer.classes <= SHARED:
        whole = _explained(job, source, picture, "all", None)
        found = {k: _named(whole.for_class(k), k, source) for k in order}
    else:
        said = (
            f"{source.name} has {answer.classes:,} classes; the {MOST_CLASSES} most probable were explained"
        )
        job = replace(job, notes=(*job.notes, said))
        found = {k: _explained(job, source, picture, k, _label(k, source)) for k in order[:MOST_CLASSES]}
    drawn = {class_name(k, source.labels): found[k] for k in order[:MOST_CLASSES]}
    if not many:
        console.print()
        cli_show.classes_table(console, list(found.items()), answer, source.labels)
        for each in found[order[0]].notes:
            cli_show.note(console, f"note: {each}")
    return Done(picture, answer, drawn, _files(job, found[order[0]], picture))


def _named(result: Attribution, index: int, source: Source) -> Attribution:
    name = _label(index, source)
    settings = {**result.settings, "target": f"logit of class {index}"}
    return replace(result, settings={**settings, **({"target_name": name} if name else {})})


def _label(index: int, source: Source) -> str | None:
    return None if source.labels is None else class_name(index, source.labels)


def _developed(
    job: Job, source: Source, picture: Picture, answer: Prediction, console: Console, many: bool
) -> Done:
    """Explain one target at every checkpoint: the one that is meant, or chosen, at the last."""
    from whence import view

    target, words = cli_work.fitted_target(job.target, source, answer)
    results: dict[str, Attribution] = {}
    for path, label in zip(job.weights, _short_names(job.weights), strict=True):
        now = job.request.load(path)
        said = cli_work.answer_of(now, picture, job.accuracy)
        result = _explained(job, now, picture, target, words)
        top = said.top(now.labels, 1)
        seen = {"prediction": top[0][1], "probability": round(top[0][2], 4)} if top else {}
        results[label] = replace(result, settings={**result.settings, **seen, "weights": str(path)})
    if not many:
        console.print()
        cli_show.checkpoints_table(console, list(results.items()))
        for each in dict.fromkeys(note for result in results.values() for note in result.notes):
            cli_show.note(console, f"note: {each}")
    drawn = job.path(picture.stem, "development.png")
    with write_atomically(drawn) as handle:
        handle.write(view.png(view.development_figure(list(results.items()))))
    files = {"picture": drawn}
    if job.save:
        for label, result in results.items():
            files[f"saved {label}"] = result.save(job.path(picture.stem, f"{job.name}.{label}.npz"))
    return Done(picture, answer, results, files)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the files' stems, or so much more of the paths that they differ."""
    for parts in range(1, 20):
        names = ["-".join((*path.parts[-parts:-1], path.stem)) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.stem}-{number + 1}" for number, path in enumerate(paths)]


def _explained(job: Job, source: Source, picture: Picture, target: Any, words: str | None) -> Attribution:
    method = cli_work.with_baseline(job.method, source, picture, job.question)
    shown = cli_work.shows_progress(job.answer) and len(job.files) == 1
    try:
        return cli_work.explained(
            source, picture, method, target, words, at=job.question.at, accuracy=job.accuracy, notes=job.notes,
            progress=shown,
        )  # fmt: skip
    except Interrupted as stop:
        job.stopped.append(picture.stem)
        return stop.partial


def _files(job: Job, result: Attribution, picture: Picture) -> dict[str, Path]:
    drawn = cli_work.write_overlay(result, picture, job.path(picture.stem, f"{job.name}.png"))
    saved = {"numbers": result.save(job.path(picture.stem, f"{job.name}.npz"))} if job.save else {}
    return {"overlay": drawn, **saved}


# ---- all pictures ------------------------------------------------------------------------------------------


def _report(job: Job, source: Source, done: Sequence[Done]) -> Path:
    from whence import report

    single = len(done) == 1
    names = [
        (name if single else f"{each.picture.stem}: {name}", result)
        for each in done
        for name, result in each.results.items()
    ]
    # One method on each of several pictures is one line of the summary; otherwise names must differ.
    plain = all(list(each.results) == [job.name] for each in done)
    results = [result for _, result in names] if plain else dict(names)
    predictions = cli_work.in_report([(each.prediction, source) for each in done])
    return report.write(
        results, job.answer.folder / "report.html", labels=source.labels, predictions=predictions
    )


def _print_files(console: Console, done: Done) -> None:
    console.print()
    for what, path in done.files.items():
        cli_show.file_line(console, what, path)


def _print_lines(console: Console, done: Sequence[Done], source: Source) -> None:
    """Print one line for each of many pictures."""
    from rich.padding import Padding
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("picture", overflow="fold")
    table.add_column("answer", overflow="fold")
    for name in ("probability", "output", "error", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in done:
        top = each.prediction.top(source.labels, 1)
        result = next(iter(each.results.values()))
        output, cost = (cli_work.number_at(values) for values in (result.output, result.evaluations))
        table.add_row(
            each.picture.path.name, top[0][1] if top else "—", cli_show.probable(top[0][2]) if top else "—",
            f"{float(output):.4g}", cli_show.error_text(result), "—" if cost is None else f"{int(cost):,}",
        )  # fmt: skip
    console.print(Padding(table, (0, 0, 1, 2)))
    notes = [(note, each) for each in done for result in each.results.values() for note in result.notes]
    for text in dict.fromkeys(note for note, _ in notes):
        count = len({each.picture.stem for note, each in notes if note == text})
        cli_show.note(console, f"note ({count} of {len(done)} pictures): {text}")
    folder = next(iter(done[0].files.values())).parent
    cli_show.file_line(console, f"{len(done)} overlays", folder)


def _record(done: Done, source: Source) -> dict[str, Any]:
    height, width = done.picture.original.shape[:2]
    results = [
        {"name": name, **cli_show.record(each, source.labels), **cli_units.record(each)}
        for name, each in done.results.items()
    ]
    return {
        "input": str(done.picture.path),
        "width": width,
        "height": height,
        "prediction": cli_show.answer_record(done.prediction, source.labels),
        "results": results,
        "files": {what: str(path) for what, path in done.files.items()},
    }
