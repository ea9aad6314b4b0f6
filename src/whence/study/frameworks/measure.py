"""What a process says of itself: its largest memory so far, how often it compiled, and on what machine it runs."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

MEGABYTE: Final = 2**20
COMPILED: Final = "/jax/core/compile/backend_compile_duration"
"""What JAX calls the event of a program being compiled."""


def peak() -> float:
    """Return the largest memory that this process has held so far, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux ru_maxrss begins at the size of the process that started this one: this does not.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024 / MEGABYTE
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / MEGABYTE if sys.platform == "darwin" else size * 1024 / MEGABYTE


def programs(kind: str) -> Callable[[], int | None]:
    """Return a function that tells how many programs have been compiled (or models traced) so far.

    The framework has been imported already, and is reached through the table of modules: only backends import one.
    """
    if kind == "xla":
        compiled: list[float] = []

        def listen(event: str, seconds: float, **_: Any) -> None:
            if event == COMPILED:
                compiled.append(seconds)

        sys.modules["jax"].monitoring.register_event_duration_secs_listener(listen)
        return lambda: len(compiled)
    if kind == "traces":
        return _traces
    return lambda: None


def _traces() -> int | None:
    """Return how many traces of living models TensorFlow's backend holds."""
    known: Any = getattr(sys.modules.get("whence.backends.tensorflow_session"), "_remembered", None)
    if known is None:
        return None
    return sum(len(memory.traces) for memory in known.values())


def forget(kind: str) -> None:
    """Let the framework forget what it compiled, so that the next explanation is a first one."""
    if kind == "xla":
        sys.modules["jax"].clear_caches()


def machine() -> dict[str, Any]:
    """Return what times and memory depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": cores,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "threads": os.environ.get("OMP_NUM_THREADS", "each framework's own choice"),
        "python": platform.python_version(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
