"""JAX's array functions give what NumPy's give, and its backend keeps to the protocol."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from operations import require_agreement, require_protocol

from test_backends import CALLS
from whence.backends.jax import JaxBackend


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_array_functions_agree_with_numpy(name):
    require_agreement(name, JaxBackend.ops, jnp.asarray, lambda value: isinstance(value, jax.Array))


def test_the_backend_keeps_to_the_protocol():
    require_protocol(JaxBackend())
