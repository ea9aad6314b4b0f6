"""Running a file on ONNX Runtime: the second opinion on every answer, and the only one without PyTorch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from whence.backends.onnx_graph.file import OnnxFile
from whence.errors import BadInput, UnsupportedByBackend
from whence.naming import unknown

KINDS: Final[dict[int, type[np.generic]]] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip
"""NumPy's types for ONNX's element types, by their number."""


class Runtime:
    """Runs a file; `batch` is the number of examples it was made for, where it takes no other."""

    def __init__(self, file: OnnxFile) -> None:
        try:
            import onnxruntime  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UnsupportedByBackend(
                "running an ONNX file without PyTorch takes ONNX Runtime: pip install onnxruntime"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = _threads(), 1
        # Threads that wait by turning in circles would take the cores from PyTorch's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        source = file.proto.SerializeToString() if file.path is None else str(file.path)
        try:
            self._session: Any = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
        except Exception as problem:
            raise UnsupportedByBackend(f"ONNX Runtime cannot run it ({_first_line(problem)})") from None
        self.inputs, self.outputs, self.batch = file.inputs, file.outputs, file.batch

    def call(self, *arguments: Any, **named: Any) -> Any:
        """Return the output, or all of them by their names, for NumPy arrays by place or by name."""
        names = [each.name for each in self.inputs]
        if len(arguments) > len(names):
            raise BadInput(
                f"the file takes {len(names)} inputs ({', '.join(names)}), and was given {len(arguments)}"
            )
        for name in named:
            if name not in names:
                raise BadInput(unknown("input", name, names))
        found = self.run(dict(zip(names, arguments, strict=False)) | named)
        return next(iter(found.values())) if len(found) == 1 else found

    def run(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all outputs by their names."""
        kinds = {each.name: KINDS.get(each.kind) for each in self.inputs}
        missing = [name for name in kinds if name not in given]
        if missing:
            raise BadInput(
                f"the file also takes {', '.join(missing)}; pass the inputs as a dict from their names"
            )
        ready = {name: np.ascontiguousarray(np.asarray(value), kinds[name]) for name, value in given.items()}
        rows = next((len(each) for each in ready.values() if each.ndim), 0)
        if self.batch is None or rows in (0, self.batch):
            return self._run(ready)
        parts = [self._part(ready, start, rows) for start in range(0, rows, self.batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _part(self, ready: dict[str, Any], start: int, rows: int) -> dict[str, Any]:
        """Run as many rows as the file takes; what is missing of them is filled up with the last."""
        assert self.batch is not None
        index = np.minimum(np.arange(start, start + self.batch), rows - 1)
        found = self._run({name: each[index] for name, each in ready.items()})
        return {name: each[: rows - start] for name, each in found.items()}

    def _run(self, ready: dict[str, Any]) -> dict[str, Any]:
        names = [each.name for each in self.outputs]
        return dict(zip(names, self._session.run(names, ready), strict=True))


def runtime_of(file: OnnxFile) -> Runtime:
    """Return the file's session on ONNX Runtime, made once.

    Raises:
        UnsupportedByBackend: ONNX Runtime is missing, or cannot run the file.
    """
    with file.lock:
        if "runtime" not in file.made:
            file.made["runtime"] = Runtime(file)
        return file.made["runtime"]


def _threads() -> int:
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdecimal() and int(asked) else cores


def _first_line(problem: Exception) -> str:
    text = str(problem).strip().partition("\n")[0]
    return text if len(text) <= 200 else f"{text[:197]}..."
