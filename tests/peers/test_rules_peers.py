"""Whence's rules say what zennit and captum say, where these are right; the closed form decides where they are not."""

# ruff: noqa: E402 (the peers are imported after the check for them)
from importlib.util import find_spec

import pytest

torch = pytest.importorskip("torch")
for peer in ("captum", "zennit"):
    # Not importorskip: zennit asks for a torchvision that is not here.
    if not find_spec(peer):
        pytest.skip(f"{peer} is not installed here; see `make test`", allow_module_level=True)

import rules_peers as peers
import torch.nn.functional as F
from torch import nn

import whence
from architectures import base
from models import relative
from whence import composite as c
from whence import data, zoo

D = torch.float64
LOW, HIGH = -3.0, 4.0


def digits():
    """The zoo's network as a chain of modules, and eight digits."""
    loaded = zoo.load("digits-cnn").model.to(D)
    x = torch.as_tensor(data.digits().test_images[:8, None] / 255).to(D)
    return nn.Sequential(*loaded.features, nn.Flatten(), loaded.classifier).eval(), x


def perceptron():
    loaded = zoo.load("mnist-mlp").model.to(D)
    x = torch.as_tensor(data.digits().test_images[:8, None] / 255).to(D)
    parts = (nn.Flatten(), loaded.hidden1, nn.ReLU(), loaded.hidden2, nn.ReLU(), loaded.output)
    return nn.Sequential(*parts).eval(), F.interpolate(x, (28, 28), mode="bilinear")


def vgg():
    """Biases, batch norm, negative inputs, pools of maxima and of means."""
    layers = (
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5),
    )  # fmt: skip
    return base.settled("peers' vgg", lambda: nn.Sequential(*layers)).to(D), base.rows(4, D, (3, 8, 8))


NETWORKS = {"digits-cnn": digits, "mnist-mlp": perceptron, "vgg": vgg}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    """A model, inputs, and each example's top class."""
    model, x = NETWORKS[request.param]()
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def same(ours, theirs, tolerance=1e-5):
    assert float(theirs.abs().sum()) > 0
    for one, two in zip(ours.values, theirs, strict=True):
        assert relative(one, two) <= tolerance


# ---- zennit --------------------------------------------------------------------------------------------------


EVERYWHERE = {
    "epsilon": (peers.zennit_epsilon, c.epsilon(), {}),
    "epsilon-large": (peers.zennit_epsilon, c.epsilon(0.5), {"epsilon": 0.5}),
    "gamma": (peers.zennit_gamma, c.gamma(), {}),
    "gamma-large": (peers.zennit_gamma, c.gamma(2.0), {"gamma": 2.0}),
    "alpha_beta": (peers.zennit_alpha_beta, c.alpha_beta(), {}),
    "z_plus": (peers.zennit_zplus, c.z_plus(), {}),
    "w_squared": (peers.zennit_w_square, c.w_squared(), {}),
    "flat": (peers.zennit_flat, c.flat(), {}),
}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_one_rule_for_all_layers(case, name):
    peer, rule, settings = EVERYWHERE[name]
    model, x, target = case
    same(whence.explain(model, x, "lrp", target=target, composite=rule), peer(model, x, target, **settings))


def test_composites(case):
    model, x, target = case
    # Zennit's are for pictures: the first layer has a rule of its own only where it is a convolution.
    convolves = any(isinstance(each, nn.Conv2d) for each in model)
    box = c.Composite(c.epsilon(), c.gamma(), c.box(LOW, HIGH)) if convolves else c.Composite()
    pairs = [
        ("epsilon_plus", peers.zennit_epsilon_plus, {}),
        (box, peers.zennit_epsilon_gamma_box, {"low": LOW, "high": HIGH}),
        ("epsilon_alpha2_beta1_flat", peers.zennit_epsilon_alpha2_beta1_flat, {}),
    ]
    for spec, peer, settings in pairs:
        ours = whence.explain(model, x, "lrp", target=target, composite=spec)
        same(ours, peer(model, x, target, **settings))


# ---- captum --------------------------------------------------------------------------------------------------


def test_guided_and_deconvolution(case):
    model, x, target = case
    same(
        whence.explain(model, x, "guided_backprop", target=target),
        peers.captum_guided(model, x, target),
        1e-10,
    )
    same(
        whence.explain(model, x, "deconvnet", target=target),
        peers.captum_deconvolution(model, x, target),
        1e-10,
    )


@pytest.mark.parametrize("start", ["zero", "other"])
def test_deeplift_and_deepshap(case, start):
    model, x, target = case
    x0 = 0 * x if start == "zero" else x.flip(0) + 0.1
    ours = whence.explain(model, x, "deeplift", target=target, baseline=x0)
    same(ours, peers.captum_deeplift(model, x, target, x0))
    rows = x0[:3]
    ours = whence.explain(model, x, "deepshap", target=target, baseline=rows)
    same(ours, peers.captum_deepliftshap(model, x, target, rows))


@pytest.mark.parametrize("name, layer", [("digits-cnn", "3"), ("vgg", "6")])
def test_deeplift_of_a_layer(name, layer):
    model, x = NETWORKS[name]()
    target = model(x).argmax(1)
    ours = whence.explain(model, x, "deeplift", target=target, at=whence.layer(layer), baseline=0.1)
    same(ours, peers.captum_layer_deeplift(model, x, target, layer, 0.1))


# ---- where they are wrong (the rows of the list that the project began with) -----------------------------------


def missing(values, model, x, target, x0=None):
    """Return by how much shares miss f(x) − f(x0), at worst, relative to it."""
    with torch.no_grad():
        change = (model(x) - model(0 * x if x0 is None else x0))[range(len(x)), target]
    return float(((values.flatten(1).sum(1) - change) / change).abs().max())


class Functional(nn.Module):
    """One activation between two layers, called as a function."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def functional(function):
    return base.settled("peers", lambda: Functional(function)).to(D), base.rows(4, D, (6,))


@pytest.mark.parametrize(
    "row, function",
    [("1", F.relu), ("6", F.gelu), ("6", F.silu), ("6", F.hardswish)],
    ids=["relu", "gelu", "silu", "hardswish"],
)
def test_rows_01_and_06_activations_that_captum_does_not_see(row, function):
    model, x = functional(function)
    target = torch.zeros(len(x), dtype=torch.long)
    assert missing(peers.captum_deeplift(model, x, target), model, x, target) > 1e-2
    assert missing(whence.explain(model, x, "deeplift", target=0).values, model, x, target) <= 1e-10


def test_row_01_guided_backprop_is_not_the_plain_gradient():
    model, x = functional(F.relu)
    plain = whence.explain(model, x, "saliency", target=0, absolute=False)
    same(plain, peers.captum_guided(model, x, 0), 1e-12)
    assert relative(whence.explain(model, x, "guided_backprop", target=0).values, plain.values) > 0.1


def test_row_02_a_tensor_through_a_relu_and_past_it():
    relu = nn.ReLU()
    model, x = functional(lambda h: relu(h) + h)
    target = torch.zeros(len(x), dtype=torch.long)
    assert missing(whence.explain(model, x, "deeplift", target=0).values, model, x, target) <= 1e-10


def test_row_03_a_module_used_twice():
    relu = nn.ReLU()
    model, x = functional(lambda h: relu(relu(h) - 0.2))
    target = torch.zeros(len(x), dtype=torch.long)
    assert missing(whence.explain(model, x, "deeplift", target=0).values, model, x, target) <= 1e-10


def test_row_04_pools_that_overlap():
    model = nn.Sequential(nn.MaxPool1d(2, 1), nn.Flatten(), nn.Linear(3, 1, bias=False)).to(D)
    nn.init.ones_(model[2].weight)
    x, target = torch.tensor([[[1.0, 5.0, 1.0, 2.0]]], dtype=D), torch.tensor([0])
    assert missing(peers.captum_deeplift(model, x, target), model, x, target) * 12 == pytest.approx(5)
    ours = whence.explain(model, x, "deeplift", target=0).values
    assert ours.flatten().tolist() == [0, 10, 0, 2]


def test_row_08_what_captums_lrp_refuses():
    from captum.attr import LRP

    layers = (nn.Linear(6, 8), nn.Sigmoid(), nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 3))
    model = base.settled("row 8", lambda: nn.Sequential(*layers)).to(D)
    x = base.rows(2, D, (6,))
    with pytest.raises(Exception, match="no rule defined"):
        LRP(model).attribute(x.clone().requires_grad_(), target=0)
    result = whence.explain(model, x, "lrp", target=0)
    assert not any("no rule" in note for note in result.notes) and result.values.abs().sum() > 0
