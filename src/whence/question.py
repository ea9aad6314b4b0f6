"""Putting the question: a user's model and inputs, checked and made into a problem that methods can work on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from whence import arguments, pixels, second_opinion
from whence import target as targets
from whence.backends import Array, Backend, Leaves, Session, Tap, loaded, resolve
from whence.chunk import SIZES, SIZES_LARGE, chunks_for
from whence.errors import BadInput, Refused
from whence.inputs import Call, native
from whence.naming import floating
from whence.problem import Problem
from whence.progress import Progress
from whence.run import Answered, Run, shapes_of
from whence.site import Layer, Parameter, Site

# How far two runs of the same forward may differ before the model is called unsteady: float noise is below it.
STEADY = 1e-3
# Values of one picture from which the layout in memory is worth a trial.
LARGE = 10_000


NOT_FINITE = "the model's output is NaN or infinite for {}; mend the model or the inputs first"


@dataclass(frozen=True)
class Question:
    """A problem ready to be explained, and what the result must know besides."""

    problem: Problem
    target: Any
    description: str
    model: Any
    was_numpy: tuple[np.dtype[Any], ...]
    picture: Any


def check_options(on_unknown: str, chunk: Any, seed: Any) -> None:
    """Refuse options outside their range, before anything costly starts."""
    if on_unknown not in ("error", "gradient"):
        raise BadInput(f'on_unknown is {on_unknown!r}; it is "error" or "gradient"')
    if chunk is not None and not (_is_whole(chunk) and chunk >= 1):
        raise BadInput(f"chunk is {chunk!r}; it is a whole number of rows, at least 1, or None")
    if not (_is_whole(seed) and seed >= 0):
        raise BadInput(f"seed is {seed!r}; it is a whole number, 0 or above")


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


@contextmanager
def asked(
    call: Call, placed: Callable[[Problem], Problem] = lambda problem: problem, watched: bool = False
) -> Generator[Question]:
    """Hold a model's session open while its question is answered.

    `placed` puts the question at its site; `watched` says that its gradient there will be asked for, once.
    """
    call = replace(call, model=loaded(call.model))
    with _opened(call) as (raw, numpy):
        site = placed(replace(raw, site=_placed_in(raw.run.session, call.at))).site
        if watched and isinstance(site, Layer):
            outputs = _watched(raw, site)
        elif raw.run.chunks.steady and _is_fitted_by_shape(call) and not second_opinion.wanted(raw):
            # The first example shows the answer's shape; what the others say is seen when they are explained.
            one = _answer(raw.part(np.arange(1)))
            if not raw.run.session.draws_randomness:
                alike = raw.ops.take(one, np.zeros(raw.run.batch, dtype=int))
                try:
                    yield _fitted(raw, alike, call, site, numpy, known=False)
                except Refused:
                    # Of a NaN in the answer to a later example only the gradient has been seen.
                    _answer(raw)
                    raise
                return
            outputs = _answer(raw)
        else:
            outputs = _answer(raw)
        _note_unsteadiness(raw, outputs)
        second_opinion.note(raw, outputs)
        yield _fitted(raw, outputs, call, site, numpy)


def _placed_in(session: Session, site: Site | None) -> Site | None:
    """Return a site that knows where the framework's layers have their channels."""
    if not isinstance(site, Layer):
        return site
    return replace(site, channels_end=getattr(session, "channels_last", False))


def outputs(call: Call) -> Float[np.ndarray, "batch ..."]:
    """Return the model's own output for the inputs, under the same protection as an explanation."""
    with _opened(replace(call, model=loaded(call.model))) as (raw, _):
        return raw.ops.numpy(_answer(raw)).astype(np.float64)


def _is_fitted_by_shape(call: Call) -> bool:
    """Tell whether a target can be fitted to an answer by its shape alone: classes that the user has chosen."""
    target = call.target
    if isinstance(target, targets.Target):
        target = target.index if target.kind == "logit" else None
    return isinstance(target, (int, np.integer, list)) or hasattr(target, "shape")


def _watched(raw: Problem, site: Layer) -> Array:
    """Answer with a graph from the layer on, where one chunk holds all rows: then there need be no second run."""
    run = raw.run
    if run.neuron is not None or run.backend.compiled or not run.chunks.holds(len(raw.rows)):
        return _answer(raw)
    try:
        output, seen = run.forward(raw.inputs, raw.rows, Tap(site.name, site.call, site.input, leaf=True))
    except Exception as problem:
        if not run.backend.is_out_of_memory(problem):
            raise
        return _answer(raw)
    run.answered.append(Answered(raw.inputs, output, seen))
    return _checked(raw, raw.ops.like(output, output))


def _answer(raw: Problem) -> Array:
    return _checked(raw, raw.native_value(raw.inputs))


def _checked(raw: Problem, outputs: Array) -> Array:
    if not raw.ops.is_finite(outputs):
        values = raw.ops.numpy(outputs).reshape(len(raw.rows), -1)
        row = raw.rows[np.flatnonzero(~np.isfinite(values).all(1))[0]]
        raise BadInput(NOT_FINITE.format(f"example {row} of {shapes_of(raw.inputs)}"))
    return outputs


@contextmanager
def _opened(call: Call) -> Generator[tuple[Problem, tuple[np.dtype[Any], ...]]]:
    """Yield the inputs as a problem without a target, and their dtypes where they came as NumPy arrays."""
    given = pixels.read(call.inputs) if call.preprocess is not None else call.inputs
    backend = resolve(call.model, given)
    structure, leaves, numpy = native(call, given, backend)
    batch = int(leaves[0].shape[0])
    shapes = tuple((tuple(leaf.shape[1:]), str(leaf.dtype)) for leaf in leaves)
    every = isinstance(call.target, str)
    pictures = call.preprocess is not None
    with backend.session(call.model, call.seed) as session:
        run = Run(
            backend=backend,
            session=session,
            structure=structure,
            chunks=chunks_for(
                call.model,
                (shapes, call.at, every),
                # A file made for a number of examples is run on so many at once.
                call.chunk or getattr(session, "rows", None),
                _layouts_matter(leaves, backend),
                _sizes(leaves, backend),
            ),
            batch=batch,
            kwargs=_arguments(call, backend),
            output=call.output,
            preprocess=call.preprocess,
            neuron=call.target if isinstance(call.target, targets.Neuron) else None,
            seed=call.seed,
            on_unknown=call.on_unknown,
            # A row's own weights leave no first operations that all rows share.
            fuse=call.fuse and not isinstance(call.at, Parameter),
            channels_last=(pictures or not backend.differentiable or getattr(session, "channels_last", False))
            and pixels.channels_last(tuple(leaves[0].shape)),
            read=pixels.read if pictures else None,
            notes=list(session.notes()),
            progress=Progress(call.progress),
        )
        try:
            fitted = arguments.fitted(run, leaves)
            yield Problem(fitted, leaves, np.arange(batch)), numpy
        finally:
            run.progress.close()


def _layouts_matter(leaves: Leaves, backend: Backend) -> bool:
    """Tell whether a model may be faster on pictures whose channels lie last: where they are large."""
    large = any(leaf.ndim == 4 and int(np.prod(leaf.shape[1:])) >= LARGE for leaf in leaves)
    return large and backend.differentiable


def _sizes(leaves: Leaves, backend: Backend) -> tuple[int, ...]:
    """Return the numbers of rows that a model may be compiled for; none where it is compiled once for any number."""
    if not backend.compiled or getattr(backend, "any_rows", False):
        return ()
    return SIZES_LARGE if any(int(np.prod(leaf.shape[1:])) >= LARGE for leaf in leaves) else SIZES


def _arguments(call: Call, backend: Backend) -> dict[str, Any]:
    """Return the model's further arguments, in the framework of a model that has none of its own."""
    named = _named(call.kwargs)
    taken = getattr(backend, "arguments", None)
    return named if taken is None else taken(call.model, named)


def _named(kwargs: Any) -> dict[str, Any]:
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise BadInput(
            f"kwargs is {kwargs!r}; it is a dict from the names of the model's arguments to values"
        )
    return dict(kwargs)


def _fitted(
    raw: Problem, outputs: Any, call: Call, site: Site | None, was_numpy: tuple[np.dtype[Any], ...],
    known: bool = True,
) -> Question:  # fmt: skip
    """Fit the target to the output, and put the question at its site; what is `known` need not be run again."""
    run, ops = raw.run, raw.ops
    if run.neuron is None:
        resolved = targets.resolve(call.target, outputs, ops)
        run = replace(run, target=resolved)
        recorded, description = resolved.recorded, resolved.description
    else:
        recorded, description = call.target, repr(call.target)
    problem = Problem(run, raw.inputs, raw.rows, site)
    if known and not isinstance(call.at, Layer):
        value = outputs if run.target is None else run.target.select(outputs, raw.rows)
        problem.__dict__["output"] = ops.numpy(value).astype(np.float64)
    drawn = run.pictures and not isinstance(call.at, Parameter)
    picture = pixels.to_uint8(raw.inputs[0], run.channels_last) if drawn else None
    return Question(problem, recorded, description, call.model, was_numpy, picture)


def _note_unsteadiness(raw: Problem, outputs: Any) -> None:
    """Run the first example once more, alone: a model that answers otherwise draws lots or mixes its examples.

    A model that was steady once is not asked again for this shape; random numbers that it draws are noticed anyway.
    """
    run, ops = raw.run, raw.ops
    if run.chunks.steady and not run.session.draws_randomness:
        return

    # A half precision rounds differently in a batch of another size: a few units of its last place are no lots drawn.
    kind = floating(outputs)
    steady = max(STEADY, {"float16": 2.0**-8, "bfloat16": 2.0**-5}.get(kind, 0.0))

    def differ(one: Any, two: Any) -> bool:
        one, two = ops.numpy(one).astype(np.float64), ops.numpy(two).astype(np.float64)
        scale = max(float(np.abs(one).max(initial=0.0)), 1e-6)
        return one.shape != two.shape or bool(np.abs(one - two).max(initial=0.0) > steady * scale)

    alone = tuple(leaf[:1] for leaf in raw.inputs)
    one = raw.at(alone, np.arange(1))
    again = one.native_value(alone)
    if not differ(outputs[:1], again) and not run.session.draws_randomness:
        run.chunks.steady = True
        return
    # Alone once more: all rows at once may be run in other chunks than before.
    if run.session.draws_randomness or run.batch == 1 or differ(again, one.native_value(alone)):
        run.note(
            "the model is not deterministic in eval mode: two runs on the same input differ, so its attributions carry "
            "that noise (is dropout left on?)"
        )
    else:
        run.note(
            "the model mixes the examples of a batch: explain them one at a time for answers of their own"
        )
