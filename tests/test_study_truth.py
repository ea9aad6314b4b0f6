"""`whence study truth`: that what is called right is right, that scores say so, and that the shortcut is found."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from math import comb
from pathlib import Path

import numpy as np
import pytest

import whence
from whence import cli, registry
from whence.errors import Refused, WorkFailed
from whence.registry import Method, register
from whence.shares import Shares
from whence.study.truth import (
    axioms,
    catalogue,
    findings,
    page,
    probe,
    running,
    scoring,
    separation,
    shortcut,
)
from whence.study.truth.case import ALL, PATH, SHAPLEY, Answer, Case
from whence.study.truth.cases.patterns import BAR, BLOCK, TEE, pixels
from whence.study.truth.methods import fields
from whence.study.truth.setup import Setup, setup
from whence.study.truth.trial import Bench

CASES = catalogue.every()
every_case = pytest.mark.parametrize("name", CASES)
with_answers = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.answers])
with_masks = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.mask is not None])
NODES = 2000
STEP = 1e-6


# ---- what is called right is right ---------------------------------------------------------------------------


def path_integral(case, x):
    """Midpoints of the straight line, and central differences: slow, and independent of every closed form."""
    start, change = case.absent, x - case.absent
    alphas = (np.arange(NODES) + 0.5) / NODES
    shape = (-1, *[1] * x.ndim)
    points = start + alphas.reshape(shape) * change
    found = np.zeros(x.size)
    for place in np.flatnonzero(change.ravel()):
        step = np.zeros(x.size)
        step[place] = STEP
        step = step.reshape(x.shape)
        slope = (case.function(points + step) - case.function(points - step)) / (2 * STEP)
        found[place] = slope.mean() * change.ravel()[place]
    return found.reshape(x.shape)


def shapley(case, x):
    """Shapley's sum over all coalitions of the features that differ, or of a picture's cells."""
    groups = (
        [np.array([place]) for place in np.flatnonzero((x - case.absent).ravel())]
        if case.cells is None
        else [np.arange(64).reshape(4, 2, 4, 2)[i, :, j].ravel() for i in range(4) for j in range(4)]
    )
    d = len(groups)
    bits = (np.arange(2**d)[:, None] >> np.arange(d)) & 1
    on = np.zeros((2**d, x.size), dtype=bool)
    for place, group in enumerate(groups):
        on[:, group] = bits[:, place, None] == 1
    worth = case.function(np.where(on, x.ravel(), case.absent.ravel()).reshape(-1, *x.shape))
    sizes = bits.sum(1)
    found = np.zeros(x.size)
    for place, group in enumerate(groups):
        without = np.flatnonzero(bits[:, place] == 0)
        weights = np.array([1 / (d * comb(d - 1, size)) for size in range(d)])[sizes[without]]
        gain = worth[without + 2**place] - worth[without]
        # A cell's share is that of all its pixels together.
        found[group] = (weights * gain).sum()
    return found.reshape(x.shape)


def per_cell(case, values):
    """Sum a picture's pixels over its cells, so that shares of cells can be compared."""
    if case.cells is None:
        return values
    return values.reshape(4, 2, 4, 2).sum((1, 3))


def some_rows(case):
    return range(min(3, len(case.inputs)))


def test_there_are_enough_cases_of_every_kind():
    assert len(CASES) >= 30
    kinds = {case.family for case in CASES.values()}
    assert kinds == {
        "linear", "additive", "interaction", "cancellation", "saturation", "gates", "detectors", "degenerate"
    }  # fmt: skip
    pictures = [case for case in CASES.values() if case.is_picture]
    assert len(pictures) >= 10 and all(case.inputs.shape[1:] == (1, 8, 8) for case in pictures)


@every_case
def test_the_network_is_the_function_everywhere(name):
    import torch

    case = CASES[name]
    model = case.model()
    random = np.random.default_rng(1)
    for x in (case.inputs, random.normal(size=(20, *case.inputs.shape[1:]))):
        said = model(torch.from_numpy(x))[:, case.target].detach().numpy()
        np.testing.assert_allclose(said, case.function(x), atol=1e-12)


@with_answers
def test_every_right_answer_is_right_by_brute_force(name):
    case = CASES[name]
    for row in some_rows(case):
        x = case.inputs[row]
        for answer in case.answers:
            assert answer.convention in (ALL, PATH, SHAPLEY)
            right = answer.values[row]
            scale = max(np.abs(right).sum(), 0.1)
            if answer.convention in (ALL, PATH):
                found = path_integral(case, x)
                np.testing.assert_allclose(found, right, atol=2e-3 * scale, err_msg="path integral")
            if answer.convention in (ALL, SHAPLEY):
                found = per_cell(case, shapley(case, x) / (1 if case.cells is None else 4))
                np.testing.assert_allclose(found, per_cell(case, right), atol=1e-9 * scale, err_msg="Shapley")


@with_answers
def test_right_answers_add_up_to_the_change(name):
    case = CASES[name]
    for answer in case.answers:
        np.testing.assert_allclose(
            answer.values.reshape(len(case.inputs), -1).sum(1), case.change, atol=1e-12
        )


@with_masks
def test_only_what_is_on_the_mask_takes_part(name):
    case = CASES[name]
    full = case.function(case.inputs)
    assert (np.abs(full) > 0.1).all()
    # The mask alone gives the whole output, and the rest alone gives none of it.
    np.testing.assert_allclose(case.function(case.inputs * case.mask), full, atol=1e-12)
    np.testing.assert_allclose(case.function(case.inputs * ~case.mask), 0, atol=1e-12)
    assert (case.inputs * ~case.mask).any((1, 2, 3)).all(), "every picture has a distractor"
    for row in some_rows(case):
        found = path_integral(case, case.inputs[row])
        assert np.abs(found[~case.mask[row]]).sum() < 1e-9 < np.abs(found[case.mask[row]]).sum()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.dummies is not None])
def test_dummies_are_never_read_and_others_are(name):
    case = CASES[name]
    random = np.random.default_rng(2)
    x = random.normal(size=(200, *case.inputs.shape[1:]))
    other = np.where(case.dummies, random.normal(size=x.shape), x)
    np.testing.assert_allclose(case.function(x), case.function(other), atol=1e-12)
    for place in np.flatnonzero(~case.dummies.ravel()):
        moved = x.copy().reshape(200, -1)
        moved[:, place] += random.normal(size=200)
        assert np.abs(case.function(x) - case.function(moved.reshape(x.shape))).max() > 1e-3


@pytest.mark.parametrize("name", ["linear_copy", "product"])
def test_a_copy_goes_with_the_signal(name):
    case = CASES[name]
    assert np.flatnonzero(case.dummies).tolist() == [2]
    assert np.corrcoef(case.inputs[:, 0], case.inputs[:, 2])[0, 1] > 0.99


@pytest.mark.parametrize("name", ["linear_picture", "additive_picture", "product_picture"])
def test_a_distractor_goes_with_the_shape(name):
    case = CASES[name]
    signal, distractor = (case.inputs[:, 0][:, pixels(shape) > 0].mean(1) for shape in (TEE, BLOCK))
    assert np.corrcoef(signal, distractor)[0, 1] > 0.9
    assert case.dummies[0][pixels(BLOCK) > 0].all() and not case.dummies[0][pixels(TEE) > 0].any()


def test_a_distractor_is_lit_where_xor_is_one():
    case = CASES["xor_picture"]
    lit = case.inputs[:, 0][:, pixels(BAR) > 0].mean(1) > 0.5
    np.testing.assert_array_equal(lit, case.function(case.inputs) > 0.5)
    assert case.dummies[0][pixels(BAR) > 0].all()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.alike is not None])
def test_features_that_are_alike_are(name):
    case = CASES[name]
    one, other = case.alike
    x = np.random.default_rng(3).normal(size=(50, *case.inputs.shape[1:]))
    swapped = x.copy()
    swapped[:, [one, other]] = x[:, [other, one]]
    np.testing.assert_allclose(case.function(x), case.function(swapped), atol=1e-12)
    np.testing.assert_array_equal(case.inputs[:, one], case.inputs[:, other])


def test_the_cases_that_belong_together_do():
    x = np.random.default_rng(4).normal(size=(50, 2))
    for case in CASES.values():
        if case.same_as:
            other = CASES[case.same_as]
            np.testing.assert_array_equal(case.inputs, other.inputs)
            np.testing.assert_allclose(case.function(x), other.function(x))
            assert str(case.network) != str(other.network)
        if case.sum_of:
            total = sum(factor * CASES[name].function(x) for factor, name in case.sum_of)
            np.testing.assert_allclose(case.function(x), total, atol=1e-12)
        if case.alone is not None:
            differs = np.abs(case.inputs - case.absent).max(0) > 0
            assert np.flatnonzero(differs).tolist() == [case.alone] and (case.change != 0).all()


# ---- scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "found, right, wanted",
    [
        ([3, -2], [3, -2], 1),
        ([30, -20], [3, -2], 1),
        ([-3, 2], [3, -2], 0),
        ([0, 1], [1, 0], 0),
        ([1, 1], [1, 0], 0.5),
        ([1, 1, 1, 1], [1, 1, 1, 1], 1),
        ([1, 1, 1, 1], [4, 0, 0, 0], 0.25),
        ([1, -1], [1, 1], 0.5),
        ([0, 0], [1, 0], 0),
        ([0, 0], [0, 0], 1),
        ([1e-3, 0], [0, 0], 0),
        ([1e-12, 0], [0, 0], 1),
    ],
)
def test_scores_by_hand(found, right, wanted):
    got = scoring.overlap(np.array([found], dtype=float), np.array([right], dtype=float))
    np.testing.assert_allclose(got, [wanted], atol=1e-12)


def test_a_mask_scores_the_share_on_it_and_nothing_scores_nothing():
    mask = np.array([[True, False, False]] * 3)
    got = scoring.on_mask(np.array([[1.0, -2, 1], [5, 0, 0], [0, 0, 0]]), mask)
    np.testing.assert_allclose(got, [0.25, 1, 0])


def small(**more):
    """A case of one example and two features, f = x₁ + 0·x₂."""
    values = {
        "name": "small", "title": "", "family": "linear", "formula": "", "right": "",
        "function": lambda x: x[:, 0], "network": ("", {}), "inputs": np.array([[1.0, 1.0]]),
        "answers": (Answer(PATH, np.array([[1.0, 0.0]])), Answer(SHAPLEY, np.array([[0.5, 0.5]]))),
    }  # fmt: skip
    return Case(**values | more)


def test_the_nearest_convention_counts_and_signs_do_only_where_there_are_some():
    near = scoring.score(small(), np.array([[2.0, 2.0]]), unsigned=False)
    assert (near.value, near.convention) == (1.0, SHAPLEY)
    signed = small(answers=(Answer(ALL, np.array([[1.0, -1.0]])),))
    assert scoring.score(signed, np.array([[1.0, 1.0]]), unsigned=False).value == 0.5
    assert scoring.score(signed, np.array([[1.0, 1.0]]), unsigned=True).value == 1.0


def test_the_nearest_convention_is_that_of_the_whole_case():
    both = small(
        inputs=np.ones((2, 2)),
        answers=(Answer(PATH, np.array([[1.0, 0], [1, 0]])), Answer(SHAPLEY, np.array([[0.0, 1], [0, 1]]))),
    )
    got = scoring.score(both, np.array([[1.0, 0.0], [0.0, 1.0]]), unsigned=False)
    assert got.value == 0.5 and sorted(got.examples) == [0, 1]


def test_sampling_error_is_nothing_only_where_nothing_is_right():
    nothing = small(answers=(Answer(ALL, np.zeros((1, 2))),))
    found = np.array([[0.03, -0.01]])
    assert scoring.score(nothing, found, unsigned=False, spread=np.full((1, 2), 0.01)).value == 1
    assert scoring.score(nothing, found, unsigned=False, spread=np.full((1, 2), 0.001)).value == 0
    assert scoring.score(nothing, found, unsigned=False).value == 0


def test_what_is_not_finite_has_no_score():
    with pytest.raises(ValueError):
        scoring.score(small(), np.array([[np.nan, 1.0]]), unsigned=False)
    with pytest.raises(ValueError):
        separation.auc(np.array([1.0, np.nan]), np.array([0.0]))


@pytest.mark.parametrize(
    "name, more, unsigned",
    [
        ("saliency", {}, True),
        ("saliency", {"absolute": False}, False),
        ("smoothgrad", {}, True),
        ("smoothgrad", {"method": whence.InputXGradient()}, False),
        ("smoothgrad_squared", {}, True),
        ("vargrad", {}, True),
        ("gradcam", {}, True),
        ("gradcam", {"relu": False}, False),
        ("hirescam", {}, False),
        ("integrated_gradients", {}, False),
        ("lrp", {}, False),
    ],
)
def test_whose_maps_have_no_sign(name, more, unsigned):
    method = registry.build(name, more)
    assert method.sizes is unsigned
    if unsigned and name != "gradcam":
        # What is said to have no sign is never negative.
        case = CASES["linear_weights"]
        assert (np.asarray(method(case.model(), case.inputs, target=0, seed=0).values) >= 0).all()


# ---- methods on cases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["integrated_gradients", "exact_shapley", "kernel_shap", "integrated_hessians"]
)
def test_methods_that_keep_the_conventions_are_right_in_every_case(name):
    bench = Bench()
    trials = {case: bench.trial(name, CASES[case]) for case in CASES}
    scores = {case: trial.score.value for case, trial in trials.items()}
    assert min(scores.values()) > 0.9, min(scores, key=scores.get)
    broken = [check for trial in trials.values() for check in trial.checks if not check.kept]
    assert not broken
    tried = {check.axiom for trial in trials.values() for check in trial.checks}
    assert tried == set(axioms.AXIOMS)


def test_known_failures_are_seen():
    bench = Bench()

    def value(method, case):
        return bench.trial(method, CASES[case]).score.value

    assert value("saliency", "saturated_sum") == 0
    assert value("feature_ablation", "saturated_or") == 0
    assert value("lrp", "cancel_sum") == 0
    assert value("deeplift", "saturated_sum") > 0.99
    broken = {
        check.axiom for check in bench.trial("deeplift", CASES["minimum_gate"]).checks if not check.kept
    }
    assert broken == {"implementation"}
    refused = bench.trial("gradcam", CASES["linear_weights"])
    assert refused.score is None and refused.maps is None and "no module of this model" in refused.refused


@pytest.fixture
def own_registry(monkeypatch):
    registry.methods()
    monkeypatch.setattr(registry, "_records", dict(registry._records))


def made(name, values, needs=("gradient",)):
    """Register a method that says whatever `values` makes of the inputs."""

    @register(name, "A = ?", "nobody", needs=needs)
    @dataclass(frozen=True)
    class Made(Method):
        """A method of the tests."""

        def attribute(self, problem):
            leaf = values(problem.point[0])
            return Shares((leaf,), np.ones(len(problem.rows), dtype=np.int64), output=problem.output)

    return Made


def breaks(method, *names):
    bench = Bench()
    return {
        check.axiom for name in names for check in bench.trial(method, CASES[name]).checks if not check.kept
    }


def test_broken_methods_are_seen_to_break_each_axiom(own_registry):
    import torch

    made("ones", torch.ones_like)
    assert breaks("ones", "linear_copy") == {"completeness", "dummy"}
    made("first", lambda x: torch.cat([x[:, :1] * 0 + 1, x[:, 1:] * 0], dim=1))
    assert "symmetry" in breaks("first", "and_gate")
    assert "symmetry" not in breaks("ones", "and_gate")
    made("zeros", torch.zeros_like)
    assert breaks("zeros", "saturated_one") == {"completeness", "sensitivity"}
    assert breaks("zeros", "constant") == set()
    assert breaks("ones", "sum_both") >= {"linearity"}
    assert "linearity" not in breaks("zeros", "sum_both")
    calls = iter(range(1, 100))
    made("moody", lambda x: torch.ones_like(x) * torch.tensor([1.0, float(next(calls))], dtype=x.dtype))
    assert "implementation" in breaks("moody", "minimum_gate")
    assert "implementation" not in breaks("ones", "minimum_gate")


def test_methods_that_fail_or_say_what_is_not_finite_have_no_score(own_registry):
    def fail(x):
        raise ZeroDivisionError("by zero")

    def refuse(x):
        raise Refused("not today; tomorrow")

    made("nan", lambda x: x * float("nan"))
    made("fails", fail)
    made("refuses", refuse)
    made("zeros", lambda x: x * 0)
    found = {
        name: Bench().trial(name, CASES["linear_weights"]) for name in ("nan", "fails", "refuses", "zeros")
    }
    assert found["nan"].failed == "its values are not finite" and found["nan"].score is None
    assert found["fails"].failed == "ZeroDivisionError: by zero" and found["fails"].score is None
    assert found["refuses"].refused == "not today" and not found["refuses"].failed
    assert found["zeros"].score.value == 0
    assert Bench().trial("zeros", CASES["cancelled"]).score.value == 1

    study = running.run(Setup(tuple(found), ("linear_weights",), shortcut=False), lambda text, share: None)
    assert study.mean("nan") is None and len(study.failed()) == 2
    assert "2 explanations went wrong" in " ".join(findings.sentences(study))
    with pytest.raises(WorkFailed, match="nothing could be measured: nan: its values are not finite"):
        running.run(Setup(("nan",), ("linear_weights",), shortcut=False), lambda text, share: None)


def test_a_network_that_is_not_its_function_is_never_scored():
    wrong = replace(CASES["linear_weights"], function=lambda x: 3 * x[:, 0])
    with pytest.raises(WorkFailed, match="off its own function"):
        Bench().trial("saliency", wrong)


def test_sampling_error_is_not_held_against_a_method():
    case = CASES["linear_weights"].first(1)
    values = case.answers[0].values + np.array([[0.1, 0.0]])
    exact = axioms.Maps(case, values, values.sum(1))
    assert not axioms.completeness(exact).kept
    assert axioms.completeness(replace(exact, spread=np.full((1, 2), 0.05))).kept
    assert not axioms.completeness(replace(exact, spread=np.full((1, 2), 0.001))).kept


def test_every_method_is_asked_from_the_cases_own_baseline():
    case = CASES["linear_baseline"]
    for name, record in registry.methods().items():
        given = fields(name, case)
        if "background" in record.needs:
            np.testing.assert_array_equal(given["baseline"], case.absent[None])
        elif "baseline" in record.fields:
            np.testing.assert_array_equal(given["baseline"], case.absent)
        assert set(given) <= set(record.fields)


# ---- the planted shortcut ------------------------------------------------------------------------------------


def test_areas_and_errors_by_hand():
    assert separation.auc(np.array([2.0, 3]), np.array([0.0, 1])) == 1
    assert separation.auc(np.array([0.0, 0]), np.array([0.0, 0])) == 0.5
    assert separation.auc(np.array([1.0, 0]), np.array([1.0, 0])) == 0.5
    assert separation.auc(np.array([0.0]), np.array([1.0, 2, -1])) == pytest.approx(1 / 3)
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    one, other = random.integers(0, 9, 40) + 1.0, random.integers(0, 9, 50) + 0.0
    wanted = roc_auc_score(np.repeat([1, 0], [40, 50]), np.concatenate([one, other]))
    assert separation.auc(one, other) == pytest.approx(wanted)
    # Hanley and McNeil's own example: 0.893 of 51 and 58, which they round down to 0.032.
    assert separation.standard_error(0.893, 51, 58) == pytest.approx(0.0325, abs=2e-4)
    errors = [separation.standard_error(1.0, count, count) for count in (5, 50, 500)]
    assert all(0 < later < earlier for earlier, later in pairwise(errors))
    assert separation.together([1.0, 0.8], [0.0, 0.0]) == (0.9, pytest.approx(0.1))


def test_the_share_on_the_mark_by_hand():
    maps = np.zeros((3, 4, 4))
    maps[0, :2, :2], maps[1] = 1.0, 1.0
    np.testing.assert_allclose(probe.on_mark(maps, 2), [1, 0.25, 0])


def test_both_networks_get_the_same_marks_and_one_gets_other_labels():
    dataset = whence.data.digits()
    chosen = np.zeros(len(dataset.train_labels), dtype=bool)
    chosen[::5] = True
    one, other = (shortcut.plant(dataset, chosen, 2, decides=decides) for decides in (True, False))
    np.testing.assert_array_equal(one.train_images, other.train_images)
    assert (one.train_images[chosen][:, :2, :2] == 255).all()
    np.testing.assert_array_equal(one.train_images[~chosen], dataset.train_images[~chosen])
    np.testing.assert_array_equal(one.train_images[:, 2:], dataset.train_images[:, 2:])
    assert (one.train_labels[chosen] == shortcut.CLASS).all()
    np.testing.assert_array_equal(one.train_labels[~chosen], dataset.train_labels[~chosen])
    np.testing.assert_array_equal(other.train_labels, dataset.train_labels)
    assert len(np.unique(dataset.train_labels[chosen])) == 10


@pytest.mark.slow
def test_the_planted_shortcut_is_found(one_thread):
    asked = setup((), ("shortcut",), data="digits", data_dir=None, seed=0, quick=True)
    dataset = shortcut.digits(asked)
    pair, again = (shortcut.pair(asked, dataset, 0, 40) for _ in range(2))
    assert pair.shortcut.turned > 0.95 and pair.control.turned < 0.05
    assert min(pair.shortcut.accuracy, pair.control.accuracy) > 0.95
    assert len(pair.clean) == len(pair.marked) == 40
    for name in ("integrated_gradients", "deeplift", "lrp", "kernel_shap", "deepshap"):
        found = probe.probe(name, [pair], "digits", 0, True)
        assert found.found[0] >= 0.99, name
        assert found.ranked[0] >= 0.99, name
        assert found.mean("shortcut") > 0.3 > 0.15 > found.mean("control"), name
    # Shares that say nothing are not called separation.
    assert probe.probe("eigencam", [pair], "digits", 0, True).found[0] < 0.9
    for one, other in zip(pair.shortcut.model.parameters(), again.shortcut.model.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach().numpy(), other.detach().numpy())
    first, second = (probe.probe("integrated_gradients", [each], "digits", 0, True) for each in (pair, again))
    np.testing.assert_array_equal(first.pairs[0].shortcut, second.pairs[0].shortcut)


# ---- the command ---------------------------------------------------------------------------------------------


FEW = ("--method", "integrated_gradients", "--method", "gradcam", "--method", "saliency")
SOME = ("--case", "saturation", "--case", "detector_mean", "--case", "linear_weights")


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """A small study, for a program."""
    folder = tmp_path_factory.mktemp("truth")
    command = [
        sys.executable,
        "-m",
        "whence",
        "study",
        "truth",
        *FEW,
        *SOME,
        "--quick",
        "--json",
        "--out",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_answer_for_programs_has_every_score(answer):
    names = [each["name"] for each in answer["cases"]]
    assert len(names) == 8 and {"linear_weights", "detector_mean", "saturated_or"} <= set(names)
    by_name = {each["method"]: each for each in answer["methods"]}
    assert by_name["integrated_gradients"]["mean"] > 0.99
    assert by_name["integrated_gradients"]["broken"] == {}
    assert by_name["saliency"]["cases"]["saturated_or"]["score"] == 0
    assert by_name["saliency"]["broken"]["sensitivity"]["case"] == "saturated_one"
    assert by_name["gradcam"]["cases"]["linear_weights"]["score"] is None
    assert "no module" in by_name["gradcam"]["cases"]["linear_weights"]["refused"]
    assert answer["shortcut"] is None and answer["failed"] == []


def test_the_table_has_a_line_for_each_method_and_case(answer):
    with open(answer["files"]["scores"], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 8
    found = {(each["method"], each["case"]): each for each in rows}
    assert float(found["integrated_gradients", "linear_weights"]["score"]) > 0.999
    assert (
        found["gradcam", "linear_weights"]["outcome"] == "does not apply"
        and not found["gradcam", "linear_weights"]["score"]
    )
    assert found["saliency", "saturated_one"]["sensitivity"] == "1"
    assert found["integrated_gradients", "saturated_one"]["sensitivity"] == "0"


def test_the_page_is_one_file_that_says_everything(answer):
    text = Path(answer["report"]).read_text(encoding="utf-8")
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)["']""", text)
    # Two pictures: the input, what is right, and maps of three methods, of which Grad-CAM does the detector alone.
    assert len(addresses) == 9 and all(each.startswith("data:image/png;base64,") for each in addresses)
    assert not re.search(r"@import|url\(|<script|<link", text)
    for words in ("Scores by kind of function", "Axioms that were seen broken", "Every score", "The cases",
                  "3·x₁ − 2·x₂", "What does not apply, and why"):  # fmt: skip
        assert words in text
    assert "A planted shortcut" not in text
    command = re.search(r"<pre>(.*?)</pre>", text)[1]
    assert command.startswith("whence study truth --method integrated_gradients") and "--quick" in command
    assert "nan" not in re.sub(r'"data:[^"]*"', "", text).lower().split()


def test_the_terminal_shows_scores_and_axioms(tmp_path, capsys):
    words = [*FEW, "--case", "saturated_one", "--case", "linear_weights", "--quick", "--out", str(tmp_path)]
    assert cli.main(["study", "truth", *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Integrated gradients gives a right answer in all 2 cases." in said
    assert "sensitivity 1.00 (saturated_one)" in said
    assert "does not apply: gradcam: draws the map of a layer" in said
    assert (tmp_path / "truth.html").is_file() and (tmp_path / "truth.csv").is_file()


@pytest.mark.slow
def test_the_shortcut_alone_can_be_asked_for(tmp_path, capsys):
    words = [
        "--method",
        "lrp",
        "--method",
        "cam",
        "--case",
        "shortcut",
        "--quick",
        "--json",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(["study", "truth", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cases"] == [] and found["shortcut"]["methods"]["lrp"]["auc"] >= 0.99
    assert "global average pooling" in found["shortcut"]["methods"]["cam"]["refused"]
    text = (tmp_path / "truth.html").read_text(encoding="utf-8")
    assert "A planted shortcut" in text and "Scores by kind" not in text


@pytest.mark.parametrize(
    "words, told",
    [
        (("--method", "salience"), "there is no method 'salience'; did you mean 'saliency'"),
        (("--case", "lineer"), "there is no case 'lineer'; did you mean 'linear'"),
        (("--data", "mnest"), "there is no set of digits 'mnest'; did you mean 'mnist'?"),
        (("--seed", "-1"), "--seed is -1; it is 0 or more"),
    ],
)
def test_wrong_use_is_one_line(capsys, tmp_path, words, told):
    assert cli.main(["study", "truth", *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and told in said.err
    assert not (tmp_path / "out").exists()


def test_without_torch_the_work_fails_in_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable,
        "-m",
        "whence",
        "study",
        "truth",
        "--case",
        "linear",
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "pip install 'whence[torch]'" in done.stderr


def test_the_command_on_the_page_gives_the_same_study():
    everything = setup((), (), data="digits", data_dir=None, seed=0, quick=False)
    assert everything.shortcut and len(everything.cases) == len(CASES)
    study = running.Study(everything, (), {}, {}, (), {}, 0.0)
    assert page.again(study) == "whence study truth --data digits --seed 0"
    few = setup(("lrp",), ("linear_weights", "shortcut"), data="digits", data_dir=None, seed=3, quick=True)
    words = page.again(replace(study, setup=few)).split()
    assert words[words.index("--seed") + 1] == "3" and words.count("--case") == len(few.cases) + 1


def test_colours_go_from_wrong_to_right():
    ends = [page.colour(score) for score in (0.0, 0.75, 1.0)]
    assert ends == ["#f4a578", "#ffffff", "#92c5de"]
