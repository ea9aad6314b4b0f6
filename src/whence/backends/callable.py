"""Any callable on NumPy arrays: values only, no gradients."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from whence.backends import Activation, Array, Leaves, Swap, Tap
from whence.backends.generators import Streams, numpy_and_python
from whence.errors import BadInput, UnsupportedByBackend
from whence.rule import Rules


def working() -> str:
    """Return in words which methods work where there is only a function: those of the registry without a gradient."""
    # The registry stands above the backends: it is asked when there is something to say, and not imported with them.
    methods = import_module("whence.registry").methods()
    free = {name: each for name, each in methods.items() if not {"gradient", "layer"} & set(each.needs)}
    alone = [name for name, each in free.items() if "method" not in each.fields]
    samplers = [name for name in free if name not in alone]
    return f"{', '.join(alone)}, and {', '.join(samplers)} of one of them" if samplers else ", ".join(alone)


def no_layers() -> UnsupportedByBackend:
    """Return the error for what is asked inside of a black box."""
    return UnsupportedByBackend(
        f"a black box has no layers and no parameters; at=None works, with {working()}"
    )


def no_gradient() -> UnsupportedByBackend:
    """Return the error for what a black box cannot be asked."""
    return UnsupportedByBackend(
        f"a black box has no gradient, and no operations to rule; what works on it: {working()}"
    )


class NumpyOperations:
    """The array functions on NumPy."""

    def like(self, value: Any, reference: Array) -> Array:
        return np.asarray(value, dtype=reference.dtype)

    def array(self, value: np.ndarray, reference: Array) -> Array:
        return np.asarray(value)

    def numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def own(self, value: Any) -> Any:
        return value

    def native(self, value: Any) -> Any:
        return value

    def wide(self, array: Array) -> Array:
        return array if array.dtype == np.float64 else array.astype(np.float32)

    def cast(self, array: Array, reference: Array) -> Array:
        return array.astype(reference.dtype)

    def copy(self, array: Array) -> Array:
        return array.copy()

    def laid_out(self, array: Array, channels_last: bool) -> Array:
        return array

    def take(self, array: Array, rows: np.ndarray) -> Array:
        return array[rows]

    def put(self, array: Array, rows: np.ndarray, value: Array) -> Array:
        array[rows] = value
        return array

    def accumulate(
        self, sums: Array, cell: np.ndarray, weight: np.ndarray, rows: Array
    ) -> Callable[[], Array]:
        weighted = rows * self.like(weight[:, None], rows)

        def added() -> Array:
            np.add.at(sums.reshape(sums.shape[0], -1), cell, weighted)
            return sums

        return added

    def zeros(self, shape: Sequence[int], reference: Array) -> Array:
        return np.zeros(tuple(shape), dtype=reference.dtype)

    def concatenate(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return np.concatenate(arrays, axis)

    def argsort(self, array: Array) -> Array:
        return np.argsort(array, axis=-1, kind="stable")

    def along(self, array: Array, order: Array) -> Array:
        return np.take_along_axis(array, order, -1)

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return np.stack(arrays, axis)

    def where(self, condition: Array, yes: Array, no: Array) -> Array:
        return np.where(condition, yes, no)

    def transpose(self, array: Array, axes: Sequence[int]) -> Array:
        return np.transpose(array, axes)

    def resize(self, array: Array, size: tuple[int, int]) -> Array:
        from PIL import Image

        def one(channel: np.ndarray) -> np.ndarray:
            return np.asarray(
                Image.fromarray(channel.astype(np.float32)).resize(
                    (size[1], size[0]), Image.Resampling.BILINEAR
                )
            )

        flat = array.reshape(-1, *array.shape[2:])
        return (
            np.stack([one(channel) for channel in flat]).reshape(*array.shape[:2], *size).astype(array.dtype)
        )

    def softmax(self, array: Array) -> Array:
        return np.exp(self.log_softmax(array))

    def log_softmax(self, array: Array) -> Array:
        shifted = array - array.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def log(self, array: Array) -> Array:
        return np.log(array)

    def sigmoid(self, array: Array) -> Array:
        return 1 / (1 + np.exp(-array))

    def is_float(self, array: Array) -> bool:
        return array.dtype.kind == "f"

    def is_finite(self, array: Array) -> bool:
        return bool(np.isfinite(array).all()) if array.dtype.kind in "fc" else True

    def is_array(self, value: Any) -> bool:
        return isinstance(value, np.ndarray)


class CallableSession:
    """Calls the user's function; there is nothing to protect but its arguments, which are copies."""

    def __init__(self, function: Callable[..., Any], streams: Streams) -> None:
        self.function, self._streams = function, streams

    @property
    def draws_randomness(self) -> bool:
        """Whether the function has drawn from the global generators since the session began."""
        return self._streams.drawn

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], *taps: Tap | Swap | None
    ) -> tuple[Any, Array | None]:
        if any(taps):
            raise no_layers()
        return _array(self._streams.run(lambda: self._call(inputs, kwargs)), inputs), None

    def _call(self, inputs: Any, kwargs: Mapping[str, Any]) -> Any:
        if isinstance(inputs, Mapping):
            return self.function(**inputs, **kwargs)
        return (
            self.function(*inputs, **kwargs) if isinstance(inputs, tuple) else self.function(inputs, **kwargs)
        )

    def parameter(self, name: str) -> Array:
        raise no_layers()

    def names(self) -> Mapping[int, str]:
        return {}

    def layers(self) -> list[str]:
        return []

    def activations(self, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
        raise no_layers()

    def widened(self) -> None:
        return None

    def notes(self) -> list[str]:
        return []


class CallableBackend:
    """A function of a batch of NumPy arrays, or a scikit-learn estimator."""

    name = "callable"
    ops = NumpyOperations()
    differentiable = False
    compiled = False

    @contextmanager
    def session(self, model: Any, seed: int) -> Generator[CallableSession]:
        with numpy_and_python(seed) as streams:
            yield CallableSession(_function(model), streams)

    def prepare(self, model: Any, array: Any) -> Array:
        if hasattr(array, "to_numpy"):
            array = array.to_numpy()
        array = np.array(array)
        if array.dtype.kind not in "fiub":
            raise BadInput(
                f"the input holds {array.dtype} values; a black box is explained on numbers, and words are given as a "
                "pandas or polars frame"
            )
        # Finite differences need fractions; a function of whole numbers is asked between them as well.
        return array if array.dtype.kind == "f" else array.astype(np.float64)

    def value(self, function: Callable[[Leaves], Array], leaves: Leaves) -> Array:
        return function(leaves)

    def vjp(self, function: Callable[[Leaves], Array], leaves: Leaves) -> Any:
        raise no_gradient()

    def vjp_within(self, function: Callable[[], tuple[Array, Array]]) -> Any:
        raise no_gradient()

    def jvp(self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves) -> Any:
        return self.vjp(function, leaves)

    def hessian_vector(self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves) -> Any:
        return self.vjp(function, leaves)

    def pieces(self, function: Callable[[Leaves], Array], leaves: Leaves, directions: Leaves) -> Any:
        return self.vjp(function, leaves)

    def ruled(
        self,
        session: Any,
        function: Callable[[Leaves], Array],
        leaves: Leaves,
        rules: Rules,
        where: bool = False,
    ) -> Any:
        raise no_gradient()

    def split(self, function: Callable[[Leaves, np.ndarray], Array], start: Leaves, end: Leaves) -> None:
        return None

    def is_out_of_memory(self, problem: BaseException) -> bool:
        return isinstance(problem, MemoryError)

    def synchronize(self, array: Array) -> None:
        pass


def is_estimator(model: Any) -> bool:
    """Tell whether a model has scikit-learn's way of predicting."""
    return hasattr(model, "predict_proba") or hasattr(model, "predict")


def takes_frames(model: Any, numbers: bool) -> bool:
    """Tell whether a model is given a user's frame as a frame; an estimator fitted on arrays is given the `numbers`."""
    return not (numbers and is_estimator(model) and getattr(model, "feature_names_in_", None) is None)


def _array(output: Any, inputs: Any) -> Any:
    """Return numbers that came in another form (a list, one number, a frame) as an array; all else as it is.

    Raises:
        BadInput: they are lists of different lengths.
    """
    if hasattr(output, "to_numpy"):
        return np.asarray(output.to_numpy())
    if not isinstance(output, (list, float, int)) or _is_several(output):
        return output
    try:
        return np.asarray(output)
    except ValueError:
        shape = getattr(inputs, "shape", "several arrays")
        raise BadInput(
            f"the model returned a list whose parts differ in length for inputs of shape {shape}; return one array, "
            "with a row for each example"
        ) from None


def _is_several(output: Any) -> bool:
    """Tell whether a list holds several outputs of all examples, as estimators with many targets give them."""
    return isinstance(output, list) and all(
        isinstance(part, np.ndarray) and part.ndim == 2 for part in output
    )


def _function(model: Any) -> Callable[..., Any]:
    if not is_estimator(model):
        return model
    predict = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    columns = getattr(model, "feature_names_in_", None)
    if columns is None:
        return predict
    try:
        import pandas  # pyright: ignore[reportMissingImports]
    except ImportError:
        # Fitted on a frame elsewhere: scikit-learn takes the columns in their order, and says so.
        return predict
    return lambda rows: predict(
        pandas.DataFrame(rows, columns=columns) if isinstance(rows, np.ndarray) else rows
    )
