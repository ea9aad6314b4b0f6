"""Does the units of work in processes of their own, as many as there are cores, and skips what is finished."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from whence.data_set_batches import fingerprint
from whence.errors import BadInput, WorkFailed
from whence.explainer import RUN_BY, versions
from whence.question import Call, outputs
from whence.study.comparison import jobs
from whence.study.comparison.jobs import Job
from whence.study.comparison.setup import METRICS, Setup
from whence.study.comparison.store import PICTURES, Part, Store
from whence.study.comparison.subject import Pictures, source
from whence.study.comparison.worker import DONE, THREADS

Say = Callable[[str, float], None]
"""Takes what is being done, and the share of all work that is finished."""
FIRST: Final = 0.2
"""The share of the bar for what everything else builds on."""
MOST_WORKERS: Final = 8


def run(setup: Setup, pictures: Pictures, folder: Path, say: Say) -> Store:
    """Do all that is not finished yet, and return where it is.

    Raises:
        BadInput: the folder holds another study's work.
        WorkFailed: nothing could be explained.
    """
    store = Store(folder)
    with _alone(folder), _workers(folder) as team:
        store.begin(_question(setup, pictures))
        if not (folder / PICTURES).is_file():
            pictures.save(folder / PICTURES)
        answers = [Job(f"predict/{network}") for network in setup.networks]
        team.do(_unfinished(store, answers), lambda job, share: say(job.words, 0.02 * share))
        for job in answers:
            part = store.read(job.key)
            if part.refused or part.failed:
                raise WorkFailed(f"{job.parts[1]} cannot be studied: {part.refused or part.failed}")
            classes, labels = part.arrays["outputs"].shape[1], pictures.labels
            if labels.min() < 0 or labels.max() >= classes:
                raise BadInput(
                    f"the pictures' labels go from {labels.min()} to {labels.max()} and {job.parts[1]} has {classes} "
                    f"classes, 0 to {classes - 1}: number the labels as the network does"
                )
        first = jobs.first(setup)
        team.do(_unfinished(store, first), lambda job, share: say(job.words, 0.02 + FIRST * share))
        _drop_stale(store, setup)
        rest = jobs.then(setup, store, len(pictures.labels), pictures.masks is not None)
        total = sum(job.weight for job in rest)
        # The longest first, so that at the end no process waits for another.
        left = sorted(_unfinished(store, rest), key=lambda job: -job.weight)
        done = 1 - sum(job.weight for job in left) / max(total, 1e-9)
        team.do(
            left,
            lambda job, share: say(job.words, 0.02 + FIRST + (0.98 - FIRST) * (done + (1 - done) * share)),
        )
    return store


def _question(setup: Setup, pictures: Pictures) -> dict[str, Any]:
    """Return what must be the same where finished work is to count."""
    return {
        "setup": setup.record(),
        "metrics": {name: repr(METRICS.get(name, {})) for name in setup.metrics},
        "pictures": pictures.checksum,
        "weights": {network: _weights(network, setup) for network in setup.networks},
        "answers": {network: _answer(network, setup, pictures) for network in setup.networks},
        "versions": {name: text for backend in RUN_BY for name, text in versions(backend).items()},
    }


def _weights(network: str, setup: Setup) -> int | None:
    """Return a checksum of a network's weights, or of its file; None where it has neither."""
    named = Path(str(setup.request.get("model") or network))
    if named.is_file():
        return zlib.crc32(named.read_bytes())
    model = source(network, setup.request).model
    return fingerprint(model, lambda: np.zeros(0))["weights"]


def _answer(network: str, setup: Setup, pictures: Pictures) -> list[str]:
    """Return what a network says to the first picture, to four digits: two networks may have the same weights."""
    found = source(network, setup.request)
    call = Call(found.model, pictures.floats[:1], preprocess=found.preprocess)
    return [f"{value:.4g}" for value in outputs(call).ravel()]


def _drop_stale(store: Store, setup: Setup) -> None:
    """Take away agreements that were worked out when another choice of methods had been explained."""
    for network in setup.networks:
        key = f"agreement/{network}"
        parts = {name: store.read(f"explain/{network}/{name}") for name in setup.methods}
        there = [name for name, part in parts.items() if not part.refused and not part.failed]
        if store.has(key) and store.read(key).told.get("methods") != there:
            store.path(key).unlink()


def _unfinished(store: Store, every: Sequence[Job]) -> list[Job]:
    return [job for job in every if not all(map(store.has, job.keys))]


@dataclass
class Team:
    """Processes that take the next unit of work when they have finished one."""

    folder: Path
    size: int
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    processes: list[subprocess.Popen[str]] = field(default_factory=list[subprocess.Popen[str]])

    def do(self, every: Sequence[Job], tell: Callable[[Job, float], None]) -> None:
        """Do all units of work; one that brings its process down is kept as failed."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in every:
            waiting.put(job)
        total = sum(job.weight for job in every)
        finished: queue.SimpleQueue[tuple[Job, bool] | BaseException] = queue.SimpleQueue()
        for number in range(min(self.size, len(every))):
            threading.Thread(target=self._work, args=(number, waiting, finished), daemon=True).start()
        done = 0.0
        left = len(every)
        while left:
            # With a limit, so that the keyboard is heard.
            try:
                news = finished.get(timeout=0.5)
            except queue.Empty:
                continue
            if isinstance(news, BaseException):
                raise news
            job, ended = news
            done += job.weight if ended else 0
            left -= ended
            tell(job, done / total)

    def _work(self, number: int, waiting: Any, finished: Any) -> None:
        try:
            while not self.closed:
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    return
                finished.put((job, False))
                self._done(number, job)
                finished.put((job, True))
        except BaseException as problem:
            finished.put(problem)

    def _done(self, number: int, job: Job) -> None:
        process = self._process(number)
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(f"{job.key}\n")
            process.stdin.flush()
        for line in process.stdout:
            if line.strip() == f"{DONE}{job.key}":
                return
        status = process.wait()
        if self.closed:
            return
        how = (
            f"the process ended by signal {-status}"
            if status < 0
            else f"the process ended with status {status}"
        )
        store = Store(self.folder)
        # One that was written before the end came is as good as any.
        for key in (each for each in job.keys if not store.has(each)):
            store.write(key, Part({}, {"failed": f"{how} (too little memory?)"}))

    def _process(self, number: int) -> subprocess.Popen[str]:
        """Return the running process of this number, a new one where it has ended."""
        with self.lock:
            while len(self.processes) <= number:
                self.processes.append(self._started())
            if self.processes[number].poll() is not None and not self.closed:
                self.processes[number] = self._started()
            return self.processes[number]

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "whence.study.comparison.worker", str(self.folder)]
        log = (self.folder / "worker.log").open("a", encoding="utf-8")
        with log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=os.environ | THREADS,
            )  # fmt: skip

    def close(self) -> None:
        """End the processes, whatever they are doing: what they have finished is kept."""
        self.closed = True
        for process in self.processes:
            with suppress(OSError):
                process.kill()
            process.wait()


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Hold the folder against a second study in it; the system lets go when this process ends, however it does.

    Raises:
        BadInput: another one is at work there.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(
                f"another study is at work in {folder}; wait for it, or give another --out"
            ) from None
        yield


@contextmanager
def _workers(folder: Path) -> Generator[Team]:
    team = Team(folder, max(1, min(MOST_WORKERS, len(os.sched_getaffinity(0)))))
    try:
        yield team
    finally:
        team.close()
