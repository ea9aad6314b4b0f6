# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""Sites: layers and their calls, channels and neurons, the input's path (conductance), and the model's parameters."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

import whence
from models import assert_same, busy, cases, cnn, mlp, pictures, relative, seeded, state_of
from oracles import ReluNet
from whence.backends.torch_jvp import _forward, _twice_back
from whence.quadrature import RULES

ROWS = pictures(5, seed=9)
INTEGRATED = whence.IntegratedGradients
DOUBLE = torch.float64

# The gradient wing: what all sites must work with.
ANY_SITE = [
    "saliency", "sensitivity", "input_x_gradient", "integrated_gradients", "guided_integrated_gradients", "smoothgrad",
    "smoothgrad_squared", "vargrad", "ig-gauss", "ig-monte-carlo", "ig-taylor", "ig-stochastic", "ig-guided",
    "ig-normalize", "sensitivity-differences", "smoothgrad-ig", "vargrad-differences",
]  # fmt: skip
# What begins at baselines of the inputs, which say nothing of weights.
FROM_INPUTS = [
    "blur_integrated_gradients", "expected_gradients", "ig-noise", "ig-several", "ig-dataset", "ig-boundary",
]  # fmt: skip
ALONG = {
    "conductance": INTEGRATED(path="input", rtol=0.05),
    "conductance-gauss": INTEGRATED(path="input", steps=9),
    "conductance-random": INTEGRATED(path="input", quadrature="monte_carlo", steps=32),
    "conductance-blurred": INTEGRATED(path=whence.path.along_input("blur"), steps=9),
    "conductance-several": INTEGRATED(path="input", baseline=[0.0, whence.baseline.mean()], steps=9),
    "internal-influence": INTEGRATED(path="input", multiply=False, rtol=0.05),
    "mean-gradient": INTEGRATED(multiply=False, steps=9),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def converted(name, dtype=torch.float32):
    return (cases(ROWS.to(dtype)) | ALONG)[name]


def batch(dtype=DOUBLE, rows=4, features=6, seed=3):
    return seeded(seed, lambda: torch.randn(rows, features, dtype=DOUBLE)).to(dtype)


class Reused(nn.Module):
    """One layer that is called three times, and a way around it."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        for _ in range(3):
            h = functional.relu(self.middle(h)) + h
        return self.last(h)


def reused(dtype=DOUBLE):
    return seeded(5, Reused).to(dtype)


def by_autograd(model, x, target, weight):
    """One gradient with respect to a parameter for each example, from the model itself."""
    rows = []
    for row in range(len(x)):
        y = model(x[row : row + 1])[0, target[row]]
        rows.append(torch.autograd.grad(y, weight)[0])
    return torch.stack(rows)


# ---- parameters: closed forms --------------------------------------------------------------------------------


def test_of_a_linear_model_every_weight_has_the_share_of_its_product():
    model, x = nn.Linear(6, 3).double(), batch()
    for method in (INTEGRATED(), INTEGRATED(steps=1), whence.InputXGradient()):
        result = whence.explain(model, x, method, target=2, at=whence.parameters("weight"))
        expected = torch.zeros(4, 3, 6, dtype=DOUBLE)
        expected[:, 2] = model.weight[2].detach() * x
        assert relative(result.values, expected) <= 1e-14
        bias = whence.explain(model, x, method, target=2, at=whence.parameters("bias"))
        assert relative(bias.values[:, 2], model.bias[2].detach().expand(4)) <= 1e-14
        assert (bias.values[:, :2] == 0).all()


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias"])
def test_gradients_are_those_of_autograd_for_each_example(name):
    model, x = cnn(dtype=DOUBLE), pictures(dtype=DOUBLE)
    weight, target = dict(model.named_parameters())[name], [0, 2, 1]
    expected = by_autograd(model, x, target, weight)
    signed = whence.explain(model, x, "saliency", absolute=False, target=target, at=whence.parameters(name))
    assert relative(signed.values, expected) <= 1e-13
    product = whence.explain(model, x, "input_x_gradient", target=target, at=whence.parameters(name))
    assert relative(product.values, expected * weight.detach()) <= 1e-13
    squared = whence.explain(model, x, "sensitivity", target=target, at=whence.parameters(name))
    assert relative(squared.values, expected**2) <= 1e-13


def test_integrals_over_weights_are_those_of_many_nodes():
    model, x = mlp(dtype=DOUBLE), batch()
    weight = model[0].weight
    start = seeded(1, lambda: torch.randn(8, 6, dtype=DOUBLE))
    total = torch.zeros(4, 8, 6, dtype=DOUBLE)
    copy, count = mlp(dtype=DOUBLE), 400
    for alpha in (np.arange(count) + 0.5) / count:
        copy[0].weight.data = start + alpha * (weight.detach() - start)
        total += by_autograd(copy, x, [1] * 4, copy[0].weight) / count
    expected = total * (weight.detach() - start)
    result = whence.explain(model, x, target=1, at=whence.parameters("0.weight"), baseline=start, rtol=1e-4)
    assert relative(result.values, expected) <= 2e-4
    assert result.error.max() <= 1e-4 and result.residual.abs().max() <= 1e-3
    copy[0].weight.data = start
    assert relative(result.baseline_output, copy(x)[:, 1]) <= 1e-14


def test_a_baseline_of_weights_is_a_number_or_an_array():
    model, x, at = mlp(dtype=DOUBLE), batch(), whence.parameters("0.weight")

    def shares(baseline):
        return whence.explain(model, x, target=1, at=at, baseline=baseline, steps=8).values

    assert relative(shares(None), shares(0.0)) <= 1e-14
    assert relative(shares(0.5), shares(np.full((8, 6), 0.5))) <= 1e-14
    assert relative(shares([0.0, 0.5]), (shares(0.0) + shares(0.5)) / 2) <= 1e-14
    with pytest.raises(whence.BadInput, match=r"shape \(4, 6\).*\(8, 6\)"):
        shares(x)
    with pytest.raises(whence.BadInput, match="NaN"):
        shares(float("nan"))
    for refused in ("mean", whence.baseline.gaussian(), whence.baseline.dataset(x), "boundary"):
        with pytest.raises(whence.Refused, match="one of inputs; weights are counted from a number"):
            shares(refused)
    with pytest.raises(whence.Refused, match="names features of the input"):
        whence.explain(model, x, at=at, where=np.ones(6))
    with pytest.raises(whence.Refused, match="exact quadrature"):
        whence.explain(model, x, at=at, quadrature="exact")


def test_pictures_in_pixels_have_weights_that_are_counted_from_zero():
    loaded = whence.zoo.load("digits-cnn")
    images = whence.data.digits().test_images[:2]
    result = whence.explain(
        loaded.model, images, preprocess=loaded.preprocess, at=whence.parameters("classifier.weight")
    )
    assert result.values.shape == (2, 10, 512) and result.picture is None
    bias = loaded.model.classifier.bias.detach().numpy()
    assert relative(result.baseline_output, bias[result.target]) <= 1e-6
    assert np.abs(result.residual).max() <= 1e-5


class Tied(nn.Module):
    """F(x) = w (w x), by one tensor under two names and a third hold on it in a list."""

    def __init__(self, layers):
        super().__init__()
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.b.weight = self.a.weight
        self.kept = [self.a.weight]
        self.layers = layers

    def forward(self, x):
        y = self.b(self.a(x))
        return y * self.kept[0][0] if self.layers == 3 else y


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("name", ["a.weight", "b.weight"])
def test_a_tied_parameter_is_replaced_everywhere(layers, name):
    model, x = Tied(layers).double(), torch.tensor([[2.0], [-3.0]], dtype=DOUBLE)
    w = model.a.weight.item()
    product = whence.explain(model, x, "input_x_gradient", at=whence.parameters(name), target=0)
    assert relative(product.values.flatten(), layers * w**layers * x.flatten()) <= 1e-14
    result = whence.explain(model, x, at=whence.parameters(name), target=0, rtol=1e-6)
    assert relative(result.values.flatten(), w**layers * x.flatten()) <= 1e-8


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("name", ["cell.weight_ih_l0", "cell.weight_hh_l0", "cell.bias_hh_l0"])
def test_recurrent_weights_are_reached_in_their_flat_list(cell, name):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = cell(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    model = seeded(2, Recurrent).double()
    x = seeded(3, lambda: torch.randn(3, 5, 3, dtype=DOUBLE))
    weight = dict(model.named_parameters())[name]
    found = whence.explain(model, x, "saliency", absolute=False, target=1, at=whence.parameters(name))
    assert relative(found.values, by_autograd(model, x, [1] * 3, weight)) <= 1e-13
    again = whence.explain(model, x, target=1, at=whence.parameters(name), rtol=1e-3)
    assert again.residual.abs().max() <= 1e-2 * again.output.abs().max()


def test_attention_normalisation_and_embeddings_hand_out_shares_of_their_weights():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 8, max_norm=2.0)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, tokens):
            return self.head(self.block(self.embed(tokens)).mean(1))

    model = seeded(4, Tokens).double()
    tokens = torch.tensor([[1, 2, 3, 1], [4, 4, 0, 9]])
    before = state_of(model)
    for name in ("embed.weight", "block.self_attn.in_proj_weight", "block.norm1.weight", "head.bias"):
        at = whence.parameters(name)
        result = whence.explain(model, tokens, "saliency", at=at, target=0)
        alone = whence.explain(model, tokens[1:], "saliency", at=at, target=0)
        assert relative(result.values[1:], alone.values) <= 1e-12
        assert float(result.values.abs().sum()) > 0
    embedding = whence.explain(model, tokens, "saliency", at=whence.parameters("embed.weight"), target=0)
    unused = [k for k in range(10) if k not in tokens[0]]
    assert (embedding.values[0, unused] == 0).all() and embedding.values[0, 1].abs().sum() > 0
    assert_same(before, state_of(model))


def test_every_class_at_once_is_each_class_alone():
    model, x, at = cnn(dtype=DOUBLE), pictures(dtype=DOUBLE), whence.parameters("0.weight")
    for method in (whence.InputXGradient(), INTEGRATED(steps=5), INTEGRATED(path="guided", steps=5)):
        every = whence.explain(model, x, method, target="all", at=at)
        assert every.values.shape == (3, 3, 4, 1, 3, 3)
        for k in range(3):
            assert (
                relative(every.values[:, k], whence.explain(model, x, method, target=k, at=at).values)
                <= 1e-12
            )


def test_names_that_are_no_parameters():
    model, x = busy(), pictures()
    with pytest.raises(whence.BadInput, match=r"no parameter 'conv\.wieght'; did you mean 'conv\.weight'"):
        whence.explain(model, x, at=whence.parameters("conv.wieght"))
    with pytest.raises(whence.BadInput, match=r"no parameter 'norm\.running_mean'"):
        whence.explain(model, x, at=whence.parameters("norm.running_mean"))
    with pytest.raises(whence.Refused, match="plain function, which has no named parameters"):
        whence.explain(lambda x: x.flatten(1), x, at=whence.parameters("weight"))
    with pytest.raises(whence.UnsupportedByBackend):
        whence.explain(lambda x: x.sum((1, 2, 3)), x.numpy(), "sensitivity", at=whence.parameters("weight"))
    with pytest.raises(whence.BadInput, match=r"whence\.parameters"):
        whence.explain(model, x, at="conv.weight")


def test_a_parameter_that_is_not_used_has_shares_of_zero_and_a_note():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            return self.used(x)

    result = whence.explain(Idle(), batch(torch.float32), at=whence.parameters("idle.weight"))
    assert (result.values == 0).all()
    assert any("does not depend on parameter 'idle.weight'" in note for note in result.notes)


def test_a_frozen_a_compiled_and_a_parametrized_parameter():
    model, x = mlp(dtype=DOUBLE), batch()
    expected = whence.explain(model, x, "saliency", at=whence.parameters("0.weight"), target=0).values
    model.requires_grad_(False)
    frozen = whence.explain(model, x, "saliency", at=whence.parameters("0.weight"), target=0)
    assert torch.equal(frozen.values, expected) and not model[0].weight.requires_grad
    for name in ("0.weight", "_orig_mod.0.weight"):
        compiled = torch.compile(model)
        found = whence.explain(compiled, x, "saliency", at=whence.parameters(name), target=0)
        assert torch.equal(found.values, expected)
    nn.utils.parametrizations.weight_norm(model[0])
    at = whence.parameters("0.parametrizations.weight.original0")
    normed = whence.explain(model, x, at=at, target=0, rtol=1e-3)
    assert normed.values.shape == (4, 8, 1) and normed.residual.abs().max() <= 1e-2


def test_noise_of_a_sampler_is_on_the_weights():
    model, x, at = nn.Linear(6, 1).double(), batch(), whence.parameters("weight")
    # ∂/∂w is x whatever the weights: noise changes nothing, unless it were on the inputs.
    smooth = whence.explain(model, x, "smoothgrad", samples=5, noise=0.5, at=at, target=0)
    assert relative(smooth.values[:, 0], x.abs()) <= 1e-14
    product = whence.SmoothGrad(method=whence.InputXGradient(), samples=400, noise=0.5)
    found = whence.explain(model, x, product, at=at, target=0)
    away = (found.values[:, 0] - model.weight.detach() * x).abs()
    assert away.max() > 0 and (away <= 5 * found.standard_error[:, 0]).all()


# ---- conductance and internal influence ----------------------------------------------------------------------


class Multiplied(nn.Module):
    """F(x) = z x with z = x², and x on a way around z."""

    def __init__(self):
        super().__init__()
        self.square = nn.Identity()

    def forward(self, x):
        return (self.square(x * x) * x).sum(1)


def test_along_the_inputs_path_the_whole_network_moves():
    """With z = x² and f = z x: ∂f/∂z = αx and dz/dα = 2αx², so that A = ⅔ x³; straight in z, with x at its end, x³."""
    x = torch.tensor([[2.0], [-1.5]], dtype=DOUBLE)
    at = whence.layer("square")
    result = whence.explain(Multiplied(), x, at=at, path="input", steps=8)
    assert relative(result.values, 2 / 3 * x**3) <= 1e-14
    # What flows around: ∂f/∂x · x = α²x³, in all ⅓ x³.
    assert relative(-result.residual, x.flatten() ** 3 / 3) <= 1e-14
    assert relative(whence.explain(Multiplied(), x, at=at, steps=8).values, x**3) <= 1e-14
    influence = whence.explain(Multiplied(), x, at=at, path="input", multiply=False, steps=8)
    assert relative(influence.values, x / 2) <= 1e-14
    assert influence.residual is None and (influence.baseline_output == 0).all()
    straight = whence.explain(Multiplied(), x, multiply=False, steps=8)
    assert relative(straight.values, x**2) <= 1e-14


def test_a_layer_before_a_linear_head_has_its_own_rise():
    model, x = mlp(dtype=DOUBLE), batch()
    result = whence.explain(model, x, target=1, at=whence.layer("1"), path="input", rtol=1e-6)
    with torch.no_grad():
        rise = model[:2](x) - model[:2](x * 0)
        expected = rise * model[2].weight[1]
    assert relative(result.values, expected) <= 1e-6
    assert result.residual.abs().max() <= 1e-6 and (result.error <= 1e-6).all()


def slow_conductance(net: ReluNet, x, start, column, layer, nodes=40_000):
    """Conductance of the units after the first ReLU of two, by a midpoint sum over one example's path."""
    way, alphas = x - start, (np.arange(nodes) + 0.5) / nodes
    (first, second, last), (bias, other, _) = net.weights, net.biases
    pre = (start + alphas[:, None] * way) @ first.T + bias
    hidden = np.maximum(pre, 0)
    gate = hidden @ second.T + other > 0
    gradient = (last[column] * gate) @ second
    speed = (pre > 0) * (first @ way)
    return (gradient * speed).mean(0), gradient.mean(0)


def as_torch(net: ReluNet) -> nn.Module:
    layers: list[nn.Module] = []
    for weight, bias in zip(net.weights, net.biases, strict=True):
        layers += [nn.Linear(*weight.shape[::-1]).double(), nn.ReLU()]
        layers[-2].weight.data, layers[-2].bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("seed", range(4))
def test_conductance_is_that_of_a_slow_twin_and_its_error_is_honest(seed):
    random = np.random.default_rng(seed)
    net = ReluNet.random(random, 5, 8, 7, 2)
    x, start = random.standard_normal((3, 5)), random.standard_normal((3, 5))
    at = whence.layer("1")
    result = whence.explain(as_torch(net), x, target=1, at=at, path="input", baseline=start, rtol=0.01)
    influence = whence.explain(
        as_torch(net), x, target=1, at=at, path="input", baseline=start, rtol=0.01, multiply=False
    )
    for row in range(3):
        expected, mean = slow_conductance(net, x[row], start[row], 1, 1)
        assert relative(result.values[row], expected) <= 2 * result.error[row] + 1e-3
        assert relative(influence.values[row], mean) <= 2 * influence.error[row] + 1e-3
        assert result.error[row] <= 0.01 and influence.error[row] <= 0.01


@pytest.mark.parametrize("quadrature", [name for name in RULES])
def test_every_rule_sums_the_same_nodes(quadrature):
    model, x = reused(), batch()
    at = whence.layer("middle", call=1)
    result = whence.explain(model, x, target=0, at=at, path="input", quadrature=quadrature, steps=6)
    expected = torch.zeros(4, 8, dtype=DOUBLE)
    for alpha, weight in zip(*RULES[quadrature](6), strict=True):
        expected += weight * node(model, alpha * x, x, 1, 0)
    assert relative(result.values, expected) <= 1e-12


def node(model, x, way, call, target):
    """∂f/∂z ⊙ dz/dα at one node, by hooks and autograd's own jvp."""
    seen = []

    def through(x):
        count = []
        handle = model.middle.register_forward_hook(lambda m, i, o: count.append(o.clone()) or count[-1])
        y = model(x)
        handle.remove()
        seen[:] = count
        return count[call], y

    x = x.clone().requires_grad_()
    z, y = through(x)
    gradient = torch.autograd.grad(y[:, target].sum(), z)[0]
    speed = torch.autograd.functional.jvp(lambda x: through(x)[0], x.detach(), way)[1]
    return gradient * speed


def test_what_flows_around_a_layer_is_the_residual():
    """The three calls of a reused layer with skips: a cut only together with what goes around."""
    model, x = reused(), batch()
    whole = whence.explain(model, x, target=0, at=whence.layer("last", input=True), path="input", rtol=1e-4)
    assert whole.residual.abs().max() <= 1e-3
    part = whence.explain(model, x, target=0, at=whence.layer("middle", call=2), path="input", rtol=1e-3)
    assert part.residual.abs().max() > 0.05 and part.notes == [] and part.converged.all()


@pytest.mark.parametrize("method", ["conductance", "conductance-gauss", "internal-influence"])
def test_some_channels_are_a_part_of_all(method):
    model, x = cnn(dtype=DOUBLE), pictures(dtype=DOUBLE)
    chosen = ALONG[method].__class__(path="input", multiply="influence" not in method, steps=9)
    for target in (1, "all"):
        every = whence.explain(model, x, chosen, target=target, at=whence.layer("2"))
        some = whence.explain(model, x, chosen, target=target, at=whence.layer("2", channels=[3, -3]))
        assert relative(some.values, every.values[..., [3, 1], :, :]) <= 1e-13


def test_the_mean_over_baselines_and_a_mask_go_along():
    model, x, at = cnn(dtype=DOUBLE), pictures(dtype=DOUBLE), whence.layer("2")

    def shares(**fields):
        return whence.explain(model, x, target=1, at=at, path="input", steps=9, **fields)

    both = shares(baseline=[0.0, 1.0])
    parts = [shares(baseline=each).values for each in (0.0, 1.0)]
    assert relative(both.values, sum(parts) / 2) <= 1e-13
    mask = np.zeros((6, 6))
    mask[:3] = 1
    held = shares(where=mask)
    start = x * torch.from_numpy(1 - mask)
    assert relative(held.values, shares(baseline=start).values) <= 1e-13
    assert torch.equal(shares(where=mask * 0).values, shares().values * 0)


def test_where_the_inputs_path_leads_nowhere_it_is_refused():
    model, x = cnn(), pictures()
    for at in (None, whence.parameters("0.weight")):
        with pytest.raises(whence.Refused, match='path "input" carries a layer'):
            whence.explain(model, x, at=at, path="input")
    with pytest.raises(whence.BadInput, match="a guided path follows the gradients"):
        whence.path.along_input("guided")
    for quadrature in ("exact", "taylor"):
        with pytest.raises(whence.Refused, match="goes along the straight line"):
            whence.explain(model, x, at=whence.layer("2"), path="input", quadrature=quadrature)
        with pytest.raises(whence.Refused, match="multiply=False"):
            whence.explain(model, x, multiply=False, quadrature=quadrature)
    with pytest.raises(whence.Refused, match="multiply=False"):
        whence.explain(model, x, multiply=False, path="guided")
    embedding = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(whence.Refused, match="whole numbers have no way"):
        whence.explain(embedding, torch.tensor([[1, 2, 3]]), at=whence.layer("0"), path="input")


class OneWay(torch.autograd.Function):
    """An operation of the user's with a way back, and none forwards."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(context, grad):
        return 3 * context.saved_tensors[0] ** 2 * grad


def test_a_derivative_along_a_direction_is_exact_in_both_ways():
    model = cnn(dtype=DOUBLE)
    x, v = pictures(dtype=DOUBLE), pictures(seed=8, dtype=DOUBLE)
    for function in (lambda leaves: model(leaves[0]), lambda leaves: model[:3](leaves[0]) * leaves[0].sum()):
        answers = [way(function, (x,), (v,)) for way in (_forward, _twice_back)]
        step = 1e-6
        difference = (function((x + step * v,)) - function((x - step * v,))) / (2 * step)
        for y, slope in answers:
            assert torch.equal(y, function((x,))) and not slope.requires_grad
            assert relative(slope, difference) <= 1e-7
        assert relative(answers[0][1], answers[1][1]) <= 1e-13
    constant = lambda leaves: torch.ones(3, 2)  # noqa: E731
    assert all((way(constant, (x,), (v,))[1] == 0).all() for way in (_forward, _twice_back))


def test_an_operation_without_a_forward_derivative_is_taken_backwards_twice():
    class Cubed(nn.Module):
        def __init__(self):
            super().__init__()
            self.here = nn.Identity()

        def forward(self, x):
            return torch.tanh(self.here(OneWay.apply(x))).sum(1)

    x = batch()
    result = whence.explain(Cubed(), x, at=whence.layer("here"), path="input", rtol=1e-5)
    assert relative(result.values, torch.tanh(x**3)) <= 1e-4


# ---- channels, calls and neurons with every method -----------------------------------------------------------


def of_layer(model, x, call, target):
    """The value of a reused layer's call, and the gradient there."""
    seen = []
    handle = model.middle.register_forward_hook(lambda m, i, o: seen.append(o.clone()) or seen[-1])
    y = model(x)
    handle.remove()
    return seen[call].detach(), torch.autograd.grad(y[:, target].sum(), seen[call])[0]


@pytest.mark.parametrize("call", [0, 1, 2])
def test_each_call_of_a_reused_layer_has_its_own_gradient(call):
    model, x = reused(), batch()
    z, gradient = of_layer(model, x, call, 2)
    at = whence.layer("middle", call=call)
    found = whence.explain(model, x, "input_x_gradient", target=2, at=at)
    assert relative(found.values, z * gradient) <= 1e-13
    some = whence.layer("middle", channels=[5, 0], call=call)
    found = whence.explain(model, x, "saliency", absolute=False, target=2, at=some)
    assert relative(found.values, gradient[:, [5, 0]]) <= 1e-13
    with pytest.raises(whence.BadInput, match="does not run 4 times"):
        whence.explain(model, x, at=whence.layer("middle", call=3))


SITES = {
    "layer": whence.layer("0"),
    "input-of-layer": whence.layer("2", input=True),
    "channels": whence.layer("2", channels=[3, 0]),
    "parameter": whence.parameters("0.weight"),
}
every_site = pytest.mark.parametrize("site", SITES)
NEURON = whence.target.neuron("5", 2)


def reachable(site, name):
    """A parameter is on no path of the input."""
    return site != "parameter" or not ("conductance" in name or "influence" in name)


@every_site
@pytest.mark.parametrize("name", [*ANY_SITE, *ALONG])
def test_a_neuron_that_is_an_output_is_explained_like_the_output(site, name):
    if not reachable(site, name):
        pytest.skip("a parameter is on no path of the input")
    model, x, method = cnn(dtype=DOUBLE), pictures(dtype=DOUBLE), converted(name, DOUBLE)
    neuron = whence.explain(model, x, method, target=NEURON, at=SITES[site])
    output = whence.explain(model, x, method, target=2, at=SITES[site])
    assert relative(neuron.values, output.values) <= 1e-12
    assert relative(neuron.output, output.output) <= 1e-14


def test_a_neuron_inside_and_a_site_before_it():
    model, x = cnn(dtype=DOUBLE), pictures(dtype=DOUBLE)
    with torch.no_grad():
        z = model[:2](x)
    z.requires_grad_()
    expected = torch.autograd.grad(model[2:4](z.clone())[:, 1].sum(), z)[0]
    target = whence.target.neuron("3", 1)
    found = whence.explain(model, x, "saliency", absolute=False, target=target, at=whence.layer("1"))
    assert relative(found.values, expected) <= 1e-13
    integrated = whence.explain(model, x, target=target, at=whence.layer("1"), rtol=1e-3)
    assert integrated.residual.abs().max() <= 1e-2
    own = whence.explain(model, x, "saliency", target=target, at=whence.layer("3"))
    assert own.values[:, 1].sum() == own.values.sum() == own.values[:, 1].numel()
    with pytest.raises(whence.BadInput, match="layer '5' runs only after layer '3'"):
        whence.explain(model, x, "saliency", target=target, at=whence.layer("5"))
    weights = whence.explain(model, x, "saliency", target=target, at=whence.parameters("5.weight"))
    assert (weights.values == 0).all() and any("does not depend" in note for note in weights.notes)


# ---- the promises, at sites ----------------------------------------------------------------------------------


PAIRS = [(site, name) for site in SITES for name in [*ANY_SITE, *ALONG] if reachable(site, name)]
every_pair = pytest.mark.parametrize("site, name", PAIRS)


@every_pair
def test_an_example_is_explained_as_if_it_were_alone(site, name):
    model, method = cnn(dtype=DOUBLE), converted(name, DOUBLE)
    x = pictures(4, seed=1, dtype=DOUBLE)
    x[1] *= 1e-2
    together = whence.explain(model, x, method, at=SITES[site], target=1)
    for row in range(4):
        alone = whence.explain(model, x[row : row + 1], method, at=SITES[site], target=1)
        assert relative(together.values[row : row + 1], alone.values) <= 1e-10
        assert torch.equal(together.evaluations[row : row + 1], alone.evaluations)


@every_pair
def test_chunks_and_runs_do_not_change_the_answer(site, name):
    dtype = DOUBLE if "differences" in name else torch.float32
    model, x, method = cnn(dtype=dtype), pictures(dtype=dtype), converted(name, dtype)
    one, two, again = (whence.explain(model, x, method, at=SITES[site], chunk=size) for size in (2, 7, 7))
    assert relative(one.values, two.values) <= 1e-5
    assert torch.equal(two.values, again.values) and torch.equal(one.evaluations, two.evaluations)


BUSY = {
    "layer": whence.layer("norm"), "input-of-layer": whence.layer("head", input=True),
    "channels": whence.layer("conv", channels=[1]), "parameter": whence.parameters("conv.weight"),
}  # fmt: skip


@every_pair
def test_nothing_of_the_users_is_changed(site, name):
    model, x = busy(), pictures().requires_grad_()
    before = state_of(model, x)
    result = whence.explain(model, x, converted(name), at=BUSY[site])
    assert_same(before, state_of(model, x))
    assert torch.isfinite(result.values).all() and not result.values.requires_grad


@pytest.mark.parametrize("name", ["norm.weight", "head.bias", "frozen.weight"])
def test_nothing_is_changed_by_an_exception_while_a_parameter_is_replaced(name):
    model, x, calls = busy(), pictures(), []

    def fails(module, inputs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyError("in the middle")

    model.head.register_forward_pre_hook(fails)
    before = state_of(model, x)
    with pytest.raises(KeyError, match="in the middle"):
        whence.explain(model, x, at=whence.parameters(name))
    assert_same(before, state_of(model, x))


def test_a_model_that_cannot_be_copied_gets_its_parameter_back():
    model, x = busy(), pictures()
    through = nn.Module()
    through.inner = model
    through.forward = lambda x: model(x)  # noqa: PLW0108 (a function that holds on to a module)
    before = state_of(model, x)
    result = whence.explain(through, x, "saliency", at=whence.parameters("inner.head.weight"), target=0)
    expected = whence.explain(model, x, "saliency", at=whence.parameters("head.weight"), target=0)
    assert relative(result.values, expected.values) <= 1e-6
    assert any("cannot be copied" in note for note in result.notes)
    assert_same(before, state_of(model, x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["input_x_gradient", "ig-gauss", "conductance", "internal-influence"])
@every_site
def test_values_have_the_sites_dtype(dtype, name, site):
    if not reachable(site, name):
        pytest.skip("a parameter is on no path of the input")
    model, x = cnn(dtype=dtype), pictures(dtype=dtype)
    result = whence.explain(model, x, converted(name, dtype), at=SITES[site], target=1)
    assert result.values.dtype == dtype and torch.isfinite(result.values).all()
    wide = whence.explain(
        cnn(dtype=dtype).double(), x.double(), converted(name, DOUBLE), at=SITES[site], target=1
    )
    allowed = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
    spare = 0.1 if name in ("conductance", "internal-influence") and dtype != DOUBLE else 0.0
    assert relative(result.values, wide.values) <= allowed + spare


@pytest.mark.parametrize("name", FROM_INPUTS)
def test_what_compares_inputs_has_no_way_to_a_parameter(name):
    with pytest.raises(whence.Refused, match=r"one of inputs|does not follow from the inputs|needs pictures"):
        whence.explain(cnn(), pictures(), converted(name), at=whence.parameters("0.weight"))


@pytest.mark.parametrize("name", sorted({*whence.methods()} & {*cases(ROWS)}))
def test_every_method_answers_about_a_parameter_or_says_why_not(name):
    try:
        result = whence.explain(cnn(), pictures(), cases(ROWS)[name], at=whence.parameters("0.weight"))
    except whence.Refused as reason:
        assert "weight" in str(reason)
    else:
        assert result.values.shape == (3, 4, 1, 3, 3)


def test_numpy_and_saving(tmp_path):
    x = pictures().numpy()
    result = whence.explain(cnn(), x, at=whence.parameters("0.weight"), rtol=0.1)
    assert isinstance(result.values, np.ndarray) and result.values.shape == (3, 4, 1, 3, 3)
    loaded = whence.load(result.save(tmp_path / "weights.npz"))
    assert np.array_equal(loaded.values, result.values) and loaded.settings["site"] == "parameter '0.weight'"
    assert np.allclose(loaded.units(), result.units())


# ---- units ---------------------------------------------------------------------------------------------------


def test_the_importance_of_units_is_the_sum_over_all_other_axes():
    model, x = cnn(), pictures()
    kernel = whence.explain(model, x, at=whence.parameters("0.weight"), rtol=0.1)
    values = kernel.numpy().astype(np.float64)
    assert np.allclose(kernel.units(), values.sum((2, 3, 4)))
    assert np.allclose(kernel.units(absolute=True), np.abs(values).sum((2, 3, 4)))
    assert np.allclose(kernel.units(axis=-1), values.sum((1, 2, 3)))
    assert np.allclose(
        kernel.units().sum(1), kernel.residual + kernel.output - kernel.baseline_output, atol=1e-5
    )
    with pytest.raises(whence.BadInput, match="axis 4 is out of range"):
        kernel.units(axis=4)
    ranked = whence.units.ranked(kernel, row=1, count=2)
    order = np.argsort(-np.abs(kernel.units()[1]))
    assert ranked == [(f"filter {k}", pytest.approx(kernel.units()[1, k])) for k in order[:2]]
    some = whence.explain(model, x, "input_x_gradient", at=whence.layer("2", channels=[3, 1]))
    assert {name for name, _ in whence.units.ranked(some)} == {"channel 3", "channel 1"}
    every = whence.explain(model, x, "input_x_gradient", at=whence.parameters("5.bias"), target="all")
    with pytest.raises(whence.BadInput, match="for_class"):
        every.units()
    assert every.for_class(1).units().shape == (3, 3)


@pytest.mark.parametrize("name", ["0.weight", "1.weight", "5.weight"])
def test_units_are_drawn(name):
    result = whence.explain(cnn(), pictures(), at=whence.parameters(name), rtol=0.1)
    drawn = result.plot()
    words = " ".join(text.get_text() for text in drawn.findobj(lambda each: hasattr(each, "get_text")))
    assert f"parameter '{name}'" in words and "target" in words
    if name != "1.weight":
        assert "colour scale" in words and "each" in words
    assert result._repr_png_()[:4] == b"\x89PNG"


def test_a_report_of_weights_is_written(tmp_path):
    result = whence.explain(cnn(), pictures(), at=whence.parameters("0.weight"), rtol=0.1)
    page = result.to_html(tmp_path / "report.html").read_text()
    assert "most important units" in page


# ---- the command line ----------------------------------------------------------------------------------------


def test_at_on_the_command_line():
    from whence.cli_work import site

    assert site(None) is None
    assert site("features.3") == whence.layer("features.3")
    assert site("features.3[0,4]@1") == whence.layer("features.3", channels=[0, 4], call=1)
    assert site("input:fc") == whence.layer("fc", input=True)
    assert site("parameters:fc.weight") == whence.parameters("fc.weight")
    for wrong in ("", "fc[", "fc[a]", "parameters:", "weights:fc", "fc@x"):
        with pytest.raises(whence.BadInput, match="--at"):
            site(wrong)


@pytest.mark.parametrize(
    "at", ["parameters:features.0.weight", "parameters:classifier.bias", "features.3[4,9]"]
)
def test_weights_and_channels_are_explained_from_the_shell(at, tmp_path, capsys):
    from PIL import Image

    from whence.cli import main

    path = tmp_path / "digit.png"
    Image.fromarray(whence.data.digits().test_images[3].astype(np.uint8)).save(path)
    words = [
        "explain",
        str(path),
        "--model",
        "digits-cnn",
        "--at",
        at,
        "--out",
        str(tmp_path / "out"),
        "--quick",
    ]
    assert main(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "most important" in printed and ("channel 9" in printed if "[" in at else "at 0" in printed)
    assert (tmp_path / "out" / "digit.integrated_gradients.png").exists()
    assert main([*words, "--json"]) == 0
    assert '"units"' in capsys.readouterr().out
