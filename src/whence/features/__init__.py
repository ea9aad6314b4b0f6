"""Features: what is switched on and off together, from single numbers to superpixels, columns and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whence.counts import whole
from whence.errors import BadInput
from whence.features.kinds import Along, Columns, Elements, Given, Grid, Patches, Superpixels
from whence.naming import short, unknown


def elements() -> Elements:
    """Every number is a feature of its own."""
    return Elements()


def patches(window: int | tuple[int, ...], stride: int | tuple[int, ...] | None = None) -> Patches:
    """Windows of (height, width), or of every axis after the batch; without a stride they lie side by side."""
    return Patches(window, stride)


def grid(rows: int, columns: int | None = None) -> Grid:
    """A picture cut into rows x columns cells."""
    return Grid(whole(rows, "grid: rows"), whole(rows if columns is None else columns, "grid: columns"))


def superpixels(method: str = "slic", count: int | None = None, **options: Any) -> Superpixels:
    """Regions of similar colour: slic, felzenszwalb, quickshift or watershed, with scikit-image's own options.

    `count` is about how many regions there are to be (slic, watershed); 50 by default.
    """
    return Superpixels(method, count, tuple(sorted(options.items())))


def channels(axis: int | None = None) -> Along:
    """One feature for each channel (a colour, a filter); `axis` counts the batch as 0."""
    return Along(axis, "channel")


def tokens(axis: int = 1) -> Along:
    """One feature for each place along an axis: a token, a moment in time."""
    return Along(axis, "token")


def columns(groups: Mapping[str, Sequence[Any]] | None = None, names: Sequence[str] | None = None) -> Columns:
    """The columns of a table, some of them in groups: {"money": ["income", "capital"]}, by name or number."""
    named = {} if groups is None else {str(name): tuple(members) for name, members in groups.items()}
    for name, members in named.items():
        if not members:
            raise BadInput(f"columns: the group {name!r} is empty; name at least one column")
    return Columns(tuple(named.items()), None if names is None else tuple(map(str, names)))


def mask(masks: Any) -> Given:
    """A mask of whole numbers, shaped like an input or one example: equal numbers are one feature, below 0 is none.

    For several inputs, a tuple or dict of masks; the same number in two of them is the same feature.
    """
    return Given(masks)


def _needs_number(name: str) -> Callable[[], Any]:
    def refuse() -> Any:
        raise BadInput(f"features {name!r}: {_usage(name)}")

    return refuse


def _usage(name: str) -> str:
    return f"write {name}:7" if NAMES[name][1] is not None else f"{name} takes no number; write {name}"


# By name alone, and by name:number: how many superpixels, the cells of a grid's side, a patch's side, an axis.
NAMES: dict[str, tuple[Callable[[], Any], Callable[[int], Any] | None]] = {
    "elements": (elements, None),
    "superpixels": (superpixels, lambda count: superpixels("slic", count)),
    "grid": (_needs_number("grid"), grid),
    "patches": (_needs_number("patches"), patches),
    "channels": (channels, channels),
    "tokens": (tokens, tokens),
    "columns": (columns, None),
    "slic": (superpixels, lambda count: superpixels("slic", count)),
    "watershed": (lambda: superpixels("watershed"), lambda count: superpixels("watershed", count)),
    "felzenszwalb": (lambda: superpixels("felzenszwalb"), None),
    "quickshift": (lambda: superpixels("quickshift"), None),
}


def resolve(spec: Any) -> Any:
    """Return the features that a word or an object means.

    Raises:
        BadInput: it means none.
    """
    if isinstance(spec, str):
        name, colon, argument = spec.partition(":")
        if name not in NAMES:
            raise BadInput(unknown("kind of features", name, NAMES))
        if not colon:
            return NAMES[name][0]()
        counted = NAMES[name][1]
        if counted is None or not argument.isdigit() or int(argument) < 1:
            raise BadInput(f"features {spec!r}: {_usage(name)}")
        return counted(int(argument))
    if not hasattr(spec, "cover"):
        raise BadInput(
            f"features is {short(spec)}; give a name ({', '.join(NAMES)}), one of whence.features, or a mask of whole "
            "numbers"
        )
    return spec
