"""What accuracy costs: 2 % true error against captum's cheapest setting that reaches it, and exact integrals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from cases import Case
from measure import Table, interleaved, milliseconds, relative

GAUSS = (8, 16, 32, 64, 128, 256, 512, 1024)
ENOUGH = 0.02
Run = Callable[..., Any]


def to_two_percent(
    found: list[Case], rounds: Callable[[Case], int], reference: int, ours: Run, theirs: Run
) -> Table:
    """Return the table of whence's default against captum: its default, and its cheapest setting that is enough."""
    table = Table(
        "To 2 % true error (whence's default) against captum",
        f"Errors are relative L1, against {reference:,} midpoint nodes: mean, and the worst example. The cheapest "
        f"setting of captum is the smallest of {', '.join(map(str, GAUSS))} Gauss nodes whose mean error is at most "
        "2 %, which its user cannot know (with internal_batch_size=8 on the photograph). Stated is whence's own.",
        (
            "case", "whence", "captum, cheapest", "captum, 50", "whence / cheapest", "whence / 50", "gradients",
            "stated", "true", "captum's true: cheapest, 50",
        ),
    )  # fmt: skip
    for case in found:
        truth = ours(case, steps=reference, quadrature="midpoint").values
        options = {"internal_batch_size": 8} if case.heavy else {}
        nodes, error = _cheapest(case, truth, theirs, options)
        result, fifty = ours(case), relative(theirs(case), truth)
        contestants = {
            "whence": lambda case=case: ours(case),
            "cheapest": lambda case=case, nodes=nodes, options=options: theirs(
                case, n_steps=nodes, **options
            ),
            "50": lambda case=case: theirs(case),
        }
        times = interleaved(contestants, rounds(case), case.warm)
        true = relative(result.values, truth)
        table.rows.append((
            case.name, milliseconds(times.of("whence")), f"{milliseconds(times.of('cheapest'))} ({nodes})",
            milliseconds(times.of("50")), f"{times.ratio('whence', 'cheapest'):.2f}",
            f"{times.ratio('whence', '50'):.2f}", f"{result.evaluations.double().mean():.0f}",
            f"{float(result.error.mean()):.2%}", f"{true.mean():.2%}, {true.max():.2%}",
            f"{error:.2%}, {fifty.mean():.2%}",
        ))  # fmt: skip
    return table


def _cheapest(case: Case, truth: torch.Tensor, theirs: Run, options: dict[str, int]) -> tuple[int, float]:
    error = float("inf")
    for nodes in GAUSS:
        error = float(relative(theirs(case, n_steps=nodes, **options), truth).mean())
        if error <= ENOUGH:
            return nodes, error
    return GAUSS[-1], error


def exact_integrals(found: list[Case], rounds: int, ours: Run) -> Table:
    """Return the table of exact integrals in float64 and float32."""
    table = Table(
        'Exact integrals (quadrature="exact")',
        "Pieces are the mean over the examples, completeness the largest |residual| / Σ|A|. The last column is how far "
        "single precision is from double: the worst example's relative L1 difference.",
        (
            "case",
            "ms a digit, float64",
            "pieces",
            "completeness, float64",
            "ms a digit, float32",
            "float32's error",
        ),
    )
    for case in found:
        if case.heavy or len(case.x) == 1:
            continue
        double = replace(case, model=copy.deepcopy(case.model).double(), x=case.x.double())
        runs = {
            "double": lambda double=double: ours(double, quadrature="exact"),
            "single": lambda case=case: ours(case, quadrature="exact"),
        }
        times, result, single = interleaved(runs, rounds, 1), runs["double"](), runs["single"]()
        complete = (result.residual.abs() / result.values.abs().flatten(1).sum(1)).max()
        each = [milliseconds(times.of(name) / len(case.x)) for name in runs]
        table.rows.append((
            case.name, each[0], f"{result.evaluations.double().mean():.0f}", f"{float(complete):.0e}", each[1],
            f"{float(relative(single.values, result.values).max()):.1e}",
        ))  # fmt: skip
    return table
