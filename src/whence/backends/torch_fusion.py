"""A model split where its first affine operations end, so that they run for the two ends of a path and no other point.

The affine operations nearest to the input (reshapes, normalisation, a first layer) make an affine map z = A x + b, and
what the rest of the model consumes of it are the leaves z. On the line from x' to x the leaves are z' + α (z − z'),
so the path needs A only for its two ends, and Aᵀ once for the summed gradients.

The model is run as it is. Its inputs are `Standing` tensors, which report every function that is called with them.
A `Recording` finds out which calls are affine; a `Following` repeats the recorded calls and reads the leaves; a
`Replaying` computes none of the affine calls: empty tensors stand for their results, until a leaf takes their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float

from whence.backends import Leaves
from whence.backends.torch_recording import Recording
from whence.backends.torch_standing import Axes, Following, Function, Replaying, Script, Unfit

ROWS = 64
# From so many multiplications per leaf element on, the affine part outweighs the traffic of larger leaves.
WORTH = 100


@dataclass(frozen=True)
class Costs:
    """What fusion saves and what it moves instead, all for one row.

    Attributes:
        inputs: elements of x.
        leaves: elements of z.
        multiply_adds: multiplications of the affine part (products, convolutions, linear layers).
        operations: how many of its operations compute something, other than copies and rearrangements.
    """

    inputs: int
    leaves: int
    multiply_adds: int
    operations: int

    @property
    def pay(self) -> bool:
        """Whether the affine part is worth leaving out: the leaves are no larger than the input, or it is costly."""
        light = self.leaves <= self.inputs or self.multiply_adds > WORTH * self.leaves
        return self.operations > 0 and light


@dataclass(frozen=True, eq=False)
class Split:
    """f(x) = head(A x + b): the head runs alone, at leaves z [n, ...] in place of inputs x [n, ...]."""

    function: Function
    script: Script
    inputs: tuple[Leaves, Leaves]
    rows: int
    costs: Costs
    _idle: dict[int, list[Replaying]] = field(default_factory=dict[int, list[Replaying]])

    @property
    def pays(self) -> bool:
        """Whether the affine part is worth leaving out."""
        return self.costs.pay

    @property
    def multiplications(self) -> float:
        """How many multiplications the affine part takes for each element of a leaf."""
        return self.costs.multiply_adds / max(1, self.costs.leaves)

    def template(self) -> Split:
        """Return what can be remembered for other inputs: no tensor, no model."""
        return replace(self, function=_nothing, inputs=((), ()))

    def again(self, function: Function, start: Leaves, end: Leaves) -> Split:
        """Return the same split of a function that runs the same operations, on paths with other ends; not tested."""
        return replace(self, function=function, inputs=(start, end))

    @property
    def start(self) -> Leaves:
        """The leaves z [B, ...] at the start, detached; see `ends`."""
        return self.ends[0]

    @property
    def end(self) -> Leaves:
        """The leaves z [B, ...] at the end, detached; see `ends`."""
        return self.ends[1]

    @cached_property
    def ends(self) -> tuple[Leaves, Leaves]:
        """The leaves at start and end, computed when first asked for, `rows` examples at a time.

        Raises:
            Diverged: at one of these points the model takes another way than when it was recorded.
        """
        start, end = (self._leaves_at(inputs) for inputs in self.inputs)
        return start, end

    def _leaves_at(self, inputs: Leaves) -> Leaves:
        batch = inputs[0].shape[0]
        parts: list[Leaves] = []
        for first in range(0, batch, self.rows):
            index = np.arange(first, min(first + self.rows, batch))
            leaves = tuple(leaf[first : first + self.rows] for leaf in inputs)
            with torch.no_grad():
                parts.append(Following(self.script).run(self.function, leaves, index))
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    def leaves(self, x: Leaves, index: np.ndarray) -> Leaves:
        """Return the leaves [n, ...] at other inputs x [n, ...], detached.

        Raises:
            Diverged: the model takes another way than when it was recorded.
        """
        with torch.no_grad():
            return Following(self.script).run(self.function, x, index)

    def value(self, z: Leaves, index: np.ndarray) -> Float[torch.Tensor, "n *classes"]:
        """Return f at leaves z [n, ...], differentiable in them; `index` [n] is each row's example.

        Raises:
            Diverged: the model takes another way than when it was recorded.
        """
        idle = self._idle.setdefault(len(index), [])
        try:
            # A replay serves one thread at a time; whoever finds none makes one.
            replay = idle.pop()
        except IndexError:
            replay = Replaying(self.script, len(index))
        y = replay.run(self.function, z, index)
        idle.append(replay)
        return y

    def pull(self, cotangents: Leaves, index: np.ndarray) -> Leaves:
        """Return Aᵀ times cotangents [n, ...] of the leaves: gradients [n, ...] of the inputs.

        Raises:
            Diverged: the model takes another way than when it was recorded.
        """
        with torch.enable_grad():
            # The map is the same at every x; the examples' own starts are points that the model can digest.
            x = tuple(_rows(leaf, index).requires_grad_() for leaf in self.inputs[0])
            z = Following(self.script).run(self.function, x, index)
            return _gradient(z, cotangents, x)


def split(
    function: Function, start: Leaves, end: Leaves, rows: int = ROWS, only_if_pays: bool = False
) -> Split | None:
    """Split a function at the end of its first affine operations; None where that cannot be done with certainty.

    `function(leaves, index)` runs the model on floats [n, ...] of the examples `index` [n] and returns f [n] or [n, K].
    `start` and `end` are the ends [B, ...] of the examples' paths; leaves at the ends are computed `rows` at a time.
    The split is tested against the function itself at the first example: values, gradients, that z is affine in x and
    that each row depends on itself alone. With `only_if_pays` one run of the model on two rows tells if to go on.
    """
    if not _suits(start) or not _suits(end):
        return None
    for rows_first in (False, True):
        try:
            with torch.enable_grad():
                return _split(function, (start, end), rows, rows_first, only_if_pays)
        except _RowsMoved:
            # Some models end their affine part with a transposition, for a cell or an attention: cut before it.
            continue
        except Exception:
            # Whatever a model does that was not foreseen, the plain engine can still do.
            return None
    return None


class _RowsMoved(Unfit):
    """Rows are not on axis 0 of a leaf."""


def _suits(leaves: Leaves) -> bool:
    return all(leaf.is_floating_point() and leaf.ndim and leaf.shape[0] and leaf.numel() for leaf in leaves)


def _split(
    function: Function, ends: tuple[Leaves, Leaves], rows: int, rows_first: bool, only_if_pays: bool
) -> Split | None:
    start, end = (tuple(leaf.detach() for leaf in each) for each in ends)
    index = np.zeros(2, dtype=np.int64)
    points = tuple(torch.stack((b[0], (a[0] + b[0]) / 2)) for a, b in zip(start, end, strict=True))
    recording = Recording(rows_first)
    script = recording.run(function, points, index)
    inputs = sum(leaf[0].numel() for leaf in start)
    costs = Costs(inputs, recording.elements // 2, recording.multiply_adds // 2, recording.operations)
    if only_if_pays and not costs.pay:
        return None
    script, z = _measured(script, function, (start, end, points))
    found = Split(function, script, (start, end), rows, costs)
    _require_equal(found, points, z, index)
    return found


def _measured(
    script: Script, function: Function, given: tuple[Leaves, Leaves, Leaves]
) -> tuple[Script, Leaves]:
    """Return the script with the shapes for any number of rows, and the leaves at the two points, end and middle.

    Tests on other points that the map to the leaves is affine and works row by row.
    """
    generator = torch.Generator().manual_seed(0)
    probes: list[torch.Tensor] = []
    for start, end, _ in zip(*given, strict=True):
        a, b = start[0], end[0]
        noise = torch.randn(b.shape, dtype=torch.float64, generator=generator).to(b)
        far = b + ((b - a).abs().max() or 1.0) * noise
        probes.append(torch.stack((a, b, far, (2 * a - 3 * b + 5 * far) / 4)))
    four, two = Following(script), Following(script)
    with torch.no_grad():
        z = four.run(function, tuple(probes), np.zeros(4, dtype=np.int64))
        pair = two.run(function, given[2], np.zeros(2, dtype=np.int64))
    for leaf, alone in zip(z, pair, strict=True):
        if leaf.shape[0] != 4 or alone.shape != (2, *leaf.shape[1:]):
            raise _RowsMoved("rows are not on axis 0 of a leaf")
        allowed = _tolerance(leaf)[1] * leaf.abs().max().item()
        _require_close(leaf[3], (2 * leaf[0] - 3 * leaf[1] + 5 * leaf[2]) / 4, allowed)
        _require_close(torch.stack((leaf[1], (leaf[0] + leaf[1]) / 2)), alone, allowed)
    return replace(script, shapes=_scaled(four.shapes, two.shapes)), pair


def _scaled(four: Sequence[torch.Size], two: Sequence[torch.Size]) -> tuple[Axes, ...]:
    """Return each axis as (fixed, per row), from the shapes for four rows and for two."""

    def axis(large: int, small: int) -> tuple[int, int]:
        if large == small:
            return large, 0
        if large != 2 * small or large % 4:
            raise Unfit("a shape does not grow with the rows")
        return 0, large // 4

    return tuple(
        tuple(axis(*each) for each in zip(large, small, strict=True))
        for large, small in zip(four, two, strict=True)
    )


def _require_equal(split: Split, points: Leaves, leaves: Leaves, index: np.ndarray) -> None:
    """Test values and gradients of the split against the function's own."""
    x = tuple(leaf.clone().requires_grad_() for leaf in points)
    y = split.function(x, index)
    weights = torch.linspace(1, 2, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
    expected = _gradient((y,), (weights,), x)
    z = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    again = Replaying(split.script, len(index), suspicious=True).run(split.function, z, index)
    if again.shape != y.shape:
        raise Unfit("the shape of the output differs")
    slopes = _gradient((again,), (weights,), z)
    found = split.pull(slopes, index)
    tight, relative = _tolerance(y)
    # The size of the terms that f is summed from: it may itself be near 0.
    terms = sum((g * leaf).abs().sum().item() for g, leaf in zip(expected, points, strict=True))
    _require_close(again, y, tight * (y.abs().max().item() + terms))
    for one, other in zip(found, expected, strict=True):
        _require_close(one, other, relative * other.abs().max().item())


def _nothing(leaves: Leaves, index: np.ndarray) -> torch.Tensor:
    raise Unfit("a template has no function")


def _tolerance(reference: torch.Tensor) -> tuple[float, float]:
    """Return what counts as equal for the same sum in another order, and for a gradient."""
    accuracy = torch.finfo(reference.dtype).eps
    known = {torch.float64: 1e-10, torch.float32: 1e-4}
    return 64 * accuracy, known.get(reference.dtype, 16 * accuracy)


def _require_close(one: torch.Tensor, other: torch.Tensor, allowed: float) -> None:
    if one.numel() and not (one - other).abs().max().item() <= allowed:
        raise Unfit("the split does not give the function's own numbers")


def _gradient(outputs: Leaves, weights: Leaves, inputs: Leaves) -> Leaves:
    # Not by `grad_outputs`: with them torch imports a symbolic algebra, a third of a second once a process.
    total = torch.stack([(y * weight).sum() for y, weight in zip(outputs, weights, strict=True)]).sum()
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def _rows(leaf: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    return leaf.index_select(0, torch.as_tensor(index, device=leaf.device)).detach()


__all__ = ["Costs", "Split", "split"]
