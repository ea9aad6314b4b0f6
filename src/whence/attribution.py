"""The result of an explanation: the shares, how far to trust them, and how to look at them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from whence.errors import BadInput
from whence.files import write_atomically
from whence.naming import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Reduce = Literal["sum", "abs", "norm"]
FORMAT = 1
# A NumPy archive of arrays and one JSON text: readable without this library, and never a pickle.
ARRAYS = ("target", "output", "baseline_output", "residual", "error", "evaluations", "converged")


@dataclass(frozen=True)
class Trace:
    """What a path method saw on its way; NaN where an example needed fewer nodes than its batch mates.

    `nodes` and `weights` are [B, N] (the nodes α in [0, 1], 0 the baseline), `output` [B, N] is f at each node
    and `derivative` [B, N] its derivative along the path; both are [B, N, K] when every class was explained.
    """

    nodes: Float[np.ndarray, "batch nodes"]
    weights: Float[np.ndarray, "batch nodes"]
    output: Float[np.ndarray, "batch nodes ..."]
    derivative: Float[np.ndarray, "batch nodes ..."]


@dataclass(frozen=True)
class Attribution:
    """Each input's share of the explained output, and how accurate that share is.

    `values` has the inputs' (or the layer's) structure, shapes and device, detached; with `target="all"` a class
    axis follows the batch axis. `residual` is Σ shares − (f(x) − f(x')), signed; `error` the estimated relative
    L1 error of the values; `standard_error` the sampling error of each value. All three are None where the method
    promises nothing of the kind. `evaluations` counts gradients (or forwards) spent on each example.
    """

    values: Any
    method: str
    target: Any
    output: Any
    baseline_output: Any = None
    residual: Any = None
    error: Any = None
    standard_error: Any = None
    evaluations: Any = None
    converged: Any = None
    shares: Any = None
    trace: Trace | None = None
    notes: list[str] = field(default_factory=list[str])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    picture: UInt8[np.ndarray, "batch height width channels"] | None = None
    channel_axis: int | None = None
    every_class: bool = False

    def __repr__(self) -> str:
        names = ("values", "target", "output", "residual", "error", "evaluations", "converged", "notes")
        told = ((name, getattr(self, name)) for name in names)
        return (
            f"Attribution({self.method}, {', '.join(f'{n}={_brief(v)}' for n, v in told if v is not None)})"
        )

    # ---- numbers -----------------------------------------------------------------------------------------

    def numpy(self) -> Any:
        """Return the values as NumPy arrays, in the structure of the inputs."""
        return _map(self.values, to_numpy)

    def for_class(self, index: int) -> Attribution:
        """Return one class's part of a result of `target="all"`.

        Raises:
            BadInput: the result explains a single target, or has no such class.
        """
        if not self.every_class:
            raise BadInput(f'for_class({index}): this result explains one target; ask for target="all" first')
        classes = to_numpy(self.output).shape[1]
        if not -classes <= index < classes:
            raise BadInput(f"for_class({index}): the model has {classes} classes, 0 to {classes - 1}")

        def pick(array: Any) -> Any:
            return array[:, index]

        picked: dict[str, Any] = {
            name: _map(getattr(self, name), pick) for name in ("values", "standard_error")
        }
        for name in ("output", "baseline_output", "residual", "error", "converged"):
            picked[name] = _map(getattr(self, name), pick)
        trace = self.trace
        if trace is not None:
            trace = replace(trace, output=trace.output[..., index], derivative=trace.derivative[..., index])
        rows = to_numpy(self.output).shape[0]
        return replace(self, **picked, trace=trace, target=np.full(rows, index % classes), every_class=False)

    def example(self, row: int) -> Attribution:
        """Return one example's result, still as a batch (of one).

        Raises:
            BadInput: there is no such example.
        """
        batch = len(self.output)
        if not -batch <= row < batch:
            raise BadInput(f"example({row}): there are {batch} examples, 0 to {batch - 1}")
        row %= batch

        def pick(array: Any) -> Any:
            return array[row : row + 1] if getattr(array, "ndim", 0) else array

        names = ("values", "standard_error", "shares", "picture", *ARRAYS)
        picked: dict[str, Any] = {name: _map(getattr(self, name), pick) for name in names}
        trace = self.trace
        if trace is not None:
            trace = Trace(*(pick(getattr(trace, part.name)) for part in fields(Trace)))
        return replace(self, **picked, trace=trace)

    # ---- pictures ----------------------------------------------------------------------------------------

    def heatmap(self, reduce: Reduce = "sum") -> Float[np.ndarray, "batch height width"]:
        """Return one signed number per position: the channels summed, summed in absolute value, or normed.

        A layer's map is stretched to the picture's size (bilinearly), so that it can lie over it. Of several
        inputs it is the map of the first.
        """
        from whence import view

        if self.every_class:
            raise BadInput("heatmap: this result holds every class; take one with .for_class(index)")
        values = first_array(self.values).astype(np.float64)
        maps = view.reduce_channels(values, self.channel_axis, reduce)
        if self.picture is not None and maps.ndim == 3 and maps.shape[1:] != self.picture.shape[1:3]:
            maps = view.resize_maps(maps, self.picture.shape[1:3])
        return maps

    def mask(self, reduce: Reduce = "sum") -> Float[np.ndarray, "batch height width"]:
        """Return the saliency mask: |heat map| scaled to [0, 1] by its stated colour scale."""
        from whence import view

        return np.stack([view.saliency_mask(each) for each in self.heatmap(reduce)])

    def overlay(self, image: Any = None, reduce: Reduce = "sum") -> UInt8[np.ndarray, "batch height width 3"]:
        """Return the heat map laid over the picture (the explained one, unless `image` is given)."""
        from whence import view

        pictures = view.as_pictures(image) if image is not None else self.picture
        if pictures is None:
            raise BadInput("overlay: this result holds no picture; give one: overlay(image)")
        maps = self.heatmap(reduce)
        if len(pictures) not in (1, len(maps)):
            raise BadInput(f"overlay: {len(pictures)} pictures for {len(maps)} examples")
        return np.stack([view.overlay(pictures[i % len(pictures)], each) for i, each in enumerate(maps)])

    def plot(self, reduce: Reduce = "sum") -> Figure:
        """Draw input, heat map, saliency mask and overlay of each example, with the scale stated."""
        from whence import view

        return view.figure(self, reduce)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write one self-contained HTML report and return its path; options are those of `report.write`."""
        from whence import report

        return report.write([self], path, **options)

    def _repr_png_(self) -> bytes | None:
        from whence import view

        return None if self.every_class else view.png(self.plot())

    # ---- keeping -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the result to a NumPy archive (`.npz`) that `whence.load` reads back, without pickles."""
        path = Path(path)
        arrays, structure = _flatten(self.values, "values")
        errors, error_structure = _flatten(self.standard_error, "standard_error")
        arrays |= errors | _flatten(self.shares, "shares")[0]
        # A target that is not numbers (a word, a place in a dense output, a neuron) is kept as text.
        named = self.target is not None and not hasattr(self.target, "shape")
        numbers = [name for name in ARRAYS if not (named and name == "target")]
        arrays |= {name: to_numpy(getattr(self, name)) for name in numbers if getattr(self, name) is not None}
        if self.trace is not None:
            arrays |= {f"trace.{part.name}": getattr(self.trace, part.name) for part in fields(Trace)}
        if self.picture is not None:
            arrays["picture"] = self.picture
        header = {
            "format": FORMAT, "method": self.method, "notes": self.notes, "settings": self.settings,
            "channel_axis": self.channel_axis, "every_class": self.every_class,
            "structure": structure, "standard_error": error_structure,
            "target": (self.target if isinstance(self.target, (str, tuple)) else repr(self.target)) if named else None,
        }  # fmt: skip
        arrays["header"] = np.array(json.dumps(header, default=str))
        with write_atomically(path) as handle:
            np.savez_compressed(handle, allow_pickle=False, **arrays)
        return path


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
    return Attribution(
        values=_unflatten(arrays, "values", header["structure"]),
        standard_error=_unflatten(arrays, "standard_error", header["standard_error"]),
        shares=arrays.get("shares"),
        trace=trace,
        picture=arrays.get("picture"),
        **numbers,
        **{name: header[name] for name in ("method", "notes", "settings", "channel_axis", "every_class")},
    )


# ---- structures: one array, or a tuple or dict of arrays and Nones -----------------------------------------


def to_numpy(array: Any) -> np.ndarray:
    """Bring a native array to NumPy (half precisions that NumPy lacks become float32)."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":
            array = array.float()
        return array.numpy()
    return np.asarray(array)


def _brief(part: Any) -> str:
    if isinstance(part, Mapping):
        return f"{{{', '.join(f'{key!r}: {_brief(each)}' for key, each in part.items())}}}"
    if isinstance(part, tuple):
        return f"({', '.join(map(_brief, part))})"
    array = to_numpy(part) if hasattr(part, "shape") else None
    if array is None or array.size > 4:
        return short(part)
    return " ".join(np.array2string(array, precision=4, separator=", ").split())


def _map(structure: Any, function: Any) -> Any:
    if structure is None:
        return None
    if isinstance(structure, Mapping):
        return {key: _map(part, function) for key, part in structure.items()}
    if isinstance(structure, (tuple, list)):
        return tuple(_map(part, function) for part in structure)
    return function(structure)


def first_array(structure: Any) -> np.ndarray:
    """Return the first array of a structure, as NumPy."""
    if isinstance(structure, Mapping):
        structure = tuple(structure.values())
    if isinstance(structure, (tuple, list)):
        structure = next(part for part in structure if part is not None)
    return to_numpy(structure)


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
