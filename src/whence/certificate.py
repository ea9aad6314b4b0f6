"""coverage(): every operation between a model's answer and its input, and which rule takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whence import registry, rule
from whence.question import Call, asked
from whence.registry import Method
from whence.rule import TABLES, Met, Rules
from whence.site import Site

REFUSED = "none: refused"


@dataclass(frozen=True)
class Row:
    """One kind of operation: how often it was met, where first, and what a method does with it."""

    operation: str
    family: str | None
    count: int
    rule: str
    place: str

    @property
    def known(self) -> bool:
        """Whether any rule vouches for what is passed back."""
        return self.family is not None


@dataclass(frozen=True)
class Coverage:
    """Which rule of a method took each operation of a model; printed, it is a table.

    Attributes:
        method: the method's registered name.
        rows: one for each kind of operation, from the output to the input.
        notes: what the rules cannot make exact.
    """

    method: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every operation is known."""
        return all(row.known for row in self.rows)

    @property
    def unknown(self) -> tuple[Row, ...]:
        """The operations that no rule knows."""
        return tuple(row for row in self.rows if not row.known)

    def __str__(self) -> str:
        head = ("operation", "calls", "family", "rule", "first called at")
        body = [(r.operation, str(r.count), r.family or "unknown", r.rule, r.place) for r in self.rows]
        widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                 for line in (head, *body)]  # fmt: skip
        verdict = "every operation is known" if self.complete else "no rule knows " + ", ".join(
            row.operation for row in self.unknown
        )  # fmt: skip
        return "\n".join([*lines, f"{self.method}: {verdict}", *self.notes])


def coverage(
    model: Any,
    inputs: Any,
    method: str | type[Method] | Method = "deeplift",
    target: Any = None,
    at: Site | None = None,
    kwargs: Mapping[str, Any] | None = None,
    output: Any = None,
    preprocess: Any = None,
    **fields: Any,
) -> Coverage:
    """List every operation from a model's answer back to its input, how often it is met, and which rule takes it.

    The model runs once on the first example, as it is; nothing is explained. Arguments are those of whence.explain.

    Raises:
        BadInput: something in the call cannot be meant.
        UnsupportedByBackend: the model is a black box, whose operations cannot be seen.
    """
    chosen = registry.build(method, fields)
    with asked(Call(model, inputs, target, at, kwargs, output, preprocess)) as question:
        problem = chosen.placed(question.problem).part(np.arange(1))
        run = problem.run
        # Only looked at: nothing is refused.
        seen = replace(chosen.rules() or Rules("gradient"), on_unknown="gradient", required=False)
        with run.backend.ruled(run.session, problem.evaluate_all, problem.point, seen, True) as ruled:
            met = list(ruled.met)
    return summarised(registry.name_of(chosen), chosen.rules(), met)


def summarised(name: str, rules: Rules | None, met: list[Met]) -> Coverage:
    """Return the coverage of a method from what was met."""
    taken = rules or Rules("gradient")
    found: dict[tuple[str, str | None], Row] = {}
    for each in met:
        key = (each.operation, each.family)
        if key in found:
            found[key] = replace(found[key], count=found[key].count + 1)
        else:
            found[key] = Row(each.operation, each.family, 1, words(taken, each.family), each.place)
    families = {each.family for each in met}
    notes = [rule.UNCONSERVED] if taken.name == "relevance" and families & rule.NOT_CONSERVING else []
    if taken.name in ("guided", "deconvolution") and "relu" not in families:
        notes.append(f"{name} is refused: there is no ReLU, so that it would give the plain gradient")
    return Coverage(name, tuple(found.values()), tuple(notes))


def words(rules: Rules, family: str | None) -> str:
    """Return what a set of rules does with a family, in words."""
    if family is None:
        return "derivative" if rules.name == "gradient" else REFUSED
    if rules.name == "relevance" and family in ("dense", "convolution"):
        return _layer_rules(rules.composite, family)
    return TABLES[rules.name].get(family, "derivative")


def _layer_rules(composite: Any, family: str) -> str:
    """Return the rule of a family's layers, and those of the layers that have one of their own."""
    own = {"first": composite.first, **composite.layers, **composite.positions}
    others = [f"{name}: {rule.kind}" for name, rule in own.items() if rule is not None]
    kind = str(getattr(composite, family).kind)
    return f"{kind} ({', '.join(others)})" if others else kind
