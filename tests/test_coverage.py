# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""whence.coverage: every operation of a model, how often it is met, which rule takes it, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

import whence
from architectures import ARCHITECTURES, AWKWARD, RELUS
from architectures.awkward import Between
from architectures.base import rows, settled
from models import assert_same, busy, pictures, state_of
from whence import certificate, composite, zoo

D = torch.float64
# Networks without a ReLU, which guided backprop and DeconvNet refuse.
SMOOTH = ("cnn_1d", "lstm", "efficientnet", "vit", "transformer")
HERE = Path(__file__).parent


def covered(name, method="deeplift", **options):
    case = {**ARCHITECTURES, **AWKWARD}[name]
    return whence.coverage(case.make().to(D), case.inputs(2, D), method, target=0, **options)


def table(found):
    """Return [family, calls, rule] by operation."""
    assert len({row.operation for row in found.rows}) == len(found.rows)
    return {row.operation: (row.family, row.count, row.rule) for row in found.rows}


# ---- what is counted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, rules",
    [
        ("deeplift", {"relu": "Δy/Δx", "max_pool2d_with_indices": "Δy/Δ of the winner"}),
        ("deepshap", {"relu": "Δy/Δx", "max_pool2d_with_indices": "Δy/Δ of the winner"}),
        ("lrp", {"relu": "y/x", "convolution": "epsilon", "addmm": "epsilon"}),
        ("guided_backprop", {"relu": "max(g, 0) · 1[x > 0]"}),
        ("guided_gradcam", {"relu": "max(g, 0) · 1[x > 0]"}),
        ("deconvnet", {"relu": "max(g, 0)"}),
        ("saliency", {}),
        ("integrated_gradients", {}),
    ],
)
def test_a_network_of_two_convolutions(method, rules):
    loaded = zoo.load("digits-cnn")
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    fields = {"baseline": 0.0} if method == "deepshap" else {}
    found = whence.coverage(loaded.model, x, method, preprocess=loaded.preprocess, **fields)
    wanted = {
        "addmm": ("dense", 1),
        "max_pool2d_with_indices": ("maximum", 1),
        "relu": ("relu", 2),
        "convolution": ("convolution", 2),
    }
    met = table(found)
    for operation, (family, count) in wanted.items():
        assert met[operation] == (family, count, rules.get(operation, "derivative"))
    # Around them are copies, and the scaling of the pictures: linear, passed by their derivative.
    others = {each for name, each in met.items() if name not in wanted}
    assert {family for family, _, _ in others} <= {"move", "sum", "scale"}
    assert {rule for _, _, rule in others} == {"derivative"}
    assert found.complete and found.unknown == () and found.notes == ()
    assert found.method == method


def test_rows_run_from_the_output_to_the_input():
    names = [row.operation for row in covered("lenet").rows]
    assert names.index("addmm") < names.index("max_pool2d_with_indices") < names.index("convolution")


def test_a_module_that_is_used_three_times_is_three_calls():
    met = table(covered("reused_relu"))
    assert met["relu"] == ("relu", 3, "Δy/Δx")
    assert met["addmm"][:2] == ("dense", 4)


def test_the_place_is_the_line_and_the_module_of_the_first_call():
    [relu] = [row for row in covered("resnet", "guided_backprop").rows if row.family == "relu"]
    match = re.fullmatch(r"(.+):(\d+) in (\S+)", relu.place)
    assert match and Path(match[1]) == HERE / "architectures" / "residual.py"
    assert "relu" in Path(match[1]).read_text().splitlines()[int(match[2]) - 1]
    # A layer of torch's own has no line of the user's, and is named.
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh()).to(D)
    found = whence.coverage(model, rows(1, D, (6,)), target=0)
    assert {row.operation: row.place for row in found.rows}["tanh"] == "in 1"


def test_at_a_layer_only_what_lies_above_is_met():
    model, x = ARCHITECTURES["vgg"].make().to(D), ARCHITECTURES["vgg"].inputs(2, D)
    whole = sum(row.count for row in whence.coverage(model, x, "lrp", target=0).rows)
    name = [name for name, each in model.named_modules() if isinstance(each, nn.Conv2d)][1]
    above = whence.coverage(model, x, "lrp", target=0, at=whence.layer(name))
    assert 0 < sum(row.count for row in above.rows) < whole
    assert table(above)["convolution"][1] == table(covered("vgg"))["convolution"][1] - 2


def test_a_unit_inside_ends_the_way():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(D)
    found = whence.coverage(model, rows(2, D, (6,)), target=whence.target.neuron("0", 2))
    assert "relu" not in table(found) and table(found)["addmm"][1] == 1


# ---- every architecture ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["deeplift", "lrp"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_complete(name, method):
    found = covered(name, method)
    assert found.complete and found.rows and found.unknown == ()
    assert all(row.count >= 1 and row.family in whence.rule.FAMILIES for row in found.rows)
    linear = [row for row in found.rows if row.family in ("move", "sum", "scale")]
    assert {row.rule for row in linear} <= {"derivative"}
    nonlinear = {row.family for row in found.rows} & {"relu", "activation", "product", "norm"}
    assert nonlinear
    assert all(row.rule != "derivative" for row in found.rows if row.family in nonlinear)
    unconserved = method == "lrp" and name in ("vit", "transformer")
    assert found.notes == ((whence.rule.UNCONSERVED,) if unconserved else ())


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_without_a_relu_is_told_to_be_refused(name, method):
    notes = covered(name, method).notes
    assert len(notes) == (name in SMOOTH)
    assert all(note.startswith(f"{method} is refused: there is no ReLU") for note in notes)


# It looks at one example, and here each takes a way of its own.
@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet", "deeplift", "lrp"])
@pytest.mark.parametrize("name", [name for name in AWKWARD if name != "row_branch"])
def test_what_it_says_is_what_happens(name, method):
    at = whence.layer("embedding") if name == "embedding" else None
    found = covered(name, method, at=at)
    told = not found.complete or any("is refused" in note for note in found.notes)
    case, refused = AWKWARD[name], False
    try:
        whence.explain(case.make().to(D), case.inputs(2, D), method, target=0, at=at)
    except whence.Refused:
        refused = True
    assert told == refused


@pytest.mark.parametrize("spelling", RELUS)
def test_a_relu_is_one_however_it_is_spelt(spelling):
    model = settled(spelling, lambda: Between(RELUS[spelling])).to(D)
    for method, rule in (("guided_backprop", "max(g, 0) · 1[x > 0]"), ("deconvnet", "max(g, 0)")):
        found = whence.coverage(model, rows(2, D, (6,)), method, target=0)
        assert [(row.count, row.rule) for row in found.rows if row.family == "relu"] == [(1, rule)]
        assert found.notes == ()


@pytest.mark.parametrize(
    "spec, convolution, dense",
    [
        ("epsilon", "epsilon", "epsilon"),
        ("epsilon_plus", "alpha_beta", "epsilon"),
        ("epsilon_gamma_box", "gamma (first: box)", "epsilon (first: box)"),
        (composite.gamma(), "gamma", "gamma"),
        (
            composite.Composite(layers={"fc": composite.flat()}, positions={-1: composite.w_squared()}),
            "epsilon (fc: flat, -1: w_squared)",
            "epsilon (fc: flat, -1: w_squared)",
        ),
    ],
)
def test_the_rules_of_a_composite_are_named(spec, convolution, dense):
    met = table(covered("resnet", "lrp", composite=spec))
    assert (met["convolution"][2], met["addmm"][2]) == (convolution, dense)


# ---- what no rule knows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["deeplift", "lrp", "guided_backprop"])
def test_an_unknown_operation_is_told_with_its_line(method):
    found = covered("custom_mixing", method)
    assert not found.complete
    [row] = found.unknown
    assert (row.operation, row.family, row.rule) == ("CumulativeSoftmaxBackward", None, certificate.REFUSED)
    assert not row.known
    path, _, line = row.place.partition(":")
    assert Path(path) == HERE / "architectures" / "functions.py" and int(line) > 0
    assert f"no rule knows {row.operation}" in str(found)


def test_a_gradient_method_passes_what_no_rule_knows_and_says_that_it_is_unknown():
    [row] = covered("custom_mixing", "saliency").unknown
    assert row.rule == "derivative"


def test_complex_numbers_are_not_taken_for_known():
    assert [row.operation for row in covered("complex_spectrum").unknown] == ["abs"]


# ---- around it ---------------------------------------------------------------------------------------------


def test_printed_it_is_a_table():
    lines = str(covered("resnet")).splitlines()
    found = covered("resnet")
    assert lines[0].split() == ["operation", "calls", "family", "rule", "first", "called", "at"]
    assert len(lines) == len(found.rows) + 2
    for column in ("calls", "family", "rule"):
        start = lines[0].index(column)
        assert all(line[start - 1] == " " and line[start] != " " for line in lines[1:-1])
    assert lines[-1] == "deeplift: every operation is known"
    [note] = covered("vit", "guided_backprop").notes
    assert str(covered("vit", "guided_backprop")).splitlines()[-1] == note


def test_methods_are_named_as_in_explain():
    by_class, by_object, by_name = (
        covered("mlp", method) for method in (whence.DeepLift, whence.DeepLift(), "deeplift")
    )
    assert table(by_class) == table(by_object) == table(by_name)
    with pytest.raises(whence.BadInput, match="did you mean 'deeplift'"):
        covered("mlp", "deeplft")
    with pytest.raises(whence.BadInput, match="class 9 is out of range"):
        whence.coverage(ARCHITECTURES["mlp"].make(), ARCHITECTURES["mlp"].inputs(2, torch.float32), target=9)
    with pytest.raises(whence.BadInput, match="layer"):
        covered("mlp", "lrp", composite=composite.Composite(layers={"absent": composite.flat()}))


def test_a_black_box_has_no_operations():
    with pytest.raises(whence.UnsupportedByBackend, match="black box"):
        whence.coverage(lambda x: x @ np.ones((3, 2)), np.ones((2, 3)))


@pytest.mark.parametrize("method", ["deeplift", "lrp", "guided_backprop", "saliency"])
def test_the_model_is_untouched_and_the_second_call_equals_the_first(method):
    model, x = busy(), pictures().requires_grad_()
    before = state_of(model, x)
    first, second = (whence.coverage(model, x, method, target=0) for _ in range(2))
    assert_same(before, state_of(model, x))
    assert first.rows == second.rows
