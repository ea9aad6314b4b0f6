"""What a single equation of a jaxpr tells: what it calls, whether it acts on each element alone, where it stands."""

from __future__ import annotations

import re
from typing import Any

from jax._src import core, source_info_util

from whence.backends.jax_program_kinds import described
from whence.backends.program_rules.kinds import ELEMENTWISE

ENTERED = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat",
    "remat2",
    "checkpoint",
    "custom_lin",
    "custom_vmap_call",
    "core_closed_call",
)
CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_OWN = ("/jax/_src/", "/flax/", "/equinox/", "/whence/", "/site-packages/")


def acts_alone(jaxpr: Any, reached: set[Any], shape: tuple[int, ...]) -> bool:
    """Tell whether what is reached in a jaxpr is only acted on element by element, in one shape."""
    for eqn in jaxpr.eqns:
        hit = [each for each in eqn.invars if not isinstance(each, core.Literal) and each in reached]
        if not hit:
            continue
        inner = body(eqn)
        if any(tuple(getattr(each.aval, "shape", ())) != shape for each in eqn.outvars):
            return False
        if inner is not None and (eqn.primitive.name in ENTERED or eqn.primitive.name in CUSTOM):
            within = getattr(inner, "jaxpr", inner)
            taken = {
                var
                for var, each in zip(within.invars, eqn.invars, strict=True)
                if not isinstance(each, core.Literal) and each in reached
            }
            if not acts_alone(within, taken, shape):
                return False
        elif described(eqn.primitive.name, {**_BLANK, **eqn.params}, [], [])[0] not in ELEMENTWISE:
            return False
        reached.update(eqn.outvars)
    return True


_BLANK = {"dimension_numbers": ((((), ()), ((), ()))), "batch_group_count": 0}


def body(eqn: Any) -> Any:
    """Return what an equation calls; None where it calls nothing."""
    found = (eqn.params.get(name) for name in ("jaxpr", "call_jaxpr", "call"))
    return next((each for each in found if hasattr(each, "eqns") or hasattr(each, "jaxpr")), None)


def called(eqn: Any, inner: Any) -> str:
    """Return the name of the function that an equation calls."""
    debug = getattr(getattr(inner, "jaxpr", inner), "debug_info", None)
    return str(getattr(debug, "func_name", "") or eqn.primitive.name)


def is_of_jax(eqn: Any) -> bool:
    """Tell whether a function with its own derivative is JAX's own, whose derivative is that of what it does."""
    for value in eqn.params.values():
        debug = getattr(value, "debug_info", None)
        if "/jax/_src/" in str(getattr(debug, "func_filename", "") or ""):
            return True
    return False


def text(eqn: Any) -> str:
    """Return an equation's settings."""
    kept = {
        key: value for key, value in eqn.params.items() if "jaxpr" not in key and key not in ("bwd", "fwd")
    }
    inner = body(eqn)
    return f"{kept}{'' if inner is None else inner}"


def scopes(eqn: Any) -> tuple[str, ...]:
    """Return the named scopes that an equation stands in, the outermost first."""
    # Scopes under a transformation are written vmap(name).
    stack = re.sub(r"\b(vmap|jvp|transpose|remat|checkpoint)\(|\)", "", str(eqn.source_info.name_stack))
    return tuple(each for each in stack.split("/") if each)


def place(eqn: Any, module: str) -> str:
    """Return the user's own line that an equation comes from, and the layer."""
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if not any(part in frame.file_name for part in _OWN):
            line = f"{frame.file_name}:{frame.start_line}"
            return f"{line} in {module}" if module else line
    return f"in {module}" if module else ""
