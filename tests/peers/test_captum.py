"""The same question to captum 0.9.0, where it is right, has the same answer; where it is wrong, we know why.

Captum lives in an environment of its own (`make test` prepares and uses it); elsewhere these tests are skipped.
"""

# ruff: noqa: E402 (captum is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip(
    "captum", reason="captum is not installed here; `make test` runs this in the peers' environment"
)

from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from torch import nn

import whence
from whence import data, zoo

SAME = 1e-5
RULES = {
    "gausslegendre": "gauss",
    "riemann_left": "left",
    "riemann_right": "right",
    "riemann_middle": "midpoint",
}


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def digits(request):
    """The zoo's network for 8 x 8 digits, five of them, and the class of each."""
    model = zoo.load("digits-cnn").model.to(request.param)
    x = torch.as_tensor(data.digits().test_images[:5, None] / 255).to(request.param)
    return model, x, model(x).argmax(1)


class TwoInputs(nn.Module):
    """Two inputs of different shapes that are multiplied, and a factor that is not explained."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, left, right, factor=1.0):
        return self.last(torch.tanh(self.first(left)) * torch.sigmoid(self.second(right.flatten(1)))) * factor


@pytest.fixture
def pair():
    """Inputs and baselines for TwoInputs."""
    torch.manual_seed(1)
    return (torch.randn(4, 6), torch.randn(4, 2, 2)), (torch.randn(4, 6), torch.randn(4, 2, 2))


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    distance = (ours - theirs).abs().flatten(1).sum(1) / theirs.abs().flatten(1).sum(1)
    assert distance.max() <= SAME


# ---- one gradient --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [True, False])
def test_saliency(digits, absolute):
    model, x, target = digits
    ours = whence.explain(model, x, "saliency", target=target, absolute=absolute)
    assert_same(ours.values, Saliency(model).attribute(x.clone().requires_grad_(), target, abs=absolute))


def test_input_x_gradient(digits):
    model, x, target = digits
    theirs = InputXGradient(model).attribute(x.clone().requires_grad_(), target).detach()
    assert_same(whence.explain(model, x, "input_x_gradient", target=target).values, theirs)


# ---- Integrated Gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 7, 50])
@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients(digits, rule, steps):
    model, x, target = digits
    theirs = IntegratedGradients(model).attribute(x, 0.25, target, n_steps=steps, method=rule)
    ours = whence.explain(model, x, target=target, baseline=0.25, steps=steps, quadrature=RULES[rule])
    assert_same(ours.values, theirs)


def test_the_residual_is_captums_convergence_delta(digits):
    model, x, target = digits
    _, delta = IntegratedGradients(model).attribute(x, 0.0, target, n_steps=20, return_convergence_delta=True)
    ours = whence.explain(model, x, target=target, baseline=0.0, steps=20)
    assert torch.allclose(ours.residual.double(), delta.double(), atol=1e-4)


def test_a_baseline_for_each_example(digits):
    model, x, target = digits
    theirs = IntegratedGradients(model).attribute(x, x.roll(1, 0), target)
    assert_same(whence.explain(model, x, target=target, baseline=x.roll(1, 0), steps=50).values, theirs)


@pytest.mark.parametrize("target", [3, [0, 9, 4, 4, 1]])
def test_one_class_for_all_and_one_for_each_example(digits, target):
    model, x, _ = digits
    theirs = IntegratedGradients(model).attribute(x, 0.0, target)
    ours = whence.explain(model, x, target=target if isinstance(target, int) else np.array(target), steps=50)
    assert_same(ours.values, theirs)


def test_all_classes_are_captums_runs_one_after_the_other(digits):
    model, x, _ = digits
    ours = whence.explain(model, x, target="all", steps=20).values
    for k in range(10):
        assert_same(ours[:, k], IntegratedGradients(model).attribute(x, 0.0, k, n_steps=20))


def test_two_inputs_and_an_argument_that_is_not_explained(pair):
    model, (inputs, baselines) = TwoInputs(), pair
    factor = torch.arange(1.0, 5)[:, None]
    theirs = IntegratedGradients(model).attribute(inputs, baselines, 1, additional_forward_args=factor)
    ours = whence.explain(model, inputs, target=1, baseline=baselines, kwargs={"factor": factor}, steps=50)
    for mine, other in zip(ours.values, theirs, strict=True):
        assert_same(mine, other)


def test_captums_trapezoid_is_short_of_one_step_and_ours_is_not():
    """PEERS row 13: its weights sum to 1 - 1/n, so that even a linear function is wrong by 1/n."""
    steps, x = 50, torch.randn(3, 6, dtype=torch.float64)
    model = nn.Linear(6, 1).double()
    exact = x * model.weight.detach()
    theirs = IntegratedGradients(model).attribute(x, 0.0, 0, n_steps=steps, method="riemann_trapezoid")
    ours = whence.explain(model, x, target=0, steps=steps, quadrature="trapezoid").values
    assert torch.allclose(theirs, exact * (1 - 1 / steps)), "mended? then compare it like the other rules"
    assert torch.allclose(ours, exact, rtol=1e-12)


# ---- a layer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["features.0", "features.3", "features.4"])
def test_integrated_gradients_of_a_layer(digits, layer):
    model, x, target = digits
    peer = LayerIntegratedGradients(model, model.get_submodule(layer))
    theirs = peer.attribute(x, 0.0, target, n_steps=50, method="gausslegendre")
    ours = whence.explain(model, x, target=target, at=whence.layer(layer), baseline=0.0, steps=50)
    assert_same(ours.values, theirs)


def test_what_a_layer_takes_in(digits):
    model, x, target = digits
    peer = LayerIntegratedGradients(model, model.classifier)
    theirs = peer.attribute(x, 0.0, target, n_steps=50, attribute_to_layer_input=True)
    ours = whence.explain(model, x, target=target, at=whence.layer("classifier", input=True), steps=50)
    assert_same(ours.values, theirs)


# ---- noise: other random numbers, so the same means -----------------------------------------------------------


@pytest.mark.parametrize(
    "kind, sampler", [("smoothgrad", whence.SmoothGrad), ("smoothgrad_sq", whence.SmoothGradSquared)]
)
def test_means_over_noise_agree_within_their_errors(digits, kind, sampler):
    model, x, target = digits
    x, target, samples = x[:1], target[:1], 2000
    torch.manual_seed(0)
    scale = 0.2 * float(x.max() - x.min())
    theirs = NoiseTunnel(Saliency(model)).attribute(
        x.clone().requires_grad_(), kind, samples, 200, stdevs=scale, target=target, abs=False
    )
    method = sampler(method=whence.Saliency(absolute=False), samples=samples, noise=0.2)
    ours = whence.explain(model, x, method, target=target)
    away = (ours.values - theirs) / (2**0.5 * ours.standard_error)
    assert 0.5 < float((away**2).mean()) < 2, "about one standard error apart, not many"
