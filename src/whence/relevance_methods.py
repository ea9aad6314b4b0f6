"""Layer-wise relevance propagation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whence import composite as composites
from whence.backends import Leaves, Ruled
from whence.composite import LayerRule
from whence.errors import BadInput, Refused, Unpaired
from whence.problem import Problem
from whence.registry import Method, register
from whence.rule import Rules
from whence.rule_methods import Answer, by_rules, passed_back
from whence.shares import Shares, joined, norms, sums
from whence.site import Layer

# Of the output: what may be lost on the way before a note tells of it.
MOST = 0.5
# Times the output: beyond that the shares of both signs say nothing.
EXPLODED = 1_000


@register(
    "lrp",
    "R_i = Σ_j x_i w_ij / (Σ_i x_i w_ij + b_j) · R_j, layer by layer",
    "Bach, Binder, Montavon, Klauschen, Müller, Samek 2015, doi:10.1371/journal.pone.0130140",
    needs=("gradient",),
    title="LRP",
)
@dataclass(frozen=True)
class LRP(Method):
    """The output's relevance, handed from each layer to the one before in proportion to what each unit contributed.

    Shares sum to f(x) but for what biases, ε and operations without a conserving rule keep: that is the residual
    (against a baseline output of 0).

    Attributes:
        composite: which rule each layer takes: a name (epsilon, gamma, alpha_beta, epsilon_plus, epsilon_gamma_box,
            epsilon_alpha2_beta1_flat, attention), one rule of whence.composite for all layers, or a
            whence.composite.Composite of rules by operation, layer name and position.
        account: whether to count, one example at a time, which kinds of operations kept how much relevance: in
            `settings["kept"]`, for each example; with what reached the input it sums to f(x).
    """

    composite: Any = "epsilon"
    account: bool = False

    def __post_init__(self) -> None:
        composites.resolve(self.composite)

    def rules(self) -> Rules:
        return Rules("relevance", composites.resolve(self.composite), account=self.account)

    def attribute(self, problem: Problem) -> Shares:
        rules = self.rules()

        def answer(part: Problem, ruled: Ruled) -> Shares:
            boxes = ruled.boxed
            if len(boxes) > 1:
                raise Refused(
                    "lrp: the layers that the input reaches first have box rules with other bounds each; give one"
                )
            if boxes:
                _bound(part, ruled, boxes[0])
            return _shares(part, ruled)

        run = _accounted if self.account else by_rules
        shares = run(problem, rules, answer)
        _note_kept(problem, shares)
        _note_explosion(problem, shares)
        return shares


def _note_kept(problem: Problem, shares: Shares) -> None:
    """Say so where most of the relevance has not reached the site."""
    if shares.residual is None or shares.output is None:
        return
    size = np.abs(shares.output)
    kept = np.abs(shares.residual) > MOST * size
    if bool((kept & (size > 0)).any()):
        worst = float(np.max(np.abs(shares.residual)[size > 0] / size[size > 0]))
        problem.run.note(
            f"biases and constants on the way keep (or make) up to {worst:.0%} of the output's relevance: shares do "
            "not sum to the output; account=True counts where it went"
        )


def _note_explosion(problem: Problem, shares: Shares) -> None:
    """Say so where relevance of both signs has grown far beyond the output."""
    assert shares.output is not None
    sizes = np.asarray(sum(norms(problem.ops, leaf, shares.output.ndim) for leaf in shares.values))
    if bool((sizes > EXPLODED * np.abs(shares.output)).any()):
        problem.run.note(
            f"relevance has grown to more than {EXPLODED:,} times the output, and cancels: y/x of an activation is "
            "large near 0 where its value there is not 0 (sigmoid gates), and so is 1/z of a layer; do not read "
            "this map. deeplift has no such places"
        )


def _accounted(problem: Problem, rules: Rules, answer: Answer) -> Shares:
    """Explain row by row, so that what was kept is each example's own, and put it into the record."""
    if problem.every_class:
        raise BadInput('lrp: account=True counts one target\'s relevance; leave target="all" out')
    kept: list[dict[str, float]] = []

    def counted(part: Problem, ruled: Ruled) -> Shares:
        shares = answer(part, ruled)
        kept.append(dict(ruled.kept))
        return shares

    parts = [by_rules(problem.part(np.array([row])), rules, counted) for row in range(len(problem.rows))]
    labels = sorted({label for each in kept for label in each})
    problem.run.record["kept"] = {label: [each.get(label, 0.0) for each in kept] for label in labels}
    return joined(problem.ops, parts)


def _shares(problem: Problem, ruled: Ruled) -> Shares:
    ops = problem.ops
    values = tuple(ops.wide(leaf) for leaf in passed_back(problem, ruled))
    output = ops.numpy(ruled.value).astype(np.float64)
    total = sum(sums(ops, leaf, output.ndim) for leaf in values)
    # Of some channels alone there is no sum to check.
    some = isinstance(problem.site, Layer) and problem.site.channels is not None
    return Shares(
        values,
        np.ones(len(problem.rows), dtype=np.int64),
        output=output,
        baseline_output=None if some else np.zeros_like(output),
        residual=None if some else np.asarray(total - output),
    )


def _bound(problem: Problem, ruled: Ruled, rule: LayerRule) -> None:
    """Tell the box rule the inputs' least and largest values: given, those of pixels, or each example's own."""

    def filled(end: str, given: Any) -> Leaves:
        if given is None and problem.run.pictures:
            given = 0.0 if end == "min" else 1.0
        if given is not None:
            native = [
                problem.native(given, leaf) if hasattr(given, "shape") else given for leaf in problem.point
            ]
            return tuple(leaf * 0 + bound for leaf, bound in zip(problem.point, native, strict=True))
        return tuple(_extreme(problem, leaf, end) for leaf in problem.point)

    try:
        ruled.bound(problem.evaluate_all, filled("min", rule.low), filled("max", rule.high))
    except Unpaired as reason:
        raise Refused(
            f"lrp: the box rule cannot be used here: {reason}; take another rule for the first layer"
        ) from None


def _extreme(problem: Problem, leaf: Any, end: str) -> Any:
    values = problem.ops.numpy(leaf)
    flat = values.reshape(len(values), -1)
    found = (flat.min(1) if end == "min" else flat.max(1)).reshape(-1, *(1,) * (values.ndim - 1))
    return leaf * 0 + problem.ops.like(found, leaf)
