"""The result of an explanation: the shares, how far to trust them, and how to look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from whence.errors import BadInput
from whence.naming import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text

Reduce = Literal["sum", "abs", "norm"]
# One number for each example.
ARRAYS = (
    "target", "output", "baseline_output", "residual", "error", "evaluations", "converged", "fidelity",
)  # fmt: skip
# One for each feature of each example, or for each pair of them.
BY_FEATURE = ("shares", "interactions")


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
    promises nothing of the kind. Where features are groups, `shares` [B, d] is one number per feature, named in
    `settings["feature_names"]`; `interactions` [B, d, d] are the shares of pairs, whose rows sum to the shares; an
    example with fewer features than another ends in NaN. `fidelity` [B] is a surrogate's R². `evaluations` counts
    gradients (or forwards) spent on each example. `size` is the input's own extent in space, where the values are a
    layer's: its map is stretched to it.
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
    fidelity: Any = None
    interactions: Any = None
    trace: Trace | None = None
    notes: list[str] = field(default_factory=list[str])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    picture: UInt8[np.ndarray, "batch height width channels"] | None = None
    channel_axis: int | None = None
    every_class: bool = False
    size: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        names = ("values", "target", "output", "residual", "error", "evaluations", "converged", "notes")
        told = ((name, getattr(self, name)) for name in names)
        return f"Attribution({self.method}, {', '.join(f'{n}={brief(v)}' for n, v in told if v is not None)})"

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
            name: _map(getattr(self, name), pick) for name in ("values", "standard_error", *BY_FEATURE)
        }
        for name in ("output", "baseline_output", "residual", "error", "converged", "fidelity"):
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

        names = ("values", "standard_error", "picture", *BY_FEATURE, *ARRAYS)
        picked: dict[str, Any] = {name: _map(getattr(self, name), pick) for name in names}
        trace = self.trace
        if trace is not None:
            trace = Trace(*(pick(getattr(trace, part.name)) for part in fields(Trace)))
        settings = dict(self.settings)
        if "feature_values" in settings:
            settings["feature_values"] = settings["feature_values"][row : row + 1]
        return replace(self, **picked, trace=trace, settings=settings)

    def units(self, axis: int | None = None, absolute: bool = False) -> Float[np.ndarray, "batch units"]:
        """Return the importance of each unit of a layer or a parameter; see `whence.units.importance`."""
        from whence import units

        return units.importance(self, axis, absolute)

    # ---- pictures ----------------------------------------------------------------------------------------

    def heatmap(self, reduce: Reduce = "sum") -> Float[np.ndarray, "batch *size"]:
        """Return one signed number per position: the channels summed, summed in absolute value, or normed.

        A layer's map is stretched to the input's size (bilinearly), so that it can lie over it. Of several
        inputs it is the map of the first.
        """
        from whence import view

        if self.every_class:
            raise BadInput("heatmap: this result holds every class; take one with .for_class(index)")
        values = first_array(self.values).astype(np.float64)
        if self.settings.get("repeated") and self.channel_axis is not None and values.ndim > 2:
            # A feature of all channels has its one share on each of them.
            values = values.mean(self.channel_axis, keepdims=True)
        maps = view.reduce_channels(values, self.channel_axis, reduce)
        size = self.size if self.picture is None else self.picture.shape[1:3]
        if size is not None and maps.ndim == len(size) + 1 and maps.shape[1:] != size:
            maps = view.resize_maps(maps, size)
        return maps

    @property
    def smooth(self) -> float:
        """How far an overlay is averaged, in parts of the picture's shorter side: regions keep their borders."""
        from whence import view

        return view.SMOOTH if self.shares is None else 0.0

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
        pairs = ((pictures[i % len(pictures)], each) for i, each in enumerate(maps))
        return np.stack([view.overlay(picture, each, smooth=self.smooth) for picture, each in pairs])

    def plot(self, reduce: Reduce = "sum") -> Figure:
        """Draw input, heat map, saliency mask and overlay of each example, with the scale stated."""
        from whence import units, view

        return units.figure(self) if units.of_parameters(self) else view.figure(self, reduce)

    def beeswarm(self, most: int = 12) -> Figure:
        """Draw every example's shares of a table's features, a line for each feature; see `whence.view.beeswarm`."""
        from whence import view

        return view.beeswarm(self, most)

    def to_text(self, tokens: Sequence[Any], row: int = 0) -> Text:
        """Return one example's tokens in colour for a terminal; see `whence.view.to_text`."""
        from whence import view

        return view.to_text(self, tokens, row)

    def text_html(self, tokens: Sequence[Any], row: int = 0) -> str:
        """Return one example's tokens in colour as a piece of HTML; see `whence.view.text_html`."""
        from whence import view

        return view.text_html(self, tokens, row)

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
        from whence import archive

        return archive.write(self, path)


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


def brief(part: Any) -> str:
    """Return a part of a result as text that fits on a line: small arrays by their numbers."""
    if isinstance(part, Mapping):
        return f"{{{', '.join(f'{key!r}: {brief(each)}' for key, each in part.items())}}}"
    if isinstance(part, tuple):
        return f"({', '.join(map(brief, part))})"
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
