# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

import whence
from whence import target
from whence.errors import BadInput

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def close(values, wanted, tolerance=1e-10):
    wanted = torch.as_tensor(wanted, dtype=F64)
    assert torch.allclose(torch.as_tensor(values), wanted, rtol=tolerance, atol=tolerance), (values, wanted)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 10)).double()


X = normal(3, 4, seed=5)


def gradient(function, x=X):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def slopes(model, which, x=X, **options):
    return whence.explain(model, x, whence.Saliency(absolute=False), target=which, **options)


ROWS, LABELS = range(3), [2, 0, 9]
KINDS = {
    "logit": (target.logit(3), lambda y: y[:, 3]),
    "logits": (target.logit(LABELS), lambda y: y[ROWS, LABELS]),
    "top": (target.logit(), lambda y: y.amax(1)),
    "probability": (target.probability(3), lambda y: y.softmax(1)[:, 3]),
    "log probability": (target.log_probability(3), lambda y: y.log_softmax(1)[:, 3]),
    "margin": (target.margin(3, 7), lambda y: y[:, 3] - y[:, 7]),
    "margin to the runner-up": (target.margin(), lambda y: y.topk(2).values @ torch.tensor([1.0, -1.0], dtype=F64)),
    "loss": (target.loss(LABELS), lambda y: functional.cross_entropy(y, torch.tensor(LABELS), reduction="none")),
    "an int": (3, lambda y: y[:, 3]),
    "a negative int": (-1, lambda y: y[:, 9]),
    "a NumPy int": (np.int64(3), lambda y: y[:, 3]),
    "ints": (LABELS, lambda y: y[ROWS, LABELS]),
    "an array": (np.array(LABELS), lambda y: y[ROWS, LABELS]),
    "a tensor": (torch.tensor(LABELS), lambda y: y[ROWS, LABELS]),
    "nothing": (None, lambda y: y.amax(1)),
    "a callable": (lambda y: (y**2).sum(1), lambda y: (y**2).sum(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_values_are_the_gradient_of_the_target(net, name):
    which, function = KINDS[name]
    close(slopes(net, which).values, gradient(lambda x: function(net(x))))


@pytest.mark.parametrize("name", KINDS)
def test_output_is_the_target_at_the_input(net, name):
    which, function = KINDS[name]
    close(slopes(net, which).output, function(net(X)).detach())


@pytest.mark.parametrize("name", KINDS)
def test_integrated_gradients_of_every_kind_are_complete(net, name):
    result = whence.explain(net, X, target=KINDS[name][0], steps=60)
    assert float(result.residual.abs().max()) < 1e-9
    close(result.values.sum(1), result.output - result.baseline_output, 1e-9)


# ---- what is recorded --------------------------------------------------------------------------------------


def test_the_top_class_is_recorded(net):
    assert torch.equal(slopes(net, None).target, net(X).argmax(1))


def test_the_top_class_is_that_of_the_input_and_stays_along_the_path():
    # The first class leads at the input, the second near the baseline: the first is explained throughout.
    model = lambda x: torch.stack([3 * x[:, 0], 1 + x[:, 0]], 1)  # noqa: E731
    result = whence.explain(model, torch.ones(1, 1, dtype=F64), steps=4)
    close(result.values, [[3.0]])


def test_the_class_of_each_example_is_recorded(net):
    assert slopes(net, LABELS).target.tolist() == LABELS


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (3, "logit of class 3"),
        (target.probability(2), "probability of class 2"),
        (target.log_probability(2), "log-probability of class 2"),
        (target.margin(1, 2), "class 1 .*class 2"),
        (target.loss(LABELS), "loss .*one per example"),
        ("all", "every class"),
        (target.neuron("1", 2), r"neuron\('1', 2\)"),
    ],
)
def test_the_settings_say_in_words_what_was_explained(net, which, words):
    assert re.search(words, slopes(net, which).settings["target"])


@pytest.mark.parametrize(
    ("which", "text"),
    [
        (target.logit(3), "logit(3)"),
        (target.margin(1, 2), "margin(1, 2)"),
        (target.margin(other=2), "margin(None, 2)"),
        (target.margin(), "margin()"),
        (target.neuron("fc", (1, 2)), "neuron('fc', (1, 2))"),
    ],
)
def test_targets_print_as_the_call_that_makes_them(which, text):
    assert repr(which) == text


# ---- probabilities -----------------------------------------------------------------------------------------


def test_outputs_that_are_probabilities_already_are_not_normalised_again(net):
    model = nn.Sequential(net, nn.Softmax(1))
    close(slopes(model, target.probability(3)).values, slopes(net, target.probability(3)).values)
    close(slopes(model, target.log_probability(3)).values, slopes(net, target.log_probability(3)).values)
    close(slopes(model, target.loss(LABELS)).values, slopes(net, target.loss(LABELS)).values)


def test_a_single_logit_has_a_sigmoid_as_its_probability():
    x = torch.tensor([[-3.0], [4.0]], dtype=F64)
    close(slopes(lambda x: 2 * x, target.probability(0), x).output, torch.sigmoid(2 * x[:, 0]))
    close(slopes(lambda x: 2 * x, target.log_probability(0), x).output, functional.logsigmoid(2 * x[:, 0]))


@pytest.mark.parametrize("logit", [-2000.0, 2000.0])
def test_the_log_probability_of_an_extreme_logit_is_finite(logit):
    result = slopes(lambda x: x + logit, target.log_probability(0), torch.zeros(1, 1, dtype=F64))
    close(result.output, [min(logit, 0)])
    close(result.values, [[1.0 if logit < 0 else 0.0]])


def test_the_probabilities_sum_to_one_so_that_their_shares_cancel(net):
    total = sum(whence.explain(net, X, target=target.probability(k), steps=50).values for k in range(10))
    close(total, torch.zeros(3, 4))


def test_a_margin_is_the_difference_of_two_single_runs(net):
    one, two, both = (whence.explain(net, X, target=t, steps=30).values for t in (3, 7, target.margin(3, 7)))
    close(both, one - two)


def test_the_runner_up_of_a_chosen_class_is_the_best_other(net):
    y = net(X).detach()
    others = y.clone()
    others[:, 3] = -torch.inf
    close(slopes(net, target.margin(3)).output, y[:, 3] - others.amax(1))


def test_the_runner_up_of_negative_outputs_is_not_the_class_itself(net):
    y = net(X).detach() - 100
    others = y.clone()
    others[:, 3] = -torch.inf
    close(slopes(lambda x: net(x) - 100, target.margin(3)).output, y[:, 3] - others.amax(1))


def test_a_margin_may_name_one_class_per_example(net):
    y = net(X).detach()
    close(slopes(net, target.margin(LABELS, [1, 1, 1])).output, y[ROWS, LABELS] - y[:, 1])


# ---- all classes -------------------------------------------------------------------------------------------

ALL = {
    "saliency": {},
    "input_x_gradient": {},
    "sensitivity": {},
    "integrated_gradients": {"steps": 15},
    "guided_integrated_gradients": {"steps": 6},
    "expected_gradients": {"baseline": normal(5, 4, seed=6), "samples": 20},
    "smoothgrad": {"samples": 5},
    "vargrad": {"samples": 5},
}


@pytest.mark.parametrize("method", ALL)
def test_all_classes_equal_ten_single_runs(net, method):
    every = whence.explain(net, X, method, target="all", **ALL[method])
    singles = [whence.explain(net, X, method, target=k, **ALL[method]) for k in range(10)]
    for name in ("values", "standard_error", "residual", "output", "baseline_output", "converged"):
        if getattr(every, name) is not None:
            wanted = torch.stack([getattr(single, name).to(F64) for single in singles], 1)
            close(getattr(every, name).to(F64), wanted)


@pytest.mark.parametrize("method", ALL)
def test_one_class_of_all_is_its_single_run(net, method):
    every = whence.explain(net, X, method, target="all", **ALL[method]).for_class(4)
    single = whence.explain(net, X, method, target=4, **ALL[method])
    close(every.values, single.values)
    assert every.target.tolist() == [4, 4, 4] and every.converged.shape == (3,)


def test_all_classes_share_their_forward_passes(net):
    rows = 0

    class Counted(nn.Module):
        def forward(self, x):
            nonlocal rows
            rows += len(x) if x.requires_grad else 0
            return net(x)

    whence.explain(Counted(), X, target="all", steps=7)
    assert rows == 3 * 7


def test_all_classes_to_a_tolerance_converge_class_by_class(net):
    result = whence.explain(net, X, target="all", rtol=0.01)
    assert result.error.shape == result.converged.shape == result.residual.shape == (3, 10)
    assert result.converged.all() and float(result.error.max()) <= 0.01


def test_a_class_that_ran_out_of_evaluations_is_told_from_one_that_did_not():
    model = lambda x: torch.stack([x.sum(1), torch.relu(x.sum(1) - 0.31)], 1)  # noqa: E731
    result = whence.explain(model, torch.ones(1, 1, dtype=F64), target="all", rtol=1e-4, max_evaluations=40)
    assert result.converged.tolist() == [[True, False]]
    assert any(note.startswith("1 of 1 examples") for note in result.notes)


def test_for_class_of_a_single_target_is_refused(net):
    with pytest.raises(BadInput, match="ask for target"):
        slopes(net, 3).for_class(3)


@pytest.mark.parametrize("index", [10, -11])
def test_for_class_out_of_range_is_refused(net, index):
    with pytest.raises(BadInput, match="10 classes"):
        slopes(net, "all").for_class(index)


def test_for_class_counts_from_the_end_too(net):
    every = slopes(net, "all")
    assert torch.equal(every.for_class(-1).values, every.for_class(9).values)
    assert every.for_class(-1).target.tolist() == [9, 9, 9]


# ---- dense outputs and outputs of their own ----------------------------------------------------------------


@pytest.mark.parametrize("place", [(1, 2), (-1, 0), (0, np.int64(1))])
def test_a_tuple_is_one_place_of_a_dense_output(place):
    model = lambda x: x[:, :2, None] * x[:, None, 1:]  # noqa: E731
    close(slopes(model, place).values, gradient(lambda x: model(x)[(slice(None), *place)]))


@pytest.mark.parametrize("place", [(2, 0), (0, 3), (0,), (0, 0, 0), (0, 1.5)])
def test_a_place_outside_the_output_is_refused(place):
    with pytest.raises(BadInput, match="axes after the batch"):
        slopes(lambda x: x[:, :2, None] * x[:, None, 1:], place)


@pytest.mark.parametrize("which", [None, 3, "all"])
def test_a_dense_output_needs_a_place(which):
    with pytest.raises(BadInput, match=r"the output has shape|needs an output"):
        slopes(lambda x: x[:, :, None] * x[:, None, :], which)


@pytest.mark.parametrize("which", [None, 0])
def test_one_number_per_example_is_its_own_target(which):
    result = slopes(lambda x: x.sum(1), which)
    close(result.values, torch.ones(3, 4))


@pytest.mark.parametrize("which", [1, "all", [0, 1, 2]])
def test_one_number_per_example_has_no_classes(which):
    with pytest.raises(BadInput, match="its own target"):
        slopes(lambda x: x.sum(1), which)


# ---- neurons -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 5, -1])
def test_a_neuron_is_the_network_cut_off_there(net, index):
    cut = lambda x: net[1](net[0](x))[:, index]  # noqa: E731
    result, wanted = (whence.explain(*each, steps=20) for each in ((net, X), (cut, X)))
    result = whence.explain(net, X, target=target.neuron("1", index), steps=20)
    close(result.values, wanted.values)
    close(result.output, cut(X).detach())


def test_a_neuron_of_a_convolution_is_one_place_or_a_whole_channel():
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 2)).double()
    x = normal(2, 1, 5, 5)
    cut = lambda x: conv[1](conv[0](x))  # noqa: E731
    close(slopes(conv, target.neuron("1", (2, 0, 1)), x).values, gradient(lambda x: cut(x)[:, 2, 0, 1], x))
    close(slopes(conv, target.neuron("1", 2), x).values, gradient(lambda x: cut(x)[:, 2], x))


def test_a_neuron_of_a_module_that_is_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.layer(torch.tanh(self.layer(x)))

    net = Twice()
    first = lambda x: net.layer(x)[:, 1]  # noqa: E731
    second = lambda x: net(x)[:, 1]  # noqa: E731
    close(slopes(net, target.neuron("layer", 1)).values, gradient(first))
    close(slopes(net, target.neuron("layer", 1, call=1)).values, gradient(second))


def test_a_neuron_needs_nothing_after_it_to_run(net):
    class Broken(nn.Module):
        def forward(self, x):
            raise AssertionError("this must not run")

    broken = nn.Sequential(net[0], net[1], Broken())
    assert slopes(broken, target.neuron("1", 0)).values.shape == (3, 4)


@pytest.mark.parametrize("index", [8, -9, (0, 0), (8,)])
def test_a_neuron_out_of_range_is_refused(net, index):
    with pytest.raises(BadInput, match="out of range"):
        slopes(net, target.neuron("1", index))


def test_an_unknown_layer_offers_near_names():
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("features", nn.Linear(4, 2).double())
    with pytest.raises(BadInput, match="did you mean 'features'"):
        slopes(model, target.neuron("feature", 0))


def test_a_neuron_goes_with_a_layer_before_it_and_with_none_after_it(net):
    assert slopes(net, target.neuron("1", 0), at=whence.layer("0")).values.abs().sum() > 0
    with pytest.raises(BadInput, match="runs only after"):
        slopes(net, target.neuron("0", 0), at=whence.layer("1"))


# ---- what cannot be meant ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (10, "class 10 is out of range"),
        (-11, "class -11 is out of range"),
        ([0, 1, 10], "class 10 is out of range"),
        (target.logit(10), "class 10 is out of range"),
        (target.margin(0, 12), "class 12 is out of range"),
        (target.loss([0, 1, 77]), "class 77 is out of range"),
        ([0, 1], "2 targets for 3 examples"),
        (np.zeros((3, 1), dtype=int), "not an int or one int per example"),
        (1.5, "not an int"),
        ([0.0, 1.0, 2.0], "not an int"),
        (True, "not an int"),
        ("cat", "the only word is"),
        ((1, 2), "axes after the batch"),
        (lambda y: y, "must give one number each"),
        (lambda y: y.sum(), "must give one number each"),
        (lambda y: 3.0, "must give one number each"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(net, which, words):
    with pytest.raises(BadInput, match=words) as caught:
        slopes(net, which)
    assert "\n" not in str(caught.value)


def test_a_margin_of_a_single_class_is_refused():
    with pytest.raises(BadInput, match="two classes"):
        slopes(lambda x: x[:, :1], target.margin())
