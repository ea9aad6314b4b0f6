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


@pytest.fixture(scope="module")
def one_thread():
    """Run a module's tests on one thread: sums are then added up in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
