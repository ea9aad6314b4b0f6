"""The arithmetic of class activation maps: from an activation z and f's gradient g there to a map.

`z` and `g` are [n, channels, positions], of one class, in the accumulator's dtype; maps are [n, positions].
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from whence.backends import Array, Operations

# A channel whose sum is smaller than this much of its absolute sum has cancelled: it gives no weights.
CANCELLED = 1e-6
# A map that goes along with the mean over channels by less than this much of their sizes takes no side.
OPPOSED = 1e-4


def weighted(weights: Array, z: Array) -> Array:
    """Return Σ_k w_k z_k for weights [n, channels]."""
    return (weights[:, :, None] * z).sum(1)


def rectified(maps: Array, relu: bool = True) -> Array:
    """Return max(map, 0), where asked."""
    return maps.clip(0) if relu else maps


def mean_gradient(z: Array, g: Array) -> Array:
    """Σ_k mean(g_k) z_k: Grad-CAM before its ReLU."""
    return weighted(g.mean(-1), z)


def elementwise(z: Array, g: Array) -> Array:
    """Σ_k g_k ⊙ z_k: HiResCAM."""
    return (g * z).sum(1)


def positive_elementwise(z: Array, g: Array) -> Array:
    """Σ_k max(g_k, 0) ⊙ z_k: LayerCAM before its ReLU."""
    return (g.clip(0) * z).sum(1)


def exponential(ops: Operations, z: Array, g: Array) -> Array:
    """Σ_k (Σ α_k max(g_k, 0)) z_k with α = g² / (2 g² + g³ Σ z): Grad-CAM++ before its ReLU.

    For the score exp(f), whose second and third derivatives are exp(f) g² and exp(f) g³ where f is piecewise linear;
    the common factor exp(f) is left out. Only g > 0 counts, where α = 1 / (2 + g Σ z).
    """
    below = 2 + g * z.sum(-1)[:, :, None]
    counts = (g > 0) & (below != 0)
    alpha = ops.where(counts, 1 / ops.where(counts, below, below * 0 + 1), below * 0)
    return weighted((alpha * g.clip(0)).sum(-1), z)


def axiomatic(ops: Operations, z: Array, g: Array) -> Array:
    """Σ_k (Σ z_k g_k / Σ z_k) z_k: XGrad-CAM before its ReLU."""
    total, size = z.sum(-1), abs(z).sum(-1)
    counts = abs(total) > CANCELLED * size
    weights = (z * g).sum(-1) / ops.where(counts, total, total * 0 + 1)
    return weighted(ops.where(counts, weights, weights * 0), z)


def principal(z: Float[np.ndarray, "n channels positions"]) -> Float[np.ndarray, "n positions"]:
    """Return z projected on its first principal direction over channels, zᵀ v₁, one example at a time.

    v₁ is the first right singular vector of zᵀ [positions, channels], not centred; its sign is the one with which the
    map goes along with the mean over channels.
    """
    return np.stack([_principal(each) for each in z.astype(np.float64)])


def _principal(z: Float[np.ndarray, "channels positions"]) -> Float[np.ndarray, " positions"]:
    largest = np.abs(z).max(initial=0.0)
    if largest == 0:
        return np.zeros(z.shape[1])
    scaled = z / largest
    channels, positions = z.shape
    # The smaller of the two Gram matrices has the same first value.
    if positions <= channels:
        values, vectors = np.linalg.eigh(scaled.T @ scaled)
        found = vectors[:, -1] * np.sqrt(max(values[-1], 0.0))
    else:
        found = scaled.T @ np.linalg.eigh(scaled @ scaled.T)[1][:, -1]
    side = float(found @ scaled.mean(0))
    # Where the mean cancels (after a layer norm) rounding would decide: there the largest value is positive.
    if abs(side) <= OPPOSED * float(np.abs(found) @ np.abs(scaled).mean(0)):
        side = found[np.abs(found).argmax()]
    return found * (largest if side > 0 else -largest)


def normalised(
    z: Float[np.ndarray, "n channels positions"],
) -> tuple[Float[np.ndarray, "n channels positions"], Bool[np.ndarray, "n channels"]]:
    """Return every channel moved and scaled into [0, 1], and which vary at all; those that do not are 0."""
    low, high = z.min(-1, keepdims=True), z.max(-1, keepdims=True)
    varies = high > low
    return (z - low) / np.where(varies, high - low, 1.0), varies[:, :, 0]


def softmax(
    scores: Float[np.ndarray, "n channels *K"], counts: Bool[np.ndarray, "n channels"]
) -> Float[np.ndarray, "n channels *K"]:
    """Return the softmax over the channels that count [n, channels]; 0 for the others."""
    shown = np.where(counts.reshape(*counts.shape, *(1,) * (scores.ndim - 2)), scores, -np.inf)
    most = shown.max(1, keepdims=True)
    weights = np.exp(shown - np.where(np.isfinite(most), most, 0.0))
    total = weights.sum(1, keepdims=True)
    return weights / np.where(total == 0, 1.0, total)
