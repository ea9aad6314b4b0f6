import tracemalloc

import numpy as np
import pytest

from whence import quadrature
from whence.errors import BadInput

torch = pytest.importorskip("torch")

import whence  # noqa: E402

RULES = sorted(quadrature.RULES)


def smooth(alpha):
    return np.exp(np.sin(3 * alpha))


EXACT = float(np.dot(smooth(quadrature.gauss(60)[0]), quadrature.gauss(60)[1]))


def mistake(rule, steps):
    nodes, weights = quadrature.RULES[rule](steps)
    return abs(weights @ smooth(nodes) - EXACT)


# ---- fixed rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 3, 7, 50, 333, 4096])
@pytest.mark.parametrize("rule", RULES)
def test_weights_sum_to_one(rule, steps):
    assert quadrature.RULES[rule](steps)[1].sum() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_nodes_are_float64_within_the_path_and_in_order(rule):
    nodes, weights = quadrature.RULES[rule](17)
    assert nodes.dtype == weights.dtype == np.float64
    assert nodes.min() >= 0 and nodes.max() <= 1 and (np.diff(nodes) > 0).all()
    assert len(nodes) == len(weights) == 17


@pytest.mark.parametrize(("rule", "order"), [("left", 1), ("right", 1), ("midpoint", 2), ("trapezoid", 2)])
def test_order_of_convergence(rule, order):
    # The trapezoid rule of n nodes has n − 1 cells: count cells for all.
    extra = rule == "trapezoid"
    coarse, fine = mistake(rule, 200 + extra), mistake(rule, 400 + extra)
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.05)


def test_gauss_converges_faster_than_any_power():
    errors = [mistake("gauss", steps) for steps in (4, 8, 16)]
    assert errors[1] < 1e-2 * errors[0] and errors[2] < 1e-13


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gauss_is_exact_up_to_degree_2n_minus_1(steps):
    nodes, weights = quadrature.gauss(steps)
    for degree in range(2 * steps):
        assert weights @ nodes**degree == pytest.approx(1 / (degree + 1), abs=1e-14)


@pytest.mark.parametrize("rule", ["trapezoid", "midpoint", "gauss"])
@pytest.mark.parametrize("steps", [2, 3, 50])
def test_linear_integrands_are_exact(rule, steps):
    nodes, weights = quadrature.RULES[rule](steps)
    assert weights @ (3 * nodes - 1) == pytest.approx(0.5, abs=1e-13)


def test_trapezoid_has_both_ends_at_half_weight():
    nodes, weights = quadrature.trapezoid(5)
    assert np.allclose(nodes, [0, 0.25, 0.5, 0.75, 1]) and np.allclose(weights, np.array([1, 2, 2, 2, 1]) / 8)


def test_left_starts_at_the_baseline_and_right_ends_at_the_input():
    assert quadrature.left(4)[0][0] == 0 and quadrature.right(4)[0][-1] == 1


def test_thousands_of_gauss_nodes_are_cheap_in_memory():
    quadrature.gauss(3)  # SciPy is imported before the count begins
    tracemalloc.start()
    quadrature.gauss.__wrapped__(4096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6, "a dense matrix of 4096 x 4096 would be 134 MB"


# ---- Monte Carlo -------------------------------------------------------------------------------------------


def wavy(x):
    return torch.sin(3 * x).sum(1)


def test_monte_carlo_standard_error_covers_the_truth():
    x = torch.linspace(0.3, 1.7, 8, dtype=torch.float64)[None]
    truth = torch.sin(3 * x)
    seeds = range(60)
    runs = [whence.explain(wavy, x, quadrature="monte_carlo", steps=100, seed=seed) for seed in seeds]
    z = torch.cat([(run.values - truth) / run.standard_error for run in runs])
    assert abs(float((abs(z) < 1.96).double().mean()) - 0.95) < 0.05


def test_monte_carlo_estimates_its_expected_error():
    x = torch.linspace(0.3, 1.7, 8, dtype=torch.float64)[None]
    truth = torch.sin(3 * x)
    runs = [
        whence.explain(wavy, x, quadrature="monte_carlo", rtol=1e-6, max_evaluations=64, seed=s)
        for s in range(80)
    ]
    true = np.mean([float((run.values - truth).abs().sum() / run.values.abs().sum()) for run in runs])
    assert np.mean([float(run.error[0]) for run in runs]) == pytest.approx(true, rel=0.2)


def test_monte_carlo_error_falls_with_the_root_of_the_count():
    x = torch.full((1, 3), 1.5, dtype=torch.float64)
    few, many = (
        whence.explain(wavy, x, quadrature="monte_carlo", steps=n).standard_error for n in (100, 6400)
    )
    assert float((few / many).mean()) == pytest.approx(8, rel=0.25)


def test_monte_carlo_to_a_tolerance_says_how_many_it_took():
    x = torch.full((1, 3), 1.5, dtype=torch.float64)
    result = whence.explain(wavy, x, quadrature="monte_carlo", rtol=0.05, max_evaluations=100_000)
    assert result.converged.all() and 64 < int(result.evaluations[0]) < 100_000
    assert float(result.error[0]) <= 0.05


def test_monte_carlo_trace_weights_sum_to_one():
    result = whence.explain(
        wavy, torch.ones(1, 3, dtype=torch.float64), quadrature="monte_carlo", rtol=1e-3, max_evaluations=500
    )
    assert np.nansum(result.trace.weights) == pytest.approx(1, abs=1e-12)


def test_monte_carlo_depends_on_the_seed_alone():
    x = torch.ones(1, 3, dtype=torch.float64)
    one, same, other = (
        whence.explain(wavy, x, quadrature="monte_carlo", steps=16, seed=seed).values for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


# ---- what a method's fields may ask for --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": 0}, "at least 1"),
        ({"steps": -3}, "at least 1"),
        ({"steps": 2.5}, "whole number"),
        ({"steps": 50.0}, "whole number"),
        ({"steps": "many"}, "whole number"),
        ({"steps": True}, "whole number"),
        ({"steps": 10, "quadrature": "tolerance"}, "does not go with"),
        ({"steps": 10, "quadrature": "taylor"}, "does not go with"),
        ({"steps": 1, "quadrature": "monte_carlo"}, "at least 2"),
        ({"steps": 1, "quadrature": "trapezoid"}, "two end points|end points"),
        ({"max_evaluations": 1, "quadrature": "monte_carlo"}, "at least 2"),
        ({"max_evaluations": 0}, "max_evaluations is 0"),
        ({"quadrature": "gaus"}, "did you mean 'gauss'"),
        ({"quadrature": "simpson"}, "there is no quadrature"),
        ({"rtol": 0}, "between 0 and 1"),
        ({"rtol": 1.5}, "between 0 and 1"),
        ({"rtol": float("nan")}, "between 0 and 1"),
        ({"rtol": "fine"}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, words):
    with pytest.raises(BadInput, match=words):
        whence.explain(wavy, torch.ones(1, 3), **fields)


def test_numpy_integers_are_steps():
    result = whence.explain(wavy, torch.ones(1, 3), steps=np.int64(5))
    assert int(result.evaluations[0]) == 5


@pytest.mark.parametrize("rule", RULES)
def test_a_named_rule_without_steps_uses_fifty_and_is_converged(rule):
    result = whence.explain(wavy, torch.ones(1, 3), quadrature=rule)
    assert int(result.evaluations[0]) == 50 and result.converged.all() and not result.notes


def test_a_named_rule_without_steps_stays_within_max_evaluations():
    result = whence.explain(wavy, torch.ones(1, 3), quadrature="midpoint", max_evaluations=7)
    assert int(result.evaluations[0]) == 7
