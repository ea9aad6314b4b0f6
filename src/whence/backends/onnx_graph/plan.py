"""A graph as plain data: its calls of operators and its constants, before anything is made of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whence.backends.onnx_graph.file import needed
from whence.errors import UnsupportedByBackend


@dataclass
class Call:
    """One call of an operator; `graphs` are the plans that it holds, `opset` the version that it follows."""

    kind: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    opset: int
    graphs: dict[str, Plan] = field(default_factory=dict[str, "Plan"])

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"{self.kind} (node {self.name!r})"

    @property
    def captured(self) -> list[str]:
        """Names that its graphs use of the graph around."""
        found = dict.fromkeys(name for plan in self.graphs.values() for name in plan.free)
        return list(found)


@dataclass
class Plan:
    """A graph: `inputs` are names with ONNX's number of their type (0 for what is no tensor)."""

    inputs: list[tuple[str, int]]
    outputs: list[str]
    calls: list[Call]
    constants: dict[str, np.ndarray]
    weights: frozenset[str] = frozenset()

    @property
    def free(self) -> list[str]:
        """Names that are used and not made in it."""
        made = {name for name, _ in self.inputs} | set(self.constants)
        made |= {name for call in self.calls for name in call.outputs}
        used = [name for call in self.calls for name in (*call.inputs, *call.captured)]
        return [name for name in dict.fromkeys((*used, *self.outputs)) if name and name not in made]

    def uses(self) -> Counter[str]:
        """Return how often each value is used, also by graphs inside and as an output."""
        found = Counter(name for call in self.calls for name in (*call.inputs, *call.captured))
        found.update(self.outputs)
        return found


def planned(graph: Any, opsets: dict[str, int], outputs: tuple[str, ...] | None = None) -> Plan:
    """Return the plan of a file's graph: of what some of its outputs need, or all of them.

    Raises:
        UnsupportedByBackend: it holds texts, sparse weights or numbers of a type that is not known.
    """
    if graph.sparse_initializer:
        raise UnsupportedByBackend(
            f"the file's weight {graph.sparse_initializer[0].values.name!r} is sparse, which whence does not read; "
            "export it dense"
        )
    constants = {each.name: array(each) for each in graph.initializer}
    inputs = [
        (each.name, each.type.tensor_type.elem_type) for each in graph.input if each.name not in constants
    ]
    taken: set[str] = set()
    wanted = [each.name for each in graph.output] if outputs is None else list(outputs)
    # Numbered as the file has them, for names that do not depend on what is asked for.
    calls = [_call(graph.node[place], place, opsets, taken) for place in needed(graph, set(wanted))]
    return Plan(inputs, wanted, calls, constants, frozenset(constants))


def array(tensor: Any) -> np.ndarray:
    """Return a tensor of the file as an array.

    Raises:
        UnsupportedByBackend: it holds something else than plain numbers.
    """
    from onnx import TensorProto, numpy_helper  # pyright: ignore[reportMissingImports]

    from whence.backends.onnx_graph.values import TYPES

    if tensor.data_type not in TYPES:
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        raise UnsupportedByBackend(
            f"the file's tensor {tensor.name!r} is of type {kind}, which whence does not calculate with; export the "
            "model with plain numbers"
        )
    return np.asarray(numpy_helper.to_array(tensor))


def _call(node: Any, number: int, opsets: dict[str, int], taken: set[str]) -> Call:
    name = node.name or f"{node.op_type}_{number}"
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    taken.add(unique)
    outputs = list(node.output)
    while outputs and not outputs[-1]:
        outputs.pop()
    domain = "" if node.domain == "ai.onnx" else node.domain
    call = Call(node.op_type, domain, unique, list(node.input), outputs, {}, opsets.get(domain, 1))
    while call.inputs and not call.inputs[-1]:
        call.inputs.pop()
    for attribute in node.attribute:
        _take(call, attribute, opsets)
    return call


def _take(call: Call, attribute: Any, opsets: dict[str, int]) -> None:
    """Keep one attribute of a call."""
    kind = attribute.type
    if kind == 5:
        call.graphs[attribute.name] = planned(attribute.g, opsets)
    elif kind == 4:
        call.attributes[attribute.name] = array(attribute.t)
    elif kind == 3:
        call.attributes[attribute.name] = attribute.s.decode("utf-8", "replace")
    elif kind == 8:
        call.attributes[attribute.name] = tuple(each.decode("utf-8", "replace") for each in attribute.strings)
    elif kind in (1, 2):
        call.attributes[attribute.name] = _meant(attribute.f) if kind == 1 else attribute.i
    elif kind in (6, 7):
        several = map(_meant, attribute.floats) if kind == 6 else attribute.ints
        call.attributes[attribute.name] = tuple(several)
    else:
        raise UnsupportedByBackend(
            f"the file's {call.called} has an attribute {attribute.name!r} of a kind that whence does not read"
        )


def _meant(value: float) -> float:
    """Return the shortest number that single precision, in which a file keeps it, cannot tell from a value.

    An epsilon of 1e-5 is 9.99999974e-06 there: what the exporter had is the former, and float64 can tell.
    """
    return float(str(np.float32(value)))


_CONSTANTS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def constant_of(call: Call) -> np.ndarray | None:
    """Return what a Constant holds, or None where that is a text or sparse."""
    if "value" in call.attributes:
        return call.attributes["value"]
    for name, kind in _CONSTANTS.items():
        if name in call.attributes:
            return np.asarray(call.attributes[name], dtype=kind)
    return None
