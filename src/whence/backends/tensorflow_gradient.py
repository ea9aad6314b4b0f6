"""Derivatives in TensorFlow: a model's way back runs in one graph with its way forward, on a guess that is checked.

A compiled function that stops between the two has to keep what lies between, and costs about twice as much as one that
goes the whole way. So the function is run twice: once with zeros for the model's output, which shows what weight each
output has in it, and then with the model going the whole way on these weights. They do not depend on the output where
the function takes numbers out of it; where they do, they turn out to be others, and the way back is run on those.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from whence.backends import Array, Leaves
from whence.backends.tensorflow_array import Wrapped
from whence.backends.tensorflow_trace import Traced, building, new_tape
from whence.errors import CUT, NoGradient


class _NoGuess(BaseException):
    """Ends a run that can say nothing: the shape of the model's output is not known yet."""


@dataclass
class Passing:
    """One run of a function that will be differentiated: what its calls of the model are told, and tell.

    `seeds` holds, for each call, the weights of its outputs: filled in a dry run, used in the other.
    """

    dry: bool
    seeds: list[list[Any]] = field(default_factory=list[list[Any]])
    calls: int = 0
    pulled: bool = False
    tape: Any = None

    def unrecorded(self) -> AbstractContextManager[Any]:
        """Stop the tape of this run meanwhile."""
        return nullcontext() if self.tape is None else self.tape.stop_recording()

    def run(self, traced: Traced, tensors: list[Any], misled: set[Traced]) -> list[Any]:
        """Return the outputs of a traced model, differentiably; `misled` keeps those of which no guess came true."""
        place, self.calls = self.calls, self.calls + 1
        return (
            self._dry(traced, tensors, place, misled)
            if self.dry
            else self._whole(traced, tensors, place, misled)
        )

    def _dry(self, traced: Traced, tensors: list[Any], place: int, misled: set[Traced]) -> list[Any]:
        nothing = None if traced in misled else zeros(traced, tensors)
        if nothing is None:
            raise _NoGuess
        self.seeds.append([])

        @_with_own_derivative
        def model(*inputs: Any) -> Any:
            def back(*weights: Any, variables: Sequence[Any] = ()) -> Any:
                self.seeds[place] = [weights[each] for each in traced.answers]
                return _with_none([None for _ in inputs], variables)

            return nothing, back

        return list(model(*(tensors[each] for each in traced.floats)))

    def _whole(self, traced: Traced, tensors: list[Any], place: int, misled: set[Traced]) -> list[Any]:
        guess = self.seeds[place] if place < len(self.seeds) else []

        @_with_own_derivative
        def model(*_: Any) -> Any:
            # What happens here has its own derivative, and is not recorded to have another.
            with self.unrecorded():
                outputs, gradients = (
                    traced.derived(tensors, guess) if guess else (list(traced.forward(*tensors)), [])
                )
            remember(traced, tensors, outputs)

            def back(*weights: Any, variables: Sequence[Any] = ()) -> Any:
                needed = [weights[each] for each in traced.answers]
                if guess and _equal(guess, needed):
                    return _with_none(traced.unused(gradients, needed), variables)
                if guess and not self.pulled:
                    misled.add(traced)
                return _with_none(traced.unused(traced.derived(tensors, needed)[1], needed), variables)

            return outputs, back

        return list(model(*(tensors[each] for each in traced.floats)))


def _with_own_derivative(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives its outputs, from one that also gives the way back."""
    made: Any = tf.custom_gradient
    return made(function)


passing: ContextVar[Passing | None] = ContextVar("passing", default=None)


def remember(traced: Traced, tensors: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Remember of which shapes the outputs are."""
    key = _key(tensors)
    if key not in traced.shapes:
        traced.shapes[key] = [each.shape for each in outputs]


def zeros(traced: Traced, tensors: Sequence[Any]) -> list[Any] | None:
    """Return zeros in the shapes of a model's outputs; None where these are not known yet."""
    shapes = traced.shapes.get(_key(tensors))
    if shapes is None:
        return None
    return [tf.zeros(shape, kind) for shape, kind in zip(shapes, traced.kinds, strict=True)]


def _key(tensors: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(each.shape.as_list()) for each in tensors)


def _with_none(gradients: list[Any], variables: Sequence[Any]) -> Any:
    """Return gradients, with none for the variables that TensorFlow asks for wherever a function uses some."""
    return (gradients, [None for _ in variables]) if variables else gradients


def _equal(one: Sequence[Any], two: Sequence[Any]) -> bool:
    return all(bool(tf.reduce_all(tf.equal(a, b))) for a, b in zip(one, two, strict=True))


@contextmanager
def _passed(run: Passing | None) -> Generator[None]:
    token = passing.set(run)
    try:
        yield
    finally:
        passing.reset(token)


def recorded(function: Callable[[Leaves], Array], leaves: Sequence[Any], run: Passing) -> tuple[Any, Any]:
    """Return f at tensors, and the tape of the run."""
    with _passed(run), new_tape(persistent=True) as tape:
        run.tape = tape
        tape.watch([each for each in leaves if each.dtype.is_floating])
        y = function(tuple(Wrapped(each) for each in leaves)).tensor
    return y, tape


def _guessed(function: Callable[[Leaves], Array], leaves: Sequence[Any]) -> list[list[Any]]:
    """Return the weights that the model's outputs have in a function, as far as a run without the model shows them."""
    dry = Passing(dry=True)
    try:
        y, tape = recorded(function, leaves, dry)
        with _passed(None):
            tape.gradient(y, list(leaves), _first(y))
    except (_NoGuess, Exception):
        # Whatever goes wrong with zeros is no trouble of the model's own output.
        return []
    return dry.seeds


def _first(y: Any) -> Any:
    """Return the weights of the first way back: of all rows, and of the first class where there are several."""
    return (
        tf.ones_like(y)
        if y.shape.rank == 1
        else tf.one_hot(tf.zeros(y.shape[0], tf.int32), y.shape[1], dtype=y.dtype)
    )


def vjp(
    function: Callable[[Leaves], Array], leaves: Leaves
) -> tuple[Array, Callable[[Array | None], tuple[Array | None, ...]]]:
    """Return f(x) and the pullback.

    Raises:
        NoGradient: the output's graph does not reach the leaves.
    """
    inputs = [leaf.tensor for leaf in leaves]
    run = Passing(False, _guessed(function, inputs))
    y, tape = recorded(function, inputs, run)
    start = _first(y)
    begun = tape.gradient(y, inputs, start)
    # The guess was about this way back, and says nothing about those of other classes.
    run.pulled = True
    if all(each is None for each in begun):
        raise NoGradient(CUT)

    def pull(weights: Array | None) -> tuple[Array | None, ...]:
        given = tf.ones_like(y) if weights is None else weights.tensor
        found = begun if _equal([given], [start]) else tape.gradient(y, inputs, given)
        return tuple(None if each is None else Wrapped(tf.convert_to_tensor(each)) for each in found)

    return Wrapped(y), pull


def jvp(function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves) -> tuple[Array, Array]:
    """Return f(x) and J(x) v: Jᵀu is linear in u, and the derivative of ⟨Jᵀu, v⟩ by u is Jv."""
    inputs = [leaf.tensor for leaf in leaves]
    along = [tf.cast(each.tensor, x.dtype) for each, x in zip(direction, inputs, strict=True)]
    with building, _passed(None), new_tape() as outer:
        with new_tape() as inner:
            inner.watch(inputs)
            y = function(tuple(Wrapped(each) for each in inputs)).tensor
        u = tf.zeros_like(y)
        outer.watch(u)
        back = inner.gradient(y, inputs, u, unconnected_gradients="zero")
        total = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(back, along, strict=True)])
    return Wrapped(y), Wrapped(outer.gradient(total, u, unconnected_gradients="zero"))


def hessian_vector(
    function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
) -> tuple[Array, Leaves, Leaves]:
    """Return f(x), its gradient, and the Hessian times the direction, per example; f(x) is [n]."""
    inputs = [leaf.tensor for leaf in leaves]
    with building, _passed(None), new_tape() as outer:
        outer.watch(inputs)
        with new_tape() as inner:
            inner.watch(inputs)
            y = function(tuple(Wrapped(each) for each in inputs)).tensor
        raw = inner.gradient(y, inputs)
        if all(each is None for each in raw):
            raise NoGradient(CUT)
        gradients = [
            tf.zeros_like(x) if g is None else tf.convert_to_tensor(g)
            for g, x in zip(raw, inputs, strict=True)
        ]
        pairs = zip(gradients, direction, strict=True)
        total = tf.add_n([tf.reduce_sum(g * tf.cast(d.tensor, g.dtype)) for g, d in pairs])
    bent = outer.gradient(total, inputs, unconnected_gradients="zero")
    return (
        Wrapped(y),
        tuple(map(Wrapped, gradients)),
        tuple(Wrapped(tf.convert_to_tensor(each)) for each in bent),
    )
