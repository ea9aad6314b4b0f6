# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

from oracles import ReluNet, affine_matrix, midpoint_ig, relative_error

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

import whence
from whence.errors import BadInput, Refused

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def ig(model, inputs, **options):
    return whence.explain(model, inputs, "integrated_gradients", **options)


def close(values, wanted, tolerance=1e-12):
    wanted = torch.as_tensor(wanted, dtype=F64)
    assert torch.allclose(values, wanted, rtol=tolerance, atol=tolerance), (values, wanted)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


# ---- closed forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quadrature", ["gauss", "midpoint", "left", "right", "monte_carlo", "trapezoid"])
def test_linear_functions_are_exact_with_the_fewest_nodes(quadrature):
    w, x, start = normal(5), normal(3, 5, seed=1), normal(3, 5, seed=2)
    steps = 2 if quadrature in ("trapezoid", "monte_carlo") else 1
    result = ig(lambda x: x @ w + 7, x, baseline=start, quadrature=quadrature, steps=steps)
    close(result.values, (x - start) * w)
    close(result.residual, torch.zeros(3), 1e-12)


def test_linear_functions_converge_at_the_first_look():
    w = normal(5)
    for rtol, first_look in ((0.05, 16), (0.02, 32)):
        result = ig(lambda x: x @ w, normal(2, 5, seed=1), rtol=rtol)
        assert result.evaluations.tolist() == [first_look, first_look]
        assert float(result.error.max()) < 1e-14 and result.converged.all()


@pytest.mark.parametrize("baseline", [0.0, 0.7, -1.3])
def test_quadratic_with_cross_terms(baseline):
    # ∇ = 2Ax is linear along the path: its mean is that of the two ends.
    A = normal(4, 4)
    A = A + A.T
    x, start = normal(2, 4, seed=1), torch.full((2, 4), baseline, dtype=F64)
    result = ig(lambda x: torch.einsum("bi,ij,bj->b", x, A, x), x, baseline=baseline, steps=1)
    close(result.values, (x - start) * ((x + start) @ A))


def test_a_product_of_two_is_shared_equally_from_zero():
    result = ig(lambda x: x.prod(1), tensor([2.0, 3.0], [-1.0, 4.0]), steps=1)
    close(result.values, [[3, 3], [-2, -2]])


def test_a_product_of_three_is_shared_equally_from_zero():
    result = ig(lambda x: x.prod(1), tensor([2.0, 3.0, 5.0]), steps=2)
    close(result.values, [[10, 10, 10]])


def test_a_product_of_two_from_another_baseline():
    # ∫ x₂(α) dα (x₁ − b₁) with x₂ running from 1 to 3: 2 · (2 − 5); and 3.5 · (3 − 1).
    result = ig(lambda x: x.prod(1), tensor([2.0, 3.0]), baseline=tensor([5.0, 1.0]), steps=1)
    close(result.values, [[-6, 7]])


def test_a_power_needs_half_its_degree_of_gauss_nodes():
    result = ig(lambda x: (x**7).sum(1), tensor([1.5, -0.5]), steps=4)
    close(result.values, [[1.5**7, -(0.5**7)]])


@pytest.mark.parametrize("rtol", [0.1, 0.02, 0.005])
def test_a_ramp_whose_ends_have_no_gradient(rtol):
    # NUMERICS.md 5: both end gradients are zero, and the integral is 1.
    result = ig(lambda x: (torch.relu(x - 1) - torch.relu(x - 2)).sum(1), tensor([3.0]), rtol=rtol)
    assert float(result.values) == pytest.approx(1, rel=rtol)
    assert result.converged.all() and float(result.error) <= rtol


def test_max_of_two_switches_where_they_cross():
    # max(x₁, x₂) along (2α, 1 + α/2): the second leads until α = 2/3.
    result = ig(
        lambda x: x.amax(1),
        tensor([2.0, 1.5]),
        baseline=tensor([0.0, 1.0]),
        steps=3000,
        quadrature="midpoint",
    )
    close(result.values, [[2 / 3, 1 / 3]], 1e-9)


def test_a_hand_derived_network_with_two_kinks():
    # relu(x₁ − 1) + relu(x₂ + x₁ − 3) − relu(−x₂) at (4, 2) from 0: the first is on from α = ¼, the second from ½.
    def net(x):
        return torch.relu(x[:, 0] - 1) + torch.relu(x[:, 1] + x[:, 0] - 3) - torch.relu(-x[:, 1])

    truth = [[4 * (3 / 4 + 1 / 2), 2 * (1 / 2)]]
    close(ig(net, tensor([4.0, 2.0]), steps=400, quadrature="midpoint").values, truth)
    assert relative_error(ig(net, tensor([4.0, 2.0]), rtol=0.01).values, np.array(truth))[0] <= 0.01


def test_functional_in_place_and_reused_activations_are_all_integrated():
    relu = nn.ReLU()

    class Net(nn.Module):
        def forward(self, x):
            h = functional.relu(x - 1)
            return relu(relu(h * 2).sub(1)).mul(1).relu_()[:, 0]

    # 2(x − 1) − 1 is positive from x = 1.5: of the way from 0 to 3, half.
    close(ig(Net(), tensor([3.0]), steps=400, quadrature="midpoint").values, [[3.0]])


def test_saturation_is_seen_where_the_gradient_at_the_input_is_zero():
    model = lambda x: (1 - torch.relu(1 - x)).sum(1)  # noqa: E731
    close(whence.explain(model, tensor([2.0]), "saliency").values, [[0.0]])
    close(ig(model, tensor([2.0]), steps=200, quadrature="midpoint").values, [[1.0]])


def test_unused_features_get_exactly_zero():
    result = ig(lambda x: torch.tanh(x[:, 0]) * x[:, 2], normal(3, 4))
    assert torch.count_nonzero(result.values[:, [1, 3]]) == 0


def test_symmetric_features_get_equal_shares():
    values = ig(lambda x: torch.tanh(x[:, 0] * x[:, 1] + x.sum(1)), tensor([0.8, 0.8, 2.0]), rtol=0.1).values
    assert float(values[0, 0]) == pytest.approx(float(values[0, 1]), rel=1e-12)


# ---- against the slow oracles ------------------------------------------------------------------------------


def test_the_exact_oracle_agrees_with_brute_force(generator):
    net = ReluNet.random(generator, 6, 12, 9, 3)
    x, start = generator.standard_normal((2, 6))
    brute = midpoint_ig(lambda points: net.gradient(points, 1), x, start)
    assert np.abs(net.integrated(x, start, 1) - brute).max() < 1e-3


def test_the_exact_oracle_is_complete(generator):
    net = ReluNet.random(generator, 6, 12, 9, 3)
    x, start = generator.standard_normal((2, 6))
    difference = np.subtract(*net.value(np.stack([x, start]))[:, 2])
    assert net.integrated(x, start, 2).sum() == pytest.approx(difference, abs=1e-13)


@pytest.mark.parametrize("activation", [torch.tanh, functional.gelu, functional.silu, torch.sigmoid])
def test_smooth_networks_reach_1e_9_at_sixteen_gauss_nodes(activation):
    first, second = normal(10, 6) / 3, normal(10, seed=1)
    x, start = normal(2, 6, seed=2), normal(2, 6, seed=3) / 4

    def net(x):
        return activation(x @ first.T) @ second

    def gradient(points):
        leaf = torch.tensor(points, requires_grad=True)
        return torch.autograd.grad(net(leaf).sum(), leaf)[0].numpy()

    brute = [
        midpoint_ig(gradient, *pair, nodes=20_000) for pair in zip(x.numpy(), start.numpy(), strict=True)
    ]
    close(ig(net, x, baseline=start, steps=16).values, np.array(brute), 2e-9)


@pytest.mark.parametrize("rtol", [0.05, 0.01, 0.002])
def test_smooth_networks_keep_the_tolerance_and_the_estimate_is_safe(rtol):
    first, second = normal(10, 6), normal(10, seed=1)
    x = normal(8, 6, seed=2)
    net = lambda x: torch.tanh(x @ first.T) @ second  # noqa: E731
    truth, result = ig(net, x, steps=200).values, ig(net, x, rtol=rtol)
    errors = relative_error(result.values, truth)
    assert (errors <= rtol).all() and (errors <= result.error.numpy()).all()


def conv_net(seed):
    """Return a small CNN, and the same as matrices."""
    torch.manual_seed(seed)
    first, second = nn.Conv2d(1, 3, 3, padding=1).double(), nn.Conv2d(3, 4, 3, stride=2).double()
    last = nn.Linear(16, 5).double()
    matrices = [affine_matrix(first, (1, 6, 6)), affine_matrix(second, (3, 6, 6))]
    matrices.append((last.weight.detach().numpy(), last.bias.detach().numpy()))
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), last)
    return net, ReluNet(*(tuple(each) for each in zip(*matrices, strict=True)))


SIZES = [(12, 32, 24, 4), (6, 10, 4), (20, 16, 16, 16, 5), (64, 64, 10)]


def measured(rtol):
    """Return true and estimated errors of 100 random ReLU networks, MLPs of four shapes and CNNs, on two rows each."""
    true, estimated = [], []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        if seed % 2:
            model, oracle = conv_net(seed)
            x = generator.random((2, 1, 6, 6))
        else:
            oracle = ReluNet.random(generator, *SIZES[seed // 2 % 4])
            model, x = oracle.module(), generator.standard_normal((2, SIZES[seed // 2 % 4][0]))
        result = ig(model, x, rtol=rtol, target=seed % 4, max_evaluations=1 << 14)
        assert result.converged.all()
        flat = x.reshape(2, -1)
        truth = np.array([oracle.integrated(row, row * 0, seed % 4) for row in flat])
        true.append(relative_error(result.values, truth))
        estimated.append(result.error)
    return np.concatenate(true), np.concatenate(estimated)


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [0.05, 0.02, 0.01])
def test_the_tolerance_is_kept_and_the_estimate_is_honest(rtol):
    true, estimated = measured(rtol)
    ratio = (estimated / np.where(true > 0, true, 1))[true > 0]
    assert (true <= rtol).mean() >= 0.95
    assert (ratio >= 2 / 3).mean() >= 0.95
    assert ((ratio >= 2 / 3) & (ratio <= 3)).mean() >= 0.85
    assert 0.9 < np.median(ratio) < 2


# ---- what a tolerance costs --------------------------------------------------------------------------------


def ramps(x):
    """Easy where the first feature is 0: then linear."""
    return x[:, 1] + sum(torch.relu(x[:, 0] - k / 7) * (-1) ** k for k in range(7))


EASY, HARD = [0.0, 1.0], [1.0, 0.1]


def test_easy_examples_leave_the_batch_early():
    result = ig(ramps, tensor(EASY, HARD, EASY), rtol=0.01)
    easy, hard, again = result.evaluations.tolist()
    assert easy == again == 32 and hard >= 64 and result.converged.all()


@pytest.mark.parametrize("row", [EASY, HARD])
def test_an_example_is_explained_as_if_it_were_alone(row):
    together, alone = ig(ramps, tensor(EASY, HARD, row), rtol=0.01), ig(ramps, tensor(row), rtol=0.01)
    close(together.values[2:], alone.values, 1e-13)
    assert together.evaluations[2] == alone.evaluations[0]
    assert float(together.error[2]) == pytest.approx(float(alone.error[0]))


def test_no_gradient_is_computed_beyond_the_evaluations_that_are_reported():
    rows = 0

    def counted(x):
        nonlocal rows
        rows += len(x) if x.requires_grad else 0
        return ramps(x)

    result = ig(counted, tensor(EASY, HARD), rtol=0.01, fuse=False)
    assert rows == int(result.evaluations.sum())


@pytest.mark.parametrize("most", [1, 5, 8, 10, 31, 100])
def test_max_evaluations_is_honoured(most):
    result = ig(ramps, tensor(HARD), rtol=1e-6, max_evaluations=most)
    assert 0 < int(result.evaluations[0]) <= most
    assert not result.converged.any()
    assert any("max_evaluations" in note for note in result.notes)


def test_max_evaluations_that_runs_out_for_one_example_says_how_many():
    result = ig(ramps, tensor(EASY, HARD), rtol=1e-6, max_evaluations=64)
    assert result.converged.tolist() == [True, False]
    assert any(note.startswith("1 of 2 examples") for note in result.notes)


@pytest.mark.parametrize("steps", [1, 2, 13, 50])
def test_steps_is_the_exact_number_of_gradients(steps):
    rows = 0

    def counted(x):
        nonlocal rows
        rows += len(x) if x.requires_grad else 0
        return (x**2).sum(1)

    # Fusion looks at the model a few times more before it begins.
    result = ig(counted, normal(3, 4), steps=steps, fuse=False)
    assert rows == 3 * steps and result.evaluations.tolist() == [steps] * 3


def test_a_fixed_count_claims_no_error_and_has_converged():
    result = ig(ramps, tensor(HARD), steps=5)
    assert result.error is None and result.converged.all() and not result.notes


def test_a_tighter_tolerance_costs_more_and_errs_less():
    truth = ig(ramps, tensor(HARD), steps=7000, quadrature="midpoint").values
    loose, tight = (ig(ramps, tensor(HARD), rtol=rtol) for rtol in (0.1, 0.001))
    assert tight.evaluations[0] > loose.evaluations[0]
    assert relative_error(tight.values, truth)[0] < relative_error(loose.values, truth)[0]


def test_the_trace_is_the_integral():
    result = ig(ramps, tensor(EASY, HARD), rtol=0.01)
    trace = result.trace
    along = np.nansum(trace.weights * trace.derivative, axis=1)
    assert np.allclose(along, result.values.sum(1), atol=1e-12)
    assert np.allclose(np.nansum(trace.weights, axis=1), 1)


def test_the_trace_holds_the_nodes_of_each_example_in_order():
    result = ig(ramps, tensor(EASY, HARD), rtol=0.01)
    for row, count in enumerate(result.evaluations.tolist()):
        nodes = result.trace.nodes[row]
        nodes = nodes[~np.isnan(nodes)]
        assert len(nodes) == count and (np.diff(nodes) > 0).all()


def test_the_trace_holds_the_output_at_each_node():
    result = ig(ramps, tensor(HARD), steps=9)
    points = result.trace.nodes[0][:, None] * np.array(HARD)
    assert np.allclose(result.trace.output[0], ramps(torch.tensor(points)))


def test_an_infinite_gradient_on_the_path_is_refused_and_named():
    with pytest.raises(Refused, match=r"not finite at α = 0 on the path of example 1"):
        ig(
            lambda x: torch.sqrt(x).sum(1),
            tensor([1.0], [2.0]),
            baseline=tensor([0.5], [0.0]),
            steps=5,
            quadrature="left",
        )


# ---- second order at the input -----------------------------------------------------------------------------


def test_taylor_is_exact_for_quadratics():
    A, x, start = normal(4, 4), normal(2, 4, seed=1), normal(2, 4, seed=2)
    model = lambda x: torch.einsum("bi,ij,bj->b", x, A, x)  # noqa: E731
    close(
        ig(model, x, baseline=start, quadrature="taylor").values, ig(model, x, baseline=start, steps=1).values
    )


def test_taylor_is_its_formula_on_a_smooth_network():
    first, second, x = normal(6, 4), normal(6, seed=1), normal(3, 4, seed=2)
    net = lambda x: torch.tanh(x @ first.T) @ second  # noqa: E731
    result = ig(net, x, quadrature="taylor", baseline=0.3)
    for row, value in zip(x, result.values, strict=True):
        way = row - 0.3
        slope = torch.func.grad(lambda v: net(v[None])[0])(row)
        hessian = torch.func.hessian(lambda v: net(v[None])[0])(row)
        close(value, way * (slope - 0.5 * hessian @ way))
    assert result.evaluations.tolist() == [2, 2, 2] and result.residual is not None


def test_taylor_of_a_piecewise_linear_network_is_input_times_gradient():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    x = normal(2, 4)
    expected = whence.explain(net, x, "input_x_gradient", target=0).values
    close(ig(net, x, target=0, quadrature="taylor").values, expected)


def test_taylor_of_every_class_is_ten_single_ones():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 10)).double()
    x = normal(2, 4)
    singles = [ig(net, x, target=k, quadrature="taylor").values for k in range(10)]
    close(ig(net, x, target="all", quadrature="taylor").values, torch.stack(singles, 1))


def test_taylor_goes_with_the_straight_line_only():
    with pytest.raises(Refused, match="straight"):
        ig(lambda x: x.sum(1), normal(2, 3), quadrature="taylor", path="stochastic")


# ---- baselines, masks and normalisation --------------------------------------------------------------------


def test_no_difference_gives_zeros_and_no_error():
    result = ig(ramps, tensor(HARD), baseline=tensor(HARD))
    assert torch.count_nonzero(result.values) == 0
    assert float(result.error) == 0 and result.converged.all() and float(result.residual) == 0


def test_several_baselines_are_the_mean_of_single_runs():
    x, other = normal(3, 2), normal(3, 2, seed=1)
    parts = [ig(ramps, x, baseline=each, steps=20) for each in (0.0, 0.5, other)]
    both = ig(ramps, x, baseline=[0.0, 0.5, other], steps=20)
    close(both.values, torch.stack([part.values for part in parts]).mean(0))
    close(both.residual, torch.stack([part.residual for part in parts]).mean(0))
    close(both.baseline_output, torch.stack([part.baseline_output for part in parts]).mean(0))
    assert both.evaluations.tolist() == [60] * 3


def test_residual_is_the_sum_less_the_difference():
    result = ig(ramps, tensor(HARD, EASY), steps=3)
    close(result.residual, result.values.sum(1) - (result.output - result.baseline_output))
    assert float(result.residual[0].abs()) > 1e-3, "three nodes do not integrate seven kinks"


def bilinear(x):
    return x[:, 0] * x[:, 1] + x[:, 2]


@pytest.mark.parametrize("mask", [[True, False, True], [1, 0, 1]])
def test_masked_features_get_zero_and_stay_at_the_input(mask):
    x = tensor([2.0, 3.0, 5.0], [1.0, -2.0, 4.0])
    result = ig(bilinear, x, where=torch.tensor(mask), steps=4)
    # The second stays at its value, so that the first is worth all of the product.
    close(result.values, [[6, 0, 5], [-2, 0, 4]])
    assert torch.count_nonzero(result.values[:, 1]) == 0
    close(result.baseline_output, [0, 0])


def test_a_mask_may_differ_between_examples():
    x = tensor([2.0, 3.0, 5.0], [2.0, 3.0, 5.0])
    where = torch.tensor([[True, False, False], [False, False, True]])
    close(ig(bilinear, x, where=where, steps=4).values, [[6, 0, 0], [0, 0, 5]])


def test_masks_of_several_inputs_are_matched_by_name():
    model = lambda a, b: (a * b).sum(1)  # noqa: E731
    inputs = {"a": tensor([2.0, 3.0]), "b": tensor([5.0, 7.0])}
    where = {"b": torch.tensor([True, True]), "a": torch.tensor([False, True])}
    values = ig(model, inputs, where=where, steps=4).values
    close(values["a"], [[0, 10.5]])
    close(values["b"], [[10, 10.5]])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (5, 4), (1, 1, 4)])
def test_a_mask_that_does_not_fit_is_refused(shape):
    with pytest.raises(BadInput, match="does not fit"):
        ig(lambda x: x.sum(1), normal(1, 4), where=torch.ones(shape))


@pytest.mark.parametrize("quadrature", [{"steps": 9}, {"rtol": 0.01}, {"quadrature": "taylor"}])
def test_normalize_equals_normalising_by_hand(quadrature):
    x = normal(3, 2) * 4 + 1
    least, most = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    inside = ig(ramps, x, normalize=True, **quadrature)
    by_hand = ig(ramps, (x - least) / (most - least), **quadrature)
    for name in ("values", "output", "baseline_output", "residual"):
        close(getattr(inside, name), getattr(by_hand, name))


def test_normalize_of_a_constant_input_is_no_division_by_zero():
    assert torch.isfinite(ig(ramps, torch.full((1, 2), 3.0, dtype=F64), normalize=True).values).all()


# ---- structures: several inputs, keywords, outputs ---------------------------------------------------------


def test_a_tuple_with_none_comes_back_as_it_was_given():
    def model(a, nothing, b):
        assert nothing is None
        return (a * b).sum(1)

    result = ig(model, (tensor([2.0, 3.0]), None, tensor([5.0, 7.0])), steps=2)
    assert isinstance(result.values, tuple) and result.values[1] is None
    close(result.values[0], [[5, 10.5]])
    close(result.values[2], [[5, 10.5]])


def test_a_dict_is_passed_by_keyword_and_comes_back():
    result = ig(
        lambda left, right: (left * right**2).sum(1), {"left": tensor([2.0]), "right": tensor([3.0])}, steps=4
    )
    assert list(result.values) == ["left", "right"]
    close(result.values["left"], [[6]])
    close(result.values["right"], [[12]])


def test_baselines_of_a_dict_are_matched_by_name():
    inputs = {"a": tensor([2.0]), "b": tensor([3.0])}
    model = lambda a, b: (10 * a + b).sum(1)  # noqa: E731
    result = ig(model, inputs, baseline={"b": tensor([1.0]), "a": tensor([2.0])}, steps=1)
    close(result.values["a"], [[0]])
    close(result.values["b"], [[2]])


def test_a_baseline_for_a_name_that_is_no_input_is_refused():
    with pytest.raises(BadInput, match="does not name"):
        ig(lambda a: a.sum(1), {"a": tensor([2.0])}, baseline={"z": tensor([1.0])})


def test_inputs_of_different_shapes_are_integrated_together():
    model = lambda a, b: (a.sum(1) * b.flatten(1).sum(1)) ** 2  # noqa: E731
    result = ig(model, (normal(3, 2), normal(3, 4, 5, seed=1)), steps=4)
    assert [tuple(value.shape) for value in result.values] == [(3, 2), (3, 4, 5)]
    close(result.residual, torch.zeros(3), 1e-9)


def test_keyword_arrays_that_carry_the_batch_follow_their_example():
    scale, x = tensor(1.0, 10.0, 100.0), normal(3, 2)
    result = ig(
        lambda x, scale, shift: x.sum(1) * scale + shift, x, kwargs={"scale": scale, "shift": 5.0}, steps=3
    )
    close(result.values, x * scale[:, None])


def test_keyword_arrays_that_do_not_carry_the_batch_pass_untouched():
    weight = normal(2, seed=4)
    x = normal(3, 2)
    close(ig(lambda x, weight: x @ weight, x, kwargs={"weight": weight}, steps=3).values, x * weight)


class Structured(nn.Module):
    def forward(self, x):
        return {"sum": x.sum(1), "square": (x**2).sum(1)}


@pytest.mark.parametrize(
    ("model", "output"),
    [
        (Structured(), "square"),
        (lambda x: (x.sum(1), (x**2).sum(1)), 1),
        (lambda x: (x.sum(1), (x**2).sum(1)), -1),
        (Structured(), lambda out: out["square"]),
        (lambda x: ((x**2).sum(1), "a note"), None),
    ],
    ids=["name", "index", "negative index", "callable", "the only array"],
)
def test_output_picks_from_a_structured_output(model, output):
    x = normal(2, 3)
    close(ig(model, x, output=output, steps=1).values, x**2)


@pytest.mark.parametrize(
    ("output", "words"), [(None, "say which"), ("cube", "'square'"), (lambda out: 3, "not an array")]
)
def test_an_output_that_cannot_be_picked_is_refused(output, words):
    with pytest.raises(BadInput, match=words):
        ig(Structured(), normal(2, 3), output=output)


def test_float32_inputs_give_float32_values_and_float64_stays():
    w = normal(3)
    for dtype in (torch.float32, F64):
        result = ig(lambda x: x @ w.to(x.dtype), normal(2, 3).to(dtype), steps=2)
        assert result.values.dtype == dtype and not result.values.requires_grad


def test_numpy_inputs_of_a_torch_model_give_numpy_results():
    net = nn.Linear(3, 2)
    result = ig(net, np.ones((2, 3)), target=0)
    parts = (result.values, result.output, result.residual, result.error, result.converged, result.target)
    assert all(isinstance(part, np.ndarray) for part in parts)


# ---- a stretch of the network ------------------------------------------------------------------------------


def test_at_a_layer_the_path_runs_between_its_activations():
    first, last = nn.Linear(4, 6).double(), nn.Linear(6, 2).double()
    net, x = nn.Sequential(first, nn.Tanh(), last), normal(2, 4)
    result = ig(net, x, target=1, at=whence.layer("1"), steps=30)
    with torch.no_grad():
        z, start = torch.tanh(first(x)), torch.tanh(first(x * 0))
    close(result.values, (z - start) * last.weight.detach()[1])


def test_only_some_channels_of_a_layer_are_explained():
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double(), normal(2, 4)
    whole = ig(net, x, target=1, at=whence.layer("1"), steps=30).values
    some = ig(net, x, target=1, at=whence.layer("1", channels=[4, 0]), steps=30).values
    close(some, whole[:, [4, 0]])


# ---- expected gradients ------------------------------------------------------------------------------------


def test_expected_gradients_of_a_linear_model_are_exact_for_the_whole_data_set():
    w, x, rows = normal(3), normal(2, 3, seed=1), normal(5, 3, seed=2)
    result = whence.explain(lambda x: x @ w, x, "expected_gradients", baseline=rows, samples=10)
    close(result.values, (x - rows.mean(0)) * w)
    close(result.residual, torch.zeros(2), 1e-12)


def test_expected_gradients_are_the_mean_over_baselines_within_their_standard_error():
    x, rows = normal(2, 3, seed=1), normal(4, 3, seed=2)
    model = lambda x: torch.tanh(x.sum(1)) * x[:, 0]  # noqa: E731
    truth = torch.stack([ig(model, x, baseline=row, steps=40).values for row in rows]).mean(0)
    result = whence.explain(model, x, "expected_gradients", baseline=rows, samples=4000)
    assert ((result.values - truth).abs() < 4 * result.standard_error).all()
    assert float((result.standard_error / truth.abs()).median()) < 0.2


def test_expected_gradients_need_a_background():
    with pytest.raises(Refused, match="background"):
        whence.explain(lambda x: x.sum(1), normal(2, 3), "expected_gradients")
