"""What a framework without pieces says when it is asked for them: whether the network has any, and who knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from whence.errors import Refused, UnsupportedByBackend
from whence.rule import LINEAR, Met

_STRAIGHT = frozenset((*LINEAR, "relu", "maximum"))


def refuse_pieces(framework: str, met: Sequence[Met]) -> NoReturn:
    """Refuse the linear pieces of a network by what it is made of.

    Raises:
        Refused: it has none: an operation of it is curved.
        UnsupportedByBackend: it may have, and this framework does not know where they end.
    """
    curved = next((each.operation for each in met if each.family not in _STRAIGHT), None)
    if curved is not None:
        raise Refused(
            f"exact quadrature needs a piecewise-linear network, and this one uses {curved}; a tolerance (rtol=) works "
            "for any network"
        )
    raise UnsupportedByBackend(
        f"exact integrals, piece by piece, are PyTorch's (and ONNX files') alone; in {framework} integrated_gradients "
        "reaches any tolerance (rtol=1e-4)"
    )
