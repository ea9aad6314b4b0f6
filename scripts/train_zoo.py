"""Trains the zoo's small models and writes the weights that the package ships.

    python scripts/train_zoo.py --data-dir ../shared/mnist
    python scripts/train_zoo.py mnist-cnn --checkpoints epochs --out weights

The same seed, number of threads and machine write the same bytes: nothing but the weights is stored.
`--checkpoints` also keeps the weights after every epoch, so that one can watch an explanation develop:

    whence explain digit.png --model mnist-cnn --weights epochs/mnist-cnn-epoch-01.safetensors
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Weights depend on the number of threads, and idle ones need not spin: say so before PyTorch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from whence import data, zoo

SHIPPED = Path(__file__).parents[1] / "src" / "whence" / "weights"


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    trained = [name for name in zoo.names() if zoo.entry(name).data]
    parser = argparse.ArgumentParser(description="Train the zoo's small models and write their weights.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(trained)}; otherwise all")
    parser.add_argument("--data-dir", help="folder of the MNIST files; otherwise $WHENCE_DATA_DIR or a cache")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder for the weights; the package's own")
    parser.add_argument("--epochs", type=int, help="passes over the data; otherwise each model's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, help="folder for the weights after each epoch")
    chosen = parser.parse_args()
    chosen.names = chosen.names or trained
    return chosen


def checkpoint(folder: Path | None, name: str) -> Callable[[int, Any], None]:
    """Return what is called after each epoch."""

    def after_epoch(epoch: int, model: Any) -> None:
        print(f"{name}: epoch {epoch} done", flush=True)
        if folder is not None:
            zoo.save_weights(model, folder / f"{name}-epoch-{epoch:02d}.safetensors")

    return after_epoch


def main() -> None:
    """Train, write and print."""
    chosen = arguments()
    for name in chosen.names:
        dataset = data.mnist(chosen.data_dir) if zoo.entry(name).data == "mnist" else data.digits()
        start = time.perf_counter()
        after_epoch = checkpoint(chosen.checkpoints, name)
        model, accuracy = zoo.train(name, dataset, chosen.epochs, chosen.seed, after_epoch)
        path = chosen.out / f"{name}.safetensors"
        zoo.save_weights(model, path)
        seconds = time.perf_counter() - start
        print(f"{name}: {100 * accuracy:.2f} % of the test images, {seconds:.0f} s, {path}", flush=True)


if __name__ == "__main__":
    main()
