"""Writing files so that nothing half-written is ever left."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from whence.errors import BadInput


@contextmanager
def write_atomically(path: str | Path) -> Generator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its name only when the block ends well.

    Raises:
        BadInput: the folder does not exist and cannot be made, or cannot be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise BadInput(f"cannot write {path}: it is a folder; give a file name inside it")
        handle = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
    except OSError as problem:
        raise BadInput(f"cannot write {path}: {problem.strerror or problem}; choose another folder") from None
    temporary = Path(handle.name)
    try:
        with handle:
            yield handle
        # mkstemp makes files private; a user expects the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise BadInput(f"cannot write {path}: {problem.strerror or problem}; choose another folder") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
