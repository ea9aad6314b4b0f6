"""TensorFlow: Keras models, traced functions and SavedModels, run as compiled functions that are kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from whence.backends import Array, Leaves, Ruled, Session
from whence.backends.tensorflow_array import Wrapped, native
from whence.backends.tensorflow_callers import caller_for
from whence.backends.tensorflow_gradient import hessian_vector, jvp, vjp
from whence.backends.tensorflow_operations import TensorFlowOperations
from whence.backends.tensorflow_session import TensorFlowSession, opened
from whence.errors import CUT, BadInput, NoGradient
from whence.rule import Rules


class TensorFlowBackend:
    """Models and functions of TensorFlow's tensors."""

    name = "tensorflow"
    ops = TensorFlowOperations()
    differentiable = True
    compiled = True
    any_rows = True
    """A trace leaves the number of rows open: none need be padded."""

    @contextmanager
    def session(self, model: Any, seed: int) -> Generator[TensorFlowSession]:
        with opened(model, seed) as session:
            yield session

    def prepare(self, model: Any, array: Any) -> Array:
        array = native(array)
        if isinstance(array, (tf.Tensor, tf.Variable)):
            return Wrapped(tf.stop_gradient(tf.convert_to_tensor(array)))
        array = np.asarray(array)
        if array.dtype.kind not in "fiub":
            raise BadInput(f"an input holds {array.dtype} values; pass numbers")
        own = np.array(array, dtype=array.dtype.newbyteorder("="))
        return Wrapped(tf.constant(own, caller_for(model).kind if own.dtype.kind == "f" else None))

    def arguments(self, model: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model's further arguments, with arrays as ours."""
        arrays = (np.ndarray, tf.Tensor, tf.Variable)
        return {
            name: Wrapped(tf.convert_to_tensor(value)) if isinstance(value, arrays) else value
            for name, value in kwargs.items()
        }

    def value(self, function: Callable[[Leaves], Array], leaves: Leaves) -> Array:
        return function(leaves)

    def vjp(
        self, function: Callable[[Leaves], Array], leaves: Leaves
    ) -> tuple[Array, Callable[[Array | None], tuple[Array | None, ...]]]:
        return vjp(function, leaves)

    def vjp_within(
        self, function: Callable[[], tuple[Array, Array]]
    ) -> tuple[Array, Array, Callable[[Array | None], tuple[Array | None, ...]]]:
        # A compiled run leaves no graph behind: callers take the general way.
        raise NoGradient(CUT)

    def loop(self, ask: Callable[[Leaves], Array], start: Leaves, steps: Leaves, rows: int) -> Any:
        """Return a compiled loop over gradients at many points of lines; None where the question is not that plain."""
        from whence.backends.tensorflow_loop import loop

        return loop(ask, start, steps, rows)

    def jvp(
        self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
    ) -> tuple[Array, Array]:
        return jvp(function, leaves, direction)

    def hessian_vector(
        self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
    ) -> tuple[Array, Leaves, Leaves]:
        return hessian_vector(function, leaves, direction)

    def pieces(
        self, function: Callable[[Leaves], Array], leaves: Leaves, directions: Leaves
    ) -> tuple[Array, Leaves, Array, Array, Array]:
        from whence.backends.tensorflow_program import ruled
        from whence.backends.unpieced import refuse_pieces

        with ruled(None, function, leaves, Rules("gradient", on_unknown="gradient")) as seen:
            refuse_pieces("TensorFlow", seen.met)

    def split(self, function: Callable[[Leaves, np.ndarray], Array], start: Leaves, end: Leaves) -> None:
        return None

    def ruled(
        self,
        session: Session,
        function: Callable[[Leaves], Array],
        leaves: Leaves,
        rules: Rules,
        where: bool = False,
    ) -> Ruled:
        from whence.backends.tensorflow_program import ruled

        return ruled(session, function, leaves, rules, where)

    def is_out_of_memory(self, problem: BaseException) -> bool:
        return isinstance(problem, (tf.errors.ResourceExhaustedError, MemoryError))

    def synchronize(self, array: Array) -> None:
        tensor = native(array)
        if isinstance(tensor, tf.Tensor) and "GPU" in tensor.device:
            tf.reshape(tensor, [-1])[:1].numpy()
