"""The same three small networks in every framework, from the same weights. No framework is imported here."""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import Final

from whence.backends.twins.twin import NETWORKS
from whence.backends.twins.twin import SIDE as SIDE
from whence.backends.twins.twin import Twin as Twin
from whence.backends.twins.twin import places as places
from whence.backends.twins.twin import weights as weights
from whence.errors import BadInput
from whence.naming import unknown

# What each spelling is written in, and the networks that it has: an attention is no chain of layers.
_SPELLINGS: Final = MappingProxyType(
    {
        "torch": ("torch", NETWORKS),
        "numpy": ("numpy", NETWORKS),
        "jax": ("jax", NETWORKS),
        "jax-pair": ("jax", NETWORKS),
        "flax": ("flax", NETWORKS),
        "linen": ("linen", ("mlp", "cnn")),
        "equinox": ("equinox", NETWORKS),
        "keras": ("keras", NETWORKS),
        "keras-sequential": ("keras", ("mlp", "cnn")),
        "keras-subclassed": ("keras", NETWORKS),
        "tensorflow": ("tensorflow", NETWORKS),
        "onnx": ("onnx", NETWORKS),
    }
)


def frameworks() -> tuple[str, ...]:
    """Return the frameworks, and spellings within them, that there are twins in."""
    return tuple(_SPELLINGS)


def networks(framework: str = "torch") -> tuple[str, ...]:
    """Return the names of the networks that a framework has.

    Raises:
        BadInput: there are no twins in this framework.
    """
    if framework not in _SPELLINGS:
        raise BadInput(unknown("framework", framework, _SPELLINGS))
    return _SPELLINGS[framework][1]


def module_of(framework: str) -> str:
    """Return the name of the module that builds a framework's twins."""
    return _SPELLINGS[framework][0]


def build(network: str, framework: str, dtype: str = "float32") -> Twin:
    """Return a network in a framework, which is imported now.

    Args:
        network: one of `networks(framework)`.
        framework: one of `frameworks()`.
        dtype: "float32" or "float64" (which JAX has to be told to have).

    Raises:
        BadInput: there is no such twin, or not in this type.
        ModuleNotFoundError: the framework is not installed.
    """
    if network not in networks(framework):
        raise BadInput(unknown(f"network in {framework}", network, networks(framework)))
    if dtype not in ("float32", "float64"):
        raise BadInput(f'dtype is {dtype!r}; choose "float32" or "float64"')
    module = import_module(f"whence.backends.twins.{module_of(framework)}")
    return module.build(network, framework, dtype)
