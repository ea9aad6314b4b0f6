"""Recurrent layers: torch's own where they are the same, and step by step where they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator

Tensor = torch.Tensor
Activation = Callable[[Tensor], Tensor]


@operator("LSTM", since=7, layer="recurrent")
def lstm(
    node: Node, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h: Tensor | None = None, c: Tensor | None = None, peepholes: Tensor | None = None,
) -> Any:  # fmt: skip
    """Run a long short-term memory."""
    order = (0, 2, 3, 1)
    default = ("sigmoid", "tanh", "tanh")
    if _is_torch(node, default, lengths) and peepholes is None and not node.whole("input_forget"):
        return _by_torch(node, x, (w, r, b), (h, c), order, torch.lstm)

    def step(part: int, functions: list[Activation], row: Tensor, state: list[Tensor]) -> list[Tensor]:
        bias = 0 if b is None else b[part].reshape(2, -1).sum(0)
        gates = row @ w[part].T + state[0] @ r[part].T + bias
        i, o, f, g = gates.chunk(4, -1)
        look = [0.0] * 3 if peepholes is None else list(peepholes[part].chunk(3))
        i = functions[0](_clipped(node, i + look[0] * state[1]))
        f = 1 - i if node.whole("input_forget") else functions[0](_clipped(node, f + look[2] * state[1]))
        cell = f * state[1] + i * functions[1](_clipped(node, g))
        o = functions[0](_clipped(node, o + look[1] * cell))
        return [o * functions[2](cell), cell]

    return _stepwise(node, x, r, lengths, (h, c), default, step)


@operator("GRU", since=7, layer="recurrent")
def gru(
    node: Node, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h: Tensor | None = None,
) -> Any:  # fmt: skip
    """Run gated recurrent units."""
    default = ("sigmoid", "tanh")
    after = bool(node.whole("linear_before_reset"))
    if after and _is_torch(node, default, lengths):
        return _by_torch(node, x, (w, r, b), (h,), (1, 0, 2), torch.gru)

    def step(part: int, functions: list[Activation], row: Tensor, state: list[Tensor]) -> list[Tensor]:
        size = r.shape[-1]
        bias = x.new_zeros(6 * size) if b is None else b[part]
        own = row @ w[part].T + bias[: 3 * size]
        other, late = r[part], bias[3 * size :]
        past = state[0] @ other[: 2 * size].T + late[: 2 * size]
        z, reset = functions[0](_clipped(node, own[..., : 2 * size] + past)).chunk(2, -1)
        if after:
            rest = reset * (state[0] @ other[2 * size :].T + late[2 * size :])
        else:
            rest = (reset * state[0]) @ other[2 * size :].T + late[2 * size :]
        new = functions[1](_clipped(node, own[..., 2 * size :] + rest))
        return [(1 - z) * new + z * state[0]]

    return _stepwise(node, x, r, lengths, (h,), default, step)


@operator("RNN", since=7, layer="recurrent")
def rnn(
    node: Node, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h: Tensor | None = None,
) -> Any:  # fmt: skip
    """Run plain recurrent units."""
    for name, native in (("tanh", torch.rnn_tanh), ("relu", torch.rnn_relu)):
        given = _activations(node, ("tanh",))
        if given and set(given) == {name} and _is_torch(node, (name,), lengths):
            return _by_torch(node, x, (w, r, b), (h,), (0,), native)

    def step(part: int, functions: list[Activation], row: Tensor, state: list[Tensor]) -> list[Tensor]:
        bias = 0 if b is None else b[part].reshape(2, -1).sum(0)
        return [functions[0](_clipped(node, row @ w[part].T + state[0] @ r[part].T + bias))]

    return _stepwise(node, x, r, lengths, (h,), ("tanh",), step)


def _activations(node: Node, default: tuple[str, ...]) -> list[str]:
    given = node.settings.get("activations")
    names = list(default) * _parts(node) if given is None else [str(each) for each in given]
    return [name.lower() for name in names]


def _parts(node: Node) -> int:
    return 2 if node.text("direction", "forward") == "bidirectional" else 1


def _is_torch(node: Node, default: tuple[str, ...], lengths: Tensor | None) -> bool:
    """Tell whether torch's own layer does the same."""
    usual = _activations(node, default) == list(default) * _parts(node)
    return (
        usual
        and lengths is None
        and not node.given("clip")
        and node.text("direction", "forward") != "reverse"
    )


def _clipped(node: Node, x: Tensor) -> Tensor:
    return x.clamp(-node.real("clip"), node.real("clip")) if node.given("clip") else x


def _by_torch(
    node: Node, x: Tensor, weights: tuple[Tensor, Tensor, Tensor | None], states: tuple[Tensor | None, ...],
    order: tuple[int, ...], native: Any,
) -> Any:  # fmt: skip
    """Run torch's own layer, with the gates in its order."""
    w, r, b = weights
    flat: list[Tensor] = []
    for part in range(w.shape[0]):
        flat += [_ordered(w[part], order), _ordered(r[part], order)]
        if b is not None:
            flat += [_ordered(each, order) for each in b[part].chunk(2)]
    last = bool(node.whole("layout"))
    x = x.transpose(0, 1) if last else x
    begin = [_begin(state, x, w.shape[0], r.shape[-1], last) for state in states]
    start: Any = tuple(begin) if len(begin) > 1 else begin[0]
    y, *ends = native(x, start, flat, b is not None, 1, 0.0, False, w.shape[0] == 2, False)
    return _answer(node, y.reshape(*y.shape[:2], w.shape[0], -1).transpose(1, 2), ends)


def _ordered(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    if len(order) == 1:
        return weight
    parts = weight.chunk(len(order), 0)
    return torch.cat([parts[each] for each in order], 0)


def _begin(state: Tensor | None, x: Tensor, parts: int, size: int, last: bool) -> Tensor:
    if state is None:
        return x.new_zeros(parts, x.shape[1], size)
    return state.transpose(0, 1) if last else state


def _answer(node: Node, y: Tensor, ends: list[Tensor]) -> Any:
    """Return all outputs [steps, parts, batch, size] and the last states, in the layout that is asked for."""
    found = (y, *ends)
    if node.whole("layout"):
        found = (y.permute(2, 0, 1, 3), *(each.transpose(0, 1) for each in ends))
    return found[0] if node.wanted == 1 else found[: node.wanted]


def _stepwise(
    node: Node, x: Tensor, r: Tensor, lengths: Tensor | None, states: tuple[Tensor | None, ...],
    default: tuple[str, ...], step: Callable[[int, list[Activation], Tensor, list[Tensor]], list[Tensor]],
) -> Any:  # fmt: skip
    last = bool(node.whole("layout"))
    x = x.transpose(0, 1) if last else x
    begin = [_begin(state, x, r.shape[0], r.shape[-1], last) for state in states]
    names = _activations(node, default)
    outputs: list[Tensor] = []
    ends: list[list[Tensor]] = []
    for part in range(r.shape[0]):
        functions = [_function(node, names, part * len(default) + i) for i in range(len(default))]
        backward = node.text("direction", "forward") == "reverse" or part == 1
        state, rows = [each[part] for each in begin], dict[int, Tensor]()
        for time in reversed(range(x.shape[0])) if backward else range(x.shape[0]):
            new = step(part, functions, x[time], state)
            if lengths is None:
                rows[time], state = new[0], new
                continue
            # A sequence that has ended (or, backwards, has not begun) keeps its state and puts out zeros.
            runs = (time < lengths)[:, None]
            state = [torch.where(runs, one, two) for one, two in zip(new, state, strict=True)]
            rows[time] = torch.where(runs, new[0], torch.zeros_like(new[0]))
        outputs.append(torch.stack([rows[time] for time in range(x.shape[0])]))
        ends.append(state)
    return _answer(
        node, torch.stack(outputs, 1), [torch.stack(list(each)) for each in zip(*ends, strict=True)]
    )


def _function(node: Node, names: list[str], place: int) -> Activation:
    """Return one of the activations that a recurrent layer may have, with its own constants."""
    name = names[place]
    alphas, betas = node.reals("activation_alpha") or [], node.reals("activation_beta") or []

    def constants(alpha: float, beta: float = 0.0) -> tuple[float, float]:
        return (alphas[place] if place < len(alphas) else alpha, betas[place] if place < len(betas) else beta)

    plain: dict[str, Activation] = {
        "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "softsign": functional.softsign,
        "softplus": functional.softplus,
    }  # fmt: skip
    if name in plain:
        return plain[name]
    if name == "hardsigmoid":
        alpha, beta = constants(0.2, 0.5)
        return lambda x: (alpha * x + beta).clamp(0, 1)
    if name == "leakyrelu":
        alpha, _ = constants(0.01)
        return lambda x: functional.leaky_relu(x, alpha)
    if name == "elu":
        alpha, _ = constants(1.0)
        return lambda x: functional.elu(x, alpha)
    if name == "thresholdedrelu":
        alpha, _ = constants(1.0)
        return lambda x: functional.threshold(x, alpha, 0.0)
    if name in ("affine", "scaledtanh"):
        alpha, beta = constants(1.0, 0.0 if name == "affine" else 1.0)
        return (lambda x: alpha * x + beta) if name == "affine" else (lambda x: alpha * torch.tanh(beta * x))
    raise node.refuse(f"the activation {name!r}")
