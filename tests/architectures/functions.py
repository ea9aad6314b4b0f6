"""Users' own autograd functions."""

from __future__ import annotations

import torch


class Swish(torch.autograd.Function):
    """x · sigmoid(x), one number at a time."""

    @staticmethod
    def forward(ctx, x):
        gate = torch.sigmoid(x)
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx, g):
        x, gate = ctx.saved_tensors
        return g * gate * (1 + x * (1 - gate))


class CumulativeSoftmax(torch.autograd.Function):
    """The running sum of the softmax over the last axis: every output depends on every input."""

    @staticmethod
    def forward(ctx, x):
        shares = torch.softmax(x, -1)
        ctx.save_for_backward(shares)
        return shares.cumsum(-1)

    @staticmethod
    def backward(ctx, g):
        (shares,) = ctx.saved_tensors
        onward = g.flip(-1).cumsum(-1).flip(-1)
        return shares * (onward - (onward * shares).sum(-1, keepdim=True))
