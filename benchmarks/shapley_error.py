"""How far Shapley values are from the exact ones at an equal number of evaluations: whence, shap and captum."""

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
# All subsets of so many patches are visited for the exact values: patches that are black anyway change nothing.
DIGITS, MOST = 8, 18
CHUNK = 512


@dataclass(frozen=True)
class Game:
    """One digit as a function of the patches that are present, [n, patches] to logits [n]."""

    model: Any
    x: torch.Tensor
    target: int
    black: float

    @property
    def labels(self) -> np.ndarray:
        """The number of each pixel's patch, [height, width]."""
        height, width = self.x.shape[-2:]
        return np.arange(height)[:, None] // PATCH * (width // PATCH) + np.arange(width) // PATCH

    @property
    def varying(self) -> np.ndarray:
        """The patches that are not black."""
        return np.unique(self.labels[(self.x[0, 0] - self.black).abs().numpy() > 1e-6])

    def __call__(self, present: np.ndarray) -> np.ndarray:
        """Return the logit for each row of zeros and ones."""
        found, black = [], torch.tensor(self.black)
        with torch.inference_mode():
            for first in range(0, len(present), CHUNK):
                switches = torch.from_numpy(np.asarray(present[first : first + CHUNK], dtype=bool))
                points = torch.where(switches[:, torch.from_numpy(self.labels)][:, None], self.x, black)
                found.append(self.model(points)[:, self.target].double())
        return torch.cat(found).numpy()


def at_equal_budget(found: list[Case], seeds: int) -> Table:
    table = Table(
        f"KernelSHAP: relative L1 error at an equal number of evaluations, patches of {PATCH} x {PATCH}, logits",
        f"Against the exact Shapley values, by visiting all subsets of the patches that are not black. Mean over the "
        f"first {DIGITS} test digits with at most {MOST} such patches, and {seeds} seeds. shap: KernelExplainer with "
        "l1_reg=False on the function of 49 patches; on pixels in groups it leaves out the black ones, which whence "
        "and captum are not told. Stated is whence's own error.",
        ("model", "evaluations", "whence", "shap", "whence / shap", "asked for", "shap, pixels in groups", "captum",
         "whence, stated"),
    )  # fmt: skip
    for case in found:
        games = _games(case)
        truth = np.stack([_kept(game) for game in games])
        for budget in BUDGETS:
            ours, stated = _our_error(case, games, truth, budget, seeds)
            patches = _mean_error(_shap_patches, games, truth, budget, seeds)
            pixels = _mean_error(_shap_pixels, games, truth, budget, seeds)
            captum = _mean_error(_captum, games, truth, budget, seeds) if budget == MAIN else None
            table.rows.append((
                case.name.partition(",")[0], f"{budget:,}", f"{ours:.2%}", f"{patches:.2%}",
                f"{ours / patches:.2f}", "1/2" if budget == MAIN else "—", f"{pixels:.2%}",
                "—" if captum is None else f"{captum:.2%}", f"{stated:.2%}",
            ))  # fmt: skip
    return table


def _games(case: Case) -> list[Game]:
    every = [Game(case.model, case.x[i : i + 1], int(case.target[i]), case.black) for i in range(len(case.x))]
    return [game for game in every if len(game.varying) <= MOST][:DIGITS]


def _mean_error(
    estimate: Callable[[Game, int, int], np.ndarray],
    games: list[Game],
    truth: np.ndarray,
    budget: int,
    seeds: int,
) -> float:
    found = [
        _apart(estimate(game, budget, seed), exact)
        for game, exact in zip(games, truth, strict=True)
        for seed in range(seeds)
    ]
    return float(np.mean(found))


def _apart(values: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(values - exact).sum() / np.abs(exact).sum())


def _our_error(
    case: Case, games: list[Game], truth: np.ndarray, budget: int, seeds: int
) -> tuple[float, float]:
    """Return the mean error of whence, true and stated, digit by digit so that each has draws of its own."""
    method = whence.KernelShap(features=features.patches(PATCH), baseline=case.black, samples=budget)
    true, stated = [], []
    for number, (game, exact) in enumerate(zip(games, truth, strict=True)):
        for seed in range(seeds):
            own = {"target": game.target, "seed": 100 * number + seed}
            found = whence.explain(game.model, game.x, method, **own)
            true.append(_apart(found.shares[0].numpy(), exact))
            stated.append(float(found.error[0]))
    return float(np.mean(true)), float(np.mean(stated))


def _shap_patches(game: Game, budget: int, seed: int) -> np.ndarray:
    np.random.seed(seed)
    count = int(game.labels.max()) + 1
    explainer = shap.KernelExplainer(game, np.zeros((1, count)))
    return explainer.shap_values(np.ones((1, count)), nsamples=budget, l1_reg=False, silent=True)[0]


def _shap_pixels(game: Game, budget: int, seed: int) -> np.ndarray:
    np.random.seed(seed)
    pixels, labels = game.x.flatten(1).double().numpy(), game.labels.ravel()
    groups = [np.flatnonzero(labels == number) for number in range(labels.max() + 1)]
    background = DenseData(np.full_like(pixels, game.black), list(map(str, range(len(groups)))), groups)

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
        game.x, game.black, game.target, feature_mask=torch.from_numpy(game.labels)[None, None],
        n_samples=budget, perturbations_per_eval=256, return_input_shape=False,
    )  # fmt: skip
    return found.flatten().numpy()


# ---- the exact values --------------------------------------------------------------------------------------------


def _kept(game: Game) -> np.ndarray:
    """Return the exact values, from a temporary folder where they have been found before."""
    told = hashlib.sha256(f"{PATCH} {game.target} {game.black}".encode())
    for array in (game.x, *game.model.state_dict().values()):
        told.update(array.numpy().tobytes())
    file = Path(tempfile.gettempdir(), "whence-benchmarks", f"shapley-{told.hexdigest()[:16]}.npy")
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        np.save(file, exact_shapley(game))
    return np.load(file)


def exact_shapley(game: Game) -> np.ndarray:
    """Return the Shapley value of every patch, from all subsets of those that are not black."""
    varying, count = game.varying, int(game.labels.max()) + 1
    players = len(varying)
    numbers = np.arange(2**players)
    values = np.zeros(len(numbers))
    for first in range(0, len(numbers), 64 * CHUNK):
        part = numbers[first : first + 64 * CHUNK]
        present = np.zeros((len(part), count), dtype=bool)
        present[:, varying] = part[:, None] >> np.arange(players) & 1
        values[first : first + len(part)] = game(present)
    sizes = np.bitwise_count(numbers)
    weights = np.array(
        [factorial(s) * factorial(players - s - 1) / factorial(players) for s in range(players)]
    )
    found = np.zeros(count)
    for player in range(players):
        without = numbers[numbers >> player & 1 == 0]
        gains = values[without | 1 << player] - values[without]
        found[varying[player]] = weights[sizes[without]] @ gains
    return found
