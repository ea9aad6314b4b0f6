"""Keras files and TensorFlow's SavedModels as models: opened for the command line, and what their pictures are."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from whence.errors import BadInput

SUFFIXES: Final = (".keras", ".h5")
CHANNELS: Final = (1, 3)


def names_file(name: Any) -> bool:
    """Tell the path of a Keras file, or of a folder that holds a SavedModel."""
    path = Path(name) if isinstance(name, (str, Path)) and name else None
    return path is not None and (path.suffix.lower() in SUFFIXES or (path / "saved_model.pb").is_file())


def check(name: str) -> None:
    """Refuse a file that is not there.

    Raises:
        BadInput: there is none.
    """
    if not Path(name).exists():
        raise BadInput(f"--model {name}: there is no such file")


def read(name: str, trust: bool) -> Any:
    """Return the model in a file or folder; code of its own (Lambda layers) is run only where the user trusts it.

    Raises:
        BadInput: it cannot be read, or holds code and is not trusted.
    """
    check(name)
    path = Path(name)
    return _read(str(path.resolve()), path.stat().st_mtime_ns, trust, name)


@lru_cache(maxsize=1)
def _read(path: str, changed: int, trust: bool, name: str) -> Any:
    try:
        if Path(path).is_dir():
            return import_module("tensorflow").saved_model.load(path)
        return import_module("keras").saving.load_model(path, compile=False, safe_mode=not trust)
    except ModuleNotFoundError as problem:
        raise BadInput(
            f"--model {name}: it needs {problem.name}; install it: pip install {problem.name}"
        ) from problem
    except Exception as problem:
        first = " ".join(str(problem).split())[:300]
        lambdas = "lambda" in first.lower() or "safe_mode" in first
        trusted = (
            "; it holds code of its own: if you trust where it comes from, add --trust" if lambdas else ""
        )
        raise BadInput(
            f"--model {name}: it cannot be read ({type(problem).__name__}: {first}){trusted}"
        ) from problem


def settings_of(name: str, model: Any) -> dict[str, Any]:
    """Return layout, size, channels and range of the pictures that a model takes, as far as it tells.

    Raises:
        BadInput: it takes no pictures.
    """
    found = _shapes(model)
    if len(found) != 1:
        if not found:
            return {"layout": "NHWC"}
        raise BadInput(
            f"--model {name}: it takes {len(found)} inputs, and the command line gives one picture; explain it in "
            "Python"
        )
    (shape,) = found
    if shape is None or len(shape) != 4:
        raise BadInput(
            f"--model {name}: its input is {shape}, which is no batch of pictures; explain it in Python"
        )
    first = shape[1] in CHANNELS and shape[3] not in CHANNELS
    channels, height, width = shape[1:] if first else (shape[3], *shape[1:3])
    settings: dict[str, Any] = {"layout": "NCHW" if first else "NHWC"}
    if channels in CHANNELS:
        settings["channels"] = channels
    if height and width:
        settings["size"] = (int(height), int(width))
    return settings | _range_of(model)


def _shapes(model: Any) -> list[Any]:
    inputs = getattr(model, "inputs", None)
    if inputs:
        return [tuple(each.shape) for each in inputs]
    signature = (getattr(model, "signatures", None) or {}).get("serving_default")
    if signature is None:
        return []
    taken = signature.structured_input_signature[1].values()
    return [None if each.shape.rank is None else tuple(each.shape) for each in taken]


def _range_of(model: Any) -> dict[str, Any]:
    """Return what white is, where the model begins by making numbers of levels from 0 to 255."""
    layers = [each for each in getattr(model, "layers", ()) if type(each).__name__ != "InputLayer"]
    scale = getattr(layers[0], "scale", None) if layers and type(layers[0]).__name__ == "Rescaling" else None
    return {"range": (0.0, 255.0)} if isinstance(scale, float) and 0 < scale < 0.1 else {}
