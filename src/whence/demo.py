"""The tour: every method on one real handwritten digit, and a report to look at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Console
from rich.text import Text

from whence import cli_compare, cli_parse, cli_show, cli_work, data, view
from whence.attribution import Attribution
from whence.caption import number
from whence.cli_picture import Picture
from whence.cli_predict import Prediction
from whence.errors import BadInput
from whence.files import write_atomically
from whence.loading import Request

if TYPE_CHECKING:
    from whence.cli_options import AnswerFlags

MODELS: Final = {"digits": "digits-cnn", "mnist": "mnist-cnn"}
# Digits of the test part that anybody reads at once, and the network only just: an 8 that could be a 3, a 9
# that could be a 4. It has never been trained on them.
INTERESTING: Final = {"digits": 242, "mnist": 2426}


def run(
    name: str, data_dir: Path | None, quick: bool, answer: AnswerFlags, console: Console
) -> dict[str, Any]:
    """Give the tour: print for a person, return the same for a program."""
    from whence.cli_options import AccuracyFlags, QuestionFlags

    if name not in MODELS:
        raise BadInput(f"--data {name}: it is digits (inside the install) or mnist (downloaded once, 11 MB)")
    cli_work.check_out(answer.folder)
    shown = cli_work.shows_progress(answer)
    dataset = data.digits() if name == "digits" else data.mnist(data_dir, progress=shown)
    source = Request(MODELS[name]).load()
    image = dataset.test_images[INTERESTING[name]][..., None]
    truth = int(dataset.test_labels[INTERESTING[name]])
    path = _write_digit(image, answer.folder / "digit.png")
    picture = Picture(path, "digit", image, image[None])
    question, accuracy = QuestionFlags(data_dir=data_dir), AccuracyFlags(quick=quick)
    prediction = cli_work.answer_of(source, picture, accuracy)
    target, words = cli_work.fitted_target(cli_parse.ask(None), source, prediction)
    _introduce(console, name, truth, prediction, source.labels)
    methods = cli_compare.contestants(None, question, accuracy)
    results, skipped = cli_compare.tour(
        source, picture, methods, target, words, question, accuracy, shown=shown
    )
    console.print()
    ink = {each: ink_share(result, image) for each, result in results.items()}
    told = {each: f"{100 * share:.0f} %" for each, share in ink.items()}
    cli_show.methods_table(console, results, told, "on the ink")
    covered = float((image > 0).mean())
    _explain_table(console, covered, results)
    cli_show.left_out(console, skipped)
    report = cli_compare.write_report(
        results, skipped, [(prediction, source)], answer.folder / "report.html",
        title=f"Where the answer “{truth}” came from: a tour",
        introduction=_introduction(name, truth, prediction, len(results)),
    )  # fmt: skip
    drawn = cli_compare.write_figure(results, answer.folder / "methods.png")
    _farewell(console, source.name, path, report, drawn, prediction)
    return {
        "model": source.name,
        "input": str(path),
        "truth": truth,
        "prediction": cli_show.answer_record(prediction, source.labels),
        "methods": {
            each: {**cli_show.record(result, source.labels), "on_the_ink": ink[each]}
            for each, result in results.items()
        },
        "ink": covered,
        "skipped": skipped,
        "files": {"picture": str(drawn), "digit": str(path)},
        "report": str(report),
    }


def ink_share(result: Attribution, image: np.ndarray) -> float:
    """Return how much of a map's strength Σ|A| lies on pixels that are not black."""
    strength = np.abs(result.heatmap()[0])
    return float(strength[image[..., 0] > 0].sum() / (strength.sum() or 1.0))


def _write_digit(image: np.ndarray, path: Path) -> Path:
    with write_atomically(path) as handle:
        handle.write(view.png(image))
    return path


def _introduce(
    console: Console, name: str, truth: int, answer: Prediction, labels: tuple[str, ...] | None
) -> None:
    origin = "scikit-learn's handwritten digits" if name == "digits" else "MNIST's test images"
    console.print(
        Text(f"{_article(truth).capitalize()} {truth} from {origin}; what a small network makes of it:")
    )
    cli_show.prediction(console, Prediction(answer.output, answer.probabilities), labels)


def _explain_table(console: Console, covered: float, results: dict[str, Attribution]) -> None:
    console.print()
    cli_show.note(
        console,
        f"on the ink: how much of the map's strength lies on the digit's strokes, which cover {100 * covered:.0f} % "
        f"of the picture. {cli_compare.COLUMNS}",
    )
    whole = results.get("integrated_gradients")
    if whole is None or whole.residual is None:
        return
    output, start, residual = (
        float(cli_work.number_at(getattr(whole, key))) for key in ("output", "baseline_output", "residual")
    )
    cli_show.note(
        console,
        f"The output for this digit is {number(output, 4)}, for a black picture {number(start, 4)}. Integrated "
        f"gradients hands out {number(output - start + residual, 4)} of the {number(output - start, 4)} between them.",
    )


def _farewell(
    console: Console, model: str, digit: Path, report: Path, drawn: Path, answer: Prediction
) -> None:
    first, second = (index for index, _, _ in answer.top(None, 2))
    console.print()
    cli_show.file_line(console, "report", report)
    cli_show.file_line(console, "all maps", drawn)
    command = "whence" if Path(sys.argv[0]).name == "whence" else "python -m whence"
    console.print()
    console.print("Next, try:")
    tries = (
        (
            f"explain {digit} --model {model} --target margin:{first},{second}",
            f"why {first} and not {second}?",
        ),
        (f"explain {digit} --model {model} --target all", "what speaks for each of the ten digits"),
        ("explain photo.jpg --model mobilenet-v2 --weights FILE", "a photograph of yours (see README)"),
    )
    for words, why in tries:
        console.print(Text(f"  {command} {words}", style="bold"), soft_wrap=True)
        console.print(Text(f"      {why}", style="dim"))


def _introduction(name: str, truth: int, answer: Prediction, count: int) -> str:
    origin = (
        "the 8 × 8 pixel digits that come with scikit-learn"
        if name == "digits"
        else "MNIST's test images of 28 × 28 pixels"
    )
    (first, _, sure), (second, _, less) = answer.top(None, 2)
    return (
        f"This is one of {origin}: somebody wrote {_article(truth)} {truth}. A small convolutional network, which "
        f"never saw this digit while it was trained, says {first} with {100 * sure:.0f} % and {second} with "
        f"{100 * less:.0f} %.\n\nBelow, {count} methods say which pixels that answer came from. They disagree, since "
        "each answers a question of its own: some ask how the answer would change with a pixel (saliency and its "
        "kin), others how much of the answer each pixel accounts for, counted from a black picture (integrated "
        "gradients and its kin). The latter can be checked: their shares must add up, and the page says how nearly "
        "they do."
    )


def _article(digit: int) -> str:
    return "an" if digit == 8 else "a"
