"""Parameters of a torch model by name, and another tensor in the place of one for a single forward pass."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from whence.backends import Array, Swap
from whence.errors import BadInput, Refused


def parameter_of(model: Any, name: str) -> torch.Tensor:
    """Return a parameter of our own copy of a model.

    Raises:
        BadInput: there is none of that name (near ones are offered), or it holds whole numbers.
        Refused: the model is a plain function.
    """
    found = _named(model, name)
    if not found.dtype.is_floating_point:
        raise BadInput(
            f"parameter {name!r} holds {found.dtype}: whole numbers have no gradient; choose another"
        )
    return found.detach()


def _named(model: Any, name: str) -> torch.Tensor:
    if not isinstance(model, nn.Module):
        raise Refused(
            f"parameter {name!r}: the model is a plain function, which has no named parameters; pass a module"
        )
    known = dict(model.named_parameters(remove_duplicate=False))
    name = ".".join(part for part in name.split(".") if part != "_orig_mod")
    if name not in known:
        from whence.naming import unknown

        raise BadInput(unknown("parameter", name, known))
    return known[name]


@contextmanager
def swapped(model: Any, swap: Swap) -> Generator[list[Array]]:
    """Hold a tensor in a parameter's place, wherever our own copy of the model holds it, also under other names.

    Raises:
        Refused: the parameter lies in a scripted module.
    """
    own = _named(model, swap.parameter)
    places = list(_places(model, own))
    if not places:
        raise Refused(
            f"parameter {swap.parameter!r} lies in a scripted module and cannot be replaced; explain the model that it "
            "was made from"
        )
    # A copy: an embedding that rescales its rows writes to them, which a leaf of the graph forbids.
    other = swap.replacement.clone()
    for holder, key in places:
        holder[key] = other
    try:
        yield [own]
    finally:
        for holder, key in places:
            holder[key] = own


def _places(model: nn.Module, own: torch.Tensor) -> Generator[tuple[Any, Any]]:
    """Yield the containers and keys that hold a tensor: registered parameters, attributes, an LSTM's flat weights."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        holders = [vars(module), *(each for each in vars(module).values() if isinstance(each, (list, dict)))]
        for holder in holders:
            pairs: Any = holder.items() if isinstance(holder, dict) else enumerate(holder)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            for key, value in list(pairs):
                if value is own:
                    yield holder, key
