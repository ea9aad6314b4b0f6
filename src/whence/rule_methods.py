"""Methods of one way back through the model, by other rules than the derivative's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whence.backends import Array, Leaves, Ruled
from whence.background import DataSet
from whence.baseline import resolve, strata
from whence.chunk import Chunks
from whence.counts import whole
from whence.errors import CUT, NoGradient, Refused, Unpaired
from whence.expected_gradients import rows_or_baseline
from whence.naming import floating
from whence.problem import NO_DEPENDENCE, Problem, unit
from whence.registry import Method, register
from whence.rule import Rules
from whence.run import Rows
from whence.sampler import Stratum, average
from whence.shares import Shares, joined, norms, sums
from whence.site import Parameter

# The chunk that is tried first: so many rows, or values of the input.
MOST_ROWS, MEMORY = 64, 500_000
# Of Σ|shares| or of f: what rounding may leave of the sum, by the floating type.
ROUNDING = {"float16": 0.1, "bfloat16": 0.5, "float32": 1e-4}
Answer = Callable[[Problem, Ruled], Shares]
Function = Callable[[Leaves], Array]


def by_rules(
    problem: Problem,
    rules: Rules,
    answer: Answer,
    function: Callable[[Problem, Rows], Function] | None = None,
    ways: int = 1,
) -> Shares:
    """Return what `answer` makes of the ruled function, chunk of rows by chunk of rows.

    `function` makes another function of a chunk's problem and its rows than the explained one; `ways` is how many ways
    back there will be.
    """
    run = problem.run
    rules = replace(rules, on_unknown=run.on_unknown)
    if isinstance(problem.site, Parameter) and rules.name in ("rescale", "relevance"):
        raise Refused(
            f"DeepLIFT and LRP carry back what inputs and layers gave, and {problem.site.words} is neither; use "
            "integrated_gradients or input_x_gradient"
        )
    parts: dict[int, Shares] = {}

    def chunk(start: int, stop: int) -> Array:
        index = np.arange(start, stop)
        part = _unpadded(problem.part(index))
        explained = part.evaluate_all if function is None else function(part, index)
        with run.backend.ruled(run.session, explained, part.point, rules) as ruled:
            if not ruled.connected:
                if part.reacts():
                    raise NoGradient(CUT)
                run.note(NO_DEPENDENCE)
            parts[start] = _finite(part, answer(part, ruled))
            for note in ruled.notes:
                run.note(note)
            return ruled.value

    # Recording has a price for each chunk, whatever its size.
    begin = max(1, min(MOST_ROWS, MEMORY // max(1, problem.features)))
    run.chunks.run(run.backend, len(problem.rows), chunk, (rules.name, ways), begin)
    return joined(problem.ops, [parts[start] for start in sorted(parts)])


def _unpadded(part: Problem) -> Problem:
    """Return a question whose model is given just these rows: rules look at the rows of every array."""
    run, known = part.run, part.__dict__.get("point")
    if not run.backend.compiled:
        return part
    alone = replace(part, run=replace(run, chunks=Chunks(fixed=len(part.rows))))
    if known is not None:
        alone.__dict__["point"] = known
    return alone


def _finite(problem: Problem, shares: Shares) -> Shares:
    for leaf in shares.values:
        if not problem.ops.is_finite(leaf):
            raise Refused(
                "what the rules pass back to the input is not finite (NaN or infinity); nothing can be shared"
            )
    return shares


def passed_back(problem: Problem, ruled: Ruled, last: bool = True) -> Leaves:
    """Return what the rules pass back to the site, [n, ...], or [n, K, ...] for every class."""
    ops, y = problem.ops, ruled.value
    if not problem.every_class:
        return problem.filled(ruled.pull(None, not last), problem.point)
    classes = range(y.shape[1])
    columns = [
        problem.filled(ruled.pull(unit(ops, y, k), not last or k + 1 < len(classes)), problem.point)
        for k in classes
    ]
    return tuple(ops.stack(each, 1) for each in zip(*columns, strict=True))


def plain(problem: Problem, ruled: Ruled) -> Shares:
    """Return what the rules pass back as it is."""
    wide = tuple(problem.ops.wide(leaf) for leaf in passed_back(problem, ruled))
    output = problem.ops.numpy(ruled.value).astype(np.float64)
    return Shares(wide, np.ones(len(problem.rows), dtype=np.int64), output=output)


@register(
    "guided_backprop",
    "A = ∂f/∂x with max(g, 0) · 1[h > 0] in place of each ReLU's derivative",
    "Springenberg, Dosovitskiy, Brox, Riedmiller 2015, arXiv:1412.6806",
    needs=("gradient", "relu"),
    title="Guided backprop",
)
@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The gradient, of which every ReLU passes back only what is positive and where it was open.

    It shows sharp edges, and depends little on the class and on the upper layers' weights (Adebayo et al. 2018,
    arXiv:1810.03292): judge it by that.
    """

    @property
    def slopes(self) -> bool:
        return True

    def rules(self) -> Rules:
        return Rules("guided")

    def attribute(self, problem: Problem) -> Shares:
        return by_rules(problem, self.rules(), plain)


@register(
    "deeplift",
    "A = m ⊙ (x − x'), Σ m Δh = Δy at every operation",
    "Shrikumar, Greenside, Kundaje 2017, arXiv:1704.02685 (rescale rule)",
    title="DeepLIFT",
)
@dataclass(frozen=True)
class DeepLift(Method):
    """What the difference from the baseline did, carried back by difference quotients: shares sum to f(x) − f(x').

    Every operation has a rule of its own that keeps the sum exact: also products, attention, norms, softmax, maxima
    and recurrent cells.

    Attributes:
        baseline: what "absent" means; None is black for pictures in pixels, else 0; several are averaged.
    """

    baseline: Any = None

    def rules(self) -> Rules:
        return Rules("rescale")

    def attribute(self, problem: Problem) -> Shares:
        return _rescaled(problem, resolve(self.baseline, problem.run.pictures))


@register(
    "deepshap",
    "A = mean over x' of m(x, x') ⊙ (x − x')",
    "Lundberg, Lee 2017, arXiv:1705.07874; Chen, Lundberg, Lee 2022, Nature Communications 13",
    needs=("gradient", "background"),
    title="DeepSHAP",
)
@dataclass(frozen=True)
class DeepShap(Method):
    """DeepLIFT averaged over the rows of a background data set: shares sum to f(x) − mean f(x').

    Attributes:
        baseline: rows of a data set, whence.baseline.dataset(rows) or an array of rows.
        samples: how many of the rows, drawn by the seed; None is all. The standard error says what they are worth.
    """

    baseline: Any = None
    samples: int | None = None

    def rules(self) -> Rules:
        return Rules("rescale")

    def attribute(self, problem: Problem) -> Shares:
        if self.baseline is None and problem.run.backend.differentiable:
            raise Refused("deepshap needs a background: baseline=whence.baseline.dataset(rows)")
        background = rows_or_baseline(self.baseline, problem.run.pictures)
        if self.samples is not None and isinstance(background, DataSet):
            background = replace(background, samples=whole(self.samples, "deepshap: samples"))
        return _rescaled(problem, background)


def _rescaled(problem: Problem, baseline: Any) -> Shares:
    """Return DeepLIFT's shares, averaged over a baseline's draws; the input's own run serves all of them."""
    draws = [Stratum(count, random=is_random) for count, is_random in strata(baseline)]

    def answer(part: Problem, ruled: Ruled) -> Shares:
        def draw(number: int) -> Shares:
            return _against(part, ruled, baseline.start(part, number), number + 1 == baseline.draws)

        return average(part.ops, draws, draw)

    return by_rules(problem, Rules("rescale"), answer, ways=baseline.draws)


def _against(problem: Problem, ruled: Ruled, absent: Leaves, last: bool) -> Shares:
    """Return the shares counted from one baseline, [n, ...] at the inputs."""
    ops, y = problem.ops, ruled.value
    start = problem.project(absent)
    y0 = _compared(problem, ruled, start)
    multipliers = passed_back(problem, ruled, last)
    values: list[Array] = []
    for m, x, x0 in zip(multipliers, problem.point, start, strict=True):
        change = ops.wide(x) - ops.wide(x0)
        values.append(ops.wide(m) * (change[:, None] if problem.every_class else change))
    total = sum(sums(ops, leaf, y.ndim) for leaf in values)
    output, absent_output = (ops.numpy(each).astype(np.float64) for each in (y, y0))
    residual = np.asarray(total - (output - absent_output))
    size = np.asarray(sum(norms(ops, leaf, y.ndim) for leaf in values))
    largest = np.maximum(size, np.maximum(np.abs(output), np.abs(absent_output)))
    complete = np.abs(residual) <= ROUNDING.get(floating(y), 1e-9) * largest
    if not complete.all():
        problem.run.note(
            "the shares do not sum to f(x) − f(x'): part of the model lies beyond its graph (NumPy, .item(), no_grad, "
            "a place or mask that depends on the input); the residual holds what is missing"
        )
    return Shares(
        tuple(values),
        np.ones(len(problem.rows), dtype=np.int64),
        converged=complete,
        output=output,
        baseline_output=absent_output,
        residual=residual,
    )


def _compared(problem: Problem, ruled: Ruled, start: Leaves) -> Array:
    """Run the model at the baseline beside the input's run, and return f there.

    One row stands for all where they are alike and the model does not tell them apart.
    """
    if problem.site is None and len(problem.rows) > 1 and not problem.run.along and _alike(problem, start):
        with suppress(Unpaired):
            return ruled.against(problem.evaluate_one, tuple(leaf[:1] for leaf in start))
    try:
        return ruled.against(problem.evaluate_all, start)
    except Unpaired as reason:
        raise Refused(
            "deeplift compares the input with the baseline operation by operation, and the model takes another way "
            f"for each ({reason}); choose another baseline, or a method that follows a path"
        ) from None


def _alike(problem: Problem, leaves: Leaves) -> bool:
    return all(bool((leaf == leaf[:1]).all()) for leaf in leaves)
