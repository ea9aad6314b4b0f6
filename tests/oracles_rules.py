"""Slow twins of every backward rule in plain NumPy, float64, one example at a time, from the papers' formulas.

A linear operation is its dense matrix W [out, in] with a bias b [out]; x [in] is what it took, R [out] (relevance) or
g [out] (a gradient, or a multiplier) what comes back to it. Every rule returns what goes on, [in].
The layer-wise rules follow zennit 0.5.1 in what the papers leave open: the stabiliser ε · sign(z) with sign(0) = +1,
the bias in every denominator (so that it absorbs relevance), and the generalised forms for negative inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]


# ---- gradients with another ReLU ---------------------------------------------------------------------------


def guided(z: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Springenberg et al. 2015: what is positive, where the ReLU was on."""
    return np.maximum(g, 0) * (z > 0)


def deconvnet(z: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Zeiler, Fergus 2014: what is positive, wherever it goes."""
    return np.maximum(g, 0)


# ---- layer-wise relevance propagation, linear operations ---------------------------------------------------


def positive(array: np.ndarray) -> np.ndarray:
    return np.maximum(array, 0)


def negative(array: np.ndarray) -> np.ndarray:
    return np.minimum(array, 0)


def stabilised(z: np.ndarray, epsilon: float) -> np.ndarray:
    """Return z moved away from zero by ε, where zero itself counts as positive."""
    return z + epsilon * np.where(z >= 0, 1.0, -1.0)


def epsilon(W, b, x, R, epsilon: float = 1e-6):
    """R_i = x_i Σ_j w_ji R_j / (z_j + ε sign z_j), z = Wx + b (Bach et al. 2015)."""
    return x * (W.T @ (R / stabilised(W @ x + b, epsilon)))


def z_plus(W, b, x, R, stabiliser: float = 1e-6):
    """Hand on the positive contributions alone: x⁺W⁺ + x⁻W⁻, over their sum with b⁺."""
    return _signed(W, b, x, R, positive, stabiliser)


def alpha_beta(W, b, x, R, alpha: float = 2.0, beta: float = 1.0, stabiliser: float = 1e-6):
    """Hand on α times the positive contributions' share and −β times the negative ones' (Bach et al. 2015)."""
    up, down = (_signed(W, b, x, R, sign, stabiliser) for sign in (positive, negative))
    return alpha * up - beta * down


def _signed(W, b, x, R, sign: Function, stabiliser: float):
    contributions = sign(W * x)
    total = contributions.sum(1) + sign(b)
    return contributions.T @ (R / stabilised(total, stabiliser))


def gamma(W, b, x, R, gamma: float = 0.25, stabiliser: float = 1e-6):
    """Favour by γ the contributions of the output's own sign (Montavon et al. 2019; Andéol et al. 2021).

    A positive output hands on wx + γ (wx)⁺, a negative one wx + γ (wx)⁻; each over its sum with b + γ b⁺ or b + γ b⁻.
    Outputs of exactly zero hand on nothing.
    """
    z = W @ x + b
    total = np.zeros_like(x)
    for sign, chosen in ((positive, z > 0), (negative, z < 0)):
        contributions = W * x + gamma * sign(W * x)
        denominator = contributions.sum(1) + b + gamma * sign(b)
        total += contributions.T @ (R * chosen / stabilised(denominator, stabiliser))
    return total


def z_box(W, b, x, R, low, high, stabiliser: float = 1e-6):
    """R_i ∝ x_i w − l_i w⁺ − h_i w⁻ for inputs in [l, h]; the bias cancels itself (Montavon et al. 2017)."""
    contributions = (
        W * x - positive(W) * np.broadcast_to(low, x.shape) - negative(W) * np.broadcast_to(high, x.shape)
    )
    return contributions.T @ (R / stabilised(contributions.sum(1), stabiliser))


def w_square(W, b, x, R, stabiliser: float = 1e-6):
    """R_i ∝ w²; the squared bias is in the denominator (Montavon et al. 2017)."""
    return (W**2).T @ (R / stabilised((W**2).sum(1) + b**2, stabiliser))


def flat(W, b, x, R, stabiliser: float = 1e-6):
    """Share evenly among the inputs that the operation sees (where W is not zero), without the bias."""
    seen = (W != 0).astype(np.float64)
    return seen.T @ (R / stabilised(seen.sum(1), stabiliser))


def absorbed(W, b, x, R, epsilon: float = 1e-6) -> float:
    """Return what the bias and ε keep of the relevance under the ε rule: Σ R (b + ε sign z) / (z + ε sign z)."""
    z = W @ x + b
    return float((R * (b + stabilised(z, epsilon) - z) / stabilised(z, epsilon)).sum())


# ---- layer-wise relevance propagation, attention (Achtibat et al. 2024) ------------------------------------


def attention_matmul(A, B, R, stabiliser: float = 1e-6):
    """Return the relevances of A [m, k] and B [k, n] from that of AB: the ε rule for each, and half for each."""
    ratio = R / stabilised(A @ B, stabiliser) / 2
    return A * (ratio @ B.T), B * (A.T @ ratio)


def attention_softmax(x, R):
    """R_i = x_i (R_i − y_i Σ R): the first-order term at x, with y = softmax(x)."""
    return x * (R - softmax(x) * R.sum())


def attention_layer_norm(x, R, weight, bias, eps: float, stabiliser: float = 1e-6):
    """Apply the ε rule to (x − mean x) w/s + b with the scale s held constant."""
    count = len(x)
    scale = math.sqrt(x.var() + eps)
    return epsilon((np.eye(count) - 1 / count) * (weight / scale)[:, None], bias, x, R, stabiliser)


# ---- DeepLIFT: local rules that keep Σ m Δx = Σ g Δy exact -------------------------------------------------


def elementwise(g, x, x0, f: Function, derivative: Function, kinked: bool = False):
    """m = g Δy/Δx; the derivative where Δx vanishes (for piecewise-linear f: where it is zero)."""
    change = x - x0
    size = 1 + max(np.abs(x).max(), np.abs(x0).max())
    still = np.abs(change) <= (0 if kinked else math.sqrt(2 * np.finfo(np.float64).eps) * size)
    return np.where(still, g * derivative(x), g * (f(x) - f(x0)) / np.where(still, 1, change))


def product(g, a, a0, b, b0):
    """Return the multipliers of both factors of ab: the other one at the midpoint."""
    return g * (b + b0) / 2, g * (a + a0) / 2


def matmul(g, A, A0, B, B0):
    """Return the multipliers of both operands of AB: the other one at the midpoint."""
    return g @ ((B + B0) / 2).T, ((A + A0) / 2).T @ g


def quotient(g, a, a0, b, b0):
    """Return the multipliers of a and b of y = a/b; where b changes sign, by the mean of 1/b."""
    y, y0 = a / b, a0 / b0
    same = b * b0 > 0
    total = np.where(same, b + b0, 1)
    top = np.where(same, 2 * g / total, g * (1 / b + 1 / b0) / 2)
    return top, np.where(same, -g * (y + y0) / total, -g * (a + a0) / (2 * b * b0))


def layer_norm(g, x, x0, weight, eps: float):
    """Return the multiplier of x for y = w (x − mean x)/s, s² = mean (x − mean x)² + ε."""
    c, c0 = x - x.mean(), x0 - x0.mean()
    s, s0 = (math.sqrt((each**2).mean() + eps) for each in (c, c0))
    g, S = g * weight, s + s0
    m = 2 * g / S - (c + c0) / S**2 * (g * (c / s + c0 / s0)).mean()
    return m - m.mean()


def variance(g: float, x, x0, correction: int = 1):
    """Return the multiplier of x for Σ (x − mean x)²/(n − correction): its gradient at the midpoint."""
    middle = (x + x0) / 2
    return g * 2 * (middle - middle.mean()) / (len(x) - correction)


def softmax(x):
    shares = np.exp(x - x.max())
    return shares / shares.sum()


def log_mean(y, y0):
    """Return the logarithmic mean (y − y0)/(ln y − ln y0), y where they are the same."""
    # By y0 (e^d − 1)/d, which does not cancel.
    d = np.log(y) - np.log(y0)
    return np.where(d == 0, y, y0 * np.expm1(d) / np.where(d == 0, 1, d))


def softmax_rule(g, x, x0):
    """m = Λ (g − ΣΛg/ΣΛ), Λ the logarithmic mean of softmax(x) and softmax(x0)."""
    mean = log_mean(softmax(x), softmax(x0))
    return mean * (g - (mean * g).sum() / mean.sum())


def log_softmax_rule(g, x, x0):
    """m = g − Λ Σg/ΣΛ."""
    mean = log_mean(softmax(x), softmax(x0))
    return g - mean * g.sum() / mean.sum()


def logsumexp_rule(g: float, x, x0):
    """m = gΛ/ΣΛ."""
    mean = log_mean(softmax(x), softmax(x0))
    return g * mean / mean.sum()


def winner(values) -> int:
    """Return the first of the largest; what differs by rounding alone is equal."""
    return int(np.argmax(values >= values.max() - 1e-13 * (1 + np.abs(values).max())))


def max_pool(g, x, x0, windows):
    """m += g Δy/Δx at the winner: of x where the maximum rises, of x0 where it falls; `windows` [out, in] is bool."""
    m = np.zeros_like(x)
    for each, window in zip(g, windows, strict=True):
        places = np.flatnonzero(window)
        here, there = places[winner(x[places])], places[winner(x0[places])]
        rise = x[here] - x0[there]
        chosen = here if rise >= 0 else there
        change = x[chosen] - x0[chosen]
        m[chosen] += each * (rise / change if change else 1.0)
    return m


def along_the_line(
    g, x, x0, f: Function, pull: Callable[[np.ndarray, np.ndarray], np.ndarray], nodes: int = 16
):
    """Return the mean of pull(x, g) = gᵀ df/dx over the line, and what misses completeness along Δx."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    m = sum(w / 2 * pull(x0 + (a + 1) / 2 * (x - x0), g) for a, w in zip(at, weights, strict=True))
    change, gap = x - x0, (g * (f(x) - f(x0))).sum()
    length = (change**2).sum()
    return m + change * (gap - (m * change).sum()) / length if length else m
