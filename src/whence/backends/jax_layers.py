"""What every module of a JAX model takes in and puts out for one example, and what the answer makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from whence.backends import Activation, Array, Leaves
from whence.backends.jax_compiled import Mark, Program, is_array
from whence.backends.jax_walk import walk
from whence.errors import Refused

if TYPE_CHECKING:
    from whence.backends.jax_session import JaxSession

# What they put out is another's, pooled, thinned or laid out anew; by name, as flax and equinox have it.
PASSIVE = frozenset(
    ("Dropout", "Identity", "Lambda", "AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d",
     "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
     "AdaptiveMaxPool3d", "Linear", "Dense", "DenseGeneral", "LinearGeneral", "Einsum", "Flatten", "Activation")
)  # fmt: skip
# The attributes that say how many channels a module puts out.
WIDTHS = ("out_features", "features", "out_channels", "num_features", "channels", "out_size")


def described(module: Any) -> tuple[int | None, bool]:
    """Return how many channels a module puts out, where it says so, and whether it makes nothing to look at."""
    width = next(
        (getattr(module, name) for name in WIDTHS if isinstance(getattr(module, name, None), int)), None
    )
    return width, type(module).__name__ in PASSIVE


def observed(session: JaxSession, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
    """Return what every module takes in and puts out while `function` runs the model on one example, in order."""
    met: list[_Met] = []
    shown: list[Any] = []

    def first(program: Program, parameters: Any, given: Any) -> Any:
        output, shown[:], met[:] = _observe(program, parameters, given, None)
        return output

    with session.observing(first):
        function(leaves)
    if not met and not session.parts.named:
        raise Refused(
            "the model is a plain function, in which no layer can be chosen: name one that it marks with "
            "jax.ad_checkpoint.checkpoint_name, or pass a module"
        )

    def answer(moves: list[Any]) -> Any:
        def again(program: Program, parameters: Any, given: Any) -> Any:
            return _observe(program, parameters, given, moves)[0]

        with session.observing(again):
            return _mixed(function(leaves))

    moves = [jnp.zeros(each.shape, each.dtype) for each in shown if _is_float(each)]
    gradients = iter(jax.grad(answer)(moves) if moves else [])
    return _told(
        met, [next(gradients) if _is_float(each) else None for each in shown], session.parts.channels_last
    )


class _Met:
    """One value that was met: its mark, which call of its module it is, and who made it."""

    def __init__(self, mark: Mark, call: int, shape: tuple[int, ...], maker: int) -> None:
        self.mark, self.call, self.shape, self.maker = mark, call, shape, maker


def _observe(
    program: Program, parameters: Any, given: Any, moves: list[Any] | None
) -> tuple[Any, list[Any], list[_Met]]:
    """Return the output, every value met, and what they are; `moves` are added to those that are floats."""
    key = ("observed", moves is not None)
    if key not in program.runners:
        met: list[_Met] = []
        program.runners[key] = jax.jit(_observer(program, met)), met
    run, met = program.runners[key]
    arrays = [each for each in jax.tree.leaves(given) if is_array(each)]
    found, values = run(program.closed.consts, parameters, arrays, moves)
    return program.output(found), values, met


def _observer(program: Program, met: list[_Met]) -> Callable[..., Any]:
    def run(constants: Any, parameters: Any, arrays: Any, moves: Any) -> Any:
        met.clear()
        rows = arrays[0].shape[0]
        rest, values = iter(moves or ()), list[Any]()
        makers, calls = dict[int, int](), Counter[tuple[str, bool]]()

        def meet(name: str, value: Any) -> Any:
            mark = program.marks.get(name, Mark(name))
            maker = makers.setdefault(id(value), len(values))
            # The one example may have been padded.
            shape = (value.shape[0] if value.shape[0] != rows else 1, *value.shape[1:])
            met.append(_Met(mark, calls[mark.name, mark.input], shape, maker))
            calls[mark.name, mark.input] += 1
            values.append(value)
            return value + next(rest) if moves is not None and _is_float(value) else value

        return walk(program.closed.jaxpr, constants, (*parameters, *arrays), meet), values

    return run


def _told(met: list[_Met], gradients: list[Any], channels_last: bool) -> list[Activation]:
    output = {each.maker for each in met if not each.mark.name and not each.mark.input}
    found: list[Activation] = []
    width: int | None = None
    for each, gradient in zip(met, gradients, strict=True):
        mark = each.mark
        width = width if mark.input or mark.width is None else mark.width
        last = _last(each.shape, width, channels_last)
        passive = mark.passive or mark.input or not mark.name or each.maker in output or gradient is None
        if met[each.maker] is not each:
            passive = found[each.maker].passive or passive
        mixed = len(each.shape) >= 4 and width is not None and width not in (each.shape[1], each.shape[-1])
        found.append(
            Activation(
                mark.name,
                each.call,
                mark.input,
                each.shape,
                last,
                passive or mixed,
                each.maker,
                _reacting(gradient, last),
            )
        )
    return found


def _last(shape: tuple[int, ...], width: int | None, channels_last: bool) -> bool:
    if len(shape) < 3:
        return False
    first, last = shape[1] == width, shape[-1] == width
    return last if first != last else channels_last or len(shape) == 3


def _reacting(gradient: Any, channels_last: bool) -> int | None:
    if gradient is None or not bool(gradient.any()):
        return None
    return int((gradient != 0).any(-1).sum()) if channels_last else int(gradient.size)


def _mixed(answer: Array) -> Array:
    """Return a sum in which nothing cancels that adds up to a constant, as probabilities do."""
    flat = answer.reshape(-1)
    return flat @ jnp.cos(jnp.arange(flat.shape[0], dtype=flat.dtype))


def _is_float(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.floating))
