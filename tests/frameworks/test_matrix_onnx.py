"""Every method on ONNX graphs, which run in PyTorch, compared with PyTorch's own modules."""

import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")

import matrix

SPELLINGS = ("onnx",)
# Nothing is unsupported: what PyTorch's modules can be asked, a graph can.
UNSUPPORTED: dict[str, dict[tuple[str, str], str]] = {"onnx": {}}


@pytest.mark.parametrize("spelling, network, name", matrix.parameters(SPELLINGS))
def test_float64(spelling, network, name):
    matrix.check(spelling, network, name, "float64", UNSUPPORTED[spelling])


@pytest.mark.parametrize("name", matrix.NARROW)
@pytest.mark.parametrize("network", ["cnn", "transformer"])
def test_float32(network, name):
    matrix.check(SPELLINGS[0], network, name, "float32", UNSUPPORTED[SPELLINGS[0]])
