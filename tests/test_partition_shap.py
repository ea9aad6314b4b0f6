"""Owen values on a tree of features: equal to an explicit recursion, and divided as far as the budget goes."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import tracemalloc

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

torch = pytest.importorskip("torch")

import whence
from models import cnn, mlp, numpy_of, pictures
from oracles_coalition import Recorder, game_of, owen_values, shapley_by_subsets, smooth, tree_of_linkage
from whence.errors import BadInput, Refused

SAME = 1e-10


def rows_of(count, features, seed=0):
    return np.random.default_rng(seed).normal(size=(count, features))


def tree(d, seed=0, kind="average"):
    """A random clustering of d features."""
    return linkage(rows_of(d, 3, seed), kind)


def owen(f, x, background, given):
    d = x.size
    found = owen_values(game_of(f, x, background)[0], tree_of_linkage(given))
    return np.stack([found[i] for i in range(d)])


# ---- exactness -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3, 6, 11])
@pytest.mark.parametrize("kind", ["average", "single"])
def test_on_a_users_tree_they_are_owens_values(d, kind):
    f, x, absent, given = smooth(d), rows_of(2, d), rows_of(1, d, 5), tree(d, kind=kind)
    found = whence.explain(f, x, "partition_shap", tree=given, baseline=absent, max_evaluations=10_000)
    wanted = np.stack([owen(f, each, absent, given) for each in x])
    assert np.abs(found.values - wanted).max() <= SAME
    assert np.abs(found.residual).max() <= SAME and found.converged.all() and found.notes == []


def test_every_class_over_a_background_and_of_a_network():
    model, x, given = mlp(6, dtype=torch.float64), rows_of(2, 6), tree(6)
    background = rows_of(3, 6, 5)
    f = lambda rows: model(torch.as_tensor(rows)).detach().numpy()  # noqa: E731
    wanted = np.stack([owen(f, each, background, given).T for each in x])
    method = whence.PartitionShap(tree=given, baseline=whence.baseline.dataset(background))
    assert np.abs(whence.explain(f, x, method, target="all").values - wanted).max() <= SAME
    method = whence.PartitionShap(tree=given, baseline=whence.baseline.dataset(torch.as_tensor(background)))
    found = whence.explain(model, torch.as_tensor(x), method, target="all")
    assert np.abs(numpy_of(found.values) - wanted).max() <= SAME


def test_one_feature_has_everything():
    found = whence.explain(lambda x: x[:, 0] ** 2, np.array([[3.0]]), "partition_shap")
    assert found.values.tolist() == [[9.0]]


def test_of_two_features_and_of_a_sum_they_are_shapleys():
    f, x = smooth(2), rows_of(1, 2)
    wanted = shapley_by_subsets(*game_of(f, x[0], np.zeros((1, 2))))
    assert np.allclose(whence.explain(f, x, "partition_shap").values[0], wanted)
    w = rows_of(1, 12)[0]
    assert np.allclose(
        whence.explain(lambda x: x @ w, rows_of(2, 12), "partition_shap").values, w * rows_of(2, 12)
    )


def test_correlated_columns_share_a_branch():
    base = rows_of(200, 2)
    noise = rows_of(200, 4, 1) * 0.05
    background = np.stack([base[:, 0], base[:, 1], -base[:, 0], base[:, 1]], 1) + noise
    f, x = smooth(4), rows_of(1, 4, 7)
    distance = np.clip(1 - np.abs(np.corrcoef(background.T)), 0, 1)
    np.fill_diagonal(distance, 0)
    given = linkage(squareform(distance, checks=False), "complete")
    assert {frozenset(each) for each in given[:2, :2].astype(int).tolist()} == {
        frozenset({0, 2}),
        frozenset({1, 3}),
    }
    found = whence.explain(f, x, "partition_shap", baseline=whence.baseline.dataset(background))
    assert np.abs(found.values[0] - owen(f, x[0], background, given)).max() <= SAME


def test_neighbours_in_a_picture_share_a_branch():
    model, x = cnn(dtype=torch.float64), pictures(1, dtype=torch.float64)
    found = whence.explain(model, x, "partition_shap", features=whence.features.grid(2), target=0)
    f = lambda rows: model(torch.as_tensor(rows)).detach().numpy()[:, 0]  # noqa: E731
    labels = (np.arange(6) // 3)[:, None] * 2 + np.arange(6) // 3
    v, _ = game_of(f, x[0].numpy(), np.zeros((1, 1, 6, 6)), labels)
    ways = [owen_values(v, ((0, 1), (2, 3))), owen_values(v, ((0, 2), (1, 3)))]
    shares = numpy_of(found.shares)[0]
    assert any(np.allclose(shares, [way[i] for i in range(4)], atol=SAME) for way in ways)


# ---- the budget --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 2, 7, 50, 300])
def test_the_budget_is_kept_and_what_is_left_is_spread_evenly(budget):
    black_box = Recorder(smooth(32))
    x = rows_of(1, 32)
    found = whence.explain(black_box, x, "partition_shap", max_evaluations=budget)
    # The empty subset is not one of the budget.
    assert found.evaluations[0] <= budget + 1
    assert abs(found.residual[0]) <= SAME
    assert not found.converged.all() and any("max_evaluations" in note for note in found.notes)
    assert found.error is None
    if budget == 1:
        assert np.allclose(found.values, found.values[0, 0])


def test_the_largest_debts_are_divided_first():
    # All that happens, happens among the first four of 64 features.
    f = lambda x: np.tanh(x[:, :4] @ np.arange(1.0, 5.0)) + x[:, 0] * x[:, 3]  # noqa: E731
    x = np.full((1, 64), 0.5)
    found = whence.explain(f, x, "partition_shap", max_evaluations=300)
    assert np.abs(found.values[0, 8:]).max() <= 1e-12
    whole = whence.explain(f, x, "partition_shap", max_evaluations=20_000)
    assert np.abs(found.values - whole.values).max() <= 1e-9


@pytest.mark.parametrize("d", [3, 10, 40])
def test_no_subset_is_asked_twice(d):
    black_box = Recorder(smooth(d))
    found = whence.explain(black_box, rows_of(1, d), "partition_shap", max_evaluations=400)
    asked = black_box.after(2)
    assert len(np.unique(asked, axis=0)) == len(asked) == found.evaluations[0]


def test_the_answer_depends_on_neither_chunk_nor_batch_mates():
    f, x = smooth(20), rows_of(3, 20)
    whole = whence.explain(f, x, "partition_shap", max_evaluations=150)
    for chunk in (1, 3, 64):
        found = whence.explain(f, x, "partition_shap", max_evaluations=150, chunk=chunk)
        assert np.abs(found.values - whole.values).max() <= 1e-12
    alone = whence.explain(f, x[1:2], "partition_shap", max_evaluations=150)
    assert np.abs(alone.values[0] - whole.values[1]).max() <= 1e-12


# ---- what cannot be meant --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        tree(4), tree(6), np.zeros(5), np.zeros((4, 1)), np.zeros((0, 4)), [[0, 1], [5, 2], [6, 3]],
        # A cluster before it is made, one that does not exist, and features left out.
        [[0, 9], [1, 2], [5, 3], [7, 4]], [[0, -1], [5, 2], [6, 3], [7, 4]], [[0, 1], [0, 2], [0, 3], [0, 4]],
    ],
    ids=lambda each: str(np.shape(each)),
)  # fmt: skip
def test_a_tree_of_other_features_is_refused(given):
    with pytest.raises(BadInput, match="tree"):
        whence.explain(smooth(5), rows_of(1, 5), "partition_shap", tree=given)


@pytest.mark.parametrize("given", [[["a", "b"], ["c", "d"]], [[0, 1], [2]]], ids=str)
def test_a_tree_of_words_is_refused(given):
    with pytest.raises(BadInput, match="tree"):
        whence.explain(smooth(3), rows_of(1, 3), "partition_shap", tree=given)


@pytest.mark.parametrize("budget", [0, -1, 2.5, None])
def test_a_budget_is_a_whole_number(budget):
    with pytest.raises(BadInput, match="max_evaluations"):
        whence.explain(smooth(3), rows_of(1, 3), "partition_shap", max_evaluations=budget)


def test_very_many_features_are_refused():
    with pytest.raises(Refused, match="too large"):
        whence.explain(lambda x: x.sum(1), np.ones((1, 100_000)), "partition_shap")


def test_a_tree_of_many_features_is_no_table_of_their_pairs():
    d = 4096
    tracemalloc.start()
    whence.explain(lambda x: x.sum(1), np.ones((1, d)), "partition_shap", max_evaluations=20)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A tenth of d x 2d bytes.
    assert most < d * 2 * d / 10
