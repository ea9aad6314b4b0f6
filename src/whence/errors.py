"""What can go wrong, as types: the command line turns each into one line and an exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whence.attribution import Attribution


class WhenceError(Exception):
    """The root of everything this library raises on purpose."""


class BadInput(WhenceError, ValueError):
    """The call cannot be meant: a wrong shape, name, file or value (exit status 2)."""


class Refused(WhenceError, ValueError):
    """A method's precondition does not hold, so that any number it gave would be wrong (exit status 2)."""


CUT = (
    "the model's output carries no gradient with respect to the input: something in it cuts the graph "
    "(detach, argmax, rounding, .item(), NumPy or torch.no_grad); wrapped as a NumPy callable it can be "
    "explained as a black box (sensitivity)"
)


class NoGradient(Refused):
    """The output's graph does not reach what is explained."""


class UnsupportedByBackend(WhenceError, NotImplementedError):
    """The model's framework cannot do what the method needs; the message names methods that work."""


class Interrupted(KeyboardInterrupt):
    """The keyboard stopped an explanation that had an answer already: `partial` is it, with its honest error."""

    def __init__(self, partial: Attribution) -> None:
        super().__init__("stopped by the keyboard; the answer so far, not converged, is in .partial")
        self.partial = partial


class Diverged(WhenceError):
    """A model took another way than when it was recorded; never seen by users: the plain engine takes over."""


class Unpaired(WhenceError):
    """The run at a baseline cannot be laid beside the run at the input, operation by operation."""


class WorkFailed(WhenceError, RuntimeError):
    """The call was right and the work still failed: no memory, no network, a full disk (exit status 1)."""
