"""One column of a frame: its values as numbers, and numbers as its values again, exactly and of the same type."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence.errors import BadInput, Refused

if TYPE_CHECKING:
    import narwhals as nw

# A code is a whole number of these: so far below zero that no number of a table is ever taken for one.
UNIT = 2.0**960
# Every column counts from a place of its own: what comes of calculating with codes of two of them is no code.
ROOM = 2**31
# Up to here whole numbers are exact as floats.
EXACT = 2**53
NUMBERS = (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
WORDS = {"string": "text", "categorical": "categories", "enum": "categories", "object": "values of any kind"}


@dataclass(eq=False)
class Column:
    """Numbers stand for themselves; words, dates, missing values and all else are codes: places in `known`.

    `own` is the user's column, whose library and type the model's columns have.
    """

    name: str
    number: int
    own: Any
    _pieces: list[Any] = field(default_factory=list[Any])
    _places: dict[Any, int] = field(default_factory=dict[Any, int])

    @cached_property
    def _type(self) -> nw.dtypes.DType:
        return _wrapped(self.own).dtype

    @cached_property
    def kind(self) -> np.dtype[Any] | None:
        """The type of its numbers; None where it holds something else."""
        return _number_type(self._type)

    @property
    def words(self) -> str:
        """What it holds, in a word."""
        name = _name(self._type)
        return WORDS.get(name, f"{name} values")

    @staticmethod
    def is_code(values: Float[np.ndarray, "rows"]) -> Bool[np.ndarray, "rows"]:
        """Tell which numbers are codes."""
        return values <= -UNIT

    # ---- there ---------------------------------------------------------------------------------------------

    def encode(self, given: Any) -> Float[np.ndarray, "rows"]:
        """Return a column of this kind as numbers.

        Raises:
            BadInput: it holds values of another kind.
        """
        column = _wrapped(given)
        plain, numbers = self._numbers(column)
        if plain.all():
            return numbers
        coded = np.flatnonzero(~plain)
        numbers[coded] = -UNIT * (ROOM * (self.number + 1.0) + self._codes(column[coded]))
        return numbers

    def _numbers(self, column: nw.Series[Any]) -> tuple[Bool[np.ndarray, "rows"], Float[np.ndarray, "rows"]]:
        """Return which values are plain finite numbers, and those; 0 elsewhere."""
        missing = np.asarray(column.is_null().to_numpy(), dtype=bool)
        if self.kind is None:
            return np.zeros(len(missing), dtype=bool), np.zeros(len(missing))
        if _number_type(column.dtype) is None:
            if missing.all():
                return ~missing, np.zeros(len(missing))
            raise self._unlike(column)
        values = np.asarray(column.fill_null(False if _name(column.dtype) == "boolean" else 0).to_numpy())
        numbers = values.astype(np.float64)
        # Beyond 2^53 two whole numbers may be the same float: they are kept as they are.
        plain = (
            ~missing
            & np.isfinite(numbers)
            & (np.abs(numbers) < (EXACT if values.dtype.kind in "iu" else UNIT))
        )
        return plain, np.where(plain, numbers, 0.0)

    def _codes(self, column: nw.Series[Any]) -> Int[np.ndarray, "rows"]:
        """Return the place of each value in `known`, to which what is new is added."""
        if column.dtype != self._type and self.kind is None:
            column = self._cast(column)
        before = len(self._places)
        codes = np.array([self._places.setdefault(key, len(self._places)) for key in _keys(column)])
        if len(self._places) > before:
            new, first = np.unique(codes, return_index=True)
            self._pieces.append(column[first[new >= before]].alias("value"))
            self.__dict__.pop("known", None)
        return codes

    def _cast(self, column: nw.Series[Any]) -> nw.Series[Any]:
        """Return words as categories, or the other way round, as the user's own column has them."""
        if {_name(column.dtype), _name(self._type)} <= set(WORDS):
            if hasattr(getattr(self.own, "cat", None), "categories"):
                # New categories are added where the pieces are joined.
                return column
            try:
                cast = column.cast(self._type)
            except Exception:
                raise self._unlike(column) from None
            if (cast.is_null() == column.is_null()).all():
                return cast
        elif column.is_null().all() or type(column.dtype) is type(self._type):
            # Nothing but missing values, or times in another unit.
            return column.cast(self._type)
        raise self._unlike(column)

    def _unlike(self, column: nw.Series[Any]) -> BadInput:
        return BadInput(
            f"column {self.name!r} holds {self.words} in the inputs and {_name(column.dtype)} values in the baseline; "
            "give both the same type"
        )

    # ---- and back ------------------------------------------------------------------------------------------

    @cached_property
    def known(self) -> nw.Series[Any]:
        """All values that have a code, in their order."""
        return _joined(self._pieces, self.own)

    def decode(self, values: Float[np.ndarray, "rows"]) -> Any:
        """Return numbers and codes as a column of the user's library and type.

        Whole numbers stay so as long as all of them are whole.

        Raises:
            Refused: there is a number where the column has only other values, or a code that is none of its own.
        """
        coded = self.is_code(values)
        if self.kind is None and not coded.all():
            raise Refused(
                f"column {self.name!r} holds {self.words}, and the baseline has the number {values[~coded][0]:g} there;"
                " give rows as a frame: baseline=whence.baseline.dataset(rows)"
            )
        if not coded.any():
            return self._of_numbers(values)
        places = values[coded] / -UNIT - ROOM * (self.number + 1)
        if (places != np.rint(places)).any() or places.min() < 0 or places.max() >= len(self._places):
            raise Refused(
                f"no baseline can be calculated from what this table holds (column {self.name!r}); give rows: "
                "baseline=whence.baseline.dataset(rows)"
            )
        found = self.known[places.astype(np.int64)]
        if coded.all():
            return found.to_native()
        numbers = _wrapped(_of_type(self._of_numbers(np.where(coded, 0.0, values)), found.to_native().dtype))
        return numbers.scatter(np.flatnonzero(coded).tolist(), found).to_native()

    def _of_numbers(self, values: Float[np.ndarray, "rows"]) -> Any:
        import narwhals as nw

        assert self.kind is not None
        fits = _fits(values, self.kind)
        array = values.astype(self.kind) if fits else values
        made = nw.new_series("value", array, backend=_wrapped(self.own).implementation).to_native()
        return _of_type(made, self.own.dtype) if fits else made

    def shown(self) -> list[Any]:
        """Return the user's values as JSON holds them: numbers, words, and None for what is missing."""
        column = _wrapped(self.own)
        pairs = zip(column.to_list(), column.is_null().to_list(), strict=True)
        return [None if missing else _plain(value) for value, missing in pairs]


def _wrapped(native: Any) -> nw.Series[Any]:
    import narwhals as nw

    return nw.from_native(native, series_only=True)


def _keys(column: nw.Series[Any]) -> list[Any]:
    """Return something for each value that is equal where the values are the same, and of the same type."""
    native = column.to_native()
    # As Python has times, a nanosecond would be lost.
    exact = column.dtype.is_temporal() and hasattr(native, "to_physical")
    values = native.to_physical().to_list() if exact else column.to_list()
    missing = column.is_null().to_list()
    return [_key(None if gone else value, value) for value, gone in zip(values, missing, strict=True)]


def _key(value: Any, given: Any) -> Any:
    if isinstance(value, (float, np.floating)) and np.isnan(value):
        return type(given), None
    try:
        hash(value)
    except TypeError:
        return type(given), repr(value) if isinstance(value, (list, dict, set)) else object()
    return type(given), value


def _name(kind: Any) -> str:
    return str(kind).partition("(")[0].lower()


def _number_type(kind: Any) -> np.dtype[Any] | None:
    name = _name(kind)
    if name == "boolean":
        return np.dtype(bool)
    return np.dtype(name) if name in NUMBERS else None


def _fits(values: Float[np.ndarray, "rows"], kind: np.dtype[Any]) -> bool:
    """Tell whether numbers of a float array are numbers of a type."""
    if kind.kind == "f":
        return True
    least, most = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
    return bool(((values == np.rint(values)) & (values >= least) & (values <= most)).all())


def _of_type(native: Any, kind: Any) -> Any:
    return native.astype(kind) if hasattr(native, "astype") else native.cast(kind)


def _joined(pieces: list[Any], own: Any) -> Any:
    """Return columns one below the other, of the user's type; categories that only some have are added."""
    import narwhals as nw

    if len({str(each.dtype) for each in pieces}) > 1 and all(_number_type(each.dtype) for each in pieces):
        pieces = [each.cast(nw.Float64()) for each in pieces]
    column = nw.concat([each.to_frame() for each in pieces])["value"]
    native = column.to_native()
    categories = getattr(getattr(own, "cat", None), "categories", None)
    if not hasattr(native, "astype"):
        return column
    native = native.reset_index(drop=True)
    if categories is not None and native.dtype != own.dtype:
        met = [each for each in native.dropna().unique() if each not in set(categories)]
        native = native.astype(type(own.dtype)([*categories, *met], ordered=own.cat.ordered))
    return _wrapped(native)


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, float, np.integer, np.floating)):
        return None if np.isnan(value) else value.item() if isinstance(value, np.generic) else value
    return str(value).removesuffix(" 00:00:00")
