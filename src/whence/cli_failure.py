"""How the command line ends when something went wrong: one line that says what to do, and an exit status."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from whence.errors import Refused, UnsupportedByBackend, WhenceError, WorkFailed

WRONG_USE: Final = 2
FAILED: Final = 1
INTERRUPTED: Final = 130
TRACEBACK: Final = "WHENCE_TRACEBACK"
"""Set this environment variable to see where an unexpected failure happened."""


def failed_with(words: Sequence[str], problem: Exception) -> int:
    """Tell of an exception in one line, and return the exit status."""
    if os.environ.get(TRACEBACK):
        import traceback

        traceback.print_exception(problem)
    if isinstance(problem, WorkFailed):
        return fail(words, str(problem), "WorkFailed", FAILED)
    if isinstance(problem, WhenceError):
        kind = "Refused" if isinstance(problem, Refused) else type(problem).__name__
        status = WRONG_USE if isinstance(problem, (ValueError, UnsupportedByBackend)) else FAILED
        return fail(words, str(problem), kind, status)
    if isinstance(problem, MemoryError) or "out of memory" in str(problem).lower():
        text = "there is not enough memory; try --chunk 1, --size or a smaller picture"
        return fail(words, text, "WorkFailed", FAILED)
    text = f"{type(problem).__name__}: {problem}; set {TRACEBACK}=1 to see where, and please report it"
    return fail(words, f"something failed that should not: {text}", "WorkFailed", FAILED)


def fail(words: Sequence[str], text: str, kind: str, status: int) -> int:
    """Print one line to stderr (and an object to stdout with --json), and return the exit status."""
    line = " ".join(text.split())
    with contextlib.suppress(BrokenPipeError):
        print(f"whence: {line}", file=sys.stderr)
        if "--json" in words:
            print(json.dumps({"error": line, "kind": kind}, ensure_ascii=False))
            sys.stdout.flush()
    return status
