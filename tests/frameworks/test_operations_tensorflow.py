"""TensorFlow's array functions give what NumPy's give, and its backend keeps to the protocol."""

from __future__ import annotations

import pytest
import tensorflow
from operations import require_agreement, require_protocol

from test_backends import CALLS
from whence.backends.tensorflow import TensorFlowBackend
from whence.backends.tensorflow_array import Wrapped

OPERATIONS = TensorFlowBackend.ops


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_array_functions_agree_with_numpy(name):
    def native(value):
        return OPERATIONS.own(tensorflow.constant(value))

    require_agreement(name, OPERATIONS, native, lambda value: isinstance(value, Wrapped))


def test_the_backend_keeps_to_the_protocol():
    require_protocol(TensorFlowBackend())
