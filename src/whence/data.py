"""Pictures to explain: two sets of handwritten digits, and picture files."""

from __future__ import annotations

import math
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64, UInt8

from whence.download import RemoteFile, content_md5, download, open_content
from whence.errors import BadInput, WhenceError, WorkFailed

if TYPE_CHECKING:
    from PIL.Image import Image

DATA_DIR_VARIABLE = "WHENCE_DATA_DIR"
"""The environment variable that names the folder of MNIST's files."""
MIRRORS: tuple[str, ...] = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "https://raw.githubusercontent.com/fgnt/mnist/master",
)
"""Folders on the web that hold MNIST's files, in the order they are tried."""
MNIST_FILES: tuple[RemoteFile, ...] = (
    RemoteFile("train-images-idx3-ubyte.gz", "6bbc9ace898e44ae57da46a324031adb"),
    RemoteFile("train-labels-idx1-ubyte.gz", "a25bea736e30d166cdddb491f175f624"),
    RemoteFile("t10k-images-idx3-ubyte.gz", "2646ac647ad5339dbf082846283269ea"),
    RemoteFile("t10k-labels-idx1-ubyte.gz", "27ae3e4e09519cfbb04c329615203637"),
)
"""MNIST's training images, training labels, test images and test labels."""
MAX_PIXELS = 50_000_000
"""The largest picture that is decoded; a small file can claim any size."""
IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""What the name of a picture in a folder ends with, in small or capital letters."""

# Pillow reads more, but some of it (PostScript) by running another program on the file.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF")
_MAX_IDX_BYTES = 2**30
_UNSIGNED_BYTES = 0x08


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures of ten classes, or whatever the labels number, in two parts that share none.

    Attributes:
        name: what reports call it.
        train_images: grey levels 0 (background) to 255, [n, height, width], uint8.
        train_labels: the class of each training image, [n], int64.
        test_images: grey levels of the other part, [m, height, width], uint8.
        test_labels: the class of each test image, [m], int64.
    """

    name: str
    train_images: UInt8[np.ndarray, "n height width"]
    train_labels: Int64[np.ndarray, " n"]
    test_images: UInt8[np.ndarray, "m height width"]
    test_labels: Int64[np.ndarray, " m"]


def digits() -> Dataset:
    """Return the 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn; needs no network.

    Grey levels 0..16 are scaled to 0..255. Of each class a fifth, always the same, is the test part
    (1,438 + 359 images).
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    is_test = np.zeros(len(labels), dtype=bool)
    # RandomState's numbers are frozen for good; default_rng's may change between releases of NumPy.
    random = np.random.RandomState(0)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        is_test[members[: round(len(members) / 5)]] = True
    return Dataset("digits", images[~is_test], labels[~is_test], images[is_test], labels[is_test])


def mnist(
    data_dir: str | Path | None = None, *, progress: bool = True, mirrors: Sequence[str] | None = None
) -> Dataset:
    """Return MNIST, 60,000 + 10,000 handwritten digits of 28 x 28 pixels; downloads 11 MB the first time.

    The folder is `data_dir`, else what WHENCE_DATA_DIR names, else the user's cache. It holds the four IDX
    files, gzipped or not, under their usual names; other sets in that form (Fashion-MNIST) are taken as they
    are. Files that are absent are downloaded into the folder and must then be MNIST's own.

    Args:
        data_dir: the folder of the four files.
        progress: show a bar for each download.
        mirrors: addresses of folders that hold the files, tried in order; MIRRORS where None.

    Raises:
        BadInput: a file there is not valid IDX of the right shape, or only some files of another set are
            there, or the folder cannot be written to.
        WorkFailed: the files are absent and no mirror gave them.
    """
    folder = _data_folder(data_dir)
    paths = [_find(folder, file) for file in MNIST_FILES]
    if None in paths:
        paths = _complete(folder, paths, MIRRORS if mirrors is None else mirrors, progress)
    found = [path for path in paths if path is not None]
    train_images, train_labels = _labelled_images(*found[:2])
    test_images, test_labels = _labelled_images(*found[2:])
    return Dataset("mnist", train_images, train_labels, test_images, test_labels)


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w c"]:
    """Read a picture as it is meant to be seen.

    Levels 0..255, [h, w, c], uint8, with c = 1 for grey and 3 for red, green and blue. Palettes and CMYK
    become red, green and blue; 16-bit grey levels are scaled to 8 bits; transparency is laid on white; EXIF's
    orientation is applied; of an animation the first frame is read. Colour profiles are not applied.

    Raises:
        BadInput: the file is missing, a folder, not a picture, damaged, empty, of more than MAX_PIXELS
            pixels, or of a kind of pixel that has no known range (floating point, 32 bits).
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    _refuse_what_is_no_file(path)
    try:
        with warnings.catch_warnings():
            # What Pillow warns of is refused below (large sizes) or does not matter (damaged EXIF).
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                _refuse_size(path, picture.size)
                return _pixels(ImageOps.exif_transpose(picture))
    except WhenceError:
        raise
    except Image.DecompressionBombError:
        raise BadInput(f"cannot read {path}: more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except UnidentifiedImageError:
        kinds = ", ".join(_FORMATS)
        raise BadInput(
            f"cannot read {path}: of zero size, damaged at its beginning or not a picture ({kinds})"
        ) from None
    except Exception as problem:
        # A decoder raises whatever a damaged file makes it trip over: OSError, SyntaxError, struct.error, ...
        reason = " ".join(
            str(getattr(problem, "strerror", None) or problem or type(problem).__name__).split()
        )
        raise BadInput(f"cannot read {path}: {reason}; get the file again, or save it as PNG") from None


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files among `paths` as given, and for each folder the pictures right in it, sorted by name.

    Raises:
        BadInput: a path does not exist, or a folder holds no file that ends with one of IMAGE_SUFFIXES.
    """
    files: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            files.extend(_pictures_in(path))
        else:
            _refuse_what_is_no_file(path)
            files.append(path)
    return files


def to_channels(image: UInt8[np.ndarray, "h w c"], channels: int) -> UInt8[np.ndarray, "h w channels"]:
    """Return the picture, [h, w, channels], with 1 channel (luminance, ITU-R 601) or 3 (the level repeated).

    Raises:
        BadInput: the picture is not [h, w, c] uint8, or c to `channels` is not 1 to 3, 3 to 1 or no change.
    """
    from PIL import Image

    if image.ndim != 3 or image.dtype != np.uint8:
        raise BadInput(f"to_channels: the picture is {image.dtype} {image.shape}; it must be uint8 (h, w, c)")
    have = image.shape[2]
    if have == channels:
        return image
    if (have, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (have, channels) == (3, 1):
        return np.array(Image.fromarray(image).convert("L"))[:, :, np.newaxis]
    raise BadInput(f"to_channels: cannot turn {have} channels into {channels}; only 1 into 3 and 3 into 1")


def _data_folder(data_dir: str | Path | None) -> Path:
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if named:
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("whence")) / "mnist"


def _find(folder: Path, file: RemoteFile) -> Path | None:
    """Return the file under one of its usual names, the quickest to read first."""
    dashed = file.name.removesuffix(".gz")
    dotted = dashed.replace("-idx", ".idx")
    names = (dashed, dotted, f"{dashed}.gz", f"{dotted}.gz")
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)


def _complete(
    folder: Path, paths: Sequence[Path | None], mirrors: Sequence[str], progress: bool
) -> list[Path | None]:
    """Download the files whose path is None."""
    for file, path in zip(MNIST_FILES, paths, strict=True):
        # MNIST's labels beside another set's images would be wrong without a sign of it.
        if path is not None and content_md5(path) != file.md5:
            absent = ", ".join(f.name for f, p in zip(MNIST_FILES, paths, strict=True) if p is None)
            raise BadInput(
                f"{folder} holds {path.name}, which is not MNIST's own, but not {absent}: add the rest"
            )
    # One address alone is a sequence too, of letters.
    mirrors = (mirrors,) if isinstance(mirrors, str) else mirrors
    try:
        return [
            path or download(file, folder, mirrors, progress=progress)
            for file, path in zip(MNIST_FILES, paths, strict=True)
        ]
    except WorkFailed as failure:
        raise WorkFailed(
            f"{failure}; put MNIST's four files in {folder}, or name the folder that holds them "
            f"with --data-dir or {DATA_DIR_VARIABLE}"
        ) from None


def _labelled_images(
    images_path: Path, labels_path: Path
) -> tuple[UInt8[np.ndarray, "n 28 28"], Int64[np.ndarray, " n"]]:
    images = _read_idx(images_path, (None, 28, 28))
    labels = _read_idx(labels_path, (None,))
    if len(images) != len(labels):
        raise BadInput(
            f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels; "
            "take both from the same set"
        )
    return images, labels.astype(np.int64)


def _read_idx(path: Path, expected: tuple[int | None, ...]) -> UInt8[np.ndarray, "n ..."]:
    """Read an IDX file of unsigned bytes of the shape `expected`, where None is any number of at least 1."""
    try:
        with open_content(path) as content:
            shape = _idx_shape(path, content.read(4 + 4 * len(expected)), expected)
            size = math.prod(shape)
            body = content.read(size + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise BadInput(f"cannot read {path}: {problem}; delete it or get it again") from None
    if len(body) != size:
        holds = f"only {len(body):,}" if len(body) < size else "more"
        raise BadInput(
            f"{path} announces {size:,} bytes of data and holds {holds}; delete it or get it again"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape).copy()


def _idx_shape(path: Path, header: bytes, expected: tuple[int | None, ...]) -> tuple[int, ...]:
    magic = bytes((0, 0, _UNSIGNED_BYTES, len(expected)))
    if len(header) != 4 + 4 * len(expected) or not header.startswith(magic):
        raise BadInput(
            f"{path} is not an IDX file of {len(expected)}-dimensional unsigned bytes: it begins with "
            f"{header[:4].hex() or 'nothing'}, not {magic.hex()}; delete it or get it again"
        )
    shape = struct.unpack(f">{len(expected)}I", header[4:])
    wrong = any(want not in (None, have) for have, want in zip(shape, expected, strict=True))
    if wrong or not 0 < math.prod(shape) <= _MAX_IDX_BYTES:
        form = " x ".join("n" if want is None else str(want) for want in expected)
        raise BadInput(f"{path} has the shape {' x '.join(map(str, shape))}; it must be {form}, n at least 1")
    return shape


def _pictures_in(folder: Path) -> list[Path]:
    try:
        files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as problem:
        raise BadInput(f"cannot list {folder}: {problem.strerror or problem}") from None
    # Names with a dot in front are hidden, and often another program's notes on the picture of that name.
    files = sorted(path for path in files if path.is_file() and not path.name.startswith("."))
    if not files:
        raise BadInput(
            f"{folder} holds no pictures; their names end with {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return files


def _refuse_what_is_no_file(path: Path) -> None:
    if os.path.isfile(path):
        return
    what = "it is a folder" if os.path.isdir(path) else "there is no such file"
    raise BadInput(f"cannot read {path}: {what}; give the path of a picture file")


def _refuse_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise BadInput(
            f"cannot read {path}: {width} x {height} is more than {MAX_PIXELS:,} pixels; make it smaller"
        )


def _pixels(picture: Image) -> UInt8[np.ndarray, "h w c"]:
    """Return the levels of a decoded picture of any mode."""
    from PIL import Image

    if picture.mode.startswith("I"):
        return _from_16_bits(np.asarray(picture))
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    levels = np.array(picture.convert("L" if grey else "RGB"))
    return levels.reshape(*levels.shape[:2], -1)


def _from_16_bits(levels: np.ndarray) -> UInt8[np.ndarray, "h w 1"]:
    if levels.min() < 0 or levels.max() > 65_535:
        raise ValueError("its pixels have 32 bits, whose range is not known")
    return np.rint(levels[:, :, np.newaxis] / 257).astype(np.uint8)
