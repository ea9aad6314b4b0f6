"""What a metric is, and the one list of all of them: the study, the command line and the docs are made from it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from whence.errors import BadInput
from whence.metrics.score import Better, Score
from whence.naming import short, unknown

if TYPE_CHECKING:
    from whence.metrics.judged import Judged

Family = Literal["faithfulness", "robustness", "randomisation", "complexity", "localisation", "axioms"]
FAMILIES: tuple[Family, ...] = (
    "faithfulness", "robustness", "randomisation", "complexity", "localisation", "axioms",
)  # fmt: skip


class Metric:
    """A metric's settings: a frozen dataclass that can be called like a function."""

    def judge(self, judged: Judged) -> Score:
        """Return the score of every example of an open question; each metric counts and notes for itself."""
        judged.forget()
        return self.scored(judged)

    def scored(self, judged: Judged) -> Score:
        """What a metric of one's own defines: the score of every example, by `self.score(judged, values)`."""
        raise TypeError(
            f"{type(self).__name__} is not a metric of its own; choose one of metrics.registered()"
        )

    def __call__(self, model: Any, inputs: Any, explanation: Any = None, **options: Any) -> Score:
        """Judge explanations of a model's output; the arguments are those of `whence.metrics.judged`."""
        from whence.metrics.judged import judged

        with judged(model, inputs, explanation, **options) as open_question:
            return self.judge(open_question)

    def score(self, judged: Judged, values: Any, **more: Any) -> Score:
        """Return values [B] as a score of this metric, with what the question has noted."""
        record = record_of(self)
        spent = more.pop("evaluations", None)
        return Score(
            metric=record.name,
            values=values,
            better=record.better,
            notes=[*judged.notes, *more.pop("notes", [])],
            evaluations=None if spent is None else spent.copy(),
            settings={"metric": repr(self), "seed": judged.seed, "target": judged.description},
            **more,
        )


@dataclass(frozen=True)
class Record:
    """A registered metric: its names, class, family, equation, citation, and what it requires.

    `needs` holds "method" (it explains again), "mask" (the right place is known), "weights" (it changes the model's
    parameters), "gradient"; without them it needs the explanation and the model alone. `better` is "higher", "lower"
    or None.
    """

    name: str
    cls: type[Metric]
    family: Family
    equation: str
    citation: str
    better: Better
    needs: tuple[str, ...]
    title: str

    @property
    def summary(self) -> str:
        """The metric in one sentence."""
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]

    @property
    def arrow(self) -> str:
        """Which way explanations are better: ↑ higher, ↓ lower; empty where neither is."""
        return {"higher": "↑", "lower": "↓", None: ""}[self.better]


_records: dict[str, Record] = {}
M = TypeVar("M", bound=type[Metric])


def register(
    name: str, family: Family, equation: str, citation: str, better: Better,
    needs: tuple[str, ...] = (), title: str | None = None,
) -> Callable[[M], M]:  # fmt: skip
    """Put a metric into the registry under its public name; its title is that name's words, if not another."""
    shown = title or name.replace("_", " ").capitalize()

    def enter(cls: M) -> M:
        _records[name] = Record(name, cls, family, equation, citation, better, needs, shown)
        cls.__repr__ = _described
        return cls

    return enter


def _described(self: Any) -> str:
    values = ((each.name, getattr(self, each.name)) for each in dataclasses.fields(self))
    return f"{type(self).__name__}({', '.join(f'{name}={short(v)}' for name, v in values)})"


# Where the metrics stand, in the order in which people are shown them; importing them is what registers.
HOMES = (
    "removal", "road", "infidelity", "correlations", "sufficiency", "completeness", "robustness", "stability",
    "randomisation", "random_logit", "complexity", "localisation", "axioms",
)  # fmt: skip


@cache
def _load() -> None:
    for home in HOMES:
        import_module(f"whence.metrics.{home}")


def registered() -> dict[str, Record]:
    """Return every registered metric by name, family by family."""
    _load()
    order = {f"whence.metrics.{home}": place for place, home in enumerate(HOMES)}
    ordered = sorted(_records.values(), key=lambda record: order.get(record.cls.__module__, len(order)))
    return {record.name: record for record in ordered}


def record_of(metric: Metric) -> Record:
    """Return the record of a metric object."""
    for record in _records.values():
        if record.cls is type(metric):
            return record
    raise BadInput(
        f"{type(metric).__name__} is not registered; decorate it with whence.metrics.register(...)"
    )


def build(metric: Any, fields: dict[str, Any] | None = None) -> Metric:
    """Return a metric object from a name, a class or an object, with some of its fields set.

    Raises:
        BadInput: an unknown metric or field; near names are offered.
    """
    given = fields or {}
    if isinstance(metric, str):
        known = registered()
        if metric not in known:
            raise BadInput(unknown("metric", metric, known))
        metric = known[metric].cls
    cls = metric if isinstance(metric, type) else type(metric)
    if not issubclass(cls, Metric):
        raise BadInput(
            f"metric is {short(metric)}; give a name, a class or an object of metrics.registered()"
        )
    known_fields = [each.name for each in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in given:
        if name not in known_fields:
            raise BadInput(unknown(f"option of {cls.__name__}", name, known_fields))
    if isinstance(metric, type):
        return metric(**given)
    return dataclasses.replace(metric, **given) if given else metric  # type: ignore[type-var]
