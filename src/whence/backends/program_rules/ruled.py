"""A function with other derivatives, as a program: certified, and answered by rules on the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from whence.backends.arrays import Array, Leaves
from whence.backends.program_rules import rectifiers, rescale
from whence.backends.program_rules.functions import Functions, Type
from whence.backends.program_rules.program import Program, Values, run
from whence.backends.program_rules.relevance import Relevance
from whence.backends.program_rules.walk import Extras
from whence.composite import LayerRule
from whence.errors import Refused, Unpaired
from whence.rule import TABLES, Met, Rules

Function = Callable[[Leaves], Array]
Answer = tuple[tuple[Array | None, ...], Extras]


@dataclass(frozen=True)
class Traced:
    """A function as a program (recognised, marked), the values of its `given` constants, and a key.

    Equal keys are equal programs: what was compiled for one serves the other.
    """

    program: Program
    given: tuple[Array, ...]
    key: Any


class Machine(Protocol):
    """A framework that traces functions and compiles what is made of them."""

    @property
    def functions(self) -> Functions:
        """The array functions."""
        ...

    def traced(self, function: Function, leaves: Leaves) -> Traced:
        """Return a function as a program."""
        ...

    def engine(self, key: Any, make: Callable[[], Engine]) -> Engine:
        """Return the engine of a key, remembered (a bounded number of them)."""
        ...

    def needed(self, back: Callable[..., Any], program: Program, values: Sequence[int]) -> list[int]:
        """Return which of the variables a way back looks at; all of them where that cannot be told.

        `back` is (given, values, start), with `values` a dict by variable.
        """
        ...

    def ones(self, y: Array) -> Array: ...
    def blank(self, kind: Type) -> Array:
        """Return any value of a type: for variables that `needed` left out, on whose values nothing depends."""
        ...


class Engine:
    """What is made once for a program and a set of rules: its plan, and the compiled ways forth and back."""

    def __init__(self, machine: Machine, program: Program, rules: Rules) -> None:
        self.program, self.rules = program, rules
        self._machine, self._functions = machine, machine.functions
        self.plan = Relevance(program, rules) if rules.name == "relevance" else None
        self._forth: dict[Any, Callable[..., Any]] = {}
        self._back: dict[Any, tuple[Callable[..., Any], list[str]]] = {}

    @cached_property
    def kept(self) -> list[int]:
        """The variables whose values the way back looks at."""
        moving = [each for step in self.program.steps for each in (*step.inputs, *step.outputs)]
        all_of_them = list(dict.fromkeys(each for each in moving if each in self.program.reached))

        def back(given: Any, values: Values, start: Array) -> Any:
            # Beside itself: the way back looks at a baseline where it looks at the input.
            found, extras = self._answer(given, values, values, self._bounds(values, values), start)
            return found, extras.sums, [flag for _, flag in extras.notes]

        return self._machine.needed(back, self.program, all_of_them)

    def _bounds(self, low: Values, high: Values) -> dict[int, tuple[Array, Array]]:
        if self.plan is None or not self.plan.boxed:
            return {}
        return {each: (low[each], high[each]) for each in self.plan.bounded}

    def forth(
        self, traced: Traced, leaves: Leaves, names: Mapping[int, int]
    ) -> tuple[Array, dict[int, Array]]:
        """Return f, and values of a program: of the variables that `names` leads to, by the names they have there."""
        program = traced.program
        key = (traced.key, tuple(names.items()))
        if key not in self._forth:

            def forth(given: Any, leaves: Leaves) -> tuple[Array, dict[int, Array]]:
                values = run(program, given, leaves)
                return values[program.output], {name: values[own] for name, own in names.items()}

            self._forth[key] = self._functions.compiled(forth)
        return self._forth[key](traced.given, leaves)

    def back(
        self, given: Sequence[Array], values: Values, values0: Values, bounds: Mapping[int, Any], start: Array
    ) -> tuple[tuple[Array | None, ...], dict[str, Array], list[str]]:
        """Return what comes back to the leaves, the sums of an account, and notes."""
        key = (len(values0), len(bounds))
        if key not in self._back:
            texts: list[str] = []

            def back(given: Any, values: Values, values0: Values, bounds: Any, start: Array) -> Any:
                found, extras = self._answer(given, values, values0, bounds, start)
                texts[:] = [text for text, _ in extras.notes]
                return found, extras.sums, [flag for _, flag in extras.notes]

            self._back[key] = (self._functions.compiled(back), texts)
        function, texts = self._back[key]
        found, sums, flags = function(tuple(given), dict(values), dict(values0), dict(bounds), start)
        notes = [text for text, flag in zip(texts, flags, strict=True) if bool(self._functions.numpy(flag))]
        return found, sums, notes

    def _answer(
        self, given: Sequence[Array], values: Values, values0: Values, bounds: Mapping[int, Any], start: Array
    ) -> Answer:
        program, functions = self.program, self._functions
        known = run(program, given, (), program.constants)
        values = _Filled(self._machine, program, {**known, **values})
        values0 = _Filled(self._machine, program, {**known, **values0})
        if self.plan is not None:
            return self.plan.back(functions, values, bounds, start)
        if self.rules.name != "rescale":
            return rectifiers.back(functions, program, values, start, self.rules)
        rows = program.types[program.leaves[0]].shape[0]
        return rescale.back(functions, program, values, values0, start, rows)


class _Filled(dict[int, Array]):
    """Values by variable, with any value for what nothing depends on."""

    def __init__(self, machine: Machine, program: Program, known: Values) -> None:
        super().__init__(known)
        self._machine, self._program = machine, program

    def __missing__(self, variable: int) -> Array:
        return self._machine.blank(self._program.types[variable])


@dataclass
class _State:
    """What a ruled function has learnt on the way."""

    values0: dict[int, Array] = field(default_factory=dict[int, Any])
    bounds: dict[int, Any] = field(default_factory=dict[int, Any])
    kept: dict[str, float] = field(default_factory=dict[str, float])
    notes: dict[str, None] = field(default_factory=dict[str, None])


class ProgramRuled:
    """A function whose derivative follows rules: its value, and as many ways back as are asked for.

    A context: when it is left, the memory of its values is free.
    """

    def __init__(
        self, machine: Machine, function: Function, leaves: Leaves, rules: Rules, names: Sequence[str] = ()
    ) -> None:
        self._machine, self._rules, self._leaves = machine, rules, leaves
        named = rules.name == "relevance" and bool(rules.composite.layers)
        self._traced = machine.traced(function, leaves)
        program = self._traced.program
        unknown = [step for step in program.met if step.family is None]
        if unknown and rules.on_unknown == "error":
            raise Refused(f"{rules.name} rules: {_told(program)}")
        if named:
            rules.composite.check_names(dict.fromkeys((*names, *(step.module for step in program.met))))
        if rules.name in ("guided", "deconvolution"):
            rectifiers.check(program, rules)
        self._engine = machine.engine((self._traced.key, rules), lambda: Engine(machine, program, rules))
        self._state = _State()

    def __enter__(self) -> ProgramRuled:
        return self

    def __exit__(self, *problem: Any) -> None:
        self._state.values0.clear()
        self._state.bounds.clear()
        self.__dict__.pop("_forth", None)

    @cached_property
    def _forth(self) -> tuple[Array, dict[int, Array]]:
        kept = self._engine.kept if self.connected else []
        return self._engine.forth(self._traced, self._leaves, {each: each for each in kept})

    @property
    def value(self) -> Array:
        """F [n] or [n, K]."""
        return self._forth[0]

    @property
    def notes(self) -> list[str]:
        """What the rules could not vouch for."""
        unknown = sorted({step.operation for step in self._traced.program.met if step.family is None})
        passed = f"no rule knows {', '.join(unknown)}: the plain derivative was passed" if unknown else ""
        plan = self._engine.plan
        own = [*self._state.notes, *([] if plan is None else plan.notes)]
        return [*([passed] if passed else []), *own]

    @property
    def connected(self) -> bool:
        """Whether the output carries any gradient with respect to the leaves."""
        return self._traced.program.connected

    @property
    def met(self) -> list[Met]:
        """Every operation between the output and the leaves, the last one first."""
        table = TABLES[self._rules.name]
        return [
            Met(step.operation, step.family, table.get(step.family or "", ""), step.place)
            for step in self._traced.program.met
        ]

    def against(self, function: Function, leaves: Leaves) -> Array:
        """Let the rules compare with another point from now on, and return f there.

        Raises:
            Unpaired: the function did other operations there, or of shapes that do not fit.
        """
        traced = self._machine.traced(function, leaves)
        same = traced.key == self._traced.key
        names = (
            {each: each for each in self._engine.kept}
            if same
            else rescale.paired(self._traced.program, traced.program)
        )
        kept = {name: own for name, own in names.items() if name in self._engine.kept}
        y, self._state.values0 = self._engine.forth(traced, leaves, kept)
        return y

    @property
    def boxed(self) -> list[LayerRule]:
        """The box rules of first layers."""
        return [] if self._engine.plan is None else self._engine.plan.boxed

    def bound(self, function: Function, low: Leaves, high: Leaves) -> None:
        """Tell the box rule what the least and the largest inputs are.

        Raises:
            Unpaired: the function does other operations there.
        """
        plan = self._engine.plan
        assert plan is not None
        names = {each: each for each in plan.bounded}
        ends: list[dict[int, Array]] = []
        for leaves in (low, high):
            traced = self._machine.traced(function, leaves)
            if traced.key != self._traced.key:
                raise Unpaired(
                    "the model does other operations for the least and the largest input than for this one"
                )
            ends.append(self._engine.forth(traced, leaves, names)[1])
        self._state.bounds = {each: (ends[0][each], ends[1][each]) for each in names}

    @property
    def kept(self) -> dict[str, float]:
        """How much relevance did not reach the leaves on all ways back so far, by what kept it."""
        return self._state.kept

    def pull(self, weights: Array | None, keep: bool) -> tuple[Array | None, ...]:
        """Return what reaches the leaves from weights on the outputs (None: ones); `keep` for another way back."""
        if not self.connected:
            return (None,) * len(self._leaves)
        y, values = self._forth
        state = self._state
        start = self._machine.ones(y) if weights is None else weights
        found, sums, notes = self._engine.back(self._traced.given, values, state.values0, state.bounds, start)
        for name, amount in sums.items():
            total = float(self._machine.functions.numpy(amount))
            state.kept[name] = state.kept.get(name, 0.0) + total
        state.notes.update(dict.fromkeys(notes))
        return found


def _told(program: Program) -> str:
    unknown = [step for step in program.met if step.family is None]
    first = unknown[0]
    at = "" if first.place.startswith("in ") else "at "
    where = f", called {at}{first.place}" if first.place else ""
    others = sorted({step.operation for step in unknown} - {first.operation})
    more = f" (and {', '.join(others)})" if others else ""
    return (
        f"no rule knows the operation {first.operation}{where}{more}; what it passes back cannot be vouched for. "
        'on_unknown="gradient" passes its plain derivative, with a note; a gradient method needs no rules'
    )
