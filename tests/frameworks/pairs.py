"""Small networks written in PyTorch and in JAX as functions of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from jax import lax

ROWS = 3


@dataclass(frozen=True)
class Pair:
    """f in both frameworks, [n, ...] -> [n, 3], and its inputs."""

    in_torch: Callable[[torch.Tensor], torch.Tensor]
    in_jax: Callable[[jax.Array], jax.Array]
    x: np.ndarray
    reference: np.ndarray


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


W1, B1 = numbers(1, 8, 6), numbers(2, 8)
W2, B2 = numbers(3, 3, 8), numbers(4, 3)
DIGITS = numbers(7, ROWS, 2, 7, 7)
KERNEL, BIAS, KERNEL2 = numbers(8, 4, 2, 3, 3) / 2, numbers(9, 4), numbers(10, 6, 2, 3, 3) / 2
MEAN, VARIANCE, SCALE, SHIFT = numbers(11, 4), np.exp(numbers(12, 4)), numbers(13, 4), numbers(14, 4)
TOKENS = numbers(15, ROWS, 5, 8)
HEAD, BACK = numbers(16, 3, 4) / 2, numbers(17, 4, 3, 2, 2) / 2


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


def between(in_torch: Any, in_jax: Any, width: int = 8) -> Pair:
    """A function between two linear layers."""
    last = numbers(3, 3, width)
    return Pair(
        lambda x: F.linear(in_torch(F.linear(x, t(W1), t(B1))), t(last), t(B2)),
        lambda x: in_jax(x @ W1.T + B1) @ last.T + B2,
        numbers(5, ROWS, 6),
        numbers(6, ROWS, 6),
    )


# ---- one function of one element -----------------------------------------------------------------------------------

ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "relu": (F.relu, jax.nn.relu),
    "maximum": (lambda z: torch.clamp(z, min=0), lambda z: jnp.maximum(z, 0)),
    "chosen": (lambda z: torch.where(z > 0, z, 0.0), lambda z: jnp.where(z > 0, z, 0.0)),
    "masked": (lambda z: z * (z > 0), lambda z: z * (z > 0)),
    "relu6": (lambda z: F.relu6(4 * z), lambda z: jax.nn.relu6(4 * z)),
    "clip": (lambda z: torch.clamp(4 * z, 0, 6), lambda z: jnp.clip(4 * z, 0, 6)),
    "leaky_relu": (F.leaky_relu, jax.nn.leaky_relu),
    "gelu": (F.gelu, lambda z: jax.nn.gelu(z, approximate=False)),
    "gelu_tanh": (lambda z: F.gelu(z, approximate="tanh"), jax.nn.gelu),
    "silu": (F.silu, jax.nn.silu),
    "softplus": (F.softplus, jax.nn.softplus),
    "elu": (F.elu, jax.nn.elu),
    "selu": (F.selu, jax.nn.selu),
    "celu": (lambda z: F.celu(z, 1.5), lambda z: jax.nn.celu(z, 1.5)),
    "hard_tanh": (F.hardtanh, jax.nn.hard_tanh),
    "hard_sigmoid": (F.hardsigmoid, jax.nn.hard_sigmoid),
    "hard_swish": (F.hardswish, jax.nn.hard_swish),
    "log_sigmoid": (F.logsigmoid, jax.nn.log_sigmoid),
    "mish": (F.mish, jax.nn.mish),
    "sigmoid": (torch.sigmoid, jax.nn.sigmoid),
    "tanh": (torch.tanh, jnp.tanh),
    "exp": (torch.exp, jnp.exp),
    "square": (torch.square, jnp.square),
    "abs": (torch.abs, jnp.abs),
    "log1p": (lambda z: torch.log1p(z * z), lambda z: jnp.log1p(z * z)),
    "softsign": (F.softsign, lambda z: z / (jnp.abs(z) + 1)),
    "cube": (lambda z: z**3, lambda z: z**3),
}

# ---- several elements ------------------------------------------------------------------------------------------------


def layer_norm(z: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    mean = z.mean(-1, keepdims=True)
    return (z - mean) / jnp.sqrt(z.var(-1, keepdims=True) + epsilon)


def fast_norm(z: jax.Array) -> jax.Array:
    mean = z.mean(-1, keepdims=True)
    variance = jnp.maximum((z * z).mean(-1, keepdims=True) - mean**2, 0)
    inverse = lax.rsqrt(variance + 1e-5)
    return z * inverse - mean * inverse


def group_norm(z: jax.Array) -> jax.Array:
    grouped = z.reshape(z.shape[0], 2, -1)
    return layer_norm(grouped).reshape(z.shape)


def rms(z: jax.Array) -> jax.Array:
    return z * lax.rsqrt((z * z).mean(-1, keepdims=True) + 1e-5)


def torch_rms(z: torch.Tensor) -> torch.Tensor:
    return z * torch.rsqrt((z * z).mean(-1, keepdim=True) + 1e-5)


SEVERAL: dict[str, tuple[Any, Any]] = {
    "layer_norm": (lambda z: F.layer_norm(z, (8,)), layer_norm),
    "layer_norm_fast": (lambda z: F.layer_norm(z, (8,)), fast_norm),
    "standardize": (
        lambda z: F.layer_norm(z, (8,), eps=1e-3),
        lambda z: jax.nn.standardize(z, epsilon=1e-3),
    ),
    "layer_norm_affine": (
        lambda z: F.layer_norm(z, (8,), t(B1), t(W1[:, 0].copy())),
        lambda z: layer_norm(z) * B1 + W1[:, 0],
    ),
    "group_norm": (lambda z: F.group_norm(z, 2), group_norm),
    "rms": (torch_rms, rms),
    "softmax": (lambda z: F.softmax(z, -1), jax.nn.softmax),
    "softmax_written": (lambda z: F.softmax(z, -1), lambda z: jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True)),
    "log_softmax": (lambda z: F.log_softmax(z, -1), jax.nn.log_softmax),
    "logsumexp": (
        lambda z: torch.logsumexp(z, -1, keepdim=True) * t(B1),
        lambda z: jax.nn.logsumexp(z, -1, keepdims=True) * B1,
    ),
    "gate": (lambda z: z * torch.sigmoid(z.flip(-1)), lambda z: z * jax.nn.sigmoid(z[:, ::-1])),
    "swish_written": (lambda z: z * torch.sigmoid(z), lambda z: z * jax.nn.sigmoid(z)),
    "quotient": (lambda z: z / (2 + torch.cos(z.flip(-1))), lambda z: z / (2 + jnp.cos(z[:, ::-1]))),
    "outer": (
        lambda z: torch.einsum("ni,nj->nij", z, z).sum(1),
        lambda z: jnp.einsum("ni,nj->nij", z, z).sum(1),
    ),
    "amax": (lambda z: z.amax(-1, keepdim=True) * t(B1), lambda z: z.max(-1, keepdims=True) * B1),
    "amin": (lambda z: z.amin(-1, keepdim=True) * t(B1), lambda z: z.min(-1, keepdims=True) * B1),
    "of_two": (lambda z: torch.maximum(z, z.flip(-1)), lambda z: jnp.maximum(z, z[:, ::-1])),
    "least_of_two": (lambda z: torch.minimum(z, z.flip(-1)), lambda z: jnp.minimum(z, z[:, ::-1])),
    "variance": (
        lambda z: z.var(-1, keepdim=True, correction=0) * t(B1),
        lambda z: z.var(-1, keepdims=True) * B1,
    ),
    "sorted": (lambda z: torch.sort(z, -1)[0], lambda z: jnp.sort(z, -1)),
    "cumsum": (lambda z: torch.cumsum(z, -1), lambda z: jnp.cumsum(z, -1)),
    "joined": (
        lambda z: torch.cat([z[:, 4:], F.relu(z[:, :4])], 1),
        lambda z: jnp.concatenate([z[:, 4:], jax.nn.relu(z[:, :4])], 1),
    ),
    "residual": (lambda z: z + F.relu(z) - 0.5 * z, lambda z: z + jax.nn.relu(z) - 0.5 * z),
    "stopped": (
        lambda z: F.relu(z) * z.detach().sigmoid(),
        lambda z: jax.nn.relu(z) * jax.nn.sigmoid(lax.stop_gradient(z)),
    ),
}

# ---- pictures --------------------------------------------------------------------------------------------------------


def conv(x: jax.Array, kernel: np.ndarray, **settings: Any) -> jax.Array:
    fields: dict[str, Any] = {"window_strides": (1, 1), "padding": "VALID", **settings}
    return lax.conv_general_dilated(
        x, jnp.asarray(kernel), dimension_numbers=("NCHW", "OIHW", "NCHW"), **fields
    )


def channels(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def normed(z: jax.Array) -> jax.Array:
    inverse = lax.rsqrt(jnp.asarray(VARIANCE) + 1e-5) * SCALE
    return (z - channels(MEAN)) * channels(inverse) + channels(SHIFT)


def normed_at_once(z: jax.Array) -> jax.Array:
    inverse = SCALE / jnp.sqrt(jnp.asarray(VARIANCE) + 1e-5)
    return z * channels(inverse) + channels(SHIFT - MEAN * inverse)


def torch_normed(z: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(z, t(MEAN), t(VARIANCE), t(SCALE), t(SHIFT))


def pooled(z: jax.Array, window: int, stride: int) -> jax.Array:
    return lax.reduce_window(z, -jnp.inf, lax.max, (1, 1, window, window), (1, 1, stride, stride), "VALID")


def averaged(z: jax.Array) -> jax.Array:
    return lax.reduce_window(z, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 1, 1), "VALID") / 4


def picture(in_torch: Any, in_jax: Any) -> Pair:
    return Pair(in_torch, in_jax, DIGITS, numbers(20, *DIGITS.shape))


def _cnn(x: torch.Tensor) -> torch.Tensor:
    z = F.relu(torch_normed(F.conv2d(x, t(KERNEL), t(BIAS), padding=1)))
    z = F.avg_pool2d(F.max_pool2d(z, 3, 2), 2, 1)
    return F.linear(z.mean((2, 3)), t(HEAD), t(B2))


def _cnn_jax(norm: Any) -> Any:
    def cnn(x: jax.Array) -> jax.Array:
        z = jax.nn.relu(norm(conv(x, KERNEL, padding=((1, 1), (1, 1))) + channels(BIAS)))
        return averaged(pooled(z, 3, 2)).mean((2, 3)) @ HEAD.T + B2

    return cnn


def _strides(x: torch.Tensor) -> torch.Tensor:
    z = F.relu(F.conv2d(x, t(KERNEL[:, :1].copy()), t(BIAS), stride=2, groups=2))
    return F.conv_transpose2d(z, t(BACK), t(B2)).sum((2, 3))


def _strides_jax(x: jax.Array) -> jax.Array:
    z = conv(x, KERNEL[:, :1], window_strides=(2, 2), feature_group_count=2) + channels(BIAS)
    kernel = BACK.swapaxes(0, 1)[:, :, ::-1, ::-1]
    z = conv(jax.nn.relu(z), kernel, padding=((1, 1), (1, 1)), lhs_dilation=(1, 1))
    return (z + channels(B2)).sum((2, 3))


def _excited(x: torch.Tensor) -> torch.Tensor:
    z = F.conv2d(x, t(KERNEL))
    gates = torch.sigmoid(z.mean((2, 3)) @ t(W1[:4, :4].copy()))
    return F.linear((z * gates[:, :, None, None]).amax((2, 3)), t(HEAD))


def _excited_jax(x: jax.Array) -> jax.Array:
    z = conv(x, KERNEL)
    gates = jax.nn.sigmoid(z.mean((2, 3)) @ W1[:4, :4])
    return (z * gates[:, :, None, None]).max((2, 3)) @ HEAD.T


PICTURES = {
    "cnn": picture(_cnn, _cnn_jax(normed)),
    "cnn_at_once": picture(_cnn, _cnn_jax(normed_at_once)),
    "strides": picture(_strides, _strides_jax),
    "excited": picture(_excited, _excited_jax),
}

# ---- sequences -------------------------------------------------------------------------------------------------------


@cache
def cell() -> torch.nn.LSTM:
    torch.manual_seed(0)
    return torch.nn.LSTM(8, 4, batch_first=True).double()


def _lstm(x: torch.Tensor) -> torch.Tensor:
    return F.linear(cell()(x)[0][:, -1], t(HEAD), t(B2))


def _lstm_jax(x: jax.Array) -> jax.Array:
    w, u, b, c = (each.detach().numpy() for each in cell().parameters())

    def step(carry: Any, row: jax.Array) -> Any:
        hidden, memory = carry
        i, f, g, o = jnp.split(row @ w.T + b + (hidden @ u.T + c), 4, -1)
        memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(memory)
        return (hidden, memory), hidden

    start = jnp.zeros((x.shape[0], 4), x.dtype)
    _, rows = lax.scan(step, (start, start), x.swapaxes(0, 1))
    return rows[-1] @ HEAD.T + B2


@cache
def encoder() -> torch.nn.TransformerEncoderLayer:
    torch.manual_seed(1)
    return torch.nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    ).eval()


def _encoder(x: torch.Tensor) -> torch.Tensor:
    return encoder()(x).mean(1)[:, :3]


def _encoder_jax(x: jax.Array) -> jax.Array:
    w = {name: each.detach().numpy() for name, each in encoder().named_parameters()}

    def norm(z: jax.Array, name: str) -> jax.Array:
        return layer_norm(z) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(z: jax.Array, name: str) -> jax.Array:
        return z @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def heads(z: jax.Array) -> jax.Array:
        return z.reshape(z.shape[0], -1, 2, 4)

    z = norm(x, "norm1")
    joined = z @ w["self_attn.in_proj_weight"].T + w["self_attn.in_proj_bias"]
    query, key, value = (heads(each) for each in jnp.split(joined, 3, -1))
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", query, key) / 2, -1)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", weights, value).reshape(z.shape)
    x = x + dense(mixed, "self_attn.out_proj")
    x = x + dense(jax.nn.gelu(dense(norm(x, "norm2"), "linear1"), approximate=False), "linear2")
    return x.mean(1)[:, :3]


SEQUENCES = {
    "lstm": Pair(_lstm, _lstm_jax, TOKENS, numbers(21, *TOKENS.shape)),
    "encoder": Pair(_encoder, _encoder_jax, TOKENS, numbers(21, *TOKENS.shape)),
}

PAIRS: dict[str, Pair] = {
    **{name: between(*both) for name, both in {**ACTIVATIONS, **SEVERAL}.items()},
    **PICTURES,
    **SEQUENCES,
}
