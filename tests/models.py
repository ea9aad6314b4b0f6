"""Little models for the tests, and a record of all that an explanation must leave as it was."""

from __future__ import annotations

import random
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import whence
from whence import registry

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_load_state_dict_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip


def seeded(seed: int, make: Any) -> Any:
    """Make a model or tensors from a seed, without moving torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def pictures(batch: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random pictures [batch, 1, 6, 6], each with a range of its own."""

    def make() -> torch.Tensor:
        return (
            torch.randn(batch, 1, 6, 6, dtype=torch.float64)
            * (torch.arange(batch) + 1.0)[:, None, None, None]
        )

    return seeded(seed, make).to(dtype)


def cnn(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A convolutional network [B, 1, 6, 6] -> [B, 3] with in-place activations and batch norm, in eval mode."""

    def make() -> nn.Module:
        norm = nn.BatchNorm2d(4)
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), norm, nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
        )

    return seeded(seed, make).to(dtype).eval()


def mlp(features: int = 6, classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A smooth network [B, features] -> [B, classes]."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, classes))

    return seeded(seed, make).to(dtype).eval()


class Busy(nn.Module):
    """A network [B, 1, 6, 6] -> [B, 3] that writes to itself in every way a forward pass can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 3)
        self.frozen = nn.Linear(3, 3)
        self.frozen.weight.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))
        self.register_buffer("later", None)
        self.count = 0
        self.log: list[int] = []
        self.cache: dict[str, Any] = {"rows": 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.count += 1
        self.log.append(len(x))
        self.cache["rows"] += len(x)
        hidden = functional.relu_(self.norm(self.conv(x)))
        hidden = self.drop(functional.max_pool2d(hidden, 2)).flatten(1)
        y = self.head(hidden)
        y = y + self.frozen(torch.tanh(y))
        self.last = y.detach().mean(0)
        self.later = y.detach().mean(0)
        self.fresh = y
        return y


def busy(seed: int = 0) -> Busy:
    """A Busy network in train mode but for one module, with gradients set, as in the middle of a training."""
    model = seeded(seed, Busy)
    model.train()
    model.head.eval()
    for number, parameter in enumerate(model.parameters()):
        if parameter.requires_grad and number % 2:
            parameter.grad = torch.full_like(parameter, 0.25)
    return model


# ---- what must stay as it was --------------------------------------------------------------------------------


def _bits(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else (id(tensor), tensor.detach().clone())


def _contents(value: Any) -> Any:
    kinds = (list, dict, set)
    return (id(value), value.copy()) if isinstance(value, kinds) and not _holds_tensors(value) else id(value)


def _holds_tensors(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value
    return any(isinstance(part, (torch.Tensor, nn.Module, weakref.ref)) for part in parts)


@dataclass
class State:
    """Everything about a model, its inputs and the random generators."""

    modes: dict[str, bool]
    parameters: dict[str, Any]
    gradients: dict[str, Any]
    wants: dict[str, bool]
    buffers: dict[str, Any]
    hooks: dict[str, Any]
    attributes: dict[str, Any]
    inputs: list[Any]
    generators: tuple[Any, ...]


def state_of(model: nn.Module, *inputs: torch.Tensor) -> State:
    """Record the state of a model, inputs and the three global generators."""
    modules = dict(model.named_modules())
    generator = np.random.get_state()
    return State(
        modes={name: module.training for name, module in modules.items()},
        parameters={name: _bits(each) for name, each in model.named_parameters()},
        gradients={name: _bits(each.grad) for name, each in model.named_parameters()},
        wants={name: each.requires_grad for name, each in model.named_parameters()},
        buffers={
            f"{name}.{own}": _bits(each)
            for name, part in modules.items()
            for own, each in part._buffers.items()
        },
        hooks={
            f"{name}.{kind}": dict(getattr(part, kind, {}))
            for name, part in modules.items()
            for kind in HOOKS
        },
        attributes={
            name: {key: _contents(each) for key, each in vars(part).items()} for name, part in modules.items()
        },
        inputs=[(each.requires_grad, _bits(each.grad), _bits(each)) for each in inputs],
        generators=(torch.get_rng_state(), generator[1].copy(), generator[2:], random.getstate()),
    )


def assert_same(before: Any, after: Any, place: str = "state") -> None:
    """Compare two records bit for bit."""
    if isinstance(before, State):
        for name in vars(before):
            assert_same(getattr(before, name), getattr(after, name), name)
    elif isinstance(before, dict):
        assert before.keys() == after.keys(), place
        for name in before:
            assert_same(before[name], after[name], f"{place}[{name}]")
    elif isinstance(before, (tuple, list)):
        assert len(before) == len(after), place
        for number, (one, two) in enumerate(zip(before, after, strict=True)):
            assert_same(one, two, f"{place}[{number}]")
    elif isinstance(before, torch.Tensor):
        assert torch.equal(before, after), place
    elif isinstance(before, np.ndarray):
        assert np.array_equal(before, after), place
    else:
        assert before == after, place


# ---- every registered method, with what it needs -------------------------------------------------------------


def settings_for(name: str, rows: Any) -> dict[str, Any]:
    """Return the fields that let a registered method run, and run quickly: `rows` is a data set of inputs."""
    record = whence.methods()[name]
    fields: dict[str, Any] = {}
    if "background" in record.needs:
        fields["baseline"] = rows
    if "samples" in record.fields and "few features" not in record.needs:
        fields["samples"] = 6 if record.fields["samples"] is not None else 3
    if isinstance(record.fields.get("steps"), int):
        fields["steps"] = 20
    return fields


def of_inputs(name: str) -> bool:
    """Tell whether a method (or a case) hands out its shares to the inputs: the others draw the map of a layer."""
    return name not in whence.methods() or "layer" not in whence.methods()[name].needs


def like_inputs(name: str) -> bool:
    """Tell whether a method's values are shaped like the inputs: those of a class activation map are not."""
    return of_inputs(name) or name == "guided_gradcam"


def works_without_relu(name: str) -> bool:
    """Tell whether a method takes models in which there is no rectifier."""
    return name not in whence.methods() or "relu" not in whence.methods()[name].needs


def names() -> list[str]:
    """Return the registered methods that all the little networks here are fit for.

    They do not end in global pooling, and some have both corners and curves.
    """
    special = {"global pooling", "piecewise linear or smooth"}
    return sorted(name for name, each in whence.methods().items() if not special & {*each.needs})


TOLD = (
    "no layer was named", "the map of", "biases and constants", "relevance has grown", "6 subsets cannot tell",
)  # fmt: skip


def unexpected(notes: list[str]) -> list[str]:
    """Return the notes without those that tell which layer was chosen."""
    return [note for note in notes if not note.startswith(TOLD)]


def cases(rows: torch.Tensor) -> dict[str, registry.Method]:
    """Return every registered method, and the variants of a few that take ways of their own, by a test's name."""
    build = registry.build
    found = {name: build(name, settings_for(name, rows)) for name in names()}
    integrated = whence.IntegratedGradients
    black_box = whence.Sensitivity(step=0.01)
    return found | {
        "ig-gauss": integrated(steps=7),
        "ig-monte-carlo": integrated(quadrature="monte_carlo", max_evaluations=128),
        "ig-taylor": integrated(quadrature="taylor"),
        "ig-stochastic": integrated(path=whence.path.stochastic(samples=3), rtol=0.1),
        "ig-guided": integrated(path="guided", rtol=0.2, max_evaluations=200),
        "ig-noise": integrated(baseline=whence.baseline.gaussian(samples=3), steps=4),
        "ig-several": integrated(baseline=[0.0, whence.baseline.mean()], rtol=0.1),
        "ig-dataset": integrated(baseline=whence.baseline.dataset(rows, samples=3), steps=4),
        "ig-boundary": integrated(baseline="boundary", steps=4),
        "ig-normalize": integrated(normalize=True, steps=4),
        "sensitivity-differences": black_box,
        "smoothgrad-ig": whence.SmoothGrad(method=integrated(steps=4), samples=3),
        "vargrad-differences": whence.VarGrad(method=black_box, samples=3),
    }


# What depends on the seed; everything else must not.
DRAWN = ("ig-monte-carlo", "ig-stochastic", "ig-noise", "ig-dataset")


def is_drawn(name: str) -> bool:
    """Tell whether a case's answer depends on the seed."""
    record = whence.methods().get(name)
    if record is None:
        return name in DRAWN or "grad-" in name
    # Few features are visited with all their subsets.
    return "samples" in record.fields and "few features" not in record.needs


def relative(values: Any, reference: Any, scale: float = 0.0) -> float:
    """Return the L1 distance of two arrays relative to the second (or to a larger scale).

    A variance of nothing is the square of a rounding error: below 1e-25 there is nothing to compare.
    """
    one, two = (np.asarray(each, dtype=np.float64) for each in (numpy_of(values), numpy_of(reference)))
    return float(np.abs(one - two).sum() / max(np.abs(two).sum(), scale, 1e-25))


def numpy_of(array: Any) -> np.ndarray:
    """Return a tensor of any dtype as NumPy."""
    return array.detach().double().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
