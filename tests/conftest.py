"""What all tests share."""

import os

# The test models are so small that threads cost more than they give, above all where several runs share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest


@pytest.fixture
def generator():
    """Return a random generator with a seed of its own."""
    return np.random.default_rng(0)
