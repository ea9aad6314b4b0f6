"""Architectures as users write them, and small nasty models: what every rule must see through.

`ARCHITECTURES` are well-known networks in their usual spellings; `AWKWARD` are models of one difficulty each, which are
ruled or refused by name, never passed over. `RELUS` and `ACTIVATIONS` are functions of one tensor: the spellings of
the same ReLU, and every elementwise activation of `torch.nn.functional`.
"""

import torch

from .attention import ATTENTION
from .awkward import AWKWARD as _AWKWARD
from .base import Architecture
from .classic import CLASSIC
from .mobile import MOBILE
from .residual import RESIDUAL
from .spellings import ACTIVATIONS, RELUS

ARCHITECTURES = {each.name: each for each in (*CLASSIC, *RESIDUAL, *MOBILE, *ATTENTION)}
AWKWARD = {each.name: each for each in _AWKWARD}

__all__ = ["ACTIVATIONS", "ARCHITECTURES", "AWKWARD", "RELUS", "Architecture", "asked"]


def asked(name, batch=3, dtype=torch.float64):
    """Return a model by its name, and a batch of inputs for it, in float64 unless another type is asked for."""
    case = ARCHITECTURES.get(name) or AWKWARD[name]
    return case.make().to(dtype), case.inputs(batch, dtype)
