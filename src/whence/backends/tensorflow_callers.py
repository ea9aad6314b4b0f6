"""How a TensorFlow model is called: Keras models, traced functions, SavedModels, and plain functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from whence.backends import Swap, Tap
from whence.backends.keras_layers import is_keras, named, no_layers
from whence.backends.tensorflow_state import variables_of
from whence.errors import BadInput, Refused


@dataclass(frozen=True)
class Ran:
    """The output, what was seen at the last tap, and the generators that numbers were drawn from, with their states."""

    output: Any
    seen: Any
    drawn: Sequence[tuple[Any, Any]]


class Caller(Protocol):
    """One kind of model; `traces` says whether it may be run as a compiled function."""

    traces: bool

    @property
    def kind(self) -> tf.DType:
        """The float type of the model's inputs."""
        ...

    @property
    def channels_last(self) -> bool:
        """Whether layers have their channels at the end."""
        ...

    def version(self) -> int:
        """Return a number that changes when the model is another one than before."""
        ...

    def layers(self) -> list[str]: ...
    def parameter(self, name: str) -> Any:
        """Return a parameter as a tensor."""
        ...

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], taps: Sequence[Tap | Swap], generators: Sequence[Any]
    ) -> Ran:
        """Run the model on tensors."""
        ...


_TRACED = tf.types.experimental.PolymorphicFunction
_CONCRETE = tf.types.experimental.ConcreteFunction


class KerasCaller:
    """A Keras layer or model on the TensorFlow backend."""

    def __init__(self, model: Any) -> None:
        from whence.backends.keras_run import require_built

        require_built(model)
        self.model = model
        self.traces = not getattr(model, "run_eagerly", False)

    @property
    def kind(self) -> tf.DType:
        """The float type of the model's inputs."""
        given = [tf.as_dtype(each.dtype) for each in _inputs(self.model)]
        return next((each for each in given if each.is_floating), tf.as_dtype(self.model.variable_dtype))

    @property
    def channels_last(self) -> bool:
        """Whether layers have their channels at the end: as they say, or as Keras is set."""
        from whence.backends.keras_layers import channels_last

        return channels_last(self.model)

    def version(self) -> int:
        """Return a number that changes when the model is another one than before."""
        from whence.backends.keras_layers import fingerprint

        return fingerprint(self.model)

    def layers(self) -> list[str]:
        return list(named(self.model))

    def parameter(self, name: str) -> Any:
        """Return a weight as a tensor."""
        from whence.backends.keras_run import parameter_of

        return tf.convert_to_tensor(parameter_of(self.model, name).value)

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], taps: Sequence[Tap | Swap], generators: Sequence[Any]
    ) -> Ran:
        """Run the model on tensors, in inference mode."""
        from whence.backends import keras_run

        ran = keras_run.run(self.model, inputs, kwargs, taps, generators, tf.is_tensor)
        return Ran(ran.output, ran.seen, ran.drawn)


class FunctionCaller:
    """A function of tensors: a traced one, one of a SavedModel, or plain Python."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.function = _function(model)
        # What is plain Python may do as it likes: only what its owner has traced is traced.
        self.traces = isinstance(self.function, _TRACED | _CONCRETE) or _is_restored(self.function)

    @property
    def kind(self) -> tf.DType:
        """The float type of the model's inputs."""
        specs = [each for each in _specs(self.function) if each.dtype.is_floating]
        variables = [each for each in variables_of(self.model) if each.dtype.is_floating]
        return next((each.dtype for each in (*specs, *variables)), tf.float32)

    @property
    def channels_last(self) -> bool:
        """Whether layers have their channels at the end: TensorFlow's own way."""
        return True

    def version(self) -> int:
        """Return a number that changes when the model is another one than before."""
        return 0

    def layers(self) -> list[str]:
        return []

    def parameter(self, name: str) -> Any:
        raise Refused(
            f"parameter {name!r}: the model is a function or a SavedModel, whose parameters cannot be replaced; pass "
            "the Keras model it was made from"
        )

    def run(
        self, inputs: Any, kwargs: Mapping[str, Any], taps: Sequence[Tap | Swap], generators: Sequence[Any]
    ) -> Ran:
        """Call the function on tensors."""
        for each in taps:
            if isinstance(each, Tap):
                raise no_layers(each.layer)
            self.parameter(each.parameter)
        names = _keywords(self.function)
        if names is not None:
            return Ran(self.function(**_by_name(names, inputs), **kwargs), None, ())
        if isinstance(inputs, Mapping):
            return Ran(self.function(**inputs, **kwargs), None, ())
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        return Ran(self.function(*given, **kwargs), None, ())


def caller_for(model: Any) -> Caller:
    """Return how a model is called."""
    return KerasCaller(model) if is_keras(model) else FunctionCaller(model)


def is_tensorflow(model: Any, arrays: Sequence[Any]) -> bool:
    """Tell a model of TensorFlow's, or a function that is given its tensors."""
    if is_keras(model):
        from whence.backends.keras_layers import framework

        return framework() == "tensorflow"
    if isinstance(model, tf.Module) or type(model).__module__.startswith("tensorflow."):
        return True
    given = any(isinstance(each, (tf.Tensor, tf.Variable)) for each in arrays)
    return given and callable(model)


def _function(model: Any) -> Any:
    """Return what is called of a model: itself, its method for serving, or its signature.

    Raises:
        BadInput: there is nothing to call.
    """
    if callable(model):
        kinds: Any = type(model)
        traced = any(isinstance(vars(each).get("__call__"), _TRACED) for each in kinds.__mro__)
        return model.__call__ if traced and not isinstance(model, _TRACED) else model
    for name in ("serve", "predict"):
        if callable(getattr(model, name, None)):
            return getattr(model, name)
    signatures = getattr(model, "signatures", None) or {}
    if signatures:
        return signatures["serving_default" if "serving_default" in signatures else next(iter(signatures))]
    raise BadInput(f"model is a {type(model).__name__}, which cannot be called; pass one of its functions")


def _is_loaded(model: Any) -> bool:
    return type(model).__name__ == "_UserObject"


def _is_restored(function: Any) -> bool:
    return _is_loaded(function) or type(function).__name__ == "RestoredFunction"


def _inputs(model: Any) -> list[Any]:
    try:
        return list(tf.nest.flatten(getattr(model, "inputs", None) or []))
    except (AttributeError, ValueError):
        return []


def _specs(function: Any) -> list[tf.TensorSpec]:
    """Return what a function says that it takes."""
    given = getattr(function, "input_signature", None) or getattr(
        function, "structured_input_signature", None
    )
    return [each for each in tf.nest.flatten(given or ()) if isinstance(each, tf.TensorSpec)]


def _keywords(function: Any) -> list[str] | None:
    """Return the names by which a SavedModel's signature takes its inputs; None where they have places."""
    if not isinstance(function, _CONCRETE):
        return None
    signature: Any = function
    args, kwargs = signature.structured_input_signature
    return list(kwargs) if kwargs and not args else None


def _by_name(names: Sequence[str], inputs: Any) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    if len(given) != len(names):
        raise BadInput(f"the SavedModel takes {', '.join(names)}; pass a dict of these, or as many arrays")
    return dict(zip(names, given, strict=True))
