"""Which backend a model belongs to: its own framework's, or that of the arrays it is given. None is imported before."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from whence.errors import BadInput, UnsupportedByBackend

if TYPE_CHECKING:
    from whence.backends import Backend


def loaded(model: Any) -> Any:
    """Return the model that an ONNX file's path stands for, so that what is learnt of it is kept; others as they are.

    Raises:
        BadInput: there is no such file, or it is no ONNX file.
    """
    from whence.backends.onnx_graph.file import names_file, opened

    return opened(model) if names_file(model) else model


def resolve(model: Any, inputs: Any) -> Backend:
    """Return the backend of a model: its own framework's, or for a plain callable that of its arrays.

    Raises:
        BadInput: the model is not something that can be called.
        UnsupportedByBackend: the model's framework has no backend here.
    """
    from whence.backends.callable import CallableBackend, is_estimator, working
    from whence.backends.onnx_graph.file import names_file

    if names_file(model):
        from whence.backends.onnx import backend_for

        return backend_for(model)
    if isinstance(model, str):
        raise BadInput(f"model is the text {model!r}; pass the model itself (names are for the command line)")
    # The sub-module `callable` is an attribute of this package, and hides the built-in of that name.
    called = builtins.callable(model)
    torch = sys.modules.get("torch")
    if torch is not None and called:
        arrays = _arrays(inputs)
        if isinstance(model, torch.nn.Module) or any(isinstance(array, torch.Tensor) for array in arrays):
            from whence.backends.torch import TorchBackend

            return TorchBackend()
    if "jax" in sys.modules:
        from whence.backends.jax_models import is_jax

        if is_jax(model, _arrays(inputs)):
            from whence.backends.jax import JaxBackend

            return JaxBackend()
    if "tensorflow" in sys.modules:
        from whence.backends.tensorflow_callers import is_tensorflow

        if is_tensorflow(model, _arrays(inputs)):
            from whence.backends.tensorflow import TensorFlowBackend

            return TensorFlowBackend()
    package = type(model).__module__.partition(".")[0]
    if package in ("tensorflow", "onnx", "paddle", "mxnet", "mlx", "tinygrad"):
        raise UnsupportedByBackend(
            f"a {type(model).__name__} of {package} has no backend; wrapped as a callable on NumPy arrays it can be "
            f"explained by {working()}"
        )
    if called or is_estimator(model):
        return CallableBackend()
    raise BadInput(
        f"model is a {type(model).__name__}, which cannot be called; pass a torch module or a callable"
    )


def _arrays(inputs: Any) -> list[Any]:
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
