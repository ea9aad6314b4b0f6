"""What is given to be judged: explanations as arrays, checked, and what belongs to some rows of a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from whence import registry
from whence import target as targets
from whence.attribution import Attribution, to_numpy
from whence.errors import BadInput
from whence.problem import Problem

Explain = Callable[[Any, Any, Any], Any]
"""A user's own method: (model, inputs [n, ...], targets [n]) to attributions like the inputs."""


def maker_of(method: Any, fields: Mapping[str, Any]) -> registry.Method | Explain | None:
    """Return what explains again: a registered method by its name, class or object, or a user's own."""
    if method is None or (callable(method) and not isinstance(method, (registry.Method, type))):
        return method
    return registry.build(method, dict(fields))


def told_apart(setting: Any) -> bool:
    """Whether a setting is a plain value, or made of such: equal settings mean the same, now and later."""
    if isinstance(setting, tuple):
        return all(map(told_apart, setting))
    if is_dataclass(setting) and not isinstance(setting, type):
        return all(told_apart(getattr(setting, each.name)) for each in fields(setting))
    return setting is None or isinstance(setting, (bool, int, float, str, bytes))


def check_class(result: Attribution, index: Int[np.ndarray, "B"] | None) -> None:
    """Refuse an explanation of other classes than those that are asked about [B].

    Raises:
        BadInput: in that case.
    """
    if index is None or result.target is None:
        return
    own = to_numpy(result.target)
    if own.dtype.kind in "iu" and own.shape == index.shape and (own != index).any():
        row = int(np.flatnonzero(own != index)[0])
        raise BadInput(
            f"the explanation of example {row} is of class {own[row]} and the question of class {index[row]}: judge it "
            "by the class that it explains, target="
        )


def rows_of(given: Any, rows: Int[np.ndarray, "n"]) -> Any:
    """Return what belongs to some rows of something that may have one entry for each."""
    return given[rows] if getattr(given, "shape", None) else given


def part_of(target: Any, some: slice) -> Any:
    """Return the part of a target that belongs to some of the rows, where it has one for each."""
    if isinstance(target, targets.Target):
        return replace(target, index=part_of(target.index, some), other=part_of(target.other, some))
    return target[some] if getattr(target, "shape", ()) else target


def arrays_of(given: Any) -> tuple[np.ndarray, ...]:
    """Return a user's arrays, or those in a tuple or dict, as NumPy has them."""
    parts = (
        given.values()
        if isinstance(given, Mapping)
        else given
        if isinstance(given, (tuple, list))
        else (given,)
    )
    return tuple(to_numpy(part) for part in parts if part is not None)


def checked(values: tuple[np.ndarray, ...], problem: Problem, count: int) -> tuple[np.ndarray, ...]:
    """Return explanations as float64, refused where they are not finite or not like the inputs."""
    leaves = problem.inputs
    if len(values) != len(leaves):
        raise BadInput(
            f"the explanation holds {len(values)} arrays for {len(leaves)} inputs; give one for each"
        )
    found: list[np.ndarray] = []
    for array, leaf in zip(values, leaves, strict=True):
        wide = np.asarray(array, dtype=np.float64)
        wanted = (count, *(int(side) for side in leaf.shape[1:]))
        fits = wide.ndim == len(wanted) and all(
            a in (b, 1) for a, b in zip(wide.shape[1:], wanted[1:], strict=True)
        )
        if not fits or len(wide) != count:
            raise BadInput(
                f"the explanation has shape {wide.shape} and the inputs {wanted}; give one like the inputs"
            )
        if not np.isfinite(wide).all():
            row = int(np.flatnonzero(~np.isfinite(wide.reshape(count, -1)).all(1))[0])
            raise BadInput(
                f"the explanation of example {row} holds NaN or infinity; nothing can be said of it"
            )
        found.append(wide)
    return tuple(found)
