"""Attention as its products and softmax, as the rules take it, and positions told by rotation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from whence.backends.onnx_graph.node import Node
from whence.backends.onnx_graph.registry import operator
from whence.backends.onnx_graph.values import TYPES

Tensor = torch.Tensor


@operator("Attention", since=23)
def attention(
    node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, past_k: Tensor | None = None,
    past_v: Tensor | None = None, filled: Tensor | None = None,
) -> Any:  # fmt: skip
    """Let queries look at keys, and return what they find there."""
    flat = q.ndim == 3
    if flat:
        q = _heads(q, node.whole("q_num_heads", 1))
        k, v = (_heads(each, node.whole("kv_num_heads", 1)) for each in (k, v))
    if past_k is not None and past_v is not None:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    present = (k, v)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (each.repeat_interleave(groups, 1) for each in (k, v))
    root = math.sqrt(node.real("scale", 1 / math.sqrt(q.shape[-1])))
    scores = (q * root) @ (k * root).transpose(-2, -1)
    stages = [scores]
    softcap = node.real("softcap")
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    stages.append(scores)
    past = 0 if past_k is None else past_k.shape[2]
    allowed = _allowed(node, q.shape[2], k.shape[2], past, filled)
    scores = _masked(scores, mask, allowed)
    stages.append(scores)
    shares = _shares(node, scores)
    stages.append(shares)
    y = shares @ v
    if flat:
        y = y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1)
    found = (y, *present, stages[node.whole("qk_matmul_output_mode")])
    return y if node.wanted == 1 else found[: node.wanted]


def _heads(x: Tensor, number: int) -> Tensor:
    return x.reshape(*x.shape[:2], number, -1).transpose(1, 2)


def _allowed(node: Node, queries: int, keys: int, past: int, filled: Tensor | None) -> Tensor | None:
    """Return which keys each query may look at, by its place; None where it may look at all."""
    left, right = node.whole("left_window_size", -1), node.whole("right_window_size", -1)
    if node.whole("is_causal"):
        right = 0 if right < 0 else min(right, 0)
    key = torch.arange(keys)
    offset = torch.tensor([past])
    found: Tensor | None = None
    if filled is not None:
        found = (key < filled.reshape(-1, 1))[:, None, None]
        offset = filled.reshape(-1) - queries
    if left < 0 and right < 0:
        return found
    place = offset.reshape(-1, 1, 1, 1) + torch.arange(queries).reshape(-1, 1)
    near = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    if left >= 0:
        near = near & (key >= place - left)
    if right >= 0:
        near = near & (key <= place + right)
    return near if found is None else found & near


def _masked(scores: Tensor, mask: Tensor | None, allowed: Tensor | None) -> Tensor:
    if mask is not None:
        short = scores.shape[-1] - mask.shape[-1]
        if mask.dtype == torch.bool:
            mask = functional.pad(mask, [0, short], value=False) if short else mask
            allowed = mask if allowed is None else allowed & mask
        else:
            scores = scores + (functional.pad(mask, [0, short], value=-torch.inf) if short else mask)
    if allowed is None:
        return scores
    return torch.where(allowed, scores, scores.new_full((), -torch.inf))


def _shares(node: Node, scores: Tensor) -> Tensor:
    """Return the softmax; a query that may look at nothing finds nothing."""
    kind = scores.dtype
    precise = TYPES[node.whole("softmax_precision")] if node.given("softmax_precision") else kind
    scores = scores if precise == kind else scores.to(precise)
    with torch.no_grad():
        nothing = (scores == -torch.inf).all(-1, keepdim=True)
        some = bool(nothing.any())
    if not some:
        shares = torch.softmax(scores, -1)
    else:
        shares = torch.softmax(scores.masked_fill(nothing, 0.0), -1).masked_fill(nothing, 0.0)
    return shares if precise == kind else shares.to(kind)


@operator("RotaryEmbedding", since=23)
def rotary(node: Node, x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor | None = None) -> Tensor:
    """Turn pairs of numbers by an angle that tells the position."""
    whole = x.ndim == 4
    y = x.transpose(1, 2) if whole else x.reshape(*x.shape[:2], node.whole("num_heads", 1), -1)
    size = node.whole("rotary_embedding_dim") or y.shape[-1]
    turned, rest = y[..., :size], y[..., size:]
    if positions is not None:
        cosines, sines = (each[positions.to(torch.int64)] for each in (cosines, sines))
    cosines, sines = (each.unsqueeze(2) for each in (cosines, sines))
    apart = bool(node.whole("interleaved"))
    one, two = (turned[..., 0::2], turned[..., 1::2]) if apart else turned.chunk(2, -1)
    real, imaginary = cosines * one - sines * two, sines * one + cosines * two
    y = torch.stack([real, imaginary], -1).flatten(-2) if apart else torch.cat([real, imaginary], -1)
    y = torch.cat([y, rest], -1) if rest.shape[-1] else y
    return y.transpose(1, 2) if whole else y.reshape(x.shape)
