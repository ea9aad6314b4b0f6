"""What the command line reads from an ONNX file besides the model: what its pictures and classes are."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from whence.backends.onnx_graph.file import OnnxFile, Value, opened
from whence.errors import BadInput
from whence.naming import unknown

SETTINGS: Final = ("size", "crop", "mean", "std", "range", "layout", "channels")
"""Keys of a file's metadata that are settings of `Preprocess`, each by itself or all in one JSON object."""
WHOLE: Final = "whence.preprocess"
LABELS: Final = ("labels", "names", "classes")
CHANNELS: Final = (1, 3)


@dataclass(frozen=True)
class Found:
    """A file's model, the settings of its preprocessing, its classes' names and its number of channels."""

    model: OnnxFile
    settings: dict[str, Any]
    labels: tuple[str, ...] | None
    channels: int | None


def read(name: str, arguments: Mapping[str, Any]) -> Found:
    """Return a file ready for pictures; `arguments` may say which of several outputs is meant.

    Raises:
        BadInput: it is no ONNX file, takes no pictures, or has several outputs of which none was chosen.
    """
    file = _chosen(name, opened(Path(name)), arguments)
    if len(file.inputs) != 1:
        names = ", ".join(each.name for each in file.inputs)
        raise BadInput(
            f"--model {name}: it takes {len(file.inputs)} inputs ({names}), and the command line gives one picture; "
            "explain it in Python: whence.explain(path, {name: array, ...})"
        )
    settings = _of_input(name, file.inputs[0]) | _of_metadata(name, file.metadata)
    return Found(file, settings, _labels(file.metadata), settings.get("channels"))


def _chosen(name: str, file: OnnxFile, arguments: Mapping[str, Any]) -> OnnxFile:
    """Return the file with the one output that is explained."""
    for argument in arguments:
        if argument != "output":
            raise BadInput(f"--model-arg {argument}: an ONNX file takes only output=NAME, one of its outputs")
    names = [each.name for each in file.outputs]
    if "output" in arguments:
        if arguments["output"] not in names:
            raise BadInput(f"--model {name}: {unknown('output', str(arguments['output']), names)}")
        return file.showing(arguments["output"])
    if len(names) > 1:
        raise BadInput(
            f"--model {name}: it gives {len(names)} outputs ({', '.join(names)}); say which: "
            f"--model-arg output={names[0]}"
        )
    return file


def _of_input(name: str, value: Value) -> dict[str, Any]:
    """Return layout, channels and size as the input's shape tells them."""
    sides = value.sides
    if sides is None:
        return {}
    if len(sides) != 4:
        shape = " x ".join("?" if side is None else str(side) for side in sides)
        raise BadInput(
            f"--model {name}: its input {value.name!r} is {shape}, which is no batch of pictures (batch, channels, "
            "height, width, or the channels last); explain it in Python: whence.explain(path, array)"
        )
    last = sides[3] in CHANNELS and sides[1] not in CHANNELS
    channels, height, width = (sides[3], *sides[1:3]) if last else sides[1:]
    found: dict[str, Any] = {"layout": "NHWC" if last else "NCHW"}
    if isinstance(channels, int) and channels > 0:
        if channels not in CHANNELS:
            raise BadInput(
                f"--model {name}: its input {value.name!r} has {channels} channels, and pictures have 1 or 3; explain "
                "it in Python: whence.explain(path, array)"
            )
        found["channels"] = channels
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        found["size"] = (height, width)
    return found


# ---- what the file says besides ---------------------------------------------------------------------------


def _of_metadata(name: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    found = {key: _value(metadata[key]) for key in SETTINGS if key in metadata}
    if WHOLE in metadata:
        whole = _value(metadata[WHOLE])
        if not isinstance(whole, dict) or not set(whole) <= set(SETTINGS):
            raise BadInput(
                f"--model {name}: its metadata {WHOLE!r} is no JSON object of {', '.join(SETTINGS)}; write it anew, or "
                "say --size, --mean and --std"
            )
        found |= whole
    for key, value in found.items():
        found[key] = tuple(value) if isinstance(value, list) else value
        if not _fits(key, found[key]):
            raise BadInput(
                f"--model {name}: its metadata says {key} is {value!r}, which cannot be meant; write it anew"
            )
    mean = found.get("mean", ())
    if "range" not in found and max(mean if isinstance(mean, tuple) else (mean,), default=0.0) > 1:
        # No picture between 0 and 1 has such a mean: these are levels.
        found["range"] = (0.0, 255.0)
    return found


def _fits(key: str, value: Any) -> bool:
    if key == "layout":
        return value in ("NCHW", "NHWC")
    whole = key in ("size", "crop", "channels")
    kinds = int if whole else (int, float)
    several = value if isinstance(value, tuple) else (value,)
    lengths = {"channels": (1,), "range": (2,), "size": (1, 2), "crop": (1, 2)}.get(key, (1, 3))
    return len(several) in lengths and all(isinstance(x, kinds) and not isinstance(x, bool) for x in several)


def _value(text: str) -> Any:
    """Return what a text of the metadata says: JSON, numbers between commas, or a word."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        numbers = [float(part) for part in text.replace(";", ",").split(",")]
    except ValueError:
        return text.strip()
    return [int(each) if each == int(each) else each for each in numbers]


def _labels(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the classes' names: a JSON list or object, a Python dict (as some exporters write), or one a line."""
    text = next((metadata[key] for key in LABELS if metadata.get(key)), None)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = text.split("\n" if "\n" in text.strip() else ",")
    if isinstance(value, dict):
        # Classes by their number: {"0": "cat", "1": "dog"}.
        numbered = {str(key): name for key, name in value.items()}
        if not all(str(i) in numbered for i in range(len(numbered))):
            return None
        value = [numbered[str(i)] for i in range(len(numbered))]
    if not isinstance(value, (list, tuple)):
        return None
    return tuple(str(each).strip() for each in value if str(each).strip()) or None
