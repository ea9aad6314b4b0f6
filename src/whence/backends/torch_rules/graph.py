"""The certificate: every node between the explained output and the input, with the operation that made it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from whence.backends.torch_rules.families import family
from whence.backends.torch_rules.recording import Operation, Place, Recorder
from whence.rule import LINEAR

# Nodes that PyTorch adds of itself: a view made anew after its base was written to, and that write.
_VIEWS = frozenset(("AsStrided", "View", "Slice", "Select", "Transpose", "Permute", "Squeeze", "Unsqueeze", "Expand",
                    "T", "Alias", "Clone", "Split", "SplitWithSizes", "Unbind", "Diagonal", "Unfold"))  # fmt: skip
_WRITES = "CopySlices"


@dataclass(frozen=True, eq=False)
class Met:
    """A node that depends on the input: the operation it belongs to, its family, and which of its operands vary.

    A family of None is unknown. Of a custom function there is no operation: `taken` and `given` are its operand
    and its result.
    """

    node: Any
    operation: Operation | None
    family: str | None
    varying: tuple[bool, ...]
    taken: torch.Tensor | None = None
    given: torch.Tensor | None = None
    place: Place | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.operation.name if self.operation is not None else self.node.name().rpartition("::")[2]


def met(y: torch.Tensor, leaves: Sequence[torch.Tensor], recorder: Recorder) -> list[Met]:
    """Return every node from which y depends on the leaves, consumers first."""
    reaching = _reaching(y, leaves)
    numbers: dict[int, Operation] = {}
    for operation in recorder.operations:
        numbers.setdefault(operation.number, operation)
    found: list[Met] = []
    for node in reaching:
        if _short(node) == "AccumulateGrad":
            continue
        varying = tuple(after in reaching for after, _ in node.next_functions)
        operation = numbers.get(node._sequence_nr())
        if operation is not None and _belong(operation, node):
            kind = family(operation.kind, operation.settings, varying)
            if kind not in LINEAR and any(_is_complex(each) for each in operation.arguments):
                kind = None
            found.append(Met(node, operation, kind, varying, place=operation.place))
        elif isinstance(node, BackwardCFunction):
            found.append(_custom(node, varying, recorder))
        else:
            plain = _short(node) == _WRITES or _stem(_short(node)) in _VIEWS
            found.append(Met(node, None, "move" if plain else None, varying))
    return found


def _reaching(y: torch.Tensor, leaves: Sequence[torch.Tensor]) -> dict[Any, None]:
    """Return the nodes that lead to a leaf, each before those that it leads to."""
    own = {id(leaf) for leaf in leaves}
    state: dict[Any, bool] = {}
    ordered: list[Any] = []
    waiting: list[tuple[Any, bool]] = [(y.grad_fn, False)]
    while waiting:
        node, done = waiting.pop()
        if node is None or (node in state and not done):
            continue
        if not done:
            state[node] = False
            waiting.append((node, True))
            waiting += [(after, False) for after, _ in node.next_functions]
            continue
        leads = id(node.variable) in own if _short(node) == "AccumulateGrad" else False
        state[node] = leads or any(state.get(after, False) for after, _ in node.next_functions)
        ordered.append(node)
    return {node: None for node in reversed(ordered) if state[node]}


@cache
def _letters(name: str) -> str:
    return re.sub(r"_forward$", "", name).replace("_", "").lower()


def _short(node: Any) -> str:
    return node.name().rpartition("::")[2]


@cache
def _stem(name: str) -> str:
    return re.sub(r"Backwards?\d*$", "", name)


def _belong(operation: Operation, node: Any) -> bool:
    return _letters(operation.name) == _stem(_short(node)).lower()


def _custom(node: Any, varying: tuple[bool, ...], recorder: Recorder) -> Met:
    """Take a custom function for one of single elements if its derivative passes no element on to another."""
    given, place = next((pair for pair in recorder.unrecorded if pair[0].grad_fn is node), (None, None))
    before = node.next_functions[0][0] if node.next_functions else None
    taken = next(
        (each for each, _ in recorder.unrecorded if before is not None and _made(each, before)), None
    )
    alone = len(node._input_metadata) == 1 and sum(varying) == 1 and varying[0]
    if (
        not alone
        or given is None
        or taken is None
        or taken.shape != given.shape
        or not _is_diagonal(given, taken)
    ):
        return Met(node, None, None, varying, place=place)
    return Met(node, None, "cell", varying, taken.detach(), given.detach(), place)


def _is_complex(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_complex()


def _made(tensor: torch.Tensor, node: Any) -> bool:
    if tensor.grad_fn is None:
        return tensor.requires_grad and _short(node) == "AccumulateGrad" and node.variable is tensor
    return tensor.grad_fn is node


def _is_diagonal(y: torch.Tensor, x: torch.Tensor) -> bool:
    """Try the derivative with every other element, at random, of what comes back set to zero."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, 2, y.shape, generator=generator).to(y)
    ones = torch.ones_like(y)
    try:
        whole, part = (torch.autograd.grad(y, x, each, retain_graph=True)[0] for each in (ones, chosen))
    except Exception:
        return False
    return torch.equal(whole * chosen, part)
