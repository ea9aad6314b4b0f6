"""What running a torch model (or a function around one) may reach: its modules, and what stands in a copy's way."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from whence.backends.torch_state import ATOMS, base_of, is_opaque, parts_of, slots_of

OWN_NAMES = frozenset(vars(nn.Module()))
"""The attributes that PyTorch itself gives to every module."""
# A model that holds more things than this besides its weights (a data set, a vocabulary of objects) is not copied.
MOST = 100_000


class Reach(NamedTuple):
    """What running a model may reach.

    Its modules; why no copy of it can be made (or ""); what stays shared with a copy, by identity; and the names of
    the types of what cannot be copied.
    """

    modules: list[nn.Module]
    hindrance: str
    pinned: dict[int, Any]
    opaque: list[str]


def reached(model: Any) -> Reach:
    """Return what running a model (or function) may reach.

    Modules are found where PyTorch looks for them, and also in plain containers and objects, in bound methods and
    partials. What a closure, a global name or an object of another kind leads to is found too, but nothing can be
    put in its place: if modules are among it, the hindrance says so; the rest is pinned: shared with every copy.
    """
    modules: list[nn.Module] = []
    hindrance = ""
    pinned: dict[int, Any] = {}
    opaque: dict[str, None] = {}
    seen: set[tuple[int, bool]] = set()
    waiting: list[tuple[Any, bool]] = [(model, True)]
    while waiting and len(seen) < MOST:
        value, movable = waiting.pop()
        if type(value) in ATOMS or (id(value), movable) in seen:
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
            waiting.extend(_held_by_module(value))
            continue
        if not movable:
            pinned[id(value)] = value
        elif is_opaque(value):
            opaque[type(value).__name__] = None
        if not isinstance(value, torch.Tensor):
            waiting.extend(_held(value, movable))
    if waiting:
        hindrance = hindrance or f"it holds more than {MOST:,} things besides its weights"
    return Reach(modules, hindrance, pinned, list(opaque))


def is_compiled(module: Any) -> bool:
    """Tell whether a module is what torch.compile returns."""
    return type(module).__name__ == "OptimizedModule" and isinstance(module, nn.Module)


def original_of(module: Any) -> Any:
    """Return the module that was compiled, or the module itself."""
    while is_compiled(module):
        module = module._orig_mod
    return module


def _held_by_module(module: nn.Module) -> Iterable[tuple[Any, bool]]:
    if is_compiled(module):
        return [(module._orig_mod, True)]
    if isinstance(module, torch.jit.ScriptModule):
        return [(each, True) for each in module.children()]
    kind = type(module)
    found: list[tuple[Any, bool]] = []
    for name, value in vars(module).items():
        if type(value) in ATOMS or (name in OWN_NAMES and (not value or name in ("_parameters", "_buffers"))):
            continue
        if name == "_modules":
            found += [(each, True) for each in value.values() if each is not None]
        else:
            found.append((value, True))
    found += [(getattr(module, name, None), True) for name in slots_of(module)]
    forward = getattr(kind, "forward", None)
    if not (getattr(forward, "__module__", None) or "").startswith("torch."):
        found.append((forward, False))
    return found


def _held(value: Any, movable: bool) -> Iterable[tuple[Any, bool]]:
    """Return what a value holds, each with whether a copy can put something else in its place."""
    parts: Iterable[Any]
    base = base_of(type(value))
    if isinstance(value, types.MethodType):
        return [(value.__self__, movable), (value.__func__, False)]
    if isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, (tuple, frozenset)):
        parts, movable = value, movable and (type(value) is tuple or hasattr(value, "_fields"))
    elif base is not None:
        parts = parts_of(value, base)
        called = [type(value).__call__] if callable(value) else []
        return [*((part, movable) for part in parts), *((each, False) for each in called)]
    elif isinstance(value, types.FunctionType):
        parts, movable = _closed_over(value), False
    else:
        inside = (
            value.values() if isinstance(value, dict) else value if isinstance(value, (list, set)) else ()
        )
        parts, movable = [*inside, *getattr(value, "__dict__", {}).values()], False
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
