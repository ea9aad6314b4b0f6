"""What is switched on and off together: windows, cells, superpixels, columns, tokens, and a user's own masks."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import whence
from models import cnn, numpy_of, pictures
from oracles_coalition import Recorder, game_of, leave_one_out, shapley_by_orders, shapley_by_subsets, smooth
from whence import features
from whence.errors import BadInput, Refused

SAME = 1e-10


def rows_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def weighted(shape, seed=9):
    """A linear function of arrays of a shape, and its weights."""
    w = rows_of(*shape, seed=seed)
    return (lambda x: (x * w).reshape(len(x), -1).sum(1)), w


def ablated(x, spec, method="feature_ablation", **options):
    """The result on a linear function, and the gains w·x of each number."""
    f, w = weighted(x.shape[1:])
    return whence.explain(f, x, method, features=spec, **options), w * x


def assert_groups(found, gains, labels):
    """Each feature's share is the sum of its numbers' gains; every number shows its feature's."""
    labels = np.broadcast_to(labels, gains.shape)
    for row in range(len(gains)):
        own = labels[row]
        shares = np.array([gains[row][own == k].sum() for k in range(own.max() + 1)])
        assert np.abs(found.shares[row, : len(shares)] - shares).max() <= SAME
        assert np.abs(found.values[row] - np.where(own >= 0, shares[own], 0)).max() <= SAME


# ---- places ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [2, 3, (2, 5), (1, 4), (6, 8)], ids=str)
def test_patches_lie_side_by_side_and_are_cut_at_the_border(window):
    x = rows_of(2, 3, 6, 8)
    found, gains = ablated(x, features.patches(window))
    height, width = window if isinstance(window, tuple) else (window, window)
    labels = (np.arange(6) // height)[:, None] * -(-8 // width) + np.arange(8) // width
    assert_groups(found, gains, labels)
    assert found.settings["feature_names"][0] == "patch 0" and found.settings["features"] == labels.max() + 1


def test_patches_may_have_a_side_for_the_channels_too():
    found, gains = ablated(rows_of(2, 3, 4, 4), features.patches((1, 2, 2)))
    cells = (np.arange(4) // 2)[:, None] * 2 + np.arange(4) // 2
    assert_groups(found, gains, np.arange(3)[:, None, None] * 4 + cells)


@pytest.mark.parametrize(
    "method", ["kernel_shap", "exact_shapley", "shapley_sampling", "lime", "shapley_interaction"]
)
def test_overlapping_windows_are_features_too(method):
    first = rows_of(15, 4)
    f = lambda x: np.tanh(x.reshape(len(x), -1) @ first).sum(1)  # noqa: E731
    x = rows_of(1, 1, 3, 5)
    fields = {"lime": {"ridge": 0.0}, "shapley_sampling": {"samples": 100}}.get(method, {})
    found = whence.explain(f, x, method, features=features.patches(2, 1), baseline=0.1, **fields)
    windows = [(top, left) for top in range(2) for left in range(4)]

    def value(present):
        covered = x[0].copy()
        for number, (top, left) in enumerate(windows):
            if number not in present:
                covered[:, top : top + 2, left : left + 2] = 0.1
        return f(covered[None])[0]

    if method != "lime":
        assert np.abs(found.shares[0] - shapley_by_subsets(value, 8)).max() <= SAME
    total, times = np.zeros((3, 5)), np.zeros((3, 5))
    for share, (top, left) in zip(found.shares[0], windows, strict=True):
        total[top : top + 2, left : left + 2] += share
        times[top : top + 2, left : left + 2] += 1
    assert np.abs(found.values[0, 0] - total / times).max() <= SAME


@pytest.mark.parametrize(("rows", "columns"), [(2, None), (2, 3), (1, 7), (5, 7)])
def test_a_grid_has_cells_of_about_equal_size(rows, columns):
    found, gains = ablated(rows_of(2, 2, 5, 7), features.grid(rows, columns))
    across = columns or rows
    labels = (np.arange(5) * rows // 5)[:, None] * across + np.arange(7) * across // 7
    assert_groups(found, gains, labels)
    sizes = np.bincount(np.arange(5) * rows // 5)
    assert found.shares.shape == (2, rows * across) and sizes.max() - sizes.min() <= 1


def test_channels_first_last_and_by_number():
    x = rows_of(2, 3, 4, 5)
    found, gains = ablated(x, "channels")
    assert_groups(found, gains, np.arange(3)[:, None, None])
    assert found.settings["feature_names"] == ["channel 0", "channel 1", "channel 2"]
    found, gains = ablated(np.moveaxis(x, 1, -1), "channels")
    assert_groups(found, gains, np.arange(3))
    found, gains = ablated(x, features.channels(axis=-2))
    assert_groups(found, gains, np.arange(4)[:, None])


def test_tokens_are_places_along_an_axis():
    found, gains = ablated(rows_of(2, 5, 4), None)
    assert_groups(found, gains, np.arange(5)[:, None])
    found, gains = ablated(rows_of(2, 5, 4), features.tokens(axis=2))
    assert_groups(found, gains, np.arange(4))
    with pytest.raises(Refused, match="no axis"):
        ablated(rows_of(2, 5, 4), features.tokens(axis=3))


def test_elements_are_values_without_shares():
    found, gains = ablated(rows_of(2, 3, 4), "elements")
    assert np.abs(found.values - gains).max() <= SAME and found.shares is None


# ---- columns ---------------------------------------------------------------------------------------------------


def test_columns_have_names_and_groups():
    names = ["age", "income", "capital", "height"]
    found, gains = ablated(rows_of(3, 4), features.columns({"money": ["income", "capital"]}, names=names))
    assert_groups(found, gains, np.array([1, 0, 0, 2]))
    assert found.settings["feature_names"] == ["money", "age", "height"]
    found, gains = ablated(rows_of(3, 4), features.columns({"ends": [0, -1], "middle": [1]}))
    assert_groups(found, gains, np.array([0, 1, 2, 0]))
    assert found.settings["feature_names"] == ["ends", "middle", "column 2"]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: features.columns({"money": []}), "empty"),
        (lambda: features.columns({"a": [0], "b": [0, 1]}), "two groups"),
        (lambda: features.columns({"a": [0, 0]}), "twice"),
        (lambda: features.columns({"a": [4]}), "no column 4"),
        (lambda: features.columns({"a": ["incom"]}, names=["age", "income", "x", "y"]), "income"),
        (lambda: features.columns({"a": ["age"]}), "column"),
        (lambda: features.columns(names=["age"]), "1 names for 4 columns"),
        (lambda: features.grid(0), "rows"), (lambda: features.grid(2, 1.5), "columns"),
        (lambda: features.patches(0), "window"), (lambda: features.patches(2, stride=0), "stride"),
        (lambda: "superpixel", "superpixels"), (lambda: "colums", "columns"), (lambda: "slick", "slic"),
        (lambda: 3, "features is 3"), (lambda: np.zeros(3, dtype=int), "does not fit"),
        (lambda: np.zeros((2, 2, 4), dtype=int), "does not fit"), (lambda: np.zeros(4), "whole numbers"),
        (lambda: ["a", "b", "c", "d"], "whole numbers"),
        (lambda: (np.zeros(4, int), np.zeros(4, int)), "2 masks are given for 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_near_names(make, word):
    with pytest.raises(BadInput, match=word):
        ablated(rows_of(3, 4), make())


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        (features.grid(2), "height and a width"), ("superpixels", "height and a width"),
        (features.patches((2, 2)), "sides"), (features.patches(5), "do not fit"), (np.full(4, -1), "no feature"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_a_table_is_refused(spec, word):
    with pytest.raises(Refused, match=word):
        ablated(rows_of(3, 4), spec)


@pytest.mark.parametrize("spec", [features.grid(9, 2), features.columns()], ids=["grid", "columns"])
def test_what_does_not_fit_a_picture_is_refused(spec):
    with pytest.raises(Refused, match=r"does not fit|table"):
        ablated(rows_of(1, 1, 8, 8), spec)


# ---- superpixels ---------------------------------------------------------------------------------------------------


def scene(seed, patches):
    """A picture of flat patches of colour [1, 3, 32, 32]."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((3, 32, 32))
    for _ in range(patches):
        top, left = generator.integers(0, 24, 2)
        picture[:, top : top + 8, left : left + 8] = generator.random((3, 1, 1))
    return picture[None]


@pytest.mark.parametrize("name", ["superpixels", "slic", "felzenszwalb", "quickshift", "watershed"])
def test_superpixels_of_each_kind(name):
    x = scene(0, 6)
    found, gains = ablated(x, name)
    values, shares = found.values[0], found.shares[0]
    # Each pixel shows its region's share, and regions together are the picture.
    assert np.array_equal(values[0], values[2]) and np.isin(np.unique(values), shares).all()
    assert shares.sum() == pytest.approx(gains.sum())
    labels = np.argmin(np.abs(values[0][..., None] - shares), -1)
    assert_groups(found, gains, labels)


def test_superpixels_take_a_count_and_options():
    x = scene(0, 6)
    few, many = (ablated(x, features.superpixels("slic", count))[0].shares.shape[1] for count in (4, 60))
    assert few <= 8 < many
    assert ablated(x, features.superpixels("felzenszwalb", scale=1, min_size=2))[0].shares.shape[1] > 6
    with pytest.raises(BadInput, match="slic"):
        ablated(x, features.superpixels("slic", compactnes=3))


@pytest.mark.parametrize("method", ["feature_ablation", "kernel_shap", "lime", "rise", "partition_shap"])
def test_rows_with_other_numbers_of_superpixels_are_explained_as_if_alone(method):
    x = np.concatenate([scene(1, 9), scene(2, 1), scene(3, 5)])
    f = lambda x: np.tanh((x**2).mean((1, 2, 3)) * 5)  # noqa: E731
    spec = features.superpixels("felzenszwalb", scale=10, min_size=4)
    together = whence.explain(f, x, method, features=spec)
    counts = []
    for row in range(3):
        alone = whence.explain(f, x[row : row + 1], method, features=spec)
        own = alone.shares.shape[1]
        counts.append(own)
        assert np.abs(together.values[row] - alone.values[0]).max() <= 1e-12
        assert np.abs(together.shares[row, :own] - alone.shares[0]).max() <= 1e-12
        assert np.isnan(together.shares[row, own:]).all()
        assert together.evaluations[row] == alone.evaluations[0]
    assert len(set(counts)) > 1
    # No name fits a region of every picture.
    assert "feature_names" not in together.settings and together.shares.shape[1] == max(counts)


# ---- a user's own mask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list, features.mask])
def test_a_mask_names_features_and_what_is_never_switched(kind):
    labels = np.array([5, 5, -1, 9, 7])
    x = rows_of(2, 5)
    black_box = Recorder(weighted((5,))[0])
    found = whence.explain(
        black_box, x, "kernel_shap", features=kind(labels.tolist() if kind is list else labels)
    )
    gains = weighted((5,))[1] * x
    assert_groups(found, gains, np.array([0, 0, -1, 2, 1]))
    assert found.settings["feature_names"] == ["feature 5", "feature 7", "feature 9"]
    assert np.isin(black_box.rows[:, 2], x[:, 2]).all()
    assert found.baseline_output == pytest.approx(gains[:, 2])


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (1, 1, 4, 6), (4, 1), (3, 1, 1)], ids=str)
def test_a_mask_is_stretched_to_the_input(shape):
    labels = np.arange(np.prod(shape)).reshape(shape) % 5
    found, gains = ablated(rows_of(2, 3, 4, 6), labels)
    assert_groups(found, gains, np.broadcast_to(labels, (2, 3, 4, 6)))


def test_a_mask_for_each_row():
    labels = np.array([[0, 1, 1, 2], [2, 2, 0, -1], [0, 0, 0, 0]])
    f, x = smooth(4), rows_of(3, 4)
    found = whence.explain(f, x, "exact_shapley", features=labels)
    for row in range(3):
        v, d = game_of(f, x[row], np.zeros((1, 4)), labels[row])
        wanted = np.zeros(3)
        wanted[:d] = shapley_by_orders(v, d)
        assert np.abs(found.shares[row] - wanted).max() <= SAME


def test_the_same_number_in_two_inputs_is_the_same_feature():
    f = smooth(5)
    model = lambda one, two: f(np.concatenate([one, two], 1))  # noqa: E731
    x, labels = rows_of(2, 5), np.array([0, 1, 1, 2, -1])
    for given, masks in (
        ((x[:, :2], x[:, 2:]), (labels[:2], labels[2:])),
        ({"one": x[:, :2], "two": x[:, 2:]}, {"two": labels[2:], "one": labels[:2]}),
    ):
        found = whence.explain(model, given, "exact_shapley", features=masks)
        wanted = np.stack([shapley_by_orders(*game_of(f, each, np.zeros((1, 5)), labels)) for each in x])
        assert np.abs(found.shares - wanted).max() <= SAME
        parts = found.values if isinstance(given, tuple) else tuple(found.values.values())
        assert np.allclose(parts[0], wanted[:, [0, 1]]) and np.allclose(parts[1][:, :2], wanted[:, [1, 2]])
        assert (parts[1][:, 2] == 0).all()


def test_each_input_has_features_of_its_own_kind():
    picture, row = rows_of(2, 1, 4, 4), rows_of(2, 3, seed=1)
    model = lambda a, b: a.sum((1, 2, 3)) * b.sum(1)  # noqa: E731
    found = whence.explain(model, (picture, row), "feature_ablation", features=(features.grid(2), "columns"))
    assert found.shares.shape == (2, 7)
    assert found.settings["feature_names"][3:5] == ["0: patch 3", "1: column 0"]
    assert np.allclose(found.shares[:, 4:], picture.sum((1, 2, 3))[:, None] * row)


def test_features_that_cover_nothing_or_change_nothing_have_no_share():
    # In the second row feature 1 is nowhere, and in the first feature 0 is as absent already.
    labels, x = np.array([[0, 1, 2], [0, 0, 2]]), np.array([[0.0, 2.0, 3.0], [1.0, 1.0, 0.5]])
    f = lambda rows: np.prod(rows + 1, 1)  # noqa: E731
    for method in ("exact_shapley", "kernel_shap", "shapley_sampling", "feature_ablation", "partition_shap"):
        found = whence.explain(f, x, method, features=labels)
        assert found.shares[0, 0] == pytest.approx(0, abs=1e-12)
        assert found.shares[1, 1] == pytest.approx(0, abs=1e-12)
        if method != "feature_ablation":
            assert found.shares.sum(1) == pytest.approx(f(x) - 1)


def test_shares_follow_the_dtype_and_a_layer_may_be_switched():
    model, x = cnn(), pictures()
    found = whence.explain(model, x, "feature_ablation", features=features.grid(2), target=0)
    assert found.shares.dtype == found.values.dtype == torch.float32 and found.shares.shape == (3, 4)
    layer = whence.explain(model, x, "feature_ablation", features="channels", at=whence.layer("0"), target=0)
    assert layer.shares.shape == (3, 4) and layer.values.shape == (3, 4, 4, 4)
    inside = model[0](x).detach()
    absent = model[0](torch.zeros_like(x)).detach()
    for channel in range(4):
        covered = inside.clone()
        covered[:, channel] = absent[:, channel]
        lost = (model(x) - model[1:](covered))[:, 0].detach()
        assert np.allclose(numpy_of(layer.shares[:, channel]), numpy_of(lost), atol=1e-5)


def test_one_feature_alone_has_the_whole_difference():
    for method in whence.methods().values():
        if method.cls.switches and method.name not in ("rise",):
            fields = {"ridge": 0.0} if method.name == "lime" else {}
            found = whence.explain(smooth(3), rows_of(1, 3), method.name, features=np.zeros(3, int), **fields)
            wanted = leave_one_out(*game_of(smooth(3), rows_of(1, 3)[0], np.zeros((1, 3)), np.zeros(3, int)))
            assert np.allclose(found.shares[0], wanted), method.name


def test_a_mask_stands_beside_other_kinds():
    def model(one, two):
        return one @ np.arange(1.0, 5.0) + two.sum(1)

    inputs = np.ones((1, 4)), np.ones((1, 2))
    for kinds in (
        (np.array([0, 0, 1, 1]), "elements"),
        (whence.features.mask([0, 0, 1, 1]), None),
        ([0, 0, 1, 1], "columns"),
    ):
        found = whence.explain(model, inputs, "feature_ablation", features=kinds)
        assert np.allclose(found.shares, [[3, 7, 1, 1]])
