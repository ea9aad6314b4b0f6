"""Small nasty models, of one difficulty each."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .base import Architecture, architecture, rows, settled, token_ids
from .functions import CumulativeSoftmax, Swish


class Between(nn.Module):
    """A function between two linear layers: [B, 6] -> [B, 3], with `inner` units before it and `outer` after."""

    def __init__(self, function, inner=8, outer=8):
        super().__init__()
        self.first, self.last = nn.Linear(6, inner), nn.Linear(outer, 3)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


class Reused(nn.Module):
    """One ReLU, called three times."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)])
        self.last, self.relu = nn.Linear(8, 3), nn.ReLU()

    def forward(self, x):
        for layer in self.layers:
            x = self.relu(layer(x))
        return self.last(x)


class Shared(nn.Module):
    """One linear layer, applied three times, as in a recurrent network."""

    def __init__(self):
        super().__init__()
        self.first, self.step, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.first(x)
        for _ in range(3):
            h = torch.tanh(self.step(h)) + h
        return self.last(h)


class Branches(nn.Module):
    """Two networks whose answers are multiplied."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.left(x).relu() * torch.tanh(self.right(x)))


class MultiQuery(nn.Module):
    """Attention by einsum: a query for each head, one key and one value for all."""

    def __init__(self, width=6, heads=2):
        super().__init__()
        self.query = nn.Parameter(torch.randn(heads, width, 4) * 0.5)
        self.key, self.value = nn.Linear(width, 4), nn.Linear(width, 4)
        self.out = nn.Linear(heads * 4, 3)

    def forward(self, x):
        q = torch.einsum("btd,hdk->bhtk", x, self.query)
        scores = torch.einsum("bhtk,bsk->bhts", q, self.key(x)) / 2
        mixed = torch.einsum("bhts,bsk->bthk", scores.softmax(-1), self.value(x))
        return self.out(mixed.flatten(2)).mean(1)


class Causal(nn.Module):
    """Attention by hand and by the fused function, masked to the past, with a mask of minus infinity."""

    def __init__(self, width=6):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        future = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).triu(1)
        weights = (
            (q @ k.transpose(-2, -1) / q.size(-1) ** 0.5).masked_fill(future, float("-inf")).softmax(dim=-1)
        )
        by_hand = torch.bmm(weights, v)
        fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out((by_hand + fused)[:, -1])


class Words(nn.Module):
    """Whole numbers in: their embeddings' mean."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 6, padding_idx=0)
        self.hidden, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.last(F.gelu(self.hidden(self.embedding(ids).mean(dim=1))))


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 6, num_layers=2, batch_first=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        output, _ = self.gru(x)
        return self.fc(output[:, -1, :])


class Cells(nn.Module):
    """A loop over time by hand."""

    def __init__(self):
        super().__init__()
        self.cell, self.fc = nn.LSTMCell(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = c = x.new_zeros(x.size(0), 6)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.fc(h)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU())
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(checkpoint(self.body, x, use_reentrant=False))


class Unrolled(nn.Module):
    """The weights of a convolution depend on the input."""

    def __init__(self):
        super().__init__()
        self.kernel, self.last = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        kernels = self.kernel(x)[:, None]
        mixed = F.conv1d(x[None], kernels, padding=1, groups=x.size(0))
        return self.last(mixed[0])


def slice_in_place(h):
    h[:, :3].relu_()
    return h


def column_written(h):
    h[:, 0] = torch.tanh(h[:, 1])
    return h


def constant_norm(h):
    return h / h.detach().norm(dim=1, keepdim=True)


def scale_without_gradient(h):
    with torch.no_grad():
        scale = h.abs().amax(dim=1, keepdim=True)
    return h.div(scale + 1)


def one_row_at_a_time(h):
    return torch.stack([row.relu() if row.sum() > 0 else row.tanh() for row in h])


def batch_decides(h):
    return torch.relu(h) if bool((h.sum(1) > -1e9).all()) else h


def early_exit(h):
    for _ in range(3):
        h = torch.tanh(h) * 2
        if h.abs().max() < 1e-9:
            break
    return h


def norm_layers(norm):
    """Return a network of one-dimensional pictures around a norm of four channels."""
    return nn.Sequential(nn.Conv1d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def overlapping_pool():
    """One max-pool whose windows share their winner; the output is the sum of its three maxima."""
    model = nn.Sequential(nn.MaxPool1d(2, 1), nn.Flatten(), nn.Linear(3, 1, bias=False))
    nn.init.ones_(model[2].weight)
    return model


def pool_rows(batch, dtype):
    """Return [1, 5, 1, 2] first, then others."""
    first = torch.tensor([[[1.0, 5.0, 1.0, 2.0]]], dtype=dtype)
    return torch.cat([first, rows(batch, dtype, (1, 4))[1:]])


def scripted():
    """A network that has been compiled by TorchScript, which shows no operations of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))


def between(name, function, why, inner=8, outer=8):
    return architecture(name, lambda: Between(function, inner, outer), (6,), why=why)


def widened(*parts):
    """Return the statistics of each row, repeated to the width of the last layer."""
    return torch.stack([part for part in parts for _ in range(8 // len(parts))], 1)


AWKWARD = (
    architecture("reused_relu", Reused, (6,), why="one module, three calls"),
    architecture("shared_linear", Shared, (6,), why="one weight, three uses"),
    between("relu_plus_itself", lambda h: F.relu(h) + h, "a tensor goes through a ReLU and past it"),
    between("relu_of_a_sum_in_place", lambda h: (h + h.tanh()).relu_(), "in place on a sum"),
    architecture(
        "softmax_output", lambda: nn.Sequential(*mlp_layers(), nn.Softmax(dim=1)), (6,), why="probabilities"
    ),
    architecture("log_softmax_output", lambda: nn.Sequential(*mlp_layers(), nn.LogSoftmax(dim=-1)), (6,)),
    between("mask", lambda h: h * (h > 0), "a ReLU written as a product"),
    between("maximum", lambda h: torch.maximum(h, torch.zeros_like(h)), "a ReLU of two arguments"),
    between("maximum_of_two", lambda h: torch.maximum(h[:, :4], h[:, 4:]), "maxout", outer=4),
    between("clamp", lambda h: h.clamp(min=0), "a ReLU by another name"),
    between("threshold", lambda h: F.threshold(h, 0.1, 0.1), "a ReLU with a kink elsewhere"),
    between(
        "jump", lambda h: F.threshold(h, 0.2, -1.0), "a step: values change and the gradient does not say so"
    ),
    between("where_leaky", lambda h: torch.where(h > 0, h, 0.1 * h), "a leaky ReLU of two branches"),
    architecture("prelu", lambda: nn.Sequential(nn.Linear(6, 8), prelu(), nn.Linear(8, 3)), (6,)),
    between("slice_in_place", slice_in_place, "in place on a view: three of eight units are rectified"),
    between("column_written", column_written, "one column is overwritten by a function of another"),
    Architecture(
        "overlapping_pool", lambda: settled("pool", overlapping_pool), pool_rows, why="shared winners"
    ),
    architecture("gru", Gru, (4, 5)),
    architecture("lstm_cells", Cells, (4, 5), why="a loop over time"),
    architecture("multi_query", MultiQuery, (4, 6), why="attention as einsum"),
    architecture("causal", Causal, (4, 6), why="minus infinity in the scores; fused attention"),
    architecture("group_norm", lambda: norm_layers(nn.GroupNorm(2, 4)), (2, 6)),
    architecture("instance_norm", lambda: norm_layers(nn.InstanceNorm1d(4, affine=True)), (2, 6)),
    between("custom_elementwise", Swish.apply, "an autograd.Function, one number at a time"),
    between("custom_mixing", CumulativeSoftmax.apply, "an autograd.Function that mixes numbers"),
    architecture("scripted", scripted, (6,), why="operations that nobody sees"),
    architecture("checkpointed", Checkpointed, (6,), why="the graph is made on the way back"),
    between("constant_norm", constant_norm, "a value that varies, but not for the gradient"),
    between("scale_without_gradient", scale_without_gradient, "a value made under no_grad"),
    between("logsumexp_pool", lambda h: widened(h.logsumexp(1), h[:, :4].logsumexp(-1)), "a soft maximum"),
    between(
        "spread", lambda h: widened(h.std(1), h.var(dim=1, unbiased=False)), "standard deviation and variance"
    ),
    between("quotient", lambda h: h / (1 + h.abs()), "softsign by hand"),
    between("quotient_of_two", lambda h: h[:, :4] / (2 + torch.tanh(h[:, 4:])), "both sides vary", outer=4),
    architecture("product", Branches, (6,), why="a product of two that vary"),
    architecture("varying_kernel", Unrolled, (6,), why="a convolution with weights from the input"),
    Architecture(
        "embedding", lambda: settled("embedding", Words), token_ids, "embedding", "ids have no gradient"
    ),
    between("sorted", lambda h: torch.sort(h, dim=1).values, "which number is where depends on the input"),
    between("top_k", lambda h: h.topk(3, dim=1).values, "three of eight", outer=3),
    between("row_branch", one_row_at_a_time, "each row chooses its own way"),
    between("batch_branch", batch_decides, "the batch chooses the way; always the same one"),
    between("early_exit", early_exit, "a loop that may stop early"),
    between(
        "cumulative", lambda h: torch.cumsum(h.relu(), 1).roll(1, 1).flip(1), "linear, but seldom listed"
    ),
    between(
        "complex_spectrum", lambda h: torch.fft.rfft(h, dim=1).abs(), "complex numbers on the way", outer=5
    ),
)


def mlp_layers():
    return nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)


def prelu():
    layer = nn.PReLU(8)
    nn.init.uniform_(layer.weight, 0.05, 0.5)
    return layer
