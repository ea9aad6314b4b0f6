# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""DeconvNet of some filters: the chosen ones of a layer against a twin in two stages, example by example."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn

import whence
from models import assert_same, pictures, relative, seeded, state_of

D = torch.float64


class Projected(torch.autograd.Function):
    """max(x, 0), of which whatever is positive is passed back."""

    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        return g.clamp(min=0)


def network(inplace=False, first=nn.ReLU):
    """[B, 1, 6, 6] -> [B, 3]: convolution 0, ReLU 1, convolution 2, ReLU 3, and a linear head 5."""

    def make():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), first(inplace) if first is nn.ReLU else first(), nn.Conv2d(4, 5, 3, padding=1),
            nn.ReLU(inplace), nn.Flatten(), nn.Linear(80, 3),
        )  # fmt: skip

    return seeded(1, make).double().eval()


def run(layers, x, projected=False):
    """Run layers, out of place; `projected` passes back through their ReLUs as the paper says."""
    for layer in layers:
        relu = Projected.apply if projected else torch.relu
        x = relu(x) if isinstance(layer, nn.ReLU) else layer(x)
    return x


def slope(function, x, weight):
    x = x.detach().requires_grad_()
    return torch.autograd.grad((function(x) * weight).sum(), x)[0]


def twin(model, x, target, cut, top_k):
    """Project one example [1, ...] back: to the layer, through the mask of the chosen filters, to the input."""
    below, above = model[: cut + 1], model[cut + 1 :]
    z = run(below, x).detach()
    one = torch.zeros(3, dtype=D)
    one[target] = 1
    contributions = (z * slope(lambda z: run(above, z), z, one))[0].flatten(1).sum(1).tolist()
    signal = slope(lambda z: run(above, z, projected=True), z, one)
    for filter in sorted(range(len(contributions)), key=lambda k: (-contributions[k], k))[top_k:]:
        signal[:, filter] = 0
    return slope(lambda x: run(below, x, projected=True), x, signal)


@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@pytest.mark.parametrize("cut, top_k", [(0, 1), (0, 3), (1, 2), (2, 1), (2, 4), (3, 2)])
def test_some_filters_are_the_twin_in_two_stages(cut, top_k, inplace):
    model, x = network(inplace), pictures(4, dtype=D)
    found = whence.explain(model, x, "deconvnet", target=1, layer=str(cut), top_k=top_k)
    for row in range(4):
        wanted = twin(model, x[row : row + 1], 1, cut, top_k)
        assert wanted.abs().sum() > 0
        assert relative(found.values[row], wanted[0]) <= 1e-12
    # The output is what is explained, not the filters' value; gradient, signal and projection are three ways back.
    assert relative(found.output, model(x)[:, 1]) <= 1e-12
    assert found.evaluations.tolist() == [3] * 4


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5])
def test_all_filters_of_a_cut_are_all_of_the_output(cut):
    model, x = network(), pictures(3, dtype=D)
    plain = whence.explain(model, x, "deconvnet", target=2)
    filters = {0: 4, 1: 4, 2: 5, 3: 5, 5: 3}[cut]
    every = whence.explain(model, x, "deconvnet", target=2, layer=str(cut), top_k=filters)
    assert relative(every.values, plain.values) <= 1e-12


def test_filters_are_chosen_for_each_example_and_whatever_the_batch():
    model, x = network(), pictures(6, dtype=D)
    together = whence.explain(model, x, "deconvnet", target=0, layer="1", top_k=1)
    parts = whence.explain(model, x, "deconvnet", target=0, layer="1", top_k=1, chunk=2)
    assert relative(parts.values, together.values) <= 1e-12
    for row in range(6):
        alone = whence.explain(model, x[row : row + 1], "deconvnet", target=0, layer="1", top_k=1)
        assert relative(together.values[row], alone.values[0]) <= 1e-12
    z = model[:2](x)
    gradient = slope(model[2:], z, torch.tensor([1.0, 0, 0], dtype=D))
    assert len(set((z * gradient).flatten(2).sum(2).argmax(1).tolist())) > 1


def test_each_example_has_the_filters_of_its_own_target():
    model, x = network(), pictures(3, dtype=D)
    together = whence.explain(model, x, "deconvnet", target=[2, 0, 1], layer="2", top_k=2)
    for row, target in enumerate([2, 0, 1]):
        assert relative(together.values[row], twin(model, x[row : row + 1], target, 2, 2)[0]) <= 1e-12


def test_of_filters_that_contribute_the_same_the_first_are_chosen():
    """Filters 1 and 2 are the same to the output, but see different pixels: it is 1 that is projected back."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, (1, 2), bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3, 1, bias=False)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, None, None])
        model[3].weight.fill_(1.0)
    x = torch.ones(2, 1, 1, 2)
    first = whence.explain(model, x, "deconvnet", target=0, layer="0", top_k=1)
    assert first.values.flatten(1).tolist() == [[1, 0], [1, 0]]
    both = whence.explain(model, x, "deconvnet", target=0, layer="0", top_k=2)
    assert both.values.flatten(1).tolist() == [[1, 1], [1, 1]]


def test_it_is_the_contribution_that_chooses_not_the_signal():
    """Filter 0 contributes 1 · 1, filter 1 3 · (−1): what is projected back is 0, though 1 is larger."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, (1, 2), bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1, bias=False)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]])[:, None, None])
        model[3].weight.copy_(torch.tensor([[1.0, -1.0]]))
    found = whence.explain(model, torch.ones(1, 1, 1, 2), "deconvnet", target=0, layer="1", top_k=1)
    assert found.values.flatten().tolist() == [1, 0]


@pytest.mark.parametrize("cut", [0, 3], ids=["none below", "none above"])
def test_the_relus_may_all_be_on_one_side_of_the_layer(cut):
    model, x = network(), pictures(2, dtype=D)
    found = whence.explain(model, x, "deconvnet", target=0, layer=str(cut), top_k=2)
    assert relative(found.values[:1], twin(model, x[:1], 0, cut, 2)) <= 1e-12


def test_without_any_relu_it_is_the_plain_gradient_and_refused():
    model = network(first=nn.Tanh)
    model[3] = nn.Tanh()
    for fields in ({}, {"layer": "0", "top_k": 2}):
        with pytest.raises(whence.Refused, match=r"there is none.*use saliency"):
            whence.explain(model, pictures(2, dtype=D), "deconvnet", target=0, **fields)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"layer": "1", "top_k": 5}, "top_k is 5 and '1' has 4 filters"),
        ({"layer": "1", "top_k": 0}, "top_k is 0; at least 1"),
        ({"layer": "1", "top_k": 1.5}, "top_k"),
        ({"layer": "1"}, "layer= and top_k= go together"),
        ({"top_k": 2}, "layer= and top_k= go together"),
        ({"layer": "body", "top_k": 2}, "there is no layer 'body'"),
        ({"layer": "1", "top_k": 2, "target": "all"}, 'leave target="all" out'),
        ({"layer": "1", "top_k": 2, "at": whence.layer("0")}, "leave at= out"),
        ({"layer": "1", "top_k": 2, "at": whence.parameters("0.weight")}, "leave at= out"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(fields, words):
    with pytest.raises((whence.BadInput, whence.Refused), match=words):
        whence.explain(network(), pictures(2, dtype=D), "deconvnet", **{"target": 0, **fields})


def test_the_target_may_be_a_unit_above_the_layer():
    model, x = network(), pictures(3, dtype=D)
    found = whence.explain(
        model, x, "deconvnet", target=whence.target.neuron("2", (1, 2, 2)), layer="0", top_k=4
    )
    one = torch.zeros(5, 4, 4, dtype=D)
    one[1, 2, 2] = 1
    wanted = slope(lambda x: run(model[:3], x, projected=True), x, one)
    assert relative(found.values, wanted) <= 1e-12


def test_the_model_is_untouched_and_the_second_call_equals_the_first():
    model, x = network(inplace=True), pictures(3, dtype=D)
    before = state_of(model, x)
    first, second = (whence.explain(model, x, "deconvnet", target=0, layer="2", top_k=2) for _ in range(2))
    assert_same(before, state_of(model, x))
    assert torch.equal(first.values, second.values)
