"""Shapley values: exact ones equal brute force, sampled ones are as far off as they say."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import whence
from models import mlp, numpy_of
from oracles_coalition import (
    Recorder,
    game_of,
    shapley_by_orders,
    shapley_by_subsets,
    smooth,
)
from whence.errors import BadInput, Refused

SAME = 1e-10
# Ways to visit every subset of up to 10 features.
EXACT = {
    "exact": whence.ExactShapley(),
    "kernel": whence.KernelShap(samples=1024),
    "sampling": whence.ShapleySampling(samples=1024),
    "interaction": whence.ShapleyInteraction(samples=1024),
}
SAMPLED = {
    "kernel": whence.KernelShap(samples=300),
    "kernel-few": whence.KernelShap(samples=80),
    "sampling": whence.ShapleySampling(samples=30),
    "sampling-few": whence.ShapleySampling(samples=6),
}
every_way = pytest.mark.parametrize("method", EXACT.values(), ids=EXACT)


def rows_of(count, features, seed=0):
    return np.random.default_rng(seed).normal(size=(count, features))


def assert_exact(result, shares, tolerance=SAME):
    assert np.abs(numpy_of(result.values).reshape(shares.shape) - shares).max() <= tolerance
    assert np.abs(numpy_of(result.residual)).max() <= tolerance
    assert np.all(numpy_of(result.error) == 0) and np.all(numpy_of(result.converged))


# ---- exactness -----------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("d", [1, 2, 3, 4, 7])
def test_they_are_the_mean_gain_over_all_orders(method, d):
    f, x, absent = smooth(d), rows_of(2, d), rows_of(1, d, seed=1)
    result = whence.explain(f, x, method, baseline=absent)
    wanted = np.stack([shapley_by_orders(*game_of(f, row, absent)) for row in x])
    assert_exact(result, wanted)
    assert np.allclose(result.output, f(x)) and np.allclose(result.baseline_output, f(absent))


@every_way
@pytest.mark.parametrize("d", [8, 9, 10])
def test_they_are_the_weighted_gain_over_all_subsets(method, d):
    f, x = smooth(d), rows_of(1, d)
    assert_exact(whence.explain(f, x, method), shapley_by_subsets(*game_of(f, x[0], np.zeros((1, d))))[None])


@every_way
def test_every_class_of_a_black_box_and_of_a_network(method):
    model, x = mlp(5, 3, dtype=torch.float64), rows_of(2, 5)
    f = lambda rows: model(torch.as_tensor(rows)).detach().numpy()  # noqa: E731
    wanted = np.stack([shapley_by_orders(*game_of(f, row, np.zeros((1, 5)))).T for row in x])
    for found in (
        whence.explain(f, x, method, target="all"),
        whence.explain(model, torch.as_tensor(x), method, target="all"),
    ):
        assert found.values.shape == found.shares.shape == (2, 3, 5)
        assert_exact(found, wanted)
        assert np.allclose(numpy_of(found.for_class(1).values), wanted[:, 1])
    top = whence.explain(f, x, method)
    assert_exact(top, wanted[np.arange(2), f(x).argmax(1)])


@every_way
@pytest.mark.parametrize("kind", [tuple, dict])
def test_several_inputs_are_one_game(method, kind):
    f = smooth(6)
    model = lambda left, right: f(np.concatenate([left, right.reshape(len(right), -1)], 1))  # noqa: E731
    left, right = rows_of(2, 2), rows_of(2, 4, seed=1).reshape(2, 2, 2)
    given = (left, right) if kind is tuple else {"left": left, "right": right}
    found = whence.explain(model, given, method, features="elements")
    x = np.concatenate([left, right.reshape(2, 4)], 1)
    wanted = np.stack([shapley_by_subsets(*game_of(f, row, np.zeros((1, 6)))) for row in x])
    parts = found.values if kind is tuple else tuple(found.values.values())
    assert parts[0].shape == (2, 2) and parts[1].shape == (2, 2, 2)
    assert np.allclose(np.concatenate([parts[0], parts[1].reshape(2, 4)], 1), wanted, atol=SAME)


@every_way
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_over_a_background_they_are_the_mean(method, rows):
    f, x, background = smooth(5), rows_of(2, 5), rows_of(rows, 5, seed=3)
    method = whence.ShapleySampling(samples=4000) if isinstance(method, whence.ShapleySampling) else method
    found = whence.explain(f, x, method, baseline=whence.baseline.dataset(background))
    wanted = np.stack([shapley_by_subsets(*game_of(f, row, background)) for row in x])
    if rows > 1 and isinstance(method, whence.ShapleySampling):
        assert np.abs(found.values - wanted).max() <= 5 * found.standard_error.max()
        assert 0 < found.error.max() < 0.1
    else:
        assert_exact(found, wanted)
    assert np.allclose(found.baseline_output, f(background).mean(), atol=SAME)


@pytest.mark.parametrize(
    "baseline", [0.0, 0.5, "black", "white", "blur", np.full((1, 4, 4), 0.25)], ids=lambda each: str(each)[:5]
)
def test_what_is_absent_is_any_baseline(baseline):
    first = np.random.default_rng(0).normal(size=(16, 6))
    f = lambda rows: np.tanh(rows.reshape(len(rows), -1) @ first).sum(1)  # noqa: E731
    model = lambda rows: torch.tanh(rows.flatten(1) @ torch.as_tensor(first)).sum(1)  # noqa: E731
    x = np.random.default_rng(1).random((2, 1, 4, 4))
    spec = whence.baseline.blur(2.0) if isinstance(baseline, str) and baseline == "blur" else baseline
    method = whence.KernelShap(samples=16, features=whence.features.grid(2), baseline=spec)
    plain = whence.Preprocess(mean=(0.0,), std=(1.0,), range=(0.0, 1.0))
    found = whence.explain(model, torch.as_tensor(x), method, preprocess=plain)
    if isinstance(baseline, np.ndarray):
        absent = np.broadcast_to(baseline, x.shape)
    elif baseline == "blur":
        problem = whence.explain(model, torch.as_tensor(x), "integrated_gradients", steps=1, baseline=spec)
        assert np.allclose(numpy_of(problem.baseline_output), numpy_of(found.baseline_output))
        return
    else:
        absent = np.full(x.shape, {"black": 0.0, "white": 1.0}.get(baseline, baseline))
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    wanted = np.stack(
        [shapley_by_orders(*game_of(f, a, b[None], labels)) for a, b in zip(x, absent, strict=True)]
    )
    assert np.allclose(numpy_of(found.shares), wanted, atol=1e-7)
    assert np.allclose(numpy_of(found.values), wanted[:, labels][:, None], atol=1e-7)


@every_way
def test_symmetric_features_share_alike_and_one_that_does_nothing_has_nothing(method):
    f = lambda x: (x[:, 0] + x[:, 1]) ** 2 + x[:, 2]  # noqa: E731
    found = whence.explain(f, np.array([[0.7, 0.7, 3.0, 5.0]]), method).values[0]
    assert found == pytest.approx([0.98, 0.98, 3.0, 0.0], abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kernel_shap", "exact_shapley"])
def test_seventeen_features_are_visited_whole_in_a_moment(method):
    w = np.arange(17.0)
    fields = {"samples": 2**17} if method == "kernel_shap" else {}
    found = whence.explain(lambda x: (x @ w) ** 2, np.ones((1, 17)), method, **fields)
    assert np.allclose(found.values, w * w.sum(), atol=1e-6) and found.error.max() == 0
    assert found.evaluations.tolist() == [2**17 - 1] and found.settings["seconds"] < 10


# ---- standard errors -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", SAMPLED.values(), ids=SAMPLED)
@pytest.mark.parametrize("d", [10, 12])
def test_standard_errors_are_honest(method, d):
    f, x = smooth(d), rows_of(3, d)
    exact = whence.ExactShapley()(f, x).values
    found = [method(f, x, seed=seed) for seed in range(200)]
    values, stated = (
        np.stack([getattr(each, part) for each in found]) for part in ("values", "standard_error")
    )
    spread = values.std(0, ddof=1)
    # A ratio of sums is biased by a small part of its error: a quarter at the very most.
    assert (np.abs(values.mean(0) - exact) <= (0.25 + 4 / np.sqrt(200)) * spread).all()
    assert 0.8 <= (np.sqrt((stated**2).mean(0)) / spread).mean() <= 1.25
    # The expected error that is stated is the mean one.
    off = np.abs(values - exact).sum(2) / np.abs(exact).sum(1)
    error = np.stack([each.error for each in found])
    assert 0.8 <= error.mean() / off.mean() <= 1.25
    assert all(np.abs(each.residual).max() <= 1e-9 for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kernel_shap", "shapley_sampling"])
def test_a_tolerance_is_kept_for_nearly_all(name):
    d, rtol, inside, sure, spent = 17, 0.1, [], [], []
    for number in range(3):
        f, x = smooth(d, seed=number), rows_of(4, d, seed=number)
        exact = whence.ExactShapley()(f, x).values
        found = [whence.explain(f, x, name, rtol=rtol, seed=seed) for seed in range(50)]
        off = np.stack([np.abs(each.values - exact).sum(1) / np.abs(exact).sum(1) for each in found])
        assert all(each.converged.all() for each in found)
        inside.append(off <= rtol)
        sure.append(np.stack([each.error for each in found]) >= off * 2 / 3)
        spent.append([each.evaluations for each in found])
    assert np.mean(spent) < 2**d / 10 and np.mean(sure) >= 0.95
    assert np.mean(inside) >= 0.95


@pytest.mark.parametrize(
    "name",
    [
        "kernel_shap", "lime", "rise",
        "shapley_sampling",
    ],
)  # fmt: skip
def test_a_loose_tolerance_costs_less_than_every_subset(name):
    found = whence.explain(smooth(14), rows_of(1, 14), name, rtol=0.3)
    assert found.evaluations[0] < 2**14 / 8 and found.converged.all() and found.error.max() < 0.3


def test_what_the_budget_does_not_reach_is_said():
    found = whence.explain(smooth(20), rows_of(2, 20), "kernel_shap", rtol=1e-6, max_evaluations=300)
    assert not found.converged.any() and (found.error > 1e-6).all()
    assert (found.evaluations <= 310).all() and any("max_evaluations" in note for note in found.notes)


# ---- what is not asked twice, and what is refused ------------------------------------------------------------


@pytest.mark.parametrize("d", [3, 8, 14])
@pytest.mark.parametrize(
    "method",
    [
        whence.KernelShap(samples=200), whence.KernelShap(rtol=0.05), whence.ShapleySampling(samples=40),
        whence.ShapleySampling(rtol=0.2, max_evaluations=2000), whence.ExactShapley(),
    ],
    ids=["kernel", "kernel-rtol", "sampling", "sampling-rtol", "exact"],
)  # fmt: skip
def test_no_subset_is_asked_twice(method, d):
    black_box = Recorder(smooth(d))
    x = rows_of(1, d)
    found = method(black_box, x)
    # The first two runs are the input, and the input once more to see that the model is steady.
    asked = black_box.after(2)
    assert len(np.unique(asked, axis=0)) == len(asked) == found.evaluations[0]
    assert not (asked == x).all(1).any()
    assert (asked == 0).all(1).sum() == 1


@pytest.mark.parametrize("d", [21, 100_000])
def test_too_many_features_for_every_subset_are_refused_and_others_named(d):
    with pytest.raises(Refused, match="kernel_shap"):
        whence.explain(lambda x: x.sum(1), np.ones((1, d)), "exact_shapley")


@pytest.mark.parametrize("name", ["kernel_shap", "shapley_sampling", "shapley_interaction"])
def test_a_number_and_a_tolerance_exclude_each_other(name):
    with pytest.raises(BadInput, match="give one of them"):
        whence.explain(smooth(3), rows_of(1, 3), name, samples=60, rtol=0.1)
    for fields in ({"samples": 0}, {"samples": 2.5}, {"samples": -3}, {"rtol": 0}, {"rtol": "much"}):
        with pytest.raises(BadInput, match=next(iter(fields))):
            whence.explain(smooth(3), rows_of(1, 3), name, **fields)


@pytest.mark.parametrize("d", [3, 5, 8, 11, 16, 30])
@pytest.mark.parametrize("samples", [1, 10, 40])
def test_few_samples_still_give_an_answer(d, samples):
    for seed in range(20):
        found = whence.explain(smooth(d), rows_of(1, d), "kernel_shap", samples=samples, seed=seed)
        assert np.isfinite(found.values).all() and abs(found.residual[0]) < 1e-9
        assert np.isfinite(found.standard_error).all() and np.abs(found.values).max() < 100


@pytest.mark.parametrize("d", [1030, 4096])
def test_thousands_of_features_are_sampled(d):
    found = whence.explain(lambda x: x[:, :5].sum(1), np.ones((1, d)), "kernel_shap", samples=100)
    assert found.values.sum() == pytest.approx(5)


def test_a_budget_that_is_too_small_for_two_orders_is_refused():
    with pytest.raises(Refused, match="max_evaluations"):
        whence.explain(smooth(300), rows_of(1, 300), "shapley_sampling", rtol=0.1, max_evaluations=100)


def test_a_tolerance_may_be_numpys_own_number():
    found = whence.explain(smooth(3), rows_of(1, 3), "kernel_shap", rtol=np.float32(0.1))
    assert found.converged.all()


def test_orders_take_the_rows_of_a_background_by_chance():
    """A frame sorted by something must not show its first rows alone."""
    rows = np.sort(np.random.default_rng(0).normal(size=(100, 3)), 0) * 3
    weights, fields = np.array([1.0, 2.0, 3.0]), {"baseline": whence.baseline.dataset(rows)}
    exact = whence.explain(lambda x: x @ weights, np.ones((1, 3)), "exact_shapley", **fields).values
    found = whence.explain(lambda x: x @ weights, np.ones((1, 3)), "shapley_sampling", **fields)
    assert (np.abs(found.values - exact) <= 4 * found.standard_error).all()
    # Each row once: with as many pairs of orders as rows nothing is left to chance in a sum.
    every = whence.explain(lambda x: x @ weights, np.ones((1, 3)), "shapley_sampling", samples=200, **fields)
    assert np.abs(every.values - exact).max() <= 1e-12


@pytest.mark.parametrize("name", ["kernel_shap", "lime", "shapley_sampling", "rise", "shapley_interaction"])
def test_a_limit_without_a_tolerance_is_not_ignored(name):
    with pytest.raises(whence.BadInput, match="give rtol="):
        whence.explain(smooth(3), rows_of(1, 3), name, max_evaluations=100)
