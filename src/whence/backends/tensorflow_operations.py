"""The array functions on TensorFlow's tensors, wrapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from whence.backends import Array
from whence.backends.tensorflow_array import Wrapped, alike, native, own

# Up to so many sums in a chunk, a matrix product adds rows up faster than one row at a time.
FEW = 8


class TensorFlowOperations:
    """The array functions on wrapped tensors."""

    def like(self, value: Any, reference: Array) -> Array:
        kind = reference.tensor.dtype
        if isinstance(value, (Wrapped, tf.Tensor, tf.Variable)):
            return Wrapped(tf.cast(tf.stop_gradient(tf.convert_to_tensor(native(value))), kind))
        return Wrapped(tf.convert_to_tensor(np.asarray(value).astype(kind.as_numpy_dtype)))

    def array(self, value: np.ndarray, reference: Array) -> Array:
        value = np.asarray(value)
        if value.dtype.kind == "f":
            value = value.astype(np.float64 if reference.tensor.dtype == tf.float64 else np.float32)
        return Wrapped(tf.convert_to_tensor(value))

    def numpy(self, array: Array) -> np.ndarray:
        tensor = tf.convert_to_tensor(native(array))
        return (tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor).numpy()

    def own(self, value: Any) -> Any:
        return own(value)

    def native(self, value: Any) -> Any:
        return native(value)

    def wide(self, array: Array) -> Array:
        tensor = array.tensor
        return array if tensor.dtype in (tf.float32, tf.float64) else Wrapped(tf.cast(tensor, tf.float32))

    def cast(self, array: Array, reference: Array) -> Array:
        return Wrapped(tf.cast(array.tensor, reference.tensor.dtype))

    def copy(self, array: Array) -> Array:
        # Nothing can write to a tensor.
        return array

    def laid_out(self, array: Array, channels_last: bool) -> Array:
        return array

    def take(self, array: Array, rows: np.ndarray) -> Array:
        tensor, count = array.tensor, len(rows)
        first = int(rows[0]) if count else 0
        if count and rows[-1] - first == count - 1 and bool((np.diff(rows) == 1).all()):
            return array if count == tensor.shape[0] else Wrapped(tensor[first : first + count])
        return Wrapped(tf.gather(tensor, np.asarray(rows)))

    def put(self, array: Array, rows: np.ndarray, value: Array) -> Array:
        places = np.asarray(rows)[:, None]
        return Wrapped(tf.tensor_scatter_nd_update(array.tensor, places, native(value)))

    def accumulate(
        self, sums: Array, cell: np.ndarray, weight: np.ndarray, rows: Array
    ) -> Callable[[], Array]:
        scale = self.like(weight, rows).tensor
        different = np.unique(cell)
        added, place = rows.tensor * scale[:, None], np.asarray(cell)
        if len(different) <= FEW:
            matrix = np.zeros((len(different), len(cell)), rows.tensor.dtype.as_numpy_dtype)
            matrix[np.searchsorted(different, cell), np.arange(len(cell))] = 1
            added, place = tf.linalg.matmul(matrix, added), different

        def put() -> Array:
            flat = tf.reshape(sums.tensor, (sums.shape[0], -1))
            total = tf.tensor_scatter_nd_add(flat, place[:, None], added)
            return Wrapped(tf.reshape(total, sums.shape))

        return put

    def zeros(self, shape: Sequence[int], reference: Array) -> Array:
        return Wrapped(tf.zeros([int(size) for size in shape], reference.tensor.dtype))

    def concatenate(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return arrays[0] if len(arrays) == 1 else Wrapped(tf.concat([each.tensor for each in arrays], axis))

    def argsort(self, array: Array) -> Array:
        return Wrapped(tf.cast(tf.argsort(array.tensor, axis=-1, stable=True), tf.int64))

    def along(self, array: Array, order: Array) -> Array:
        places = tf.broadcast_to(order.tensor, (*array.shape[:-1], order.shape[-1]))
        return Wrapped(tf.gather(array.tensor, places, batch_dims=array.ndim - 1))

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return Wrapped(tf.stack([each.tensor for each in arrays], axis))

    def where(self, condition: Array, yes: Array, no: Array) -> Array:
        reference = yes if isinstance(yes, Wrapped) else no
        one, two = alike(reference.tensor, no if reference is yes else yes)
        one, two = (one, two) if reference is yes else (two, one)
        return Wrapped(tf.where(tf.cast(native(condition), tf.bool), one, two))

    def transpose(self, array: Array, axes: Sequence[int]) -> Array:
        return Wrapped(tf.transpose(array.tensor, list(axes)))

    def resize(self, array: Array, size: tuple[int, int]) -> Array:
        kind = array.tensor.dtype.as_numpy_dtype
        rows, columns = (_triangles(now, new) for now, new in zip(array.shape[2:], size, strict=True))
        return Wrapped(tf.constant(rows.astype(kind))) @ array @ Wrapped(tf.constant(columns.T.astype(kind)))

    def softmax(self, array: Array) -> Array:
        return Wrapped(tf.nn.softmax(array.tensor, 1))

    def log_softmax(self, array: Array) -> Array:
        return Wrapped(tf.nn.log_softmax(array.tensor, 1))

    def log(self, array: Array) -> Array:
        return Wrapped(tf.math.log(array.tensor))

    def sigmoid(self, array: Array) -> Array:
        return Wrapped(tf.sigmoid(array.tensor))

    def is_float(self, array: Array) -> bool:
        return array.tensor.dtype.is_floating

    def is_finite(self, array: Array) -> bool:
        tensor = array.tensor
        # NaN and infinity survive a sum, which needs no array of answers.
        return not tensor.dtype.is_floating or (
            bool(tf.math.is_finite(tf.reduce_sum(tensor))) or bool(tf.reduce_all(tf.math.is_finite(tensor)))
        )

    def is_array(self, value: Any) -> bool:
        return isinstance(value, (Wrapped, tf.Tensor, tf.Variable))


@lru_cache(maxsize=32)
def _triangles(now: int, new: int) -> np.ndarray:
    """Return the weights [new, now] of linear interpolation, widened where the size shrinks, as Pillow has them."""
    scale = now / new
    width = max(scale, 1.0)
    centre = (np.arange(new)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(now)[None] + 0.5 - centre) / width
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(1, keepdims=True)
