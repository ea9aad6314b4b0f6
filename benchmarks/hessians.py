"""Integrated Hessians: what the pairs of features sum to, and how many Hessians an accuracy takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import Case, Missing
from measure import Table, interleaved, milliseconds
from torch import nn
from torch.func import grad, hessian, vmap

import whence
from whence import data, features, zoo
from whence.errors import WhenceError
from whence.quadrature import gauss

PATCH, SIDE, GRID, FINE = 4, 28, 50, 1_024
STEPS = (10, 20, 40, 80)
TRAINED_ON, PASSES, BATCH = 5_000, 5, 100
# From a share of the way, one number, to f there.
Along = Callable[[torch.Tensor], torch.Tensor]


def complete(found: list[Case]) -> Table:
    """Return the table of how far the sum over all pairs is from f(x) − f(x'), in float64."""
    table = Table(
        "Integrated Hessians: completeness, float64",
        "The largest |Σ_ij Γ_ij − (f(x) − f(x'))| / |f(x) − f(x')| of eight digits, black baseline, with whence's "
        "defaults and the features named.",
        ("model", "features", "completeness", "evaluations", "time a digit"),
    )
    for name, model, x, black, cells in _networks(found):
        method = whence.IntegratedHessians(features=cells[1], baseline=black)

        def run(model: Any = model, x: torch.Tensor = x, method: Any = method) -> Any:
            return whence.explain(model, x, method)

        times, result = interleaved({"whence": run}, 1, 1), run()
        change = model(x).detach().gather(1, result.target[:, None])[:, 0]
        change = change - model(torch.full_like(x[:1], black)).detach()[0, result.target]
        apart = (result.interactions.flatten(1).sum(1) - change).abs() / change.abs()
        table.rows.append((
            name, cells[0], f"{float(apart.max()):.0e}", f"{result.evaluations.double().mean():.0f}",
            milliseconds(times.of("whence") / len(x)),
        ))  # fmt: skip
    return table


def _networks(found: list[Case]) -> list[tuple[Any, ...]]:
    networks: list[tuple[Any, ...]] = []
    for case in found:
        if case.name.startswith("mnist-mlp"):
            cells = (f"patches of {PATCH} x {PATCH}", features.patches(PATCH))
            networks.append(
                ("mnist-mlp", copy.deepcopy(case.model).double(), case.x[:8].double(), case.black, cells)
            )
    loaded = zoo.load("digits-cnn")
    x = torch.from_numpy(data.digits().test_images[:8, None] / 255).double()
    cells = ("pixels", features.elements())
    return [*networks, ("digits-cnn", loaded.model.double(), x, 0.0, cells)]


def smooth(folder: Path) -> Table:
    """Return the table of how many Hessians an accuracy takes on a network with GELUs."""
    table = Table(
        f"Integrated Hessians of a GELU network, 784-160-80-10, {(SIDE // PATCH) ** 2} patches, float64",
        "Relative L1 error of the matrix Γ against a fine reference, and its difference from a grid of "
        f"{GRID} x {GRID} Gauss nodes. A Hessian of the patches is 49 Hessian-vector products; the grid takes "
        f"{GRID**2:,} Hessians, and 30 times fewer with an error of 1e-4 are asked for.",
        ("way", "Hessians", "fewer", "error", "from the grid", "completeness", "time"),
    )
    try:
        model, x, black = trained(folder)
    except Missing as problem:
        table.note += f" Left out: {problem}"
        return table
    target = int(model(x).argmax())
    along, places = _patchwise(model, x, black, target), (SIDE // PATCH) ** 2
    fine, grid = fine_integral(along, places), grid_integral(along, places, gauss(GRID))
    change = float(along(torch.ones(places).double()) - along(torch.zeros(places).double()))
    middles = (np.arange(GRID) + 0.5) / GRID, np.full(GRID, 1 / GRID)

    def add(way: str, hessians: float, matrix: torch.Tensor, seconds: float | None = None) -> None:
        table.rows.append((
            way, f"{hessians:,.0f}", f"{GRID**2 / hessians:.0f}", f"{_apart(matrix, fine):.1e}",
            f"{_apart(matrix, grid):.1e}", f"{abs(float(matrix.sum()) - change) / abs(change):.0e}",
            "—" if seconds is None else milliseconds(seconds),
        ))  # fmt: skip

    add(f"grid, {GRID} x {GRID} Gauss", GRID**2, grid)
    add(f"grid, {GRID} x {GRID} midpoints", GRID**2, grid_integral(along, places, middles))
    for steps in (*STEPS, None):
        chosen = {} if steps is None else {"steps": steps}
        method = whence.IntegratedHessians(features=features.patches(PATCH), baseline=black, **chosen)

        def run(method: Any = method) -> Any:
            return whence.explain(model, x, method, target=target)

        result, times = run(), interleaved({"whence": run}, 3, 1)
        products = float(result.evaluations.double().mean())
        name = "whence, default" if steps is None else f"whence, {steps} nodes"
        add(name, products / places, result.interactions.reshape(places, places), times.of("whence"))
    return table


def _apart(matrix: torch.Tensor, reference: torch.Tensor) -> float:
    return float((matrix - reference).abs().sum() / reference.abs().sum())


def _patchwise(model: Any, x: torch.Tensor, black: float, target: int) -> Along:
    """Return f as a function of how far each patch is on its way from black to the digit."""
    height, width = x.shape[2:]
    labels = torch.arange(height)[:, None] // PATCH * (width // PATCH) + torch.arange(width) // PATCH

    def along(shares: torch.Tensor) -> torch.Tensor:
        return model(black + shares[labels] * (x - black))[0, target]

    return along


def grid_integral(along: Along, places: int, rule: tuple[np.ndarray, np.ndarray]) -> torch.Tensor:
    """Return Γ by the double integral over α and β of αβ H(αβ), and of the gradient on the diagonal."""
    nodes, weights = (torch.from_numpy(each) for each in rule)
    return _summed(along, places, torch.outer(nodes, nodes).ravel(), torch.outer(weights, weights).ravel())


def fine_integral(along: Along, places: int) -> torch.Tensor:
    """Return Γ by the single integral over t = αβ, whose density is −ln t, with t = u⁶ for Gauss nodes in u."""
    nodes, weights = (torch.from_numpy(each) for each in gauss(FINE))
    return _summed(along, places, nodes**6, weights * 6 * nodes**5 * -6 * nodes.log())


def _summed(along: Along, places: int, t: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    ones, total = torch.ones(places).double(), torch.zeros(places, places).double()
    for part, weight in zip(t.split(64), weights.split(64), strict=True):
        points = part[:, None] * ones
        curved, slopes = vmap(hessian(along))(points), vmap(grad(along))(points)
        total += torch.einsum("n,nij->ij", weight * part, curved) + torch.diag(weight @ slopes)
    return total


def trained(folder: Path) -> tuple[Any, torch.Tensor, float]:
    """Return a quickly trained GELU network in float64, a digit and black."""
    try:
        digits = data.mnist(folder / "mnist")
    except WhenceError as problem:
        raise Missing(str(problem)) from None
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 160), nn.GELU(), nn.Linear(160, 80), nn.GELU(), nn.Linear(80, 10)
    ).double()
    black, deviation = -0.1307 / 0.3081, 0.3081
    x = torch.from_numpy(digits.train_images[:TRAINED_ON, None] / 255).double() / deviation + black
    labels = torch.from_numpy(digits.train_labels[:TRAINED_ON]).long()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(PASSES):
        for part in torch.randperm(TRAINED_ON).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[part]), labels[part]).backward()
            optimiser.step()
    model.eval().requires_grad_(False)
    shown = torch.from_numpy(digits.test_images[:1, None] / 255).double() / deviation + black
    return model, shown, black
