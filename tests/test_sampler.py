# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

from oracles import error_of_mean, error_of_variance

torch = pytest.importorskip("torch")

from torch import nn

import whence
from whence import baseline
from whence.backends.callable import NumpyOperations
from whence.errors import BadInput, Refused
from whence.moments import Moments, Running

F64 = torch.float64
SIGNED = whence.Saliency(absolute=False)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def close(values, wanted, tolerance=1e-12):
    wanted = torch.as_tensor(wanted, dtype=F64)
    assert torch.allclose(torch.as_tensor(values), wanted, rtol=tolerance, atol=tolerance), (values, wanted)


# ---- moments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e8], ids=["about zero", "far from zero"])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_welford_equals_numpy(generator, count, offset):
    draws = generator.standard_normal((count, 4, 3)) + offset
    moments = Moments(highest=4)
    for draw in draws:
        moments.add((draw,))
    assert np.allclose(moments.mean[0], draws.mean(0), rtol=1e-14)
    tolerance = 1e-12 if offset == 0 else 1e-6
    assert np.allclose(moments.variance()[0], draws.var(0, ddof=1), rtol=tolerance)
    assert np.allclose(moments.error_of_mean()[0], error_of_mean(draws), rtol=tolerance)
    assert np.allclose(moments.error_of_variance()[0], error_of_variance(draws), rtol=1e-5, atol=1e-7)


def test_a_single_draw_has_variance_zero():
    moments = Moments()
    moments.add((np.array([3.0]),))
    assert moments.variance()[0] == 0 and moments.mean[0] == 3


@pytest.mark.parametrize("sizes", [(1, 1), (5, 3), (1, 9, 2)])
def test_merged_groups_equal_all_draws_at_once(generator, sizes):
    draws = generator.standard_normal((sum(sizes), 2, 3)) + 7
    running = Running(np.zeros(2), np.zeros((2, 3)), np.zeros((2, 3)))
    for group in np.split(draws, np.cumsum(sizes)[:-1]):
        count = np.full(2, float(len(group)))
        squares = ((group - group.mean(0)) ** 2).sum(0)
        running.merge(NumpyOperations(), slice(0, 2), count, group.mean(0), squares)()
    assert np.allclose(running.mean, draws.mean(0))
    assert np.allclose(running.error_of_mean(NumpyOperations()), error_of_mean(draws))


# ---- linear models -----------------------------------------------------------------------------------------


def linear(x):
    return x @ torch.tensor([2.0, -3.0, 0.5, 0.0], dtype=x.dtype)


def test_smoothgrad_of_a_linear_model_is_its_weights_without_error():
    result = whence.explain(linear, normal(3, 4), whence.SmoothGrad(method=SIGNED))
    close(result.values, torch.tensor([[2, -3, 0.5, 0]] * 3, dtype=F64))
    assert torch.count_nonzero(result.standard_error) == 0


def test_smoothgrad_of_a_linear_model_is_their_size_by_default():
    close(whence.explain(linear, normal(1, 4), "smoothgrad").values, [[2, 3, 0.5, 0]])


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_vargrad_of_a_linear_model_is_zero_and_never_negative(dtype, scale):
    # PEERS.md 23: as E[x²] − E[x]² it is −2 for a linear model.
    x = normal(3, 4).to(dtype) * scale
    result = whence.explain(lambda x: linear(x) * scale + 1e5, x, "vargrad")
    assert float(result.values.min()) >= 0
    assert float(result.values.max()) <= 1e-10 * scale**2
    assert float(result.standard_error.max()) <= 1e-10 * scale**2


def test_smoothgrad_squared_of_a_linear_model_is_its_squared_weights():
    close(whence.explain(linear, normal(1, 4), "smoothgrad_squared").values, [[4, 9, 0.25, 0]])


# ---- a quadratic, whose gradient is the noise itself -------------------------------------------------------


def quadratic(x):
    return (x**2).sum(1) / 2


X = torch.tensor([[0.0, 2.0, 1.0, 0.5], [-10.0, 10.0, 0.0, 0.0]], dtype=F64)
RANGE = torch.tensor([[2.0], [20.0]], dtype=F64)


def test_the_noise_is_relative_to_each_examples_range():
    result = whence.explain(quadratic, X, whence.VarGrad(method=SIGNED, samples=2000, noise=0.1))
    close(result.values / (0.1 * RANGE) ** 2, torch.ones(2, 4), 0.15)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_mean_of_the_squares_is_the_square_of_the_mean_and_the_variance(noise):
    result = whence.explain(quadratic, X, whence.SmoothGradSquared(method=SIGNED, samples=4000, noise=noise))
    wanted = X**2 + (noise * RANGE) ** 2
    assert ((result.values - wanted).abs() < 4.5 * result.standard_error).all()


def test_no_noise_is_the_method_itself():
    smooth = whence.explain(quadratic, X, whence.SmoothGrad(method=SIGNED, noise=0.0))
    close(smooth.values, X)
    assert torch.count_nonzero(smooth.standard_error) == 0


@pytest.mark.parametrize(
    ("method", "truth"),
    [
        (whence.SmoothGrad(method=SIGNED, samples=30), X),
        (whence.SmoothGradSquared(method=SIGNED, samples=60), X**2 + (0.1 * RANGE) ** 2),
        (whence.VarGrad(method=SIGNED, samples=120), (0.1 * RANGE).expand(2, 4) ** 2),
    ],
    ids=["mean", "square", "variance"],
)
def test_the_standard_error_is_calibrated(method, truth):
    runs = [whence.explain(quadratic, X, method, seed=seed) for seed in range(60)]
    z = torch.cat([(run.values - truth) / run.standard_error for run in runs])
    assert float((z.abs() < 1.96).double().mean()) == pytest.approx(0.95, abs=0.05)


def test_the_statistics_are_those_of_the_draws():
    method = whence.SmoothGrad(method=SIGNED, samples=20)
    seen = []

    def watched(x):
        seen.append(x.detach().clone())
        return quadratic(x)

    result = whence.explain(watched, X[:1], method, chunk=1)
    draws = torch.cat(seen[-20:]).numpy()  # the gradient of the quadratic is its input
    assert np.allclose(result.values, draws.mean(0)) and np.allclose(
        result.standard_error, error_of_mean(draws)
    )


# ---- seeds and batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["smoothgrad", "smoothgrad_squared", "vargrad"])
def test_the_same_seed_gives_the_same_answer_and_another_does_not(method):
    one, same, other = (whence.explain(quadratic, X, method, seed=seed).values for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.allclose(one, other)


@pytest.mark.parametrize("method", ["smoothgrad", "smoothgrad_squared", "vargrad"])
def test_an_answer_does_not_depend_on_batch_mates(method):
    together, alone = whence.explain(quadratic, X, method), whence.explain(quadratic, X[1:], method)
    close(together.values[1:], alone.values)
    close(together.standard_error[1:], alone.standard_error)


def test_more_rows_than_are_explained_together_still_get_the_same_draws():
    many = X.repeat(100, 1)
    close(
        whence.explain(quadratic, many, "smoothgrad").values[-2:],
        whence.explain(quadratic, X, "smoothgrad").values,
    )


def test_torchs_own_generator_is_neither_used_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = whence.explain(quadratic, X, "smoothgrad").values
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(one, whence.explain(quadratic, X, "smoothgrad").values)


# ---- wrapping other methods --------------------------------------------------------------------------------


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def test_smoothgrad_of_integrated_gradients_is_their_mean_over_the_noisy_inputs(net):
    inner = whence.IntegratedGradients(steps=12)
    result = whence.explain(net, X[:1], whence.SmoothGrad(method=inner, samples=6), target=1)
    noisy = []

    def watched(x):
        noisy.append(x.detach().clone())
        return net(x)

    whence.explain(watched, X[:1], whence.SmoothGrad(method=SIGNED, samples=6), target=1, chunk=1)
    singles = [whence.explain(net, x, inner, target=1).values for x in noisy[-6:]]
    close(result.values, torch.stack(singles).mean(0))
    assert result.evaluations.tolist() == [6 * 12]


@pytest.mark.parametrize(
    "inner",
    [
        "saliency",
        "sensitivity",
        "input_x_gradient",
        whence.IntegratedGradients(rtol=0.1),
        whence.IntegratedGradients(baseline=[0.0, 1.0], steps=4),
        whence.IntegratedGradients(baseline=np.ones((2, 4)), steps=4),
        whence.IntegratedGradients(path="stochastic", steps=4),
        whence.GuidedIntegratedGradients(steps=4),
        whence.ExpectedGradients(baseline=normal(3, 4), samples=6),
        whence.SmoothGrad(samples=3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("wrapper", [whence.SmoothGrad, whence.SmoothGradSquared, whence.VarGrad])
def test_any_method_can_be_wrapped(net, wrapper, inner):
    result = whence.explain(net, X, wrapper(method=inner, samples=3), target=1)
    assert result.values.shape == X.shape == result.standard_error.shape
    assert torch.isfinite(result.values).all() and result.residual is None


def test_a_baseline_per_example_stays_with_its_example(net):
    start = normal(2, 4, seed=9)
    inner = whence.IntegratedGradients(baseline=start, steps=4)
    together = whence.explain(net, X, whence.SmoothGrad(method=inner, samples=3), target=1).values
    for row in range(2):
        inner = whence.IntegratedGradients(baseline=start[row : row + 1], steps=4)
        alone = whence.explain(net, X[row : row + 1], whence.SmoothGrad(method=inner, samples=3), target=1)
        close(together[row : row + 1], alone.values)


def test_a_mask_per_example_stays_with_its_example(net):
    where = torch.tensor([[True, False, True, True], [False, True, True, True]])
    method = whence.SmoothGrad(method=whence.IntegratedGradients(where=where, steps=4), samples=3)
    values = whence.explain(net, X, method, target=1).values
    assert torch.equal(values == 0, ~where)


def test_targets_per_example_stay_with_their_example(net):
    together = whence.explain(net, X, whence.SmoothGrad(method=SIGNED, samples=5), target=[2, 0]).values
    for row, which in enumerate([2, 0]):
        alone = whence.explain(
            net, X[row : row + 1], whence.SmoothGrad(method=SIGNED, samples=5), target=which
        )
        close(together[row : row + 1], alone.values)


def test_wrapping_at_a_layer(net):
    result = whence.explain(
        net, X, whence.SmoothGrad(method=SIGNED, samples=5), target=1, at=whence.layer("1")
    )
    close(result.values, net[2].weight.detach()[1].expand(2, 8))


def test_several_inputs_get_noise_of_their_own():
    result = whence.explain(
        lambda a, b: quadratic(a) + quadratic(b), (X, X * 5), whence.VarGrad(method=SIGNED, samples=1500)
    )
    close(result.values[1] / result.values[0], torch.full((2, 4), 25.0), 0.25)


def test_an_example_that_did_not_converge_in_any_draw_has_not_converged():
    method = whence.SmoothGrad(method=whence.IntegratedGradients(rtol=1e-9, max_evaluations=20), samples=3)
    result = whence.explain(lambda x: torch.relu(x - 0.4).sum(1), X, method)
    assert not result.converged.any() and any("max_evaluations" in note for note in result.notes)


# ---- what cannot be meant ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"samples": 1}, "at least 2"),
        ({"noise": -0.1}, "at least 0"),
        ({"noise": float("nan")}, "at least 0"),
        ({"method": "salience"}, "did you mean 'saliency'"),
        ({"method": 3}, "give a name"),
    ],
)
@pytest.mark.parametrize("wrapper", [whence.SmoothGrad, whence.SmoothGradSquared, whence.VarGrad])
def test_settings_that_cannot_be_meant_are_refused(wrapper, fields, words):
    with pytest.raises(BadInput, match=words):
        wrapper(**fields)


def test_whole_numbers_take_no_noise():
    embedded = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    tokens = torch.tensor([[1, 2]])
    with pytest.raises((Refused, BadInput), match=r"integer|whole numbers"):
        whence.explain(embedded, tokens, "smoothgrad", at=whence.layer("0"))


# ---- averages over baselines -------------------------------------------------------------------------------


def test_averages_over_random_baselines_carry_a_standard_error(net):
    many = whence.explain(net, X, target=1, baseline=baseline.gaussian(200, 0.3), steps=8)
    few = [
        whence.explain(net, X, target=1, baseline=baseline.gaussian(10, 0.3), steps=8, seed=s)
        for s in range(20)
    ]
    z = torch.cat([(run.values - many.values) / run.standard_error for run in few])
    assert 0.7 < float(z.std()) < 1.6


def test_a_single_baseline_has_none(net):
    assert whence.explain(net, X, target=1, steps=8).standard_error is None
