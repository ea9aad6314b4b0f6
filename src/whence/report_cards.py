"""A report's cards: one method's result on one example, with all that says how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whence.attribution import Attribution
from whence.caption import numbers, several_text, target_text, written
from whence.registry import methods
from whence.report_pictures import Image, map_images, trace_image

# What a card shows elsewhere than in its line of settings.
SHOWN_ELSEWHERE = (
    "command", "code", "versions", "seconds", "target_name", "feature_names", "feature_values", "columns", "input",
)  # fmt: skip


@dataclass(frozen=True)
class Card:
    """One method's result on one example."""

    name: str
    anchor: str
    summary: str
    equation: str
    citation: str
    images: list[Image]
    numbers: list[tuple[str, str]]
    trace: str | None
    notes: list[str]
    settings: list[tuple[str, str]]
    code: str


def card_of(anchor: str, name: str, result: Attribution, labels: Sequence[str] | None) -> Card:
    """Return the card of a result of one example and one class."""
    record = methods().get(result.method)
    label = name if written(result.method) in name else f"{name} ({written(result.method)})"
    settings = {key: value for key, value in result.settings.items() if key not in SHOWN_ELSEWHERE}
    several = several_text(result)
    return Card(
        name=label,
        anchor=anchor,
        summary=record.summary if record else "",
        equation=record.equation if record else "",
        citation=record.citation if record else "",
        images=map_images(result, label),
        numbers=[("target", target_text(result, 0, labels)), *numbers(result, 0).items()],
        trace=None if result.trace is None else trace_image(result.trace),
        notes=[*map(str, result.notes), *([several] if several else [])],
        settings=[(str(key), str(value)) for key, value in settings.items() if value is not None],
        code="\n".join(str(result.settings[key]) for key in ("command", "code") if result.settings.get(key)),
    )
