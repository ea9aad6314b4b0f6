"""The axioms: kept where theory says so, and by how much they are violated where it does not."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

import whence
from models import assert_same, busy, mlp, seeded, state_of
from whence import metrics
from whence.attribution import to_numpy
from whence.errors import BadInput, Refused, UnsupportedByBackend

EXACT = whence.IntegratedGradients(steps=64)
GRADIENT = whence.InputXGradient()


def rows(*shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def network(seed=0):
    return mlp(seed=seed, dtype=torch.float64)


def saturated(z):
    """1 − relu(1 − x): the paper's own example, flat from 1 on."""
    return 1 - torch.relu(1 - z)


def product(z):
    """x₀ x₁ + x₂: symmetric in the first two; the fourth input is ignored."""
    return z[:, :1] * z[:, 1:2] + z[:, 2:3]


def test_completeness_in_the_outputs_own_units():
    model, x = network(), rows(4, 6)
    kept = metrics.Completeness()(model, x, method=EXACT, target=1)
    assert kept.values.max() < 1e-6
    shares = np.full((4, 6), 0.5)
    score = metrics.Completeness(baseline=0.0)(model, x, shares, target=1)
    gain = (model(x)[:, 1] - model(torch.zeros(1, 6).double())[:, 1]).detach().numpy()
    np.testing.assert_allclose(score.values, abs(3.0 - gain), rtol=1e-9)


def test_completeness_from_where_the_method_itself_counts():
    model, x = network(), rows(4, 6)
    own = metrics.CompletenessResidual(baseline="own")
    for method in (whence.IntegratedGradients(baseline=0.3), whence.LRP()):
        result = whence.explain(model, x, method, target=1)
        gain = to_numpy(result.output - result.baseline_output)
        missed = abs(to_numpy(result.values).reshape(4, -1).sum(1) - gain) / abs(gain)
        np.testing.assert_allclose(own(model, x, result).values, missed, rtol=1e-6, atol=1e-12)
        units = metrics.Completeness(baseline="own")(model, x, result).values
        np.testing.assert_allclose(units, missed * abs(gain), rtol=1e-6, atol=1e-12)
    rough = whence.explain(model, x, whence.LRP(composite="epsilon"), target=1)
    assert own(model, x, rough).values.max() > 1e-3
    with pytest.raises(Refused, match="does not promise"):
        own(model, x, whence.explain(model, x, "saliency", target=1))
    with pytest.raises(Refused, match="not by an array"):
        own(model, x, to_numpy(rough.values), target=1)


def test_sensitivity_is_broken_by_saturated_gradients_alone():
    x = torch.tensor([[2.0, 0.5], [3.0, 4.0]], dtype=torch.float64)

    def both(z):
        return saturated(z).sum(1)

    assert metrics.SensitivityAxiom()(both, x, method=GRADIENT).values.tolist() == [0.5, 1.0]
    assert metrics.SensitivityAxiom()(both, x, method=EXACT).values.tolist() == [0.0, 0.0]
    other = metrics.SensitivityAxiom(baseline=1.0)(both, x, method=whence.IntegratedGradients(baseline=1.0))
    assert other.values[0] == 0 and np.isnan(other.values[1])
    assert any("no feature alone" in note for note in other.notes)


def test_non_sensitivity_counts_what_does_not_agree():
    x = torch.tensor([[2.0, 3.0, 0.5, 7.0]], dtype=torch.float64)
    metric = metrics.SensitivityAxiom(kind="non_sensitivity")
    for shares, wrong in (([1, 1, 1, 0], 0), ([1, 1, 1, 1], 1), ([-1, 1, 0, 1], 2), ([0, 0, 0, 1], 4)):
        assert metric(product, x, np.array([shares], dtype=float), target=0).values.tolist() == [wrong]


def test_dummies_are_found_or_named():
    x = torch.tensor([[2.0, 3.0, 0.5, 7.0]], dtype=torch.float64)
    shares = np.array([[1.0, -2.0, 3.0, -4.0]])
    assert metrics.Dummy()(product, x, shares, target=0).values.tolist() == [0.4]
    assert metrics.Dummy(features=[0, 1])(product, x, shares, target=0).values.tolist() == [0.3]
    assert metrics.Dummy()(product, x, method=EXACT, target=0).values.tolist() == [0.0]
    none = metrics.Dummy()(network(), rows(2, 6), np.ones((2, 6)))
    assert np.isnan(none.values).all() and any("no feature that is ignored" in note for note in none.notes)
    assert metrics.Dummy()(product, x, 0 * shares, target=0).values.tolist() == [0.0]


def test_implementations_do_not_matter_to_gradients_but_to_rules():
    first = network()
    # The same function: twice the hidden units at half the weight.
    second = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double().eval()
    with torch.no_grad():
        second[0].weight.copy_(first[0].weight.repeat(2, 1))
        second[0].bias.copy_(first[0].bias.repeat(2))
        second[2].weight.copy_(first[2].weight.repeat(1, 2) / 2)
        second[2].bias.copy_(first[2].bias)
    x = rows(3, 6)
    metric = metrics.ImplementationInvariance(other=second)
    np.testing.assert_allclose(metric(first, x, method=GRADIENT).values, 0, atol=1e-12)

    def by_size(model, z, target):
        return np.full(z.shape, float(sum(each.numel() for each in model.parameters())))

    sizes = [sum(each.numel() for each in model.parameters()) for model in (first, second)]
    score = metric(first, x, method=by_size)
    np.testing.assert_allclose(score.values, 1 - sizes[0] / sizes[1])
    with pytest.raises(Refused, match="something else"):
        metrics.ImplementationInvariance(other=network(seed=1))(first, x, method=GRADIENT)
    with pytest.raises(BadInput, match="other="):
        metrics.ImplementationInvariance()(first, x, method=GRADIENT)


def test_linearity_holds_for_gradients_and_not_for_their_size():
    f, g, x = network(), network(seed=1), rows(3, 6)
    metric = metrics.Linearity(other=g, weights=(2.0, -0.5))
    for method in (GRADIENT, EXACT):
        np.testing.assert_allclose(metric(f, x, method=method, target=1).values, 0, atol=1e-6)
    score = metric(f, x, method=whence.Saliency(), target=1).values
    one, two = (whence.Saliency()(model, x, target=1).numpy() for model in (f, g))
    both = whence.Saliency()(lambda z: 2 * f(z) - 0.5 * g(z), x, target=1).numpy()
    summed = 2 * one - 0.5 * two
    size = np.maximum(abs(both).sum(1), abs(summed).sum(1))
    np.testing.assert_allclose(score, abs(both - summed).sum(1) / size, rtol=1e-6)
    with pytest.raises(UnsupportedByBackend, match="wrap it"):
        metrics.Linearity(other="model.onnx")(f, x, method=GRADIENT)
    for weights in ((1.0,), (1.0, float("inf"))):
        with pytest.raises(BadInput, match="two numbers"):
            metrics.Linearity(other=g, weights=weights)


def test_symmetric_inputs():
    x = torch.tensor([[2.0, 0.5, 1.0, 0.0], [3.0, 3.0, 1.0, 0.0]], dtype=torch.float64)
    metric = metrics.Symmetry(pairs=[(0, 1)])
    # Of x₀ x₁ the gradients are x₁ and x₀: the same only where the example was made alike.
    for method in (EXACT, whence.Saliency()):
        np.testing.assert_allclose(metric(product, x, method=method, target=0).values, 0, atol=1e-12)

    def lopsided(model, z, target):
        return np.array([[3.0, 1.0, 0.0, 0.0]] * len(z))

    assert metric(product, x, method=lopsided, target=0).values.tolist() == [0.5, 0.5]
    shares = np.array([[3.0, 1.0, 4.0, 0.0]])
    assert metric(product, x[1:], shares, target=0).values.tolist() == [0.25]
    with pytest.raises(BadInput, match="needs the method"):
        metric(product, x[:1], shares, target=0)
    with pytest.raises(Refused, match="not alike"):
        metrics.Symmetry(pairs=[(0, 2)])(product, x, method=EXACT, target=0)
    for pairs in ((), [(0, 4)]):
        with pytest.raises(BadInput, match="pairs"):
            metrics.Symmetry(pairs=pairs)(product, x, method=EXACT, target=0)


def test_a_black_box_and_several_inputs():
    def model(a, b):
        return (a.sum(1) * b[:, 0])[:, None]

    rng = np.random.default_rng(0)
    pair = (rng.normal(size=(3, 4)), rng.normal(size=(3, 2)))
    shares = (np.ones((3, 4)), np.ones((3, 2)))
    np.testing.assert_allclose(metrics.Dummy()(model, pair, shares, target=0).values, 1 / 6)
    kept = metrics.SensitivityAxiom(baseline=1.0)(
        model, pair, method=whence.FeatureAblation(baseline=1.0), target=0
    )
    assert kept.values.tolist() == [0.0] * 3


@pytest.mark.parametrize(
    "metric",
    [
        metrics.Completeness(),
        metrics.SensitivityAxiom(features=whence.features.patches(3)),
        metrics.SensitivityAxiom(kind="non_sensitivity", tries=2),
        metrics.Dummy(tries=2),
        metrics.Symmetry(pairs=[(0, 0)], tries=1),
    ],
    ids=repr,
)
def test_batches_and_the_model(metric):
    model = busy()
    x = seeded(0, lambda: torch.randn(3, 1, 6, 6))
    before = state_of(model, x)
    whole = metric(model, x, method=GRADIENT, target=0)
    alone = metric(model, x[1:2], method=GRADIENT, target=0)
    np.testing.assert_allclose(alone.values[0], whole.values[1], rtol=1e-4, atol=1e-6)
    assert_same(before, state_of(model, x))


def test_networks_that_are_compared_are_left_alone():
    model, other = busy(), busy()
    x = seeded(0, lambda: torch.randn(3, 1, 6, 6))
    before = state_of(model, x), state_of(other, x)
    for metric in (metrics.ImplementationInvariance(other=other), metrics.Linearity(other=other)):
        np.testing.assert_allclose(metric(model, x, method=GRADIENT, target=0).values, 0, atol=1e-5)
        assert_same(before, (state_of(model, x), state_of(other, x)))
