"""Layer-wise relevance propagation: relevance R, or its density q = R/value, travels back from operation to operation.

The density passes every linear operation as a gradient does, so that only few operations need a rule: before a layer
it is damped by |z|/(|z| + ε), at an activation it becomes q y/x. Relevance itself travels below layers whose rule gives
some to inputs that are zero (box, w_squared, flat); both may arrive at one array, and are brought to the same there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from whence.backends.torch_rules import layer_rules, local_axes
from whence.backends.torch_rules.account import EPSILON, Account, label_of, operands
from whence.backends.torch_rules.engine import Gradients, Recorded
from whence.backends.torch_rules.families import BATCH_NORMS, family
from whence.backends.torch_rules.graph import Met
from whence.backends.torch_rules.layer_rules import Bounds, damped, ratio
from whence.backends.torch_rules.layers import RESHAPED, Layer, layers
from whence.backends.torch_rules.recording import Operation, aten
from whence.composite import Composite, LayerRule
from whence.errors import Refused, Unpaired
from whence.rule import NOT_CONSERVING, UNCONSERVED

# Below these relevance travels, and no density of it.
_RELEVANT = ("box", "w_squared", "flat")
# Where the derivative is y/x already.
_RECTIFIERS = frozenset((aten.relu, aten.threshold, aten.clamp_min, aten.leaky_relu, aten._prelu_kernel))
_APART = frozenset((aten.add, aten.sub))
_PASSING = ("move", "maximum", "scale", "relu", "activation", "cell")


class Keeps:
    """Which values a composite needs: those of layers and activations, or all where relevance itself travels."""

    def __init__(self, composite: Composite, account: bool) -> None:
        self._all = account or any(each.kind in _RELEVANT for each in composite.rules())

    def __call__(self, kind: Any, moving: int, arguments: Sequence[Any]) -> bool:
        """Tell whether to keep the values of a call."""
        if self._all or kind in BATCH_NORMS or kind in RESHAPED:
            return True
        if kind is aten.add:
            return isinstance(arguments[1], torch.Tensor)
        known = family(kind, tuple(arguments), (True,))
        return (
            known not in ("move", "sum", "scale", "maximum", "softmax", "order") and kind not in _RECTIFIERS
        )


class Relevance:
    """The rules of one recorded run; `relevant` says of each leaf that relevance, not its density, arrives there."""

    def __init__(self, run: Recorded, composite: Composite, account: bool) -> None:
        self._run = run
        self._layers = layers(run.every, composite)
        self._flagged = _flagged(run.every, self._layers)
        self._bounds: dict[int, Bounds] = {}
        self._account = Account(self._flagged) if account else None
        for each in run.every:
            self._attach(each)
        edges = (torch.autograd.graph.get_gradient_edge(leaf).node for leaf in run.leaves)
        self.relevant = tuple(node in self._flagged for node in edges)
        self.notes = [UNCONSERVED] if any(each.family in NOT_CONSERVING for each in run.every) else []

    @property
    def boxed(self) -> list[LayerRule]:
        """The box rules of the layers that the input reaches before any other.

        Raises:
            Refused: a box rule without bounds of its own stands further up.
        """
        found = [each for each in self._layers.values() if each.rule.kind == "box"]
        for each in found:
            if not each.is_first and (each.rule.low is None or each.rule.high is None):
                raise Refused(
                    "lrp: a box rule above the first layer needs the bounds of that layer's input: low, high"
                )
        return list(dict.fromkeys(each.rule for each in found if each.is_first))

    def bound(self, low: Recorded, high: Recorded) -> None:
        """Learn what the box rule's layers take in where the input is at its least and at its most.

        Raises:
            Unpaired: the model does other operations there.
        """
        places = {id(each): place for place, each in enumerate(self._run.operations)}
        if not len(self._run.operations) == len(low.operations) == len(high.operations):
            raise Unpaired(
                "the model does other operations for the least and the largest input than for this one"
            )
        for layer in self._layers.values():
            if not layer.is_first:
                continue
            place = places[id(layer.operation)]
            ends = (run.operations[place].arguments[layer.edge] for run in (low, high))
            self._bounds[id(layer.operation)] = tuple(ends)  # pyright: ignore[reportArgumentType]

    @property
    def kept(self) -> dict[str, float]:
        """How much relevance did not reach the leaves, by what kept it; empty where no account was asked for."""
        return {} if self._account is None else dict(self._account.kept)

    # ---- one node ----------------------------------------------------------------------------------------

    def _attach(self, met: Met) -> None:
        flagged = met.node in self._flagged
        layer = self._layers.get(met.node)
        damped = layer is not None and layer.rule.kind == "epsilon"
        sided = layer is not None and not damped
        if self._account is not None:
            self._account.take(self._run, met, EPSILON if damped else label_of(met, sided))
        if layer is not None:
            self._attach_layer(met, layer, flagged)
        elif flagged and _passes(met):
            if met.family not in ("move", "maximum"):
                self._run.hook(met, _unchanged)
        else:
            if flagged:
                self._run.prehook(met, _density(met))
            rule = _rule(met)
            if rule is not None:
                self._run.hook(met, rule)
        emits = (layer is not None and layer.rule.kind in _RELEVANT) or (
            flagged and layer is None and _passes(met)
        )
        if not emits:
            self._convert(met)
        if self._account is not None:
            self._account.give(self._run, met, label_of(met, sided))

    def _attach_layer(self, met: Met, layer: Layer, flagged: bool) -> None:
        kind, edge = layer.rule.kind, _edge_of(met, layer)
        if kind == "epsilon":
            self._run.prehook(met, _damping(layer, flagged))
            if self._account is not None:
                self._account.take(self._run, met, EPSILON, -1.0)
                self._account.take(self._run, met, label_of(met))
            return
        bounds = self._bounds

        def answer(inputs: Gradients, outputs: Gradients) -> Gradients:
            if outputs[0] is None:
                return inputs
            relevance = _relevance(layer, outputs[0], flagged)
            if kind == "gamma":
                shared = layer_rules.gamma(layer, relevance)
            elif kind == "alpha_beta":
                shared = layer_rules.alpha_beta(layer, relevance)
            elif kind == "box":
                own = (layer.rule.low, layer.rule.high)
                shared = layer_rules.box(layer, relevance, bounds.get(id(layer.operation), own))
            else:
                shared = layer_rules.spread(layer, relevance)
            return tuple(shared if place == edge else each for place, each in enumerate(inputs))

        self._run.hook(met, answer)

    def _convert(self, met: Met) -> None:
        """Make relevance of the density where it meets relevance."""
        operation = met.operation
        places = [
            i
            for i, (before, _) in enumerate(met.node.next_functions)
            if met.varying[i] and before in self._flagged
        ]
        if not places or operation is None:
            return
        values = operands(met)

        def times(inputs: Gradients, outputs: Gradients) -> Gradients:
            return tuple(
                each * values[i] if i in places and each is not None else each
                for i, each in enumerate(inputs)
            )

        self._run.hook(met, times)


def _flagged(every: Sequence[Met], found: dict[Any, Layer]) -> set[Any]:
    """Return the nodes at whose outputs relevance itself arrives."""
    flagged: set[Any] = set()
    for each in every:
        layer = found.get(each.node)
        emits = layer.rule.kind in _RELEVANT if layer is not None else each.node in flagged and _passes(each)
        if emits:
            flagged |= {
                before
                for (before, _), varies in zip(each.node.next_functions, each.varying, strict=True)
                if varies
            }
    return flagged


def _passes(met: Met) -> bool:
    """Tell whether an operation hands relevance on as it is: one element to one element."""
    alone = met.operation is not None and met.operation.kind in _APART and sum(met.varying) == 1
    return met.family in _PASSING or alone


def _edge_of(met: Met, layer: Layer) -> int:
    return next(
        i for i, varies in enumerate(met.varying) if varies and (i == layer.edge or len(met.varying) == 1)
    )


def _relevance(layer: Layer, arrived: torch.Tensor, flagged: bool) -> torch.Tensor:
    """Return the relevance of a layer's output, from what has arrived at the operation itself."""
    if flagged:
        return arrived
    if layer.scale is None:
        return arrived * layer.z
    # The tail has passed the density on times its scale.
    open_ = layer.scale != 0
    return torch.where(open_, arrived * layer.z / torch.where(open_, layer.scale, 1), 0)


def _damping(layer: Layer, flagged: bool) -> Callable[[Gradients], Gradients]:
    def damping(outputs: Gradients) -> Gradients:
        arrived = outputs[0]
        if arrived is None:
            return outputs
        epsilon, z = layer.rule.epsilon, layer.z
        if not flagged:
            return (damped(z, epsilon).mul_(arrived), *outputs[1:])
        share = ratio(arrived, z, epsilon)
        return (share if layer.scale is None else share * layer.scale, *outputs[1:])

    return damping


def _density(met: Met) -> Callable[[Gradients], Gradients]:
    values = met.operation.outputs if met.operation is not None else [met.given]

    def density(outputs: Gradients) -> Gradients:
        pairs = zip(outputs, values, strict=False)
        return tuple(None if each is None or y is None else ratio(each, y, 1e-6) for each, y in pairs)

    return density


# ---- what other operations pass back -------------------------------------------------------------------------


def _rule(met: Met) -> Callable[[Gradients, Gradients], Gradients] | None:
    operation = met.operation
    if met.family == "product":
        return _half
    if met.family == "cell" or (met.family in ("relu", "activation") and _is_bent(met)):
        return _slope(met)
    if met.family == "quotient" and operation is not None:
        return _numerator if met.varying[0] else _slope(met)
    if met.family == "norm" and operation is not None:
        return _normaliser(operation)
    return None


def _is_bent(met: Met) -> bool:
    return met.operation is not None and met.operation.kind not in _RECTIFIERS


def _unchanged(inputs: Gradients, outputs: Gradients) -> Gradients:
    arrived = outputs[0]
    return tuple(
        each if each is None or arrived is None else arrived.sum_to_size(each.shape) for each in inputs
    )


def _half(inputs: Gradients, outputs: Gradients) -> Gradients:
    return tuple(None if each is None else each / 2 for each in inputs)


def _numerator(inputs: Gradients, outputs: Gradients) -> Gradients:
    return (inputs[0], None if inputs[1] is None else torch.zeros_like(inputs[1]))


def _slope(met: Met) -> Callable[[Gradients, Gradients], Gradients]:
    """Q y/x, and the derivative where x is 0."""
    edge = next(i for i, varies in enumerate(met.varying) if varies)
    if met.operation is None:
        x, y = met.taken, met.given
    else:
        x, y = operands(met)[edge], met.operation.outputs[0]
    assert x is not None and y is not None

    def slope(inputs: Gradients, outputs: Gradients) -> Gradients:
        plain, arrived = inputs[edge], outputs[0]
        if plain is None or arrived is None:
            return inputs
        empty = x == 0
        passed = arrived * y / torch.where(empty, torch.ones_like(x), x)
        passed = (
            torch.where(empty, arrived, passed)
            if passed.shape != plain.shape
            else torch.where(empty, plain, passed)
        )
        return tuple(passed.sum_to_size(plain.shape) if i == edge else each for i, each in enumerate(inputs))

    return slope


def _normaliser(operation: Operation) -> Callable[[Gradients, Gradients], Gradients]:
    """The statistics are constants: (x − mean)/s w, of which the mean is a sum like any other."""

    def normaliser(inputs: Gradients, outputs: Gradients) -> Gradients:
        arrived = outputs[0]
        return inputs if arrived is None else (local_axes.held_norm(operation, arrived), *inputs[1:])

    return normaliser
