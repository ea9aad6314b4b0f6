"""A graph as a PyTorch module: its nodes one after the other, under the names that the file gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from whence.backends.onnx_graph.node import ROWS
from whence.errors import BadInput
from whence.naming import unknown


@dataclass(frozen=True)
class Step:
    """One node's turn: the module's name, the names of its inputs ("" for none) and outputs, and what is let go."""

    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """An input of a graph: its name, and its type where that is a tensor of a known one."""

    name: str
    kind: torch.dtype | None = None


class Graph(nn.Module):
    """Runs a graph; `fixed` is the number of examples that the file was made for, where it says one."""

    def __init__(self, inputs: Sequence[Given], outputs: Sequence[str], fixed: int | None = None) -> None:
        nn.Module.__init__(self)
        self.fixed = fixed
        # Read-only, so that copies of the module share it.
        self.plan: Mapping[str, Any] = MappingProxyType(
            {"inputs": tuple(inputs), "answers": tuple(outputs), "steps": ()}
        )

    # The names of a file hold dots, which PyTorch forbids where it registers, and only splits by in its own look-ups.

    def hold(self, name: str, value: torch.Tensor, parameter: bool) -> None:
        """Keep a constant, as a parameter or as a buffer."""
        if parameter:
            self._parameters[name] = nn.Parameter(value, requires_grad=False)
        else:
            self._buffers[name] = value

    def follow(self, steps: tuple[Step, ...]) -> None:
        """Take these steps when it runs."""
        self.plan = MappingProxyType({**self.plan, "steps": steps})

    @property
    def inputs(self) -> tuple[Given, ...]:
        """What it takes."""
        return self.plan["inputs"]

    @property
    def answers(self) -> tuple[str, ...]:
        """The names of its outputs."""
        return self.plan["answers"]

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its nodes in the order in which they run."""
        return self.plan["steps"]

    def add(self, name: str, module: nn.Module) -> None:
        """Keep a node's module."""
        self._modules[name] = module

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return the output, or all of them by their names."""
        values = self._given(arguments, named)
        first = values[0] if values else None
        rows = first.shape[0] if isinstance(first, torch.Tensor) and first.ndim else None
        before = ROWS.set(rows)
        try:
            found = self.run(values, {})
        finally:
            ROWS.reset(before)
        return found[0] if len(found) == 1 else dict(zip(self.answers, found, strict=True))

    def run(self, values: Sequence[Any], around: Mapping[str, Any]) -> list[Any]:
        """Return all outputs for the inputs and what the graph around holds."""
        known: dict[str, Any] = {**around, **self._buffers, **self._parameters}
        known.update(zip((each.name for each in self.inputs), values, strict=False))
        for step in self.steps:
            module: Any = self._modules[step.module]
            try:
                found: Any = module(*[known[name] if name else None for name in step.inputs])
            except Exception as problem:
                problem.add_note(f"in the file's {module.called}")
                raise
            if len(step.outputs) == 1:
                known[step.outputs[0]] = found
            else:
                known.update(zip(step.outputs, found, strict=False))
            for name in step.done:
                known.pop(name, None)
        return [known[name] for name in self.answers]

    def _given(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
        names = [each.name for each in self.inputs]
        if len(arguments) > len(names):
            raise BadInput(
                f"the file takes {len(names)} inputs ({', '.join(names)}), and was given {len(arguments)}"
            )
        for name in named:
            if name not in names:
                raise BadInput(unknown("input", name, names))
        given = dict(zip(names, arguments, strict=False)) | named
        missing = [name for name in names if name not in given]
        if missing:
            raise BadInput(
                f"the file also takes {', '.join(missing)}; pass the inputs as a dict from their names, or the others "
                "in kwargs"
            )
        return [_of_kind(given[each.name], each.kind) for each in self.inputs]


def _of_kind(value: Any, kind: torch.dtype | None) -> Any:
    """Return an input in the file's type; real numbers stay as wide as they are: a copy may run in float64."""
    if not isinstance(value, torch.Tensor) or kind is None or value.dtype == kind:
        return value
    return value if value.is_floating_point() and kind.is_floating_point else value.to(kind)
