"""How far Shapley values are from the true ones at an equal number of evaluations: whence, shap and captum."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import shap
import torch
from captum import attr
from cases import Case
from measure import Table
from shap.utils._legacy import DenseData

import whence
from whence import features

PATCH, BUDGETS, MAIN = 4, (300, 1_000, 3_000), 1_000
# All subsets of so many patches are visited for the exact values: those that are as the baseline change nothing.
DIGITS, MOST = 8, 18
LONG, CHUNK = 100_000, 512


@dataclass(frozen=True)
class Game:
    """One digit as a function of the patches that are present, [n, patches] to logits [n]."""

    model: Any
    x: torch.Tensor
    target: int
    absent: float

    @property
    def labels(self) -> np.ndarray:
        """The number of each pixel's patch, [height, width]."""
        height, width = self.x.shape[-2:]
        return np.arange(height)[:, None] // PATCH * (width // PATCH) + np.arange(width) // PATCH

    @property
    def count(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def varying(self) -> np.ndarray:
        """The patches that are not as the baseline is."""
        return np.unique(self.labels[(self.x[0, 0] - self.absent).abs().numpy() > 1e-6])

    def __call__(self, present: np.ndarray) -> np.ndarray:
        """Return the logit for each row of zeros and ones."""
        found, absent = [], torch.tensor(self.absent)
        with torch.inference_mode():
            for first in range(0, len(present), CHUNK):
                switches = torch.from_numpy(np.asarray(present[first : first + CHUNK], dtype=bool))
                points = torch.where(switches[:, torch.from_numpy(self.labels)][:, None], self.x, absent)
                found.append(self.model(points)[:, self.target].double())
        return torch.cat(found).numpy()


def at_equal_budget(found: list[Case], seeds: int) -> Table:
    table = Table(
        f"KernelSHAP: relative L1 error at an equal number of evaluations, patches of {PATCH} x {PATCH}, logits",
        f"Mean over {DIGITS} test digits and {seeds} seeds. Black: against the exact values, by visiting all subsets "
        f"of the patches that are not black (the first digits with at most {MOST} of them); black patches are left out "
        "by whence and, where it is given pixels in groups, by shap. Mean: the training pixels' mean, from which every "
        f"patch differs, against {2 * LONG:,} evaluations by hand, whose own error is the last column. shap: "
        "KernelExplainer with l1_reg=False, on the function of 49 patches and on pixels in groups. Stated is whence's "
        "own error.",
        ("model, baseline", "evaluations", "whence", "shap", "whence / shap", "shap, pixels", "whence / it",
         "asked for", "captum", "whence, stated", "reference"),
    )  # fmt: skip
    for case in found:
        for word, absent in (("black", case.black), ("mean", 0.0)):
            games = _games(case, absent, word == "black")
            kept = [_kept(game) for game in games]
            for budget in BUDGETS:
                _add(table, f"{case.name.partition(',')[0]}, {word}", games, kept, budget, seeds)
    return table


def _add(
    table: Table, name: str, games: list[Game], kept: list[tuple[np.ndarray, float]], budget: int, seeds: int
) -> None:
    truth, known = np.stack([each for each, _ in kept]), np.mean([error for _, error in kept])
    ours, stated = _our_error(games, truth, budget, seeds)
    patches = _mean_error(_shap_patches, games, truth, budget, seeds)
    pixels = _mean_error(_shap_pixels, games, truth, budget, seeds)
    captum = f"{_mean_error(_captum, games, truth, budget, 1):.1%}" if budget == MAIN else "—"
    table.rows.append((
        name, f"{budget:,}", f"{ours:.2%}", f"{patches:.2%}", f"{ours / patches:.2f}", f"{pixels:.2%}",
        f"{ours / pixels:.2f}", "1/2" if budget == MAIN else "—", captum, f"{stated:.2%}",
        f"{known:.2%}" if known else "exact",
    ))  # fmt: skip


def _games(case: Case, absent: float, few: bool) -> list[Game]:
    every = [Game(case.model, case.x[i : i + 1], int(case.target[i]), absent) for i in range(len(case.x))]
    return [game for game in every if not few or len(game.varying) <= MOST][:DIGITS]


def _mean_error(
    estimate: Callable[[Game, int, int], np.ndarray],
    games: list[Game],
    truth: np.ndarray,
    budget: int,
    seeds: int,
) -> float:
    found = [
        apart(estimate(game, budget, seed), exact)
        for game, exact in zip(games, truth, strict=True)
        for seed in range(seeds)
    ]
    return float(np.mean(found))


def apart(values: np.ndarray, exact: np.ndarray) -> float:
    """Return ‖φ − φ*‖₁ / ‖φ*‖₁."""
    return float(np.abs(values - exact).sum() / np.abs(exact).sum())


def _our_error(games: list[Game], truth: np.ndarray, budget: int, seeds: int) -> tuple[float, float]:
    """Return the mean error of whence, true and stated, digit by digit so that each has draws of its own."""
    true, stated = [], []
    for number, (game, exact) in enumerate(zip(games, truth, strict=True)):
        method = whence.KernelShap(features=features.patches(PATCH), baseline=game.absent, samples=budget)
        for seed in range(seeds):
            own = {"target": game.target, "seed": 100 * number + seed}
            found = whence.explain(game.model, game.x, method, **own)
            true.append(apart(found.shares[0].numpy(), exact))
            stated.append(float(found.error[0]))
    return float(np.mean(true)), float(np.mean(stated))


def _shap_patches(game: Game, budget: int, seed: int) -> np.ndarray:
    np.random.seed(seed)
    explainer = shap.KernelExplainer(game, np.zeros((1, game.count)))
    return explainer.shap_values(np.ones((1, game.count)), nsamples=budget, l1_reg=False, silent=True)[0]


def _shap_pixels(game: Game, budget: int, seed: int) -> np.ndarray:
    np.random.seed(seed)
    pixels, labels = game.x.flatten(1).double().numpy(), game.labels.ravel()
    groups = [np.flatnonzero(labels == number) for number in range(game.count)]
    background = DenseData(np.full_like(pixels, game.absent), list(map(str, range(len(groups)))), groups)

    def logits(rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            points = torch.from_numpy(rows).float().reshape(-1, *game.x.shape[1:])
            found = [game.model(part)[:, game.target] for part in points.split(CHUNK)]
            return torch.cat(found).double().numpy()

    explainer = shap.KernelExplainer(logits, background)
    return explainer.shap_values(pixels, nsamples=budget, l1_reg=False, silent=True)[0]


def _captum(game: Game, budget: int, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    found = attr.KernelShap(game.model).attribute(
        game.x, game.absent, game.target, feature_mask=torch.from_numpy(game.labels)[None, None],
        n_samples=budget, perturbations_per_eval=256, return_input_shape=False,
    )  # fmt: skip
    return found.flatten().numpy()


# ---- the true values ---------------------------------------------------------------------------------------------


def _kept(game: Game) -> tuple[np.ndarray, float]:
    """Return the true values and their own error, from a temporary folder where they have been found before."""
    told = hashlib.sha256(f"{PATCH} {game.target} {game.absent} {LONG}".encode())
    for array in (game.x, *game.model.state_dict().values()):
        told.update(array.numpy().tobytes())
    file = Path(tempfile.gettempdir(), "whence-benchmarks", f"shapley-{told.hexdigest()[:16]}.npz")
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        values, error = (exact_shapley(game), 0.0) if len(game.varying) <= MOST else long_run(game)
        np.savez(file, values=values, error=error)
    kept = np.load(file)
    return kept["values"], float(kept["error"])


def exact_shapley(game: Game) -> np.ndarray:
    """Return the Shapley value of every patch, from all subsets of those that are not as the baseline is."""
    varying, players = game.varying, len(game.varying)
    numbers = np.arange(2**players)
    values = np.zeros(len(numbers))
    for first in range(0, len(numbers), 64 * CHUNK):
        part = numbers[first : first + 64 * CHUNK]
        present = np.zeros((len(part), game.count), dtype=bool)
        present[:, varying] = part[:, None] >> np.arange(players) & 1
        values[first : first + len(part)] = game(present)
    sizes = np.bitwise_count(numbers)
    weights = np.array(
        [factorial(s) * factorial(players - s - 1) / factorial(players) for s in range(players)]
    )
    found = np.zeros(game.count)
    for player in range(players):
        without = numbers[numbers >> player & 1 == 0]
        gains = values[without | 1 << player] - values[without]
        found[varying[player]] = weights[sizes[without]] @ gains
    return found


def long_run(game: Game) -> tuple[np.ndarray, float]:
    """Return least squares over many pairs of complements under the Shapley kernel, and the error by two halves."""
    generator, players = np.random.default_rng(0), game.count
    sizes = np.arange(1, players)
    kernel = 1 / (sizes * (players - sizes))
    drawn = generator.choice(sizes, LONG, p=kernel / kernel.sum())
    present = generator.random((LONG, players)).argsort(1).argsort(1) < drawn[:, None]
    odd = (game(present) - game(~present)) / 2
    change = float((game(np.ones((1, players))) - game(np.zeros((1, players))))[0])
    halves = [
        _least_squares(present[part], odd[part], change) for part in (slice(None, None, 2), slice(1, None, 2))
    ]
    # The whole is half as far off as the halves are apart.
    return _least_squares(present, odd, change), apart(*halves) / 2


def _least_squares(present: np.ndarray, odd: np.ndarray, change: float) -> np.ndarray:
    z, players = present - 0.5, present.shape[1]
    centred = z - z.mean(1, keepdims=True)
    slopes = np.linalg.lstsq(centred, odd - z.sum(1) * change / players, rcond=None)[0]
    return slopes - slopes.mean() + change / players
