"""`whence evaluate`: how good are the explanations of one picture, by the metrics that a single picture allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from whence import cli_compare, cli_parse, cli_picture, cli_show, cli_work, metrics, registry
from whence.attribution import Attribution
from whence.caption import short_number, titled
from whence.cli_picture import Picture
from whence.errors import BadInput, Refused, UnsupportedByBackend
from whence.expected_gradients import rows_or_baseline
from whence.files import write_atomically
from whence.loading import Source
from whence.metrics.control import NAME, RandomExplanation
from whence.metrics.metric import Record, registered
from whence.metrics.score import Score
from whence.naming import unknown

if TYPE_CHECKING:
    from whence.cli_options import AccuracyFlags, AnswerFlags, ModelFlags, QuestionFlags

SEVERAL: Final = ("sufficiency",)
"""Metrics that compare pictures with one another: they say nothing of one."""
LONG: Final = ("mprt", "smooth_mprt", "average_sensitivity", "local_lipschitz", "relative_input_stability",
               "relative_output_stability")  # fmt: skip
"""Metrics that explain many times over: asked by name, or where there is time."""
CURVES: Final = ("deletion", "insertion")
SUMS: Final = ("completeness_residual", "completeness")
"""Metrics of a sum that not every method promises: each counts from what it tells itself."""
TITLES, COLUMN = 27, 13
"""Characters in a row of the table for people: for the metrics' titles, and for each method."""
ELSEWHERE: Final = {"other": "a second network", "pairs": "told pairs of inputs that are exchangeable"}
"""What metrics need and one picture with one model does not give."""


@dataclass(frozen=True)
class Judgement:
    """The scores of one picture's explanations, by method and metric; why some are missing, by metric and method."""

    scores: dict[str, dict[str, Score]]
    missing: dict[str, dict[str, str]]


def chosen(names: Sequence[str] | None, masked: bool) -> list[Record]:
    """Return the metrics of these names, or those that one picture allows and that do not take long.

    Raises:
        BadInput: a name is unknown, or its metric needs what is not there.
    """
    records = registered()
    if names is None:
        fits = (each for each in records.values() if each.family != "axioms" or each.name == "completeness")
        return [
            each for each in fits
            if each.name not in (*SEVERAL, *LONG, "completeness") and (masked or "mask" not in each.needs)
        ]  # fmt: skip
    found: list[Record] = []
    for name in names:
        if name not in records:
            raise BadInput(unknown("metric", name, records))
        if "mask" in records[name].needs and not masked:
            raise BadInput(f"{name} compares with the right place: give a picture of it, --mask FILE")
        if name in SEVERAL:
            raise BadInput(f"{name} compares pictures with one another; it is part of whence study my")
        for need in records[name].needs:
            if need in ELSEWHERE:
                cls = records[name].cls.__name__
                raise BadInput(f"{name} needs {ELSEWHERE[need]}: call whence.metrics.{cls} from Python")
        found.append(records[name])
    return found


def run(
    image: Path, names: Sequence[str], wanted: Sequence[str] | None, mask: Path | None, model: ModelFlags,
    question: QuestionFlags, accuracy: AccuracyFlags, answer: AnswerFlags, console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Judge, print for a person, return the same for a program."""
    contestants = cli_compare.contestants(names, question, accuracy)
    records = chosen(wanted, mask is not None)
    asked = cli_parse.ask(question.target)
    if asked.kind == "all" or len(model.weights) > 1 or question.at is not None:
        what = (
            "--target all"
            if asked.kind == "all"
            else "--at"
            if question.at is not None
            else "several --weights"
        )
        raise BadInput(
            f"evaluate: {what} goes with whence explain; judge explanations of one output by the pixels"
        )
    cli_parse.check_baselines(question.baseline)
    request = cli_work.request(model)
    files = cli_picture.picture_files([image])
    if len(files) > 1:
        raise BadInput(
            f"{image} holds {len(files)} pictures; judge the explanations of one, or take whence study my"
        )
    place = None if mask is None else read_mask(mask, cli_picture.read_picture(*files[0], None))
    cli_work.check_out(answer.folder)
    source = request.load(model.weights[0] if model.weights else None)
    picture = cli_picture.read_picture(*files[0], source.channels)
    prediction = cli_work.answer_of(source, picture, accuracy)
    cli_show.heading(console, picture, source.name)
    cli_show.prediction(console, prediction, source.labels)
    target, words = cli_work.fitted_target(asked, source, prediction)
    shown = cli_work.shows_progress(answer)
    results, skipped = cli_compare.tour(
        source, picture, contestants, target, words, question, accuracy, shown=shown
    )
    ready = {
        name: cli_work.with_baseline(contestants.methods[name], source, picture, question) for name in results
    }
    found = _judged(source, picture, results, ready, records, target, place, accuracy, shown)
    _print(console, found, records, skipped)
    path = _drawn(found, results, picture, answer.folder / f"{picture.stem}.evaluation.png")
    console.print()
    if path is not None:
        cli_show.file_line(console, "picture", path)
    return {
        "model": source.name,
        "input": str(picture.path),
        "prediction": cli_show.answer_record(prediction, source.labels),
        "metrics": [_described(each) for each in records],
        "scores": {
            name: {metric: _record(score) for metric, score in each.items()}
            for name, each in found.scores.items()
        },
        "missing": found.missing,
        "skipped": skipped,
        "files": {} if path is None else {"picture": str(path)},
    }


def read_mask(path: Path, picture: Picture) -> np.ndarray:
    """Return where the right place is [1, height, width], from a picture that is not black there."""
    from whence import data

    drawn = data.to_channels(data.read_image(path), 1)[..., 0]
    wanted = picture.given.shape[1:3]
    if drawn.shape != picture.original.shape[:2] and drawn.shape != wanted:
        raise BadInput(
            f"--mask {path} has {drawn.shape[1]} × {drawn.shape[0]} pixels and the picture "
            f"{picture.original.shape[1]} × {picture.original.shape[0]}; draw it over the picture"
        )
    if drawn.shape != wanted:
        drawn = cli_picture.resized(drawn[..., None], wanted)[..., 0]
    return (drawn > 127)[None]


def _judged(
    source: Source, picture: Picture, results: dict[str, Attribution], ready: dict[str, Any],
    records: Sequence[Record], target: Any, mask: np.ndarray | None, accuracy: AccuracyFlags, shown: bool,
) -> Judgement:  # fmt: skip
    """Ask every metric of every method, and of the control."""
    everyone: dict[str, tuple[Attribution | None, Any]] = {
        name: (result, ready[name]) for name, result in results.items()
    }
    everyone[NAME] = (None, RandomExplanation(accuracy.seed))
    scores: dict[str, dict[str, Score]] = {name: {} for name in everyone}
    missing: dict[str, dict[str, str]] = {}
    options: dict[str, Any] = {
        "target": target, "mask": mask, "preprocess": source.preprocess, "seed": accuracy.seed, "chunk": accuracy.chunk,
    }  # fmt: skip
    with (
        cli_work.status(shown) as say,
        source.blamed(),
        metrics.judged(source.model, picture.given, method=everyone[NAME][1], **options) as question,
    ):
        for name, (result, method) in everyone.items():
            own = question.beside(result, method=method)
            for record in records:
                say(f"{record.title} of {name}")
                try:
                    metric = metrics.build(record.name, _fields(record.name, name, method))
                    scores[name][record.name] = metric.judge(own)
                except (Refused, UnsupportedByBackend) as problem:
                    missing.setdefault(record.name, {})[name] = str(problem)
    return Judgement(scores, missing)


def _fields(metric: str, name: str, method: Any) -> dict[str, Any]:
    """Return the settings with which a metric is asked of a method: what its numbers count from."""
    if metric == "infidelity":
        return {"baseline": _start(name, method)}
    return {"baseline": "own"} if metric in SUMS else {}


def _start(name: str, method: Any) -> Any:
    """Return the baseline that a method counts from; None where it has no such field."""
    given = getattr(method, "baseline", None)
    record = registry.methods().get(name)
    if record is None or "background" not in record.needs:
        return given
    return rows_or_baseline(given, pictures=True)


# ---- for people ----------------------------------------------------------------------------------------------


def _print(console: Console, found: Judgement, records: Sequence[Record], skipped: dict[str, str]) -> None:
    told = [each for each in records if any(each.name in scores for scores in found.scores.values())]
    for names in _fitting(list(found.scores), console.width):
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("metric", width=TITLES)
        for name in names:
            table.add_column(titled(name), justify="right", width=COLUMN - 2)
        for record in told:
            cells = [_cell(found.scores[name].get(record.name)) for name in names]
            table.add_row(f"{record.title} {record.arrow}", *cells)
        console.print()
        console.print(table)
    console.print()
    cli_show.note(
        console,
        "↑: better where it is higher, ↓: lower; ±: the metric's own sampling error. The control is a map of random "
        "numbers: what an explanation has to beat. Each metric asks another question; whence.metrics says which.",
    )
    notes: dict[str, list[str]] = {}
    for each in found.scores.values():
        for name, score in each.items():
            for text in score.notes:
                notes.setdefault(text, []).append(name)
    for text, names in notes.items():
        cli_show.note(console, f"note: {text} ({', '.join(dict.fromkeys(names))})")
    for metric, reasons in found.missing.items():
        for reason in dict.fromkeys(reasons.values()):
            those = ", ".join(name for name, own in reasons.items() if own == reason)
            cli_show.note(console, f"left out: {metric} of {those}: {reason}")
    cli_show.left_out(console, skipped)


def _fitting(names: list[str], width: int) -> list[list[str]]:
    """Return the names in rows of about equal length, each of which fits beside the metrics' titles."""
    most = max(1, (width - TITLES - 2) // COLUMN)
    rows = -(-len(names) // most)
    size = -(-len(names) // rows)
    return [names[start : start + size] for start in range(0, len(names), size)]


def _cell(score: Score | None) -> str:
    if score is None or not score.count:
        return "—"
    error = score.standard_error
    sampled = error is not None and np.isfinite(error[0])
    return short_number(float(score.values[0])) + (
        f"\n± {short_number(float(error[0]), 1)}" if sampled and error is not None else ""
    )


def _drawn(found: Judgement, results: dict[str, Attribution], picture: Picture, path: Path) -> Path | None:
    """Draw the curves of removing and putting back, beside each other; None where neither was asked."""
    from matplotlib.figure import Figure

    from whence import view

    there = [each for each in CURVES if any(each in scores for scores in found.scores.values())]
    if not there:
        return None
    drawn = Figure(figsize=(5.4 * len(there), 4.4), layout="constrained")
    axes: Any = drawn.subplots(1, len(there), squeeze=False, sharey=True)
    words = {
        "deletion": "the most important pixels are removed",
        "insertion": "they are put into the blurred picture",
    }
    for panel, metric in zip(axes[0], there, strict=True):
        for name, scores in found.scores.items():
            score = scores.get(metric)
            if score is None or score.curve is None or score.places is None:
                continue
            style = {"color": "0.6", "linestyle": "--"} if name == NAME else {}
            label = f"{titled(name)}: area {score.values[0]:.2f}"
            panel.plot(100 * score.places, score.curve[0], label=label, **style)
        panel.set_title(f"{metric.capitalize()}: {words[metric]}", fontsize=10, loc="left")
        panel.set_xlabel("% of the pixels")
        panel.set_ylim(-0.03, 1.03)
        panel.grid(color="#ececf1", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False)
    axes[0][0].set_ylabel("probability of the explained class")
    with write_atomically(path) as handle:
        handle.write(view.png(drawn))
    return path


# ---- for programs --------------------------------------------------------------------------------------------


def _described(record: Record) -> dict[str, Any]:
    kept = ("name", "title", "family", "equation", "citation", "better", "needs")
    return {name: getattr(record, name) for name in kept}


def _record(score: Score) -> dict[str, Any]:
    return {
        "value": float(score.values[0]) if score.count else None,
        "standard_error": None if score.standard_error is None else float(score.standard_error[0]),
        "evaluations": None if score.evaluations is None else int(score.evaluations[0]),
        "notes": score.notes,
        "settings": score.settings,
    }
