"""Tables: a pandas or polars frame is one array of numbers inside, and the user's own kind of frame for the model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.errors import BadInput, Refused
from whence.table_columns import Column

if TYPE_CHECKING:
    from whence.run import Run

# More rows than these are not needed to say what is ordinary, and each costs an evaluation of every coalition.
MOST_BACKGROUND = 100


def is_frame(given: Any) -> bool:
    """Tell whether something is a pandas or polars frame, without importing either."""
    return _library(given) is not None


def _library(given: Any) -> str | None:
    for name in ("pandas", "polars"):
        kind = getattr(sys.modules.get(name), "DataFrame", None)
        if kind is not None and isinstance(given, kind):
            return name
    return None


def taken(frame: Any, rows: Int[np.ndarray, "some"]) -> Any:
    """Return some rows of a frame."""
    return frame.iloc[rows] if _library(frame) == "pandas" else frame[rows]


@dataclass(eq=False)
class Table:
    """A frame's columns as the columns of one float64 array, and back again.

    `frames` says whether the model is given frames: else it is given the numbers.
    """

    frame: Any
    columns: tuple[Column, ...]
    frames: bool = True

    @classmethod
    def of(cls, frame: Any) -> Table:
        """Return the codec of a user's frame.

        Raises:
            BadInput: it has no column, or two of one name.
        """
        names = [str(name) for name in frame.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            what = f"two columns that are called {twice[0]!r}" if twice else "no column"
            raise BadInput(f"the frame has {what}; give every column a name of its own")
        columns = (Column(name, number, _column(frame, number)) for number, name in enumerate(names))
        return cls(frame, tuple(columns))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(each.name for each in self.columns)

    @cached_property
    def coded(self) -> Bool[np.ndarray, "columns"]:
        """Which columns hold something that is no number, so that only equal values are near each other."""
        return np.array([each.kind is None for each in self.columns])

    @staticmethod
    def is_frame(given: Any) -> bool:
        """Tell whether something is a frame."""
        return is_frame(given)

    # ---- numbers and back ------------------------------------------------------------------------------------

    @cached_property
    def array(self) -> Float[np.ndarray, "rows columns"]:
        """The user's frame as numbers."""
        return self.encode(self.frame)

    def encode(self, frame: Any) -> Float[np.ndarray, "rows columns"]:
        """Return a frame as an array: numbers as they are, everything else as codes of this table.

        Raises:
            BadInput: it is of another library, or its columns are not this table's.
        """
        order = self._order(frame)
        pairs = zip(self.columns, order, strict=True)
        return np.stack([each.encode(_column(frame, place)) for each, place in pairs], 1)

    def _order(self, frame: Any) -> list[int]:
        """Return where in another frame each of this table's columns stands."""
        if _library(frame) != _library(self.frame):
            raise BadInput(
                f"the inputs are a {_library(self.frame)} frame and the baseline is a {_library(frame)} frame; give "
                "both in the same kind"
            )
        names = [str(name) for name in frame.columns]
        missing = [name for name in self.names if name not in names]
        more = [name for name in names if name not in self.names]
        if missing or more:
            what = (
                f"has no column {missing[0]!r}"
                if missing
                else f"has a column {more[0]!r} that the inputs lack"
            )
            raise BadInput(
                f"the baseline {what}; its columns are those of the inputs: {', '.join(self.names)}"
            )
        return [names.index(name) for name in self.names]

    def decode(self, array: Float[np.ndarray, "rows columns"]) -> Any:
        """Return what the model is given for these numbers: a frame like the user's, or the numbers themselves.

        Raises:
            Refused: a number stands where a column has only words, or the other way round.
        """
        if not self.frames:
            return array
        columns = [each.decode(array[:, each.number]) for each in self.columns]
        library = sys.modules[str(_library(self.frame))]
        if library.__name__ == "polars":
            return library.DataFrame(dict(zip(self.frame.columns, columns, strict=True)))
        # Whatever rows they were taken from, they are the same rows now.
        rows = {number: each.reset_index(drop=True) for number, each in enumerate(columns)}
        frame = library.DataFrame(rows)
        frame.columns = self.frame.columns
        return frame

    def checked(self, given: Any) -> Any:
        """Return the numbers of a baseline, or of anything else that has a row's shape.

        Raises:
            BadInput: it is neither a frame nor numbers.
        """
        if is_frame(given):
            return self.encode(given)
        kind = getattr(given, "dtype", None)
        if getattr(kind, "kind", "f") not in "fiub" or isinstance(given, (str, bytes)):
            raise BadInput(
                f"of a table the baseline is a frame with the columns {', '.join(self.names)} (one row: "
                f"frame.iloc[[0]] or frame[:1]); this one is a {type(given).__name__} of {kind or 'text'}"
            )
        return given

    # ---- what else is asked of a table -----------------------------------------------------------------------

    @cached_property
    def trouble(self) -> str | None:
        """What stands in the way of calculating with all of its numbers; None where nothing does."""
        for column, values in zip(self.columns, self.array.T, strict=True):
            if column.kind is None:
                return f"column {column.name!r} holds {column.words}"
            if column.is_code(values).any():
                return f"column {column.name!r} has missing, infinite or very large values"
        return None

    def background(self, run: Run) -> Any:
        """Return rows of the user's own frame as the background of all of them, and note it.

        Raises:
            Refused: there is only one row, which would be compared with itself.
        """
        count = len(self.frame)
        if count == 1:
            raise Refused(
                "a single row has nothing to be compared with; give ordinary rows as the background, "
                "baseline=whence.baseline.dataset(rows)"
            )
        places = np.unique(np.linspace(0, count - 1, min(count, MOST_BACKGROUND)).round().astype(int))
        some = "rows" if len(places) == count else f"of {count:,} rows"
        run.note(
            f"no baseline was given: the {len(places)} {some} of the frame itself are the background; give "
            "baseline=whence.baseline.dataset(rows) to choose others"
        )
        return taken(self.frame, places)

    def shown(self) -> list[list[Any]]:
        """Return each row's values as JSON holds them: numbers, words, and None for what is missing."""
        return [list(row) for row in zip(*(each.shown() for each in self.columns), strict=True)]


def _column(frame: Any, number: int) -> Any:
    return frame.iloc[:, number] if _library(frame) == "pandas" else frame.to_series(number)
