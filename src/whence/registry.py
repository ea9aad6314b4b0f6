"""What a method is, and the one list of all of them: the command line, reports, docs and tests are made from it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from whence.errors import BadInput
from whence.naming import short, unknown

if TYPE_CHECKING:
    from whence.attribution import Attribution
    from whence.problem import Problem
    from whence.rule import Rules
    from whence.shares import Shares


class Method:
    """An attribution method's settings: a frozen dataclass that can be called like a function.

    It holds no model, no seed and no state, so one object serves many models and threads.
    """

    watches = False
    """Whether it asks for the gradient at a layer, once."""
    switches = False
    """Whether it only switches features on and off, so that whole numbers, words and missing values will do."""

    @property
    def slopes(self) -> bool:
        """Whether its numbers say how steeply the output changes, and not what a feature contributes to it."""
        return False

    @property
    def sizes(self) -> bool:
        """Whether its numbers say how much, and never for or against."""
        return False

    def placed(self, problem: Problem) -> Problem:
        """Return the problem at the site where this method hands out its shares: the caller's, if it has none."""
        return problem

    def rules(self) -> Rules | None:
        """Return the backward rules that it puts in the place of derivatives; None where it has none."""
        return None

    def attribute(self, problem: Problem) -> Shares:
        """Return the shares of every row of a problem."""
        raise TypeError(f"{type(self).__name__} is not a method of its own; choose one of whence.methods()")

    def __call__(self, model: Any, inputs: Any, **options: Any) -> Attribution:
        """Explain a model's output; `options` are those of `whence.explain`."""
        from whence.explainer import explain

        return explain(model, inputs, method=self, **options)


@dataclass(frozen=True)
class Record:
    """A registered method: its names, class, equation, citation, and what it requires of model and user.

    `name` is what code calls it, `title` what people read.
    """

    name: str
    cls: type[Method]
    equation: str
    citation: str
    needs: tuple[str, ...]
    title: str

    @property
    def summary(self) -> str:
        """The method in one sentence."""
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]

    @property
    def fields(self) -> dict[str, Any]:
        """The method's settings and their defaults."""
        return {each.name: each.default for each in dataclasses.fields(self.cls)}  # type: ignore[arg-type]


_records: dict[str, Record] = {}
M = TypeVar("M", bound=type[Method])


def register(
    name: str,
    equation: str,
    citation: str,
    needs: tuple[str, ...] = ("gradient",),
    title: str | None = None,
) -> Callable[[M], M]:
    """Put a method into the registry under its public name; its title is that name's words, if not another."""
    shown = title or name.replace("_", " ").capitalize()

    def enter(cls: M) -> M:
        _records[name] = Record(name, cls, equation, citation, needs, shown)
        # The dataclass's own would fail on arrays: neither can those be hashed, nor do they compare to one bool.
        cls.__eq__ = lambda self, other: type(self) is type(other) and _key(self) == _key(other)
        cls.__hash__ = lambda self: hash(_key(self))
        cls.__repr__ = _described
        return cls

    return enter


def _described(self: Any) -> str:
    """Return the call that makes the method again: arrays by their shape, no None where it is the default."""
    values = [(each, getattr(self, each.name)) for each in dataclasses.fields(self)]
    told = [f"{each.name}={short(v)}" for each, v in values if v is not None or each.default is not None]
    return f"{type(self).__name__}({', '.join(told)})"


def _key(method: Any) -> tuple[Any, ...]:
    fields = dataclasses.fields(method)
    return (type(method), *(_frozen(getattr(method, each.name)) for each in fields))


def _frozen(value: Any) -> Any:
    """Return something hashable that is equal for equal settings; an array is equal to itself alone."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((key, _frozen(part)) for key, part in value.items())
    return ("array", id(value)) if hasattr(value, "shape") and not isinstance(value, np.generic) else value


# Where the named methods stand, in the order in which people are shown them; importing them is what registers.
HOMES = (
    "gradient_methods", "path_methods", "expected_gradients", "sampler_methods", "rule_methods", "deconvolution",
    "relevance_methods", "cam_methods", "guided_gradcam", "switching_methods", "surrogate_methods", "shapley_methods",
    "rise_methods", "hierarchy_methods", "hessian_methods",
)  # fmt: skip


@cache
def _load() -> None:
    for home in HOMES:
        import_module(f"whence.{home}")


def methods() -> dict[str, Record]:
    """Return every registered method by name; a user's own come last."""
    _load()
    order = {f"whence.{home}": place for place, home in enumerate(HOMES)}
    ordered = sorted(_records.values(), key=lambda record: order.get(record.cls.__module__, len(order)))
    return {record.name: record for record in ordered}


def switching() -> list[str]:
    """Return the names of the methods that only switch features on and off."""
    return [name for name, record in methods().items() if record.cls.switches]


def name_of(method: Method) -> str:
    """Return the registered name of a method object."""
    for record in methods().values():
        if record.cls is type(method):
            return record.name
    return type(method).__name__


def build(method: Any, fields: dict[str, Any]) -> Method:
    """Return a method object from a name, a class or an object, with some of its fields set.

    `of` stands for a field `method` (`explain(model, x, "smoothgrad", of="sensitivity")`).

    Raises:
        BadInput: an unknown method or field; near names are offered.
    """
    if isinstance(method, Method):
        fields = _checked(type(method), fields)
        return dataclasses.replace(method, **fields) if fields else method  # type: ignore[type-var]
    if isinstance(method, str):
        known = methods()
        if method not in known:
            raise BadInput(unknown("method", method, known))
        method = known[method].cls
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise BadInput(f"method is {method!r}; give a name, a class or an object of whence.methods()")
    return method(**_checked(method, fields))


def _checked(cls: type[Method], fields: dict[str, Any]) -> dict[str, Any]:
    known = [each.name for each in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if "of" in fields and "method" in known and "of" not in known:
        # In whence.explain the word `method` is taken: there the method that another repeats is `of`.
        if "method" in fields:
            raise BadInput("of= and method= are the same option; give one of them")
        fields = {"method" if name == "of" else name: value for name, value in fields.items()}
    for field in fields:
        if field not in known:
            raise BadInput(unknown(f"option of {cls.__name__}", field, known))
    return fields
