"""Keras files on the command line, TensorFlow where no other framework is installed, and Keras on PyTorch."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("keras")

import keras
from PIL import Image

import whence
from whence.backends import twins
from whence.cli import main
from whence.errors import BadInput
from whence.loading import Request


@pytest.fixture(scope="module")
def model():
    return twins.build("cnn", "keras", "float32").model


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "digit.png"
    Image.fromarray((np.random.default_rng(0).random((8, 8)) * 255).astype(np.uint8)).save(path)
    return path


def test_explain_a_keras_file(model, picture, tmp_path, capsys):
    model.save(tmp_path / "file.keras")
    words = ("explain", picture, "--model", tmp_path / "file.keras", "--out", tmp_path / "out", "--json")
    assert not main([str(word) for word in words]), capsys.readouterr().err
    assert list((tmp_path / "out").glob("*.png"))


def test_what_a_file_says_of_its_pictures(model, tmp_path):
    model.save(tmp_path / "file.keras")
    source = Request(str(tmp_path / "file.keras")).load()
    assert (source.preprocess.layout, source.preprocess.size, source.channels) == ("NHWC", (8, 8), 1)
    model.export(str(tmp_path / "saved"), verbose=False)
    saved = Request(str(tmp_path / "saved")).load()
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    both = [whence.explain(each.model, x, "saliency", target=0).values for each in (source, saved)]
    assert np.allclose(*both, atol=1e-6)


def test_levels_are_told_by_a_rescaling_layer(tmp_path):
    x = keras.Input((8, 8, 3))
    keras.Model(x, keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(x))).save(tmp_path / "levels.keras")
    source = Request(str(tmp_path / "levels.keras")).load()
    assert (source.preprocess.range, source.channels) == ((0.0, 255.0), 3)


def test_code_in_a_file_is_only_run_with_trust(tmp_path):
    x = keras.Input((8, 8, 1))
    path = tmp_path / "lambda.keras"
    keras.Model(x, keras.layers.Flatten()(keras.layers.Lambda(lambda value: 2 * value)(x))).save(path)
    with pytest.raises(BadInput, match="--trust"):
        Request(str(path)).load()
    assert Request(str(path), trust=True).load().channels == 1
    with pytest.raises(BadInput, match="no such file"):
        Request(str(tmp_path / "none.keras")).check()


ALONE = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "jax"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import numpy as np, whence
from whence.backends import twins
twin = twins.build("cnn", "keras", "float32")
x = twin.inputs(np.random.default_rng(0).normal(size=(2, 1, 8, 8)))
for method in ("integrated_gradients", "deeplift", "lrp", "gradcam", "occlusion", "kernel_shap", "smoothgrad"):
    assert np.isfinite(np.asarray(whence.explain(twin.model, x, method).values)).all()
print(whence.explain(twin.model, x, "saliency").settings["backend"])
"""
ON_TORCH = """
import numpy as np, whence
from whence.backends import twins
x = np.random.default_rng(0).normal(size=(2, 1, 8, 8))
torch, keras = (twins.build("cnn", each, "float32") for each in ("torch", "keras"))
for method in ("integrated_gradients", "deeplift", "guided_backprop", "gradcam"):
    one = whence.explain(torch.model, torch.inputs(x), method).values
    two = whence.explain(keras.model, keras.inputs(x), method).values
    assert np.allclose(one.reshape(two.shape), two, atol=1e-4), method
at = whence.layer("stage1_conv")
assert whence.explain(keras.model, keras.inputs(x), "saliency", at=at).values.shape == (2, 8, 8, 12)
at = whence.parameters("dense/kernel")
assert whence.explain(keras.model, keras.inputs(x), "saliency", at=at).values.shape == (2, 24, 10)
print(whence.explain(keras.model, keras.inputs(x), "saliency").settings["backend"])
"""


@pytest.mark.parametrize("backend, code", [("tensorflow", ALONE), ("torch", ON_TORCH)])
def test_in_a_process_of_its_own(backend, code):
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == backend
