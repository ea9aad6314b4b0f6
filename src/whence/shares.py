"""What a method gives back before it is wrapped for the user: values per leaf, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from whence.attribution import Trace
from whence.backends import Array, Leaves, Operations

if TYPE_CHECKING:
    from whence.problem import Problem


@dataclass(frozen=True)
class Shares:
    """The values of every row, [n, ...] per leaf (or [n, K, ...]), in at least float32; see Attribution.

    `features` [n, d] (or [n, K, d]) is one share per feature, where features are groups; `fidelity` [n] how well a
    surrogate fits, and `interactions` [n, d, d] the shares of pairs. Rows with fewer features than others end in NaN.
    """

    values: Leaves
    evaluations: np.ndarray
    error: np.ndarray | None = None
    standard_error: Leaves | None = None
    converged: np.ndarray | None = None
    baseline_output: np.ndarray | None = None
    residual: np.ndarray | None = None
    trace: Trace | None = None
    output: np.ndarray | None = None
    interrupted: bool = False
    features: np.ndarray | None = None
    fidelity: np.ndarray | None = None
    interactions: np.ndarray | None = None

    def reordered(self, ops: Operations, rows: np.ndarray) -> Shares:
        """Return the shares of some rows, in another order."""

        def taken(leaves: Leaves | None) -> Leaves | None:
            return None if leaves is None else tuple(ops.take(leaf, rows) for leaf in leaves)

        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        arrays = {name: part[rows] for name, part in parts.items() if isinstance(part, np.ndarray)}
        trace = self.trace and Trace(*(getattr(self.trace, part.name)[rows] for part in fields(Trace)))
        return replace(
            self, **arrays, values=taken(self.values), standard_error=taken(self.standard_error), trace=trace
        )

    def with_residual(self, problem: Problem, baseline_output: np.ndarray) -> Shares:
        """Return the shares with residual = Σ shares − (f(x) − f(x')), in float64."""
        every = problem.output.ndim
        total = sum(sums(problem.ops, leaf, every) for leaf in self.values)
        residual = total - (problem.output - baseline_output)
        return replace(
            self, output=problem.output, baseline_output=baseline_output, residual=np.asarray(residual)
        )


def joined(ops: Operations, parts: list[Shares]) -> Shares:
    """Return the shares of consecutive groups of rows as one."""
    if len(parts) == 1:
        return parts[0]

    def rows(name: str) -> np.ndarray | None:
        found = [getattr(part, name) for part in parts]
        return None if any(each is None for each in found) else np.concatenate(found)

    def ragged(name: str, axes: int) -> np.ndarray | None:
        found = [getattr(part, name) for part in parts]
        if any(each is None for each in found):
            return None
        most = max(each.shape[-1] for each in found)

        def padded(each: np.ndarray) -> np.ndarray:
            missing = [(0, 0)] * (each.ndim - axes) + [(0, most - each.shape[-1])] * axes
            return np.pad(each, missing, constant_values=np.nan)

        return np.concatenate([padded(each) for each in found])

    return Shares(
        values=tuple(ops.concatenate(leaf) for leaf in zip(*(part.values for part in parts), strict=True)),
        evaluations=np.concatenate([part.evaluations for part in parts]),
        error=rows("error"),
        converged=rows("converged"),
        output=rows("output"),
        baseline_output=rows("baseline_output"),
        residual=rows("residual"),
        standard_error=_joined_errors(ops, parts),
        trace=_joined_trace([part.trace for part in parts if part.trace is not None]),
        interrupted=parts[-1].interrupted,
        features=ragged("features", 1),
        fidelity=rows("fidelity"),
        interactions=ragged("interactions", 2),
    )


def _joined_errors(ops: Operations, parts: list[Shares]) -> Leaves | None:
    """Return the standard errors of all rows: of those that are exact among others that are sampled they are 0."""
    if all(part.standard_error is None for part in parts):
        return None
    each = [part.standard_error or tuple(leaf * 0 for leaf in part.values) for part in parts]
    return tuple(ops.concatenate(leaf) for leaf in zip(*each, strict=True))


def _joined_trace(traces: list[Trace]) -> Trace | None:
    longest = max((each.nodes.shape[1] for each in traces), default=0)

    def padded(values: np.ndarray) -> np.ndarray:
        missing = longest - values.shape[1]
        return np.pad(values, [(0, 0), (0, missing), *[(0, 0)] * (values.ndim - 2)], constant_values=np.nan)

    names = [part.name for part in fields(Trace)]
    return (
        Trace(*(np.concatenate([padded(getattr(each, name)) for each in traces]) for name in names))
        if traces
        else None
    )


def sums(ops: Operations, values: Array, keep: int) -> np.ndarray:
    """Return the sum over all axes after the first `keep`, in float64."""
    shape = tuple(values.shape[:keep])
    return ops.numpy(values).astype(np.float64).reshape(*shape, -1).sum(-1)


def norms(ops: Operations, values: Array, keep: int) -> np.ndarray:
    """Return the L1 norm over all axes after the first `keep`, in float64."""
    shape = tuple(values.shape[:keep])
    return ops.numpy(abs(values).reshape(*shape, -1).sum(-1)).astype(np.float64)
