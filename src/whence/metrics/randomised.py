"""Models whose weights were drawn anew, layer by layer: the same numbers whatever framework they are in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from whence.backends.weights import Weights, weights_of
from whence.errors import Refused
from whence.metrics.judged import Judged

Order = Literal["top_down", "bottom_up", "independent"]
ORDERS = ("top_down", "bottom_up", "independent")


def weights(judged: Judged) -> Weights:
    """Return the weights of the judged model that can be drawn anew.

    Raises:
        Refused: there are none.
        UnsupportedByBackend: they cannot be replaced.
    """
    inputs = judged.problem.run.structure.pack(
        tuple(judged.problem.ops.native(leaf) for leaf in judged.problem.inputs)
    )
    found = weights_of(judged.call.model, inputs)
    flat = {name for name, array in found.arrays.items() if array.size == 0 or array.min() == array.max()}
    if not flat:
        return found
    told = sorted(flat)
    judged.note(
        f"{len(flat)} of {len(found.arrays)} parameter tensors hold one number alone and stay as they are: drawn anew "
        f"they would be the same ({', '.join(told[:4])}{' ...' if len(told) > 4 else ''})"
    )
    layers = {layer: tuple(each for each in own if each not in flat) for layer, own in found.layers.items()}
    kept = {layer: own for layer, own in layers.items() if own}
    if not kept:
        raise Refused("no parameter of the model has a spread, so that there is nothing to draw anew")
    return replace(found, layers=kept, arrays={k: each for k, each in found.arrays.items() if k not in flat})


def drawn(judged: Judged, found: Weights, draw: int) -> dict[str, Float[np.ndarray, "..."]]:
    """Return all parameters drawn anew: normal, with the mean and the standard deviation of each tensor's own numbers.

    A draw depends on the seed and the parameter's name.
    """
    return {name: _drawn(judged, name, array, draw) for name, array in found.arrays.items()}


def _drawn(
    judged: Judged, name: str, array: Float[np.ndarray, "*shape"], draw: int
) -> Float[np.ndarray, "*shape"]:
    wide = np.asarray(array, dtype=np.float64)
    made = judged.random(f"parameter {name}", draw).normal(wide.mean(), wide.std(), wide.shape)
    return made.astype(array.dtype)


def stages(found: Weights, order: Order) -> list[tuple[str, tuple[str, ...]]]:
    """Return each stage's layer and all parameters that are new by then."""
    layers = list(found.layers.items())
    if order == "top_down":
        layers.reverse()
    if order == "independent":
        return layers
    names: list[tuple[str, tuple[str, ...]]] = []
    so_far: tuple[str, ...] = ()
    for layer, own in layers:
        so_far = (*so_far, *own)
        names.append((layer, so_far))
    return names


def models(judged: Judged, found: Weights, order: Order, draw: int) -> Iterator[Any]:
    """Return the model of each stage."""
    new = drawn(judged, found, draw)
    for _, names in stages(found, order):
        yield found.replaced({name: new[name] for name in names})
