"""The deconvolution network: all of the output projected back, or the filters of a layer that matter most to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from whence.backends import Ruled
from whence.counts import whole
from whence.errors import BadInput, Refused
from whence.problem import Problem
from whence.registry import Method, register
from whence.rule import Rules
from whence.rule_methods import Function, by_rules, plain
from whence.run import Rows
from whence.shares import Shares
from whence.site import Layer, layer


@register(
    "deconvnet",
    "A = ∂f/∂x with max(g, 0) in place of each ReLU's derivative",
    "Zeiler, Fergus 2014, arXiv:1311.2901",
    needs=("gradient", "relu"),
    title="DeconvNet",
)
@dataclass(frozen=True)
class DeconvNet(Method):
    """The output projected back to the input through the transposed network: every ReLU passes back what is positive.

    Attributes:
        layer: the layer of which only some filters are projected back; None projects all of the output.
        top_k: how many of its filters, each example's own: those with the largest Σ z ⊙ ∂f/∂z over their positions.
    """

    layer: str | None = None
    top_k: int | None = None

    @property
    def slopes(self) -> bool:
        return True

    def __post_init__(self) -> None:
        if (self.layer is None) != (self.top_k is None):
            raise BadInput("deconvnet: layer= and top_k= go together: so many filters of that layer")
        if self.top_k is not None:
            whole(self.top_k, "deconvnet: top_k")

    def rules(self) -> Rules:
        return Rules("deconvolution")

    def attribute(self, problem: Problem) -> Shares:
        if self.layer is None or self.top_k is None:
            return by_rules(problem, self.rules(), plain)
        if problem.site is not None:
            raise BadInput("deconvnet: filters of a layer are projected back to the input; leave at= out")
        if problem.every_class:
            raise Refused('deconvnet: top_k chooses the filters of one target; leave target="all" out')
        return _projected(problem, layer(self.layer), self.top_k)


def _projected(problem: Problem, site: Layer, top_k: int) -> Shares:
    """Return what reaches the input from the chosen filters alone.

    Raises:
        Refused: there is no ReLU, above the layer or below.
    """
    ops, rectified = problem.ops, list[bool]()

    def answer(part: Problem, ruled: Ruled) -> Shares:
        rectified.append(any(each.family == "relu" for each in ruled.met))
        return plain(part, ruled)

    above = replace(problem, site=site)
    above.__dict__["output"] = problem.output
    _, (gradient,) = above.gradient()
    signal = by_rules(above, Rules("deconvolution", required=False), answer).values[0]
    (z,) = above.point
    if top_k > z.shape[1]:
        raise BadInput(f"deconvnet: top_k is {top_k} and {site.name!r} has {z.shape[1]} filters")
    kept = signal * ops.like(_chosen(ops.numpy(ops.wide(z * gradient)), top_k), signal)

    def filters(part: Problem, rows: Rows) -> Function:
        """Return the layer's value weighed by what has arrived at it, one number for each row."""
        chosen, weights = replace(part, site=site), ops.take(kept, rows)
        return lambda x: (ops.wide(chosen.tapped(x)) * weights).reshape(len(rows), -1).sum(1)

    shares = by_rules(problem, Rules("deconvolution", required=False), answer, filters)
    if not any(rectified):
        raise Refused(
            "deconvolution rules change what a ReLU passes back, and between this output and the input there is none; "
            "the answer would be the plain gradient: use saliency"
        )
    # What was projected back is not what is explained; and it took the gradient and the signal before.
    return replace(shares, output=problem.output, evaluations=shares.evaluations + 2)


def _chosen(contributions: np.ndarray, top_k: int) -> np.ndarray:
    """Return 1 for the filters of each example that contribute most, else 0: [n, filters, 1, ...]."""
    totals = contributions.reshape(*contributions.shape[:2], -1).sum(-1)
    order = np.argsort(-totals, axis=1, kind="stable")[:, :top_k]
    mask = np.zeros(totals.shape)
    np.put_along_axis(mask, order, 1.0, axis=1)
    return mask.reshape(*totals.shape, *(1,) * (contributions.ndim - 2))
