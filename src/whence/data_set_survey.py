"""Going over a data set: every batch's maps by a few nodes for each example, and what is counted already skipped."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from whence import baseline as baselines
from whence.backends import Leaves, resolve
from whence.data_set_batches import (
    Batch,
    batches_of,
    check_length,
    fingerprint,
    per_example,
    same_model,
    told,
    word,
)
from whence.data_set_state import Label, Maps, State, Tally, read
from whence.errors import BadInput, Refused
from whence.explainer import versions
from whence.path import Straight
from whence.problem import Problem
from whence.progress import Progress
from whence.question import Call, asked, outputs
from whence.structure import Structure
from whence.target import Neuron

# Seconds between two writes of the state.
EVERY = 10.0
# Multiples of the golden ratio, modulo one, fill [0, 1) evenly however many there are.
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Survey:
    """A call of mean_attribution, whose `call` has neither inputs nor a batch's own target yet."""

    call: Call
    nodes: int
    by: Any
    baseline: Any
    with_labels: bool

    def run(self, given: Iterable[Any], path: Path | None, progress: Progress) -> State:
        """Count every batch that is not counted yet."""
        state = read(path) if path is not None and path.exists() else None
        keeper = Keeper(path, state)
        resumed = 0 if state is None else state.count
        checksums: tuple[int, ...] = ()
        total = 0
        try:
            for batch in batches_of(given, self.with_labels, self.call.preprocess is not None):
                with batch.named():
                    if state is None or batch.number == 0:
                        state = self._begun(batch, state)
                    total, checksums = batch.stop, checksums or (0,) * len(batch.checked)
                    if batch.start < resumed:
                        checksums = batch.rows(0, resumed).checksums(checksums)
                    if batch.start < resumed <= batch.stop:
                        _require_same_examples(state, checksums)
                    if batch.stop > state.count:
                        state = self._counted(state, batch.rows(state.count, batch.stop), progress)
                        keeper.offer(state)
            if state is None or total == 0:
                raise BadInput("batches is empty: there is no example to take a mean over")
            if total < resumed:
                raise BadInput(
                    f"the batches hold {total} examples, and {path} has counted {resumed} already; give all of them"
                )
            check_length(self.by, total, "by")
            check_length(self.call.target, total, "target")
            return state
        finally:
            progress.close()
            keeper.write(state)

    # ---- before the first batch ----------------------------------------------------------------------------

    def _begun(self, batch: Batch, state: State | None) -> State:
        """Return the state that the first batch meets: a new one, or the file's if it is of the same question."""
        call = self.call
        asked_for = {
            "nodes": self.nodes, "target": call.target, "by": self.by, "baseline": self.baseline, "at": call.at,
            "preprocess": call.preprocess, "kwargs": dict(call.kwargs or {}), "output": call.output, "seed": call.seed,
        }  # fmt: skip
        settings = {name: told(value) for name, value in asked_for.items()}
        first = batch.rows(batch.start, batch.start + 1)
        target = call.target if isinstance(call.target, Neuron) else None
        model = fingerprint(call.model, lambda: outputs(_with_inputs(call, first, target)))
        if state is None:
            structure = batch.structure if call.at is None else Structure(None, (0,), (True,))
            name = getattr(call.model, "__name__", type(call.model).__name__)
            found = versions(resolve(call.model, batch.inputs).name)
            about = {"model": name, "chunk": call.chunk, "versions": found}
            return State(settings, model, structure, batch.shapes, (0,) * len(batch.checked), about=about)
        _require_same_question(state, settings, batch, same_model(state.fingerprint, model))
        return state

    # ---- one batch -------------------------------------------------------------------------------------------

    def _counted(self, state: State, batch: Batch, progress: Progress) -> State:
        with asked(_with_inputs(self.call, batch, self._target(batch))) as question:
            problem = question.problem
            labels = self._labels(batch, question.target)
            numbers = _numbers_within(labels, state)
            maps, variance, residual, gradients = self._maps(problem, numbers, progress)
            notes = list(problem.run.notes)
        parts: dict[Label, Tally] = {}
        for label in dict.fromkeys(labels):
            rows = np.array([each == label for each in labels])
            of_label, its_variance = (tuple(leaf[rows] for leaf in each) for each in (maps, variance))
            parts[label] = Tally.of(of_label, its_variance, residual[rows])
        return state.added(parts, gradients, batch.checksums(state.checksums), notes)

    def _target(self, batch: Batch) -> Any:
        target = self.call.target
        if word(target) == "label":
            return batch.labels
        return per_example(target, batch, "target") if getattr(target, "ndim", 0) else target

    def _labels(self, batch: Batch, target: Any) -> list[Label]:
        size = batch.stop - batch.start
        if self.by is None:
            return [None] * size
        if word(self.by) == "label":
            found = batch.labels
        elif word(self.by) == "target":
            found = target if isinstance(target, np.ndarray) else None
        else:
            found = per_example(self.by, batch, "by")
        if found is None or found.shape != (size,):
            raise BadInput(f'by="target" needs a class as target; target={told(self.call.target)} names none')
        if found.dtype.kind not in "biufU" or (found.dtype.kind == "f" and np.isnan(found).any()):
            raise BadInput(f"by gives labels of dtype {found.dtype}; they are numbers (not NaN) or words")
        return found.tolist()

    def _maps(
        self, problem: Problem, numbers: Int64[np.ndarray, "b"], progress: Progress
    ) -> tuple[Maps, Maps, Float64[np.ndarray, "b"], int]:
        """Return each example's map, its estimated variance, its residual, and how many gradients it all took."""
        baseline = baselines.resolve(self.baseline, problem.run.pictures)
        rows, draws = len(problem.rows), baseline.draws
        maps, variance = (tuple(np.zeros(leaf.shape) for leaf in problem.point) for _ in range(2))
        before = np.zeros(rows)
        shift = problem.random("offsets", 0).random()
        progress.expect(rows * draws * self.nodes)
        for draw in range(draws):
            absent = baseline.start(problem, draw)
            if not all(problem.ops.is_finite(leaf) for leaf in absent):
                raise BadInput("the baseline holds NaN or infinity; nothing can be counted from there")
            absent = problem.project(absent)
            before += problem.value(absent) / draws
            offsets = (shift + (numbers * draws + draw) * GOLDEN) % 1
            integrals, variances = self._integral(problem, absent, offsets, progress)
            for leaf, (integral, its_variance) in enumerate(zip(integrals, variances, strict=True)):
                maps[leaf][...] += integral / draws
                variance[leaf][...] += its_variance / draws**2
        whole = sum(leaf.reshape(rows, -1).sum(1) for leaf in maps)
        return maps, variance, whole - (problem.output - before), rows * draws * self.nodes

    def _integral(
        self, problem: Problem, absent: Leaves, offsets: Float64[np.ndarray, "b"], progress: Progress
    ) -> tuple[Maps, Maps]:
        """Return the sums over each example's nodes, and an estimate of their variance over the offsets.

        A jump δ of the integrand, at a random place in its cell of width 1/K, gives the sum the variance
        (δ/K)²/6, and successive nodes see K − 1 of the K cells.
        """
        ops, nodes = problem.ops, self.nodes
        points = Straight().between(problem, absent, 0)
        maps, variance = (tuple(np.full(leaf.shape, np.nan) for leaf in problem.point) for _ in range(2))
        seen = nodes / (6 * (nodes - 1)) if nodes > 1 else np.nan

        def work(start: int, stop: int) -> Any:
            index = np.arange(start, stop)
            total, jumps, last = ([0.0] * len(problem.point) for _ in range(3))
            y: Any = None
            for node in range(nodes):
                where, velocity = points((node + offsets[index]) / nodes, index, np.full(len(index), node))
                y, gradients = problem.vjp(where, index)
                for leaf, (gradient, speed) in enumerate(zip(gradients, velocity, strict=True)):
                    part = ops.wide(gradient) * ops.wide(speed) / nodes
                    total[leaf] = total[leaf] + part
                    jumps[leaf] = jumps[leaf] + (part - last[leaf]) ** 2 if node else part * 0
                    last[leaf] = part
            for leaf, (whole, jump) in enumerate(zip(total, jumps, strict=True)):
                if not ops.is_finite(whole):
                    raise Refused("the model's gradient is not finite on the way from the baseline")
                maps[leaf][start:stop] = ops.numpy(whole)
                variance[leaf][start:stop] = ops.numpy(jump) * seen
            progress.advance(len(index) * nodes)
            return y

        problem.run.chunks.run(problem.run.backend, len(problem.rows), work)
        return maps, variance


def _numbers_within(labels: list[Label], state: State) -> Int64[np.ndarray, "b"]:
    """Return each example's running number in its own group, so that the offsets are even in each group."""
    reached = {label: group.count for label, group in state.groups.items()}
    numbers = np.zeros(len(labels), dtype=np.int64)
    for row, label in enumerate(labels):
        numbers[row] = reached.get(label, 0)
        reached[label] = reached.get(label, 0) + 1
    return numbers


def _with_inputs(call: Call, batch: Batch, target: Any) -> Call:
    return replace(call, inputs=batch.inputs, target=target)


@dataclass
class Keeper:
    """Writes the state to a file now and then; what is written already is not written again."""

    path: Path | None
    written: State | None
    last: float = -np.inf

    def offer(self, state: State) -> None:
        """Write the state if the last time was long ago: the first time at once, so that a wrong path shows early."""
        if time.monotonic() - self.last >= EVERY:
            self.write(state)

    def write(self, state: State | None) -> None:
        """Write the state now."""
        if self.path is not None and state is not None and state.count and state is not self.written:
            state.write(self.path)
            self.written, self.last = state, time.monotonic()


def _require_same_question(state: State, settings: dict[str, str], batch: Batch, same: bool) -> None:
    other, mine = state.settings | {"shapes": state.shapes}, settings | {"shapes": batch.shapes}
    differing = [
        f"{name} {other.get(name)} (now {mine[name]})" for name in mine if other.get(name) != mine[name]
    ]
    if not same:
        differing.append("another model (its weights, or its output for the first example, differ)")
    if differing:
        raise BadInput(
            f"the file to resume was made with {'; '.join(differing)}; ask the same again, or give another file"
        )


def _require_same_examples(state: State, checksums: tuple[int, ...]) -> None:
    if checksums != state.checksums:
        raise BadInput(
            f"the first {state.count} examples are not those that the file to resume has counted; give them in the "
            "same order (is the loader shuffling?), or give another file"
        )
