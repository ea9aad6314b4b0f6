"""The twins are one network each: every framework computes what NumPy does, from the same weights."""

import subprocess
import sys

import numpy as np
import pytest

from whence import data
from whence.backends import twins
from whence.errors import BadInput

PACKAGES = {
    "torch": "torch", "jax": "jax", "jax-pair": "jax", "flax": "flax", "linen": "flax", "equinox": "equinox",
    "onnx": "onnx",
}  # fmt: skip
PAIRS = [(network, each) for each in PACKAGES for network in twins.networks(each)]


def digits(count=5):
    return data.digits().test_images[:count, None] / 255


def check_agreement(network, framework, dtype):
    reference = twins.build(network, "numpy", "float64")
    twin = twins.build(network, framework, dtype)
    found, wanted = twin.outputs(digits()), reference.outputs(digits())
    assert found.dtype == dtype
    assert found.shape == (5, 10)
    assert np.abs(found - wanted).max() <= (1e-12 if dtype == "float64" else 1e-5) * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("network, framework", PAIRS)
def test_outputs_agree(network, framework, dtype):
    pytest.importorskip(PACKAGES[framework])
    check_agreement(network, framework, dtype)


@pytest.mark.parametrize("network", twins.networks())
def test_the_networks_read_digits(network):
    dataset = data.digits()
    twin = twins.build(network, "numpy")
    top = twin.outputs(dataset.test_images[:, None] / np.float32(255)).argmax(1)
    assert (top == dataset.test_labels).mean() > 0.95


def test_batch_norm_does_something():
    held = twins.weights("cnn", "float64")
    assert held["stage1.norm.weight"].dtype == np.float64
    for stage in ("stage1", "stage2"):
        assert np.abs(held[f"{stage}.norm.mean"]).max() > 0.1
        assert np.ptp(held[f"{stage}.norm.variance"]) > 0.05


def test_weights_are_the_callers_own():
    twins.weights("mlp")["dense1.weight"][:] = 0
    assert twins.weights("mlp")["dense1.weight"].any()


def test_the_runtime_of_onnx_agrees():
    onnxruntime = pytest.importorskip("onnxruntime")
    for network in twins.networks("onnx"):
        twin = twins.build(network, "onnx")
        session = onnxruntime.InferenceSession(twin.model.SerializeToString())
        found = session.run(None, {"pictures": twin.inputs(digits().astype(np.float32))})[0]
        wanted = twins.build(network, "numpy", "float64").outputs(digits())
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_what_there_is_not_is_refused():
    with pytest.raises(BadInput, match="no framework 'touch'; did you mean 'torch'"):
        twins.networks("touch")
    with pytest.raises(BadInput, match="no network in linen"):
        twins.build("transformer", "linen")
    with pytest.raises(BadInput, match="dtype"):
        twins.build("mlp", "numpy", "float16")


def test_float64_is_not_float32_in_jax():
    pytest.importorskip("jax")
    code = """
from whence.backends import twins
from whence.errors import BadInput
try:
    twins.build("mlp", "jax", "float64")
except BadInput as problem:
    assert "jax_enable_x64" in str(problem)
else:
    raise SystemExit("taken")
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"JAX_PLATFORMS": "cpu"})


def test_no_framework_is_imported_for_another():
    code = """
import sys
from whence.backends import twins
twins.build("transformer", "numpy").outputs(__import__("numpy").zeros((1, 1, 8, 8)))
heavy = {"torch", "jax", "flax", "equinox", "tensorflow", "keras", "onnx"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
