"""Pairs of features: exact interactions equal their definition, sampled ones are as far off as they say."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import whence
from models import mlp, numpy_of
from oracles_coalition import Recorder, game_of, interaction_index, shapley_by_subsets, smooth
from whence.coalitions.neighbours import zigzags
from whence.errors import Refused

SAME = 1e-10


def rows_of(count, features, seed=0):
    return np.random.default_rng(seed).normal(size=(count, features))


def matrix_of(v, d):
    """Half of each pair's index beside the diagonal, and what is left of the Shapley value on it."""
    pairs, shares = interaction_index(v, d) / 2, shapley_by_subsets(v, d)
    for i in range(d):
        pairs[i, i] = shares[i] - pairs[i].sum(0)
    return pairs


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 10])
def test_every_subset_gives_the_index_by_its_definition(d):
    f, x, absent = smooth(d), rows_of(2, d), rows_of(1, d, 1)
    found = whence.explain(f, x, "shapley_interaction", baseline=absent)
    wanted = np.stack([matrix_of(*game_of(f, row, absent)) for row in x])
    assert found.interactions.shape == (2, d, d)
    assert np.abs(found.interactions - wanted).max() <= SAME
    assert np.abs(found.interactions.sum(2) - found.shares).max() <= SAME
    assert np.abs(found.residual).max() <= SAME and (found.error == 0).all()
    assert (found.evaluations == 2**d - 1).all()


def test_every_class_and_a_network():
    model, x = mlp(5, 3, dtype=torch.float64), rows_of(2, 5)
    f = lambda rows: model(torch.as_tensor(rows)).detach().numpy()  # noqa: E731
    wanted = np.stack([np.moveaxis(matrix_of(*game_of(f, row, np.zeros((1, 5)))), -1, 0) for row in x])
    for found in (
        whence.explain(f, x, "shapley_interaction", target="all"),
        whence.explain(model, torch.as_tensor(x), "shapley_interaction", target="all"),
    ):
        assert found.interactions.shape == (2, 3, 5, 5)
        assert np.abs(numpy_of(found.interactions) - wanted).max() <= SAME
        assert np.abs(numpy_of(found.for_class(2).interactions) - wanted[:, 2]).max() <= SAME
        assert np.abs(numpy_of(found.example(1).interactions) - wanted[1:]).max() <= SAME


def test_a_product_is_an_interaction_and_a_sum_is_none():
    found = whence.explain(
        lambda x: x[:, 0] * x[:, 1] + 3 * x[:, 2], np.array([[2.0, 5.0, 1.0]]), "shapley_interaction"
    )
    assert found.interactions[0] == pytest.approx(np.array([[0, 5, 0], [5, 0, 0], [0, 0, 3]]), abs=1e-12)


def test_sampled_interactions_of_pairs_alone_are_exact():
    # Of a function of pairs alone the second difference is the same wherever it is taken.
    weights = np.triu(rows_of(12, 12), 1)
    f = lambda x: np.einsum("bi,ij,bj->b", x, weights, x)  # noqa: E731
    found = whence.explain(f, np.ones((1, 12)), "shapley_interaction", samples=800)
    off = ~np.eye(12, dtype=bool)
    assert np.allclose(found.interactions[0][off], ((weights + weights.T) / 2)[off], atol=1e-9)


@pytest.mark.parametrize("d", [2, 3, 4, 5, 9, 10, 31])
def test_zigzags_lay_every_pair_side_by_side_twice(d):
    even, seen = d + d % 2, {}
    for order in zigzags(d):
        assert sorted(order) == list(range(even))
        for pair in pairwise(order):
            seen[frozenset(pair)] = seen.get(frozenset(pair), 0) + 1
    assert len(seen) == even * (even - 1) // 2 and set(seen.values()) == {2}


@pytest.mark.slow
@pytest.mark.parametrize(("d", "samples"), [(11, 1500), (12, 2400), (13, 4000)])
def test_standard_errors_and_the_stated_error_are_honest(d, samples):
    f, x = smooth(d), rows_of(2, d)
    exact = whence.ShapleyInteraction(samples=2**d)(f, x)
    found = [whence.explain(f, x, "shapley_interaction", samples=samples, seed=seed) for seed in range(100)]
    values = np.stack([each.values for each in found])
    spread = values.std(0, ddof=1)
    assert (np.abs(values.mean(0) - exact.values) <= 4 * spread / 10).all()
    stated = np.sqrt((np.stack([each.standard_error for each in found]) ** 2).mean(0))
    assert 0.8 <= (stated / spread).mean() <= 1.25
    pairs = np.stack([each.interactions for each in found])
    noise = pairs.std(0, ddof=1) / 10
    assert (np.abs(pairs.mean(0) - exact.interactions) <= 4.5 * noise + 1e-12).all()
    off = np.abs(pairs - exact.interactions).sum((2, 3)) / np.abs(exact.interactions).sum((1, 2))
    assert 0.8 <= np.mean([each.error for each in found]) / off.mean() <= 1.25
    assert all(np.abs(each.interactions.sum(2) - each.values).max() <= 1e-9 for each in found)


@pytest.mark.slow
def test_a_tolerance_is_kept_for_nearly_all():
    d = 17
    f, x = smooth(d), rows_of(2, d)
    exact = whence.ShapleyInteraction(samples=2**d)(f, x).interactions
    found = [whence.explain(f, x, "shapley_interaction", rtol=0.3, seed=seed) for seed in range(30)]
    off = np.stack([each.interactions - exact for each in found])
    off = np.abs(off).sum((2, 3)) / np.abs(exact).sum((1, 2))
    assert (off <= 0.3).mean() >= 0.95 and all(each.converged.all() for each in found)


def test_a_loose_tolerance_costs_less_than_every_subset():
    found = whence.explain(smooth(14), rows_of(1, 14), "shapley_interaction", rtol=0.9)
    assert found.evaluations[0] < 2**14 / 2 and found.converged.all()


@pytest.mark.parametrize("d", [4, 12])
def test_no_subset_is_asked_twice(d):
    black_box = Recorder(smooth(d))
    found = whence.explain(black_box, rows_of(1, d), "shapley_interaction", samples=2000)
    asked = black_box.after(2)
    assert len(np.unique(asked, axis=0)) == len(asked) == found.evaluations[0]


def test_with_a_tolerance_an_example_does_not_wait_for_its_batch_mates():
    d = 18
    x = rows_of(2, d)
    x[0] *= 0.05
    # The second is much harder: interactions of every order.
    f = lambda x: np.tanh(x @ np.ones(d) * 2) + 0.1 * (x[:, 0] * x[:, 1]) + x @ np.arange(d)  # noqa: E731
    together = whence.explain(f, x, "shapley_interaction", rtol=0.05, max_evaluations=20_000)
    for row in range(2):
        alone = whence.explain(f, x[row : row + 1], "shapley_interaction", rtol=0.05, max_evaluations=20_000)
        assert np.abs(together.interactions[row] - alone.interactions[0]).max() <= 1e-9
        assert together.evaluations[row] == alone.evaluations[0]


def test_the_answer_depends_on_neither_chunk_nor_batch_mates():
    f, x = smooth(13), rows_of(3, 13)
    whole = whence.explain(f, x, "shapley_interaction", samples=1000)
    for chunk in (1, 3, 64):
        found = whence.explain(f, x, "shapley_interaction", samples=1000, chunk=chunk)
        assert np.abs(found.interactions - whole.interactions).max() <= 1e-12
    alone = whence.explain(f, x[1:2], "shapley_interaction", samples=1000)
    assert np.abs(alone.interactions[0] - whole.interactions[1]).max() <= 1e-12


@pytest.mark.parametrize("d", [257, 100_000])
def test_too_many_pairs_are_refused(d):
    with pytest.raises(Refused, match="too many pairs"):
        whence.explain(lambda x: x.sum(1), np.ones((1, d)), "shapley_interaction")


def test_too_few_samples_are_refused_and_how_many_it_takes_is_said():
    with pytest.raises(Refused, match="samples="):
        whence.explain(smooth(30), rows_of(1, 30), "shapley_interaction", samples=500)


def test_groups_of_columns_interact_as_groups():
    names = whence.features.columns({"a": [0, 1], "b": [2]})
    found = whence.explain(
        lambda x: x[:, 0] * x[:, 1] + x[:, 1] * x[:, 2], np.array([[1.0, 2.0, 3.0, 4.0]]),
        whence.ShapleyInteraction(features=names),
    )  # fmt: skip
    assert found.settings["feature_names"] == ["a", "b", "column 3"]
    assert found.interactions[0] == pytest.approx(np.array([[2.0, 3, 0], [3, 0, 0], [0, 0, 0]]), abs=1e-12)


def test_it_is_kept_in_a_file(tmp_path):
    found = whence.explain(smooth(4), rows_of(2, 4), "shapley_interaction")
    again = whence.load(found.save(tmp_path / "pairs.npz"))
    assert np.array_equal(again.interactions, found.interactions)
    assert np.array_equal(again.shares, found.shares)
