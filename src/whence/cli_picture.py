"""Pictures for the command line: as they are, as they are explained, and others to compare them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import UInt8

from whence import cli_parse, data
from whence.errors import Refused
from whence.loading import Source

if TYPE_CHECKING:
    from whence.cli_options import QuestionFlags

LARGEST: Final = 1024
"""Pixels of the longer side beyond which a picture is explained at a smaller size."""
MOST_ROWS: Final = 200
"""How many pictures of a background are used."""


@dataclass(frozen=True)
class Picture:
    """A picture file: as it is, and as it is explained.

    Attributes:
        path: the file.
        stem: its name without the ending, made unique among the pictures of a command.
        original: its pixels.
        given: its pixels in the size and with the channels that are explained, as a batch of one.
        notes: how the two differ.
    """

    path: Path
    stem: str
    original: UInt8[np.ndarray, "h w c"]
    given: UInt8[np.ndarray, "1 height width channels"]
    notes: tuple[str, ...] = ()


def picture_files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return the picture files that are named, or lie in folders that are, each with a stem of its own.

    Raises:
        BadInput: one is missing or damaged: found before the work begins.
    """
    files = data.image_files(paths)
    for file in files:
        data.read_image(file)
    stems: dict[str, int] = {}
    named: list[tuple[Path, str]] = []
    for file in files:
        stems[file.stem] = stems.get(file.stem, 0) + 1
        number = stems[file.stem]
        named.append((file, file.stem if number == 1 else f"{file.stem}-{number}"))
    return named


def read_picture(path: Path, stem: str, channels: int | None) -> Picture:
    """Return a picture, in the size and with the channels that are explained."""
    original = data.read_image(path)
    given, notes = original, list[str]()
    height, width = original.shape[:2]
    if max(height, width) > LARGEST:
        factor = LARGEST / max(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        given = resized(given, size)
        notes.append(
            f"the picture has {width} × {height} pixels; it was explained at {size[1]} × {size[0]}, "
            "and the overlay stretched back"
        )
    if channels is not None and channels != given.shape[2]:
        given = data.to_channels(given, channels)
        what = (
            "grey; its level was given to all three colours"
            if channels == 3
            else "in colour; it was turned to grey"
        )
        notes.append(
            f"the picture is {what}, as the model takes {channels} channel{'s' if channels > 1 else ''}"
        )
    return Picture(path, stem, original, given[None], tuple(notes))


def resized(image: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width c"]:
    """Return a picture at (height, width), averaging where it shrinks."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    drawn = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    height, width = size
    return np.array(drawn.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)


def background(source: Source, picture: Picture, question: QuestionFlags) -> UInt8[np.ndarray, "rows h w c"]:
    """Return rows that stand for ordinary inputs, shaped like the picture; nothing is ever downloaded.

    Raises:
        Refused: there are none; the message says how to give some.
    """
    height, width, channels = picture.given.shape[1:]
    if question.background is not None:
        files = data.image_files([question.background])
        images = [data.read_image(file) for file in _spread(files)]
    else:
        images = [image[..., None] for image in _spread(_training_images(source, question.data_dir))]
    return np.stack([resized(data.to_channels(image, channels), (height, width)) for image in images])


def _training_images(source: Source, data_dir: Path | None) -> UInt8[np.ndarray, "n h w"]:
    if source.data == "digits":
        return data.digits().train_images
    if source.data == "mnist":
        folder = data._data_folder(data_dir)
        if all(data._find(folder, file) is not None for file in data.MNIST_FILES):
            return data.mnist(folder, progress=False).train_images
        raise Refused(
            f"it compares with ordinary pictures, and MNIST is not in {folder}: give --data-dir or --background FOLDER"
        )
    raise Refused("it compares with ordinary pictures: give a folder of some with --background FOLDER")


def _spread(rows: Any) -> Any:
    """Return at most MOST_ROWS rows, evenly spread."""
    step = max(1, len(rows) // MOST_ROWS)
    return rows[::step][:MOST_ROWS]


def baseline(text: str, picture: Picture) -> Any:
    """Return what a --baseline means: a number, a name, or a picture file in the size of the explained one."""
    if not Path(text).is_file():
        return cli_parse.named_baseline(text)
    height, width, channels = picture.given.shape[1:]
    image = data.read_image(text)
    return resized(data.to_channels(image, channels), (height, width))[None]
