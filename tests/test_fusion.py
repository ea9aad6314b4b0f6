"""Fusion as users meet it: the same numbers, noted, remembered, and gone where a model's way depends on its data."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import whence
from models import seeded

F64 = torch.float64


def ig(model, inputs, **options):
    return whence.explain(model, inputs, "integrated_gradients", **options)


def wide(seed=0):
    """Return an MLP that fusion pays for: its first layer is most of it."""
    make = lambda: nn.Sequential(nn.Flatten(), nn.Linear(300, 12), nn.ReLU(), nn.Linear(12, 4))  # noqa: E731
    return seeded(seed, make).double()


def rows(count=8, seed=1):
    return seeded(seed, lambda: torch.randn(count, 3, 10, 10, dtype=F64))


def same(one, other, tolerance=1e-12):
    size = other.values.abs().flatten(1).sum(1)
    assert ((one.values - other.values).abs().flatten(1).sum(1) <= tolerance * size).all()


@pytest.mark.parametrize(
    "options",
    [
        {}, {"rtol": 0.001}, {"steps": 40}, {"steps": 40, "quadrature": "midpoint"}, {"target": "all"},
        {"target": whence.target.margin()}, {"target": whence.target.probability()}, {"baseline": [0.0, 1.0]},
        {"baseline": torch.full((3, 10, 10), 0.5, dtype=F64)}, {"where": torch.arange(10) < 4}, {"normalize": True},
        {"chunk": 5, "steps": 20},
    ],
    ids=str,
)  # fmt: skip
def test_fused_is_unfused(options):
    model, x = wide(), rows()
    fused, plain = ig(model, x, **options), ig(model, x, fuse=False, **options)
    assert fused.settings.get("fused") is True and "fused" not in plain.settings
    same(fused, plain)
    assert (fused.evaluations == plain.evaluations).all()
    if fused.error is not None:
        assert np.allclose(fused.error, plain.error, rtol=1e-6)


def test_pixels_and_a_preprocessing_are_seen_through():
    model = wide()
    pictures = np.random.default_rng(0).integers(0, 256, (8, 10, 10, 3), dtype=np.uint8)
    scale = whence.Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    fused, plain = (ig(model, pictures, preprocess=scale, steps=20, fuse=fuse) for fuse in (True, False))
    assert fused.settings["fused"]
    assert np.allclose(fused.values, plain.values, rtol=1e-9, atol=1e-13)


def test_what_was_learnt_serves_other_inputs_other_weights_and_other_targets():
    model, other = wide(), wide(5)
    ig(model, rows(), steps=20)
    model.load_state_dict(other.state_dict())
    for options in ({}, {"target": 2}, {"target": "all"}):
        fused = ig(model, rows(11, seed=3), steps=20, **options)
        assert fused.settings["fused"]
        same(fused, ig(wide(5), rows(11, seed=3), steps=20, fuse=False, **options))


class Fickle(nn.Module):
    """Its way depends on the data once `moody`: it was recorded otherwise."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(300, 12), nn.Linear(12, 4)
        self.moody = False

    def forward(self, x):
        h = self.first(x.flatten(1))
        if self.moody and bool(h.sum() > 0):
            h = h * 1.0
        return self.second(functional.relu(h))


def test_a_model_whose_way_depends_on_its_data_is_right_after_having_been_recorded_otherwise():
    model, x = seeded(0, Fickle).double(), rows()
    assert ig(model, x, steps=20).settings["fused"]
    model.moody = True
    same(ig(model, x, steps=20), ig(model, x, steps=20, fuse=False))
    same(ig(model, x), ig(model, x, fuse=False))


def test_a_network_it_does_not_pay_for_is_left_alone():
    model = seeded(0, lambda: nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 4)))
    assert "fused" not in ig(model.double(), rows(), steps=40).settings


def first_layer_rows(model, x, fuse):
    """Return how many rows went through the first layer forwards, in all."""
    ig(model, x, steps=64, fuse=fuse)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        ig(model, x, steps=64, fuse=fuse)
    calls = [each for each in seen.key_averages(group_by_input_shape=True) if each.key == "aten::addmm"]
    return sum(each.count * each.input_shapes[1][0] for each in calls if each.input_shapes[1][1] == 300)


def test_the_first_layer_runs_only_at_the_ends():
    model, x = wide(), rows()
    plain, fused = (first_layer_rows(model, x, fuse) for fuse in (False, True))
    assert plain >= 8 * 64
    assert fused <= 8 * 6, "f at both ends, z at both ends and the way back, and nothing at the nodes"


def test_fusion_holds_on_to_no_input_and_no_model():
    import gc
    import weakref

    model, x = wide(), rows()
    alive = weakref.ref(x)
    ig(model, x, steps=20)
    del x
    gc.collect()
    assert alive() is None
