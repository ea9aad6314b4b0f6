"""What running a TensorFlow model may change beside its output: random generators and variables, put back."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context as eager  # pyright: ignore[reportMissingImports]

from whence.backends.generators import NUMPY, PYTHON, Source, Streams

# Operations of a graph that draw, whose every run differs.
_DRAWS = (
    "Random",
    "Multinomial",
    "TruncatedNormal",
    "StatefulUniform",
    "StatefulStandardNormal",
    "RngReadAndSkip",
)
# Operations of a graph that write to variables.
_WRITES = (
    "Assign",
    "ResourceScatter",
    "ResourceStrided",
    "RngSkip",
    "RngReadAndSkip",
    "Stateful",
    "ResourceApply",
)


def _context() -> Any:
    return eager.context()


def _state() -> Any:
    own = _context()
    generator = getattr(own, "_rng", None)
    return getattr(own, "_seed", None), None if generator is None else generator.getstate()


def _seed(seed: int) -> None:
    _context()._set_global_seed(seed % 2**31)


def _put_back(state: Any) -> None:
    own, (seed, numbers) = _context(), state
    own._seed = seed
    if numbers is not None:
        own._rng = random.Random()
        own._rng.setstate(numbers)


TENSORFLOW = Source(_state, _seed, _put_back)


@contextmanager
def guarded(seed: int, eager: bool) -> Generator[Streams]:
    """Hold streams for a model's own random numbers; TensorFlow's too where it runs operation by operation."""
    sources = (NUMPY, PYTHON, TENSORFLOW) if eager else (NUMPY, PYTHON)
    with Streams(seed, sources, sources).opened() as streams:
        yield streams


@contextmanager
def unchanged(variables: Iterable[Any]) -> Generator[None]:
    """Give variables back the values that they had, whatever a run writes to them."""
    before = [(each, each.read_value()) for each in variables]
    try:
        yield
    finally:
        for each, value in before:
            each.assign(value)


@contextmanager
def unmoved() -> Generator[None]:
    """Leave TensorFlow's global generator as it was, without seeding it."""
    before = _state()
    try:
        yield
    finally:
        _put_back(before)


def draws(operations: Iterable[str]) -> bool:
    """Tell whether operations of a graph draw random numbers from a state of their own."""
    return any(part in each and not each.startswith("Stateless") for each in operations for part in _DRAWS)


def writes(operations: Iterable[str]) -> bool:
    """Tell whether operations of a graph write to variables."""
    return any(each.startswith(_WRITES) for each in operations)


def operations_of(graph: Any) -> set[str]:
    """Return the kinds of operations in a graph and in all functions that it calls."""
    found = graph.as_graph_def()
    nodes: Sequence[Any] = found.node
    inner = (node.op for function in found.library.function for node in function.node_def)
    return {node.op for node in nodes} | set(inner)


def variables_of(model: Any) -> list[Any]:
    """Return the variables that an object of TensorFlow's knows of."""
    return [each for each in getattr(model, "variables", ()) if isinstance(each, tf.Variable)]
