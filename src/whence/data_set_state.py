"""What is known of a data set's mean so far: the moments of its maps, group by group, and the file that keeps them.

Nothing here is changed in place. A batch makes a new state, so that an interrupt leaves the old one or the new one
and never half of a batch. The moments are NumPy's in float64, also where the device has no float64: their memory
is a few maps for each group, whatever the number of examples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from whence.errors import BadInput
from whence.files import write_atomically
from whence.structure import Structure

FORMAT = 1
Maps = tuple[Float64[np.ndarray, "..."], ...]
"""One array for each input (or one for a layer): maps of one example, or with an axis of examples or groups first."""
Label = int | float | str | bool | None
_KINDS: dict[str, type | None] = {"array": None, "tuple": tuple, "dict": dict}


@dataclass(frozen=True)
class Tally:
    """The moments of the maps of some examples.

    `mean` and `squares` are the mean map and the sum of squared deviations from it, `absolute` and
    `absolute_squares` the same of |map|; `variance` is the sum over the examples of the estimated variance of their
    integrals, and `residual` the mean of their completeness residuals.
    """

    count: int
    residual: float
    mean: Maps
    squares: Maps
    absolute: Maps
    absolute_squares: Maps
    variance: Maps

    @classmethod
    def of(cls, maps: Maps, variance: Maps, residual: Float64[np.ndarray, "n"]) -> Tally:
        """Return the moments of maps [n, ...]."""
        mean, squares = _moments(maps)
        absolute, absolute_squares = _moments(tuple(np.abs(each) for each in maps))
        summed = tuple(each.sum(0) for each in variance)
        return cls(len(residual), float(residual.mean()), mean, squares, absolute, absolute_squares, summed)

    def merged(self, other: Tally) -> Tally:
        """Return the moments of both lots of examples (Chan, Golub, LeVeque 1979)."""
        count = self.count + other.count
        share, both = other.count / count, self.count * other.count / count

        def joined(mean: Maps, squares: Maps, new_mean: Maps, new_squares: Maps) -> tuple[Maps, Maps]:
            steps = tuple(b - a for a, b in zip(mean, new_mean, strict=True))
            means = tuple(a + step * share for a, step in zip(mean, steps, strict=True))
            parts = zip(squares, new_squares, steps, strict=True)
            return means, tuple(a + b + step * step * both for a, b, step in parts)

        mean, squares = joined(self.mean, self.squares, other.mean, other.squares)
        absolute, absolute_squares = joined(
            self.absolute, self.absolute_squares, other.absolute, other.absolute_squares
        )
        variance = tuple(a + b for a, b in zip(self.variance, other.variance, strict=True))
        residual = self.residual + (other.residual - self.residual) * share
        return Tally(count, residual, mean, squares, absolute, absolute_squares, variance)


def _moments(maps: Maps) -> tuple[Maps, Maps]:
    mean = tuple(each.mean(0) for each in maps)
    return mean, tuple(((a - b) ** 2).sum(0) for a, b in zip(maps, mean, strict=True))


MAPS = tuple(part.name for part in fields(Tally))[2:]


@dataclass(frozen=True)
class State:
    """Everything that a mean over a data set needs in order to go on.

    Attributes:
        settings: what was asked, as texts; a run goes on only with the same.
        fingerprint: what tells the model: a checksum of its weights and its output for the first example.
        structure: how the maps are given: one array, or a tuple or dict of arrays and Nones.
        shapes: those of one example's arrays.
        groups: the moments of each group, by its label (None where there is one group).
        count: how many examples have been counted.
        evaluations: how many gradients that took.
        checksums: of all the counted examples' numbers, one for each array.
        notes: sentences for the user.
        about: what a result says of itself besides: versions, the model's name.
    """

    settings: dict[str, str]
    fingerprint: dict[str, Any]
    structure: Structure
    shapes: tuple[tuple[int, ...], ...]
    checksums: tuple[int, ...]
    groups: dict[Label, Tally] = field(default_factory=dict[Label, Tally])
    count: int = 0
    evaluations: int = 0
    notes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict[str, Any])

    def added(
        self, parts: Mapping[Label, Tally], evaluations: int, checksums: tuple[int, ...], notes: list[str]
    ) -> State:
        """Return the state with a batch's moments in it."""
        groups = dict(self.groups)
        for label, part in parts.items():
            groups[label] = groups[label].merged(part) if label in groups else part
        return replace(
            self,
            groups=groups,
            count=self.count + sum(part.count for part in parts.values()),
            evaluations=self.evaluations + evaluations,
            checksums=checksums,
            notes=tuple(dict.fromkeys((*self.notes, *notes))),
        )

    @property
    def labels(self) -> list[Label]:
        """The groups' labels in order."""
        return sorted(self.groups, key=lambda label: (str(type(label)), label))  # type: ignore[arg-type]

    def stacked(self, name: str) -> Maps:
        """Return one kind of maps with an axis of groups first."""
        groups = [getattr(self.groups[label], name) for label in self.labels]
        return tuple(np.stack(leaves) for leaves in zip(*groups, strict=True))

    # ---- the file --------------------------------------------------------------------------------------------

    def write(self, path: str | Path) -> Path:
        """Write everything to a NumPy archive (`.npz`), whole or not at all."""
        arrays = {f"{name}.{leaf}": maps for name in MAPS for leaf, maps in enumerate(self.stacked(name))}
        groups = [self.groups[label] for label in self.labels]
        arrays["residual"] = np.array([group.residual for group in groups])
        kind = next(name for name, known in _KINDS.items() if known is self.structure.kind)
        header = {
            "format": FORMAT, "kind": "data_set_mean", "settings": self.settings, "fingerprint": self.fingerprint,
            "structure": [kind, self.structure.keys, self.structure.present], "shapes": self.shapes,
            "checksums": self.checksums, "labels": self.labels, "counts": [group.count for group in groups],
            "count": self.count, "evaluations": self.evaluations, "notes": self.notes, "about": self.about,
        }  # fmt: skip
        arrays["header"] = np.array(json.dumps(header))
        with write_atomically(path) as handle:
            np.savez(handle, allow_pickle=False, **arrays)
        return Path(path)


def read(path: str | Path) -> State:
    """Return the state that a file holds.

    Raises:
        BadInput: the file is missing or is not such an archive.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays.pop("header")))
        if header["kind"] != "data_set_mean" or header["format"] != FORMAT:
            raise BadInput(f"its kind is {header['kind']!r}, format {header['format']}")
        return _restored(arrays, header)
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}") from None
    except Exception as problem:
        raise BadInput(
            f"{path} does not hold a mean over a data set ({problem!r}); move it away, or give another name"
        ) from None


def _restored(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> State:
    kind, keys, present = header["structure"]
    structure = Structure(_KINDS[kind], tuple(keys), tuple(present))
    leaves = range(sum(present))
    groups = {
        label: Tally(
            header["counts"][row],
            float(arrays["residual"][row]),
            *(tuple(arrays[f"{name}.{leaf}"][row] for leaf in leaves) for name in MAPS),
        )
        for row, label in enumerate(header["labels"])
    }
    return State(
        structure=structure,
        shapes=tuple(tuple(shape) for shape in header["shapes"]),
        checksums=tuple(header["checksums"]),
        notes=tuple(header["notes"]),
        groups=groups,
        **{name: header[name] for name in ("settings", "fingerprint", "count", "evaluations", "about")},
    )
