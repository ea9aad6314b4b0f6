"""What is measured: models, inputs and baselines, and the loop that a careful user would write by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whence import data, zoo
from whence.backends.torch import TorchOperations
from whence.errors import WhenceError
from whence.quadrature import gauss

NAMES = (
    "mnist-cnn, batch 16",
    "mnist-cnn, batch 1",
    "mnist-mlp, batch 16",
    "mnist-mlp, batch 1",
    "mobilenet-v2, photo",
)
CHUNKS = {"mnist": (16, 32, 64, 128, 256, 512, 1024), "mobilenet": (2, 4, 8, 16)}


class Missing(Exception):
    """Data that a case needs are not there; the message says where they were looked for."""


@dataclass(frozen=True)
class Case:
    """A model with the examples, classes and constant baseline (black) that it is explained for."""

    name: str
    model: Any
    x: torch.Tensor
    target: torch.Tensor
    black: float

    @property
    def heavy(self) -> bool:
        return self.x[0].numel() > 10_000

    @property
    def warm(self) -> int:
        """How many rounds do not count: enough for whence to find its chunk where that is cheap."""
        return 1 if self.heavy else 5

    @property
    def chunks(self) -> tuple[int, ...]:
        """The chunks that the hand-written loop is tried with, in rows."""
        rows = 2 * 50 * len(self.x)
        return tuple(size for size in CHUNKS["mobilenet" if self.heavy else "mnist"] if size < rows)


def load(name: str, folder: Path) -> Case:
    """Return a case; `folder` holds mnist/, models/ and images/.

    Raises:
        Missing: its data are not there.
    """
    model_name, size = name.split(", ")
    if model_name == "mobilenet-v2":
        weights, picture = folder / "models" / "mobilenet_v2.safetensors", folder / "images" / "cat.jpg"
        for file in (weights, picture):
            if not file.is_file():
                raise Missing(
                    f"{name}: there is no {file}; name the folder of models/ and images/ with --data-dir"
                )
        loaded = zoo.load(model_name, weights=weights)
        pixels = data.read_image(picture)[None]
    else:
        loaded = zoo.load(model_name)
        try:
            pixels = data.mnist(folder / "mnist").test_images[: int(size.removeprefix("batch "))]
        except WhenceError as problem:
            raise Missing(f"{name}: {problem}") from None
    inputs = torch.from_numpy(pixels.astype(np.float32) / 255)
    x = loaded.preprocess.apply(TorchOperations(), inputs).contiguous()
    with torch.no_grad():
        target = loaded.model(x).argmax(1)
    # Through the same rounding: what is black in a picture is to be no different from the baseline.
    black = loaded.preprocess.apply(TorchOperations(), torch.zeros_like(inputs[:1])).flatten()[0]
    return Case(name, loaded.model, x, target, float(black))


def load_all(folder: Path) -> tuple[list[Case], list[str]]:
    """Return the cases whose data are there, and a line for each of the others."""
    found: list[Case] = []
    missing: list[str] = []
    for name in NAMES:
        try:
            found.append(load(name, folder))
        except Missing as problem:
            missing.append(str(problem))
    return found, missing


def hand_written(case: Case, chunk: int, steps: int = 50) -> torch.Tensor:
    """Integrated gradients by a loop over chunks of nodes, with a running sum, and no gradients of weights."""
    nodes, weights = (torch.from_numpy(each).to(case.x.dtype) for each in gauss(steps))
    for parameter in case.model.parameters():
        parameter.requires_grad_(False)
    start, batch = torch.full_like(case.x, case.black), len(case.x)
    way, total = case.x - start, torch.zeros_like(case.x)
    per = max(1, chunk // batch)
    target = case.target.repeat(per)[:, None]
    for first in range(0, steps, per):
        alpha = nodes[first : first + per].reshape(-1, 1, *(1,) * (way.ndim - 1))
        points = (start + alpha * way).flatten(0, 1).requires_grad_()
        chosen = case.model(points).gather(1, target[: len(points)])
        (gradient,) = torch.autograd.grad(chosen.sum(), points)
        share = weights[first : first + per] @ gradient.reshape(len(alpha), -1)
        total += share.reshape(way.shape)
    for parameter in case.model.parameters():
        parameter.requires_grad_(True)
    return total * way
