"""Which family each tensor operation belongs to, and where its operands stand among its arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

aten = torch.ops.aten


def _named(names: str) -> Iterable[Any]:
    """Return the operations that this version of PyTorch has."""
    return [getattr(aten, name) for name in names.split() if hasattr(aten, name)]


_MOVES = """
    alias clone _to_copy view _unsafe_view reshape _reshape_alias _reshape_copy view_as expand expand_as t transpose
    permute squeeze unsqueeze select slice split split_with_sizes unsafe_split unsafe_split_with_sizes unbind chunk
    narrow as_strided diagonal unfold index gather index_select take take_along_dim flip roll repeat cat concat stack
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d where masked_fill masked_select masked_scatter index_put _index_put_impl index_copy index_fill
    scatter slice_scatter select_scatter diagonal_scatter as_strided_scatter copy pixel_shuffle pixel_unshuffle im2col
    tril triu diag diag_embed movedim rot90 channel_shuffle max_unpool2d max_unpool3d lift_fresh zero fill
    embedding _nested_view_from_buffer repeat_interleave set_ contiguous view_as_real
    _pack_padded_sequence
"""
_SUMS = """
    add sub rsub sum mean nansum cumsum avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d mkldnn_adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d
    upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa col2im
    index_add scatter_add trace _embedding_bag _fft_r2c _fft_c2r _fft_c2c
"""
_ACTIVATIONS = """
    hardtanh clamp clamp_min clamp_max threshold leaky_relu elu celu gelu silu mish hardswish hardsigmoid sigmoid tanh
    log_sigmoid_forward softplus softshrink hardshrink rrelu_with_noise _prelu_kernel exp exp2 expm1 log log2 log10
    log1p sqrt rsqrt abs pow sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc erfinv reciprocal floor
    ceil round trunc frac sign sgn logit sinc lgamma digamma i0 nan_to_num square remainder fmod
"""
_NORMS = "native_layer_norm native_group_norm _fused_rms_norm"
_MAXIMA = """
    max_pool1d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d
    max_pool1d_with_indices max_pool2d fractional_max_pool2d amax amin max min maximum minimum fmax fmin
"""
_POWERS = """
    var std var_mean std_mean linalg_vector_norm norm prod cumprod lerp addcmul addcdiv _cdist_forward
    _euclidean_dist atan2 hypot xlogy logaddexp logcumsumexp grid_sampler_2d grid_sampler_3d _weight_norm_interface
    glu cosine_similarity linalg_cross renorm mse_loss smooth_l1_loss huber_loss binary_cross_entropy
    binary_cross_entropy_with_logits nll_loss_forward nll_loss2d_forward kl_div aminmax
    scatter_reduce
"""
_ORDERS = "sort topk kthvalue median nanmedian mode cummax cummin"
# Matrix products, and where their two factors stand; the others add a first argument.
FACTORS: dict[Any, tuple[int, int]] = {
    **dict.fromkeys(_named("mul mm bmm mv dot vdot ger outer"), (0, 1)),
    **dict.fromkeys(_named("addmm baddbmm addmv addbmm addr"), (1, 2)),
}
CONVOLUTIONS = frozenset(_named("convolution _convolution mkldnn_convolution cudnn_convolution"))
BATCH_NORMS: dict[Any, bool] = {
    # Whether there is an argument `training`: a batch's own statistics are a norm.
    **dict.fromkeys(_named("native_batch_norm cudnn_batch_norm miopen_batch_norm"), True),
    **dict.fromkeys(_named("_native_batch_norm_legit_no_training _batch_norm_no_update"), False),
}
_FIXED: dict[Any, str] = {
    **dict.fromkeys(_named(_MOVES), "move"),
    **dict.fromkeys(_named(_SUMS), "sum"),
    **dict.fromkeys(_named("neg native_dropout real view_as_complex"), "scale"),
    **dict.fromkeys(_named(_ACTIVATIONS), "activation"),
    **dict.fromkeys(_named("relu relu6"), "relu"),
    **dict.fromkeys(_named(_NORMS), "norm"),
    **dict.fromkeys(_named("_softmax _safe_softmax softmax"), "softmax"),
    **dict.fromkeys(_named("_log_softmax log_softmax"), "log_softmax"),
    **dict.fromkeys(_named("logsumexp"), "logsumexp"),
    **dict.fromkeys(_named(_MAXIMA), "maximum"),
    **dict.fromkeys(_named(_POWERS), "power"),
    **dict.fromkeys(_named(_ORDERS), "order"),
}
WITH_CONSTANTS = frozenset(_named("maximum minimum fmax fmin"))


def family(kind: Any, arguments: tuple[Any, ...], varying: tuple[bool, ...]) -> str | None:
    """Return the family of one call, or None; `varying` tells of the node's inputs which depend on what is explained.

    `arguments` are the numbers and flags of the call; tensors in it are not looked at.
    """
    special = _SPECIAL.get(kind)
    if special is not None:
        return special(kind, arguments, varying)
    if kind in WITH_CONSTANTS and sum(varying) == 1:
        return "activation"
    if _is_rectifier(kind, arguments):
        return "relu"
    found = _FIXED.get(kind)
    return "power" if found == "activation" and sum(varying) > 1 else found


def _convolution(kind: Any, arguments: tuple[Any, ...], varying: tuple[bool, ...]) -> str:
    return "product" if len(varying) > 1 and varying[1] else "convolution"


def _batch_norm(kind: Any, arguments: tuple[Any, ...], varying: tuple[bool, ...]) -> str:
    return "norm" if BATCH_NORMS[kind] and bool(arguments[5]) else "scale"


def _division(kind: Any, arguments: tuple[Any, ...], varying: tuple[bool, ...]) -> str | None:
    if len(arguments) > 2 and arguments[2] is not None:
        # Rounded: a step function of one operand.
        return "activation" if sum(varying) == 1 else None
    return "quotient" if len(varying) > 1 and varying[1] else "scale"


def _power(kind: Any, arguments: tuple[Any, ...], varying: tuple[bool, ...]) -> str:
    return "power" if len(varying) > 1 and varying[1] and varying[0] else "activation"


def _trilinear(kind: Any, arguments: tuple[Any, ...], varying: tuple[bool, ...]) -> str:
    return "product" if sum(varying) > 1 else "scale"


def _product(kind: Any, arguments: tuple[Any, ...], varying: tuple[bool, ...]) -> str:
    one, two = FACTORS[kind]
    both = len(varying) > two and varying[one] and varying[two]
    if both:
        return "product"
    return "scale" if kind is aten.mul else "dense"


def _is_rectifier(kind: Any, arguments: tuple[Any, ...]) -> bool:
    """Tell whether a call is max(x, 0), however it is spelt, and whether or not it is clipped from above."""
    rest = (*arguments[1:3], None, None)[:2]
    least, most = rest
    if kind in (aten.hardtanh, aten.clamp):
        return _is_zero(least) and (most is None or (isinstance(most, (int, float)) and most > 0))
    if kind is aten.threshold:
        return _is_zero(least) and _is_zero(most)
    return kind in (aten.clamp_min, aten.leaky_relu) and _is_zero(least)


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


_SPECIAL = {
    **dict.fromkeys(FACTORS, _product), **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(BATCH_NORMS, _batch_norm), aten.div: _division, aten.pow: _power, aten._trilinear: _trilinear,
}  # fmt: skip
