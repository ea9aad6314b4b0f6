"""Metrics of randomisation: equal to their papers' formulas, the same weights in every framework, no model touched."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import sys
import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

import oracles_metrics_other as twins
import whence
from models import assert_same, busy, cnn, mlp, pictures, seeded, state_of
from whence import metrics
from whence.backends.weights import weights_of
from whence.errors import BadInput, Refused, UnsupportedByBackend
from whence.metrics.defined import error_of_mean
from whence.metrics.similarity import structure

SAME = 1e-6
EVERY = {
    "mprt": metrics.MPRT(),
    "mprt, ssim": metrics.MPRT(order="independent", similarity="ssim"),
    "smooth": metrics.SmoothMPRT(samples=3, similarity="cosine"),
    "efficient": metrics.EfficientMPRT(bins=8),
    "logit": metrics.RandomLogit(),
}
every = pytest.mark.parametrize("metric", EVERY.values(), ids=EVERY)


def rows(*shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def stream(purpose, draw=0, seed=0):
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), draw))
    return np.random.Generator(np.random.Philox(sequence))


def redrawn(model, names, draw=0):
    """A model of its own with some parameters drawn anew, as the rule says."""
    import copy

    other = copy.deepcopy(model)
    own = dict(other.named_parameters())
    for name in names:
        values = own[name].detach().numpy()
        made = stream(f"parameter {name}", draw).normal(values.mean(), values.std(), values.shape)
        own[name].data = torch.as_tensor(made, dtype=own[name].dtype)
    return other


def gradient_times_input(model, x, target):
    leaf = x.clone().requires_grad_()
    model(leaf)[torch.arange(len(x)), target].sum().backward()
    return (leaf.grad * leaf).detach().numpy().reshape(len(x), -1)


HEAD, BODY = ("2.weight", "2.bias"), ("0.weight", "0.bias")
STAGES = {"top_down": (HEAD, HEAD + BODY), "bottom_up": (BODY, BODY + HEAD), "independent": (BODY, HEAD)}


@pytest.mark.parametrize("order", STAGES)
@pytest.mark.parametrize("similarity", ["spearman", "pearson", "cosine"])
def test_mprt_is_the_papers(order, similarity):
    model, x, target = mlp(dtype=torch.float64), rows(3, 6), [0, 1, 2]
    score = metrics.MPRT(order=order, similarity=similarity, draws=2)(
        model, x, method=whence.InputXGradient(), target=target
    )
    alike, before = getattr(twins, similarity), gradient_times_input(model, x, target)
    curves = np.array(
        [
            [
                list(map(alike, before, gradient_times_input(redrawn(model, names, draw), x, target)))
                for names in STAGES[order]
            ]
            for draw in range(2)
        ]
    )
    np.testing.assert_allclose(score.curve, curves.mean(0).T, rtol=SAME, atol=SAME)
    np.testing.assert_allclose(score.values, curves.mean((0, 1)), rtol=SAME, atol=SAME)
    spread = curves.mean(1).std(0, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(score.standard_error, spread, rtol=SAME, atol=SAME)
    assert score.places.tolist() == [1, 2] and score.evaluations.tolist() == [4, 4, 4]


def test_smooth_mprt_is_the_papers():
    model, x, target = mlp(dtype=torch.float64), rows(3, 6), [0, 1, 2]
    score = metrics.SmoothMPRT(samples=5, noise=0.3)(model, x, method=whence.InputXGradient(), target=target)

    def smooth(other):
        total = 0
        for draw in range(5):
            noise = 0.3 * np.ptp(x.numpy(), axis=1)[:, None] * stream("smooth 0", draw).normal(0, 1, 6)
            total = total + gradient_times_input(other, x + torch.as_tensor(noise), target)
        return total / 5

    before = smooth(model)
    steps = [smooth(redrawn(model, names)) for names in STAGES["top_down"]]
    slow = np.array([list(map(twins.spearman, before, each)) for each in steps])
    np.testing.assert_allclose(score.curve, slow.T, rtol=SAME, atol=SAME)


def test_efficient_mprt_is_the_papers():
    model, x, target = mlp(features=40, dtype=torch.float64), rows(3, 40), [0, 1, 2]
    score = metrics.EfficientMPRT(bins=7)(model, x, method=whence.InputXGradient(), target=target)
    one, two = (
        np.array([twins.histogram_entropy(each, 7) for each in gradient_times_input(m, x, target)])
        for m in (model, redrawn(model, HEAD + BODY))
    )
    np.testing.assert_allclose(score.values, (two - one) / one, rtol=SAME)


def test_the_random_logit_is_the_papers():
    model, x = mlp(classes=7, dtype=torch.float64), rows(4, 6)
    target = np.array([0, 3, 6, 6])
    steps = 1 + stream("other class").permutation(6)[:3]
    score = metrics.RandomLogit(samples=3, similarity="pearson")(
        model, x, method=whence.InputXGradient(), target=target
    )
    before = gradient_times_input(model, x, target)
    slow = np.array(
        [
            list(map(twins.pearson, before, gradient_times_input(model, x, (target + step) % 7)))
            for step in steps
        ]
    )
    np.testing.assert_allclose(score.values, slow.mean(0), rtol=SAME, atol=SAME)
    np.testing.assert_allclose(score.standard_error, slow.std(0, ddof=1) / np.sqrt(3), rtol=SAME)
    assert metrics.RandomLogit(samples=9)(model, x, method="saliency").standard_error is None


@pytest.mark.parametrize("sides", [(3, 4), (6, 6), (9, 7), (12, 15)])
def test_ssim_is_the_papers(sides):
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 3, sides[0] * sides[1]))
    two = one + 0.5 * two
    window = min(7, min(sides) - 1 + min(sides) % 2)
    for a, b, span in ((one, two, 2.0), (abs(one), abs(two), 1.0)):
        a, b = (each / abs(each).max(1, keepdims=True) for each in (a, b))
        slow = [
            twins.ssim(p.reshape(sides), q.reshape(sides), window, span) for p, q in zip(a, b, strict=True)
        ]
        np.testing.assert_allclose(structure(3 * a, 9 * b, sides), slow, rtol=SAME)
    np.testing.assert_allclose(structure(one, one, sides), 1)


def test_an_explanation_that_ignores_the_model_stays_the_same():
    def edges(model, z, target):
        return np.abs(np.asarray(z))

    for metric in (metrics.MPRT(), metrics.SmoothMPRT(samples=3), metrics.RandomLogit()):
        score = metric(cnn(), pictures(3), method=edges)
        np.testing.assert_allclose(score.values, 1)
    efficient = metrics.EfficientMPRT()(cnn(), pictures(3), method=edges)
    np.testing.assert_allclose(efficient.values, 0)


@every
def test_batch_mates_and_slices_change_nothing(metric, monkeypatch):
    model, x = cnn(dtype=torch.float64), pictures(4, dtype=torch.float64)
    options = {"method": whence.InputXGradient(), "target": [0, 1, 2, 0]}
    whole = metric(model, x, **options)
    alone = metric(model, x[2:3], method=whence.InputXGradient(), target=2)
    np.testing.assert_allclose(alone.values[0], whole.values[2], rtol=1e-9)
    from whence.metrics import perturbed

    monkeypatch.setattr(perturbed, "AGAIN", 5)
    monkeypatch.setattr(sys.modules["whence.metrics.judged"], "AGAIN", 3)
    np.testing.assert_allclose(metric(model, x, **options).values, whole.values, rtol=1e-9)


@every
def test_the_model_is_left_alone(metric):
    model = busy()
    x = seeded(0, lambda: torch.randn(3, 1, 6, 6))
    before = state_of(model, x)
    metric(model, x, method=whence.InputXGradient(), target=0)
    assert_same(before, state_of(model, x))

    def broken(*_):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        metric(model, x, np.ones((3, 1, 6, 6)), method=broken, target=0)
    assert_same(before, state_of(model, x))


def test_zero_and_constant_maps_are_not_defined():
    model, x = mlp(), rows(2, 6).float()
    for metric in (metrics.MPRT(), metrics.RandomLogit(), metrics.EfficientMPRT()):
        score = metric(model, x, np.ones((2, 6)), method=whence.Saliency())
        assert np.isnan(score.values).all() and len(score.notes) >= 1


# ---- new weights -------------------------------------------------------------------------------------------


def test_what_has_no_spread_is_left_out():
    score = metrics.MPRT()(cnn(), pictures(2), method="saliency")
    assert score.curve.shape == (2, 2) and "order in which they are drawn anew: 5, 0" in str(score.notes)
    plain = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).eval()
    score = metrics.MPRT()(plain, rows(2, 6).float(), method="saliency")
    assert score.curve.shape == (2, 2) and any("stay as they are" in note for note in score.notes)
    for each in plain[0].parameters():
        nn.init.zeros_(each)
    flat = nn.Sequential(plain[0])
    with pytest.raises(Refused, match="no parameter of the model has a spread"):
        metrics.MPRT()(flat, rows(2, 6).float(), np.ones((2, 6)), method="saliency")


def test_recurrent_and_tied_weights_are_replaced_everywhere():
    lstm = seeded(0, lambda: nn.LSTM(4, 3, batch_first=True))
    other = weights_of(lstm).replaced({"weight_ih_l0": np.zeros((12, 4))})
    assert other._flat_weights[0].abs().sum() == 0 and lstm.weight_ih_l0.abs().sum() > 0
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    found = weights_of(tied)
    assert list(found.arrays) == ["0.weight", "0.bias", "1.bias"]
    other = found.replaced({"0.weight": np.zeros((4, 4))})
    assert other[1].weight is other[0].weight and other[0].weight.abs().sum() == 0


def test_the_same_weights_change_nothing():
    model, x = cnn(), pictures(3)
    found = weights_of(model)
    assert torch.equal(found.replaced(found.arrays)(x), model(x))
    assert torch.equal(found.replaced({})(x), model(x))


@pytest.mark.parametrize("module", ["onnx"])
def test_a_file_is_given_the_same_weights_as_its_module(module, tmp_path):
    onnx = pytest.importorskip(module)
    from onnx import TensorProto, helper, numpy_helper

    model, x = mlp(), rows(3, 6).float()
    tensors = {name: each.detach().numpy() for name, each in model.named_parameters()}
    nodes = [
        helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["a"], transB=1),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "2.weight", "2.bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "mlp", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(each, name) for name, each in tensors.items()],
    )  # fmt: skip
    path = tmp_path / "mlp.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    size = path.stat().st_size, path.read_bytes()
    method = whence.InputXGradient()
    for metric in (metrics.MPRT(similarity="cosine"), metrics.EfficientMPRT(bins=4)):
        of_file, of_module = metric(str(path), x.numpy(), method=method), metric(model, x, method=method)
        np.testing.assert_allclose(of_file.values, of_module.values, rtol=1e-4, atol=1e-6)
    assert (path.stat().st_size, path.read_bytes()) == size


def test_what_cannot_be_given_other_weights():
    x = rows(2, 6)
    model = mlp(dtype=torch.float64)
    for other, given in (
        (lambda z: model(z) + 0, x), (lambda z: np.asarray(z)[:, :3], x.numpy()), (torch.jit.script(model), x),
    ):  # fmt: skip
        with pytest.raises(UnsupportedByBackend, match="cannot be replaced"):
            metrics.MPRT()(other, given, np.ones((2, 6)), method=lambda m, z, t: np.ones((2, 6)))


def test_refusals():
    x = rows(2, 6)
    for make in (
        lambda: metrics.MPRT(order="sideways"), lambda: metrics.MPRT(similarity="dice"), lambda: metrics.MPRT(draws=0),
        lambda: metrics.SmoothMPRT(samples=0), lambda: metrics.SmoothMPRT(noise=-1),
        lambda: metrics.EfficientMPRT(bins=1), lambda: metrics.RandomLogit(samples=0),
    ):  # fmt: skip
        with pytest.raises(BadInput):
            make()
    with pytest.raises(Refused, match="pictures"):
        metrics.MPRT(similarity="ssim")(mlp(dtype=torch.float64), x, method="saliency")
    with pytest.raises(Refused, match="classes"):
        metrics.RandomLogit()(lambda z: z.sum(1), x, method="saliency")
    with pytest.raises(Refused, match="classes"):
        metrics.RandomLogit()(
            mlp(dtype=torch.float64), x, method="saliency", target=whence.target.margin(0, 1)
        )


def test_draws_that_are_not_defined_count_in_no_error():
    values = np.array([[1.0, 2.0, 4.0], [1.0, np.nan, 3.0], [1.0, np.nan, np.nan]])
    known = values[0].std(ddof=1) / np.sqrt(3), values[1, [0, 2]].std(ddof=1) / np.sqrt(2), np.nan
    np.testing.assert_allclose(error_of_mean(values, 1), known)


@pytest.mark.parametrize(
    ("several", "one"),
    [
        (metrics.MPRT(draws=4), metrics.MPRT()),
        (metrics.EfficientMPRT(draws=4, bins=8), metrics.EfficientMPRT(bins=8)),
        (metrics.RandomLogit(samples=4), metrics.RandomLogit()),
    ],
    ids=["mprt", "efficient", "logit"],
)
def test_the_error_holds_what_a_draw_does_to_all_examples(several, one):
    # Pictures that are nearly the same: what differs between draws is nearly the whole error.
    x = rows(1, 30) + 1e-3 * rows(6, 30, seed=1)
    model, options = mlp(features=30, classes=9, dtype=torch.float64), {"method": whence.InputXGradient()}
    score = several(model, x, target=1, **options)
    assert score.draws.shape == (4,)
    np.testing.assert_allclose(score.draws.mean(), score.mean, rtol=SAME)
    within, between = (each.std(ddof=1) / np.sqrt(len(each)) for each in (score.values, score.draws))
    np.testing.assert_allclose(score.error, np.hypot(within, between), rtol=SAME)
    assert between > 5 * within
    assert one(model, x, target=1, **options).draws is None
