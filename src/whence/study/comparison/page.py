"""The comparison as one self-contained HTML file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whence import registry, view
from whence.caption import short_number, titled
from whence.files import write_atomically
from whence.metrics import control
from whence.metrics.metric import FAMILIES, Record
from whence.study.comparison import figures, findings, tiles
from whence.study.comparison.results import Comparison
from whence.study.comparison.setup import metric_title
from whence.study.pages import style, template

AGAINST_COST = ("insertion", "max_sensitivity")
"""The metrics that are drawn against what methods cost."""


@dataclass(frozen=True)
class Cell:
    """A cell of the metric table: its text, how it is shaded (0 worst to 4 best, −1 not at all), and its marks.

    `best`: near the best; `random`: no better than random maps.
    """

    text: str
    error: str
    shade: int
    best: bool = False
    random: bool = False


def write(found: Comparison, path: Path, command: str) -> Path:
    """Write the page and return its path."""
    from markupsafe import Markup

    page = template("study_comparison.html.jinja").render(
        style=Markup(style()),
        metric_title=metric_title,
        study=found,
        heading=_heading(found),
        sentences=findings.sentences(found),
        networks=[_network(found, each) for each in found.setup.networks],
        metrics=[_told(found, each) for each in found.measured],
        budgets=_budgets(found),
        settings=_settings(found),
        left_out=_grouped(found.left_out()),
        failures=found.failures(),
        versions=_versions(found),
        command=command,
    )
    with write_atomically(path) as handle:
        handle.write(page.encode())
    return path


def _heading(found: Comparison) -> str:
    methods = {name for network in found.setup.networks for name in found.methods(network)} - {control.NAME}
    what = {"mnist": "MNIST's digits", "digits": "handwritten digits"}.get(
        found.setup.data, found.pictures.name
    )
    return f"{len(methods)} explanation methods on {what}"


def _network(found: Comparison, network: str) -> dict[str, Any]:
    digits, mosaic = tiles.mosaic(found, network)
    confusion = found.confusion(network)
    labels = found.labels(network)
    return {
        "name": network,
        "accuracy": found.cell(network, "", "accuracy"),
        "digits": digits,
        "mosaic": mosaic,
        "table": _table(found, network),
        "characters": [(titled(each.method), each) for each in findings.characters(found, network)],
        "agreement": _image(figures.agreement(found, network)),
        "costs": [
            image for metric in AGAINST_COST if (image := _image(figures.costs(found, network, metric)))
        ],
        "mean": tiles.global_maps(found, network, "mean"),
        "absolute": tiles.global_maps(found, network, "absolute"),
        "labels": labels[:10],
        "confusions": tiles.confusions(found, network),
        "wrong": None if confusion is None else (confusion.told["wrong"], confusion.told["of"]),
        "matrix": None if confusion is None or len(labels) > 12 else confusion.arrays["matrix"].tolist(),
        "boundary": tiles.boundary(found, network),
        "boundary_classes": tiles.boundary_classes(found, network),
        "distance": found.cell(network, "", "distance to the decision boundary"),
        "boundary_count": _found_count(found, network),
    }


def _found_count(found: Comparison, network: str) -> int:
    values = found.boundary(network)
    return 0 if values is None else len(values["distance"])


def _table(found: Comparison, network: str) -> dict[str, Any]:
    """Return the metric table: methods down, metrics across in families, costs last."""
    records = found.measured
    places = {each.name: findings.standing(found, network, each) for each in records}
    best = {each.name: findings.near_best(found, network, each) for each in records}
    poor = {each.name: findings.no_better(found, network, each) for each in records}
    rows: list[tuple[str, list[Cell]]] = []
    for name in found.methods(network):
        cells = [
            _cell(
                found,
                network,
                name,
                each,
                places[each.name],
                name in best[each.name],
                name in poor[each.name],
            )
            for each in records
        ]
        for cost in ("evaluations", "milliseconds"):
            row = found.cell(network, name, cost)
            cells.append(Cell("—" if row is None else short_number(row.value), "", -1))
        rows.append((titled(name), cells))
    spans = [(family, sum(each.family == family for each in records)) for family in FAMILIES]
    return {"families": [each for each in spans if each[1]], "columns": records, "rows": rows}


def _cell(
    found: Comparison,
    network: str,
    name: str,
    record: Record,
    places: dict[str, float],
    best: bool,
    random: bool,
) -> Cell:
    row = found.cell(network, name, record.name)
    if row is None or not np.isfinite(row.value):
        return Cell("—", "", -1)
    shade = min(4, int(5 * places[name])) if name in places else -1
    error = "" if not np.isfinite(row.standard_error) else f"± {short_number(row.standard_error, 1)}"
    return Cell(short_number(row.value), error, shade, best, random)


def _told(found: Comparison, record: Record) -> dict[str, Any]:
    """Return a metric for the reader: what it asks, its equation, source, settings and how many pictures it got."""
    cells = [row for row in found.rows if row.measure == record.name]
    parts = [
        part.told["metric"]
        for job_key in (f"metric/{row.network}/{row.method}/{record.name}" for row in cells[:1])
        if (part := found.store.read(job_key))
    ]
    counts = sorted({row.count for row in cells})
    return {
        "record": record,
        "settings": parts[0] if parts else "—",
        "count": " to ".join(f"{each:,}" for each in dict.fromkeys((counts[0], counts[-1])))
        if counts
        else "0",
    }


def _budgets(found: Comparison) -> list[tuple[str, str]]:
    budgets, there = found.setup.budgets, len(found.pictures.labels)

    def few(count: int) -> str:
        return f"{min(count, there):,}"

    return [
        ("Accuracy and confusions", f"{there:,} pictures"),
        (
            "Explanations that are judged, and the metrics that ask the model alone",
            f"{few(budgets.metrics)} pictures",
        ),
        ("Metrics that explain again, or another network", f"{few(budgets.again)} pictures"),
        (
            f"Mean maps of methods of up to {budgets.cheap} evaluations a picture",
            f"{few(budgets.whole)} pictures",
        ),
        ("Mean maps of the dearer methods", f"{few(budgets.dear)} pictures"),
        ("Nearest decision boundaries", f"{few(budgets.boundary)} pictures"),
    ]


def _settings(found: Comparison) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    for name in (each for each in (*registry.methods(), control.NAME) if each in found.setup.everyone):
        for each in found.setup.networks:
            part = found.explained(each, name)
            if not part.refused and not part.failed:
                told.append((titled(name), str(part.told["method"])))
                break
    return told


def _grouped(left_out: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Return each reason once, with all it is about."""
    reasons: dict[str, list[str]] = {}
    for network, name, reason in left_out:
        title, comma, metric = name.partition(", ")
        reasons.setdefault(reason, []).append(f"{titled(title)}{comma}{metric} ({network})")
    return [(", ".join(names), reason) for reason, names in reasons.items()]


def _versions(found: Comparison) -> list[str]:
    import json

    from whence.study.comparison.store import ASKED

    asked = json.loads((found.store.folder / ASKED).read_text(encoding="utf-8"))
    return [f"{name} {text}" for name, text in asked["versions"].items()]


def _image(drawn: Any) -> str:
    if drawn is None:
        return ""
    return f"data:image/png;base64,{base64.b64encode(view.png(drawn)).decode()}"
