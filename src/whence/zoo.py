"""The small reference models, by name: what they take, their weights and their training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float32

from whence.errors import BadInput, WorkFailed
from whence.naming import unknown
from whence.preprocess import Preprocess

if TYPE_CHECKING:
    from whence.data import Dataset

PICKLES: Final = (".pt", ".pth", ".bin")
LABELS_FILE: Final = "imagenet_labels.txt"
DIGITS: Final = tuple("0123456789")


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        name: what `load` and the command line call it.
        summary: one line.
        preprocess: from a picture in pixels to the model's input.
        labels: the classes' names; None where the user brings them.
        classes: how many logits the model gives.
        channels: 1 for grey pictures, 3 for RGB.
        data: the data set that its shipped weights are trained on ("digits", "mnist"); None ships none.
        epochs: passes over `data` that the shipped weights took.
    """

    name: str
    summary: str
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    classes: int
    channels: int
    data: str | None = None
    epochs: int = 0


@dataclass(frozen=True)
class Loaded:
    """A model with its weights, in eval mode, and what its pictures and classes mean.

    Attributes:
        model: a `torch.nn.Module`, [B, channels, height, width] to logits [B, classes].
        preprocess: from a picture in pixels to the model's input.
        labels: the classes' names, or None.
        name: the zoo's name.
    """

    model: Any
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    name: str


# The mean and standard deviation of MNIST's training pixels, in [0, 1].
_MNIST: Final = Preprocess(size=28, channels=1, mean=(0.1307,), std=(0.3081,))

ENTRIES: Final = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry(
                name="digits-cnn",
                summary="two convolutions on scikit-learn's 8 x 8 handwritten digits",
                preprocess=Preprocess(size=8, channels=1),
                labels=DIGITS,
                classes=10,
                channels=1,
                data="digits",
                epochs=40,
            ),
            Entry(
                name="mnist-cnn",
                summary="two convolutions and two linear layers on MNIST's 28 x 28 handwritten digits",
                preprocess=_MNIST,
                labels=DIGITS,
                classes=10,
                channels=1,
                data="mnist",
                epochs=8,
            ),
            Entry(
                name="mnist-mlp",
                summary="three linear layers on MNIST's 28 x 28 handwritten digits",
                preprocess=_MNIST,
                labels=DIGITS,
                classes=10,
                channels=1,
                data="mnist",
                epochs=12,
            ),
            Entry(
                name="mobilenet-v2",
                summary="MobileNetV2 1.0 on ImageNet photographs, 1,001 classes, with weights that you bring",
                preprocess=Preprocess(size=224, channels=3, mean=(0.5,), std=(0.5,)),
                labels=None,
                classes=1001,
                channels=3,
            ),
        )
    }
)


def names() -> tuple[str, ...]:
    """Return the names of the zoo's models."""
    return tuple(ENTRIES)


def entry(name: str) -> Entry:
    """Return the zoo's entry of that name.

    Raises:
        BadInput: there is none; near names are offered.
    """
    if name not in ENTRIES:
        raise BadInput(unknown("model of the zoo", name, ENTRIES))
    return ENTRIES[name]


def load(name: str, weights: str | Path | None = None, *, trust: bool = False) -> Loaded:
    """Return a model of the zoo with its weights, in eval mode.

    Args:
        name: one of `names()`.
        weights: a .safetensors file instead of the shipped weights; needed where none are shipped.
        trust: also unpickle .pt, .pth and .bin files, which runs whatever code they hold.

    Raises:
        BadInput: an unknown name, no weights, or weights that cannot be read or do not fit.
        WorkFailed: PyTorch is not installed.
    """
    record = entry(name)
    if weights is None and record.data is None:
        raise BadInput(
            f"{name} ships no weights; download or export them as .safetensors and give the file: "
            f'--weights {name.replace("-", "_")}.safetensors, or zoo.load("{name}", weights=...)'
        )
    model = _torch("zoo").build(name)
    if weights is None:
        with as_file(files("whence") / "weights" / f"{name}.safetensors") as shipped:
            load_weights(model, shipped)
    else:
        load_weights(model, weights, trust=trust)
    return Loaded(model, record.preprocess, record.labels or _labels_beside(weights, record.classes), name)


def load_weights(model: Any, path: str | Path, *, trust: bool = False) -> None:
    """Copy the weights in a file into a `torch.nn.Module`, which stays untouched unless all of them fit.

    Args:
        model: any `torch.nn.Module`; MobileNetV2's tensors may also be named by their order (layer00.weight).
        path: a .safetensors file.
        trust: also unpickle .pt, .pth and .bin files, which runs whatever code they hold.

    Raises:
        BadInput: the file is missing, corrupt, of a refused kind, or its tensors are missing, unexpected,
            misshapen or not finite.
        WorkFailed: PyTorch is not installed.
    """
    check_weights(path, trust=trust)
    _torch("weights").load_weights(model, Path(path))


def check_weights(path: str | Path, *, trust: bool = False) -> None:
    """Refuse a weights file that is missing or of a refused kind, without opening it or importing PyTorch."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix != ".safetensors" and suffix not in PICKLES:
        raise BadInput(f"cannot read weights from {path}: it is no .safetensors; save the state dict as one")
    if suffix in PICKLES and not trust:
        raise BadInput(
            f"{path} is a pickle, which can run any code when opened, and is refused; "
            "save the state dict as .safetensors, or pass --trust (trust=True) if you trust its source"
        )
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "there is no such file"
        raise BadInput(f"cannot read weights from {path}: {problem}; check the path")


def save_weights(model: Any, path: str | Path) -> None:
    """Write the weights of one of the zoo's modules to a .safetensors file, all of it or nothing.

    Raises:
        BadInput: the file cannot be written there.
        WorkFailed: PyTorch is not installed.
    """
    _torch("weights").save_weights(model, Path(path))


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Return the class names in a UTF-8 text file, one a line, the first being class 0.

    Raises:
        BadInput: the file is missing, is not text, is empty or has an empty line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise BadInput(f"cannot read labels from {path}: {problem.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise BadInput(f"cannot read labels from {path}: not UTF-8 text; give one name per line") from None
    labels = tuple(line.strip() for line in text.rstrip().split("\n"))
    if "" in labels:
        line = labels.index("") + 1
        raise BadInput(f"cannot read labels from {path}: line {line} is empty; give one name per line")
    return labels


def train(
    name: str,
    dataset: Dataset,
    epochs: int | None = None,
    seed: int = 0,
    after_epoch: Callable[[int, Any], None] | None = None,
) -> tuple[Any, float]:
    """Train a small model of the zoo and return it, in eval mode, with its accuracy on the test images.

    The same seed, number of threads and machine give the same weights.

    Args:
        name: one of `names()` whose weights are shipped.
        dataset: images uint8 [n, height, width] and integer labels [n], for training and for testing.
        epochs: passes over the training images; None takes what the shipped weights took.
        seed: of the initial weights and of the order of the images.
        after_epoch: called with the epoch (from 1) and the model after each pass.

    Raises:
        BadInput: an unknown name, a model that is not trained here, no epochs, or images of another size.
        WorkFailed: PyTorch is not installed.
    """
    record = entry(name)
    inputs = _prepared(record, dataset.train_images)
    epochs = record.epochs if epochs is None else epochs
    if epochs < 1:
        raise BadInput(f"epochs is {epochs}; train for at least 1")
    model = _torch("zoo").train(name, inputs, dataset.train_labels, epochs, seed, after_epoch)
    return model, accuracy(Loaded(model, record.preprocess, record.labels, name), dataset)


def accuracy(loaded: Loaded, dataset: Dataset) -> float:
    """Return the share of a data set's test images, uint8 [n, height, width], whose top class is the label.

    Raises:
        BadInput: the images have another size than the model's, or are not uint8.
        WorkFailed: PyTorch is not installed.
    """
    inputs = _prepared(entry(loaded.name), dataset.test_images)
    return _torch("zoo").accuracy(loaded.model, inputs, dataset.test_labels)


def _torch(part: str) -> ModuleType:
    """Return whence.backends.torch_zoo or torch_weights, importing PyTorch only now."""
    try:
        return import_module(f"whence.backends.torch_{part}")
    except ModuleNotFoundError as problem:
        if problem.name != "torch":
            raise
        raise WorkFailed("the zoo's models need PyTorch; pip install 'whence[torch]'") from None


def _prepared(record: Entry, images: np.ndarray) -> Float32[np.ndarray, "n 1 height width"]:
    """Return images, uint8 [n, height, width], as the model takes them: float32 [n, 1, height, width]."""
    if record.data is None:
        small = ", ".join(name for name, other in ENTRIES.items() if other.data)
        raise BadInput(f"{record.name} is neither trained nor measured here; choose one of {small}")
    side = record.preprocess.size
    if images.dtype != np.uint8 or images.shape[1:] != (side, side):
        raise BadInput(
            f"{record.name} takes uint8 images [n, {side}, {side}], not {images.dtype} {list(images.shape)}; "
            f'give it the data set "{record.data}"'
        )
    low, high = record.preprocess.range
    scaled = images[:, None].astype(np.float32) / np.float32(255) * np.float32(high - low) + np.float32(low)
    return (scaled - np.float32(record.preprocess.mean[0])) / np.float32(record.preprocess.std[0])


def _labels_beside(weights: str | Path | None, classes: int) -> tuple[str, ...] | None:
    """Return the labels that lie in the weights' folder, if any."""
    if weights is None or not (path := Path(weights).with_name(LABELS_FILE)).is_file():
        return None
    labels = read_labels(path)
    if len(labels) != classes:
        raise BadInput(f"{path} has {len(labels)} labels and the model {classes} classes; correct or move it")
    return labels
