# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""Every rule on every architecture: an example's answer is its own, whatever the batch, the chunk and the precision."""

import pytest

torch = pytest.importorskip("torch")

import whence
from architectures import ARCHITECTURES, AWKWARD, base
from models import assert_same, relative, state_of
from whence import composite

pytestmark = pytest.mark.usefixtures("one_thread")
D = torch.float64
# Networks without a ReLU, for which guided backprop and DeconvNet are the plain gradient and refuse.
SMOOTH = ("cnn_1d", "lstm", "efficientnet", "vit", "transformer")
REFUSED = ("custom_mixing", "complex_spectrum")


def asked(method):
    """Return a method of this test's names with its settings."""
    name, _, setting = method.partition(" ")
    return name, {"composite": setting} if setting else {}


METHODS = ("guided_backprop", "deconvnet", "deeplift", *(f"lrp {name}" for name in composite.NAMED))
CASES = [
    (name, method)
    for name in ARCHITECTURES
    for method in METHODS
    if method not in ("guided_backprop", "deconvnet") or name not in SMOOTH
]
# These composites meet every rule; the others mix the same ones anew.
ENOUGH = ("lrp epsilon", "lrp epsilon_gamma_box", "lrp epsilon_alpha2_beta1_flat")
each_rule = pytest.mark.parametrize(
    "name, method",
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case[1].startswith("lrp") and case[1] not in ENOUGH))
        for case in CASES
    ],
)


@each_rule
def test_row_05_an_example_is_explained_as_if_it_were_alone(name, method):
    case = ARCHITECTURES[name]
    model, x = case.make().to(D), case.inputs(4, D)
    # Unequal in size, and one that is empty.
    x[1], x[2] = 0.05 * x[1], 0.0
    cls, settings = asked(method)
    other = case.inputs(8, D)[4:]
    for target, rows in ((0, range(4)), ("all", (1,))):
        several = {"baseline": [other, 0 * x]} if cls == "deeplift" else {}
        together = whence.explain(model, x, cls, target=target, **settings, **several)
        for row in rows:
            one = slice(row, row + 1)
            own = {"baseline": [other[one], 0 * x[one]]} if several else {}
            alone = whence.explain(model, x[one], cls, target=target, **settings, **own)
            assert torch.isfinite(alone.values).all()
            assert relative(together.values[one], alone.values, 1e-9) <= 1e-10, (target, row)


@each_rule
def test_chunks_do_not_show(name, method):
    case = ARCHITECTURES[name]
    model, x = case.make().to(D), case.inputs(5, D)
    cls, settings = asked(method)
    whole, part = (whence.explain(model, x, cls, target=1, chunk=chunk, **settings) for chunk in (5, 2))
    assert relative(part.values, whole.values) <= 1e-10
    assert relative(part.output, whole.output) <= 1e-12


def test_deepshap_chunks_do_not_show_either():
    case = ARCHITECTURES["resnet"]
    model, x, rows = case.make().to(D), case.inputs(5, D), case.inputs(8, D)[5:]
    whole = whence.explain(model, x, "deepshap", target=0, baseline=rows, chunk=5)
    part = whence.explain(model, x, "deepshap", target=0, baseline=rows, chunk=2)
    assert relative(part.values, whole.values) <= 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@each_rule
def test_half_precision_is_finite_and_near(name, method, dtype):
    case = ARCHITECTURES[name]
    cls, settings = asked(method)
    x = case.inputs(2, dtype)
    model = case.make().to(dtype)
    result = whence.explain(model, x, cls, target=0, **settings)
    assert torch.isfinite(result.values).all() and result.values.dtype == dtype
    exact = whence.explain(model.float(), x.float(), cls, target=0, **settings)
    # α2β1 divides by small sums, and hands on three times what it takes: rounding grows from layer to layer.
    if "alpha" not in method:
        assert relative(result.values, exact.values) <= (0.1 if dtype == torch.float16 else 0.5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mobilenet_v3", "transformer", "unet", "lstm"])
def test_the_model_and_the_inputs_stay_as_they_are(name, method):
    case = ARCHITECTURES[name]
    model, x = case.make(), case.inputs(2, torch.float32).requires_grad_()
    model.train()
    before = state_of(model, x)
    cls, settings = asked(method)
    if name in SMOOTH and cls in ("guided_backprop", "deconvnet"):
        with pytest.raises(whence.Refused):
            whence.explain(model, x, cls, target=0)
    else:
        whence.explain(model, x, cls, target=0, **settings)
    assert_same(before, state_of(model, x))


@pytest.mark.parametrize("name", [name for name in AWKWARD if name not in REFUSED])
def test_awkward_models_have_answers_of_their_own_too(name):
    case = AWKWARD[name]
    model, x = case.make().to(D), case.inputs(4, D)
    at = whence.layer("embedding") if name == "embedding" else None
    for cls, settings in (
        ("deeplift", {"baseline": 0 * x}),
        ("lrp", {}),
        ("lrp", {"composite": "epsilon_alpha2_beta1_flat"}),
    ):
        if name == "row_branch" and cls == "deeplift":
            continue
        together = whence.explain(model, x, cls, target=0, at=at, **settings)
        for row in range(4):
            one = slice(row, row + 1)
            own = {key: each[one] if key == "baseline" else each for key, each in settings.items()}
            alone = whence.explain(model, x[one], cls, target=0, at=at, **own)
            assert torch.isfinite(alone.values).all()
            assert relative(together.values[one], alone.values, 1e-9) <= 1e-10


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nothing_is_passed_over(name):
    """No note, no refusal: each operation has a rule. Only LRP says what attention keeps it from conserving."""
    case = ARCHITECTURES[name]
    model, x = case.make().to(D), case.inputs(2, D)
    assert whence.explain(model, x, "deeplift", target=0).notes == []
    every = whence.explain(model, x, "lrp", target=0).notes
    notes = [note for note in every if "keep (or make)" not in note and "has grown" not in note]
    assert notes == [] or (name in ("vit", "transformer") and "softmax" in notes[0])


def test_the_yardsticks_are_the_ones_that_were_asked_for():
    assert len(ARCHITECTURES) >= 12 and base.rows(2, D, (3,)).shape == (2, 3)
