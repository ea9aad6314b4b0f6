"""A function with other derivatives: recorded while it runs, certified, and answered by rules on the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from whence.backends import Array, Leaves
from whence.backends.torch_rules.graph import Met, met
from whence.backends.torch_rules.recording import Operation, Recorder
from whence.backends.torch_rules.settings import decomposed
from whence.errors import Refused
from whence.rule import Rules

Function = Callable[[Leaves], Array]
Keeps = Callable[[Any, int, Sequence[Any]], bool]
"""(kind, how many operands may vary, arguments) -> whether the values of a call are kept."""
Gradients = tuple[torch.Tensor | None, ...]
# Written to a part of a tensor, these leave the graph as it is.
_PLAIN_WRITES = frozenset(("copy_", "zero_", "fill_", "masked_fill_", "add_", "sub_", "neg_"))
_WHOLE_CELLS = ("MkldnnRnnLayerBackward", "CudnnRnnBackward", "MiopenRnnBackward")


class Recorded:
    """One recorded run of a function: its leaves, its output and every node between them."""

    def __init__(
        self, function: Function, leaves: Leaves, keeps: Keeps,
        modules: Mapping[int, str] | None = None, like: Recorded | None = None,
    ) -> None:  # fmt: skip
        self._handles: list[Any] = []
        # Beside another run, only what it kept is wanted, and the custom functions that the graph tells of.
        self._walks = like is None or any(each.family == "cell" for each in like.every)
        self.plain_cells = like is not None and like.plain_cells
        self.apart = like is not None and like.apart
        self._run(function, leaves, keeps, modules)
        cells = any(each.node.name().startswith(_WHOLE_CELLS) for each in self.every)
        writes = any(each.on_view and each.name not in _PLAIN_WRITES for each in self.operations)
        if (cells and not self.plain_cells) or (writes and not self.apart):
            self.plain_cells, self.apart = self.plain_cells or cells, self.apart or writes
            self._run(function, leaves, keeps, modules)

    def _run(
        self, function: Function, leaves: Leaves, keeps: Keeps, modules: Mapping[int, str] | None
    ) -> None:
        self.leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        recorder = Recorder(self.leaves, keeps, modules)
        with decomposed(self.plain_cells, self.apart), recorder:
            self.y: torch.Tensor = function(self.leaves)
        self.every: list[Met] = (
            met(self.y, self.leaves, recorder) if self._walks and self.y.requires_grad else []
        )
        self.operations: list[Operation] = recorder.operations
        recorder.forget()

    def hook(self, at: Met, rule: Callable[[Gradients, Gradients], Gradients]) -> None:
        """Let a rule answer for a node: (what it would pass back, what has arrived) to what is passed back.

        The rule must not hold the node, whose memory it would keep alive.
        """
        self._handles.append(at.node.register_hook(rule))

    def prehook(self, at: Met, rule: Callable[[Gradients], Gradients]) -> None:
        """Let a rule change what arrives at a node."""
        self._handles.append(at.node.register_prehook(rule))

    def close(self) -> None:
        """Take the rules off, so that the graph can be freed."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def unknown(self) -> list[Met]:
        """Return the nodes of no family."""
        return [each for each in self.every if each.family is None]


def certified(
    function: Function,
    leaves: Leaves,
    rules: Rules,
    keeps: Keeps,
    modules: Mapping[int, str],
    where: bool = False,
) -> Recorded:
    """Return a run of the function, certified: every node on the way to the input is of a known family.

    Raises:
        Refused: an operation is unknown, and `rules.on_unknown` is "error"; its name and its line are told.
    """
    run = Recorded(function, leaves, keeps, modules if where else None)
    unknown = run.unknown()
    if unknown and rules.on_unknown == "error":
        # Again, with the places noted: they cost more than the recording itself.
        placed = Recorded(function, leaves, keeps, modules).unknown()
        raise Refused(f"{rules.name} rules: {_told(placed or unknown)}")
    return run


def _told(unknown: Sequence[Met]) -> str:
    first = unknown[0]
    where = f", called at {first.place}" if first.place is not None else ""
    others = sorted({each.name for each in unknown} - {first.name})
    more = f" (and {', '.join(others)})" if others else ""
    return (
        f"no rule knows the operation {first.name}{where}{more}; what it passes back cannot be vouched for. "
        'on_unknown="gradient" passes its plain derivative, with a note; a gradient method needs no rules'
    )
