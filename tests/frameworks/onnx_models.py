"""Small ONNX models for tests: exported by PyTorch, or made node by node."""

import contextlib
import io
import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

KINDS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE,
         np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.int64): TensorProto.INT64}  # fmt: skip


def exported(model, x, path, opset=17, dynamic=True):
    """Write a PyTorch model to a file, and return the file's path."""
    along = {"x": {0: "batch"}, "y": {0: "batch"}} if dynamic else {}
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (x,), str(path), dynamo=False, opset_version=opset, input_names=["x"], output_names=["y"],
            dynamic_axes=along,
        )  # fmt: skip
    return path


def made(nodes, inputs, outputs, weights=None, opset=17, kind=np.float32, domains=()):
    """Return a model of nodes: inputs and outputs are shapes by name, weights are arrays by name."""
    element = KINDS[np.dtype(kind)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, element, shape) for name, shape in outputs.items()],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def written(model, path):
    """Write a model to a file, and return the file's path."""
    onnx.save(model, str(path))
    return path


node = helper.make_node
