"""Which operators of ONNX are run as PyTorch operations: one function each, with the opsets that it speaks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

LATEST: Final = {"": 28, "ai.onnx.ml": 5, "com.microsoft": 1}
"""The newest opset of each domain that the operators were written for."""
SUBJECTS: Final = (
    "arithmetic", "comparisons", "activations", "linear", "pooling", "norms", "reductions", "shapes", "making",
    "indexing", "scattering", "resizing", "recurrent", "attention", "control", "sequences", "quantised",
)  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """One operator as of some opsets: `function(node, *inputs)` runs it; `layer` is the kind of layer that it is."""

    name: str
    domain: str
    since: int
    until: int | None
    function: Callable[..., Any]
    layer: str


_operators: dict[tuple[str, str], list[Operator]] = {}


def operator(
    *names: str, since: int = 1, until: int | None = None, domain: str = "", layer: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as what runs these operators, from opset `since` up to (and with) `until`."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            _operators.setdefault((domain, name), []).append(
                Operator(name, domain, since, until, function, layer)
            )
        return function

    return register


@cache
def _loaded() -> dict[tuple[str, str], list[Operator]]:
    for subject in SUBJECTS:
        import_module(f"whence.backends.onnx_graph.{subject}")
    return _operators


def find(domain: str, name: str, opset: int) -> Operator | None:
    """Return the operator of a domain as of an opset, or None where it is not known."""
    for each in _loaded().get((plain(domain), name), ()):
        if each.since <= opset and (each.until is None or opset <= each.until):
            return each
    return None


def claimed() -> frozenset[tuple[str, str]]:
    """Return (domain, name) of every operator that is known as of some opset."""
    return frozenset(_loaded())


def plain(domain: str) -> str:
    """Return a domain's name as it is kept: the operators of ONNX itself have an empty one."""
    return "" if domain == "ai.onnx" else domain
