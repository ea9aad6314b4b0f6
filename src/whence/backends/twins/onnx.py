"""The twins as ONNX graphs, on pictures [B, 1, 8, 8]; every node, and what it puts out, is named."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from whence.backends.twins.numpy import gelu
from whence.backends.twins.twin import (
    BLOCKS,
    EPSILON,
    HEADS,
    SIDE,
    STAGES,
    TOKENS,
    WIDTH,
    Arrays,
    Twin,
    weights,
)

OPSET: Final = 20
"""The first with Gelu; LayerNormalization is there since 17."""
IR: Final = 9


class Graph:
    """A graph that grows node by node."""

    def __init__(self, arrays: Arrays) -> None:
        self.nodes: list[Any] = []
        self.held: dict[str, np.ndarray] = {}
        self.arrays = arrays
        self.dtype = next(iter(arrays.values())).dtype

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation and return the name of what it puts out: its own."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: Any = None) -> str:
        """Add a constant."""
        self.held[name] = np.asarray(value, dtype=dtype or self.dtype)
        return name

    def weight(self, name: str) -> str:
        """Add a weight of the network."""
        return self.constant(name, self.arrays[name])

    def shape(self, name: str, *sizes: int) -> str:
        """Add a shape for Reshape; 0 keeps a size."""
        return self.constant(name, sizes, np.int64)

    def dense(self, name: str, x: str) -> str:
        """Add a dense layer of the last axis of tokens: a product with [in, out] and a sum."""
        kernel = self.constant(f"{name}.kernel", self.arrays[f"{name}.weight"].T)
        product = self.node("MatMul", f"{name}.product", x, kernel)
        return self.node("Add", name, product, self.weight(f"{name}.bias"))

    def gemm(self, name: str, x: str) -> str:
        """Add a dense layer of rows."""
        return self.node(
            "Gemm", name, x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), transB=1
        )

    def layer_norm(self, name: str, x: str) -> str:
        """Add a layer norm of the last axis."""
        kept = (self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))
        return self.node("LayerNormalization", name, x, *kept, axis=-1, epsilon=EPSILON)

    def attention(self, name: str, x: str) -> str:
        """Add the attention of tokens to each other."""
        size = WIDTH // HEADS
        split = self.shape(f"{name}.split", 0, TOKENS, 3, HEADS, size)
        both = self.node("Reshape", f"{name}.heads", self.dense(f"{name}.qkv", x), split)
        parts: dict[str, str] = {}
        for number, part in enumerate(("query", "key", "value")):
            index = self.constant(f"{name}.{part}.index", number, np.int64)
            chosen = self.node("Gather", f"{name}.{part}.chosen", both, index, axis=2)
            order = (0, 2, 3, 1) if part == "key" else (0, 2, 1, 3)
            parts[part] = self.node("Transpose", f"{name}.{part}", chosen, perm=order)
        scores = self.node("MatMul", f"{name}.scores", parts["query"], parts["key"])
        scaled = self.node("Div", f"{name}.scaled", scores, self.constant(f"{name}.root", np.sqrt(size)))
        shares = self.node("Softmax", f"{name}.shares", scaled, axis=-1)
        mixed = self.node("MatMul", f"{name}.mixed", shares, parts["value"])
        ordered = self.node("Transpose", f"{name}.ordered", mixed, perm=(0, 2, 1, 3))
        merged = self.node(
            "Reshape", f"{name}.merged", ordered, self.shape(f"{name}.merge", 0, TOKENS, WIDTH)
        )
        return self.dense(f"{name}.out", merged)


def mlp(graph: Graph, pictures: str) -> str:
    """Write down the dense network."""
    value = graph.node("Flatten", "flatten", pictures, axis=1)
    for number in (1, 2):
        value = graph.node("Relu", f"relu{number}", graph.gemm(f"dense{number}", value))
    return graph.gemm("dense3", value)


def cnn(graph: Graph, pictures: str) -> str:
    """Write down the convolutional network."""
    maps = _stage(graph, STAGES[0], pictures)
    maps = graph.node("MaxPool", "pool1", maps, kernel_shape=(2, 2), strides=(2, 2))
    pooled = graph.node("GlobalAveragePool", "pool2", _stage(graph, STAGES[1], maps))
    return graph.gemm("dense", graph.node("Flatten", "flatten", pooled, axis=1))


def _stage(graph: Graph, name: str, x: str) -> str:
    kernel, bias = graph.weight(f"{name}.conv.weight"), graph.weight(f"{name}.conv.bias")
    maps = graph.node("Conv", f"{name}.conv", x, kernel, bias, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
    kept = (graph.weight(f"{name}.norm.{part}") for part in ("weight", "bias", "mean", "variance"))
    normed = graph.node("BatchNormalization", f"{name}.norm", maps, *kept, epsilon=EPSILON)
    return graph.node("Relu", name, normed)


def transformer(graph: Graph, pictures: str) -> str:
    """Write down the transformer."""
    kept = (graph.weight("patches.weight"), graph.weight("patches.bias"))
    maps = graph.node("Conv", "patches", pictures, *kept, kernel_shape=(2, 2), strides=(2, 2))
    flat = graph.node("Reshape", "flat", maps, graph.shape("flat.shape", 0, WIDTH, TOKENS))
    tokens = graph.node("Transpose", "tokens", flat, perm=(0, 2, 1))
    tokens = graph.node("Add", "placed", tokens, graph.weight("positions"))
    for block in BLOCKS:
        attended = graph.attention(f"{block}.attention", graph.layer_norm(f"{block}.norm1", tokens))
        tokens = graph.node("Add", f"{block}.between", tokens, attended)
        hidden = graph.dense(f"{block}.dense1", graph.layer_norm(f"{block}.norm2", tokens))
        hidden = graph.node("Gelu", f"{block}.gelu", hidden)
        tokens = graph.node("Add", block, tokens, graph.dense(f"{block}.dense2", hidden))
    axes = graph.shape("pool.axes", 1)
    pooled = graph.node("ReduceMean", "pool", graph.layer_norm("norm", tokens), axes, keepdims=0)
    return graph.gemm("dense", pooled)


WRITERS: Final = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def written(network: str, dtype: str) -> onnx.ModelProto:
    """Return a network's ONNX model."""
    graph = Graph(weights(network, dtype))
    output = WRITERS[network](graph, "pictures")
    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[dtype]
    made = helper.make_graph(
        graph.nodes,
        network,
        [helper.make_tensor_value_info("pictures", kind, ("batch", 1, SIDE, SIDE))],
        [helper.make_tensor_value_info(output, kind, ("batch", 10))],
        [numpy_helper.from_array(array, name) for name, array in graph.held.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=IR, producer_name="whence")
    onnx.checker.check_model(model, full_check=True)
    return model


class Gelu(OpRun):
    """The exact Gaussian error linear unit: the reference implementation's is as good as float32."""

    op_domain = ""

    def _run(self, x: np.ndarray, approximate: str | None = None) -> tuple[np.ndarray]:
        return (gelu(x),)


def build(network: str, framework: str, dtype: str) -> Twin:
    """Return a network as an ONNX model, run by the reference implementation: the runtime lacks float64."""
    model = written(network, dtype)
    evaluator = ReferenceEvaluator(model, new_ops=[Gelu])

    def run(inputs: np.ndarray) -> np.ndarray:
        outputs: Any = evaluator.run(None, {"pictures": inputs})
        return np.asarray(outputs[0])

    names = {node.name: node.name for node in model.graph.node}
    return Twin(network, framework, model, lambda pictures: pictures.astype(dtype), run, False, names)
