"""The study as one self-contained HTML file, in the style of the reports."""

from __future__ import annotations

import base64
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whence import view
from whence.caption import written
from whence.files import write_atomically
from whence.study.pages import style, template
from whence.study.truth import findings, tiles
from whence.study.truth.axioms import AXIOMS
from whence.study.truth.case import FAMILIES, Case
from whence.study.truth.figure import figure, ordered
from whence.study.truth.findings import amount, decimals
from whence.study.truth.results import Study
from whence.study.truth.scoring import saying_nothing
from whence.study.truth.setup import SHORTCUT
from whence.study.truth.shortcut import CLASS, MARKED


@dataclass(frozen=True)
class Box:
    """A cell of a table: its text, its colour, and what it says when pointed at."""

    text: str
    colour: str = ""
    hint: str = ""


def write(study: Study, path: Path) -> Path:
    """Write the page and return its path."""
    from markupsafe import Markup

    page = template("study_truth.html.jinja").render(
        style=Markup(style()),
        study=study,
        sentences=findings.sentences(study),
        families=[(FAMILIES[each], study.of(each)) for each in study.families],
        methods=[(name, written(name)) for name in study.ranked],
        scores=_scores(study),
        axioms=list(AXIOMS.items()),
        kept=_kept(study),
        grid=_grid(study),
        nothing={case.name: f"{saying_nothing(case):.2f}" for case in study.cases},
        mosaic=tiles.cases(study),
        planted=tiles.shortcut(study),
        probes=_probes(study),
        strips=_strips(study),
        legend=[Box(f"{value:.2f}", colour(value)) for value in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)],
        refused=_refused(study),
        failed=study.failed(),
        shortcut_class=CLASS,
        marked=MARKED,
        command=again(study),
    )
    with write_atomically(path) as handle:
        handle.write(page.encode())
    return path


def colour(score: float) -> str:
    """Return a cell's background: orange where nothing is right, white in the middle, blue where all is."""
    low, middle, high = (244, 165, 120), (255, 255, 255), (146, 197, 222)
    # Half of the way is still far from right: the colours turn at three quarters.
    part, ends = (score / 0.75, (low, middle)) if score < 0.75 else ((score - 0.75) / 0.25, (middle, high))
    mixed = [round(one + (other - one) * min(max(part, 0.0), 1.0)) for one, other in zip(*ends, strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _box(value: float | None, hint: str = "") -> Box:
    return Box("—", "", hint) if value is None else Box(f"{value:.2f}", colour(value), hint)


def _scores(study: Study) -> list[tuple[str, list[Box]]]:
    """Return each method's mean scores: all, and by family."""
    return [
        (
            written(name),
            [
                _box(study.mean(name), f"{len(study.scores(name))} of {len(study.cases)} cases"),
                *(_box(study.mean(name, family), _hint(study, name, family)) for family in study.families),
            ],
        )
        for name in study.ranked
    ]


def _hint(study: Study, name: str, family: str) -> str:
    found, every = study.scores(name, family), study.of(family)
    return (
        f"{len(found)} of {len(every)} cases; the lowest score is {min(found):.2f}"
        if found
        else "does not apply"
    )


def _kept(study: Study) -> list[tuple[str, list[Box]]]:
    """Return what was seen of each axiom: a tick, or by how much and where it was broken."""
    found: list[tuple[str, list[Box]]] = []
    for name in study.ranked:
        if not study.scores(name):
            continue
        boxes: list[Box] = []
        for axiom in AXIOMS:
            seen = study.kept(name, axiom)
            if not seen.tried:
                boxes.append(Box("—"))
            elif seen.worst is None:
                boxes.append(Box("✓", colour(1.0), f"kept in {seen.tried} of {seen.tried}"))
            else:
                hint = f"broken in {seen.broken} of {seen.tried}"
                boxes.append(Box(f"{amount(seen.worst.amount)} {seen.worst.case}", colour(0.1), hint))
        found.append((written(name), boxes))
    return found


def _grid(study: Study) -> list[tuple[str, list[tuple[Case, list[Box]]]]]:
    """Return every score: for each family its cases, for each case all methods, in hundredths."""
    return [
        (
            FAMILIES[family],
            [(case, [_hundredths(study, name, case) for name in study.ranked]) for case in study.of(family)],
        )
        for family in study.families
    ]


def _hundredths(study: Study, name: str, case: Case) -> Box:
    trial = study.trials[name, case.name]
    if trial.score is None:
        return Box("!" if trial.failed else "·", "", trial.failed or f"does not apply: {trial.refused}")
    value = trial.score.value
    hint = f"{written(name)} on {case.title}: {value:.3f}, nearest to: {trial.score.convention}"
    return Box(f"{100 * value:.0f}", colour(value), hint)


def _probes(study: Study) -> list[tuple[str, list[str]]]:
    return [
        (
            written(each.method),
            [
                f"{decimals(each.found[0])} ± {each.found[1]:.4f}",
                decimals(min(each.areas)),
                *(f"{100 * each.mean(group):.1f} %" for group in ("shortcut", "control", "clean")),
                f"{decimals(each.ranked[0])} ± {each.ranked[1]:.4f}",
                f"{sum(len(part.shortcut) for part in each.pairs)}",
            ],
        )
        for each in ordered(study)
    ]


def _strips(study: Study) -> str | None:
    if not any(each.pairs for each in study.probes.values()):
        return None
    return f"data:image/png;base64,{base64.b64encode(view.png(figure(study))).decode()}"


def _refused(study: Study) -> list[tuple[str, list[str]]]:
    """Return each reason for which methods do not apply, with the methods and how many cases it keeps them from."""
    return [
        (
            reason,
            [f"{written(name)} ({count} case{'s' if count > 1 else ''})" for name, count in names.items()],
        )
        for reason, names in study.reasons().items()
    ]


def again(study: Study) -> str:
    """Return the command that gives the same numbers."""
    from whence.study.truth import catalogue

    setup = study.setup
    words = ["whence", "study", "truth"]
    everything = setup.cases == tuple(catalogue.every()) and setup.shortcut
    cases: tuple[Any, ...] = () if everything else (*setup.cases, *([SHORTCUT] if setup.shortcut else []))
    methods = () if len(setup.methods) == len(_registered()) else setup.methods
    for flag, values in (("--method", methods), ("--case", cases)):
        words += [word for value in values for word in (flag, value)]
    words += ["--data", setup.data, "--seed", str(setup.seed)]
    if setup.data_dir is not None:
        words += ["--data-dir", setup.data_dir]
    return shlex.join([*words, *(["--quick"] if setup.quick else [])])


def _registered() -> list[str]:
    from whence import registry

    return list(registry.methods())
