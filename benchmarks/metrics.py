"""Metrics beside Quantus' own: the same digits, network and number of evaluations, in one run.

    .venv-peers/bin/python benchmarks/metrics.py [--digits 64] [--rounds 9] [--threads 2]

64 handwritten digits (8 x 8) and the zoo's convolutional network for them, float32, on the processor. Both are warm,
and take turns; Quantus is given each of several batch sizes, and its fastest counts. It computes one batch after the
other in NumPy and asks the model once for each step of a batch. Of whence the whole call is timed, with its checks.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from measure import Table, interleaved, machine, milliseconds
from rich.console import Console

# PyPI's torchvision is built for another PyTorch: it looks for two operators that are not there, and uses none here.
_operators = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
try:
    import quantus
    from quantus.functions.perturb_func import batch_gaussian_noise

    import whence
    from whence import data, metrics, zoo
    from whence.metrics.perturbations import gaussian, square
except ModuleNotFoundError as problem:
    sys.exit(f"{problem.name} is not installed for this Python; run it with .venv-peers/bin/python")

BATCHES = (16, 64, 256)
DRAWS = 40


@dataclass(frozen=True)
class Setting:
    """What both are given: a network, pictures, their classes and attributions."""

    model: torch.nn.Module
    pictures: torch.Tensor
    classes: np.ndarray
    attributions: torch.Tensor

    @classmethod
    def digits(cls, count: int) -> Setting:
        model = zoo.load("digits-cnn").model
        pictures = torch.as_tensor(data.digits().test_images[:count, None] / 255).float()
        explained = whence.explain(model, pictures, method="input_x_gradient")
        return cls(model, pictures, np.asarray(explained.target), explained.values)

    def quantus(self, metric: Any, batch: int) -> Any:
        return metric(
            model=self.model, x_batch=self.pictures.numpy(), y_batch=self.classes, softmax=False, device="cpu",
            a_batch=self.attributions.numpy(), batch_size=batch,
        )  # fmt: skip

    def whence(self, metric: metrics.Metric) -> metrics.Score:
        return metric(self.model, self.pictures, self.attributions, target=self.classes)


@dataclass(frozen=True)
class Contest:
    """A metric of both libraries; `runs` is how often Quantus asks the model for each digit."""

    name: str
    quantus: Callable[[int], Any]
    whence: Callable[[], metrics.Score]
    runs: int


QUIET = {"disable_warnings": True, "display_progressbar": False}


def pixel_flipping(setting: Setting) -> Contest:
    """64 pixels, one after the other; black ones made black change nothing, and whence does not run them again."""
    peer = quantus.PixelFlipping(features_in_step=1, perturb_baseline="black", normalise=False, **QUIET)
    own = metrics.PixelFlipping()
    return Contest("pixel flipping", partial(setting.quantus, peer), lambda: setting.whence(own), 64)


def infidelity_of_noise(setting: Setting) -> Contest:
    """Gaussian noise on the whole picture, drawn anew for each evaluation by both."""
    peer = quantus.Infidelity(
        perturb_func=batch_gaussian_noise, perturb_func_kwargs={"perturb_std": 0.2}, perturb_patch_sizes=[8],
        n_perturb_samples=DRAWS, normalise=False, **QUIET,
    )  # fmt: skip
    own = metrics.Infidelity(gaussian(0.2), samples=DRAWS)
    return Contest("infidelity, noise", partial(setting.quantus, peer), lambda: setting.whence(own), DRAWS)


def infidelity_of_squares(setting: Setting) -> Contest:
    """Squares of 4 x 4: Quantus takes the same 4 of them 10 times, whence each of all 25 places once."""
    peer = quantus.Infidelity(perturb_patch_sizes=[4], n_perturb_samples=DRAWS // 4, normalise=False, **QUIET)
    own = metrics.Infidelity(square(4), samples=DRAWS)
    return Contest("infidelity, squares", partial(setting.quantus, peer), lambda: setting.whence(own), DRAWS)


def max_sensitivity(setting: Setting, method: str, own: whence.registry.Method) -> Contest:
    """10 draws, each explained by both: Quantus by captum, with its fixed settings, whence by the same nodes.

    Only whence also asks in which draws another class is predicted: a run more for each.
    """
    peer = quantus.MaxSensitivity(nr_samples=10, lower_bound=0.1, abs=True, normalise=False, **QUIET)
    metric = metrics.MaxSensitivity(samples=10, radius=0.1, absolute=True)

    def quantus_run(batch: int) -> Any:
        return peer(
            model=setting.model, x_batch=setting.pictures.numpy(), y_batch=setting.classes, softmax=False, device="cpu",
            a_batch=None, batch_size=batch, explain_func=quantus.explain, explain_func_kwargs={"method": method},
        )  # fmt: skip

    def whence_run() -> metrics.Score:
        return metric(setting.model, setting.pictures, method=own, target=setting.classes)

    runs = 11 * getattr(own, "steps", 1)
    return Contest(f"max-sensitivity, {method}", quantus_run, whence_run, runs)


def max_sensitivity_of_saliency(setting: Setting) -> Contest:
    """Gradients: one run forward and back for each draw."""
    return max_sensitivity(setting, "Saliency", whence.Saliency())


def max_sensitivity_of_integrated_gradients(setting: Setting) -> Contest:
    """Ten nodes of the trapezoid rule for each draw, as Quantus has captum take."""
    own = whence.IntegratedGradients(steps=10, quadrature="trapezoid")
    return max_sensitivity(setting, "IntegratedGradients", own)


CONTESTS: tuple[Callable[[Setting], Contest], ...] = (
    pixel_flipping,
    infidelity_of_noise,
    infidelity_of_squares,
    max_sensitivity_of_saliency,
    max_sensitivity_of_integrated_gradients,
)


def measured(contest: Contest, rounds: int) -> tuple[str, ...]:
    peers = {f"quantus {batch}": partial(contest.quantus, batch) for batch in BATCHES}
    # The chunk's best size is found in the first calls.
    times = interleaved({"whence": contest.whence, **peers}, rounds, warm=6)
    best = min(peers, key=times.of)
    spent = contest.whence().evaluations
    assert spent is not None
    return (
        contest.name, milliseconds(times.of("whence")), milliseconds(times.of(best)), best.split()[1],
        f"{times.ratio('whence', best):.3f}", f"{times.ratio(best, 'whence'):.1f}", f"{spent.mean():.0f}",
        str(contest.runs),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--digits", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    setting = Setting.digits(given.digits)
    table = Table(
        f"Metrics of {given.digits} digits beside Quantus {quantus.__version__}",
        "Medians; the ratio is the median over the rounds. Asked for: at most 0.2.",
        (
            "metric", "whence", "quantus", "its batch", "whence / quantus", "times faster", "runs a digit",
            "quantus' runs",
        ),
    )  # fmt: skip
    table.rows.extend(measured(contest(setting), given.rounds) for contest in CONTESTS)
    console = Console(width=140)
    for name, value in machine().items():
        console.print(f"{name}: {value}")
    table.print(console)


if __name__ == "__main__":
    main()
