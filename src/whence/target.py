"""Targets: from a model's output to the one number per example that is explained (or one per class)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whence.backends import Array, Operations
from whence.errors import BadInput
from whence.naming import short

Select = Callable[[Array, np.ndarray], Array]
Kind = Literal["logit", "probability", "log_probability", "margin", "loss"]


@dataclass(frozen=True, eq=False)
class Target:
    """A named number of the output; `whence.target.logit(k)` and its siblings make them.

    `index` and `other` are an int, one int per example, or None: the top class and the runner-up. `already` says
    whether the outputs are probabilities; None: whether each example's own output looks like them.
    """

    kind: Kind
    index: int | Sequence[int] | Array | None = None
    other: int | Sequence[int] | Array | None = None
    already: bool | None = None

    def __repr__(self) -> str:
        given = (self.index,) if self.other is None else (self.index, self.other)
        parts = [short(part) for part in given if len(given) > 1 or part is not None]
        parts += [] if self.already is None else [f"already={self.already}"]
        return f"{self.kind}({', '.join(parts)})"


@dataclass(frozen=True)
class Neuron:
    """A unit of a layer as the target: `index` walks the axes after the batch; axes left over are summed."""

    layer: str
    index: int | tuple[int, ...]
    call: int = 0

    def __repr__(self) -> str:
        return f"neuron({self.layer!r}, {self.index})"


@dataclass(frozen=True)
class Resolved:
    """A target fitted to one batch: `select(output, rows)` gives [n] (or [n, K]); `recorded` is what was explained.

    A `linear` one takes numbers out of the output, and adds them up with fixed weights at most.
    """

    select: Select
    recorded: Any
    description: str
    every_class: bool = False
    linear: bool = False


def logit(index: int | Sequence[int] | Array | None = None) -> Target:
    """Explain a raw output column (None: the top class of each example)."""
    return Target("logit", index)


def probability(index: int | Sequence[int] | Array | None = None, already: bool | None = None) -> Target:
    """Explain a class's probability: softmax of the outputs, unless they already are probabilities.

    An example's outputs are taken for probabilities where they lie in [0, 1] and sum to 1. A single output z is taken
    for the logit of "yes", with probability σ(z). `already` says it instead: True, they are; False, they are not.
    """
    return Target("probability", index, already=already)


def log_probability(index: int | Sequence[int] | Array | None = None, already: bool | None = None) -> Target:
    """Explain the logarithm of a class's probability; `already` as for `probability`."""
    return Target("log_probability", index, already=already)


def margin(
    index: int | Sequence[int] | Array | None = None, other: int | Sequence[int] | Array | None = None
) -> Target:
    """Explain f_index − f_other: why this class and not that one (None: the top class, the runner-up)."""
    return Target("margin", index, other)


def loss(labels: int | Sequence[int] | Array, already: bool | None = None) -> Target:
    """Explain the cross-entropy loss −log p(label), with one label per example (or one for all).

    A single output z has two labels: 1 (yes) with p = σ(z), and 0 (no) with 1 − p. `already` as for `probability`.
    """
    return Target("loss", labels, already=already)


def neuron(layer: str, index: int | tuple[int, ...], call: int = 0) -> Neuron:
    """Explain a unit inside the model: `index` in that layer's output, axes left over summed."""
    return Neuron(layer, index, call)


def resolve(target: Any, output: Array, ops: Operations) -> Resolved:
    """Fit a target to the output of the batch that is explained.

    Raises:
        BadInput: the target does not fit the output's shape, or a class is out of range.
    """
    if callable(target) and not isinstance(target, Target):
        return Resolved(_called(target, ops), None, getattr(target, "__name__", repr(target)))
    if output.ndim == 1 and not isinstance(target, Target):
        return _own(target, output)
    if isinstance(target, str):
        if target != "all":
            raise BadInput(
                f'target {target!r}: the only word is "all"; else an int, ints, or whence.target.…'
            )
        if output.ndim != 2:
            raise BadInput(
                f'target "all" needs an output [batch, classes]; this one is {tuple(output.shape)}'
            )
        return Resolved(lambda y, rows: y, "all", "every class", every_class=True)
    if isinstance(target, tuple):
        return _dense(target, output)
    if isinstance(target, Target):
        return _named(target, output, ops)
    if output.ndim != 2:
        raise BadInput(
            f"the output has shape {tuple(output.shape)}: give target= a tuple of {output.ndim - 1} ints (one place in "
            "it), or a callable that makes one number per example"
        )
    index = _indices(target, output, ops, "target")
    return Resolved(_column(index, ops), index, _describe("logit", index), linear=True)


def _own(target: Any, output: Array) -> Resolved:
    if isinstance(target, str) or (target is not None and np.asarray(target).any()):
        raise BadInput(
            f"target {target!r}: the output has one number per example, which is its own target; leave it out"
        )
    return Resolved(lambda y, rows: y, None, "the output", linear=True)


def _called(function: Callable[[Array], Array], ops: Operations) -> Select:
    def select(output: Array, rows: np.ndarray) -> Array:
        value = ops.own(function(ops.native(output)))
        if getattr(value, "shape", None) is None or tuple(value.shape) != (len(rows),):
            shape = getattr(value, "shape", type(value).__name__)
            raise BadInput(
                f"the target callable gave {shape} for {len(rows)} examples; it must give one number each"
            )
        return value

    return select


def _dense(target: tuple[Any, ...], output: Array) -> Resolved:
    shape = tuple(output.shape[1:])
    fits = len(target) == len(shape) and all(isinstance(part, (int, np.integer)) for part in target)
    if not fits:
        raise BadInput(
            f"target {target}: the output's axes after the batch are {shape}; give {len(shape)} ints"
        )
    for part, size in zip(target, shape, strict=True):
        if not -size <= part < size:
            raise BadInput(f"target {target} is out of range: the output's axes after the batch are {shape}")
    place = tuple(int(part) for part in target)
    return Resolved(lambda y, rows: y[(slice(None), *place)], place, f"output{list(place)}", linear=True)


def _named(target: Target, output: Array, ops: Operations) -> Resolved:
    if output.ndim == 1:
        output = output[:, None]
    if output.ndim != 2:
        raise BadInput(
            f"target {target!r} needs an output [batch, classes]; this one is {tuple(output.shape)}"
        )
    # Labels of a single output are no and yes: two columns, of which the model gives the second.
    both = target.kind == "loss" and output.shape[1] == 1
    index = _indices(
        target.index, ops.concatenate([output, output], 1) if both else output, ops, repr(target)
    )
    other = _runner_up(target, index, output, ops) if target.kind == "margin" else None
    already = (
        _are_probabilities(output, ops) if target.already is None else np.full(len(index), target.already)
    )
    column, against = _column(index, ops), _column(other, ops) if other is not None else None

    def select(y: Array, rows: np.ndarray) -> Array:
        y = y[:, None] if y.ndim == 1 else y
        if against is not None:
            return column(y, rows) - against(y, rows)
        if target.kind == "logit":
            return column(y, rows)
        if target.kind == "probability":
            return column(_chosen(ops, already[rows], y, _probabilities, y), rows)
        logarithms = _log_of_both if both else _log_probabilities
        complete = ops.concatenate([1 - y, y], 1) if both else y
        logarithm = _chosen(ops, already[rows], y, logarithms, complete, ops.log)
        return column(logarithm, rows) * (-1 if target.kind == "loss" else 1)

    linear = target.kind in ("logit", "margin")
    return Resolved(select, index, _describe(target.kind, index, other), linear=linear)


def _chosen(
    ops: Operations,
    already: np.ndarray,
    y: Array,
    made: Callable[[Array, Operations], Array],
    given: Array,
    finish: Callable[[Array], Array] | None = None,
) -> Array:
    """Return what is `made` of y [n, K], but for rows that hold probabilities `already`, which are taken as `given`."""
    if not already.any():
        return made(y, ops)
    finish = finish or (lambda values: values)
    if already.all():
        return finish(given)
    mask = ops.like(np.broadcast_to(already[:, None], tuple(given.shape)), given)
    # What is finished elsewhere, and thrown away, must not bring a NaN into the gradient: log 0.
    return ops.where(mask, finish(ops.where(mask, given, given * 0 + 1)), made(y, ops))


def _probabilities(y: Array, ops: Operations) -> Array:
    # A single column is a logit of "yes": softmax over one column would always say 1.
    return ops.sigmoid(y) if y.shape[1] == 1 else ops.softmax(y)


def _log_probabilities(y: Array, ops: Operations) -> Array:
    return _log_of_both(y, ops)[:, 1:] if y.shape[1] == 1 else ops.log_softmax(y)


def _log_of_both(y: Array, ops: Operations) -> Array:
    # log σ(z) is the log-softmax of (0, z), which does not underflow.
    return ops.log_softmax(ops.concatenate([y * 0, y], 1))


def _are_probabilities(output: Array, ops: Operations) -> np.ndarray:
    """Tell which rows [B] hold probabilities: each by itself, or an example would depend on its batch mates."""
    y = ops.numpy(output).astype(np.float64)
    if y.shape[1] == 1:
        # Nothing in one number tells a probability from a logit.
        return np.zeros(len(y), dtype=bool)
    return ((y >= 0) & (y <= 1)).all(1) & (np.abs(y.sum(1) - 1) <= 1e-3)


def _column(index: np.ndarray, ops: Operations) -> Select:
    same = int(index[0]) if len(index) and (index == index[0]).all() else None

    def select(y: Array, rows: np.ndarray) -> Array:
        if same is not None:
            return y[:, same]
        mask = np.zeros(tuple(y.shape), dtype=bool)
        mask[np.arange(len(rows)), index[rows]] = True
        return ops.where(ops.like(mask, y), y, ops.zeros(y.shape, y)).sum(1)

    return select


def _indices(index: Any, output: Array, ops: Operations, name: str) -> np.ndarray:
    batch, classes = output.shape
    if index is None:
        return ops.numpy(output).argmax(1)
    given = ops.numpy(index) if ops.is_array(index) else np.asarray(index)
    if given.dtype.kind not in "iu" or given.ndim > 1:
        raise BadInput(f"{name}: {short(index)} is not an int or one int per example")
    if given.ndim == 1 and len(given) != batch:
        raise BadInput(f"{name}: {len(given)} targets for {batch} examples")
    wrong = (
        given[(given < -classes) | (given >= classes)]
        if given.ndim
        else given[None][(given < -classes) | (given >= classes)]
    )
    if wrong.size:
        raise BadInput(
            f"{name}: class {int(wrong.flat[0])} is out of range; the model has {classes}, 0 to {classes - 1}"
        )
    return np.broadcast_to(given % classes, (batch,)).astype(np.int64)


def _runner_up(target: Target, index: np.ndarray, output: Array, ops: Operations) -> np.ndarray:
    if target.other is not None:
        return _indices(target.other, output, ops, repr(target))
    if output.shape[1] < 2:
        raise BadInput(f"{target!r}: a margin needs at least two classes")
    y = ops.numpy(output).astype(np.float64)
    y[np.arange(len(y)), index] = -np.inf
    return y.argmax(1)


def _describe(kind: str, index: np.ndarray, other: np.ndarray | None = None) -> str:
    def text(values: np.ndarray) -> str:
        unique = np.unique(values)
        return str(int(unique[0])) if len(unique) == 1 else "one per example"

    if kind == "margin" and other is not None:
        return f"margin of class {text(index)} over class {text(other)}"
    names = {
        "logit": "logit",
        "probability": "probability",
        "log_probability": "log-probability",
        "loss": "loss",
    }
    return f"{names[kind]} of class {text(index)}"
