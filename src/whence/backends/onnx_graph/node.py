"""One node of a graph as a PyTorch module: its settings, and the operation that it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final

from torch import nn
from torch.nn.modules import batchnorm, conv, pooling

from whence.errors import UnsupportedByBackend

ROWS: ContextVar[int | None] = ContextVar("rows", default=None)
"""How many examples the graph is running on."""


class Node(nn.Module):
    """Runs one node.

    Attributes:
        kind: the operator's name.
        called: what messages call it.
        settings: the attributes that the file gives, without graphs, which are children.
        opset: the version of the operators' definitions.
        wanted: how many outputs there are, up to the last that is used.
        captured: names that its inner graphs use of the graph around, whose values follow its own inputs.
        batch: the number of examples that the file was made for, where it is fixed.
    """

    def __init__(
        self, kind: str, called: str, operation: Callable[..., Any], settings: dict[str, Any], opset: int,
        wanted: int, captured: tuple[str, ...] = (), batch: int | None = None,
    ) -> None:  # fmt: skip
        nn.Module.__init__(self)
        self.kind, self.called, self.operation = kind, called, operation
        # Read-only, so that copies of the module share it.
        self.settings: Mapping[str, Any] = MappingProxyType(settings)
        self.opset, self.wanted, self.captured, self.batch = opset, wanted, captured, batch

    def forward(self, *values: Any) -> Any:
        return self.operation(self, *values)

    def extra_repr(self) -> str:
        return self.called

    def given(self, name: str) -> bool:
        """Tell whether the file gives an attribute."""
        return name in self.settings

    def whole(self, name: str, default: int = 0) -> int:
        """Return an attribute that is a whole number."""
        return int(self.settings.get(name, default))

    def real(self, name: str, default: float = 0.0) -> float:
        """Return an attribute that is a real number."""
        return float(self.settings.get(name, default))

    def text(self, name: str, default: str = "") -> str:
        """Return an attribute that is a text."""
        return str(self.settings.get(name, default))

    def wholes(self, name: str) -> list[int] | None:
        """Return an attribute that is a list of whole numbers, or None where the file does not give it."""
        found = self.settings.get(name)
        return None if found is None else [int(each) for each in found]

    def reals(self, name: str) -> list[float] | None:
        """Return an attribute that is a list of real numbers, or None where the file does not give it."""
        found = self.settings.get(name)
        return None if found is None else [float(each) for each in found]

    def inner(self, name: str) -> Any:
        """Return an attribute that is a graph, as the module that runs it."""
        return self._modules[name]

    def refuse(self, what: str) -> UnsupportedByBackend:
        """Return the error for a use of the operator that is not known."""
        return UnsupportedByBackend(
            f"the file's {self.called} has {what}, which whence does not run as PyTorch operations; export the model "
            "without it, or pass it as a callable on NumPy arrays"
        )

    def one_of(self, name: str, default: str, known: tuple[str, ...]) -> str:
        """Return an attribute that is a text out of those known.

        Raises:
            UnsupportedByBackend: it is another.
        """
        found = self.text(name, default)
        if found not in known:
            raise self.refuse(f"{name}={found!r}")
        return found


# What layers mean for attribution (their channels, which ones only pass on) is told by PyTorch's own classes: a node
# is one of them too, with the attributes that say so, and runs its own operation.


def _like(name: str, base: type[nn.Module]) -> type[Node]:
    """Return a class of nodes that are also layers of one of PyTorch's classes."""
    return type(name, (Node, base), {})


_CLASSES: Final[dict[str, type[Node]]] = {
    "convolution": _like("Convolution", conv._ConvNd),
    "transposed": _like("TransposedConvolution", conv._ConvTransposeNd),
    "scaled": _like("BatchNorm", batchnorm._NormBase),
    "grouped": _like("GroupNorm", nn.GroupNorm),
    "normalised": _like("LayerNorm", nn.LayerNorm),
    "linear": _like("Linear", nn.Linear),
    "recurrent": _like("Recurrent", nn.RNNBase),
    "embedding": _like("Embedding", nn.Embedding),
    "max pool": _like("MaxPool", pooling._MaxPoolNd),
    "average pool": _like("AveragePool", pooling._AvgPoolNd),
    "global pool": _like("GlobalAveragePool", pooling._AdaptiveAvgPoolNd),
    "passing": _like("Passing", nn.Identity),
    "shares": _like("Softmax", nn.Softmax),
}
_NEEDS_MATRIX: Final = {"linear": 1, "embedding": 0}


def class_for(layer: str, weights: list[Any]) -> type[Node]:
    """Return the class of a node of this kind of layer; `weights` are its constant inputs, None for others."""
    place = _NEEDS_MATRIX.get(layer)
    if place is not None:
        weight = weights[place] if place < len(weights) else None
        if weight is None or weight.ndim != 2:
            return Node
    return _CLASSES.get(layer, Node)


def describe(node: Any, weights: list[Any]) -> None:
    """Give a node the attributes that say how many channels its kind of layer puts out."""
    weight = weights[1] if len(weights) > 1 else None
    sides: tuple[int, ...] = (0, 0) if weight is None else tuple(weight.shape)
    whole: Any = node.whole
    if isinstance(node, conv._ConvTransposeNd):
        node.out_channels = sides[1] * whole("group", 1)
    elif isinstance(node, conv._ConvNd):
        node.out_channels = sides[0]
    elif isinstance(node, batchnorm._NormBase):
        node.num_features = sides[0]
    elif isinstance(node, nn.GroupNorm):
        node.num_channels = sides[0]
    elif isinstance(node, nn.LayerNorm):
        node.normalized_shape = sides
    elif isinstance(node, nn.Linear):
        node.out_features = sides[0 if whole("transB") else -1]
    elif isinstance(node, nn.RNNBase):
        node.hidden_size = whole("hidden_size")
    elif isinstance(node, nn.Embedding):
        node.embedding_dim, node.max_norm = int(weights[0].shape[-1]), None
