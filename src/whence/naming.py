"""Names in texts: what was not found and probably meant, and settings short enough for a line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return one line that says a name is unknown and offers the near ones."""
    known = list(known)
    near = (
        difflib.get_close_matches(name, known, n=4, cutoff=0.5)
        or [each for each in known if name in each][:4]
    )
    if near:
        return f"there is no {kind} {name!r}; did you mean {' or '.join(repr(each) for each in near)}?"
    listed = ", ".join(known[:12]) + (f" ... ({len(known)} in all)" if len(known) > 12 else "")
    return f"there is no {kind} {name!r}; there are: {listed or 'none'}"


def floating(array: Any) -> str:
    """Return the name of an array's type, the same in every framework: "float32", "bfloat16"."""
    return str(array.dtype).rpartition(".")[2]


def short(value: Any) -> str:
    """Return a setting as text that fits on a line."""
    if getattr(value, "ndim", 0) and hasattr(value, "dtype"):
        return f"<array {' x '.join(map(str, value.shape))} {value.dtype}>"
    if hasattr(value, "columns") and hasattr(value, "shape"):
        return f"<frame {' x '.join(map(str, value.shape))}>"
    if isinstance(value, list):
        return f"[{', '.join(short(each) for each in value)}]"  # pyright: ignore[reportUnknownVariableType]
    return repr(value)
