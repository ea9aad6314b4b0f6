"""Quantus' faithfulness metrics have the same values where they follow the papers; where they do not, this shows it.

The differences stand in docs/metrics.md with their reasons. Quantus lives in an environment of its own (`make test`
prepares and uses it); elsewhere these tests are skipped.
"""

# ruff: noqa: E402 (quantus is imported after the check for it)
import warnings
import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("quantus", reason="quantus is not installed here; `make test` has an environment for it")

import quantus
from torch import nn

import whence
from whence import data, metrics, zoo
from whence.metrics.perturbations import square

SAME = 1e-5
QUIET = {"disable_warnings": True, "display_progressbar": False}
PLAIN = {"normalise": False, "abs": False, **QUIET}
pytestmark = pytest.mark.filterwarnings("ignore")


class Digits:
    """The zoo's network for 8 x 8 digits, some of them, their classes, and attributions without ties."""

    def __init__(self, count=6):
        self.model = zoo.load("digits-cnn").model
        self.x = (data.digits().test_images[:count, None] / 255).astype(np.float32)
        with torch.no_grad():
            self.y = self.model(torch.as_tensor(self.x)).argmax(1).numpy()
        self.phi = np.random.default_rng(0).normal(size=self.x.shape).astype(np.float32)

    def quantus(self, metric, softmax=False, batch_size=64, phi=None, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return metric(
                model=self.model, x_batch=self.x.copy(), y_batch=self.y, softmax=softmax, device="cpu",
                a_batch=(self.phi if phi is None else phi).copy(), batch_size=batch_size, **options,
            )  # fmt: skip

    def whence(self, metric, **options):
        return metric(self.model, torch.as_tensor(self.x), self.phi, target=self.y, **options)


@pytest.fixture(scope="module")
def digits():
    return Digits()


def close(found, wanted, tolerance=SAME):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


# ---- the same ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("softmax", [False, True])
def test_pixel_flipping(digits, size, softmax):
    peer = quantus.PixelFlipping(features_in_step=size, perturb_baseline="black", **PLAIN)
    wanted = np.array(digits.quantus(peer, softmax))
    of = "probability" if softmax else "target"
    found = digits.whence(metrics.PixelFlipping(features_in_step=size, of=of))
    # Quantus' curve begins after the first step; its area is the trapezoid rule with steps of width 1.
    close(found.curve[:, 1:], wanted)
    area = np.trapezoid(wanted, axis=1)
    close(np.trapezoid(found.curve[:, 1:], axis=1), area)


def test_infidelity_of_one_perturbation(digits):
    """One block as large as the picture: everything is taken away."""
    peer = quantus.Infidelity(perturb_patch_sizes=[8], n_perturb_samples=1, perturb_baseline="black", **PLAIN)
    found = digits.whence(metrics.Infidelity(square(8)))
    close(found.values, digits.quantus(peer), 1e-4)
    close(found.standard_error, 0)


def test_infidelity_of_the_same_noise(digits):
    """The noise that Quantus draws, given to both."""
    noise = np.random.default_rng(1).normal(0, 0.2, size=(12, 64)).astype(np.float32)
    drawn = iter(np.repeat(noise, 1, axis=0))

    def perturbed(arr, indices, **ignored):
        return (arr - next(drawn)).astype(np.float32)

    peer = quantus.Infidelity(perturb_func=perturbed, perturb_patch_sizes=[8], n_perturb_samples=12, **PLAIN)
    wanted = digits.quantus(peer)
    found = digits.whence(metrics.Infidelity(lambda x, draw: noise[draw].reshape(x.shape), samples=12))
    close(found.values, wanted, 1e-4)


def test_faithfulness_correlation_of_the_same_subsets(digits, monkeypatch):
    subsets = []
    for draw in range(20):
        sequence = np.random.SeedSequence(0, spawn_key=(zlib.crc32(b"subsets of 10"), draw))
        subsets.append(np.random.Generator(np.random.Philox(sequence)).permutation(64)[:10])
    asked = iter([each for each in subsets for _ in digits.x])
    monkeypatch.setattr(np.random, "choice", lambda *given, **named: next(asked))
    peer = quantus.FaithfulnessCorrelation(
        nr_runs=20, subset_size=10, perturb_baseline="black", return_aggregate=False, **PLAIN
    )
    wanted = digits.quantus(peer)
    found = digits.whence(metrics.FaithfulnessCorrelation(size=10, samples=20))
    close(found.values, wanted, 1e-4)


@pytest.mark.parametrize("size", [1, 4])
def test_faithfulness_estimate(digits, size):
    peer = quantus.FaithfulnessEstimate(features_in_step=size, perturb_baseline="black", **PLAIN)
    found = digits.whence(metrics.FaithfulnessEstimate(features_in_step=size))
    close(found.values, digits.quantus(peer, softmax=True), 1e-4)


def test_monotonicity_correlation():
    """Smooth, in float64: black pixels that are made black move the output of Quantus' float32 by nothing at all."""
    digits = Digits()
    digits.x += np.random.default_rng(2).uniform(0.05, 0.1, size=digits.x.shape).astype(np.float32)
    peer = quantus.MonotonicityCorrelation(
        nr_samples=1, perturb_baseline=0.0, normalise=False, abs=True, **QUIET
    )
    found = digits.whence(metrics.MonotonicityCorrelation(baseline=0.0))
    close(found.values, digits.quantus(peer), 1e-3)


@pytest.mark.parametrize("row", range(4))
def test_road(row):
    """One example at a time, without noise."""
    digits = Digits()
    digits.x, digits.y, digits.phi = (each[row : row + 1] for each in (digits.x, digits.y, digits.phi))
    peer = quantus.ROAD(percentages=[10, 30, 50, 70, 90], noise=0.0, **PLAIN)
    wanted = digits.quantus(peer)
    found = digits.whence(metrics.ROAD(percentages=(10, 30, 50, 70, 90), noise=0.0))
    close(found.curve[0], [wanted[each] for each in (10, 30, 50, 70, 90)])


def test_imputation():
    from quantus.functions.perturb_func import noisy_linear_imputation

    from whence.metrics.imputation import imputed

    generator = np.random.default_rng(0)
    for shape, part in (((1, 8, 8), 0.3), ((3, 20, 17), 0.6), ((1, 28, 28), 0.9)):
        picture, removed = generator.normal(size=shape), generator.random(shape[1:]) < part
        wanted = noisy_linear_imputation(picture, np.flatnonzero(removed.ravel()), noise=0.0)
        close(imputed(picture, removed), wanted, 1e-9)


def test_sufficiency():
    digits = Digits(40)
    peer = quantus.Sufficiency(threshold=0.6, **PLAIN)
    wanted = np.array(digits.quantus(peer))
    found = digits.whence(metrics.Sufficiency(threshold=0.6))
    # Where no other explanation is near, Quantus says 0.
    close(np.nan_to_num(found.values), wanted)


# ---- where Quantus differs (docs/metrics.md) -----------------------------------------------------------------------


def test_quantus_infidelity_takes_away_more_and_more(digits):
    """Its blocks are not put back: after four of them the whole picture is gone."""
    peer = quantus.Infidelity(perturb_patch_sizes=[4], n_perturb_samples=3, perturb_baseline="black", **PLAIN)
    wanted = digits.quantus(peer)

    def heaped(x, draws):
        gone = np.zeros((len(x), 1, 8, 8))
        for place, draw in enumerate(draws):
            for block in range(int(draw) + 1):
                top, left = divmod(block, 2)
                gone[place, :, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] = 1
        return x * gone

    # Its patches in their order, each on top of those before it: this is what it measures.
    close(digits.whence(metrics.Infidelity(heaped, samples=4)).values, wanted, 1e-4)

    def single(x, draws):
        return heaped(x, draws) - np.where(
            (draws > 0)[:, None, None, None], heaped(x, np.maximum(draws - 1, 0)), 0
        )

    assert np.abs(digits.whence(metrics.Infidelity(single, samples=4)).values / wanted - 1).min() > 0.05


def test_quantus_monotonicity_is_always_true(digits):
    """The baseline is replaced by the baseline: no feature is ever put in."""
    peer = quantus.Monotonicity(perturb_baseline="black", **QUIET)
    assert all(digits.quantus(peer, softmax=True))
    assert not digits.whence(metrics.Monotonicity()).values.any()


def test_quantus_sensitivity_n_correlates_over_examples(digits):
    """One correlation for each n over the examples, of the n most important features: no random subsets of size n."""
    peer = quantus.SensitivityN(
        n_max_percentage=0.5, return_aggregate=False, perturb_baseline="black", **PLAIN
    )
    wanted = np.array(digits.quantus(peer))
    assert wanted.shape == (32,)
    assert digits.whence(metrics.SensitivityN(samples=20)).values.shape == (6,)
    found = digits.whence(metrics.PixelFlipping())
    ordered = -np.sort(-digits.phi.reshape(6, -1), axis=1)
    # Its shares are those of the last pixel alone, though all before it are gone too.
    fallen = found.curve[:, :1] - found.curve[:, 1:33]
    close(wanted, [np.corrcoef(ordered[:, n], fallen[:, n])[0, 1] for n in range(32)], 1e-3)


def test_quantus_sensitivity_n_of_a_linear_model_is_not_one():
    digits = Digits()
    torch.manual_seed(0)
    digits.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    explained = whence.explain(
        digits.model, torch.as_tensor(digits.x), method="input_x_gradient", target=digits.y
    )
    digits.phi = explained.values.numpy()
    peer = quantus.SensitivityN(
        n_max_percentage=0.5, return_aggregate=False, perturb_baseline="black", **PLAIN
    )
    assert np.nanmin(digits.quantus(peer)) < 0.9
    close(digits.whence(metrics.SensitivityN(baseline=0.0)).values, 1, 1e-4)


def test_quantus_road_counts_the_first_batch_only(digits):
    peer = quantus.ROAD(percentages=[30], noise=0.0, **PLAIN)
    one = digits.quantus(peer, batch_size=2)
    kept = digits.whence(metrics.ROAD(percentages=(30,), noise=0.0)).curve[:, 0]
    close(one[30], kept[:2].mean())


def test_quantus_sufficiency_fails_where_a_pixel_never_varies():
    """Attributions of 0 in a corner have no spread to be measured in: every distance is NaN, and every value 0."""
    digits = Digits(40)
    digits.phi[:, :, 0, 0] = 0
    assert not np.any(digits.quantus(quantus.Sufficiency(threshold=0.6, **PLAIN)))
    assert np.nanmax(digits.whence(metrics.Sufficiency(threshold=0.6)).values) > 0


def test_quantus_sufficiency_depends_on_the_batch_size():
    digits = Digits(40)
    whole, halves = (
        np.array(digits.quantus(quantus.Sufficiency(threshold=0.6, **PLAIN), batch_size=size))
        for size in (64, 20)
    )
    assert np.abs(whole - halves).max() > 0.01


def test_quantus_monotonicity_correlation_of_an_output_near_zero():
    digits = Digits()
    with torch.no_grad():
        near = float(digits.model(torch.as_tensor(digits.x))[0, digits.y[0]])

    class Shifted(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x) - near

    digits.model = Shifted(digits.model).eval()
    peer = quantus.MonotonicityCorrelation(nr_samples=1, perturb_baseline="black", **QUIET)
    with pytest.raises(ValueError, match="NumPy boolean array indexing assignment"):
        digits.quantus(peer)
    assert np.isfinite(digits.whence(metrics.MonotonicityCorrelation(baseline=0.0)).values).all()


def test_quantus_orders_channels_apart():
    """Of a colour picture each channel is a pixel of its own: 1 % of the numbers, not of the pixels."""
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).eval()
    phi = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    peer = quantus.PixelFlipping(features_in_step=1, perturb_baseline=0.0, **PLAIN)
    y = model(torch.as_tensor(x)).argmax(1).numpy()
    wanted = np.array(peer(model=model, x_batch=x, y_batch=y, a_batch=phi, softmax=False, device="cpu"))
    assert wanted.shape == (2, 108)
    assert metrics.PixelFlipping()(model, torch.as_tensor(x), phi).curve.shape == (2, 37)
    found = metrics.PixelFlipping(features="elements")(model, torch.as_tensor(x), phi, target=y)
    close(found.curve[:, 1:], wanted, 1e-4)


def test_quantus_black_is_the_smallest_number_of_the_picture():
    digits = Digits()
    digits.x = digits.x * 0.8 + 0.2
    black, zero = (
        np.array(digits.quantus(quantus.PixelFlipping(perturb_baseline=each, **PLAIN)))
        for each in ("black", 0.0)
    )
    assert np.abs(black - zero).max() > 0.1
    close(digits.whence(metrics.PixelFlipping()).curve[:, 1:], zero)


def test_quantus_road_fails_on_colour_pictures():
    """Its order is of numbers, channel by channel, and its imputation's places are pixels."""
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).eval()
    phi = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    peer = quantus.ROAD(percentages=[30], **PLAIN)
    with pytest.raises(IndexError):
        peer(model=model, x_batch=x, y_batch=np.zeros(2, dtype=int), a_batch=phi, softmax=False, device="cpu")
    assert np.isfinite(metrics.ROAD()(model, torch.as_tensor(x), phi).values).all()


def test_quantus_area_needs_an_older_numpy(digits):
    if hasattr(np, "trapz"):
        pytest.skip("this NumPy still has trapz")
    peer = quantus.PixelFlipping(return_auc_per_sample=True, perturb_baseline="black", **PLAIN)
    with pytest.raises(AttributeError, match="trapz"):
        digits.quantus(peer)
