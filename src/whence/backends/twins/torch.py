"""The twins as PyTorch modules."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from whence.backends.twins.twin import (
    BLOCKS,
    EPSILON,
    HEADS,
    HIDDEN,
    PATCH,
    STAGES,
    TOKENS,
    WIDTH,
    Arrays,
    Twin,
    places,
    same_names,
    weights,
)


class Dense(nn.Module):
    """Three dense layers: [B, 1, 8, 8] to 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.dense1, self.relu1 = nn.Linear(64, 48), nn.ReLU()
        self.dense2, self.relu2 = nn.Linear(48, 32), nn.ReLU()
        self.dense3 = nn.Linear(32, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        hidden = self.relu1(self.dense1(pictures.flatten(1)))
        return self.dense3(self.relu2(self.dense2(hidden)))


class Stage(nn.Module):
    """A convolution, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Return the rectified maps."""
        return self.relu(self.norm(self.conv(maps)))


class Convolutional(nn.Module):
    """Two stages with max pooling between them and global average pooling after them."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.pool1 = Stage(1, 12), nn.MaxPool2d(2)
        self.stage2, self.pool2 = Stage(12, 24), nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(24, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.stage2(self.pool1(self.stage1(pictures)))
        return self.dense(self.flatten(self.pool2(maps)))


class Block(nn.Module):
    """A transformer's block: attention and a small network of each token, both beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.dense1, self.gelu = nn.Linear(WIDTH, HIDDEN), nn.GELU()
        self.dense2 = nn.Linear(HIDDEN, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens, [B, n, width]."""
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.dense2(self.gelu(self.dense1(self.norm2(tokens))))


class Transformer(nn.Module):
    """Patches with positions, two blocks, and the mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.positions = nn.Parameter(0.1 * torch.randn(TOKENS, WIDTH))
        self.block1, self.block2 = Block(), Block()
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.dense = nn.Linear(WIDTH, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        tokens = self.patches(pictures).flatten(2).transpose(1, 2) + self.positions
        return self.dense(self.norm(self.block2(self.block1(tokens))).mean(1))


ARCHITECTURES: Final = {"mlp": Dense, "cnn": Convolutional, "transformer": Transformer}
# What PyTorch calls the parts of layers, and what the twins' files do.
SPELLINGS: Final = (
    ("running_mean", "mean"),
    ("running_var", "variance"),
    ("attention.in_proj_weight", "attention.qkv.weight"),
    ("attention.in_proj_bias", "attention.qkv.bias"),
    ("attention.out_proj", "attention.out"),
)


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Return a module's weights by the twins' names."""
    found = {name: tensor.numpy() for name, tensor in model.state_dict().items() if tensor.ndim}
    return {_spelled(name): array for name, array in found.items()}


def load(model: nn.Module, arrays: Arrays) -> None:
    """Copy weights by the twins' names into a module."""
    own = model.state_dict()
    given = {name: torch.from_numpy(arrays[_spelled(name)]) for name, tensor in own.items() if tensor.ndim}
    model.load_state_dict(own | given)


def build(network: str, framework: str, dtype: str) -> Twin:
    """Return a network as a PyTorch module in eval mode."""
    kind: torch.dtype = getattr(torch, dtype)
    with torch.random.fork_rng(devices=[]):
        model = ARCHITECTURES[network]().to(kind)
    load(model, weights(network, dtype))
    model.eval()

    def array(pictures: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(pictures)).to(kind)

    def run(inputs: Tensor) -> np.ndarray:
        with torch.no_grad():
            return model(inputs).numpy()

    return Twin(network, framework, model, array, run, False, same_names(*places(network), *_own(network)))


def _own(network: str) -> tuple[str, ...]:
    """Return the places that are modules here, and not in every framework."""
    if network == "mlp":
        return ("relu1", "relu2")
    if network == "cnn":
        return ("pool1", "pool2", *(f"{stage}.relu" for stage in STAGES))
    parts = ("norm1", "attention", "norm2", "dense1", "gelu", "dense2")
    return tuple(f"{block}.{part}" for block in BLOCKS for part in parts)


def _spelled(name: str) -> str:
    for theirs, ours in SPELLINGS:
        name = name.replace(theirs, ours)
    return name
