"""Every method in TensorFlow, compared with PyTorch: Keras models and a traced function; in a process of its own."""

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import matrix

SPELLINGS = ("keras", "keras-sequential", "keras-subclassed", "tensorflow")
# By network (or "*") and method: what is not supported, by a part of the reason that is given.
UNSUPPORTED: dict[str, dict[tuple[str, str], str]] = {each: {} for each in SPELLINGS}


def cell(spelling, network, name):
    # One way of writing each network down is enough for a quick run.
    quick = spelling == "keras" or network == "mlp"
    return pytest.param(spelling, network, name, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("spelling, network, name", [cell(*each) for each in matrix.cells(SPELLINGS)])
def test_float64(spelling, network, name):
    matrix.check(spelling, network, name, "float64", UNSUPPORTED[spelling])


@pytest.mark.parametrize("name", matrix.NARROW)
@pytest.mark.parametrize("network", ["cnn", "transformer"])
def test_float32(network, name):
    matrix.check("keras", network, name, "float32", UNSUPPORTED["keras"])
