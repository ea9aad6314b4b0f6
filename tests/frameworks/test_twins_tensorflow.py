"""The twins in Keras and TensorFlow; in a process of its own, because TensorFlow takes long to import."""

import pytest

pytest.importorskip("tensorflow")

import keras
import numpy as np
from test_twins import check_agreement, digits

from whence.backends import twins

SPELLINGS = ("keras", "keras-sequential", "keras-subclassed", "tensorflow")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "network, framework", [(n, each) for each in SPELLINGS for n in twins.networks(each)]
)
def test_outputs_agree(network, framework, dtype):
    check_agreement(network, framework, dtype)


@pytest.mark.parametrize("network", twins.networks("keras"))
def test_a_saved_model_is_the_same(network, tmp_path):
    twin = twins.build(network, "keras", "float64")
    twin.model.save(tmp_path / "twin.keras")
    again = keras.saving.load_model(tmp_path / "twin.keras")
    found, wanted = again(twin.inputs(digits())), twin.outputs(digits())
    assert np.array_equal(np.asarray(found), wanted)
