"""JAX: native arrays, a model compiled once for each number of rows, and gradients through the compiled model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from whence.backends import Array, Leaves, Ruled, Session
from whence.backends.generators import numpy_and_python
from whence.backends.jax_fused import fused, remembering
from whence.backends.jax_models import taken_apart
from whence.backends.jax_session import UNTRACEABLE, JaxSession, programs_of
from whence.errors import BadInput, NoGradient, Refused
from whence.rule import Rules

LOOKS = (
    "the model looks at the values of its arrays while it runs (a Python branch, float(), NumPy), and JAX cannot "
    "differentiate that: write it with jnp.where or jax.lax.cond, or give it NumPy arrays, as a black box"
)
CUT_IN_JAX = (
    "the model's output carries no gradient with respect to the input: something in it cuts the way "
    "(stop_gradient, argmax, rounding, a comparison); given NumPy arrays it can be explained as a black box "
    "(sensitivity)"
)


class JaxOperations:
    """The array functions on JAX arrays, on the array's own device."""

    def like(self, value: Any, reference: Array) -> Array:
        return jnp.asarray(value, dtype=reference.dtype)

    def array(self, value: np.ndarray, reference: Array) -> Array:
        value = np.asarray(value)
        wide = jnp.float64 if reference.dtype == jnp.float64 else jnp.float32
        return jnp.asarray(value, dtype=wide) if value.dtype.kind == "f" else jnp.asarray(value)

    def numpy(self, array: Array) -> np.ndarray:
        narrow = array.dtype == jnp.bfloat16
        return np.asarray(array.astype(jnp.float32) if narrow else array)

    def own(self, value: Any) -> Any:
        return value

    def native(self, value: Any) -> Any:
        return value

    def wide(self, array: Array) -> Array:
        return array if array.dtype == jnp.float64 else array.astype(jnp.float32)

    def cast(self, array: Array, reference: Array) -> Array:
        return array.astype(reference.dtype)

    def copy(self, array: Array) -> Array:
        # Nothing can write to an array of JAX.
        return array

    def laid_out(self, array: Array, channels_last: bool) -> Array:
        return array

    def take(self, array: Array, rows: np.ndarray) -> Array:
        rows = np.asarray(rows)
        if len(rows) == array.shape[0] and (rows == np.arange(len(rows))).all():
            return array
        return _take(array, rows.astype(np.int32))

    def put(self, array: Array, rows: np.ndarray, value: Array) -> Array:
        return _put(array, np.asarray(rows), value)

    def accumulate(
        self, sums: Array, cell: np.ndarray, weight: np.ndarray, rows: Array
    ) -> Callable[[], Array]:
        added = _accumulate(sums, np.asarray(cell, dtype=np.int32), jnp.asarray(weight, rows.dtype), rows)
        return lambda: added

    def zeros(self, shape: Sequence[int], reference: Array) -> Array:
        return jnp.zeros(tuple(shape), dtype=reference.dtype)

    def concatenate(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return arrays[0] if len(arrays) == 1 else jnp.concatenate(list(arrays), axis)

    def argsort(self, array: Array) -> Array:
        return jnp.argsort(array, axis=-1, stable=True)

    def along(self, array: Array, order: Array) -> Array:
        return jnp.take_along_axis(array, order, -1)

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return jnp.stack(list(arrays), axis)

    def where(self, condition: Array, yes: Array, no: Array) -> Array:
        return jnp.where(condition, yes, no)

    def transpose(self, array: Array, axes: Sequence[int]) -> Array:
        return jnp.transpose(array, tuple(axes))

    def resize(self, array: Array, size: tuple[int, int]) -> Array:
        return jax.image.resize(array, (*array.shape[:2], *size), "linear", antialias=True)

    def softmax(self, array: Array) -> Array:
        return jax.nn.softmax(array, 1)

    def log_softmax(self, array: Array) -> Array:
        return jax.nn.log_softmax(array, 1)

    def log(self, array: Array) -> Array:
        return jnp.log(array)

    def sigmoid(self, array: Array) -> Array:
        return jax.nn.sigmoid(array)

    def is_float(self, array: Array) -> bool:
        return bool(jnp.issubdtype(array.dtype, jnp.floating))

    def is_finite(self, array: Array) -> bool:
        return not self.is_float(array) or bool(jnp.isfinite(array).all())

    def is_array(self, value: Any) -> bool:
        return isinstance(value, jax.Array)


@jax.jit
def _take(array: Array, rows: Array) -> Array:
    return jnp.take(array, rows, axis=0, mode="clip")


@jax.jit
def _put(array: Array, rows: Array, value: Array) -> Array:
    return array.at[rows].set(value.astype(array.dtype))


@jax.jit
def _accumulate(sums: Array, cell: Array, weight: Array, rows: Array) -> Array:
    flat = sums.reshape(sums.shape[0], -1)
    return flat.at[cell].add(rows * weight[:, None]).reshape(sums.shape)


class JaxBackend:
    """Functions of JAX arrays, and modules of flax, equinox and Keras."""

    name = "jax"
    ops = JaxOperations()
    differentiable = True
    compiled = True

    @contextmanager
    def session(self, model: Any, seed: int) -> Generator[JaxSession]:
        parts = taken_apart(model)
        with numpy_and_python(seed) as streams:
            store = programs_of(model)
            with remembering(store.fused):
                yield JaxSession(parts, store, streams)

    def prepare(self, model: Any, array: Any) -> Array:
        if isinstance(array, jax.Array):
            return array
        array = np.asarray(array)
        if array.dtype.kind not in "fiub":
            raise BadInput(f"an input holds {array.dtype} values; pass numbers")
        kind = taken_apart(model).dtype if array.dtype.kind == "f" else None
        # A copy: on the CPU a JAX array may share the memory of the NumPy array that it was made from.
        own = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        return jnp.array(own, dtype=jax.dtypes.canonicalize_dtype(own.dtype) if kind is None else kind)

    def arguments(self, model: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model's further arguments, with NumPy's arrays as JAX's."""
        return {
            name: jnp.asarray(value) if isinstance(value, np.ndarray) else value
            for name, value in kwargs.items()
        }

    def value(self, function: Callable[[Leaves], Array], leaves: Leaves) -> Array:
        return function(leaves)

    def vjp(
        self, function: Callable[[Leaves], Array], leaves: Leaves
    ) -> tuple[Array, Callable[[Array | None], tuple[Array | None, ...]]]:
        try:
            closed = jax.make_jaxpr(lambda *given: function(given))(*leaves)
        except UNTRACEABLE as problem:
            raise Refused(LOOKS) from problem
        program = fused(closed)
        if len(closed.out_avals) == 1 and closed.out_avals[0].ndim == 1:
            y, gradients = program.run(closed.consts, leaves, None)

            def pull(weights: Array | None) -> tuple[Array | None, ...]:
                found = gradients if weights is None else program.run(closed.consts, leaves, weights)[1]
                return _used(found, program.reached)

            return y, pull
        y, back = jax.vjp(lambda *given: function(given), *leaves)
        return y, lambda weights: _used(
            back(jnp.ones_like(y) if weights is None else weights.astype(y.dtype)), program.reached
        )

    def vjp_within(
        self, function: Callable[[], tuple[Array, Array]]
    ) -> tuple[Array, Array, Callable[[Array | None], tuple[Array | None, ...]]]:
        raise NoGradient("nothing leads from a run of JAX to the next")

    def jvp(
        self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
    ) -> tuple[Array, Array]:
        ways = tuple(each.astype(leaf.dtype) for each, leaf in zip(direction, leaves, strict=True))
        return jax.jvp(lambda *given: function(given), leaves, ways)

    def hessian_vector(
        self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
    ) -> tuple[Array, Leaves, Leaves]:
        def gradient(*given: Array) -> tuple[Leaves, Array]:
            y, back = jax.vjp(lambda *inner: function(inner), *given)
            return back(jnp.ones_like(y)), y

        ways = tuple(each.astype(leaf.dtype) for each, leaf in zip(direction, leaves, strict=True))
        gradients, bent, y = jax.jvp(gradient, leaves, ways, has_aux=True)
        return y, gradients, bent

    def pieces(
        self, function: Callable[[Leaves], Array], leaves: Leaves, directions: Leaves
    ) -> tuple[Array, Leaves, Array, Array, Array]:
        from whence.backends.jax_program import ruled
        from whence.backends.unpieced import refuse_pieces

        with ruled(None, function, leaves, Rules("gradient", on_unknown="gradient")) as seen:
            refuse_pieces("JAX", seen.met)

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
        from whence.backends.jax_program import ruled

        return ruled(session, function, leaves, rules, where)

    def is_out_of_memory(self, problem: BaseException) -> bool:
        return isinstance(problem, MemoryError) or "RESOURCE_EXHAUSTED" in str(problem)

    def synchronize(self, array: Array) -> None:
        if isinstance(array, jax.Array):
            array.block_until_ready()


def _used(gradients: Leaves, reached: Sequence[bool]) -> tuple[Array | None, ...]:
    """Return the gradients, with None for leaves that no gradient can reach: JAX gives zeros for those.

    Raises:
        NoGradient: it reaches none.
    """
    if not any(reached):
        raise NoGradient(CUT_IN_JAX)
    return tuple(each if known else None for each, known in zip(gradients, reached, strict=True))
