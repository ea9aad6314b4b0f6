"""A torch model run without a trace: on a structural copy, in eval mode, with the random state put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from whence.backends import Activation, Array, Leaves, Swap, Tap, WideSession
from whence.backends.generators import NUMPY, PYTHON, Source, Streams, streams_in_use
from whence.backends.torch_copy import put_back, structural_copy
from whence.backends.torch_layers import activations
from whence.backends.torch_parameter import parameter_of, swapped
from whence.backends.torch_reach import Reach, is_compiled, original_of, reached
from whence.errors import BadInput, Refused

_uncopied_lock = threading.RLock()


def device_of(model: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """Return where a module's weights lie and their floating type; (None, None) for a plain function."""
    if not isinstance(model, nn.Module):
        return None, torch.get_default_dtype()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype.is_floating_point:
            return tensor.device, tensor.dtype
    return None, torch.get_default_dtype()


def _state() -> tuple[bytes, list[bytes]]:
    # As bytes, so that two states can be compared.
    cuda = torch.cuda.get_rng_state_all() if _cuda() else []
    return torch.get_rng_state().numpy().tobytes(), [each.numpy().tobytes() for each in cuda]


def _seed(seed: int) -> None:
    # Not torch.manual_seed: it would also seed, for ever, a CUDA that is not yet in use.
    torch.default_generator.manual_seed(seed)
    if _cuda():
        torch.cuda.manual_seed_all(seed)


def _put_back(state: tuple[bytes, list[bytes]]) -> None:
    torch.set_rng_state(_tensor(state[0]))
    if state[1]:
        torch.cuda.set_rng_state_all([_tensor(each) for each in state[1]])


def _tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def _cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


_TORCH = Source(_state, _seed, _put_back)


@contextmanager
def guarded_random_state(seed: int) -> Generator[Streams]:
    """Hold streams that stand in for the global generators when the model of the next session runs."""
    with Streams(seed, (NUMPY, PYTHON, _TORCH), (_TORCH,)).opened() as streams:
        before = streams_in_use.set(streams)
        try:
            yield streams
        finally:
            streams_in_use.reset(before)


class TorchSession:
    """Runs one model (or plain function) for one explanation; `source` is what it is a copy of, where it is one."""

    def __init__(
        self, function: Callable[..., Any], notes: list[str], source: tuple[Any, Reach] | None = None
    ) -> None:
        self.function = function
        self._notes, self._source = notes, source
        self._streams = streams_in_use.get()

    @property
    def draws_randomness(self) -> bool:
        """Whether the model has drawn random numbers since the session began."""
        return self._streams is not None and self._streams.drawn

    def notes(self) -> list[str]:
        return self._notes

    def widened(self) -> AbstractContextManager[WideSession] | None:
        from whence.backends.torch_wide import widened

        return None if self._source is None else widened(*self._source)

    def names(self) -> Mapping[int, str]:
        if not isinstance(self.function, nn.Module):
            return {}
        return {id(module): name for name, module in self.function.named_modules()}

    def layers(self) -> list[str]:
        if not isinstance(self.function, nn.Module):
            return []
        return [name for name, _ in self.function.named_modules(remove_duplicate=False) if name]

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], *taps: Tap | Swap | None
    ) -> tuple[Any, Array | None]:
        places = [each for each in taps if each is not None]
        if self._streams is None:
            return self._run(inputs, kwargs, places)
        return self._streams.run(lambda: self._run(inputs, kwargs, places))

    def _run(
        self, inputs: Any, kwargs: Mapping[str, Any], places: list[Tap | Swap]
    ) -> tuple[Any, Array | None]:
        with ExitStack() as stack:
            seen = [stack.enter_context(self._watched(each)) for each in places]
            try:
                output = self._call(inputs, kwargs)
            except _Stop:
                output = None
        for place, found in zip(places, seen, strict=True):
            if isinstance(place, Tap) and not found:
                raise BadInput(_missed(place, places[-1] if seen[-1] else None))
        return output, seen[-1][0] if seen else None

    def _watched(self, place: Tap | Swap) -> AbstractContextManager[list[Array]]:
        if isinstance(place, Tap):
            return _tapped(self._module(place.layer), place)
        return swapped(self.function, place)

    def parameter(self, name: str) -> Array:
        return parameter_of(self.function, name)

    def activations(self, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
        if not isinstance(self.function, nn.Module):
            raise Refused(
                "the model is a plain function, in which no layer can be chosen; pass a module (or a method for inputs)"
            )
        return activations(self.function, function, leaves)

    def _call(self, inputs: Any, kwargs: Mapping[str, Any]) -> Any:
        if isinstance(inputs, Mapping):
            return self.function(**inputs, **kwargs)
        return (
            self.function(*inputs, **kwargs) if isinstance(inputs, tuple) else self.function(inputs, **kwargs)
        )

    def _module(self, name: str) -> nn.Module:
        if not isinstance(self.function, nn.Module):
            raise Refused(
                f"layer {name!r}: the model is a plain function, which has no named layers; pass a module"
            )
        name = ".".join(part for part in name.split(".") if part != "_orig_mod")
        modules = dict(self.function.named_modules(remove_duplicate=False))
        if name not in modules or not name:
            from whence.naming import unknown

            raise BadInput(unknown("layer", name, [each for each in modules if each]))
        if isinstance(modules[name], torch.jit.ScriptModule):
            raise Refused(
                f"layer {name!r} is scripted and cannot be watched; explain the model it was made from"
            )
        return modules[name]


def _missed(tap: Tap, last: Tap | Swap | None) -> str:
    """Return why a tap saw nothing: the run ended earlier at another one, or the layer has no such call."""
    if isinstance(last, Tap):
        return (
            f"layer {tap.layer!r} runs only after layer {last.layer!r}, whose unit is explained: nothing of that comes "
            "from it; choose an earlier layer"
        )
    calls = "never runs" if tap.call == 0 else f"does not run {tap.call + 1} times"
    return f"layer {tap.layer!r} {calls} for this input; choose another layer or call"


class _Stop(BaseException):
    """Ends a forward pass early; not an Exception, so that a model's own handlers let it through."""


@contextmanager
def _tapped(module: nn.Module, tap: Tap) -> Generator[list[Array]]:
    """Watch (and replace) one call of a module of our own copy."""
    seen: list[Array] = []
    calls = 0

    def meet(value: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls - 1 != tap.call:
            return None
        first = value[0] if isinstance(value, tuple) else value
        if not isinstance(first, torch.Tensor):
            raise BadInput(
                f"layer {tap.layer!r} gives a {type(first).__name__}, not a tensor; choose another layer"
            )
        if tap.leaf and not first.dtype.is_floating_point:
            raise BadInput(
                f"layer {tap.layer!r} gives {first.dtype}, which has no gradient; choose another layer"
            )
        first = first.detach().requires_grad_() if tap.leaf else first
        seen.append(first)
        if tap.stop:
            raise _Stop
        if tap.replacement is None and not tap.leaf:
            return None
        # A copy: the layer after it may work in place, which a leaf of the graph forbids.
        replacement = (first if tap.replacement is None else tap.replacement).clone()
        return (replacement, *value[1:]) if isinstance(value, tuple) else replacement

    def before(_: nn.Module, arguments: tuple[Any, ...]) -> Any:
        return meet(arguments)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return meet(output)

    handle = module.register_forward_pre_hook(before) if tap.input else module.register_forward_hook(after)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def original(model: Any) -> Generator[TorchSession]:
    """Yield a session on a structural copy of the model that shares its weights, or on the model under a lock.

    Raises:
        BadInput: the model's lazy layers have no weights yet.
    """
    notes: list[str] = []
    reach = reached(model)
    modules = reach.modules
    if any(is_compiled(each) or vars(each).get("_compiled_call_impl") for each in modules):
        notes.append("the model is compiled; it was explained through its original, uncompiled module")
    for each in modules:
        if any(nn.parameter.is_lazy(part) for part in (*each._parameters.values(), *each._buffers.values())):  # pyright: ignore[reportArgumentType]
            raise BadInput(f"the model's {type(each).__name__} has no weights yet; run the model once first")
    if reach.opaque:
        notes.append(
            f"the model holds what cannot be copied ({', '.join(reach.opaque)}): what its forward pass changes in "
            "there stays changed"
        )
    copied, hindrance = _copied(model, reach)
    if not hindrance:
        yield TorchSession(copied, notes, (model, reach))
        return
    if isinstance(model, nn.Module) or any(module.training for module in modules):
        notes.append(
            f"the model cannot be copied ({hindrance}); it was run itself, under a lock, and its modes were restored"
        )
    with _uncopied_lock, put_back(reach):
        for module in modules:
            module.training = False
            vars(module).pop("_compiled_call_impl", None)
        yield TorchSession(original_of(model), notes)


def _copied(model: Any, reach: Reach) -> tuple[Any, str]:
    """Return the copy of a model, or None and what stands in its way."""
    if reach.hindrance:
        return None, reach.hindrance
    try:
        return structural_copy(model, reach), ""
    except RecursionError:
        return None, "what it holds is nested too deeply"
