"""What a model keeps besides its weights: which values a copy of it gets anew, how, and which it has to share."""

from __future__ import annotations

import copy
import copyreg
import functools
import random
import sys
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from dataclasses import is_dataclass
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import nn

ATOMS: frozenset[type] = frozenset(
    {str, bytes, int, float, complex, bool, type(None), type, range, types.ModuleType}
    | {torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, torch.Tensor.__class__}
)
"""Types whose values never change and hold no module."""

# What a new value is made as: every class that adds only attributes and methods to one of these can be copied.
_BASES = (Counter, OrderedDict, defaultdict, dict, list, set, deque, bytearray, types.SimpleNamespace, object)
# A class that says itself how it is copied, pickled or ended knows something that we do not.
_OWN_WAYS = (
    "__reduce__",
    "__reduce_ex__",
    "__copy__",
    "__deepcopy__",
    "__del__",
    "__getstate__",
    "__setstate__",
)
_RANDOM = (np.random.Generator, np.random.RandomState, random.Random)
# Packages whose objects are immutable, guard something that must stay one, or are only managed through others.
_SHARED = frozenset(
    {"torch", "numpy", "threading", "_thread", "logging", "re", "enum", "pathlib", "datetime", "decimal", "fractions"}
    | {"uuid", "typing", "types", "functools", "_functools", "operator", "_operator", "weakref", "_weakref", "abc"}
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def base_of(kind: type) -> type | None:
    """Return the base as which a new value of this type is made, or None where only the type knows how."""
    if kind in _BASES:
        return kind
    if _package(kind) in _SHARED or issubclass(kind, type):
        return None
    base = next(each for each in kind.__mro__ if each in _BASES)
    # Layouts of their own, such as those of types written in C, are made by a `__new__` of their own.
    above = kind.__mro__[: kind.__mro__.index(base)]
    if any(each.__new__ is not base.__new__ and not _is_function(each.__new__) for each in above):
        return None
    frozen = is_dataclass(kind) and getattr(kind, "__dataclass_params__").frozen  # noqa: B009
    ways = _OWN_WAYS[:-2] if frozen else _OWN_WAYS
    same = all(getattr(kind, name, None) is getattr(base, name, None) for name in ways)
    return base if same else None


def is_opaque(value: Any) -> bool:
    """Tell whether a value may change when the model runs, and yet cannot be copied."""
    kind = type(value)
    if isinstance(value, (torch.Tensor, np.ndarray, torch.Generator, tuple, frozenset, type, *_RANDOM)):
        return False
    if base_of(kind) is not None or _package(kind) in _SHARED or is_constant(value):
        return False
    return _package(kind) != "builtins" or hasattr(kind, "__next__")


def is_constant(value: Any) -> bool:
    """Tell whether a value is a member of an enumeration, or derived from a number or a text."""
    return any(each.__module__ == "enum" or each in ATOMS for each in type(value).__mro__)


def parts_of(value: Any, base: type) -> Iterable[Any]:
    """Return what a value that can be made anew holds: its items, keys, attributes and slots."""
    inside: list[Any] = [*getattr(value, "__dict__", {}).values()]
    inside += [getattr(value, name) for name in slots_of(value) if hasattr(value, name)]
    if issubclass(base, dict):
        factory = value.default_factory if base is defaultdict else None
        return [*inside, *base.keys(value), *base.values(value), factory]
    return [*inside, *value] if base in (list, set, deque) else inside


def slots_of(value: Any) -> list[str]:
    """Return the names of a value's slots, as they are spelt outside its class."""
    return copyreg._slotnames(type(value))  # pyright: ignore[reportAttributeAccessIssue]


def moved(value: Any, new: dict[int, Any]) -> Any:
    """Return `value` with all that can change in it made anew; `new` knows what has been made, by identity."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if id(value) in new:
        return new[id(value)]
    if isinstance(value, torch.Tensor):
        made = new[id(value)] = _tensor(value, new)
        return made
    if isinstance(value, tuple | functools.partial) or kind in (types.MethodType, weakref.ref):
        return _rewired(value, new)
    return _copied(value, new)


def _rewired(value: Any, new: dict[int, Any]) -> Any:
    """Return something immutable around what was moved, or itself where nothing was."""
    if isinstance(value, functools.partial):
        keywords = {name: moved(each, new) for name, each in value.keywords.items()}
        return type(value)(moved(value.func, new), *(moved(each, new) for each in value.args), **keywords)
    if isinstance(value, types.MethodType):
        owner = moved(value.__self__, new)
        return value if owner is value.__self__ else value.__func__.__get__(owner)
    if isinstance(value, weakref.ref):
        target = value()
        return weakref.ref(new[id(target)]) if id(target) in new else value
    kind = type(value)
    parts = [moved(each, new) for each in value]
    known = kind is tuple or hasattr(kind, "_make")
    return getattr(kind, "_make", tuple)(parts) if known and not all(map(is_, parts, value)) else value


def frozen(parameter: torch.Tensor, anew: bool = False) -> torch.Tensor:
    """Return the same weights as a parameter that asks for no gradient, in memory of their own if `anew`."""
    # What was made in inference mode can take no part in a gradient; its clone can.
    values = parameter.detach().clone() if anew or parameter.is_inference() else parameter
    # A frozen parameter keeps convolutions from saving their input for a weight gradient nobody asked for.
    if type(parameter) is nn.Parameter:
        return nn.Parameter(values, requires_grad=False)
    return values.detach()


def _copied(value: Any, new: dict[int, Any]) -> Any:
    if isinstance(value, np.ndarray):
        made = np.array(value, order="K", subok=True)
    elif isinstance(value, torch.Generator):
        made = torch.Generator(value.device)
        made.set_state(value.get_state())
    elif isinstance(value, _RANDOM):
        made = copy.deepcopy(value)
    else:
        base = base_of(type(value))
        return value if base is None or _is_marker(value, base) else _filled(value, base, new)
    new[id(value)] = made
    return made


def _tensor(value: torch.Tensor, new: dict[int, Any]) -> torch.Tensor:
    if isinstance(value, nn.Parameter):
        return frozen(value)
    whole = value._base
    if whole is not None and id(whole) in new and new[id(whole)].stride() == whole.stride():
        # A view of a buffer must see what is written into the copy's buffer.
        other = new[id(whole)].detach()
        offset = other.storage_offset() + value.storage_offset() - whole.storage_offset()
        return other.as_strided(value.shape, value.stride(), offset)
    return value.detach().clone()


def _filled(value: Any, base: Any, new: dict[int, Any]) -> Any:
    """Return a new value of the same type around what was moved; entered before it is filled: it may hold itself."""
    kind = type(value)
    made = new[id(value)] = base.__new__(kind)
    if issubclass(base, dict):
        if base is defaultdict:
            made.default_factory = moved(value.default_factory, new)
        if ATOMS.issuperset(map(type, base.keys(value))) and ATOMS.issuperset(map(type, base.values(value))):
            (OrderedDict if base is OrderedDict else dict).update(made, value)
        else:
            for key, each in base.items(value):
                base.__setitem__(made, moved(key, new), moved(each, new))
    elif base in (list, set, deque, bytearray):
        flat = base is bytearray or ATOMS.issuperset(map(type, value))
        inside = value if flat else [moved(each, new) for each in value]
        base.__init__(made, inside, *([value.maxlen] if base is deque else []))
    if hasattr(value, "__dict__"):
        vars(made).update({name: moved(each, new) for name, each in vars(value).items()})
    for name in slots_of(value):
        if hasattr(value, name):
            object.__setattr__(made, name, moved(getattr(value, name), new))
    return made


def _is_marker(value: Any, base: type) -> bool:
    """Tell whether a value holds nothing and is a global of its class's module: it is compared by identity."""
    if base is not object or getattr(value, "__dict__", None) or slots_of(value):
        return False
    if type(value) is object:
        return True
    home = sys.modules.get(type(value).__module__)
    return any(each is value for each in vars(home).values()) if home is not None else False


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _is_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType)
