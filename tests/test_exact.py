"""The exact quadrature: closed forms, the oracle of kinks, every operation in its table, and what it refuses."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import ReluNet, midpoint_ig, piecewise_ig

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

import whence
from whence.errors import Refused, UnsupportedByBackend

F64 = torch.float64


def exact(model, x, **options):
    return whence.explain(model, x, "integrated_gradients", quadrature="exact", **options)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def brute(model, x, nodes=60_000, **options):
    return whence.explain(
        model, x, "integrated_gradients", quadrature="midpoint", steps=nodes, **options
    ).values


def net(*layers, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*layers).double()


def test_equal_gradients_at_both_ends_do_not_hide_what_lies_between():
    result = exact(lambda x: (torch.relu(x - 1) - torch.relu(x - 2)).sum(1), torch.tensor([[3.0]], dtype=F64))
    assert result.values.item() == pytest.approx(1, abs=1e-14)
    assert result.evaluations.tolist() == [3]
    assert result.error.item() == 0 and result.converged.all()


def test_a_bias_free_network_and_a_zero_baseline_take_one_gradient():
    model = net(nn.Linear(5, 9, bias=False), nn.ReLU(), nn.Linear(9, 3, bias=False))
    x = normal(4, 5)
    result = exact(model, x, target=1)
    assert result.evaluations.tolist() == [1, 1, 1, 1]
    shortcut = whence.explain(model, x, "input_x_gradient", target=1).values
    assert torch.allclose(result.values, shortcut, rtol=1e-13)


def test_it_is_the_sum_over_the_kinks_of_a_small_network():
    w, b, v = normal(12, 4), normal(12, seed=1), normal(12, seed=2)
    x, start = normal(3, 4, seed=3), normal(3, 4, seed=4)
    result = exact(lambda x: torch.relu(x @ w.T + b) @ v, x, baseline=start)
    for row in range(3):
        z0, z1 = (w @ start[row] + b).numpy(), (w @ x[row] + b).numpy()
        kinks = [float(k) for k in z0 / (z0 - z1) if 0 < k < 1]

        def gradient(points):
            return ((points @ w.numpy().T + b.numpy() > 0) * v.numpy()) @ w.numpy()

        truth = piecewise_ig(gradient, x[row].numpy(), start[row].numpy(), kinks)
        assert np.allclose(result.values[row].numpy(), truth, rtol=0, atol=1e-13)
        assert int(result.evaluations[row]) == len(kinks) + 1


NETWORKS = {
    "convolution, batch norm, max-pool": lambda: net(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    ),
    "overlapping and padded max-pool, ceil mode": lambda: net(
        nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), nn.Flatten(),
        nn.Linear(48, 3),
    ),
    "average pool, leaky ReLU": lambda: net(
        nn.Conv2d(1, 3, 3), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    ),
    "ReLU6, hardtanh": lambda: net(
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU6(), nn.Linear(8, 8), nn.Hardtanh(-0.2, 0.3), nn.Linear(8, 3)
    ),
    "PReLU, threshold, absolute value": lambda: net(
        nn.Flatten(), nn.Linear(64, 8), nn.PReLU(8), nn.Linear(8, 8), nn.Threshold(0.0, 0.0), nn.Linear(8, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_agrees_with_brute_force_and_is_complete(name):
    model, x = NETWORKS[name]().eval(), normal(2, 1, 8, 8)
    result = exact(model, x, target=1, baseline=0.1)
    scale = float(result.values.abs().sum())
    assert float((result.values - brute(model, x, 20_000, target=1, baseline=0.1)).abs().sum()) < 1e-3 * scale
    assert float(result.residual.abs().max()) <= 1e-12 * scale


SPELLINGS = {
    "residual and reuse": lambda h: torch.relu(h) + h,
    "in place on a view": lambda h: h.clone()[:, :3].relu_().sum(1, keepdim=True) + h,
    "clamp": lambda h: h.clamp(-0.3, 0.4) + h.clamp(min=0.1) - h.clamp_max(0.2),
    "a gate of a comparison": lambda h: h * (h > 0) + 0.5 * h * (h <= 0),
    "where": lambda h: torch.where(h > 0.1, h - 0.1, -2 * (h - 0.1)),
    "maximum and minimum": lambda h: torch.maximum(h, h.flip(1)) - torch.minimum(h, 0.5 * h.flip(1)),
    "amax and max": lambda h: (
        h.amax(1, keepdim=True) + h.max(1, keepdim=True).values - h.amin(1, keepdim=True) + h
    ),
    "cat, stack, padding": lambda h: functional.pad(torch.cat([h.abs(), torch.ones_like(h), h], 1), (1, 1)),
    "a filled buffer": lambda h: torch.zeros_like(h).copy_(h.abs()),
    "divided and subtracted": lambda h: 1 - torch.relu(h) / 3,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_agrees_with_brute_force(name):
    w = normal(6, 5)

    def model(x):
        out = SPELLINGS[name](x @ w.T)
        return out @ normal(out.shape[1], seed=5)

    x = normal(3, 5, seed=1)
    result = exact(model, x, baseline=-0.2)
    away = (result.values - brute(model, x, baseline=-0.2)).abs().sum() / result.values.abs().sum()
    assert float(away) < 2e-4
    assert float(result.residual.abs().max()) < 1e-11


def test_hardsigmoid_is_as_exact_as_its_gradient():
    # PyTorch's own gradient of it is 1/6 in single precision.
    result = exact(lambda x: functional.hardsigmoid(x).sum(1), 4 * normal(2, 5), baseline=0.1)
    assert float(result.residual.abs().max()) < 1e-7


def test_ties_on_a_constant_baseline_do_not_matter():
    model = net(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    x = torch.zeros(1, 1, 8, 8, dtype=F64)
    x[..., 2:5, 2:5] = normal(3, 3).abs()
    result = exact(model, x, target=0)
    assert float(result.residual.abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda x: functional.batch_norm(x[:, None], None, None, training=True).sum((1, 2)), "batch_norm"),
        (lambda x: (x[:, None] @ x[:, :, None])[:, 0, 0], "bmm"),
        (lambda x: torch.where(x > 0.5, x, 0.0).div(x + 1).sum(1), "div"),
        (lambda x: functional.instance_norm(x[:, None]).sum((1, 2)), "batch_norm"),
        (lambda x: torch.sigmoid(x).sum(1), "sigmoid"),
        (lambda x: (x * x).sum(1), "mul"),
        (lambda x: torch.softmax(x, 1)[:, 0], "softmax"),
        (lambda x: functional.gelu(x).sum(1), "gelu"),
        (lambda x: (1 / x).sum(1), "reciprocal"),
        (lambda x: functional.layer_norm(x, (3,)).sum(1), "layer_norm"),
    ],
)
def test_what_is_not_piecewise_linear_is_refused_by_name(model, named):
    with pytest.raises(Refused, match=named):
        exact(model, torch.ones(1, 3, dtype=F64))


def test_a_probability_is_refused_where_its_logit_is_not():
    model, x = net(nn.Linear(4, 3)), normal(2, 4)
    assert exact(model, x, target=whence.target.logit(1)).evaluations.tolist() == [1, 1]
    with pytest.raises(Refused, match="softmax"):
        exact(model, x, target=whence.target.probability(1))


def test_a_detached_branch_is_noticed():
    with pytest.raises(Refused, match="detached"):
        exact(lambda x: (torch.relu(x) + 3 * torch.relu(x).detach()).sum(1), torch.ones(1, 3, dtype=F64))


def test_a_black_box_says_what_works():
    with pytest.raises(UnsupportedByBackend, match="sensitivity"):
        exact(lambda x: x.sum(1), np.ones((1, 3)))


def test_with_too_few_gradients_it_says_that_it_is_not_exact():
    model, x = net(nn.Linear(3, 200), nn.ReLU(), nn.Linear(200, 1)), normal(2, 3)
    whole = exact(model, x)
    few = exact(model, x, max_evaluations=20)
    away = (few.values - whole.values).abs().sum(1) / whole.values.abs().sum(1)
    assert not few.converged.any() and (few.evaluations <= 20).all()
    assert all(0 < true < 2 * stated for true, stated in zip(away.tolist(), few.error.tolist(), strict=True))
    assert any("max_evaluations" in note for note in few.notes)
    single = exact(model, x, max_evaluations=1)
    assert single.evaluations.tolist() == [1, 1] and not single.converged.any()


def test_a_gap_that_was_not_looked_into_is_an_error_even_where_the_values_join():
    x = torch.tensor([[3.0]], dtype=F64)
    result = exact(lambda x: (torch.relu(x - 1) - torch.relu(x - 2)).sum(1), x, max_evaluations=1)
    # One piece, [1/3, 2/3], stands for all: 3 instead of 1, two thirds of it unseen.
    assert result.values.item() == pytest.approx(3) and result.error.item() == pytest.approx(2 / 3)
    assert not result.converged.any()


def test_one_gradient_more_than_there_are_pieces_is_enough():
    model, x = net(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 1)), normal(1, 3)
    whole = exact(model, x)
    enough = exact(model, x, max_evaluations=int(whole.evaluations[0]) + 1)
    assert enough.converged.all() and enough.evaluations[0] == whole.evaluations[0]
    assert torch.allclose(enough.values, whole.values, rtol=0, atol=1e-13)


def test_batch_mates_and_chunks_do_not_matter():
    model, x = NETWORKS["average pool, leaky ReLU"]().eval(), normal(3, 1, 8, 8)
    together = exact(model, x, target=0, baseline=0.1)
    for row in range(3):
        alone = exact(model, x[row : row + 1], target=0, baseline=0.1, chunk=1)
        assert torch.allclose(together.values[row], alone.values[0], rtol=0, atol=1e-13)
        assert together.evaluations[row] == alone.evaluations[0]


def test_an_input_on_its_baseline_takes_nothing():
    result = exact(net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.zeros(2, 3, dtype=F64))
    assert not result.values.any() and result.evaluations.tolist() == [0, 0]


def test_float32_states_what_rounding_leaves():
    model = NETWORKS["convolution, batch norm, max-pool"]().eval()
    x = normal(2, 1, 8, 8)
    wide = exact(model, x, target=0, baseline=0.1).values
    narrow = exact(model.float(), x.float(), target=0, baseline=0.1)
    assert narrow.values.dtype == torch.float32
    assert float((narrow.values.double() - wide).abs().sum() / wide.abs().sum()) < 1e-4


def test_the_trace_is_the_pieces():
    result = exact(lambda x: torch.relu(x - 1).sum(1), torch.tensor([[2.0], [0.5]], dtype=F64))
    assert np.allclose(np.nansum(result.trace.weights, 1), 1)
    pieces = result.trace.weights[0] > 0
    assert np.allclose(result.trace.weights[0][pieces], [0.5, 0.5])
    assert np.allclose(np.nansum(result.trace.weights * result.trace.derivative, 1), [1, 0])


def test_a_first_look_that_hits_a_kink_is_not_taken_for_a_piece():
    # The middle of the way is exactly where the ReLU switches.
    result = exact(lambda x: torch.relu(x - 1).sum(1), torch.tensor([[2.0]], dtype=F64))
    assert result.values.item() == pytest.approx(1, abs=1e-14)


# ---- slow oracles and random networks ------------------------------------------------------------------------


def bisected_ig(network, x, start, column):
    """Halve the line until both ends have one activation pattern: those points are convex, so it is one piece."""

    def pattern(alpha):
        points, signs = start + alpha * (x - start), []
        for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
            points = weight @ points + bias
            signs.append(points > 0)
            points = points * signs[-1]
        return signs

    def slope(signs):
        back = network.weights[-1][column]
        for weight, sign in zip(network.weights[-2::-1], signs[::-1], strict=True):
            back = (back * sign) @ weight
        return back

    total, gaps = np.zeros_like(x), [(0.0, pattern(0.0), 1.0, pattern(1.0))]
    while gaps:
        left, one, right, two = gaps.pop()
        if right - left < 1e-13 or all((a == b).all() for a, b in zip(one, two, strict=True)):
            total += (right - left) * slope(one)
            continue
        middle = (left + right) / 2
        between = pattern(middle)
        gaps += [(left, one, middle, between), (middle, between, right, two)]
    return (x - start) * total


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_halving_by_activation_patterns_finds(seed):
    generator = np.random.default_rng(seed)
    network = ReluNet.random(generator, 4, 9, 7, 3)
    x, start = generator.standard_normal((2, 4))
    values = exact(
        network.module(), torch.tensor(x)[None], baseline=torch.tensor(start)[None], target=2
    ).values
    truth = bisected_ig(network, x, start, 2)
    assert np.abs(values[0].numpy() - truth).sum() < 1e-11 * np.abs(truth).sum()


@pytest.mark.parametrize("seed", range(3))
def test_it_is_where_100_000_midpoints_tend_to(seed):
    generator = np.random.default_rng(seed)
    network = ReluNet.random(generator, 5, 12, 8, 2)
    x, start = generator.standard_normal((2, 5))
    result = exact(network.module(), torch.tensor(x)[None], baseline=torch.tensor(start)[None], target=0)
    truth = midpoint_ig(lambda points: network.gradient(points, 0), x, start)
    assert np.abs(result.values[0].numpy() - truth).sum() < 1e-4 * np.abs(truth).sum()


class Bent(nn.Module):
    """Affine layers with bends between them, some bridged; what follows from `bends` and a seed."""

    KINDS = (
        "relu", "relu in place", "leaky", "hardtanh", "max-pool", "relu, max-pool", "relu, max-pool and itself", "abs",
        "clamp", "maximum", "minimum", "amax", "transposed", "rows merged",
    )  # fmt: skip

    def __init__(self, bends, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.bends = bends
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in bends).double()
        self.last = nn.Linear(12, 2).double()

    def forward(self, h):
        for number, (bend, layer) in enumerate(zip(self.bends, self.layers, strict=True)):
            out = self.bent(bend, layer(h))
            h = out + 0.5 * h if number % 2 else out
        return self.last(h)

    def bent(self, bend, z):
        square = z.reshape(-1, 1, 3, 4)
        if bend == "relu in place":
            return z.relu_()
        if bend == "leaky":
            return functional.leaky_relu(z, 0.1)
        if bend == "hardtanh":
            return functional.hardtanh(z, -0.4, 0.5)
        if bend == "max-pool":
            return functional.max_pool2d(square, 3, 1, padding=1).flatten(1)
        if bend == "relu, max-pool":
            return functional.max_pool2d(torch.relu(square), (2, 3), 1, padding=1).flatten(1)[:, :12]
        if bend == "relu, max-pool and itself":
            h = torch.relu(square)
            return functional.max_pool2d(h, 2).repeat(1, 1, 3, 2).flatten(1) + h.flatten(1)
        if bend == "abs":
            return z.abs()
        if bend == "clamp":
            return z.clamp(-0.3, 0.6)
        if bend == "maximum":
            return torch.maximum(z, z.roll(1, 1))
        if bend == "minimum":
            return torch.minimum(z, 0.3 * z.flip(1))
        if bend == "amax":
            return z - z.amax(1, keepdim=True) + z.amin(1, keepdim=True)
        if bend == "transposed":
            return torch.relu(z.T).T
        if bend == "rows merged":
            return torch.relu(z.reshape(-1, 4)).reshape(-1, 12)
        return torch.relu(z)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(Bent.KINDS), min_size=1, max_size=4), st.integers(0, 10_000))
def test_random_networks_are_complete_and_their_pieces_join(bends, seed):
    model = Bent(bends, seed)
    x, start = normal(3, 12, seed=seed), normal(3, 12, seed=seed + 1)
    result = exact(model, x, baseline=start, target=1)
    assert float((result.residual.abs() / result.values.abs().sum(1)).max()) <= 1e-10
    assert result.converged.all() and float(result.error.max()) <= 1e-10
    assert np.allclose(np.nansum(result.trace.weights, 1), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", Bent.KINDS)
def test_every_bend_of_the_random_networks_agrees_with_brute_force(kind):
    model, x = Bent([kind, "relu", kind], 3), normal(3, 12)
    result = exact(model, x, baseline=-0.3, target=0)
    away = (result.values - brute(model, x, 4_000, baseline=-0.3, target=0)).abs().sum()
    assert float(away) < 3e-3 * float(result.values.abs().sum())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(Bent.KINDS), min_size=1, max_size=3), st.integers(0, 10_000))
def test_random_networks_in_single_precision_keep_four_digits_and_say_so(bends, seed):
    model = Bent(bends, seed)
    x, start = normal(2, 12, seed=seed), normal(2, 12, seed=seed + 1)
    wide = exact(model, x, baseline=start, target=1)
    narrow = exact(model.float(), x.float(), baseline=start.float(), target=1)
    away = (narrow.values.double() - wide.values).abs().sum(1) / wide.values.abs().sum(1)
    assert float(away.max()) < 1e-4 and bool((away.numpy() < 2 * narrow.error.numpy()).all())
    assert int((narrow.evaluations - wide.evaluations).max()) < 50


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_chunk_does_not_matter(chunk):
    model, x = Bent(["relu, max-pool", "abs", "maximum"], 1), normal(4, 12)
    alone = exact(model, x, target=0)
    chunked = exact(model, x, target=0, chunk=chunk)
    assert torch.allclose(alone.values, chunked.values, rtol=0, atol=1e-12)
    assert alone.evaluations.tolist() == chunked.evaluations.tolist()


@pytest.mark.parametrize("rows", range(1, 7))
def test_a_batch_that_is_not_the_first_axis_is_not_misread(rows):
    # A square of rows and places: both axes look like the batch.
    w = normal(4, 5)

    def model(x):
        return torch.relu((x @ w.T).T).T @ torch.ones(4, dtype=F64)

    x = normal(rows, 5, seed=2)
    result = exact(model, x, baseline=-0.3)
    assert result.converged.all()
    assert float((result.residual.abs() / result.values.abs().sum(1)).max()) < 1e-13
    for row in range(rows):
        assert torch.allclose(
            result.values[row], exact(model, x[row : row + 1], baseline=-0.3).values[0], atol=1e-13
        )


# ---- every class -----------------------------------------------------------------------------------------------


def test_every_class_at_once_is_each_class_alone_on_the_same_pieces():
    model, x = net(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)), normal(3, 5)
    every = exact(model, x, target="all", baseline=0.2)
    assert every.values.shape == (3, 4, 5) and every.residual.shape == (3, 4)
    assert every.error.shape == every.converged.shape == (3, 4) and every.converged.all()
    for column in range(4):
        one = exact(model, x, target=column, baseline=0.2)
        part = every.for_class(column)
        assert torch.allclose(part.values, one.values, rtol=0, atol=1e-13)
        assert part.evaluations.tolist() == one.evaluations.tolist()
        assert np.allclose(part.trace.derivative, one.trace.derivative, equal_nan=True)
        assert float(part.residual.abs().max()) < 1e-12


def test_every_class_of_a_probability_is_refused():
    with pytest.raises(Refused, match="softmax"):
        exact(lambda x: torch.softmax(x, 1), torch.ones(1, 3, dtype=F64), target="all")


def test_too_few_gradients_are_told_for_every_class():
    model, x = net(nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 2)), normal(2, 3)
    few = exact(model, x, target="all", max_evaluations=5)
    assert few.converged.shape == (2, 2) and not few.converged.any() and (few.error > 0).all()


# ---- borders ---------------------------------------------------------------------------------------------------


def test_a_kink_on_the_baseline_is_no_piece_of_its_own():
    one = torch.ones(1, 1, dtype=F64)
    result = exact(lambda x: torch.relu(x - 1).sum(1), 3 * one, baseline=1.0)
    assert result.values.item() == pytest.approx(2, abs=1e-14) and result.evaluations.tolist() == [1]
    result = exact(lambda x: torch.relu(1 - x).sum(1), one, baseline=-1.0)
    assert result.values.item() == pytest.approx(-2, abs=1e-14) and result.evaluations.tolist() == [1]


def test_kinks_that_coincide_are_one_border():
    result = exact(
        lambda x: (torch.relu(x - 1) + 2 * torch.relu(3 * x - 3) - (1 - x).abs()).sum(1),
        torch.tensor([[5.0]], dtype=F64),
    )
    assert result.values.item() == pytest.approx(25, abs=1e-13) and result.evaluations.tolist() == [2]


def test_a_kink_that_the_sign_of_a_gradient_at_zero_would_hide():
    # |x − 1| has gradient 0 where the first look falls, which belongs to neither side.
    result = exact(lambda x: (x - 1).abs().sum(1), torch.tensor([[2.0, 3.0]], dtype=F64))
    assert np.allclose(result.values, [[0, 1]], rtol=0, atol=1e-14) and result.converged.all()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_pool_does_not_mind_how_its_losers_bend(in_place):
    # Two of the ReLUs bend far below the winner; only the winner's bend is a border.
    model = net(nn.ReLU(in_place), nn.MaxPool2d(2), nn.Flatten())
    shift = torch.tensor([0.0, 2.5, 4.0, -1.0], dtype=F64).reshape(1, 1, 2, 2)
    scale = torch.tensor([10.0, 6.0, 6.0, 0.0], dtype=F64).reshape(1, 1, 2, 2)
    x = torch.ones(1, 1, 2, 2, dtype=F64)
    result = exact(lambda x: model(scale * x - shift - 1)[:, 0], x)
    assert result.values.sum().item() == pytest.approx(9, abs=1e-13)
    assert result.evaluations.tolist() == [2]
    both = exact(
        lambda x: model(scale * x - shift - 1)[:, 0] + torch.relu(scale * x - shift - 1).sum((1, 2, 3)), x
    )
    assert both.evaluations.tolist() == [4]


def test_a_pooled_relu_that_is_also_returned_keeps_its_bends():
    def model(x):
        h = torch.relu(x - 1)
        functional.max_pool2d(h, 2)
        return h[:, 0, 0, 1]

    x = torch.tensor([3.0, 2.2, 0.0, 0.0], dtype=F64).reshape(1, 1, 2, 2)
    result = exact(model, x)
    assert result.evaluations.tolist() == [3] and result.values.sum().item() == pytest.approx(1.2, abs=1e-14)


def test_pieces_that_do_not_join_are_not_called_exact():
    result = exact(lambda x: torch.where(x > 1, x, 0 * x).sum(1), torch.tensor([[2.0]], dtype=F64))
    assert not result.converged.any() and result.error.item() == pytest.approx(1, rel=1e-6)


def test_rounding_that_holds_a_switch_at_zero_ends():
    # In single precision x + 1e5 is a staircase: the ReLU's input is exactly zero on a whole stretch.
    result = exact(lambda x: torch.relu((x + 1e5) - (1e5 + 1)).sum(1), torch.tensor([[2.0]]))
    assert int(result.evaluations[0]) < 10_000
    assert result.values.item() == pytest.approx(1, abs=0.02)


def test_what_is_not_finite_is_refused_and_located():
    def model(x):
        return torch.where((x - 0.5).abs() < 0.1, torch.full_like(x, float("inf")), x).sum(1)

    with pytest.raises(Refused, match=r"not finite at α = 0\.5"):
        exact(model, torch.ones(1, 2, dtype=F64))


def test_a_homogeneous_network_with_pooling_takes_one_gradient():
    model = net(
        nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 5, bias=False),
        nn.LeakyReLU(), nn.Linear(5, 2, bias=False),
    )  # fmt: skip
    x = normal(3, 1, 8, 8)
    result = exact(model, x, target=1)
    assert result.evaluations.tolist() == [1, 1, 1]
    shortcut = whence.explain(model, x, "input_x_gradient", target=1).values
    assert torch.allclose(result.values, shortcut, rtol=1e-12, atol=1e-14)
