"""Slow twins of whole small networks, layer by layer: the rules of `oracles_rules` from the output to the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oracles import affine_matrix
from oracles_rules import (
    Function,
    alpha_beta,
    elementwise,
    epsilon,
    flat,
    gamma,
    max_pool,
    positive,
    winner,
    z_box,
    z_plus,
)


@dataclass(frozen=True)
class Affine:
    """Wx + b; `kind` is convolution, linear, average_pool, batch_norm or reshape."""

    kind: str
    W: np.ndarray
    b: np.ndarray

    def value(self, x: np.ndarray) -> np.ndarray:
        return self.W @ x + self.b


@dataclass(frozen=True)
class Activation:
    """A function of one number, its derivative, and whether it is piecewise linear."""

    f: Function
    derivative: Function
    kinked: bool = False

    def value(self, x: np.ndarray) -> np.ndarray:
        return self.f(x)


@dataclass(frozen=True)
class MaxPool:
    """The maximum over each window [out, in]."""

    windows: np.ndarray

    def value(self, x: np.ndarray) -> np.ndarray:
        return np.where(self.windows, x, -np.inf).max(1)

    def winners(self, x: np.ndarray) -> np.ndarray:
        """Return the matrix [out, in] with a one at each window's first maximum."""
        matrix = np.zeros(self.windows.shape)
        for row, window in zip(matrix, self.windows, strict=True):
            places = np.flatnonzero(window)
            row[places[winner(x[places])]] = 1
        return matrix


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Activation] = {
    "ReLU": Activation(positive, lambda x: 1.0 * (x > 0), True),
    "LeakyReLU": Activation(lambda x: np.where(x > 0, x, 0.01 * x), lambda x: np.where(x > 0, 1, 0.01), True),
    "ReLU6": Activation(lambda x: np.clip(x, 0, 6), lambda x: 1.0 * ((x > 0) & (x < 6)), True),
    "Tanh": Activation(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "Sigmoid": Activation(sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "SiLU": Activation(lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x)))),
    "Softplus": Activation(lambda x: np.logaddexp(x, 0), sigmoid),
}
KINDS = {
    "Conv": "convolution",
    "Linear": "linear",
    "AvgPool": "average_pool",
    "AdaptiveAvgPool": "average_pool",
    "BatchNorm": "batch_norm",
    "Flatten": "reshape",
    "Unflatten": "reshape",
    "Dropout": "reshape",
    "Identity": "reshape",
}
Layer = Affine | Activation | MaxPool
Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(W [out, in], b [out], x [in], R [out]) -> [in]."""


@dataclass(frozen=True)
class Chain:
    """Layers one after the other, on one example as a vector."""

    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, modules: Any, shape: tuple[int, ...]) -> Chain:
        """Return the twin of an nn.Sequential of float64 for one example of `shape` (without the batch)."""
        import torch

        layers: list[Layer] = []
        for module in modules.modules():
            if not any(True for _ in module.children()):
                layers.append(_twin(module, shape))
                with torch.no_grad():
                    shape = tuple(module(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
        return cls(tuple(layers))

    def values(self, x: np.ndarray) -> list[np.ndarray]:
        """Return what each layer takes, and the output."""
        values = [np.asarray(x, dtype=np.float64).reshape(-1)]
        for layer in self.layers:
            values.append(layer.value(values[-1]))
        return values

    def gradient(
        self, x: np.ndarray, start: np.ndarray, rule: Callable[..., np.ndarray] | None = None
    ) -> np.ndarray:
        """Return the gradient of start · output, where `rule(z, g)` stands in for each activation's derivative."""
        g = start
        for layer, z in reversed(list(zip(self.layers, self.values(x)[:-1], strict=True))):
            if isinstance(layer, Affine):
                g = layer.W.T @ g
            elif isinstance(layer, MaxPool):
                g = layer.winners(z).T @ g
            else:
                g = layer.derivative(z) * g if rule is None else rule(z, g)
        return g

    def relevance(
        self, x: np.ndarray, R: np.ndarray, rules: Callable[[str, bool], Rule | None]
    ) -> np.ndarray:
        """Return each input's relevance, from R at the output.

        `rules(kind, first)` says which rule an affine layer takes (None: relevance passes as it is; `first` is the
        first of the kinds convolution and linear). Activations pass relevance, a maximum hands it to its winner.
        """
        weighted = [i for i, layer in enumerate(self.layers) if _kind(layer) in ("convolution", "linear")]
        for i, z in reversed(list(enumerate(self.values(x)[:-1]))):
            layer = self.layers[i]
            if isinstance(layer, MaxPool):
                R = layer.winners(z).T @ R
            elif isinstance(layer, Affine) and layer.kind == "reshape":
                R = layer.W.T @ R
            elif isinstance(layer, Affine):
                rule = rules(layer.kind, i == weighted[0])
                R = R if rule is None else rule(layer.W, layer.b, z, R)
        return R

    def deeplift(self, x: np.ndarray, x0: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return DeepLIFT's shares m · Δx of start · (f(x) − f(x0))."""
        pairs = list(zip(self.layers, self.values(x)[:-1], self.values(x0)[:-1], strict=True))
        m = start
        for layer, z, z0 in reversed(pairs):
            if isinstance(layer, Affine):
                m = layer.W.T @ m
            elif isinstance(layer, MaxPool):
                m = max_pool(m, z, z0, layer.windows)
            else:
                m = elementwise(m, z, z0, layer.f, layer.derivative, layer.kinked)
        return m * (pairs[0][1] - pairs[0][2])

    def folded(self) -> Chain:
        """Return the same function with every batch norm in the affine layer before it."""
        layers: list[Layer] = []
        for layer in self.layers:
            before = layers[-1] if layers else None
            if _kind(layer) == "batch_norm" and isinstance(layer, Affine) and isinstance(before, Affine):
                layers[-1] = replace(before, W=layer.W @ before.W, b=layer.W @ before.b + layer.b)
            else:
                layers.append(layer)
        return Chain(tuple(layers))


def _kind(layer: Layer) -> str:
    return layer.kind if isinstance(layer, Affine) else ""


def _twin(module: Any, shape: tuple[int, ...]) -> Layer:
    name = type(module).__name__
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    matrix, offset = affine_matrix(module, shape)
    if name.startswith("MaxPool"):
        # A one among zeros wins in every window that sees it.
        return MaxPool(matrix > 0)
    for beginning, kind in KINDS.items():
        if name.startswith(beginning):
            return Affine(kind, matrix, offset)
    raise TypeError(f"{name} has no twin")


# ---- composites: which rule goes where ---------------------------------------------------------------------


def everywhere(rule: Rule) -> Callable[[str, bool], Rule | None]:
    """Return the choice of one rule for all that has weights; average pooling by ε, batch norm passes."""
    return lambda kind, first: {"average_pool": epsilon, "batch_norm": None}.get(kind, rule)


def by_kind(
    convolution: Rule, linear: Rule, first_convolution: Rule | None = None, first_linear: Rule | None = None
):
    """Return the choice by kind, with another rule for the first layer where one is given."""

    def choose(kind: str, first: bool) -> Rule | None:
        rules = {"convolution": convolution, "linear": linear, "average_pool": epsilon, "batch_norm": None}
        special = {"convolution": first_convolution, "linear": first_linear}.get(kind) if first else None
        return special or rules[kind]

    return choose


def epsilon_gamma_box(low: Any, high: Any):
    """Return the composite: z-box for the first convolution, γ for the others, ε for what is fully connected."""
    return by_kind(gamma, epsilon, lambda W, b, x, R: z_box(W, b, x, R, low, high))


EPSILON_PLUS = by_kind(z_plus, epsilon)
EPSILON_ALPHA2_BETA1_FLAT = by_kind(alpha_beta, epsilon, flat, flat)
