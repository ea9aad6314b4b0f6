"""The study as one self-contained HTML file, in the style of the reports."""

from __future__ import annotations

import base64
import shlex
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from whence import view
from whence.files import write_atomically
from whence.study.frameworks import choice, findings, mosaic, rows
from whence.study.frameworks.facts import FACTS
from whence.study.frameworks.figure import figure
from whence.study.frameworks.results import Study
from whence.study.frameworks.setup import fields
from whence.study.pages import style, template


def write(study: Study, path: Path) -> Path:
    """Write the page and return its path."""
    from markupsafe import Markup

    picture = base64.b64encode(view.png(figure(study))).decode()
    page = template("study_frameworks.html.jinja").render(
        style=Markup(style()),
        sentences=findings.sentences(study),
        study=study,
        title=findings.title,
        heading=_heading,
        reference=None if study.reference is None else findings.title(study.reference),
        tables=_tables(study),
        mosaics=mosaic.mosaics(study),
        times=f"data:image/png;base64,{picture}",
        columns=rows.LIKE,
        like=rows.like(study),
        facts=[(name, FACTS[name]) for name in study.names()],
        choices=choice.choices(study),
        reasons=study.reasons(),
        untried=_untried(study),
        left_out=study.left_out(),
        remarks=study.remarks(),
        settings=_settings(study),
        machine=study.machine,
        versions=_versions(study),
        command=again(study),
    )
    with write_atomically(path) as handle:
        handle.write(page.encode())
    return path


def _heading(column: str) -> str:
    """Return what stands above a column: a framework's name for readers, or the word itself."""
    return findings.title(column) if column in FACTS else column


def _tables(study: Study) -> list[tuple[str, str, list[rows.Grid]]]:
    """Return the tables of methods and frameworks, each with its heading and a line about it."""
    agreement = (
        "How near the maps are",
        "The largest difference to the reference's map, over its largest value, in all digits. Rank: the mean over the "
        "digits of the rank correlation of the pixels, and of the frameworks the lowest.",
        rows.agreement(study),
    )
    cold = (
        "Cold: seconds of the first explanation",
        "A new model, and nothing compiled; the framework itself has been imported.",
        rows.cold(study),
    )
    warm = (
        "Warm: milliseconds of a later explanation",
        "The median, and after ± half of what lies between the quartiles. Two explanations between the first and these "
        "are not counted: in them the fastest number of rows is still being found.",
        rows.warm(study),
    )
    spent = (
        "Runs of the model for each digit",
        "Forward and backward counted as one.",
        rows.evaluations(study),
    )
    return [each for each in (agreement, cold, warm, spent) if each[2]]


def _untried(study: Study) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return, for each framework, which registered methods do not work in it: each reason once."""
    found: list[tuple[str, list[tuple[str, list[str]]]]] = []
    for name in study.names():
        tried = next((ran.unsupported for ran in study.of(name) if ran.unsupported is not None), None)
        if tried:
            reasons = [
                (why, [method for method, each in tried.items() if each == why])
                for why in dict.fromkeys(tried.values())
            ]
            found.append((name, reasons))
    return found


def _settings(study: Study) -> list[tuple[str, str]]:
    """Return the settings of each method that are not its own defaults."""
    found: list[tuple[str, str]] = []
    for method in study.setup.methods:
        given = fields(method, {}, "mlp", "the background", study.setup.quick)
        found.append(
            (method, ", ".join(f"{name}={value}" for name, value in given.items()) or "as registered")
        )
    return found


def _versions(study: Study) -> list[str]:
    found: dict[str, str] = {}
    for ran in study.ran():
        found |= ran.versions
    try:
        own = version("whence")
    except PackageNotFoundError:
        own = "(not installed)"
    return [f"whence {own}", *(f"{name} {text}" for name, text in sorted(found.items()))]


def again(study: Study) -> str:
    """Return the command that gives the same maps."""
    setup = study.setup
    words = ["whence", "study", "frameworks"]
    for flag, values in (
        ("--network", setup.networks),
        ("--framework", setup.frameworks),
        ("--method", setup.methods),
    ):
        words += [word for value in values for word in (flag, value)]
    words += ["--samples", str(setup.samples), "--dtype", setup.dtype, "--seed", str(setup.seed)]
    return shlex.join([*words, *(["--quick"] if setup.quick else [])])
