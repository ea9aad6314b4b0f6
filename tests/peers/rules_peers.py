"""What zennit 0.5.1 and captum 0.9.0 answer, as functions (model, x, target, settings) -> values.

The model is copied: both libraries write to it. `target` is a class or one for each example. Relevance starts at the
output with `start`: "output" (the target's output itself, so that shares sum to it) or "one" (as zennit's examples).
Modules must be called once each, and activations must be modules, or these libraries do not see them.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from captum import attr


@contextmanager
def _torchvision() -> Generator[None]:
    """Hold an empty torchvision where there is none: zennit asks it for two classes, to recognise its ResNets."""
    if find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.models", "torchvision.models.resnet")
    for name in names:
        sys.modules[name] = ModuleType(name)
    for name in ("BasicBlock", "Bottleneck"):
        setattr(sys.modules[names[-1]], name, type(name, (), {}))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


with _torchvision():
    from zennit import rules, types
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import (
        EpsilonAlpha2Beta1Flat,
        EpsilonGammaBox,
        EpsilonPlus,
        LayerMapComposite,
        layer_map_base,
    )


class ExactMerge(SequentialMergeBatchNorm):
    """Merges batch norm so that nothing of it remains; zennit's own leaves a factor 1/√(1 + ε) there."""

    def register(self, linears: Any, batch_norm: Any) -> None:
        super().register(linears, batch_norm)
        self.epsilon, batch_norm.eps = batch_norm.eps, 0.0

    def remove(self) -> None:
        self.batch_norm.eps = self.epsilon
        super().remove()


# ---- zennit --------------------------------------------------------------------------------------------------


def zennit(model: Any, x: torch.Tensor, target: Any, composite: Any, start: str = "output") -> torch.Tensor:
    """Return zennit's relevance [B, ...] under a composite."""

    def begin(output: torch.Tensor) -> torch.Tensor:
        chosen = torch.zeros_like(output)
        chosen[torch.arange(len(output)), torch.as_tensor(target)] = 1
        return chosen * output.detach() if start == "output" else chosen

    with Gradient(model=copy.deepcopy(model), composite=composite) as attributor:
        _, relevance = attributor(x.detach().clone().requires_grad_(), begin)
    return relevance.detach()


def _everywhere(make: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    """Return zennit with one rule for all linear operations, average pooling by its `Norm`, the rest passed."""

    def explain(
        model: Any, x: torch.Tensor, target: Any, start: str = "output", merge: bool = True, **settings: Any
    ):
        layers = [*layer_map_base(), (types.Linear, make(**settings))]
        return zennit(model, x, target, LayerMapComposite(layers, [ExactMerge()] if merge else None), start)

    return explain


zennit_epsilon = _everywhere(rules.Epsilon)
zennit_gamma = _everywhere(rules.Gamma)
zennit_alpha_beta = _everywhere(rules.AlphaBeta)
zennit_zplus = _everywhere(rules.ZPlus)
zennit_box = _everywhere(rules.ZBox)
zennit_w_square = _everywhere(rules.WSquare)
zennit_flat = _everywhere(rules.Flat)


def _composite(make: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    def explain(
        model: Any, x: torch.Tensor, target: Any, start: str = "output", merge: bool = True, **settings: Any
    ):
        canonizers = [ExactMerge()] if merge else None
        return zennit(model, x, target, make(canonizers=canonizers, **settings), start)

    return explain


zennit_epsilon_plus = _composite(EpsilonPlus)
zennit_epsilon_gamma_box = _composite(EpsilonGammaBox)
"""Takes low= and high=, numbers or tensors [1, ...]."""
zennit_epsilon_alpha2_beta1_flat = _composite(EpsilonAlpha2Beta1Flat)


# ---- captum --------------------------------------------------------------------------------------------------


def _captum(
    cls: Any,
    model: Any,
    x: torch.Tensor,
    target: Any,
    layer: str | None = None,
    apart: bool = False,
    **settings: Any,
) -> Any:
    """Return captum's answer; `layer` makes it one of its layer methods.

    Where one hooked module feeds another (ReLU, MaxPool), captum 0.9.0 gives the first the gradient from before the
    second's rule: both hooks sit on one tensor. `apart` puts a copy between all modules, which mends it.
    """
    model = copy.deepcopy(model)
    for module in model.modules() if apart else ():
        if not any(True for _ in module.children()):
            module.register_forward_pre_hook(lambda _, given: tuple(each.clone() for each in given))
    places = [] if layer is None else [model.get_submodule(layer)]
    with warnings.catch_warnings():
        # "Setting forward, backward hooks and attributes on non-linear activations".
        warnings.simplefilter("ignore", UserWarning)
        values = cls(model, *places).attribute(x.detach().clone().requires_grad_(), target=target, **settings)
    return values.detach()


def captum_guided(model: Any, x: torch.Tensor, target: Any) -> torch.Tensor:
    return _captum(attr.GuidedBackprop, model, x, target)


def captum_deconvolution(model: Any, x: torch.Tensor, target: Any) -> torch.Tensor:
    return _captum(attr.Deconvolution, model, x, target)


def captum_deeplift(
    model: Any, x: torch.Tensor, target: Any, baselines: Any = None, apart: bool = True
) -> torch.Tensor:
    """Baselines are a number or a tensor like x (or [1, ...]); None is zero."""
    return _captum(attr.DeepLift, model, x, target, apart=apart, baselines=baselines)


def captum_deepliftshap(
    model: Any, x: torch.Tensor, target: Any, baselines: torch.Tensor, apart: bool = True
) -> torch.Tensor:
    """The mean over several baselines [K, ...], each for every example."""
    return _captum(attr.DeepLiftShap, model, x, target, apart=apart, baselines=baselines)


def captum_gradcam(model: Any, x: torch.Tensor, target: Any, layer: str, relu: bool = True) -> torch.Tensor:
    """[B, 1, H, W], of the layer's size."""
    return _captum(attr.LayerGradCam, model, x, target, layer, relu_attributions=relu)


def captum_layer_deeplift(
    model: Any, x: torch.Tensor, target: Any, layer: str, baselines: Any = None, apart: bool = True
) -> torch.Tensor:
    """The layer's activations; the baseline is given at the input."""
    return _captum(attr.LayerDeepLift, model, x, target, layer, apart, baselines=baselines)
