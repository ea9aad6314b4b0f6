"""PyTorch: native arrays, gradients with respect to inputs alone, and a model that is never touched."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from whence.backends import Array, Leaves, Ruled, Session, Split
from whence.backends.keras_layers import is_keras
from whence.backends.torch_model import device_of, guarded_random_state, original
from whence.errors import CUT, BadInput, NoGradient
from whence.rule import Rules

# Up to so many sums in a chunk, a matrix product adds rows up faster than one row at a time.
FEW = 8


class TorchOperations:
    """The array functions on torch tensors, on the tensor's own device."""

    def like(self, value: Any, reference: Array) -> Array:
        if isinstance(value, torch.Tensor):
            return value.detach().to(device=reference.device, dtype=reference.dtype)
        # A read-only array is copied: torch warns of them.
        own = np.require(value, requirements="W")
        return torch.as_tensor(own, dtype=reference.dtype, device=reference.device)

    def array(self, value: np.ndarray, reference: Array) -> Array:
        value = np.ascontiguousarray(value).reshape(np.shape(value))
        tensor = torch.from_numpy(value.copy()).to(reference.device)
        wide = torch.float64 if reference.dtype == torch.float64 else torch.float32
        return tensor.to(wide) if tensor.dtype.is_floating_point else tensor

    def numpy(self, array: Array) -> np.ndarray:
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()

    def own(self, value: Any) -> Any:
        return value

    def native(self, value: Any) -> Any:
        return value

    def wide(self, array: Array) -> Array:
        return array if array.dtype == torch.float64 else array.float()

    def cast(self, array: Array, reference: Array) -> Array:
        return array.to(reference.dtype)

    def copy(self, array: Array) -> Array:
        return array.clone()

    def laid_out(self, array: Array, channels_last: bool) -> Array:
        if array.ndim != 4:
            return array
        layout = torch.channels_last if channels_last else torch.contiguous_format
        # Not contiguous(): of a single channel both layouts are, and what the model sees are the strides.
        return array.to(memory_format=layout)

    def take(self, array: Array, rows: np.ndarray) -> Array:
        first = int(rows[0]) if len(rows) else 0
        if len(rows) == 1:
            return array[first : first + 1]
        if len(rows) and first == rows[-1] and (rows == first).all():
            # One example at many nodes, the common case: a view instead of a gather.
            return array[first : first + 1].expand(len(rows), *array.shape[1:])
        # Not array[rows]: whole rows are copied seven times faster this way.
        return array.index_select(0, torch.as_tensor(rows, device=array.device))

    def put(self, array: Array, rows: np.ndarray, value: Array) -> Array:
        array[torch.as_tensor(rows, device=array.device)] = value
        return array

    def accumulate(
        self, sums: Array, cell: np.ndarray, weight: np.ndarray, rows: Array
    ) -> Callable[[], Array]:
        scale = self.like(weight, rows)
        different = np.unique(cell)
        if len(different) > FEW and not rows.is_cuda:
            weighted, place = rows * scale[:, None], torch.as_tensor(cell)
            return partial(_added, sums, place, weighted)
        # A product needs no array of weighted rows; and on CUDA index_add_ would add in any order.
        matrix = torch.zeros(len(different), len(cell), dtype=rows.dtype, device=rows.device)
        matrix[np.searchsorted(different, cell), np.arange(len(cell))] = scale
        added, place = matrix @ rows, torch.as_tensor(different, device=rows.device)
        return partial(_added, sums, place, added)

    def zeros(self, shape: Sequence[int], reference: Array) -> Array:
        return torch.zeros(tuple(shape), dtype=reference.dtype, device=reference.device)

    def concatenate(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return torch.cat(list(arrays), axis)

    def argsort(self, array: Array) -> Array:
        return torch.argsort(array, dim=-1, stable=True)

    def along(self, array: Array, order: Array) -> Array:
        return torch.gather(array, -1, order)

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return torch.stack(list(arrays), axis)

    def where(self, condition: Array, yes: Array, no: Array) -> Array:
        return torch.where(condition.bool(), yes, no)

    def transpose(self, array: Array, axes: Sequence[int]) -> Array:
        return array.permute(*axes)

    def resize(self, array: Array, size: tuple[int, int]) -> Array:
        return functional.interpolate(array, size=size, mode="bilinear", antialias=True, align_corners=False)

    def softmax(self, array: Array) -> Array:
        return torch.softmax(array, 1)

    def log_softmax(self, array: Array) -> Array:
        return torch.log_softmax(array, 1)

    def log(self, array: Array) -> Array:
        return torch.log(array)

    def sigmoid(self, array: Array) -> Array:
        return torch.sigmoid(array)

    def is_float(self, array: Array) -> bool:
        return array.dtype.is_floating_point

    def is_finite(self, array: Array) -> bool:
        # NaN and infinity survive a sum, which is many times cheaper than looking at each number.
        return (
            not array.dtype.is_floating_point
            or bool(torch.isfinite(array.sum()))
            or bool(torch.isfinite(array).all())
        )

    def is_array(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor)


class TorchBackend:
    """Models and functions of torch tensors."""

    name = "torch"
    ops = TorchOperations()
    differentiable = True
    compiled = False

    @contextmanager
    def session(self, model: Any, seed: int) -> Generator[Session]:
        with torch.inference_mode(False), torch.enable_grad(), guarded_random_state(seed) as streams:
            if is_keras(model):
                from whence.backends import keras_torch

                with keras_torch.opened(model, streams) as session:
                    yield session
            else:
                with original(model) as session:
                    yield session

    def prepare(self, model: Any, array: Any) -> Array:
        device, dtype = device_of(model)
        if isinstance(array, torch.Tensor):
            if device is not None and array.device != device:
                raise BadInput(f"the model is on {device} and an input on {array.device}; move one of them")
            with torch.inference_mode(False):
                return array.detach().clone() if array.is_inference() else array.detach()
        array = np.asarray(array)
        if array.dtype.kind not in "fiub":
            raise BadInput(f"an input holds {array.dtype} values; pass numbers")
        wanted = dtype if array.dtype.kind == "f" else None
        own = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        with torch.inference_mode(False):
            return torch.from_numpy(own).to(device=device, dtype=wanted)

    def value(self, function: Callable[[Leaves], Array], leaves: Leaves) -> Array:
        with torch.no_grad():
            return function(leaves).detach()

    def vjp(
        self, function: Callable[[Leaves], Array], leaves: Leaves
    ) -> tuple[Array, Callable[[Array | None], tuple[Array | None, ...]]]:
        leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        y = function(leaves)
        return y.detach(), _pullback(y, leaves)

    def vjp_within(
        self, function: Callable[[], tuple[Array, Array]]
    ) -> tuple[Array, Array, Callable[[Array | None], tuple[Array | None, ...]]]:
        y, inner = function()
        return y.detach(), inner.detach(), _pullback(y, (inner,))

    def jvp(
        self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
    ) -> tuple[Array, Array]:
        from whence.backends.torch_jvp import jvp

        return jvp(function, leaves, direction)

    def hessian_vector(
        self, function: Callable[[Leaves], Array], leaves: Leaves, direction: Leaves
    ) -> tuple[Array, Leaves, Leaves]:
        from whence.backends.torch_rules.settings import attention_apart

        leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        with attention_apart():
            y = function(leaves)
        _require_graph(y)
        used = torch.autograd.grad(y.sum(), leaves, create_graph=True, allow_unused=True)
        gradients = _filled(used, leaves)
        along = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
        if isinstance(along, torch.Tensor) and along.requires_grad:
            bent = _filled(torch.autograd.grad(along, leaves, allow_unused=True), leaves)
        else:
            bent = tuple(torch.zeros_like(leaf) for leaf in leaves)
        return y.detach(), tuple(g.detach() for g in gradients), bent

    def pieces(
        self, function: Callable[[Leaves], Array], leaves: Leaves, directions: Leaves
    ) -> tuple[Array, Leaves, Array, Array, Array]:
        from whence.backends.torch_pieces import pieces

        return pieces(function, leaves, directions)

    def split(
        self, function: Callable[[Leaves, np.ndarray], Array], start: Leaves, end: Leaves
    ) -> Split | None:
        from whence.backends.torch_fusion import split

        return split(function, start, end, only_if_pays=True)

    def ruled(
        self,
        session: Session,
        function: Callable[[Leaves], Array],
        leaves: Leaves,
        rules: Rules,
        where: bool = False,
    ) -> Ruled:
        from whence.backends.torch_rules import TorchRuled

        return TorchRuled(function, leaves, rules, session.names(), where)

    def is_out_of_memory(self, problem: BaseException) -> bool:
        if isinstance(problem, (torch.OutOfMemoryError, MemoryError)):
            return True
        words = str(problem).lower()
        return isinstance(problem, RuntimeError) and (
            "can't allocate memory" in words or "out of memory" in words
        )

    def clock(self) -> float:
        """Return seconds of this thread's own work: other processes on the same cores slow long chunks down more."""
        return time.perf_counter() if torch.cuda.is_initialized() else time.thread_time()

    def synchronize(self, array: Array) -> None:
        if isinstance(array, torch.Tensor) and array.is_cuda:
            torch.cuda.synchronize(array.device)


def _added(sums: torch.Tensor, place: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    sums.view(sums.shape[0], -1).index_add_(0, place, rows)
    return sums


def _pullback(y: Array, leaves: Leaves) -> Callable[[Array | None], tuple[Array | None, ...]]:
    _require_graph(y)

    def pull(weights: Array | None) -> tuple[Array | None, ...]:
        # A graph that is needed only once is freed on the way back: that is most of the memory.
        return torch.autograd.grad(
            y,
            leaves,
            torch.ones_like(y) if weights is None else weights,
            retain_graph=y.ndim > 1,
            allow_unused=True,
        )

    return pull


def _filled(gradients: tuple[Array | None, ...], leaves: Leaves) -> Leaves:
    """Return gradients with zeros for the leaves that the output does not use."""
    return tuple(
        torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)
    )


def _require_graph(y: Array) -> None:
    if not y.requires_grad:
        raise NoGradient(CUT)
