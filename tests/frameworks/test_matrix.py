"""Every method in JAX: plain functions, flax NNX and linen modules, and equinox, compared with PyTorch."""

import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

import matrix

SPELLINGS = ("jax-pair", "jax", "flax", "linen", "equinox")
UNSUPPORTED = dict.fromkeys(SPELLINGS, matrix.PIECES)


@pytest.mark.parametrize("spelling, network, name", matrix.parameters(SPELLINGS))
def test_float64(spelling, network, name):
    matrix.check(spelling, network, name, "float64", UNSUPPORTED[spelling])


@pytest.mark.parametrize("name", matrix.NARROW)
@pytest.mark.parametrize("network", ["cnn", "transformer"])
def test_float32(network, name):
    matrix.check(SPELLINGS[0], network, name, "float32", UNSUPPORTED[SPELLINGS[0]])
