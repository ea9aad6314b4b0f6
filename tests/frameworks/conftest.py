"""How the frameworks have to run in these tests; each is read once, when the framework is imported."""

import os

for variable, value in {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
}.items():
    os.environ.setdefault(variable, value)
