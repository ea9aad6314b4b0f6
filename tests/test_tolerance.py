"""Integrals to a tolerance: segments that are refined on their own, smooth networks, models that jump."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

from oracles import ReluNet, relative_error

torch = pytest.importorskip("torch")

from torch.nn import functional

import whence
from whence import integrate
from whence.integrand import integrand
from whence.path import Straight
from whence.question import Call, asked
from whence.segments import Segments

F64 = torch.float64
SMOOTH = {
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
}


def ig(model, inputs, **options):
    return whence.explain(model, inputs, "integrated_gradients", **options)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def relu_net(seed=0, rows=3):
    """Return a random ReLU network, rows to explain, and their exact shares for class 0."""
    generator = np.random.default_rng(seed)
    oracle, x = ReluNet.random(generator, 12, 40, 24, 3), generator.standard_normal((rows, 12))
    return oracle.module(), x, np.array([oracle.integrated(row, row * 0, 0) for row in x])


def smooth_net(activation):
    first, second = normal(10, 6), normal(10, seed=1)
    return lambda x: activation(x @ first.T / 2) @ second


def trapezoid_in_u(model, row, nodes):
    """Return the plain rule the segments are made of: equal steps in u, α = u²."""
    u = torch.arange(1, nodes + 1, dtype=F64) / nodes
    points = ((u**2)[:, None] * torch.as_tensor(row)).requires_grad_()
    (gradient,) = torch.autograd.grad(model(points)[:, 0].sum(), points)
    weights = 2 * u / nodes
    weights[-1] /= 2
    return (weights @ gradient) * torch.as_tensor(row)


# ---- segments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halvings", [0, 1, 2, 3])
@pytest.mark.parametrize(("segments", "first"), [(1, 2), (2, 2), (5, 2), (8, 2), (1, 4), (3, 4), (8, 4)])
def test_segments_that_are_all_refined_alike_are_the_plain_trapezoid(segments, first, halvings):
    model, x, _ = relu_net()
    with asked(Call(model, x, target=0)) as question:
        problem = question.problem
        line = Straight().between(problem, (problem.point[0] * 0,), 0)
        state = Segments(problem, integrand(problem, line, 16), np.arange(len(x)), segments, first)
        for _ in range(halvings):
            before = state.shares(np.arange(len(x)))[0][0]
            state.refine(np.ones((len(x), segments), dtype=bool))
        (values,), (changes,) = state.shares(np.arange(len(x)))
        trapezoid_of_slopes, its_change = state.slope_total.sum(1), state.slope_change.sum(1)
    nodes = segments * first * 2**halvings
    assert (state.evaluations == nodes).all()
    wanted = torch.stack([trapezoid_in_u(model, row, nodes) for row in x])
    assert torch.allclose(values, wanted, rtol=1e-12, atol=1e-13)
    assert np.allclose(trapezoid_of_slopes, values.sum(1)) and np.allclose(its_change, changes.sum(1))
    if halvings:
        assert torch.allclose(changes, values - before, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", [0, "all"])
def test_the_trace_is_the_integral_whatever_was_refined(target):
    model, x, _ = relu_net()
    result = ig(model, x, target=target, rtol=0.004)
    assert len(set(result.evaluations.tolist())) > 1
    weights = result.trace.weights
    assert np.allclose(np.nansum(weights, 1), 1, atol=1e-13)
    weights = weights[..., None] if target == "all" else weights
    assert np.allclose(np.nansum(weights * result.trace.derivative, 1), result.values.sum(-1), atol=1e-12)
    counted = np.isfinite(result.trace.nodes).sum(1)
    assert (counted == np.asarray(result.evaluations)).all()
    assert all(len(np.unique(row[:n])) == n for row, n in zip(result.trace.nodes, counted, strict=True))


def test_gradients_are_spent_where_the_model_bends():
    """Every kink lies in the last quarter of the way in u: beyond α = 9/16."""
    kinks, slopes = torch.linspace(0.6, 0.95, 23, dtype=F64), normal(23, 4)

    def model(x):
        return x.sum(1) + (torch.relu(x[:, :1] - kinks) @ slopes * x[:, :1]).sum(1) + (x**2).sum(1) * 1e-3

    nodes = ig(model, torch.ones(1, 4, dtype=F64), rtol=1e-3).trace.nodes[0]
    assert (nodes > 9 / 16).sum() > 4 * (nodes <= 9 / 16).sum()


def test_refining_never_makes_the_shares_worse_beyond_noise():
    errors = []
    for seed in range(12):
        model, x, truth = relu_net(seed)
        errors.append([relative_error(ig(model, x, target=0, rtol=rtol).values, truth).mean()
                       for rtol in (0.1, 0.03, 0.01, 0.003, 0.001)])  # fmt: skip
    means = np.mean(errors, 0)
    assert (np.diff(means) <= 0).all()
    assert all((np.diff(each) < each[:-1] * 0.5).all() for each in map(np.array, errors))


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 15, 16, 17, 23, 100, 1000])
def test_no_example_gets_more_gradients_than_allowed(budget):
    model, x, _ = relu_net()
    result = ig(model, x, target=0, rtol=1e-9, max_evaluations=budget)
    assert (result.evaluations <= budget).all() and (result.evaluations > budget / 2).all()
    assert any("max_evaluations" in note for note in result.notes)


def test_rows_in_blocks_are_the_rows_together(monkeypatch):
    model, x, _ = relu_net(rows=7)
    together = ig(model, x, target=0, rtol=0.005)
    monkeypatch.setattr(integrate, "MEMORY", 8 * 6 * 12 * 8 * 3)
    apart = ig(model, x, target=0, rtol=0.005)
    assert np.allclose(together.values, apart.values, rtol=1e-12, atol=1e-13)
    assert (together.evaluations == apart.evaluations).all()
    assert np.allclose(together.trace.weights, apart.trace.weights, equal_nan=True)
    assert np.allclose(together.error, apart.error)


def test_a_row_too_large_for_segments_is_still_integrated_to_the_tolerance(monkeypatch):
    model, x, truth = relu_net()
    monkeypatch.setattr(integrate, "MEMORY", 1)
    result = ig(model, x, target=0, rtol=0.01)
    assert (relative_error(result.values, truth) <= 0.01).all() and result.converged.all()
    true = []
    for seed in range(40):
        model, x, truth = relu_net(seed, rows=2)
        true.append(relative_error(ig(model, x, target=0, rtol=0.02).values, truth))
    assert (np.concatenate(true) <= 0.02).mean() >= 0.95


def test_a_thousand_examples_at_once_are_each_as_if_alone():
    model, x, _ = relu_net(rows=1000)
    together = ig(model, x, target=0)
    assert together.converged.all() and len(set(together.evaluations.tolist())) > 2
    for row in (0, 499, 999):
        alone = ig(model, x[row : row + 1], target=0)
        assert np.allclose(alone.values[0], together.values[row], rtol=1e-9, atol=1e-12)
        assert alone.evaluations[0] == together.evaluations[row]


# ---- smooth networks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_networks_are_finished_in_few_nodes(name):
    model, x = smooth_net(SMOOTH[name]), normal(8, 6, seed=2)
    truth = ig(model, x, steps=200).values
    rough, usual, sharp = ig(model, x, rtol=0.05), ig(model, x), ig(model, x, rtol=1e-6)
    # The first look of small inputs: 32 gradients where 2 % are asked for, 16 where less is.
    assert (usual.evaluations == 32).all() and (rough.evaluations == 16).float().mean() >= 0.75
    assert (sharp.evaluations <= 512).all(), "of second order it would take thousands"
    for result, rtol in ((rough, 0.05), (usual, 0.02), (sharp, 1e-6)):
        true = relative_error(result.values, truth)
        assert (true <= rtol).all() and (true <= np.asarray(result.error)).all()


def test_a_smooth_network_is_extrapolated_and_the_trace_says_so():
    model, x = smooth_net(torch.tanh), normal(2, 6, seed=2)
    result = ig(model, x, rtol=1e-6)
    trace = result.trace
    assert np.allclose(np.nansum(trace.weights * trace.derivative, 1), result.values.sum(1), atol=1e-13)
    truth = ig(model, x[:1], steps=200).values.numpy()
    plain = trapezoid_in_u(lambda x: model(x)[:, None], x[0], int(result.evaluations[0]))
    ours = relative_error(result.values[:1], truth)[0]
    assert relative_error(plain[None], truth)[0] > 50 * ours, "the plain rule is not that good"


def test_random_kinked_networks_are_not_taken_for_smooth():
    """A lucky fourfold shrinking must not stop the work: the truth decides."""
    true = []
    for seed in range(60):
        model, x, truth = relu_net(seed, rows=2)
        true.append(relative_error(ig(model, x, target=0, rtol=0.02).values, truth))
    assert (np.concatenate(true) <= 0.02).mean() >= 0.95


@pytest.mark.parametrize("kink", [0.97, 0.37, 0.5])
def test_kinks_that_cancel_in_the_sum_are_not_smooth(kink):
    """The derivative along the path sees nothing of them, nor does the residual."""
    model = lambda x: torch.relu(x[:, 0] - kink) - torch.relu(x[:, 1] - kink) + 0.02 * x[:, 2] ** 2  # noqa: E731
    result = ig(model, torch.ones(1, 3, dtype=F64), rtol=0.01)
    truth = np.array([[1 - kink, kink - 1, 0.02]])
    assert relative_error(result.values, truth)[0] <= max(0.01, float(result.error[0]))


# ---- models that jump -------------------------------------------------------------------------------------------


def test_a_model_that_jumps_never_converges_and_is_told_apart():
    model = lambda x: torch.relu(x).sum(1) + 2.0 * (x[:, 0] > 0.5)  # noqa: E731
    result = ig(model, torch.ones(1, 3, dtype=F64), rtol=0.02)
    assert not result.converged.any()
    assert float(result.error[0]) >= 2 / 3 - 1e-6, "the jump of 2 is missing from shares of 3"
    assert any("jumps" in note for note in result.notes)


def test_a_rounding_model_never_converges():
    model = lambda x: x.sum(1) + (torch.round(x * 3) / 3).sum(1)  # noqa: E731
    assert not ig(model, torch.full((1, 4), 0.9, dtype=F64)).converged.any()


def test_a_bump_between_the_nodes_is_found_by_its_residual():
    """All nodes of the first look see the same gradient; only f at the ends knows better."""
    a = (11.5 / 16) ** 2

    def model(x):
        s = x.sum(1)
        return s + 40 * (torch.relu(s - a) - torch.relu(s - a - 0.004))

    x = torch.full((1, 1), 1.0, dtype=F64)
    result = ig(model, x, rtol=0.02)
    assert float(result.values.sum()) == pytest.approx(1.16, rel=0.03) and result.evaluations[0] > 16


# ---- half precision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_summed_in_single_and_ends(dtype):
    model, x, truth = relu_net()
    low = torch.as_tensor(x).to(dtype)
    result = ig(model.to(dtype), low, target=0, rtol=0.05)
    assert result.values.dtype == dtype and result.error.dtype == torch.float32
    size = {torch.float32: 0.05, torch.float16: 0.07, torch.bfloat16: 0.3}[dtype]
    assert (relative_error(result.values.float(), truth) <= size).all()
    assert (result.evaluations < 1024).all()


# ---- interrupted ----------------------------------------------------------------------------------------------------


class Stopping:
    """A model that is stopped by the keyboard at its n-th call with gradients."""

    def __init__(self, model, at):
        self.model, self.left = model, at

    def __call__(self, x):
        self.left -= x.requires_grad
        if self.left == 0:
            raise KeyboardInterrupt
        return self.model(x)


def test_ctrl_c_offers_the_answer_so_far():
    model, x, truth = relu_net()
    x = torch.as_tensor(x)
    with pytest.raises(whence.Interrupted) as stopped:
        ig(Stopping(model, 12), x, target=0, rtol=1e-4, chunk=16, fuse=False)
    partial = stopped.value.partial
    assert not partial.converged.any() and (partial.evaluations >= 16).all()
    assert (relative_error(partial.values, truth) <= partial.error.numpy() * 1.5).all()
    assert any("stopped by the keyboard" in note for note in partial.notes)
    assert np.allclose(np.nansum(partial.trace.weights * partial.trace.derivative, 1), partial.values.sum(1))


@pytest.mark.parametrize("at", [9, 14, 30, 41])
def test_ctrl_c_among_groups_of_rows_keeps_those_that_were_finished(monkeypatch, at):
    model, x, truth = relu_net(rows=6)
    monkeypatch.setattr(integrate, "MEMORY", 8 * 6 * 12 * 8 * 2)
    with pytest.raises(whence.Interrupted) as stopped:
        ig(Stopping(model, at), torch.as_tensor(x), target=0, rtol=1e-3, chunk=32, fuse=False)
    partial = stopped.value.partial
    assert partial.values.shape == (6, 12)
    unseen = partial.evaluations == 0
    assert not partial.converged[unseen].any() and torch.isinf(partial.error[unseen]).all()
    seen = ~unseen.numpy()
    assert (relative_error(partial.values, truth)[seen] <= 2 * partial.error.numpy()[seen]).all()


def test_ctrl_c_before_the_first_estimate_is_an_ordinary_one():
    model, x, _ = relu_net()
    x = torch.as_tensor(x)
    with pytest.raises(KeyboardInterrupt) as stopped:
        ig(Stopping(model, 1), x, target=0, chunk=4, fuse=False)
    assert not isinstance(stopped.value, whence.Interrupted)


def test_ctrl_c_among_several_baselines_keeps_no_mean_of_some():
    model, x, _ = relu_net()
    x = torch.as_tensor(x)
    with pytest.raises(KeyboardInterrupt) as stopped:
        ig(Stopping(model, 8), x, target=0, rtol=1e-4, chunk=64, baseline=[0.0, 1.0], fuse=False)
    assert not isinstance(stopped.value, whence.Interrupted)
