"""Errors about names: what was not found, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
