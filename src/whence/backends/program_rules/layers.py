"""The linear layers of a program: what they multiply with, and the batch norm that is folded into them."""

from __future__ import annotations

from dataclasses import dataclass

from whence.backends.arrays import Array
from whence.backends.program_rules.affine import alone, carried, channels_of, weight_of
from whence.backends.program_rules.functions import Functions
from whence.backends.program_rules.kinds import MOVES
from whence.backends.program_rules.program import Program, Step, Values
from whence.composite import Composite, LayerRule
from whence.errors import BadInput

# What stays above zero where its one operand is.
_KEEPING = MOVES | {"window_maximum", "reduce_maximum", "reduce_minimum", "reduce_sum", "reduce_mean"}


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear step z = Wx + b, its rule, and the batch norm that alone uses it, with the moves before that.

    `rectified` tells that x is never negative: it comes from a rectifier.
    """

    step: Step
    rule: LayerRule
    is_first: bool = False
    rectified: bool = False
    moves: tuple[Step, ...] = ()
    norm: Step | None = None

    @property
    def edge(self) -> int:
        """The position of what varies."""
        return self.step.moving[0]

    @property
    def operand(self) -> int:
        """The variable that varies."""
        return self.step.varied


@dataclass(frozen=True, eq=False)
class Linear:
    """A layer with its values: z̃ = scale · (Wx + b) + shift, as z̃ = W̃x + b̃."""

    layer: Layer
    functions: Functions
    x: Array
    z: Array
    weight: Array
    bias: Array | None
    scale: Array | None
    taken: tuple[Array, ...]

    @classmethod
    def of(cls, layer: Layer, functions: Functions, values: Values) -> Linear:
        """Return a layer with its values."""
        step = layer.step
        taken = tuple(values[each] for each in step.inputs)
        z, weight = values[step.outputs[0]], taken[weight_of(step)]
        scale, shift = _folded(layer, functions, values, z)
        own = step.settings.get("bias")
        bias = shift
        if own is not None:
            # What the layer gives of nothing, in the shape of what it gives.
            nothing = list(taken)
            nothing[layer.edge] = functions.zeros_like(taken[layer.edge])
            added = step.again(nothing)[0]
            added = added if scale is None else added * scale
            bias = added if shift is None else added + shift
        if scale is not None:
            z = z * scale
            weight = weight * _beside_weight(functions, step, scale, weight)
        z = z if shift is None else z + shift
        return cls(layer, functions, taken[layer.edge], z, weight, bias, scale, taken)

    def multiply(self, x: Array, weight: Array) -> Array:
        """Return another input times another weight, without a bias."""
        return self.layer.step.again(self._with(x, weight))[0]

    def back(self, x: Array, weight: Array, cotangent: Array) -> Array:
        """Return another weight's transpose times what comes back."""
        taken = self._with(x, weight)
        return self.functions.vjp(self.layer.step.again, taken, [self.layer.edge], [cotangent])[0]

    def _with(self, x: Array, weight: Array) -> list[Array]:
        step, taken = self.layer.step, list(self.taken)
        taken[self.layer.edge], taken[weight_of(step)] = x, weight
        bias = step.settings.get("bias")
        if bias is not None:
            taken[bias] = self.functions.zeros_like(taken[bias])
        return taken


def _folded(
    layer: Layer, functions: Functions, values: Values, z: Array
) -> tuple[Array | None, Array | None]:
    """Return scale and shift of a layer's batch norm, in the shape of what the layer gives."""
    if layer.norm is None:
        return None, None
    before = z
    for move in layer.moves:
        (before,) = move.again([before])
    taken = [values[each] if place else before for place, each in enumerate(layer.norm.inputs)]
    none, one = (layer.norm.again([each, *taken[1:]])[0] for each in (before * 0, before * 0 + 1))
    return tuple(_moved_back(functions, layer, z, each) for each in (one - none, none))  # pyright: ignore[reportReturnType]


def _moved_back(functions: Functions, layer: Layer, z: Array, array: Array) -> Array:
    """Return an array that is laid out as what the norm gives, laid out as what the layer gives."""
    if not layer.moves:
        return array

    def moved(values: list[Array]) -> tuple[Array, ...]:
        here = values[0]
        for move in layer.moves:
            (here,) = move.again([here])
        return (here,)

    return functions.vjp(moved, [z], [0], [array])[0]  # pyright: ignore[reportArgumentType]


def _beside_weight(functions: Functions, step: Step, scale: Array, weight: Array) -> Array:
    """Return the scale of a layer's units laid beside its weight."""
    pairs = channels_of(step)
    axes = [axis for axis, _ in pairs]
    # One element of each axis that is none of the units'.
    units = scale[tuple(slice(None) if axis in axes else 0 for axis in range(scale.ndim))]
    kept = sorted(axes)
    order = sorted(range(len(pairs)), key=lambda place: pairs[place][1])
    units = functions.transpose(units, tuple(kept.index(pairs[place][0]) for place in order))
    places = [pairs[place][1] for place in order]
    return units.reshape(tuple(size if axis in places else 1 for axis, size in enumerate(weight.shape)))


# ---- which layers there are, and their rules ---------------------------------------------------------------------


def layers(program: Program, composite: Composite) -> dict[int, Layer]:
    """Return the linear layers by what they give, each with its rule, in the order in which they run.

    Raises:
        BadInput: a rule is for a position that no layer has.
    """
    linear = [step for step in reversed(program.met) if step.family in ("dense", "convolution")]
    for number in composite.positions if linear else ():
        if not -len(linear) <= number < len(linear):
            raise BadInput(
                f"composite: there is no layer at position {number}; {len(linear)} take a rule here"
            )
    first = _first(program, linear)
    found: dict[int, Layer] = {}
    for position, step in enumerate(linear):
        is_first = step.outputs[0] in first
        rule = composite.chosen(step.module, position, len(linear), is_first, step.family)
        found[step.outputs[0]] = Layer(
            step, rule, is_first, _rectified(program, step.varied), *_tail(program, step)
        )
    return found


def _first(program: Program, linear: list[Step]) -> set[int]:
    """Return what the layers give that have no other between them and the leaves."""
    layered = {step.outputs[0] for step in linear}
    above: set[int] = set()
    for step in reversed(program.met):
        taken = [step.inputs[position] for position in step.moving]
        if any(each in layered or each in above for each in taken):
            above.update(step.outputs)
    return layered - above


def _rectified(program: Program, variable: int) -> bool:
    maker = program.makers.get(variable)
    while (
        maker is not None and (maker.kind in _KEEPING or maker.operation == "mean") and len(maker.moving) == 1
    ):
        maker = program.makers.get(maker.varied)
    return maker is not None and maker.kind == "relu"


def _tail(program: Program, layer: Step) -> tuple[tuple[Step, ...], Step | None]:
    """Return the batch norm over a layer's units that alone uses what it gives, and the moves before."""
    moves: list[Step] = []
    axes: tuple[int, ...] | None = tuple(axis for axis, _ in channels_of(layer))
    here = alone(program, layer.outputs[0])
    while here is not None and axes:
        if here.kind == "batch_norm":
            return (tuple(moves), here) if axes == (here.settings["axis"],) else ((), None)
        if here.kind not in MOVES:
            break
        axes = carried(program, here, axes)
        moves.append(here)
        here = alone(program, here.outputs[0])
    return (), None
