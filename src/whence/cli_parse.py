"""What the words behind the flags mean: targets, baselines, sizes, and methods with their options."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from whence import quadrature, registry, target
from whence.errors import BadInput
from whence.naming import unknown
from whence.preprocess import Size

KINDS: Final = ("logit", "probability", "log_probability", "margin", "loss", "neuron")
FORMS: Final = (
    "3, a label, logit:3, probability:3, log_probability:3, margin:3,5, loss:3, neuron:layer,index or all"
)
# The flags of the command line that are fields of methods; --option reaches the others.
FIELDS: Final = ("baseline", "rtol", "steps", "samples")
UNREACHABLE: Final = ("where",)
"""Fields that are arrays, which no flag can hold."""
QUICK_RTOL: Final = 0.1
QUICK_SHARE: Final = 5
"""--quick divides the number of samples by this."""
QUICK_STEPS: Final = 2
"""And a number of steps by this: a guided path loses its way in fewer."""


# ---- values ------------------------------------------------------------------------------------------------


def literal(text: str) -> Any:
    """Return a Python literal (also true, false and none in small letters), else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def pairs(given: Sequence[str], flag: str) -> dict[str, Any]:
    """Return name=value words as a dictionary.

    Raises:
        BadInput: a word is no such pair, or a name is given twice.
    """
    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise BadInput(f"{flag} {each}: write name=value, such as {flag} depth=18")
        if name in found:
            raise BadInput(f"{flag}: {name} is given twice")
        found[name] = literal(value)
    return found


def numbers(text: str | None, flag: str) -> tuple[float, ...] | None:
    """Return a comma list of numbers.

    Raises:
        BadInput: it is none, or a number is not finite.
    """
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"{flag} {text}: give one number or a comma list, such as 0.485,0.456,0.406") from None
    if not all(abs(each) < float("inf") for each in found):
        raise BadInput(f"{flag} {text}: the numbers must be finite")
    return found


def size(text: str | None, flag: str) -> Size | None:
    """Return 224 as an int, and 224x320 (height x width) as a pair.

    Raises:
        BadInput: it is neither.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:[x×,](\d{1,5}))?", text)
    if match is None or "0" in match.groups():
        raise BadInput(f"{flag} {text}: give pixels, such as 224, or height x width, such as 224x320")
    height, width = match.groups()
    return int(height) if width is None else (int(height), int(width))


# ---- targets -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Asked:
    """A target as it was written: its kind ("top", "all", "dense", "class" or one of KINDS) and its parts."""

    kind: str
    parts: tuple[str, ...] = ()


def ask(text: str | None) -> Asked:
    """Return what a --target says, before the model and its labels are known.

    Raises:
        BadInput: it is of no known form.
    """
    if text is None:
        return Asked("top")
    text = text.strip()
    if text == "all":
        return Asked("all")
    if re.fullmatch(r"-?\d+(,-?\d+)+", text):
        return Asked("dense", tuple(text.split(",")))
    kind, colon, rest = text.partition(":")
    kind = kind.strip().lower().replace("-", "_")
    parts = tuple(part.strip() for part in rest.split(",")) if rest.strip() else ()
    if kind not in KINDS:
        near = colon and difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.6)
        if not text or near:
            raise BadInput(
                f"--target {text!r}: " + (unknown("kind", kind, KINDS) if near else f"give {FORMS}")
            )
        return Asked("class", (text,))
    lengths: dict[str, tuple[int, ...]] = {"margin": (0, 1, 2), "loss": (1,), "neuron": tuple(range(2, 10))}
    wanted = lengths.get(kind, (0, 1))
    if len(parts) not in wanted and kind not in ("margin", "neuron"):
        # A label may hold a comma.
        parts = (rest.strip(),) if rest.strip() else ()
    if len(parts) not in wanted or not all(parts):
        example = {"margin": "margin:3,5", "neuron": "neuron:layer,index"}.get(kind, f"{kind}:3")
        raise BadInput(f"--target {text}: write {example}")
    if kind == "neuron" and not all(re.fullmatch(r"-?\d+", part) for part in parts[1:]):
        raise BadInput(f"--target {text}: after the layer come whole numbers, such as neuron:features.3,5")
    return Asked(kind, parts)


def fit(asked: Asked, labels: Sequence[str] | None) -> Any:
    """Return the target for `whence.explain`.

    Raises:
        BadInput: a label is unknown (near ones are offered) or stands for several classes.
    """
    if asked.kind in ("top", "all"):
        return None if asked.kind == "top" else "all"
    if asked.kind == "dense":
        return tuple(int(part) for part in asked.parts)
    if asked.kind == "neuron":
        indices = tuple(int(part) for part in asked.parts[1:])
        return target.neuron(asked.parts[0], indices[0] if len(indices) == 1 else indices)
    classes = [class_number(part, labels) for part in asked.parts]
    if asked.kind == "class":
        return classes[0]
    return getattr(target, asked.kind)(*classes)


def class_number(text: str, labels: Sequence[str] | None) -> int:
    """Return the number of a class that is given by its number or its name."""
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if labels is None:
        raise BadInput(
            f"--target {text}: this model has no labels; give a number, or the names with --labels FILE"
        )
    found = [k for k, label in enumerate(labels) if label == text]
    found = found or [k for k, label in enumerate(labels) if label.lower() == text.lower()]
    if not found:
        small = {label.lower(): label for label in labels}
        near = difflib.get_close_matches(text.lower(), small, n=4, cutoff=0.6)
        near = near or [each for each in small if text.lower() in each][:4]
        if near:
            offered = " or ".join(repr(small[each]) for each in near)
            raise BadInput(f"there is no label {text!r}; did you mean {offered}?")
        raise BadInput(unknown("label", text, labels))
    if len(found) > 1:
        raise BadInput(f"the label {text!r} stands for classes {', '.join(map(str, found))}; give the number")
    return found[0]


# ---- baselines ---------------------------------------------------------------------------------------------


def check_baselines(given: Sequence[str]) -> None:
    """Refuse baselines of no known form.

    Raises:
        BadInput: neither a number, a name nor a file; near names are offered.
    """
    for each in given:
        if not Path(each).is_file():
            named_baseline(each)


def named_baseline(text: str) -> Any:
    """Return a baseline that is a number, a name, or name:number such as blur:10.

    Raises:
        BadInput: it is none of these.
    """
    from whence.baseline import NAMES

    value = literal(text)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    name, colon, argument = text.partition(":")
    if name not in NAMES:
        known = f"{unknown('baseline', name, NAMES)} (or a number, blur:10, or a picture file)"
        raise BadInput(f"--baseline {text}: {known}")
    if not colon:
        return NAMES[name]()
    value = literal(argument)
    if name in ("black", "white", "mean", "zero", "opposite") or isinstance(value, bool):
        raise BadInput(f"--baseline {text}: {name} takes no number; write --baseline {name}")
    if not isinstance(value, (int, float)) or (name != "blur" and not isinstance(value, int)):
        raise BadInput(f"--baseline {text}: after the colon comes a number, such as {name}:10")
    make: Any = NAMES[name]
    return make(value)


# ---- methods -----------------------------------------------------------------------------------------------


def build(
    name: str, flags: Mapping[str, Any], options: Mapping[str, Any], quick: bool
) -> tuple[registry.Method, str]:
    """Return a registered method with the flags as its fields, and a note on what --quick changed.

    Raises:
        BadInput: the method has no such option, or the option no such value.
    """
    record = registry.methods()[name]
    for field in (*flags, *options):
        if field not in record.fields:
            flag = f"--{field}" if field in flags else f"--option {field}"
            raise BadInput(f"{name} has no {flag}; its options are: {own_options(record)}")
    for field, value in options.items():
        _check_type(record, field, value)
    given = {**options, **flags}
    hurried = {key: value for key, value in quicker(record).items() if key not in given} if quick else {}
    for fixed, other in (("steps", "rtol"), ("rtol", "steps")):
        # They say the same thing in two ways; whoever says one means it.
        if fixed in given:
            hurried.pop(other, None)
    try:
        method = registry.build(name, {**hurried, **given})
    except TypeError as problem:
        raise BadInput(f"{name}: {problem}; its options are: {own_options(record)}") from None
    if hasattr(method, "rtol"):
        quadrature.check(
            getattr(method, "quadrature", None), getattr(method, "steps", None), getattr(method, "rtol", 1)
        )
    changed = ", ".join(f"{key}={value:g}" for key, value in hurried.items())
    return method, f"made with --quick: {changed}" if changed else ""


def own_options(record: registry.Record) -> str:
    """Return a method's options as they are written on the command line, with their defaults where they have one."""
    flags = [f"--{field}" for field in FIELDS if field in record.fields]
    others = {field: value for field, value in record.fields.items() if field not in (*FIELDS, *UNREACHABLE)}
    pairs = [f"{field}={'...' if value is None else _default(value)}" for field, value in others.items()]
    return ", ".join([*flags, *([f"--option {' '.join(pairs)}"] if pairs else [])]) or "no options"


def _default(value: Any) -> str:
    return registry.name_of(value) if isinstance(value, registry.Method) else str(value)


def quicker(record: registry.Record) -> dict[str, Any]:
    """Return the fields that --quick changes, and what to."""
    found: dict[str, Any] = {}
    fields = record.fields
    if isinstance(fields.get("samples"), int):
        found["samples"] = max(5, fields["samples"] // QUICK_SHARE)
    if isinstance(fields.get("steps"), int):
        found["steps"] = max(5, fields["steps"] // QUICK_STEPS)
    elif fields.get("rtol") is not None:
        found["rtol"] = QUICK_RTOL
    return found


def _check_type(record: registry.Record, field: str, value: Any) -> None:
    kinds = {each.name: str(each.type) for each in dataclasses.fields(record.cls)}  # type: ignore[arg-type]
    kind = kinds[field]
    if "Any" in kind or "Method" in kind:
        return
    allowed: list[type] = [float, int] if "float" in kind else [int] if "int" in kind else []
    allowed += [bool] if "bool" in kind else []
    allowed += [str] if "str" in kind else []
    fits = (value is None and "None" in kind) or type(value) in allowed
    if not fits:
        wanted = {"float": "a number", "int": "a whole number", "bool": "true or false"}.get(
            kind.split(" ")[0], kind
        )
        raise BadInput(f"--option {field}={value}: {record.name} wants {wanted} there")
