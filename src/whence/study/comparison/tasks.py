"""What a unit of work does: from its key to the arrays and words of its part."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

import whence
from whence import metrics, registry
from whence.attribution import Attribution, to_numpy
from whence.errors import Refused, UnsupportedByBackend
from whence.loading import Source
from whence.metrics import control
from whence.metrics.metric import registered
from whence.question import Call, outputs
from whence.study.comparison import boundaries, confusions, means
from whence.study.comparison.agreement import correlations
from whence.study.comparison.setup import CHUNK, LOGARITHMIC, METRICS, Setup, method_fields
from whence.study.comparison.store import Part, Store
from whence.study.comparison.subject import Pictures, source


@dataclass
class Bench:
    """One network of the study with its pictures: what units of work are done on, until `held` is closed."""

    setup: Setup
    pictures: Pictures
    store: Store
    network: str
    held: ExitStack = field(default_factory=ExitStack)
    _questions: dict[int, metrics.Judged] = field(default_factory=dict[int, metrics.Judged])

    @cached_property
    def source(self) -> Source:
        """The network."""
        return source(self.network, self.setup.request)

    @cached_property
    def background(self) -> np.ndarray:
        """Ordinary pictures in [0, 1]."""
        return self.pictures.background.astype(np.float32) / np.float32(255)

    @cached_property
    def inputs(self) -> np.ndarray:
        """The pictures in [0, 1], as the network's preprocessing takes them."""
        return self.pictures.floats

    @property
    def judged_count(self) -> int:
        """How many pictures explanations are judged on."""
        return min(self.setup.budgets.metrics, len(self.inputs))

    @cached_property
    def predicted(self) -> np.ndarray:
        """The network's class for every picture."""
        return self.store.read(f"predict/{self.network}").arrays["outputs"].argmax(1)

    def shown(self) -> np.ndarray:
        """Return the pictures of the mosaic: of each class the first that the network gets right, else the first."""
        labels, right = self.pictures.labels, self.predicted == self.pictures.labels
        found: list[int] = []
        for label in np.unique(labels)[:10]:
            mine = np.flatnonzero(labels == label)
            found.append(int(mine[np.argmax(right[mine])]))
        return np.array(found)

    def method(self, name: str) -> Any:
        """Return a method with the settings that it takes part with; "random" is the control."""
        if name == control.NAME:
            return control.RandomExplanation(self.setup.seed)
        return registry.build(name, method_fields(name, self.background))

    def explain(self, method: Any, inputs: np.ndarray, target: Any) -> Attribution:
        """Explain some pictures."""
        if isinstance(method, control.RandomExplanation):
            return Attribution(method(self.source.model, inputs), control.NAME, None, np.zeros(len(inputs)))
        return whence.explain(
            self.source.model, inputs, method, target=target, preprocess=self.source.preprocess, seed=self.setup.seed,
            chunk=CHUNK,
        )  # fmt: skip

    def maps(self, result: Attribution, inputs: np.ndarray) -> np.ndarray:
        """Return a result as one number for each pixel [n, height, width], float32; features' shares are spread."""
        return self.told(result, inputs)[0]

    def told(self, result: Attribution, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a result's maps, and its completeness residual [n] from its own baseline.

        The residual is NaN where the method promises no sum.
        """
        with metrics.judged(
            self.source.model, inputs, result, preprocess=self.source.preprocess, chunk=CHUNK
        ) as question:
            (values,) = question.explained
            try:
                residual = metrics.CompletenessResidual(baseline="own").judge(question).values
            except Refused:
                residual = np.full(len(inputs), np.nan)
        if values.ndim == 4:
            values = values.sum(-1 if values.shape[1:3] == inputs.shape[1:3] else 1)
        return values.astype(np.float32), residual

    @contextmanager
    def question(self, count: int) -> Generator[metrics.Judged]:
        """Ask the question of the first pictures; held open, so that explanations of it share what holds for all.

        Of a network that draws lots it is opened anew each time: what it says must not depend on the order of work.
        """
        if count not in self._questions:
            self._questions[count] = self.held.enter_context(self._opened(count))
        found = self._questions[count]
        if not found.problem.run.session.draws_randomness:
            yield found
            return
        with self._opened(count) as anew:
            yield anew

    def _opened(self, count: int) -> AbstractContextManager[metrics.Judged]:
        masks = self.pictures.masks
        return metrics.judged(
            self.source.model, self.inputs[:count], method=control.RandomExplanation(self.setup.seed),
            mask=None if masks is None else masks[:count], target=self.predicted[:count],
            preprocess=self.source.preprocess, seed=self.setup.seed, chunk=CHUNK,
        )  # fmt: skip


OWN: Final = "completeness_residual"
SMALLEST: Final = 1e-12


def run(bench: Bench, key: str) -> dict[str, Part]:
    """Do one unit of work, and return its parts by their keys; what does not apply is a part too, with the reason."""
    kind, network, *rest = key.split("/")
    if kind == "metric":
        name, several = rest
        return {
            f"metric/{network}/{name}/{metric}": part
            for metric, part in _judged(bench, name, several.split("+")).items()
        }
    try:
        return {key: KINDS[kind](bench, *rest)}
    except (Refused, UnsupportedByBackend) as problem:
        return {key: Part({}, {"refused": str(problem)})}


def _predict(bench: Bench) -> Part:
    found = outputs(Call(bench.source.model, bench.inputs, preprocess=bench.source.preprocess, chunk=CHUNK))
    if found.ndim != 2 or found.shape[1] < 2:
        raise Refused(
            f"the network answers {found.shape[1:]} for each picture; the study compares classifiers"
        )
    return Part({"outputs": found.astype(np.float32)}, {"labels": list(bench.source.labels or ())})


def _explain(bench: Bench, name: str) -> Part:
    method, count = bench.method(name), bench.judged_count
    rows = np.concatenate([bench.shown(), np.arange(count)])
    # The first call of a process pays for what later ones find ready.
    bench.explain(method, bench.inputs[rows[:1]], bench.predicted[rows[:1]])
    maps: list[np.ndarray] = []
    evaluations: list[np.ndarray] = []
    residuals: list[np.ndarray] = []
    spent, notes = 0.0, dict[str, None]()
    for start in range(0, len(rows), 250):
        some = rows[start : start + 250]
        began = time.process_time()
        result = bench.explain(method, bench.inputs[some], bench.predicted[some])
        spent += time.process_time() - began
        made, residual = bench.told(result, bench.inputs[some])
        maps.append(made)
        residuals.append(residual)
        notes |= dict.fromkeys(result.notes)
        spent_here = result.evaluations
        evaluations.append(np.zeros(len(some)) if spent_here is None else to_numpy(spent_here))
    told = {
        "evaluations": float(np.mean(np.concatenate(evaluations))), "seconds": spent / len(rows),
        "notes": list(notes), "method": repr(method),
    }  # fmt: skip
    shown = len(rows) - count
    values = np.concatenate(maps)
    residual = np.concatenate(residuals)[shown:]
    return Part({"shown": values[:shown], "values": values[shown:], "residual": residual}, told)


def _judged(bench: Bench, name: str, several: Sequence[str]) -> dict[str, Part]:
    """Ask metrics of a method's explanations; those that move pictures in the same way share what they explain."""
    needs = {each for metric in several for each in registered()[metric].needs}
    again = bool({"method", "weights"} & needs)
    count = min(bench.setup.budgets.again, bench.judged_count) if again else bench.judged_count
    explained = bench.store.read(f"explain/{bench.network}/{name}")
    values = explained.arrays["values"][:count]
    method, found = bench.method(name), dict[str, Part]()
    with bench.question(count) as asked:
        question = asked.beside(_like(values, bench.inputs), method=method)
        for metric in several:
            if metric == OWN:
                found[metric] = _completeness(explained.arrays["residual"][:count])
                continue
            try:
                found[metric] = _scored(metrics.build(metric, METRICS.get(metric, {})), question)
            except (Refused, UnsupportedByBackend) as problem:
                found[metric] = Part({}, {"refused": str(problem)})
    return found


def _completeness(values: np.ndarray) -> Part:
    """Return the completeness residual as the method itself tells it: each counts from a baseline of its own."""
    if not np.isfinite(values).any():
        return Part({}, {"refused": "the method does not promise that its shares sum to anything"})
    score = metrics.Score(OWN, values)
    told = {
        "mean": score.mean, "error": score.error, "count": score.count, "of": len(values), "better": "lower",
        "notes": [], "metric": "CompletenessResidual, from each method's own baseline", "seconds": 0.0,
    }  # fmt: skip
    return Part({"values": values}, told)


def _scored(metric: metrics.Metric, question: metrics.Judged) -> Part:
    began = time.process_time()
    score = metric.judge(question)
    if score.metric in LOGARITHMIC:
        with np.errstate(divide="ignore"):
            score = replace(
                score, values=np.log10(np.maximum(score.values, SMALLEST)), standard_error=None, draws=None
            )
    arrays = {"values": score.values}
    for field_name in ("standard_error", "draws", "curve", "places"):
        if getattr(score, field_name) is not None:
            arrays[field_name] = np.asarray(getattr(score, field_name))
    told = {
        "mean": score.mean, "error": score.error, "count": score.count, "of": len(score.values),
        "better": score.better, "notes": score.notes, "metric": repr(metric),
        "seconds": (time.process_time() - began) / len(score.values),
    }  # fmt: skip
    return Part(arrays, told)


def _like(values: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Return maps [n, height, width] as an explanation of pictures with or without an axis of channels."""
    return values if inputs.ndim == 3 else values[..., None]


def _mean(bench: Bench, name: str, number: str) -> Part:
    return means.part(bench, name, int(number))


def _confusion(bench: Bench) -> Part:
    return confusions.part(bench)


def _boundary(bench: Bench, number: str) -> Part:
    return boundaries.part(bench, int(number))


def _agreement(bench: Bench) -> Part:
    maps: dict[str, np.ndarray] = {}
    for name in bench.setup.methods:
        part = bench.store.read(f"explain/{bench.network}/{name}")
        if not part.refused and not part.failed:
            maps[name] = part.arrays["values"]
    if not maps:
        return Part({"rank": np.zeros((0, 0)), "error": np.zeros((0, 0))}, {"methods": []})
    mean, error = correlations(list(maps.values()))
    return Part({"rank": mean, "error": error}, {"methods": list(maps)})


KINDS: dict[str, Callable[..., Part]] = {
    "predict": _predict,
    "explain": _explain,
    "mean": _mean,
    "confusion": _confusion,
    "boundary": _boundary,
    "agreement": _agreement,
}
