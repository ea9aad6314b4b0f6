"""A JAX model run for one explanation: traced, compiled once for each number of rows, watched at its names."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from whence.backends import Activation, Array, Leaves, Swap, Tap
from whence.backends.generators import Streams
from whence.backends.jax_compiled import Given, Program, Store, kinds_of
from whence.backends.jax_models import Parts, is_pair, joined_path
from whence.errors import BadInput, Refused

UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
EAGER = (
    "the model cannot be compiled (it looks at the values of its arrays while it runs): it was run as it is, which is "
    "slower"
)
_owners: dict[int, Any] = {}


def programs_of(model: Any) -> Store:
    """Return what was compiled of a model before; it is kept as long as the model lives."""
    owner = model[0] if is_pair(model) else getattr(model, "__self__", model)
    known = _owners.get(id(owner))
    if known is not None and known[0]() is owner:
        store = known[1]
    else:
        store = Store()
        try:
            weakref.finalize(owner, _owners.pop, id(owner), None)
            _owners[id(owner)] = (weakref.ref(owner), store)
        except TypeError:
            # What cannot be weakly referenced is traced and compiled anew each time.
            pass
    return store


class JaxSession:
    """Runs one model (or plain function) for one explanation."""

    def __init__(self, parts: Parts, store: Store, streams: Streams) -> None:
        self.parts, self._store, self._streams = parts, store, streams
        self._programs: dict[Any, Program] = {}
        self._notes: list[str] = []
        self._observer: Any = None
        self._eager = False

    @property
    def draws_randomness(self) -> bool:
        """Whether the model has drawn from the generators of NumPy and Python since the session began."""
        return self._streams.drawn

    @property
    def channels_last(self) -> bool:
        """Whether pictures inside the model have their channels last."""
        return self.parts.channels_last

    def notes(self) -> list[str]:
        return self._notes

    def widened(self) -> None:
        return None

    def names(self) -> Mapping[int, str]:
        return {}

    def layers(self) -> list[str]:
        return self.parts.layers()

    def parameter(self, name: str) -> Array:
        place = self._place(name)
        return jax.tree.leaves(self.parts.parameters)[place]

    def _place(self, name: str) -> int:
        from whence.naming import unknown

        names = [
            joined_path(path) for path, _ in jax.tree_util.tree_flatten_with_path(self.parts.parameters)[0]
        ]
        plain = [each.removeprefix("params.").removeprefix("model.").removesuffix(".value") for each in names]
        if name in names:
            return names.index(name)
        if name in plain:
            return plain.index(name)
        if not names:
            raise Refused(
                f"parameter {name!r}: the model is a plain function, whose parameters are not seen; pass the pair "
                "(f, params), for a function f(params, x)"
            )
        raise BadInput(unknown("parameter", name, plain))

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], *taps: Tap | Swap | None
    ) -> tuple[Any, Array | None]:
        places = [each for each in taps if each is not None]
        return self._streams.run(lambda: self._run(inputs, kwargs, places))

    def _run(
        self, inputs: Any, kwargs: Mapping[str, Any], places: list[Tap | Swap]
    ) -> tuple[Any, Array | None]:
        given: Given = (inputs if isinstance(inputs, tuple) else (inputs,)), dict(kwargs)
        if isinstance(inputs, Mapping):
            given = (), {**inputs, **kwargs}
        parameters = jax.tree.leaves(self.parts.parameters)
        for each in places:
            if isinstance(each, Swap):
                parameters[self._place(each.parameter)] = each.replacement
        watched = [each for each in places if isinstance(each, Tap)]
        if self._observer is not None:
            return self._observer(self._program(given, True), parameters, given), None
        if self._eager:
            return self._plain(parameters, given, watched), None
        try:
            program = self._program(given, bool(watched))
        except UNTRACEABLE:
            self._eager = True
            self._notes.append(EAGER)
            return self._plain(parameters, given, watched), None
        return program.run(parameters, given, watched)

    def _plain(self, parameters: Sequence[Any], given: Any, watched: Sequence[Tap]) -> Any:
        if watched:
            raise Refused(
                f"layer {watched[0].layer!r}: the model looks at the values of its arrays while it runs, so it cannot "
                "be traced, and nothing inside of it can be watched"
            )
        whole = jax.tree.unflatten(jax.tree.structure(self.parts.parameters), parameters)
        output = self.parts.applied(whole, *given)
        return jax.tree.map(lambda each: jnp.asarray(each) if isinstance(each, np.ndarray) else each, output)

    def _program(self, given: Any, tagged: bool) -> Program:
        key = (kinds_of(given), tagged)
        if key not in self._programs:
            self._programs[key] = Program.traced(self.parts, given, tagged, self._store)
        return self._programs[key]

    @contextmanager
    def observing(self, observer: Any) -> Generator[None]:
        """Let all runs of the model be the observer's."""
        before, self._observer = self._observer, observer
        try:
            yield
        finally:
            self._observer = before

    def activations(self, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
        from whence.backends.jax_layers import observed

        return observed(self, function, leaves)
