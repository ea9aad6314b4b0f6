"""Rules at the operation, in PyTorch: the model runs as it is and is recorded; nodes of its graph answer otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from whence.backends import Array, Leaves
from whence.backends.torch_rules import rectifiers, rescale
from whence.backends.torch_rules.engine import Gradients, Recorded, certified
from whence.backends.torch_rules.relevance import Keeps, Relevance
from whence.rule import TABLES, Met, Rules

_KEEPS = {
    "gradient": rectifiers.keeps,
    "guided": rectifiers.keeps,
    "deconvolution": rectifiers.keeps,
    "rescale": rescale.keeps,
}


class TorchRuled:
    """A function whose derivative follows rules: its value, and as many ways back as are asked for.

    A context: when it is left, the rules are off the graph and its memory is free.
    """

    def __init__(
        self,
        function: Callable[[Leaves], Array],
        leaves: Leaves,
        rules: Rules,
        modules: Mapping[int, str],
        where: bool,
    ) -> None:
        self._rules = rules
        self._keeps = (
            Keeps(rules.composite, rules.account) if rules.name == "relevance" else _KEEPS[rules.name]
        )
        named = rules.name == "relevance" and bool(rules.composite.layers)
        if named:
            rules.composite.check_names(modules.values())
        self._run = certified(function, leaves, rules, self._keeps, modules, where or named)
        self._rescale: rescale.Rescale | None = None
        self._relevance: Relevance | None = None
        if rules.name == "rescale":
            self._rescale = rescale.Rescale(self._run, int(leaves[0].shape[0]))
        elif rules.name == "relevance":
            self._relevance = Relevance(self._run, rules.composite, rules.account)
        elif rules.name != "gradient":
            rectifiers.attach(self._run, rules)

    def __enter__(self) -> TorchRuled:
        return self

    def __exit__(self, *problem: Any) -> None:
        self._run.close()

    @property
    def value(self) -> torch.Tensor:
        """F [n] or [n, K], detached."""
        return self._run.y.detach()

    @property
    def notes(self) -> list[str]:
        """What the rules could not vouch for."""
        unknown = sorted({each.name for each in self._run.unknown()})
        own = [note for each in (self._rescale, self._relevance) if each is not None for note in each.notes]
        passed = f"no rule knows {', '.join(unknown)}: the plain derivative was passed" if unknown else ""
        return [*([passed] if passed else []), *own]

    @property
    def connected(self) -> bool:
        """Whether the output carries any gradient with respect to the leaves."""
        return self._run.y.requires_grad

    @property
    def met(self) -> list[Met]:
        """Every operation between the output and the leaves, the last one first."""
        table = TABLES[self._rules.name]
        rectifies = "relu" in table and "activation" not in table
        found: list[Met] = []
        for each in self._run.every:
            family = "relu" if rectifies and rectifiers.is_rectifier(each) else each.family
            found.append(Met(each.name, family, table.get(family or "", ""), str(each.place or "")))
        return found

    def against(self, function: Callable[[Leaves], Array], leaves: Leaves) -> torch.Tensor:
        """Let the rules compare with another point from now on, and return f there.

        Raises:
            Unpaired: the function did other operations there, or of shapes that do not fit.
        """
        assert self._rescale is not None
        run = Recorded(function, leaves, _KEEPS["rescale"], like=self._run)
        self._rescale.against(run)
        return run.y.detach()

    @property
    def boxed(self) -> list[Any]:
        """The box rules of first layers."""
        return [] if self._relevance is None else self._relevance.boxed

    def bound(self, function: Callable[[Leaves], Array], low: Leaves, high: Leaves) -> None:
        """Tell the box rule what the least and the largest inputs are.

        Raises:
            Unpaired: the function does other operations there.
        """
        assert self._relevance is not None
        self._relevance.bound(
            *(Recorded(function, each, self._keeps, like=self._run) for each in (low, high))
        )

    @property
    def kept(self) -> dict[str, float]:
        """How much relevance did not reach the leaves on all ways back so far, by what kept it."""
        return {} if self._relevance is None else self._relevance.kept

    def pull(self, weights: torch.Tensor | None, keep: bool) -> Gradients:
        """Return what reaches the leaves from weights on the outputs (None: ones); `keep` for another way back."""
        y = self._run.y
        nothing: Gradients = (None,) * len(self._run.leaves)
        if not y.requires_grad:
            return nothing
        start = torch.ones_like(y) if weights is None else weights
        passed = torch.autograd.grad(y, self._run.leaves, start, retain_graph=keep, allow_unused=True)
        if self._relevance is None:
            return passed
        trio = zip(passed, self._run.leaves, self._relevance.relevant, strict=True)
        return tuple(_relevant(*each) for each in trio)


def _relevant(passed: torch.Tensor | None, leaf: torch.Tensor, whole: bool) -> torch.Tensor | None:
    """Return the relevance of a leaf, where `whole` tells that what has arrived is not its density."""
    return passed if passed is None or whole else passed * leaf.detach()
