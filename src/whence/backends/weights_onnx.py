"""Other weights for a model in an ONNX file: a copy of its graph with other tensors."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from whence.backends.onnx_graph.file import OnnxFile
from whence.backends.weights import Arrays, Weights, by_layer

# Inputs that are statistics of the training data, and no weights: the mean and variance of batch normalisation.
COUNTED = {"BatchNormalization": (3, 4)}


def onnx_weights(model: Any) -> Weights:
    """Return the tensors of real numbers that a file holds, in the order in which its operators use them."""
    from onnx import numpy_helper  # pyright: ignore[reportMissingImports]

    file: OnnxFile = model
    held = {each.name: each for each in file.proto.graph.initializer}
    order: dict[str, None] = {}
    counted: set[str] = set()
    for node in file.proto.graph.node:
        skipped = COUNTED.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if name in held:
                order.setdefault(name)
                counted.update({name} if place in skipped else ())
    arrays: dict[str, np.ndarray] = {}
    for name in order:
        array = numpy_helper.to_array(held[name])
        # A single number is a setting of an operator: an exponent, a bound.
        if name not in counted and np.issubdtype(array.dtype, np.floating) and array.size > 1:
            arrays[name] = array
    return Weights(arrays, by_layer(arrays), partial(_replaced, file))


def _replaced(file: OnnxFile, arrays: Arrays) -> OnnxFile:
    from onnx import ModelProto, numpy_helper  # pyright: ignore[reportMissingImports]

    proto = ModelProto()
    proto.CopyFrom(file.proto)
    for each in proto.graph.initializer:
        if each.name in arrays:
            old = numpy_helper.to_array(each)
            each.CopyFrom(numpy_helper.from_array(np.asarray(arrays[each.name], dtype=old.dtype), each.name))
    return OnnxFile(proto, None, file.shown)
