"""What the commands share: pictures and backgrounds, one explanation and its files, and a place for them."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import UInt8

from whence import cli_parse, data, registry
from whence.attribution import Attribution, to_numpy
from whence.cli_options import COMMAND
from whence.errors import BadInput, Refused
from whence.files import write_atomically
from whence.loading import Prediction, Request, Source, class_name, predict
from whence.site import Layer, layer

if TYPE_CHECKING:
    from whence.cli_options import AccuracyFlags, AnswerFlags, ModelFlags, QuestionFlags

LARGEST: Final = 1024
"""Pixels of the longer side beyond which a picture is explained at a smaller size."""
MOST_ROWS: Final = 200
"""How many pictures of a background are used."""


# ---- pictures ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A picture file: as it is, and as it is explained.

    Attributes:
        path: the file.
        stem: its name without the ending, made unique among the pictures of a command.
        original: its pixels.
        given: its pixels in the size and with the channels that are explained, as a batch of one.
        notes: how the two differ.
    """

    path: Path
    stem: str
    original: UInt8[np.ndarray, "h w c"]
    given: UInt8[np.ndarray, "1 height width channels"]
    notes: tuple[str, ...] = ()


def picture_files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return the picture files that are named, or lie in folders that are, each with a stem of its own.

    Raises:
        BadInput: one is missing or damaged: found before the work begins.
    """
    files = data.image_files(paths)
    for file in files:
        data.read_image(file)
    stems: dict[str, int] = {}
    named: list[tuple[Path, str]] = []
    for file in files:
        stems[file.stem] = stems.get(file.stem, 0) + 1
        number = stems[file.stem]
        named.append((file, file.stem if number == 1 else f"{file.stem}-{number}"))
    return named


def read_picture(path: Path, stem: str, channels: int | None) -> Picture:
    """Return a picture, in the size and with the channels that are explained."""
    original = data.read_image(path)
    given, notes = original, list[str]()
    height, width = original.shape[:2]
    if max(height, width) > LARGEST:
        factor = LARGEST / max(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        given = resized(given, size)
        notes.append(
            f"the picture has {width} × {height} pixels; it was explained at {size[1]} × {size[0]}, "
            "and the overlay stretched back"
        )
    if channels is not None and channels != given.shape[2]:
        given = data.to_channels(given, channels)
        what = (
            "grey; its level was given to all three colours"
            if channels == 3
            else "in colour; it was turned to grey"
        )
        notes.append(
            f"the picture is {what}, as the model takes {channels} channel{'s' if channels > 1 else ''}"
        )
    return Picture(path, stem, original, given[None], tuple(notes))


def resized(image: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width c"]:
    """Return a picture at (height, width), averaging where it shrinks."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    drawn = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    height, width = size
    return np.array(drawn.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)


def background(source: Source, picture: Picture, question: QuestionFlags) -> UInt8[np.ndarray, "rows h w c"]:
    """Return rows that stand for ordinary inputs, shaped like the picture; nothing is ever downloaded.

    Raises:
        Refused: there are none; the message says how to give some.
    """
    height, width, channels = picture.given.shape[1:]
    if question.background is not None:
        files = data.image_files([question.background])
        images = [data.read_image(file) for file in _spread(files)]
    else:
        images = [image[..., None] for image in _spread(_training_images(source, question.data_dir))]
    return np.stack([resized(data.to_channels(image, channels), (height, width)) for image in images])


def _training_images(source: Source, data_dir: Path | None) -> UInt8[np.ndarray, "n h w"]:
    if source.data == "digits":
        return data.digits().train_images
    if source.data == "mnist":
        folder = data._data_folder(data_dir)
        if all(data._find(folder, file) is not None for file in data.MNIST_FILES):
            return data.mnist(folder, progress=False).train_images
        raise Refused(
            f"it compares with ordinary pictures, and MNIST is not in {folder}: give --data-dir or --background FOLDER"
        )
    raise Refused("it compares with ordinary pictures: give a folder of some with --background FOLDER")


def _spread(rows: Any) -> Any:
    """Return at most MOST_ROWS rows, evenly spread."""
    step = max(1, len(rows) // MOST_ROWS)
    return rows[::step][:MOST_ROWS]


# ---- from flags to the question ----------------------------------------------------------------------------


def request(flags: ModelFlags) -> Request:
    """Return what was said about the model, checked."""
    asked = Request(
        flags.model,
        cli_parse.pairs(flags.model_arg, "--model-arg"),
        flags.trust,
        flags.labels,
        cli_parse.size(flags.size, "--size"),
        cli_parse.size(flags.crop, "--crop"),
        cli_parse.numbers(flags.mean, "--mean"),
        cli_parse.numbers(flags.std, "--std"),
    )
    asked.check(flags.weights)
    return asked


def method_fields(accuracy: AccuracyFlags, baselines: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a method that flags of their own set; the baseline is read later."""
    given = {name: getattr(accuracy, name) for name in ("rtol", "steps", "samples")}
    found = {name: value for name, value in given.items() if value is not None}
    return {**found, **({"baseline": 0.0} if baselines else {})}


def with_baseline(
    method: registry.Method, source: Source, picture: Picture, question: QuestionFlags
) -> registry.Method:
    """Return the method with the baseline that was asked for, or with a background where it needs one.

    Raises:
        Refused: it needs a background and there is none.
    """
    if question.baseline and hasattr(method, "baseline"):
        parts = [_baseline(each, picture) for each in question.baseline]
        return registry.build(method, {"baseline": parts if len(parts) > 1 else parts[0]})
    record = registry.methods().get(registry.name_of(method))
    if record is not None and "background" in record.needs:
        return registry.build(method, {"baseline": background(source, picture, question)})
    return method


def _baseline(text: str, picture: Picture) -> Any:
    if not Path(text).is_file():
        return cli_parse.named_baseline(text)
    height, width, channels = picture.given.shape[1:]
    image = data.read_image(text)
    return resized(data.to_channels(image, channels), (height, width))[None]


def fitted_target(asked: cli_parse.Asked, source: Source, prediction: Prediction) -> tuple[Any, str | None]:
    """Return the target for one picture, with the classes that it leaves open filled in, and its words."""
    target: Any = cli_parse.fit(asked, source.labels)
    named: Any = None if isinstance(target, int) else target
    if asked.kind in ("neuron", "dense", "all") or prediction.classes is None:
        return target, None
    order = [int(k) for k in np.argsort(-prediction.output, kind="stable")]
    index = target if isinstance(target, int) else getattr(target, "index", None)
    first = order[0] if index is None else int(index)
    if not -len(order) <= first < len(order):
        return target, None
    first %= len(order)
    name = class_name(first, source.labels)
    if asked.kind in ("top", "class", "logit"):
        return first, name if source.labels else None
    if asked.kind == "margin":
        other = next(k for k in order if k != first) if named.other is None else int(named.other)
        words = f"{name} rather than {class_name(other % len(order), source.labels)}"
        return replace(named, index=first, other=other), words
    kind = {"loss": "loss for the label"}.get(asked.kind, asked.kind.replace("_", "-") + " of")
    return replace(named, index=first), f"{kind} {name}"


def site(name: str | None) -> Layer | None:
    """Return the layer that --at names."""
    return None if name is None else layer(name)


# ---- one explanation ---------------------------------------------------------------------------------------


def explained(
    source: Source, picture: Picture, method: registry.Method, target: Any, words: str | None, *,
    at: str | None, accuracy: AccuracyFlags, notes: Sequence[str] = (), progress: bool = False,
) -> Attribution:  # fmt: skip
    """Explain one picture; the result knows the command, the file, the model's name and the target's words."""
    from whence.explainer import explain

    with source.blamed():
        result = explain(
            source.model, picture.given, method, target, site(at), preprocess=source.preprocess, seed=accuracy.seed,
            chunk=accuracy.chunk, progress=progress,
        )  # fmt: skip
    own = {"model": source.name, "input": picture.path.name, "target_name": words, "command": COMMAND.get()}
    settings = {**result.settings, **{key: value for key, value in own.items() if value is not None}}
    every = [*picture.notes, *(note for note in notes if note), *result.notes]
    return replace(result, settings=settings, notes=every)


def answer_of(source: Source, picture: Picture, accuracy: AccuracyFlags) -> Prediction:
    """Return what the model says to a picture."""
    return predict(source, picture.given, accuracy.seed)


def write_overlay(result: Attribution, picture: Picture, path: Path) -> Path:
    """Write the map laid over the picture in its original size (or bars, where there is no map to lay)."""
    from whence import view

    single = result.heatmap()[0]
    drawn = view.png(view.overlay(picture.original, single) if single.ndim == 2 else result.plot())
    with write_atomically(path) as handle:
        handle.write(drawn)
    return path


def in_report(results: Sequence[tuple[Prediction, Source]]) -> Any:
    """Return predictions as a report takes them, or None where there are no classes."""
    pairs = [[(name, p) for _, name, p in prediction.top(source.labels)] for prediction, source in results]
    return pairs if pairs and all(pairs) else None


def number_at(values: Any) -> Any:
    """Return the first example's entry of a result's array, or None."""
    return None if values is None else to_numpy(values)[0]


# ---- where the answer goes ---------------------------------------------------------------------------------


def check_out(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before the work begins; leaves no trace.

    Raises:
        BadInput: it cannot be made or written to.
    """
    made: list[Path] = []
    try:
        for each in (*reversed(folder.absolute().parents), folder.absolute()):
            if not each.exists():
                each.mkdir()
                made.append(each)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        reason = os.strerror(problem.errno) if problem.errno else str(problem)
        raise BadInput(
            f"--out {folder}: cannot write there ({reason.lower()}); choose another folder"
        ) from None
    finally:
        for each in reversed(made):
            with contextlib.suppress(OSError):
                each.rmdir()


def shows_progress(answer: AnswerFlags) -> bool:
    """Return whether progress is shown on stderr."""
    return sys.stderr.isatty() if answer.progress is None else answer.progress


@contextlib.contextmanager
def status(shown: bool) -> Iterator[Any]:
    """Yield a function that says on stderr what is being done; a line that goes away."""
    from rich.console import Console

    if not shown or not sys.stderr.isatty():
        yield lambda text: None
        return
    with Console(stderr=True).status("starting") as line:
        yield lambda text: line.update(str(text).replace("[", "\\["))
