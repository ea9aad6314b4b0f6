"""What an architecture is, and weights that are the same in every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import nn

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
)


@dataclass(frozen=True)
class Architecture:
    """A small model as a user writes it.

    `make` gives it in float32 and eval mode, the same at each call. `inputs(batch, dtype)` are examples that differ,
    [batch, ...]; row i does not depend on the batch. `layer` is where Grad-CAM would look, or None. `why` says what
    is nasty about it.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, torch.dtype], torch.Tensor]
    layer: str | None = None
    why: str = ""


def architecture(
    name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], layer: str | None = None, why: str = ""
) -> Architecture:
    """Return an architecture with seeded weights, and normal inputs of `shape` per example."""
    return Architecture(
        name, lambda: settled(name, make), lambda batch, dtype: rows(batch, dtype, shape), layer, why
    )


def settled(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """Make a model from a seed of its own, in eval mode, with norms that look trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(crc32(name.encode()))
        model = make()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, NORMS):
                    look_trained(module)
                elif isinstance(module, nn.modules.conv._ConvNd):
                    # He's scale: with torch's own, small networks go silent after a few layers.
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model.eval()


def look_trained(norm: nn.Module) -> None:
    """Give a norm the statistics, scales and shifts of a network that has seen data."""
    ranges = {
        "running_mean": (-0.5, 0.5),
        "running_var": (0.5, 1.5),
        "weight": (0.5, 1.5),
        "bias": (-0.3, 0.3),
    }
    for name, (low, high) in ranges.items():
        if getattr(norm, name, None) is not None:
            getattr(norm, name).uniform_(low, high)


def rows(batch: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Return normal numbers [batch, *shape], each row from a seed of its own."""
    seeds = (torch.Generator().manual_seed(1000 + row) for row in range(batch))
    return torch.stack([torch.randn(shape, generator=seed, dtype=torch.float64) for seed in seeds]).to(dtype)


def token_ids(batch: int, _: torch.dtype, length: int = 5, words: int = 12) -> torch.Tensor:
    """Return word numbers [batch, length]; each row from a seed of its own."""
    seeds = (torch.Generator().manual_seed(1000 + row) for row in range(batch))
    return torch.stack([torch.randint(words, (length,), generator=seed) for seed in seeds])
