# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""Guided Grad-CAM: the values of guided backprop, times the map of Grad-CAM stretched by PyTorch's interpolation."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

import whence
from models import assert_same, pictures, relative, seeded, state_of
from whence import data, zoo

D = torch.float64


def network(activation=nn.ReLU):
    def make():
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), activation(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 1), activation(), nn.Flatten(),
            nn.Linear(20, 3),
        )  # fmt: skip

    return seeded(2, make).double().eval()


def stretched(maps, size):
    """Return maps [n, 1, h, w] at a size."""
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("layer", ["0", "1", "2", "3", "4"])
@pytest.mark.parametrize("target", [0, [2, 0, 1, 1]], ids=["one", "each"])
def test_it_is_the_product_of_the_two(layer, target):
    model, x = network(), pictures(4, dtype=D)
    found = whence.explain(model, x, "guided_gradcam", target=target, layer=layer)
    fine = whence.explain(model, x, "guided_backprop", target=target).values
    maps = whence.explain(model, x, "gradcam", target=target, layer=layer).values
    wanted = fine * stretched(maps, (6, 6))
    assert wanted.abs().sum() > 0
    assert relative(found.values, wanted) <= 1e-12
    assert found.values.shape == x.shape
    assert relative(found.output, model(x)[range(4), target].detach()) <= 1e-12


def test_the_twin_of_the_map_is_by_hand_too():
    """Not by way of whence's own Grad-CAM: mean gradients over channels, in torch."""
    model, x = network(), pictures(3, dtype=D)
    z = model[:5](x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[5:](z)[:, 1].sum(), z)
    maps = (gradient.mean((2, 3), keepdim=True) * z).sum(1, keepdim=True).clamp(min=0).detach()
    fine = whence.explain(model, x, "guided_backprop", target=1).values
    found = whence.explain(model, x, "guided_gradcam", target=1, layer="4")
    assert relative(found.values, fine * stretched(maps, (6, 6))) <= 1e-12


def test_every_class_is_each_class():
    model, x = network(), pictures(3, dtype=D)
    every = whence.explain(model, x, "guided_gradcam", target="all", layer="4")
    assert every.values.shape == (3, 3, 1, 6, 6)
    for k in range(3):
        one = whence.explain(model, x, "guided_gradcam", target=k, layer="4")
        assert relative(every.values[:, k], one.values, 1e-9) <= 1e-12


def test_the_map_of_a_layer_lies_over_another_layer():
    model, x = network(), pictures(3, dtype=D)
    found = whence.explain(model, x, "guided_gradcam", target=0, layer="4", at=whence.layer("0"))
    fine = whence.explain(model, x, "guided_backprop", target=0, at=whence.layer("0")).values
    maps = whence.explain(model, x, "gradcam", target=0, layer="4").values
    assert found.values.shape == (3, 6, 4, 4)
    assert relative(found.values, fine * stretched(maps, (4, 4))) <= 1e-12


def test_pictures_are_explained_in_pixels():
    loaded = zoo.load("digits-cnn")
    x = np.kron(data.digits().test_images[:2], np.ones((1, 2, 2), np.uint8))[:, :13, :15, None]
    asked = {"target": 3, "preprocess": loaded.preprocess}
    found = whence.explain(loaded.model, x, "guided_gradcam", layer="features.4", **asked)
    fine = whence.explain(loaded.model, x, "guided_backprop", **asked).values
    maps = whence.explain(loaded.model, x, "gradcam", layer="features.4", **asked).values
    assert found.values.shape == (2, 13, 15, 1)
    wide = stretched(torch.as_tensor(maps), (13, 15)).permute(0, 2, 3, 1).numpy()
    assert np.abs(wide).sum() > 0
    assert relative(found.values, fine * wide) <= 1e-5


def test_no_layer_named_is_the_last_with_an_extent_and_a_note_says_so():
    model, x = network(), pictures(2, dtype=D)
    found = whence.explain(model, x, "guided_gradcam", target=0)
    named = whence.explain(model, x, "guided_gradcam", target=0, layer="4")
    assert torch.equal(found.values, named.values)
    assert any("no layer was named" in note and "'4'" in note for note in found.notes)


def test_an_example_is_explained_as_if_it_were_alone():
    model, x = network(), pictures(4, dtype=D)
    together = whence.explain(model, x, "guided_gradcam", target=0, layer="1")
    for row in range(4):
        alone = whence.explain(model, x[row : row + 1], "guided_gradcam", target=0, layer="1")
        assert relative(together.values[row], alone.values[0], 1e-9) <= 1e-12


def test_an_input_without_the_extent_has_no_share():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.side = network(), nn.Linear(4, 3).double()

        def forward(self, x, row):
            return self.body(x) + self.side(row).relu()

    model = seeded(0, Two)
    x, row = pictures(2, dtype=D), seeded(1, lambda: torch.randn(2, 4, dtype=D))
    both = whence.explain(model, (x, row), "guided_gradcam", target=0, layer="body.4").values
    alone = whence.explain(model.body, x, "guided_gradcam", target=0, layer="4").values
    assert relative(both[0], alone) <= 1e-12
    assert torch.equal(both[1], torch.zeros_like(row))


def test_what_it_cannot_do_is_refused():
    x = pictures(2, dtype=D)
    with pytest.raises(whence.Refused, match="there is none"):
        whence.explain(network(nn.Tanh), x, "guided_gradcam", target=0, layer="1")
    with pytest.raises(whence.Refused, match="plain function"):
        whence.explain(lambda x: x.relu().sum((1, 2)), x, "guided_gradcam", target=0)
    with pytest.raises(whence.Refused, match="no extent in space"):
        whence.explain(network(), x, "guided_gradcam", target=0, layer="6")
    with pytest.raises(whence.Refused, match="leave at= out"):
        whence.explain(network(), x, "guided_gradcam", target=0, at=whence.parameters("0.weight"))
    flat = nn.Sequential(nn.Unflatten(1, (1, 6, 6)), network())
    with pytest.raises(whence.Refused, match="no input has such an extent"):
        whence.explain(flat, x.flatten(1), "guided_gradcam", target=0, layer="1.4")
    with pytest.raises(whence.UnsupportedByBackend):
        whence.explain(lambda x: x.reshape(len(x), -1), x.numpy(), "guided_gradcam", target=0)


def test_the_model_is_untouched():
    model, x = network(), pictures(2, dtype=D)
    before = state_of(model, x)
    first, second = (whence.explain(model, x, "guided_gradcam", target=0, layer="3") for _ in range(2))
    assert_same(before, state_of(model, x))
    assert torch.equal(first.values, second.values)
