"""Several explanations of one question: every metric says of each what it would have said alone, for fewer runs."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import whence
from models import cnn, pictures, seeded
from whence import metrics
from whence.errors import BadInput
from whence.metrics import metric as metric_module

METHODS = {"integrated_gradients": {"steps": 8}, "saliency": {}, "gradcam": {}, "random": {}}
FIELDS = {
    "sensitivity_n": {"sizes": (2, 5), "samples": 6},
    "smooth_mprt": {"samples": 3},
    "infidelity": {"samples": 30},
}
# What compares two networks or told pairs is asked of these alone.
ALONE = ("implementation_invariance", "symmetry", "linearity")
EVERY = [name for name in metrics.registered() if name not in ALONE]


def inputs():
    return pictures(4, dtype=torch.float64).abs()


def mask():
    found = np.zeros((6, 6))
    found[1:4, 2:5] = 1
    return found


def explanation(name, model):
    if name == "random":
        return None, metrics.RandomExplanation()
    method = whence.methods()[name].cls(**METHODS[name])
    return whence.explain(model, inputs(), method, target=1), method


def same(one, other):
    np.testing.assert_array_equal(one.values, other.values)
    assert one.notes == other.notes
    for name in ("standard_error", "curve", "places", "evaluations", "draws"):
        first, second = getattr(one, name), getattr(other, name)
        assert (first is None) == (second is None), name
        if first is not None:
            np.testing.assert_array_equal(first, second, err_msg=name)


@pytest.mark.parametrize("name", EVERY)
def test_beside_others_an_explanation_is_judged_as_alone(name):
    model, metric = cnn(dtype=torch.float64), metrics.build(name, FIELDS.get(name, {}))
    options = {"target": 1, "mask": mask(), "chunk": 16}
    with metrics.judged(model, inputs(), method=metrics.RandomExplanation(), **options) as question:
        for other in METHODS:
            result, method = explanation(other, model)
            try:
                alone = metric(model, inputs(), result, method=method, **options)
            except whence.Refused as problem:
                with pytest.raises(whence.Refused) as again:
                    metric.judge(question.beside(result, method=method))
                assert str(again.value) == str(problem)
                continue
            beside = question.beside(result, method=method)
            same(metric.judge(beside), alone)
            # Asked again of the same explanation too.
            same(metric.judge(beside), alone)


class Counting:
    """A black box that counts the rows that run through it."""

    def __init__(self) -> None:
        self.inner, self.count = cnn(dtype=torch.float64), 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.count += len(x)
        with torch.no_grad():
            return self.inner(torch.as_tensor(x)).numpy()


@pytest.mark.parametrize(
    "metric",
    [
        metrics.Infidelity(samples=40),
        metrics.Infidelity(samples=40, perturbation=metrics.perturbations.square(size=2), of="probability"),
        metrics.FaithfulnessCorrelation(samples=40),
        metrics.SensitivityN(sizes=(3, 9), samples=20),
    ],
    ids=["infidelity", "squares", "correlation", "sensitivity_n"],
)
def test_what_lots_have_changed_is_run_once(metric):
    model = Counting()
    with metrics.judged(
        model, inputs().numpy(), method=metrics.RandomExplanation(), target=1, chunk=16
    ) as question:
        runs = []
        for seed in range(3):
            beside = question.beside(method=metrics.RandomExplanation(seed))
            before = model.count
            metric.judge(beside)
            runs.append(model.count - before)
    assert runs[0] >= 100 and max(runs[1:]) <= 8


def test_settings_that_cannot_be_told_apart_are_worked_out_anew():
    model, baseline = cnn(dtype=torch.float64), torch.zeros(1, 6, 6, dtype=torch.float64)
    with metrics.judged(model, inputs(), method=metrics.RandomExplanation(), target=1) as question:
        first = metrics.FaithfulnessCorrelation(samples=9, baseline=baseline).judge(
            question.beside(method="saliency")
        )
        baseline += 1
        other = metrics.FaithfulnessCorrelation(samples=9, baseline=baseline).judge(
            question.beside(method="saliency")
        )
    assert (first.values != other.values).all()


def test_an_explanation_must_be_given():
    with (
        metrics.judged(cnn(), inputs().float(), method="saliency") as question,
        pytest.raises(BadInput, match="give the explanation"),
    ):
        question.beside()


def test_a_large_tensor_that_changes_is_seen():
    # PyTorch prints but a part of large tensors: two of them may look the same.
    model = seeded(0, lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2)))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    baseline = torch.zeros(3, 32, 32)
    metric = metrics.FaithfulnessCorrelation(samples=9, baseline=baseline)
    with metrics.judged(model, x, method="saliency", target=1) as question:
        first = metric.judge(question.beside(method="saliency"))
        baseline[:, 10:20, 10:20] = 5
        other = metric.judge(question.beside(method="saliency"))
    assert (first.values != other.values).all()


def test_an_explanation_of_another_class_is_refused():
    model = cnn(dtype=torch.float64)
    one, two = (whence.explain(model, inputs(), "saliency", target=target) for target in (1, 2))
    with metrics.judged(model, inputs(), one) as question, pytest.raises(BadInput, match="of class 2"):
        question.beside(two)
    with pytest.raises(BadInput, match="of class 2 and the question of class 0"):
        metrics.Sparseness()(model, inputs(), two, target=0)


def test_a_refused_metric_leaves_nothing_to_the_next():
    def refusing(model, x, targets):
        if next(calls) > 1:
            raise whence.Refused("no more")
        return np.zeros(tuple(x.shape))

    model, calls = cnn(dtype=torch.float64), iter(range(9))
    alone = metrics.Deletion(steps=4)(model, inputs(), inputs(), target=1)
    with metrics.judged(model, inputs(), inputs(), method=refusing, target=1) as question:
        with pytest.raises(whence.Refused):
            metrics.RelativeOutputStability(samples=4).judge(question)
            metrics.EfficientMPRT(draws=4).judge(question)
        same(metrics.Deletion(steps=4).judge(question), alone)


def test_each_metric_says_that_there_are_no_classes():
    def model(x):
        return (x**2).sum((1, 2, 3))

    with metrics.judged(model, inputs(), inputs()) as question:
        for _ in range(2):
            assert any("no classes" in note for note in metrics.Deletion(steps=4).judge(question).notes)


def test_an_unknown_error_of_draws_is_left_out():
    values = np.array([1.0, 2.0, 4.0])
    known = metrics.Score("mprt", values).error
    assert metrics.Score("mprt", values, draws=np.array([1.0, np.nan])).error == known
    assert metrics.Score("mprt", values, draws=np.array([1.0, 2.0])).error > known


def test_products_are_made_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("whence.metrics.reactions.NUMBERS", 100)
    model, shares = cnn(dtype=torch.float64), inputs()
    metric = metrics.Infidelity(samples=11)
    alone = metric(model, inputs(), shares, target=1)
    with metrics.judged(model, inputs(), 0 * shares, target=1) as question:
        metric.judge(question)
        same(metric.judge(question.beside(shares)), alone)


def test_infidelity_asks_the_method_what_its_numbers_mean():
    model, metric = cnn(dtype=torch.float64), metrics.Infidelity(samples=20)
    for name, contributions in (("integrated_gradients", True), ("saliency", False), ("random", True)):
        result, method = explanation(name, model)
        told = metrics.Infidelity(samples=20, contributions=contributions)
        options = {"method": method, "target": 1, "chunk": 16}
        asked, known = (each(model, inputs(), result, **options).values for each in (metric, told))
        np.testing.assert_array_equal(asked, known)
        other = metrics.Infidelity(samples=20, contributions=not contributions)(
            model, inputs(), result, **options
        )
        assert (other.values != known).all()


def test_a_metric_of_ones_own_counts_for_itself():
    @metrics.register("largest", "complexity", "max φ", "a test", better=None)
    @dataclass(frozen=True)
    class Largest(metrics.Metric):
        def scored(self, judged):
            judged.note("mine")
            judged.evaluations += 2
            return self.score(judged, judged.flat.max(1), evaluations=judged.evaluations)

    try:
        with metrics.judged(cnn(dtype=torch.float64), inputs(), inputs(), target=1) as question:
            for _ in range(2):
                score = Largest().judge(question)
                assert score.notes == ["mine"] and score.evaluations.tolist() == [2] * 4
    finally:
        metric_module._records.pop("largest")
