# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""DeepLIFT and DeepSHAP: shares sum to f(x) − f(x') on whatever model, and each operation's rule is its twin's."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import nn

import oracles_rules as rules
import whence
from architectures import ACTIVATIONS, ARCHITECTURES, AWKWARD, base
from architectures.awkward import Between
from models import pictures, relative
from oracles_chain import Chain
from whence import Refused, data, zoo

pytestmark = pytest.mark.usefixtures("one_thread")
D = torch.float64
MOBILENET = Path(__file__).parents[2] / "shared" / "models" / "mobilenet_v2.safetensors"
PHOTOGRAPH = MOBILENET.parents[1] / "images" / "cat.jpg"
# What DeepLIFT cannot do, and the words that say so.
REFUSED = {
    "custom_mixing": "no rule knows the operation CumulativeSoftmax",
    "complex_spectrum": "no rule knows the operation abs",
    "row_branch": "takes another way for each",
}
EVERY = ARCHITECTURES | {name: case for name, case in AWKWARD.items() if name not in REFUSED}
every = pytest.mark.parametrize("name", EVERY)


def gap(result):
    """Return the residual over |Δf|, at worst."""
    return float(abs(result.residual / (result.output - result.baseline_output)).max())


def asked(name, dtype=D, batch=3):
    """Return an architecture's model and inputs, a baseline of other rows, and where ids need it, the site."""
    case = EVERY[name]
    x = case.inputs(2 * batch, dtype)
    at = whence.layer("embedding") if name == "embedding" else None
    return case.make().to(dtype), x[:batch], x[batch:], at


# ---- completeness ----------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("baseline", ["zero", "random", "several"])
def test_shares_are_complete(name, baseline):
    model, x, other, at = asked(name)
    chosen = {"zero": 0 * x, "random": other, "several": [0 * x, other, other.flip(0)]}[baseline]
    result = whence.explain(model, x, "deeplift", target=0, at=at, baseline=chosen)
    assert gap(result) <= 1e-10
    assert result.notes == [] or name == "scripted"


@every
def test_shares_are_complete_in_float32(name):
    model, x, _, at = asked(name, torch.float32)
    result = whence.explain(model, x, "deeplift", target=0, at=at, baseline=0 * x)
    size = result.values.flatten(1).abs().sum(1)
    assert (result.residual.abs() <= 1e-6 * size).all()


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name):
    case = AWKWARD[name]
    with pytest.raises(Refused, match=REFUSED[name]):
        whence.explain(case.make().to(D), case.inputs(3, D), "deeplift", target=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_target_is_complete(name):
    model, x, other, _ = asked(name, batch=2)
    for target in ("all", whence.target.probability(1), whence.target.margin(0, 2)):
        result = whence.explain(model, x, "deeplift", target=target, baseline=other)
        assert gap(result) <= 1e-10, target
    every_class = whence.explain(model, x, "deeplift", target="all", baseline=other)
    one = whence.explain(model, x, "deeplift", target=1, baseline=other)
    assert relative(every_class.values[:, 1], one.values) <= 1e-12


@pytest.mark.parametrize("name", [each for each in EVERY if EVERY[each].layer and each != "embedding"])
def test_shares_of_a_layer_are_complete(name):
    model, x, other, _ = asked(name)
    result = whence.explain(
        model, x, "deeplift", target=0, at=whence.layer(EVERY[name].layer), baseline=other
    )
    assert gap(result) <= 1e-10


@cache
def digits():
    loaded = zoo.load("digits-cnn").model.to(D)
    return nn.Sequential(*loaded.features, nn.Flatten(), loaded.classifier).eval(), digit_rows(6)


def digit_rows(count):
    return torch.as_tensor(data.digits().test_images[:count, None] / 255).to(D)


@pytest.mark.parametrize("network", ["digits-cnn", "mnist-cnn", "mnist-mlp"])
def test_the_zoos_networks_are_complete(network):
    model = zoo.load(network).model.to(D)
    size = 8 if network == "digits-cnn" else 28
    x = F.interpolate(digit_rows(4), (size, size), mode="bilinear")
    for start in (0.0, x.flip(0).flip(2)):
        assert gap(whence.explain(model, x, "deeplift", baseline=start)) <= 1e-10
    single = whence.explain(model.float(), x.float(), "deeplift")
    assert (single.residual.abs() <= 1e-6 * single.values.flatten(1).abs().sum(1)).all()
    model.to(D)


@pytest.mark.slow
@pytest.mark.skipif(not MOBILENET.is_file(), reason=f"there is no {MOBILENET}")
def test_mobilenet_is_complete_on_a_photograph():
    loaded = zoo.load("mobilenet-v2", MOBILENET)
    picture = np.asarray(data.read_image(PHOTOGRAPH))[None]
    asking = {"target": 282, "preprocess": loaded.preprocess}
    assert gap(whence.explain(loaded.model.to(D), picture / 255.0, "deeplift", **asking)) <= 1e-10
    result = whence.explain(loaded.model.float(), picture, "deeplift", **asking)
    assert abs(float(result.residual[0])) <= 1e-6 * np.abs(np.asarray(result.values)).sum()


# ---- the twins of whole networks -------------------------------------------------------------------------------


def network():
    """Every kind of layer that has a twin, [2, 6, 6] -> [3]; the pools overlap."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 2),
        nn.SiLU(), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU6(),
        nn.Linear(6, 4), nn.LeakyReLU(), nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 3), nn.Sigmoid(),
    )  # fmt: skip


def two_networks():
    yield base.settled("twins", network).to(D), base.rows(6, D, (2, 6, 6))
    yield digits()[0], digit_rows(6)


def test_whole_networks_are_their_twins():
    for model, rows in two_networks():
        x, other = rows[:2], rows[3:5]
        twin = Chain.of(model, tuple(x.shape[1:]))
        count = model(x).shape[1]
        for start in (torch.zeros_like(x), other):
            result = whence.explain(model, x, "deeplift", target=1, baseline=start)
            for row in range(2):
                expected = twin.deeplift(x[row].numpy(), start[row].numpy().reshape(-1), np.eye(count)[1])
                assert relative(result.values[row].flatten(), expected) <= 1e-10


# ---- one operation at a time -----------------------------------------------------------------------------------

SEEDS = pytest.mark.parametrize("seed", range(3))


def multipliers(function, inputs, baselines):
    """Return m = share/Δx of each input [1, ...] for Σ g · function, as NumPy without the batch, and the residual."""
    single = len(inputs) == 1
    given, start = (each[0] if single else tuple(each) for each in (inputs, baselines))
    result = whence.explain(lambda *x: function(*x).flatten(1).sum(1), given, "deeplift", baseline=start)
    values = (result.values,) if single else result.values
    found = [(v / (x - x0))[0].numpy() for v, x, x0 in zip(values, inputs, baselines, strict=True)]
    return found, float(result.residual.abs().max())


def drawn(seed, *shapes, shift=0.0):
    """Return inputs and baselines of these shapes, and weights for the output."""
    generator = np.random.default_rng(seed)
    made = [[torch.from_numpy(generator.normal(shift, 1, (1, *shape))) for shape in shapes] for _ in range(2)]
    return made[0], made[1]


def assert_rule(function, x, x0, expected):
    found, residual = multipliers(function, x, x0)
    assert residual <= 1e-12
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-11)


@SEEDS
def test_a_product(seed):
    x, x0 = drawn(seed, (5,), (5,))
    g = np.linspace(-1, 2, 5)
    (a, b), (a0, b0) = ([each[0].numpy() for each in side] for side in (x, x0))
    assert_rule(lambda p, q: p * q * torch.tensor(g), x, x0, rules.product(g, a, a0, b, b0))


@SEEDS
def test_a_product_of_matrices(seed):
    x, x0 = drawn(seed, (2, 3), (3, 4))
    g = np.linspace(-1, 2, 8).reshape(2, 4)
    (a, b), (a0, b0) = ([each[0].numpy() for each in side] for side in (x, x0))
    expected = rules.matmul(g, a, a0, b, b0)
    assert_rule(lambda p, q: (p @ q) * torch.tensor(g), x, x0, expected)
    assert_rule(lambda p, q: torch.einsum("bij,bjk->bik", p, q) * torch.tensor(g), x, x0, expected)


@pytest.mark.parametrize("shift", [0.0, 5.0], ids=["changes sign", "keeps its sign"])
@SEEDS
def test_a_quotient(seed, shift):
    x, x0 = drawn(seed, (5,), (5,), shift=shift)
    if not shift:
        x[1], x0[1] = x[1].abs() + 0.5, -x0[1].abs() - 0.5
    g = np.linspace(-1, 2, 5)
    (a, b), (a0, b0) = ([each[0].numpy() for each in side] for side in (x, x0))
    assert_rule(lambda p, q: p / q * torch.tensor(g), x, x0, rules.quotient(g, a, a0, b, b0))


@pytest.mark.parametrize("baseline", ["zero", "other"])
@SEEDS
def test_a_layer_norm(seed, baseline):
    x, x0 = drawn(seed, (6,))
    x0 = x0 if baseline == "other" else [0 * x0[0]]
    g, weight = np.linspace(-1, 2, 6), np.linspace(0.5, 1.5, 6)
    expected = rules.layer_norm(g, x[0][0].numpy(), x0[0][0].numpy(), weight, 1e-5)
    assert np.abs(expected).max() < 20, "the obvious form explodes at a zero baseline"
    assert_rule(lambda h: F.layer_norm(h, (6,), torch.tensor(weight)) * torch.tensor(g), x, x0, [expected])


SOFT = {
    "softmax": (lambda h: h.softmax(1), rules.softmax_rule),
    "log_softmax": (lambda h: h.log_softmax(1), rules.log_softmax_rule),
    "logsumexp": (lambda h: h.logsumexp(1, keepdim=True), lambda g, x, x0: rules.logsumexp_rule(g[0], x, x0)),
}


@pytest.mark.parametrize("name", SOFT)
@SEEDS
def test_softmax_and_its_kin(name, seed):
    function, rule = SOFT[name]
    x, x0 = drawn(seed, (5,))
    g = np.linspace(-1, 2, 5) if name != "logsumexp" else np.array([1.5])
    expected = rule(g, x[0][0].numpy(), x0[0][0].numpy())
    assert_rule(lambda h: function(h) * torch.tensor(g), x, x0, [expected])


def test_softmax_of_almost_the_same_scores_is_exact():
    x = torch.tensor([[0.1, 0.2, 0.7]], dtype=D)
    for shift in (1e-3, 1e-5, 1e-9, 0.0):
        start = x + torch.tensor([[shift, 0.0, -shift]], dtype=D)
        result = whence.explain(lambda h: h.softmax(1), x, "deeplift", target=0, baseline=start)
        assert abs(float(result.residual[0])) <= 1e-14


def windows(size, kernel):
    return np.array([[i <= j < i + kernel for j in range(size)] for i in range(size - kernel + 1)])


@SEEDS
def test_row_04_a_max_pool_whose_windows_overlap(seed):
    x, x0 = drawn(seed, (1, 7))
    g = np.linspace(-1, 2, 5)
    expected = rules.max_pool(g, x[0][0, 0].numpy(), x0[0][0, 0].numpy(), windows(7, 3))
    assert_rule(lambda h: F.max_pool1d(h, 3, 1) * torch.tensor(g), x, x0, [expected[None]])


@SEEDS
def test_a_variance(seed):
    x, x0 = drawn(seed, (6,))
    expected = rules.variance(2.0, x[0][0].numpy(), x0[0][0].numpy())
    assert_rule(lambda h: 2 * h.var(1, keepdim=True), x, x0, [expected])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_row_06_an_activation_is_its_difference_quotient(name):
    function = ACTIVATIONS[name]
    x, x0 = base.rows(2, D, (6,))[:1], base.rows(2, D, (6,))[1:]
    found, residual = multipliers(function, [x], [x0])
    expected = ((function(x) - function(x0)) / (x - x0))[0].numpy()
    np.testing.assert_allclose(found[0], expected, rtol=1e-12, atol=1e-14)
    assert residual <= 1e-13
    model = base.settled("activations", lambda: Between(function)).to(D)
    rows = base.rows(6, D, (6,))
    assert gap(whence.explain(model, rows[:3], "deeplift", target=0, baseline=rows[3:])) <= 1e-10


OPERATIONS = {
    "std": lambda h: h.std(1),
    "both statistics": lambda h: torch.cat(torch.var_mean(h, 1), 1),
    "norm": lambda h: h.norm(dim=(2, 3)),
    "rows of length 1": lambda h: F.normalize(h, dim=1),
    "amax": lambda h: h.amax((1, 3)),
    "min": lambda h: h.min(2).values,
    "smallest and largest": lambda h: torch.cat(list(h.aminmax(dim=1)), 1),
    "maximum with broadcasting": lambda h: torch.maximum(
        h.mean(3, keepdim=True), torch.linspace(-1, 1, 6).to(h)
    ),
    "limits that vary": lambda h: torch.clamp(h[:, 0], max=h[:, 1]),
    "rounded quotient": lambda h: torch.div(h, 0.1, rounding_mode="floor"),
    "straight-through": lambda h: h + ((h * 8).round() / 8 - h).detach(),
    "hard choice": lambda h: (h.round() - h.sigmoid()).detach() + h.sigmoid(),
    "bilinear": lambda h: F.bilinear(h[:, 0], h[:, 1], torch.ones(2, 6, 6).to(h)),
    "adaptive pool": lambda h: F.adaptive_max_pool2d(h, (2, 4)),
    "dilated pool": lambda h: F.max_pool2d(h, 2, 1, 0, 2),
    "group norm": lambda h: F.group_norm(h, 3),
    "instance norm": F.instance_norm,
    "response norm": lambda h: F.local_response_norm(h, 2),
    "unpool": lambda h: F.max_unpool2d(*F.max_pool2d(h, 2, return_indices=True), 2),
    "gram matrix": lambda h: h.flatten(2) @ h.flatten(2).mT,
    "gated": lambda h: F.glu(h, 2),
    "product along an axis": lambda h: h.prod(1),
    "median": lambda h: h.median(2).values,
    "power of two": lambda h: (h[:, 0].abs() + 1) ** h[:, 1],
    "fused attention": lambda h: F.scaled_dot_product_attention(h, h, h),
    "masked write": lambda h: h.exp().masked_fill(h > 0.5, 0.0),
    "scatter the largest": lambda h: torch.zeros_like(h).scatter_reduce(1, h.long() * 0, h, "amax"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_the_operation_shares_are_complete(name):
    rows = base.rows(6, D, (3, 6, 6))
    weights = base.rows(1, D, (2000,))[0]

    def model(x):
        y = OPERATIONS[name](x).flatten(1)
        return (y * weights[: y.shape[1]]).sum(1)

    result = whence.explain(model, rows[:3], "deeplift", baseline=rows[3:])
    assert gap(result) <= 1e-10 and result.notes == []


# ---- baselines -------------------------------------------------------------------------------------------------


def test_one_row_for_all_is_the_full_run():
    """A baseline that all examples share runs once; one that differs by nothing visible runs for each."""
    for name in ("vgg", "lstm", "vit", "unet"):
        model, x, _, _ = asked(name)
        shared = torch.full_like(x, 0.25)
        apart = shared.clone()
        apart.view(-1)[0] += 1e-300
        apart.view(-1)[0] = np.nextafter(0.25, 1)
        one, each = (whence.explain(model, x, "deeplift", target=0, baseline=b) for b in (shared, apart))
        assert relative(one.values, each.values) <= 1e-12, name
        assert relative(one.baseline_output, each.baseline_output) <= 1e-12


def test_deepshap_is_the_mean_of_deeplifts():
    model, x, rows, _ = asked("densenet", batch=4)
    together = whence.explain(model, x, "deepshap", target=0, baseline=rows)
    single = [whence.explain(model, x, "deeplift", target=0, baseline=row) for row in rows]
    assert relative(together.values, torch.stack([each.values for each in single]).mean(0)) <= 1e-12
    expected = torch.stack([each.baseline_output for each in single]).mean(0)
    assert relative(together.baseline_output, expected) <= 1e-12
    assert gap(together) <= 1e-10 and together.standard_error is None, "all rows are no sample"


def test_deepshap_draws_rows_by_the_seed():
    model, x, rows, _ = asked("mlp", batch=6)
    one, two, other = (
        whence.explain(model, x, "deepshap", target=0, baseline=rows, samples=3, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(one.values, two.values) and relative(one.values, other.values) > 1e-3
    assert gap(one) <= 1e-10 and one.standard_error.shape == x.shape


def test_ties_are_complete():
    """Constant pictures, and a baseline equal to the input in places: all windows tie, nothing moves."""
    model = nn.Sequential(nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(16, 2)).to(D)
    x = torch.round(pictures(3, dtype=D))
    x[0] = 1.0
    half = x.clone()
    half[:, :, :3] = 0.0
    for start in (0.0, half, torch.round(x / 2)):
        result = whence.explain(model, x, "deeplift", target=0, baseline=start)
        assert float(result.residual.abs().max()) <= 1e-13
    same = whence.explain(model, x, "deeplift", target=0, baseline=x)
    assert float(same.values.abs().max()) == 0 and float(same.residual.abs().max()) == 0
