# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest

from oracles import blurred, guided_walk, heat_matrix, midpoint_ig, relative_error

torch = pytest.importorskip("torch")

import whence
from whence import path
from whence.backends.torch import TorchBackend
from whence.chunk import Chunks
from whence.errors import BadInput, Refused
from whence.problem import Problem
from whence.run import Run
from whence.structure import unpack

F64 = torch.float64
PATHS = {"straight": path.straight(), "blur": path.blur(2.0), "stochastic": path.stochastic(noise=0.3)}


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def close(values, wanted, tolerance=1e-12):
    wanted = torch.as_tensor(wanted, dtype=F64)
    assert torch.allclose(torch.as_tensor(values), wanted, rtol=tolerance, atol=tolerance), (values, wanted)


def problem_of(*leaves, channels_last=False):
    """Return a problem that has inputs and no model: enough for a path."""
    structure, arrays = unpack(tuple(leaves))
    run = Run(TorchBackend(), None, structure, Chunks(), len(leaves[0]), channels_last=channels_last)
    return Problem(run, tuple(arrays), np.arange(len(leaves[0])))


def curve(kind, problem, baseline=None, draw=0):
    """Return the function α -> points and velocities of the first example."""
    baseline = tuple(leaf * 0 + 0.25 for leaf in problem.point) if baseline is None else baseline
    points = kind.between(problem, kind.start(problem, baseline), draw)

    def at(*alpha):
        alpha = np.array(alpha, dtype=float)
        return points(alpha, np.zeros(len(alpha), dtype=int), np.arange(len(alpha)))

    return at


# ---- every path that is known in advance -------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_paths_end_at_the_input(name):
    problem = problem_of(normal(2, 3, 6, 5), normal(2, 4, 4, seed=1))
    for end, leaf in zip(curve(PATHS[name], problem)(1.0)[0], problem.inputs, strict=True):
        close(end[0], leaf[0])


@pytest.mark.parametrize("name", PATHS)
def test_paths_begin_where_they_say(name):
    problem = problem_of(normal(2, 3, 6, 5))
    baseline = (normal(2, 3, 6, 5, seed=3),)
    begin = curve(PATHS[name], problem, baseline)(0.0)[0][0][0]
    close(begin, PATHS[name].start(problem, baseline)[0][0])


@pytest.mark.parametrize("alpha", [0.05, 0.37, 0.8, 0.99])
@pytest.mark.parametrize("name", PATHS)
def test_the_velocity_is_the_derivative_of_the_points(name, alpha):
    at, step = curve(PATHS[name], problem_of(normal(1, 3, 6, 5), normal(1, 4, 4, seed=1))), 1e-5
    ahead, behind, here = at(alpha + step)[0], at(alpha - step)[0], at(alpha)[1]
    for one, two, velocity in zip(ahead, behind, here, strict=True):
        close(velocity, (one - two) / (2 * step), 1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_each_example_walks_its_own_path(name):
    x = normal(3, 1, 6, 5)
    together = PATHS[name].between(problem_of(x), (x * 0,), 0)
    alone = PATHS[name].between(problem_of(x[2:]), (x[2:] * 0,), 0)
    alpha = np.array([0.2, 0.9])
    close(
        together(alpha, np.array([2, 2]), np.arange(2))[0][0],
        alone(alpha, np.zeros(2, int), np.arange(2))[0][0],
    )


def cubic(x):
    flat = x.flatten(1)
    return torch.tanh(flat).sum(1) + (flat[:, :3].prod(1))


@pytest.mark.parametrize("fields", [{}, {"path": "blur"}, {"path": "stochastic"}, {"path": path.blur(3.0)}])
def test_every_path_is_complete(fields):
    result = whence.explain(cubic, normal(2, 1, 6, 5), steps=60, **fields)
    assert float(result.residual.abs().max()) < 1e-8


# ---- straight ----------------------------------------------------------------------------------------------


def test_the_straight_line_is_a_straight_line():
    problem, start = problem_of(normal(1, 4)), (normal(1, 4, seed=2),)
    where, velocity = curve(path.straight(), problem, start)(0.25)
    close(where[0], 0.75 * start[0] + 0.25 * problem.inputs[0])
    close(velocity[0], problem.inputs[0] - start[0])


# ---- stochastic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", range(4))
def test_each_trajectory_is_complete_by_itself(draw):
    x = normal(2, 5)

    class Alone(path.Stochastic):
        def between(self, problem, start, _):
            return super().between(problem, start, draw)

    result = whence.explain(cubic, x, path=Alone(1, 0.2), steps=60)
    assert float(result.residual.abs().max()) < 1e-8


def test_trajectories_differ_between_draws_and_not_between_calls():
    problem = problem_of(normal(1, 5))
    one, same, other = (curve(path.stochastic(), problem, draw=draw)(0.5)[0][0] for draw in (0, 0, 1))
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_the_noise_is_relative_to_the_range_of_the_example():
    x = normal(1, 5)

    def sway(x):
        line = 0.5 * x
        return curve(path.stochastic(), problem_of(x), (x * 0,))(0.5)[0][0] - line

    close(sway(x * 7), 7 * sway(x))


def test_the_mean_sway_is_zero_and_its_variance_that_of_a_bridge():
    # A Brownian bridge has variance α(1 − α); four terms of its series hold nine tenths of it in the middle.
    x = torch.tensor([[0.0, 1.0]], dtype=F64)
    problem, kind = problem_of(x), path.stochastic(noise=1.0)
    sways = torch.stack(
        [curve(kind, problem, (x * 0,), draw)(0.5)[0][0][0] - 0.5 * x[0] for draw in range(800)]
    )
    terms = sum(2 * np.sin(k * np.pi / 2) ** 2 / (k * np.pi) ** 2 for k in range(1, 5))
    assert float(sways.mean().abs()) < 0.05
    assert float(sways.var()) == pytest.approx(terms, rel=0.1)
    assert terms == pytest.approx(0.25, rel=0.1)


def test_stochastic_attributions_approach_the_straight_ones_as_the_noise_falls():
    x = normal(2, 5)
    straight = whence.explain(cubic, x, steps=40).values
    away = [
        relative_error(
            whence.explain(cubic, x, path=path.stochastic(4, noise), steps=40).values, straight
        ).max()
        for noise in (0.2, 0.02, 0.0)
    ]
    assert away[1] < 0.2 * away[0] and away[2] < 1e-12


def test_stochastic_attributions_carry_a_standard_error():
    x = normal(1, 5)
    runs = [
        whence.explain(cubic, x, path=path.stochastic(10, 0.2), steps=30, seed=seed) for seed in range(12)
    ]
    truth = torch.stack([run.values for run in runs]).mean(0)
    # The other two features stand alone in the function: every path gives them the same.
    z = torch.cat([((run.values - truth) / run.standard_error)[:, :3] for run in runs])
    assert 0.5 < float(z.std()) < 1.6
    assert runs[0].evaluations.tolist() == [300]


# ---- blur --------------------------------------------------------------------------------------------------


def blur_once(picture, sigma, channels_last=False):
    problem = problem_of(torch.as_tensor(picture), channels_last=channels_last)
    return path.Blur(sigma).start(problem, ())[0].numpy()


@pytest.mark.parametrize("sigma", [1.5, 2.5, 6.0])
def test_the_blur_is_scipys_gaussian(sigma, generator):
    picture = generator.random((2, 3, 24, 31))
    assert np.abs(blur_once(picture, sigma) - blurred(picture, sigma)).max() < 1e-3


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0, 30.0])
def test_the_blur_is_the_heat_equation(sigma, generator):
    picture = generator.random((1, 2, 9, 12))
    dense = heat_matrix(9, sigma) @ picture @ heat_matrix(12, sigma).T
    assert np.abs(blur_once(picture, sigma) - dense).max() < 1e-10


def test_the_blur_keeps_the_mean(generator):
    picture = generator.random((2, 3, 8, 7))
    assert np.allclose(blur_once(picture, 2.0).mean((2, 3)), picture.mean((2, 3)), atol=1e-14)


def test_the_widest_blur_is_the_mean(generator):
    picture = generator.random((1, 1, 8, 7))
    assert np.abs(blur_once(picture, 500.0) - picture.mean()).max() < 1e-12


def test_blurs_with_channels_last_blur_the_same_axes(generator):
    picture = generator.random((2, 8, 7, 3))
    first = blur_once(np.moveaxis(picture, -1, 1).copy(), 1.5)
    assert np.allclose(np.moveaxis(blur_once(picture, 1.5, channels_last=True), -1, 1), first)


def test_the_default_width_is_a_quarter_of_the_longer_side(generator):
    picture = generator.random((1, 1, 8, 12))
    assert np.allclose(blur_once(picture, None), blur_once(picture, 3.0))


def test_blur_integrated_gradients_count_from_the_blurred_picture(generator):
    picture = generator.random((2, 1, 8, 9))
    result = whence.explain(cubic, torch.tensor(picture), "blur_integrated_gradients", sigma=2.0, steps=40)
    close(result.baseline_output, cubic(torch.tensor(blur_once(picture, 2.0))))
    assert float(result.residual.abs().max()) < 1e-8


def test_blur_integrated_gradients_equal_a_fine_sum_over_scales(generator):
    # Σ ∇f(middle) ⊙ (step), over a thousand pictures blurred by the dense heat matrix.
    picture = generator.random((1, 1, 6, 5))
    sigmas = 1.5 * np.linspace(1, 0, 1001)
    stack = np.stack([heat_matrix(6, s) @ picture[0, 0] @ heat_matrix(5, s).T for s in sigmas])
    middle = torch.tensor((stack[1:] + stack[:-1]) / 2, requires_grad=True)
    slopes = torch.autograd.grad(cubic(middle).sum(), middle)[0].numpy()
    result = whence.explain(cubic, torch.tensor(picture), "blur_integrated_gradients", sigma=1.5, steps=50)
    assert np.abs((slopes * np.diff(stack, axis=0)).sum(0) - result.values[0, 0].numpy()).max() < 1e-5


def test_each_picture_of_a_batch_is_blurred_by_its_own_nodes():
    # PEERS.md 24: one step width for a whole batch is 49 % off.
    x = normal(3, 1, 6, 5)
    together = whence.explain(cubic, x, "blur_integrated_gradients", rtol=0.01).values
    for row in range(3):
        alone = whence.explain(cubic, x[row : row + 1], "blur_integrated_gradients", rtol=0.01).values
        close(together[row : row + 1], alone)


def test_blur_needs_space():
    with pytest.raises(Refused, match="pictures"):
        whence.explain(lambda x: x.sum(1), normal(2, 5), "blur_integrated_gradients")


# ---- guided ------------------------------------------------------------------------------------------------

HIDDEN, OUT = normal(6, 10, seed=8), normal(6, seed=9)


def bent(x):
    return torch.tanh(x.flatten(1) @ HIDDEN.T) @ OUT


def bent_gradient(points):
    inner = np.tanh(points @ HIDDEN.numpy().T)
    return ((1 - inner**2) * OUT.numpy()) @ HIDDEN.numpy()


@pytest.mark.parametrize("still", [0, 5, 8], ids="{} features that do not move".format)
@pytest.mark.parametrize(
    ("fraction", "deviation"), [(0.25, 0.02), (0.1, 0.3), (1.0, 0.02), (0.5, 1.0), (0.25, 1.0)]
)
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_guided_equals_the_slow_oracle(steps, fraction, deviation, still):
    x = normal(3, 10)
    x[:, :still] = 0.25
    fields = {"fraction": fraction, "deviation": deviation}
    result = whence.explain(bent, x, "guided_integrated_gradients", baseline=0.25, steps=steps, **fields)
    for row, values in zip(x.numpy(), result.values, strict=True):
        close(values, guided_walk(bent_gradient, row, row * 0 + 0.25, steps, **fields).values)


def walked(x, steps, **fields):
    """Return the points at which the guided path asks for gradients, [steps, d], and the result."""
    seen = []

    def watched(x):
        if x.requires_grad:
            seen.append(x.detach().clone())
        return bent(x)

    return whence.explain(watched, x, "guided_integrated_gradients", steps=steps, **fields), torch.cat(seen)


def test_after_each_guided_step_the_l1_distance_is_right():
    x = normal(1, 10)
    _, points = walked(x, 25)
    left = (x - points).abs().sum(1) / x.abs().sum()
    close(left, 1 - np.arange(25) / 25, 1e-9)


@pytest.mark.parametrize("deviation", [0.02, 0.2])
def test_no_feature_strays_further_than_the_deviation(deviation):
    x = normal(1, 10)
    _, points = walked(x, 25, deviation=deviation)
    part = points / x
    away = (part - torch.arange(25, dtype=F64)[:, None] / 25).abs()
    # A point lies within the band around the step that led to it.
    assert float(away.max()) <= deviation + 1e-9


def test_with_the_smallest_deviation_guided_is_the_left_sum():
    x = normal(2, 10)
    guided = whence.explain(bent, x, "guided_integrated_gradients", steps=50, deviation=1e-12).values
    close(guided, whence.explain(bent, x, quadrature="left", steps=50).values, 1e-8)


def test_guided_becomes_complete_with_more_steps():
    x = normal(4, 10)
    runs = [whence.explain(bent, x, "guided_integrated_gradients", steps=steps) for steps in (20, 80, 320)]
    residuals = [float(run.residual.abs().mean()) for run in runs]
    assert residuals[1] < 0.5 * residuals[0] and residuals[2] < 0.5 * residuals[1]


def test_guided_to_a_tolerance_doubles_until_two_walks_agree():
    result = whence.explain(
        bent, normal(2, 10), "guided_integrated_gradients", steps=None, rtol=0.05, max_evaluations=100_000
    )
    assert result.converged.all() and float(result.error.max()) <= 0.05
    assert int(result.evaluations[0]) in {25 * (2**k - 1) for k in range(2, 12)}


@pytest.mark.parametrize("most", [1, 10, 60, 100])
def test_guided_stays_within_max_evaluations(most):
    result = whence.explain(
        bent, normal(2, 10), "guided_integrated_gradients", steps=None, rtol=1e-9, max_evaluations=most
    )
    assert int(result.evaluations.max()) <= most and not result.converged.any()


def test_guided_without_a_way_to_go_gives_zeros():
    x = normal(1, 10)
    result = whence.explain(bent, x, "guided_integrated_gradients", baseline=x, steps=7)
    assert torch.count_nonzero(result.values) == 0


def test_guided_walks_several_inputs_as_one():
    x = normal(2, 10)
    both = whence.explain(
        lambda a, b: bent(torch.cat([a, b], 1)), (x[:, :4], x[:, 4:]), "guided_integrated_gradients", steps=9
    )
    close(torch.cat(both.values, 1), whence.explain(bent, x, "guided_integrated_gradients", steps=9).values)


def test_guided_walks_each_class_its_own_way():
    x = normal(2, 10)
    two = lambda x: torch.stack([bent(x), bent(x**2)], 1)  # noqa: E731
    every = whence.explain(two, x, "guided_integrated_gradients", target="all", steps=9).values
    for k in range(2):
        close(every[:, k], whence.explain(two, x, "guided_integrated_gradients", target=k, steps=9).values)


def test_guided_integrated_gradients_of_a_linear_model_are_those_of_the_line():
    w, x = normal(10), normal(2, 10, seed=1)
    close(whence.explain(lambda x: x @ w, x, "guided_integrated_gradients", steps=7).values, x * w)


def test_the_oracle_of_the_line_and_the_guided_one_meet_for_a_separable_function():
    # Where ∂f/∂xᵢ depends on xᵢ alone every monotone path has the same integral.
    x = normal(1, 10)
    walk = guided_walk(np.cos, x[0].numpy(), np.zeros(10), 4000)
    assert np.abs(walk.values - midpoint_ig(np.cos, x[0].numpy(), np.zeros(10), 2000)).max() < 2e-3


# ---- choosing one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: path.blur(0), "sigma is 0"),
        (lambda: path.stochastic(samples=1), "at least 2"),
        (lambda: path.stochastic(noise=-1), "noise is .* at least 0"),
        (lambda: path.guided(fraction=0), "lie in"),
        (lambda: path.guided(deviation=2), "lie in"),
        (lambda: path.resolve("guide"), "did you mean 'guided'"),
        (lambda: path.resolve(3), "give a name"),
    ],
)
def test_paths_that_cannot_be_meant_are_refused(make, words):
    with pytest.raises(BadInput, match=words):
        make()


@pytest.mark.parametrize("name", ["straight", "guided"])
def test_a_path_by_name_is_the_path(name):
    x = normal(2, 10)
    by_name, by_object = (
        whence.explain(bent, x, path=each, steps=8).values for each in (name, getattr(path, name)())
    )
    assert torch.equal(by_name, by_object)
