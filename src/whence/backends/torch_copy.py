"""Structural copies of torch models: new modules around the same weights, so that the user's are never touched."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from whence.backends.torch_reach import OWN_NAMES, Reach, is_compiled, original_of
from whence.backends.torch_state import ATOMS, frozen, moved, slots_of


def structural_copy(model: Any, reach: Reach, wide: bool = False) -> Any:
    """Return a model (or bound method, or partial) on copies of its modules, in eval mode, on the same weights.

    Modules, containers, plain objects and tensors that are no weights are new, so hooks, modes, counters and
    memories of the original cannot be changed by running the copy; weights are shared, so it costs microseconds a
    module. Buffers are copied, because a forward pass may write to them. What is pinned stays shared. In a `wide` copy
    all tensors of real numbers are float64 ones of its own, but for what is pinned.
    """
    new: dict[int, Any] = {}
    for module in reach.modules:
        new[id(module)] = object.__new__(type(module))
        # An embedding with max_norm rescales its rows whenever they are used, so it needs rows of its own.
        writes = vars(module).get("max_norm") is not None
        for parameter in module._parameters.values():
            if parameter is not None and (writes or id(parameter) not in new):
                new[id(parameter)] = frozen(parameter, writes)
        _clone_buffers(module, new)
    for module in filter(is_compiled, reach.modules):
        new[id(module)] = new[id(original_of(module))]
    if wide:
        # Before views of them are made.
        _widen(new.values())
    new = reach.pinned | new
    for module in reach.modules:
        if is_compiled(module):
            continue
        made = new[id(module)]
        vars(made).update(_state(module, new))
        # What `module.compile()` leaves there would run the original, in its own mode.
        vars(made).update(training=False, _compiled_call_impl=None)
        for name in slots_of(module):
            if hasattr(module, name):
                object.__setattr__(made, name, moved(getattr(module, name), new))
    copied = moved(model, new)
    if wide:
        _widen(made for key, made in new.items() if key not in reach.pinned)
    return copied


@contextmanager
def put_back(reach: Reach) -> Generator[None]:
    """Let modules that have to be run themselves write to copies of their state, and restore modes and state.

    Of scripted modules, which keep their attributes to themselves, modes and buffers are restored.
    """
    scripted = [each for each in reach.modules if isinstance(each, torch.jit.ScriptModule)]
    plain = [each for each in reach.modules if not isinstance(each, torch.jit.ScriptModule)]
    modes = [(module, module.training) for module in reach.modules]
    buffers = [(module, name, each) for module in scripted for name, each in module._buffers.items()]
    values = [(each, each.detach().clone()) for _, _, each in buffers if each is not None]
    attributes = [(module, dict(vars(module))) for module in plain]
    slots = [
        (module, name, getattr(module, name))
        for module in plain
        for name in slots_of(module)
        if hasattr(module, name)
    ]
    try:
        _lend(plain, reach)
        yield
    finally:
        for module, before in attributes:
            for name in [name for name in vars(module) if name not in before]:
                del vars(module)[name]
            vars(module).update(before)
        for module, name, value in slots:
            object.__setattr__(module, name, value)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        for module, name, buffer in buffers:
            if buffer is not None:
                setattr(module, name, buffer)


def _lend(modules: list[nn.Module], reach: Reach) -> None:
    """Give modules copies of all that they keep besides modules and weights."""
    new: dict[int, Any] = {}
    for module in reach.modules:
        new[id(module)] = module
        new.update({id(each): each for each in module._parameters.values() if each is not None})
        if not isinstance(module, torch.jit.ScriptModule):
            _clone_buffers(module, new)
    new = reach.pinned | new
    for module in modules:
        if is_compiled(module):
            continue
        try:
            state = _state(module, new)
        except RecursionError:
            # Nested too deeply to be copied: it is shared.
            continue
        vars(module).update(state)
        for name in slots_of(module):
            if hasattr(module, name):
                object.__setattr__(module, name, moved(getattr(module, name), new))


def _clone_buffers(module: nn.Module, new: dict[int, Any]) -> None:
    for buffer in module._buffers.values():
        if buffer is not None and id(buffer) not in new:
            new[id(buffer)] = buffer.detach().clone()


def _widen(made: Iterable[Any]) -> None:
    """Turn tensors that were made for a copy into float64 (or complex128), whoever holds them."""
    for each in made:
        if isinstance(each, torch.Tensor) and (each.is_floating_point() or each.is_complex()):
            each.data = each.data.to(torch.complex128 if each.is_complex() else torch.float64)


def _state(module: nn.Module, new: dict[int, Any]) -> dict[str, Any]:
    """Return a module's attributes around what was moved; the quick way for the many that are empty or constant."""
    state: dict[str, Any] = {}
    for name, value in vars(module).items():
        kind = type(value)
        if kind in ATOMS:
            state[name] = value
        elif name in OWN_NAMES and not value:
            state[name] = kind()
        elif name in OWN_NAMES and kind is dict:
            state[name] = {key: new.get(id(each), each) for key, each in value.items()}
        else:
            state[name] = moved(value, new)
    return state
