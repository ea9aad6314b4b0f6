"""The exact quadrature: closed forms, the oracle of kinks, every operation in its table, and what it refuses."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

from oracles import piecewise_ig

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


def test_too_many_pieces_are_refused_with_the_way_out():
    model = net(nn.Linear(3, 200), nn.ReLU(), nn.Linear(200, 1))
    with pytest.raises(Refused, match="max_evaluations"):
        exact(model, normal(1, 3), max_evaluations=3)


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
