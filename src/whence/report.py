"""One self-contained HTML file: the inputs, every method's map, and how far to trust each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from whence import view
from whence.attribution import Attribution, to_numpy
from whence.caption import NOT_PROMISED, at_row, number, percent, target_text, written
from whence.errors import BadInput
from whence.files import write_atomically
from whence.report_cards import Card, card_of
from whence.report_pictures import Image, input_image, legends

MOST_EXAMPLES = 50


@dataclass(frozen=True)
class Share:
    """A class and its probability, as a bar of `width` percent."""

    label: str
    text: str
    width: float


@dataclass(frozen=True)
class Example:
    """One input with what the network answered, and the cards of the methods."""

    anchor: str
    heading: str
    answer: str
    target: str
    picture: Image | None
    bars: list[Share]
    cards: list[Card]


@dataclass(frozen=True)
class Line:
    """A method in the table at the top."""

    name: str
    anchor: str
    evaluations: str
    residual: str
    error: str
    converged: str
    seconds: str


# ---- the page ----------------------------------------------------------------------------------------------


def write(
    results: Sequence[Attribution] | Mapping[str, Attribution],
    path: str | Path,
    *,
    title: str | None = None,
    labels: Sequence[str] | None = None,
    predictions: Any = None,
    introduction: str | None = None,
    skipped: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of one or more results and return its path.

    Args:
        results: the results, by the names they are to carry (default: their methods). Rows with the same
            picture (without pictures: the same row) are shown as one example.
        path: the HTML file.
        title: the page's title.
        labels: the class names.
        predictions: what the network answered for each example, in the order of first appearance:
            probabilities [B, K], or for each example (label, probability) pairs.
        introduction: a text to stand at the top; an empty line starts a paragraph.
        skipped: methods that were not run, and why.

    Raises:
        BadInput: there is no result, the predictions do not fit, a map is not finite, or `path` cannot be
            written.
    """
    pairs = results.items() if isinstance(results, Mapping) else [(each.method, each) for each in results]
    named = [(written(name), result) for name, result in pairs]
    if not named:
        raise BadInput("report: there are no results to show")
    groups = _group(named)
    bars = _bars(predictions, labels, len(groups))
    examples = [
        _example(place, group, bars[place], labels) for place, group in enumerate(groups[:MOST_EXAMPLES])
    ]
    summary = _summary(named, groups[:MOST_EXAMPLES], examples)
    page = _template().render(
        title=title or _title(examples),
        lead=_lead(named, examples),
        introduction=[part.strip() for part in (introduction or "").split("\n\n") if part.strip()],
        examples=examples,
        left_out=f"The first {MOST_EXAMPLES} of {len(groups)} are shown."
        if len(groups) > MOST_EXAMPLES
        else "",
        summary=summary,
        timed=any(line.seconds != "—" for line in summary),
        skipped=[(written(name), reason) for name, reason in (skipped or {}).items()],
        pictured=any(example.picture for example in examples),
        mapped=any(image.bar for example in examples for card in example.cards for image in card.images),
        legends=legends(),
        percentile=f"{view.PERCENTILE:g}",
        not_promised=NOT_PROMISED,
        versions=_versions(result for _, result in named),
    )
    with write_atomically(path) as handle:
        handle.write(page.encode())
    return Path(path)


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.jinja")


def _title(examples: Sequence[Example]) -> str:
    if len(examples) > 1:
        return f"Where {len(examples)} answers of a neural network came from"
    name = examples[0].bars[0].label if examples[0].bars else examples[0].target
    return f"Where the answer “{name}” came from"


def _lead(named: Sequence[tuple[str, Attribution]], examples: Sequence[Example]) -> str:
    models = sorted({str(result.settings["model"]) for _, result in named if result.settings.get("model")})
    network = f"A neural network ({models[0]})" if len(models) == 1 else "A neural network"
    thing = "picture" if examples[0].picture else "input"
    methods = len({result.method for _, result in named})
    how = "one attribution method" if methods == 1 else f"{methods} attribution methods"
    if len(examples) > 1:
        given, parts = f"{len(examples)} {thing}s", f"of each {thing} its answer"
    else:
        bars = examples[0].bars
        given = f"one {thing}{f' and answered “{bars[0].label}” ({bars[0].text})' if bars else ''}"
        parts = f"of the {thing} that answer"
    return (
        f"{network} was given {given}. This page shows, by {how}, which parts {parts} came from, "
        "and how accurate each map is."
    )


def _versions(results: Iterable[Attribution]) -> list[str]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for result in results:
        found |= {str(name): str(text) for name, text in (result.settings.get("versions") or {}).items()}
    own = found.pop("whence", "")
    try:
        own = own or version("whence")
    except PackageNotFoundError:
        # Run from a checkout that was never installed.
        own = "(not installed)"
    return [f"whence {own}", *(f"{name} {text}" for name, text in sorted(found.items()))]


# ---- from results to examples ------------------------------------------------------------------------------


def _group(named: Sequence[tuple[str, Attribution]]) -> list[list[tuple[str, Attribution]]]:
    """Return, for each example, the named results on it, each cut down to that example."""
    groups: dict[Any, list[tuple[str, Attribution]]] = {}
    named_so: Counter[Any] = Counter()
    for name, result in named:
        seen: Counter[Any] = Counter()
        for row in range(len(to_numpy(result.output))):
            single = _single(result, row)
            key: Any = (single.settings.get("input"), row)
            if single.picture is not None:
                key = hashlib.sha256(repr(single.picture.shape).encode() + single.picture.tobytes()).digest()
                # Two equal pictures in one batch, or in two files, are two examples.
                seen[key] += 1
                key = (key, seen[key], single.settings.get("input"))
            named_so[key, name] += 1
            again = named_so[key, name]
            groups.setdefault(key, []).append((f"{name} ({again})" if again > 1 else name, single))
    return list(groups.values())


def _single(result: Attribution, row: int) -> Attribution:
    """Return one example's result for one class, its settings those of the example."""
    single = result.example(row)
    settings = dict(result.settings)
    for key in ("target_name", "input"):
        if isinstance(settings.get(key), (list, tuple)):
            settings[key] = settings[key][row] if row < len(settings[key]) else None
    single = replace(single, settings=settings)
    if not single.every_class:
        return single
    outputs = to_numpy(single.output)[0]
    note = f"all {len(outputs)} classes were explained; the highest is shown"
    return replace(single.for_class(int(np.argmax(outputs))), notes=[*single.notes, note])


def _bars(predictions: Any, labels: Sequence[str] | None, examples: int) -> list[list[Share]]:
    """Return each example's five most probable classes."""
    if predictions is None:
        return [[] for _ in range(examples)]
    given = list(predictions)
    if len(given) != examples:
        raise BadInput(f"report: {len(given)} predictions for {examples} examples")
    shares: list[list[Share]] = []
    for each in given:
        pairs = _pairs(each, labels)
        if not all(np.isfinite(probability) and -1e-6 <= probability <= 1 + 1e-4 for _, probability in pairs):
            raise BadInput("report: predictions are probabilities, from 0 to 1")
        top = sorted(pairs, key=lambda pair: -pair[1])[:5]
        shares.append(
            [Share(label, f"{100 * p:.1f} %", round(100 * min(max(p, 0.0), 1.0), 1)) for label, p in top]
        )
    return shares


def _pairs(prediction: Any, labels: Sequence[str] | None) -> list[tuple[str, float]]:
    if isinstance(prediction, (list, tuple)) and all(isinstance(each, (list, tuple)) for each in prediction):
        return [(str(label), float(probability)) for label, probability in prediction]
    row = to_numpy(prediction).astype(np.float64)
    if row.ndim != 1 or (labels is not None and len(labels) != len(row)):
        known = "" if labels is None else f" for {len(labels)} labels"
        raise BadInput(
            f"report: predictions are [B, classes] or (label, probability) pairs; got {row.shape}{known}"
        )
    names = labels if labels is not None else [f"class {index}" for index in range(len(row))]
    return [(str(name), float(probability)) for name, probability in zip(names, row, strict=True)]


def _example(
    place: int, group: Sequence[tuple[str, Attribution]], bars: list[Share], labels: Sequence[str] | None
) -> Example:
    anchor = f"example-{place + 1}"
    first = group[0][1]
    name = first.settings.get("input")
    pictures = [result.picture[0] for _, result in group if result.picture is not None]
    targets = dict.fromkeys(target_text(result, 0, labels) for _, result in group)
    answer = f"{bars[0].label} ({bars[0].text})" if bars else ""
    return Example(
        anchor=anchor,
        heading=f"Example {place + 1}{f': {name}' if name else ''}",
        answer=answer,
        target="; ".join(targets),
        picture=input_image(pictures[0], name) if pictures else None,
        bars=bars,
        cards=[card_of(f"{anchor}-{i + 1}", each, result, labels) for i, (each, result) in enumerate(group)],
    )


def _summary(
    named: Sequence[tuple[str, Attribution]],
    groups: Sequence[Sequence[tuple[str, Attribution]]],
    examples: Sequence[Example],
) -> list[Line]:
    seconds: dict[str, float] = {}
    for name, result in named:
        if result.settings.get("seconds") is not None:
            seconds[name] = seconds.get(name, 0.0) + float(result.settings["seconds"])
    found: dict[str, list[tuple[Attribution, Card]]] = {}
    for group, example in zip(groups, examples, strict=True):
        for (name, result), card in zip(group, example.cards, strict=True):
            found.setdefault(name, []).append((result, card))
    return [
        _line([each for each, _ in parts], parts[0][1], seconds.get(name)) for name, parts in found.items()
    ]


def _line(results: Sequence[Attribution], card: Card, seconds: float | None) -> Line:
    def column(name: str) -> list[Any]:
        entries = (at_row(getattr(result, name), 0) for result in results)
        return [entry for entry in entries if entry is not None]

    evaluations, residuals, errors, converged = map(column, ("evaluations", "residual", "error", "converged"))
    residual = residuals[0] if len(residuals) == 1 else max(map(abs, residuals), default=None)
    return Line(
        name=card.name,
        anchor=card.anchor,
        evaluations=f"{np.mean(evaluations):,.0f}" if evaluations else "—",
        residual="—" if residual is None else number(residual),
        error=percent(max(errors)) if errors else "—",
        converged=("yes" if all(converged) else "no") if converged else "—",
        seconds="—" if seconds is None else number(seconds),
    )
