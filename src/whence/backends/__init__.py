"""What a framework must offer: the protocols that every backend keeps to. No framework is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from whence.backends.arrays import Array as Array
from whence.backends.arrays import Leaves as Leaves
from whence.backends.arrays import Operations as Operations
from whence.backends.lookup import loaded as loaded
from whence.backends.lookup import resolve as resolve
from whence.rule import Met, Rules


@dataclass(frozen=True)
class Tap:
    """A place inside the model: what a layer puts out (or takes in, with `input`) at its n-th call.

    With `replacement` the layer's value is replaced by it; with `stop` the model runs no further; with `leaf` what
    follows can be differentiated with respect to the value that was seen, and with nothing before it.
    """

    layer: str
    call: int = 0
    input: bool = False
    replacement: Array | None = None
    stop: bool = False
    leaf: bool = False


@dataclass(frozen=True)
class Activation:
    """What one call of a module put out (or took in, with `input`) for one example of shape [1, ...].

    `maker` is the place in the list of the first that put out this very array: a container hands on what its last part
    made. `passive` ones made nothing to look at: they pool, drop, reshape, or mix the channels of each token.
    `reacting` counts the tokens at which the answer's gradient is not 0; None where the answer does not use it.
    """

    name: str
    call: int
    input: bool
    shape: tuple[int, ...]
    channels_last: bool
    passive: bool
    maker: int
    reacting: int | None = None


@dataclass(frozen=True)
class Swap:
    """A parameter of the model and the array that stands in its place, wherever it is used, for one run."""

    parameter: str
    replacement: Array


class Session(Protocol):
    """One explanation's hold on a model: it runs it, and leaves no trace on it."""

    @property
    def draws_randomness(self) -> bool:
        """Whether the model has drawn random numbers since the session began."""
        ...

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], *taps: Tap | Swap | None
    ) -> tuple[Any, Array | None]:
        """Return the model's output and what was seen at the last tap."""
        ...

    def parameter(self, name: str) -> Array:
        """Return a parameter by its name."""
        ...

    def layers(self) -> list[str]: ...
    def names(self) -> Mapping[int, str]:
        """Return the names of the modules that run, by identity."""
        ...

    def activations(self, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
        """Return what every module takes in and puts out while `function` runs the model on one example, in order."""
        ...

    def widened(self) -> AbstractContextManager[WideSession] | None:
        """Return a session on a copy of the model in float64, dropped when it is left; None where none can be made."""
        ...

    def notes(self) -> list[str]: ...


class WideSession(Session, Protocol):
    """A session that runs a copy of the model whose parameters, buffers and constants are in float64."""

    def widen(self, value: Any) -> Any:
        """Return an array of real numbers in float64, also inside tuples, lists and dicts; all else as it is."""
        ...

    def watched(self) -> AbstractContextManager[list[str]]:
        """Yield a list of the operations that round to less than float64, meanwhile, in this thread."""
        ...


class Split(Protocol):
    """A function f(x) taken apart into f(z) and z = Wx + b, its first affine operations.

    Everything raises Diverged where the model takes another way than when it was recorded.
    """

    @property
    def start(self) -> Leaves:
        """Z at the start of the examples' paths, [B, ...]."""
        ...

    @property
    def end(self) -> Leaves: ...
    @property
    def multiplications(self) -> float:
        """How many multiplications the affine operations take for each number of z."""
        ...

    def template(self) -> Split:
        """Return what can be remembered for other inputs."""
        ...

    def again(self, function: Callable[[Leaves, np.ndarray], Array], start: Leaves, end: Leaves) -> Split:
        """Return the same split of a function that runs the same operations, not tested."""
        ...

    def value(self, z: Leaves, index: np.ndarray) -> Array:
        """Return f [n] (or [n, K]), differentiable in z [n, ...]; `index` [n] is the example of each row."""
        ...

    def leaves(self, x: Leaves, index: np.ndarray) -> Leaves:
        """Return z [n, ...] at other inputs x [n, ...]."""
        ...

    def pull(self, cotangents: Leaves, index: np.ndarray) -> Leaves:
        """Return Wᵀ times cotangents [n, ...]: gradients with respect to x."""
        ...


class Ruled(Protocol):
    """A function whose derivative follows rules: a context, which frees what it holds when it is left."""

    @property
    def value(self) -> Array:
        """F at the leaves, [n] or [n, K]."""
        ...

    @property
    def notes(self) -> list[str]:
        """What the rules could not vouch for."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the output carries any gradient with respect to the leaves."""
        ...

    @property
    def met(self) -> Sequence[Met]:
        """Every operation between the output and the leaves."""
        ...

    def against(self, function: Callable[[Leaves], Array], leaves: Leaves) -> Array:
        """Let rules that compare do so with another point from now on, and return f there.

        Raises:
            Unpaired: the function did other operations there, or of shapes that do not fit.
        """
        ...

    @property
    def kept(self) -> Mapping[str, float]:
        """How much relevance did not reach the leaves, by what kept it, where `rules.account` asks for it."""
        ...

    @property
    def boxed(self) -> Sequence[Any]:
        """The rules (box) that need to know the least and the largest inputs.

        Raises:
            Refused: one stands where they say nothing.
        """
        ...

    def bound(self, function: Callable[[Leaves], Array], low: Leaves, high: Leaves) -> None:
        """Tell rules for bounded inputs (box) what the least and the largest inputs are.

        Raises:
            Unpaired: the function does other operations there.
        """
        ...

    def pull(self, weights: Array | None, keep: bool) -> tuple[Array | None, ...]:
        """Return what the rules pass back from weights on the outputs (None: ones); `keep` for another way back.

        That is a derivative, multipliers, or (for the set "relevance") the relevance of the leaves themselves.
        """
        ...

    def __enter__(self) -> Ruled: ...
    def __exit__(self, *problem: Any) -> None: ...


class Backend(Protocol):
    """A framework: array functions, and a model turned into the transformed functions that methods need."""

    name: str
    differentiable: bool
    compiled: bool
    """Whether the model is compiled for each number of rows: few sizes are used, and a run leaves no graph behind."""

    @property
    def ops(self) -> Operations:
        """The array functions."""
        ...

    def session(self, model: Any, seed: int) -> AbstractContextManager[Session]: ...
    def prepare(self, model: Any, array: Any) -> Array:
        """Return an input as a detached array of this framework."""
        ...

    def value(self, function: Callable[[Leaves], Array], leaves: Leaves) -> Array:
        """Return f(x), with no gradients recorded."""
        ...

    def vjp(
        self, function: Callable[[Leaves], Array], leaves: Leaves
    ) -> tuple[Array, Callable[[Array | None], tuple[Array | None, ...]]]:
        """Return f(x) and the pullback: weights on the outputs (None: ones) to gradients (None: unused)."""
        ...

    def vjp_within(
        self, function: Callable[[], tuple[Array, Array]]
    ) -> tuple[Array, Array, Callable[[Array | None], tuple[Array | None, ...]]]:
        """Return f and an array inside of it, which `function` hands out beside it, and the pullback to that array."""
        ...

    def jvp(
        self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
    ) -> tuple[Array, Array]:
        """Return f(x), an array of any shape, and its derivative along the direction, exactly."""
        ...

    def hessian_vector(
        self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
    ) -> tuple[Array, Leaves, Leaves]:
        """Return f(x), its gradient, and the Hessian times the direction, per example; f(x) is [n]."""
        ...

    def pieces(
        self, function: Callable[[Leaves], Array], leaves: Leaves, directions: Leaves
    ) -> tuple[Array, Leaves, Array, Array, Array]:
        """Return f [n], its gradients, its slope along the directions, and how far its linear piece reaches.

        The reach is two arrays [n], to the left (below 0) and to the right, in steps of the direction.
        """
        ...

    def split(
        self, function: Callable[[Leaves, np.ndarray], Array], start: Leaves, end: Leaves
    ) -> Split | None:
        """Return f taken apart after its first affine operations; None where it cannot be, or does not pay."""
        ...

    def ruled(
        self,
        session: Session,
        function: Callable[[Leaves], Array],
        leaves: Leaves,
        rules: Rules,
        where: bool = False,
    ) -> Ruled:
        """Return f at the leaves with other derivatives, operation by operation; `where` notes the lines of code.

        Raises:
            Refused: an operation is known to no rule.
        """
        ...

    def is_out_of_memory(self, problem: BaseException) -> bool: ...
    def synchronize(self, array: Array) -> None:
        """Wait until the device has finished, so that a clock tells the truth."""
        ...
