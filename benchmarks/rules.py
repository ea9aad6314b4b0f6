"""What rules cost, in units of one forward pass and one gradient at the input with the weights frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from captum import attr
from cases import Case
from measure import Table, interleaved, milliseconds

import whence

BATCH, BASELINES = 64, 10
TARGETS = {
    "guided_backprop": "1.2", "deconvnet": "1.2", "lrp (epsilon)": "1.6", "deeplift, shared baseline": "2.6",
    f"deepshap, {BASELINES} baselines": "13", "gradcam": "1.0",
}  # fmt: skip


def rules_in_units(case: Case, rounds: int) -> Table:
    """Return the table for a small convolutional network: its examples repeated to a batch of 64."""
    model = copy.deepcopy(case.model).requires_grad_(False)
    repeats = -(-BATCH // len(case.x))
    x, target = case.x.repeat(repeats, 1, 1, 1)[:BATCH], case.target.repeat(repeats)[:BATCH]
    noise = torch.Generator().manual_seed(0)
    rows = torch.rand(BASELINES, *x.shape[1:], generator=noise)
    full = torch.rand(x.shape, generator=noise)

    def unit() -> Any:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)

    def ours(method: str, **options: Any) -> Callable[[], Any]:
        return lambda: whence.explain(model, x, method, target=target, **options)

    def theirs(method: Any, **options: Any) -> Callable[[], Any]:
        return lambda: method.attribute(x.clone().requires_grad_(), target=target, **options)

    layer = model.features[4]
    pairs = {
        "saliency": (ours("saliency"), theirs(attr.Saliency(model))),
        "guided_backprop": (ours("guided_backprop"), theirs(attr.GuidedBackprop(model))),
        "deconvnet": (ours("deconvnet"), theirs(attr.Deconvolution(model))),
        "lrp (epsilon)": (ours("lrp"), theirs(attr.LRP(model))),
        "deeplift, shared baseline": (ours("deeplift"), theirs(attr.DeepLift(model), baselines=x[:1] * 0)),
        "deeplift, a baseline each": (
            ours("deeplift", baseline=full), theirs(attr.DeepLift(model), baselines=full),
        ),
        f"deepshap, {BASELINES} baselines": (
            ours("deepshap", baseline=whence.baseline.dataset(rows)),
            theirs(attr.DeepLiftShap(model), baselines=rows),
        ),
        "gradcam": (
            ours("gradcam", layer="features.4"),
            lambda: attr.LayerGradCam(model, layer).attribute(x, target=target),
        ),
    }  # fmt: skip
    contestants: dict[str, Callable[[], Any]] = {"unit": unit}
    for name, (one, two) in pairs.items():
        contestants |= {name: one, f"captum {name}": two}
    times = interleaved(contestants, rounds, 4)
    table = Table(
        f"Rules on the MNIST CNN, batch {BATCH}",
        f"In units of one forward pass and autograd.grad at the input, weights frozen "
        f"({milliseconds(times.of('unit'))}); medians of the ratios within each round. whence is timed from the call "
        "of explain() to its result, with the checks of the model and the input; classes are given.",
        ("method", "whence", "captum", "asked for", "whence, time"),
    )
    for name in pairs:
        table.rows.append((
            name, f"{times.ratio(name, 'unit'):.2f}", f"{times.ratio(f'captum {name}', 'unit'):.2f}",
            TARGETS.get(name, "—"), milliseconds(times.of(name)),
        ))  # fmt: skip
    return table
