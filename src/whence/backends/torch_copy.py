"""Structural copies of torch models: new modules around the same weights, so that the user's are never touched."""

from __future__ import annotations

import copy
import copyreg
import dis
import functools
import types
from collections import OrderedDict, defaultdict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# What holds no module, or is not looked into.
_PLAIN = (str, bytes, int, float, complex, type(None), type, torch.Tensor, torch.dtype, types.ModuleType)
# The containers that a copy gets anew, so that what its forward pass puts into them stays there.
_CONTAINERS = (list, set, tuple, dict, OrderedDict, defaultdict)


def reached(model: Any) -> tuple[list[nn.Module], str]:
    """Return the modules that running a model (or function) may reach, and what keeps a copy from replacing them.

    Modules are found where PyTorch looks for them, and also in plain lists and dictionaries, in bound methods and
    partials. Those that a closure, a global name or an object of another kind leads to are found too, but no copy
    can be put in their place: then the second value says so; else it is empty.
    """
    modules: list[nn.Module] = []
    hindrance = ""
    seen: set[tuple[int, bool]] = set()
    waiting: list[tuple[Any, bool]] = [(model, True)]
    while waiting:
        value, movable = waiting.pop()
        if isinstance(value, _PLAIN) or (id(value), movable) in seen:
            continue
        seen.add((id(value), movable))
        if isinstance(value, nn.Module):
            if isinstance(value, torch.jit.ScriptModule):
                hindrance = "scripted"
            elif not movable:
                hindrance = hindrance or "a function or an object in it holds on to its modules"
            if (id(value), not movable) in seen:
                continue
            modules.append(value)
        waiting.extend(_held(value, movable))
    return modules, hindrance


def structural_copy(model: Any, modules: list[nn.Module]) -> Any:
    """Return a model (or bound method, or partial) on copies of its modules, in eval mode, on the same weights.

    Modules, lists and dictionaries are new, so hooks, modes and counters of the original cannot be changed by
    running the copy; weights are shared, so it costs microseconds a module. Buffers are copied, because a forward
    pass may write to them.
    """
    moved: dict[int, Any] = {}
    for module in modules:
        moved[id(module)] = object.__new__(type(module))
        # An embedding with max_norm rescales its rows whenever they are used, so it needs rows of its own.
        writes = getattr(module, "max_norm", None) is not None
        for parameter in module._parameters.values():
            if parameter is not None and (writes or id(parameter) not in moved):
                moved[id(parameter)] = _frozen(parameter, writes)
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in moved:
                moved[id(buffer)] = buffer.detach().clone()
    for module in filter(is_compiled, modules):
        moved[id(module)] = moved[id(original_of(module))]
    for module in modules:
        if is_compiled(module):
            continue
        state = {name: _moved(value, moved) for name, value in vars(module).items()}
        # What `module.compile()` leaves there would run the original, in its own mode.
        state |= {"training": False, "_compiled_call_impl": None}
        vars(moved[id(module)]).update(state)
        for name in copyreg._slotnames(type(module)):  # pyright: ignore[reportAttributeAccessIssue]
            if hasattr(module, name):
                object.__setattr__(moved[id(module)], name, _moved(getattr(module, name), moved))
    return _moved(model, moved)


@contextmanager
def put_back(modules: list[nn.Module]) -> Generator[None]:
    """Restore the modes, buffers and attributes of modules that have to be run themselves."""
    modes = [(module, module.training) for module in modules]
    buffers = [(module, name, each) for module in modules for name, each in module._buffers.items()]
    values = [(each, each.detach().clone()) for _, _, each in buffers if each is not None]
    plain = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    attributes = [(module, dict(vars(module))) for module in plain]
    try:
        yield
    finally:
        for module, before in attributes:
            for name in [name for name in vars(module) if name not in before]:
                del vars(module)[name]
            vars(module).update(before)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        for module, name, buffer in buffers:
            if buffer is not None or module in plain:
                setattr(module, name, buffer)


def is_compiled(module: Any) -> bool:
    """Tell whether a module is what torch.compile returns."""
    return type(module).__name__ == "OptimizedModule" and isinstance(module, nn.Module)


def original_of(module: Any) -> Any:
    """Return the module that was compiled, or the module itself."""
    while is_compiled(module):
        module = module._orig_mod
    return module


def _frozen(parameter: nn.Parameter, anew: bool) -> torch.Tensor:
    # What was made in inference mode can take no part in a gradient; its clone can.
    values = parameter.detach().clone() if anew or parameter.is_inference() else parameter.detach()
    # A frozen parameter keeps convolutions from saving their input for a weight gradient nobody asked for.
    return nn.Parameter(values, requires_grad=False) if type(parameter) is nn.Parameter else values


def _held(value: Any, movable: bool) -> Iterable[tuple[Any, bool]]:
    """Return what a value holds, each with whether `_moved` can put something else in its place."""
    parts: Iterable[Any]
    if is_compiled(value):
        parts = [value._orig_mod]
    elif isinstance(value, torch.jit.ScriptModule):
        parts = value.children()
    elif isinstance(value, nn.Module):
        slots = copyreg._slotnames(type(value))  # pyright: ignore[reportAttributeAccessIssue]
        kept = [*vars(value).values(), *(getattr(value, name, None) for name in slots)]
        return [*((part, True) for part in kept), (type(value).forward, False)]
    elif isinstance(value, (dict, list, tuple, set, frozenset)):
        parts, movable = value.values() if isinstance(value, dict) else value, movable and _is_rebuilt(value)
    elif isinstance(value, types.MethodType):
        own = movable and isinstance(value.__self__, nn.Module)
        return [(value.__self__, own), (value.__func__, False)]
    elif isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
    else:
        parts = (
            _closed_over(value)
            if isinstance(value, types.FunctionType)
            else vars(value).values()
            if hasattr(value, "__dict__")
            else ()
        )
        movable = False
    return [(part, movable) for part in parts]


def _closed_over(function: types.FunctionType) -> list[Any]:
    """Return what a function uses besides its arguments: closure, defaults and global names."""
    if (function.__module__ or "").partition(".")[0] == "torch":
        return []
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    scope = function.__globals__
    named = [scope[name] for name in _global_names(function.__code__) if name in scope]
    # A function from another file brings its own world with it: it is not searched.
    ours = [each for each in named if getattr(each, "__globals__", scope) is scope]
    return [*cells, *ours, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


@functools.cache
def _global_names(code: types.CodeType) -> frozenset[str]:
    """Return the global names that a code reads, and those inside it (its `co_names` are attributes' names too)."""
    inner = (_global_names(each) for each in code.co_consts if isinstance(each, types.CodeType))
    own = (each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return frozenset(own).union(*inner)


def _is_rebuilt(value: Any) -> bool:
    return type(value) in _CONTAINERS or (isinstance(value, tuple) and hasattr(value, "_fields"))


def _moved(value: Any, moved: dict[int, Any]) -> Any:
    """Return `value` with every module, parameter and buffer in it replaced by the copy's."""
    if id(value) in moved:
        return moved[id(value)]
    if isinstance(value, functools.partial):
        keywords = {name: _moved(each, moved) for name, each in value.keywords.items()}
        return type(value)(
            _moved(value.func, moved), *(_moved(each, moved) for each in value.args), **keywords
        )
    if isinstance(value, types.MethodType) and id(value.__self__) in moved:
        return value.__func__.__get__(moved[id(value.__self__)])
    return _refilled(value, moved) if _is_rebuilt(value) else value


def _refilled(value: Any, moved: dict[int, Any]) -> Any:
    """Return a new container of the same kind around what was moved."""
    if isinstance(value, tuple):
        parts = [_moved(each, moved) for each in value]
        return getattr(type(value), "_make", tuple)(parts)
    # Entered before it is filled: it may hold itself.
    new = moved[id(value)] = copy.copy(value)
    if isinstance(value, dict):
        new.update({key: _moved(each, moved) for key, each in value.items()})
    elif isinstance(value, list):
        new[:] = [_moved(each, moved) for each in value]
    else:
        new.clear()
        new.update([_moved(each, moved) for each in value])
    return new
