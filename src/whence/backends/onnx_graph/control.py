"""Operators that hold graphs: branches and loops."""

from __future__ import annotations

from typing import Any

import torch

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import axis_of

Tensor = torch.Tensor


def _around(node: Node, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a node's own inputs, and the values of the graph around that its inner graphs use."""
    number = len(values) - len(node.captured)
    return values[:number], dict(zip(node.captured, values[number:], strict=True))


def _answer(found: list[Any]) -> Any:
    return found[0] if len(found) == 1 else tuple(found)


@operator("If")
def branch(node: Node, *values: Any) -> Any:
    """Run one of two graphs."""
    (condition,), around = _around(node, values)
    return _answer(node.inner("then_branch" if bool(condition) else "else_branch").run([], around))


@operator("Loop")
def loop(node: Node, *values: Any) -> Any:
    """Run a graph again and again; what it puts out beside its state is stacked."""
    (limit, condition, *state), around = _around(node, values)
    body: Any = node.inner("body")
    most = None if limit is None else int(limit)
    going, count = condition is None or bool(condition), 0
    collected: list[list[Tensor]] = []
    while going and (most is None or count < most):
        given = [torch.tensor(count), torch.tensor(True), *state]
        again, *found = body.run(given, around)
        going, count = bool(again), count + 1
        collected.append(found[len(state) :])
        state = found[: len(state)]
    stacks = [_stacked(node, parts) for parts in zip(*collected, strict=True)]
    missing = node.wanted - len(state) - len(stacks)
    if missing > 0:
        stacks += [torch.zeros(0)] * missing
    return _answer([*state, *stacks])


def _stacked(node: Node, parts: tuple[Any, ...]) -> Tensor:
    return torch.stack([each if isinstance(each, Tensor) else torch.tensor(each) for each in parts])


@operator("Scan", since=9)
def scan(node: Node, *values: Any) -> Any:
    """Run a graph along an axis of its inputs."""
    given, around = _around(node, values)
    count = node.whole("num_scan_inputs")
    state, scanned = list(given[: len(given) - count]), list(given[len(given) - count :])
    body: Any = node.inner("body")
    axes = node.wholes("scan_input_axes") or [0] * count
    turned = node.wholes("scan_input_directions") or [0] * count
    parts = [
        list(each.unbind(axis_of(axis, each.ndim)))[:: -1 if turn else 1]
        for each, axis, turn in zip(scanned, axes, turned, strict=True)
    ]
    collected: list[list[Tensor]] = []
    for row in zip(*parts, strict=True):
        found = body.run([*state, *row], around)
        state = found[: len(state)]
        collected.append(found[len(state) :])
    stacks = [list(each) for each in zip(*collected, strict=True)]
    outward = node.wholes("scan_output_axes") or [0] * len(stacks)
    backward = node.wholes("scan_output_directions") or [0] * len(stacks)
    laid = [
        torch.stack(each[:: -1 if turn else 1], axis_of(axis, each[0].ndim + 1))
        for each, axis, turn in zip(stacks, outward, backward, strict=True)
    ]
    return _answer([*state, *laid])
