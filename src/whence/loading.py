"""Models as the command line names them: from the zoo, or made by a factory in the user's own module."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from whence import zoo
from whence.backends import keras_file
from whence.backends.onnx_graph.file import names_file
from whence.errors import BadInput, WhenceError, WorkFailed
from whence.naming import unknown
from whence.preprocess import Preprocess, Size

FACTORY: Final = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")
# What the core notes on an exception that came out of the user's model.
BLAME: Final = "raised by the model"


@dataclass(frozen=True)
class Source:
    """A model ready to be explained, and what its pictures and classes mean.

    Attributes:
        name: what the user called it.
        model: a torch module, an ONNX file that was read, or a callable on NumPy arrays.
        preprocess: from a picture in pixels to the model's input.
        labels: the classes' names, where known.
        channels: 1 or 3, what the model takes; None where it is not known.
        data: the data set whose rows can stand for "ordinary inputs", where known ("digits", "mnist").
    """

    name: str
    model: Any
    preprocess: Preprocess
    labels: tuple[str, ...] | None = None
    channels: int | None = None
    data: str | None = None

    @contextmanager
    def blamed(self) -> Generator[None]:
        """Turn what the user's model raises into one sentence that names the model."""
        try:
            yield
        except WhenceError:
            raise
        except Exception as problem:
            where = next((note for note in getattr(problem, "__notes__", ()) if note.startswith(BLAME)), None)
            if where is None:
                raise
            raise WorkFailed(
                f"the model {self.name} failed with {described(problem)} ({where.removeprefix(BLAME).strip()}); "
                "see that --size, --crop, --mean and --std say what it takes"
            ) from problem


@dataclass(frozen=True)
class Request:
    """What the user said about the model; `check` finds what cannot be meant before anything heavy is loaded.

    Attributes:
        model: a name of the zoo, an ONNX file, or module.path:factory.
        arguments: passed to the factory.
        trust: also unpickle weights, which runs whatever code they hold.
        labels: a file with one class name a line.
        size, crop, mean, std: of the preprocessing; None keeps what the model brings.
    """

    model: str | None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trust: bool = False
    labels: Path | None = None
    size: Size | None = None
    crop: Size | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def check(self, weights: Sequence[Path] = ()) -> None:
        """Refuse what cannot be meant.

        Raises:
            BadInput: a model, weights, labels or preprocessing that do not exist or do not fit together.
        """
        name = _checked_name(self.model)
        for path in () if names_file(name) or keras_file.names_file(name) else weights:
            zoo.check_weights(path, trust=self.trust)
        if self.labels is not None:
            zoo.read_labels(self.labels)
        channels = None
        if names_file(name):
            channels = self._from_onnx(name, weights).channels
        elif keras_file.names_file(name):
            self._check_keras(name, weights)
        elif ":" not in name:
            channels = zoo.entry(name).channels
            if self.arguments:
                raise BadInput(f"--model-arg is for factories; {name} of the zoo takes no arguments")
            if not weights and zoo.entry(name).data is None:
                zoo.load(name)
        self._check_channels(name, channels)
        Preprocess(**self._changes())

    def load(self, weights: Path | None = None) -> Source:
        """Return the model, with the weights of a file where one is given.

        Raises:
            BadInput: the factory cannot be found or fails, or the weights do not fit.
        """
        name = _checked_name(self.model)
        labels = None if self.labels is None else zoo.read_labels(self.labels)
        if names_file(name):
            found = self._from_onnx(name, () if weights is None else (weights,))
            preprocess = Preprocess(**(found.settings | self._changes()))
            return Source(Path(name).name, found.model, preprocess, labels or found.labels, found.channels)
        if keras_file.names_file(name):
            self._check_keras(name, () if weights is None else (weights,))
            model = keras_file.read(name, self.trust)
            settings = keras_file.settings_of(name, model) | self._changes()
            return Source(Path(name).name, model, Preprocess(**settings), labels, settings.get("channels"))
        if ":" not in name:
            loaded = zoo.load(name, weights, trust=self.trust)
            entry = zoo.entry(name)
            preprocess = replace(loaded.preprocess, **self._changes())
            return Source(name, loaded.model, preprocess, labels or loaded.labels, entry.channels, entry.data)
        model = _made(name, self.arguments)
        if weights is not None:
            zoo.load_weights(model, weights, trust=self.trust)
        channels = _channels_of(model)
        self._check_channels(name, channels)
        if channels is None and 3 in (len(self.mean or ()), len(self.std or ())):
            channels = 3
        return Source(name, model, Preprocess(channels=channels, **self._changes()), labels, channels)

    def _from_onnx(self, name: str, weights: Sequence[Path]) -> Any:
        """Return what is read from an ONNX file; its inputs are pictures, and its weights its own."""
        from whence import loading_onnx

        if weights:
            raise BadInput(f"--weights: an ONNX file holds its own weights; leave --weights {weights[0]} out")
        return loading_onnx.read(name, self.arguments)

    def _check_keras(self, name: str, weights: Sequence[Path]) -> None:
        """Refuse what a file that is a whole model has no use for."""
        if weights:
            raise BadInput(f"--weights: {name} holds its own weights; leave --weights {weights[0]} out")
        if self.arguments:
            raise BadInput(f"--model-arg is for factories; {name} takes no arguments")
        keras_file.check(name)

    def _changes(self) -> dict[str, Any]:
        given = {"size": self.size, "crop": self.crop, "mean": self.mean, "std": self.std}
        return {key: value for key, value in given.items() if value is not None}

    def _check_channels(self, name: str, channels: int | None) -> None:
        for flag, values in (("--mean", self.mean), ("--std", self.std)):
            if values is None or len(values) == 1:
                continue
            if len(values) != 3:
                raise BadInput(
                    f"{flag} has {len(values)} values; give 1 for all channels, or 3 (red, green, blue)"
                )
            if channels == 1:
                raise BadInput(f"{flag} has 3 values and {name} takes pictures of 1 channel; give 1 value")


def _checked_name(name: str | None) -> str:
    known = ", ".join(zoo.names())
    if name is None:
        raise BadInput(
            f"--model is missing; give one of the zoo ({known}), an ONNX or Keras file, or your own as "
            "module.path:factory"
        )
    suffix = Path(name).suffix.lower()
    if names_file(name) or keras_file.names_file(name):
        return name
    if ":" in name:
        if not FACTORY.fullmatch(name):
            raise BadInput(f"--model {name}: write module.path:factory, such as torchvision.models:resnet50")
        return name
    if name in zoo.names():
        return name
    if suffix == ".safetensors" or suffix in zoo.PICKLES:
        raise BadInput(
            f"--model {name}: these are weights; say whose: --model module.path:factory --weights {name}"
        )
    if suffix == ".py":
        raise BadInput(
            f"--model {name}: say which function in it makes the model: --model {Path(name).stem}:factory"
        )
    if not difflib.get_close_matches(name, zoo.names(), n=1, cutoff=0.5):
        raise BadInput(
            f"there is no model {name!r} in the zoo ({known}); your own is given as module.path:factory"
        )
    raise BadInput(unknown("model of the zoo", name, zoo.names()))


def _made(name: str, arguments: Mapping[str, Any]) -> Any:
    """Import the module, find the factory, call it."""
    module_name, _, attribute = name.partition(":")
    thing = _imported(name, module_name)
    for part in attribute.split("."):
        if not hasattr(thing, part):
            public = [each for each in dir(thing) if not each.startswith("_")]
            raise BadInput(f"--model {name}: {unknown('factory', part, public)}")
        thing = getattr(thing, part)
    if _is_model(thing):
        if arguments:
            raise BadInput(f"--model {name}: this is a model already, which takes no --model-arg")
        return thing
    if not callable(thing):
        raise BadInput(
            f"--model {name}: this is of type {type(thing).__name__}; give a function that makes the model"
        )
    try:
        model = thing(**arguments)
    except (Exception, SystemExit) as problem:
        raise BadInput(
            f"--model {name}: the factory failed with {described(problem)}; "
            "--model-arg name=value passes it arguments"
        ) from problem
    if not (callable(model) or _is_model(model)):
        raise BadInput(
            f"--model {name}: the factory returned {type(model).__name__}, not a model that can be called"
        )
    return model


def _imported(name: str, module_name: str) -> Any:
    # As `python -m` has it, so that a module beside the user's files is found by the installed command too.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return import_module(module_name)
    except ModuleNotFoundError as problem:
        missing = problem.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise BadInput(
                f"--model {name}: there is no module {missing!r} here or among the installed packages; "
                "install it, or run this in the folder that holds it"
            ) from None
        raise BadInput(f"--model {name}: {module_name} needs the module {missing!r}; install it") from problem
    except (Exception, SystemExit) as problem:
        failed = f"importing {module_name} failed with {described(problem)}"
        raise BadInput(f"--model {name}: {failed}; mend it") from problem


def _is_model(thing: Any) -> bool:
    """Tell a finished model from something that makes one."""
    from whence.backends.callable import is_estimator

    if isinstance(thing, type):
        return False
    torch = sys.modules.get("torch")
    return is_estimator(thing) or (torch is not None and isinstance(thing, torch.nn.Module))


def _channels_of(model: Any) -> int | None:
    """Return how many channels a network's first convolution takes, where it is one of pictures."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return None
    kernels = (each for each in model.parameters() if each.ndim == 4)
    first = next(kernels, None)
    return int(first.shape[1]) if first is not None and first.shape[1] in (1, 3) else None


def described(problem: BaseException) -> str:
    """Return an exception as one line: its type and its message."""
    text = " ".join(str(problem).split())
    text = text if len(text) <= 300 else f"{text[:297]}..."
    return f"{type(problem).__name__}{f': {text}' if text else ''}"
