"""What every module of a torch model takes in and puts out for one example, and what the answer makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules import batchnorm, conv, dropout, padding, pooling, upsampling

from whence.backends import Activation, Array, Leaves

# What they put out is another's, pooled, thinned or laid out anew.
PASSIVE = (
    pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd,
    pooling._LPPoolNd, pooling._MaxUnpoolNd, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, dropout._DropoutNd,
    nn.Flatten, nn.Unflatten, nn.Identity, upsampling.Upsample, nn.PixelShuffle, nn.PixelUnshuffle,
    padding._ConstantPadNd, padding._ReflectionPadNd, padding._ReplicationPadNd, nn.Softmax, nn.Softmax2d,
    nn.LogSoftmax, nn.Linear,
)  # fmt: skip
# Modules whose class says on which axis the channels are, and the attribute that says how many.
FIRST = {conv._ConvNd: "out_channels", batchnorm._NormBase: "num_features", nn.GroupNorm: "num_channels"}
LAST = {nn.Linear: "out_features", nn.LayerNorm: "normalized_shape", nn.RMSNorm: "normalized_shape",
        nn.Embedding: "embedding_dim", nn.MultiheadAttention: "embed_dim", nn.RNNBase: "hidden_size"}  # fmt: skip


def activations(model: nn.Module, function: Callable[[Leaves], Array], leaves: Leaves) -> list[Activation]:
    """Return what every module takes in and puts out while `function` runs the model on one example, in order."""
    watch = _Watch()
    handles: list[Any] = []
    leaves = tuple(
        leaf.detach().requires_grad_() if leaf.dtype.is_floating_point else leaf for leaf in leaves
    )
    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_pre_hook(watch.before(name)))
            handles.append(module.register_forward_hook(watch.after(name)))
    try:
        return watch.told(function(leaves))
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Met:
    """One activation with its tensor, which is kept so that its identity is not given to another."""

    name: str
    call: int
    input: bool
    tensor: torch.Tensor
    channels_last: bool
    passive: bool
    maker: int


@dataclass
class _Watch:
    """What the hooks saw so far: `width` is the number of channels of the last layer whose class tells it."""

    met: list[_Met] = field(default_factory=list[_Met])
    makers: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    calls: Counter[str] = field(default_factory=Counter[str])
    width: int | None = None
    last: bool = False

    def before(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def meet(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            tensor = _tensor(arguments)
            if tensor is not None:
                self._meet(name, tensor, input=True, passive=True)

        return meet

    def after(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def meet(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            self.width, self.last = _channels(module) or (self.width, self.last)
            tensor = _tensor(output)
            if tensor is not None:
                # What the model itself puts out is the answer, not a place inside of it.
                self._meet(name, tensor, input=False, passive=not name or isinstance(module, PASSIVE))
            self.calls[name] += 1

        return meet

    def _meet(self, name: str, tensor: torch.Tensor, input: bool, passive: bool) -> None:
        place = len(self.met)
        # An operation in place makes another array in the same tensor.
        maker = self.makers.setdefault((id(tensor), _version(tensor)), place)
        passive = passive if maker == place else self.met[maker].passive or not name
        mixed = tensor.ndim >= 4 and self.last and self.width not in (tensor.shape[1], tensor.shape[-1])
        last = self._channels_last(tensor)
        self.met.append(_Met(name, self.calls[name], input, tensor, last, passive or mixed, maker))

    def _channels_last(self, tensor: torch.Tensor) -> bool:
        if tensor.ndim < 3:
            return False
        first, last = tensor.shape[1] == self.width, tensor.shape[-1] == self.width
        return last if first != last else self.last

    def told(self, answer: torch.Tensor) -> list[Activation]:
        """Return what was met, and at how many positions the answer's gradient there is not 0."""
        wanted = [i for i, each in enumerate(self.met) if each.tensor.requires_grad and not each.passive]
        gradients: dict[int, torch.Tensor | None] = {}
        if answer.requires_grad and wanted:
            tensors = [self.met[i].tensor for i in wanted]
            gradients = dict(
                zip(wanted, torch.autograd.grad(_mixed(answer), tensors, allow_unused=True), strict=True)
            )
        # A model's answer may be one of the arrays inside of it.
        output = {each.maker for each in self.met if not each.name and not each.input}
        return [
            Activation(
                each.name,
                each.call,
                each.input,
                tuple(each.tensor.shape),
                each.channels_last,
                each.passive or each.input or each.maker in output or not each.tensor.dtype.is_floating_point,
                each.maker,
                _reacting(gradients.get(i), each.channels_last),
            )
            for i, each in enumerate(self.met)
        ]


def _channels(module: nn.Module) -> tuple[int, bool] | None:
    """Return how many channels a layer puts out and whether they come last, where its class says so."""
    for table, last in ((FIRST, False), (LAST, True)):
        for kind, attribute in table.items():
            if isinstance(module, kind):
                width: Any = getattr(module, attribute)
                return (width[-1] if isinstance(width, tuple) else width), last
    return None


def _reacting(gradient: torch.Tensor | None, channels_last: bool) -> int | None:
    if gradient is None:
        return None
    # Where it is not about tokens, it only matters that the answer uses it.
    return int((gradient != 0).any(-1).sum()) if channels_last else gradient.numel()


def _mixed(answer: torch.Tensor) -> torch.Tensor:
    """Return a sum in which nothing cancels that adds up to a constant, as probabilities do."""
    flat = answer.flatten()
    return flat @ torch.cos(torch.arange(len(flat), dtype=flat.dtype, device=flat.device))


def _tensor(value: Any) -> torch.Tensor | None:
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, torch.Tensor) and first.ndim else None


def _version(tensor: torch.Tensor) -> int:
    # Tensors of inference mode count nothing.
    return 0 if tensor.is_inference() else tensor._version
