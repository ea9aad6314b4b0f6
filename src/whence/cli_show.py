"""Results in words for a person and as JSON for a program."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from whence import registry
from whence.attribution import Attribution
from whence.caption import baseline_text, number, percent, target_text, written
from whence.cli_parse import own_options
from whence.cli_picture import Picture
from whence.cli_predict import Prediction, class_name
from whence.cli_work import number_at

BAR = 20
"""How many characters a probability of 1 is long."""


def note(console: Console, text: str) -> None:
    """Print a sentence of smaller weight, indented, wrapped."""
    console.print(Padding(Text(text, style="dim"), (0, 0, 0, 2), expand=False))


def file_line(console: Console, what: str, path: Path) -> None:
    """Print where a file is; never wrapped, so that it can be copied."""
    console.print(Text(f"  {what:<10} ").append(str(path), style="bold"), soft_wrap=True)


def heading(console: Console, picture: Picture, model: str) -> None:
    """Print which picture this is."""
    height, width = picture.original.shape[:2]
    text = Text(picture.path.name, style="bold").append(
        f"  {width} × {height} pixels, seen by {model}", style="dim"
    )
    console.print(text)


def prediction(console: Console, answer: Prediction, labels: Sequence[str] | None) -> None:
    """Print the most probable classes with bars."""
    top = answer.top(labels)
    if not top:
        shown = ", ".join(number(each, 4) for each in np.ravel(answer.output)[:5])
        more = " ..." if answer.output.size > 5 else ""
        console.print(f"  output {shown}{more}")
        return
    table = _grid()
    table.add_column(justify="left", overflow="fold", max_width=36)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="left", no_wrap=True)
    for index, name, probability in top:
        full = "█" * round(BAR * probability) or "▏"
        shown = probable(probability)
        label = f"{name}  ({index})" if labels is not None and name != str(index) else name
        table.add_row(label, shown, Text(full, style="cyan"))
    _print(console, table)


def probable(probability: float) -> str:
    """Return a probability as a percentage."""
    return f"{100 * probability:.1f} %" if probability >= 0.0005 else "< 0.1 %"


def numbers(
    console: Console, result: Attribution, method: registry.Method, labels: Sequence[str] | None
) -> None:
    """Print the numbers that say what was found, how far to trust it and what it cost."""
    console.print()
    target = target_text(result, 0, labels)
    console.print(Text("  Explained: ").append(target, style="bold").append(f" by {written(result.method)}"))
    table = _grid()
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for row in _number_rows(result, method):
        table.add_row(*row)
    _print(console, table)
    for each in result.notes:
        note(console, f"note: {each}")


def _number_rows(result: Attribution, method: registry.Method) -> list[tuple[str, str, str]]:
    output, start, residual, error, converged = (
        number_at(getattr(result, name))
        for name in ("output", "baseline_output", "residual", "error", "converged")
    )
    what = str(result.settings.get("target", "the explained output"))
    rows = [("output", number(output, 4), what)]
    if start is not None:
        rows.append(
            (
                "output of the baseline",
                number(start, 4),
                result.settings.get("baseline") or baseline_text(method),
            )
        )
    if start is not None and residual is not None:
        change = float(output - start)
        share = f"{percent(abs(residual / change))} of that difference" if change else ""
        should = f"should be the difference, {number(change, 4)}"
        rows.append(("sum of the shares", number(change + residual, 4), should))
        rows.append(("residual", number(residual), share))
    if error is not None:
        fixed = getattr(method, "steps", None) is not None or result.settings.get("exact")
        asked = None if fixed else getattr(method, "rtol", None)
        promise = f"of the map as a whole; asked for: {percent(asked)}" if asked else "of the map as a whole"
        rows.append(("estimated error", percent(error), promise))
        if asked and converged is not None:
            rows.append(
                (
                    "converged",
                    "yes" if converged else "NO",
                    "" if converged else "the error is larger than asked",
                )
            )
    spread = standard_error(result)
    if spread is not None:
        rows.append(("standard error", percent(spread), "of a typical share, between the samples"))
    if error is None and spread is None:
        ranking = f"{written(result.method)} promises none: read its map as a ranking"
        stated = "not estimated with a fixed number of steps"
        sums = stated if hasattr(method, "steps") else "nothing is estimated: the residual above is the check"
        words = ranking if residual is None else sums
        rows.append(("accuracy", "—", words))
    fidelity, features = number_at(result.fidelity), result.settings.get("features")
    if fidelity is not None:
        rows.append(("fidelity", number(fidelity), "R² of the linear model on what it was fitted to"))
    if result.shares is not None and features is not None:
        rows.append(("features", f"{features:,}", "switched on and off"))
    cost = number_at(result.evaluations)
    values_only = result.settings.get("backend") == "callable" or type(method).switches
    what = "runs of the model" if values_only else "gradients used"
    rows.append((what, "—" if cost is None else f"{int(cost):,}", ""))
    rows.append(("seconds", f"{float(result.settings.get('seconds', math.nan)):.2f}", ""))
    return rows


def standard_error(result: Attribution) -> float | None:
    """Return the mean standard error over the mean |share|, or None."""
    if result.standard_error is None:
        return None
    values = np.abs(np.asarray(result.numpy())[0])
    mean = float(values.mean())
    return float(np.asarray(result.standard_error)[0].mean()) / mean if mean else None


def classes_table(
    console: Console,
    results: Sequence[tuple[int, Attribution]],
    answer: Prediction,
    labels: Sequence[str] | None,
) -> None:
    """Print one line for each class that was explained."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("class", overflow="fold")
    for name in ("probability", "output", "baseline", "sum of shares", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, result in results:
        output, start, residual, error = (
            number_at(getattr(result, name)) for name in ("output", "baseline_output", "residual", "error")
        )
        total = None if start is None or residual is None else output - start + residual
        sums = ["—" if each is None else number(each, 4) for each in (start, total)]
        probability = 0.0 if answer.probabilities is None else answer.probabilities[index]
        table.add_row(
            class_name(index, labels), probable(probability), number(output, 4), *sums,
            "—" if error is None else percent(error),
        )  # fmt: skip
    _print(console, table)


def methods_table(
    console: Console,
    results: Mapping[str, Attribution],
    extra: Mapping[str, str] | None = None,
    heading: str = "",
) -> None:
    """Print one line for each method: with `extra`, a number of the caller's under `heading`."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", overflow="fold")
    names = [*([heading] if extra is not None else ["sum of shares", "residual"]), "runs", "error", "seconds"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for name, result in results.items():
        output, start, residual, cost = (
            number_at(getattr(result, key))
            for key in ("output", "baseline_output", "residual", "evaluations")
        )
        told = [extra[name]] if extra is not None else ["—", "—"]
        if extra is None and start is not None and residual is not None:
            told = [number(output - start + residual, 4), number(residual, 2)]
        seconds = f"{float(result.settings.get('seconds', math.nan)):.2f}"
        table.add_row(
            written(name), *told, "—" if cost is None else f"{int(cost):,}", error_text(result), seconds
        )
    _print(console, table)


def left_out(console: Console, skipped: Mapping[str, str]) -> None:
    """Print which methods did not run, each reason once."""
    for reason in dict.fromkeys(skipped.values()):
        names = ", ".join(name for name, each in skipped.items() if each == reason)
        note(console, f"left out: {names}: {reason}")


def error_text(result: Attribution) -> str:
    """Return how far a result is to be trusted, in few characters."""
    error = number_at(result.error)
    if error is not None:
        return percent(error)
    spread = standard_error(result)
    return "—" if spread is None else f"± {percent(spread)}"


def checkpoints_table(console: Console, results: Sequence[tuple[str, Attribution]]) -> None:
    """Print one line for each checkpoint of a training."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("checkpoint", overflow="fold")
    table.add_column("answer", overflow="fold")
    for name in ("probability", "explained output", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, result in results:
        sure = result.settings.get("probability")
        table.add_row(
            label, str(result.settings.get("prediction", "—")), "—" if sure is None else probable(float(sure)),
            number(number_at(result.output), 4), error_text(result),
        )  # fmt: skip
    _print(console, table)


def registry_table(console: Console) -> None:
    """Print every method: what it needs and takes, what it is, its equation and where it comes from."""
    table = Table(box=None, padding=(0, 2, 1, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name, record in registry.methods().items():
        left = Text(name, style="bold").append(f"\nneeds: {', '.join(record.needs)}", style="dim not bold")
        right = Text(record.summary).append(f"\n{record.equation}", style="cyan")
        right.append(f"\n{record.citation}", style="dim")
        right.append(f"\n{own_options(record)}", style="dim")
        table.add_row(left, right)
    console.print(table)


def _grid() -> Table:
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0))


def _print(console: Console, table: Table) -> None:
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


# ---- for programs ------------------------------------------------------------------------------------------


def record(result: Attribution, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """Return one example's numbers as JSON's types."""
    names = ("output", "baseline_output", "residual", "error", "evaluations", "converged", "fidelity")
    found: dict[str, Any] = {name: number_at(getattr(result, name)) for name in names}
    both = found["baseline_output"] is not None and found["residual"] is not None
    total = found["output"] - found["baseline_output"] + found["residual"] if both else None
    target = None if isinstance(result.target, (str, tuple)) else result.target
    index = number_at(target) if hasattr(target, "shape") and getattr(target, "ndim", 0) else None
    return {
        "method": result.method,
        "target": {
            "description": result.settings.get("target"),
            "class": index,
            "label": None if index is None or labels is None else class_name(int(index), labels),
        },
        **found,
        "shares": _shares(result),
        "sum": total,
        "standard_error": standard_error(result),
        "seconds": result.settings.get("seconds"),
        "notes": list(result.notes),
        "settings": result.settings,
    }


def _shares(result: Attribution) -> dict[str, float] | None:
    """Return one example's share of each named feature."""
    names = result.settings.get("feature_names")
    if result.shares is None or not names or result.every_class:
        return None
    shares = np.asarray(number_at(result.shares), dtype=np.float64)
    return {str(name): float(share) for name, share in zip(names, shares, strict=False)}


def answer_record(answer: Prediction, labels: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the most probable classes as JSON's types."""
    return [{"class": k, "label": name, "probability": p} for k, name, p in answer.top(labels)]


def to_json(payload: Any) -> str:
    """Return a payload as JSON; what JSON has no number for (NaN, infinity) is null."""
    return json.dumps(_plain(payload), ensure_ascii=False, indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
