"""A torch model run without a trace: on a structural copy, in eval mode, with the random state put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from whence.backends import Array, Tap
from whence.errors import BadInput, Refused

_random_lock = threading.RLock()
_random_depth = 0
_random_state: tuple[torch.Tensor, list[torch.Tensor]] | None = None
_uncopied_lock = threading.RLock()


def device_of(model: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """Return where a module's weights lie and their floating type; (None, None) for a plain function."""
    if not isinstance(model, nn.Module):
        return None, torch.get_default_dtype()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype.is_floating_point:
            return tensor.device, tensor.dtype
    return None, torch.get_default_dtype()


@contextmanager
def guarded_random_state(seed: int) -> Generator[None]:
    """Seed torch's global generators and put their states back when the last of several threads is done."""
    global _random_depth, _random_state  # noqa: PLW0603
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    with _random_lock:
        if _random_depth == 0:
            _random_state = (torch.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else [])
            torch.manual_seed(seed)
        _random_depth += 1
    try:
        yield
    finally:
        with _random_lock:
            _random_depth -= 1
            if _random_depth == 0 and _random_state is not None:
                torch.set_rng_state(_random_state[0])
                if _random_state[1]:
                    torch.cuda.set_rng_state_all(_random_state[1])
                _random_state = None


class TorchSession:
    """Runs one model (or plain function) for one explanation."""

    def __init__(self, function: Callable[..., Any], notes: list[str]) -> None:
        self.function = function
        self._notes = notes
        self._random_before = torch.get_rng_state()

    @property
    def draws_randomness(self) -> bool:
        """Whether torch's generator has been used since the session began."""
        return not torch.equal(self._random_before, torch.get_rng_state())

    def notes(self) -> list[str]:
        return self._notes

    def layers(self) -> list[str]:
        if not isinstance(self.function, nn.Module):
            return []
        return [name for name, _ in self.function.named_modules(remove_duplicate=False) if name]

    def run(self, inputs: Any, kwargs: Mapping[str, Any], tap: Tap | None = None) -> tuple[Any, Array | None]:
        if tap is None:
            return self._call(inputs, kwargs), None
        with _tapped(self._module(tap.layer), tap) as seen:
            try:
                output = self._call(inputs, kwargs)
            except _Stop:
                output = None
        if not seen:
            calls = "never runs" if tap.call == 0 else f"does not run {tap.call + 1} times"
            raise BadInput(f"layer {tap.layer!r} {calls} for this input; choose another layer or call")
        return output, seen[0]

    def _call(self, inputs: Any, kwargs: Mapping[str, Any]) -> Any:
        if isinstance(inputs, Mapping):
            return self.function(**inputs, **kwargs)
        return (
            self.function(*inputs, **kwargs) if isinstance(inputs, tuple) else self.function(inputs, **kwargs)
        )

    def _module(self, name: str) -> nn.Module:
        if not isinstance(self.function, nn.Module):
            raise Refused(
                f"layer {name!r}: the model is a plain function, which has no named layers; pass a module"
            )
        modules = dict(self.function.named_modules(remove_duplicate=False))
        if name not in modules or not name:
            from whence.naming import unknown

            raise BadInput(unknown("layer", name, [each for each in modules if each]))
        return modules[name]


class _Stop(BaseException):
    """Ends a forward pass early; not an Exception, so that a model's own handlers let it through."""


@contextmanager
def _tapped(module: nn.Module, tap: Tap) -> Generator[list[Array]]:
    """Watch (and replace) one call of a module of our own copy."""
    seen: list[Array] = []
    calls = 0

    def meet(value: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls - 1 != tap.call:
            return None
        first = value[0] if isinstance(value, tuple) else value
        if not isinstance(first, torch.Tensor):
            raise BadInput(
                f"layer {tap.layer!r} gives a {type(first).__name__}, not a tensor; choose another layer"
            )
        seen.append(first)
        if tap.stop:
            raise _Stop
        if tap.replacement is None:
            return None
        return (tap.replacement, *value[1:]) if isinstance(value, tuple) else tap.replacement

    def before(_: nn.Module, arguments: tuple[Any, ...]) -> Any:
        return meet(arguments)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return meet(output)

    handle = module.register_forward_pre_hook(before) if tap.input else module.register_forward_hook(after)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def original(model: Any) -> Generator[TorchSession]:
    """Yield a session on a structural copy of the model that shares its weights, or on the model under a lock."""
    if not isinstance(model, nn.Module):
        yield TorchSession(model, [])
        return
    notes: list[str] = []
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        model = model._orig_mod
        notes.append("the model is compiled; it was explained through its original, uncompiled module")
    copied = structural_copy(model)
    if copied is not None:
        yield TorchSession(copied, notes)
        return
    notes.append(
        "the model cannot be copied (scripted); it was run itself, under a lock, and its modes were restored"
    )
    with _uncopied_lock:
        modes = [(module, module.training) for module in model.modules()]
        buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        model.eval()
        try:
            yield TorchSession(model, notes)
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


# What a copy of a module holds anew; everything else in its dictionary is taken over with its references moved.
_OWN = ("_modules", "_parameters", "_buffers")


def structural_copy(model: nn.Module) -> nn.Module | None:
    """Return a copy in eval mode whose weights are the model's own memory, without gradients; None if scripted.

    Modules, lists and dictionaries are new, so hooks, modes and counters of the original cannot be changed by
    running the copy; weights are shared, so it costs microseconds a module. Buffers are copied, because a forward
    pass may write to them.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return None
    moved: dict[int, Any] = {}
    for module in model.modules():
        moved[id(module)] = object.__new__(type(module))
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in moved:
                moved[id(parameter)] = _frozen(parameter)
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in moved:
                moved[id(buffer)] = buffer.detach().clone()
    for module in model.modules():
        state = {name: _moved(value, moved) for name, value in module.__dict__.items()}
        state["training"] = False
        moved[id(module)].__dict__.update(state)
    return moved[id(model)]


def _frozen(parameter: nn.Parameter) -> torch.Tensor:
    # A frozen parameter keeps convolutions from saving their input for a weight gradient nobody asked for.
    if type(parameter) is nn.Parameter:
        return nn.Parameter(parameter.detach(), requires_grad=False)
    return parameter.detach()


def _moved(value: Any, moved: Mapping[int, Any]) -> Any:
    """Return `value` with every module, parameter and buffer in it replaced by the copy's."""
    if id(value) in moved:
        return moved[id(value)]
    kind = type(value)
    if kind in (list, set):
        return kind(_moved(each, moved) for each in value)
    if kind is tuple:
        return tuple(_moved(each, moved) for each in value)
    if isinstance(value, dict):
        copied = value.copy()
        for key, each in copied.items():
            copied[key] = _moved(each, moved)
        return copied
    owner = getattr(value, "__self__", None)
    if isinstance(owner, nn.Module) and id(owner) in moved and hasattr(value, "__func__"):
        return value.__func__.__get__(moved[id(owner)])
    return value
