"""One function in many spellings: every way to write a ReLU, and every elementwise activation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def into_empty(h):
    out = torch.empty_like(h)
    out[...] = h.relu()
    return out


def masked(h):
    return h.masked_fill(h < 0, 0)


RELUS = {
    "F.relu": F.relu,
    "F.relu_": lambda h: F.relu_(h.clone()),
    "F.relu inplace": lambda h: F.relu(h.clone(), inplace=True),
    "torch.relu": torch.relu,
    "method": lambda h: h.relu(),
    "method in place": lambda h: h.clone().relu_(),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": lambda h: nn.ReLU(inplace=True)(h + 0),
    "clamp": lambda h: h.clamp(min=0),
    "clamp_min": lambda h: torch.clamp_min(h, 0.0),
    "clip in place": lambda h: h.clone().clip_(0),
    "maximum": lambda h: torch.maximum(h, torch.zeros_like(h)),
    "max of two": lambda h: torch.max(torch.zeros((), dtype=h.dtype), h),
    "F.threshold": lambda h: F.threshold(h, 0.0, 0.0),
    "mask": lambda h: h * (h > 0),
    "mask of its dtype": lambda h: h * (h > 0).to(h.dtype),
    "where": lambda h: torch.where(h > 0, h, torch.zeros_like(h)),
    "where of a number": lambda h: torch.where(h > 0, h, 0.0),
    "masked_fill": masked,
    "F.leaky_relu": lambda h: F.leaky_relu(h, 0.0),
    "F.hardtanh": lambda h: F.hardtanh(h, 0.0, 1e30),
    "written into another": into_empty,
}

ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda h: F.leaky_relu(h, 0.2),
    "prelu": lambda h: F.prelu(h, torch.full((1,), 0.3, dtype=h.dtype)),
    "rrelu": lambda h: F.rrelu(h, training=False),
    "elu": F.elu,
    "selu": F.selu,
    "celu": lambda h: F.celu(h, 0.7),
    "gelu": F.gelu,
    "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
    "softshrink": lambda h: F.softshrink(h, 0.3),
    "hardshrink": lambda h: F.hardshrink(h, 0.3),
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "threshold": lambda h: F.threshold(h, 0.1, 0.1),
    "abs": torch.abs,
    "square": torch.square,
    "pow": lambda h: h**3,
    "exp": torch.exp,
    "log1p": lambda h: torch.log1p(h * h),
    "sqrt": lambda h: (h * h + 1).sqrt(),
    "rsqrt": lambda h: (h * h + 1).rsqrt(),
    "sin": torch.sin,
    "erf": torch.erf,
    "reciprocal": lambda h: (h.exp() + 1).reciprocal(),
    "clamp": lambda h: h.clamp(-0.5, 0.8),
}
