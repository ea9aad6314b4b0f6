"""Getting a file from the first mirror that serves the right content, going on where a connection was cut."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whence.errors import BadInput, WorkFailed

if TYPE_CHECKING:
    from requests import RequestException, Response

ATTEMPTS = 5
"""How often one mirror is asked again after it cut the connection."""
TIMEOUT = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
MAX_BYTES = 100_000_000
"""What a mirror sends beyond this many bytes is no file of ours."""
# A read that a cut connection interrupts is lost, so a read is short.
_CHUNK_BYTES = 16_384


@dataclass(frozen=True)
class RemoteFile:
    """A file that every mirror holds.

    Attributes:
        name: its name there and here, suffix included.
        md5: of the content without gzip, 32 hexadecimal digits; mirrors compress the same content in
            different ways.
    """

    name: str
    md5: str


class _MirrorError(Exception):
    """One mirror did not give the file; the message is a short reason."""


class _CutError(_MirrorError):
    """The mirror began to answer and stopped, so that asking again is worth while."""


def open_content(path: Path) -> gzip.GzipFile | BufferedReader:
    """Open a file for reading, through gzip where its first bytes (not its name) say gzip."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")


def content_md5(path: Path) -> str | None:
    """Return the MD5 of a file's content without gzip, or None for broken gzip."""
    try:
        with open_content(path) as content:
            return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return None


def download(file: RemoteFile, folder: Path, mirrors: Sequence[str], *, progress: bool = True) -> Path:
    """Put `file` into `folder` from the first of `mirrors` that serves the right content, return its path.

    A cut connection is taken up where it stopped, in this call or a later one. The file takes its name only
    when its checksum is right; a file that has its name already is not asked for.

    Raises:
        BadInput: the folder cannot be made or written to.
        WorkFailed: every mirror failed, each with its reason, or writing did (a full disk).
    """
    with _one_process_at_a_time(folder):
        target = folder / file.name
        # Another process may have got it while this one waited.
        if target.exists():
            return target
        try:
            _first_good(file, folder, mirrors, progress).replace(target)
        except OSError as problem:
            raise WorkFailed(f"cannot write {target}: {problem.strerror or problem}") from None
        for leftover in folder.glob(f"{file.name}.*.part"):
            leftover.unlink(missing_ok=True)
        return target


@contextmanager
def _one_process_at_a_time(folder: Path) -> Generator[None]:
    """Let no other process write the same partial file; where the system has no such lock, do without."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".download.lock").open("ab")
    except OSError as problem:
        reason = problem.strerror or problem
        raise BadInput(f"cannot write in {folder}: {reason}; choose another folder") from None
    with lock:
        # Windows has no fcntl, and some network file systems refuse the lock.
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _first_good(file: RemoteFile, folder: Path, mirrors: Sequence[str], progress: bool) -> Path:
    """Return the checked partial file of the first mirror that works."""
    reasons: list[str] = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file.name}"
        # One partial file per address: another mirror's bytes may be compressed differently.
        address = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()[:8]
        partial = folder / f"{file.name}.{address}.part"
        try:
            _fetch_checked(url, partial, file.md5, progress)
        except _MirrorError as failure:
            reasons.append(f"{urlsplit(url).netloc or mirror}: {failure}")
        else:
            return partial
    raise WorkFailed(f"cannot download {file.name} ({'; '.join(reasons) or 'no mirrors were given'})")


def _fetch_checked(url: str, partial: Path, md5: str, progress: bool) -> None:
    """Leave the whole file with the right content at `partial`; a wrong one is deleted."""
    resumed = _bytes_in(partial) > 0
    _fetch_whole(url, partial, progress)
    if content_md5(partial) == md5:
        return
    partial.unlink()
    if not resumed:
        raise _MirrorError("the content is not the expected one (wrong MD5)")
    # The beginning was left by an earlier call, and may be of what the mirror served then.
    _fetch_checked(url, partial, md5, progress)


def _fetch_whole(url: str, partial: Path, progress: bool) -> None:
    """Ask until the answer was not cut, at most ATTEMPTS times."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _fetch_rest(url, partial, progress)
        except _CutError:
            if attempt == ATTEMPTS:
                raise


def _fetch_rest(url: str, partial: Path, progress: bool) -> None:
    """Append to `partial` what it lacks; a server without byte ranges begins anew."""
    import requests

    have = _bytes_in(partial)
    # The file as it lies there: a transfer encoding would make byte positions meaningless.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as problem:
        raise _MirrorError(_short_reason(problem)) from None
    with response:
        # Nothing lies beyond what is here: the checksum decides whether this is the whole file.
        if response.status_code == 416 and have:
            return
        if response.status_code not in (200, 206):
            raise _MirrorError(f"HTTP {response.status_code}")
        begin = have if response.status_code == 206 else 0
        if begin and not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            partial.unlink()
            raise _CutError("it answers with another byte range than asked for")
        _write(response, partial, begin, progress)


def _write(response: Response, partial: Path, begin: int, progress: bool) -> None:
    """Write the answer's body to `partial` from byte `begin` on, its end."""
    from tqdm.auto import tqdm
    from urllib3.exceptions import HTTPError

    length = response.headers.get("Content-Length", "")
    total = begin + int(length) if length.isdigit() else None
    name = partial.stem.rpartition(".")[0]
    bar = tqdm(total=total, initial=begin, unit="B", unit_scale=True, desc=name, disable=not progress)
    with bar, partial.open("ab" if begin else "wb") as out:
        try:
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                out.write(chunk)
                bar.update(len(chunk))
                if out.tell() > MAX_BYTES:
                    out.truncate(0)
                    raise _MirrorError(f"it sends more than {MAX_BYTES:,} bytes")
        except HTTPError:
            raise _CutError(f"the connection was cut after {out.tell():,} bytes") from None


def _bytes_in(path: Path) -> int:
    return os.path.getsize(path) if path.exists() else 0


def _short_reason(problem: RequestException) -> str:
    """Say in a few words what requests says in several lines."""
    import requests

    if isinstance(problem, requests.Timeout):
        return "no answer in time"
    if isinstance(problem, requests.exceptions.SSLError):
        return "its certificate was not accepted"
    if isinstance(problem, requests.ConnectionError):
        return "no connection"
    return type(problem).__name__
