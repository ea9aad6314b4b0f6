"""One explanation's hold on a TensorFlow model: run as a compiled function, and never changed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from whence.backends import Activation, Array, Leaves, Swap, Tap
from whence.backends.generators import Streams
from whence.backends.tensorflow_array import Wrapped, native
from whence.backends.tensorflow_callers import Caller, Ran, caller_for
from whence.backends.tensorflow_gradient import passing, remember
from whence.backends.tensorflow_state import guarded, unchanged, unmoved, variables_of
from whence.backends.tensorflow_trace import Template, Traced, Untraceable
from whence.errors import Refused, WhenceError

_tracing = threading.RLock()


Look = tuple[tuple[int | None, ...], Any]
"""A tensor's shape, with None for any number, and its type."""


@dataclass
class Memory:
    """What was traced of one model: by taps and shapes; `rigid` where it cannot leave the number of rows open.

    Each trace comes with the random generators of the model that its last inputs are the states of.
    """

    version: int
    traces: dict[Any, tuple[Traced, list[Any]]] = field(default_factory=dict[Any, tuple[Traced, list[Any]]])
    rigid: bool = False
    eager: bool = False


_remembered: weakref.WeakKeyDictionary[Any, Memory] = weakref.WeakKeyDictionary()


def _memory(model: Any, version: int) -> Memory:
    try:
        known = _remembered.get(model)
        if known is None or known.version != version:
            known = _remembered[model] = Memory(version)
        return known
    except TypeError:
        # What cannot be weakly referenced is traced anew in each session.
        return Memory(version)


@dataclass(frozen=True)
class Asked:
    """One run: what the model is given, and where it is watched."""

    inputs: Any
    kwargs: dict[str, Any]
    taps: list[Tap | Swap]

    def taken_apart(self) -> tuple[Template, list[Any]]:
        """Return the template and the tensors of all that goes in."""
        other = [each.replacement for each in self.taps]
        return Template.of((self.inputs, self.kwargs, other))

    def bare(self) -> list[Tap | Swap]:
        """Return the taps without their arrays."""
        return [replace(each, replacement=None) for each in self.taps]


class TensorFlowSession:
    """Runs one model for one explanation."""

    def __init__(self, model: Any, caller: Caller, seed: int, streams: Streams) -> None:
        self.model, self.caller = model, caller
        self._seed, self._streams = seed, streams
        self._memory = _memory(model, caller.version())
        self._misled: set[Traced] = set()
        self._generators: dict[int, tuple[Any, Any]] = {}
        self._drawn = False

    @property
    def draws_randomness(self) -> bool:
        """Whether the model has drawn random numbers since the session began."""
        return self._drawn or self._streams.drawn

    @property
    def channels_last(self) -> bool:
        """Whether layers have their channels at the end."""
        return self.caller.channels_last

    def notes(self) -> list[str]:
        if not self._memory.eager:
            return []
        return ["the model cannot be traced: it is run operation by operation, which is slower"]

    def widened(self) -> None:
        return None

    def names(self) -> Mapping[int, str]:
        return {}

    def layers(self) -> list[str]:
        return self.caller.layers()

    def parameter(self, name: str) -> Array:
        return Wrapped(self.caller.parameter(name))

    def activations(self, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
        from whence.backends.keras_layers import is_keras

        if not is_keras(self.model):
            raise Refused(
                "the model is a function or a SavedModel, in which no layer can be chosen; pass a Keras model (or a "
                "method for inputs)"
            )
        from whence.backends.tensorflow_layers import activations

        with self.by_operations():
            return activations(self.model, function, leaves)

    @contextmanager
    def by_operations(self) -> Generator[None]:
        """Run the model operation by operation meanwhile."""
        mine, self._memory = self._memory, Memory(0, eager=True)
        try:
            yield
        finally:
            self._memory = mine

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], *taps: Tap | Swap | None
    ) -> tuple[Any, Array | None]:
        places = [replace(each, replacement=native(each.replacement)) for each in taps if each is not None]
        asked = Asked(native(inputs), {name: _given(value) for name, value in kwargs.items()}, places)
        ran = self._compiled(asked) if self.caller.traces and not self._memory.eager else self._eager(asked)
        return ran.output, None if ran.seen is None else Wrapped(ran.seen)

    # ---- operation by operation ----------------------------------------------------------------------------------

    def _eager(self, asked: Asked) -> Ran:
        generators = list(self._generators.values())

        def work() -> Ran:
            return self.caller.run(asked.inputs, asked.kwargs, asked.taps, generators)

        with unmoved() if self.caller.traces else ExitStack():
            ran = self._streams.run(work)
        self._draw(ran.drawn)
        return ran

    def _draw(self, states: Sequence[tuple[Any, Any]]) -> None:
        """Keep how far the model's own generators have come: the user's stay where they are."""
        for variable, state in states:
            self._drawn = True
            # While a run is traced the state is none yet: what is traced draws the same numbers in each of its runs.
            if not tf.is_symbolic_tensor(state):
                self._generators[id(variable)] = variable, state

    # ---- compiled ------------------------------------------------------------------------------------------------

    def _compiled(self, asked: Asked) -> Ran:
        try:
            template, tensors = asked.taken_apart()
        except Untraceable:
            return self._eager(asked)
        found = self._traced(asked, template, tensors)
        if found is None:
            ran = self._eager(asked)
            # Only a model that runs in this way shows that it is tracing that it cannot bear.
            self._memory.eager = True
            return ran
        traced, generators = found
        self._drawn = self._drawn or traced.draws
        tensors = [*tensors, *(self._state(each, place) for place, each in enumerate(generators))]
        output, seen, states = traced.template.filled(self._outputs(traced, tensors))
        self._draw(list(zip(generators, states, strict=True)))
        return Ran(output, seen, ())

    def _outputs(self, traced: Traced, tensors: list[Any]) -> list[Any]:
        within = passing.get()
        variables = traced.forward.graph.variables if traced.writes else ()
        with unchanged(variables) if traced.writes else ExitStack():
            if within is None or not traced.alone or not traced.floats or not traced.answers:
                outputs = list(traced.forward(*tensors))
                remember(traced, tensors, outputs)
                return outputs
            return within.run(traced, tensors, self._misled)

    def _state(self, generator: Any, place: int) -> Any:
        """Return the state of one of the model's generators, in this session's own stream."""
        if id(generator) not in self._generators:
            start = np.array([self._seed % 2**32, place], dtype=np.uint32)
            self._generators[id(generator)] = generator, tf.constant(start, tf.as_dtype(generator.dtype))
        return self._generators[id(generator)][1]

    def _traced(
        self, asked: Asked, template: Template, tensors: list[Any]
    ) -> tuple[Traced, list[Any]] | None:
        """Return the model's trace for such a question, with its generators; None where it cannot be traced."""
        memory = self._memory
        taps = tuple(asked.bare())
        looks = [(tuple(each.shape.as_list()), each.dtype) for each in tensors]
        for rows in (None,) if memory.rigid else (looks[0][0][:1] if tensors else None, None):
            specs = tuple(_open(shape, kind, rows) for shape, kind in looks)
            key = (taps, template.key, specs)
            known = memory.traces.get(key)
            if known is None:
                with _tracing:
                    known = memory.traces.get(key) or self._trace(taps, template, specs)
            if known is not None:
                memory.traces[key] = known
                memory.rigid = rows is None
                return known
        return None

    def _trace(
        self, taps: Sequence[Tap | Swap], template: Template, specs: Sequence[Look]
    ) -> tuple[Traced, list[Any]] | None:
        moved = False

        def work() -> tuple[Traced, list[Any]]:
            return _traced_with(weakref.ref(self.model), taps, template, specs, [])

        try:
            with guarded(self._seed, eager=False) as streams:
                found = streams.run(work)
                moved = streams.drawn
        except WhenceError:
            raise
        except Exception:
            # Whatever it is, a run by operations tells it better, or goes well.
            return None
        # Numbers of Python's and NumPy's generators would be drawn once and for all.
        return None if moved else found


def _traced_with(
    model: weakref.ref[Any],
    taps: Sequence[Tap | Swap],
    template: Template,
    specs: Sequence[Look],
    generators: list[Any],
) -> tuple[Traced, list[Any]]:
    """Trace a model; once more where it turns out to draw from generators whose states must come and go."""
    found: list[Any] = []

    def call(tensors: list[Any]) -> Any:
        inputs, kwargs, replacements = template.filled(tensors[: len(tensors) - len(generators)])
        states = list(zip(generators, tensors[len(tensors) - len(generators) :], strict=True))
        pairs = zip(taps, replacements, strict=True)
        placed = [replace(tap, replacement=other) for tap, other in pairs]
        ran = caller_for(model()).run(inputs, kwargs, placed, states)
        new = {id(variable): state for variable, state in ran.drawn}
        found[:] = [variable for variable, _ in ran.drawn]
        return ran.output, ran.seen, [new.get(id(variable), state) for variable, state in states]

    states = [tf.TensorSpec(each.shape, each.dtype) for each in generators]
    traced = Traced(call, [*(tf.TensorSpec(*each) for each in specs), *states], len(generators))
    unknown = [each for each in found if all(each is not known for known in generators)]
    if not unknown:
        return traced, generators
    return _traced_with(model, taps, template, specs, [*generators, *unknown])


def _open(shape: tuple[int, ...], kind: tf.DType, rows: tuple[int, ...] | None) -> Look:
    """Return what a tensor looks like, with the number of rows left open where it is the batch's."""
    return ((None, *shape[1:]) if rows and shape[:1] == rows else shape), kind


def _given(value: Any) -> Any:
    """Return one of the model's further arguments with its arrays as tensors."""
    return tf.convert_to_tensor(value) if isinstance(value, np.ndarray) else native(value)


@contextmanager
def opened(model: Any, seed: int) -> Generator[TensorFlowSession]:
    """Yield a session on a model."""
    caller = caller_for(model)
    own = [] if caller.traces else variables_of(model)
    with guarded(seed, eager=not caller.traces) as streams, unchanged(own):
        yield TensorFlowSession(model, caller, seed, streams)
