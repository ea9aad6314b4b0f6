"""A torch model in float64: on a copy of its own, which lives as long as what is computed with it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whence.backends.torch_copy import structural_copy
from whence.backends.torch_model import TorchSession
from whence.backends.torch_reach import Reach


class TorchWide(TorchSession):
    """Runs a copy of a model in float64."""

    def widen(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().double() if value.is_floating_point() else value
        if isinstance(value, np.ndarray):
            return value.astype(np.float64) if value.dtype.kind == "f" else value
        if type(value) in (tuple, list):
            return type(value)(self.widen(each) for each in value)
        return {key: self.widen(each) for key, each in value.items()} if type(value) is dict else value

    @contextmanager
    def watched(self) -> Generator[list[str]]:
        with _Watch() as watch:
            yield watch.found


def widened(model: Any, reach: Reach) -> AbstractContextManager[TorchWide] | None:
    """Return a session on a copy of a model in float64; None where there is no memory, or no float64 on its device."""
    try:
        return _held(structural_copy(model, reach, wide=True))
    except (RecursionError, RuntimeError, TypeError):
        return None


@contextmanager
def _held(copied: Any) -> Generator[TorchWide]:
    """Hold a copy, and free its memory, also where the copy refers to itself."""
    # Not what it holds at the end: the forward pass may have put a tensor of someone else's there.
    own = [*copied.parameters(), *copied.buffers()] if isinstance(copied, nn.Module) else []
    try:
        yield TorchWide(copied, [])
    finally:
        for each in own:
            each.data = each.data.new_empty(0)


class _Watch(TorchDispatchMode):
    """Notes the operations that take float64 and give less."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # As for the pieces: to hide from the compiler, torch would first import it.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if torch.float64 in map(_kind, tree_leaves((args, kwargs))):
            less = {_kind(each) for each in tree_leaves(result)} & _LESS
            self.found += [
                f"{func.overloadpacket.__name__} to {str(kind).partition('.')[2]}" for kind in less
            ]
        return result


_LESS = frozenset({torch.float32, torch.float16, torch.bfloat16})


def _kind(value: Any) -> torch.dtype | None:
    return value.dtype if isinstance(value, torch.Tensor) else None
