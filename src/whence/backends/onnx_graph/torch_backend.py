"""An ONNX file on PyTorch: its graph is a module, so that every gradient, rule and site is PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from whence.backends import Array, Swap, Tap, WideSession
from whence.backends.onnx import fixed_batch
from whence.backends.onnx_graph.building import build
from whence.backends.onnx_graph.file import OnnxFile, opened
from whence.backends.onnx_graph.graph import Graph
from whence.backends.onnx_graph.runtime import runtime_of
from whence.backends.onnx_graph.values import TYPES
from whence.backends.torch import TorchBackend
from whence.backends.torch_model import TorchSession, guarded_random_state, original
from whence.errors import BadInput, UnsupportedByBackend

# Answers to a batch that differ by less than this from those to its parts are the same, in half precision too.
ALIKE = {torch.float16: 2e-2, torch.bfloat16: 1e-1}


class OnnxBackend(TorchBackend):
    """Files of ONNX, run as PyTorch operations."""

    name = "onnx"

    @contextmanager
    def session(self, model: Any, seed: int) -> Generator[TorchSession]:
        file = opened(model)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            guarded_random_state(seed),
            original(graph_of(file)) as session,
        ):
            yield OnnxSession(session, file)

    def prepare(self, model: Any, array: Any) -> Array:
        # In the file's own precision, and never through another: single precision would round what float64 holds.
        kind = real_of(opened(model)) or torch.float32
        if isinstance(array, torch.Tensor):
            if array.device.type != "cpu":
                raise BadInput(
                    f"an ONNX file runs on the cpu and an input is on {array.device}; move it: .cpu()"
                )
            prepared: Any = super().prepare(None, array)
        else:
            array = np.asarray(array)
            if array.dtype.kind not in "fiub":
                raise BadInput(f"an input holds {array.dtype} values; pass numbers")
            with torch.inference_mode(False):
                prepared = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
        with torch.inference_mode(False):
            return prepared.to(kind) if prepared.is_floating_point() else prepared

    def arguments(self, model: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return further arguments as tensors, where they are arrays."""
        arrays = (np.ndarray, torch.Tensor)
        return {
            name: self.prepare(model, value) if isinstance(value, arrays) else value
            for name, value in kwargs.items()
        }


def real_of(file: OnnxFile) -> torch.dtype | None:
    """Return the type of real numbers that a file takes."""
    kinds = [TYPES[each.kind] for each in file.inputs if each.kind in TYPES]
    return next((kind for kind in kinds if kind.is_floating_point), None)


def graph_of(file: OnnxFile) -> Graph:
    """Return the module that runs a file's graph, made once."""
    with file.lock:
        if "graph" not in file.made:
            file.made["graph"] = build(file)
        return file.made["graph"]


def rows_of(file: OnnxFile) -> int | None:
    """Return how many examples a file runs at once, where it was made for one number and truly runs no other."""
    graph = graph_of(file)
    with file.lock:
        if "rows" not in file.made:
            if file.batch is None:
                file.made["rows"] = 1 if _runs_only_one(file, graph) else None
            else:
                file.made["rows"] = None if _runs_any(file, graph) else file.batch
        return file.made["rows"]


def _runs_only_one(file: OnnxFile, graph: Graph) -> bool:
    """Try whether a graph that says it takes any number of examples fails for three and answers one."""
    three = _random(file, 3)
    if three is None:
        return False
    with torch.no_grad():
        try:
            graph(*three)
        except Exception:
            with suppress(Exception):
                graph(*(each[:1] for each in three))
                return True
    return False


def _random(file: OnnxFile, rows: int) -> list[torch.Tensor] | None:
    """Return random inputs for a number of examples; None where the file does not say how large they are."""
    random = np.random.default_rng(0)
    given: list[torch.Tensor] = []
    for each in file.inputs:
        kind, sides = TYPES.get(each.kind), [*(each.sides or ())][1:]
        if kind is None or not each.sides or not all(isinstance(side, int) and side > 0 for side in sides):
            return None
        values = random.normal(size=(rows, *(int(side) for side in sides if isinstance(side, int))))
        given.append(torch.from_numpy(values if kind.is_floating_point else values > 0).to(kind))
    return given


def _runs_any(file: OnnxFile, graph: Graph) -> bool:
    """Try whether a graph made for a number of examples answers three times as many as it answers them in parts."""
    assert file.batch is not None
    given = _random(file, 3 * file.batch)
    if given is None:
        return False
    try:
        with torch.no_grad():
            whole = _listed(graph(*given))
            parts = [
                _listed(graph(*each)) for each in zip(*(x.split(file.batch) for x in given), strict=True)
            ]
    except Exception:
        # Whatever a graph says to a number of examples that it was not made for: it takes no other.
        return False
    return all(
        _alike(one, torch.cat(list(several)))
        for one, several in zip(whole, zip(*parts, strict=True), strict=True)
    )


def _listed(found: Any) -> list[torch.Tensor]:
    return list(found.values()) if isinstance(found, dict) else [found]


def _alike(one: torch.Tensor, two: torch.Tensor) -> bool:
    if one.shape != two.shape:
        return False
    scale = float(two.double().abs().max()) if two.numel() else 0.0
    away = float((one.double() - two.double()).abs().max()) if two.numel() else 0.0
    return away <= ALIKE.get(one.dtype, 1e-4) * max(scale, 1e-6)


class OnnxSession(TorchSession):
    """Runs a file's graph, also where it takes a fixed number of examples: `rows`."""

    def __init__(self, session: TorchSession, file: OnnxFile) -> None:
        super().__init__(session.function, session._notes, session._source)
        self.file, self.rows = file, rows_of(file)
        if self.rows is not None:
            self._notes.append(fixed_batch(self.rows))

    def reference(self) -> Reference:
        """What ONNX Runtime says to the same inputs.

        Raises:
            UnsupportedByBackend: it is missing, or cannot run the file.
        """
        return Reference(self.file)

    def widened(self) -> AbstractContextManager[WideSession] | None:
        # A copy knows of no rows that are filled up.
        return None if self.rows not in (None, 1) else super().widened()

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], *taps: Tap | Swap | None
    ) -> tuple[Any, Array | None]:
        number = _number(inputs)
        if self.rows is None or number == self.rows:
            return super().run(inputs, kwargs, *taps)
        places = [each for each in taps if each is not None]
        last = places[-1] if places else None
        if isinstance(last, Tap) and last.leaf:
            # One array for all rows, which what follows can be differentiated by: so they run up to it first.
            with torch.no_grad():
                seen = self._run_parts(
                    inputs, kwargs, [*places[:-1], replace(last, leaf=False, stop=True)], number
                )[1]
            leaf = seen.detach().requires_grad_()
            places[-1] = replace(last, leaf=False, replacement=leaf)
            return self._run_parts(inputs, kwargs, places, number)[0], leaf
        return self._run_parts(inputs, kwargs, places, number)

    def _run_parts(
        self, inputs: Any, kwargs: Mapping[str, Any], places: list[Tap | Swap], number: int
    ) -> tuple[Any, Any]:
        assert self.rows is not None
        found: list[Any] = []
        seen: list[Any] = []
        for start in range(0, number, self.rows):
            index = torch.clamp(torch.arange(start, start + self.rows), max=number - 1)
            left = min(self.rows, number - start)

            def part(value: Any, index: torch.Tensor = index) -> Any:
                along = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == number
                return value.index_select(0, index) if along else value

            taken = [
                replace(each, replacement=part(each.replacement)) if isinstance(each, Tap) else each
                for each in places
            ]
            given = {name: part(value) for name, value in kwargs.items()}
            output, at = super().run(_mapped(inputs, part), given, *taken)
            found.append(_cut(output, left))
            seen.append(_cut(at, left))
        return _joined(found), _joined(seen)


class Reference:
    """Answers as a session of the same file on ONNX Runtime does, in tensors."""

    draws_randomness = False

    def __init__(self, file: OnnxFile) -> None:
        self._runtime = runtime_of(file)

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], *taps: Tap | Swap | None
    ) -> tuple[Any, Array | None]:
        """Return what ONNX Runtime answers; it knows nothing of places inside."""
        further = {name: _numpy(value) for name, value in kwargs.items()}
        if isinstance(inputs, Mapping):
            further |= {name: _numpy(value) for name, value in inputs.items()}
            inputs = ()
        several = inputs if isinstance(inputs, tuple) else (inputs,)
        try:
            found = self._runtime.call(*(_numpy(each) for each in several), **further)
        except Exception as problem:
            raise UnsupportedByBackend(
                f"ONNX Runtime failed ({str(problem).partition(chr(10))[0][:200]})"
            ) from None
        if isinstance(found, dict):
            return {name: _tensor(each) for name, each in found.items()}, None
        return _tensor(found), None


def _numpy(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _tensor(value: Any) -> Any:
    return (
        torch.from_numpy(np.array(value))
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        else value
    )


def _number(inputs: Any) -> int:
    several = (
        inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else (inputs,)
    )
    return next((int(each.shape[0]) for each in several if isinstance(each, torch.Tensor) and each.ndim), 0)


def _mapped(inputs: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(inputs, Mapping):
        return {name: function(each) for name, each in inputs.items()}
    return tuple(function(each) for each in inputs) if isinstance(inputs, tuple) else function(inputs)


def _cut(value: Any, left: int) -> Any:
    return _mapped(value, lambda each: each[:left] if isinstance(each, torch.Tensor) and each.ndim else each)


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _joined([each[name] for each in parts]) for name in first}
    return torch.cat(parts) if isinstance(first, torch.Tensor) and first.ndim else first
