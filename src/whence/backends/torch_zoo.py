"""The zoo's models as plain PyTorch modules, and their training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32, Integer
from torch import Tensor, nn
from torch.nn import functional

BATCH: Final = 128
PEAK_LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 1e-4


class DigitsCNN(nn.Module):
    """A convolutional network for scikit-learn's digits: [B, 1, 8, 8] to 10 logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(32 * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.features(images).flatten(1))


class MnistCNN(nn.Module):
    """A convolutional network for MNIST: [B, 1, 28, 28] to 10 logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Linear(32 * 5 * 5, 96), nn.ReLU(), nn.Linear(96, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.features(images).flatten(1))


class MnistMLP(nn.Module):
    """A fully connected network for MNIST: [B, 1, 28, 28] to 10 logits [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(28 * 28, 160)
        self.hidden2 = nn.Linear(160, 80)
        self.output = nn.Linear(80, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        hidden = functional.relu(self.hidden1(images.flatten(1)))
        return self.output(functional.relu(self.hidden2(hidden)))


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding (before, after) of one axis; the smaller half comes first."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


class SameConvolution(nn.Conv2d):
    """A square convolution with TensorFlow's SAME padding, which depends on the size of the input."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution, [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        top, bottom = same_padding(input.shape[-2], kernel, stride)
        left, right = same_padding(input.shape[-1], kernel, stride)
        padding = (top, left)
        if top != bottom or left != right:
            # Only stride 2 on an even length gets here; everywhere else the convolution pads without a copy.
            input, padding = functional.pad(input, (left, right, top, bottom)), (0, 0)
        return functional.conv2d(input, self.weight, self.bias, self.stride, padding, groups=self.groups)


class Activated(nn.Module):
    """A SAME convolution followed by ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.convolution = SameConvolution(inputs, outputs, kernel, stride, groups)
        self.activation = nn.ReLU6()

    def forward(self, images: Tensor) -> Tensor:
        """Return the rectified convolution."""
        return self.activation(self.convolution(images))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand 1x1, depthwise 3x3, project 1x1, and the input added where shapes agree."""

    def __init__(self, expansion: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = expansion * inputs
        self.expand = Activated(inputs, width, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Activated(width, width, 3, stride, groups=width)
        self.project = SameConvolution(width, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output, [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        projected = self.project(self.depthwise(self.expand(images)))
        return images + projected if self.residual else projected


class MobileNetV2(nn.Module):
    """MobileNetV2 1.0, batch norm folded: RGB in [-1, 1], [B, 3, 224, 224], to logits [B, 1001].

    Class 0 is the background.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
    """

    STAGES: Final = (
        # expansion, channels, repeats, stride of the first
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = Activated(3, 32, 3, 2)
        blocks: list[nn.Module] = []
        inputs = 32
        for expansion, channels, repeats, first_stride in self.STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(InvertedResidual(expansion, inputs, channels, stride))
                inputs = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = Activated(inputs, 1280, 1)
        self.classifier = nn.Linear(1280, 1001)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.head(self.blocks(self.stem(images)))
        return self.classifier(maps.mean((2, 3)))


ARCHITECTURES: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "digits-cnn": DigitsCNN,
    "mnist-cnn": MnistCNN,
    "mnist-mlp": MnistMLP,
    "mobilenet-v2": MobileNetV2,
}


def build(name: str, seed: int = 0) -> nn.Module:
    """Return the named architecture in eval mode, initialised from `seed`; no global random state changes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[name]().eval()


# ---- training ----------------------------------------------------------------------------------------------


def train(
    name: str,
    inputs: Float32[np.ndarray, "n channels height width"],
    labels: Integer[np.ndarray, " n"],
    epochs: int,
    seed: int,
    after_epoch: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train the named architecture and return it in eval mode; one seed and number of threads, one result.

    AdamW (Loshchilov and Hutter, 2019) with the one-cycle schedule (Smith, 2018), cross-entropy.

    Args:
        name: an architecture of the zoo.
        inputs: prepared images, float32 [n, channels, height, width].
        labels: class numbers, integers [n].
        epochs: passes over the data.
        seed: of the initial weights and of the order of the examples.
        after_epoch: called with the epoch (from 1) and the model, in eval mode, after each pass.
    """
    model = build(name, seed)
    order = torch.Generator().manual_seed(seed)
    images, targets = torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.int64))
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(1, epochs + 1):
        model.train()
        for rows in torch.randperm(len(images), generator=order).split(BATCH):
            loss = functional.cross_entropy(model(images[rows]), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        model.eval()
        if after_epoch is not None:
            after_epoch(epoch, model)
    model.zero_grad()
    return model


def accuracy(
    model: nn.Module,
    inputs: Float32[np.ndarray, "n channels height width"],
    labels: Integer[np.ndarray, " n"],
    batch: int = 1000,
) -> float:
    """Return the share of prepared images, [n, channels, height, width], whose top class is the label."""
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(inputs), batch):
            top = model(torch.from_numpy(inputs[start : start + batch])).argmax(1).numpy()
            correct += int((top == labels[start : start + batch]).sum())
    return correct / len(inputs)
