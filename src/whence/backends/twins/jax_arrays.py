"""What the twins of JAX's libraries share: arrays in the type that was asked for."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from whence.errors import BadInput


def check(dtype: str) -> None:
    """Refuse float64 where JAX would make it float32 without a word.

    Raises:
        BadInput: JAX has not been told to have float64.
    """
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise BadInput(
            'JAX has float64 only after jax.config.update("jax_enable_x64", True); call it, or take float32'
        )


def transfer(dtype: str) -> Callable[[np.ndarray], jax.Array]:
    """Return the function from NumPy to JAX arrays of a type."""
    return lambda pictures: jnp.asarray(pictures, dtype=dtype)
