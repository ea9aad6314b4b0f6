"""Clocks, tables and the machine: what every benchmark needs and none should do its own way."""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

clock: Callable[[], float] = time.perf_counter
"""What is read before and after each run; processor time where other processes disturb the wall clock."""


@dataclass
class Times:
    """Seconds of each contestant in each round; all ran one after the other in every round."""

    seconds: dict[str, list[float]]

    def of(self, name: str) -> float:
        """Return the median seconds."""
        return median(self.seconds[name])

    def ratio(self, name: str, other: str) -> float:
        """Return the median of the ratios within the rounds, which a busy machine disturbs least."""
        return median(a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True))


def interleaved(contestants: Mapping[str, Callable[[], Any]], rounds: int, warm: int) -> Times:
    """Run all contestants in every round, after `warm` rounds that do not count.

    The order is drawn anew each time: who runs after a contestant that emptied the caches and gave its memory back
    pays for it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order, draw = list(contestants.items()), random.Random(0)
    for number in range(-warm, rounds):
        draw.shuffle(order)
        for name, run in order:
            began = clock()
            run()
            if number >= 0:
                seconds[name].append(clock() - began)
    return Times(seconds)


def relative(values: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return ‖A − A*‖₁ / ‖A*‖₁ of each example, in float64."""
    values, reference = values.double(), reference.double()
    return (values - reference).abs().flatten(1).sum(1) / reference.abs().flatten(1).sum(1)


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


@dataclass
class Table:
    """One result: printed with rich, written as Markdown."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])

    def print(self, console: Any) -> None:
        from rich.table import Table as Drawn

        drawn = Drawn(title=self.title, caption=self.note, title_justify="left", caption_justify="left")
        for number, column in enumerate(self.columns):
            drawn.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            drawn.add_row(*row)
        console.print(drawn)

    def markdown(self) -> str:
        head = ["| " + " | ".join(self.columns) + " |", "|---" + "|---:" * (len(self.columns) - 1) + "|"]
        body = ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([f"## {self.title}", "", *head, *body, "", self.note, ""])


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_first('/proc/cpuinfo', 'model name') or platform.processor() or 'unknown'}, {cores} cores",
        "memory": _memory(),
        "clock": "processor time" if clock is time.process_time else "wall clock",
        "threads": f"{torch.get_num_threads()}, OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'not set')}",
        "load at the start": f"{os.getloadavg()[0]:.1f} (others' work on the same cores disturbs the times)",
        "versions": ", ".join(
            f"{name} {_version(name)}" for name in ("whence", "captum", "shap", "lime", "torch", "numpy")
        ) + f", Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    }  # fmt: skip


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        import importlib

        return getattr(importlib.import_module(package), "__version__", "unknown")


def _memory() -> str:
    total = _first("/proc/meminfo", "MemTotal")
    return f"{int(total.split()[0]) / 2**20:.0f} GiB" if total else "unknown"


def _first(file: str, key: str) -> str | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)
