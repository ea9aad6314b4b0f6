"""Metrics of complexity and localisation: equal to their papers' formulas, and honest where they are not defined."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracles_metrics_other as twins
import whence
from models import assert_same, busy, seeded, state_of
from whence import metrics
from whence.errors import BadInput, Refused
from whence.metrics import laid

SAME = 1e-6
RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(5, 1, 6, 7))
COLOUR = RNG.normal(size=(5, 3, 6, 7))
MASK = RNG.random((5, 6, 7)) < 0.3
FLAT, PLACE = MAPS.reshape(5, -1), MASK.reshape(5, -1)
COMPLEXITY = (metrics.Sparseness(), metrics.Complexity(), metrics.EffectiveFeatures())
LOCALISATION = (
    metrics.PointingGame(), metrics.PointingGame(tolerance=1), metrics.RelevanceMass(), metrics.RelevanceRank(),
    metrics.TopKIntersection(k=3), metrics.IoU(), metrics.IoU(threshold=0.5), metrics.LocalisationAUC(),
)  # fmt: skip
everywhere = pytest.mark.parametrize("metric", [*COMPLEXITY, *LOCALISATION], ids=repr)
placed = pytest.mark.parametrize("metric", LOCALISATION, ids=repr)


def model(z):
    return z.reshape(len(z), -1)[:, :3]


def judge(metric, maps=MAPS, mask=MASK, **options):
    x = torch.zeros(maps.shape, dtype=torch.float64) + 0.5
    return metric(model, x, maps, mask=mask, target=0, **options)


def same(score, slow):
    np.testing.assert_allclose(score.values, slow, rtol=SAME, atol=SAME)


# ---- complexity --------------------------------------------------------------------------------------------


def test_complexities_are_the_papers():
    same(judge(metrics.Sparseness()), [twins.gini(each) for each in FLAT])
    same(judge(metrics.Complexity()), [twins.entropy(each) for each in FLAT])
    same(judge(metrics.EffectiveFeatures()), [np.exp(twins.entropy(each)) for each in FLAT])
    count = [(abs(each) > 0.25 * abs(each).max()).sum() for each in FLAT]
    same(judge(metrics.EffectiveFeatures(threshold=0.25)), count)


def test_closed_forms():
    one, all_same = np.zeros((1, 1, 4, 5)), np.full((1, 1, 4, 5), -3e-9)
    one[0, 0, 2, 1] = -7.0
    x = torch.ones(1, 1, 4, 5)
    for maps, sparse, entropy in ((one, 1 - 1 / 20, 0.0), (all_same, 0.0, np.log(20))):
        values = [metric(model, x, maps, target=0).values[0] for metric in COMPLEXITY]
        np.testing.assert_allclose(values, [sparse, entropy, np.exp(entropy)], atol=1e-12)
    half = np.where(np.arange(20) < 10, 1.0, 0.0).reshape(1, 1, 4, 5)
    np.testing.assert_allclose(metrics.EffectiveFeatures()(model, x, half, target=0).values, 10)
    np.testing.assert_allclose(metrics.Sparseness()(model, x, half, target=0).values, 0.5)


@everywhere
def test_channels_count_together_and_scale_does_not_matter(metric):
    colours = judge(metric, COLOUR)
    same(judge(metric, COLOUR.sum(1, keepdims=True)), colours.values)
    same(judge(metric, 1e-200 * COLOUR), colours.values)


def test_features_can_be_chosen():
    cells = judge(metrics.Complexity(features=whence.features.patches((3, 7))))
    slow = [twins.entropy(each.reshape(2, -1).sum(1)) for each in FLAT]
    same(cells, slow)


@pytest.mark.parametrize("metric", [*COMPLEXITY, metrics.EffectiveFeatures(threshold=0.1)], ids=repr)
def test_zeros_are_neither_complex_nor_sparse(metric):
    score = judge(metric, np.concatenate([MAPS[:1], np.zeros((1, 1, 6, 7))]), None)
    assert np.isfinite(score.values[0]) and np.isnan(score.values[1])
    assert any("nothing but zeros" in note for note in score.notes)


# ---- localisation ------------------------------------------------------------------------------------------


def test_localisations_are_the_papers():
    pairs = list(zip(FLAT, PLACE, strict=True))
    same(judge(metrics.PointingGame()), [there[each.argmax()] for each, there in pairs])
    same(judge(metrics.RelevanceMass()), [twins.mass_accuracy(*pair) for pair in pairs])
    same(judge(metrics.RelevanceRank()), [twins.rank_accuracy(*pair) for pair in pairs])
    same(judge(metrics.LocalisationAUC()), [twins.auc(*pair) for pair in pairs])
    tops = [(twins.top(each, 7), there) for each, there in pairs]
    hits = [len(top & set(np.flatnonzero(there))) / 7 for top, there in tops]
    same(judge(metrics.TopKIntersection(k=7)), hits)
    scaled = [hit * 42 / there.sum() for hit, there in zip(hits, PLACE, strict=True)]
    same(judge(metrics.TopKIntersection(k=7, concept=True)), scaled)
    same(judge(metrics.TopKIntersection(k=1 / 6)), hits)
    same(judge(metrics.IoU()), [twins.iou(twins.top(each, there.sum()), there) for each, there in pairs])
    above = [(set(np.flatnonzero(each >= 0.5 * each.max())), there) for each, there in pairs]
    same(judge(metrics.IoU(threshold=0.5)), [twins.iou(*pair) for pair in above])


def test_relevance_says_which_shares():
    for relevance, seen in (("absolute", np.abs(FLAT)), ("positive", np.maximum(FLAT, 0))):
        score = judge(metrics.LocalisationAUC(relevance=relevance))
        same(score, [twins.auc(each, there) for each, there in zip(seen, PLACE, strict=True)])
    signed = judge(metrics.RelevanceMass(relevance="signed"))
    same(signed, (FLAT * PLACE).sum(1) / FLAT.sum(1))


def test_a_perfect_and_a_reversed_map():
    maps = MASK[:, None] * 2.0 - 1.0
    for metric in LOCALISATION[2:]:
        assert judge(metric, maps).values.tolist() == [1.0] * 5, metric
    for metric in (metrics.LocalisationAUC(), metrics.RelevanceRank(), metrics.RelevanceMass()):
        assert judge(metric, -maps).values.max() <= 0.2, metric
    assert judge(metrics.PointingGame(), -maps).values.tolist() == [0.0] * 5


def test_the_pointing_game_has_a_tolerance():
    maps, mask = np.zeros((1, 1, 8, 8)), np.zeros((8, 8))
    maps[0, 0, 5, 5], mask[2, 1] = 1.0, 1
    for tolerance, hit in ((4.9, 0.0), (5.0, 1.0)):
        assert judge(metrics.PointingGame(tolerance=tolerance), maps, mask).values.tolist() == [hit]
    with pytest.raises(Refused, match="pictures"):
        metrics.PointingGame(tolerance=1)(
            model, torch.ones(1, 4), np.ones((1, 4)), mask=np.eye(1, 4), target=0
        )


@placed
def test_empty_and_full_masks(metric):
    mask = np.stack([np.zeros((6, 7)), np.ones((6, 7)), MASK[2], MASK[3], MASK[4]])
    score = judge(metric, mask=mask)
    assert np.isnan(score.values[0]) and any("empty" in note for note in score.notes)
    if isinstance(metric, metrics.LocalisationAUC):
        assert np.isnan(score.values[1]) and any("full" in note for note in score.notes)
    elif not (isinstance(metric, metrics.IoU) and metric.threshold):
        assert score.values[1] == 1
    np.testing.assert_array_equal(score.values[2:], judge(metric).values[2:])


def test_zero_maps():
    zeros = np.zeros_like(MAPS)
    assert np.isnan(judge(metrics.RelevanceMass(), zeros).values).all()
    assert judge(metrics.LocalisationAUC(), zeros).values.tolist() == [0.5] * 5
    assert judge(metrics.IoU(threshold=0.5), zeros).values.tolist() == [0.0] * 5
    lots = [judge(metrics.RelevanceRank(), zeros, seed=seed) for seed in (0, 0, 1)]
    assert any("drawn by the seed" in note for note in lots[0].notes)
    assert np.array_equal(lots[0].values, lots[1].values)
    assert not np.array_equal(lots[0].values, lots[2].values)


@everywhere
def test_batch_mates_change_nothing(metric):
    maps = np.round(MAPS)
    whole = judge(metric, maps)
    for row in range(5):
        alone = judge(metric, maps[row : row + 1], MASK[row : row + 1])
        np.testing.assert_allclose(alone.values[0], whole.values[row], rtol=1e-12)


@everywhere
def test_the_model_is_left_alone(metric):
    busy_model = busy()
    x = seeded(0, lambda: torch.randn(3, 1, 6, 6))
    before = state_of(busy_model, x)
    metric(busy_model, x, method=whence.Saliency(), mask=np.eye(6), target=0)
    assert_same(before, state_of(busy_model, x))
    with pytest.raises(BadInput, match="NaN"):
        metric(busy_model, x, np.full((3, 1, 6, 6), np.nan), mask=np.eye(6), target=0)
    assert_same(before, state_of(busy_model, x))


def test_refusals():
    with pytest.raises(BadInput, match="give mask="):
        judge(metrics.IoU(), mask=None)
    with pytest.raises(Refused, match="single input"):
        metrics.IoU()(
            lambda a, b: a[:, :2] + b, (torch.ones(2, 3), torch.ones(2, 2)),
            (np.ones((2, 3)), np.ones((2, 2))), mask=np.array([1, 0, 1]), target=0,
        )  # fmt: skip
    for make in (
        lambda: metrics.IoU(relevance="negative"), lambda: metrics.IoU(threshold=0.0),
        lambda: metrics.PointingGame(tolerance=-1), lambda: metrics.TopKIntersection(k=0),
        lambda: metrics.TopKIntersection(k=1.5), lambda: metrics.EffectiveFeatures(threshold=1.0),
    ):  # fmt: skip
        with pytest.raises(BadInput):
            make()
    with pytest.raises(BadInput, match="pixels"):
        judge(metrics.TopKIntersection(k=43))


def test_shares_are_found_among_the_values_as_by_a_full_table():
    rng = np.random.default_rng(3)
    known = np.unique(rng.integers(-40, 40, size=60) / 4.0)
    wanted = np.concatenate([known, known + 1e-9, rng.normal(size=200) * 20, (known[1:] + known[:-1]) / 2])
    table = np.abs(wanted[:, None] - known[None]).argmin(1)
    np.testing.assert_array_equal(laid._nearest(known, wanted), table)
    assert laid._nearest(known[:1], wanted).max() == 0 and not laid._nearest(known, wanted[:0]).size


def test_equal_shares_of_unequal_features_are_divided_evenly():
    values = np.array([[2.0, 2.0, 2.0, 5.0]])
    (found,) = laid._spread([values], np.array([[2.0, 2.0, 5.0]]))
    np.testing.assert_allclose(found, [[4 / 3, 4 / 3, 4 / 3, 5.0]])
