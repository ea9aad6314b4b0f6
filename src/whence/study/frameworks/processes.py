"""Runs the study: every framework on every network in a process of its own, one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from whence import data
from whence.errors import WorkFailed
from whence.study.frameworks import agreement, measure
from whence.study.frameworks.results import Ran, Study
from whence.study.frameworks.setup import FRAMEWORKS, Setup
from whence.study.frameworks.worker import ASKED, FOUND, GIVEN, MAPS, STEP

KILLED: Final = 9
LONGEST: Final = 1800.0
"""The seconds after which a process is given up."""
BACKGROUND: Final = 4
FIRST: Final = "torch"
"""Whom the others are compared with, where it is there."""
Say = Callable[[str, float], None]
"""Takes what is being done, and the share of all work that is finished."""


def run(setup: Setup, say: Say) -> Study:
    """Measure every framework on every network.

    Raises:
        WorkFailed: none of them could be measured.
    """
    given = digits(setup)
    pairs = [(network, framework) for network in setup.networks for framework in setup.frameworks]
    runs: list[Ran] = []
    maps: dict[tuple[str, str, str], np.ndarray] = {}
    for place, (network, framework) in enumerate(pairs):
        title = f"{FRAMEWORKS[framework].title} on {network}"
        methods = len(setup.methods_of(network))

        def step(
            text: str, done: int, place: int = place, title: str = title, methods: int = methods
        ) -> None:
            say(f"{title}: {text}", (place + min(done, methods) / (methods + 1)) / len(pairs))

        step("starting", 0)
        ran, found = _measured(setup, network, framework, given, step)
        runs.append(ran)
        maps |= {(network, framework, method): each for method, each in found.items()}
    if all(each.problem or each.absent for each in runs):
        reasons = "; ".join(dict.fromkeys(each.absent or each.problem for each in runs))
        raise WorkFailed(f"no framework could be measured: {reasons}")
    names = [each.framework for each in runs if not each.problem and not each.absent]
    reference = FIRST if FIRST in names else names[0]
    return Study(
        setup, runs, maps, given["pictures"], given["labels"], measure.machine(), reference,
        agreement.all_of(maps, reference),
    )  # fmt: skip


def digits(setup: Setup) -> dict[str, np.ndarray]:
    """Return the digits that are explained, a few others as background, and what they are; the seed chooses."""
    every = data.digits()
    count = min(setup.samples, len(every.test_images) - BACKGROUND)
    order = np.random.default_rng(setup.seed).permutation(len(every.test_images))
    pictures = (every.test_images / 255).astype(setup.dtype)
    chosen, others = order[:count], order[count : count + BACKGROUND]
    return {"pictures": pictures[chosen], "background": pictures[others], "labels": every.test_labels[chosen]}


def _measured(
    setup: Setup, network: str, framework: str, given: dict[str, np.ndarray], step: Callable[[str, int], None]
) -> tuple[Ran, dict[str, np.ndarray]]:
    with tempfile.TemporaryDirectory(prefix="whence-study-") as name:
        folder = Path(name)
        np.savez(folder / GIVEN, **given)  # pyright: ignore[reportArgumentType]
        asked = {"framework": framework, "network": network, "setup": setup.record(), "began": time.time()}
        (folder / ASKED).write_text(json.dumps(asked))
        ended = _watched(folder, step)
        if not (folder / FOUND).is_file():
            return Ran(framework, network, problem=ended or "it ended without an answer"), {}
        with np.load(folder / MAPS) as stored:
            maps = {method: stored[method] for method in stored.files}
        ran = Ran.read(json.loads((folder / FOUND).read_text()))
        remark = f"not all registered methods could be tried: {ended}" if ended else ""
        return replace(ran, remark=remark), maps


def _watched(folder: Path, step: Callable[[str, int], None]) -> str:
    """Run the worker, pass on its progress, and return how it failed; nothing where it did not."""
    with (folder / "errors.txt").open("w+") as errors, _process(folder, errors) as process:
        clock = threading.Timer(LONGEST, process.kill)
        clock.daemon = True
        clock.start()
        done = -1
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(STEP):
                done += 1
                step(line.removeprefix(STEP).strip(), done)
        status = process.wait()
        late = not clock.is_alive()
        clock.cancel()
        errors.seek(0)
        return "" if status == 0 else _told(status, errors.read(), late)


@contextmanager
def _process(folder: Path, errors: IO[str]) -> Any:
    """Yield the running worker, which does not outlive the block."""
    command = [sys.executable, "-m", "whence.study.frameworks.worker", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        yield process
    finally:
        with suppress(OSError):
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _told(status: int, errors: str, late: bool) -> str:
    """Return in one line how a process ended."""
    if late:
        return f"given up after {LONGEST:.0f} seconds"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
    if status == -KILLED:
        how += " (too little memory?)"
    return f"{how}: {lines[-1][:200]}" if lines else how
