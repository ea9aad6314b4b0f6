"""The networks of the study of the truth, as PyTorch modules: every weight is set by hand, nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Affine = tuple[Float[np.ndarray, "out in"], Float[np.ndarray, " out"]]
"""Weights and biases of a linear layer."""


def _linear(weights: np.ndarray, biases: np.ndarray) -> nn.Linear:
    layer = nn.Linear(weights.shape[1], weights.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.copy_(torch.from_numpy(biases))
    return layer


def rectified(layers: Sequence[Affine]) -> nn.Module:
    """Return linear layers with a ReLU between each two: [B, ...] to [B, out]."""
    parts: list[nn.Module] = [nn.Flatten()]
    for weights, biases in layers:
        parts += [_linear(weights, biases), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Formula(nn.Module):
    """A formula of the columns x1, x2, ... of its input: [B, d] to [B, 1]."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the formula's value of each row."""
        return self.formula(inputs)[:, None]


class MeanProduct(nn.Module):
    """The product of two weighted sums of a picture's pixels, times `factor`: [B, 1, H, W] to [B, 1]."""

    def __init__(self, one: np.ndarray, other: np.ndarray, factor: float) -> None:
        super().__init__()
        self.one = _linear(one.reshape(1, -1), np.zeros(1))
        self.other = _linear(other.reshape(1, -1), np.zeros(1))
        self.factor = factor

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the product."""
        pixels = pictures.flatten(1)
        return self.factor * self.one(pixels) * self.other(pixels)


class Detector(nn.Module):
    """Convolutions with a ReLU after each, pooled over all places, and a linear layer: [B, 1, H, W] to [B, classes].

    `kernels` are [out, in, 3, 3] and `thresholds` [out], one pair for each convolution; `pool` is "mean" or "max".
    """

    def __init__(
        self,
        kernels: Sequence[np.ndarray],
        thresholds: Sequence[np.ndarray],
        weights: np.ndarray,
        pool: str,
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for kernel, threshold in zip(kernels, thresholds, strict=True):
            layer = nn.Conv2d(
                kernel.shape[1], kernel.shape[0], kernel.shape[-1], padding=1, dtype=torch.float64
            )
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(kernel))
                layer.bias.copy_(torch.from_numpy(-threshold))  # pyright: ignore[reportOptionalMemberAccess]
            parts += [layer, nn.ReLU()]
        self.features = nn.Sequential(*parts)
        self.classifier = _linear(weights, np.zeros(len(weights)))
        self.pool = pool

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the classes' values."""
        maps = self.features(pictures)
        pooled = maps.amax((2, 3)) if self.pool == "max" else maps.mean((2, 3))
        return self.classifier(pooled)


FORMULAS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "product": lambda x: x[:, 0] * x[:, 1],
    "power": lambda x: x[:, 0] * x[:, 1] ** 2,
    "triple": lambda x: x[:, 0] * x[:, 1] * x[:, 2],
    "square of sum": lambda x: (x[:, 0] + x[:, 1]) ** 2,
    "xor": lambda x: x[:, 0] + x[:, 1] - 2 * x[:, 0] * x[:, 1],
    "curves": lambda x: x[:, 0] ** 2 + 2 * torch.sin(x[:, 1]) - torch.exp(x[:, 2]),
    "tanh": lambda x: torch.tanh(5 * x[:, 0]) + 0.2 * x[:, 1],
    "sigmoid": lambda x: torch.sigmoid(8 * (x[:, 0] + x[:, 1]) - 4),
    "minimum": lambda x: torch.minimum(x[:, 0], x[:, 1]),
    "maximum": lambda x: torch.maximum(x[:, 0], x[:, 1]),
    "largest": lambda x: functional.max_pool1d(x[:, None, :3], 3)[:, 0, 0],
}


def formula(name: str) -> nn.Module:
    """Return the module of a named formula."""
    return Formula(FORMULAS[name])


BUILDERS: Final[Mapping[str, Callable[..., nn.Module]]] = {
    "rectified": rectified,
    "formula": formula,
    "product": MeanProduct,
    "detector": Detector,
}


def build(network: str, **arguments: Any) -> nn.Module:
    """Return a network of the study in float64 and eval mode; no global random state changes."""
    with torch.random.fork_rng(devices=[]):
        return BUILDERS[network](**arguments).eval()


def tensor(values: np.ndarray) -> Tensor:
    """Return inputs as PyTorch has them, in their own type: a formula has no weights that would say which."""
    return torch.from_numpy(values)
