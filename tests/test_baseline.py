# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

import whence
from whence import baseline, path, target
from whence.backends.torch import TorchBackend
from whence.baseline import Constant, Given, Pixel, Several
from whence.chunk import Chunks
from whence.errors import BadInput, Refused
from whence.problem import Problem
from whence.run import Run
from whence.structure import unpack

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def close(values, wanted, tolerance=1e-12):
    wanted = torch.as_tensor(wanted, dtype=F64)
    assert torch.allclose(torch.as_tensor(values), wanted, rtol=tolerance, atol=tolerance), (values, wanted)


def problem_of(inputs, seed=0, **fields):
    """Return a problem that has inputs and no model: enough for most baselines."""
    structure, arrays = unpack(inputs)
    run = Run(TorchBackend(), None, structure, Chunks(), len(arrays[0]), seed=seed, **fields)
    return Problem(run, tuple(arrays), np.arange(len(arrays[0])))


def starts(kind, inputs, **fields):
    """Return every starting point of a single input, [draws, B, ...]."""
    problem = problem_of(inputs, **fields)
    kind = baseline.resolve(kind, problem.run.pictures)
    return torch.stack([kind.start(problem, draw)[0].expand(inputs.shape) for draw in range(kind.draws)])


# ---- values of each kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [0.5, baseline.constant(0.5), np.float32(0.5), Constant(0.5)])
def test_a_number_is_the_same_everywhere(spec):
    close(starts(spec, normal(2, 3)), torch.full((1, 2, 3), 0.5))


def test_nothing_is_zero_for_numbers_and_black_for_pictures():
    assert baseline.resolve(None, pictures=False) == Constant(0.0)
    assert baseline.resolve(None, pictures=True) == Pixel("black", 0.0)


@pytest.mark.parametrize("name", sorted(baseline.NAMES))
def test_every_name_is_its_baseline_with_its_defaults(name):
    assert baseline.resolve(name, True) == baseline.NAMES[name]()


@pytest.mark.parametrize(("make", "level"), [(baseline.black, 0.0), (baseline.white, 1.0)])
def test_black_and_white_are_pixels(make, level):
    close(
        starts(make(), torch.rand(2, 3, 4, 4, dtype=F64), preprocess=whence.Preprocess()), torch.tensor(level)
    )


@pytest.mark.parametrize("make", [baseline.black, baseline.white])
def test_black_and_white_mean_nothing_without_pictures(make):
    with pytest.raises(Refused, match="named in pixels"):
        starts(make(), normal(2, 3))


def test_the_mean_is_each_examples_own():
    x = normal(2, 5)
    close(starts(baseline.mean(), x)[0], x.mean(1, keepdim=True).expand(2, 5))


def test_the_mean_of_a_picture_is_per_channel():
    x = normal(2, 3, 4, 5)
    close(starts(baseline.mean(), x)[0], x.mean((2, 3), keepdim=True).expand(x.shape))


def test_the_mean_of_a_picture_with_channels_last_is_per_channel():
    x = normal(2, 4, 5, 3)
    close(starts(baseline.mean(), x, channels_last=True)[0], x.mean((1, 2), keepdim=True).expand(x.shape))


def test_the_blurred_baseline_is_the_blurred_picture():
    from oracles import heat_matrix

    x = normal(2, 3, 6, 7)
    dense = np.einsum("ij,bcjk,lk->bcil", heat_matrix(6, 1.5), x.numpy(), heat_matrix(7, 1.5))
    close(starts(baseline.blur(1.5), x)[0], dense, 1e-10)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("low", "high"), [(-2.0, 5.0), (0.0, 1.0)])
def test_uniform_noise_fills_its_range_and_no_more(low, high, batch):
    drawn = starts(baseline.uniform(60, low, high), normal(batch, 40))
    assert drawn.shape == (60, batch, 40)
    assert low <= float(drawn.min()) < low + 0.02 * (high - low)
    assert high >= float(drawn.max()) > high - 0.02 * (high - low)
    assert float(drawn.mean()) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))


def test_uniform_noise_fills_each_examples_own_range_by_default():
    x = torch.tensor([[0.0, 1.0, 0.3], [-100.0, 100.0, 5.0]], dtype=F64)
    drawn = starts(baseline.uniform(300), x)
    for row, (low, high) in enumerate([(0, 1), (-100, 100)]):
        assert low <= float(drawn[:, row].min()) and float(drawn[:, row].max()) <= high
        assert float(drawn[:, row].std()) == pytest.approx((high - low) / np.sqrt(12), rel=0.1)


def test_uniform_noise_fills_the_range_of_pixels_for_pictures():
    drawn = starts(baseline.uniform(50), torch.full((1, 3, 4, 4), 0.5), preprocess=whence.Preprocess())
    assert 0 <= float(drawn.min()) < 0.05 and 0.95 < float(drawn.max()) <= 1


def test_gaussian_noise_is_relative_to_each_examples_range():
    x = torch.tensor([[0.0, 1.0, 0.3], [-100.0, 100.0, 5.0]], dtype=F64)
    drawn = starts(baseline.gaussian(800, noise=0.5), x)
    close(drawn.mean(0) / torch.tensor([[1.0], [200.0]]), x / torch.tensor([[1.0], [200.0]]), 0.08)
    close(drawn.std(0), torch.tensor([[0.5] * 3, [100.0] * 3]), 0.1)


@pytest.mark.parametrize(
    "kind", [baseline.uniform(3), baseline.gaussian(3), baseline.dataset(np.arange(40.0).reshape(20, 2), 3)]
)
def test_noise_depends_on_the_seed_alone(kind):
    x = normal(2, 2)
    one, same, other = (starts(kind, x, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    "kind", [baseline.uniform(3), baseline.gaussian(3), baseline.mean(), baseline.opposite()]
)
def test_a_baseline_does_not_depend_on_batch_mates(kind):
    x = normal(3, 4)
    close(starts(kind, x)[:, 2:], starts(kind, x[2:]))


def test_a_data_set_gives_every_row_once():
    rows = normal(7, 3)
    close(starts(baseline.dataset(rows), normal(2, 3, seed=1))[:, 0], rows)


def test_samples_of_a_data_set_are_drawn_without_replacement():
    rows = torch.arange(20, dtype=F64)[:, None]
    drawn = starts(baseline.dataset(rows, samples=8), normal(2, 1))
    assert len(torch.unique(drawn[:, 0])) == 8 and torch.equal(drawn[:, 0], drawn[:, 1])


def test_more_samples_than_rows_are_all_rows():
    rows = torch.arange(4, dtype=F64)[:, None]
    drawn = starts(baseline.dataset(rows, samples=99), normal(1, 1))
    assert sorted(drawn[:, 0, 0].tolist()) == [0, 1, 2, 3]


def test_rows_of_another_shape_are_refused():
    with pytest.raises(BadInput, match="its rows are"):
        starts(baseline.dataset(normal(5, 4)), normal(2, 3))


def test_the_opposite_of_light_is_dark():
    x = torch.tensor([[[0.9, 0.1, 0.5, 1.0]]], dtype=F64)
    close(starts(baseline.opposite(), x, preprocess=whence.Preprocess())[0], [[[0, 1, 1, 0]]])


def test_the_opposite_is_within_each_examples_own_range():
    x = torch.tensor([[2.0, 8.0, 4.0], [-1.0, 1.0, 0.5]], dtype=F64)
    close(starts(baseline.opposite(), x)[0], [[8, 2, 8], [1, -1, -1]])


def test_the_opposite_within_given_limits():
    close(starts(baseline.opposite(-1, 3), torch.tensor([[0.0, 2.0]], dtype=F64))[0], [[3, -1]])


def test_several_are_one_after_the_other():
    x = normal(2, 3)
    drawn = starts([0.0, baseline.uniform(2), 7.0], x)
    assert len(drawn) == 4
    close(drawn[0], torch.zeros(2, 3))
    close(drawn[1:3], starts(baseline.uniform(2), x))
    close(drawn[3], torch.full((2, 3), 7.0))


# ---- the user's own arrays ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 4), (1, 3, 4), (4,), (3, 1), (1, 1, 1)])
def test_arrays_of_the_inputs_shape_or_one_examples_are_taken(shape):
    given = normal(*shape, seed=5)
    close(starts(given, normal(2, 3, 4))[0], given.expand(2, 3, 4))


@pytest.mark.parametrize("shape", [(3, 3, 4), (4, 3), (2,), (1, 1, 1, 1)])
def test_arrays_of_another_shape_are_refused(shape):
    with pytest.raises(BadInput, match="the baseline has shape"):
        starts(normal(*shape), normal(2, 3, 4))


def test_numpy_arrays_are_taken():
    close(starts(np.arange(3.0), normal(2, 3))[0], [[0, 1, 2]] * 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((np.zeros(3),), "1 arrays and the inputs 2"),
        (np.zeros(3), "1 arrays and the inputs 2"),
        ((np.zeros(3), np.zeros(2), np.zeros(2)), "3 arrays"),
    ],
)
def test_one_array_for_each_input(given, words):
    with pytest.raises(BadInput, match=words):
        whence.explain(lambda a, b: a.sum(1) + b.sum(1), (normal(1, 3), normal(1, 2)), baseline=given)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_baseline_that_is_not_finite_is_refused(value):
    with pytest.raises(BadInput, match="NaN or infinity"):
        whence.explain(lambda x: x.sum(1), normal(2, 3), baseline=value)


@pytest.mark.parametrize(("spec", "words"), [(True, "baseline is True"), ("blak", "did you mean 'black'")])
def test_what_is_no_baseline_is_refused(spec, words):
    with pytest.raises(BadInput, match=words):
        baseline.resolve(spec, True)


@pytest.mark.parametrize(
    "make", [lambda: baseline.blur(0), lambda: baseline.uniform(0), lambda: baseline.gaussian(-1),
             lambda: baseline.dataset(np.zeros((3, 2)), 0), lambda: baseline.boundary(iterations=0)],
)  # fmt: skip
def test_counts_and_widths_are_above_zero(make):
    with pytest.raises(BadInput, match=r"at least 1|above 0"):
        make()


# ---- through the preprocessing -----------------------------------------------------------------------------

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Nothing(nn.Module):
    """A smooth function of a normalised picture, [B, 3, h, w]."""

    def forward(self, x):
        weights = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).reshape(x.shape[1:])
        return torch.tanh((x * weights).flatten(1)).sum(1)


@pytest.mark.parametrize("name", ["black", "white"])
def test_black_in_pixels_is_the_normalised_black_of_the_model(name):
    picture = np.random.default_rng(0).random((2, 5, 4, 3))
    mean, std = (np.array(each)[:, None, None] for each in (MEAN, STD))
    level = {"black": 0.0, "white": 1.0}[name]
    pixels = whence.explain(
        Nothing().double(), picture, baseline=name, steps=20, preprocess=whence.Preprocess(mean=MEAN, std=STD)
    )
    normalised = (np.moveaxis(picture, -1, 1) - mean) / std
    by_hand = whence.explain(
        Nothing().double(),
        normalised,
        baseline=np.broadcast_to((level - mean) / std, (3, 5, 4)).copy(),
        steps=20,
    )
    assert np.allclose(np.moveaxis(pixels.values, -1, 1), by_hand.values, atol=1e-6)
    assert np.allclose(pixels.baseline_output, by_hand.baseline_output, atol=1e-6)


def test_black_is_not_the_grey_of_a_zero_in_normalised_space():
    picture = np.random.default_rng(0).random((1, 5, 4, 3))
    preprocess = whence.Preprocess(mean=MEAN, std=STD)
    black = whence.explain(Nothing(), picture, baseline="black", steps=5, preprocess=preprocess)
    grey = whence.explain(
        Nothing(), picture, baseline=np.broadcast_to(MEAN, (5, 4, 3)), steps=5, preprocess=preprocess
    )
    assert not np.allclose(black.values, grey.values, atol=1e-2)
    assert float(grey.baseline_output[0]) == pytest.approx(0, abs=1e-5)


# ---- the nearest decision boundary -------------------------------------------------------------------------


def boundary_of(model, x, **fields):
    """Return the point on the boundary: the path's start, seen through a linear path's values."""
    points = []

    def watched(x):
        points.append(x.detach().clone())
        return model(x)

    result = whence.explain(
        watched, x, baseline=baseline.boundary(**fields), steps=1, target=target.margin(), chunk=64
    )
    # The last things that are run are f at the start, and the one gradient.
    return points[-2], result


def test_on_a_linear_two_class_model_it_is_the_analytic_nearest_point():
    W, c, x = normal(2, 5), normal(2, seed=1), normal(6, 5, seed=2)
    points, _ = boundary_of(lambda x: x @ W.T + c, x)
    w, b = W[0] - W[1], c[0] - c[1]
    nearest = x - ((x @ w + b) / (w @ w))[:, None] * w
    close(points, nearest, 1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_on_a_linear_model_of_many_classes_it_is_the_nearest_of_all_boundaries(seed):
    # Classes of very different steepness: the smallest margin is not the nearest boundary.
    steepness = torch.exp(1.5 * normal(6, 1, seed=seed + 100))
    W, x = normal(6, 5, seed=seed) * steepness, normal(4, 5, seed=seed + 50)
    points, _ = boundary_of(lambda x: x @ W.T, x)
    for row, point in zip(x, points, strict=True):
        top = int((W @ row).argmax())
        distances = [(W[top] - W[k]) @ row / (W[top] - W[k]).norm() for k in range(6) if k != top]
        assert float((point - row).norm()) == pytest.approx(float(min(distances)), rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_at_the_boundary_two_classes_tie(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    points, _ = boundary_of(net, normal(5, 6, seed=seed))
    best, second = net(points).detach().topk(2).values.T
    assert float((best - second).abs().max()) < 1e-4


def test_the_top_class_of_the_input_is_one_of_the_two():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double(), normal(5, 6)
    points, _ = boundary_of(net, x)
    top = net(x).argmax(1)
    y = net(points).detach()
    assert float((y.amax(1) - y[range(5), top]).abs().max()) < 1e-4


def test_a_chosen_class_is_the_other():
    W, x = normal(6, 5), normal(4, 5, seed=2)
    points, _ = boundary_of(lambda x: x @ W.T, x, other=3)
    for row, point in zip(x, points, strict=True):
        order = (W @ row).argsort(descending=True).tolist()
        rival = 3 if order[0] != 3 else order[1]
        assert float((W @ point)[order[0]] - (W @ point)[rival]) == pytest.approx(0, abs=1e-6)


def test_the_margin_at_the_boundary_is_zero_so_that_all_of_it_is_explained():
    W, x = normal(2, 5), normal(3, 5, seed=2)
    result = whence.explain(lambda x: x @ W.T, x, baseline="boundary", target=target.margin())
    close(result.baseline_output, torch.zeros(3), 1e-6)
    close(result.values.sum(1), result.output, 1e-6)


def test_a_model_that_never_changes_its_mind_is_refused():
    with pytest.raises(Refused, match="no other class was reached"):
        whence.explain(
            lambda x: torch.stack([x.sum(1) * 0 + 1, x.sum(1) * 0], 1), normal(2, 3), baseline="boundary"
        )


@pytest.mark.parametrize("other", [7, -1])
def test_a_class_that_is_not_there_is_refused(other):
    with pytest.raises((Refused, BadInput), match="out of range"):
        whence.explain(nn.Linear(3, 2).double(), normal(2, 3), baseline=baseline.boundary(other=other))


def test_one_column_has_no_other_class():
    with pytest.raises(Refused, match="two classes"):
        whence.explain(nn.Linear(3, 1).double(), normal(2, 3), baseline="boundary")


# ---- methods as values -------------------------------------------------------------------------------------

SETTINGS = {
    "defaults": whence.IntegratedGradients,
    "numbers": lambda: whence.IntegratedGradients(baseline=0.5, rtol=0.01, max_evaluations=77),
    "baseline": lambda: whence.IntegratedGradients(baseline=baseline.uniform(5, 0.0, 1.0)),
    "named": lambda: whence.IntegratedGradients(baseline="black", path="stochastic", quadrature="left", steps=3),
    "path": lambda: whence.IntegratedGradients(path=path.stochastic(4, 0.2)),
    "several": lambda: whence.IntegratedGradients(baseline=[0.0, 1.0, baseline.mean()]),
    "blur": lambda: whence.BlurIntegratedGradients(sigma=3.0),
    "guided": lambda: whence.GuidedIntegratedGradients(steps=30, deviation=0.1),
    "guided to a tolerance": lambda: whence.GuidedIntegratedGradients(rtol=0.02),
    "saliency": lambda: whence.Saliency(absolute=False),
    "sensitivity": lambda: whence.Sensitivity(step=0.1),
    "nested": lambda: whence.SmoothGrad(method=whence.IntegratedGradients(baseline=1.0), samples=7, noise=0.3),
    "vargrad": lambda: whence.VarGrad(samples=5),
}  # fmt: skip
NAMESPACE = {name: getattr(whence, name) for name in whence.__all__} | {
    name: value
    for module in (baseline, path)
    for name, value in vars(module).items()
    if isinstance(value, type)
}


@pytest.mark.parametrize("name", SETTINGS)
def test_equal_settings_are_equal_and_hash_alike(name):
    one, same = SETTINGS[name](), SETTINGS[name]()
    assert one == same and hash(one) == hash(same) and len({one, same}) == 1


@pytest.mark.parametrize("name", SETTINGS)
def test_the_printed_settings_make_the_method_again(name):
    method = SETTINGS[name]()
    assert eval(repr(method), NAMESPACE) == method


def test_different_settings_are_different():
    assert len({make() for make in SETTINGS.values()}) == len(SETTINGS)


def test_the_same_settings_of_another_method_are_different():
    assert whence.SmoothGrad(method=whence.Saliency()) != whence.VarGrad(method=whence.Saliency())


@pytest.mark.parametrize(
    "array", [np.zeros(3), torch.zeros(3), [np.zeros(3), 1.0], (np.zeros(3), np.zeros(2))], ids=str
)
def test_methods_that_hold_arrays_can_be_hashed_and_compared(array):
    one = whence.IntegratedGradients(baseline=array)
    assert hash(one) == hash(whence.IntegratedGradients(baseline=array))
    assert one == whence.IntegratedGradients(baseline=array)
    assert one != whence.IntegratedGradients(baseline=0.0)


def test_equal_arrays_that_are_not_the_same_are_not_assumed_equal():
    assert whence.IntegratedGradients(baseline=np.zeros(3)) != whence.IntegratedGradients(
        baseline=np.zeros(3)
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_methods_are_frozen(name):
    with pytest.raises(AttributeError):
        SETTINGS[name]().samples = 3


BASELINES = [
    *(Constant(1.0), Pixel("black", 0.0), baseline.uniform(), baseline.mean(), baseline.boundary()),
    *(Given(np.zeros(3)), Several((Constant(1.0),)), baseline.dataset(np.zeros((2, 3)))),
]


@pytest.mark.parametrize("each", BASELINES, ids=repr)
def test_baselines_can_be_hashed(each):
    assert hash(each) == hash(each) and each == each
