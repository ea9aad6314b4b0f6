"""Slow twins of the class activation maps in plain NumPy, float64, one example at a time, written from the papers.

`z` is an activation [channels, height, width], `g` the gradient of f there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Map = np.ndarray


def relu(map: Map) -> Map:
    return np.where(map > 0, map, 0.0)


def summed(weights: np.ndarray, z: np.ndarray) -> Map:
    """Σ_k w_k z_k, channel by channel."""
    total = np.zeros(z.shape[1:])
    for k in range(len(z)):
        total = total + weights[k] * z[k]
    return total


def gradcam(z: np.ndarray, g: np.ndarray) -> Map:
    return relu(summed(np.array([each.mean() for each in g]), z))


def gradcam_plus_plus(z: np.ndarray, g: np.ndarray) -> Map:
    """Equations 10 and 19 of the paper for Y = exp(f), position by position; the factor exp(f) of w left out."""
    weights = np.zeros(len(z))
    for k in range(len(z)):
        total = z[k].sum()
        for place in np.ndindex(z[k].shape):
            slope = g[k][place]
            below = 2 * slope**2 + total * slope**3
            alpha = slope**2 / below if below != 0 else 0.0
            weights[k] += alpha * max(slope, 0.0)
    return relu(summed(weights, z))


def hirescam(z: np.ndarray, g: np.ndarray) -> Map:
    return sum((g[k] * z[k] for k in range(len(z))), np.zeros(z.shape[1:]))


def xgradcam(z: np.ndarray, g: np.ndarray) -> Map:
    weights = [
        sum(z[k][place] / z[k].sum() * g[k][place] for place in np.ndindex(z[k].shape)) if z[k].any() else 0.0
        for k in range(len(z))
    ]
    return relu(summed(np.array(weights), z))


def layercam(z: np.ndarray, g: np.ndarray) -> Map:
    return relu(sum((relu(g[k]) * z[k] for k in range(len(z))), np.zeros(z.shape[1:])))


def eigencam(z: np.ndarray) -> Map:
    """The activation [positions, channels] times its first right singular vector, signed like the mean channel."""
    flat = z.reshape(len(z), -1).T
    first = np.linalg.svd(flat, full_matrices=False)[2][0]
    map = flat @ first
    return (map if map @ flat.mean(1) > 0 else -map).reshape(z.shape[1:])


def bilinear(map: Map, size: tuple[int, int]) -> Map:
    """The map enlarged: each new pixel's centre between the four nearest old ones, cut off at the borders."""
    result = np.zeros(size)
    for row, column in np.ndindex(size):
        y = min(max((row + 0.5) * map.shape[0] / size[0] - 0.5, 0.0), map.shape[0] - 1.0)
        x = min(max((column + 0.5) * map.shape[1] / size[1] - 0.5, 0.0), map.shape[1] - 1.0)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, map.shape[0] - 1), min(left + 1, map.shape[1] - 1)
        down, across = y - top, x - left
        upper = (1 - across) * map[top, left] + across * map[top, right]
        lower = (1 - across) * map[bottom, left] + across * map[bottom, right]
        result[row, column] = (1 - down) * upper + down * lower
    return result


def scorecam(z: np.ndarray, f: Callable[[np.ndarray], float], x: np.ndarray, start: np.ndarray) -> Map:
    """`x` and the baseline are [channels, height, width], `f` is the model on one of them."""
    scores = {}
    for k in range(len(z)):
        if z[k].max() > z[k].min():
            mask = bilinear((z[k] - z[k].min()) / (z[k].max() - z[k].min()), x.shape[1:])
            scores[k] = f(start + mask * (x - start))
    total = sum(np.exp(score) for score in scores.values())
    return relu(
        summed(np.array([np.exp(scores[k]) / total if k in scores else 0.0 for k in range(len(z))]), z)
    )


def ablationcam(z: np.ndarray, head: Callable[[np.ndarray], float]) -> Map:
    """`head` is the rest of the model, from the activation on."""
    weights = []
    for k in range(len(z)):
        without = z.copy()
        without[k] = 0
        weights.append((head(z) - head(without)) / head(z) if head(z) else 0.0)
    return relu(summed(np.array(weights), z))
