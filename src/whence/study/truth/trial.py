"""A method tried on a case: its maps and score, or why it has none."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from whence import registry
from whence.attribution import Attribution
from whence.errors import WhenceError, WorkFailed
from whence.study.truth import axioms
from whence.study.truth.axioms import Check, Maps
from whence.study.truth.case import Case, torch_part
from whence.study.truth.catalogue import every
from whence.study.truth.methods import CHUNK, fields
from whence.study.truth.scoring import Score, score

NOT_FINITE: Final = "its values are not finite"
AGREES: Final = 1e-9
"""Up to here a network's answer is that of its case's function."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What came of one method on one case.

    Attributes:
        method, case: their names.
        score: how near the right answer it is; None where there are no maps.
        maps: what it said [n, ...]; None where it said nothing.
        refused: why it does not apply.
        failed: what went wrong: that is no property of the method's idea.
        checks: the axioms that the case tries.
        seconds: what the explanation took.
        unsigned: whether the maps have no sign.
    """

    method: str
    case: str
    score: Score | None = None
    maps: np.ndarray | None = None
    refused: str = ""
    failed: str = ""
    checks: tuple[Check, ...] = ()
    seconds: float = 0.0
    unsigned: bool = False


@dataclass(eq=False)
class Bench:
    """Tries methods on cases; networks and maps are made once.

    Attributes:
        seed: of all random draws.
        quick: fewer samples.
        examples: how many examples of each case; None for all.
    """

    seed: int = 0
    quick: bool = False
    examples: int | None = None
    models: dict[str, Any] = field(default_factory=dict[str, Any])
    tried: dict[tuple[str, str], tuple[Trial, Maps | None]] = field(
        default_factory=dict[tuple[str, str], "tuple[Trial, Maps | None]"]
    )

    def trial(self, method: str, case: Case) -> Trial:
        """Return a method's trial on a case with every axiom that it can be held to there."""
        found, maps = self._alone(method, case)
        if maps is None:
            return found
        return replace(found, checks=(*axioms.checks(maps), *self._between(method, maps)))

    def _alone(self, method: str, case: Case) -> tuple[Trial, Maps | None]:
        if (method, case.name) not in self.tried:
            self.tried[method, case.name] = self._tried(method, case.first(self.examples))
        return self.tried[method, case.name]

    def _tried(self, method: str, case: Case) -> tuple[Trial, Maps | None]:
        began = time.perf_counter()
        try:
            chosen = registry.build(method, fields(method, case, self.quick))
            result = self._explained(chosen, case)
        except WorkFailed:
            raise
        except WhenceError as problem:
            return Trial(method, case.name, refused=short(problem)), None
        except Exception as problem:
            return Trial(method, case.name, failed=f"{type(problem).__name__}: {short(problem)}"), None
        trial = Trial(method, case.name, seconds=time.perf_counter() - began, unsigned=chosen.sizes)
        wrong = _wrong(result, case)
        if wrong:
            return replace(trial, failed=wrong), None
        maps = _maps(result, case)
        values = maps.values.reshape(case.inputs.shape)
        points = score(case, values, unsigned=trial.unsigned, spread=maps.spread)
        return replace(trial, maps=values, score=points), maps

    def _explained(self, chosen: registry.Method, case: Case) -> Attribution:
        """Explain a case, once its network has been seen to compute its function."""
        inputs = torch_part("torch_truth").tensor(case.inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = chosen(self._model(case), inputs, target=case.target, seed=self.seed, chunk=CHUNK)
        away = float(np.abs(np.asarray(result.output, dtype=np.float64) - case.function(case.inputs)).max())
        if not away <= AGREES:
            raise WorkFailed(
                f"the network of {case.name} is off its own function by {away:.2g}; please report this"
            )
        return result

    def _between(self, method: str, maps: Maps) -> list[Check]:
        """Return the axioms that compare a case with others, which are tried for it where nobody asked for them."""
        found: list[Check] = []
        case = maps.case
        if case.same_as:
            _, other = self._alone(method, every()[case.same_as])
            found += [] if other is None else [axioms.implementation(maps, other)]
        if case.sum_of:
            parts = [(factor, self._alone(method, every()[name])[1]) for factor, name in case.sum_of]
            known = [(factor, part) for factor, part in parts if part is not None]
            found += [axioms.linearity(maps, known)] if len(known) == len(parts) else []
        return found

    def _model(self, case: Case) -> Any:
        if case.name not in self.models:
            self.models[case.name] = case.model()
        return self.models[case.name]


def _wrong(result: Attribution, case: Case) -> str:
    """Return what makes a result one that cannot be scored."""
    values = np.asarray(result.values)
    if values.shape != case.inputs.shape:
        return f"its map is {list(values.shape)} and the input {list(case.inputs.shape)}"
    return "" if np.isfinite(values).all() else NOT_FINITE


def _maps(result: Attribution, case: Case) -> Maps:
    count = len(case.inputs)
    values = np.asarray(result.values, dtype=np.float64).reshape(count, -1)
    # Rows with fewer features than others end in NaN; what stands on the map itself is finite.
    total = (
        values.sum(1)
        if result.shares is None
        else np.nansum(np.asarray(result.shares, dtype=np.float64), axis=1)
    )
    # A standard error that is not known allows nothing.
    spread = (
        None
        if result.standard_error is None
        else np.nan_to_num(np.asarray(result.standard_error), nan=0.0, posinf=0.0)
    )
    return Maps(case, values, total, None if spread is None else spread.reshape(count, -1))


def short(problem: BaseException) -> str:
    """Return the first clause of a message."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text.partition("; ")[0].partition(". ")[0].removesuffix(".")
