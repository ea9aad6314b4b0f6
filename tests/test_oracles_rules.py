"""The slow twins against what can be calculated by hand, and against the laws that their rules promise."""

import numpy as np
import pytest
import torch
from torch import nn

import oracles_rules as rules
from oracles_chain import ACTIVATIONS, MaxPool

W = np.array([[1.0, -2.0], [3.0, 1.0]])
B = np.array([1.0, -1.0])
X = np.array([2.0, -1.0])
R = np.array([5.0, 4.0])
NONE = np.zeros(2)


def close(one, two, tolerance=1e-12):
    np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


# ---- layer-wise relevance propagation by hand -------------------------------------------------------------------
# W x = [2 + 2, 6 - 1] = [4, 5]; with the bias z = [5, 4].


def test_epsilon_by_hand():
    close(rules.epsilon(W, B, X, R, 0.0), [2 * (1 * 1 + 3 * 1), -1 * (-2 * 1 + 1 * 1)])
    close(rules.epsilon(W, B, X, R, 1.0), [2 * (5 / 6 + 3 * 4 / 5), -1 * (-2 * 5 / 6 + 4 / 5)])


def test_the_stabiliser_takes_the_sign_of_z_and_zero_is_positive():
    close(rules.stabilised(np.array([-2.0, -0.0, 0.0, 3.0]), 0.5), [-2.5, 0.5, 0.5, 3.5])


def test_z_plus_and_alpha_beta_by_hand():
    # Contributions [[2, 2], [6, -1]]: positive sums 2 + 2 + 1 and 6; negative sums 0 and -1 - 1.
    up = [2 * 5 / 5 + 6 * 4 / 6, 2 * 5 / 5]
    down = [0, -1 * 4 / -2]
    close(rules.z_plus(W, B, X, R, 0.0), up)
    # Nothing of the first output is negative: its stabiliser alone stands below a share of zero.
    close(rules.alpha_beta(W, B, X, R, 2.0, 1.0, 1e-15), 2 * np.array(up) - np.array(down), 1e-9)


def test_gamma_by_hand():
    # Both z are positive, so γ = 1 doubles the positive contributions: [[4, 4], [12, -1]] over 8 + 2 and 11 - 1.
    close(rules.gamma(W, B, X, R, 1.0, 0.0), [4 * 5 / 10 + 12 * 4 / 10, 4 * 5 / 10 - 1 * 4 / 10])
    # The other way round both are negative, and the negative ones are doubled: the same shares.
    close(rules.gamma(-W, -B, X, R, 1.0, 0.0), rules.gamma(W, B, X, R, 1.0, 0.0))


def test_an_output_of_zero_hands_on_nothing_under_gamma():
    close(rules.gamma(np.array([[1.0, 1.0]]), np.zeros(1), np.array([1.0, -1.0]), np.ones(1)), NONE)


def test_z_box_by_hand():
    # x w − l w⁺ − h w⁻ with l = −2, h = 3: [[2 + 2, 2 + 6], [6 + 6, −1 + 2]], over 12 and 13; the bias is gone.
    expected = [4 * 5 / 12 + 12 * 4 / 13, 8 * 5 / 12 + 1 * 4 / 13]
    close(rules.z_box(W, B, X, R, -2.0, 3.0, 0.0), expected)
    close(rules.z_box(W, 0 * B, X, R, np.full(2, -2.0), np.full(2, 3.0), 0.0), expected)


def test_w_square_and_flat_by_hand():
    # Squares [[1, 4], [9, 1]] over 5 + 1 and 10 + 1.
    close(rules.w_square(W, B, X, R, 0.0), [1 * 5 / 6 + 9 * 4 / 11, 4 * 5 / 6 + 1 * 4 / 11])
    close(rules.flat(W * [[1, 0], [1, 1]], B, X, R, 0.0), [5 + 2, 2])


# ---- what the rules promise -------------------------------------------------------------------------------------


LINEAR = {
    "epsilon": lambda W, b, x, R: rules.epsilon(W, b, x, R, 0.0),
    "gamma": lambda W, b, x, R: rules.gamma(W, b, x, R, 0.5, 0.0),
    "alpha_beta": lambda W, b, x, R: rules.alpha_beta(W, b, x, R, 2.0, 1.0, 0.0),
    "z_plus": lambda W, b, x, R: rules.z_plus(W, b, x, R, 0.0),
    "z_box": lambda W, b, x, R: rules.z_box(W, b, x, R, -4.0, 4.0, 0.0),
    "w_square": lambda W, b, x, R: rules.w_square(W, b, x, R, 0.0),
    "flat": lambda W, b, x, R: rules.flat(W, b, x, R, 0.0),
}


@pytest.fixture
def layer(generator):
    """W [4, 7], b, x of both signs, R."""
    return tuple(generator.standard_normal(shape) for shape in ((4, 7), 4, 7, 4))


@pytest.mark.parametrize("name", LINEAR)
def test_relevance_is_conserved_where_there_is_no_bias(layer, name):
    weight, _, x, relevance = layer
    close(LINEAR[name](weight, np.zeros(4), x, relevance).sum(), relevance.sum())


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.5])
def test_what_bias_and_epsilon_absorb_is_known(layer, epsilon):
    missing = layer[3].sum() - rules.epsilon(*layer, epsilon).sum()
    close(rules.absorbed(*layer, epsilon), missing)
    assert abs(missing) > 1e-3


def test_the_rules_are_limits_of_each_other(layer):
    weight, bias, x, relevance = layer
    close(rules.gamma(*layer, 0.0, 0.0), rules.epsilon(*layer, 0.0))
    close(rules.alpha_beta(*layer, 1.0, 0.0), rules.z_plus(*layer))
    positive = relevance * (weight @ x + bias > 0)
    far = rules.gamma(weight, bias, x, positive, 1e9, 0.0)
    close(far, rules.z_plus(weight, bias, x, positive, 0.0), 1e-7)
    # For inputs and outputs that are positive, γ is the rule of the paper: w + γ w⁺.
    x, bias = np.abs(x), bias + 10
    changed, shifted = weight + 0.3 * rules.positive(weight), bias + 0.3 * rules.positive(bias)
    close(
        rules.gamma(weight, bias, x, relevance, 0.3, 0.0),
        rules.epsilon(changed, shifted, x, relevance, 0.0),
    )


def test_attention_rules(generator):
    left, right = generator.standard_normal((3, 4)), generator.standard_normal((4, 2))
    relevance = generator.standard_normal((3, 2))
    one, two = rules.attention_matmul(left, right, relevance, 0.0)
    close(one.sum(), relevance.sum() / 2)
    close(two.sum(), relevance.sum() / 2)
    x, back = generator.standard_normal(5), generator.standard_normal(5)
    y = rules.softmax(x)
    jacobian = np.diag(y) - np.outer(y, y)
    close(rules.attention_softmax(x, back), x * (jacobian.T @ (back / y)))
    weight = generator.standard_normal(5)
    bias, scale = generator.standard_normal(5), np.sqrt(x.var() + 1e-5)

    def scaled(leaf):
        return (leaf - leaf.mean()) / scale * torch.tensor(weight) + torch.tensor(bias)

    through = x * pulled(scaled, x, back / scaled(torch.tensor(x)).numpy())
    close(rules.attention_layer_norm(x, back, weight, bias, 1e-5, 0.0), through)


def test_guided_and_deconvnet_by_hand():
    z, g = np.array([1.0, 1.0, -1.0, -1.0, 0.0]), np.array([2.0, -2.0, 2.0, -2.0, 3.0])
    close(rules.guided(z, g), [2, 0, 0, 0, 0])
    close(rules.deconvnet(z, g), [2, 0, 2, 0, 3])


# ---- DeepLIFT: Σ m Δx = Σ g Δy ------------------------------------------------------------------------------------


@pytest.fixture(params=range(3))
def pair(request):
    """G, x and x0 [6], with places where nothing changes."""
    g, x, x0 = np.random.default_rng(request.param).standard_normal((3, 6))
    x0[:2] = x[:2]
    return g, x, x0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_elementwise_is_complete_and_its_limit_is_the_derivative(pair, name):
    g, x, x0 = pair
    layer = ACTIVATIONS[name]
    m = rules.elementwise(g, x, x0, layer.f, layer.derivative, layer.kinked)
    close(m * (x - x0), g * (layer.f(x) - layer.f(x0)))
    close(m[:2], (g * layer.derivative(x))[:2])
    near = rules.elementwise(g, x, x + 1e-6, layer.f, layer.derivative, layer.kinked)
    np.testing.assert_allclose(near, g * layer.derivative(x), atol=1e-5)


def test_products_are_complete(pair, generator):
    g, a, a0 = pair
    b, b0 = generator.standard_normal((2, 6))
    one, two = rules.product(g, a, a0, b, b0)
    close(one * (a - a0) + two * (b - b0), g * (a * b - a0 * b0))
    A, A0, C, C0 = (generator.standard_normal(shape) for shape in ((2, 3), (2, 3), (3, 4), (3, 4)))
    back = generator.standard_normal((2, 4))
    one, two = rules.matmul(back, A, A0, C, C0)
    close((one * (A - A0)).sum() + (two * (C - C0)).sum(), (back * (A @ C - A0 @ C0)).sum())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_quotients_are_complete_also_where_the_divisor_changes_sign(pair, generator, sign):
    g, a, a0 = pair
    b, b0 = 0.5 + np.abs(generator.standard_normal((2, 6)))
    b0 = b0 * sign
    one, two = rules.quotient(g, a, a0, b, b0)
    close(one * (a - a0) + two * (b - b0), g * (a / b - a0 / b0))
    assert all(np.isfinite(each).all() for each in rules.quotient(g, a, a0, b, sign * b))
    same, limit = rules.quotient(g, a, a, b, b)
    close(same, g / b)
    close(limit, -g * a / b**2)


@pytest.mark.parametrize("baseline", ["random", "zero", "constant", "same"])
def test_layer_norm_is_complete_from_any_baseline(pair, generator, baseline):
    g, x, x0 = pair
    x0 = {"random": x0, "zero": 0 * x, "constant": 0 * x + 3, "same": x}[baseline]
    weight = generator.standard_normal(6)

    def norm(x):
        return weight * (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    m = rules.layer_norm(g, x, x0, weight, 1e-5)
    close((m * (x - x0)).sum(), (g * (norm(x) - norm(x0))).sum())
    assert np.abs(m).max() < 20 * np.abs(g * weight).max(), (
        "it does not explode at a baseline without variance"
    )
    if baseline == "same":
        close(m, pulled(norm_of(weight), x, g), 1e-10)


def norm_of(weight):
    return lambda x: nn.functional.layer_norm(x, x.shape, torch.tensor(weight), eps=1e-5)


def pulled(function, x, g):
    """Return gᵀ df/dx by autograd."""
    leaf = torch.tensor(x, requires_grad=True)
    return torch.autograd.grad((function(leaf) * torch.tensor(g)).sum(), leaf)[0].numpy()


MIXING = {
    "softmax": (rules.softmax_rule, lambda x: torch.softmax(x, 0)),
    "log_softmax": (rules.log_softmax_rule, lambda x: torch.log_softmax(x, 0)),
    "logsumexp": (
        lambda g, x, x0: rules.logsumexp_rule(g.sum(), x, x0),
        lambda x: torch.logsumexp(x, 0) + 0 * x,
    ),
    "variance": (lambda g, x, x0: rules.variance(g.sum(), x, x0), lambda x: torch.var(x) + 0 * x),
}


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("shift", [0.0, 40.0])
def test_mixing_functions_are_complete_and_their_limit_is_the_gradient(pair, name, shift):
    g, x, x0 = pair
    rule, function = MIXING[name]
    x0 = x0 + np.arange(6) * shift
    change = function(torch.tensor(x)) - function(torch.tensor(x0))
    close((rule(g, x, x0) * (x - x0)).sum(), (g * change.numpy()).sum())
    close(rule(g, x, x), pulled(function, x, g))


def test_softmax_of_what_moves_together_does_not_change():
    x = np.array([1.0, 2.0, 3.0])
    m = rules.softmax_rule(np.array([1.0, 0.0, 0.0]), x, x - 5)
    close(m.sum(), 0)


def test_max_pool_of_the_papers():
    """PEERS row 4: three windows of two on [1, 5, 1, 2]; the five wins two of them."""
    windows = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=bool)
    x, x0 = np.array([1.0, 5.0, 1.0, 2.0]), np.zeros(4)
    close(rules.max_pool(np.ones(3), x, x0, windows) * x, [0, 10, 0, 2])
    # The way back: falls belong to the baseline's winner.
    close(rules.max_pool(np.ones(3), x0, x, windows) * -x, [0, -10, 0, -2])


def test_max_pool_is_complete_and_bounded(pair):
    g, x, x0 = pair
    windows = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 1], [1] * 6], dtype=bool)
    pool = MaxPool(windows)
    m = rules.max_pool(g[:4], x, x0, windows)
    close((m * (x - x0)).sum(), (g[:4] * (pool.value(x) - pool.value(x0))).sum())
    assert (np.abs(m) <= (np.abs(g[:4, None]) * windows).sum(0) + 1e-12).all()
    close(rules.max_pool(g[:4], x, x, windows), pool.winners(x).T @ g[:4])


def test_the_general_rule_is_complete_and_is_the_local_integral(pair):
    g, x, x0 = pair

    def f(x):
        return np.cumsum(rules.softmax(x))

    def pull(x, g):
        return pulled(lambda leaf: torch.softmax(leaf, 0).cumsum(0), x, g)

    m = rules.along_the_line(g, x, x0, f, pull)
    close((m * (x - x0)).sum(), (g * (f(x) - f(x0))).sum())
    close(m, rules.along_the_line(g, x, x0, f, pull, nodes=40), 1e-9)
    close(rules.along_the_line(g, x, x, f, pull), pull(x, g))
