"""The path driver: A = ∫₀¹ ∇f(x(α)) ⊙ dx/dα dα, chunk by chunk, to a tolerance or with a fixed rule.

Whatever the number of nodes, the memory is a few arrays of the batch's size and one chunk: gradients are folded
into running sums as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from whence.attribution import Trace
from whence.backends import Array, Leaves, Operations
from whence.errors import Refused
from whence.moments import Running
from whence.path import Points
from whence.problem import Problem
from whence.quadrature import FIRST_LEVEL, RULES, Level, Name, nested, of_doubling
from whence.shares import Shares, norms

DEFAULT_RTOL = 0.02
DEFAULT_MAX_EVALUATIONS = 1024
DEFAULT_STEPS = 50
# With random nodes an example has converged when its estimated error times this is within the tolerance: that
# estimate is of the expected error, and a promise should hold for nearly all examples, not for the mean one.
SAFETY = 1.25
MONTE_CARLO_FIRST = 64
# The mean absolute value of a normal variable of unit variance: from standard errors to an expected L1 error.
HALF_NORMAL = np.sqrt(2 / np.pi)


@dataclass(frozen=True)
class Accuracy:
    """How the integral is taken: which quadrature, with how many nodes, or to which tolerance."""

    quadrature: Name = "tolerance"
    steps: int | None = None
    rtol: float = DEFAULT_RTOL
    max_evaluations: int = DEFAULT_MAX_EVALUATIONS

    def levels(self, random: np.random.Generator) -> Iterator[Level]:
        """Yield the nodes to be visited, level by level."""
        if self.quadrature in RULES:
            yield Level(*RULES[self.quadrature](self.steps or min(DEFAULT_STEPS, self.max_evaluations)))
        elif self.quadrature == "monte_carlo":
            yield from self._random_levels(random)
        else:
            yield from nested(max(1, min(FIRST_LEVEL, self.max_evaluations)))

    def _random_levels(self, random: np.random.Generator) -> Iterator[Level]:
        if self.steps is not None:
            yield Level(random.random(self.steps), np.full(self.steps, 1 / self.steps))
            return
        done, count = 0, min(MONTE_CARLO_FIRST, self.max_evaluations)
        while True:
            done += count
            yield Level(random.random(count), np.full(count, 1 / done), keep=1 - count / done)
            count = min(done, max(1, self.max_evaluations - done))


class Sums:
    """Σ w c over the contributions c of each row."""

    def __init__(self, ops: Operations, shape: tuple[int, ...], like: Array) -> None:
        self.ops, self.total = ops, ops.zeros(shape, like)

    def fold(self, rows: slice, position: np.ndarray, weights: np.ndarray, flat: Array) -> Callable[[], None]:
        """Add contributions [n, d]; `weights` is [rows, n], zero where a contribution is another row's.

        Nothing is written before what this returns is called: memory may run out until then, and the chunk is
        tried again.
        """
        part = self.total[rows]
        new = part + (self.ops.like(weights, flat) @ flat).reshape(part.shape)

        def write() -> None:
            self.total[rows] = new

        return write


class _Spread(Sums):
    """Mean and spread of the contributions of each row, for random nodes of equal weight."""

    def __init__(self, ops: Operations, shape: tuple[int, ...], like: Array) -> None:
        super().__init__(ops, shape, like)
        self.running = Running(np.zeros(shape[0]), self.total, ops.zeros(shape, like))

    def fold(self, rows: slice, position: np.ndarray, weights: np.ndarray, flat: Array) -> Callable[[], None]:
        """Merge contributions [n, d] of equal weight into the rows' moments, once the result is called."""
        ops, shape = self.ops, self.total[rows].shape
        belongs = ops.like(weights > 0, flat)
        count = (weights > 0).sum(1).astype(np.float64)
        mean = (belongs @ flat) / ops.like(count[:, None], flat)
        centred = flat - ops.take(mean, position)
        squares = (belongs @ (centred * centred)).reshape(shape)
        return self.running.merge(ops, rows, count, mean.reshape(shape), squares)


@dataclass
class _Sweep:
    """One level's answer for the active examples: sums per leaf, and f and its derivative at the nodes."""

    sums: list[Sums]
    output: np.ndarray
    derivative: np.ndarray


def integrate(problem: Problem, points: Points, accuracy: Accuracy, draw: int = 0) -> Shares:
    """Integrate the gradient along a curve for every row of a problem.

    Each example leaves the batch when its estimated error is within the tolerance; the rest go on, compacted.

    Raises:
        Refused: a gradient is not finite; the message names the node and the example.
    """
    rows = len(problem.rows)
    state = _State(problem, random=accuracy.quadrature == "monte_carlo")
    active = np.arange(rows)
    for level in accuracy.levels(problem.random("nodes", draw)):
        if state.nodes and state.used + len(level.nodes) > accuracy.max_evaluations:
            break
        sweep = _sweep(problem, points, level, active, state.used, state.random)
        error = state.add(level, active, sweep)
        if accuracy.steps is not None or accuracy.quadrature in RULES:
            state.converged[:] = True
            break
        if error is None:
            continue
        state.converged[active] = (SAFETY if state.random else 1.0) * error <= accuracy.rtol
        active = active[~state.converged[active].reshape(len(active), -1).all(1)]
        if not len(active):
            break
    return state.shares()


def _sweep(
    problem: Problem,
    points: Points,
    level: Level,
    active: Int[np.ndarray, "active"],
    first_node: int,
    random: bool,
) -> _Sweep:
    """Visit every (active example, node) pair, example by example, in chunks."""
    count, nodes = len(active), len(level.nodes)
    ops, every = problem.ops, _class_shape(problem)
    kind = _Spread if random else Sums
    sums = [kind(ops, (count, *every, *leaf.shape[1:]), ops.wide(leaf[:1])) for leaf in problem.point]
    output = np.zeros((count * nodes, *every))
    derivative = np.zeros_like(output)

    def work(start: int, stop: int) -> Array:
        pair = np.arange(start, stop)
        position, node = pair // nodes, pair % nodes
        where, velocity = points(level.nodes[node], active[position], node + first_node)
        y, gradients = problem.vjp(where, active[position])
        first, last = int(position[0]), int(position[-1]) + 1
        weights = np.zeros((last - first, len(pair)))
        weights[position - first, np.arange(len(pair))] = level.weights[node]
        slope = 0.0
        writes: list[Callable[[], None]] = []
        for mine, gradient, speed in zip(sums, gradients, velocity, strict=True):
            part = ops.wide(gradient) * ops.wide(speed[:, None] if every else speed)
            flat = part.reshape(len(pair), -1)
            writes.append(mine.fold(slice(first, last), position - first, weights, flat))
            slope = slope + part.reshape(*y.shape, -1).sum(-1)
        output[start:stop], derivative[start:stop] = ops.numpy(y), ops.numpy(slope)
        for write in writes:
            write()
        problem.run.progress.advance(len(pair))
        return y

    problem.run.progress.expect(count * nodes)
    problem.run.chunks.run(problem.run.backend, count * nodes, work)
    shape = (count, nodes, *every)
    sweep = _Sweep(sums, output.reshape(shape), derivative.reshape(shape))
    _require_finite(sweep, level, problem.rows[active])
    return sweep


def _require_finite(sweep: _Sweep, level: Level, examples: np.ndarray) -> None:
    for values, name in ((sweep.output, "output"), (sweep.derivative, "gradient")):
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            row, node = wrong[0][:2]
            raise Refused(
                f"the model's {name} is not finite at α = {level.nodes[node]:.6g} on the path of example "
                f"{examples[row]}; "
                "its attribution is undefined: choose another baseline, or mend the model there"
            )


def _class_shape(problem: Problem) -> tuple[int, ...]:
    return problem.output.shape[1:]


def sum_axes(problem: Problem) -> int:
    """Return how many leading axes a sum over features keeps: the batch, and the classes where all are explained."""
    return problem.output.ndim


class _State:
    """The running result of all examples while levels come in."""

    def __init__(self, problem: Problem, random: bool) -> None:
        ops, every, rows = problem.ops, _class_shape(problem), len(problem.rows)
        kind = _Spread if random else Sums
        self.problem, self.random, self.used = problem, random, 0
        self.sums = [kind(ops, (rows, *every, *leaf.shape[1:]), ops.wide(leaf[:1])) for leaf in problem.point]
        self.error = np.full((rows, *every), np.nan)
        self.change = np.full((rows, *every), np.nan)
        self.converged = np.zeros((rows, *every), dtype=bool)
        self.evaluations = np.zeros(rows, dtype=np.int64)
        self.nodes: list[np.ndarray] = []
        self.trace: dict[str, list[np.ndarray]] = {"weights": [], "output": [], "derivative": []}

    def add(self, level: Level, active: np.ndarray, sweep: _Sweep) -> np.ndarray | None:
        """Fold one level in; return the estimated error of the active examples, None where nothing tells it yet."""
        if self.used == 0 and not self.random:
            # The first level is the whole sum so far; there is nothing yet to compare it with.
            self.sums = sweep.sums
            self._record(level, active, sweep)
            return None
        pairs = list(zip(self.sums, sweep.sums, strict=True))
        change = sum(self._fold(mine, new, level, active) for mine, new in pairs)
        self._record(level, active, sweep)
        size = sum(self._size(mine.total, active) for mine in self.sums)
        if self.random:
            error = sum(self._size(each, active) for each in self._deviations()) * HALF_NORMAL
        else:
            error = np.maximum(of_doubling(np.asarray(change), self.change[active]), self._jumps(active))
            self.change[active] = change
        self.error[active] = _relative(np.asarray(error), np.asarray(size))
        return self.error[active]

    def _fold(self, mine: Sums, new: Sums, level: Level, active: np.ndarray) -> np.ndarray:
        """Take one leaf's new sums in, and return by how much its values changed (L1)."""
        ops = self.problem.ops
        # A copy: `take` may give a view, and the sums are written in place below.
        before = ops.take(mine.total, active) + 0
        if isinstance(mine, _Spread) and isinstance(new, _Spread):
            mine.running.merge(ops, active, new.running.count, new.running.mean, new.running.squares)()
        else:
            ops.put(mine.total, active, before * level.keep + new.total)
        return norms(ops, ops.take(mine.total, active) - before, sum_axes(self.problem))

    def _size(self, values: Array, active: np.ndarray) -> np.ndarray:
        return norms(self.problem.ops, self.problem.ops.take(values, active), sum_axes(self.problem))

    def _record(self, level: Level, active: np.ndarray, sweep: _Sweep) -> None:
        rows, nodes = len(self.converged), len(level.nodes)
        for weights in self.trace["weights"]:
            weights[active] *= level.keep
        full = np.full((rows, nodes), np.nan)
        full[active] = level.weights
        self.trace["weights"].append(full)
        for name, values in (("output", sweep.output), ("derivative", sweep.derivative)):
            full = np.full((rows, nodes, *values.shape[2:]), np.nan)
            full[active] = values
            self.trace[name].append(full)
        self.nodes.append(level.nodes)
        self.used += nodes
        self.evaluations[active] += nodes

    def _jumps(self, active: np.ndarray) -> np.ndarray:
        """Return the error of the sum of the values, which that of the values cannot be below.

        A jump δ of the derivative somewhere in a cell of width h costs δh/√12. With a few jumps two sums may agree
        by luck; this tells.
        """
        nodes = np.concatenate(self.nodes)
        order = np.argsort(nodes)
        slopes = np.concatenate([part[active] for part in self.trace["derivative"]], axis=1)[:, order]
        widths = np.diff(nodes[order]).reshape(-1, *(1,) * (slopes.ndim - 2))
        return np.sqrt(((np.diff(slopes, axis=1) * widths) ** 2).sum(1) / 12)

    def _deviations(self) -> list[Array]:
        """Return the standard error of each value."""
        return [
            each.running.error_of_mean(self.problem.ops) for each in self.sums if isinstance(each, _Spread)
        ]

    def shares(self) -> Shares:
        """Return the finished integrals."""
        estimated = not np.isnan(self.error).all()
        return Shares(
            values=tuple(each.total for each in self.sums),
            error=self.error if estimated else None,
            standard_error=tuple(self._deviations()) if self.random else None,
            evaluations=self.evaluations,
            converged=self.converged,
            trace=self._sorted_trace(),
        )

    def _sorted_trace(self) -> Trace:
        nodes = np.concatenate(self.nodes)
        order = np.argsort(nodes, kind="stable")
        parts = {name: np.concatenate(values, axis=1)[:, order] for name, values in self.trace.items()}
        spread = np.broadcast_to(nodes[order], parts["weights"].shape)
        return Trace(nodes=np.where(np.isnan(parts["weights"]), np.nan, spread), **parts)


def _relative(error: Float[np.ndarray, "..."], size: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return error / size, and zero where both vanish: an input equal to its baseline has an exact answer."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, 0.0, error / size)


def completed(problem: Problem, shares: Shares, start: Leaves) -> Shares:
    """Return the shares with their residual against f(x) − f(x')."""
    return shares.with_residual(problem, problem.value(start))
