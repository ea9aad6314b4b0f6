# ruff: noqa: E402, PLW0108 (PyTorch is imported after the check for it; functions around models are the point)
"""Models and inputs as users really have them: awkward modules, odd layouts, unusual outputs, places inside."""

import collections
import functools
import threading
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import whence
from models import (
    assert_same,
    busy,
    cnn,
    mlp,
    names,
    of_inputs,
    pictures,
    relative,
    seeded,
    settings_for,
    state_of,
    works_without_relu,
)
from whence.backends.torch_copy import structural_copy
from whence.backends.torch_reach import reached

METHODS = [name for name in names() if of_inputs(name)]
ANY_SHAPE = [
    name for name in METHODS if "pictures" not in whence.methods()[name].needs and works_without_relu(name)
]


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def rows(batch=4, features=6, seed=0, dtype=torch.float32):
    return seeded(seed, lambda: torch.randn(batch, features, dtype=dtype))


# ---- awkward modules -------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A base whose batch norm betrays whoever runs it in train mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        nn.init.uniform_(self.norm.running_mean, -1, 1)
        self.head = nn.Linear(6, 2)
        self.set_up()

    def set_up(self):
        pass

    def forward(self, x):
        return self.head(self.norm(x))


class SharedModule(Net):
    def set_up(self):
        self.act = nn.Tanh()
        self.first = self.second = nn.Linear(6, 6)

    def forward(self, x):
        return self.head(self.act(self.second(self.act(self.first(self.norm(x))))))


class TiedWeights(Net):
    def set_up(self):
        self.down, self.up = nn.Linear(6, 6), nn.Linear(6, 6)
        self.up.weight = self.down.weight
        self.up.register_buffer("offset", self.norm.running_mean)

    def forward(self, x):
        return self.head(self.up(self.down(self.norm(x)).tanh()) + self.up.offset)


class PlainContainers(Net):
    def set_up(self):
        hidden = nn.BatchNorm1d(6)
        hidden.running_mean += 1
        pair = collections.namedtuple("Pair", "norm count")
        self.steps = [
            hidden,
            {"act": nn.Tanh()},
            (nn.Linear(6, 6), nn.Dropout(0.5)),
            pair(nn.BatchNorm1d(6), 2),
        ]
        self.steps.append(self.steps)

    def forward(self, x):
        norm, named, (line, drop), pair, _ = self.steps
        return self.head(pair.norm(drop(line(named["act"](norm(self.norm(x)))))))


class BoundMethod(Net):
    def set_up(self):
        self.table = {"norm": self.through_norm}
        self.act = self.through_norm
        self.part = functools.partial(self.through_norm, scale=2.0)
        self.moduled = functools.partial(self.norm)

    def through_norm(self, x, scale=1.0):
        return self.norm(x) * scale

    def forward(self, x):
        return self.head(self.act(x) + self.table["norm"](x) + self.part(x) + self.moduled(x))


class Closure(Net):
    def set_up(self):
        self.act = lambda x: self.norm(x)

    def forward(self, x):
        return self.head(self.act(x))


class Helper:
    def __init__(self, norm):
        self.norm = norm

    def __call__(self, x):
        return self.norm(x)


class HelperObject(Net):
    def set_up(self):
        self.helper = Helper(self.norm)

    def forward(self, x):
        return self.head(self.helper(x))


class Attributes(dict):
    __getattr__ = dict.__getitem__


class OddDictionary(Net):
    def set_up(self):
        self.options = Attributes(scale=2.0, nested=Attributes(shift=1.0))
        self.counts = collections.defaultdict(int)
        self.queue = collections.deque([1.0], maxlen=3)

    def forward(self, x):
        self.counts[len(x)] += 1
        return self.head(self.norm(x)) * self.options.scale + self.options.nested.shift + self.queue[0]


class Recurrent(Net):
    kind = nn.LSTM

    def set_up(self):
        self.cell = self.kind(1, 6, num_layers=2, batch_first=True, bidirectional=False)

    def forward(self, x):
        found, _ = self.cell(self.norm(x)[..., None])
        return self.head(found[:, -1])


class Gru(Recurrent):
    kind = nn.GRU


class Parametrized(Net):
    def set_up(self):
        self.a = parametrizations.weight_norm(nn.Linear(6, 6))
        self.b = parametrizations.spectral_norm(nn.Linear(6, 6))
        self.c = parametrizations.orthogonal(nn.Linear(6, 6))

    def forward(self, x):
        return self.head(self.c(self.b(self.a(self.norm(x)))))


class OldWeightNorm(Net):
    def set_up(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.a = nn.utils.weight_norm(nn.Linear(6, 6))
            self.b = nn.utils.spectral_norm(nn.Linear(6, 6))

    def forward(self, x):
        return self.head(self.b(self.a(self.norm(x))))


class HookClosure(Net):
    def set_up(self):
        self.norm.register_forward_hook(lambda module, inputs, output: output + self.head.bias.mean())
        self.head.register_forward_pre_hook(self.doubled)

    def doubled(self, module, inputs):
        return (2 * inputs[0],)


class Slots(Net):
    __slots__ = ("__hidden", "extra", "unset")

    def set_up(self):
        self.extra = 3.0
        self.__hidden = [self.norm]

    def forward(self, x):
        return self.head(self.__hidden[0](x)) * self.extra


class CustomGetattr(nn.Module):
    """Hands on to what it wraps, as wrappers for fine-tuning do."""

    def __init__(self):
        super().__init__()
        self.inner = Net()

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def __setattr__(self, name, value):
        assert name != "training" or value in (True, False)
        super().__setattr__(name, value)

    def forward(self, x):
        return self.inner(x) + self.head.bias


class HoldsLocks(Net):
    def set_up(self):
        self.lock, self.generator, self.local = threading.Lock(), torch.Generator(), threading.local()
        self.stream = (i for i in range(3))

    def forward(self, x):
        with self.lock:
            return self.head(self.norm(x))


class Renormed(Net):
    """An embedding with max_norm writes to its own weight whenever it is used."""

    def set_up(self):
        self.table = nn.Embedding(3, 6, max_norm=0.1)

    def forward(self, x):
        return self.head(self.norm(x)) + self.head(self.table(torch.zeros(len(x)).long()))


class Assigns(Net):
    def set_up(self):
        self.register_buffer("mean", torch.zeros(6))
        self.seen = []

    def forward(self, x):
        self.mean = self.mean * 0.9 + x.detach().mean(0) * 0.1
        self.seen.append(x)
        self.last = x
        return self.head(self.norm(x))


class InPlace(Net):
    def forward(self, x):
        x.mul_(2).relu_()
        return self.head(functional.relu_(self.norm(x)))


def wrapped(kind):
    def make():
        model = Net()
        return kind(model)

    return make


AWKWARD = {
    cls.__name__: cls
    for cls in (
        SharedModule, TiedWeights, PlainContainers, BoundMethod, Closure, HelperObject, OddDictionary, Recurrent, Gru,
        Parametrized, OldWeightNorm, HookClosure, Slots, CustomGetattr, HoldsLocks, Renormed, Assigns, InPlace,
    )
} | {"DataParallel": wrapped(nn.DataParallel)}  # fmt: skip
LOCKED = ("Closure", "HookClosure")


def evaluated(model, x):
    """The model's output with every module that it can reach in eval mode, and all put back."""
    modules = {id(each): each for each in (*model.modules(), *_hidden(model))}.values()
    modes = [(each, each.training) for each in modules]
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [(each, dict(vars(each)), dict(each._buffers)) for each in modules]
    for each in modules:
        each.training = False
    with torch.no_grad():
        output = model(x.clone())
    for each, before, buffers in attributes:
        vars(each).clear()
        vars(each).update(before)
        each._buffers.update(buffers)
    for each, mode in modes:
        each.training = mode
    model.load_state_dict(kept)
    if hasattr(model, "seen"):
        model.seen.clear()
    if hasattr(model, "counts"):
        model.counts.clear()
    return output


def _hidden(model):
    if not isinstance(model, PlainContainers):
        return []
    norm, named, pair, last, _ = model.steps
    return [norm, named["act"], *pair, last.norm]


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_awkward_models_are_explained_in_eval_mode_and_left_alone(name, training):
    model, x = seeded(0, AWKWARD[name]), rows()
    model.train(training)
    expected = evaluated(model, x)
    hidden = [state_of(each) for each in _hidden(model)]
    before = state_of(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = whence.explain(model, x, "integrated_gradients", target=1, steps=8, chunk=3)
        values = whence.explain(model, x[:1], "saliency", target=1).values
    assert_same(before, state_of(model, x))
    for each, kept in zip(_hidden(model), hidden, strict=True):
        assert_same(kept, state_of(each))
    assert torch.allclose(result.output, expected[:, 1], atol=1e-6)
    assert torch.isfinite(result.values).all() and float(values.abs().max()) > 0
    locked = any("under a lock" in note for note in result.notes)
    assert locked == (name in LOCKED), "a model that can be copied must not be run itself"
    # A generator's stream cannot be copied, which is said.
    assert len(result.notes) == locked + (name == "HoldsLocks")


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_models_in_several_threads(name):
    model, x = seeded(0, AWKWARD[name]), rows()
    expected = evaluated(model, x)[:, 1]
    before = state_of(model)
    found = []

    def work():
        found.append(whence.explain(model, x, "saliency", target=1, chunk=2).output)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.allclose(each, expected, atol=1e-6) for each in found)
    assert_same(before, state_of(model))


@pytest.mark.parametrize("name", sorted(set(AWKWARD) - set(LOCKED)))
def test_a_structural_copy_shares_weights_and_nothing_else(name):
    model = seeded(0, AWKWARD[name])
    reach = reached(model)
    assert reach.hindrance == ""
    copy = structural_copy(model, reach)
    assert [each for each, _ in copy.named_modules()] == [each for each, _ in model.named_modules()]
    mine, theirs = (set(map(id, each.modules())) for each in (copy, model))
    assert not mine & theirs
    assert not any(each.training for each in copy.modules())
    for (label, one), (_, two) in zip(copy.named_parameters(), model.named_parameters(), strict=True):
        assert not one.requires_grad and one is not two, label
        if "table" not in label:
            assert one.data_ptr() == two.data_ptr(), label
    for (label, one), (_, two) in zip(copy.named_buffers(), model.named_buffers(), strict=True):
        assert one.data_ptr() != two.data_ptr() and torch.equal(one, two), label
    one, two = copy.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
    ties = {(a, b): two[a] is two[b] for a in two for b in two}
    assert ties == {(a, b): one[a] is one[b] for a in one for b in one}
    assert len(reached(copy).modules) == len(reach.modules)


def test_a_structural_copy_keeps_aliases():
    copy = structural_copy(model := SharedModule(), reached(model))
    assert copy.first is copy.second
    copy = structural_copy(model := PlainContainers(), reached(model))
    assert copy.steps[-1] is copy.steps and copy.steps is not model.steps
    copy = structural_copy(model := BoundMethod(), reached(model))
    assert copy.act.__self__ is copy and copy.part.func.__self__ is copy and copy.moduled.func is copy.norm


def test_a_copy_costs_microseconds_a_module():
    import time

    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(100)))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        structural_copy(model, reached(model))
        seconds.append(time.perf_counter() - began)
    assert min(seconds) / 301 < 3e-4


# ---- models that cannot be copied ----------------------------------------------------------------------------


def scripted(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(make())


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.calls = self.calls * 2
        return self.head(self.norm(x))


@pytest.mark.parametrize("inside", [False, True], ids=["whole", "part"])
def test_a_scripted_model_is_run_itself_and_put_back(inside):
    plain = seeded(0, Counting).train()
    model = scripted(lambda: plain)
    expected = whence.explain(plain, rows(), target=1, steps=4, chunk=4)
    model = nn.Sequential(nn.BatchNorm1d(6), model).train() if inside else model
    model[1].head.eval() if inside else model.head.eval()
    modes = {name: each.training for name, each in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    result = whence.explain(model, rows(), target=1, steps=4, chunk=4)
    assert modes == {name: each.training for name, each in model.named_modules()}
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert any("scripted" in note and "lock" in note for note in result.notes)
    assert relative(result.values, expected.values) <= (1e-4 if inside else 1e-6)
    assert all(each.grad is None and each.requires_grad for each in model.parameters())
    with pytest.raises(whence.Refused, match="scripted and cannot be watched"):
        whence.explain(model, rows(), target=1, at=whence.layer("1.head" if inside else "head"))
    with pytest.raises(RuntimeError):
        whence.explain(model, rows(features=7), target=1)
    assert modes == {name: each.training for name, each in model.named_modules()}
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_lazy_layers_without_weights_say_so():
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with pytest.raises(whence.BadInput, match="has no weights yet; run the model once"):
        whence.explain(model, rows())
    model(rows())
    assert whence.explain(model.train(), rows(), steps=2).values.shape == (4, 6)
    assert int(model[1].num_batches_tracked) == 1


GLOBAL = seeded(0, Net).train()


def uses_a_global(x):
    return called_by_it(x)


def called_by_it(x):
    return torch.stack([GLOBAL(x)[:, k] for k in range(2)], 1)


class AroundAGlobal(nn.Module):
    def __init__(self):
        super().__init__()
        self.GLOBAL = nn.Linear(6, 6)

    def forward(self, x):
        return called_by_it(self.GLOBAL(x))


class NamedLikeAGlobal(Net):
    def set_up(self):
        self.GLOBAL = self.norm

    def forward(self, x):
        return self.head(self.GLOBAL(x))


def test_a_module_around_a_global_one_does_not_train_it():
    model, x = AroundAGlobal(), rows()
    GLOBAL.train()
    before = state_of(GLOBAL), state_of(model)
    result = whence.explain(model, x, target=1, steps=3)
    assert_same(before, (state_of(GLOBAL), state_of(model)))
    assert any("under a lock" in note for note in result.notes)
    # An attribute of the same name is not the global.
    assert whence.explain(NamedLikeAGlobal(), x, target=1, steps=3).notes == []


def functions(model):
    class Object:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, x):
            return self.inner(x)

    def default(x, inner=model):
        return inner(x)

    def deep(x):
        return next(each(x) for each in [lambda x: model(x)])

    return {
        "lambda": lambda x: model(x),
        "nested": deep,
        "default": default,
        "bound method": model.forward,
        "partial": functools.partial(model),
        "partial of a method": functools.partial(model.forward),
        "object": Object(model),
        "global": uses_a_global,
        "decorated": torch.enable_grad()(lambda x: model(x)),
    }


@pytest.mark.parametrize("kind", functions(Net()))
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_function_around_a_model_runs_it_in_eval_mode(kind, training):
    model = GLOBAL if kind == "global" else seeded(0, Net)
    model.train(training)
    model.head.eval()
    x = rows()
    expected = evaluated(model, x)[:, 1]
    before = state_of(model)
    for method in ("integrated_gradients", "smoothgrad"):
        result = whence.explain(functions(model)[kind], x, method, target=1)
        assert torch.allclose(result.output, expected, atol=1e-6)
        assert_same(before, state_of(model))
    if not training or "partial" in kind or kind in ("bound method", "object"):
        assert result.notes == []
    else:
        assert any("modes were restored" in note for note in result.notes)


def test_a_model_made_in_inference_mode_is_explained():
    with torch.inference_mode():
        model, x = Net(), torch.randn(3, 6)
    assert whence.explain(model, x, steps=3).values.shape == (3, 6)


# ---- places inside the model -----------------------------------------------------------------------------------


def test_a_layers_output_is_the_next_ones_input():
    model, x = cnn(dtype=torch.float64), pictures(dtype=torch.float64)
    for method in names():
        fields = settings_for(method, pictures(5, seed=7, dtype=torch.float64))
        places = (("0", "1"), ("1", "2"), ("3", "4"))
        for first, second in places if works_without_relu(method) else places[:2]:
            one = whence.explain(model, x, method, target=1, at=whence.layer(first), chunk=4, **fields)
            two = whence.explain(
                model, x, method, target=1, at=whence.layer(second, input=True), chunk=4, **fields
            )
            assert one.values.shape == two.values.shape
            assert torch.equal(one.values, two.values), (method, first)


def test_a_linear_head_has_shares_in_closed_form():
    model, x = cnn(dtype=torch.float64), pictures(dtype=torch.float64)
    head = model[5]
    z, absent = model[:5](x.clone()).detach(), model[:5](torch.zeros_like(x)).detach()
    result = whence.explain(model, x, target=2, at=whence.layer("5", input=True))
    assert torch.allclose(result.values, (z - absent) * head.weight[2].detach(), atol=1e-13)
    assert float(result.residual.abs().max()) < 1e-13


def test_some_channels_of_a_layer_leave_the_others_as_they_are():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 2)).double()
    x = pictures(dtype=torch.float64)
    whole = whence.explain(model, x, target=0, at=whence.layer("0")).values
    for channels in ([1], [2, 0], (-1,)):
        part = whence.explain(model, x, target=0, at=whence.layer("0", channels=channels))
        assert part.values.shape == (3, len(channels), 4, 4)
        assert torch.allclose(part.values, whole[:, list(channels)], atol=1e-13)
        assert float(part.residual.abs().max()) < 1e-12
        # The baseline's output keeps the other channels at the input, not at the baseline.
        assert torch.allclose(part.output - part.baseline_output, part.values.sum((1, 2, 3)))
    with pytest.raises(whence.BadInput, match="out of range"):
        whence.explain(model, x, at=whence.layer("0", channels=[3]))


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.line, self.act = nn.Linear(6, 6), nn.ReLU(inplace=True)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.act(self.line(self.act(self.line(x)))) * torch.arange(6.0)


def test_each_call_of_a_reused_module_is_a_place_of_its_own():
    model, x = seeded(0, Reused).double(), rows(dtype=torch.float64)
    with torch.no_grad():
        first = model.act(model.line(x))
        second = model.act(model.line(first))
        absent = model.act(model.line(model.act(model.line(x * 0))))
    last = whence.explain(model, x, target=3, at=whence.layer("act", call=1), steps=1)
    exact = torch.zeros_like(x)
    exact[:, 3] = 3 * (second - absent)[:, 3]
    assert torch.allclose(last.values, exact, atol=1e-13)
    early = whence.explain(model, x, target=3, at=whence.layer("act"), rtol=1e-3)
    assert float(early.residual.abs().max()) < 1e-2
    later = whence.explain(model, x, "saliency", target=3, at=whence.layer("line", call=1))
    assert set(later.values[:, 3].tolist()) <= {0.0, 3.0} and float(later.values[:, :3].abs().max()) == 0
    with pytest.raises(whence.BadInput, match="does not run 3 times"):
        whence.explain(model, x, at=whence.layer("act", call=2))
    with pytest.raises(whence.BadInput, match="never runs"):
        whence.explain(model, x, at=whence.layer("unused"))


class TupleInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(3, 4, batch_first=True)
        self.split = Split()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        found, (hidden, _) = self.cell(x)
        one, two = self.split(found)["parts"], hidden[-1]
        return self.head(one[:, -1]) + self.head(two)


class Split(nn.Module):
    def forward(self, x):
        return {"parts": x}


def test_a_layer_that_gives_a_tuple_is_its_first_part():
    model, x = seeded(0, TupleInside).double(), torch.randn(3, 5, 3, dtype=torch.float64)
    result = whence.explain(model, x, target=1, at=whence.layer("cell"))
    with torch.no_grad():
        z, absent = model.cell(x)[0], model.cell(x * 0)[0]
    exact = torch.zeros_like(z)
    # The rest of the tuple, the last hidden state, keeps its own value.
    exact[:, -1] = ((z - absent) * model.head.weight[1])[:, -1].detach()
    assert torch.allclose(result.values, exact, atol=1e-13)
    with pytest.raises(whence.BadInput, match=r"'split' gives a dict, not a tensor"):
        whence.explain(model, x, target=1, at=whence.layer("split"))


def test_neurons_as_targets():
    model, x = cnn(dtype=torch.float64), pictures(dtype=torch.float64)
    inner = model[:2]
    with torch.no_grad():
        z, absent = inner(x), inner(x * 0)
    whole = whence.explain(model, x, target=whence.target.neuron("1", (2, 1, 3)), rtol=1e-6)
    assert torch.allclose(whole.output, z[:, 2, 1, 3])
    assert torch.allclose(whole.baseline_output, absent[:, 2, 1, 3])
    assert torch.allclose(whole.values.sum((1, 2, 3)), (z - absent)[:, 2, 1, 3])
    channel = whence.explain(model, x, target=whence.target.neuron("1", 2))
    assert torch.allclose(channel.output, z[:, 2].sum((1, 2)))
    assert torch.allclose(channel.values.sum((1, 2, 3)), (z - absent)[:, 2].sum((1, 2)))
    assert "neuron('1', 2)" in channel.settings["target"]
    last = whence.explain(model, x, target=whence.target.neuron("5", -1)).output
    assert torch.allclose(last, whence.explain(model, x, target=2).output)
    reused = seeded(0, Reused).double()
    call = whence.target.neuron("act", 3, call=1)
    assert torch.allclose(
        3 * whence.explain(reused, rows(dtype=torch.float64), target=call).output,
        whence.explain(reused, rows(dtype=torch.float64), target=3).output,
    )
    for index in ((2, 4, 0), 4, (0, 0, 0, 0)):
        with pytest.raises(whence.BadInput, match="out of range"):
            whence.explain(model, x, target=whence.target.neuron("1", index))
    with pytest.raises(whence.BadInput, match="did you mean"):
        whence.explain(busy(), pictures(), target=whence.target.neuron("haed", 0))
    inside = whence.explain(model, x, target=whence.target.neuron("5", 0), at=whence.layer("0"))
    assert torch.allclose(inside.values, whence.explain(model, x, target=0, at=whence.layer("0")).values)


def test_a_function_has_no_layers_and_says_so():
    with pytest.raises(whence.Refused, match="plain function"):
        whence.explain(lambda x: x.sum(1), rows(), at=whence.layer("0"))


# ---- contexts, layouts, types --------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", METHODS)
def test_a_context_around_the_call_changes_nothing(name, context):
    model, x = cnn(), pictures()
    fields = settings_for(name, pictures(5, seed=7))
    expected = whence.explain(model, x, name, chunk=4, **fields)
    with context():
        made_inside = x * 1.0
        result = whence.explain(model, made_inside, name, chunk=4, **fields)
        from_numpy = whence.explain(model, x.numpy(), name, chunk=4, **fields)
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert torch.equal(result.values, expected.values) and not result.values.is_inference()
    assert np.array_equal(from_numpy.values, expected.values.numpy())
    assert torch.equal(whence.explain(model, made_inside, name, chunk=4, **fields).values, expected.values)


LAYOUTS = {
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "with a graph": lambda x: (x * torch.ones((), requires_grad=True)).clone(),
    "parameter": nn.Parameter,
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_in_memory_changes_nothing(name, layout):
    model, plain = cnn(), pictures()
    x = LAYOUTS[layout](plain)
    kept = x.detach().clone()
    fields = settings_for(name, pictures(5, seed=7))
    expected = whence.explain(model, plain, name, chunk=4, **fields).values
    assert relative(whence.explain(model, x, name, chunk=4, **fields).values, expected) <= 1e-6
    assert torch.equal(x.detach(), kept)


@pytest.mark.parametrize("name", METHODS)
def test_an_expanded_input_is_as_good_as_its_copies(name):
    model, one = cnn(), pictures(1)
    x = one.expand(4, -1, -1, -1)
    fields = settings_for(name, pictures(5, seed=7))
    result = whence.explain(model, x, name, chunk=3, **fields)
    assert result.values.shape == x.shape and result.values.is_contiguous()
    copies = whence.explain(model, x.clone(), name, chunk=3, **fields)
    assert torch.equal(result.values, copies.values)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.astype(">f4"),
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.lib.stride_tricks.as_strided(x, x.shape, x.strides, writeable=False),
        lambda x: x.astype(np.float64),
        np.asfortranarray,
    ],
    ids=["big-endian", "reversed", "read-only", "float64", "fortran"],
)
def test_numpy_inputs_of_all_kinds(make):
    model, x = cnn(), pictures().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = whence.explain(model, make(x), steps=4)
    assert isinstance(result.values, np.ndarray) and result.values.dtype.kind == "f"
    assert relative(result.values, whence.explain(model, pictures(), steps=4).values) <= 1e-6


def test_a_float64_model_takes_float32_numpy():
    x = pictures().numpy()
    result = whence.explain(cnn(dtype=torch.float64), x, steps=4, target="all")
    assert result.values.dtype == np.float32 and result.values.shape == (3, 3, 1, 6, 6)
    layer = whence.explain(cnn(dtype=torch.float64), x, steps=4, at=whence.layer("0"))
    assert isinstance(layer.values, np.ndarray) and layer.values.shape == (3, 4, 4, 4)
    with pytest.raises(RuntimeError) as caught:
        whence.explain(cnn(dtype=torch.float64), pictures(), steps=4)
    assert "torch.float32" in caught.value.__notes__[0]


def test_the_model_may_write_into_its_input():
    """In place on the input itself, with one row, which whence would like to hand on as a view."""
    for batch in (1, 3):
        model, x = seeded(0, InPlace), rows(batch)
        kept = x.clone()
        for name in ANY_SHAPE:
            whence.explain(model, x, name, target=0, **settings_for(name, rows(5, seed=3)))
            assert torch.equal(x, kept), name
        plain = whence.explain(lambda x, model=model: model(x.clone()), x, target=0, chunk=4)
        assert torch.equal(whence.explain(model, x, target=0, chunk=4).values, plain.values)
    picture = torch.rand(1, 3, 8, 8)
    kept = picture.clone()
    whence.explain(nn.Flatten(), picture, preprocess=lambda x: x.sub_(0.5).div_(2), steps=2)
    assert torch.equal(picture, kept)


# ---- shapes of outputs and inputs ------------------------------------------------------------------------------


def test_every_shape_of_output():
    x, weights = rows(dtype=torch.float64), torch.arange(1.0, 7.0, dtype=torch.float64)
    exact = x * weights
    flat = whence.explain(lambda x: x @ weights, x)
    assert flat.target is None and flat.output.shape == (4,)
    assert torch.allclose(flat.values, exact)
    column = whence.explain(lambda x: (x @ weights)[:, None], x)
    assert column.target.tolist() == [0] * 4 and torch.allclose(column.values, exact)
    both = whence.explain(lambda x: torch.stack([-(x @ weights), x @ weights], 1), x, target=1)
    assert torch.allclose(both.values, exact)
    top = whence.explain(lambda x: torch.stack([-(x @ weights), x @ weights], 1), x)
    assert torch.allclose(top.values, exact * torch.where(x @ weights > 0, 1, -1)[:, None])
    assert torch.equal(top.target, (x @ weights > 0).long())

    def dense(x):
        return (x @ weights)[:, None, None, None] * torch.arange(24.0, dtype=x.dtype).reshape(2, 3, 4)

    place = whence.explain(dense, x, target=(1, 2, 3))
    assert place.target == (1, 2, 3) and torch.allclose(place.values, exact * 23)
    summed = whence.explain(dense, x, target=lambda y: y.sum((1, 2, 3)))
    assert torch.allclose(summed.values, exact * 276)
    with pytest.raises(whence.BadInput, match="its own target"):
        whence.explain(lambda x: x @ weights, x, target=2)
    for shape in ((4, 2), (2,), (4, 1)):
        with pytest.raises(whence.BadInput, match="must give one number each"):
            whence.explain(dense, x, target=lambda y, shape=shape: y.new_zeros(shape))


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_a_single_feature(name):
    fields = settings_for(name, torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None])
    x = torch.tensor([[2.0], [-3.0]], dtype=torch.float64)
    result = whence.explain(lambda x: (3 * x).sum(1), x, name, **fields)
    assert result.values.shape == (2, 1) and torch.isfinite(result.values).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_three_hundred(name):
    x = pictures(300, dtype=torch.float64)
    x /= torch.arange(300)[:, None, None, None] + 1.0
    fields = settings_for(name, pictures(5, seed=7, dtype=torch.float64))
    fields |= {"steps": 4} if "steps" in whence.methods()[name].fields else {}
    model = cnn(dtype=torch.float64)
    result = whence.explain(model, x, name, target=0, **fields)
    assert result.values.shape == x.shape and result.evaluations.shape == (300,)
    alone = whence.explain(model, x[288:289], name, target=0, **fields)
    assert relative(result.values[288], alone.values[0]) <= 1e-10


@pytest.mark.parametrize("name", [name for name in METHODS if works_without_relu(name)])
def test_a_constant_model_has_no_shares(name):
    x = pictures()
    fields = settings_for(name, pictures(5, seed=7))
    result = whence.explain(lambda x: x.flatten(1)[:, :2] * 0 + 7, x, name, **fields)
    # RISE hands out no shares: its map is the mean output itself.
    mean = 7.0 if name == "rise" else 0.0
    assert float((result.values - mean).abs().max()) == 0
    # LRP counts from nothing at all: a constant keeps what is said to come from it.
    kept = 7.0 if name == "lrp" else 0.0
    for part, wanted in ((result.error, 0.0), (result.residual, kept)):
        assert part is None or float(part.abs().max()) == wanted
    assert bool(result.converged.all())


def test_a_saturated_model_is_integrated_through():
    def saturated(x):
        return torch.sigmoid(60 * (x.sum(1) - 1))

    x = torch.tensor([[2.0, 1.0], [0.5, 3.0]], dtype=torch.float64)
    assert float(whence.explain(saturated, x, "saliency").values.abs().max()) < 1e-10
    result = whence.explain(saturated, x, rtol=0.01)
    # f depends on the sum alone, so the shares are as the inputs, and add up to 1.
    assert torch.allclose(result.values, x / x.sum(1, keepdim=True), rtol=0.02)
    assert bool(result.converged.all())


@pytest.mark.parametrize("baseline", [0.0, "mean", "dataset", "same"])
def test_an_input_that_is_its_baseline_has_no_shares(baseline):
    x = torch.full((2, 1, 6, 6), 0.0 if baseline == 0.0 else 0.5)
    start = {"dataset": whence.baseline.dataset(x[:1]), "same": x}.get(baseline, baseline)
    for path in ("straight", "guided"):
        result = whence.explain(cnn(), x, baseline=start, path=path)
        assert float(result.values.abs().max()) == 0 == float(result.residual.abs().max())
        assert result.error is None or float(result.error.abs().max()) == 0
        assert bool(result.converged.all())


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(["a", "b", "c", "d"]), absent=st.sets(st.sampled_from(["c", "d"])))
def test_a_dictionary_keeps_its_order(order, absent):
    def model(a=None, b=None, c=None, d=None):
        return sum((k + 1) * each.sum(1) for k, each in enumerate((a, b, c, d)) if each is not None)

    inputs = {name: None if name in absent else torch.full((2, 3), 1.0 + ord(name)) for name in order}
    result = whence.explain(model, inputs, steps=2)
    assert list(result.values) == list(order)
    for name, each in inputs.items():
        if each is None:
            assert result.values[name] is None
        else:
            assert torch.allclose(result.values[name], each * ("abcd".index(name) + 1))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    batch=st.integers(1, 5),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    classes=st.integers(0, 3),
    chunk=st.integers(1, 9) | st.none(),
    method=st.sampled_from(ANY_SHAPE),
    numpy=st.booleans(),
)
def test_any_shape_and_type_comes_back(shape, batch, dtype, classes, chunk, method, numpy):
    def model(x):
        total = x.flatten(1).tanh().sum(1)
        return torch.stack([total * k for k in range(1, classes + 1)], 1) if classes else total

    x = torch.linspace(-1, 2, batch * int(np.prod(shape))).reshape(batch, *shape).to(dtype)
    as_numpy = numpy and dtype != torch.bfloat16
    backend = functools.partial(model) if not as_numpy else _Taking(model)
    fields = settings_for(method, x.numpy() if as_numpy else x)
    fields |= {"steps": 5} if "steps" in whence.methods()[method].fields else {}
    result = whence.explain(backend, x.numpy() if as_numpy else x, method, chunk=chunk, **fields)
    assert tuple(result.values.shape) == tuple(x.shape)
    assert result.values.dtype == (x.numpy().dtype if as_numpy else dtype)
    assert len(result.output) == batch and isinstance(result.values, np.ndarray) == as_numpy
    assert np.isfinite(np.asarray(result.values.tolist())).all()


class _Taking(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# ---- memory runs out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_out_of_memory_halves_the_chunk_and_changes_nothing(name):
    model, x = cnn(dtype=torch.float64), pictures(dtype=torch.float64)
    fields = settings_for(name, pictures(5, seed=7, dtype=torch.float64))
    expected = whence.explain(model, x, name, chunk=4, **fields)
    refused = []

    def narrow(module, inputs):
        if len(inputs[0]) > 2:
            refused.append(len(inputs[0]))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    model[4].register_forward_pre_hook(narrow)
    result = whence.explain(model, x, name, chunk=64, **fields)
    assert refused and relative(result.values, expected.values) <= 1e-12
    assert torch.equal(result.evaluations, expected.evaluations)
    model[4].register_forward_pre_hook(lambda module, inputs: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(whence.WorkFailed, match="single example does not fit"):
        whence.explain(model, x, name, **fields)


def test_a_small_model_of_every_kind_of_call():
    """explain by name, class, object and call are one and the same."""
    model, x = mlp(), rows()
    one = whence.explain(model, x, "integrated_gradients", steps=5, chunk=8).values
    assert torch.equal(one, whence.explain(model, x, whence.IntegratedGradients, steps=5, chunk=8).values)
    assert torch.equal(one, whence.explain(model, x, whence.IntegratedGradients(steps=5), chunk=8).values)
    assert torch.equal(one, whence.IntegratedGradients(steps=5)(model, x, chunk=8).values)
    assert torch.equal(
        one, whence.explain(model, x, whence.IntegratedGradients(steps=9), steps=5, chunk=8).values
    )
