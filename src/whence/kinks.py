"""Integrated Hessians of piecewise-linear networks, exactly: their Hessian is what their gradient jumps by at kinks.

A neuron that switches at u and lets the gradient jump by δ adds (−u ln u) (Δ_A·δ_A)(Δ_B·δ_B)/(δ·Δ). Where several
switch at once (equal patches, a black background), their jumps must be told apart: so two more lines are walked, to
inputs that lie a little beside x on either side, where they switch one after the other. What that little changes
cancels between the sides, but for its square; and the rows are those of the line itself.

All this is a matter of float64: a model in a lower precision is walked on a copy in float64, where one can be had.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from whence import exact, precision
from whence.backends import Array
from whence.errors import Refused
from whence.exact_pieces import Found
from whence.hessians import Pairs, Rows, Stretch
from whence.precision import Wide

# Rows are walked together as far as the pieces of each, guessed at so many, stay within these bytes.
MEMORY, GUESS = 2**28, 4096
# Jumps of so many rounding errors of the gradients are none.
NOISE = 4
# So many tilts apart the shares of a tilted line still count as those of the line itself.
CLOSE = 1e4
# The relative error up to which the pairs count as exact, as for Integrated Gradients.
AGREEMENT = 1e-3
# How far beside x the other lines end, as a power of the rounding error: far enough to part kinks that coincide by
# many rounding errors, and so near that nothing else changes. Rounding errors above SINGLE are those of float32 or
# less, and above HALF of half precision.
TILT, SINGLE, HALF = 0.6, 1e-12, 1e-6


@dataclass(frozen=True)
class Bends:
    """The pairs and the shares of single features, from the pieces of one line, and what came out of them."""

    matrix: Float[np.ndarray, "rows *K d d"]
    rows: Float[np.ndarray, "rows *K d"]
    lost: Float[np.ndarray, "rows *K"]
    error: Float[np.ndarray, "rows *K"]
    pieces: Int[np.ndarray, "rows"]
    evaluations: Int[np.ndarray, "rows"]


def integrate(stretch: Stretch, draw: int, most: int, wide: Wide | None) -> Pairs:
    """Return the shares of pairs, whose rows are Integrated Gradients to rounding; `wide` is the model in float64.

    Raises:
        Refused: the network is not piecewise linear along the line, not finite there, or in half precision alone.
    """
    rows = np.arange(len(stretch.problem.rows))
    if stretch.rounding <= SINGLE:
        return _together([_in_parts(stretch, rows, draw, most, "")])
    asked = precision.asked(stretch, wide)
    alike, others = rows[asked.alike], rows[~asked.alike]
    if len(others) and stretch.rounding > HALF:
        raise Refused(
            "integrated Hessians tell kinks apart by their places, which half precision cannot, and the model could "
            f"not be run in float64 ({asked.hindrance}); use float32 or float64"
        )
    found: list[Pairs] = []
    if len(alike):
        stretch.problem.run.record["precision"] = "float64"
        found.append(_in_parts(asked.stretch, alike, draw, most, ""))
    if len(others):
        found.append(_in_parts(stretch, others, draw, most, asked.hindrance))
    return _together(found, np.argsort(np.concatenate([alike, others])))


def _in_parts(stretch: Stretch, rows: Rows, draw: int, most: int, hindrance: str) -> Pairs:
    """Return the pairs of some rows, as many at once as memory holds."""
    classes = int(np.prod(stretch.problem.output.shape[1:], dtype=int))
    together = max(1, MEMORY // (8 * GUESS * stretch.count * classes))
    parts = np.split(rows, range(together, len(rows), together))
    return _together([_told_apart(stretch.part(some), draw, most, hindrance) for some in parts])


def _together(parts: list[Pairs], order: Rows | None = None) -> Pairs:
    columns = [np.concatenate(each) for each in zip(*(vars(part).values() for part in parts), strict=True)]
    return Pairs(*(columns if order is None else (each[order] for each in columns)))


def _told_apart(stretch: Stretch, draw: int, most: int, hindrance: str) -> Pairs:
    """Walk the line, and those on both sides of it: where these see something else, theirs is the answer."""
    tilt, coarse = stretch.rounding**TILT, stretch.rounding > SINGLE
    plain = _walked(stretch, most // 3)
    sides = [_walked(_tilted(stretch, draw, each), most // 3) for each in (tilt, -tilt)]
    middle = (sides[0].matrix + sides[1].matrix) / 2
    size = _total(plain.matrix)
    many = np.full(len(size), coarse)
    for side in sides:
        away = _total(side.matrix - plain.matrix) > CLOSE * tilt * size
        many |= (side.pieces != plain.pieces) | away.reshape(len(away), -1).any(1)
    apart = _total(sides[0].matrix - sides[1].matrix) / 2 + sides[0].lost + sides[1].lost
    if coarse:
        # In single precision even the line's own kinks are not where they seem to be.
        apart = np.maximum(apart, _total(middle - plain.matrix))
    chosen = many.reshape(-1, *(1,) * (size.ndim - 1))
    matrix = np.where(chosen[..., None, None], middle, plain.matrix)
    # What lies beside the line has other rows, by a little or by rounding: the line's own are the right ones.
    rest = plain.rows - matrix.sum(-1)
    diagonal = np.arange(stretch.count)
    matrix[..., diagonal, diagonal] += rest
    moved = np.abs(rest).sum(-1)
    total = _total(matrix)
    doubt = _relative(np.where(chosen, np.maximum(apart, moved), plain.lost), total)
    error = np.maximum.reduce([plain.error, doubt, *(np.where(chosen, side.error, 0) for side in sides)])
    _say(stretch, doubt, hindrance)
    evaluations = plain.evaluations + sides[0].evaluations + sides[1].evaluations
    return Pairs(matrix, error, evaluations, error <= AGREEMENT)


def _say(stretch: Stretch, doubt: Float[np.ndarray, "rows *K"], hindrance: str) -> None:
    """Tell the user why the pairs of some rows are not exact, where it is not for want of evaluations.

    The hindrance is why they were not found in float64.
    """
    wrong = np.flatnonzero((doubt > AGREEMENT).reshape(len(doubt), -1).any(1))
    if not len(wrong):
        return
    example = stretch.problem.rows[wrong[0]]
    stretch.problem.run.note(
        "integrated Hessians: single precision cannot tell close kinks apart, and the pairs are as rough as the error "
        f"says; in float64 the model could not be run ({hindrance}): mend that, or give it and its inputs in float64"
        if hindrance
        else f"integrated Hessians: the path of example {example} runs along a kink, or through a corner of several "
        "(equal numbers tie in a maximum): the pairs depend on who wins there, and the error says by how much; "
        "features of several numbers each mind it less"
    )


def _total(matrix: Float[np.ndarray, "rows *K d d"]) -> Float[np.ndarray, "rows *K"]:
    return np.abs(matrix).sum((-1, -2))


def _tilted(stretch: Stretch, draw: int, tilt: float) -> Stretch:
    """Return the ways to inputs that lie beside x: every Δ_i times its own 1 + tilt ξ_i, ξ in [−1, 1]."""
    problem, ops = stretch.problem, stretch.problem.ops
    generator = problem.random("kinks", draw)

    def moved(begin: Array, way: Array) -> Array:
        factor = 1 + tilt * generator.uniform(-1, 1, (1, *way.shape[1:]))
        return begin + way * ops.like(factor, way)

    point = tuple(moved(begin, way) for begin, way in zip(stretch.start, stretch.ways, strict=True))
    there = problem.part(np.arange(len(problem.rows)))
    there.__dict__["point"] = point
    return Stretch(there, stretch.features, stretch.start)


def _walked(stretch: Stretch, most: int) -> Bends:
    """Return what the kinks of one straight line add up to."""
    shares, found = exact.walked(stretch.problem, stretch.start, max(1, most), stretch)
    shape, count = stretch.problem.output.shape, stretch.count
    matrix, rows = np.zeros((*shape, count, count)), np.zeros((*shape, count))
    lost, pieces = np.zeros(shape), np.zeros(len(shares.evaluations), dtype=np.int64)
    noise = NOISE * stretch.rounding
    # A point on a border belongs to no piece.
    inside = found.weight > 0
    for row in np.unique(found.row):
        mine = np.flatnonzero(inside & (found.row == row))
        pieces[row] = len(mine)
        matrix[row], rows[row], lost[row] = _bent(found, mine, noise)
    assert shares.error is not None
    return Bends(matrix, rows, lost, shares.error, pieces, shares.evaluations)


def _bent(found: Found, mine: Rows, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of one row, its shares, and how much of the pairs rounding leaves open."""
    held = np.moveaxis(found.held[mine], 0, -2)
    ends = np.minimum(np.concatenate([[0], np.cumsum(found.weight[mine])]), 1)
    ends[-1] = 1
    falling = np.where(ends > 0, -ends * np.log(np.where(ends > 0, ends, 1)), 0)
    jumps = np.diff(held, axis=-2)
    along, size = jumps.sum(-1), np.abs(jumps).sum(-1)
    least = noise * np.abs(held).sum(-1).max(-1, keepdims=True, initial=0) + np.finfo(float).tiny
    clear = np.abs(along) > least
    weight = falling[1:-1] / np.where(clear, along, np.inf)
    matrix = np.swapaxes(jumps * weight[..., None], -1, -2) @ jumps
    diagonal = np.arange(held.shape[-1])
    matrix[..., diagonal, diagonal] += np.diff(ends + falling) @ held
    # A jump along which nothing is seen to change; in single precision, every jump by its rounding error.
    open_ended = ~clear & (size > least) if noise < SINGLE else size > least
    reach = np.maximum(np.abs(along), least)
    lost = np.where(open_ended, falling[1:-1] * size**2 * np.minimum(1, least / reach) / reach, 0).sum(-1)
    return matrix, np.diff(ends) @ held, lost


def _relative(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.where(part > 0, np.inf, 0.0), where=whole > 0)
