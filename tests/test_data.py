"""Data: the two digit sets, downloads from a server on this machine, and picture files of every kind."""

import contextlib
import gzip
import hashlib
import io
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whence import data, download
from whence.download import RemoteFile
from whence.errors import BadInput, WorkFailed

REAL_FILES = data.MNIST_FILES
SHARED_MNIST = Path(__file__).parents[1].parent / "shared" / "mnist"


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


# The digits of scikit-learn


def test_digits_are_all_there_and_split_for_good():
    digits = data.digits()
    assert digits.name == "digits"
    assert digits.train_images.shape == (1438, 8, 8)
    assert digits.test_images.shape == (359, 8, 8)
    for images, labels in (
        (digits.train_images, digits.train_labels),
        (digits.test_images, digits.test_labels),
    ):
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert len(images) == len(labels)
        assert (images.min(), images.max()) == (0, 255)
    both = np.concatenate([digits.train_images, digits.test_images])
    from sklearn.datasets import load_digits

    original = np.rint(load_digits(return_X_y=True)[0].reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    assert Counter(map(bytes, both)) == Counter(map(bytes, original))
    shares = np.bincount(digits.test_labels) / np.bincount(
        np.concatenate([digits.train_labels, digits.test_labels])
    )
    np.testing.assert_allclose(shares, 0.2, atol=0.005)
    # The split must be the same on every machine and in every release.
    assert hashlib.md5(digits.test_images.tobytes()).hexdigest() == "d85b1d161b2e7e458b285b78e18118d4"
    assert np.array_equal(data.digits().test_images, digits.test_images)


# MNIST from a folder


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_set(seed: int = 0, train: int = 100, test: int = 20) -> dict[str, bytes]:
    """IDX contents by the dashed name; random pixels, so that gzip cannot make them short."""
    random = np.random.RandomState(seed)
    contents: dict[str, bytes] = {}
    for part, n in (("train", train), ("t10k", test)):
        contents[f"{part}-images-idx3-ubyte"] = idx(random.randint(0, 256, (n, 28, 28)).astype(np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx(random.randint(0, 10, n).astype(np.uint8))
    return contents


CONTENTS = small_set()
IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def small_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let MNIST's files be the small ones, and nothing outside the test's own folder be found or asked."""
    monkeypatch.setattr(data, "MIRRORS", ())
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv(data.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    remote = tuple(
        RemoteFile(f"{name}.gz", hashlib.md5(content).hexdigest()) for name, content in CONTENTS.items()
    )
    monkeypatch.setattr(data, "MNIST_FILES", remote)


def fill(folder: Path, contents: dict[str, bytes], rename: Callable[[str], str] = str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        target = rename(name)
        (folder / target).write_bytes(gzip.compress(content) if target.endswith(".gz") else content)
    return folder


@pytest.mark.parametrize(
    "rename",
    [
        str,
        lambda name: name + ".gz",
        lambda name: name.replace("-idx", ".idx"),
        lambda name: name.replace("-idx", ".idx") + ".gz",
    ],
    ids=["raw", "gz", "dotted", "dotted gz"],
)
def test_mnist_reads_every_usual_spelling(tmp_path: Path, rename: Callable[[str], str]):
    found = data.mnist(fill(tmp_path / "set", CONTENTS, rename))
    assert found.name == "mnist"
    assert found.train_images.shape == (100, 28, 28)
    assert found.train_images.dtype == np.uint8
    assert found.train_images.tobytes() == CONTENTS[IMAGES][16:]
    assert found.test_labels.dtype == np.int64
    assert found.test_labels.astype(np.uint8).tobytes() == CONTENTS["t10k-labels-idx1-ubyte"][8:]
    found.train_images[0, 0, 0] = 1  # writable: torch warns of arrays that are not


def test_mnist_folder_is_the_argument_then_the_variable_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(tmp_path / "cache" / "whence" / "mnist", small_set(3, train=3))
    assert len(data.mnist().train_images) == 3
    monkeypatch.setenv(data.DATA_DIR_VARIABLE, str(fill(tmp_path / "named", small_set(2, train=2))))
    assert len(data.mnist().train_images) == 2
    assert len(data.mnist(fill(tmp_path / "given", small_set(1, train=1))).train_images) == 1


def test_another_set_in_the_same_form_is_accepted(tmp_path: Path):
    other = small_set(seed=7, train=5, test=4)
    assert data.mnist(fill(tmp_path / "fashion", other)).train_images.tobytes() == other[IMAGES][16:]


def test_gzip_is_known_by_content_not_by_name(tmp_path: Path):
    folder = fill(tmp_path, CONTENTS)
    (folder / IMAGES).write_bytes(gzip.compress(CONTENTS[IMAGES]))
    assert len(data.mnist(folder).train_images) == 100


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (IMAGES, b"", "begins with nothing"),
        (IMAGES, b"<html>no such page</html>", "begins with 3c68746d"),
        (IMAGES, CONTENTS[LABELS], "begins with 00000801, not 00000803"),
        (IMAGES, CONTENTS[IMAGES][:-1], "holds only 78,399"),
        (IMAGES, CONTENTS[IMAGES] + b"x", "holds more"),
        (IMAGES, CONTENTS[IMAGES][:10], "is not an IDX file"),
        (IMAGES, idx(np.zeros((2, 32, 32), np.uint8)), "2 x 32 x 32; it must be n x 28 x 28"),
        (IMAGES, idx(np.zeros((0, 28, 28), np.uint8)), "n at least 1"),
        (IMAGES, struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 28, 28), "4294967295 x 28 x 28"),
        (IMAGES, b"\0\0\x0d\x03" + CONTENTS[IMAGES][4:], "begins with 00000d03"),
        (IMAGES, gzip.compress(CONTENTS[IMAGES])[:-2000], "cannot read"),
        (IMAGES, gzip.compress(b"")[:10] + b"\xff" * 99, "cannot read"),
        (LABELS, idx(np.zeros(99, np.uint8)), "100 images"),
    ],
    # gzip stores the time, and pytest-xdist wants the same names in every process.
    ids=[
        *("empty", "html", "labels", "short", "long", "header", "size", "none", "huge", "float", "cut gzip"),
        *("broken gzip", "fewer labels"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: bytes, says: str):
    folder = fill(tmp_path, CONTENTS)
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        data.mnist(folder)
    assert str(folder / name) in one_line(caught)
    assert says in one_line(caught)


def test_a_set_that_is_not_mnist_is_never_completed_with_mnist(tmp_path: Path):
    other = small_set(seed=7)
    del other[LABELS]
    with pytest.raises(BadInput, match=f"not MNIST's own, but not {LABELS}"):
        data.mnist(fill(tmp_path, other), mirrors=["http://127.0.0.1:9"])


@pytest.mark.skipif(not SHARED_MNIST.is_dir(), reason="the real MNIST files are not beside this checkout")
def test_the_real_files():
    found = data.mnist(SHARED_MNIST)
    assert found.train_images.shape == (60_000, 28, 28)
    assert found.test_images.shape == (10_000, 28, 28)
    assert found.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert found.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert [download.content_md5(SHARED_MNIST / file.name) for file in REAL_FILES] == [
        file.md5 for file in REAL_FILES
    ]


# Downloads


class Mirror(ThreadingHTTPServer):
    """Serves the small set; for a path, `plan` names what to do at each request until it is used up."""

    daemon_threads = True

    def __init__(self, contents: dict[str, bytes], level: int = 9) -> None:
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.files = {f"/{name}.gz": gzip.compress(content, level) for name, content in contents.items()}
        self.plan: dict[str, list[str]] = {}
        self.always = ""
        self.seen: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, name: str) -> list[str | None]:
        return [byte_range for path, byte_range in self.seen if path == f"/{name}.gz"]


class MirrorHandler(BaseHTTPRequestHandler):
    server: Mirror  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = 5

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        byte_range = self.headers.get("Range")
        self.server.seen.append((self.path, byte_range))
        plan = self.server.plan.get(self.path)
        action = plan.pop(0) if plan else self.server.always
        body = (
            b"<html>welcome to the hotel's network</html>"
            if action == "garbage"
            else self.server.files[self.path]
        )
        begin = int(byte_range.removeprefix("bytes=").removesuffix("-")) if byte_range else 0
        if action == "wrong range":
            begin += 1
        if action == "404":
            self.send_error(404)
            return
        if begin >= len(body):
            self.send_error(416)
            return
        if byte_range and "no range" not in action:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            body = body[begin:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if action == "encoding":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if "cut" in action else body)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving(Mirror(CONTENTS)) as server:
        yield server


@pytest.fixture
def second() -> Iterator[Mirror]:
    with serving(Mirror(CONTENTS, level=1)) as server:
        yield server


@contextlib.contextmanager
def serving(server: Mirror) -> Generator[Mirror]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".download.lock"}


ALL_NAMES = {f"{name}.gz" for name in CONTENTS}


def is_small_set(found: data.Dataset) -> bool:
    return found.train_images.tobytes() == CONTENTS[IMAGES][16:]


def test_a_download_happens_once(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "MIRRORS", (mirror.url,))
    assert is_small_set(data.mnist(progress=False))
    assert len(mirror.seen) == 4
    assert names(tmp_path / "cache" / "whence" / "mnist") == ALL_NAMES
    assert is_small_set(data.mnist(progress=False))
    assert len(mirror.seen) == 4


def test_only_what_is_absent_is_downloaded(mirror: Mirror, tmp_path: Path):
    partly = {name: content for name, content in CONTENTS.items() if name != LABELS}
    assert is_small_set(data.mnist(fill(tmp_path, partly), mirrors=[mirror.url + "/"], progress=False))
    assert mirror.seen == [(f"/{LABELS}.gz", None)]


def test_one_mirror_may_be_given_alone(mirror: Mirror, tmp_path: Path):
    assert is_small_set(data.mnist(tmp_path, mirrors=mirror.url, progress=False))


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_shown_or_not(
    mirror: Mirror, tmp_path: Path, progress: bool, capsys: pytest.CaptureFixture[str]
):
    data.mnist(tmp_path, mirrors=[mirror.url], progress=progress)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (f"{IMAGES}.gz: 100%" in captured.err) == progress
    assert (captured.err == "") == (not progress)


def test_a_cut_connection_is_taken_up_where_it_stopped(mirror: Mirror, tmp_path: Path):
    mirror.plan[f"/{IMAGES}.gz"] = ["cut", "cut"]
    assert is_small_set(data.mnist(tmp_path, mirrors=[mirror.url], progress=False))
    first, *later = mirror.asked(IMAGES)
    begins = [int(str(byte_range).removeprefix("bytes=").removesuffix("-")) for byte_range in later]
    assert first is None
    assert len(begins) == 2
    assert 0 < begins[0] < begins[1] < len(mirror.files[f"/{IMAGES}.gz"])
    assert names(tmp_path) == ALL_NAMES


def test_a_cut_connection_is_taken_up_by_the_next_call(mirror: Mirror, tmp_path: Path):
    mirror.plan[f"/{IMAGES}.gz"] = ["cut", "404"]
    with pytest.raises(WorkFailed, match="HTTP 404"):
        data.mnist(tmp_path, mirrors=[mirror.url], progress=False)
    (partial,) = names(tmp_path)
    assert partial.endswith(".part")
    begin = (tmp_path / partial).stat().st_size
    assert begin > 0
    assert is_small_set(data.mnist(tmp_path, mirrors=[mirror.url], progress=False))
    assert mirror.asked(IMAGES)[-1] == f"bytes={begin}-"
    assert names(tmp_path) == ALL_NAMES


@pytest.mark.parametrize(("answer", "requests"), [("no range", 2), ("wrong range", 3)])
def test_a_server_without_ranges_begins_anew(mirror: Mirror, tmp_path: Path, answer: str, requests: int):
    mirror.plan[f"/{IMAGES}.gz"] = ["cut", answer]
    assert is_small_set(data.mnist(tmp_path, mirrors=[mirror.url], progress=False))
    assert len(mirror.asked(IMAGES)) == requests
    assert names(tmp_path) == ALL_NAMES


def test_an_endlessly_cut_connection_ends_and_the_next_mirror_begins_anew(
    mirror: Mirror, second: Mirror, tmp_path: Path
):
    mirror.always = "cut no range"
    assert is_small_set(data.mnist(tmp_path, mirrors=[mirror.url, second.url], progress=False))
    assert len(mirror.asked(IMAGES)) == download.ATTEMPTS
    # The second mirror compresses differently: the first one's bytes must not be continued with its own.
    assert second.asked(IMAGES) == [None]
    assert names(tmp_path) == ALL_NAMES


@pytest.mark.parametrize("trouble", ["garbage", "404"])
def test_the_next_mirror_is_used(mirror: Mirror, second: Mirror, tmp_path: Path, trouble: str):
    mirror.always = trouble
    assert is_small_set(data.mnist(tmp_path, mirrors=[mirror.url, second.url], progress=False))
    assert len(mirror.seen) == len(second.seen) == 4
    assert names(tmp_path) == ALL_NAMES


def test_valid_files_with_another_content_are_not_taken(second: Mirror, tmp_path: Path):
    with serving(Mirror(small_set(seed=9))) as other:
        assert is_small_set(data.mnist(tmp_path, mirrors=[other.url, second.url], progress=False))
        assert len(other.seen) == 4


def test_a_beginning_that_does_not_fit_is_dropped(mirror: Mirror, tmp_path: Path):
    mirror.plan[f"/{IMAGES}.gz"] = ["cut", "404"]
    with pytest.raises(WorkFailed):
        data.mnist(tmp_path, mirrors=[mirror.url], progress=False)
    (partial,) = tmp_path.glob("*.part")
    partial.write_bytes(b"x" * partial.stat().st_size)
    assert is_small_set(data.mnist(tmp_path, mirrors=[mirror.url], progress=False))


def test_a_whole_partial_file_is_taken(mirror: Mirror, tmp_path: Path):
    mirror.plan[f"/{IMAGES}.gz"] = ["cut", "404"]
    with pytest.raises(WorkFailed):
        data.mnist(tmp_path, mirrors=[mirror.url], progress=False)
    (partial,) = tmp_path.glob("*.part")
    partial.write_bytes(mirror.files[f"/{IMAGES}.gz"])
    assert is_small_set(data.mnist(tmp_path, mirrors=[mirror.url], progress=False))
    assert len(mirror.asked(IMAGES)) == 3


def test_a_file_served_as_an_encoding_is_kept_as_sent(mirror: Mirror, tmp_path: Path):
    mirror.always = "encoding"
    assert is_small_set(data.mnist(tmp_path, mirrors=[mirror.url], progress=False))
    assert (tmp_path / f"{IMAGES}.gz").read_bytes() == mirror.files[f"/{IMAGES}.gz"]


def test_a_flood_is_stopped(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "MAX_BYTES", 20_000)
    with pytest.raises(WorkFailed, match="more than 20,000 bytes"):
        data.mnist(tmp_path, mirrors=[mirror.url], progress=False)
    assert names(tmp_path).isdisjoint(ALL_NAMES)


def test_when_all_fail_one_line_says_why_and_what_to_do(mirror: Mirror, second: Mirror, tmp_path: Path):
    mirror.always, second.always = "garbage", "404"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(WorkFailed) as caught:
            data.mnist(tmp_path, mirrors=[mirror.url, second.url, nobody, "no-address"], progress=False)
    for words in ("wrong MD5", "HTTP 404", "no connection", "no-address", str(tmp_path), f"{IMAGES}.gz"):
        assert words in one_line(caught)
    assert "--data-dir or WHENCE_DATA_DIR" in one_line(caught)
    assert names(tmp_path) == set()


def test_without_mirrors_nothing_is_asked(tmp_path: Path):
    with pytest.raises(WorkFailed, match="no mirrors were given"):
        data.mnist(tmp_path, mirrors=())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput) as caught:
        data.mnist(tmp_path / "file" / "folder", mirrors=["http://127.0.0.1:9"])
    assert str(tmp_path / "file" / "folder") in one_line(caught)


def test_a_full_disk_is_work_that_failed(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_write", no_space)
    with pytest.raises(WorkFailed, match="No space left on device"):
        data.mnist(tmp_path, mirrors=[mirror.url], progress=False)


def test_two_at_a_time_download_once(mirror: Mirror, tmp_path: Path):
    pytest.importorskip("fcntl", reason="this system has no file locks")
    found: list[data.Dataset] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(data.mnist(tmp_path, mirrors=[mirror.url], progress=False)),
            daemon=True,
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=8)
    assert [is_small_set(one) for one in found] == [True] * 4
    assert len(mirror.seen) == 4


# Picture files


GRADIENT = np.linspace(0, 255, 12 * 20, dtype=np.uint8).reshape(12, 20)
COLOURS = np.stack([GRADIENT, GRADIENT[::-1], 255 - GRADIENT], axis=2)


def save(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def test_grey_has_one_channel_and_colour_three(tmp_path: Path):
    grey = data.read_image(save(tmp_path / "grey.png", Image.fromarray(GRADIENT)))
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey, GRADIENT[:, :, None])
    colour = data.read_image(str(save(tmp_path / "colour.png", Image.fromarray(COLOURS))))
    np.testing.assert_array_equal(colour, COLOURS)
    colour[0, 0, 0] = 1  # writable


def test_black_and_white_becomes_0_and_255(tmp_path: Path):
    path = save(tmp_path / "bits.png", Image.fromarray(GRADIENT > 100))
    np.testing.assert_array_equal(data.read_image(path)[:, :, 0], np.where(GRADIENT > 100, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, suffix: str):
    levels = np.array([[0, 128, 129], [257 * 100, 65_406, 65_535]], dtype=np.uint16)
    path = save(tmp_path / f"deep.{suffix}", Image.fromarray(levels))
    np.testing.assert_array_equal(data.read_image(path)[:, :, 0], [[0, 0, 1], [100, 254, 255]])


@pytest.mark.parametrize(("dtype", "says"), [(np.float32, "floating-point"), (np.int32, "32 bits")])
def test_levels_without_a_range_are_refused(tmp_path: Path, dtype: type, says: str):
    path = save(tmp_path / "deep.tif", Image.fromarray(np.array([[-1, 70_000]], dtype=dtype)))
    with pytest.raises(BadInput, match=says) as caught:
        data.read_image(path)
    assert str(path) in one_line(caught)


def test_a_palette_becomes_colours(tmp_path: Path):
    picture = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 0]))
    picture.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    expected = [[[10, 20, 30], [200, 100, 50]], [[0, 255, 0], [10, 20, 30]]]
    np.testing.assert_array_equal(data.read_image(save(tmp_path / "palette.png", picture)), expected)
    see_through = data.read_image(save(tmp_path / "see_through.png", picture, transparency=0))
    expected = [[[255, 255, 255], [200, 100, 50]], [[0, 255, 0], [255, 255, 255]]]
    np.testing.assert_array_equal(see_through, expected)


def test_transparency_is_laid_on_white(tmp_path: Path):
    picture = Image.fromarray(
        np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    )
    expected = [[[200, 100, 0], [255, 255, 255], [204, 204, 204]]]
    np.testing.assert_array_equal(data.read_image(save(tmp_path / "alpha.png", picture)), expected)


def test_grey_with_transparency_stays_grey(tmp_path: Path):
    picture = Image.frombytes("LA", (3, 1), bytes([77, 255, 77, 0, 0, 51]))
    np.testing.assert_array_equal(
        data.read_image(save(tmp_path / "alpha.png", picture)), [[[77], [255], [204]]]
    )


def test_cmyk_becomes_red_green_blue(tmp_path: Path):
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = data.read_image(save(tmp_path / "print.jpg", picture, quality=100))
    assert pixels.shape == (16, 16, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to([255, 0, 0], (16, 16, 3)), atol=3)


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (2, GRADIENT[:, ::-1]),
        (3, GRADIENT[::-1, ::-1]),
        (6, np.rot90(GRADIENT)),
        (8, np.rot90(GRADIENT, -1)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, stored: np.ndarray):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(data.read_image(path)[:, :, 0], GRADIENT)


def test_a_damaged_orientation_is_passed_over_in_silence(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", Image.fromarray(GRADIENT), exif=exif)
    content = bytearray(path.read_bytes())
    begin = content.index(b"Exif\0\0") + 6
    content[begin : begin + 14] = b"MM\0*\0\0\0\x08" + b"\xff" * 6
    path.write_bytes(content)
    assert data.read_image(path).shape == (12, 20, 1)
    assert not recwarn.list


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path):
    first, *rest = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    path = save(tmp_path / "moving.gif", first, save_all=True, append_images=rest)
    np.testing.assert_array_equal(
        data.read_image(path), np.broadcast_to([255, 0, 0], (4, 4, 3)).astype(np.uint8)
    )


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def encoded(form: str, array: np.ndarray = COLOURS) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, form)
    return out.getvalue()


NOISE = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "zero size"),
        (b"just some text", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (encoded("JPEG", NOISE)[:-2000], "truncated"),
        (encoded("PNG", NOISE)[:-5000], "truncated"),
        (encoded("GIF")[:40], "cannot read"),
        (encoded("BMP")[:-100], "truncated"),
        (png_header(20_000, 20_000), "more than 50,000,000 pixels"),
        (png_header(12_000, 9_000), "12000 x 9000 is more than 50,000,000 pixels"),
        (png_header(7_072, 7_072), "7072 x 7072 is more than 50,000,000 pixels"),
        (png_header(0, 5), "zero size"),
        (png_header(5, 5), "cannot read"),
    ],
    ids=[
        "empty",
        "text",
        "eps",
        "jpeg",
        "png",
        "gif",
        "bmp",
        "400 MP",
        "108 MP",
        "50 MP",
        "no width",
        "no data",
    ],
)
def test_what_is_no_whole_picture_is_refused_in_one_line(
    tmp_path: Path, content: bytes, says: str, recwarn: pytest.WarningsRecorder
):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        data.read_image(path)
    assert str(path) in one_line(caught)
    assert says in one_line(caught)
    assert not recwarn.list


def test_what_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="there is no such file"):
        data.read_image(tmp_path / "nowhere.png")
    with pytest.raises(BadInput, match="it is a folder"):
        data.read_image(tmp_path)


def test_folders_are_expanded_and_files_kept_as_given(tmp_path: Path):
    folder = tmp_path / "pictures"
    (folder / "deeper.png").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "notes.txt", "._a.jpg", "deeper.png/c.png"):
        (folder / name).write_bytes(b"x")
    odd = tmp_path / "odd.name"
    odd.write_bytes(b"x")
    assert data.image_files([odd, folder, odd]) == [odd, folder / "a.jpg", folder / "b.PNG", odd]
    assert data.image_files([]) == []


def test_a_folder_without_pictures_and_a_missing_path_are_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(BadInput, match="holds no pictures") as caught:
        data.image_files([tmp_path])
    assert str(tmp_path) in one_line(caught)
    with pytest.raises(BadInput, match=r"nowhere\.png"):
        data.image_files([tmp_path / "nowhere.png"])


def test_to_channels():
    grey = GRADIENT[:, :, None]
    np.testing.assert_array_equal(data.to_channels(grey, 3), np.dstack([GRADIENT] * 3))
    np.testing.assert_array_equal(data.to_channels(np.dstack([GRADIENT] * 3), 1), grey)
    np.testing.assert_array_equal(data.to_channels(COLOURS, 3), COLOURS)
    luminance = data.to_channels(COLOURS, 1)
    assert (luminance.shape, luminance.dtype) == ((12, 20, 1), np.uint8)
    np.testing.assert_allclose(luminance[:, :, 0], COLOURS @ [0.299, 0.587, 0.114], atol=0.51)


@pytest.mark.parametrize(("have", "want"), [(3, 4), (4, 3), (2, 1), (1, 2), (3, 0)])
def test_to_channels_names_both_numbers(have: int, want: int):
    with pytest.raises(BadInput, match=f"{have} channels into {want}"):
        data.to_channels(np.zeros((2, 2, have), np.uint8), want)


@pytest.mark.parametrize("picture", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3))])
def test_to_channels_wants_bytes_in_three_dimensions(picture: np.ndarray):
    with pytest.raises(BadInput, match="must be uint8"):
        data.to_channels(picture, 1)
