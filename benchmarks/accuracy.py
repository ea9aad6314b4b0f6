"""Is the tolerance honest? True errors, stated errors and gradients spent, on real networks and real pictures.

    python benchmarks/accuracy.py [--digits 50] [--photographs] [--shared ../shared]

The reference is the midpoint rule with 4,096 nodes in float64 for the digits' networks, 1,024 nodes for MobileNetV2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import whence
from whence import data, zoo

TOLERANCES = (0.05, 0.02, 0.01)
GAUSS = (8, 16, 32, 64, 128, 256)


def relative_error(values: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    """Return ‖A − A*‖₁ / ‖A*‖₁ of each example."""
    away = (values.double() - reference.double()).abs().flatten(1).sum(1)
    return (away / reference.double().abs().flatten(1).sum(1)).numpy()


def study(
    table: Table, name: str, model: torch.nn.Module, x: torch.Tensor, baseline: float, nodes: int
) -> None:
    """Add one network's rows to the table."""
    method = whence.IntegratedGradients(baseline=baseline)
    reference = whence.explain(model, x, method, steps=nodes, quadrature="midpoint").values
    gauss = {n: relative_error(whence.explain(model, x, method, steps=n).values, reference) for n in GAUSS}
    for rtol in TOLERANCES:
        result = whence.explain(model, x, method, rtol=rtol)
        true = relative_error(result.values, reference)
        ratio = np.asarray(result.error, dtype=float) / true
        spent = np.asarray(result.evaluations, dtype=float).mean()
        enough = next((n for n in GAUSS if np.median(gauss[n]) <= np.median(true)), None)
        table.add_row(
            name, f"{rtol:.0%}", f"{(true <= rtol).mean():.0%}", f"{np.median(true):.4f}",
            " / ".join(f"{q:.2f}" for q in np.quantile(ratio, [0.05, 0.5, 0.95])), f"{spent:.0f}",
            "> 256" if enough is None else str(enough),
        )  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=int, default=50)
    parser.add_argument("--photographs", action="store_true", help="also the four photographs (minutes)")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    arguments = parser.parse_args()
    table = Table(
        "network", "rtol", "within", "true error", "stated / true: 5, 50, 95 %", "gradients", "Gauss needs"
    )
    images = data.mnist(arguments.shared / "mnist", progress=False).test_images[: arguments.digits]
    digits = (torch.as_tensor(images / 255.0)[:, None] - 0.1307) / 0.3081
    for name in ("mnist-mlp", "mnist-cnn"):
        study(table, name, zoo.load(name).model.double(), digits, -0.1307 / 0.3081, 4096)
    if arguments.photographs:
        loaded = zoo.load("mobilenet-v2", weights=arguments.shared / "models" / "mobilenet_v2.safetensors")
        for path in data.image_files([arguments.shared / "images"]):
            picture = data.read_image(path)[None]
            x = loaded.preprocess.apply(_torch_operations(), torch.as_tensor(picture / np.float32(255)))
            study(table, f"mobilenet-v2, {path.stem}", loaded.model, x, -1.0, 1024)
    Console(width=120).print(table)


def _torch_operations():
    from whence.backends.torch import TorchOperations

    return TorchOperations()


if __name__ == "__main__":
    main()
