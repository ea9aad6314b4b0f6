"""The same question to captum, shap and lime, where they are right, has the same answer.

They live in an environment of their own (`make test` prepares and uses it); elsewhere these tests are skipped.
"""

# ruff: noqa: E402 (captum is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip(
    "captum", reason="captum is not installed here; `make test` runs this in the peers' environment"
)

from captum.attr import FeatureAblation, Occlusion, ShapleyValues
from torch import nn

import whence
from whence import data, zoo

SAME = 1e-6


@pytest.fixture(scope="module")
def digits():
    """The zoo's network for 8 x 8 digits in float64, four of them, and the class of each."""
    model = zoo.load("digits-cnn").model.double()
    x = torch.as_tensor(data.digits().test_images[:4, None] / 255).double()
    return model, x, model(x).argmax(1)


@pytest.fixture(scope="module")
def table():
    """A smooth network of 7 columns, rows, and a background."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    return model, torch.randn(3, 7).double(), torch.randn(5, 7).double()


def black_box(model, column=1):
    return lambda rows: model(torch.as_tensor(np.asarray(rows, dtype=np.float64))).detach().numpy()[:, column]


# ---- captum --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "stride"), [(3, 1), (2, 2), (4, 2), (3, 2)])
@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_occlusion(digits, window, stride, baseline):
    model, x, target = digits
    theirs = Occlusion(model).attribute(
        x, (1, window, window), (1, stride, stride), baselines=baseline, target=target
    )
    ours = whence.explain(
        model, x, "occlusion", target=target, window=window, stride=stride, baseline=baseline
    ).values
    if (8 - window) % stride:
        # Captum lays windows that hang over the border otherwise: the inside is the same.
        theirs, ours = theirs[..., :4, :4], ours[..., :4, :4]
    assert (ours - theirs).abs().max() <= SAME


def test_feature_ablation_of_single_numbers_and_of_groups(digits):
    model, x, target = digits
    theirs = FeatureAblation(model).attribute(x, baselines=0.1, target=target)
    ours = whence.explain(model, x, "feature_ablation", target=target, features="elements", baseline=0.1)
    assert (ours.values - theirs).abs().max() <= SAME
    mask = torch.arange(8)[:, None] // 3 * 3 + torch.arange(8)[None] // 3
    theirs = FeatureAblation(model).attribute(x, baselines=0.1, target=target, feature_mask=mask[None, None])
    ours = whence.explain(model, x, "feature_ablation", target=target, features=mask, baseline=0.1)
    assert (ours.values - theirs).abs().max() <= SAME
    assert (ours.shares[:, 4] - theirs[:, 0, 4, 4]).abs().max() <= SAME


@pytest.mark.parametrize("method", ["exact_shapley", "kernel_shap"])
def test_shapley_values_of_a_few_features(table, method):
    model, x, background = table
    mask = torch.tensor([0, 1, 1, 2, 3, 2, 4])
    theirs = ShapleyValues(model).attribute(x, baselines=background[:1], target=1, feature_mask=mask[None])
    ours = whence.explain(model, x, method, target=1, features=mask, baseline=background[:1])
    assert (ours.values - theirs).abs().max() <= SAME


# ---- shap ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact_shapley", "kernel_shap"])
def test_shapley_values_over_a_background_are_shaps_exact_ones(table, method):
    shap = pytest.importorskip("shap")
    model, x, background = table
    masker = shap.maskers.Independent(background.numpy(), max_samples=100)
    theirs = shap.ExactExplainer(black_box(model), masker)(x.numpy())
    ours = whence.explain(
        black_box(model), x.numpy(), method, baseline=whence.baseline.dataset(background.numpy())
    )
    assert np.abs(ours.values - theirs.values).max() <= SAME
    assert np.abs(ours.baseline_output - theirs.base_values).max() <= SAME


def test_shapley_values_over_every_subset_are_shaps_kernel_explainers(table):
    shap = pytest.importorskip("shap")
    model, x, background = table
    explainer = shap.KernelExplainer(black_box(model), background.numpy(), silent=True)
    theirs = explainer.shap_values(x.numpy(), nsamples=2**7, l1_reg=False, silent=True)
    ours = whence.explain(
        black_box(model), x.numpy(), "kernel_shap", baseline=whence.baseline.dataset(background.numpy())
    )
    assert np.abs(ours.values - theirs).max() <= SAME


def test_owen_values_on_a_given_clustering_are_shaps_partition_explainers(table):
    shap = pytest.importorskip("shap")
    from scipy.cluster.hierarchy import linkage

    model, x, background = table
    clustering = linkage(np.random.default_rng(0).normal(size=(7, 2)), "average")
    masker = shap.maskers.Partition(background.numpy(), max_samples=100, clustering=clustering)
    theirs = shap.PartitionExplainer(black_box(model), masker)(x.numpy(), max_evals=5000, silent=True)
    ours = whence.explain(
        black_box(model), x.numpy(), "partition_shap", tree=clustering, max_evaluations=5000,
        baseline=whence.baseline.dataset(background.numpy()),
    )  # fmt: skip
    assert ours.converged.all()
    assert np.abs(ours.values - theirs.values).max() <= SAME


def test_interactions_of_pairs_are_shaps_exact_ones(table):
    # Its index is Taylor's, not Shapley's: they are the same where no three features act together.
    shap = pytest.importorskip("shap")
    _, x, background = table
    pairs = np.random.default_rng(0).normal(size=(7, 7))
    f = lambda rows: np.einsum("bi,ij,bj->b", rows, pairs, rows) + rows.sum(1)  # noqa: E731
    masker = shap.maskers.Independent(background.numpy(), max_samples=100)
    theirs = shap.ExactExplainer(f, masker)(x.numpy(), interactions=2).values
    baseline = whence.baseline.dataset(background.numpy())
    ours = whence.explain(f, x.numpy(), "shapley_interaction", baseline=baseline)
    assert np.abs(ours.interactions - theirs).max() <= SAME


# ---- lime ----------------------------------------------------------------------------------------------------


def test_the_surrogate_of_a_picture_is_limes():
    pytest.importorskip("lime")
    from lime.lime_image import LimeImageExplainer

    picture = np.random.default_rng(0).random((24, 24, 3))
    segments = np.arange(24)[:, None] // 8 * 3 + np.arange(24)[None] // 8
    w = np.random.default_rng(1).normal(size=(24, 24, 3)) / 100
    f = lambda rows: np.stack([np.tanh((rows * w).sum((1, 2, 3))), np.zeros(len(rows))], 1)  # noqa: E731
    # Of nine segments its 3,000 draws are about six of each subset: the whole table, but for noise.
    theirs = LimeImageExplainer(random_state=0).explain_instance(
        picture, f, top_labels=1, labels=(0,), hide_color=0, num_features=9, num_samples=3000,
        segmentation_fn=lambda _: segments,
    )  # fmt: skip
    label = next(iter(theirs.local_exp))
    told = dict(theirs.local_exp[label])
    x = picture[None]
    ours = whence.explain(f, x, "lime", features=segments[:, :, None], target=label, ridge=0.0)
    wanted = np.array([told[k] for k in range(9)])
    assert np.abs(ours.shares[0] - wanted).max() <= 0.05 * np.abs(wanted).max() + 1e-3
    score = theirs.score[label] if isinstance(theirs.score, dict) else theirs.score
    assert ours.fidelity[0] == pytest.approx(score, abs=0.03)
