"""Figures of tables: every name, value and number is said, and nothing lies over anything else."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import whence
from test_view import make, texts
from whence import swarm, tabular_view, view
from whence.errors import BadInput


def table(values, names=None, kept=None, **given):
    settings = {"feature_names": names, "feature_values": kept, **given.pop("settings", {})}
    told = {name: each for name, each in settings.items() if each is not None}
    return make(values, settings=told, **given)


NAMES = ["age", "city", "income", "since", "married"]
VALUES = [[39, "Bern", 1234567.5, "2020-01-02", True], [25, None, -0.0012345, "2021-03-04", False]]
SHARES = [[0.5, -0.25, 0.125, 0.0, 1.0], [0.1, 0.2, -0.3, 0.4, -0.5]]


def drawn_texts(drawn):
    """Return every text that is seen, with its box in pixels, and the figure's size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    # Labels of ticks beyond the limits are there, and not drawn.
    gone = set()
    for axes in drawn.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            gone |= {
                id(t.label1) for t in axis.get_major_ticks() if not low - 1e-9 <= t.get_loc() <= high + 1e-9
            }
    shown = [part for part in drawn.findobj(Text) if part.get_visible() and part.get_text().strip()]
    boxes = [
        (part.get_text(), part.get_window_extent(canvas.get_renderer()))
        for part in shown
        if id(part) not in gone
    ]
    unique = {(text, tuple(np.round(box.extents))): (text, box) for text, box in boxes}
    return list(unique.values()), canvas.get_width_height()


def overlaps(drawn):
    """Return the pairs of texts that lie over each other."""
    found, _ = drawn_texts(drawn)
    return [
        (one[0], two[0])
        for number, one in enumerate(found)
        for two in found[:number]
        if one[1].shrunk(0.98, 0.8).overlaps(two[1].shrunk(0.98, 0.8))
    ]


def inside(drawn):
    """Return the texts that are cut off at the figure's border."""
    found, (width, height) = drawn_texts(drawn)
    return [
        text for text, box in found if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]


def assert_readable(drawn):
    assert overlaps(drawn) == [] and inside(drawn) == []
    assert view.png(drawn)[:4] == b"\x89PNG"


# ---- one example -----------------------------------------------------------------------------------------------


def test_bars_name_features_with_their_values():
    drawn = view.figure(table(SHARES, NAMES, VALUES))
    said = texts(drawn)
    for words in (
        "age = 39",
        "city = Bern",
        "since = 2020-01-02",
        "married = yes",
        "city = missing",
        "married = no",
    ):
        assert words in said
    assert "income = 1.235×10⁶" in said and "income = −0.001234" in said
    assert "baseline output + shares = output: 1 + 1.375 = 2.375" in said
    assert "baseline output − shares" in said and "whiskers" not in said
    assert_readable(drawn)


def test_bars_of_one_example_keep_its_own_values():
    said = texts(view.figure(table(SHARES, NAMES, VALUES).example(1)))
    assert "age = 25" in said and "age = 39" not in said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "missing"), (True, "yes"), (3, "3"), (-1999, "−1999"), (1065.0, "1065"), (14.23, "14.23"),
        (0.1 + 0.2, "0.3"), (1e12, "1×10¹²"), ("", "empty"),
        ("a text that is longer than the room for it", "a text that is…"),
    ],
)  # fmt: skip
def test_values_in_a_few_characters(value, text):
    assert tabular_view.value_text(value) == text


def test_standard_errors_are_whiskers():
    result = table(SHARES, NAMES, VALUES, standard_error=np.full((2, 5), 0.05))
    drawn = view.figure(result)
    assert "whiskers: ± one standard error" in texts(drawn)
    assert_readable(drawn)
    bars = drawn.axes[0].containers
    assert any(type(each).__name__ == "ErrorbarContainer" for each in bars)


def test_shares_of_groups_are_bars_with_the_errors_of_their_columns():
    values = np.array([[0.5, -0.25, -0.25, 0.1]])
    result = table(
        values, ["a", "both", "d"], [[1, 2, 3, 4]], shares=np.array([[0.5, -0.25, 0.1]]),
        standard_error=np.array([[0.1, 0.2, 0.2, 0.3]]), settings={"columns": ["a", "b", "c", "d"]},
    )  # fmt: skip
    drawn = view.figure(result)
    said = texts(drawn)
    assert "a = 1" in said and "d = 4" in said and "both" in said and "both =" not in said
    assert tabular_view._errors(result, 0, result.shares[0]).tolist() == [0.1, 0.2, 0.3]
    assert tabular_view._errors(result, 0, result.shares[0] * 2) is None
    assert_readable(drawn)


def test_groups_of_tokens_are_bars_and_those_of_pictures_a_map():
    tokens = make(
        np.ones((1, 3, 4)), shares=np.array([[1.0, 2.0, -1.0]]), settings={"feature_names": ["a", "b", "c"]}
    )
    assert "share of the output" in texts(view.figure(tokens))
    for name in ("patch", "superpixel", "window"):
        names = {"feature_names": [f"{name} {place}" for place in range(3)]}
        assert tabular_view.shares_of(replace(tokens, settings=names)) is None
    ragged = make(np.ones((2, 3)), shares=np.array([[1.0, 2.0, np.nan], [1.0, 2.0, 3.0]]))
    bars = [axes.patches for axes in view.figure(ragged).axes]
    assert [len(each) for each in bars] == [2, 3]


def test_a_share_that_is_repeated_on_each_channel_is_counted_once():
    values = np.repeat(np.array([[[[1.0, -2.0]]]]), 3, axis=1)
    result = make(values, channel_axis=1)
    once = make(values, channel_axis=1, settings={"repeated": True})
    assert result.heatmap().tolist() == [[[3.0, -6.0]]] and once.heatmap().tolist() == [[[1.0, -2.0]]]
    assert once.heatmap("abs").tolist() == once.heatmap("norm").tolist() == [[[1.0, 2.0]]]


def test_long_names_and_formulas_and_noise():
    names = ["a very long name of a column that somebody chose " * 2, "$price$ in €", r"$\bad$"]
    result = table([[1.0, -1e-17, -0.5]], names, [["x" * 50, 1.5, None]])
    drawn = view.figure(result)
    assert_readable(drawn)
    said = texts(drawn)
    assert "×10⁻¹⁷" not in said and "= xxxx" not in said and "… =" in said


# ---- many examples ---------------------------------------------------------------------------------------------


def many(rows=200, features=15, seed=0):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rows, features))
    kept = values.round(3).tolist()
    for row in kept[::3]:
        row[0], row[1] = "text", None
    return table(
        values * np.arange(features, 0, -1) / 10, [f"column {place}" for place in range(features)], kept
    )


def test_a_swarm_has_a_line_for_each_of_the_features_that_matter_most():
    result = many()
    drawn = result.beeswarm()
    said = texts(drawn)
    order = np.argsort(-np.abs(result.values).mean(0))[:12]
    labels = [each.get_text() for each in drawn.axes[0].get_yticklabels()]
    assert labels == [f"column {place}" for place in order]
    assert (
        "12 of 15 features are shown" in said and "200 examples" in said and "grey: text or missing" in said
    )
    assert "mean |share|" in said and "share of the output" in said and "high" in said and "low" in said
    assert_readable(drawn)
    assert len(view.beeswarm(result, most=3).axes[0].get_yticklabels()) == 3


def test_a_swarm_is_the_same_each_time_and_of_many_examples_some_are_drawn():
    result = many(4000, 3)
    one, two = result.beeswarm(), result.beeswarm()
    assert view.png(one) == view.png(two)
    assert "1,500 of 4,000 examples are drawn; the means are over all" in texts(one)
    assert "grey" not in texts(table([[0.5], [1.0]], ["a"], [[1], [2]]).beeswarm())
    assert_readable(table([[0.0, 0.0]]).beeswarm())


@pytest.mark.parametrize("size", [2.5, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_dots_do_not_cover_each_other(size, seed):
    values = np.random.default_rng(seed).normal(size=80)
    line = swarm.Swarm(-4.0, 4.0, 5.0, 1.5)
    x = (values + 4) / 8 * 5 * 72
    y = line.level(values, size) * size
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + np.eye(80) * 99
    assert apart.min() >= size * (1 - 1e-9)
    assert np.abs(swarm.swarmed(values, line, size)).max() <= 0.46
    # The first of a crowd stands on the line.
    assert line.level(np.zeros(5), size).tolist() == [0, 1, -1, 2, -2]


def test_colours_of_values():
    colours, grey = swarm.coloured([0.0, 5.0, 10.0])
    assert (
        not grey
        and np.allclose(colours[0], swarm.ramp(np.zeros(1)))
        and not np.allclose(colours[0], colours[2])
    )
    colours, grey = swarm.coloured(["a", None, 1.0, 1.0])
    assert grey and np.allclose(colours[:2], swarm.GREY) and np.allclose(colours[2], colours[3])
    flags, grey = swarm.coloured([True, False, True])
    assert not grey and np.allclose(flags[0], flags[2]) and not np.allclose(flags[0], flags[1])


def test_importance_is_the_mean_over_examples_with_its_error():
    result = table(SHARES, NAMES, VALUES)
    drawn = view.importance_bars(result)
    said = texts(drawn)
    assert "mean |share| over 2 examples" in said and "whiskers" in said and "0.75" in said
    assert_readable(drawn)
    assert "whiskers" not in texts(view.importance_bars(result.example(0)))


def test_targets_that_differ_are_said_so():
    assert "each example's own class" in texts(table(SHARES, NAMES).beeswarm())
    assert "class 3" in texts(table(SHARES, NAMES, target=np.array([3, 3])).beeswarm())


@pytest.mark.parametrize("draw", [view.beeswarm, view.importance_bars])
def test_what_is_no_table_is_refused(draw):
    with pytest.raises(BadInput, match="features of tables"):
        draw(make(np.ones((2, 3, 4, 4))))
    with pytest.raises(BadInput, match="for_class"):
        draw(make(np.ones((2, 3, 4)), every_class=True))
    with pytest.raises(BadInput, match="not finite"):
        draw(make(np.full((2, 3), np.nan)))


# ---- interactions ----------------------------------------------------------------------------------------------


def interacting(count, names=None, seed=0):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(2, count, count))
    matrix = matrix + matrix.swapaxes(1, 2)
    return make(
        matrix.sum(2), interactions=matrix, settings={} if names is None else {"feature_names": names}
    )


@pytest.mark.parametrize("count", [1, 2, 8, 9, 40, 60])
def test_interactions_are_a_matrix_and_bars(count):
    names = [f"the column number {place}" for place in range(count)]
    drawn = view.interaction_figure(interacting(count, names), 1)
    said = texts(drawn)
    assert "colour scale ±" in said and "red: for the target" in said
    if count > 1:
        assert " & " in said and "what two features give together" in said
    assert ("the 20 of 60 features" in said) == (count == 60)
    assert_readable(drawn)


def test_a_pair_is_what_both_halves_give():
    matrix = np.array([[[1.0, 0.25], [0.25, 2.0]]])
    drawn = view.interaction_figure(
        make(matrix.sum(2), interactions=matrix, settings={"feature_names": ["a", "b"]})
    )
    assert "a & b" in texts(drawn) and drawn.axes[-1].patches[0].get_width() == 0.5


def test_interactions_of_pictures_say_how_patches_are_counted():
    names = [f"patch {place}" for place in range(9)]
    assert "patches are counted from the upper left" in texts(view.interaction_figure(interacting(9, names)))


def test_interactions_that_are_not_there():
    with pytest.raises(BadInput, match="gives no interactions; shapley_interaction"):
        view.interaction_figure(make(np.ones((1, 3))))
    with pytest.raises(BadInput, match="row 2: there are 2 examples"):
        view.interaction_figure(interacting(3), 2)
    with pytest.raises(BadInput, match="for_class"):
        view.interaction_figure(replace(interacting(3), every_class=True))


# ---- from end to end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars", "numpy"])
def test_every_kind_of_table_is_drawn(library, tmp_path):
    generator = np.random.default_rng(0)
    columns = {"age": generator.integers(18, 80, 20), "city": generator.choice(["Bern", "Basel"], 20)}
    columns["income"] = generator.normal(size=20)
    features = None
    if library == "numpy":
        columns["city"] = (columns["city"] == "Bern") * 1.0
        frame = np.stack(list(columns.values()), 1)
        features = whence.features.columns(names=list(columns))

        def model(rows):
            return rows[:, 0] * rows[:, 1] + rows[:, 2]
    else:
        frame = pytest.importorskip(library).DataFrame(columns)

        def model(rows):
            return (rows["age"] * (rows["city"] == "Bern") + rows["income"]).to_numpy()

    background = whence.baseline.dataset(frame)
    result = whence.explain(model, frame, "shapley_interaction", baseline=background, features=features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drawn in (
            result.example(0).plot(), result.beeswarm(), view.importance_bars(result),
            view.interaction_figure(result, 3),
        ):  # fmt: skip
            assert "city" in texts(drawn)
            assert_readable(drawn)
        page = result.example(0).to_html(tmp_path / "a.html").read_text()
    assert "feature_values" not in page and "What pairs of features give together" in page
    again = whence.load(result.save(tmp_path / "a.npz"))
    assert view.png(again.beeswarm()) == view.png(result.beeswarm())
