"""Layer-wise relevance propagation: relevance R, or its density q = R/value, travels back from step to step.

The density passes every linear step as a gradient does, so that only few steps need a rule: before a layer it is damped
by |z|/(|z| + ε), at an activation it becomes q y/x. Relevance itself travels below layers whose rule gives some to
inputs that are zero (box, w_squared, flat); both may arrive at one array, and are brought to the same there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from whence.backends.arrays import Array
from whence.backends.program_rules import layer_rules, local_axes
from whence.backends.program_rules.account import EPSILON, Account, label_of
from whence.backends.program_rules.functions import Functions, divided, summed
from whence.backends.program_rules.layer_rules import Bounds, damped, ratio
from whence.backends.program_rules.layers import Layer, Linear, layers
from whence.backends.program_rules.program import Program, Step, Values
from whence.backends.program_rules.walk import Arrived, Extras, Passed, derivative, walk
from whence.composite import LayerRule
from whence.errors import Refused
from whence.rule import NOT_CONSERVING, UNCONSERVED, Rules

# Below these relevance travels, and no density of it.
_RELEVANT = ("box", "w_squared", "flat")
_APART = ("add", "subtract")
_PASSING = ("move", "maximum", "scale", "relu", "activation", "cell")
_BENT = ("relu", "activation", "cell")


class Relevance:
    """What is known of a program before there are values: its layers, and where relevance itself arrives."""

    def __init__(self, program: Program, rules: Rules) -> None:
        self.program, self.rules = program, rules
        self.layers = layers(program, rules.composite)
        self.flagged = self._flagged()
        self.notes = [UNCONSERVED] if any(step.family in NOT_CONSERVING for step in program.met) else []

    @property
    def boxed(self) -> list[LayerRule]:
        """The box rules of the layers that the input reaches before any other.

        Raises:
            Refused: a box rule without bounds of its own stands further up.
        """
        found = [each for each in self.layers.values() if each.rule.kind == "box"]
        for each in found:
            if not each.is_first and (each.rule.low is None or each.rule.high is None):
                raise Refused(
                    "lrp: a box rule above the first layer needs the bounds of that layer's input: low, high"
                )
        return list(dict.fromkeys(each.rule for each in found if each.is_first))

    @cached_property
    def bounded(self) -> list[int]:
        """The variables whose bounds are asked for: what the first layers take."""
        return list(dict.fromkeys(each.operand for each in self.layers.values() if each.is_first))

    def _flagged(self) -> frozenset[int]:
        """Return the variables at which relevance itself arrives."""
        flagged: set[int] = set()
        for step in self.program.met:
            if self._emits(step, flagged):
                flagged.update(step.inputs[position] for position in step.moving)
        return frozenset(flagged)

    def _emits(self, step: Step, flagged: set[int] | frozenset[int]) -> bool:
        layer = self.layers.get(step.outputs[0])
        if layer is not None:
            return layer.rule.kind in _RELEVANT
        return _passes(step) and any(each in flagged for each in step.outputs)

    def back(
        self, functions: Functions, values: Values, bounds: Mapping[int, Bounds], start: Array
    ) -> tuple[tuple[Array | None, ...], Extras]:
        """Return the relevance of the leaves."""
        extras = Extras()
        way = _Way(self, functions, values, bounds, extras)
        found = walk(self.program, start, way.rule)
        pairs = zip(self.program.leaves, found, strict=True)
        return tuple(
            each if each is None or leaf in self.flagged else each * values[leaf] for leaf, each in pairs
        ), extras

    def emits(self, step: Step) -> bool:
        """Tell whether a step passes back relevance itself."""
        return self._emits(step, self.flagged)


class _Way:
    """One way back, with values."""

    def __init__(
        self,
        plan: Relevance,
        functions: Functions,
        values: Values,
        bounds: Mapping[int, Bounds],
        extras: Extras,
    ) -> None:
        self._plan, self._functions, self._values, self._bounds = plan, functions, values, bounds
        self._account = Account(functions, values, plan.flagged, extras) if plan.rules.account else None

    def rule(self, step: Step, arrived: Arrived) -> Passed:
        """Return what a step passes back: relevance where the variable is flagged, else its density."""
        plan, layer = self._plan, self._plan.layers.get(step.outputs[0])
        flagged = any(each in plan.flagged for each in step.outputs)
        damps = layer is not None and layer.rule.kind == "epsilon"
        label = label_of(step, layer is not None and not damps)
        if self._account is not None:
            self._account.take(step, arrived, EPSILON if damps else label)
        if layer is not None:
            passed = self._layer(layer, arrived, flagged, label)
        elif flagged and _passes(step):
            passed = self._unchanged(step, arrived)
        else:
            passed = self._other(step, self._densities(step, arrived) if flagged else arrived)
        if not plan.emits(step):
            passed = self._converted(step, passed)
        if self._account is not None:
            self._account.give(step, passed, label)
        return passed

    def _converted(self, step: Step, passed: Passed) -> Passed:
        """Make relevance of the density where it meets relevance."""
        variables = {position: step.inputs[position] for position in passed}
        return {
            position: each * self._values[variables[position]]
            if variables[position] in self._plan.flagged
            else each
            for position, each in passed.items()
        }

    def _densities(self, step: Step, arrived: Arrived) -> Arrived:
        return [
            None if each is None else ratio(self._functions, each, self._values[variable], 1e-6)
            for variable, each in zip(step.outputs, arrived, strict=True)
        ]

    def _unchanged(self, step: Step, arrived: Arrived) -> Passed:
        if step.family in ("move", "maximum"):
            return derivative(self._functions, self._values, step, arrived)
        return {
            position: summed(self._functions, arrived[0], self._values[step.inputs[position]].shape)
            for position in step.moving
        }

    # ---- layers ------------------------------------------------------------------------------------------

    def _layer(self, layer: Layer, arrived: Arrived, flagged: bool, label: str) -> Passed:
        functions, g = self._functions, arrived[0]
        linear, rule = Linear.of(layer, functions, self._values), layer.rule
        if rule.kind == "epsilon":
            return self._damped(linear, g, flagged, label)
        relevance = _relevance(functions, linear, g, flagged)
        if rule.kind == "gamma":
            shared = layer_rules.gamma(linear, relevance)
        elif rule.kind == "alpha_beta":
            shared = layer_rules.alpha_beta(linear, relevance)
        elif rule.kind == "box":
            shared = layer_rules.box(
                linear, relevance, self._bounds.get(layer.operand, (rule.low, rule.high))
            )
        else:
            shared = layer_rules.spread(linear, relevance)
        return {layer.edge: shared}

    def _damped(self, linear: Linear, g: Any, flagged: bool, label: str) -> Passed:
        functions, step = self._functions, linear.layer.step
        epsilon = linear.layer.rule.epsilon
        if flagged:
            share = ratio(functions, g, linear.z, epsilon)
            density = share if linear.scale is None else share * linear.scale
        else:
            density = damped(functions, linear.z, epsilon) * g
        if self._account is not None:
            self._account.density(step, density, -1.0, EPSILON, label)
        return derivative(functions, self._values, step, [density])

    # ---- what other steps pass back ----------------------------------------------------------------------

    def _other(self, step: Step, arrived: Arrived) -> Passed:
        functions, values = self._functions, self._values
        if step.family == "norm":
            return {0: local_axes.held_norm(functions, step, values, arrived[0])}
        passed = derivative(functions, values, step, arrived)
        if step.family == "product":
            return {position: each / 2 for position, each in passed.items()}
        if step.family == "quotient" and step.varying[0]:
            return {position: each * (1 - position) for position, each in passed.items()}
        if step.family in _BENT or step.family == "quotient":
            return self._slope(step, arrived[0], passed)
        return passed

    def _slope(self, step: Step, g: Any, plain: Passed) -> Passed:
        """Q y/x, and the derivative where x is 0."""
        functions, position = self._functions, step.moving[0]
        x, y = self._values[step.inputs[position]], self._values[step.outputs[0]]
        passed = summed(functions, g * y, x.shape)
        return {position: divided(functions, passed, x, plain[position])}


def _passes(step: Step) -> bool:
    """Tell whether a step hands relevance on as it is: one element to one element."""
    return step.family in _PASSING or (step.kind in _APART and len(step.moving) == 1)


def _relevance(functions: Functions, linear: Linear, arrived: Any, flagged: bool) -> Array:
    """Return the relevance of a layer's output, from what has arrived at the step itself."""
    if flagged:
        return arrived
    if linear.scale is None:
        return arrived * linear.z
    # The norm has passed the density on times its scale.
    return divided(functions, arrived * linear.z, linear.scale, 0.0)
