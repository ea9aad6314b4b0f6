"""Keeping a result: a NumPy archive of arrays and one JSON text, readable without this library, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from whence.attribution import ARRAYS, BY_FEATURE, Attribution, Trace, to_numpy
from whence.errors import BadInput
from whence.files import write_atomically

FORMAT = 1


def write(result: Attribution, path: str | Path) -> Path:
    """Write a result to `path` and return it."""
    path = Path(path)
    arrays, structure = _flatten(result.values, "values")
    errors, error_structure = _flatten(result.standard_error, "standard_error")
    arrays |= errors
    for name in BY_FEATURE:
        arrays |= _flatten(getattr(result, name), name)[0]
    # A target that is not numbers (a word, a place in a dense output, a neuron) is kept as text.
    named = result.target is not None and not hasattr(result.target, "shape")
    numbers = {name: getattr(result, name) for name in ARRAYS if not (named and name == "target")}
    arrays |= {name: to_numpy(array) for name, array in numbers.items() if array is not None}
    if result.trace is not None:
        arrays |= {f"trace.{part.name}": getattr(result.trace, part.name) for part in fields(Trace)}
    if result.picture is not None:
        arrays["picture"] = result.picture
    header = {
        "format": FORMAT, "method": result.method, "notes": result.notes, "settings": result.settings,
        "channel_axis": result.channel_axis, "every_class": result.every_class, "size": result.size,
        "structure": structure, "standard_error": error_structure,
        "target": _in_words(result.target) if named else None,
    }  # fmt: skip
    arrays["header"] = np.array(json.dumps(header, default=str))
    with write_atomically(path) as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)
    return path


def _in_words(target: Any) -> Any:
    return target if isinstance(target, (str, tuple)) else repr(target)


def load(path: str | Path) -> Attribution:
    """Read a result that `Attribution.save` wrote; its arrays are NumPy's.

    Raises:
        BadInput: the file is missing or not such an archive.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return _restored(arrays, json.loads(str(arrays.pop("header"))))
    except FileNotFoundError:
        raise BadInput(f"load: there is no file {path}") from None
    except Exception as problem:
        raise BadInput(f"load: {path} is not a saved attribution ({problem})") from None


def _restored(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> Attribution:
    parts = [part.name for part in fields(Trace)]
    trace = Trace(*(arrays[f"trace.{name}"] for name in parts)) if "trace.nodes" in arrays else None
    numbers: dict[str, Any] = {name: arrays.get(name) for name in ARRAYS}
    if header["target"] is not None:
        named = header["target"]
        numbers["target"] = tuple(named) if isinstance(named, list) else named
    # Results of earlier versions do not say.
    size = header.get("size")
    return Attribution(
        values=_unflatten(arrays, "values", header["structure"]),
        standard_error=_unflatten(arrays, "standard_error", header["standard_error"]),
        **{name: arrays.get(name) for name in BY_FEATURE},
        trace=trace,
        picture=arrays.get("picture"),
        size=None if size is None else tuple(size),
        **numbers,
        **{name: header[name] for name in ("method", "notes", "settings", "channel_axis", "every_class")},
    )


def _flatten(structure: Any, name: str) -> tuple[dict[str, np.ndarray], Any]:
    """Return the arrays under dotted names, and the structure with each array replaced by its name."""
    if structure is None:
        return {}, None
    if isinstance(structure, (Mapping, tuple, list)):
        keys = list(structure) if isinstance(structure, Mapping) else range(len(structure))
        parts = [_flatten(structure[key], f"{name}.{key}") for key in keys]
        arrays = {key: array for part, _ in parts for key, array in part.items()}
        shapes = [shape for _, shape in parts]
        return arrays, dict(zip(keys, shapes, strict=True)) if isinstance(structure, Mapping) else shapes
    return {name: to_numpy(structure)}, name


def _unflatten(arrays: Mapping[str, np.ndarray], name: str, structure: Any) -> Any:
    if isinstance(structure, str):
        return arrays[structure]
    if isinstance(structure, Mapping):
        return {key: _unflatten(arrays, name, part) for key, part in structure.items()}
    if isinstance(structure, list):
        return tuple(_unflatten(arrays, name, part) for part in structure)
    return None
