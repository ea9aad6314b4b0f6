"""Every method in TensorFlow, compared with PyTorch: Keras models and a traced function; in a process of its own."""

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import matrix

SPELLINGS = ("keras", "keras-sequential", "keras-subclassed", "tensorflow")
# A function's layers have no names.
NAMELESS = {
    **{("*", name): "no layer can be chosen" for name in matrix.MAPS},
    **{("*", name): "no names any more" for name in matrix.METHODS if name.endswith("@layer")},
}
UNSUPPORTED = dict.fromkeys(SPELLINGS, matrix.PIECES) | {"tensorflow": matrix.PIECES | NAMELESS}


@pytest.mark.parametrize("spelling, network, name", matrix.parameters(SPELLINGS))
def test_float64(spelling, network, name):
    matrix.check(spelling, network, name, "float64", UNSUPPORTED[spelling])


@pytest.mark.parametrize("name", matrix.NARROW)
@pytest.mark.parametrize("network", ["cnn", "transformer"])
def test_float32(network, name):
    matrix.check(SPELLINGS[0], network, name, "float32", UNSUPPORTED[SPELLINGS[0]])
