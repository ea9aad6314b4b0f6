"""What the commands share: pictures and backgrounds, one explanation and its files, and a place for them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whence import cli_parse, registry, units
from whence.attribution import Attribution, to_numpy
from whence.caption import baseline_text
from whence.cli_options import COMMAND
from whence.cli_picture import Picture, background, baseline
from whence.cli_predict import Prediction, class_name, predict
from whence.errors import BadInput
from whence.explainer import explain
from whence.files import write_atomically
from whence.loading import Request, Source
from whence.question import check_options
from whence.site import Site, layer, parameters

if TYPE_CHECKING:
    from whence.cli_options import AccuracyFlags, AnswerFlags, ModelFlags, QuestionFlags

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
    check_options("error", accuracy.chunk, accuracy.seed)
    return {**found, **({"baseline": 0.0} if baselines else {})}


def with_baseline(
    method: registry.Method, source: Source, picture: Picture, question: QuestionFlags
) -> registry.Method:
    """Return the method with the baseline that was asked for, or with a background where it needs one.

    Raises:
        Refused: it needs a background and there is none.
    """
    if question.baseline and hasattr(method, "baseline"):
        parts = [baseline(each, picture) for each in question.baseline]
        return registry.build(method, {"baseline": parts if len(parts) > 1 else parts[0]})
    record = registry.methods().get(registry.name_of(method))
    if record is not None and "background" in record.needs:
        return registry.build(method, {"baseline": background(source, picture, question)})
    return method


def fitted_target(asked: cli_parse.Asked, source: Source, prediction: Prediction) -> tuple[Any, str | None]:
    """Return the target for one picture, with the classes that it leaves open filled in, and their names."""
    target: Any = cli_parse.fit(asked, source.labels)
    if asked.kind in ("neuron", "dense", "all") or prediction.classes is None:
        return target, None
    named: Any = None if target is None or isinstance(target, int) else target
    order = [int(k) for k in np.argsort(-prediction.output, kind="stable")]
    index = target if named is None else named.index
    first = order[0] if index is None else int(index)
    if not -len(order) <= first < len(order):
        return target, None
    first %= len(order)
    name = class_name(first, source.labels) if source.labels else None
    if named is None:
        return first, name
    if asked.kind != "margin":
        return replace(named, index=first), name
    other = next(k for k in order if k != first) if named.other is None else int(named.other)
    if name is not None:
        name = f"{name} rather than {class_name(other % len(order), source.labels)}"
    return replace(named, index=first, other=other), name


def site(text: str | None) -> Site | None:
    """Return what --at names: a layer, some of its channels, one of its calls, its input, or a parameter.

    Raises:
        BadInput: it is none of these.
    """
    if text is None:
        return None
    kind, colon, name = text.partition(":")
    if colon and kind in ("parameters", "parameter") and name:
        return parameters(name)
    inside = kind == "input" and bool(colon)
    match = re.fullmatch(r"([^\[\]@:]+)(?:\[(\d+(?:,\d+)*)\])?(?:@(\d+))?", name if inside else text)
    if match is None:
        raise BadInput(
            f"--at {text}: write a layer's name such as features.3, features.3[0,4] (some channels), features.3@1 (its "
            "second call), input:features.3 (what it takes in), or parameters:features.3.weight"
        )
    channels = None if match[2] is None else [int(each) for each in match[2].split(",")]
    return layer(match[1], channels, inside, int(match[3] or 0))


# ---- one explanation ---------------------------------------------------------------------------------------


def explained(
    source: Source, picture: Picture, method: registry.Method, target: Any, words: str | None, *,
    at: str | None, accuracy: AccuracyFlags, notes: Sequence[str] = (), progress: bool = False,
) -> Attribution:  # fmt: skip
    """Explain one picture; the result knows the command, the file, the model's name and the target's words."""
    with source.blamed():
        result = explain(
            source.model, picture.given, method, target, site(at), preprocess=source.preprocess, seed=accuracy.seed,
            chunk=accuracy.chunk, progress=progress,
        )  # fmt: skip
    start = None if result.baseline_output is None else baseline_text(method)
    if start is not None and units.of_parameters(result) and getattr(method, "baseline", None) is None:
        start = "all these weights at 0"
    own = {"model": source.name, "input": picture.path.name, "target_name": words, "command": COMMAND.get()}
    own["baseline"] = start
    settings = {**result.settings, **{key: value for key, value in own.items() if value is not None}}
    every = [*picture.notes, *(note for note in notes if note), *result.notes]
    return replace(result, settings=settings, notes=every)


def answer_of(source: Source, picture: Picture, accuracy: AccuracyFlags) -> Prediction:
    """Return what the model says to a picture."""
    return predict(source, picture.given, accuracy.seed)


def write_overlay(result: Attribution, picture: Picture, path: Path) -> Path:
    """Write the map laid over the original picture, with what it shows (or bars, where there is no map to lay)."""
    from whence import view
    from whence.strip import captioned_overlay

    laid = not units.of_parameters(result) and result.heatmap()[0].ndim == 2
    drawn = view.png(captioned_overlay(result, picture.original) if laid else result.plot())
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
def status(shown: bool) -> Generator[Any]:
    """Yield a function that says on stderr what is being done; a line that goes away."""
    from rich.console import Console

    if not shown or not sys.stderr.isatty():
        yield lambda text: None
        return
    with Console(stderr=True).status("starting") as line:
        yield lambda text: line.update(str(text).replace("[", "\\["))
