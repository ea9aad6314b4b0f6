"""Whole operations where exporters wrote them down in parts: rules then see what the original model had.

Nothing is guessed from names: the parts must be exactly those of the operation, and be used for nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from whence.backends.onnx_graph.plan import Call, Plan

OPSET: Final = 20
"""The opset of the operations that are put in: the first that has all of them."""
_CLOSE: Final = 1e-4


def merge(plan: Plan) -> None:
    """Put whole operations in the place of their parts: layer norms and activations."""
    for finder in (_layer_norm, _activation):
        graph = _Graph(plan)
        # From the end, so that what is largest is found first.
        for call in reversed(list(plan.calls)):
            found = finder(graph, call) if id(call) not in graph.gone else None
            if found is not None:
                graph.replace(*found)
        plan.calls = [graph.put.get(id(call), call) for call in plan.calls if id(call) not in graph.gone]


@dataclass
class _Factors:
    """A product taken apart: a number, the values that are multiplied, and the calls that did it."""

    number: float
    values: list[str]
    calls: list[Call]


class _Graph:
    """A plan seen from its values: who makes each, and how often it is used."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.uses = plan, plan.uses()
        self.maker = {name: call for call in plan.calls for name in call.outputs if name}
        self.gone: set[int] = set()
        self.put: dict[int, Call] = {}

    def made_by(self, name: str, kind: str) -> Call | None:
        """Return the call that makes a value, where it is of one kind."""
        call = self.maker.get(name)
        known = call is not None and call.kind == kind and not call.domain and id(call) not in self.gone
        return call if known else None

    def number(self, name: str) -> float | None:
        """Return a value that is one constant number."""
        value = self.plan.constants.get(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def either(self, call: Call | None) -> list[tuple[str, str]]:
        """Return the two inputs of a call, either way round."""
        if call is None or len(call.inputs) != 2:
            return []
        one, two = call.inputs
        return [(one, two), (two, one)]

    def with_number(self, call: Call | None) -> tuple[str, float] | None:
        """Return the input of a call of two that varies, and the other, which is a number."""
        for varying, other in self.either(call):
            number = self.number(other)
            if number is not None and varying not in self.plan.constants:
                return varying, number
        return None

    def factors(self, name: str, top: bool = True) -> _Factors:
        """Take a product apart, through parts that are used once."""
        found = _Factors(1.0, [], [])
        call = self.made_by(name, "Mul") or self.made_by(name, "Div")
        if call is None or (not top and self.uses[name] != 1):
            return _Factors(1.0, [name], [])
        if call.kind == "Div":
            number = self.number(call.inputs[1])
            if not number:
                return _Factors(1.0, [name], [])
            inner = self.factors(call.inputs[0], False)
            return _Factors(inner.number / number, inner.values, [call, *inner.calls])
        found.calls.append(call)
        for each in call.inputs:
            number = self.number(each)
            inner = self.factors(each, False) if number is None else _Factors(number, [], [])
            found.number *= inner.number
            found.values += inner.values
            found.calls += inner.calls
        return found

    def replace(self, last: Call, parts: list[Call], whole: Call) -> None:
        """Put a call in the place of the last of its parts, where no other call needs any of them."""
        inside = {id(each): each for each in parts}
        inner = [name for each in inside.values() if each is not last for name in each.outputs]
        taken = [name for each in inside.values() for name in each.inputs]
        if any(self.uses[name] != taken.count(name) for name in inner) or self.gone & set(inside):
            return
        self.gone |= set(inside) - {id(last)}
        self.put[id(last)] = whole
        self.maker[last.outputs[0]] = whole


_Found = tuple[Call, list[Call], Call] | None


def _whole(last: Call, kind: str, inputs: list[str], domain: str = "", **attributes: Any) -> Call:
    return Call(kind, domain, last.name, inputs, last.outputs, attributes, OPSET)


# ---- layer norm ---------------------------------------------------------------------------------------------


def _layer_norm(graph: _Graph, last: Call) -> _Found:
    """Find (x − mean) / √(mean (x − mean)² + ε), and a scale and a bias after it."""
    parts, name = list[Call](), last.outputs[0]
    bias = _weight(graph, name, "Add")
    if bias is not None:
        parts, name = [last], bias[0]
    scale = _weight(graph, name, "Mul")
    if scale is not None:
        parts, name = [*parts, graph.maker[name]], scale[0]
    if bias is not None and scale is None:
        return None
    found = _standardised(graph, name)
    if found is None:
        return None
    x, axes, epsilon, calls = found
    inputs = [x, *([scale[1]] if scale else []), *([bias[1]] if bias else [])]
    whole = _whole(last, "MergedLayerNorm", inputs, "whence", axes=axes, epsilon=epsilon)
    return last, [*parts, *calls], whole


def _weight(graph: _Graph, name: str, kind: str) -> tuple[str, str] | None:
    """Return what a scale or a bias is put on, and the weight."""
    for varying, weight in graph.either(graph.made_by(name, kind)):
        value = graph.plan.constants.get(weight)
        if value is not None and value.ndim and value.size > 1 and varying not in graph.plan.constants:
            return varying, weight
    return None


def _standardised(graph: _Graph, name: str) -> tuple[str, tuple[int, ...], float, list[Call]] | None:
    divided = _divided(graph, name)
    if divided is None:
        return None
    top, root, calls = divided
    centred, variance = _centred(graph, top), graph.with_number(graph.made_by(root.inputs[0], "Add"))
    if centred is None or variance is None:
        return None
    x, axes, inner = centred
    mean = graph.made_by(variance[0], "ReduceMean")
    squared = _squared(graph, mean.inputs[0]) if mean is not None else None
    if mean is None or squared is None or _axes(graph, mean) != axes:
        return None
    same = _centred(graph, squared[0])
    if same is None or same[:2] != (x, axes):
        return None
    calls += [root, graph.maker[root.inputs[0]], mean, squared[1], *inner, *same[2]]
    return x, axes, variance[1], calls


def _divided(graph: _Graph, name: str) -> tuple[str, Call, list[Call]] | None:
    """Return what is divided by a root, and the root: as a division, or times the reciprocal."""
    quotient = graph.made_by(name, "Div")
    root = graph.made_by(quotient.inputs[1], "Sqrt") if quotient is not None else None
    if quotient is not None and root is not None:
        return quotient.inputs[0], root, [quotient]
    product = graph.made_by(name, "Mul")
    for top, other in graph.either(product):
        turned = graph.made_by(other, "Reciprocal")
        root = graph.made_by(turned.inputs[0], "Sqrt") if turned is not None else None
        if product is not None and turned is not None and root is not None:
            return top, root, [product, turned]
    return None


def _centred(graph: _Graph, name: str) -> tuple[str, tuple[int, ...], list[Call]] | None:
    less = graph.made_by(name, "Sub")
    mean = graph.made_by(less.inputs[1], "ReduceMean") if less is not None else None
    if less is None or mean is None or mean.inputs[0] != less.inputs[0]:
        return None
    axes = _axes(graph, mean)
    return None if axes is None else (less.inputs[0], axes, [less, mean])


def _axes(graph: _Graph, mean: Call) -> tuple[int, ...] | None:
    """Return the axes of a mean that keeps them, where they are written down and follow one another."""
    if not mean.attributes.get("keepdims", 1):
        return None
    given: Any = mean.attributes.get("axes")
    if given is None and len(mean.inputs) > 1:
        given = graph.plan.constants.get(mean.inputs[1])
    axes = () if given is None else tuple(sorted(int(each) for each in given))
    return axes if axes and axes == tuple(range(axes[0], axes[-1] + 1)) else None


def _squared(graph: _Graph, name: str) -> tuple[str, Call] | None:
    power, product = graph.made_by(name, "Pow"), graph.made_by(name, "Mul")
    if power is not None and graph.number(power.inputs[1]) == 2:
        return power.inputs[0], power
    return (product.inputs[0], product) if product is not None and len(set(product.inputs)) == 1 else None


# ---- activations --------------------------------------------------------------------------------------------


def _activation(graph: _Graph, last: Call) -> _Found:
    """Find x times what depends on x alone: GELU, SiLU, Mish, hard swish."""
    product = graph.factors(last.outputs[0])
    if not product.calls or len(product.values) != 2:
        return None
    one, two = product.values
    for x, gate in ((one, two), (two, one)):
        for find in (_gelu, _quick, _hard):
            found = find(graph, x, gate, product.number)
            if found is not None:
                kind, calls, attributes = found
                domain = "whence" if kind.startswith("Merged") else ""
                return last, [*product.calls, *calls], _whole(last, kind, [x], domain, **attributes)
    return None


_Gate = tuple[str, list[Call], dict[str, Any]] | None


def _near(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=_CLOSE)


def _gelu(graph: _Graph, x: str, gate: str, number: float) -> _Gate:
    """Find ½ x (1 + erf(x/√2)), and its approximation by tanh."""
    more = graph.made_by(gate, "Add")
    inside = graph.with_number(more)
    if more is None or inside is None or inside[1] != 1 or not _near(number, 0.5):
        return None
    erf, tanh = graph.made_by(inside[0], "Erf"), graph.made_by(inside[0], "Tanh")
    if erf is not None:
        scaled = graph.factors(erf.inputs[0])
        if scaled.values == [x] and _near(scaled.number, math.sqrt(0.5)):
            return "Gelu", [more, erf, *scaled.calls], {}
    if tanh is not None:
        calls = _cubic(graph, x, tanh.inputs[0])
        if calls is not None:
            return "Gelu", [more, tanh, *calls], {"approximate": "tanh"}
    return None


def _cubic(graph: _Graph, x: str, name: str) -> list[Call] | None:
    """Return the calls of √(2/π) (x + 0.044715 x³), where a value is that."""
    outer = graph.factors(name)
    if not _near(outer.number, math.sqrt(2 / math.pi)) or len(outer.values) != 1:
        return None
    total = graph.made_by(outer.values[0], "Add")
    for plain, rest in graph.either(total):
        inner = graph.factors(rest)
        if total is None or plain != x or not _near(inner.number, 0.044715):
            continue
        power = graph.made_by(inner.values[0], "Pow") if len(inner.values) == 1 else None
        if power is not None and power.inputs[0] == x and graph.number(power.inputs[1]) == 3:
            return [*outer.calls, total, *inner.calls, power]
        if inner.values == [x, x, x]:
            return [*outer.calls, total, *inner.calls]
    return None


def _quick(graph: _Graph, x: str, gate: str, number: float) -> _Gate:
    """Find x σ(x), and x tanh(ln(1 + eˣ))."""
    if number != 1:
        return None
    sigmoid, tanh = graph.made_by(gate, "Sigmoid"), graph.made_by(gate, "Tanh")
    if sigmoid is not None and sigmoid.inputs[0] == x:
        return "MergedSwish", [sigmoid], {}
    soft = graph.made_by(tanh.inputs[0], "Softplus") if tanh is not None else None
    if tanh is not None and soft is not None and soft.inputs[0] == x:
        return "Mish", [tanh, soft], {}
    return None


def _hard(graph: _Graph, x: str, gate: str, number: float) -> _Gate:
    """Find x times x/6 + ½ kept between 0 and 1."""
    hard, clip = graph.made_by(gate, "HardSigmoid"), graph.made_by(gate, "Clip")
    if hard is not None and hard.inputs[0] == x and number == 1:
        slope, rise = hard.attributes.get("alpha", 0.2), hard.attributes.get("beta", 0.5)
        return ("HardSwish", [hard], {}) if _near(slope, 1 / 6) and _near(rise, 0.5) else None
    if clip is None or not _near(number, 1 / 6):
        return None
    inputs = [graph.number(name) for name in clip.inputs[1:]]
    ends = inputs if len(inputs) == 2 else [clip.attributes.get("min"), clip.attributes.get("max")]
    more = graph.made_by(clip.inputs[0], "Add")
    if ends == [0, 6] and more is not None and graph.with_number(more) == (x, 3):
        return "HardSwish", [clip, more], {}
    return None
