"""JAX's primitives in the words of `program_rules.kinds`, with what the rules need to know of each."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from whence.backends.program_rules.functions import Type

_NAMED: dict[str, str] = {
    name: kind
    for kind, names in {
        "move": "rev slice dynamic_slice dynamic_update_slice pad gather scatter split real imag optimization_barrier "
        "sharding_constraint device_put mesh_cast reshard tile",
        "reshape": "reshape squeeze expand_dims",
        "transpose": "transpose",
        "broadcast": "broadcast_in_dim",
        "convert": "convert_element_type copy copy_p reduce_precision name pvary",
        "concatenate": "concatenate",
        "select": "select_n",
        "add": "add add_any",
        "subtract": "sub",
        "reduce_sum": "reduce_sum",
        "sum": "cumsum scatter-add scatter_add reduce_window_sum fft",
        "negate": "neg",
        "multiply": "mul",
        "divide": "div",
        "dot": "dot_general",
        "convolution": "conv_general_dilated",
        "exp": "exp",
        "log": "log",
        "sqrt": "sqrt",
        "rsqrt": "rsqrt",
        "tanh": "tanh",
        "erf": "erf erfc",
        "elementwise": "exp2 expm1 log1p logistic sin cos tan asin acos atan sinh cosh asinh acosh atanh erf_inv "
        "lgamma digamma polygamma cbrt abs sign floor ceil round integer_pow square pow rem atan2 clamp "
        "bessel_i0e bessel_i1e igamma igammac nextafter",
        "maximum": "max",
        "minimum": "min",
        "reduce_maximum": "reduce_max",
        "reduce_minimum": "reduce_min",
        "window_maximum": "reduce_window_max",
        "power": "reduce_prod cumprod cumlogsumexp scatter-mul scatter-min scatter-max reduce_window_min",
        "order": "sort top_k approx_top_k cummax cummin",
        "stop": "stop_gradient",
        "compare": "eq ne lt le gt ge eq_to lt_to le_to is_finite and or not xor argmax argmin reduce_and reduce_or "
        "population_count clz shift_left shift_right_logical shift_right_arithmetic iota random_bits random_seed "
        "random_wrap random_unwrap random_split random_fold_in threefry2x32 bitcast_convert_type",
    }.items()
    for name in names.split()
}
_AXES = {
    **dict.fromkeys(("reduce_sum", "reduce_maximum", "reduce_minimum"), "axes"),
    "transpose": "permutation",
    "broadcast": "broadcast_dimensions",
}
_PIECEWISE = frozenset(("abs", "sign", "floor", "ceil", "round", "clamp"))
# What may be complex and is still linear.
_LINEAR = frozenset(("move", "reshape", "transpose", "broadcast", "convert", "concatenate", "add", "subtract", "sum",
                     "reduce_sum", "negate", "select", "compare", "stop"))  # fmt: skip
# Functions of jax.nn and jax.numpy that are one operation in PyTorch.
ACTIVATIONS = frozenset(
    ("relu", "relu6", "gelu", "silu", "swish", "softplus", "elu", "selu", "celu", "leaky_relu", "hard_tanh",
     "hard_sigmoid", "hard_silu", "hard_swish", "log_sigmoid", "mish", "squareplus", "sigmoid", "tanh", "sparse_plus",
     "sparse_sigmoid", "clip", "logit", "sinc", "nan_to_num", "i0", "quick_gelu", "logaddexp", "xlogy", "xlog1py")
)  # fmt: skip
PIECEWISE_CALLS = frozenset(
    ("relu", "relu6", "leaky_relu", "hard_tanh", "hard_sigmoid", "clip", "nan_to_num")
)


def described(
    name: str, params: dict[str, Any], taken: list[Type], given: list[Type]
) -> tuple[str, dict[str, Any]]:
    """Return the kind and the settings of a primitive; the kind is "" where it is unknown."""
    kind = _NAMED.get(name, "")
    if any(_is_complex(each) for each in (*taken, *given)) and kind not in _LINEAR:
        return "", {}
    return kind, _settings(name, kind, params, taken)


def _is_complex(kind: Type) -> bool:
    return kind.floating and bool(jnp.issubdtype(kind.dtype, jnp.complexfloating))


def _settings(name: str, kind: str, params: dict[str, Any], taken: list[Type]) -> dict[str, Any]:
    if kind in _AXES:
        return {"axes": tuple(int(axis) for axis in params[_AXES[kind]])}
    if kind == "dot":
        return {"channels": _dot_channels(params, taken)}
    if kind == "convolution":
        numbers = params["dimension_numbers"]
        plain = params["batch_group_count"] == 1
        return {"channels": {1: ((numbers.out_spec[1], numbers.rhs_spec[0]),) if plain else ()}}
    return (
        {"window": True} if name == "reduce_window_sum" else {"piecewise": True} if name in _PIECEWISE else {}
    )


def _dot_channels(params: dict[str, Any], taken: list[Type]) -> dict[int, tuple[tuple[int, int], ...]]:
    """Return, for either operand as the constant one, where its free axes stand in the product."""
    contracted, batched = params["dimension_numbers"]
    count = len(batched[0])
    free = [
        [
            axis
            for axis in range(len(each.shape))
            if axis not in contracted[side] and axis not in batched[side]
        ]
        for side, each in enumerate(taken)
    ]
    first = (count, count + len(free[0]))
    return {
        side: tuple((place, int(axis)) for place, axis in enumerate(batched[side]))
        + tuple((first[side] + place, axis) for place, axis in enumerate(free[side]))
        for side in (0, 1)
    }
