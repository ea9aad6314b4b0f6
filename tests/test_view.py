"""The pictures: colours that say what they mean, sizes that stay, and figures that can be read."""

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from whence import caption, registry, view
from whence.attribution import Attribution, Trace
from whence.errors import BadInput


def lightness(rgb):
    """CIE L* of sRGB bytes [..., 3]."""
    linear = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def make(values, picture=None, **given):
    values = np.asarray(values, dtype=np.float64)
    rows = len(values)
    total = values.reshape(rows, -1).sum(1)
    filled = dict(
        method="integrated_gradients",
        target=np.arange(rows),
        output=total + 1.0,
        baseline_output=np.ones(rows),
        residual=np.full(rows, 0.25),
        error=np.full(rows, 0.0123),
        evaluations=np.full(rows, 96),
        converged=np.ones(rows, dtype=bool),
        picture=picture,
    )
    return Attribution(values, **(filled | given))


def digit(rows=1, side=8, seed=0):
    random = np.random.default_rng(seed)
    picture = random.integers(0, 256, (rows, side, side, 1), dtype=np.uint8)
    return make(random.normal(size=(rows, 1, side, side)), picture, channel_axis=1)


def texts(drawn):
    from matplotlib.text import Text

    return " ".join(part.get_text() for part in drawn.findobj(Text)).replace("\n", " ").replace("\u00a0", " ")


# ---- maps --------------------------------------------------------------------------------------------------


def test_reduce_channels():
    values = np.array([[[[3.0, -1.0]], [[-4.0, 1.0]]]])  # [1, 2, 1, 2]
    assert view.reduce_channels(values, 1).tolist() == [[[-1.0, 0.0]]]
    assert view.reduce_channels(values, 1, "abs").tolist() == [[[7.0, 2.0]]]
    assert view.reduce_channels(values, 1, "norm")[0, 0, 0] == 5.0
    last = np.moveaxis(values, 1, -1)
    assert np.array_equal(view.reduce_channels(last, -1, "norm"), view.reduce_channels(values, 1, "norm"))


def test_reduce_channels_leaves_other_shapes_alone():
    table, video = np.array([[1.0, -2.0]]), -np.ones((1, 2, 3, 4, 5))
    assert np.array_equal(view.reduce_channels(table, 1), table)
    assert np.array_equal(view.reduce_channels(table, None, "abs"), [[1.0, 2.0]])
    assert np.array_equal(view.reduce_channels(video, None), video)


@pytest.mark.parametrize(("axis", "how"), [(0, "sum"), (4, "sum"), (-4, "sum"), (1, "mean")])
def test_reduce_channels_refuses(axis, how):
    with pytest.raises(BadInput):
        view.reduce_channels(np.zeros((1, 3, 4, 4)), axis, how)


def test_resize_maps():
    maps = np.random.default_rng(0).normal(size=(2, 7, 5))
    assert np.allclose(view.resize_maps(maps, (7, 5)), maps)
    assert np.allclose(view.resize_maps(np.full((1, 3, 3), 2.5), (224, 100)), 2.5)
    # Pixel centres of a ramp stay on the ramp, away from the border.
    ramp = view.resize_maps(np.arange(8.0)[None, None], (1, 16))[0, 0]
    assert np.allclose(ramp[1:-1], (np.arange(16) + 0.5)[1:-1] / 2 - 0.5)
    # What is constant stays so.
    assert np.allclose(view.resize_maps(np.full((1, 8, 8), 3.0), (3, 2)), 3.0)


def test_resize_maps_agrees_with_pillow():
    map = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    wide = np.asarray(Image.fromarray(map).resize((31, 40), Image.Resampling.BILINEAR))
    small = np.asarray(Image.fromarray(map).resize((4, 3), Image.Resampling.BILINEAR))
    assert np.allclose(view.resize_maps(map[None], (40, 31))[0], wide, atol=1e-5)
    assert np.allclose(view.resize_maps(map[None], (3, 4))[0], small, atol=1e-5)


# ---- colours -----------------------------------------------------------------------------------------------


def test_the_scale_is_the_stated_percentile():
    map = np.arange(-500.0, 501.0)
    assert view.colour_scale(map) == np.percentile(np.abs(map), 99.5)
    assert view.colour_scale(-map) == view.colour_scale(map)


def test_the_scale_of_sparse_and_empty_maps():
    sparse = np.zeros((100, 100))
    sparse[3, 3] = -2.0
    assert view.colour_scale(sparse) == 2.0
    assert view.colour_scale(np.zeros((4, 4))) == 1.0
    assert view.colour_scale(np.full((4, 4), 0.3)) == pytest.approx(0.3)


def test_zero_is_white_and_signs_are_mirrored():
    values = np.linspace(0, 1, 50)
    towards, against = view.colour(values, 1.0).astype(int), view.colour(-values, 1.0).astype(int)
    assert towards[0].tolist() == against[0].tolist() == [255, 255, 255]
    assert view.colour(np.zeros((2, 2)), signed=False).min() == 255
    # Red above zero, blue below, and as far from white on either side.
    assert (towards[1:, 0] > towards[1:, 2]).all()
    assert (against[1:, 2] > against[1:, 0]).all()
    assert np.abs(lightness(towards) - lightness(against)).max() < 8


@pytest.mark.parametrize("signed", [True, False])
def test_colours_darken_with_the_value_whoever_sees_them(signed):
    values = np.linspace(0, 1, 120)
    for side in (values, -values) if signed else (values,):
        light = lightness(view.colour(side, 1.0, signed=signed))
        assert (np.diff(light) <= 1e-9).all()
        assert light[0] > 99
        assert light[-1] < 25
    # Without red or green cones red and blue stay apart, as their blue channel alone shows.
    ends = view.colour(np.array([0.7, -0.7]), 1.0).astype(int)
    assert ends[1, 2] - ends[0, 2] > 60


def test_values_beyond_the_scale_are_full():
    assert np.array_equal(view.colour(np.array([9.0, -9.0]), 1.0), view.colour(np.array([1.0, -1.0]), 1.0))
    tiny = np.array([[1e-310, -1e-320]])
    assert view.colour(tiny).shape == (1, 2, 3)


def test_saliency_mask():
    map = np.random.default_rng(0).normal(size=(40, 50))
    mask = view.saliency_mask(map)
    assert mask.min() >= 0
    assert mask.max() == 1
    assert np.array_equal(mask, view.saliency_mask(-map))
    assert not view.saliency_mask(np.zeros((3, 3))).any()
    assert (view.saliency_mask(np.full((3, 3), -2.0)) == 1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad):
    map = np.ones((4, 4))
    map[0, 0] = bad
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    for draw in (view.colour_scale, view.colour, view.saliency_mask, lambda m: view.overlay(picture, m)):
        with pytest.raises(BadInput, match="finite"):
            draw(map)
    with pytest.raises(BadInput, match="finite"):
        view.figure(make(map[None]))


# ---- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 28), (120, 200), (300, 97)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_has_the_picture_s_size(size, channels):
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (*size, channels), dtype=np.uint8)
    for map in (random.normal(size=size), random.normal(size=(7, 7)), np.zeros(size), np.ones(size)):
        laid = view.overlay(picture, map)
        assert laid.shape == (*size, 3)
        assert laid.dtype == np.uint8


def test_an_overlay_of_nothing_is_the_paled_picture():
    picture = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    laid = view.overlay(picture, np.zeros((120, 120)))
    assert np.array_equal(laid, np.rint(view.paled(picture)))
    assert laid.min() >= 127


def test_an_overlay_is_red_for_and_blue_against():
    picture = np.full((128, 128, 3), 128, dtype=np.uint8)
    map = np.zeros((128, 128))
    map[20:40, 20:40], map[80:100, 80:100] = 1, -1
    laid = view.overlay(picture, map).astype(int)
    assert laid[30, 30, 0] - laid[30, 30, 2] > 50
    assert laid[90, 90, 2] - laid[90, 90, 0] > 50
    assert np.ptp(laid[60, 60]) == 0
    unsigned = view.overlay(picture, np.abs(map)).astype(int)[30, 30]
    assert unsigned[1] < min(unsigned[0], unsigned[2])


def test_tiny_pictures_are_never_smoothed():
    picture = np.zeros((28, 28, 1), dtype=np.uint8)
    map = np.zeros((28, 28))
    map[5, 5] = 1
    laid = view.overlay(picture, map)
    assert np.count_nonzero((laid != laid[0, 0]).any(-1)) == 1
    assert view.smoothing((28, 28)) == 0
    assert view.smoothing((224, 300)) == pytest.approx(4.48)
    assert np.isclose(view.smooth_map(np.eye(120), 3.0).sum(), 120)


def test_tiny_pictures_are_magnified_in_squares():
    tiny = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    large = view.magnify(tiny)
    assert large.shape == (224, 224, 1)
    assert np.array_equal(large[14::28, 14::28], tiny)
    assert view.magnify(np.zeros((200, 300, 3), dtype=np.uint8)).shape == (200, 300, 3)
    assert max(view.magnify(np.zeros((2, 300, 3), dtype=np.uint8)).shape) <= 448


def test_as_pictures_takes_what_people_have():
    random = np.random.default_rng(0)
    whole = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert np.array_equal(view.as_pictures(whole), whole[None])
    assert np.array_equal(view.as_pictures(whole / 255.0), whole[None])
    assert np.array_equal(view.as_pictures(whole.astype(np.int64)), whole[None])
    assert np.array_equal(view.as_pictures(Image.fromarray(whole)), whole[None])
    assert np.array_equal(view.as_pictures([whole, Image.fromarray(whole)]), np.stack([whole, whole]))
    assert view.as_pictures(whole[..., 0]).shape == (1, 5, 6, 1)
    assert view.as_pictures(np.zeros((4, 5, 6))).shape == (4, 5, 6, 1)
    assert view.as_pictures(np.zeros((2, 5, 6, 1))).shape == (2, 5, 6, 1)
    assert view.as_pictures(Image.new("L", (6, 5))).shape == (1, 5, 6, 1)
    assert view.as_pictures(Image.new("P", (6, 5))).shape == (1, 5, 6, 3)
    assert view.as_pictures(np.ones((5, 6), dtype=bool)).max() == 255


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    assert view.as_pictures(clear).min() == 255
    assert np.array_equal(view.as_pictures(np.asarray(clear)), view.as_pictures(clear))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 3, 5, 6)),
        np.zeros(4),
        np.zeros((0, 4)),
        np.full((4, 4), 7.0),
        np.full((4, 4), np.nan),
        np.full((4, 4), 300),
        np.full((4, 4), "a"),
        [],
        [np.zeros((4, 4)), np.zeros((4, 5))],
    ],
)
def test_as_pictures_refuses(bad):
    with pytest.raises(BadInput):
        view.as_pictures(bad)


def test_png_is_lossless():
    random = np.random.default_rng(0)
    for picture in (
        view.colour(random.normal(size=(50, 60))),
        random.integers(0, 256, (50, 60, 3), dtype=np.uint8),
        random.integers(0, 256, (50, 60, 1), dtype=np.uint8),
    ):
        back = Image.open(io.BytesIO(view.png(picture)))
        assert np.array_equal(np.asarray(back.convert("RGB")), np.broadcast_to(picture, (50, 60, 3)))


# ---- figures -----------------------------------------------------------------------------------------------


def is_png(data):
    return data.startswith(b"\x89PNG") and Image.open(io.BytesIO(data)).size[0] > 200


def test_figure_states_its_scale_and_its_numbers():
    result = digit(2, 28)
    drawn = view.figure(result)
    said = texts(drawn)
    for words in (
        "Integrated gradients",
        "class 0",
        "class 1",
        "99.5th percentile",
        "colour scale ±",
        "beyond",
        "96 evaluations",
        "residual: 0.25",
        "estimated error: 1.2 %",
        "converged: yes",
    ):
        assert words in said
    assert is_png(view.png(drawn))


def test_figure_says_what_is_not_promised():
    result = replace(digit(), residual=None, error=None, converged=None, evaluations=np.array([1]))
    said = texts(view.figure(result))
    assert "not promised by this method: residual, estimated error" in said
    assert "1 evaluation " in said
    assert "converged:" not in said


def test_figure_without_a_picture():
    said = texts(view.figure(make(np.random.default_rng(0).normal(size=(1, 20, 30)))))
    assert "values from" in said
    assert "overlay" not in said


def test_figure_of_a_table():
    values = np.arange(-15.0, 15.0)[None]
    names = [f"column {i}" for i in range(30)]
    said = texts(view.figure(make(values, settings={"feature_names": names})))
    assert "column 0" in said
    assert "column 15" not in said
    assert "the 20 largest of 30 features" in said
    assert "feature (1, 2, 0)" in texts(view.figure(make(np.ones((1, 2, 3, 2)))))
    assert is_png(view.png(view.figure(make(np.ones(3)))))


def test_dollars_are_no_formulas():
    names = [r"cost in $ \foo$"] * 4
    result = make(np.ones((1, 4)), settings={"feature_names": names, "target_name": r"$\bad$"})
    assert is_png(view.png(view.figure(result)))
    assert is_png(view.png(view.comparison_figure({r"$\bad$": result})))
    assert is_png(view.png(view.development_figure([(r"$\bad$", result)])))


@pytest.mark.parametrize(
    "values", [np.zeros((1, 8, 8)), np.full((1, 8, 8), -2.0), np.full((1, 1, 1), 3.0), np.zeros((1, 5))]
)
def test_figures_of_degenerate_values(values):
    assert is_png(view.png(view.figure(make(values))))


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 3), (224, 150)])
def test_figures_of_odd_sizes(size):
    picture = np.full((1, *size, 3), 90, dtype=np.uint8)
    assert is_png(view.png(view.figure(make(np.random.default_rng(0).normal(size=(1, *size)), picture))))


def test_a_figure_of_many_examples_says_how_many_it_shows():
    assert "16 of 20 examples" in texts(view.figure(make(np.random.default_rng(0).normal(size=(20, 4)))))


def boxes(drawn):
    drawn.draw_without_rendering()
    shown = [
        axes for axes in drawn.findobj(lambda part: hasattr(part, "get_tightbbox") and hasattr(part, "xaxis"))
    ]
    return [axes.get_tightbbox() for axes in shown if axes.get_visible() and axes.get_label() != "<colorbar>"]


@pytest.mark.parametrize("count", [1, 7, 40])
def test_comparison_panels_do_not_overlap(count):
    results = {f"a rather long name of method number {i}": digit(seed=i) for i in range(count)}
    drawn = view.comparison_figure(results)
    found = boxes(drawn)
    assert len(found) == count + 1
    for i, one in enumerate(found):
        assert one.x0 >= -1
        assert one.x1 <= drawn.bbox.x1 + 1
        for other in found[i + 1 :]:
            overlap = (
                min(one.x1, other.x1) - max(one.x0, other.x0),
                min(one.y1, other.y1) - max(one.y0, other.y0),
            )
            assert min(overlap) < 1


def test_comparison_states_each_scale():
    said = texts(view.comparison_figure({"vargrad": digit(seed=1), "my map": make(np.ones((1, 8, 8)))}))
    for words in ("VarGrad", "my map", "input", "±", "0 to 1", "99.5th percentile"):
        assert words in said
    with pytest.raises(BadInput, match="no results"):
        view.comparison_figure({})
    with pytest.raises(BadInput, match="row 3"):
        view.comparison_figure({"vargrad": digit()}, row=3)


def trace(classes=None):
    nodes = np.array([[0.75, 0.25, np.nan], [0.1, 0.5, 0.9]])
    weights = np.array([[0.5, 0.5, np.nan], [0.25, 0.5, 0.25]])
    shape = nodes.shape if classes is None else (*nodes.shape, classes)
    output = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    return Trace(nodes, weights, output, output * 2)


def test_trace_figure():
    for row, count in ((0, 2), (1, 3)):
        drawn = view.trace_figure(trace(), row)
        said = texts(drawn)
        for words in ("baseline", "input", "position on the path", "derivative", f"{count} nodes"):
            assert words in said
        line = drawn.axes[0].lines[0].get_xdata()
        assert len(line) == count
        assert (np.diff(line) > 0).all()
    assert "class 3" in texts(view.trace_figure(trace(4), index=3))
    assert "class" in texts(view.trace_figure(trace(4)))
    with pytest.raises(BadInput):
        view.trace_figure(trace(), 2)
    with pytest.raises(BadInput):
        view.trace_figure(trace(4), index=4)


def test_development_figure():
    results = [
        (f"epoch {i}", replace(digit(seed=i), settings={"prediction": "a 3", "probability": 0.5}))
        for i in range(9)
    ]
    drawn = view.development_figure(results)
    said = texts(drawn)
    for words in ("epoch 0", "epoch 8", "predicts a 3, 50 %", "the same for all maps", "checkpoint"):
        assert words in said
    assert is_png(view.png(drawn))
    assert is_png(view.png(view.development_figure([("one", make(np.ones((1, 6))))])))
    with pytest.raises(BadInput):
        view.development_figure([])


def test_the_result_s_own_pictures():
    result = digit(2, 28)
    assert result.overlay().shape == (2, 28, 28, 3)
    assert result.mask().max() == 1
    for shown in (result, make(np.ones((2, 5))), make(np.ones(3))):
        assert is_png(shown._repr_png_())
    assert make(np.ones((1, 3, 8, 8)), every_class=True)._repr_png_() is None


@pytest.mark.parametrize("second", [None, np.ones((1, 3))])
def test_of_several_inputs_the_figures_say_which_is_shown(second):
    result = replace(digit(), values={"a": None, "b": np.ones((1, 1, 8, 8)), "c": second})
    said = "2 inputs were explained; the map is that of the first"
    for drawn in (view.figure(result), view.comparison_figure({"saliency": result})):
        assert (said in texts(drawn)) == (second is not None)


# ---- words -------------------------------------------------------------------------------------------------


def test_numbers_are_written_for_people():
    assert caption.number(0.012345) == "0.0123"
    assert caption.number(-2.0) == "−2"
    assert caption.number(1.5e-7) == "1.5×10⁻⁷"
    assert caption.percent(0) == "0 (exact)"


def test_names_are_written_as_in_the_field():
    assert caption.written("integrated_gradients") == "Integrated gradients"
    assert caption.written("smoothgrad") == "SmoothGrad"
    assert caption.written("IG, black") == "IG, black"
    assert caption.written("my_own_method") == "my_own_method"


def test_every_method_has_a_title_of_its_own():
    titles = [record.title for record in registry.methods().values()]
    assert len(titles) == len(set(titles))
    assert all(title[0].isupper() and "_" not in title for title in titles)


def test_targets_in_words():
    result = make(np.ones((2, 3)))
    assert caption.target_text(result, 1) == "class 1"
    assert caption.target_text(result, 1, ["cat", "dog"]) == "dog (class 1)"
    assert caption.target_text(replace(result, settings={"target_name": ["a", "b"]}), 0) == "a (class 0)"
    assert (
        caption.target_text(replace(result, target="margin", settings={"target": "margin(1, 2)"}), 0)
        == "margin(1, 2)"
    )
    assert caption.target_text(replace(result, target=np.array([[1, 2], [3, 4]])), 1) == "(3, 4)"


def test_numbers_in_words():
    result = make(np.ones((1, 4)), standard_error=np.full((1, 4), 0.1))
    words = caption.numbers(result, 0)
    assert words["output"] == "5"
    assert words["sum of the shares"] == "4.25"
    assert words["residual"] == "0.25 (6.2 % of the change in output)"
    assert words["standard error"] == "0.1 on average (10 % of the mean |value|)"
    assert caption.numbers(replace(result, converged=np.array([False])), 0)["converged"].startswith("no:")
    assert "less than" in caption.numbers(replace(result, residual=np.array([1e-12])), 0)["residual"]


def test_importing_view_is_cheap():
    heavy = ("matplotlib", "PIL", "jinja2", "scipy", "torch")
    code = f"import sys, whence.view; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError):
        view.nothing  # noqa: B018
