"""The yardsticks themselves: seeded, small, in eval mode, one example at a time, and as nasty as they say."""

import time

import pytest
import torch

from models import assert_same, relative, state_of

from . import ACTIVATIONS, ARCHITECTURES, AWKWARD, RELUS

EVERY = ARCHITECTURES | AWKWARD
every = pytest.mark.parametrize("name", EVERY)
D = torch.float64


@every
def test_two_makings_and_two_runs_are_the_same(name):
    case = EVERY[name]
    one, two = case.make().to(D), case.make().to(D)
    assert not any(module.training for module in one.modules())
    x = case.inputs(4, D)
    y = one(x)
    assert y.ndim == 2 and len(y) == 4 and torch.isfinite(y).all()
    assert torch.equal(y, two(x)) and torch.equal(y, one(case.inputs(4, D)))
    assert y.std(0).min() > 1e-4, "the examples' answers differ"


@every
def test_an_example_does_not_see_its_mates(name):
    case = EVERY[name]
    model, x = case.make().to(D), case.inputs(4, D)
    alone = torch.cat([model(x[i : i + 1]) for i in range(4)])
    assert relative(alone, model(x)) < 1e-12
    assert torch.equal(case.inputs(2, D), x[:2])


@every
def test_a_forward_pass_takes_milliseconds_and_leaves_no_trace(name):
    case = EVERY[name]
    model, x = case.make(), case.inputs(4, torch.float32)
    before = state_of(model, x)
    model(x)
    start = time.perf_counter()
    model(x)
    assert time.perf_counter() - start < 0.2
    assert_same(before, state_of(model, x))


@pytest.mark.parametrize("name", [each for each in EVERY if each != "embedding"])
def test_the_output_depends_on_the_input(name):
    case = EVERY[name]
    x = case.inputs(3, D).requires_grad_()
    (gradient,) = torch.autograd.grad(case.make().to(D)(x)[:, 0].sum(), x)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", [each for each in EVERY if EVERY[each].layer])
def test_the_layer_for_grad_cam_gives_one_tensor_with_channels(name):
    case = EVERY[name]
    model, seen = case.make(), []
    model.get_submodule(case.layer).register_forward_hook(lambda module, given, output: seen.append(output))
    model(case.inputs(2, torch.float32))
    assert len(seen) == 1 and seen[0].ndim >= 3 and len(seen[0]) == 2


def test_the_spellings_are_one_function():
    h = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=D)
    for name, relu in RELUS.items():
        assert torch.equal(relu(h), h.clamp(min=0)), name


def test_activations_are_elementwise():
    h = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=D)
    for name, function in ACTIVATIONS.items():
        one = torch.stack([function(each) for each in h.flatten()[:, None]]).reshape(3, 8)
        assert torch.allclose(function(h), one, rtol=1e-14), name


def test_the_custom_functions_have_right_gradients():
    from .functions import CumulativeSoftmax, Swish

    h = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=D).requires_grad_()
    assert torch.autograd.gradcheck(Swish.apply, h) and torch.autograd.gradcheck(CumulativeSoftmax.apply, h)


def test_the_first_overlapping_pool_is_the_one_of_the_papers():
    case = AWKWARD["overlapping_pool"]
    x = case.inputs(2, D)
    assert x[0].flatten().tolist() == [1, 5, 1, 2] and case.make().to(D)(x)[0].item() == 12
