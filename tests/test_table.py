"""Frames: what a model is given is exactly what the user gave, and shares are those of the numbers by hand."""

import datetime
import decimal
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import whence
from whence.table import Table, is_frame

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pytestmark = pytest.mark.filterwarnings("ignore:Found unknown categories")


def of_every_kind():
    return pandas.DataFrame(
        {
            "whole": [1, 2, 3],
            "words": ["x", "y", None],
            "kinds": pandas.Categorical(["u", "v", "u"], categories=["v", "u", "w"], ordered=True),
            "when": pandas.to_datetime(["2020-01-01", None, "2021-02-03"]),
            "nullable": pandas.array([1, None, 3], dtype="Int64"),
            "anything": np.array([1, "z", None], dtype=object),
            "flag": [True, False, True],
            "gaps": [1.5, np.nan, 2.0],
            "half": np.array([0.1, 0.2, 0.3], np.float32),
            "large": np.array([2**60 + 1, 2**60 + 2, 5]),
            "byte": np.array([1, 2, 255], np.uint8),
            "maybe": pandas.array([True, None, False], dtype="boolean"),
            "money": [decimal.Decimal("1.5"), decimal.Decimal("2"), None],
            "lists": [[1], [2], [1]],
            "spans": pandas.to_timedelta([1, 2, 3], unit="D"),
            "zoned": pandas.to_datetime(["2020-01-01"] * 3).tz_localize("UTC"),
            ("a", "tuple"): [0.0, -0.0, 1e300],
        },
        index=[10, 20, 20],
    )


def of_every_kind_in_polars():
    return polars.DataFrame(
        {
            "whole": [1, 2, 3],
            "words": ["x", "y", None],
            "kinds": polars.Series(["u", "v", "u"], dtype=polars.Categorical),
            "enum": polars.Series(["u", "v", "u"], dtype=polars.Enum(["u", "v"])),
            "gaps": [1.5, None, math.nan],
            "maybe": [True, False, None],
            "flag": [True, False, False],
            "when": [datetime.date(2020, 1, 1), None, datetime.date(2021, 2, 3)],
            "instants": polars.Series([1, 2, 1001]).cast(polars.Datetime("ns")),
            "half": polars.Series([0.1, 0.2, 0.3], dtype=polars.Float32),
            "large": [2**60 + 1, 2**60 + 2, 5],
            "nothing": [None, None, None],
            "lists": [[1], [2], [1]],
            "money": polars.Series(["1.5", "2.5", "3"]).cast(polars.Decimal(10, 2)),
        }
    )


# ---- the codec -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1, 1, 1, 0], [1]])
def test_every_value_and_type_comes_back_exactly(order):
    frame = of_every_kind()
    table = Table.of(frame)
    back = table.decode(table.array[order])
    pandas.testing.assert_frame_equal(back, frame.iloc[order].reset_index(drop=True))
    ours = of_every_kind_in_polars()
    table = Table.of(ours)
    back = table.decode(table.array[order])
    assert back.equals(ours[order]) and back.schema == ours.schema
    assert np.isfinite(table.array).all()


def test_equal_values_have_equal_codes_and_missing_ones_too():
    table = Table.of(pandas.DataFrame({"a": ["x", "y", "x", None, None], "b": [1.0, np.nan, np.nan, 2, 1]}))
    assert len(set(table.array[:, 0])) == 3 and table.array[3, 0] == table.array[4, 0]
    assert table.array[1, 1] == table.array[2, 1] and table.array[[0, 3, 4], 1].tolist() == [1, 2, 1]
    assert table.coded.tolist() == [True, False]
    # Of values that are equal in Python and of another type, each stays what it was.
    mixed = pandas.DataFrame({"a": np.array([1, True, 1.0, "1"], dtype=object)})
    table = Table.of(mixed)
    found = table.decode(table.array)
    assert [type(each) for each in found["a"]] == [type(each) for each in mixed["a"]]


def test_a_background_brings_values_of_its_own():
    frame = of_every_kind()[["whole", "words", "kinds", "gaps", "byte"]]
    table = Table.of(frame)
    more = pandas.DataFrame(
        {
            "byte": np.array([7, 8], np.uint8),
            "gaps": [3.0, 4.0],
            "kinds": pandas.Categorical(["new", "u"]),
            "words": ["other", "x"],
            "whole": [1.5, np.nan],
        }
    )
    array = np.concatenate([table.array, table.encode(more)])
    back = table.decode(array)
    assert back["words"].tolist()[3:] == ["other", "x"] and back["kinds"].tolist()[3:] == ["new", "u"]
    assert list(back["kinds"].cat.categories) == ["v", "u", "w", "new"]
    assert back["whole"].tolist()[:4] == [1, 2, 3, 1.5] and np.isnan(back["whole"][4])
    assert back["byte"].dtype == np.uint8 and back["whole"].dtype == np.float64
    # The categories that were added stay.
    back = table.decode(table.array).astype({"kinds": frame["kinds"].dtype})
    pandas.testing.assert_frame_equal(back, frame.reset_index(drop=True))


def test_whole_numbers_stay_whole_where_they_are():
    table = Table.of(pandas.DataFrame({"n": [1, 2], "f": [True, False]}))
    assert table.decode(np.array([[3.0, 1.0]])).dtypes.tolist() == [np.int64, np.bool_]
    assert table.decode(np.array([[3.5, 0.5]])).dtypes.tolist() == [np.float64, np.float64]


def test_what_cannot_be_encoded_or_decoded_says_so():
    frame = of_every_kind()[["whole", "words"]]
    table = Table.of(frame)
    for wrong, words in (
        (frame[["whole"]], "has no column 'words'"),
        (frame.assign(z=1), "has a column 'z' that the inputs lack"),
        (frame.assign(whole="x"), "column 'whole' holds int64 values in the inputs and string"),
        (frame.assign(words=3), "column 'words' holds text in the inputs and int64"),
        (polars.DataFrame({"whole": [1], "words": ["x"]}), "give both in the same kind"),
    ):
        with pytest.raises(whence.BadInput, match=words):
            table.encode(wrong)
    with pytest.raises(whence.Refused, match=r"column 'words' holds text, and the baseline has the number 0"):
        table.decode(np.zeros((2, 2)))
    with pytest.raises(whence.Refused, match="no baseline can be calculated"):
        table.decode(table.array / 2)
    with pytest.raises(whence.BadInput, match="two columns that are called 'a'"):
        Table.of(pandas.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(whence.BadInput, match="no column"):
        Table.of(pandas.DataFrame(index=[0]))


def test_a_frame_is_told_without_importing_anything():
    code = (
        "import sys, numpy as np, whence; from whence.table import is_frame; assert not is_frame(np.ones(3));"
        "whence.explain(lambda x: x.sum(1), np.ones((2, 3)), 'kernel_shap');"
        "print([name for name in ('pandas', 'polars', 'narwhals', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
    assert is_frame(pandas.DataFrame()) and is_frame(polars.DataFrame())
    assert not any(map(is_frame, (None, [1], {"a": 1}, np.ones((2, 2)), pandas.Series([1]))))


# ---- explained -------------------------------------------------------------------------------------------------


def wines():
    """A pipeline on three numbers (one of them whole) and a word."""
    data = load_wine(as_frame=True)
    frame = data.data[["alcohol", "ash", "proline"]].astype({"proline": int})
    generator = np.random.default_rng(0)
    own = np.array(["north", "south", "coast"])[data.target]
    frame["region"] = np.where(generator.random(len(frame)) < 0.7, own, "north")
    encoded = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["region"]),
        (StandardScaler(), ["alcohol", "ash", "proline"]),
    )
    return make_pipeline(encoded, LogisticRegression(max_iter=1000)).fit(frame, data.target), frame


def by_hand(model, row, background, target):
    """Shapley values by their definition, over frames."""
    columns = list(row.columns)

    def worth(present):
        rows = background.copy()
        for name in present:
            rows[name] = row[name].iloc[0]
        return model.predict_proba(rows.astype(row.dtypes))[:, target].mean()

    found = np.zeros(len(columns))
    for place, name in enumerate(columns):
        others = [each for each in columns if each != name]
        for size in range(len(columns)):
            weight = math.factorial(size) * math.factorial(len(others) - size) / math.factorial(len(columns))
            for subset in itertools.combinations(others, size):
                found[place] += weight * (worth((*subset, name)) - worth(subset))
    return found


def test_a_pipeline_on_words_is_explained_as_by_hand():
    model, frame = wines()
    rows, background = frame.iloc[[0, 70, 150]], frame.iloc[::25]
    result = whence.explain(model, rows, "exact_shapley", baseline=background)
    assert result.target.tolist() == model.predict(rows).tolist() and isinstance(result.values, np.ndarray)
    for place in range(3):
        hand = by_hand(model, rows.iloc[[place]], background, int(result.target[place]))
        assert np.allclose(result.values[place], hand, atol=1e-12)
    assert np.abs(result.residual).max() < 1e-12
    assert result.settings["feature_names"] == list(frame.columns)
    assert result.settings["feature_values"][0] == [14.23, 2.43, 1065, "north"]
    same = whence.explain(model, rows, "exact_shapley", baseline=whence.baseline.dataset(background))
    assert np.array_equal(same.values, result.values)
    again = repr(whence.ExactShapley(baseline=background))
    assert again == "ExactShapley(baseline=<frame 8 x 4>)"


@pytest.mark.parametrize(
    "name", ["exact_shapley", "kernel_shap", "feature_ablation", "lime", "partition_shap"]
)
def test_polars_and_pandas_give_the_same(name):
    model, frame = wines()
    theirs = polars.DataFrame({name: frame[name].to_list() for name in frame})
    kinds = []

    def watched(rows):
        kinds.append(type(rows))
        return model.predict_proba(rows)

    # Rows drawn from a data set are the same ones.
    options = {"samples": 200} if "samples" in whence.methods()[name].fields else {}
    one = whence.explain(model, frame.iloc[:3], name, baseline=frame.iloc[::30], **options)
    two = whence.explain(watched, theirs[:3], name, baseline=theirs[::30], **options)
    assert np.allclose(one.values, two.values, atol=1e-12)
    assert set(kinds) == {polars.DataFrame}


def test_without_a_baseline_the_frame_is_its_own_background():
    model, frame = wines()
    result = whence.explain(model, frame.iloc[:5], "exact_shapley")
    given = whence.explain(model, frame.iloc[:5], "exact_shapley", baseline=frame.iloc[:5])
    assert np.array_equal(result.values, given.values) and given.notes == []
    assert "the 5 rows of the frame itself are the background" in result.notes[0]
    many = whence.explain(model, frame, "feature_ablation")
    assert "the 100 of 178 rows" in many.notes[0] and many.evaluations[0] == 100 * 4


def test_one_row_needs_a_background_and_one_row_is_enough_for_one():
    model, frame = wines()
    with pytest.raises(whence.Refused, match=r"baseline=whence\.baseline\.dataset\(rows\)"):
        whence.explain(model, frame.iloc[:1], "exact_shapley")
    result = whence.explain(model, frame.iloc[:1], "exact_shapley", baseline=frame.iloc[[100]])
    hand = by_hand(model, frame.iloc[:1], frame.iloc[[100]], int(result.target[0]))
    assert np.allclose(result.values[0], hand, atol=1e-12)
    own = whence.explain(model, frame.iloc[:1], "exact_shapley", baseline=frame.iloc[:1])
    assert np.allclose(own.values, 0)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_missing_values_reach_the_model_as_they_are(kind):
    data = load_diabetes(as_frame=True)
    frame = data.data[["age", "bmi", "bp"]].copy()
    frame.loc[frame.index[::3], "bmi"] = np.nan
    frame["clinic"] = pandas.Categorical(np.random.default_rng(0).choice(["Bern", "Basel"], len(frame)))
    model = HistGradientBoostingRegressor(max_iter=20, categorical_features=["clinic"]).fit(
        frame, data.target
    )
    columns = {name: [None if value != value else value for value in frame[name].tolist()] for name in frame}
    theirs = polars.DataFrame(columns).cast({"clinic": polars.Categorical})
    predict = model.predict

    def from_polars(rows):
        made = pandas.DataFrame({name: rows[name].to_list() for name in rows.columns})
        return predict(made.astype({"clinic": frame["clinic"].dtype, "bmi": float}))

    ours = frame if kind == "pandas" else theirs
    result = whence.explain(
        model if kind == "pandas" else from_polars, ours[:6], "exact_shapley", baseline=ours[20:30]
    )
    assert np.allclose(result.output, predict(frame[:6]))
    assert np.allclose(result.baseline_output, predict(frame[20:30]).mean())
    assert result.settings["feature_values"][0][1] is None
    assert np.allclose(result.values.sum(1), result.output - result.baseline_output)


def test_groups_of_columns_by_name():
    model, frame = wines()
    groups = whence.features.columns({"minerals": ["ash", "proline"]})
    result = whence.explain(
        model, frame.iloc[:4], "exact_shapley", features=groups, baseline=frame.iloc[::30]
    )
    assert result.settings["feature_names"] == ["minerals", "alcohol", "region"]
    assert result.settings["columns"] == list(frame.columns)
    assert result.shares.shape == (4, 3) and np.allclose(result.values[:, 1], result.values[:, 2])
    with pytest.raises(whence.BadInput, match="did you mean 'proline'"):
        whence.explain(model, frame, "kernel_shap", features=whence.features.columns({"a": ["prolin"]}))


def test_a_result_with_a_table_is_kept_and_cut(tmp_path):
    model, frame = wines()
    result = whence.explain(model, frame.iloc[:3], "exact_shapley", baseline=frame.iloc[::30])
    back = whence.load(result.save(tmp_path / "a.npz"))
    assert back.settings == json.loads(json.dumps(result.settings))
    assert result.example(2).settings["feature_values"] == result.settings["feature_values"][2:]


# ---- what takes numbers ------------------------------------------------------------------------------------------


def test_a_method_that_calculates_names_the_column_and_what_works():
    model, frame = wines()
    with pytest.raises(whence.BadInput, match=r"column 'region' holds text.*exact_shapley"):
        whence.explain(model, frame, "sensitivity")
    numbers = load_iris(as_frame=True)
    holes = numbers.data.copy()
    holes.iloc[1, 2] = np.nan
    boosted = HistGradientBoostingClassifier(max_iter=5).fit(holes, numbers.target)
    with pytest.raises(whence.BadInput, match=r"column 'petal length \(cm\)' has missing"):
        whence.explain(boosted, holes, "sensitivity")
    assert whence.explain(boosted, holes[:4], "kernel_shap").values.shape == (4, 4)
    with pytest.raises(whence.BadInput, match="with preprocess the inputs are pictures"):
        whence.explain(model, frame, "kernel_shap", preprocess=lambda x: x)


def test_numbers_alone_serve_every_method_and_estimators_fitted_on_arrays():
    data = load_breast_cancer(as_frame=True)
    frame = data.data.iloc[:, :4]
    seen = []

    class Plain(LogisticRegression):
        def predict_proba(self, rows):
            seen.append(type(rows))
            return super().predict_proba(rows)

    plain = Plain(max_iter=2000).fit(frame.to_numpy(), data.target)
    named = Plain(max_iter=2000).fit(frame, data.target)
    one = whence.explain(plain, frame[:3], "sensitivity")
    assert set(seen) == {np.ndarray}
    seen.clear()
    two = whence.explain(named, frame[:3], "sensitivity")
    assert set(seen) == {pandas.DataFrame} and np.allclose(one.values, two.values)
    assert one.settings["feature_names"] == list(frame.columns)
    whole = pandas.DataFrame({"n": [1, 2], "x": [0.5, 1.5]})
    by_frame = whence.explain(lambda rows: rows["n"] ** 2 + 3 * rows["x"], whole, "sensitivity")
    assert np.allclose(by_frame.values, [[4, 9], [16, 9]], rtol=1e-3)


def test_a_torch_model_is_given_the_numbers():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [True, False], "c": [3, 4]})
    array = np.array([[1, 1, 3], [2, 0, 4]], dtype=np.float64)
    for name in ("integrated_gradients", "saliency"):
        one, two = (whence.explain(model, x, name, target=0) for x in (frame, array))
        assert isinstance(one.values, np.ndarray) and np.allclose(one.values, two.values)
        assert one.settings["feature_names"] == ["a", "b", "c"]
    from_row = whence.explain(model, frame, "integrated_gradients", target=0, baseline=frame.iloc[[1]])
    assert np.allclose(from_row.values[1], 0)
    shapley = whence.explain(model, frame, "exact_shapley", target=0)
    assert np.allclose(shapley.values, model.weight[0].detach().numpy() * (array - array.mean(0)), atol=1e-6)
    with pytest.raises(whence.BadInput, match="column 'd' holds text, and a torch model is given numbers"):
        whence.explain(model, frame.assign(d="x"), "exact_shapley")


def test_baselines_that_a_table_cannot_have():
    model, frame = wines()
    with pytest.raises(whence.Refused, match="column 'region' holds text, and the baseline has the number 0"):
        whence.explain(model, frame[:2], "exact_shapley", baseline=0)
    with pytest.raises(whence.BadInput, match="the baseline is a frame with the columns alcohol, ash"):
        whence.explain(model, frame[:2], "exact_shapley", baseline=frame.to_numpy()[:1])
    with pytest.raises(whence.BadInput, match="the baseline is a frame with the columns"):
        whence.explain(model, frame[:2], "exact_shapley", baseline=frame.iloc[0])
    with pytest.raises(whence.Refused, match="no baseline can be calculated"):
        whence.explain(model, frame[:2], "exact_shapley", baseline="mean")
