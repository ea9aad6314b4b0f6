"""Every method in every framework on the same weights, compared with PyTorch: what the test files share.

A cell is a method, a network and a spelling (a framework's way of writing it down). It agrees, or it is refused where
PyTorch refuses as well, or it is one that `UNSUPPORTED` lists with the reason.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import whence
from whence import data, support
from whence.backends import twins

TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
ROWS = 2
# Where layers are asked: an activation inside of each network, and the last with an extent in space.
INSIDE = {"mlp": "dense1", "cnn": "stage1", "transformer": "block1"}
LAST = {"mlp": None, "cnn": "stage2", "transformer": "block2"}
# Methods at a layer, beside every method at the inputs.
AT_LAYERS = ("saliency", "integrated_gradients", "deeplift", "lrp", "feature_ablation")
# Ways of a method that ask a backend for something else: second derivatives, pieces, derivatives along a direction.
WAYS = {
    "tolerance": ("integrated_gradients", {"steps": None, "rtol": 0.01}),
    "taylor": ("integrated_gradients", {"steps": None, "quadrature": "taylor"}),
    "exact": ("integrated_gradients", {"steps": None, "quadrature": "exact"}),
    "differences": ("sensitivity", {"step": 0.01}),
    "conductance@layer": ("integrated_gradients", {"path": "input"}),
    "channels@layer": ("feature_ablation", {"features": "channels"}),
    "some@layer": ("integrated_gradients", {"channels": (0, 3, 9)}),
    "chosen": ("gradcam", {"layer": None}),
}
METHODS = (*whence.methods(), *(f"{name}@layer" for name in AT_LAYERS), *WAYS)
# What JAX and TensorFlow lack, by network (or "*") and method, and a part of the reason that they give.
PIECES = {
    (network, name): "exact integrals, piece by piece, are PyTorch's"
    for network in ("mlp", "cnn")
    for name in ("integrated_hessians", "exact")
}
# What draws the map of a layer.
MAPS = (*(name for name, record in whence.methods().items() if "layer" in record.needs), "chosen")
# What is also compared in float32: one of each kind.
NARROW = (
    "saliency", "integrated_gradients", "blur_integrated_gradients", "smoothgrad", "deeplift", "lrp", "guided_backprop",
    "gradcam", "scorecam", "occlusion", "kernel_shap", "integrated_gradients@layer",
)  # fmt: skip


@cache
def pictures(count: int = ROWS, first: int = 0) -> np.ndarray:
    """Return digits under a little noise: in flat regions it is up to chance which of equal pixels is the largest."""
    digits = data.digits().test_images[first : first + count, None] / 255
    noise = np.random.default_rng(first).uniform(size=digits.shape)
    return 0.8 * digits + 0.2 * noise


def explained(name: str, twin: twins.Twin) -> whence.Attribution:
    """Explain the pictures by a method, called "name" or "name@layer", or in one of `WAYS`."""
    method, at = name.removesuffix("@layer"), name.endswith("@layer")
    method, more = WAYS.get(name, (method, {}))
    place = LAST[twin.network]
    layer = None if place is None else twin.layers.get(place, place)
    fields = support.settings(method, twin.inputs(pictures(4, first=ROWS)), layer)
    if (method, twin.network) == ("integrated_hessians", "transformer"):
        # To its own tolerance a smooth network takes half a minute.
        fields["steps"] = support.STEPS
    if at and "features" in fields:
        # The cells of a picture do not lie in a layer.
        fields["features"] = "elements"
    fields |= more
    channels = fields.pop("channels", None)
    if at:
        inside = INSIDE[twin.network]
        fields["at"] = whence.layer(twin.layers.get(inside, inside), channels)
    return whence.explain(twin.model, twin.inputs(pictures()), method, **fields)


@cache
def build(network: str, framework: str, dtype: str) -> twins.Twin:
    """Return a twin; one for all tests."""
    return twins.build(network, framework, dtype)


@cache
def reference(network: str, name: str, dtype: str) -> Any:
    """Return PyTorch's numbers (values, output, shares, interactions), or the type of its refusal."""
    try:
        return numbers(explained(name, build(network, "torch", dtype)), build(network, "torch", dtype))
    except whence.WhenceError as problem:
        return type(problem)


def numbers(result: whence.Attribution, twin: twins.Twin) -> dict[str, np.ndarray]:
    """Return the arrays of a result in PyTorch's layout."""
    found = {
        name: array
        for name in ("values", "output", "baseline_output", "residual", "shares", "interactions")
        if (array := getattr(result, name)) is not None
    }
    found = {name: as_numpy(array) for name, array in found.items()}
    values = found["values"]
    if values.ndim == 4 and 1 not in (values.shape[1], values.shape[3]):
        found["values"] = twin.channels_first(values)
    return found


def as_numpy(array: Any) -> np.ndarray:
    """Return an array of any framework as float64."""
    return np.asarray(array.detach() if hasattr(array, "detach") else array).astype(np.float64)


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference relative to the largest number; a layout with one channel is the same in any."""
    assert found.size == wanted.size, f"{found.shape} and {wanted.shape}"
    difference = np.abs(found.reshape(wanted.shape) - wanted).max()
    return float(difference / max(np.abs(wanted).max(), 1e-12))


def check(
    spelling: str, network: str, name: str, dtype: str, unsupported: dict[tuple[str, str], str]
) -> None:
    """Compare a cell with PyTorch's, or see that it is unsupported as it is listed: by (network or "*", method)."""
    wanted = reference(network, name, dtype)
    reason = unsupported.get((network, name), unsupported.get(("*", name)))
    twin = build(network, spelling, dtype)
    if reason is not None:
        with pytest.raises((whence.UnsupportedByBackend, whence.Refused), match=reason):
            explained(name, twin)
        return
    if isinstance(wanted, type):
        with pytest.raises(wanted):
            explained(name, twin)
        return
    found = numbers(explained(name, twin), twin)
    assert found.keys() == wanted.keys()
    scale = np.abs(wanted["output"]).max()
    for part, expected in wanted.items():
        if part == "residual":
            # What is missing is a difference of larger numbers.
            assert np.abs(found[part] - expected).max() <= TOLERANCE[dtype] * scale, part
            continue
        gap = distance(found[part], expected)
        assert gap <= TOLERANCE[dtype], f"{part}: {gap:.2g} off"


def cells(spellings: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Return every cell of some spellings."""
    return [
        (spelling, network, name)
        for spelling in spellings
        for network in twins.networks(spelling)
        for name in METHODS
    ]


def parameters(spellings: tuple[str, ...]) -> list[Any]:
    """Return every cell for pytest: of spellings but the first a few are enough for a quick run."""
    found: list[Any] = []
    for cell in cells(spellings):
        spelling, network, name = cell
        quick = spelling == spellings[0] or (network == "mlp" and name in NARROW)
        # Second derivatives of a whole transformer take long to compile.
        long = (network, name) == ("transformer", "integrated_hessians")
        found.append(pytest.param(*cell, marks=() if quick and not long else pytest.mark.slow))
    return found
