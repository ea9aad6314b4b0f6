# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""What a user may give: whole numbers to methods that only switch, and models that answer oddly."""

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

import whence
from models import seeded

SWITCHING = [name for name, record in whence.methods().items() if record.cls.switches]
every_switching_method = pytest.mark.parametrize("name", SWITCHING)


class Reads(nn.Module):
    """Tokens [B, T] to three scores."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        assert not tokens.is_floating_point()
        return self.head(torch.tanh(self.embedding(tokens)).mean(1))


def fields(name, samples=200):
    return {"samples": samples} if "samples" in whence.methods()[name].fields else {}


@every_switching_method
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_tokens_are_explained_by_methods_that_only_switch(name, dtype):
    model = seeded(0, Reads).eval()
    tokens = torch.tensor([[3, 14, 15, 9], [2, 6, 5, 35]], dtype=dtype)
    result = whence.explain(model, tokens, name, baseline=0, **fields(name))
    assert result.values.shape == tokens.shape and result.values.dtype == torch.float32
    assert torch.isfinite(result.values).all()
    if result.residual is not None:
        with torch.no_grad():
            lost = model(tokens) - model(torch.zeros_like(tokens))
        chosen = lost.gather(1, result.target[:, None].long())[:, 0]
        assert torch.allclose(result.values.sum(1), chosen, atol=1e-5)


@every_switching_method
def test_tokens_of_a_numpy_function_stay_whole(name):
    table = np.random.default_rng(0).normal(size=50)
    tokens = np.array([[3, 14, 15, 9], [2, 6, 5, 35]])
    result = whence.explain(lambda x: table[x].sum(1), tokens, name, baseline=7, **fields(name))
    assert result.values.dtype == np.float64 and np.isfinite(result.values).all()
    if name == "exact_shapley":
        assert np.allclose(result.values, table[tokens] - table[7])


def test_a_baseline_of_fractions_is_not_cut_to_whole_numbers():
    counts = np.array([[3, 1], [2, 2]])
    with pytest.raises(whence.BadInput, match="baseline holds fractions"):
        whence.explain(lambda x: x.sum(1), counts, "exact_shapley", baseline=np.array([0.5, 1]))
    with pytest.raises(whence.BadInput, match="baseline holds fractions"):
        whence.explain(
            lambda x: x.sum(1), counts, "exact_shapley", baseline=whence.baseline.dataset(counts / 2)
        )
    whole = whence.explain(lambda x: x.sum(1), counts, "exact_shapley", baseline=np.array([1.0, 1.0]))
    assert whole.values.tolist() == [[2, 0], [1, 1]]


def test_the_refusal_of_whole_numbers_names_methods_that_take_them():
    with pytest.raises(
        whence.BadInput, match=r"at=whence\.layer.*switches features on and off: .*exact_shapley"
    ):
        whence.explain(seeded(0, Reads), torch.ones(1, 4, dtype=torch.int64), "saliency")


# ---- black boxes that answer oddly ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: None, "returns None; say how"),
        (lambda x: 3.0, r"an output of shape \(\) for 2 examples"),
        (lambda x: x.sum(1)[:1], r"an output of shape \(1,\) for 2 examples"),
        (lambda x: [[1.0], [1.0, 2.0]], "a list whose parts differ in length"),
        (lambda x: [None] * len(x), "holds object values"),
        (lambda x: ["a"] * len(x), "not numbers"),
        (lambda x: x.sum(1) / 0, "NaN or infinite for example 0"),
        (lambda x: np.where(np.arange(len(x)) == 1, np.nan, x.sum(1)), "NaN or infinite for example 1"),
        (lambda x: [x, x], "returns 2 values; say which one"),
        (lambda x: {"a": x, "b": x}, "say which: output='a'"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["sensitivity", "kernel_shap"])
def test_odd_answers_are_one_sentence_with_the_shape_of_what_was_asked(model, words, name):
    with pytest.raises(whence.BadInput, match=words) as caught:
        whence.explain(model, np.ones((2, 3)), name)
    assert "(2, 3)" in str(caught.value) and "\n" not in str(caught.value)


def test_an_exception_of_the_model_is_left_alone_and_noted():
    with pytest.raises(ZeroDivisionError) as caught:
        whence.explain(lambda x: 1 // 0, np.ones((2, 3)), "kernel_shap")
    assert caught.value.__notes__ == ["raised by the model for inputs of shape (2, 3) float64"]


def test_lists_and_frames_as_answers():
    pandas = pytest.importorskip("pandas")
    x = np.arange(6.0).reshape(2, 3)
    expected = whence.explain(lambda x: x.sum(1), x, "exact_shapley").values
    for model in (
        lambda x: x.sum(1).tolist(),
        lambda x: [np.array(each) for each in x.sum(1)],
        lambda x: pandas.Series(x.sum(1)),
        lambda x: pandas.DataFrame({"y": x.sum(1)}),
    ):
        assert np.allclose(whence.explain(model, x, "exact_shapley", target=None).values, expected)
    several = whence.explain(lambda x: [x * 0, x], x, "exact_shapley", output=1, target=0)
    assert np.allclose(several.values[:, 1:], 0)


def test_what_works_on_a_black_box_is_taken_from_the_registry():
    with pytest.raises(whence.UnsupportedByBackend) as caught:
        whence.explain(lambda x: x.sum(1), np.ones((2, 3)), "saliency")
    told = str(caught.value)
    assert all(name in told for name in (*SWITCHING, "sensitivity", "smoothgrad"))
    assert "integrated_gradients" not in told and "scorecam" not in told


def test_scikit_learn_on_arrays_needs_neither_torch_nor_frames():
    code = """
import sys
class Absent:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("torch", "pandas", "polars"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np, whence
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
x, y = load_iris(return_X_y=True)
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
names = whence.features.columns(names=["a", "b", "c", "d"])
result = whence.explain(model, x[:3], "exact_shapley", baseline=whence.baseline.dataset(x[::15]), features=names)
assert np.abs(result.residual).max() < 1e-12 and result.settings["feature_names"] == ["a", "b", "c", "d"]
whence.explain(model, x[:3], "sensitivity")
result.plot(), result.beeswarm()
print("ok")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr
