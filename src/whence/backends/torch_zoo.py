"""The zoo's models as plain PyTorch modules, their training, and the reading and writing of weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from jaxtyping import Float32, Integer
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from whence.errors import BadInput
from whence.files import write_atomically

BATCH: Final = 128
PEAK_LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 1e-4
LISTED: Final = 3
"""How many tensor names an error shows."""


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


# Training


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


# Weights


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's parameters and buffers to `path` (.safetensors), all of it or nothing."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with write_atomically(path) as file:
        file.write(save(tensors))


def load_weights(model: object, path: Path) -> None:
    """Copy the tensors of a file into the model, which stays untouched unless all of them fit.

    A suffix other than .safetensors is unpickled: the caller must have asked the user for their trust.

    Raises:
        BadInput: the model is no module, the file cannot be read, or its tensors are missing, unexpected,
            misshapen or not finite.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"weights are loaded into a torch.nn.Module, not {type(model).__name__}; give such a model"
        )
    tensors = read_safetensors(path) if path.suffix.lower() == ".safetensors" else unpickle(path)
    if isinstance(model, MobileNetV2) and is_numbered(tensors):
        tensors = name_by_order(model, in_layer_order(tensors))
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    problems = [
        *names_that_differ(own, tensors),
        *shapes_that_differ(own, tensors),
        *values_not_finite(tensors, parameters),
    ]
    if problems:
        raise BadInput(
            f"{path} does not fit {type(model).__name__}: {'; '.join(problems)}; "
            "give weights that were saved from this architecture"
        )
    # Not strict: what may be missing (tied names, counters of batches) has been sorted out above.
    model.load_state_dict(tensors, strict=False)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file.

    Raises:
        BadInput: the file is truncated, corrupt or not readable.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"cannot read {path} as safetensors: {error}; save or download it again") from error


def unpickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a pickled state dict, checkpoint or module; runs whatever code the file holds.

    Raises:
        BadInput: the file cannot be unpickled or holds no state dict.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle runs code, so it can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"cannot unpickle {path}: {reason}; save the state dict as .safetensors") from error
    tensors = state_dict_in(content)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise BadInput(
            f"{path} holds no state dict (tensors by name); save model.state_dict() as .safetensors"
        )
    return dict(tensors)


def state_dict_in(content: object) -> Mapping[str, Any]:
    """Return the state dict that is, or lies in, what a checkpoint held; empty where there is none."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if not isinstance(content, Mapping):
        return {}
    mapping = cast("Mapping[str, Any]", content)
    inner = (mapping.get(key) for key in ("state_dict", "model_state_dict", "model"))
    nested = next((value for value in inner if isinstance(value, (Mapping, nn.Module))), None)
    return mapping if nested is None else state_dict_in(nested)


def is_numbered(tensors: Iterable[str]) -> bool:
    """Return whether the tensors are named by position alone, layer00.weight and so on."""
    return all(re.fullmatch(r"layer\d+\.(weight|bias)", name) for name in tensors)


def in_layer_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return numbered tensors by their layer's number, the weight before the bias."""

    def position(name: str) -> tuple[int, bool]:
        layer, kind = name.split(".")
        return int(layer.removeprefix("layer")), kind == "bias"

    return {name: tensors[name] for name in sorted(tensors, key=position)}


def name_by_order(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors that come in forward order the names of the model's own parameters, matched by position.

    The model must define its parameters in forward order too.

    Raises:
        BadInput: the numbers of tensors differ, or a shape does.
    """
    own = model.state_dict()
    if len(own) != len(tensors):
        raise BadInput(
            f"{type(model).__name__} has {len(own)} tensors, not {len(tensors)}; "
            "give a weight and a bias for each layer"
        )
    for (name, expected), (given_name, given) in zip(own.items(), tensors.items(), strict=True):
        if expected.shape != given.shape:
            raise BadInput(
                f"{given_name} is {described(given)}, but the next, {name}, is {described(expected)}; "
                "give the tensors in forward order"
            )
    return dict(zip(own, tensors.values(), strict=True))


def names_that_differ(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return what is missing and what is unexpected, one line each."""
    # safetensors keeps one name of tensors that are tied together, and older files count no batches.
    present = {(tensor.data_ptr(), tensor.shape) for name, tensor in own.items() if name in given}
    missing = [
        name
        for name, tensor in own.items()
        if name not in given
        and not (tensor.data_ptr() and (tensor.data_ptr(), tensor.shape) in present)
        and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in given if name not in own]
    problems = [("missing", missing), ("unexpected", unexpected)]
    return [f"{len(names)} {problem}: {first_few(names)}" for problem, names in problems if names]


def shapes_that_differ(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors whose shape or kind of number is not the model's, as at most one line."""
    different = [
        f"{name} is {described(given[name])}, not {described(tensor)}"
        for name, tensor in own.items()
        if name in given and not nn.parameter.is_lazy(tensor) and not alike(tensor, given[name])
    ]
    return [f"{len(different)} mismatched: {first_few(different)}"] if different else []


def alike(first: Tensor, second: Tensor) -> bool:
    """Return whether one tensor can be copied to the other without loss of meaning."""
    return (
        first.shape == second.shape
        and first.is_complex() == second.is_complex()
        and first.is_floating_point() == second.is_floating_point()
    )


def described(tensor: Tensor) -> str:
    """Return a tensor's dtype and shape in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def values_not_finite(given: Mapping[str, Tensor], parameters: set[str]) -> list[str]:
    """Return the tensors that hold NaN, or as parameters infinities, as at most one line."""
    # A buffer may well be infinite: a causal mask is.
    bad = [
        name
        for name, tensor in given.items()
        if (tensor.is_floating_point() or tensor.is_complex())
        and bool((~wide(tensor).isfinite() if name in parameters else wide(tensor).isnan()).any())
    ]
    return [f"{len(bad)} not finite: {first_few(bad)}"] if bad else []


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in a dtype that every check is implemented for: 8-bit floats have few operations."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def first_few(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
