"""Faithfulness metrics: each is its paper's formula, and keeps the promises of batches, chunks and seeds."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

import oracles_metrics_faithfulness as twins
import whence
from models import cnn, mlp, seeded
from whence import metrics
from whence.errors import BadInput, Refused
from whence.metrics import perturbations
from whence.metrics.agreement import pearson, pearson_error, spearman
from whence.metrics.imputation import _dense, _sparse, imputed
from whence.metrics.order import ranked
from whence.metrics.perturbations import gaussian, noisy_baseline, square

SAME = 1e-6
EVERY = {
    "deletion": metrics.Deletion(),
    "insertion": metrics.Insertion(),
    "pixel_flipping": metrics.PixelFlipping(),
    "pixel_flipping, 7 at once": metrics.PixelFlipping(features_in_step=7),
    "infidelity": metrics.Infidelity(samples=20),
    "infidelity, baseline": metrics.Infidelity("noisy_baseline", samples=20),
    "infidelity, rescaled": metrics.Infidelity(samples=20, rescale=True),
    "faithfulness_correlation": metrics.FaithfulnessCorrelation(samples=20),
    "faithfulness_estimate": metrics.FaithfulnessEstimate(),
    "monotonicity": metrics.Monotonicity(),
    "monotonicity_correlation": metrics.MonotonicityCorrelation(),
    "sensitivity_n": metrics.SensitivityN(samples=12),
}
PICTURES = {
    "infidelity, squares": metrics.Infidelity(square(2)),
    "infidelity, squares of two sizes": metrics.Infidelity(square((2, 3)), samples=20),
    "road": metrics.ROAD(),
    "road, probability": metrics.ROAD(of="probability", order="least"),
}
every = pytest.mark.parametrize("metric", EVERY.values(), ids=EVERY)
of_pictures = pytest.mark.parametrize(
    "metric", [*EVERY.values(), *PICTURES.values()], ids=[*EVERY, *PICTURES]
)


def colour(seed=0):
    """A smooth network of colour pictures [B, 2, 6, 5], float64."""

    def make():
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3))

    return seeded(seed, make).double().eval()


def linear(features, classes):
    return seeded(0, lambda: nn.Linear(features, classes)).double()


def rows(*shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


class Two(nn.Module):
    """A network of two inputs."""

    def __init__(self):
        super().__init__()
        self.one, self.other = mlp(3, dtype=torch.float64), mlp(4, seed=1, dtype=torch.float64)

    def forward(self, a, b):
        return self.one(a) * self.other(b)


def watched(model, shape, k, probability=False):
    """Return f of one flattened or shaped example as a number."""

    def f(x):
        with torch.no_grad():
            y = model(torch.as_tensor(np.asarray(x)).reshape(1, *shape))
        return float((y.softmax(1) if probability else y)[0, k])

    return f


class Case:
    """A network, its inputs, explanations without ties, and what the twins need of them."""

    def __init__(self, name):
        self.model, self.x = {
            "pictures": lambda: (colour(), rows(3, 2, 6, 5)),
            "relu": lambda: (cnn(dtype=torch.float64), rows(3, 1, 6, 6)),
            "table": lambda: (mlp(6, dtype=torch.float64), rows(4, 6)),
        }[name]()
        self.shape = tuple(self.x.shape[1:])
        self.phi = np.random.default_rng(5).normal(size=self.x.shape)
        with torch.no_grad():
            self.top = self.model(self.x).argmax(1).numpy()
        self.picture = len(self.shape) == 3
        self.parts = (twins.pixels if self.picture else twins.elements)(np.zeros(self.shape))

    def __iter__(self):
        """Every example: x, φ, f, p, and the features' shares."""
        for row, k in enumerate(self.top):
            phi = self.phi[row]
            f, p = (watched(self.model, self.shape, k, which) for which in (False, True))
            yield self.x[row].numpy(), phi, f, p, twins.shares_of(phi, self.parts)

    def score(self, metric, **options):
        return metric(self.model, self.x, self.phi, **options)


@pytest.fixture(params=["pictures", "relu", "table"])
def case(request):
    return Case(request.param)


def close(found, wanted, tolerance=SAME):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


# ---- curves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_deletion(case, steps, baseline):
    found = case.score(metrics.Deletion(steps=steps, baseline=baseline))
    number = len(case.parts) if steps is None else steps
    other = np.full(case.shape, baseline)
    close(found.values, [twins.deletion(p, x, other, case.parts, s, number) for x, _, _, p, s in case])
    assert found.curve.shape == (len(case.x), number + 1)
    assert found.places[0] == 0
    assert found.places[-1] == 1
    x, _, _, p, _ = next(iter(case))
    close(found.curve[0, [0, -1]], [p(x), p(other)])


def test_insertion(case):
    other = np.full(case.shape, 0.1)
    found = case.score(metrics.Insertion(baseline=0.1, of="target"))
    close(found.values, [twins.insertion(f, x, other, case.parts, s, len(s)) for x, _, f, _, s in case])


def test_insertion_starts_from_a_blurred_picture():
    case = Case("pictures")
    found, same = (case.score(metrics.Insertion(baseline=b)) for b in (None, whence.baseline.blur(1.5)))
    close(found.curve, same.curve, 1e-12)
    # A table has nothing to blur.
    case = Case("table")
    close(case.score(metrics.Insertion()).values, case.score(metrics.Insertion(baseline=0.0)).values)


@pytest.mark.parametrize(("size", "steps"), [(1, None), (4, None), (2, 3)])
def test_pixel_flipping(case, size, steps):
    found = case.score(metrics.PixelFlipping(features_in_step=size, steps=steps))
    other = np.zeros(case.shape)
    close(found.values, [twins.aopc(f, x, other, case.parts, s, size, steps) for x, _, f, _, s in case])


def test_deletion_of_a_linear_model():
    """The curve falls by one contribution after the other, whose areas are known."""
    model = linear(5, 2)
    x = rows(3, 5)
    shares = (x * model.weight[1]).detach().numpy()
    found = metrics.Deletion(of="target")(model, x, shares, target=1)
    ordered = -np.sort(-shares, axis=1)
    full = model(x)[:, 1].detach().numpy()
    close(found.values, full - (ordered * (5 - np.arange(5) - 0.5)).sum(1) / 5)
    # No explanation has a smaller area than the contributions themselves.
    assert (
        metrics.Deletion(of="target")(model, x, rows(3, 5, seed=9).numpy(), target=1).values > found.values
    ).all()


def test_the_features_may_be_patches():
    case = Case("pictures")
    parts = [
        [c * 30 + (2 * top + y) * 5 + left for c in (0, 1) for y in (0, 1) for left in across]
        for top in range(3)
        for across in ((0, 1), (2, 3), (4,))
    ]
    found = case.score(metrics.Deletion(features="patches:2"))
    wanted = [
        twins.deletion(p, x, np.zeros(case.shape), parts, twins.shares_of(phi, parts), len(parts))
        for x, phi, _, p, _ in case
    ]
    close(found.values, wanted)


def test_what_changes_nothing_is_not_run_again():
    """Half of each picture is black: those pixels cost no evaluation, and the curve is the same as with them."""
    case = Case("relu")
    case.x[:, :, :3] = 0
    found = case.score(metrics.Deletion())
    assert found.evaluations.max() <= 18
    close(found.values, [
        twins.deletion(p, x, np.zeros(case.shape), case.parts, s, 36) for x, _, _, p, s in case
    ])  # fmt: skip
    close(case.score(metrics.Insertion(baseline=0.0)).values, [
        twins.insertion(p, x, np.zeros(case.shape), case.parts, s, 36) for x, _, _, p, s in case
    ])  # fmt: skip


def test_several_baselines_are_averaged_and_counted(case):
    found = case.score(metrics.Deletion(baseline=[0.1, 0.4]))
    single = [case.score(metrics.Deletion(baseline=each)) for each in (0.1, 0.4)]
    close(found.curve, (single[0].curve + single[1].curve) / 2)
    assert (found.evaluations == single[0].evaluations + single[1].evaluations).all()


def test_of_many_features_several_are_removed_at_once():
    x = rows(1, 1, 20, 20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 2)).double()
    assert metrics.Deletion()(model, x, rows(1, 1, 20, 20, seed=1).numpy()).curve.shape == (1, 225)


def test_examples_with_other_numbers_of_features():
    """Each example's own features: its value is what it is alone, and its curve is filled with NaN."""
    case = Case("table")
    masks = np.array([[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 3], [0, 0, 0, 1, 1, 1]])
    for metric in (
        metrics.PixelFlipping,
        metrics.FaithfulnessEstimate,
        metrics.Deletion,
        metrics.Monotonicity,
    ):
        whole = metric(features=masks)(case.model, case.x, case.phi)
        alone = [
            metric(features=masks[i])(case.model, case.x[i : i + 1], case.phi[i : i + 1]).values[0]
            for i in range(4)
        ]
        close(whole.values, alone, 1e-12)


# ---- infidelity ------------------------------------------------------------------------------------------------------


def given(x, draws):
    """A user's own perturbation: the same noise for every example."""
    rows_ = [np.random.default_rng(int(draw)).normal(size=x.shape[1:]) for draw in draws]
    return 0.5 * np.stack(rows_)


@pytest.mark.parametrize("of", ["target", "probability"])
def test_infidelity_of_the_same_perturbations(case, of):
    found = case.score(metrics.Infidelity(given, samples=30, of=of))
    changes = [given(np.zeros((1, *case.shape)), [draw])[0] for draw in range(30)]
    functions = [(x, phi, f if of == "target" else p) for x, phi, f, p, _ in case]
    close(found.values, [twins.infidelity(f, x, phi, changes) for x, phi, f in functions])
    single = [[twins.infidelity(f, x, phi, [change]) for change in changes] for x, phi, f in functions]
    close(found.standard_error, np.std(single, axis=1, ddof=1) / np.sqrt(30))


def test_rescaled_infidelity(case):
    changes = [given(np.zeros((1, *case.shape)), [draw])[0] for draw in range(30)]
    found = case.score(metrics.Infidelity(given, samples=30, rescale=True))
    close(found.values, [twins.rescaled_infidelity(f, x, phi, changes) for x, phi, f, _, _ in case])
    again = metrics.Infidelity(given, samples=30, rescale=True)(case.model, case.x, -7.5 * case.phi)
    close(again.values, found.values, 1e-9)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["pictures", "relu"])
def test_all_squares_are_exact(name, size):
    case = Case(name)
    found = case.score(metrics.Infidelity(square(size, baseline=0.2)))
    other = np.full(case.shape, 0.2)
    close(
        found.values, [twins.infidelity(f, x, phi, twins.squares(x, other, size)) for x, phi, f, _, _ in case]
    )
    assert (found.standard_error == 0).all()
    assert found.evaluations[0] == (case.shape[1] - size + 1) * (case.shape[2] - size + 1)


def test_drawn_squares_estimate_all_of_them():
    case = Case("relu")
    exact = case.score(metrics.Infidelity(square(2)))
    drawn = case.score(metrics.Infidelity(square((2, 2)), samples=2000))
    assert (drawn.standard_error > 0).all()
    assert (np.abs(drawn.values - exact.values) < 4 * drawn.standard_error).all()


@pytest.mark.parametrize("perturbation", [gaussian(0.3), noisy_baseline(0.3, baseline=0.2)])
def test_perturbations_are_drawn_as_they_say(perturbation):
    x = rows(2, 3) * torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    with metrics.judged(mlp(3, dtype=torch.float64), x, x.numpy()) as question:
        drawn = perturbation.drawn(question.problem, 4000)
        for row in (0, 1):
            (changes,) = drawn.at(np.full(4000, row), np.arange(4000))
            sigma = 0.3 * float(x[row].max() - x[row].min())
            middle = 0 if perturbation == gaussian(0.3) else x[row].numpy() - 0.2
            close((changes.mean(0) - middle) / sigma, 0, 0.08)
            close(np.cov(changes.T) / sigma**2, np.eye(3), 0.1)


def test_infidelity_of_a_linear_model():
    """The gradient explains it without error; contributions do once they are divided by what they multiply."""
    model, x = linear(6, 3), rows(4, 6)
    weights = np.broadcast_to(model.weight[1].detach().numpy(), (4, 6))
    for perturbation in ("gaussian", "noisy_baseline"):
        close(metrics.Infidelity(perturbation)(model, x, weights, target=1).values, 0, 1e-20)
        contributions = (x.numpy() - 0.3) * weights
        found = metrics.Infidelity(perturbation, contributions=True, baseline=0.3)
        close(found(model, x, contributions, target=1).values, 0, 1e-20)
    # Of w + e the infidelity under Gaussian noise is σ²|e|².
    extra = rows(4, 6, seed=8).numpy()
    found = metrics.Infidelity(gaussian(0.1), samples=4000)(model, x, weights + extra, target=1)
    spread = (x.max(1).values - x.min(1).values).numpy()
    wanted = (0.1 * spread) ** 2 * (extra**2).sum(1)
    assert (np.abs(found.values - wanted) < 4 * found.standard_error).all()
    close(metrics.Infidelity(square(2))(
        nn.Sequential(nn.Flatten(), model), x.reshape(4, 1, 2, 3), weights.reshape(4, 1, 2, 3), target=1
    ).values, 0, 1e-20)  # fmt: skip


def test_contributions_of_what_is_its_baseline_are_taken_for_nothing():
    case = Case("table")
    case.x[:, 2] = 0
    gradient = case.phi.copy()
    case.phi = gradient * case.x.numpy()
    gradient[:, 2] = 0
    changes = [given(np.zeros((1, 6)), [draw])[0] for draw in range(20)]
    found = case.score(metrics.Infidelity(given, samples=20, contributions=True), target=case.top)
    wanted = [
        twins.infidelity(f, x, slopes, changes)
        for (x, _, f, _, _), slopes in zip(case, gradient, strict=True)
    ]
    close(found.values, wanted)


def test_the_optimum_of_a_linear_model_is_its_weights():
    model, x = linear(6, 3), rows(4, 6)
    best = metrics.optimal_explanation(model, x, target=1)
    close(best.values, np.broadcast_to(model.weight[1].detach().numpy(), (4, 6)), 1e-10)
    close(best.infidelity, 0, 1e-20)


def test_the_optimum_is_the_papers(case):
    changes = [given(np.zeros((1, *case.shape)), [draw])[0] for draw in range(240)]
    best = metrics.optimal_explanation(case.model, case.x, given, samples=240)
    for row, (x, _, f, _, _) in enumerate(case):
        wanted = twins.optimum(f, x, changes)
        close(best.values[row], wanted)
        close(best.least[row], twins.infidelity(f, x, wanted, changes))
    # What it attains is told on draws that it was not fitted to: each is left out in turn.
    x, _, f, _, _ = next(iter(case))
    left_out = [
        twins.infidelity(f, x, twins.optimum(f, x, [*changes[:i], *changes[i + 1 :]]), [changes[i]])
        for i in range(0, 240, 40)
    ]
    design = np.stack([change.ravel() for change in changes])
    leverage = np.diag(design @ np.linalg.solve(design.T @ design, design.T))
    residual = design @ best.values[0].ravel() - [f(x) - f(x - change) for change in changes]
    close(((residual / (1 - leverage)) ** 2)[::40], left_out)
    close(best.infidelity[0], ((residual / (1 - leverage)) ** 2).mean())


def test_the_optimum_of_all_squares_is_exact():
    case = Case("pictures")
    best = metrics.optimal_explanation(case.model, case.x, square(2))
    for row, (x, _, f, _, _) in enumerate(case):
        changes = twins.squares(x, np.zeros_like(x), 2)
        close(best.infidelity[row], twins.infidelity(f, x, twins.optimum(f, x, changes), changes))
    close(best.least, best.infidelity)


def test_the_optimum_is_honest():
    """Between what fits the draws themselves and what is left out of them lies the true optimum, on average."""
    model, x = mlp(6, dtype=torch.float64), rows(1, 6)
    truth = metrics.optimal_explanation(model, x, samples=40_000).infidelity[0]
    few = [metrics.optimal_explanation(model, x, samples=24, seed=seed) for seed in range(40)]
    assert np.mean([each.least[0] for each in few]) < truth < np.mean([each.infidelity[0] for each in few])
    with pytest.raises(Refused, match="samples=12"):
        metrics.optimal_explanation(model, x, samples=11)
    wide = torch.zeros(1, 1, 80, 80)
    with pytest.raises(Refused, match="6,400"):
        metrics.optimal_explanation(nn.Sequential(nn.Flatten(), nn.Linear(6400, 2)), wide)


def test_infidelity_beside_its_optimum():
    case = Case("table")
    found = case.score(metrics.Infidelity(yardstick=True))
    assert found.evaluations.max() == 1000
    assert any("1000 draws instead of 200" in note for note in found.notes)
    assert (found.optimum.infidelity < found.values).all()
    assert case.score(metrics.Infidelity()).optimum is None
    same = case.score(metrics.Infidelity(samples=1000))
    close(same.values, found.values, 1e-12)
    again = metrics.Infidelity(yardstick=True)(case.model, case.x, found.optimum.values)
    close(again.values, found.optimum.least, 1e-9)


# ---- correlations ----------------------------------------------------------------------------------------------------


def subsets(purpose, samples, features, size, seed=0):
    """The subsets that a seed draws, each by its number."""
    found = []
    for draw in range(samples):
        sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), draw))
        found.append(np.random.Generator(np.random.Philox(sequence)).permutation(features)[:size])
    return found


@pytest.mark.parametrize("of", ["target", "probability"])
def test_faithfulness_correlation(case, of):
    features = len(case.parts)
    found = case.score(metrics.FaithfulnessCorrelation(samples=25, of=of, baseline=0.1))
    drawn = subsets(f"subsets of {features // 4}", 25, features, features // 4)
    other = np.full(case.shape, 0.1)
    for row, (x, _, f, p, shares) in enumerate(case):
        wanted = twins.subsets_correlation(f if of == "target" else p, x, other, case.parts, shares, drawn)
        close((found.values[row], found.standard_error[row]), wanted)


def test_sensitivity_n(case):
    features = len(case.parts)
    found = case.score(metrics.SensitivityN(sizes=(1, 3, 4), samples=12))
    assert list(found.places) == [1, 3, 4]
    for row, (x, _, f, _, shares) in enumerate(case):
        both = [
            twins.subsets_correlation(
                f, x, np.zeros(case.shape), case.parts, shares, subsets(f"subsets of {n}", 12, features, n)
            )
            for n in (1, 3, 4)
        ]
        close(found.curve[row], [correlation for correlation, _ in both])
        close(found.values[row], np.mean([correlation for correlation, _ in both]))
        close(found.standard_error[row], np.sqrt(np.sum([error**2 for _, error in both])) / 3)


def test_correlations_of_a_linear_model_are_one():
    model, x = linear(8, 3), rows(4, 8)
    explained = whence.explain(model, x, method="input_x_gradient", target=2)
    for metric in (
        metrics.SensitivityN(), metrics.FaithfulnessCorrelation(), metrics.FaithfulnessEstimate(of="target"),
        metrics.MonotonicityCorrelation(baseline=0.0),
    ):  # fmt: skip
        close(metric(model, x, explained).values, 1, 1e-9)
    against = metrics.SensitivityN()(model, x, -explained.values.numpy(), target=2)
    close(against.values, -1, 1e-9)


@pytest.mark.parametrize("size", [1, 2])
def test_faithfulness_estimate(case, size):
    found = case.score(metrics.FaithfulnessEstimate(features_in_step=size))
    other = np.zeros(case.shape)
    close(
        found.values,
        [twins.faithfulness_estimate(p, x, other, case.parts, s, size) for x, _, _, p, s in case],
    )


@pytest.mark.parametrize("size", [1, 3])
def test_monotonicity(size):
    """Of a linear model the contributions are monotonic where none is below 0; and not where one is."""
    model = linear(5, 1)
    x = torch.cat([rows(4, 5).abs() * model.weight[0].detach().sign(), rows(4, 5)])
    shares = (x * model.weight[0]).detach().numpy()
    found = metrics.Monotonicity(features_in_step=size, of="target")(model, x, shares, target=0)
    f = watched(model, (5,), 0)
    parts = twins.elements(np.zeros(5))
    wanted = [
        twins.monotonicity(f, row.numpy(), np.zeros(5), parts, list(s), size)
        for row, s in zip(x, shares, strict=True)
    ]
    close(found.values, wanted)
    assert set(found.values[:4]) == {1.0}
    assert 0.0 in found.values


def test_monotonicity_of_networks(case):
    found = case.score(metrics.Monotonicity())
    other, counts = np.zeros(case.shape), range(len(case.parts) + 1)
    for row, (x, _, _, p, shares) in enumerate(case):
        close(found.values[row], twins.monotonicity(p, x, other, case.parts, shares))
        # Put into the baseline by rising share: removed from it by falling minus share.
        rising = [-share for share in shares]
        close(found.curve[row], twins.removal_curve(p, other, x, case.parts, rising, counts))


def test_monotonicity_correlation(case):
    others = [np.full(case.shape, value) for value in (0.0, 0.7, -0.4)]
    found = case.score(metrics.MonotonicityCorrelation(baseline=[0.0, 0.7, -0.4]))
    close(found.values, [
        twins.monotonicity_correlation(f, x, others, case.parts, s) for x, _, f, _, s in case
    ])  # fmt: skip
    assert (found.evaluations == 3 * len(case.parts)).all()


def test_correlations_by_hand():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(3, 15)), np.round(generator.normal(size=(3, 15)), 1)
    close(pearson(one, other), [twins.correlation(a, b) for a, b in zip(one, other, strict=True)], 1e-12)
    close(
        spearman(one, other), [twins.rank_correlation(a, b) for a, b in zip(one, other, strict=True)], 1e-12
    )
    close(
        pearson_error(one, other),
        [twins.jackknife(list(a), list(b)) for a, b in zip(one, other, strict=True)],
        1e-12,
    )
    # Small and large numbers, and none at all.
    close(pearson(1e-200 * one, 1e200 * other), pearson(one, other), 1e-12)
    assert np.isnan(pearson(np.ones((1, 4)), one[:1, :4])).all()
    assert np.isnan(pearson(np.full((1, 4), 0.1 + 0.2), one[:1, :4])).all()
    assert np.isnan(spearman(one[:1, :4], np.zeros((1, 4)))).all()
    assert np.isnan(spearman(one[:1, :4], np.array([[0.3, 0.1 + 0.2, 0.3, 0.3]]))).all()
    assert np.isnan(pearson(one[:, :0], one[:, :0])).all()


# ---- ROAD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_imputation_is_the_papers(part):
    generator = np.random.default_rng(3)
    picture, removed = generator.normal(size=(2, 5, 6)), generator.random((5, 6)) < part
    wanted = twins.linear_imputation(picture, removed)
    close(imputed(picture, removed), wanted, 1e-9)
    gone = removed.ravel()
    known = picture.reshape(2, -1)[:, ~gone].T
    for solve in (_dense, _sparse):
        close(solve(5, 6, gone, known).T, wanted.reshape(2, -1)[:, gone], 1e-9)


def test_a_plane_is_imputed_exactly():
    """Inside a picture the mean of the neighbours of a plane is the plane itself."""
    plane = np.add.outer(2.0 * np.arange(20), np.arange(25.0))[None]
    removed = np.zeros((20, 25), dtype=bool)
    removed[3:17, 4:20] = True
    close(imputed(np.where(removed, 99.0, plane), removed), plane, 1e-9)
    assert (imputed(plane, np.zeros((20, 25), dtype=bool)) == plane).all()


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize("name", ["pictures", "relu"])
def test_road(name, order):
    case = Case(name)
    found = case.score(metrics.ROAD(percentages=(20, 50, 80), order=order, of="target", noise=0.0))
    kept = case.score(metrics.ROAD(percentages=(20, 50, 80), order=order, noise=0.0))
    assert found.better == ("lower" if order == "most" else "higher")
    for row, (x, _, _, _, shares) in enumerate(case):
        ordered = twins.falling(shares)[:: 1 if order == "most" else -1]
        for place, percentage in enumerate((20, 50, 80)):
            removed = np.zeros(x[0].size, dtype=bool)
            removed[ordered[: int(x[0].size * percentage / 100)]] = True
            picture = twins.linear_imputation(x, removed.reshape(x.shape[1:]))
            outputs = [watched(case.model, case.shape, k)(picture) for k in range(3)]
            close(found.curve[row, place], outputs[case.top[row]])
            assert kept.curve[row, place] == (np.argmax(outputs) == case.top[row])
    close(found.values, found.curve.mean(1), 1e-12)


def test_road_adds_noise_to_what_it_replaces():
    seen = []

    def model(x):
        seen.append(np.asarray(x).copy())
        return np.asarray(x).reshape(len(x), -1)[:, :2]

    x = rows(1, 1, 30, 30).numpy()
    phi = rows(1, 1, 30, 30, seed=2).numpy()
    last = []
    for noise in (0.0, 0.5):
        metrics.ROAD(percentages=(50,), noise=noise)(model, x, phi, seed=3)
        last.append(seen[-1])
    quiet, loud = last
    moved = (loud - quiet).ravel()
    gone = np.isin(np.arange(900), twins.falling(list(phi.ravel()))[:450])
    assert (moved[~gone] == 0).all()
    assert moved[gone].std() == pytest.approx(0.5, rel=0.1)


def test_road_takes_pictures_with_their_channels_last():
    case = Case("pictures")

    def last(x):
        with torch.no_grad():
            return case.model(torch.as_tensor(np.moveaxis(np.asarray(x), -1, 1))).numpy()

    wide = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)).double()
    case.model, x, phi = wide, rows(2, 3, 6, 5), rows(2, 3, 6, 5, seed=4).numpy()
    first = metrics.ROAD(of="target", noise=0.0)(wide, x, phi)
    found = metrics.ROAD(of="target", noise=0.0)(
        last, np.moveaxis(x.numpy(), 1, -1).copy(), np.moveaxis(phi, 1, -1)
    )
    close(found.curve, first.curve, 1e-9)


# ---- sufficiency -----------------------------------------------------------------------------------------------------


def test_sufficiency():
    model, x = mlp(4, dtype=torch.float64), 2 * rows(20, 4)
    phi = rows(20, 4, seed=3).numpy()
    phi[:, 3] = 1.0
    classes = model(x).argmax(1).tolist()
    for threshold in (0.3, 0.6):
        found = metrics.Sufficiency(threshold=threshold)(model, x, phi)
        close(found.values, twins.sufficiency(phi, classes, threshold))
    assert len(set(classes)) > 1
    # Not relative: distances in standard deviations, those of samples.
    pair = np.array([[0.0, 1.0], [2.0, 5.0], [1.0, 0.0]])
    far = np.sqrt((2 / 1) ** 2 + (4 / np.std([1, 5, 0], ddof=1)) ** 2)
    for threshold, near in ((far - 1e-9, 1), (far + 1e-9, 2)):
        absolute = metrics.Sufficiency(threshold=threshold, relative=False)
        same = [absolute(lambda z: z, np.eye(2)[[0, k, 0]], pair).values[0] for k in (0, 1)]
        close(same, [1, 1 if near == 1 else 0.5])
    alone = metrics.Sufficiency()(model, x[:1], phi[:1])
    assert np.isnan(alone.values).all()
    assert any("no other" in note for note in alone.notes)
    # Explanations that tell the class suffice for it.
    told = np.eye(3)[classes][:, [0, 1, 2, 0]]
    assert set(metrics.Sufficiency(threshold=0.1)(model, x, told).values) <= {1.0}


# ---- ties ------------------------------------------------------------------------------------------------------------


def test_ties_are_drawn_by_the_seed():
    model, x = mlp(6, dtype=torch.float64), rows(2, 6)
    flat = np.ones((2, 6))
    found = {seed: metrics.Deletion()(model, x, flat, seed=seed) for seed in (0, 0, 1)}
    assert (found[0].values == metrics.Deletion()(model, x, flat, seed=0).values).all()
    assert (found[0].values != found[1].values).all()
    assert any("up to 6 of an example's 6 features" in note for note in found[0].notes)
    clear = metrics.Deletion()(model, x, rows(2, 6, seed=4).numpy())
    assert not any("ties" in note for note in clear.notes)
    with metrics.judged(model, x, flat) as question:
        rank = ranked(question, np.array([[3.0, 1.0, 2.0, 2.0, 0.0, 2.0]]))
        assert rank[0, [0, 1, 4]].tolist() == [0, 4, 5]
        assert sorted(rank[0]) == list(range(6))


# ---- promises --------------------------------------------------------------------------------------------------------


def numbers(score):
    parts = (score.values, score.curve, score.standard_error)
    return np.concatenate([each.reshape(len(score.values), -1) for each in parts if each is not None], 1)


@of_pictures
def test_an_example_does_not_depend_on_its_batch_mates(metric):
    case = Case("pictures")
    whole = numbers(case.score(metric))
    for row in range(len(case.x)):
        some = slice(row, row + 1)
        # The class is given: it is the example's own anyway.
        alone = metric(case.model, case.x[some], case.phi[some], target=case.top[some])
        close(numbers(alone)[0], whole[row], 1e-9)


@of_pictures
def test_chunks_do_not_matter(metric):
    case = Case("pictures")
    whole = numbers(case.score(metric))
    for chunk in (1, 7):
        close(numbers(case.score(metric, chunk=chunk)), whole, 1e-9)
    assert (numbers(case.score(metric, chunk=7)) == numbers(case.score(metric, chunk=7))).all()


@of_pictures
def test_the_seed_decides(metric):
    case = Case("relu")
    one, same, other = (numbers(case.score(metric, seed=seed, chunk=16)) for seed in (1, 1, 2))
    assert (one == same).all()
    if case.score(metric).standard_error is not None and (case.score(metric).standard_error > 0).all():
        assert (one != other).any()


@of_pictures
def test_black_boxes(metric):
    case = Case("pictures")

    def box(x):
        with torch.no_grad():
            return case.model(torch.as_tensor(np.asarray(x))).numpy()

    found = metric(box, case.x.numpy(), case.phi)
    close(numbers(found), numbers(case.score(metric)), 1e-9)


@every
def test_several_inputs(metric):
    a, b = rows(3, 3), rows(3, 4, seed=1)
    phi = (rows(3, 3, seed=2).numpy(), rows(3, 4, seed=3).numpy())

    class Joined(nn.Module):
        def forward(self, x):
            return two(x[:, :3], x[:, 3:])

    two = Two()
    found = metric(two, (a, b), phi)
    joined = metric(Joined(), torch.cat([a, b], 1), np.concatenate(phi, 1))
    if isinstance(metric, (metrics.Infidelity, metrics.MonotonicityCorrelation)):
        # Noise is relative to each input's own range.
        assert np.isfinite(found.values).all()
    else:
        close(numbers(found), numbers(joined), 1e-9)


@of_pictures
@pytest.mark.parametrize("phi", ["zero", "constant"])
def test_explanations_that_say_nothing(metric, phi):
    case = Case("relu")
    found = metric(case.model, case.x, np.full(case.x.shape, 0.0 if phi == "zero" else 0.3))
    undefined = metric in (
        EVERY["faithfulness_correlation"], EVERY["faithfulness_estimate"], EVERY["monotonicity_correlation"],
        EVERY["sensitivity_n"],
    )  # fmt: skip
    assert np.isnan(found.values).all() == undefined
    assert np.isfinite(found.values).all() != undefined
    assert any("no correlation is defined" in note for note in found.notes) == undefined


@of_pictures
def test_a_model_that_ignores_its_input(metric):
    class Deaf(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3, dtype=x.dtype) + torch.tensor([0.3, 0.1, 0.2], dtype=x.dtype)

    case = Case("relu")
    found = metric(Deaf(), case.x, case.phi)
    assert len(found.values) == 3
    assert not np.isinf(found.values).any()


@of_pictures
def test_an_input_that_is_its_baseline(metric):
    case = Case("relu")
    found = metric(case.model, torch.zeros_like(case.x), case.phi)
    assert not np.isinf(found.values).any()
    if isinstance(metric, metrics.Infidelity):
        assert np.isnan(found.values).all()
        assert any("nothing of some examples was perturbed" in note for note in found.notes)
    if isinstance(metric, (metrics.Deletion, metrics.PixelFlipping)):
        assert (found.evaluations == 0).all()


@every
def test_one_number_for_each_example(metric):
    """A model without classes: its own number is what is watched."""
    model = nn.Sequential(mlp(5, 1, dtype=torch.float64), nn.Flatten(0))
    found = metric(model, rows(3, 5), rows(3, 5, seed=1).numpy())
    assert np.isfinite(found.values).all()
    if getattr(metric, "of", None) == "probability":
        assert any("stands in for a probability" in note for note in found.notes)


@of_pictures
def test_single_precision(metric):
    case = Case("pictures")
    found = metric(case.model.float(), case.x.float(), case.phi)
    close(numbers(found), numbers(Case("pictures").score(metric)), 2e-3)


class Viewing(nn.Module):
    """A model that needs its pictures in their own layout: `view` cannot take channels that lie last."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 4, 3), nn.Linear(144, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.convolution(x)).view(len(x), -1))


def test_a_model_that_needs_its_own_layout():
    """Another layout is tried where many forwards follow; what fails in it is run as it came."""
    from whence import chunk

    model = seeded(0, Viewing).eval()
    x, phi = rows(40, 1, 8, 8).float(), rows(40, 1, 8, 8, seed=1).numpy()
    metric = metrics.Deletion()
    found = [metric(model, x, phi).values for _ in range(12)]
    close(found[0], metric(model, x, phi, chunk=16).values, 1e-5)
    close(found[-1], found[0], 1e-5)
    assert any(each.rigid for each in chunk._remembered[model].values())


def test_the_layout_of_many_forwards_is_a_matter_of_speed():
    from whence import chunk

    case = Case("relu")
    found = [case.score(metrics.Infidelity(samples=300)).values for _ in range(6)]
    close(found[-1], found[0], 1e-9)
    searches = [each for chunks in chunk._remembered[case.model].values() for each in chunks.searches.items()]
    assert any(last and search.fastest for (_, last), search in searches)
    assert not any(each.rigid for each in chunk._remembered[case.model].values())


def test_evaluations_are_counted():
    class Counting(nn.Module):
        seen = 0

        def __init__(self):
            super().__init__()
            self.inner = mlp(6, dtype=torch.float64)

        def forward(self, x):
            Counting.seen += len(x)
            return self.inner(x)

    x, phi = rows(3, 6), rows(3, 6, seed=1).numpy()
    for metric in EVERY.values():
        Counting.seen = 0
        found = metric(Counting(), x, phi)
        # The outputs themselves, for the target and for the probability, and one that tells whether lots are drawn.
        assert 0 <= Counting.seen - found.evaluations.sum() <= 3 + 3 + 3 + 1, metric


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "error", "text"),
    [
        (metrics.Deletion(of="logit"), BadInput, "probability"),
        (metrics.Deletion(steps=0), BadInput, "steps"),
        (metrics.PixelFlipping(features_in_step=0), BadInput, "features_in_step"),
        (metrics.Infidelity("noise"), BadInput, "perturbation"),
        (metrics.Infidelity(3), BadInput, "perturbation"),
        (metrics.Infidelity(samples=1), BadInput, "samples"),
        (metrics.Infidelity(square(9)), Refused, "do not fit"),
        (metrics.Infidelity(gaussian(-1.0)), BadInput, "noise"),
        (metrics.Infidelity(lambda x, draws: x[:, :, :2]), BadInput, "like them"),
        (metrics.Infidelity(contributions=True, baseline=[0.0, 1.0]), Refused, "several"),
        (metrics.FaithfulnessCorrelation(size=37), Refused, "37"),
        (metrics.SensitivityN(sizes=()), BadInput, "sizes"),
        (metrics.ROAD(percentages=(0,)), BadInput, "percentages"),
        (metrics.ROAD(percentages=()), BadInput, "percentages"),
        (metrics.ROAD(order="first"), BadInput, "order"),
        (metrics.ROAD(of="all"), BadInput, "kept"),
        (metrics.Sufficiency(threshold=-1.0), BadInput, "threshold"),
        (metrics.Sufficiency(distance="near"), BadInput, "distance"),
    ],
    # A function's own name holds its place in memory.
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_settings_that_cannot_be_meant(metric, error, text):
    case = Case("relu")
    with pytest.raises(error, match=text):
        case.score(metric)


def test_tables_and_tokens_are_no_pictures():
    case = Case("table")
    for metric in (metrics.ROAD(), metrics.Infidelity("square")):
        with pytest.raises(Refused, match="picture"):
            case.score(metric)
    tokens = torch.randint(1, 5, (2, 4))

    def model(x):
        return torch.nn.functional.one_hot(x, 5).double().mean(1) ** 2

    phi = rows(2, 4).numpy()
    assert np.isfinite(metrics.Deletion()(model, tokens, phi, target=1).values).all()
    with pytest.raises(Refused, match="whole numbers"):
        metrics.Infidelity()(model, tokens, phi, target=1)


def test_names_of_perturbations():
    assert set(perturbations.NAMES) == {"gaussian", "square", "noisy_baseline"}
    case = Case("relu")
    for name, made in (("gaussian", gaussian()), ("square", square()), ("noisy_baseline", noisy_baseline())):
        close(*(case.score(metrics.Infidelity(each, samples=9)).values for each in (name, made)), 1e-12)
