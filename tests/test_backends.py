# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""The backends: one protocol, the same numbers; which model belongs to which; black boxes and estimators."""

import inspect
import random
import subprocess
import sys
import warnings
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

import whence
from models import assert_same, cnn, mlp, of_inputs, pictures, relative, seeded, settings_for
from whence import backends
from whence.backends import Backend, Operations, resolve
from whence.backends.callable import CallableBackend, NumpyOperations
from whence.backends.torch import TorchBackend, TorchOperations

NUMPY, TORCH = NumpyOperations(), TorchOperations()
METHODS = whence.methods()
BLACK_BOX = [name for name in METHODS if "gradient" not in METHODS[name].needs and of_inputs(name)]
BY_DIFFERENCES = [name for name in BLACK_BOX if not METHODS[name].cls.switches]


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


# ---- the protocol ----------------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(0)
A = GENERATOR.normal(size=(4, 3))
B = GENERATOR.normal(size=(4, 3))
PICTURE = GENERATOR.random((2, 3, 8, 6)).astype(np.float32)
ROWS = np.array([2, 0, 2])

# For each function of the protocol: its calls, given the operations and what turns NumPy into a native array.
CALLS = {
    "like": lambda ops, n: [
        ops.like(A, n(PICTURE)), ops.like(A.tolist(), n(A)), ops.like(2.5, n(A)),
        ops.like(n(B), n(A.astype(np.float32))),
        ops.like(A > 0, n(A)), ops.like(np.float64(3), n(np.arange(3))),
    ],
    "array": lambda ops, n: [
        ops.array(A, n(A)), ops.array(np.arange(3), n(A)), ops.array(A[:, 0] > 0, n(A)), ops.array(A.T, n(A)),
        ops.array(np.float64(1.5), n(A)), ops.array(np.zeros((0, 2)), n(A)),
    ],
    "numpy": lambda ops, n: [ops.numpy(n(A)), ops.numpy(n(A.T)), ops.numpy(n(np.arange(3)))],
    # What is the framework's own may be wrapped as ours, also inside of other things, and comes back as it was.
    "own": lambda ops, n: [ops.own(n(A)), *ops.own((n(A), [n(B)]))[:1], ops.own({"a": n(B)})["a"]],
    "native": lambda ops, n: [ops.native(ops.own(n(A))), ops.native(ops.own((n(A), 3)))[0]],
    "wide": lambda ops, n: [ops.wide(n(A.astype(kind))) for kind in (np.float16, np.float32, np.float64)],
    "cast": lambda ops, n: [ops.cast(n(A), n(PICTURE)), ops.cast(n(PICTURE), n(A))],
    "copy": lambda ops, n: [ops.copy(n(A)), ops.copy(n(A)[1:2]), ops.copy(n(A > 0))],
    "take": lambda ops, n: [
        ops.take(n(A), ROWS), ops.take(n(A), np.array([1, 1, 1])), ops.take(n(A), np.arange(0)),
        ops.take(n(A), np.array([3])), ops.take(n(PICTURE), np.array([0, 0])),
    ],
    "put": lambda ops, n: [
        _put(ops, n(A.copy()), np.array([3, 1]), n(B[:2])), _put(ops, n(A.copy()), np.arange(4), n(B)),
    ],
    "zeros": lambda ops, n: [ops.zeros((2, 3), n(A)), ops.zeros([1], n(PICTURE)), ops.zeros(n(A).shape, n(A))],
    "concatenate": lambda ops, n: [
        ops.concatenate([n(A), n(B)]), ops.concatenate((n(A), n(B)), 1), ops.concatenate([n(A)]),
    ],
    "accumulate": lambda ops, n: [
        _added(ops, n(np.ones((3, 3))), np.array([0, 2, 2, 0]), n(A)),
        _added(ops, n(np.zeros((12, 3))), np.array([*range(12), 3, 3]), n(np.resize(A, (14, 3)))),
    ],
    "laid_out": lambda ops, n: [
        ops.laid_out(n(PICTURE), True), ops.laid_out(n(PICTURE), False), ops.laid_out(n(A), True),
    ],
    "argsort": lambda ops, n: [ops.argsort(n(A)), ops.argsort(n(np.array([[1.0, 0.0, 1.0, 0.0, 1.0]])))],
    "along": lambda ops, n: [ops.along(n(A), ops.argsort(n(B)))],
    "stack": lambda ops, n: [ops.stack([n(A), n(B)]), ops.stack((n(A), n(B)), 1)],
    "where": lambda ops, n: [ops.where(n(A) > 0, n(A), n(B)), ops.where(n((A > 0) * 1.0), n(A), n(A) * 0)],
    "transpose": lambda ops, n: [ops.transpose(n(PICTURE), (0, 2, 3, 1)), ops.transpose(n(A), [1, 0])],
    "resize": lambda ops, n: [
        ops.resize(n(PICTURE), size) for size in ((8, 6), (4, 3), (5, 5), (16, 12), (3, 20), (1, 1))
    ],
    "softmax": lambda ops, n: [ops.softmax(n(A)), ops.softmax(n(A * 1e3)), ops.softmax(n(A[:, :1]))],
    "log_softmax": lambda ops, n: [ops.log_softmax(n(A)), ops.log_softmax(n(A * 1e3))],
    "log": lambda ops, n: [ops.log(n(np.abs(A)))],
    "sigmoid": lambda ops, n: [ops.sigmoid(n(A)), ops.sigmoid(n(A * 100))],
    "is_float": lambda ops, n: [ops.is_float(n(A)), ops.is_float(n(np.arange(3))), ops.is_float(n(A > 0))],
    "is_finite": lambda ops, n: [
        ops.is_finite(n(A)), ops.is_finite(n(A / 0)), ops.is_finite(n(A * np.nan)), ops.is_finite(n(np.arange(3))),
    ],
    "is_array": lambda ops, n: [ops.is_array(n(A)), ops.is_array(3.0), ops.is_array([1]), ops.is_array(None)],
}  # fmt: skip


def _put(ops, array, rows, value):
    return ops.put(array, rows, value)


def _added(ops, sums, cell, rows):
    weight = np.linspace(-1.0, 2.0, len(cell))
    before = np.asarray(sums).copy()
    write = ops.accumulate(sums, cell, weight, rows)
    assert np.array_equal(np.asarray(sums), before), "it is written when it is said, not before"
    return write()


def _native(value):
    return torch.from_numpy(np.ascontiguousarray(value))


def test_every_function_of_the_protocol_is_compared():
    functions = {name for name, _ in inspect.getmembers(Operations, inspect.isfunction) if name[0] != "_"}
    assert functions == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_operations_of_both_backends_agree(name):
    ours, theirs = CALLS[name](NUMPY, np.asarray), CALLS[name](TORCH, _native)
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        if isinstance(one, bool):
            assert one is two
            continue
        if name != "numpy":
            assert isinstance(two, torch.Tensor)
        found = np.asarray(two)
        assert one.shape == found.shape and one.dtype == found.dtype
        # Pictures are resized by two libraries, which round differently.
        tolerance = 1e-5 if name == "resize" else 1e-12 if one.dtype == np.float64 else 1e-6
        assert np.allclose(one, found, rtol=tolerance, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.integers(-3, 3), min_size=2, max_size=12),
    rows=st.lists(st.integers(0, 3), max_size=9),
)
def test_order_and_rows_agree_with_ties(values, rows):
    array = np.array([values] * 4, dtype=np.float64)
    assert np.array_equal(NUMPY.argsort(array), TORCH.argsort(_native(array)).numpy())
    index = np.array(rows, dtype=int)
    assert np.array_equal(NUMPY.take(array, index), TORCH.take(_native(array), index).numpy())


@pytest.mark.parametrize("ops, native", [(NUMPY, np.array), (TORCH, torch.tensor)])
def test_what_is_made_shares_no_memory_with_the_users(ops, native):
    given = native(A)
    copied = ops.copy(given)
    copied[0] = 99
    assert float(given[0, 0]) == A[0, 0]
    values = np.arange(3.0)
    made = ops.array(values, given)
    if ops is TORCH:
        made[0] = 99
    assert values[0] == 0


def test_half_precisions_go_to_numpy_and_are_widened():
    half = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
    assert TORCH.numpy(half).dtype == np.float32 and TORCH.wide(half).dtype == torch.float32
    assert TORCH.cast(TORCH.wide(half), half).dtype == torch.bfloat16
    graph = torch.ones(2, requires_grad=True) * 2
    assert TORCH.numpy(graph).tolist() == [2, 2] and not TORCH.like(graph, half).requires_grad


def test_both_backends_fulfil_the_protocol():
    functions = [name for name, _ in inspect.getmembers(Backend, inspect.isfunction) if name[0] != "_"]
    for backend in (TorchBackend(), CallableBackend()):
        assert isinstance(backend.name, str) and isinstance(backend.differentiable, bool)
        for name in functions:
            wanted = list(inspect.signature(getattr(Backend, name)).parameters)[1:]
            assert list(inspect.signature(getattr(backend, name)).parameters) == wanted, name
    for ops in (NUMPY, TORCH):
        for name in CALLS:
            wanted = list(inspect.signature(getattr(Operations, name)).parameters)[1:]
            assert list(inspect.signature(getattr(ops, name)).parameters) == wanted, name


def test_second_derivatives_of_torch_are_exact():
    def function(leaves):
        x, y = leaves
        return (x**3).sum(1) + (x[:, :1] * y).sum(1) ** 2

    leaves = tuple(torch.randn(3, 2, dtype=torch.float64) for _ in range(2))
    direction = tuple(torch.randn(3, 2, dtype=torch.float64) for _ in range(2))
    value, gradient, bent = TorchBackend().hessian_vector(function, leaves, direction)
    assert torch.allclose(value, function(leaves))
    step = 1e-5
    for sign, found in ((1, gradient), (0, bent)):
        assert all(not each.requires_grad for each in found), sign
    _, plus = TorchBackend().vjp(
        function, tuple(x + step * d for x, d in zip(leaves, direction, strict=True))
    )
    _, minus = TorchBackend().vjp(
        function, tuple(x - step * d for x, d in zip(leaves, direction, strict=True))
    )
    for up, down, exact in zip(plus(None), minus(None), bent, strict=True):
        assert torch.allclose((up - down) / (2 * step), exact, atol=1e-6)


# ---- which backend -----------------------------------------------------------------------------------------------


def test_a_model_finds_its_backend():
    x, t = np.zeros((2, 3)), torch.zeros(2, 3)
    assert resolve(nn.Linear(3, 1), x).name == "torch"
    assert resolve(nn.Linear(3, 1), t).name == "torch"
    assert resolve(lambda x: x, t).name == "torch"
    assert resolve(lambda x: x, (None, t)).name == "torch"
    assert resolve(lambda x: x, {"a": t, "b": None}).name == "torch"
    assert resolve(lambda x: x, x).name == "callable"
    assert resolve(lambda x: x, (x, None)).name == "callable"
    assert resolve(LogisticRegression(), x).name == "callable"
    assert resolve(np.sum, x).name == "callable"


def test_what_is_no_model_is_refused():
    x = np.zeros((2, 3))
    with pytest.raises(whence.BadInput, match="the text 'resnet'; pass the model itself"):
        whence.explain("resnet", x)
    for thing in (3, None, x, [nn.Linear(3, 1)], object()):
        with pytest.raises(whence.BadInput, match="cannot be called"):
            whence.explain(thing, x)


@pytest.mark.parametrize("module", ["paddle.nn", "mxnet.gluon", "mlx.nn", "tinygrad.nn"])
def test_frameworks_without_a_backend_say_what_works(module):
    class Model:
        def __call__(self, x):
            return x

    Model.__module__ = module
    with pytest.raises(whence.UnsupportedByBackend, match=f"{module.partition('.')[0]}.*sensitivity"):
        whence.explain(Model(), np.zeros((2, 3)))


def test_torch_is_not_imported_for_a_black_box():
    code = (
        "import sys, numpy as np, whence; whence.explain(lambda x: x.sum(1), np.ones((2, 3)), 'sensitivity');"
        "assert 'torch' not in sys.modules; whence.methods(); print('ok')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr


def test_the_submodule_named_callable_does_not_hide_the_function():
    assert inspect.ismodule(sys.modules["whence.backends.callable"])
    assert backends.resolve(lambda x: x, np.zeros((2, 3))).name == "callable"


# ---- black boxes -------------------------------------------------------------------------------------------------


def quadratic(x):
    return (x**2).sum(1)


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(BLACK_BOX)))
def test_what_needs_a_gradient_says_so_to_a_black_box(name):
    x = np.random.default_rng(0).normal(size=(3, 6, 6))
    with pytest.raises(whence.UnsupportedByBackend, match=r"black box has no (gradient|layers).*sensitivity"):
        whence.explain(quadratic_of_pictures, x, name, **settings_for(name, x))


def quadratic_of_pictures(x):
    return (x**2).sum((1, 2))


def test_layers_of_a_black_box_say_so():
    with pytest.raises(whence.UnsupportedByBackend, match="no layers"):
        whence.explain(quadratic, np.ones((2, 3)), "sensitivity", at=whence.layer("fc"))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, bool])
def test_a_function_of_numpy_arrays(dtype):
    x = np.array([[0, 1, 1], [1, 1, 0]]).astype(dtype)
    result = whence.explain(quadratic, x, "sensitivity")
    assert isinstance(result.values, np.ndarray)
    assert result.values.dtype == (np.float32 if dtype == np.float32 else np.float64)
    assert np.allclose(result.values, (2.0 * x) ** 2, atol=1e-3)
    assert result.evaluations.tolist() == [6, 6]
    assert result.settings["backend"] == "callable"


@pytest.mark.parametrize("name", BY_DIFFERENCES)
def test_methods_by_differences_agree_with_torch(name):
    model, x = mlp(dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)

    def black_box(rows):
        with torch.no_grad():
            return model(torch.from_numpy(rows)).numpy()

    method = METHODS[name].cls
    inner = {} if name == "sensitivity" else {"samples": 4}
    box = method(**(inner and inner | {"method": whence.Sensitivity()}))
    native = method(**(inner and inner | {"method": whence.Sensitivity()}))
    one = whence.explain(black_box, x.numpy(), box, target=[0, 1, 2, 0])
    two = whence.explain(model, x, native, target=[0, 1, 2, 0])
    assert relative(one.values, two.values) < 1e-2
    every = whence.explain(black_box, x.numpy(), box, target="all")
    assert every.values.shape == (4, 3, 6) and relative(every.values[0, 0], one.values[0]) < 1e-12


def test_a_black_box_may_do_what_it_likes_with_its_argument():
    x = np.random.default_rng(0).normal(size=(3, 4))
    kept = x.copy()

    def rude(rows):
        found = (rows**2).sum(1)
        rows[:] = np.nan
        return found

    result = whence.explain(rude, x, "sensitivity")
    assert np.allclose(result.values, (2 * x) ** 2) and np.array_equal(x, kept)
    x.flags.writeable = False
    assert np.allclose(whence.explain(rude, x, "sensitivity").values, (2 * x) ** 2)


def test_structures_keywords_and_outputs_of_a_black_box():
    x, y = np.arange(6.0).reshape(2, 3), np.ones((2, 2))

    def model(a=None, b=None, *, scale, offset=None):
        found = scale * (a**2).sum(1) + (0 if b is None else (b**3).sum(1)) + offset
        return {"scores": found, "other": None}

    kwargs = {"scale": 2.0, "offset": np.array([10.0, 20.0])}
    options = {"kwargs": kwargs, "chunk": 1}
    result = whence.explain(model, (x, y), "sensitivity", **options)
    assert np.allclose(result.values[0], (4 * x) ** 2) and np.allclose(result.values[1], 9, rtol=1e-3)
    assert result.output.tolist() == (2 * (x**2).sum(1) + 2 + [10, 20]).tolist()
    named = whence.explain(model, {"b": None, "a": x}, "sensitivity", **options)
    assert list(named.values) == ["b", "a"] and named.values["b"] is None
    assert np.allclose(named.values["a"], result.values[0])


def test_black_boxes_that_answer_oddly():
    x = np.ones((2, 3))
    assert whence.explain(lambda x: list(x.sum(1)), x, "sensitivity").output.tolist() == [3, 3]
    assert whence.explain(lambda x: x.sum(1).astype(int), x, "sensitivity").values.shape == x.shape
    for wrong in (lambda x: 3.0, lambda x: x.sum(), lambda x: np.zeros(5)):
        with pytest.raises(whence.BadInput, match="axis 0 must be the batch"):
            whence.explain(wrong, x, "sensitivity")
    with pytest.raises(whence.BadInput, match="not numbers"):
        whence.explain(lambda x: np.array(["cat"] * len(x)), x, "sensitivity")
    with pytest.raises(whence.BadInput, match="say how to get the array"):
        whence.explain(lambda x: None, x, "sensitivity")
    with pytest.raises(whence.BadInput, match="explained on numbers"):
        whence.explain(quadratic, np.array([["a", "b"]]), "sensitivity")
    with pytest.raises(whence.BadInput, match="NaN or infinity"):
        whence.explain(quadratic, np.array([[1.0, np.nan]]), "sensitivity")
    with pytest.raises(ZeroDivisionError):
        whence.explain(lambda x: 1 // 0, x, "sensitivity")


def test_a_black_box_that_draws_lots_is_noted_and_the_generators_are_put_back():
    before = (np.random.get_state()[1].copy(), random.getstate())
    result = whence.explain(
        lambda x: x.sum(1) + np.random.rand(len(x)) + random.random(), np.ones((2, 3)), "sensitivity"
    )
    assert any("not deterministic" in note for note in result.notes)
    assert_same(before, (np.random.get_state()[1].copy(), random.getstate()))


@pytest.mark.parametrize("chunk", [1, 5, None])
def test_a_black_box_is_asked_in_chunks(chunk):
    sizes = []

    def model(x):
        sizes.append(len(x))
        return quadratic(x)

    x = np.random.default_rng(0).normal(size=(4, 7))
    result = whence.explain(model, x, "sensitivity", chunk=chunk)
    assert np.allclose(result.values, (2 * x) ** 2)
    assert chunk is None or max(sizes) == chunk
    assert sum(sizes) >= 4 * 7 * 2


# ---- torch functions ------------------------------------------------------------------------------------------------


def test_a_function_of_torch_tensors():
    x = torch.randn(3, 4, dtype=torch.float64)
    result = whence.explain(lambda x: (x**3).sum(1), x, steps=2)
    assert torch.allclose(result.values, x**3) and result.settings["backend"] == "torch"


@dataclass
class Wrapped:
    inner: nn.Module

    def __call__(self, x):
        return self.inner(x)


def test_callable_objects_and_unhashable_ones():
    model, x = cnn(), pictures()
    expected = whence.explain(model, x, steps=4, chunk=4).values
    # A dataclass compares by value, so it cannot be hashed.
    assert torch.equal(whence.explain(Wrapped(model), x, steps=4, chunk=4).values, expected)
    assert relative(whence.explain(Wrapped(model), x, steps=4).values, expected) < 1e-6


# ---- scikit-learn -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def iris():
    data = load_iris()
    return data.data, data.target


def test_a_classifier_is_its_probabilities(iris):
    x, labels = iris
    model = LogisticRegression(max_iter=1000).fit(x, labels)
    rows = x[[0, 60, 120]]
    result = whence.explain(model, rows, "sensitivity")
    assert result.target.tolist() == model.predict(rows).tolist()
    assert np.allclose(result.output, model.predict_proba(rows).max(1))
    p = model.predict_proba(rows)
    top = np.arange(3), p.argmax(1)
    gradient = p[top][:, None] * (model.coef_[top[1]] - p @ model.coef_)
    assert np.allclose(result.values, gradient**2, rtol=0.01, atol=1e-6)
    probability = whence.explain(model, rows, "sensitivity", target=whence.target.probability())
    assert np.allclose(probability.values, result.values)
    every = whence.explain(model, rows, "sensitivity", target="all")
    assert every.values.shape == (3, 3, 4) and every.output.shape == (3, 3)


def test_a_regressor_is_its_prediction(iris):
    x, _ = iris
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(x[:, :3], x[:, 3])
    result = whence.explain(model, x[:5, :3], "sensitivity")
    slopes = model[-1].coef_ / model[0].scale_
    assert result.target is None and np.allclose(result.values, slopes**2)
    assert np.allclose(result.output, model.predict(x[:5, :3]))
    wrapped = whence.SmoothGrad(method=whence.Sensitivity(), samples=3)
    assert np.allclose(whence.explain(model, x[:5, :3], wrapped).values, slopes**2)


def test_estimators_without_probabilities(iris):
    x, labels = iris
    words = np.array(["setosa", "versicolor", "virginica"])[labels]
    for model in (RidgeClassifier().fit(x, words), SVC().fit(x, words)):
        with pytest.raises(whence.BadInput, match="not numbers"):
            whence.explain(model, x[:2], "sensitivity")
    forest = RandomForestClassifier(5, random_state=0).fit(x, words)
    assert whence.explain(forest, x[:2], "sensitivity").values.shape == (2, 4)


def test_an_estimator_is_left_alone(iris):
    x, labels = iris
    model = RandomForestClassifier(3, random_state=0).fit(x, labels)
    before = model.predict_proba(x)
    rows = x[:3].copy()
    whence.explain(model, rows, "sensitivity")
    assert np.array_equal(model.predict_proba(x), before) and np.array_equal(rows, x[:3])


def test_column_names(iris):
    pandas = pytest.importorskip("pandas")
    x, labels = iris
    frame = pandas.DataFrame(x, columns=["a", "b", "c", "d"])
    named = LogisticRegression(max_iter=1000).fit(frame, labels)
    plain = LogisticRegression(max_iter=1000).fit(x, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [
            whence.explain(named, frame.iloc[:3], "sensitivity"),
            whence.explain(named, x[:3], "sensitivity"),
            whence.explain(plain, x[:3], "sensitivity"),
        ]
    for each in results:
        assert isinstance(each.values, np.ndarray)
        assert np.allclose(each.values, results[0].values)


def test_column_names_without_pandas(iris):
    """An estimator that was fitted on a frame and is asked where there are no frames."""
    x, labels = iris
    model = LogisticRegression(max_iter=1000).fit(x, labels)
    if "pandas" in sys.modules:
        pytest.skip("pandas is installed")
    try:
        import pandas  # noqa: F401
    except ImportError:
        model.feature_names_in_ = np.array(["a", "b", "c", "d"], dtype=object)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = whence.explain(model, x[:2], "sensitivity")
        assert result.values.shape == (2, 4)


def test_the_seeded_helper_leaves_the_generator_alone():
    before = torch.get_rng_state()
    seeded(3, lambda: torch.randn(4))
    assert torch.equal(before, torch.get_rng_state())
