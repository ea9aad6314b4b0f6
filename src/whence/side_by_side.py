"""compare(): the same inputs explained by several methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whence import registry
from whence.attribution import Attribution
from whence.errors import Refused, UnsupportedByBackend
from whence.explainer import explain
from whence.registry import Method, build, name_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Comparison(Mapping[str, Attribution]):
    """The results of several methods on the same inputs, by name, and why some methods did not run."""

    results: dict[str, Attribution]
    skipped: dict[str, str] = field(default_factory=dict[str, str])

    def __getitem__(self, name: str) -> Attribution:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def plot(self, row: int = 0) -> Figure:
        """Draw every method's map of one example in one figure."""
        from whence import view

        return view.comparison_figure(self.results, row)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write one self-contained HTML report of all methods."""
        from whence import report

        return report.write(self.results, path, skipped=self.skipped, **options)

    def _repr_png_(self) -> bytes:
        from whence import view

        return view.png(self.plot())


def compare(
    model: Any,
    inputs: Any,
    methods: Sequence[str | Method] | None = None,
    *,
    background: Any = None,
    **options: Any,
) -> Comparison:
    """Explain the same inputs by several methods (None: all that work here), each with its defaults.

    Args:
        model: as in `explain`.
        inputs: as in `explain`.
        methods: names or objects of methods; those that were named must work, or their error is raised.
        background: rows of a data set, for methods that need one.
        **options: the other arguments of `explain`.

    Returns:
        A Comparison: a mapping from names to results, with `skipped` saying why others did not run.
    """
    named = methods is not None
    results: dict[str, Attribution] = {}
    skipped: dict[str, str] = {}
    for each in methods if methods is not None else list(registry.methods()):
        name, method = _with_background(each, background)
        try:
            results[_free_name(name, results)] = explain(model, inputs, method, **options)
        except (Refused, UnsupportedByBackend) as problem:
            if named:
                raise
            skipped[name] = str(problem)
    if not results:
        raise Refused(
            "no method can explain this model: " + "; ".join(f"{k}: {v}" for k, v in skipped.items())
        )
    return Comparison(results, skipped)


def _with_background(each: str | Method, background: Any) -> tuple[str, Method]:
    method = build(each, {})
    name = name_of(method)
    record = registry.methods().get(name)
    needs = record is not None and "background" in record.needs
    if needs and background is not None and getattr(method, "baseline", None) is None:
        method = build(method, {"baseline": background})
    return name, method


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    numbered = (f"{name} ({i})" for i in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbered if each not in taken)
