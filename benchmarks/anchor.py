"""The known anchor of max-sensitivity on MNIST, by the protocol of Quantus' tutorial "Getting started".

    python benchmarks/anchor.py --data shared/mnist [--seeds 3]

A LeNet is trained for one epoch (SGD, rate 0.01, momentum 0.9, batches of 128), and the first 200 test images are
moved 10 times by uniform noise in [-0.1, 0.1]. Explanations are of the true class; their sizes are compared, each map
in parts of its largest. The tutorial prints 0.39 (0.11) for Saliency and 0.25 (0.08) for Integrated Gradients: mean
(spread).

The tutorial compares the moved Saliency maps with the Integrated Gradients of the image (its cell passes
a_batch=a_batch_intgrad); the row "as the tutorial compares" does so too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import whence

IMAGES, BATCH, SAMPLES, RADIUS = 200, 128, 10, 0.1
KNOWN = {"Saliency": (0.39, 0.11), "Integrated Gradients": (0.25, 0.08)}


def lenet() -> nn.Module:
    """Return the tutorial's network."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2, 2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten(),
        nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def pictures(images: np.ndarray) -> torch.Tensor:
    """Return grey levels as [n, 1, 28, 28] in [0, 1]."""
    return torch.as_tensor(images, dtype=torch.float32)[:, None] / 255


def trained(data: Any, seed: int) -> tuple[nn.Module, float]:
    """Return the network after one epoch, and its accuracy on the test images."""
    torch.manual_seed(seed)
    model = lenet()
    x, y = pictures(data.train_images), torch.as_tensor(data.train_labels)
    step = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for rows in torch.randperm(len(x)).split(BATCH):
        step.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        step.step()
    model.eval()
    with torch.no_grad():
        right = model(pictures(data.test_images)).argmax(1).numpy() == data.test_labels
    return model, float(right.mean())


def scores(model: nn.Module, data: Any) -> dict[str, np.ndarray]:
    """Return the max-sensitivity of each image by each comparison."""
    x = pictures(data.test_images[:IMAGES])
    target = np.asarray(data.test_labels[:IMAGES])
    metric = whence.metrics.MaxSensitivity(samples=SAMPLES, radius=RADIUS, absolute=True, scaled=True)
    gradients = whence.IntegratedGradients(steps=10, quadrature="trapezoid")
    whole = whence.IntegratedGradients(steps=50, quadrature="gauss")(model, x, target=target)

    def of(explanation: Any, method: Any) -> np.ndarray:
        return metric(model, x, explanation, method=method, target=target).values

    return {
        "Saliency": of(None, whence.Saliency()),
        "Integrated Gradients": of(None, gradients),
        "Saliency, as the tutorial compares": of(whole, whence.Saliency()),
        "Integrated Gradients, as the tutorial compares": of(whole, gradients),
    }


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=None, help="the folder of MNIST's files")
    asked.add_argument("--seeds", type=int, default=3)
    given = asked.parse_args()
    data = whence.data.mnist(given.data)
    for seed in range(given.seeds):
        model, accuracy = trained(data, seed)
        print(f"seed {seed}: {accuracy:.2%} of the test images are classified rightly")
        for name, values in scores(model, data).items():
            known = KNOWN.get(name.partition(",")[0])
            print(
                f"  {name:48s} {values.mean():.2f} ({values.std():.2f})   the tutorial: {known[0]} ({known[1]})"
            )


if __name__ == "__main__":
    main()
