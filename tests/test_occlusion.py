"""Windows and features taken away one at a time: equal to slow twins, whatever is taken away and how."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import whence
from models import cnn, mlp, numpy_of, pictures
from oracles_coalition import Recorder, game_of, leave_one_out, occlusion, smooth
from whence.errors import BadInput, Refused

SAME = 1e-10
WEIGHTS = np.random.default_rng(0).normal(size=(2 * 9 * 7, 5))
X = np.random.default_rng(1).normal(size=(2, 2, 9, 7))


def crooked(x):
    """A smooth function of pictures [n, 2, 9, 7]."""
    return np.tanh(x.reshape(len(x), -1) @ WEIGHTS).sum(1)


# ---- windows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "stride"),
    [
        ((3, 3), (1, 1)), ((3, 3), (3, 3)), ((3, 2), (2, 1)), ((4, 4), (3, 3)), ((9, 7), (1, 1)), ((1, 1), (1, 1)),
        ((5, 4), (5, 4)), ((2, 3), (1, 2)), ((8, 6), (2, 5)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_each_pixel_has_the_mean_loss_over_the_windows_that_cover_it(window, stride, baseline):
    found = whence.explain(crooked, X, "occlusion", window=window, stride=stride, baseline=baseline)
    wanted = np.stack([occlusion(crooked, x, np.full_like(x, baseline), window, stride) for x in X])
    assert np.abs(found.values - wanted).max() <= SAME
    assert (np.array(found.shares.shape) == (2, found.evaluations[0])).all()


def test_gaps_between_windows_have_no_share():
    found = whence.explain(crooked, X, "occlusion", window=(2, 2), stride=(4, 3))
    wanted = np.stack([occlusion(crooked, x, np.zeros_like(x), (2, 2), (4, 3)) for x in X])
    assert np.abs(found.values - wanted).max() <= SAME
    assert (found.values[:, :, 2:4] == 0).all() and (found.values[:, :, :, 2] == 0).all()


def test_no_window_lies_outside_the_picture():
    found = whence.explain(crooked, X, "occlusion", window=(2, 2), stride=(5, 4))
    # Rows at 0 and 5, columns at 0 and 4; the next would be at 10 of 9, and at 8 of 7.
    assert found.shares.shape == (2, 4)


def test_a_default_window_covers_every_pixel():
    found = whence.explain(crooked, X, "occlusion")
    wanted = np.stack([occlusion(crooked, x, np.zeros_like(x), (2, 2), (1, 1)) for x in X])
    assert np.abs(found.values - wanted).max() <= SAME


def test_a_window_may_have_a_side_for_every_axis():
    f = lambda x: np.tanh(x @ np.arange(5.0)).sum(1)  # noqa: E731
    x = np.random.default_rng(2).normal(size=(2, 4, 5))
    found = whence.explain(f, x, "occlusion", window=(2, 5), stride=(1, 5))
    wanted = np.stack([occlusion(f, each, np.zeros_like(each), (2, 5), (1, 5)) for each in x])
    assert np.abs(found.values - wanted).max() <= SAME


def test_of_a_table_windows_go_along_its_columns():
    f, x = smooth(6), np.random.default_rng(2).normal(size=(2, 6))
    found = whence.explain(f, x, "occlusion", window=2, stride=1)
    picture = lambda rows: f(rows.reshape(len(rows), 6))  # noqa: E731
    wanted = np.stack([occlusion(picture, each[None], np.zeros((1, 6)), (1, 2), (1, 1))[0] for each in x])
    assert np.abs(found.values - wanted).max() <= SAME


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_and_every_class(dtype):
    model, x = cnn(dtype=dtype), pictures(3, dtype=dtype)
    found = whence.explain(model, x, "occlusion", window=3, stride=1, target="all")
    assert found.values.shape == (3, 3, 1, 6, 6) and found.values.dtype == dtype
    for k in range(3):
        f = lambda rows, k=k: model(torch.as_tensor(rows, dtype=dtype)).detach().double().numpy()[:, k]  # noqa: E731
        wanted = np.stack(
            [occlusion(f, each, np.zeros_like(each), (3, 3), (1, 1)) for each in x.double().numpy()]
        )
        assert np.abs(numpy_of(found.values[:, k]) - wanted).max() <= (
            1e-5 if dtype == torch.float32 else SAME
        )


def test_over_a_background_it_is_the_mean():
    background = np.random.default_rng(3).normal(size=(4, 2, 9, 7))
    found = whence.explain(
        crooked, X, "occlusion", window=(4, 3), stride=(2, 2), baseline=whence.baseline.dataset(background)
    )
    wanted = np.stack(
        [np.mean([occlusion(crooked, x, b, (4, 3), (2, 2)) for b in background], axis=0) for x in X]
    )
    assert np.abs(found.values - wanted).max() <= SAME


@pytest.mark.parametrize(
    "baseline", [whence.baseline.blur(1.0), whence.baseline.mean(), "row"], ids=["blur", "mean", "row"]
)
def test_any_baseline_covers_the_windows(baseline):
    spec = np.full((2, 9, 7), 0.3) if isinstance(baseline, str) else baseline
    black_box = Recorder(crooked)
    found = whence.explain(black_box, X[:1], "occlusion", window=(9, 7), baseline=spec)
    absent = black_box.rows[-1]
    assert np.abs(found.values[0] - occlusion(crooked, X[0], absent, (9, 7), (4, 3))).max() <= SAME
    assert not np.allclose(absent, X[0])


# ---- one feature at a time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3])
def test_ablation_leaves_one_feature_out(rows):
    f, x = smooth(6, 2), np.random.default_rng(2).normal(size=(2, 6))
    background = np.random.default_rng(3).normal(size=(rows, 6))
    found = whence.explain(
        f, x, "feature_ablation", baseline=whence.baseline.dataset(background), target="all"
    )
    wanted = np.stack([leave_one_out(*game_of(f, each, background)).T for each in x])
    assert np.abs(found.values - wanted).max() <= SAME and found.evaluations.tolist() == [6 * rows] * 2


def test_ablation_of_groups_and_of_a_network():
    model, x = mlp(6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    labels = np.array([0, 1, 1, -1, 2, 0])
    found = whence.explain(model, x, "feature_ablation", features=labels, target=1)
    f = lambda rows: model(torch.as_tensor(rows)).detach().numpy()[:, 1]  # noqa: E731
    wanted = np.stack([leave_one_out(*game_of(f, each, np.zeros((1, 6)), labels)) for each in x.numpy()])
    assert np.abs(numpy_of(found.shares) - wanted).max() <= SAME
    assert (found.values[:, 3] == 0).all()
    assert np.allclose(numpy_of(found.values[:, labels >= 0]), wanted[:, labels[labels >= 0]])


def test_ablation_of_several_inputs():
    f = smooth(6)
    model = lambda one, two: f(np.concatenate([one, two], 1))  # noqa: E731
    x = np.random.default_rng(2).normal(size=(2, 6))
    found = whence.explain(model, (x[:, :2], x[:, 2:]), "feature_ablation")
    wanted = np.stack([leave_one_out(*game_of(f, each, np.zeros((1, 6)))) for each in x])
    assert np.abs(np.concatenate(found.values, 1) - wanted).max() <= SAME
    assert found.settings["features"] == 6


def test_of_a_linear_function_every_window_is_the_sum_of_its_parts():
    w = np.random.default_rng(2).normal(size=(9, 7))
    f = lambda x: (x * w).sum((1, 2, 3))  # noqa: E731
    found = whence.explain(f, X, "occlusion", window=(3, 7), stride=(3, 7))
    wanted = (X * w).reshape(2, 2, 3, 3, 7).sum((1, 3, 4))
    assert np.allclose(found.shares, wanted) and np.allclose(
        found.values, np.repeat(wanted, 3, 1)[:, None, :, None]
    )


# ---- what cannot be meant --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "word"),
    [
        ({"window": 3, "features": "elements"}, BadInput, "one of them"),
        ({"stride": 3, "features": "elements"}, BadInput, "one of them"),
        ({"window": 0}, BadInput, "window"), ({"window": 2.5}, BadInput, "window"),
        ({"window": (3, -1)}, BadInput, "window"),
        ({"window": 3, "stride": 0}, BadInput, "stride"), ({"window": 10}, Refused, "do not fit"),
        ({"window": (3, 3), "stride": (1, 1, 1)}, BadInput, "stride"), ({"window": (3, 3, 3, 3)}, Refused, "sides"),
        ({"windwo": 3}, BadInput, "window"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(fields, error, word):
    with pytest.raises(error, match=word):
        whence.explain(crooked, X, "occlusion", **fields)


@pytest.mark.parametrize("stride", [0, 1.5, "wide"])
def test_a_stride_without_a_window_is_checked_too(stride):
    with pytest.raises(BadInput, match="stride"):
        whence.Occlusion(stride=stride)(crooked, X)
