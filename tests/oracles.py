"""Slow twins of the engine in plain NumPy, float64, one example at a time, written from the papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Gradient = Callable[[np.ndarray], np.ndarray]
"""Points [n, d] -> gradients [n, d]."""


# ---- integrals along a straight line -----------------------------------------------------------------------


def midpoint_ig(gradient: Gradient, x: np.ndarray, start: np.ndarray, nodes: int = 100_000) -> np.ndarray:
    """Integrated gradients of one example [d] by brute force: the midpoint rule with very many nodes."""
    total = np.zeros_like(x)
    for alpha in np.array_split((np.arange(nodes) + 0.5) / nodes, max(1, nodes // 10_000)):
        total += gradient(start + alpha[:, None] * (x - start)).sum(0)
    return (x - start) * total / nodes


def piecewise_ig(gradient: Gradient, x: np.ndarray, start: np.ndarray, kinks: Sequence[float]) -> np.ndarray:
    """Integrated gradients of one example of a piecewise-linear function, exact: one gradient between two kinks."""
    ends = np.unique(np.concatenate([[0.0], np.clip(kinks, 0, 1), [1.0]]))
    middles, widths = (ends[1:] + ends[:-1]) / 2, np.diff(ends)
    return (x - start) * (widths @ gradient(start + middles[:, None] * (x - start)))


@dataclass(frozen=True)
class ReluNet:
    """Affine operations with ReLUs between them: `weights` are [out, in], `biases` [out]."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    @classmethod
    def random(cls, generator: np.random.Generator, *sizes: int) -> ReluNet:
        """Return a network with normal weights (He's scale) and biases."""
        pairs = list(pairwise(sizes))
        weights = tuple(generator.standard_normal((o, i)) * math.sqrt(2 / i) for i, o in pairs)
        return cls(weights, tuple(generator.standard_normal(o) * 0.3 for _, o in pairs))

    def value(self, points: np.ndarray) -> np.ndarray:
        """Return the outputs [n, classes]."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            points = (points if layer == 0 else np.maximum(points, 0)) @ weight.T + bias
        return points

    def gradient(self, points: np.ndarray, column: int) -> np.ndarray:
        """Return the gradients [n, d] of one output, by hand."""
        gates = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            gates.append(points > 0)
            points = (points if layer == 0 else np.maximum(points, 0)) @ weight.T + bias
        back = np.broadcast_to(self.weights[-1][column], (len(points), self.weights[-1].shape[1]))
        for weight, gate in zip(self.weights[-2::-1], gates[:0:-1], strict=True):
            back = (back * gate) @ weight
        return back

    def kinks(self, x: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return every α in [0, 1] at which a ReLU switches on the straight line from start to x, exactly.

        Between two known kinks every pre-activation of the next layer is affine in α: it crosses zero at most once.
        """
        ends = np.array([0.0, 1.0])
        for depth in range(1, len(self.weights)):
            part = ReluNet(self.weights[:depth], self.biases[:depth])
            values = part.value(start + ends[:, None] * (x - start))
            left, right = values[:-1], values[1:]
            crossing = left * right < 0
            span = np.where(crossing, left - right, 1.0)
            found = ends[:-1, None] + (left / span) * np.diff(ends)[:, None]
            ends = np.unique(np.concatenate([ends, found[crossing]]))
        return ends[1:-1]

    def module(self) -> Any:
        """Return the same network as a float64 torch module."""
        from torch import nn, no_grad, tensor

        layers: list[Any] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            affine = nn.Linear(weight.shape[1], weight.shape[0]).double()
            with no_grad():
                affine.weight.copy_(tensor(weight))
                affine.bias.copy_(tensor(bias))
            layers += [affine, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def integrated(self, x: np.ndarray, start: np.ndarray, column: int) -> np.ndarray:
        """Return the exact integrated gradients of one example."""
        return piecewise_ig(lambda points: self.gradient(points, column), x, start, self.kinks(x, start))


def affine_matrix(operation: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the offset of an affine torch operation on one example of `shape`."""
    import torch

    size = math.prod(shape)
    with torch.no_grad():
        offset = operation(torch.zeros(1, *shape, dtype=torch.float64)).reshape(-1)
        columns = operation(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, -1)
    return (columns - offset).T.numpy(), offset.numpy()


def relative_error(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return ‖A − A*‖₁ / ‖A*‖₁ of every example [B]; 0 where both are all zero."""
    values, truth = (np.asarray(each, dtype=np.float64).reshape(len(each), -1) for each in (values, truth))
    error, size = np.abs(values - truth).sum(1), np.abs(truth).sum(1)
    return np.where(error == 0, 0.0, error / np.where(size == 0, 1.0, size))


# ---- blur ----------------------------------------------------------------------------------------------------


def heat_matrix(size: int, sigma: float) -> np.ndarray:
    """Return exp(σ²/2 · d²/dx²) on a line mirrored at both ends, dense [size, size].

    The second derivative is taken in Fourier space of the line and its mirror image, which is periodic.
    """
    from scipy.linalg import expm

    omega = 2 * np.pi * np.fft.fftfreq(2 * size)
    mirrored = np.concatenate([np.eye(size), np.eye(size)[::-1]])
    second = np.fft.ifft(-(omega[:, None] ** 2) * np.fft.fft(mirrored, axis=0), axis=0).real[:size]
    return expm(sigma**2 / 2 * second)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Return a picture [..., H, W] blurred with SciPy's sampled Gaussian, mirrored at the borders."""
    from scipy.ndimage import gaussian_filter

    width = (0,) * (picture.ndim - 2) + (sigma, sigma)
    return gaussian_filter(picture, width, mode="reflect", truncate=12)


# ---- guided integrated gradients ---------------------------------------------------------------------------


@dataclass
class Walk:
    """The shares [d] of one guided walk and the points [steps + 1, d] it came through."""

    values: np.ndarray
    points: np.ndarray


def guided_walk(
    gradient: Gradient,
    x: np.ndarray,
    start: np.ndarray,
    steps: int,
    fraction: float = 0.25,
    deviation: float = 0.02,
) -> Walk:
    """Follow algorithm 1 of Kapishnikov et al. (2021), with its inner loop, for one example.

    In each round the group is the `fraction` of all features with the smallest |gradient| among those that have not
    reached the far end of their interval.
    """
    here, values, points = start.astype(np.float64).copy(), np.zeros(len(x)), [start.copy()]
    way, size = x - start, max(1, math.ceil(fraction * len(x)))
    total = np.abs(way).sum()
    for step in range(steps):
        slope = gradient(here[None])[0]
        alpha = (step + 1) / steps
        low, high = max(alpha - deviation, 0.0), min(alpha + deviation, 1.0)
        wanted = total * (1 - alpha)
        before = here.copy()
        for i in range(len(x)):
            if abs(here[i] - start[i]) < low * abs(way[i]):
                here[i] = start[i] + low * way[i]
        far = start + high * way if high < 1 else x.copy()
        while np.abs(x - here).sum() > wanted + 1e-13 * max(total, 1):
            open_ = [i for i in range(len(x)) if here[i] != far[i]]
            group = sorted(open_, key=lambda i: abs(slope[i]))[:size]
            reachable = sum(abs(far[i] - here[i]) for i in group)
            share = (np.abs(x - here).sum() - wanted) / reachable
            for i in group:
                here[i] = far[i] if share >= 1 else here[i] + share * (far[i] - here[i])
        values += (here - before) * slope
        points.append(here.copy())
    return Walk(values, np.array(points))


# ---- statistics ----------------------------------------------------------------------------------------------


def error_of_mean(draws: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean over axis 0."""
    return draws.std(0, ddof=1) / math.sqrt(len(draws))


def error_of_variance(draws: np.ndarray) -> np.ndarray:
    """Return the standard error of the variance over axis 0, from the fourth central moment."""
    n = len(draws)
    second, fourth = (((draws - draws.mean(0)) ** power).mean(0) for power in (2, 4))
    return np.sqrt(np.maximum(fourth - second**2 * (n - 3) / (n - 1), 0) / n)
