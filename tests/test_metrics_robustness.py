"""Metrics of robustness and stability: equal to their papers' formulas, and the model is left alone."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import importlib.util
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

import oracles_metrics_other as twins
import whence
from models import assert_same, busy, cnn, mlp, seeded, state_of
from whence import metrics
from whence.attribution import to_numpy
from whence.errors import BadInput, Refused
from whence.metrics import perturbed

EVERY = {
    "max": metrics.MaxSensitivity(samples=4),
    "average": metrics.AverageSensitivity(samples=4),
    "lipschitz": metrics.LocalLipschitz(samples=4),
    "input": metrics.RelativeInputStability(samples=4),
    "output": metrics.RelativeOutputStability(samples=4),
}
every = pytest.mark.parametrize("metric", EVERY.values(), ids=EVERY)
SAME = 1e-6
HERE = Path(__file__).resolve().parent


def rows(*shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def network(seed=0):
    return mlp(seed=seed, dtype=torch.float64)


def noise(shape, draw, radius, seed=0):
    """The noise of a draw, from the seed as documented: Philox keyed by the seed, the purpose and the draw."""
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(b"box 0"), draw))
    return np.random.Generator(np.random.Philox(sequence)).uniform(-radius, radius, shape)


def gradient(model, target):
    def explain(x):
        leaf = torch.as_tensor(x)[None].requires_grad_()
        model(leaf)[0, target].backward()
        return (leaf.grad * leaf)[0].detach().numpy()

    return explain


def moved(x, samples, radius):
    return [x + noise((1, len(x)), draw, radius)[0] for draw in range(samples)]


@pytest.mark.parametrize("relative", [True, False])
def test_sensitivities_are_the_papers(relative):
    model, x = network(), rows(3, 6)
    settings = {"samples": 7, "radius": 0.2, "relative": relative}
    options = {"method": whence.InputXGradient(), "target": 1}
    most = metrics.MaxSensitivity(**settings)(model, x, **options)
    mean = metrics.AverageSensitivity(**settings)(model, x, **options)
    for row, each in enumerate(x.numpy()):
        found = twins.sensitivities(gradient(model, 1), each, moved(each, 7, 0.2), relative)
        assert most.values[row] == pytest.approx(max(found), rel=SAME)
        assert mean.values[row] == pytest.approx(np.mean(found), rel=SAME)
        assert mean.standard_error[row] == pytest.approx(np.std(found, ddof=1) / np.sqrt(7), rel=SAME)


def test_lipschitz_is_the_papers():
    model, x = network(), rows(3, 6)
    found = metrics.LocalLipschitz(7, 0.2)(model, x, method=whence.InputXGradient(), target=1)
    for row, each in enumerate(x.numpy()):
        slow = twins.lipschitz(gradient(model, 1), each, moved(each, 7, 0.2))
        assert found.values[row] == pytest.approx(slow, rel=SAME)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_stabilities_are_the_papers(power):
    model, x = network(), rows(3, 6)

    def outputs(z):
        return model(torch.as_tensor(z)[None])[0].detach().numpy()

    def of_input(z, other):
        return float((np.abs((z - other) / z) ** power).sum() ** (1 / power))

    def of_output(z, other):
        return float((np.abs(outputs(z) - outputs(other)) ** power).sum() ** (1 / power))

    for cls, below in (
        (metrics.RelativeInputStability, of_input), (metrics.RelativeOutputStability, of_output),
    ):  # fmt: skip
        found = cls(6, 0.1, same_class=False, power=power)(model, x, method=whence.InputXGradient(), target=1)
        for row, each in enumerate(x.numpy()):
            slow = twins.relative_stability(gradient(model, 1), below, each, moved(each, 6, 0.1), power, 1e-6)
            assert found.values[row] == pytest.approx(slow, rel=SAME)


def test_a_linear_model_is_not_sensitive():
    model = nn.Linear(6, 3).double()
    x = rows(4, 6)
    for metric in (metrics.MaxSensitivity(), metrics.AverageSensitivity(), metrics.LocalLipschitz()):
        np.testing.assert_allclose(metric(model, x, method=whence.Saliency()).values, 0, atol=1e-12)


def test_of_input_x_gradient_of_a_linear_model_the_lipschitz_constant_is_known():
    # Φ = w * x, so that ‖Φ(x') − Φ(x)‖ / ‖x' − x‖ is |w| where all weights have one size.
    found = metrics.LocalLipschitz()(lambda z: 3.0 * z.sum(1), rows(4, 6), method=whence.InputXGradient())
    np.testing.assert_allclose(found.values, 3.0, rtol=1e-9)


@every
def test_batch_mates_and_slices_change_nothing(metric, monkeypatch):
    model, x = network(), rows(5, 6)
    options = {"method": whence.InputXGradient(), "target": [0, 1, 2, 0, 1]}
    whole = metric(model, x, **options)
    alone = metric(model, x[2:3], method=whence.InputXGradient(), target=2)
    assert alone.values[0] == pytest.approx(whole.values[2], rel=1e-9)
    assert alone.evaluations[0] == whole.evaluations[2]
    monkeypatch.setattr(perturbed, "AGAIN", 7)
    np.testing.assert_allclose(metric(model, x, **options).values, whole.values, rtol=1e-9)
    # `whence.metrics.judged` is the function of that name.
    monkeypatch.setattr(sys.modules["whence.metrics.judged"], "AGAIN", 3)
    np.testing.assert_allclose(metric(model, x, **options).values, whole.values, rtol=1e-9)


@every
def test_the_seed_decides(metric):
    model, x = network(), rows(3, 6)
    one, same, other = (
        metric(model, x, method=whence.InputXGradient(), seed=seed).values for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same) and not np.allclose(one, other)


@every
def test_the_model_is_left_alone(metric):
    model = busy()
    x = seeded(0, lambda: torch.randn(3, 1, 6, 6))
    before = state_of(model, x)
    metric(model, x, method=whence.Saliency(), target=0)
    assert_same(before, state_of(model, x))

    def broken(*_):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        metric(model, x, np.ones((3, 1, 6, 6)), method=broken, target=0)
    assert_same(before, state_of(model, x))


def test_zero_explanations_are_not_defined():
    x = rows(2, 6)
    zeros = np.zeros((2, 6))
    for metric in EVERY.values():
        if metric == EVERY["lipschitz"]:
            continue
        score = metric(network(), x, zeros, method=lambda m, z, t: np.ones(z.shape))
        assert np.isnan(score.values).all() and score.notes
    absolute = metrics.MaxSensitivity(relative=False)(
        network(), x, zeros, method=lambda m, z, t: np.ones(z.shape)
    )
    np.testing.assert_allclose(absolute.values, np.sqrt(6))


def test_a_model_that_ignores_its_input():
    score = metrics.MaxSensitivity()(
        lambda z: z.sum(1, keepdim=True) * 0 + torch.ones(1, 3), rows(2, 6), method=whence.Saliency()
    )
    assert np.isnan(score.values).all() and any("nothing but zeros" in note for note in score.notes)


def test_changed_predictions_are_counted_or_left_out():
    def model(z):
        return torch.stack([z[:, 0] ** 2, -(z[:, 0] ** 3)], 1)

    x = torch.tensor([[0.01, 1.0], [5.0, 1.0]], dtype=torch.float64)
    options = {"method": whence.InputXGradient(), "target": 0}
    kept = metrics.AverageSensitivity(40, 1.5)(model, x, **options)
    assert any("another class is predicted in" in note and "count as well" in note for note in kept.notes)
    left = metrics.AverageSensitivity(40, 1.5, same_class=True)(model, x, **options)
    assert any("are left out" in note for note in left.notes)
    assert left.values[0] != kept.values[0] and left.values[1] == kept.values[1]


def test_pixels_stay_pixels():
    seen = []

    def watched(model, z, target):
        seen.append(np.asarray(z))
        return np.asarray(z, dtype=float)

    model = cnn()
    given = np.random.default_rng(0).random((2, 6, 6)).astype(np.float32).round()
    score = metrics.LocalLipschitz(5, 0.3)(
        model, given, method=watched, preprocess=whence.Preprocess(), target=0
    )
    assert min(each.min() for each in seen) >= 0 and max(each.max() for each in seen) <= 1
    # The explanation is the input itself: only steps that were taken count.
    np.testing.assert_allclose(score.values, 1.0, rtol=1e-5)


def test_several_inputs_and_a_black_box():
    rng = np.random.default_rng(0)

    def model(a, b):
        return a.sum(1) * b[:, 0]

    pair = (rng.normal(size=(3, 4)), rng.normal(size=(3, 2)))
    score = metrics.MaxSensitivity(samples=3)(model, pair, method=whence.FeatureAblation())
    assert score.values.shape == (3,) and np.isfinite(score.values).all()


def test_further_arguments_have_their_rows():
    def model(z, scale):
        return z**2 * scale[:, None]

    x, scale = rows(3, 4), torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    metric = metrics.MaxSensitivity(samples=3, relative=False)
    whole = metric(model, x, method=whence.Saliency(), target=0, kwargs={"scale": scale})
    for row in range(3):
        alone = metric(
            model,
            x[row : row + 1],
            method=whence.Saliency(),
            target=0,
            kwargs={"scale": scale[row : row + 1]},
        )
        assert alone.values[0] == pytest.approx(whole.values[row])


@pytest.mark.parametrize(
    "make",
    [
        lambda: metrics.MaxSensitivity(samples=0),
        lambda: metrics.MaxSensitivity(radius=0),
        lambda: metrics.MaxSensitivity(radius=float("nan")),
        lambda: metrics.RelativeInputStability(power=0.5),
        lambda: metrics.RelativeInputStability(least=0.0),
    ],
)
def test_settings_that_cannot_be_meant(make):
    with pytest.raises(BadInput):
        make()


def test_refusals():
    x = rows(2, 6)
    with pytest.raises(BadInput, match="needs the method"):
        metrics.MaxSensitivity()(network(), x, np.ones((2, 6)))
    with pytest.raises(BadInput, match="NaN"):
        metrics.MaxSensitivity()(network(), x, np.full((2, 6), np.nan), method=whence.Saliency())
    with pytest.raises(Refused, match="whole numbers"):
        metrics.MaxSensitivity()(
            lambda z: np.asarray(z).sum(1).astype(float),
            np.ones((2, 4), dtype=int), np.ones((2, 4)), method=whence.FeatureAblation(),
        )  # fmt: skip


# ---- the known anchor --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tutorials_numbers_on_mnist():
    """Quantus' tutorial prints 0.39 (0.11) for Saliency and 0.25 (0.08) for Integrated Gradients."""
    places = (os.environ.get("WHENCE_DATA_DIR", ""), str(HERE.parents[1] / "shared" / "mnist"))
    folder = next((each for each in places if each and any(Path(each).glob("train-images*"))), None)
    if folder is None:
        pytest.skip("MNIST's files are not here")
    spec = importlib.util.spec_from_file_location("anchor", HERE.parent / "benchmarks" / "anchor.py")
    anchor = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anchor)
    data = whence.data.mnist(folder)
    with torch.random.fork_rng(devices=[]):
        model, accuracy = anchor.trained(data, 0)
    assert accuracy > 0.93
    found = anchor.scores(model, data)
    for name, (mean, spread) in anchor.KNOWN.items():
        assert abs(found[name].mean() - mean) <= spread


@every
@pytest.mark.parametrize("first", [True, False], ids=["channels first", "channels last"])
def test_a_map_of_pixels_beside_a_method_with_channels(metric, first):
    x = rows(3, 3, 5, 4) if first else rows(3, 5, 4, 3)
    axis = 1 if first else 3
    where = {} if first else {"preprocess": whence.Preprocess()}
    if not first:
        x = (x - x.min()) / (x.max() - x.min())

    def model(z):
        return torch.stack([(z**2).sum((1, 2, 3)), (z**3).sum((1, 2, 3))], 1)

    def wide(other, z, target):
        z = torch.as_tensor(z)
        return to_numpy(whence.explain(other, z, "input_x_gradient", target=target, **where).values)

    def narrow(other, z, target):
        return wide(other, z, target).sum(axis, keepdims=True)

    map = narrow(model, x, 0)
    alike = metric(model, x, map, method=narrow, target=0, **where)
    mixed = metric(model, x, map, method=wide, target=0, **where)
    np.testing.assert_allclose(mixed.values, alike.values, rtol=1e-9)
    assert np.isfinite(mixed.values).all()
    assert [note for note in mixed.notes if "different shapes" in note]
    assert not [note for note in alike.notes if "different shapes" in note]
    turned = metric(model, x, wide(model, x, 0), method=narrow, target=0, **where)
    np.testing.assert_allclose(turned.values, alike.values, rtol=1e-9)
