"""ONNX files: gradients and rules where PyTorch runs the graph, and ONNX Runtime as a black box where it does not."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from whence.backends import Activation, Array, Backend, Leaves, Swap, Tap
from whence.backends.callable import CallableBackend, CallableSession, working
from whence.backends.generators import Streams, numpy_and_python
from whence.backends.onnx_graph.file import OnnxFile, opened
from whence.backends.onnx_graph.runtime import KINDS, runtime_of
from whence.errors import UnsupportedByBackend
from whence.rule import Rules


def backend_for(model: Any) -> Backend:
    """Return the backend of an ONNX file: PyTorch's, or where it cannot run the graph, ONNX Runtime's.

    Raises:
        BadInput: it is no ONNX file.
        UnsupportedByBackend: neither can run it; what stands in the way is named.
    """
    file = opened(model)
    try:
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        return OnnxRuntimeBackend(
            "gradients, layers and rules of an ONNX file take PyTorch: pip install torch"
        )
    if file.hindrances:
        from whence.backends.onnx_graph.building import unknown_operators

        reason = unknown_operators(file)
        try:
            runtime_of(file)
        except UnsupportedByBackend as problem:
            raise UnsupportedByBackend(f"{reason}; {problem}") from None
        return OnnxRuntimeBackend(reason)
    from whence.backends.onnx_graph.torch_backend import OnnxBackend

    return OnnxBackend()


class OnnxRuntimeSession(CallableSession):
    """Runs a file on ONNX Runtime, for values alone."""

    def __init__(self, file: OnnxFile, streams: Streams, reason: str) -> None:
        runtime = runtime_of(file)
        super().__init__(runtime.call, streams)
        self._reason = reason
        self._notes = [f"the file was run by ONNX Runtime, as a black box ({reason})"]
        if runtime.batch is not None:
            self._notes.append(fixed_batch(runtime.batch))

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], *taps: Tap | Swap | None
    ) -> tuple[Any, Array | None]:
        if any(taps):
            raise unsupported(self._reason)
        return super().run(inputs, kwargs, *taps)

    def parameter(self, name: str) -> Array:
        raise unsupported(self._reason)

    def activations(self, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
        raise unsupported(self._reason)

    def notes(self) -> list[str]:
        return self._notes


def fixed_batch(number: int) -> str:
    """Return the note on a file that runs no other number of examples."""
    what = "one at a time" if number == 1 else f"{number} at a time, the last of them filled up"
    return f"the file was made for batches of {number}: its examples are run {what}"


def unsupported(reason: str) -> UnsupportedByBackend:
    """Return the error for what takes PyTorch, with the methods that do not."""
    return UnsupportedByBackend(f"{reason}; what works through ONNX Runtime: {working()}")


class OnnxRuntimeBackend(CallableBackend):
    """An ONNX file as a function of NumPy arrays; `reason` says why it is no more than that."""

    name = "onnxruntime"

    def __init__(self, reason: str) -> None:
        self.reason = reason

    @contextmanager
    def session(self, model: Any, seed: int) -> Generator[CallableSession]:
        with numpy_and_python(seed) as streams:
            yield OnnxRuntimeSession(opened(model), streams, self.reason)

    def prepare(self, model: Any, array: Any) -> Array:
        array = super().prepare(model, array)
        # In the file's own precision: what it cannot tell apart is no difference.
        kinds = {KINDS.get(each.kind) for each in opened(model).inputs} & {np.float16, np.float32, np.float64}
        return array.astype(kinds.pop()) if len(kinds) == 1 else array

    def vjp(self, function: Callable[[Leaves], Array], leaves: Leaves) -> Any:
        raise unsupported(self.reason)

    def vjp_within(self, function: Callable[[], tuple[Array, Array]]) -> Any:
        raise unsupported(self.reason)

    def ruled(
        self,
        session: Any,
        function: Callable[[Leaves], Array],
        leaves: Leaves,
        rules: Rules,
        where: bool = False,
    ) -> Any:
        raise unsupported(self.reason)
