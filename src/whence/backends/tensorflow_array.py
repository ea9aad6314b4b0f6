"""TensorFlow's tensors with NumPy's methods and operators, which its own lack: a thin wrapper, and no global switch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import tensorflow as tf

from whence.backends.tensorflow_index import taken

Axis = int | tuple[int, ...] | None


class Wrapped:
    """A tensor, eager or symbolic; `tensor` is TensorFlow's own. It cannot be written to."""

    __slots__ = ("tensor",)
    # NumPy leaves operators between its arrays and these to the methods here.
    __array_ufunc__: Final = None

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(self.tensor.shape.as_list())

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return self.tensor.shape.rank

    @property
    def dtype(self) -> Any:
        """NumPy's type of the same name; of those that NumPy lacks (bfloat16) the name."""
        own = np.dtype(self.tensor.dtype.as_numpy_dtype)
        return self.tensor.dtype.name if own.kind == "V" else own

    def __repr__(self) -> str:
        return f"Wrapped({self.tensor!r})"

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Wrapped]:
        return (self[place] for place in range(len(self)))

    def __float__(self) -> float:
        return float(self.tensor.numpy())

    def __int__(self) -> int:
        return int(self.tensor.numpy())

    def __bool__(self) -> bool:
        return bool(self.tensor.numpy())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.tensor.numpy(), dtype=dtype)

    def __getitem__(self, key: Any) -> Wrapped:
        return Wrapped(taken(self.tensor, key))

    def item(self) -> Any:
        """Return the only number."""
        return self.tensor.numpy().item()

    # ---- operators -----------------------------------------------------------------------------------------------

    def _with(self, function: Callable[[Any, Any], Any], other: Any, reflected: bool = False) -> Any:
        if not isinstance(other, (Wrapped, tf.Tensor, tf.Variable, np.ndarray, np.generic, bool, int, float)):
            return NotImplemented
        one, two = alike(self.tensor, other)
        return Wrapped(function(two, one) if reflected else function(one, two))

    def __add__(self, other: Any) -> Any:
        return self._with(operator.add, other)

    def __radd__(self, other: Any) -> Any:
        return self._with(operator.add, other, True)

    def __sub__(self, other: Any) -> Any:
        return self._with(operator.sub, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with(operator.sub, other, True)

    def __mul__(self, other: Any) -> Any:
        return self._with(operator.mul, other)

    def __rmul__(self, other: Any) -> Any:
        return self._with(operator.mul, other, True)

    def __truediv__(self, other: Any) -> Any:
        return self._with(operator.truediv, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with(operator.truediv, other, True)

    def __floordiv__(self, other: Any) -> Any:
        return self._with(operator.floordiv, other)

    def __mod__(self, other: Any) -> Any:
        return self._with(operator.mod, other)

    def __pow__(self, other: Any) -> Any:
        return self._with(operator.pow, other)

    def __matmul__(self, other: Any) -> Any:
        return self._with(_product, other)

    def __rmatmul__(self, other: Any) -> Any:
        return self._with(_product, other, True)

    def __and__(self, other: Any) -> Any:
        return self._with(operator.and_, other)

    def __or__(self, other: Any) -> Any:
        return self._with(operator.or_, other)

    def __lt__(self, other: Any) -> Any:
        return self._with(operator.lt, other)

    def __le__(self, other: Any) -> Any:
        return self._with(operator.le, other)

    def __gt__(self, other: Any) -> Any:
        return self._with(operator.gt, other)

    def __ge__(self, other: Any) -> Any:
        return self._with(operator.ge, other)

    def __eq__(self, other: object) -> Any:
        return self._with(tf.math.equal, other)

    def __ne__(self, other: object) -> Any:
        return self._with(tf.math.not_equal, other)

    __hash__ = object.__hash__

    def __neg__(self) -> Wrapped:
        return Wrapped(-self.tensor)

    def __invert__(self) -> Wrapped:
        return Wrapped(~self.tensor)

    def __abs__(self) -> Wrapped:
        return Wrapped(abs(self.tensor))

    # ---- methods -------------------------------------------------------------------------------------------------

    def reshape(self, *shape: Any) -> Wrapped:
        """Return the same numbers in another shape."""
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], (int, np.integer)) else shape
        return Wrapped(tf.reshape(self.tensor, [int(size) for size in sizes]))

    def swapaxes(self, one: int, two: int) -> Wrapped:
        """Return two axes exchanged."""
        axes = list(range(self.ndim))
        axes[one], axes[two] = axes[two], axes[one]
        return Wrapped(tf.transpose(self.tensor, axes))

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Wrapped:
        """Return the sum."""
        return Wrapped(tf.reduce_sum(_countable(self.tensor), axis, keepdims))

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Wrapped:
        """Return the mean."""
        return Wrapped(tf.reduce_mean(self.tensor, axis, keepdims))

    def min(self, axis: Axis = None, keepdims: bool = False) -> Wrapped:
        """Return the least."""
        return Wrapped(tf.reduce_min(self.tensor, axis, keepdims))

    def max(self, axis: Axis = None, keepdims: bool = False) -> Wrapped:
        """Return the largest."""
        return Wrapped(tf.reduce_max(self.tensor, axis, keepdims))

    def any(self, axis: Axis = None, keepdims: bool = False) -> Wrapped:
        """Return whether any is true."""
        return Wrapped(tf.reduce_any(tf.cast(self.tensor, tf.bool), axis, keepdims))

    def all(self, axis: Axis = None, keepdims: bool = False) -> Wrapped:
        """Return whether all are true."""
        return Wrapped(tf.reduce_all(tf.cast(self.tensor, tf.bool), axis, keepdims))

    def argmax(self, axis: int | None = None) -> Wrapped:
        """Return the place of the largest."""
        flat = tf.reshape(self.tensor, [-1]) if axis is None else self.tensor
        return Wrapped(tf.argmax(flat, 0 if axis is None else axis))

    def cumsum(self, axis: int) -> Wrapped:
        """Return the sums so far."""
        return Wrapped(tf.cumsum(_countable(self.tensor), axis))

    def clip(self, min: Any = None, max: Any = None) -> Wrapped:
        """Return the numbers moved into a range."""
        found = self.tensor
        if min is not None:
            found = tf.maximum(*alike(found, min))
        return Wrapped(found if max is None else tf.minimum(*alike(found, max)))


def own(value: Any) -> Any:
    """Return what a model or a user's callable gave, with tensors (also inside tuples, lists, dicts) wrapped."""
    return _mapped(value, lambda each: isinstance(each, (tf.Tensor, tf.Variable)), _wrapped)


def native(value: Any) -> Any:
    """Return what is given to a model or a user, with TensorFlow's own tensors."""
    return _mapped(value, lambda each: isinstance(each, Wrapped), operator.attrgetter("tensor"))


def alike(tensor: Any, other: Any) -> tuple[Any, Any]:
    """Return two operands in one type: a plain number takes the tensor's, and floats win over whole numbers."""
    other = native(other)
    if isinstance(other, (bool, int, float)) and not isinstance(other, np.generic):
        fraction = isinstance(other, float) and not tensor.dtype.is_floating
        tensor = tf.cast(tensor, tf.float32) if fraction else tensor
        return tensor, tf.constant(other, tensor.dtype)
    two = tf.convert_to_tensor(other)
    if two.dtype == tensor.dtype:
        return tensor, two
    kind = _common(tensor.dtype, two.dtype)
    return tf.cast(tensor, kind), tf.cast(two, kind)


def _wrapped(value: Any) -> Wrapped:
    return Wrapped(tf.convert_to_tensor(value))


def _common(one: tf.DType, two: tf.DType) -> tf.DType:
    if one.is_floating != two.is_floating:
        return one if one.is_floating else two
    if tf.bool in (one, two):
        return two if one == tf.bool else one
    return tf.as_dtype(np.promote_types(one.as_numpy_dtype, two.as_numpy_dtype))


def _countable(tensor: Any) -> Any:
    return tf.cast(tensor, tf.int64) if tensor.dtype == tf.bool else tensor


def _product(one: Any, two: Any) -> Any:
    if two.shape.rank == 1:
        return tf.linalg.matvec(one, two) if one.shape.rank > 1 else tf.tensordot(one, two, 1)
    if one.shape.rank == 1:
        return tf.linalg.matvec(two, one, transpose_a=True)
    # Not by broadcasting: TensorFlow 2.21 with oneDNN writes beyond its memory there.
    if one.shape.rank > two.shape.rank == 2:
        flat = tf.linalg.matmul(tf.reshape(one, (-1, one.shape[-1])), two)
        return tf.reshape(flat, (*one.shape[:-1], two.shape[-1]))
    if two.shape.rank > one.shape.rank == 2:
        return tf.linalg.matrix_transpose(_product(tf.linalg.matrix_transpose(two), tf.transpose(one)))
    return tf.linalg.matmul(one, two)


def _mapped(value: Any, chosen: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    if chosen(value):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(each, chosen, change) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(each, chosen, change) for each in value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(each, chosen, change) for each in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return value
