"""Layers, neurons and the input's path: the same answers as captum 0.9.0 where it is right.

What it has no name for (a chosen call of a reused layer, weights) is held to closed forms in tests/test_sites.py.
"""

# ruff: noqa: E402 (captum is imported after the check for it)
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip(
    "captum", reason="captum is not installed here; `make test` runs this in the peers' environment"
)

from captum.attr import (
    InternalInfluence,
    LayerActivation,
    LayerConductance,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    NeuronGradient,
    NeuronIntegratedGradients,
)
from torch import nn

import whence
from whence import data, zoo

SAME = 1e-5
LAYERS = ["features.0", "features.2", "features.3", "features.4", "classifier"]


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def digits(request):
    """The zoo's network for 8 x 8 digits, five of them, and the class of each."""
    model = zoo.load("digits-cnn").model.to(request.param)
    x = torch.as_tensor(data.digits().test_images[:5, None] / 255).to(request.param)
    return model, x, model(x).argmax(1)


class Around(nn.Module):
    """A smooth network with a way around its middle layer, and an activation that is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.tanh = nn.Tanh()

    def forward(self, x):
        h = self.tanh(self.first(x))
        return self.last(self.tanh(self.middle(h)) + h * x.sum(1, keepdim=True))


@pytest.fixture
def around():
    """The network, inputs and baselines in float64."""
    torch.manual_seed(0)
    return Around().double(), torch.randn(4, 6).double(), torch.randn(4, 6).double()


def assert_same(ours, theirs, allowed=SAME):
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    theirs = theirs.detach()
    distance = (ours - theirs).abs().flatten(1).sum(1) / theirs.abs().flatten(1).sum(1)
    assert distance.max() <= allowed


def module(model, name):
    return dict(model.named_modules())[name]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("input", [False, True])
def test_layer_gradient_x_activation(digits, name, input):
    model, x, target = digits
    ours = whence.explain(model, x, "input_x_gradient", target=target, at=whence.layer(name, input=input))
    theirs = LayerGradientXActivation(model, module(model, name))
    assert_same(ours.values, theirs.attribute(x, target, attribute_to_layer_input=input))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_activation(digits, name):
    """Of a sum of the layer's units, with the layer as the target, gradient x activation is the activation."""
    model, x, _ = digits
    theirs = LayerActivation(model, module(model, name)).attribute(x)
    unit = whence.target.neuron(name, 3)
    ours = whence.explain(model, x, "input_x_gradient", target=unit, at=whence.layer(name))
    assert torch.equal(ours.values[:, 3], theirs[:, 3])
    assert ours.values.count_nonzero() == theirs[:, 3].count_nonzero()


@pytest.mark.parametrize("name", LAYERS)
def test_layer_integrated_gradients(digits, name):
    model, x, target = digits
    ours = whence.explain(model, x, target=target, at=whence.layer(name), steps=20, quadrature="gauss")
    theirs = LayerIntegratedGradients(model, module(model, name))
    assert_same(ours.values, theirs.attribute(x, 0.0, target, n_steps=20, method="gausslegendre"))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_middle", "riemann_right"])
def test_internal_influence(digits, name, rule):
    model, x, target = digits
    quadrature = {"gausslegendre": "gauss", "riemann_middle": "midpoint", "riemann_right": "right"}[rule]
    method = whence.IntegratedGradients(path="input", multiply=False, steps=20, quadrature=quadrature)
    ours = whence.explain(model, x, method, target=target, at=whence.layer(name))
    theirs = InternalInfluence(model, module(model, name))
    assert_same(ours.values, theirs.attribute(x, 0.0, target, n_steps=20, method=rule))


def test_internal_influence_with_a_way_around_the_layer(around):
    model, x, start = around
    method = whence.IntegratedGradients(path="input", multiply=False, steps=30, baseline=start)
    ours = whence.explain(model, x, method, target=1, at=whence.layer("middle"))
    theirs = InternalInfluence(model, model.middle)
    assert_same(ours.values, theirs.attribute(x, start, 1, n_steps=30, method="gausslegendre"))


def test_conductance_of_a_smooth_network_is_the_limit_of_captums_differences(around):
    """Captum takes z's differences between nodes: its error halves with twice the steps; extrapolated it vanishes."""
    model, x, start = around
    ours = whence.explain(
        model, x, target=1, at=whence.layer("middle"), path="input", baseline=start, rtol=1e-7, max_evaluations=20_000
    ).values  # fmt: skip
    theirs = LayerConductance(model, model.middle)

    def found(steps):
        return theirs.attribute(x, start, 1, n_steps=steps, method="riemann_right").detach()

    coarse, fine = found(1000), found(2000)
    assert_same(ours, 2 * fine - coarse)
    away = [(each - ours).abs().sum() for each in (coarse, fine)]
    assert 1.8 <= away[0] / away[1] <= 2.2


@pytest.mark.parametrize("name", ["features.0", "features.3", "classifier"])
def test_conductance_of_a_network_of_kinks(digits, name):
    model, x, target = digits
    ours = whence.explain(model, x, target=target, at=whence.layer(name), path="input", rtol=1e-3)
    theirs = LayerConductance(model, module(model, name)).attribute(x, 0.0, target, n_steps=2000)
    assert_same(ours.values, theirs, 3e-3)
    assert (ours.residual.abs() <= 2e-3 * ours.values.abs().flatten(1).sum(1)).all()


@pytest.mark.parametrize(
    "name, unit", [("features.0", (3, 2, 5)), ("features.3", (7, 1, 1)), ("classifier", 4)]
)
def test_neuron_gradients(digits, name, unit):
    model, x, _ = digits
    target = whence.target.neuron(name, unit)
    ours = whence.explain(model, x, "saliency", absolute=False, target=target)
    theirs = NeuronGradient(model, module(model, name)).attribute(x.clone().requires_grad_(), unit)
    keep = theirs.abs().flatten(1).sum(1) > 0
    assert keep.any() and (ours.values[~keep] == 0).all()
    assert_same(ours.values[keep], theirs[keep])


@pytest.mark.parametrize("name, unit", [("features.0", (3, 2, 5)), ("classifier", 4)])
def test_neuron_integrated_gradients(digits, name, unit):
    model, x, _ = digits
    ours = whence.explain(model, x, target=whence.target.neuron(name, unit), steps=20)
    theirs = NeuronIntegratedGradients(model, module(model, name))
    found = theirs.attribute(x, unit, 0.0, n_steps=20, method="gausslegendre")
    keep = found.abs().flatten(1).sum(1) > 0
    assert keep.any()
    assert_same(ours.values[keep], found[keep])


def test_a_layer_that_is_used_twice_has_a_call_of_its_own_here(around):
    """Captum refuses or takes one of the calls without a word; here it is an argument, and the closed form holds."""
    model, x, _ = around
    h = torch.tanh(model.first(x))
    pre = model.middle(h)
    z = torch.tanh(pre)
    weight = model.last.weight[1]
    first = whence.explain(model, x, "saliency", absolute=False, target=1, at=whence.layer("tanh", call=0))
    second = whence.explain(model, x, "saliency", absolute=False, target=1, at=whence.layer("tanh", call=1))
    assert_same(second.values, weight.expand(4, 8), 1e-12)
    through = (weight * (1 - z**2)) @ model.middle.weight + weight * x.sum(1, keepdim=True)
    assert_same(first.values, through, 1e-12)
