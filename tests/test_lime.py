"""LIME: the surrogate of Ribeiro et al., fitted to what the model was really given."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import whence
from models import numpy_of
from oracles_coalition import Recorder, lime_of_pictures, smooth
from whence.errors import BadInput

SAME = 1e-9


def rows_of(count, features, seed=0):
    return np.random.default_rng(seed).normal(size=(count, features))


def seen_by(method, f, x, **options):
    """The result, and the coalitions that were asked (with the whole and the empty one), each once."""
    black_box = Recorder(f)
    found = whence.explain(black_box, x, method, **options)
    return found, np.unique(black_box.rows == x, axis=0)


# ---- exactness -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [60, 1000])
@pytest.mark.parametrize("baseline", [0.0, 0.5, "row"])
def test_of_a_linear_model_it_is_the_weights_times_the_change(samples, baseline):
    w, x = rows_of(1, 8)[0], rows_of(3, 8, seed=1)
    absent = rows_of(1, 8, seed=2) if baseline == "row" else np.full((1, 8), baseline)
    found = whence.explain(
        lambda x: x @ w + 3,
        x,
        "lime",
        ridge=0,
        samples=samples,
        baseline=absent if baseline == "row" else baseline,
    )
    assert np.abs(found.values - w * (x - absent)).max() <= SAME
    assert np.allclose(found.fidelity, 1) and found.error.max() <= 1e-9


def test_of_a_linear_network_in_torch_with_every_class():
    torch.manual_seed(0)
    model, x = torch.nn.Linear(6, 3).double(), torch.randn(2, 6, dtype=torch.float64)
    found = whence.explain(model, x, "lime", ridge=0, target="all")
    assert torch.allclose(found.values, (model.weight * x[:, None]).detach(), atol=SAME)
    assert found.fidelity.shape == (2, 3) and torch.allclose(found.fidelity, torch.ones(2, 3).double())
    assert torch.allclose(found.for_class(1).fidelity, torch.ones(2).double())


@pytest.mark.parametrize("ridge", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("width", [None, 0.1, 5.0])
def test_over_every_subset_it_is_weighted_ridge(ridge, width):
    f, x = smooth(7), rows_of(1, 7)
    found, design = seen_by(whence.LIME(ridge=ridge, kernel_width=width), f, x)
    assert len(design) == 2**7
    # All subsets together weigh as much as the 1,000 draws that they stand for.
    shrunk = ridge * 2**7 / 1000
    wanted, fidelity = lime_of_pictures(design, f(np.where(design, x, 0)), shrunk, width or 0.25)
    assert np.abs(found.values[0] - wanted).max() <= SAME
    assert found.fidelity[0] == pytest.approx(fidelity, abs=SAME)
    assert (found.error == 0).all() and found.evaluations[0] == 2**7 - 1


@pytest.mark.parametrize("d", [3, 5])
def test_few_features_are_not_shrunk_more_than_many(d):
    weights = np.arange(1.0, d + 1)
    found = whence.explain(lambda z: z @ weights, np.ones((1, d)), "lime")
    assert np.abs(found.values[0] / weights - 1).max() <= 0.05


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_background_that_fills_no_bins_is_said_and_columns_go_on_and_off(rows):
    background = np.random.default_rng(0).normal(size=(rows, 3))
    weights = np.array([1.0, 2.0, 3.0])
    fields = {"baseline": whence.baseline.dataset(background), "ridge": 1e-9}
    found = whence.explain(lambda z: z @ weights, np.full((1, 3), 5.0), "lime", **fields)
    assert any("fill no quartiles" in note for note in found.notes)
    assert np.abs(found.values[0] - weights * (5 - background.mean(0))).max() <= 1e-5


def test_a_table_takes_windows_and_a_mask_of_one_number():
    background = whence.baseline.dataset(np.random.default_rng(0).normal(size=(50, 4)))
    for features in (whence.features.patches(2, 1), np.zeros((1, 1), dtype=int)):
        found = whence.explain(
            lambda z: z.sum(1), np.ones((1, 4)), "lime", baseline=background, features=features
        )
        assert np.isfinite(found.values).all()


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_over_sampled_subsets_it_is_weighted_ridge_on_them(ridge):
    # Of 40 features no subset is drawn twice, so that each counts once.
    f, x = smooth(40), rows_of(1, 40)
    found, design = seen_by(whence.LIME(ridge=ridge, samples=300), f, x)
    drawn = design[design.any(1)]
    assert len(drawn) == 300 and drawn.all(1).sum() == 1
    wanted, fidelity = lime_of_pictures(drawn, f(np.where(drawn, x, 0)), ridge)
    assert np.abs(found.values[0] - wanted).max() <= 1e-8
    assert found.fidelity[0] == pytest.approx(fidelity, abs=1e-8)


def test_only_the_largest_are_kept_and_fitted_again():
    f, x = smooth(8), rows_of(2, 8)
    every = whence.explain(f, x, "lime", ridge=0.5)
    found, design = seen_by(whence.LIME(ridge=0.5, keep=3), f, x[:1])
    chosen = np.sort(np.argsort(-np.abs(every.values[0]))[:3])
    assert np.flatnonzero(found.values[0]).tolist() == chosen.tolist()
    # All subsets together weigh as much as 1,000 draws.
    wanted = lime_weights(design, f(np.where(design, x[:1], 0)), 0.5 * 2**8 / 1000, chosen)
    assert np.abs(found.values[0, chosen] - wanted).max() <= SAME
    more = whence.explain(f, x, "lime", ridge=0.5, keep=100)
    assert np.array_equal(more.values, every.values)


def lime_weights(design, outputs, ridge, chosen):
    """Ridge on some columns, with the weights of the whole coalitions."""
    from sklearn.linear_model import Ridge

    distance = 1 - np.sqrt(design.mean(1))
    weights = np.exp(-(distance**2) / (2 * 0.25**2))
    return Ridge(alpha=ridge, solver="svd").fit(design[:, chosen], outputs, sample_weight=weights).coef_


def test_the_fidelity_tells_a_crooked_function_from_a_straight_one():
    x = np.ones((1, 10))
    straight = whence.explain(lambda x: x.sum(1) + 0.1 * x[:, 0] * x[:, 1], x, "lime")
    crooked = whence.explain(lambda x: np.cos(np.pi * x.sum(1)), x, "lime")
    assert straight.fidelity[0] > 0.99 and crooked.fidelity[0] < 0.1
    assert whence.explain(lambda x: np.ones(len(x)), x, "lime").fidelity[0] == 1


# ---- sampling ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("samples", [300, 900])
def test_standard_errors_are_honest(samples):
    d = 11
    f, x = smooth(d), rows_of(3, d)
    exact = whence.explain(f, x, "lime", ridge=0, samples=2**d).values
    found = [whence.explain(f, x, "lime", ridge=0, samples=samples, seed=seed) for seed in range(200)]
    values, stated = (
        np.stack([getattr(each, part) for each in found]) for part in ("values", "standard_error")
    )
    spread = values.std(0, ddof=1)
    assert (np.abs(values.mean(0) - exact) <= (0.25 + 4 / np.sqrt(200)) * spread).all()
    assert 0.8 <= (np.sqrt((stated**2).mean(0)) / spread).mean() <= 1.25


@pytest.mark.slow
def test_a_tolerance_is_kept_for_nearly_all():
    inside, spent = [], []
    for number in range(3):
        f, x = smooth(17, seed=number), rows_of(3, 17, seed=number)
        exact = whence.explain(f, x, "lime", ridge=0, samples=2**17).values
        found = [whence.explain(f, x, "lime", ridge=0, rtol=0.1, seed=seed) for seed in range(30)]
        off = np.stack([np.abs(each.values - exact).sum(1) / np.abs(exact).sum(1) for each in found])
        inside.append(off <= 0.1)
        spent.append([each.evaluations for each in found])
        assert all(each.converged.all() for each in found)
    assert np.mean(inside) >= 0.95 and np.mean(spent) < 2**17 / 10


@pytest.mark.parametrize("fields", [{"samples": 500}, {"rtol": 0.05}], ids=["samples", "rtol"])
@pytest.mark.parametrize("d", [3, 8, 14])
def test_no_subset_is_asked_twice(fields, d):
    black_box = Recorder(smooth(d))
    found = whence.explain(black_box, rows_of(1, d), "lime", ridge=0, **fields)
    asked = black_box.after(2)
    assert len(np.unique(asked, axis=0)) == len(asked) == found.evaluations[0]


def test_a_subset_that_is_drawn_again_counts_again():
    # Half of the draws are of the same few subsets: a fit that counted them once would be another.
    f, x = smooth(6), rows_of(1, 6)
    few = [whence.explain(f, x, "lime", ridge=0, samples=40, seed=seed).values for seed in range(300)]
    exact = whence.explain(f, x, "lime", ridge=0, samples=64).values
    spread = np.std(few, 0, ddof=1)
    assert (np.abs(np.mean(few, 0) - exact) <= 0.5 * spread).all()


# ---- tables --------------------------------------------------------------------------------------------------


def test_of_a_table_a_column_is_on_where_its_value_is_in_the_inputs_quartile():
    background = np.random.default_rng(0).normal(size=(400, 4))
    x = np.array([[2.0, -2.0, 0.1, 0.0]])
    black_box = Recorder(lambda x: x @ np.array([1.0, 2.0, 0.0, -1.0]))
    found = whence.explain(black_box, x, "lime", baseline=whence.baseline.dataset(background), samples=800)
    rows = black_box.rows[-800:]
    edges = np.quantile(background, [0.25, 0.5, 0.75], axis=0)
    inside = (rows[:, None] > edges).sum(1) == (x[:, None] > edges).sum(1)
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    # Ribeiro et al.: Euclidean distance of the indicators, width 0.75 √columns.
    weights = np.sqrt(np.exp(-((~inside).sum(1)) / (0.75**2 * 4)))
    outputs = black_box.function(rows)
    model = Ridge(alpha=1.0, solver="svd").fit(inside, outputs, sample_weight=weights)
    assert np.abs(found.values[0] - model.coef_).max() <= 1e-8
    assert found.fidelity[0] == pytest.approx(r2_score(outputs, model.predict(inside), sample_weight=weights))
    assert all(np.isin(rows[1:, j], background[:, j]).all() for j in range(4))
    # In the top quartile of what adds, in the bottom of what adds: up and down; what does nothing, nothing.
    assert found.values[0, 0] > 1 and found.values[0, 1] < -2 and abs(found.values[0, 2]) < 0.5


def test_of_a_table_without_bins_columns_are_on_or_off():
    background, x, w = rows_of(20, 5), rows_of(2, 5, 1), np.arange(5.0)
    found = whence.explain(
        lambda x: x @ w, x, "lime", baseline=whence.baseline.dataset(background), bins=None, ridge=0
    )
    assert np.allclose(found.values, w * (x - background.mean(0)), atol=SAME)


def test_the_standard_errors_of_a_table_are_honest():
    background, x = rows_of(50, 4), rows_of(1, 4, 1)
    f = smooth(4)
    options = {"baseline": whence.baseline.dataset(background), "samples": 400}
    found = [whence.explain(f, x, "lime", seed=seed, **options) for seed in range(100)]
    values, stated = (
        np.stack([getattr(each, part) for each in found]) for part in ("values", "standard_error")
    )
    ratio = np.sqrt((stated**2).mean(0)) / values.std(0, ddof=1)
    assert 0.8 <= ratio.mean() <= 1.25


# ---- pictures, and what cannot be meant ------------------------------------------------------------------------


def test_superpixels_of_a_photograph_find_the_part_that_matters():
    picture = np.random.default_rng(0).random((1, 3, 96, 96)) * 0.1
    picture[:, :, 20:50, 30:60] += 0.8
    f = lambda x: x[:, :, 20:50, 30:60].mean((1, 2, 3))  # noqa: E731
    found = whence.explain(f, picture, "lime", samples=300)
    inside = np.abs(found.values[0, :, 20:50, 30:60]).mean()
    assert inside > 10 * np.abs(found.values[0, :, 60:]).mean() and found.fidelity[0] > 0.9
    assert 20 <= found.shares.shape[1] <= 80
    again = whence.explain(f, picture, "lime", samples=300)
    assert np.array_equal(again.values, found.values)


def test_float32_pictures_of_a_network():
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), torch.randn(2, 1, 8, 8)
    found = whence.explain(model, x, "lime", ridge=0, target=1, samples=400)
    labels = (np.arange(8) // 2)[:, None] * 4 + np.arange(8) // 2
    parts = numpy_of(model[1].weight[1].reshape(8, 8) * x[:, 0])
    wanted = np.stack([[part[labels == each].sum() for each in range(16)] for part in parts])
    assert found.values.dtype == torch.float32 and np.allclose(found.shares, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"ridge": -1}, "ridge"), ({"samples": 0}, "samples"), ({"samples": 100, "rtol": 0.1}, "give one"),
        ({"keep": 0}, "keep"), ({"keep": 1.5}, "keep"), ({"bins": "quartiles"}, "'quartile' or 'decile'"),
        ({"kernel_width": 0}, "kernel_width"), ({"kernel_width": -1.0}, "kernel_width"), ({"rigde": 1}, "ridge"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(fields, word):
    with pytest.raises(BadInput, match=word):
        whence.explain(smooth(3), rows_of(1, 3), "lime", **fields)


@pytest.mark.parametrize(
    "fields",
    [{"ridge": float("nan")}, {"ridge": "1"}, {"kernel_width": "wide"}, {"bins": ["quartile"]}],
    ids=str,
)
def test_settings_of_another_type_are_refused(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        whence.explain(smooth(3), rows_of(1, 3), "lime", **fields)
