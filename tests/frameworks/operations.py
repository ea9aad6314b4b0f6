"""The comparison of a framework's array functions with NumPy's, on the calls of tests/test_backends.py."""

from __future__ import annotations

import inspect

import numpy as np

from test_backends import CALLS, NUMPY
from whence.backends import Backend, Operations


def require_agreement(name, ops, native, is_array):
    """Compare one function, in values, shapes and types."""
    ours, theirs = CALLS[name](NUMPY, np.asarray), CALLS[name](ops, native)
    for one, two in zip(ours, theirs, strict=True):
        if isinstance(one, bool):
            assert one is two
            continue
        if name not in ("numpy", "native"):
            assert is_array(two)
        found = np.asarray(two if name in ("numpy", "native") else ops.numpy(two))
        assert one.shape == found.shape
        assert one.dtype == found.dtype
        # Pictures are resized by two libraries, which round differently.
        tolerance = 1e-5 if name == "resize" else 1e-12 if one.dtype == np.float64 else 1e-6
        np.testing.assert_allclose(found, one, rtol=tolerance, atol=tolerance)


def require_protocol(backend):
    """Compare the arguments of a backend's functions, and of its operations', with those of the protocols."""
    for protocol, given in ((Backend, backend), (Operations, backend.ops)):
        functions = [name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if name[0] != "_"]
        for name in functions:
            wanted = list(inspect.signature(getattr(protocol, name)).parameters)[1:]
            assert list(inspect.signature(getattr(given, name)).parameters) == wanted, name
