"""DeepLIFT's rescale rule: each operation passes back what makes Σ m Δx = g Δy exact, operation by operation.

Every rule takes the call at the input, the same call at the baseline (`index 0`), what has arrived (g), and the plain
derivative's answer, which it returns where there is nothing to divide by (Shrikumar et al. 2017; the rules for
products, norms, softmax and maxima are whence's, see docs/numerics.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from whence.backends.torch_rules import local, local_axes
from whence.backends.torch_rules.engine import Gradients, Recorded
from whence.backends.torch_rules.families import family
from whence.backends.torch_rules.graph import Met
from whence.backends.torch_rules.local import Call
from whence.backends.torch_rules.recording import Operation, aten
from whence.errors import Unpaired
from whence.rule import LINEAR

RULES: dict[str, local.Rule] = {
    "relu": local.elementwise, "activation": local.elementwise, "cell": local.elementwise, "product": local.product,
    "quotient": local.quotient, "norm": local_axes.norm, "softmax": local_axes.softmax,
    "log_softmax": local_axes.log_softmax, "logsumexp": local_axes.logsumexp, "maximum": local_axes.maximum,
    "power": local.integral, "order": local.order,
}  # fmt: skip
_POOLS = {"max_pool2d_with_indices": 2, "max_pool3d_with_indices": 3}
_JOINS = frozenset((aten.cat, aten.stack))
_ADDITIONS = frozenset((aten.add, aten.sub))


@dataclass
class _Reference:
    """The run at the baseline that is compared with now; the rules look here when they are asked."""

    operations: Sequence[Operation] = ()
    cells: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()
    notes: list[str] = field(default_factory=list[str])


def keeps(kind: Any, moving: int, arguments: Sequence[Any]) -> bool:
    """Keep the values of all that is not linear, and of what is not when several of its operands vary."""
    kept = family(kind, tuple(arguments), (True,))
    if kept in ("move", "scale", "dense", "convolution"):
        return moving > 1 and kind not in _JOINS
    if kind in _ADDITIONS:
        # What is added depends on the input, and the graph does not know: a straight-through estimator.
        return moving > 1 and any(
            isinstance(each, torch.Tensor) and not each.requires_grad for each in arguments
        )
    return kept != "sum"


class Rescale:
    """The rules of one recorded run, which answer relative to whatever baseline was last compared with."""

    def __init__(self, run: Recorded, rows: int) -> None:
        self._rows, self._reference = rows, _Reference()
        self._kept = [each for each in run.operations if each.arguments]
        places = {id(each): place for place, each in enumerate(self._kept)}
        self._cells = [each for each in run.every if each.family == "cell"]
        for each in run.every:
            rule = self._rule(each)
            if rule is None:
                continue
            place = self._cells.index(each) if each.family == "cell" else places[id(each.operation)]
            call = self._call(each, place)
            spatial = _POOLS.get(each.name, 0)
            if spatial:
                pool = local_axes.Pool(spatial, call)
                run.prehook(each, pool.before)
                run.hook(each, pool.after)
            else:
                run.hook(each, _answer(rule, call))

    def against(self, run: Recorded) -> None:
        """Compare with a run at the baseline from now on.

        Raises:
            Unpaired: it did other operations, or its values have shapes that do not fit.
        """
        kept = [each for each in run.operations if each.arguments]
        if len(kept) != len(self._kept):
            raise Unpaired(f"{len(self._kept)} operations at the input and {len(kept)} at the baseline")
        for one, two in zip(self._kept, kept, strict=True):
            if one.function is not two.function or not _fit(one, two):
                raise Unpaired(f"{one.name} at the input, {two.name} at the baseline")
        cells = [each for each in run.every if each.family == "cell"]
        if len(cells) != len(self._cells):
            raise Unpaired("other custom functions at the input than at the baseline")
        pairs = [(each.taken, each.given) for each in cells]
        self._reference.operations, self._reference.cells = kept, pairs  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def notes(self) -> list[str]:
        """What the rules could not make exact."""
        return self._reference.notes

    def _rule(self, met: Met) -> local.Rule | None:
        if met.family in LINEAR:
            hidden = met.operation is not None and met.operation.hidden and bool(met.operation.arguments)
            return local.hidden if hidden else None
        return RULES.get(met.family or "")

    def _call(self, met: Met, place: int) -> Callable[[], Call]:
        """Return what lays a node's operation beside that of the present baseline; it does not hold the node."""
        reference, rows, varying = self._reference, self._rows, met.varying
        operation, family = met.operation, met.family
        taken, given = met.taken, met.given

        def call() -> Call:
            if operation is not None:
                two = reference.operations[place]
                return Call.of(operation, two, family, varying, rows, reference.notes)
            assert taken is not None and given is not None
            x0, y0 = reference.cells[place]
            return Call(None, family, varying, (taken,), (x0,), (given,), (y0,), rows, reference.notes)

        return call


def _answer(rule: local.Rule, call: Callable[[], Call]) -> Callable[[Gradients, Gradients], Gradients]:
    return lambda inputs, outputs: rule(call(), inputs, outputs)


def _fit(one: Operation, two: Operation) -> bool:
    """Tell whether every value at the baseline can be laid beside that at the input."""
    pairs = zip((*one.arguments, *one.outputs), (*two.arguments, *two.outputs), strict=True)
    return all(
        local.fits(x, x0) for x, x0 in pairs if isinstance(x, torch.Tensor) and isinstance(x0, torch.Tensor)
    )
