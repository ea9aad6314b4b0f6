# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""Rules at the operation: guided backprop and DeconvNet against their twins, and the engine under bad treatment."""

import gc
import subprocess
import sys
import threading
import weakref
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import nn

import oracles_rules as rules
import whence
from architectures import ARCHITECTURES, RELUS, asked, base
from architectures.awkward import Between
from architectures.functions import CumulativeSoftmax, Swish
from models import assert_same, relative, state_of
from oracles_chain import Chain
from whence import Refused

pytestmark = pytest.mark.usefixtures("one_thread")
D = torch.float64
RULES = {"guided_backprop": rules.guided, "deconvnet": rules.deconvnet}
METHODS = (*RULES, "deeplift", "lrp")
both = pytest.mark.parametrize("method", RULES)
every_method = pytest.mark.parametrize("method", METHODS)


def between(function, **sizes):
    """Return a function between two linear layers, [B, 6] -> [B, 3], with the same weights at each call."""
    return base.settled("between", lambda: Between(function, **sizes)).to(D)


def six(batch=4):
    return base.rows(batch, D, (6,)) * 2


# ---- the twins ---------------------------------------------------------------------------------------------------


def perceptron():
    model = base.settled("perceptron", lambda: nn.Sequential(
        nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 4))).to(D)  # fmt: skip
    return model, model, base.rows(3, D, (12,))


def lenet():
    """The functional spelling, and the same layers as a chain of modules."""
    model, x = asked("lenet")
    layers = (model.conv1, nn.ReLU(), nn.MaxPool2d(2), model.conv2, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
              model.fc1, nn.ReLU(), model.fc2)  # fmt: skip
    return model, nn.Sequential(*layers), x


def vgg():
    model, x = asked("vgg")
    return model, nn.Sequential(model.features, model.avgpool, nn.Flatten(), model.classifier), x


@pytest.mark.parametrize("make", [perceptron, lenet, vgg])
@both
def test_networks_are_their_twins(method, make):
    model, chain, x = make()
    twin, classes = Chain.of(chain, tuple(x.shape[1:])), model(x).shape[1]
    result = whence.explain(model, x, method, target="all")
    for row in range(len(x)):
        for k in range(classes):
            expected = twin.gradient(x[row].numpy(), np.eye(classes)[k], RULES[method])
            assert relative(result.values[row, k].flatten(), expected) <= 1e-10


@both
def test_the_gate_of_a_relu6_is_shut_at_both_ends(method):
    model, x = between(nn.ReLU6()), six() * 8
    z, g = model.first(x).detach().numpy(), model.last.weight[1].detach().numpy()
    gate = (z > 0) & (z < 6) if method == "guided_backprop" else np.ones_like(z)
    assert gate.sum() > 0 and (z > 6).any(), "some are above"
    expected = (np.maximum(g, 0) * gate) @ model.first.weight.detach().numpy()
    assert relative(whence.explain(model, x, method, target=1).values, expected) <= 1e-12


@every_method
@pytest.mark.parametrize("spelling", RELUS)
def test_row_01_a_relu_is_seen_however_it_is_spelt(method, spelling):
    expected = whence.explain(between(nn.ReLU()), six(), method, target="all")
    found = whence.explain(between(RELUS[spelling]), six(), method, target="all")
    assert relative(found.values, expected.values) <= 1e-12
    plain = whence.explain(between(nn.ReLU()), six(), "saliency", target="all", absolute=False)
    assert relative(found.values, plain.values) > 0.01, "not the plain gradient"


@both
def test_row_02_a_tensor_that_goes_through_a_relu_and_past_it(method):
    model, x = between(lambda h: F.relu(h) + h), six()
    z, g = model.first(x).detach().numpy(), model.last.weight[0].detach().numpy()
    passed = np.stack([RULES[method](each, g) for each in z]) + g
    expected = passed @ model.first.weight.detach().numpy()
    assert relative(whence.explain(model, x, method, target=0).values, expected) <= 1e-12


@both
def test_row_03_a_relu_used_three_times_is_three(method):
    model, x = asked("reused_relu")
    layers = [part for layer in model.layers for part in (layer, nn.ReLU())]
    twin = Chain.of(nn.Sequential(*layers, model.last), (6,))
    expected = [twin.gradient(row.numpy(), np.eye(3)[2], RULES[method]) for row in x]
    assert relative(whence.explain(model, x, method, target=2).values, np.stack(expected)) <= 1e-12


@both
def test_a_view_rectified_in_place_is_ruled_where_it_was_written(method):
    model, x = asked("slice_in_place")
    z, g = model.first(x).detach().numpy(), model.last.weight[1].detach().numpy()
    passed = np.repeat(g[None], len(x), 0)
    passed[:, :3] = [RULES[method](each[:3], g[:3]) for each in z]
    expected = passed @ model.first.weight.detach().numpy()
    assert relative(whence.explain(model, x, method, target=1).values, expected) <= 1e-12


@both
@pytest.mark.parametrize("name, met", [("lstm", "tanh"), ("vit", "gelu"), ("cnn_1d", "leaky_relu")])
def test_without_a_relu_it_is_refused_and_what_was_met_is_named(method, name, met):
    model, x = asked(name)
    with pytest.raises(Refused, match=f"there is none.*{met}"):
        whence.explain(model, x, method, target=0)


# ---- operations that no rule knows -----------------------------------------------------------------------------


def inverse(h):
    return torch.linalg.inv(h[:, :4].reshape(-1, 2, 2) + 9 * torch.eye(2).to(h)).flatten(1)


def test_row_29_an_unknown_operation_is_refused_with_the_line_that_called_it():
    model = between(lambda h: inverse(h.relu()), outer=4)
    for method in ("deeplift", "lrp", "guided_backprop"):
        with pytest.raises(Refused, match=r"linalg_inv_ex, called at .*test_rules\.py:\d+") as refusal:
            whence.explain(model, six(), method, target=0)
        line = int(str(refusal.value).partition("test_rules.py:")[2].split(maxsplit=1)[0].strip(",;"))
        assert line == inverse.__code__.co_firstlineno + 1
        result = whence.explain(model, six(), method, target=0, on_unknown="gradient")
        assert any("linalg_inv_ex" in note and "plain derivative" in note for note in result.notes)
        assert torch.isfinite(result.values).all()


def test_a_custom_function_of_single_elements_is_ruled_and_one_that_mixes_them_refused():
    model, plain = between(Swish.apply), between(F.silu)
    for method in ("deeplift", "lrp"):
        one, two = (whence.explain(each, six(), method, target=0).values for each in (model, plain))
        assert relative(one, two) <= 1e-12
        with pytest.raises(Refused, match=r"CumulativeSoftmaxBackward, called at .*functions\.py:"):
            whence.explain(between(CumulativeSoftmax.apply), six(), method, target=0)


class Reversed(torch.autograd.Function):
    """Turns its elements around: the derivative of a sum is the same as that of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.flip(-1)

    @staticmethod
    def backward(ctx, g):
        return g.flip(-1)


def test_a_custom_function_that_only_moves_elements_is_not_taken_for_an_elementwise_one():
    with pytest.raises(Refused, match="Reversed"):
        whence.explain(between(Reversed.apply), six(), "deeplift", target=0)


@every_method
@pytest.mark.parametrize("name", ["scripted", "checkpointed"])
def test_scripts_and_checkpoints_are_seen_through(method, name):
    model, x = asked(name)
    plain = model.body if name == "checkpointed" else None
    layers = [*plain, model.last] if plain else [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)]
    original = nn.Sequential(*layers).to(D)
    if name == "scripted":
        original.load_state_dict(model.state_dict())
    for _ in range(3):
        # A script is compiled after it has run a few times: then its operations are fused.
        model(x)
        found = whence.explain(model, x, method, target=0)
        assert relative(found.values, whence.explain(original, x, method, target=0).values) <= 1e-12


def explain_compiled():
    model, x = asked("vgg")
    wrapped = torch.compile(model, backend="eager")
    wrapped(x)
    inside, _ = asked("vgg")
    inside.compile(backend="eager")
    inside(x)
    for method in METHODS:
        expected = whence.explain(model, x, method, target=0).values
        for compiled in (wrapped, inside):
            result = whence.explain(compiled, x, method, target=0)
            assert relative(result.values, expected) <= 1e-12
            assert any("compiled" in note for note in result.notes)


def test_row_27_a_compiled_model_is_explained_through_its_original():
    """In a process of its own: what the compiler leaves behind disturbs tests that count what is alive."""
    command = [sys.executable, "-c", "import test_rules; test_rules.explain_compiled()"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- the model and PyTorch are left as they were ---------------------------------------------------------------


@every_method
def test_hooks_of_the_user_fire_and_change_nothing(method):
    model, x = asked("resnet")
    expected = whence.explain(model, x, method, target=0).values
    forwards, backwards = [], []
    model.layer2.register_forward_hook(lambda module, given, output: forwards.append(1))
    model.fc.register_full_backward_hook(lambda module, inner, outer: backwards.append(1))
    before = state_of(model, x)
    result = whence.explain(model, x, method, target=0)
    assert_same(before, state_of(model, x))
    assert forwards and backwards
    assert torch.equal(result.values, expected)


@every_method
def test_row_07_the_second_call_equals_the_first(method):
    model, x = asked("mobilenet_v3")
    one, two = (whence.explain(model, x, method, target=1) for _ in range(2))
    assert torch.equal(one.values, two.values) and torch.equal(one.output, two.output)


@every_method
def test_row_26_the_seed_changes_nothing(method):
    model, x = asked("densenet")
    torch.manual_seed(3)
    one = whence.explain(model, x, method, target=1, seed=0)
    torch.manual_seed(4)
    assert torch.equal(one.values, whence.explain(model, x, method, target=1, seed=5).values)


def torch_settings():
    backends = torch.backends
    return (
        backends.mha.get_fastpath_enabled(), backends.cuda.flash_sdp_enabled(), backends.cuda.math_sdp_enabled(),
        backends.cuda.mem_efficient_sdp_enabled(), torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled(),
        torch._C._get_graph_executor_optimize(), torch.is_grad_enabled(),
    )  # fmt: skip


@every_method
@pytest.mark.parametrize("name, layer", [("lstm", "fc"), ("transformer", "classifier"), ("unet", "conv2")])
def test_an_exception_half_way_leaves_everything_as_it_was(method, name, layer):
    model, x = asked(name)

    def fails(module, given):
        if torch.is_grad_enabled() and given[0].requires_grad:
            raise KeyError("half-way")

    model.get_submodule(layer).register_forward_pre_hook(fails)
    before, state = torch_settings(), state_of(model, x)
    with pytest.raises(KeyError, match="half-way"):
        whence.explain(model, x, method, target=0)
    assert torch_settings() == before
    assert_same(state, state_of(model, x))
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


@pytest.fixture
def hasty():
    """Let threads take turns often: half of what goes wrong between them shows only then."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("fails", [False, True])
@every_method
def test_settings_are_put_back_after_a_recurrent_network(method, fails):
    """Its native kernel, which float32 takes, shows no operations: it runs again with that switched off."""
    model, x = ARCHITECTURES["lstm"].make(), ARCHITECTURES["lstm"].inputs(2, torch.float32)
    runs = []

    def counted(module, given):
        runs.append(torch._C._get_mkldnn_enabled())
        if fails and not runs[-1]:
            raise KeyError("in the second run")

    model.fc.register_forward_pre_hook(counted)
    before = torch_settings()
    with pytest.raises((KeyError, Refused)) if fails or method in RULES else nullcontext():
        whence.explain(model, x, method, target=0)
    assert torch_settings() == before and not all(runs)


def test_two_threads_at_once_answer_like_one(hasty):
    names = ("lenet", "lstm", "transformer", "mobilenet_v3")
    cases = {(name, method): asked(name) for name in names for method in ("deeplift", "lrp")}
    alone = {key: whence.explain(*given, key[1], target=0).values for key, given in cases.items()}
    together, before, problems = {}, torch_settings(), []
    barrier = threading.Barrier(2)

    def work(order):
        try:
            for key in 3 * order:
                barrier.wait(30)
                together[key, order[0]] = whence.explain(*cases[key], key[1], target=0).values
        except BaseException as problem:
            problems.append(problem)
            barrier.abort()

    orders = (list(cases), list(cases)[3:] + list(cases)[:3])
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and len(together) == 2 * len(cases)
    for (key, _), values in together.items():
        assert relative(values, alone[key]) <= 1e-12, key
    assert torch_settings() == before


# ---- memory ----------------------------------------------------------------------------------------------------


@every_method
def test_the_graph_is_freed_without_the_garbage_collector(method):
    inner = between(nn.ReLU())
    for parameter in inner.parameters():
        parameter.requires_grad_(False)
    seen = []

    def model(x):
        h = inner.first(x)
        seen.append(weakref.ref(h))
        return inner.last(h.relu() * h.sigmoid())

    gc.collect()
    gc.disable()
    try:
        results = [whence.explain(model, six(), method, target=0) for _ in range(3)]
        assert len(seen) >= 6 and not any(each() is not None for each in seen), "a hook holds its own node"
    finally:
        gc.enable()
    assert not any(each.values.requires_grad for each in results)


@every_method
@pytest.mark.filterwarnings("ignore")
def test_what_is_alive_does_not_grow(method):
    def alive():
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    model, x = asked("mobilenet_v2")
    whence.explain(model, x, method, target=0)
    before = alive()
    for _ in range(3):
        whence.explain(model, x, method, target="all" if method != "lrp" else 0)
    assert alive() == before
