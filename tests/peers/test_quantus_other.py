"""Quantus says the same where it follows the paper; where it does not, the test says what it does instead."""

import numpy as np
import pytest
import quantus
import torch
from scipy.stats import entropy as scipy_entropy
from torch import nn

import whence
from models import mlp, seeded
from whence import metrics

SAME = 1e-5
RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(6, 1, 8, 9)).astype(np.float32)
MASK = RNG.random((6, 1, 8, 9)) < 0.3
X, Y = RNG.random((6, 1, 8, 9)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
QUIET = {"disable_warnings": True, "display_progressbar": False}


def network():
    """A smooth network: its gradients do not depend on how sums are added up."""
    return seeded(
        0, lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(168, 3))
    ).eval()


def theirs(metric, maps=MAPS, **options):
    found = metric(
        model=network(), x_batch=X.copy(), y_batch=Y, a_batch=maps.copy(), s_batch=MASK.copy(),
        channel_first=True, device="cpu", **options,
    )  # fmt: skip
    return np.asarray(found, dtype=float)


def ours(metric, maps=MAPS, **options):
    return metric(network(), X, maps, mask=MASK[:, 0], target=Y, **options).values


PAIRS = {
    "sparseness": (quantus.Sparseness(abs=True, normalise=False, **QUIET), metrics.Sparseness()),
    "complexity": (quantus.Complexity(abs=True, normalise=False, **QUIET), metrics.Complexity()),
    "mass": (quantus.RelevanceMassAccuracy(abs=True, normalise=False, **QUIET), metrics.RelevanceMass("absolute")),
    "inside": (
        quantus.AttributionLocalisation(positive_attributions=True, abs=False, normalise=False, **QUIET),
        metrics.RelevanceMass(),
    ),
    "rank": (quantus.RelevanceRankAccuracy(abs=False, normalise=False, **QUIET), metrics.RelevanceRank()),
    "top k": (quantus.TopKIntersection(k=9, abs=False, normalise=False, **QUIET), metrics.TopKIntersection(k=9)),
    "pointing": (quantus.PointingGame(abs=False, normalise=False, **QUIET), metrics.PointingGame()),
    "auc": (quantus.AUC(abs=False, normalise=False, **QUIET), metrics.LocalisationAUC()),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_maps(name):
    # Quantus adds 1e-7 to every share (sparseness), 1e-12 to every logarithm.
    np.testing.assert_allclose(ours(PAIRS[name][1]), theirs(PAIRS[name][0]), rtol=1e-4, atol=SAME)


def explain(model, inputs, targets, **_):
    """The gradient times the input: what both sides explain with."""
    leaf = torch.as_tensor(np.asarray(inputs, dtype=np.float32)).requires_grad_()
    model(leaf)[torch.arange(len(leaf)), torch.as_tensor(np.asarray(targets))].sum().backward()
    return (leaf.grad * leaf).detach().numpy()


def our_noise(radius):
    """Our draws as Quantus' perturbation, one after the other."""
    import zlib

    number = iter(range(1000))

    def noise(arr, indices, **_):
        sequence = np.random.SeedSequence(0, spawn_key=(zlib.crc32(b"box 0"), next(number)))
        step = np.random.Generator(np.random.Philox(sequence)).uniform(-radius, radius, (1, 1, 8, 9))
        return (arr + step.reshape(1, -1)).astype(np.float32)

    return noise


ROBUST = {
    "max": (quantus.MaxSensitivity, metrics.MaxSensitivity(5, 0.1)),
    "average": (quantus.AvgSensitivity, metrics.AverageSensitivity(5, 0.1)),
    "lipschitz": (quantus.LocalLipschitzEstimate, metrics.LocalLipschitz(5, 0.1)),
    "input": (quantus.RelativeInputStability, metrics.RelativeInputStability(5, 0.1, same_class=False, zeros=1e-6)),
    "output": (quantus.RelativeOutputStability, metrics.RelativeOutputStability(5, 0.1, same_class=False, zeros=1e-6)),
}  # fmt: skip


@pytest.mark.parametrize("name", ROBUST)
def test_robustness_with_the_same_draws(name):
    cls, metric = ROBUST[name]
    more = {} if name in ("input", "output") else {"norm_numerator": None, "norm_denominator": None}
    if name == "lipschitz":
        more = {
            "norm_numerator": quantus.similarity_func.distance_euclidean,
            "norm_denominator": quantus.similarity_func.distance_euclidean,
        }
    their = cls(
        nr_samples=5, abs=False, normalise=False, perturb_func=our_noise(0.1),
        return_nan_when_prediction_changes=False, **more, **QUIET,
    )  # fmt: skip
    found = np.asarray(
        their(
            model=network(), x_batch=X.copy(), y_batch=Y, a_batch=None, explain_func=explain, device="cpu",
            channel_first=True,
        )
    )  # fmt: skip
    score = metric(network(), X, method=whence.InputXGradient(), target=Y)
    np.testing.assert_allclose(score.values, found, rtol=2e-3)


def test_the_random_logit_with_the_same_class():
    model = mlp(features=6, classes=2)
    x = RNG.normal(size=(5, 6)).astype(np.float32)
    target = np.array([0, 1, 0, 1, 0])
    for kind, similarity in (
        ("spearman", quantus.similarity_func.correlation_spearman),
        ("pearson", quantus.similarity_func.correlation_pearson),
    ):
        their = quantus.RandomLogit(
            similarity_func=similarity, num_classes=2, abs=False, normalise=False, **QUIET
        )
        found = their(
            model=model, x_batch=x.copy(), y_batch=target, a_batch=None, explain_func=explain, device="cpu"
        )
        score = metrics.RandomLogit(kind)(model, x, method=whence.InputXGradient(), target=target)
        np.testing.assert_allclose(score.values, found, rtol=1e-4, atol=1e-5)


def test_the_histogram_entropy_is_quantus():
    from quantus.functions.complexity_func import discrete_entropy

    from whence.metrics.randomisation import _histogram_entropy

    for each in MAPS.astype(np.float64).reshape(6, -1):
        slow = discrete_entropy(a=each, x=each, n_bins=20)
        assert _histogram_entropy(each, 20) == pytest.approx(slow, rel=1e-9)


# ---- where Quantus differs from the paper ------------------------------------------------------------------


def test_quantus_effective_complexity_counts_what_is_above_a_number():
    # The paper's asks how many features the model needs; Quantus counts, after dividing by the maximum of the batch.
    their = theirs(quantus.EffectiveComplexity(eps=0.2, abs=True, normalise=True, **QUIET))
    of_batch = (np.abs(MAPS) / np.abs(MAPS).max() > 0.2).reshape(6, -1).sum(1)
    np.testing.assert_array_equal(their, of_batch)
    assert not np.array_equal(ours(metrics.EffectiveFeatures(threshold=0.2)), their)


def test_quantus_counts_every_tied_maximum_as_a_hit():
    # Maps of ones and zeros: many have the maximum, of which some are in the mask and most are not.
    tied = (RNG.random(MAPS.shape) < 0.5).astype(np.float32)
    assert (theirs(quantus.PointingGame(abs=False, normalise=False, **QUIET), tied) == 1).all()
    lots = [ours(metrics.PointingGame(), tied, seed=seed).mean() for seed in range(20)]
    assert abs(np.mean(lots) - (tied * MASK).sum() / tied.sum()) < 0.15


def test_quantus_normalises_by_the_maximum_of_the_batch():
    eps = quantus.EffectiveComplexity(eps=0.2, abs=True, normalise=True, **QUIET)
    scaled = MAPS * np.array([1, 1, 100, 1, 1, 1], dtype=np.float32).reshape(6, 1, 1, 1)
    assert theirs(eps, scaled)[[0, 1, 3, 4, 5]].max() == 0
    ours_alone = metrics.EffectiveFeatures(threshold=0.2)
    np.testing.assert_array_equal(ours(ours_alone, scaled), ours(ours_alone))


def test_quantus_counts_the_untouched_model_as_a_layer():
    their = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman, abs=False, normalise=False, **QUIET
    )
    options = {"model": network(), "x_batch": X.copy(), "y_batch": Y, "a_batch": None, "explain_func": explain,
               "device": "cpu", "channel_first": True}  # fmt: skip
    layers = their(**options)
    assert next(iter(layers)) == "original" and len(layers) == 3
    np.testing.assert_allclose(layers["original"], 1, rtol=1e-6)
    averaged = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman, return_average_correlation=True, abs=False,
        normalise=False, **QUIET,
    )(**options)  # fmt: skip
    np.testing.assert_allclose(averaged, np.mean(list(layers.values()), axis=0), rtol=1e-6)


def test_quantus_gives_up_on_an_example_of_which_one_draw_changes_the_class():
    draws = np.zeros((5, 1, 72), dtype=np.float32)
    draws[2] = -3.0
    number = iter(range(1000))
    their = quantus.RelativeInputStability(
        nr_samples=5, perturb_func=lambda arr, indices, **_: arr + 0.01 + draws[next(number)], abs=False,
        normalise=False, return_nan_when_prediction_changes=True, **QUIET,
    )  # fmt: skip
    found = their(
        model=network(), x_batch=X.copy(), y_batch=Y, a_batch=None, explain_func=explain, device="cpu",
        channel_first=True,
    )  # fmt: skip
    assert np.isnan(found).any()


def test_quantus_mass_of_signed_shares_is_no_part():
    their = theirs(quantus.RelevanceMassAccuracy(abs=False, normalise=False, **QUIET))
    np.testing.assert_allclose(their, ours(metrics.RelevanceMass("signed")), rtol=1e-3)
    assert (their < 0).any() or (their > 1).any()


def test_quantus_completeness_asks_for_equal_bits():
    model = nn.Linear(6, 3).eval()
    x = RNG.normal(size=(20, 6)).astype(np.float32)
    target = np.arange(20) % 3
    shares = whence.IntegratedGradients()(model, x, target=target).numpy()
    found = quantus.Completeness(abs=False, normalise=False, **QUIET)(
        model=model, x_batch=x, y_batch=target, a_batch=shares, device="cpu", softmax=False
    )
    assert not all(found)
    assert metrics.Completeness()(model, x, shares, target=target).values.max() < 1e-5


def test_entropy_is_scipys():
    slow = [scipy_entropy(np.abs(each).ravel()) for each in MAPS.astype(np.float64)]
    np.testing.assert_allclose(ours(metrics.Complexity()), slow, rtol=1e-6)


def test_ssim_is_scikit_images():
    from skimage.metrics import structural_similarity

    from whence.metrics.similarity import structure

    one = MAPS.reshape(6, -1).astype(np.float64)
    two = one + 0.5 * RNG.normal(size=one.shape)
    a, b = (each / np.abs(each).max(1, keepdims=True) for each in (one, two))
    slow = [
        structural_similarity(p.reshape(8, 9), q.reshape(8, 9), data_range=2.0)
        for p, q in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(structure(one, two, (8, 9)), slow, rtol=1e-6)
