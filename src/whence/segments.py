"""The path in segments, each refined on its own by nested trapezoids.

The nodes are equally spaced in u with α = u², which crowds them near the baseline, where gradients change most. In a
segment with n cells, `total` is the trapezoid sum and `change` what its last halving of the cells changed. No gradient
is computed twice or kept: the memory is these two, whatever the number of nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.attribution import Trace
from whence.backends import Array, Leaves
from whence.integrand import PROBES, Integrand
from whence.problem import Problem
from whence.visit import Visit, visit

SEGMENTS = 8
FIRST_CELLS = 2
Chosen = Int[np.ndarray, "chosen"]


@dataclass
class Nodes:
    """Every node so far: its row, its place u, and f and its derivative along the path there, [n] or [n, K]."""

    row: Int[np.ndarray, "n"]
    u: Float[np.ndarray, "n"]
    output: Float[np.ndarray, "n *classes"]
    slope: Float[np.ndarray, "n *classes"]

    def add(self, *new: np.ndarray) -> None:
        """Append nodes, given in the order of the fields."""
        old = (self.row, self.u, self.output, self.slope)
        self.row, self.u, self.output, self.slope = (
            np.concatenate(pair) for pair in zip(old, new, strict=True)
        )

    def sorted(self, rows: Int[np.ndarray, "rows"]) -> Nodes:
        """Return the nodes of some rows, row by row along the path."""
        mine = np.isin(self.row, rows)
        order = np.flatnonzero(mine)[np.lexsort((self.u[mine], self.row[mine]))]
        return Nodes(self.row[order], self.u[order], self.output[order], self.slope[order])


@dataclass
class Segments:
    """The running integrals of some rows of a problem.

    `total` and `change` are [rows, segments, (K), ...] per leaf of the integrand; `slope_total` and `slope_change` the
    same for the derivative along the path. `probed` holds the products of the change with random signs, `probed_before`
    those one halving earlier, NaN where there was none. `first` is how many cells each segment begins with, 2 or 4.
    """

    problem: Problem
    integrand: Integrand
    rows: Int[np.ndarray, "rows"]
    count: int = SEGMENTS
    first: int = FIRST_CELLS
    cells: Int[np.ndarray, "rows segments"] = field(init=False)
    total: Leaves = field(init=False)
    change: Leaves = field(init=False)
    slope_total: Float[np.ndarray, "rows segments *classes"] = field(init=False)
    slope_change: Float[np.ndarray, "rows segments *classes"] = field(init=False)
    probed: Float[np.ndarray, "rows segments classes probes"] = field(init=False)
    probed_before: Float[np.ndarray, "rows segments classes probes"] = field(init=False)
    nodes: Nodes = field(init=False)

    def __post_init__(self) -> None:
        """Visit the first cells of all segments: two nested trapezoids at once."""
        todo, u = self._first_visit()
        found = visit(self.problem, self.integrand, todo)
        rows = len(self.rows)
        self.cells = np.full((rows, self.count), self.first)
        halves = [leaf.reshape(rows, 2, self.count, *leaf.shape[1:]) for leaf in found.sums]
        self.total = tuple(leaf[:, 0] / 2 + leaf[:, 1] for leaf in halves)
        self.change = tuple(leaf[:, 1] - leaf[:, 0] / 2 for leaf in halves)
        self.nodes = Nodes(np.repeat(np.arange(rows), len(u)), np.tile(u, rows), found.output, found.slope)
        shape = (rows, self.count, self.first, *found.slope.shape[1:])
        height = found.slope.reshape(shape) * (2 * u).reshape(shape[1:3] + (1,) * (len(shape) - 3))
        self._first_slopes(height)
        self.probed = self._products(np.arange(rows))
        self.probed_before = np.full_like(self.probed, np.nan)

    def _first_visit(self) -> tuple[Visit, Float[np.ndarray, "grid"]]:
        rows, grid, each = len(self.rows), self.count * self.first, self.first
        k = np.arange(1, grid + 1)
        u, end, odd = k / grid, k % each == 0, k % 2 == 1
        inner = ~end & ~odd
        # An end lies in the segments to its left and right; any other in one. The baseline's weight is zero. The odd
        # nodes are the middles of the coarser cells, and have sums of their own.
        node = np.concatenate([k[end], k[end][:-1], k[inner], k[odd]]) - 1
        cell = np.concatenate(
            [k[end] // each - 1, k[end][:-1] // each, k[inner] // each, self.count + k[odd] // each]
        )
        # 2u du/2 for a coarse cell at its end, twice that between two; and 2u du for a middle, whose cells are half.
        times = np.repeat([1.0, 2.0, 1.0], [2 * end.sum() - 1, inner.sum(), odd.sum()])
        order = np.argsort(node, kind="stable")
        node, cell, times = node[order], cell[order], times[order]
        base = np.arange(rows)[:, None]
        todo = Visit(
            row=np.repeat(self.rows, grid),
            alpha=np.tile(u**2, rows),
            pair=(base * grid + node).ravel(),
            cell=(base * 2 * self.count + cell).ravel(),
            weight=np.tile(times * u[node] * 2 / grid, rows),
            cells=rows * 2 * self.count,
        )
        return todo, u

    def _first_slopes(self, height: Float[np.ndarray, "rows segments first *classes"]) -> None:
        """Take the trapezoids of 2u times the derivative, from each segment's nodes and the last of the one before."""
        before = np.concatenate([height[:, :1, -1] * 0, height[:, :-1, -1]], axis=1)
        points = np.concatenate([before[:, :, None], height], axis=2)

        def trapezoid(step: int) -> np.ndarray:
            inside = points[:, :, ::step].sum(2) - (points[:, :, 0] + points[:, :, -1]) / 2
            return inside * step / (self.count * self.first)

        self.slope_total = trapezoid(1)
        self.slope_change = self.slope_total - trapezoid(2)

    @property
    def features(self) -> int:
        """How many features each row has."""
        return self.problem.features

    @property
    def evaluations(self) -> Int[np.ndarray, "rows"]:
        """How many gradients each row has cost."""
        return self.cells.sum(1)

    def refine(self, chosen: Bool[np.ndarray, "rows segments"]) -> None:
        """Halve the cells of some segments."""
        row, segment = np.nonzero(chosen)
        cells = self.cells[row, segment]
        of = np.repeat(np.arange(len(row)), cells)
        inside = np.arange(len(of)) - np.repeat(np.cumsum(cells) - cells, cells)
        width = 1 / (self.count * cells[of])
        u = segment[of] / self.count + (inside + 0.5) * width
        found = visit(
            self.problem,
            self.integrand,
            Visit.plain(self.rows[row[of]], u**2, of, u * width, len(row)),
        )
        self.nodes.add(row[of], u, found.output, found.slope)
        pairs = [
            self._taken_in(total, change, new, row * self.count + segment)
            for total, change, new in zip(self.total, self.change, found.sums, strict=True)
        ]
        self.total, self.change = (tuple(each) for each in zip(*pairs, strict=True))
        added = np.zeros((len(row), *found.slope.shape[1:]))
        np.add.at(added, of, found.slope * (u * width).reshape(-1, *(1,) * (found.slope.ndim - 1)))
        half = self.slope_total[row, segment] / 2
        self.probed_before[row, segment] = self.probed[row, segment]
        self.slope_total[row, segment], self.slope_change[row, segment] = half + added, added - half
        self.cells[row, segment] *= 2
        touched = np.unique(row)
        self.probed[touched] = self._products(touched)

    def _taken_in(self, total: Array, change: Array, new: Array, place: Chosen) -> tuple[Array, Array]:
        ops = self.problem.ops
        flat, difference = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in (total, change))
        half = ops.take(flat, place) / 2
        both = ops.put(flat, place, half + new), ops.put(difference, place, new - half)
        return both[0].reshape(total.shape), both[1].reshape(change.shape)

    def shares(self, rows: Int[np.ndarray, "some"]) -> tuple[Leaves, Leaves]:
        """Return the shares of some rows, and by how much each segment's last halving changed them in all.

        Both are [some, (K), ...].
        """
        ops, twice = self.problem.ops, np.tile(self.rows[rows], 2)
        sums = tuple(
            ops.concatenate([self._of(leaf, rows).sum(1) for leaf in pair])
            for pair in zip(self.total, self.change, strict=True)
        )
        shares = self.integrand.shares(sums, twice)
        return tuple(leaf[: len(rows)] for leaf in shares), tuple(leaf[len(rows) :] for leaf in shares)

    def parts(self, rows: Int[np.ndarray, "some"]) -> Float[np.ndarray, "some segments"]:
        """Return the squared size of each segment's last change, as its part in the error, summed over the classes."""
        squares = (self.probed[rows] ** 2).sum(3)
        whole = squares.sum(1, keepdims=True)
        return (squares / np.where(whole > 0, whole, 1)).sum(2)

    def _products(self, rows: Int[np.ndarray, "some"]) -> Float[np.ndarray, "some segments classes probes"]:
        ops, products = self.problem.ops, 0.0
        for change, probe in zip(self.change, self._probes, strict=True):
            flat = self._of(probe, rows).reshape(len(rows), PROBES, -1)
            mine = self._of(change, rows).reshape(len(rows), -1, flat.shape[2])
            products = products + ops.numpy(mine @ ops.transpose(flat, (0, 2, 1))).astype(np.float64)
        return np.asarray(products).reshape(len(rows), self.count, -1, PROBES)

    @cached_property
    def _probes(self) -> Leaves:
        return self.integrand.probes(self.rows)

    def _of(self, leaf: Array, rows: Int[np.ndarray, "some"]) -> Array:
        return leaf if len(rows) == len(self.rows) else self.problem.ops.take(leaf, rows)

    def trace(self, smooth: Bool[np.ndarray, "rows *classes"]) -> Trace:
        """Return every node with the weight that it has in the result; rows with fewer nodes end in NaN."""
        every = np.arange(len(self.rows))
        nodes = self.nodes.sorted(every)
        extrapolated = np.asarray(smooth.reshape(len(smooth), -1).all(1))[nodes.row]
        place = np.arange(len(nodes.row)) - np.searchsorted(nodes.row, every)[nodes.row]
        shape = (len(every), int(self.evaluations.max(initial=0)))

        def spread(values: np.ndarray) -> np.ndarray:
            full = np.full((*shape, *values.shape[1:]), np.nan)
            full[nodes.row, place] = values
            return full

        weights = self._weights(nodes, extrapolated)
        return Trace(spread(nodes.u**2), spread(weights), spread(nodes.output), spread(nodes.slope))

    def _weights(self, nodes: Nodes, extrapolated: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Return 2u du: u times the widths of the cells on both sides; by Simpson's rule where extrapolated."""
        scaled = nodes.u * self.count
        right = np.minimum(np.floor(scaled + 1e-9).astype(int), self.count - 1)
        left = np.maximum(np.ceil(scaled - 1e-9).astype(int) - 1, 0)
        cells = self.cells[nodes.row, left]
        widths = 1 / cells + np.where(nodes.u < 1, 1 / self.cells[nodes.row, right], 0)
        weights = nodes.u * widths / self.count
        coarse = np.rint((scaled - left) * cells).astype(int) % 2 == 0
        return np.where(extrapolated, weights * np.where(coarse, 2 / 3, 4 / 3), weights)
