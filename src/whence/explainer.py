"""explain(): from a model, inputs and a method's name to a result that says how far to trust it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from whence import target as targets
from whence.attribution import Attribution
from whence.backends import Leaves
from whence.errors import BadInput, Interrupted
from whence.problem import Problem
from whence.question import NOT_FINITE, Call, Question, asked, check_options
from whence.registry import Method, build, name_of
from whence.run import Run
from whence.shares import Shares
from whence.site import Layer, Site
from whence.spatial import extent

# Of arrays with more columns than these, and of more values in all, none is kept to be shown beside its share.
MOST_COLUMNS, MOST_VALUES = 64, 100_000


def explain(
    model: Any,
    inputs: Any,
    method: str | type[Method] | Method = "integrated_gradients",
    target: Any = None,
    at: Site | None = None,
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
        at: None for the inputs, whence.layer(name), or whence.parameters(name).
        kwargs: more arguments of the model; arrays with a row for each example are repeated along with them
            (whether an array that is as long as the batch has such rows is found by trying).
        output: which part of a structured output to explain: a name, an index or a callable.
        preprocess: whence.Preprocess(...) or a differentiable callable; then inputs are pictures in pixels.
        on_unknown: what rule methods do with an operation that has no rule: "error" or "gradient".
        fuse: whether the first affine operation may be taken out of the path's loop (the same numbers, faster).
        seed: of every random draw.
        chunk: rows in one forward; None finds the fastest.
        progress: show a bar for long work.
        **fields: settings of the method, such as baseline= or rtol=; `of=` is the method that a sampler repeats
            (`"smoothgrad", of="sensitivity"`).

    Returns:
        An Attribution: values shaped like the inputs, with error, residual, evaluations and notes.

    Raises:
        BadInput: something in the call cannot be meant.
        Refused: the method's precondition does not hold.
        UnsupportedByBackend: the framework cannot do it.
        Interrupted: the keyboard (Ctrl-C) stopped an integral that had a first estimate; `partial` holds the answer so
            far. Nothing is left on the model, whenever it comes.
    """
    chosen = build(method, fields)
    check_options(on_unknown, chunk, seed)
    call = Call(
        model, inputs, target, at, kwargs, output, preprocess, seed, chunk, progress, fuse, on_unknown,
        chosen.switches,
    )  # fmt: skip
    with asked(call, chosen.placed, chosen.watches) as question:
        began = time.perf_counter()
        shares = chosen.attribute(question.problem)
        # What the session has learnt of the model while it ran.
        for note in question.problem.run.session.notes():
            question.problem.run.note(note)
        result = _wrapped(question, chosen, shares, time.perf_counter() - began)
    if shares.interrupted:
        raise Interrupted(result)
    return result


# ---- wrapping the answer -------------------------------------------------------------------------------------


def _wrapped(question: Question, method: Method, shares: Shares, seconds: float) -> Attribution:
    problem = question.problem
    run, ops = problem.run, problem.ops
    reference = ops.wide(problem.point[0][:1] if ops.is_float(problem.point[0]) else shares.values[0][:1])

    def like_inputs(leaves: Leaves | None) -> Any:
        if leaves is None:
            return None
        # Of whole numbers the shares are floats all the same.
        pairs = zip(leaves, problem.point, strict=True)
        cast = tuple(ops.cast(leaf, x) if ops.is_float(x) else leaf for leaf, x in pairs)
        if question.was_numpy:
            cast = tuple(ops.numpy(leaf) for leaf in cast)
        if question.was_numpy and problem.site is None:
            pairs = zip(cast, question.was_numpy, strict=True)
            cast = tuple(leaf.astype(kind) if kind.kind == "f" else leaf for leaf, kind in pairs)
        return ops.native(cast[0] if problem.site is not None else run.structure.pack(cast))

    def numbers(array: Any) -> Any:
        if array is None or isinstance(array, (str, tuple, targets.Neuron)):
            return array
        return (
            np.asarray(array) if question.was_numpy else ops.native(ops.array(np.asarray(array), reference))
        )

    output = problem.output if shares.output is None else shares.output
    if not np.isfinite(output).all():
        raise BadInput(NOT_FINITE.format("these inputs"))
    if method.rules() is None:
        _note_budget(run, shares)
    channel_axis, size = extent(problem, shares.values[0])
    return Attribution(
        values=like_inputs(shares.values),
        method=name_of(method),
        target=numbers(question.target),
        output=numbers(output),
        baseline_output=numbers(shares.baseline_output),
        residual=numbers(shares.residual),
        error=numbers(shares.error),
        standard_error=like_inputs(shares.standard_error),
        evaluations=numbers(shares.evaluations),
        converged=numbers(
            np.ones(output.shape, dtype=bool) if shares.converged is None else shares.converged
        ),
        shares=numbers(shares.features),
        fidelity=numbers(shares.fidelity),
        interactions=numbers(shares.interactions),
        trace=shares.trace,
        notes=list(run.notes),
        settings=_settings(question, method, seconds),
        picture=question.picture,
        channel_axis=channel_axis,
        every_class=problem.every_class,
        size=size,
    )


# Methods that say themselves why they have not converged.
OWN = ("integrated Hessians", "partition_shap")


def _note_budget(run: Run, shares: Shares) -> None:
    if shares.converged is None or shares.converged.all() or any(note.startswith(OWN) for note in run.notes):
        return
    count = int((~shares.converged.reshape(len(shares.converged), -1).all(1)).sum())
    some = f"{count} of {len(shares.converged)} examples"
    if shares.interrupted:
        run.note(f"stopped by the keyboard: {some} did not reach the tolerance; their error is stated")
    elif "exact" in run.record:
        run.note(
            f"{some} are not exact: they have more pieces than max_evaluations, or the output jumps between two; what "
            "may be missing is the error that is stated"
        )
    elif shares.error is None:
        run.note(f"{some}: so few gradients (max_evaluations) that nothing tells how far off the shares are")
    else:
        run.note(
            f"{some} did not reach the tolerance within max_evaluations; raise it, or accept the error that is stated"
        )


def _settings(question: Question, method: Method, seconds: float) -> dict[str, Any]:
    problem = question.problem
    run = problem.run
    return {
        "model": type(question.model).__name__
        if not hasattr(question.model, "__name__")
        else question.model.__name__,
        "method": repr(method),
        "target": question.description,
        "at": None if problem.site is None else repr(problem.site),
        **_site(problem.site),
        "preprocess": None if run.preprocess is None else repr(run.preprocess),
        "seed": run.seed,
        **_columns(problem),
        **run.record,
        "backend": run.backend.name,
        "seconds": seconds,
        "versions": versions(run.backend.name),
    }


def _columns(problem: Problem) -> dict[str, Any]:
    """Return the names of a table's columns, and what stands in them, for whoever shows their shares."""
    table = problem.run.structure.table
    if problem.site is not None or len(problem.inputs) != 1 or problem.inputs[0].ndim != 2:
        return {}
    rows, columns = problem.inputs[0].shape
    names = {} if table is None else {"columns": list(table.names), "feature_names": list(table.names)}
    if rows * columns > MOST_VALUES or (table is None and columns > MOST_COLUMNS):
        return names
    values = problem.ops.numpy(problem.inputs[0]).tolist() if table is None else table.shown()
    return names | {"feature_values": values}


def _site(site: Site | None) -> dict[str, Any]:
    """Return what figures and tables call the site, and its channels where only some are explained."""
    if site is None:
        return {}
    channels = site.channels if isinstance(site, Layer) else None
    return {"site": site.words, **({} if channels is None else {"channels": list(channels)})}


# The packages that run the models of a backend.
RUN_BY = {
    "torch": ("torch",),
    "jax": ("jax", "jaxlib", "flax", "equinox"),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "keras"),
    "onnx": ("torch", "onnx", "onnxruntime"),
    "onnxruntime": ("onnx", "onnxruntime"),
}


def versions(backend: str) -> dict[str, str]:
    """Return the versions that matter for reproducing a result."""
    packages = ("whence", "numpy", *RUN_BY.get(backend, ()))
    found = ((name, _version(name)) for name in packages)
    return {name: number for name, number in found if number is not None}


@cache
def _version(package: str) -> str | None:
    # Looking it up reads the package's metadata from the disk: several milliseconds.
    try:
        return version(package)
    except PackageNotFoundError:
        return None
