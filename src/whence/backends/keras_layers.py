"""The layers of a Keras model, the same on every backend of Keras: their names, and watching their calls.

A layer is watched by an attribute of its own that stands in for its `call`, in one thread, while one run (or one
tracing) lasts. Other threads' calls go through it untouched.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from whence.backends import Tap
from whence.errors import BadInput, Refused
from whence.naming import unknown

Meet = Callable[[Any], Any]
"""From what a layer takes in (or puts out) to what it is to take in instead, or None to leave it."""
# Two explanations that watch the same layer take turns.
_turns = threading.RLock()
# What Keras calls the method that does a layer's work, as it is and with quantized weights.
_CALLS = ("call", "quantized_call")


def is_keras(model: Any) -> bool:
    """Tell a Keras layer (a model is one), without importing Keras."""
    keras = sys.modules.get("keras")
    kind = getattr(keras, "Layer", None)
    return kind is not None and isinstance(model, kind)


def framework() -> str:
    """Return the framework that Keras calculates with: "tensorflow", "torch" or "jax"."""
    return sys.modules["keras"].backend.backend()


def named(model: Any) -> dict[str, Any]:
    """Return the layers inside a model by their paths, such as "block/conv1", outer ones first."""
    found: dict[str, Any] = {}
    _collect(model, "", found, frozenset((id(model),)))
    return found


def _collect(holder: Any, path: str, found: dict[str, Any], above: frozenset[int]) -> None:
    for layer in _parts(holder):
        # What stands for an input is never called.
        if id(layer) in above or type(layer).__name__ == "InputLayer":
            continue
        name = own = f"{path}{layer.name}"
        count = 1
        while name in found and found[name] is not layer:
            count += 1
            name = f"{own}_{count}"
        found[name] = layer
        _collect(layer, f"{name}/", found, above | {id(layer)})


def _parts(holder: Any) -> list[Any]:
    """Return the layers that a layer holds itself, and for a functional model its operations as well."""
    layers = list(getattr(holder, "_layers", ()))
    # A sequential model holds its chain as a functional one of the same layers, which is no part of its own.
    hidden = getattr(holder, "_functional", None)
    layers = [each for each in layers if each is not hidden]
    known = {id(each) for each in layers}
    operations = getattr(holder, "operations", ()) if hasattr(holder, "_operations") else ()
    return layers + [each for each in operations if id(each) not in known]


def chosen(model: Any, name: str) -> Any:
    """Return a layer by its path, or by its own name where no other has it.

    Raises:
        BadInput: there is none, or several have this name.
    """
    layers = named(model)
    if name in layers:
        return layers[name]
    ends = {path: each for path, each in layers.items() if path.rpartition("/")[2] == name}
    different = {id(each) for each in ends.values()}
    if len(different) == 1:
        return next(iter(ends.values()))
    if ends:
        raise BadInput(f"several layers are called {name!r}: {', '.join(ends)}; give one of these paths")
    raise BadInput(unknown("layer", name, layers))


def channels_last(model: Any) -> bool:
    """Tell where the channels of a model's layers are: as the first that says so has it, or else as Keras is set."""
    forms = (getattr(layer, "data_format", None) for layer in (model, *named(model).values()))
    told = next((form for form in forms if form is not None), None)
    return (told or sys.modules["keras"].config.image_data_format()) == "channels_last"


def no_layers(name: str) -> Refused:
    """Return the error for a layer of what has none."""
    return Refused(
        f"layer {name!r}: the model is a function or a SavedModel, whose layers have no names any more; pass the Keras "
        "model it was made from"
    )


@contextmanager
def watching(watches: Mapping[int, tuple[Any, Meet | None, Meet | None]]) -> Generator[None]:
    """Meet what layers take in and put out in this thread: by identity, a layer and what it is met with there."""
    if not watches:
        yield
        return
    with _turns, ExitStack() as stack:
        for layer, before, after in watches.values():
            for name in _CALLS:
                if getattr(layer, name, None) is not None:
                    stack.enter_context(_watched(layer, name, before, after))
        yield


@contextmanager
def _watched(layer: Any, name: str, before: Meet | None, after: Meet | None) -> Generator[None]:
    original = getattr(layer, name)
    mine, own = threading.get_ident(), vars(layer)
    had, kept = name in own, own.get(name)

    @wraps(original)
    def met(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != mine:
            return original(*args, **kwargs)
        if before is not None:
            args, kwargs = _taken_in(args, kwargs, before)
        output = original(*args, **kwargs)
        instead = None if after is None else after(output)
        return output if instead is None else instead

    # Not setattr, which Keras watches for new weights and layers.
    own[name] = met
    try:
        yield
    finally:
        if had:
            own[name] = kept
        else:
            del own[name]


def _taken_in(
    args: tuple[Any, ...], kwargs: dict[str, Any], before: Meet
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a layer's arguments with the first, which is what it takes in, met."""
    if args:
        instead = before(args[0])
        return (args if instead is None else (instead, *args[1:])), kwargs
    for name, value in kwargs.items():
        instead = before(value)
        return args, kwargs if instead is None else kwargs | {name: instead}
    return args, kwargs


def first(value: Any, is_tensor: Callable[[Any], bool]) -> Any:
    """Return the first tensor of what a layer takes in or puts out, None where there is none."""
    if is_tensor(value):
        return value
    parts: Any = (
        value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    )
    found = (first(part, is_tensor) for part in parts)  # pyright: ignore[reportUnknownVariableType]
    return next((each for each in found if each is not None), None)


def replaced(value: Any, old: Any, new: Any) -> Any:
    """Return what a layer takes in or puts out with one tensor in the place of another."""
    if value is old:
        return new
    if isinstance(value, dict):
        return {key: replaced(part, old, new) for key, part in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (tuple, list)):
        return type(value)(replaced(part, old, new) for part in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return value


def missed(tap: Tap, last: Tap | None) -> str:
    """Return why a tap saw nothing: the run ended earlier at the `last` one, or the layer has no such call."""
    if last is not None:
        return (
            f"layer {tap.layer!r} runs only after layer {last.layer!r}, whose unit is explained: nothing of that comes "
            "from it; choose an earlier layer"
        )
    calls = "never runs" if tap.call == 0 else f"does not run {tap.call + 1} times"
    return f"layer {tap.layer!r} {calls} for this input; choose another layer or call"


def fingerprint(model: Any) -> int:
    """Return a number that changes when a layer of a model is set otherwise: another activation, another part."""
    parts: list[Any] = []
    for layer in (model, *named(model).values()):
        parts.append(id(layer))
        parts += [(name, _told(value)) for name, value in list(vars(layer).items()) if name not in _VOLATILE]
    return hash(tuple(parts))


# What changes when a layer is merely used.
_VOLATILE = frozenset(
    {
        "_called", "_saved_model_inputs_spec", "_saved_model_arg_spec", "_losses", "_loss_ids", "_metrics",
        "_inbound_nodes", "_outbound_nodes", "train_function", "test_function", "predict_function", "stop_training",
        "_losses_override", "_input_spec", *_CALLS,
    }
)  # fmt: skip


def _told(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)
