# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""LRP: every rule is its twin's, relevance is conserved or accounted for, and composites mean what they say."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

import oracles_chain as chains
import oracles_rules as rules
import whence
from architectures import ARCHITECTURES, asked, base
from models import relative, unexpected
from whence import BadInput, composite, data, zoo
from whence.composite import Composite, LayerRule

pytestmark = pytest.mark.usefixtures("one_thread")
D = torch.float64
SUMS = (
    "resnet",
    "densenet",
    "unet",
    "mobilenet_v2",
    "mobilenet_v3",
    "efficientnet",
    "lstm",
    "gru",
    "lstm_cells",
)
ATTENTION = ("vit", "transformer")


# ---- the twins -------------------------------------------------------------------------------------------------


def network():
    """Convolutions with and without batch norm, biases, all pools, activations through zero, [2, 6, 6] -> [3]."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 2),
        nn.LeakyReLU(), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip


def strides():
    """Groups, strides, dilation, a transposed convolution with groups and a norm behind it."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, groups=2),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 2, dilation=2), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip


def perceptron():
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.SiLU(), nn.Linear(8, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)
    )


def signal():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3),
        nn.ReLU6(),
        nn.MaxPool1d(2),
        nn.Conv1d(4, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


NETWORKS = {
    "network": (network, (2, 6, 6)),
    "strides": (strides, (2, 6, 6)),
    "perceptron": (perceptron, (6,)),
    "signal": (signal, (2, 8)),
}


def linearly(choice, epsilon=1e-300):
    """Return the choice with average pooling passed as the linear operation that it is.

    It has an ε only where relevance itself arrives, which w² and flat hand out: a density is made of that.
    """

    def choose(kind, first):
        if kind == "average_pool":
            return lambda W, b, x, R: rules.epsilon(W, b, x, R, epsilon)
        return choice(kind, first)

    return choose


EVERYWHERE = {
    "epsilon": (composite.epsilon(), rules.epsilon),
    "epsilon-large": (composite.epsilon(0.5), lambda *a: rules.epsilon(*a, 0.5)),
    "gamma": (composite.gamma(), rules.gamma),
    "gamma-large": (composite.gamma(2.0, 1e-3), lambda *a: rules.gamma(*a, 2.0, 1e-3)),
    "alpha2-beta1": (composite.alpha_beta(), rules.alpha_beta),
    "alpha3-beta2": (composite.alpha_beta(3, 2), lambda *a: rules.alpha_beta(*a, 3.0, 2.0)),
    "z_plus": (composite.z_plus(), rules.z_plus),
    "w_squared": (composite.w_squared(), rules.w_square),
    "flat": (composite.flat(), rules.flat),
}
LOW, HIGH = -3.0, 4.0
COMPOSITES = {
    "epsilon_plus": ("epsilon_plus", chains.EPSILON_PLUS),
    "alpha_beta": ("alpha_beta", chains.everywhere(rules.alpha_beta)),
    "gamma": ("gamma", chains.everywhere(rules.gamma)),
    "epsilon": ("epsilon", chains.everywhere(rules.epsilon)),
    "epsilon_alpha2_beta1_flat": ("epsilon_alpha2_beta1_flat", chains.EPSILON_ALPHA2_BETA1_FLAT),
    "attention": ("attention", chains.by_kind(rules.gamma, rules.epsilon)),
    "epsilon_gamma_box": (
        Composite(composite.epsilon(), composite.gamma(), composite.box(LOW, HIGH)),
        chains.by_kind(
            rules.gamma,
            rules.epsilon,
            *(lambda W, b, x, R: rules.z_box(W, b, x, R, LOW, HIGH),) * 2,
        ),
    ),
}
RULES = {name: (rule, chains.everywhere(twin)) for name, (rule, twin) in EVERYWHERE.items()} | COMPOSITES


def assert_twin(model, x, spec, choice):
    chain = chains.Chain.of(model, tuple(x.shape[1:])).folded()
    result = whence.explain(model, x, "lrp", target=1, composite=spec)
    spread = isinstance(spec, LayerRule) and spec.kind in ("w_squared", "flat")
    for row, y in enumerate(model(x).detach().numpy()):
        start = np.eye(y.size)[1] * y
        expected = chain.relevance(x[row].numpy(), start, linearly(choice, 1e-6 if spread else 1e-300))
        assert relative(result.values[row].flatten(), expected) <= 1e-9


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
def test_networks_are_their_twins(name, rule):
    make, shape = NETWORKS[name]
    assert_twin(base.settled(name, make).to(D), base.rows(3, D, shape), *RULES[rule])


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus", "gamma", "epsilon_alpha2_beta1_flat"])
def test_the_digits_network_is_its_twin(rule):
    loaded = zoo.load("digits-cnn").model.to(D)
    model = nn.Sequential(*loaded.features, nn.Flatten(), loaded.classifier).eval()
    x = torch.as_tensor(data.digits().test_images[:2, None] / 255).to(D)
    assert_twin(model, x, *RULES[rule])


def test_a_batch_norm_before_a_layer_is_one_of_its_own():
    """Norm, activation, convolution, as in DenseNet: the norm's shift keeps a share, like a bias."""
    model = base.settled("before", lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3))).to(D)
    x = base.rows(3, D, (5,))
    norm, linear = (chains.Chain.of(each, (5,)).layers[0] for each in (model[:1], model[1:]))
    result = whence.explain(model, x, "lrp", target=0)
    for row, values in zip(x.numpy(), result.values, strict=True):
        h = norm.value(row)
        R = rules.epsilon(linear.W, linear.b, h, np.eye(3)[0] * linear.value(h))
        assert relative(values, rules.epsilon(norm.W, norm.b, row, R, 1e-300)) <= 1e-9


def test_every_class_at_once():
    model, x = asked("vgg")
    for name in composite.NAMED:
        together = whence.explain(model, x, "lrp", target="all", composite=name)
        one = whence.explain(model, x, "lrp", target=2, composite=name)
        assert relative(together.values[:, 2], one.values) <= 1e-12, name


def test_row_08_layers_that_captum_refuses():
    layers = [
        nn.Unflatten(1, (2, 8)), nn.Conv1d(2, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Identity(), nn.GELU(),
        nn.LayerNorm(24), nn.Linear(24, 3),
    ]  # fmt: skip
    model = base.settled("row 8", lambda: nn.Sequential(*layers)).to(D)
    result = whence.explain(model, base.rows(3, D, (16,)), "lrp", target=0, account=True)
    kept = sum(np.array(each) for each in result.settings["kept"].values())
    assert (
        np.allclose(result.values.sum(1).numpy() + kept, result.output.numpy(), rtol=1e-12)
        and unexpected(result.notes) == []
    )
    words, ids = asked("embedding")
    assert whence.explain(words, ids, "lrp", target=0, at=whence.layer("embedding")).values.abs().sum() > 0


# ---- one operation at a time (Achtibat et al. 2024) ------------------------------------------------------------


def relevance(function, *inputs):
    """Return each input's relevance, as NumPy without the batch, where Σ g · function is explained."""
    given = tuple(torch.as_tensor(each)[None] for each in inputs)
    result = whence.explain(
        lambda *x: function(*x).flatten(1).sum(1), given[0] if len(given) == 1 else given, "lrp"
    )
    values = (result.values,) if len(given) == 1 else result.values
    return [each[0].numpy() for each in values]


def near(found, expected):
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_products_norms_and_softmax_are_their_twins(seed):
    draw = np.random.default_rng(seed).normal
    A, B, x, g = draw(size=(2, 3)), draw(size=(3, 4)), draw(size=6), draw(size=(2, 4))
    near(
        relevance(lambda a, b: a @ b * torch.tensor(g), A, B),
        rules.attention_matmul(A, B, g * (A @ B), 1e-14),
    )
    g = draw(size=6)
    near(
        relevance(lambda h: h.softmax(1) * torch.tensor(g), x),
        [rules.attention_softmax(x, g * rules.softmax(x))],
    )
    weight, bias = draw(size=6), draw(size=6)
    y = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias
    expected = rules.attention_layer_norm(x, g * y, weight, bias, 1e-5, 1e-14)
    parts = [torch.tensor(each) for each in (weight, bias, g)]
    near(relevance(lambda h: nn.functional.layer_norm(h, (6,), *parts[:2]) * parts[2], x), [expected])


def test_a_product_gives_each_operand_half_and_a_divisor_nothing():
    a, b = np.array([2.0, -3.0]), np.array([0.5, 4.0])
    near(relevance(lambda p, q: p * q, a, b), [a * b / 2, a * b / 2])
    near(relevance(lambda p, q: p / q, a, b), [a / b, 0 * b])
    near(relevance(lambda p, q: p.tanh() + 2 * q - 1, a, b), [np.tanh(a), 2 * b])


# ---- conservation ----------------------------------------------------------------------------------------------


def without_biases(model):
    """Set every bias, shift and running mean to zero: nothing but the input makes the output."""
    with torch.no_grad():
        for name, each in (*model.named_parameters(), *model.named_buffers()):
            if "bias" in name or "running_mean" in name:
                each.zero_()
    return model


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("rule", ["epsilon", "gamma"])
def test_without_biases_relevance_is_conserved(name, rule):
    model, x = asked(name)
    spec = composite.epsilon(1e-13) if rule == "epsilon" else composite.gamma(0.25, 1e-13)
    result = whence.explain(without_biases(model), x, "lrp", target=0, composite=spec)
    size = torch.maximum(result.output.abs(), 1e-3 * result.values.flatten(1).abs().sum(1))
    assert (result.residual.abs() <= 1e-8 * size).all()
    assert result.notes == []


@pytest.mark.parametrize("name", ATTENTION)
def test_where_relevance_cannot_be_conserved_the_result_says_so(name):
    model, x = asked(name)
    result = whence.explain(model, x, "lrp", target=0, composite="attention", account=True)
    assert any("cannot conserve" in note and "softmax" in note for note in result.notes)
    assert any(abs(each) > 0 for each in result.settings["kept"]["softmax"])


def test_what_a_layer_keeps_is_what_its_bias_and_epsilon_absorb():
    model = base.settled("absorbed", lambda: nn.Sequential(nn.Linear(6, 1))).to(D)
    x = base.rows(3, D, (6,))
    W, b = (each.detach().numpy() for each in model[0].parameters())
    result = whence.explain(model, x, "lrp", target=0, composite=composite.epsilon(0.3), account=True)
    kept = result.settings["kept"]
    for row, y in enumerate(result.output.numpy()):
        z = y + 0.3 * (1 if y >= 0 else -1)
        assert np.isclose(kept["biases and constants"][row], y * b[0] / z, rtol=1e-12)
        assert np.isclose(kept["epsilon"][row], y - y * y / z, rtol=1e-12)
        total = kept["biases and constants"][row] + kept["epsilon"][row]
        assert np.isclose(total, rules.absorbed(W, b, x[row].numpy(), np.array([y]), 0.3), rtol=1e-12)


@pytest.mark.parametrize("rule", composite.NAMED)
@pytest.mark.parametrize(
    "name", [*ARCHITECTURES, "causal", "gru", "spread", "logsumexp_pool", "quotient_of_two"]
)
def test_what_is_kept_is_accounted_for(name, rule):
    model, x = asked(name, batch=2)
    result = whence.explain(model, x, "lrp", target=0, composite=rule, account=True)
    kept = {label: np.array(each) for label, each in result.settings["kept"].items()}
    reached = result.values.flatten(1)
    total = sum(kept.values()) + reached.sum(1).numpy()
    size = np.abs(result.output.numpy()) + reached.abs().sum(1).numpy()
    assert (np.abs(total - result.output.numpy()) <= 1e-10 * size).all()
    known = {
        "biases and constants",
        "epsilon",
        "activations",
        "softmax",
        "quotients",
        "products",
        "statistics",
        "elsewhere",
        "biases, and units of one sign",
    }
    assert set(kept) <= known and all(each.shape == (2,) for each in kept.values())
    assert np.abs(kept.get("elsewhere", 0.0)).max() == 0
    plain = whence.explain(model, x, "lrp", target=0, composite=rule)
    assert relative(result.values, plain.values) <= 1e-10, "counting changes nothing"


# ---- composites ------------------------------------------------------------------------------------------------


def chosen(model, x, choices, pool=1e-300, **places):
    """Assert that a composite's answer is the twin's with these rules for the weighted layers, in order."""
    chain = chains.Chain.of(model, tuple(x.shape[1:])).folded()
    result = whence.explain(model, x, "lrp", target=0, composite=Composite(**places))
    for row, y in enumerate(model(x).detach().numpy()):
        # From the output to the input: the twin asks for the rule of the last layer first.
        order = iter(reversed(choices))
        pick = linearly(lambda kind, first, order=order: next(order), pool)
        expected = chain.relevance(x[row].numpy(), np.eye(y.size)[0] * y, pick)
        assert relative(result.values[row].flatten(), expected) <= 1e-9


def test_rules_are_chosen_by_operation_name_and_position():
    """In nn.Sequential: convolutions 0 and 4, linear layers 8 and 10."""
    model, x = base.settled("network", network).to(D), base.rows(2, D, (2, 6, 6))
    g, e, f, w, p = rules.gamma, rules.epsilon, rules.flat, rules.w_square, rules.z_plus
    c = composite
    chosen(model, x, [g, g, e, e], convolution=c.gamma())
    chosen(model, x, [e, e, p, p], dense=c.z_plus())
    chosen(model, x, [f, g, e, e], convolution=c.gamma(), first=c.flat())
    chosen(model, x, [e, p, e, p], layers={"4": c.z_plus(), "10": c.z_plus()})
    chosen(model, x, [e, e, g, w], positions={2: c.gamma(), -1: c.w_squared()})
    chosen(model, x, [e, e, w, g], 1e-6, positions={3: c.gamma(), 2: c.gamma()}, layers={"8": c.w_squared()})
    chosen(model, x, [p, e, e, p], layers={"1*": c.z_plus()}, first=c.flat(), positions={0: c.z_plus()})


def test_a_module_inside_others_is_found_by_its_whole_name_and_by_wildcards():
    model, x = asked("vgg")
    answers = [
        whence.explain(model, x, "lrp", target=0, composite=Composite(layers=layers)).values
        for layers in (
            {"features.*": composite.gamma(0.5)},
            {"features.0": composite.gamma(0.5), "features.4": composite.gamma(0.5)},
        )
    ]
    convolutions = Composite(convolution=composite.gamma(0.5))
    expected = whence.explain(model, x, "lrp", target=0, composite=convolutions).values
    assert all(relative(each, expected) <= 1e-12 for each in answers[:1])
    assert relative(answers[1], answers[0]) > 1e-4, "the third convolution is features.7"


def test_box_bounds_are_black_and_white_of_pictures():
    mean, std = (0.3, 0.5), (0.2, 0.4)
    model = base.settled("network", network).to(D)
    pixels = torch.rand(2, 2, 6, 6, dtype=D, generator=torch.Generator().manual_seed(0))
    m, s = (torch.tensor(each, dtype=D)[:, None, None] for each in (mean, std))

    def prepared(x):
        return (x - m) / s

    result = whence.explain(
        model, pixels, "lrp", target=0, composite="epsilon_gamma_box", preprocess=prepared
    )
    box = composite.box(((0 - m) / s).expand(2, 6, 6), ((1 - m) / s).expand(2, 6, 6))
    spec = Composite(composite.epsilon(), composite.gamma(), box)
    expected = whence.explain(model, prepared(pixels), "lrp", target=0, composite=spec)
    assert relative(result.values, expected.values) <= 1e-12
    assert abs(result.values - expected.values).max() <= 1e-12
    own = whence.explain(model, pixels, "lrp", target=0, composite="epsilon_gamma_box")
    assert relative(own.values, expected.values) > 1e-3


def test_box_without_bounds_takes_each_examples_own_range():
    model, x = base.settled("network", network).to(D), base.rows(2, D, (2, 6, 6))
    together = whence.explain(model, x, "lrp", target=0, composite="epsilon_gamma_box").values
    for row in range(2):
        box = composite.box(float(x[row].min()), float(x[row].max()))
        spec = Composite(composite.epsilon(), composite.gamma(), box)
        alone = whence.explain(model, x[row : row + 1], "lrp", target=0, composite=spec).values
        assert relative(together[row : row + 1], alone) <= 1e-12


def test_row_07_rules_are_arguments_and_are_not_forgotten():
    model, x = asked("vgg")
    method = whence.LRP(composite=Composite(layers={"features.*": composite.gamma()}))
    one, two = (method(model, x, target=0).values for _ in range(2))
    assert torch.equal(one, two)
    assert relative(one, whence.explain(model, x, "lrp", target=0).values) > 1e-3


def test_what_cannot_be_meant_is_refused():
    model, x = asked("vgg")
    for alpha, beta in ((2, 2), (0.5, -0.5)):
        with pytest.raises(BadInput, match="alpha − beta is 1"):
            composite.alpha_beta(alpha, beta)
    for make in (composite.epsilon, composite.gamma, composite.z_plus, composite.flat):
        for value in (-1.0, float("nan")):
            with pytest.raises(BadInput, match="at least 0"):
                make(value)
    for spec, words in [
        ("epsilon_plu", "did you mean 'epsilon_plus'"),
        (3, "give a name"),
        (Composite(layers={"feature.*": composite.flat()}), r"no layer 'feature\.\*'.*features"),
        (Composite(positions={5: composite.flat()}), "no layer at position 5"),
        (Composite(positions={-7: composite.flat()}), "no layer at position -7"),
    ]:
        with pytest.raises(BadInput, match=words):
            whence.explain(model, x, "lrp", target=0, composite=spec)
    with pytest.raises(BadInput, match="one target"):
        whence.explain(model, x, "lrp", target="all", account=True)
