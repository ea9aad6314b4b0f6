"""How PyTorch has to run while a model is recorded: as single operations, in the kernels that have a graph."""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from whence.backends.generators import once

# These settings belong to the process, not to a thread.
_lock = threading.RLock()


@contextmanager
def decomposed(plain_cells: bool, apart: bool) -> Generator[None]:
    """Run attention as its products and softmax, compiled parts as they were written, scripts one step at a time.

    With `plain_cells` recurrent layers run as single operations; with `apart` what is written to a view in place is
    computed first and copied into it then.
    """
    with _lock, ExitStack() as stack:
        stack.callback(once.reset, once.set(True))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.jit.optimized_execution(False))  # pyright: ignore[reportPrivateImportUsage]
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if plain_cells:
            stack.enter_context(_single_cells())
        if apart:
            stack.enter_context(_Apart())
        torch.clear_autocast_cache()
        yield


@contextmanager
def attention_apart() -> Generator[None]:
    """Run attention as its products and softmax: the fused kernels have a first derivative alone."""
    with _lock, sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _single_cells() -> Generator[None]:
    onednn, cudnn = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch._C._set_cudnn_enabled(cudnn)


_OPERATORS = {"__imul__": "mul", "__itruediv__": "div", "__ipow__": "pow"}


class _Apart(TorchFunctionMode):
    """Takes in-place operations on views apart: the graph of such a write hides the operation from any rule."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else None
        if not (isinstance(target, torch.Tensor) and target.requires_grad and target._is_view()):
            return func(*args, **kwargs)
        if kwargs.get("inplace"):
            return target.copy_(func(*args, **{**kwargs, "inplace": False}))
        name = getattr(func, "__name__", "")
        plain = _OPERATORS.get(name) or (name[:-1] if name.endswith("_") and not name.startswith("_") else "")
        other = getattr(torch.Tensor, plain, None) or getattr(torch, plain, None) if plain else None
        if other is None or plain in ("copy", "zero", "fill", "requires_grad", "set", "resize", "detach"):
            return func(*args, **kwargs)
        return target.copy_(other(*args, **kwargs))
