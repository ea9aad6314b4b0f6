"""What figures, reports and the terminal say of a result, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Num

from whence import view
from whence.attribution import Attribution, first_array, to_numpy
from whence.metrics import control
from whence.registry import Method, methods

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NOT_PROMISED = "not promised by this method"


# ---- single words ------------------------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    """Return a number to so many significant digits, short enough for a caption."""
    mantissa, _, exponent = f"{float(value):.{digits}g}".partition("e")
    mantissa = mantissa.replace("-", "−")
    return f"{mantissa}×10{str(int(exponent)).translate(RAISED)}" if exponent else mantissa


def short_number(value: float, digits: int = 3) -> str:
    """Return a number short enough for a cell: no powers of ten between a thousandth and a million."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        places = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
        return f"{value:,.{places}f}".replace("-", "−")
    return number(value, digits)


def percent(share: float) -> str:
    """Return a share of 1 as a percentage; zero is exact."""
    return "0 (exact)" if share == 0 else f"{number(100 * share, 2)} %"


def written(name: str) -> str:
    """Return a registered method's name as the field writes it; any other text as it is."""
    record = methods().get(name)
    return record.title if record else name


# ---- maps --------------------------------------------------------------------------------------------------


def titled(name: str) -> str:
    """Return a method's name for readers, also that of the control that metrics are held against."""
    return control.TITLE if name == control.NAME else written(name)


def scale_text(
    map: Num[np.ndarray, "*shape"], scale: float | None = None, *, signed: bool | None = None
) -> str:
    """Return the sentence that states a map's colour scale, and how many of its values lie beyond it."""
    if not map.any():
        return "the map is zero everywhere"
    limit = view.colour_scale(map) if scale is None else scale
    span = _span(limit, view.is_signed(map) if signed is None else signed)
    if scale is None and limit == np.abs(map).max():
        return f"colour scale {span}: the largest |value|"
    what = f"the {view.PERCENTILE:g}th percentile of |map|" if scale is None else "the same for all maps"
    return f"colour scale {span}: {what}; {_beyond(map, limit)} of pixels are beyond"


def short_scale_text(map: Num[np.ndarray, "*shape"]) -> str:
    """Return a map's colour scale in a few words, where what it is made of is said elsewhere."""
    if not map.any():
        return "zero everywhere"
    limit = view.colour_scale(map)
    return f"{_span(limit, view.is_signed(map))}; {_beyond(map, limit)} beyond"


def _span(limit: float, signed: bool) -> str:
    return f"±{number(limit)}" if signed else f"0 to {number(limit)}"


def _beyond(map: Num[np.ndarray, "*shape"], limit: float) -> str:
    return f"{number(100 * float(np.mean(np.abs(map) > limit)), 2)} %"


def overlay_text(map: Num[np.ndarray, "h w"], size: Sequence[int], smooth: float = view.SMOOTH) -> str:
    """Return the sentence that says how an overlay on a picture of (height, width) was made."""
    sigma = view.smoothing(size, smooth)
    over = f", averaged over a neighbourhood (σ = {number(sigma, 2)} pixels)" if sigma else ""
    sides = "red or blue: the side that prevails" if sigma else "red: for the target, blue: against"
    sides = sides if view.is_signed(map) else "purple: no negative values"
    return f"the stronger the colour, the larger |map|{over}; {sides}"


# ---- results -----------------------------------------------------------------------------------------------


def at_row(values: Any, row: int) -> Any:
    """Return one example's entry of a native array [B, ...]; what is no such array, as it is."""
    if not getattr(values, "ndim", 0):
        return values.item() if hasattr(values, "item") else values
    entry = to_numpy(values)[row]
    return entry.item() if entry.ndim == 0 else entry


def target_text(result: Attribution, row: int, labels: Sequence[str] | None = None) -> str:
    """Return in words what was explained for one example: the class's name, where known, and its number."""
    target = at_row(result.target, row)
    name = result.settings.get("target_name")
    if isinstance(name, (list, tuple)):
        name = name[row] if row < len(name) else None
    whole = isinstance(target, int) and not isinstance(target, bool)
    if not name and labels is not None and whole and 0 <= target < len(labels):
        name = labels[target]
    if isinstance(target, np.ndarray):
        target = tuple(target.tolist())
    described = str(result.settings.get("target") or target)
    # A logit is what a class's output is called; a margin, a probability or a loss is not the class alone.
    text = (
        f"class {target}"
        if whole and (described == str(target) or described.startswith("logit of"))
        else described
    )
    return f"{name} ({text})" if name and str(name) not in (text, str(target)) else text


def baseline_text(method: Method) -> str:
    """Return in words what a method compares a picture with."""
    baseline: Any = getattr(method, "baseline", None)
    if not hasattr(method, "baseline") and not hasattr(method, "sigma"):
        return "nothing: counted from 0"
    if baseline is None:
        return "the blurred picture" if hasattr(method, "sigma") else "a black picture"
    if isinstance(baseline, (int, float)):
        return f"the constant {number(baseline)}"
    if isinstance(baseline, (list, tuple)):
        return f"{len(baseline)} baselines, averaged"
    if hasattr(baseline, "shape"):
        return "the picture given" if baseline.shape[0] == 1 else "the mean over the pictures given"
    name = (
        baseline if isinstance(baseline, str) else getattr(baseline, "name", None) or type(baseline).__name__
    )
    known = {"black": "a black picture", "white": "a white picture", "mean": "its own mean colour"}
    known |= {
        "blur": "the blurred picture",
        "blurred": "the blurred picture",
        "uniform": "uniform noise",
        "boundary": "the nearest other class",
    }
    return known.get(name.lower(), "what counts as absent")


def several_text(result: Attribution) -> str | None:
    """Return the sentence that says of which input the map is; None where only one was explained."""
    parts = result.values
    if isinstance(parts, Mapping):
        parts = tuple(parts.values())
    count = sum(part is not None for part in parts) if isinstance(parts, tuple) else 1
    return f"{count} inputs were explained; the map is that of the first" if count > 1 else None


def numbers(result: Attribution, row: int) -> dict[str, str]:
    """Return the numbers that say how far to trust one example's map, in plain words."""
    names = ("output", "baseline_output", "residual", "error", "evaluations", "converged")
    output, start, residual, error, evaluations, converged = (
        at_row(getattr(result, name), row) for name in names
    )
    change = None if start is None else float(output - start)
    summed = None if residual is None or change is None else number(residual + change, 4)
    met = {None: NOT_PROMISED, True: "yes", False: "no: the evaluations ran out before the tolerance was met"}
    fidelity = at_row(result.fidelity, row)
    fitted = {} if fidelity is None else {"fidelity (R² of the linear model)": number(fidelity)}
    return {
        "output": number(output, 4),
        "baseline output": "this method has no baseline" if start is None else number(start, 4),
        "sum of the shares": summed or NOT_PROMISED,
        "residual": NOT_PROMISED if residual is None else _residual_text(residual, change),
        "estimated error": NOT_PROMISED if error is None else percent(error),
        "standard error": _standard_error_text(result, row) or "this method does not sample",
        **fitted,
        "evaluations": "not counted" if evaluations is None else f"{int(evaluations):,}",
        "converged": met[None if converged is None else bool(converged)],
    }


def _residual_text(residual: float, change: float | None) -> str:
    if not change:
        return number(residual)
    share = 100 * abs(residual / change)
    size = "less than 0.0001" if 0 < share < 1e-4 else number(share, 2)
    return f"{number(residual)} ({size} % of the change in output)"


def _standard_error_text(result: Attribution, row: int) -> str | None:
    if result.standard_error is None:
        return None
    error, size = (
        float(np.abs(first_array(each)[row]).mean()) for each in (result.standard_error, result.values)
    )
    relative = f" ({percent(error / size)} of the mean |value|)" if size else ""
    return f"{number(error)} on average{relative}"


def sentence(result: Attribution, row: int) -> str:
    """Return the line below a figure: what it cost, the residual, the error and whether it converged."""
    words = numbers(result, row)
    names = ["residual", "estimated error", "converged"]
    if result.standard_error is not None:
        names.insert(2, "standard error")
    parts = [f"{name}: {words[name]}" for name in names if words[name] != NOT_PROMISED]
    missing = [name.replace("converged", "a tolerance") for name in names if words[name] == NOT_PROMISED]
    if missing:
        parts.append(f"{NOT_PROMISED}: {', '.join(missing)}")
    if result.evaluations is not None:
        count = words["evaluations"]
        parts.insert(0, f"{count} evaluation{'' if count == '1' else 's'}")
    # Lines break between the numbers, never inside one.
    return " · ".join(part.replace(" ", "\u00a0") for part in parts)
