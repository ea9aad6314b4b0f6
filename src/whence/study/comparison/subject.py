"""What is studied: pictures with their labels, a few others as background, and a network that names them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Int, UInt8

from whence import data
from whence.errors import BadInput
from whence.loading import Request, Source

BACKGROUND: Final = 50
"""Pictures that stand for ordinary ones, for methods that compare with them."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a study, in the order in which they are taken: uint8 [n, height, width] or [n, h, w, channels].

    `masks` says, where it is known, which pixels are the thing itself.
    """

    name: str
    images: UInt8[np.ndarray, "n height width ..."]
    labels: Int[np.ndarray, "n"]
    background: UInt8[np.ndarray, "m height width ..."]
    masks: np.ndarray | None = None

    @property
    def checksum(self) -> int:
        """A number that tells these pictures from others."""
        found = zlib.crc32(np.ascontiguousarray(self.images).tobytes())
        for part in (self.labels, self.background, *(() if self.masks is None else (self.masks,))):
            told = f"{part.shape}{part.dtype}".encode() + np.ascontiguousarray(part).tobytes()
            found = zlib.crc32(told, found)
        return found

    @property
    def floats(self) -> np.ndarray:
        """The pictures in [0, 1], float32."""
        return self.images.astype(np.float32) / np.float32(255)

    def save(self, path: Path) -> None:
        """Write the pictures to a NumPy archive."""
        from whence.files import write_atomically

        masks = {} if self.masks is None else {"masks": self.masks}
        with write_atomically(path) as handle:
            np.savez(
                handle,
                name=self.name,
                images=self.images,
                labels=self.labels,
                background=self.background,
                **masks,  # pyright: ignore[reportArgumentType]
            )

    @classmethod
    def load(cls, path: Path) -> Pictures:
        """Read what `save` wrote."""
        with np.load(path) as stored:
            masks = stored["masks"] if "masks" in stored.files else None
            return cls(str(stored["name"]), stored["images"], stored["labels"], stored["background"], masks)


def handwritten(name: str, folder: Path | None, seed: int, most: int, progress: bool) -> Pictures:
    """Return the test digits of MNIST or of scikit-learn, in the seed's order; the background is of the training part.

    The right place of a digit is its ink: wherever it is not black. That is where a digit's evidence can be switched
    off, not proof of where the network looks.
    """
    dataset = data.digits() if name == "digits" else data.mnist(folder, progress=progress)
    random = np.random.default_rng(seed)
    order = random.permutation(len(dataset.test_images))[:most]
    others = random.permutation(len(dataset.train_images))[:BACKGROUND]
    images = dataset.test_images[order]
    return Pictures(
        dataset.name, images, dataset.test_labels[order], dataset.train_images[others], images > 0
    )


def own(path: Path, labels: Sequence[str] | None, seed: int, most: int) -> Pictures:
    """Return a user's pictures: a folder with a folder of pictures for each class, or a NumPy archive.

    The archive (.npz) holds `images` uint8 [n, height, width] or [n, height, width, 3] and `labels` [n] whole numbers,
    and may hold `masks` [n, height, width] (where the right place is) and `background` (more pictures).

    Raises:
        BadInput: there is nothing such.
    """
    if path.is_dir():
        images, numbers, extra = _from_folders(path, labels)
    elif path.suffix == ".npz" and path.is_file():
        images, numbers, extra = _from_archive(path)
    else:
        raise BadInput(
            f"--data {path}: give a folder with a folder of pictures for each class, or an .npz archive"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    background = extra.get("background")
    if background is None:
        if len(images) < 4:
            raise BadInput(f"--data {path}: {len(images)} pictures are too few; give at least 4")
        few = min(BACKGROUND, len(images) // 4)
        background, order = images[order[:few]], order[few:]
    order = order[:most]
    masks = extra.get("masks")
    return Pictures(
        path.name, images[order], numbers[order], background, None if masks is None else masks[order]
    )


def _from_folders(
    path: Path, labels: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not folders:
        raise BadInput(
            f"--data {path}: it holds no folders; sort its pictures into one folder for each class"
        )
    images: list[np.ndarray] = []
    numbers: list[int] = []
    numbered = [each.name.isdigit() for each in folders]
    if labels is None and any(numbered) and not all(numbered):
        raise BadInput(f"--data {path}: some folders are numbers and some are names; name all in one way")
    for place, folder in enumerate(folders):
        number = _class_of(folder.name, place, labels)
        for each in data.image_files([folder]):
            picture = data.read_image(each)
            images.append(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
            numbers.append(number)
    shapes = {each.shape for each in images}
    if len(shapes) > 1:
        raise BadInput(
            f"--data {path}: its pictures differ in size or colour ({', '.join(map(str, sorted(shapes)[:3]))}); bring "
            "them to one size first"
        )
    return np.stack(images), np.array(numbers), {}


def _class_of(name: str, place: int, labels: Sequence[str] | None) -> int:
    if labels is not None and name in labels:
        return list(labels).index(name)
    if name.isdigit():
        return int(name)
    if labels is None:
        return place
    raise BadInput(
        f"--data: the folder {name!r} is no class of the model; name it by a label, or by its number"
    )


def _from_archive(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, BadZipFile) as problem:
        raise BadInput(f"--data {path}: cannot be read ({problem})") from None
    missing = {"images", "labels"} - set(arrays)
    if missing:
        raise BadInput(
            f"--data {path}: it lacks {' and '.join(sorted(missing))}; it holds {', '.join(arrays) or 'nothing'}"
        )
    images, labels = arrays["images"], arrays["labels"]
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[-1] not in (1, 3))
    ):
        raise BadInput(
            f"--data {path}: images is {images.dtype} {images.shape}; it is uint8 [n, height, width] or [n, h, w, 3]"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise BadInput(
            f"--data {path}: labels is {labels.dtype} {labels.shape}; it is one whole number a picture"
        )
    if not len(images):
        raise BadInput(f"--data {path}: it holds no pictures")
    background = arrays.get("background")
    if background is not None and (background.dtype != np.uint8 or background.shape[1:] != images.shape[1:]):
        raise BadInput(
            f"--data {path}: background is {background.dtype} {background.shape}; it is uint8, like the pictures "
            f"{images.shape[1:]}"
        )
    masks = arrays.get("masks")
    if masks is not None and masks.shape != images.shape[:3]:
        raise BadInput(f"--data {path}: masks is {masks.shape} and the pictures are {images.shape[:3]}")
    return (
        images,
        labels.astype(np.int64),
        {key: arrays[key] for key in ("masks", "background") if key in arrays},
    )


def source(network: str, request: dict[str, Any]) -> Source:
    """Return a network of the zoo, or the user's own as the request has it, ready to be explained."""
    if not request:
        return Request(network).load()
    given = dict(request)
    weights = given.pop("weights", None)
    for name in ("size", "crop", "mean", "std"):
        given[name] = tuple(given[name]) if isinstance(given.get(name), list) else given.get(name)
    labels = given.get("labels")
    given["labels"] = None if labels is None else Path(labels)
    return Request(**given).load(None if weights is None else Path(weights))
