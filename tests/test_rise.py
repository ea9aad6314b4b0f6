"""RISE: the mean output over random masks equals slow twins, and is as far off as it says."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import whence
from models import cnn, numpy_of, pictures
from oracles_coalition import Recorder, conditional_mean, game_of, rise_by_enumeration, smooth
from whence.errors import BadInput, Refused

SAME = 1e-10
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(2 * 9 * 7, 5))


def rows_of(count, features, seed=0):
    return np.random.default_rng(seed).normal(size=(count, features))


def crooked(x):
    """A smooth function of pictures [n, 2, 9, 7]."""
    return np.tanh(x.reshape(len(x), -1) @ WEIGHTS).sum(1) + 2


def masks_of(method, shape=(1, 1, 9, 7), **options):
    """The masks of a method: what a black box is given where the input is all ones and the baseline 0."""
    black_box = Recorder(lambda x: x.sum((1, 2, 3)))
    whence.explain(black_box, np.ones(shape), method, **options)
    # The first two are the input itself, and once more.
    return black_box.after(2)[:, 0]


# ---- soft masks over pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [0.0, 0.7])
@pytest.mark.parametrize("cells", [1, 3, 7, 20])
def test_a_picture_has_the_mean_over_the_masks_that_leave_each_pixel_visible(cells, baseline):
    method = whence.RISE(samples=150, cells=cells, baseline=baseline)
    x = rows_of(2, 2 * 9 * 7).reshape(2, 2, 9, 7)
    masks = masks_of(whence.RISE(samples=150, cells=cells), seed=3)
    assert masks.shape == (150, 9, 7) and masks.min() >= 0 and masks.max() <= 1
    found = whence.explain(crooked, x, method, seed=3)
    for row in range(2):
        outputs = crooked(baseline + masks[:, None] * (x[row] - baseline))
        wanted = conditional_mean(masks, outputs)
        assert np.abs(found.values[row] - wanted).max() <= 1e-5
    assert np.array_equal(found.values[:, 0], found.values[:, 1])
    assert found.evaluations.tolist() == [150, 150] and found.residual is None


def test_masks_are_an_enlarged_grid_at_a_random_shift():
    masks = masks_of(whence.RISE(samples=3000, cells=3), shape=(1, 1, 12, 12))
    # About half is visible, everywhere, on a scale of four pixels.
    assert np.abs(masks.mean(0) - 0.5).max() < 0.04
    steps = np.abs(np.diff(masks, axis=2))
    assert steps.max() <= 1 / 4 + 0.02 and (steps > 0).any((0, 1)).all()
    rare = masks_of(whence.RISE(samples=3000, cells=3, probability=0.1), shape=(1, 1, 12, 12))
    assert np.abs(rare.mean(0) - 0.1).max() < 0.03


def test_masks_depend_on_the_seed_and_not_on_the_picture_or_the_chunk():
    same = [masks_of(whence.RISE(samples=40), chunk=chunk) for chunk in (1, 7, None)]
    assert all(np.array_equal(each, same[0]) for each in same)
    assert not np.array_equal(masks_of(whence.RISE(samples=40), seed=1), same[0])


def test_a_network_and_a_black_box_have_the_same_map_for_every_class():
    model, x = cnn(dtype=torch.float64), pictures(2, dtype=torch.float64)
    f = lambda rows: model(torch.as_tensor(rows)).detach().numpy()  # noqa: E731
    one = whence.explain(model, x, "rise", samples=60, target="all")
    two = whence.explain(f, x.numpy(), "rise", samples=60, target="all")
    assert one.values.shape == (2, 3, 1, 6, 6)
    assert np.allclose(numpy_of(one.values), two.values, atol=1e-10)
    single = whence.explain(f, x.numpy(), "rise", samples=60, target=1)
    assert np.allclose(single.values, two.values[:, 1], atol=1e-12)


def test_channels_may_lie_last():
    x = rows_of(1, 2 * 9 * 7).reshape(1, 2, 9, 7)
    last = np.moveaxis(np.concatenate([x, x[:, :1]], 1), 1, -1)
    f = lambda rows: crooked(np.moveaxis(rows, -1, 1)[:, :2])  # noqa: E731
    found = whence.explain(f, last, "rise", samples=50)
    assert np.allclose(found.values[..., 0], whence.explain(crooked, x, "rise", samples=50).values[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1e5, 1e9])
def test_standard_errors_of_masks_are_honest_and_do_not_mind_a_large_constant(shift):
    x = rows_of(1, 2 * 9 * 7).reshape(1, 2, 9, 7)
    f = lambda rows: crooked(rows) + shift  # noqa: E731
    found = [whence.explain(f, x, "rise", samples=100, seed=seed) for seed in range(200)]
    values, stated = (
        np.stack([getattr(each, part) for each in found]) for part in ("values", "standard_error")
    )
    ratio = np.sqrt((stated**2).mean(0)) / values.std(0, ddof=1)
    assert 0.8 <= ratio.mean() <= 1.25


# ---- features on or off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.5, 0.2, 0.9])
@pytest.mark.parametrize("d", [1, 2, 5, 9])
def test_over_every_subset_it_is_the_conditional_mean(d, probability):
    f, x, absent = smooth(d), rows_of(2, d), rows_of(1, d, 1)
    found = whence.explain(f, x, "rise", baseline=absent, probability=probability)
    wanted = np.stack([rise_by_enumeration(*game_of(f, row, absent), probability) for row in x])
    assert np.abs(found.values - wanted).max() <= SAME and (found.error == 0).all()


def test_over_a_background_and_every_class():
    f, x, background = smooth(5, 3), rows_of(2, 5), rows_of(4, 5, 1)
    found = whence.explain(f, x, "rise", baseline=whence.baseline.dataset(background), target="all")
    wanted = np.stack([rise_by_enumeration(*game_of(f, row, background), 0.5).T for row in x])
    assert np.abs(found.values - wanted).max() <= SAME


def test_over_sampled_subsets_it_is_the_mean_over_those_that_were_asked():
    f, x = smooth(40), rows_of(1, 40)
    black_box = Recorder(f)
    found = whence.explain(black_box, x, "rise", samples=300)
    on = np.unique(black_box.rows == x, axis=0)
    on = on[on.any(1)]
    assert len(on) == 300
    assert np.abs(found.values[0] - conditional_mean(on, f(np.where(on, x, 0)))).max() <= SAME


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1e5, 1e9])
def test_standard_errors_of_features_are_honest(shift):
    d = 12
    f, x = (lambda rows: smooth(d)(rows) + shift), rows_of(2, d)
    exact = whence.explain(f, x, "rise", samples=2**d).values
    found = [whence.explain(f, x, "rise", samples=300, seed=seed) for seed in range(200)]
    values, stated = (
        np.stack([getattr(each, part) for each in found]) for part in ("values", "standard_error")
    )
    spread = values.std(0, ddof=1)
    assert 0.8 <= (np.sqrt((stated**2).mean(0)) / spread).mean() <= 1.25
    assert (np.abs(values.mean(0) - exact) <= (0.25 + 4 / np.sqrt(200)) * spread).all()


@pytest.mark.slow
@pytest.mark.parametrize("probability", [0.5, 0.9])
def test_a_tolerance_is_kept_for_nearly_all(probability):
    inside = []
    for number in range(3):
        f, x = smooth(17, seed=number), rows_of(3, 17, seed=number)
        exact = whence.explain(f, x, "rise", samples=2**17, probability=probability).values
        found = [
            whence.explain(f, x, "rise", rtol=0.05, seed=seed, probability=probability, max_evaluations=2**17)
            for seed in range(40)
        ]
        off = np.stack([np.abs(each.values - exact).sum(1) / np.abs(exact).sum(1) for each in found])
        inside.append(off <= 0.05)
        assert all(each.converged.all() for each in found)
    assert np.mean(inside) >= 0.95


def test_with_a_tolerance_each_picture_leaves_when_its_map_is_sure():
    x = rows_of(2, 2 * 9 * 7).reshape(2, 2, 9, 7)
    x[1] *= 0.01
    found = whence.explain(crooked, x, "rise", rtol=0.01)
    assert found.evaluations[0] > found.evaluations[1] and found.converged.all() and found.error.max() <= 0.01
    alone = whence.explain(crooked, x[:1], "rise", rtol=0.01)
    assert np.allclose(alone.values[0], found.values[0], atol=1e-12)
    assert alone.evaluations[0] == found.evaluations[0]


@pytest.mark.parametrize("d", [3, 12])
def test_no_subset_is_asked_twice(d):
    for fields in ({"samples": 400}, {"rtol": 0.02}):
        black_box = Recorder(smooth(d))
        found = whence.explain(black_box, rows_of(1, d), "rise", **fields)
        asked = black_box.after(2)
        assert len(np.unique(asked, axis=0)) == len(asked) == found.evaluations[0]


# ---- what cannot be meant --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"samples": 0}, "samples"), ({"samples": 1}, "samples"), ({"cells": 0}, "cells"), ({"cells": 2.5}, "cells"),
        ({"probability": 0}, "probability"), ({"probability": 1.0}, "probability"),
        ({"samples": 50, "rtol": 0.1}, "give one"), ({"probabilty": 0.3}, "probability"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(fields, word):
    with pytest.raises(BadInput, match=word):
        whence.explain(crooked, np.ones((1, 2, 9, 7)), "rise", **fields)


def test_many_baselines_behind_soft_masks_are_refused():
    x = np.ones((1, 2, 9, 7))
    with pytest.raises(Refused, match="one baseline"):
        whence.explain(crooked, x, "rise", baseline=whence.baseline.dataset(np.zeros((3, 2, 9, 7))))


def test_a_constant_model_has_the_same_mean_everywhere_and_no_error():
    found = whence.explain(lambda x: np.full(len(x), 3.0), np.ones((1, 2, 9, 7)), "rise", rtol=0.01)
    assert np.allclose(found.values, 3.0) and found.error.max() < 1e-6 and found.converged.all()
