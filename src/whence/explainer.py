"""explain() and compare(): from a model, inputs and a method's name to a result that says how far to trust it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whence import pixels
from whence import target as targets
from whence.attribution import Attribution
from whence.backends import Backend, Leaves, resolve
from whence.chunk import chunks_for
from whence.errors import BadInput, Refused, UnsupportedByBackend
from whence.problem import Problem, Run
from whence.progress import Progress
from whence.registry import Method, build, methods, name_of
from whence.shares import Shares
from whence.site import Layer
from whence.structure import Structure, unpack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How far two runs of the same forward may differ before the model is called unsteady: float noise is below it.
STEADY = 1e-3


def explain(
    model: Any,
    inputs: Any,
    method: str | type[Method] | Method = "integrated_gradients",
    target: Any = None,
    at: Layer | None = None,
    kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
    preprocess: Any = None,
    on_unknown: str = "error",
    fuse: bool = True,
    seed: int = 0,
    chunk: int | None = None,
    progress: bool = False,
    **fields: Any,
) -> Attribution:
    """Attribute a model's output to its inputs (or a layer), example by example.

    Args:
        model: a torch module, or any callable: on torch tensors PyTorch, on NumPy arrays a black box. A
            scikit-learn estimator is its predict_proba (else predict). It is never changed.
        inputs: an array, or a tuple or dict of arrays or Nones; axis 0 is the batch.
        method: a name of `whence.methods()`, a class, or an object such as IntegratedGradients(rtol=0.01).
        target: None (each example's top class), an int, ints [B], a tuple of ints for dense outputs, "all", a
            callable from the output to [B], or one of whence.target.
        at: None for the inputs, or whence.layer(name).
        kwargs: more arguments of the model; arrays whose axis 0 is the batch are repeated along with it.
        output: which part of a structured output to explain: a name, an index or a callable.
        preprocess: whence.Preprocess(...) or a differentiable callable; then inputs are pictures in pixels.
        on_unknown: what rule methods do with an operation that has no rule: "error" or "gradient".
        fuse: whether the first affine operation may be taken out of the path's loop (the same numbers, faster).
        seed: of every random draw.
        chunk: rows in one forward; None finds the fastest.
        progress: show a bar for long work.
        **fields: settings of the method, such as baseline= or rtol=.

    Returns:
        An Attribution: values shaped like the inputs, with error, residual, evaluations and notes.

    Raises:
        BadInput: something in the call cannot be meant.
        Refused: the method's precondition does not hold.
        UnsupportedByBackend: the framework cannot do it.
    """
    chosen = build(method, fields)
    _check_options(on_unknown, chunk, seed)
    with _asked(model, inputs, target, at, kwargs, output, preprocess, seed, chunk, progress) as question:
        began = time.perf_counter()
        shares = chosen.attribute(question.problem)
        return _wrapped(question, chosen, shares, time.perf_counter() - began)


@dataclass(frozen=True)
class Comparison(Mapping[str, Attribution]):
    """The results of several methods on the same inputs, by name, and why some methods did not run."""

    results: dict[str, Attribution]
    skipped: dict[str, str] = field(default_factory=dict[str, str])

    def __getitem__(self, name: str) -> Attribution:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def plot(self, row: int = 0) -> Figure:
        """Draw every method's map of one example in one figure."""
        from whence import view

        return view.comparison_figure(self.results, row)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write one self-contained HTML report of all methods."""
        from whence import report

        return report.write(self.results, path, skipped=self.skipped, **options)

    def _repr_png_(self) -> bytes:
        from whence import view

        return view.png(self.plot())


def compare(
    model: Any,
    inputs: Any,
    methods_: Sequence[str | Method] | None = None,
    *,
    background: Any = None,
    **options: Any,
) -> Comparison:
    """Explain the same inputs by several methods (None: all that work here), each with its defaults.

    Args:
        model: as in `explain`.
        inputs: as in `explain`.
        methods_: names or objects of methods; those that were named must work, or their error is raised.
        background: rows of a data set, for methods that need one.
        **options: the other arguments of `explain`.

    Returns:
        A Comparison: a mapping from names to results, with `skipped` saying why others did not run.
    """
    named = methods_ is not None
    results: dict[str, Attribution] = {}
    skipped: dict[str, str] = {}
    for each in methods_ if methods_ is not None else list(methods()):
        name, method = _with_background(each, background)
        try:
            results[_free_name(name, results)] = explain(model, inputs, method, **options)
        except (Refused, UnsupportedByBackend) as problem:
            if named:
                raise
            skipped[name] = str(problem)
    if not results:
        raise Refused(
            "no method can explain this model: " + "; ".join(f"{k}: {v}" for k, v in skipped.items())
        )
    return Comparison(results, skipped)


def _with_background(each: str | Method, background: Any) -> tuple[str, Method]:
    method = build(each, {})
    name = name_of(method)
    record = methods().get(name)
    needs = record is not None and "background" in record.needs
    if needs and background is not None and getattr(method, "baseline", None) is None:
        method = build(method, {"baseline": background})
    return name, method


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    numbered = (f"{name} ({i})" for i in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbered if each not in taken)


# ---- putting the question ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    """A problem ready to be explained, and what the result must know besides."""

    problem: Problem
    target: Any
    description: str
    model: Any
    was_numpy: tuple[np.dtype[Any], ...]
    picture: Any


def _check_options(on_unknown: str, chunk: int | None, seed: int) -> None:
    if on_unknown not in ("error", "gradient"):
        raise BadInput(f'on_unknown is {on_unknown!r}; it is "error" or "gradient"')
    if chunk is not None and chunk < 1:
        raise BadInput(f"chunk is {chunk}; it is a number of rows, at least 1")
    if seed < 0:
        raise BadInput(f"seed is {seed}; it is 0 or above")


@contextmanager
def _asked(
    model: Any, inputs: Any, target: Any, at: Layer | None, kwargs: Mapping[str, Any] | None, output: Any,
    preprocess: Any, seed: int, chunk: int | None, progress: bool,
) -> Generator[_Question]:  # fmt: skip
    given = pixels.read(inputs) if preprocess is not None else inputs
    structure, arrays = unpack(given)
    backend = resolve(model, given)
    leaves = tuple(backend.prepare(model, array) for array in arrays)
    batch = _checked_batch(structure, leaves, backend)
    _check_site(structure, leaves, backend, at)
    last = (
        pixels.channels_last(tuple(leaves[0].shape))
        if preprocess is not None or not backend.differentiable
        else False
    )
    key = (
        tuple((tuple(leaf.shape[1:]), str(leaf.dtype)) for leaf in leaves),
        at,
        target == "all" if isinstance(target, str) else None,
    )
    with backend.session(model, seed) as session:
        run = Run(
            backend, session, structure, chunks_for(model, key, chunk), batch, dict(kwargs or {}), output, preprocess,
            target if isinstance(target, targets.Neuron) else None, None, seed, last,
            pixels.read if preprocess is not None else None, list(session.notes()), Progress(progress),
        )  # fmt: skip
        numpy = all(isinstance(array, np.ndarray) for array in arrays)
        try:
            yield _fitted(run, leaves, at, target, model, tuple(a.dtype for a in arrays) if numpy else ())
        finally:
            run.progress.close()


def _fitted(
    run: Run, leaves: Leaves, at: Layer | None, target: Any, model: Any, was_numpy: tuple[np.dtype[Any], ...]
) -> _Question:
    """Run the model once: to fit the target to its output, and to see whether it can be trusted to repeat itself."""
    every = np.arange(run.batch)
    raw = Problem(run, leaves, every)
    outputs = raw.native_value(leaves)
    if not run.backend.ops.is_finite(outputs):
        raise BadInput(
            "the model's output is NaN or infinite for these inputs; mend the model or the inputs first"
        )
    _note_unsteadiness(raw, outputs)
    if run.neuron is None:
        resolved = targets.resolve(target, outputs, run.backend.ops)
        run = replace(run, target=resolved)
        recorded, description = resolved.recorded, resolved.description
    else:
        recorded, description = target, repr(target)
    problem = Problem(run, leaves, every, at)
    if at is None:
        ops = run.backend.ops
        value = outputs if run.target is None else run.target.select(outputs, every)
        problem.__dict__["output"] = ops.numpy(value).astype(np.float64)
    picture = pixels.to_uint8(leaves[0], run.channels_last) if run.pictures else None
    return _Question(problem, recorded, description, model, was_numpy, picture)


def _note_unsteadiness(raw: Problem, outputs: Any) -> None:
    """Run the first example once more, alone: a model that answers otherwise draws lots or mixes its examples."""
    run, ops = raw.run, raw.ops

    # A half precision rounds differently in a batch of another size: a few units of its last place are no lots drawn.
    kind = str(outputs.dtype).rpartition(".")[2]
    steady = max(STEADY, {"float16": 2.0**-8, "bfloat16": 2.0**-5}.get(kind, 0.0))

    def differ(one: Any, two: Any) -> bool:
        one, two = ops.numpy(one).astype(np.float64), ops.numpy(two).astype(np.float64)
        scale = max(float(np.abs(one).max(initial=0.0)), 1e-6)
        return one.shape != two.shape or bool(np.abs(one - two).max(initial=0.0) > steady * scale)

    alone = tuple(leaf[:1] for leaf in raw.inputs)
    again = raw.at(alone, np.arange(1)).native_value(alone)
    if not differ(outputs[:1], again) and not run.session.draws_randomness:
        return
    if run.session.draws_randomness or run.batch == 1 or differ(outputs, raw.native_value(raw.inputs)):
        run.note(
            "the model is not deterministic in eval mode: two runs on the same input differ, so its attributions carry "
            "that noise (is dropout left on?)"
        )
    else:
        run.note(
            "the model mixes the examples of a batch: explain them one at a time for answers of their own"
        )


def _checked_batch(structure: Structure, leaves: Leaves, backend: Backend) -> int:
    for number, leaf in enumerate(leaves):
        name = structure.name(number)
        if leaf.ndim == 0 or leaf.shape[0] == 0:
            raise BadInput(
                f"{name} has shape {tuple(leaf.shape)}; axis 0 is the batch and holds at least one example"
            )
        if not backend.ops.is_finite(leaf):
            raise BadInput(f"{name} holds NaN or infinity; clean it first: no share can be given to it")
    sizes = {int(leaf.shape[0]) for leaf in leaves}
    if len(sizes) > 1:
        raise BadInput(
            f"the inputs' batches differ: {sorted(sizes)}; axis 0 of every input is the same batch"
        )
    return sizes.pop()


def _check_site(structure: Structure, leaves: Leaves, backend: Backend, at: Any) -> None:
    if at is not None and not isinstance(at, Layer):
        raise BadInput(f"at is {at!r}; give None for the inputs or whence.layer(name)")
    if at is not None:
        return
    for number, leaf in enumerate(leaves):
        if not backend.ops.is_float(leaf):
            raise BadInput(
                f"{structure.name(number)} is {leaf.dtype}: whole numbers have no gradient; explain what they become "
                'inside, such as at=whence.layer("embedding"), or pass floats (pictures: preprocess=...)'
            )


# ---- wrapping the answer -------------------------------------------------------------------------------------


def _wrapped(question: _Question, method: Method, shares: Shares, seconds: float) -> Attribution:
    problem = question.problem
    run, ops = problem.run, problem.ops
    reference = ops.wide(problem.point[0][:1] if ops.is_float(problem.point[0]) else shares.values[0][:1])

    def like_inputs(leaves: Leaves | None) -> Any:
        if leaves is None:
            return None
        cast = tuple(ops.cast(leaf, x) for leaf, x in zip(leaves, problem.point, strict=True))
        if question.was_numpy:
            cast = tuple(ops.numpy(leaf) for leaf in cast)
        if question.was_numpy and problem.site is None:
            pairs = zip(cast, question.was_numpy, strict=True)
            cast = tuple(leaf.astype(kind) if kind.kind == "f" else leaf for leaf, kind in pairs)
        return cast[0] if problem.site is not None else run.structure.pack(cast)

    def numbers(array: Any) -> Any:
        if array is None or isinstance(array, (str, tuple, targets.Neuron)):
            return array
        return np.asarray(array) if question.was_numpy else ops.array(np.asarray(array), reference)

    _note_budget(run, shares)
    return Attribution(
        values=like_inputs(shares.values),
        method=name_of(method),
        target=numbers(question.target),
        output=numbers(problem.output if shares.output is None else shares.output),
        baseline_output=numbers(shares.baseline_output),
        residual=numbers(shares.residual),
        error=numbers(shares.error),
        standard_error=like_inputs(shares.standard_error),
        evaluations=numbers(shares.evaluations),
        converged=numbers(
            np.ones(problem.output.shape, dtype=bool) if shares.converged is None else shares.converged
        ),
        trace=shares.trace,
        notes=list(run.notes),
        settings=_settings(question, method, seconds),
        picture=question.picture,
        channel_axis=_channel_axis(problem),
        every_class=problem.every_class,
    )


def _note_budget(run: Run, shares: Shares) -> None:
    if shares.converged is not None and not shares.converged.all():
        count = int((~shares.converged.reshape(len(shares.converged), -1).all(1)).sum())
        run.note(
            f"{count} of {len(shares.converged)} examples did not reach the tolerance within max_evaluations; "
            "raise it, or accept the error that is stated"
        )


def _settings(question: _Question, method: Method, seconds: float) -> dict[str, Any]:
    problem = question.problem
    run = problem.run
    return {
        "model": type(question.model).__name__
        if not hasattr(question.model, "__name__")
        else question.model.__name__,
        "method": repr(method),
        "target": question.description,
        "at": None if problem.site is None else repr(problem.site),
        "preprocess": None if run.preprocess is None else repr(run.preprocess),
        "seed": run.seed,
        "backend": run.backend.name,
        "seconds": seconds,
        "versions": versions(run.backend.name),
    }


def versions(backend: str) -> dict[str, str]:
    """Return the versions that matter for reproducing a result."""
    packages = ("whence", "numpy", *(["torch"] if backend == "torch" else []))
    found = ((name, _version(name)) for name in packages)
    return {name: number for name, number in found if number is not None}


@cache
def _version(package: str) -> str | None:
    # Looking it up reads the package's metadata from the disk: several milliseconds.
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _channel_axis(problem: Problem) -> int | None:
    """Return the channel axis of the values, once a class has been chosen."""
    point = problem.point[0]
    if point.ndim != 4:
        return None
    return 3 if problem.site is None and problem.run.channels_last else 1
