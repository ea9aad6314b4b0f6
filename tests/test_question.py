# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""The shortcut of a given class: a model that was steady shows one row before it is explained, and nothing changes."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn

import whence
from models import relative, seeded, unexpected
from whence import question, target

D = torch.float64
SHORT = {
    "int": 1,
    "negative": -1,
    "list": [2, 0, 1, 1],
    "array": torch.tensor([2, 0, 1, 1]),
    "logit": target.logit(1),
    "logits": target.logit([2, 0, 1, 1]),
}
LONG = {
    "top": None,
    "all": "all",
    "margin": target.margin(1),
    "probability": target.probability(1),
    "callable": lambda y: y[:, 0],
}
METHODS = (
    "saliency",
    "integrated_gradients",
    "guided_backprop",
    "deeplift",
    "lrp",
    "smoothgrad",
    "sensitivity",
)
DETERMINISTIC = "not deterministic"


class Counted(nn.Module):
    """[B, 4] -> [B, 3], which counts the rows of each of its calls; `bad` makes an output or its gradient NaN."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.noise, self.mixes, self.rows = 0.0, False, []

    def forward(self, x):
        self.rows.append(len(x))
        h = self.first(x).relu()
        if self.noise:
            h = nn.functional.dropout(h, self.noise, training=True)
        if self.mixes:
            h = h + h.mean(0)
        # NaN below −100: in the value and in the derivative. Above 100: in the value alone.
        y = self.last(h) + 0 * (x[:, :1] + 100).sqrt()
        return y + torch.where(x[:, :1] > 100, torch.nan, 0.0)


def network():
    return seeded(4, Counted).double().eval()


def six(batch=4):
    return seeded(5, lambda: torch.randn(batch, 4, dtype=D))


def settings(method):
    return {"samples": 3} if method == "smoothgrad" else {}


@pytest.fixture
def seen(monkeypatch):
    """Collect how many rows the model is asked for before it is explained."""
    found = []
    answer = question._answer
    monkeypatch.setattr(question, "_answer", lambda raw: found.append(len(raw.rows)) or answer(raw))
    return found


@pytest.mark.parametrize("name", SHORT)
def test_a_steady_model_with_a_given_class_shows_one_row(name, seen):
    model, x = network(), six()
    for _ in range(3):
        whence.explain(model, x, "saliency", target=SHORT[name])
    assert seen == [4, 1, 1]


@pytest.mark.parametrize("name", LONG)
def test_other_targets_need_all_rows(name, seen):
    model, x = network(), six()
    for _ in range(2):
        whence.explain(model, x, "saliency", target=LONG[name])
    assert seen == [4, 4]


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("method", METHODS)
def test_the_short_way_says_what_the_long_one_says(method, name, seen):
    model, x = network(), six()
    long, short = (whence.explain(model, x, method, target=SHORT[name], **settings(method)) for _ in range(2))
    assert seen[:2] == [4, 1]
    assert relative(short.values, long.values) <= 1e-12
    assert relative(short.output, long.output) <= 1e-12
    assert torch.equal(short.target, long.target)
    assert torch.equal(short.evaluations, long.evaluations)
    assert short.settings["target"] == long.settings["target"]
    assert short.notes == long.notes
    index = torch.as_tensor(SHORT[name].index if name.startswith("logit") else SHORT[name]) % 3
    assert relative(short.output, model(x)[range(4), index.expand(4)]) <= 1e-12


def test_at_a_layer_too():
    model, x = network(), six()
    asked = {"target": [0, 1, 2, 0], "at": whence.layer("first")}
    long, short = (whence.explain(model, x, "integrated_gradients", **asked) for _ in range(2))
    assert relative(short.values, long.values) <= 1e-12
    assert relative(short.output, long.output) <= 1e-12
    assert short.notes == long.notes


@pytest.mark.parametrize("value", [1000.0, -1000.0], ids=["value", "derivative"])
@pytest.mark.parametrize("method", METHODS)
def test_an_output_that_is_nan_in_a_later_row_is_refused_the_same_way(method, value):
    model, x = network(), six()
    whence.explain(model, x, method, target=0, **settings(method))
    x[2, 0] = value
    for _ in range(2):
        with pytest.raises(whence.BadInput, match="output is NaN or infinite"):
            whence.explain(model, x, method, target=0, **settings(method))


def test_what_a_method_refuses_is_still_its_own_sentence():
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double(), six()
    whence.explain(model, x, "saliency", target=0)
    with pytest.raises(whence.Refused, match="there is none"):
        whence.explain(model, x, "guided_backprop", target=0)


@pytest.mark.parametrize(
    "which, words",
    [
        (3, "class 3 is out of range; the model has 3"),
        (-4, "class -4 is out of range"),
        ([0, 1, 2, 3], "class 3 is out of range"),
        (torch.tensor([0, -4, 2, 1]), "class -4 is out of range"),
        (target.logit([0, 1, 2, 7]), "class 7 is out of range"),
        ([0, 1, 2], "3 targets for 4 examples"),
        ([0], "1 targets for 4 examples"),
        ([0.5, 1, 1, 1], "not an int"),
        (torch.zeros(4, 1, dtype=torch.long), "not an int"),
    ],
)
def test_classes_that_do_not_fit_are_refused(which, words):
    model, x = network(), six()
    whence.explain(model, x, "saliency", target=0)
    with pytest.raises(whence.BadInput, match=words):
        whence.explain(model, x, "saliency", target=which)


def test_a_model_that_draws_lots_is_noted_on_every_call():
    model, x = network(), six()
    model.noise = 0.5
    for _ in range(3):
        assert DETERMINISTIC in " ".join(whence.explain(model, x, "saliency", target=0).notes)


def test_a_model_that_begins_to_draw_lots_is_noted_from_then_on():
    model, x = network(), six()
    for _ in range(2):
        assert unexpected(whence.explain(model, x, "saliency", target=0).notes) == []
    model.noise = 0.5
    for _ in range(2):
        assert DETERMINISTIC in " ".join(whence.explain(model, x, "saliency", target=0).notes)
    model.noise = 0.0
    assert whence.explain(model, x, "saliency", target=0).notes == []


def test_a_model_that_mixes_its_examples_never_takes_the_short_way(seen):
    model, x = network(), six()
    model.mixes = True
    for _ in range(3):
        assert "mixes the examples" in " ".join(whence.explain(model, x, "saliency", target=0).notes)
    assert 1 not in seen


def test_a_head_of_other_classes_is_seen_at_once():
    model, x = network(), six()
    for _ in range(2):
        whence.explain(model, x, "saliency", target=2)
    model.last = seeded(9, lambda: nn.Linear(8, 5)).double()
    found = whence.explain(model, x, "saliency", target=4)
    assert relative(found.output, model(x)[:, 4]) <= 1e-12
    model.last = seeded(9, lambda: nn.Linear(8, 2)).double()
    with pytest.raises(whence.BadInput, match="class 2 is out of range; the model has 2"):
        whence.explain(model, x, "saliency", target=2)
    found = whence.explain(model, x, "saliency", target=-1)
    assert found.target.tolist() == [1] * 4
    assert relative(found.output, model(x)[:, 1]) <= 1e-12


def test_other_weights_are_the_model_that_is_explained():
    model, x = network(), six()
    for _ in range(2):
        whence.explain(model, x, "input_x_gradient", target=1)
    with torch.no_grad():
        model.last.weight.mul_(2)
    doubled = whence.explain(model, x, "input_x_gradient", target=1)
    assert relative(doubled.output, model(x)[:, 1]) <= 1e-12


def test_one_example_is_as_short_as_long(seen):
    model, x = network(), six(1)
    one, two = (whence.explain(model, x, "saliency", target=[2]) for _ in range(2))
    assert torch.equal(one.values, two.values) and torch.equal(one.output, two.output)
    assert seen == [1, 1]


def test_rows_that_are_out_of_memory_halve_as_ever():
    """The first row fits, and many at once do not."""

    class Narrow(Counted):
        def forward(self, x):
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    model, x = seeded(4, Narrow).double().eval(), six(6)
    long, short = (whence.explain(model, x, "saliency", target=0) for _ in range(2))
    assert relative(short.values, long.values) <= 1e-12
    assert short.notes == long.notes
