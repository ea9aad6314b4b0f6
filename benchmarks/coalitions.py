"""What switching features on and off costs, against captum, lime and the same forward passes by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import peak
import torch
from captum import attr
from cases import Case
from hessians import complete, smooth
from lime.lime_image import LimeImageExplainer
from measure import Table, interleaved, milliseconds, relative
from shapley_error import at_equal_budget

import whence
from whence import features

PATCH, SAMPLES, REGIONS = 4, 1000, 50
CHUNKS = {"mnist": (8, 16, 32, 64, 128, 256, 512, 1024), "mobilenet": (1, 2, 4, 8, 16, 32)}
PERTURBATIONS, LIME_BATCHES = (16, 64, 128, 256), (10, 50, 100)
PEAKS = (1_000, 8_000, 64_000)
COLUMNS = ("case", "against", "whence", "the other", "whence / the other", "asked for", "difference")
Contestant = Callable[[], Any]


@dataclass(frozen=True)
class Other:
    """Who whence is measured against, the ratio asked for, and how far the answers are apart."""

    run: Contestant
    asked: str = "—"
    difference: str = "—"


def coalition_tables(found: list[Case], rounds: int, folder: Path) -> Iterator[Table]:
    """Yield the tables of methods that switch features, for the cases among `found` that they need."""
    known = {case.name: case for case in found}
    small = [known[name] for name in ("mnist-cnn, batch 1", "mnist-mlp, batch 1") if name in known]
    digits = [known[name] for name in ("mnist-cnn, batch 16", "mnist-mlp, batch 16") if name in known]
    photos = [known[name] for name in ("mobilenet-v2, photo",) if name in known]
    heavy = min(3, max(1, rounds // 5))
    if "mnist-cnn, batch 1" in known:
        yield memory(known["mnist-cnn, batch 1"], folder)
    yield kernel_shap(small, rounds)
    yield at_equal_budget(digits, seeds=3)
    yield occlusion(small, photos, rounds, heavy)
    if photos:
        yield lime(photos, heavy)
    yield complete(digits)
    yield smooth(folder)


# ---- time --------------------------------------------------------------------------------------------------------


def kernel_shap(found: list[Case], rounds: int) -> Table:
    table = Table(
        f"KernelSHAP: {SAMPLES:,} samples, patches of {PATCH} x {PATCH} of a digit",
        "Medians of the ratios within each round. Black leaves most patches as they are, and whence does not play with "
        "those; from the mean of the training pixels all 49 differ. Bare: forward passes of as many masked inputs that "
        "are in memory already. First: a copy of the model that whence has not seen, whose chunk it must still find.",
        COLUMNS,
    )
    for case in (named for each in found for named in _with_baselines(each)):
        asked = ("1/4", "1", "1.15") if case.name.startswith("mnist-cnn") else ("—",) * 3
        best, whole = _best_perturbations(case), _captum_kernel(case, 1)
        bare, chunk = bare_forwards(case, masked(case, _random_masks(case, SAMPLES)))
        # One copy for each round, and for those that do not count.
        fresh = [replace(case, model=copy.deepcopy(case.model)) for _ in range(rounds + case.warm)]
        _compare(table, case, lambda case=case: _our_kernel(case), {
            "captum": Other(whole, asked[0]),
            f"captum, perturbations_per_eval={best}": Other(_captum_kernel(case, best), asked[1]),
            f"bare, chunk {chunk}": Other(bare, asked[2]),
            "whence, first": Other(lambda fresh=fresh: _our_kernel(fresh.pop())),
        }, rounds)  # fmt: skip
    return table


def _with_baselines(case: Case) -> tuple[Case, Case]:
    """Return a case with black and with the mean of the training pixels, which is 0 to the model, as its baseline."""
    short = case.name.partition(",")[0]
    return replace(case, name=f"{short}, black"), replace(case, name=f"{short}, mean", black=0.0)


def _our_kernel(case: Case) -> Any:
    method = whence.KernelShap(features=features.patches(PATCH), baseline=case.black, samples=SAMPLES)
    return whence.explain(case.model, case.x, method, target=case.target)


def _captum_kernel(case: Case, at_once: int) -> Contestant:
    method, labels = attr.KernelShap(case.model), patch_labels(case)
    own = {"feature_mask": labels, "n_samples": SAMPLES, "perturbations_per_eval": at_once}
    return lambda: method.attribute(case.x, case.black, case.target, **own)


def _best_perturbations(case: Case) -> int:
    times = interleaved({str(size): _captum_kernel(case, size) for size in PERTURBATIONS}, 3, 1)
    return min(PERTURBATIONS, key=lambda size: times.of(str(size)))


def occlusion(small: list[Case], photos: list[Case], rounds: int, heavy: int) -> Table:
    table = Table(
        "Occlusion",
        "Digits: windows of 3 x 3, stride 1; the photograph: 15 x 15, stride 8. Where black is put over black, whence "
        "does not ask the model. Bare: forward passes of all occluded inputs, in memory already. The difference is the "
        "maps' relative L1; where windows overlap, both libraries take the mean.",
        COLUMNS,
    )
    for case in (*(named for each in small for named in _with_baselines(each)), *photos):
        window, stride = (15, 8) if case.heavy else (3, 1)
        asked = "1/4" if "mlp" in case.name else "1/3"
        ours, theirs = _our_occlusion(case, window, stride), _captum_occlusion(case, window, stride)
        bare, chunk = bare_forwards(case, masked(case, _windows(case, window, stride)))
        apart = f"{float(relative(ours().values, theirs()).max()):.1e}"
        _compare(table, case, ours, {
            "captum": Other(theirs, asked, apart), f"bare, chunk {chunk}": Other(bare, "1.15"),
        }, heavy if case.heavy else rounds)  # fmt: skip
    return table


def _our_occlusion(case: Case, window: int, stride: int) -> Contestant:
    method = whence.Occlusion(window=window, stride=stride, baseline=case.black)
    return lambda: whence.explain(case.model, case.x, method, target=case.target)


def _captum_occlusion(case: Case, window: int, stride: int) -> Contestant:
    method, channels = attr.Occlusion(case.model), case.x.shape[1]
    shapes, strides = (channels, window, window), (channels, stride, stride)
    return lambda: method.attribute(case.x, shapes, strides, case.black, case.target)


def lime(found: list[Case], rounds: int) -> Table:
    table = Table(
        f"LIME: {SAMPLES:,} samples, {REGIONS} superpixels of a photograph",
        "The same regions for both, black where one is absent, the logit of one class. The lime package with the "
        f"fastest of the batch sizes {', '.join(map(str, LIME_BATCHES))}. The difference is one minus the correlation "
        "of the two packages' coefficients, each from samples of its own.",
        COLUMNS,
    )
    for case in found:
        labels = _superpixels(case)
        method = whence.LIME(features=features.mask(labels), baseline=case.black, samples=SAMPLES)

        def ours(case: Case = case, method: Any = method) -> Any:
            return whence.explain(case.model, case.x, method, target=case.target)

        tries = {str(size): _lime_package(case, labels, size, 100) for size in LIME_BATCHES}
        times = interleaved(tries, 2, 0)
        best = min(LIME_BATCHES, key=lambda size, times=times: times.of(str(size)))
        theirs = _lime_package(case, labels, best, SAMPLES)
        bare, chunk = bare_forwards(case, masked(case, _random_regions(labels, SAMPLES)))
        apart = f"{1 - np.corrcoef(ours().shares.flatten().numpy(), theirs())[0, 1]:.1e}"
        _compare(table, case, ours, {
            f"lime, batch_size={best}": Other(theirs, "1", apart), f"bare, chunk {chunk}": Other(bare),
        }, rounds)  # fmt: skip
    return table


def _lime_package(case: Case, labels: np.ndarray, batch: int, samples: int) -> Callable[[], np.ndarray]:
    """Return a run of the lime package, which gives the coefficient of each region."""
    picture, target = case.x[0].permute(1, 2, 0).contiguous().numpy(), int(case.target)
    explainer = LimeImageExplainer(random_state=0)

    def logits(pictures: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            rows = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
            return case.model(rows).numpy()

    def run() -> np.ndarray:
        with redirect_stderr(StringIO()):
            found = explainer.explain_instance(
                picture, logits, labels=(target,), hide_color=case.black, top_labels=None, num_samples=samples,
                batch_size=batch, segmentation_fn=lambda _: labels,
            )  # fmt: skip
        return np.array([weight for _, weight in sorted(found.local_exp[target])])

    return run


def _compare(table: Table, case: Case, ours: Contestant, others: dict[str, Other], rounds: int) -> None:
    """Run whence and the others in turn, and add a row to the table for each of the others."""
    contestants = {"whence": ours} | {name: other.run for name, other in others.items()}
    times = interleaved(contestants, rounds, case.warm)
    for name, other in others.items():
        table.rows.append((
            case.name, name, milliseconds(times.of("whence")), milliseconds(times.of(name)),
            f"{times.ratio('whence', name):.2f}", other.asked, other.difference,
        ))  # fmt: skip


# ---- masked inputs and their forward passes by hand --------------------------------------------------------------


def bare_forwards(case: Case, rows: torch.Tensor) -> tuple[Contestant, int]:
    """Return the forward passes of rows at the chunk that was fastest, and that chunk."""
    sizes = CHUNKS["mobilenet" if case.heavy else "mnist"]
    some = rows[: 2 * sizes[-1]] if case.heavy else rows
    tries = {str(size): _forwards(case, some, size) for size in sizes}
    times = interleaved(tries, 3, 1)
    best = min(sizes, key=lambda size: times.of(str(size)))
    return _forwards(case, rows, best), best


def _forwards(case: Case, rows: torch.Tensor, chunk: int) -> Contestant:
    parts = rows.split(chunk)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([case.model(part)[:, case.target] for part in parts])

    return run


def masked(case: Case, present: torch.Tensor) -> torch.Tensor:
    """Return the example with black wherever a mask [n, 1, height, width] is false."""
    return torch.where(present, case.x, torch.tensor(case.black))


def patch_labels(case: Case) -> torch.Tensor:
    """Return the number of each pixel's patch, [1, 1, height, width]."""
    height, width = case.x.shape[2:]
    across = width // PATCH
    return (torch.arange(height)[:, None] // PATCH * across + torch.arange(width) // PATCH)[None, None]


def _random_masks(case: Case, count: int) -> torch.Tensor:
    labels = patch_labels(case)
    switches = torch.rand(count, int(labels.max()) + 1, generator=torch.Generator().manual_seed(0)) < 0.5
    return switches[:, labels[0]]


def _random_regions(labels: np.ndarray, count: int) -> torch.Tensor:
    switches = torch.rand(count, int(labels.max()) + 1, generator=torch.Generator().manual_seed(0)) < 0.5
    return switches[:, torch.from_numpy(labels)][:, None]


def _windows(case: Case, window: int, stride: int) -> torch.Tensor:
    height, width = case.x.shape[2:]
    tops, lefts = (range(0, -(-(side - window) // stride) * stride + 1, stride) for side in (height, width))
    present = torch.ones(len(tops) * len(lefts), 1, height, width, dtype=torch.bool)
    for number, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        present[number, :, top : top + window, left : left + window] = False
    return present


def _superpixels(case: Case) -> np.ndarray:
    from skimage.segmentation import slic

    picture = case.x[0].permute(1, 2, 0).double().numpy()
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    found = slic(picture, n_segments=REGIONS, start_label=0)
    return np.unique(found, return_inverse=True)[1].reshape(found.shape)


# ---- memory ------------------------------------------------------------------------------------------------------


def memory(case: Case, folder: Path) -> Table:
    table = Table(
        "Peak memory of the whole process, by the number of samples",
        "The median of three fresh processes, with PyTorch, the model and the data in it, from the call of "
        "explain() on; 49 patches of a digit, from the mean of the training pixels.",
        ("method", *(f"{samples:,}" for samples in PEAKS), "last / first", "asked for"),
    )
    for method in ("kernel_shap", "lime"):
        sizes = [median(peak.fresh(method, case.name, each, folder) for _ in range(3)) for each in PEAKS]
        ratio = f"{sizes[-1] / sizes[0]:.2f}"
        table.rows.append((method, *(f"{size:,} MiB" for size in sizes), ratio, "1.10"))
    return table
