"""Integrated Hessians: closed forms, an oracle that knows every neuron, dense double integrals, and what is refused."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from oracles import ReluNet

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

import whence
from models import assert_same, busy, cnn, pictures, seeded, state_of
from whence import kinks
from whence.errors import BadInput, Refused
from whence.hessian_methods import IntegratedHessians
from whence.hessians import rule

F64 = torch.float64


def pairs(model, x, target=None, at=None, chunk=None, seed=0, **settings):
    return IntegratedHessians(**settings)(model, x, target=target, at=at, chunk=chunk, seed=seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def net(*layers, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*layers).double()


def smooth(kind, inputs=6, outputs=2, seed=0):
    return net(nn.Linear(inputs, 12), kind(), nn.Linear(12, 8), kind(), nn.Linear(8, outputs), seed=seed)


def away(values, truth):
    values, truth = (torch.as_tensor(each).double().flatten(1) for each in (values, truth))
    return float(((values - truth).abs().sum(1) / truth.abs().sum(1)).max())


# ---- oracles -------------------------------------------------------------------------------------------------------


def falling(u):
    return -u * np.log(u)


def upper(lines):
    """Where on [0, 1] each of some lines a + bu is the largest: [(from, to, which)], the first of those that tie."""
    lines = np.asarray(lines)
    cuts = [0.0, 1.0]
    for i, (a, b) in enumerate(lines):
        for c, d in lines[:i]:
            if b != d and 0 < (c - a) / (b - d) < 1:
                cuts.append((c - a) / (b - d))
    cuts = np.unique(cuts)
    found = []
    for left, right in pairwise(cuts):
        if right - left < 1e-13:
            continue
        values = lines[:, 0] + lines[:, 1] * (left + right) / 2
        winner = int(np.flatnonzero(values > values.max() - 1e-13)[0])
        if found and found[-1][2] == winner:
            found[-1] = (found[-1][0], right, winner)
        else:
            found.append((left, right, winner))
    return found


def of_maxima(units, x, start):
    """Γ of Σ_k v_k max_j (n_kj·x + c_kj), unit by unit: each one's winners along the line are told apart."""
    step, d = x - start, len(x)
    total = np.zeros((d, d))
    for v, normals, offsets in units:
        regions = upper(np.stack([normals @ start + offsets, normals @ step], 1))
        for place, (left, right, winner) in enumerate(regions):
            ends = np.array([left, right])
            rise = np.diff(ends + np.where(ends > 0, falling(np.where(ends > 0, ends, 1)), 0))[0]
            total += np.diag(v * step * normals[winner] * rise)
            if place:
                jump = step * (normals[winner] - normals[regions[place - 1][2]])
                total += v * falling(left) * np.outer(jump, jump) / jump.sum()
    return total


def relu_units(w, b, v):
    """Units max(0, w·x + b) times v, for `of_maxima`."""
    return [(v[k], np.stack([0 * w[k], w[k]]), np.array([0, b[k]])) for k in range(len(w))]


def of_two_layers(network, x, start, column):
    """Γ of a ReLU network of two hidden layers, neuron by neuron: normals and what follows are multiplied by hand."""
    (w1, w2, w3), (b1, b2, _) = network.weights, network.biases
    step = x - start
    ends = np.concatenate([[0.0], network.kinks(x, start), [1.0]])
    total = np.zeros((len(x), len(x)))
    grow = ends + np.where(ends > 0, falling(np.where(ends > 0, ends, 1)), 0)
    middles = start + ((ends[1:] + ends[:-1]) / 2)[:, None] * step
    total += np.diag(np.diff(grow) @ network.gradient(middles, column) * step)
    for u in ends[1:-1]:
        first = w1 @ (start + u * step) + b1
        second = w2 @ np.maximum(first, 0) + b2
        for value, normal, height in [
            *zip(first, w1, (w3[column] * (second > 0)) @ w2, strict=True),
            *zip(second, w2 * (first > 0) @ w1, w3[column], strict=True),
        ]:
            if abs(value) < 1e-12:
                total += falling(u) * height * np.outer(step * normal, step * normal) / abs(step @ normal)
    return total


def double_integral(model, x, start, column=0, nodes=60):
    """Γ by its definition: ∫∫ αβ Δ_i Δ_j H_ij(x' + αβΔ) dα dβ, and on the diagonal ∫∫ Δ_i g_i(x' + αβΔ) dα dβ."""
    place, weight = np.polynomial.legendre.leggauss(nodes)
    place, weight = (place + 1) / 2, weight / 2
    alpha, beta = (each.ravel() for each in np.meshgrid(place, place))
    both = torch.tensor(np.outer(weight, weight).ravel())
    u, step = torch.tensor(alpha * beta), x - start
    points = start + u[:, None] * step

    def one(point):
        return model(point[None])[0, column]

    second = torch.func.vmap(torch.func.hessian(one), chunk_size=256)(points)
    slope = torch.func.vmap(torch.func.grad(one), chunk_size=256)(points)
    total = torch.einsum("n,nij->ij", both * u, second) * step[:, None] * step
    return total + torch.diag((both @ slope) * step)


# ---- closed forms --------------------------------------------------------------------------------------------------


def test_a_product_shares_half_off_the_diagonal():
    x = torch.tensor([[2.0, 3.0], [0.5, -1.0]], dtype=F64)
    result = pairs(lambda x: x[:, 0] * x[:, 1], x)
    f = x[:, 0] * x[:, 1]
    # The double integral of αβ is 1/4 for each ordered pair, and the gradient's part 1/4 on the diagonal.
    assert torch.allclose(result.interactions, f[:, None, None] / 4 * torch.ones(2, 2, dtype=F64), atol=1e-12)
    assert torch.allclose(result.values, torch.stack([f, f], 1) / 2)
    assert torch.allclose(result.residual, torch.zeros(2, dtype=F64), atol=1e-12)


@pytest.mark.parametrize("start", [0.0, 0.4])
def test_a_quadratic_form_is_exact_at_any_number_of_nodes(start):
    a, b = normal(4, 4), normal(4, seed=1)
    x = normal(3, 4, seed=2)
    result = pairs(lambda x: ((x @ a) * x).sum(1) + x @ b, x, baseline=start, steps=1)
    step, h = x - start, a + a.T
    truth = step[:, :, None] * h * step[:, None] / 4
    # ∫ (−ln u) (g(x') + u HΔ) du = g(x') + HΔ/4.
    gradient = torch.full((3, 4), start, dtype=F64) @ h + b
    truth = truth + torch.diag_embed(step * (gradient + step @ h / 4))
    assert away(result.interactions, truth) < 1e-12


def test_a_single_relu_is_its_one_kink():
    x = torch.tensor([[1.0, 2.0]], dtype=F64)
    result = pairs(lambda x: torch.relu(x[:, 0] + x[:, 1] - 1), x)
    u = 1 / 3
    step = np.array([1.0, 2.0])
    truth = falling(u) * np.outer(step, step) / 3 + np.diag(step) * (1 - u - falling(u))
    assert np.allclose(result.interactions[0].numpy(), truth, rtol=0, atol=1e-12)
    assert result.converged.all() and result.error.item() < 1e-9


@pytest.mark.parametrize("weight", ["log", "bend"])
@pytest.mark.parametrize("steps", [1, 4, 64, 256])
def test_the_rules_have_the_moments_of_their_weights(weight, steps):
    nodes, weights = rule(weight, steps)
    power = np.arange(2 * steps)
    found = (weights[:, None] * nodes[:, None] ** power).sum(0)
    truth = 1 / (power + 1.0) ** 2 if weight == "log" else 1 / (power + 2.0) ** 2
    assert np.allclose(found, truth, rtol=1e-10, atol=0)


# ---- piecewise-linear networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_sum_over_the_neurons_of_two_layers(seed):
    generator = np.random.default_rng(seed)
    network = ReluNet.random(generator, 4, 12, 9, 3)
    x, start = generator.standard_normal((2, 4))
    result = pairs(network.module(), torch.tensor(x)[None], target=2, baseline=torch.tensor(start)[None])
    truth = of_two_layers(network, x, start, 2)
    assert np.abs(result.interactions[0].numpy() - truth).sum() < 1e-8 * np.abs(truth).sum()
    ig = network.integrated(x, start, 2)
    assert np.allclose(result.values[0].numpy(), ig, rtol=0, atol=1e-12 * np.abs(ig).sum())


def coinciding(generator, copies):
    """Return ReLUs whose kinks coincide on the line from 0 to a constant input: permuted weights, some twice."""
    w, b, v = [], [], []
    for _ in range(5):
        one, offset = generator.standard_normal(6), generator.standard_normal() / 2
        for _ in range(copies):
            w.append(generator.permutation(one))
            b.append(offset)
            v.append(generator.standard_normal())
        w.append(w[-1])
        b.append(offset)
        v.append(generator.standard_normal())
    return np.array(w), np.array(b), np.array(v)


@pytest.mark.parametrize("copies", [1, 2, 7])
@pytest.mark.parametrize("seed", range(3))
def test_kinks_that_coincide_are_told_apart(seed, copies):
    w, b, v = coinciding(np.random.default_rng(seed), copies)
    x = np.full(6, 1.3)
    weights = [torch.tensor(each) for each in (w, b, v)]
    result = pairs(lambda x: torch.relu(x @ weights[0].T + weights[1]) @ weights[2], torch.tensor(x)[None])
    truth = of_maxima(relu_units(w, b, v), x, 0 * x)
    assert np.abs(result.interactions[0].numpy() - truth).sum() < 1e-7 * np.abs(truth).sum()
    assert abs(result.residual.item()) <= 1e-10 * abs(result.output.item() - result.baseline_output.item())
    assert result.converged.all() and result.error.item() < 1e-6


def test_max_pooling_on_a_black_background_with_equal_patches():
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 2)
    ).double()
    x = torch.zeros(8, 8, dtype=F64)
    # The same strokes four times, in cells of the pool: their kinks coincide, and their jumps are not parallel.
    stroke = normal(3, 3, seed=5).abs()
    for row, column in ((0, 0), (0, 4), (4, 0), (4, 4)):
        x[row : row + 3, column : column + 3] = stroke
    convolution, last = model[0], model[4]
    columns = convolution(torch.eye(64, dtype=F64).reshape(64, 1, 8, 8)).detach()
    offset = convolution(torch.zeros(1, 1, 8, 8, dtype=F64)).detach()[0]
    normals = (columns - offset).permute(1, 2, 3, 0).numpy()
    units = []
    for place, v in enumerate(last.weight[1].detach().numpy()):
        k, i, j = np.unravel_index(place, (4, 4, 4))
        cell = (k, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
        n, c = normals[cell].reshape(4, 64), offset.numpy()[cell].ravel()
        units.append((v, np.concatenate([n, np.zeros((1, 64))]), np.append(c, 0)))
    truth = of_maxima(units, x.flatten().numpy(), np.zeros(64))
    result = pairs(model, x[None, None], target=1)
    assert np.abs(result.interactions[0].numpy() - truth).sum() < 1e-7 * np.abs(truth).sum()
    assert result.converged.all() and abs(result.residual.item()) < 1e-12
    # The lines beside it see more kinks than the line itself: the test tests something.
    plain = whence.explain(model, x[None, None], "integrated_gradients", target=1, quadrature="exact")
    assert result.evaluations.item() > 4 * plain.evaluations.item()


@pytest.fixture(scope="module")
def digits():
    return torch.tensor(whence.data.digits().test_images[:6] / 255.0)[:, None]


@pytest.mark.parametrize("name", ["digits-cnn", "mnist-mlp"])
def test_real_digits_are_complete_to_rounding(name, digits):
    model = whence.zoo.load(name).model.double()
    x = digits if name == "digits-cnn" else functional.interpolate(digits[:2], size=(28, 28))
    result = pairs(model, x)
    rise = result.output - result.baseline_output
    assert float(((result.interactions.sum((1, 2)) - rise) / rise).abs().max()) <= 1e-10
    ig = whence.explain(model, x, "integrated_gradients", quadrature="exact").values
    assert away(result.interactions.sum(2), ig) <= 1e-10 and away(result.values, ig) <= 1e-10
    assert float((result.interactions - result.interactions.mT).abs().max()) < 1e-12
    assert result.converged.all() and result.residual.abs().max() < 1e-10


def test_a_line_along_a_kink_is_no_exact_answer():
    x = torch.tensor([[1.0, 1.0, 2.0]], dtype=F64)
    result = pairs(lambda x: functional.max_pool1d(x[:, None, :2], 2)[:, 0, 0] + torch.relu(x.sum(1) - 1), x)
    assert not result.converged.any() and result.error.item() > 0.05
    assert any("along a kink" in note for note in result.notes)
    assert abs(result.residual.item()) < 1e-12


def test_too_few_pieces_are_said_so():
    model = net(nn.Linear(3, 200), nn.ReLU(), nn.Linear(200, 1))
    result = pairs(model, normal(2, 3), max_evaluations=30)
    assert not result.converged.any() and (result.error > 1e-3).all() and (result.evaluations <= 30).all()


# ---- float64 for models in a lower precision -----------------------------------------------------------------------


class Rounding(nn.Module):
    """A network of which one step is always in float32."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.float())


class Narrow(Rounding):
    """A network that rounds to float32, and goes on in the precision of its weights."""

    def forward(self, x):
        return self.model(x.float().to(next(self.model.parameters()).dtype))


def around(model):
    def function(x):
        return model(x)

    return function


def float32_digits(digits, count=3):
    """Return digits that float32 holds exactly, and what the model in float64 says of them."""
    x = digits[:count].float()
    return x, pairs(whence.zoo.load("digits-cnn").model.double(), x.double())


def test_a_model_in_single_precision_is_explained_in_float64(digits):
    x, wide = float32_digits(digits, 6)
    model = whence.zoo.load("digits-cnn").model
    narrow = pairs(model, x)
    assert narrow.values.dtype == narrow.interactions.dtype == torch.float32
    assert away(narrow.interactions, wide.interactions) < 1e-5 and away(narrow.values, wide.values) < 1e-5
    assert narrow.converged.all() and not narrow.notes
    assert narrow.settings["precision"] == "float64" and "precision" not in wide.settings
    assert torch.equal(narrow.evaluations, wide.evaluations)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_too(digits, kind):
    x = digits[:2].to(kind)
    model = whence.zoo.load("digits-cnn").model.to(kind)
    narrow = pairs(model, x, target=0)
    wide = pairs(model.double(), x.double(), target=0)
    assert away(narrow.interactions, wide.interactions) < 1e-5
    assert narrow.converged.all() and narrow.values.dtype == kind


@pytest.mark.parametrize(
    ("around", "words"),
    [(Rounding, "."), (Narrow, "rounds: _to_copy to float32"), (around, "copied")],
)
def test_what_does_not_run_in_float64_is_as_good_as_it_says(digits, around, words):
    x, wide = float32_digits(digits)
    narrow = pairs(around(whence.zoo.load("digits-cnn").model), x)
    assert narrow.values.dtype == torch.float32 and "precision" not in narrow.settings
    assert away(narrow.interactions, wide.interactions) < 0.2
    assert not narrow.converged.any() and any("float64" in n and re.search(words, n) for n in narrow.notes)


def test_another_function_in_float64_is_not_explained_for_the_models_own():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = net(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 1)).float()

        def forward(self, x):
            return self.layers(x) * (1.0 if x.dtype == torch.float32 else 1.01)

    model, x = Other(), normal(2, 4).float()
    result = pairs(model, x)
    assert "precision" not in result.settings
    assert result.residual.abs().max() < 1e-5
    assert away(result.interactions, pairs(model.layers.double(), x.double()).interactions) < 1e-3


def test_half_precision_alone_is_refused(digits):
    model = whence.zoo.load("digits-cnn").model.half()
    with pytest.raises(Refused, match="half precision cannot"):
        pairs(around(model), digits[:1].half(), target=0, quadrature="exact")


@pytest.mark.parametrize("made", [cnn, busy])
@pytest.mark.parametrize("fails", [False, True])
def test_the_users_model_stays_as_it_is(made, fails, monkeypatch):
    model, x = made(), pictures()
    if made is busy:
        # Its tanh is not piecewise linear; what it keeps of its runs is what counts here.
        model.frozen.weight.data.zero_()
        monkeypatch.setattr(torch, "tanh", torch.relu)
    seen = []

    def spy(*arguments, **settings):
        seen.append(arguments[0].problem.run.session.parameter("0.weight" if made is cnn else "conv.weight"))
        if fails:
            raise KeyboardInterrupt
        return walked(*arguments, **settings)

    walked = kinks._walked
    monkeypatch.setattr(kinks, "_walked", spy)
    before = state_of(model, x)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            pairs(model, x, target=0)
    else:
        assert pairs(model, x, target=0).settings["precision"] == "float64"
    assert_same(before, state_of(model, x))
    assert seen[0].dtype == torch.float64


class Loop(nn.Module):
    """A network that refers to itself, and keeps its weights also elsewhere."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 9), nn.Linear(9, 2)
        self.register_buffer("scale", torch.full((9,), 1.5))
        self.offset, self.own = torch.full((9,), 0.25), (self,)
        self.twice, self.act = [self.first.weight, self.scale[:5]], self.bend

    def bend(self, x):
        return torch.relu(x + self.offset)

    def forward(self, x):
        h = self.act(functional.linear(x, self.twice[0], self.first.bias)) * self.scale
        return self.last(h) + (h[:, :5] * self.twice[1]).sum(1, keepdim=True)


def test_all_that_a_model_keeps_is_widened_and_freed(monkeypatch):
    model, x = seeded(0, Loop).eval(), normal(2, 6).float()
    kept, walked = [], kinks._walked

    def spy(stretch, most):
        copied = stretch.problem.run.session.function
        kept[:] = [copied.first.weight, copied.twice[0], copied.scale]
        assert {each.dtype for each in (*kept, copied.twice[1], copied.offset)} == {F64}
        assert copied.twice[1]._base is None or copied.twice[1].data_ptr() == copied.scale.data_ptr()
        return walked(stretch, most)

    monkeypatch.setattr(kinks, "_walked", spy)
    before = state_of(model, x)
    narrow = pairs(model, x, target=0)
    assert narrow.converged.all() and not any(each.numel() for each in kept)
    assert_same(before, state_of(model, x))
    wide = Loop().double()
    wide.load_state_dict(model.state_dict())
    wide.offset, wide.twice = wide.offset.double(), [wide.first.weight, wide.scale[:5]]
    assert away(narrow.interactions, pairs(wide, x.double(), target=0).interactions) < 1e-6


def test_batch_mates_do_not_matter_in_single_precision(digits):
    x, model = digits[:3].float(), whence.zoo.load("digits-cnn").model
    together = pairs(model, x)
    for row in range(3):
        alone = pairs(model, x[row : row + 1])
        assert away(together.interactions[row][None], alone.interactions) < 1e-6
        assert together.evaluations[row] == alone.evaluations[0]


def test_rows_in_both_precisions_keep_their_places():
    class Large(nn.Module):
        """Another function in float64, of large inputs alone."""

        def __init__(self):
            super().__init__()
            self.layers = net(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 1)).float()

        def forward(self, x):
            factor = 1.0 if x.dtype == torch.float32 else 1.0 + 0.1 * (x.detach().sum(1, keepdim=True) > 5)
            return self.layers(x) * factor

    model, x = Large(), normal(3, 4).abs().float()
    x[1] += 5
    together = pairs(model, x)
    for row in range(3):
        alone = pairs(model, x[row : row + 1])
        assert ("precision" in alone.settings) == (row != 1)
        assert torch.equal(together.interactions[row], alone.interactions[0])


def test_two_threads_explain_one_model_in_float64(digits):
    x, wide = float32_digits(digits, 2)
    model = whence.zoo.load("digits-cnn").model
    before = state_of(model, x)
    rows = [0, 1, 0, 1]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda row: pairs(model, x[row : row + 1]), rows))
    for row, each in zip(rows, found, strict=True):
        assert away(each.interactions, wide.interactions[row][None]) < 1e-5
        assert each.settings["precision"] == "float64"
    assert_same(before, state_of(model, x))


@pytest.mark.parametrize(
    "settings", [{"target": "all"}, {"target": 0, "at": whence.layer("1")}, {"target": 1}]
)
def test_layers_and_classes_in_single_precision(settings):
    model, x = MODELS["exact"](), normal(2, 6, seed=1)
    narrow = pairs(model.float(), x.float(), **settings)
    model.double()
    wide = pairs(model, x.float().double(), **settings)
    assert away(narrow.interactions, wide.interactions) < 1e-5 and narrow.converged.all()
    assert narrow.interactions.shape == wide.interactions.shape and narrow.settings["precision"] == "float64"


def test_pictures_in_pixels_are_explained_in_float64(digits):
    pixels = (digits[:2, 0] * 255).round().numpy().astype(np.uint8)
    model, preprocess = whence.zoo.load("digits-cnn").model, whence.Preprocess(mean=0.1, std=0.7)
    settings = {"target": 0, "features": whence.features.grid(4)}
    narrow = IntegratedHessians(features=settings["features"])(model, pixels, target=0, preprocess=preprocess)
    wide = pairs(
        model.double(),
        (torch.tensor(pixels).double() / 255 - 0.1)[:, None] / 0.7,
        baseline=-0.1 / 0.7,
        **settings,
    )
    assert away(narrow.interactions, wide.interactions) < 1e-5
    assert narrow.settings["precision"] == "float64" and narrow.converged.all()


def test_further_arguments_are_widened():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = net(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 1)).float()

        def forward(self, x, scale, shift, count):
            return self.layers(x @ scale + shift["by"]) * count

    model, x, scale = Weighted(), normal(2, 4).float(), normal(4, 4, seed=3).float()
    given = {"scale": scale, "shift": {"by": scale[0]}, "count": 2}
    result = IntegratedHessians()(model, x, kwargs=given)
    assert result.settings["precision"] == "float64" and scale.dtype == torch.float32

    def wide(x):
        return model.layers(x @ scale.double() + scale[0].double()) * 2

    model.double()
    assert away(result.interactions, pairs(wide, x.double()).interactions) < 1e-6


# ---- smooth networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.GELU, nn.Tanh, nn.SiLU])
def test_a_smooth_network_agrees_with_the_double_integral(kind):
    model, x = smooth(kind), 1.5 * normal(3, 6, seed=1)
    result = pairs(model, x, target=0)
    start = torch.zeros(6, dtype=F64)
    truth = torch.stack([double_integral(model, row, start) for row in x]).detach()
    assert away(result.interactions, truth) < 1e-4
    assert result.converged.all() and (result.error <= 1e-4).all()
    # A Hessian is a product for each feature; the definition on a grid of 50 x 50 takes 2,500 of them.
    assert (result.evaluations <= 83 * 6).all()
    ig = whence.explain(model, x, "integrated_gradients", target=0, steps=200).values
    assert away(result.values, ig) < 1e-4
    assert float((result.interactions - result.interactions.mT).abs().max()) < 1e-12


def test_more_nodes_for_a_sharper_tolerance():
    model, x = smooth(nn.Tanh), 3 * normal(2, 6, seed=4)
    truth = pairs(model, x, target=1, steps=200).interactions
    spent = []
    for rtol in (1e-2, 1e-5, 1e-8):
        result = pairs(model, x, target=1, rtol=rtol)
        assert result.converged.all() and away(result.interactions, truth) <= rtol
        spent.append(int(result.evaluations.sum()))
    assert spent == sorted(set(spent))


def test_steps_are_the_nodes_and_the_error_is_stated():
    model, x = smooth(nn.Tanh), 3 * normal(2, 6, seed=4)
    truth = pairs(model, x, target=1, steps=200).interactions
    result = pairs(model, x, target=1, steps=3)
    true = (result.interactions - truth).abs().sum((1, 2)) / truth.abs().sum((1, 2))
    assert (result.error > true / 5).all() and (result.error < 20 * true).all() and result.converged.all()


def test_float32_inputs_of_a_smooth_network():
    model, x = smooth(nn.GELU), normal(2, 6, seed=1)
    wide = pairs(model, x, target=0).interactions
    narrow = pairs(model.float(), x.float(), target=0)
    assert away(narrow.interactions, wide) < 1e-4 and narrow.converged.all()
    # What single precision cannot do is no kink.
    sharp = pairs(model, x.float(), target=0, rtol=1e-9)
    assert not sharp.converged.any() and (sharp.error < 1e-5).all()


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"steps": 8}, {"rtol": 1e-2}, {"rtol": 0.3}])
def test_kinks_in_a_network_that_is_not_piecewise_linear_are_refused(settings):
    model = net(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    with pytest.raises(Refused, match="shapley_interaction"):
        pairs(model, normal(2, 5), target=whence.target.probability(1), **settings)


def test_a_max_pool_among_smooth_layers_is_refused():
    model = net(nn.Conv2d(1, 4, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(Refused, match="jumps"):
        pairs(model, normal(1, 1, 6, 6), target=0, baseline=normal(1, 1, 6, 6, seed=1))


def test_gauss_on_a_relu_network_is_refused_and_exact_on_a_smooth_one():
    with pytest.raises(Refused, match="jumps"):
        pairs(net(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 1)), normal(2, 4), quadrature="gauss")
    with pytest.raises(Refused, match="gelu"):
        pairs(net(nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 1)), normal(2, 4), quadrature="exact")


def test_a_probability_of_a_smooth_network_is_explained():
    model, x = smooth(nn.GELU, outputs=3), normal(2, 6, seed=1)
    assert pairs(model, x, target=whence.target.probability(1)).converged.all()


def test_too_many_features_are_refused_with_advice():
    with pytest.raises(Refused, match="group"):
        pairs(lambda x: x.sum((1, 2, 3)), torch.zeros(1, 1, 70, 70))
    grouped = pairs(lambda x: x.sum((1, 2, 3)), torch.ones(1, 1, 70, 70), features=whence.features.grid(2))
    assert torch.allclose(grouped.interactions, 1225 * torch.eye(4)[None])


def test_overlapping_windows_and_whole_numbers_are_refused():
    with pytest.raises(Refused, match="overlap"):
        pairs(lambda x: x.sum((1, 2, 3)), torch.ones(1, 1, 6, 6), features=whence.features.patches(3, 1))
    with pytest.raises(ValueError):
        pairs(lambda x: x.float().sum(1), torch.ones(1, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quadrature": "gaus"}, "did you mean 'gauss'"),
        ({"quadrature": "midpoint"}, "quadrature"),
        ({"rtol": 0}, "rtol"),
        ({"steps": 0}, "steps"),
        ({"steps": 4, "quadrature": "exact"}, "exact"),
        ({"steps": 4, "rtol": 0.01}, "give one"),
        ({"quadrature": "exact", "rtol": 0.01}, "tolerance"),
        ({"max_evaluations": 0}, "max_evaluations"),
    ],
)
def test_settings_that_cannot_be_meant(settings, words):
    with pytest.raises(BadInput, match=words):
        IntegratedHessians(**settings)


def test_too_small_a_budget_for_one_hessian_is_refused():
    with pytest.raises(Refused, match="max_evaluations"):
        pairs(smooth(nn.Tanh), normal(1, 6), target=0, max_evaluations=30)
    few = pairs(smooth(nn.Tanh), 4 * normal(1, 6), target=0, rtol=1e-9, max_evaluations=300)
    assert not few.converged.any() and few.evaluations.item() <= 300 and np.isfinite(few.error.item())


# ---- features, classes, baselines, sites ---------------------------------------------------------------------------

MODELS = {
    "exact": lambda: net(nn.Linear(6, 14), nn.ReLU(), nn.Linear(14, 10), nn.ReLU(), nn.Linear(10, 3)),
    "gauss": lambda: smooth(nn.GELU, outputs=3),
}


@pytest.mark.parametrize("name", MODELS)
def test_groups_are_the_sums_over_their_numbers(name):
    model, x = MODELS[name](), normal(2, 6, seed=1)
    groups = np.array([0, 1, 1, 2, 0, 2])
    single = pairs(model, x, target=0, rtol=1e-4 if name == "exact" else 1e-7)
    result = pairs(model, x, target=0, features=groups, rtol=1e-4 if name == "exact" else 1e-7)
    member = torch.tensor(np.eye(3)[groups])
    assert away(result.interactions, member.T @ single.interactions @ member) < 1e-7
    assert torch.allclose(result.interactions.sum(2), result.shares, atol=1e-12)
    assert torch.allclose(result.values, result.shares[:, groups])


@pytest.mark.parametrize("name", MODELS)
def test_numbers_of_no_feature_stay_at_the_input(name):
    model, x = MODELS[name](), normal(2, 6, seed=1)
    result = pairs(model, x, target=0, features=np.array([0, 1, 2, -1, -1, -1]))
    start = x.clone()
    start[:, :3] = 0
    same = pairs(model, x, target=0, baseline=start)
    assert away(result.interactions, same.interactions[:, :3, :3]) < 1e-6
    assert not result.values[:, 3:].any()


@pytest.mark.parametrize("name", MODELS)
def test_every_class_at_once_is_each_alone(name):
    model, x = MODELS[name](), normal(2, 6, seed=1)
    every = pairs(model, x, target="all")
    assert every.interactions.shape == (2, 3, 6, 6) and every.values.shape == (2, 3, 6)
    assert every.error.shape == every.converged.shape == (2, 3)
    for k in range(3):
        alone = pairs(model, x, target=k)
        assert away(every.interactions[:, k], alone.interactions) < 1e-4 if name == "gauss" else 1e-9
        assert away(every.for_class(k).interactions, every.interactions[:, k]) == 0


@pytest.mark.parametrize("name", MODELS)
def test_several_baselines_are_averaged(name):
    model, x = MODELS[name](), normal(2, 6, seed=1)
    both = pairs(model, x, target=0, baseline=[0.0, 0.5])
    alone = [pairs(model, x, target=0, baseline=each).interactions for each in (0.0, 0.5)]
    assert away(both.interactions, sum(alone) / 2) < 1e-9
    assert both.residual.abs().max() < 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_at_a_layer(name):
    model, x = MODELS[name](), normal(2, 6, seed=1)
    result = pairs(model, x, target=0, at=whence.layer("1"))
    z = model[:2](x).detach()
    start = model[:2](torch.zeros(1, 6, dtype=F64)).detach().expand_as(z)
    direct = pairs(model[2:], z, target=0, baseline=start)
    assert away(result.interactions, direct.interactions) < 1e-9


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_batch_mates_chunks_and_runs_do_not_matter(name, chunk):
    model, x = MODELS[name](), normal(3, 6, seed=1)
    together = pairs(model, x, target=0, chunk=chunk)
    again = pairs(model, x, target=0, chunk=chunk)
    assert torch.equal(together.interactions, again.interactions)
    free = pairs(model, x, target=0)
    assert away(together.interactions, free.interactions) < 1e-9
    for row in range(3):
        alone = pairs(model, x[row : row + 1], target=0)
        assert away(together.interactions[row][None], alone.interactions) < 1e-9
        assert together.evaluations[row] == alone.evaluations[0]


@pytest.mark.parametrize("name", MODELS)
def test_an_input_on_its_baseline_has_no_pairs(name):
    result = pairs(MODELS[name](), torch.zeros(2, 6, dtype=F64), target=0)
    assert not result.interactions.any() and not result.values.any()
    assert result.converged.all() and not result.error.any() and not result.evaluations.any()
    mixed = pairs(MODELS[name](), torch.cat([torch.zeros(1, 6, dtype=F64), normal(1, 6)]), target=0)
    assert not mixed.interactions[0].any() and mixed.interactions[1].any() and mixed.converged.all()


@pytest.mark.parametrize("quadrature", [None, "gauss", "exact"])
def test_a_constant_model_has_none_either(quadrature):
    result = pairs(lambda x: 0 * x.detach().sum(1) + 2, normal(2, 4), quadrature=quadrature)
    assert not result.interactions.any() and result.converged.all() and not result.residual.any()


@pytest.mark.parametrize("model", [lambda x: torch.relu(x[:, 0] - 0.3), lambda x: torch.sin(x[:, 0])])
def test_one_feature_has_everything(model):
    x = torch.tensor([[1.2]], dtype=F64)
    result = pairs(model, x)
    assert result.interactions.shape == (1, 1, 1)
    assert result.interactions.item() == pytest.approx((model(x) - model(0 * x)).item(), rel=1e-4)


def test_two_inputs_are_one_matrix():
    a, b = normal(2, 2), normal(2, 3, seed=1)
    result = pairs(lambda a, b: a.sum(1) * b.sum(1), (a, b))
    together = pairs(lambda x: x[:, :2].sum(1) * x[:, 2:].sum(1), torch.cat([a, b], 1))
    assert away(result.interactions, together.interactions) < 1e-12
    assert result.values[0].shape == (2, 2) and result.values[1].shape == (2, 3)


def test_the_linear_rest_lies_on_the_diagonal():
    w = normal(4)
    result = pairs(lambda x: x @ w, normal(2, 4, seed=1))
    assert torch.allclose(result.interactions, torch.diag_embed(normal(2, 4, seed=1) * w), atol=1e-14)
    assert result.evaluations.tolist() == [3, 3]


def test_the_record_says_what_it_is():
    record = whence.registry._records["integrated_hessians"]
    assert record.title == "Integrated Hessians" and record.needs == (
        "gradient",
        "piecewise linear or smooth",
    )
    assert "Janizek" in record.citation and "∇²f" in record.equation
