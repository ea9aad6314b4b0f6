"""From a file to the module that runs its graph: what is constant is worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from whence.backends.onnx_graph.file import OnnxFile
from whence.backends.onnx_graph.graph import Given, Graph, Step
from whence.backends.onnx_graph.merging import merge
from whence.backends.onnx_graph.node import Node, class_for, describe
from whence.backends.onnx_graph.plan import Call, Plan, constant_of, planned
from whence.backends.onnx_graph.registry import find
from whence.backends.onnx_graph.values import TYPES, tensor
from whence.errors import UnsupportedByBackend

# These say something of a weight that stays true whatever is put in its place, or belong to weights nobody asks for.
_OF_WEIGHTS: Final = frozenset({"Shape", "Size", "DequantizeLinear"})
# Larger constants than this are worked out anew each time rather than kept.
_MOST: Final = 1 << 22


def build(file: OnnxFile) -> Graph:
    """Return the module that runs a file's graph.

    Raises:
        UnsupportedByBackend: something in it is not run as PyTorch operations; it is named.
    """
    if file.hindrances:
        raise UnsupportedByBackend(unknown_operators(file))
    with torch.inference_mode(False), torch.no_grad():
        outputs = tuple(each.name for each in file.outputs)
        return _built(planned(file.whole.graph, file.opsets, outputs), file.batch, file.batch)


def unknown_operators(file: OnnxFile) -> str:
    """Return in words what of a file is not run as PyTorch operations."""
    listed = list(file.hindrances)
    several = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{file.__name__} has {', '.join(listed[:3])}{several}, which whence does not run as PyTorch operations"


def _built(plan: Plan, batch: int | None, fixed: int | None = None) -> Graph:
    _take_constants(plan)
    merge(plan)
    graph = Graph([Given(name, TYPES.get(kind)) for name, kind in plan.inputs], plan.outputs, fixed)
    known = _tensors(plan.constants)
    weights = {
        name for name in plan.weights if known[name].ndim and known[name].is_floating_point()
    }  # fmt: skip
    left: list[Call] = []
    for call in plan.calls:
        node = _node(call, known, batch)
        if not _fold(call, node, known, weights):
            graph.add(call.name, node)
            left.append(call)
    used = {name for call in left for name in (*call.inputs, *call.captured)} | set(plan.outputs)
    for name, value in known.items():
        if name in used:
            graph.hold(name, value, parameter=name in weights)
    graph.follow(_steps(left, plan.outputs))
    return graph


def _take_constants(plan: Plan) -> None:
    """Take the calls that only hold a constant, or hand a weight on, out of a plan.

    Of weights that are equal, exporters keep one: each name is a weight of its own all the same, as in the model.
    """
    left: list[Call] = []
    for call in plan.calls:
        value = constant_of(call) if call.kind == "Constant" else None
        if call.kind == "Identity" and not call.domain and call.inputs[0] in plan.constants:
            value = plan.constants[call.inputs[0]]
            if call.inputs[0] in plan.weights:
                plan.weights |= {call.outputs[0]}
        if value is None:
            left.append(call)
        else:
            plan.constants[call.outputs[0]] = value
    plan.calls = left


def _tensors(constants: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return constants as tensors; those that are one array share its memory."""
    made = {id(value): tensor(value) for value in constants.values()}
    return {name: made[id(value)] for name, value in constants.items()}


def _node(call: Call, known: dict[str, torch.Tensor], batch: int | None) -> Node:
    operator = find(call.domain, call.kind, call.opset)
    if operator is None:
        raise UnsupportedByBackend(
            f"the file's {call.called} of {call.domain or 'ONNX'} is not run as PyTorch operations"
        )
    settings = {
        name: tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in call.attributes.items()
    }
    inputs: list[Any] = [known.get(name) for name in call.inputs]
    made = class_for(operator.layer, inputs)(
        call.kind, call.called, operator.function, settings, call.opset,
        len(call.outputs), tuple(call.captured), batch,
    )  # fmt: skip
    describe(made, inputs)
    for name, plan in call.graphs.items():
        made._modules[name] = _built(plan, batch)
    return made


def _fold(call: Call, node: Node, known: dict[str, torch.Tensor], weights: set[str]) -> bool:
    """Work a call out now, where all that it takes is constant and no weight that may be asked for."""
    inputs = [name for name in call.inputs if name]
    if not inputs or call.graphs or any(name not in known for name in inputs):
        return False
    if call.kind not in _OF_WEIGHTS and any(name in weights for name in inputs):
        return False
    found = node(*[known[name] if name else None for name in call.inputs])
    outputs: Sequence[Any] = (found,) if len(call.outputs) == 1 else found
    tensors = all(isinstance(each, torch.Tensor) and each.numel() <= _MOST for each in outputs)
    if tensors or (call.kind in _OF_WEIGHTS and len(outputs) == 1):
        known.update(zip(call.outputs, outputs, strict=False))
        return True
    return False


def _steps(calls: list[Call], outputs: list[str]) -> tuple[Step, ...]:
    """Return the calls in their order, each with the values that no later one needs."""
    last: dict[str, int] = {}
    for number, call in enumerate(calls):
        for name in (*call.inputs, *call.captured, *call.outputs):
            last[name] = number
    done: dict[int, list[str]] = {}
    for name, number in last.items():
        if name and name not in outputs:
            done.setdefault(number, []).append(name)
    return tuple(
        Step(call.name, (*call.inputs, *call.captured), tuple(call.outputs), tuple(done.get(number, ())))
        for number, call in enumerate(calls)
    )
