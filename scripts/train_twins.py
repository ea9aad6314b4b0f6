"""Trains the three networks that every framework has a twin of, and writes their weights.

    python scripts/train_twins.py

The same seed, number of threads and machine write the same bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

# Weights depend on the number of threads; say so before PyTorch is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn import functional

from whence import data
from whence.backends.twins.torch import ARCHITECTURES, arrays

SHIPPED = Path(__file__).parents[1] / "src" / "whence" / "weights"
EPOCHS, BATCH, PEAK = {"mlp": 40, "cnn": 40, "transformer": 60}, 64, 5e-3


def scaled(images: np.ndarray) -> torch.Tensor:
    """Return grey levels as floats in [0, 1], [n, 1, 8, 8]."""
    return torch.from_numpy(images[:, None].astype(np.float32) / np.float32(255))


def trained(network: str, dataset: data.Dataset) -> torch.nn.Module:
    """Return a network after its training, in eval mode."""
    torch.manual_seed(0)
    model = ARCHITECTURES[network]()
    images, labels = scaled(dataset.train_images), torch.from_numpy(dataset.train_labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=1e-2)
    steps = EPOCHS[network] * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK, total_steps=steps)
    for _ in range(EPOCHS[network]):
        for rows in torch.randperm(len(images)).split(BATCH):
            loss = functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def main() -> None:
    """Train, measure, write."""
    torch.set_num_threads(1)
    dataset = data.digits()
    for network in ARCHITECTURES:
        model = trained(network, dataset)
        with torch.no_grad():
            right = model(scaled(dataset.test_images)).argmax(1).numpy() == dataset.test_labels
        path = SHIPPED / f"twins-{network}.safetensors"
        save_file({name: np.ascontiguousarray(each) for name, each in arrays(model).items()}, path)
        print(
            f"{network}: {100 * right.mean():.2f} % of the test images, {path.stat().st_size} bytes",
            flush=True,
        )


if __name__ == "__main__":
    main()
