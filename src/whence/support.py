"""Which methods work in which framework, found by trying: every method explains a small network there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from whence import registry
from whence.backends import twins
from whence.errors import BadInput, WhenceError, WorkFailed
from whence.naming import unknown

# Each backend's spelling of the networks, and the extra that brings its framework.
BACKENDS: Final = MappingProxyType(
    {
        "torch": ("torch", "torch"),
        "jax": ("jax-pair", "jax"),
        "tensorflow": ("keras", "tensorflow"),
        "onnx": ("onnx", "onnx"),
        "callable": ("numpy", ""),
    }
)
# The networks that a method is tried on: what one cannot be asked, the next may.
ORDER: Final = ("cnn", "mlp")
PLACE: Final = "stage2"
"""The convolutional network's last activation with an extent in space: maps are drawn of it."""
# Read once, when a framework is imported: what they would say about themselves is no answer.
QUIET: Final = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
# Few features, few draws, few nodes: what is asked is whether it works, and not how well.
SAMPLES, STEPS, EVALUATIONS = 8, 4, 40
WITHOUT_GRADIENT: Final = "sensitivity"
"""What samplers repeat where there is no gradient."""


@dataclass(frozen=True)
class Trial:
    """What came of trying a method: whether it works, and otherwise why not, in a few words."""

    method: str
    works: bool
    reason: str


def settings(name: str, background: Any, layer: str | None) -> dict[str, Any]:
    """Return fields with which a registered method runs, and runs quickly, on a picture of 8 x 8 pixels.

    Args:
        name: a registered method's.
        background: rows of a data set, for methods that need one.
        layer: the layer whose map is drawn, for methods that draw one; None lets the method choose.
    """
    record = registry.methods()[name]
    fields: dict[str, Any] = {}
    if "background" in record.needs:
        fields["baseline"] = background
    if "layer" in record.needs and layer is not None:
        fields["layer"] = layer
    if "features" in record.fields and "window" not in record.fields:
        fields["features"] = "grid:2"
    if {"few features", "piecewise linear or smooth"} & {*record.needs}:
        # These visit all there is, which is little here.
        return fields
    for field, count in (("samples", SAMPLES), ("steps", STEPS)):
        if field in record.fields:
            fields[field] = count
    if "max_evaluations" in record.fields and not {"samples", "steps"} & set(fields):
        fields["max_evaluations"] = EVALUATIONS
    return fields


def pictures(count: int, seed: int = 0) -> Float[np.ndarray, "n 1 8 8"]:
    """Return pictures of noise, in [0, 1]."""
    return np.random.default_rng(seed).uniform(size=(count, 1, twins.SIDE, twins.SIDE))


def trials(backend: str) -> Iterator[Trial]:
    """Try every registered method on the small networks of a backend, one after the other.

    Raises:
        BadInput: there is no such backend.
        WorkFailed: its framework is not installed.
    """
    if backend not in BACKENDS:
        raise BadInput(unknown("backend", backend, BACKENDS))
    built = _built(backend)
    return (_tried(name, built) for name in registry.methods())


def _built(backend: str) -> list[twins.Twin]:
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    spelling, extra = BACKENDS[backend]
    try:
        return [twins.build(network, spelling) for network in ORDER]
    except ModuleNotFoundError as problem:
        package = (problem.name or spelling).partition(".")[0]
        raise WorkFailed(
            f"the backend {backend} needs {package}, which is not installed; pip install 'whence[{extra}]'"
        ) from None


def _tried(name: str, built: list[twins.Twin]) -> Trial:
    """Try a method in every way there is, until one works; otherwise the first reason is the one that is told."""
    reasons: list[str] = []
    for twin, fields, remark in _ways(name, built):
        try:
            _explain(name, twin, fields)
            return Trial(name, True, remark)
        except WhenceError as problem:
            reasons.append(_short(problem))
        except Exception as problem:
            reasons.append(f"failed with {type(problem).__name__}: {_short(problem)}")
    return Trial(name, False, reasons[0])


def _ways(name: str, built: list[twins.Twin]) -> Iterator[tuple[twins.Twin, dict[str, Any], str]]:
    """Yield the ways of trying a method: on each network, and what wraps another method around a black-box one."""
    for twin in built:
        yield twin, {}, ""
    if "method" in registry.methods()[name].fields:
        yield built[0], {"method": WITHOUT_GRADIENT}, f"of {WITHOUT_GRADIENT}"


def _explain(name: str, twin: twins.Twin, more: dict[str, Any]) -> None:
    background = twin.inputs(pictures(4, seed=1))
    method = registry.build(name, settings(name, background, twin.layers.get(PLACE)) | more)
    method(twin.model, twin.inputs(pictures(1)), target=0)


def _short(problem: BaseException) -> str:
    """Return the first clause of a message."""
    text = " ".join(str(problem).split())
    return text.partition("; ")[0].partition(". ")[0].removesuffix(".")
