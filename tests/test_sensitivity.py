# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import whence
from whence import target
from whence.errors import BadInput, Refused, UnsupportedByBackend
from whence.registry import methods

X = np.random.default_rng(0).normal(size=(5, 4))
A = np.random.default_rng(1).normal(size=(4, 4))


def quadratic(x):
    return np.einsum("bi,ij,bj->b", x, A, x)


def wave(x):
    return np.sin(x).sum(1) * x[:, 0]


def wave_gradient(x):
    gradient = np.cos(x) * x[:, :1]
    gradient[:, 0] += np.sin(x).sum(1)
    return gradient


# ---- callables on NumPy ------------------------------------------------------------------------------------


def test_of_a_linear_function_it_is_the_squared_weights():
    w = np.array([2.0, -3.0, 0.5, 0.0])
    result = whence.explain(lambda x: x @ w, X, "sensitivity")
    assert np.allclose(result.values, w**2, atol=1e-10)


def test_of_a_quadratic_it_is_the_squared_gradient():
    result = whence.explain(quadratic, X, "sensitivity")
    assert np.allclose(result.values, (X @ (A + A.T)) ** 2, rtol=1e-8)


@pytest.mark.parametrize(("step", "tolerance"), [(0.01, 2e-3), (1e-4, 1e-6)])
def test_of_a_smooth_function_it_is_the_squared_gradient(step, tolerance):
    result = whence.explain(wave, X, whence.Sensitivity(step=step))
    assert np.allclose(result.values, wave_gradient(X) ** 2, rtol=tolerance, atol=tolerance)


def test_the_error_falls_with_the_square_of_the_step():
    errors = [
        np.abs(whence.explain(wave, X, whence.Sensitivity(step=step)).values - wave_gradient(X) ** 2).max()
        for step in (0.04, 0.02)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_the_step_is_relative_to_each_examples_range():
    seen = []

    def watched(x):
        seen.append(x.copy())
        return x.sum(1)

    whence.explain(watched, X[:1], whence.Sensitivity(step=0.1))
    moves = np.abs(np.concatenate(seen) - X[0]).max(1)
    assert np.allclose(moves[moves > 0], 0.1 * np.ptp(X[0]))


def test_each_feature_is_moved_up_and_down_once():
    rows = []

    def watched(x):
        rows.append(x.copy())
        return x.sum(1)

    result = whence.explain(watched, X[:2], "sensitivity")
    moved = np.concatenate(rows)
    moved = moved[~(moved[:, None] == X[None, :2]).all(2).any(1)]
    assert len(np.unique(moved, axis=0)) == len(moved) == 2 * 2 * 4
    assert result.evaluations.tolist() == [8, 8]


def test_a_constant_example_is_moved_too():
    result = whence.explain(lambda x: x.sum(1), np.full((1, 3), 5.0), "sensitivity")
    assert np.allclose(result.values, 1)


def test_whole_numbers_are_asked_between_them():
    result = whence.explain(quadratic, np.array([[1, 2, 3, 4]]), "sensitivity")
    assert np.allclose(result.values, (np.array([[1, 2, 3, 4]]) @ (A + A.T)) ** 2, rtol=1e-8)


def test_the_users_array_is_not_changed():
    x = X.copy()

    def scribbles(x):
        x *= 0
        return x.sum(1)

    whence.explain(scribbles, x, "sensitivity")
    assert np.array_equal(x, X)


def test_pictures_and_several_inputs_keep_their_shapes():
    picture, row = np.random.default_rng(0).random((2, 3, 4)), np.random.default_rng(1).random((2, 5))
    model = lambda a, b: (a**2).sum((1, 2)) * b.sum(1)  # noqa: E731
    values = whence.explain(model, (picture, row), "sensitivity").values
    assert np.allclose(values[0], (2 * picture * row.sum(1)[:, None, None]) ** 2, rtol=1e-6)
    assert np.allclose(values[1], ((picture**2).sum((1, 2))[:, None]) ** 2, rtol=1e-6)


def test_all_classes_of_a_black_box():
    W = np.random.default_rng(2).normal(size=(4, 3))
    result = whence.explain(lambda x: x @ W, X, "sensitivity", target="all")
    assert np.allclose(result.values, np.broadcast_to(W.T**2, (5, 3, 4)), atol=1e-9)


def test_targets_of_a_black_box_are_those_of_a_network():
    W = np.random.default_rng(2).normal(size=(4, 3))
    black = whence.explain(lambda x: x @ W, X, whence.Sensitivity(step=1e-4), target=target.probability(1))
    network = whence.explain(
        lambda x: x @ torch.tensor(W), torch.tensor(X), "sensitivity", target=target.probability(1)
    )
    assert np.allclose(black.values, network.values, atol=1e-7)
    assert np.allclose(black.output, network.output)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_chunks_of_a_black_box_do_not_matter(size):
    assert np.allclose(
        whence.explain(wave, X, "sensitivity", chunk=size).values,
        whence.explain(wave, X, "sensitivity").values,
    )


def test_float32_inputs_give_float32_values():
    assert whence.explain(wave, X.astype(np.float32), "sensitivity").values.dtype == np.float32


def test_keywords_of_a_black_box_follow_their_example():
    scale = np.arange(1.0, 6.0)
    result = whence.explain(lambda x, scale: x.sum(1) * scale, X, "sensitivity", kwargs={"scale": scale})
    assert np.allclose(result.values, (scale**2)[:, None])


def test_a_black_box_that_returns_a_list_of_numbers():
    result = whence.explain(lambda x: [float(each) for each in x.sum(1)], X, "sensitivity")
    assert np.allclose(result.values, 1)


# ---- scikit-learn ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def iris():
    from sklearn.datasets import load_iris

    return load_iris()


def test_a_classifier_is_its_probabilities(iris):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(iris.data, iris.target)
    x = iris.data[::30]
    result = whence.explain(model, x, whence.Sensitivity(step=1e-4), target=1)
    p = model.predict_proba(x)
    gradient = p[:, 1:2] * (model.coef_[1] - p @ model.coef_)
    assert np.allclose(result.values, gradient**2, atol=1e-7)
    assert np.allclose(result.output, p[:, 1])


def test_a_regressor_is_its_prediction(iris):
    from sklearn.linear_model import Ridge

    model = Ridge().fit(iris.data[:, :3], iris.data[:, 3])
    result = whence.explain(model, iris.data[:5, :3], "sensitivity")
    assert np.allclose(result.values, model.coef_**2)


def test_a_pipeline_is_a_model(iris):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(iris.data, iris.target)
    method = whence.SmoothGrad(method="sensitivity", samples=4)
    result = whence.explain(model, iris.data[:3], method, target=0)
    assert result.values.shape == (3, 4) and (result.standard_error > 0).any()


# ---- models with a gradient --------------------------------------------------------------------------------


def test_with_a_gradient_it_is_the_squared_gradient_at_the_cost_of_one():
    x = torch.tensor(X)
    result = whence.explain(lambda x: torch.sin(x).sum(1) * x[:, 0], x, "sensitivity")
    assert np.allclose(result.values, wave_gradient(X) ** 2) and result.evaluations.tolist() == [1] * 5


def test_a_step_asks_for_differences_even_there():
    x = torch.tensor(X)
    result = whence.explain(lambda x: torch.sin(x).sum(1) * x[:, 0], x, whence.Sensitivity(step=1e-4))
    assert (
        np.allclose(result.values, wave_gradient(X) ** 2, atol=1e-5)
        and result.evaluations.tolist() == [8] * 5
    )


def test_differences_at_a_layer():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    result = whence.explain(
        net, torch.tensor(X), whence.Sensitivity(step=0.01), target=1, at=whence.layer("1")
    )
    assert np.allclose(result.values, (net[2].weight.detach()[1] ** 2).expand(5, 3))


# ---- what does not work, and what does ---------------------------------------------------------------------

NEEDS_GRADIENT = [name for name, record in methods().items() if "gradient" in record.needs]


@pytest.mark.parametrize("name", NEEDS_GRADIENT)
def test_a_method_that_needs_a_gradient_names_what_works_on_a_black_box(name):
    picture = X.reshape(5, 2, 2)
    fields = {"baseline": picture} if name in ("expected_gradients", "deepshap") else {}
    with pytest.raises(UnsupportedByBackend, match="sensitivity"):
        whence.explain(lambda x: x.sum((1, 2)), picture, name, **fields)


@pytest.mark.parametrize("name", ["smoothgrad", "smoothgrad_squared", "vargrad"])
def test_samplers_work_on_black_boxes_around_sensitivity(name):
    with pytest.raises(UnsupportedByBackend, match=name):
        whence.explain(quadratic, X, name)
    result = whence.explain(quadratic, X, methods()[name].cls(method="sensitivity", samples=3))
    assert np.isfinite(result.values).all()


def test_a_black_box_has_no_layers():
    with pytest.raises(UnsupportedByBackend, match="no layers"):
        whence.explain(quadratic, X, "sensitivity", at=whence.layer("fc"))


@pytest.mark.parametrize("step", [0, -0.1])
def test_a_step_is_above_zero(step):
    with pytest.raises(BadInput, match="above 0"):
        whence.explain(quadratic, X, whence.Sensitivity(step=step))


def test_a_function_that_is_not_finite_near_the_input_is_refused():
    with (
        pytest.raises(Refused, match="not finite near the input"),
        np.errstate(divide="ignore", invalid="ignore"),
    ):
        whence.explain(lambda x: np.log(x).sum(1), np.array([[1e-6, 1.0]]), "sensitivity")


@pytest.mark.parametrize("array", [np.array([["a", "b"]]), np.array([[1 + 2j]])])
def test_what_is_not_numbers_is_refused(array):
    with pytest.raises(BadInput, match="numbers"):
        whence.explain(quadratic, array, "sensitivity")


@pytest.mark.parametrize("model", [3, None, "resnet50", object()])
def test_what_cannot_be_called_is_refused(model):
    with pytest.raises(BadInput, match="model is"):
        whence.explain(model, X, "sensitivity")
