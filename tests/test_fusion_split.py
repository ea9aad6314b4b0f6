"""The split at the first affine operations: every model against itself unsplit, and what must not be split."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from whence.backends.torch import TorchOperations
from whence.backends.torch_fusion import split
from whence.backends.torch_recording import Recording
from whence.backends.torch_standing import Unfit
from whence.errors import Diverged
from whence.preprocess import Preprocess

F64 = torch.float64
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def of(model, column=0, prepare=lambda x: x):
    """The function of a model as the engine makes it: clones, a preparation, the model, the target's column."""

    def function(leaves, index):
        output = model(*(prepare(leaf.clone()) for leaf in leaves))
        return output[:, column] if output.ndim > 1 else output

    return function


def made(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().double().eval()


def gradient(function, leaves, index):
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    y = function(leaves, index)
    return torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True, materialize_grads=True)


def integrated(slope, start, end, index):
    """Sum over the nodes of weighted gradients, at start + alpha (end - start)."""
    total = None
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        at = tuple(a + node * (b - a) for a, b in zip(start, end, strict=True))
        part = [weight * each for each in slope(at, index)]
        total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
    return total


def assert_equal(function, found, start, end):
    rows = len(start[0])
    index = np.arange(rows)
    for x, z in ((start, found.start), (end, found.end)):
        assert torch.allclose(found.value(z, index), function(x, index), rtol=1e-12, atol=1e-13)
    fused = integrated(lambda z, rows: gradient(found.value, z, rows), found.start, found.end, index)
    fused = found.pull(tuple(fused), index)
    plain = integrated(lambda x, rows: gradient(function, x, rows), start, end, index)
    for one, other in zip(fused, plain, strict=True):
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()
        assert other.abs().max() > 0 or one.abs().max() == 0


def assert_split(function, start, end, leaves=None, **options):
    found = split(function, start, end, **options)
    assert found is not None
    assert_equal(function, found, start, end)
    if leaves is not None:
        assert sorted(tuple(leaf.shape[1:]) for leaf in found.end) == sorted(leaves)
    return found


def assert_none_or_right(function, start, end):
    found = split(function, start, end)
    if found is not None:
        assert_equal(function, found, start, end)
    return found


def ends(*shape, batch=3):
    return (normal(batch, *shape, seed=1),), (normal(batch, *shape, seed=2),)


# ---- models that are split -----------------------------------------------------------------------------------


def perceptron():
    return nn.Sequential(nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 3))


def test_a_perceptron_is_cut_after_its_first_layer():
    found = assert_split(of(made(perceptron)), *ends(12), leaves=[(7,)])
    assert (found.costs.inputs, found.costs.leaves, found.costs.multiply_adds) == (12, 7, 84)
    assert found.costs.operations == 1 and found.pays


def test_rows_are_split_in_chunks_without_loss_and_examples_need_not_be_in_order():
    function = of(made(perceptron))
    start, end = ends(12, batch=7)
    found = assert_split(function, start, end, rows=3)
    index = np.array([6, 0, 0, 2])
    z = tuple(leaf[index] for leaf in found.end)
    assert torch.allclose(found.value(z, index), function((end[0][index],), index), rtol=1e-13)


def test_a_linear_chain_is_one_prefix():
    assert_split(
        of(made(lambda: nn.Sequential(nn.Linear(9, 6), nn.Linear(6, 4), nn.Sigmoid()))),
        *ends(9),
        leaves=[(4,)],
    )


def test_a_linear_model_is_its_own_leaf():
    found = assert_split(of(made(lambda: nn.Linear(9, 4)), 2), *ends(9), leaves=[()])
    assert found.costs.leaves == 1


def test_one_example_is_enough():
    assert_split(of(made(perceptron)), *ends(12, batch=1))


def test_all_classes_at_once():
    model = made(perceptron)
    start, end = ends(12)
    found = split(lambda leaves, index: model(leaves[0].clone()), start, end)
    assert found is not None
    index = np.arange(3)
    assert torch.allclose(found.value(found.end, index), model(end[0]), rtol=1e-13)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


class WithShapes(nn.Module):
    def __init__(self, build):
        super().__init__()
        self.inner = build()
        self.inner(torch.zeros(1, 2, 8, 8))

    def forward(self, x):
        return self.inner(x)


def test_a_convolutional_network_is_cut_after_its_first_convolution():
    found = assert_split(of(made(lambda: WithShapes(convolutional))), *ends(2, 8, 8), leaves=[(4, 6, 6)])
    assert found.costs.multiply_adds == 4 * 36 * 18
    assert not found.pays


def test_what_does_not_pay_is_given_up_after_one_run():
    calls = []
    start, end = ends(2, 8, 8)
    for build, expected in (
        (convolutional, None),
        (lambda: nn.Sequential(nn.Conv2d(2, 1, 8), nn.Tanh(), nn.Flatten()), 1),
    ):
        model = made(lambda build=build: WithShapes(build))

        def function(leaves, index, model=model):
            calls.append(len(index))
            return model(leaves[0].clone())[:, 0]

        found = split(function, start, end, only_if_pays=True)
        assert (found and found.costs.leaves) == expected
        if expected is None:
            assert calls == [2]


class InPlace(nn.Module):
    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling
        self.inner = WithShapes(convolutional)
        self.mean, self.scale = nn.Buffer(normal(2, 1, 1)), nn.Buffer(normal(2, 1, 1).abs() + 1)

    def forward(self, x):
        x = x.clone()
        if self.spelling == "methods":
            x.sub_(self.mean).div_(self.scale)
        elif self.spelling == "operators":
            x -= self.mean
            x /= self.scale
        elif self.spelling == "view":
            x[:, 0].sub_(0.5)
            x[:, 1:] *= 3
        else:
            x[:, 0] = (x[:, 0] - 0.4) / 0.2
            x[:, 1] = 2 - x[:, 1]
        return self.inner(x)


@pytest.mark.parametrize("spelling", ["methods", "operators", "view", "assigned"])
def test_a_normaliser_that_works_in_place_is_part_of_the_prefix(spelling):
    found = assert_split(of(made(lambda: InPlace(spelling))), *ends(2, 8, 8), leaves=[(4, 6, 6)])
    assert all(leaf.abs().max() > 0 for leaf in found.end)


def test_functional_spellings_are_seen():
    w, b = normal(5, 12), normal(5, seed=3)
    start, end = ends(3, 4)
    for first in (
        lambda x: functional.linear(x.flatten(1), w, b),
        lambda x: x.reshape(len(x), -1) @ w.T + b,
        lambda x: b + torch.einsum("nij,kij->nk", x, w.view(5, 3, 4)),
        lambda x: torch.addmm(b, x.view(x.shape[0], 12), w.t()),
        lambda x: 1 - (2 * x).transpose(1, 2).contiguous().mean(2) / 3,
        lambda x: torch.cat([x[:, 0], -x[:, 1], torch.zeros(x.size(0), 2, dtype=x.dtype)], 1),
        lambda x: (
            torch.stack(x.unbind(1), 2).sum(1)
            - x.split([1, 2], 1)[1].chunk(2, 1)[0].squeeze(1).mean(1, keepdim=True)
        ),
        lambda x: functional.avg_pool1d(functional.pad(x, (1, 1)), 2).flatten(1),
    ):
        found = assert_split(
            lambda leaves, _, first=first: torch.tanh(first(leaves[0].clone())).sum(1), start, end
        )
        assert len(found.end) == 1 and found.costs.operations >= 1


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.two(x + torch.relu(self.one(x)))


def test_a_skip_from_the_input_gives_two_leaves():
    assert_split(of(made(Skip)), *ends(6), leaves=[(6,), (6,)])


class Residual(nn.Module):
    def __init__(self, overwrite=False):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.other, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.overwrite = overwrite
        for norm in (self.norm, self.other):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x):
        h = self.norm(self.stem(x))
        if self.overwrite:
            functional.relu_(h)
        else:
            h = functional.relu(h, inplace=True)
        h = h + self.two(functional.relu(self.other(self.one(h)), inplace=True))
        h += x.mean((1, 2, 3), keepdim=True)
        return self.head(functional.adaptive_avg_pool2d(torch.relu_(h), 1).flatten(1))


@pytest.mark.parametrize("overwrite", [False, True])
def test_eval_batch_norm_is_affine_and_an_activation_in_place_leaves_the_leaf_alone(overwrite):
    start, end = ends(2, 6, 6)
    found = assert_split(of(made(lambda: Residual(overwrite))), start, end, leaves=[(4, 6, 6), (1, 1, 1)])
    before = [leaf.clone() for leaf in found.end]
    found.value(found.end, np.arange(3))
    assert all(torch.equal(one, other) for one, other in zip(before, found.end, strict=True))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(2, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.drop = nn.Dropout(0.1)
        self.block = nn.TransformerEncoderLayer(
            8, 2, 16, batch_first=True, norm_first=True, activation="gelu"
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.block(self.drop(x + self.position))[:, 0])


def test_a_vision_transformer_is_cut_after_its_positions():
    assert_split(of(made(Transformer)), *ends(2, 8, 8), leaves=[(5, 8)])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.head(self.block(self.project(x)).mean(1))


def test_attention_that_moves_the_rows_is_cut_before_the_move():
    assert_split(of(made(Attention)), *ends(5, 6), leaves=[(5, 8)])


def test_rows_that_are_merged_and_parted_again_stay_in_the_prefix():
    w = normal(4, 7)

    def function(leaves, index):
        x = leaves[0].clone()
        return torch.tanh((x.reshape(-1, 4) @ w).view(len(x), 3, 7)).sum((1, 2))

    assert_split(function, *ends(3, 4), leaves=[(3, 7)])


def test_float_embeddings_are_cut_after_their_projection():
    table = normal(11, 6)

    def function(leaves, index):
        return torch.relu(leaves[0].clone() @ table).mean(1).sum(1)

    assert_split(function, *ends(4, 11), leaves=[(4, 6)])


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Linear(5, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, first, second=None, scale=None):
        h = self.one(first) + self.two(second)
        return self.last(torch.tanh(h if scale is None else h * scale))


def test_two_inputs_make_one_leaf_and_the_examples_own_keyword_argument_is_kept():
    model = made(TwoInputs)
    scale = normal(3, 1, seed=9)
    start, end = ((normal(3, 5, seed=s), normal(3, 3, seed=s + 10)) for s in (1, 2))

    def function(leaves, index):
        first, second = (leaf.clone() for leaf in leaves)
        return model(first, second=second, scale=scale[index])[:, 1]

    assert_split(function, start, end, leaves=[(4,)], rows=2)


def test_an_input_that_is_not_used_gets_no_share():
    start, end = ((normal(3, 5, seed=s), normal(3, 3, seed=s + 10)) for s in (1, 2))
    w = normal(5, 4)
    assert_split(lambda leaves, _: torch.tanh(leaves[0].clone() @ w).sum(1), start, end, leaves=[(4,)])


def test_a_preprocess_of_pixels_is_part_of_the_prefix():
    prepare = Preprocess(size=(10, 10), crop=8, mean=(0.4, 0.5), std=(0.2, 0.3), range=(0, 1))
    model = made(lambda: WithShapes(convolutional))
    start, end = ends(14, 12, 2)
    function = of(model, prepare=lambda x: prepare.apply(TorchOperations(), x))
    assert_split(function, start, end, leaves=[(4, 6, 6)])


def test_float32_is_split_too():
    model = made(lambda: WithShapes(convolutional)).float()
    start, end = ((leaf.float(),) for (leaf,) in ends(2, 8, 8))
    found = split(of(model), start, end)
    assert found is not None and found.end[0].dtype == torch.float32
    assert torch.allclose(found.value(found.end, np.arange(3)), of(model)(end, None), rtol=1e-5)


def test_recurrent_networks_keep_their_own_cell():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.project, self.cell, self.head = (
                nn.Linear(4, 5),
                nn.LSTM(5, 6, batch_first=True),
                nn.Linear(6, 2),
            )

        def forward(self, x):
            return self.head(self.cell(self.project(x))[0][:, -1])

    assert_split(of(made(Recurrent)), *ends(3, 4), leaves=[(3, 5)])


# ---- what is not affine must be a leaf -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        lambda x: (x * x).sum(1),
        lambda x: (x * torch.sigmoid(x)).sum(1),
        lambda x: (x * torch.sigmoid(x).detach()).sum(1),
        lambda x: (x - x.detach() * 0.5).tanh().sum(1),
        lambda x: (1 / (x**2 + 1)).sum(1),
        lambda x: (x / (1 + x.abs())).sum(1),
        lambda x: torch.div(torch.ones(5, dtype=x.dtype), x + 9).sum(1),
        lambda x: torch.masked_select(x, torch.sigmoid(x) > 0).view(len(x), 5).sum(1),
        lambda x: torch.einsum("ni,ni->n", x, 2 * x),
        lambda x: torch.where(x > 0, x, 0.1 * x).sum(1),
        lambda x: x[torch.arange(len(x)), (x**2).argmax(1)] * x[:, 0],
        lambda x: torch.bmm(x[:, None], x[:, :, None])[:, 0, 0],
        lambda x: functional.layer_norm(x, (5,))[:, 2],
        lambda x: functional.normalize(x)[:, 2],
        lambda x: (x.clamp(-0.5, 0.5) + x).sum(1),
        lambda x: (2 * x).transpose(0, 1).tanh().sum(0),
    ],
)
def test_products_quotients_and_choices_of_the_input_are_not_taken_for_affine(model):
    assert_split(lambda leaves, _: model(leaves[0].clone()), *ends(5))


@pytest.mark.parametrize(
    "model",
    [
        lambda x: (x if x.mean() > 0 else 2 * x).tanh().sum(1),
        lambda x: (x * x.sum().item()).tanh().sum(1),
        lambda x: (x * float(x.detach().tanh().sum())).tanh().sum(1),
        lambda x: x[:, int(x.tanh().sum(0).argmax())] * x[:, 0],
        lambda x: (x * torch.as_tensor(x.detach().numpy()).abs()).tanh().sum(1),
        lambda x: (x - x.mean(0)).tanh().sum(1),
        lambda x: x.flip(0).tanh().sum(1),
        lambda x: (x.T @ torch.ones(len(x), dtype=x.dtype)).tanh().sum().expand(len(x)) + x.tanh().sum(1),
        torch.func.vmap(lambda row: (row * 2).tanh().sum()),
        lambda x: x.tanh().sum(1) * (x * 2).tanh().sum().item(),
        lambda x: torch.utils.checkpoint.checkpoint(lambda a: (a * 2).tanh().sum(1), x, use_reentrant=False),
    ],
)
def test_values_that_are_read_and_rows_that_mix_are_refused_or_right(model):
    def function(leaves, index):
        return model(leaves[0].clone())

    start, end = ends(5)
    found = split(function, start, end)
    if found is not None:
        index = np.arange(3)
        for x, z in ((start, found.start), (end, found.end)):
            assert torch.allclose(found.value(z, index), function(x, index), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: (x if x.mean() > 0 else 2 * x).tanh().sum(1),
        lambda x: (x * x.sum().item()).tanh().sum(1),
        lambda x: (x - x.mean(0)).tanh().sum(1),
        lambda x: x.flip(0).tanh().sum(1),
    ],
)
def test_what_a_branch_or_another_row_decides_is_never_split(model):
    assert split(lambda leaves, _: model(leaves[0].clone()), *ends(5)) is None


def test_integers_no_rows_and_models_that_fail_are_not_split():
    def broken(leaves, index):
        raise RuntimeError("no")

    start, end = ends(5)
    assert split(broken, start, end) is None
    assert (
        split(
            lambda leaves, _: leaves[0].clone().float().sum(1),
            (torch.ones(2, 3, dtype=torch.int64),),
            (torch.ones(2, 3, dtype=torch.int64),),
        )
        is None
    )
    assert split(lambda leaves, _: leaves[0].clone().sum(1), (start[0][:0],), (end[0][:0],)) is None
    assert split(lambda leaves, _: torch.zeros(len(leaves[0])), start, end) is None


def test_a_value_read_behind_the_leaves_ends_what_counts_as_affine():
    def function(leaves, index):
        x = leaves[0].clone()
        size = 1.0 + torch.tanh(x).sum().item()
        return torch.tanh(x * size).sum(1)

    start, end = ends(5)
    found = split(function, start, end)
    assert found is not None
    at = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
    z = tuple((a + b) / 2 for a, b in zip(found.start, found.end, strict=True))
    assert torch.allclose(found.value(z, np.arange(3)), function(at, np.arange(3)), rtol=1e-13)


def test_scripted_parts_are_right_or_refused():
    model = made(perceptron)
    start, end = ends(12)
    for scripted in (torch.jit.trace(model, end[0]), torch.jit.script(model)):
        assert_none_or_right(of(scripted), start, end)
        assert_none_or_right(of(lambda x, scripted=scripted: scripted(2 * x)), start, end)

    @torch.jit.script
    def bend(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)

    # A scripted function takes its argument unseen: what is made of it must not count as constant.
    for unseen in (
        bend,
        lambda x: x * bend(x),
        lambda x: torch.sigmoid(x + bend(x)),
        lambda x: torch.sigmoid(x) * bend(x),
    ):
        assert_none_or_right(of(unseen), start, end)


class Bent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, g):
        return g * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2)


def test_custom_functions_are_right_or_refused():
    w = normal(5, 4)
    for model in (
        lambda x: Bent.apply(x @ w),
        lambda x: (x @ w) * Bent.apply(x @ w),
        lambda x: Bent.apply(x @ w).relu(),
    ):
        assert_none_or_right(of(model), *ends(5))


def test_a_part_without_gradients_is_right_or_refused():
    def gated(x):
        with torch.no_grad():
            gate = torch.sigmoid(3 * x)
        return x * gate

    assert_none_or_right(of(gated), *ends(5))


def overwritten_through_a_view(x):
    x = 2 * x
    functional.relu_(x.view(-1))
    return x


def overwritten_through_what_was_detached(x):
    x = 2 * x
    x.detach().relu_()
    return x


def without_gradients(x):
    with torch.no_grad():
        gate = torch.sigmoid(x)
    return x * gate


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (overwritten_through_a_view, "memory was overwritten through another"),
        (overwritten_through_what_was_detached, "overwrites a tensor that cannot be followed"),
        (without_gradients, "gradients are switched off"),
        (lambda x: x * x.sum().item(), "reads a value"),
        (lambda x: torch.sigmoid(x.numpy(force=True)), "reads a value"),
        (lambda x: torch.zeros(len(x)).copy_(x[:, 0]), "overwrites a tensor that cannot be followed"),
        (lambda x: (x > 0).requires_grad_(False) * x.requires_grad_(), "returns what it was given"),
        (lambda x: torch.ones(len(x)), "does not depend on the input"),
    ],
)
def test_the_recording_itself_refuses_before_any_number_is_compared(model, words):
    with pytest.raises(Unfit, match=words):
        Recording().run(lambda leaves, _: model(leaves[0].clone()), (normal(2, 5),), np.zeros(2, dtype=int))


def test_a_refusal_that_the_model_catches_still_counts():
    def model(leaves, index):
        x = leaves[0].clone()
        try:
            size = x.sum().item()
        except Unfit:
            size = 1.0
        return torch.tanh(x * size).sum(1)

    with pytest.raises(Unfit, match="after an error"):
        Recording().run(model, (normal(2, 5),), np.zeros(2, dtype=int))


def test_a_model_that_answers_otherwise_each_time_is_not_split():
    calls = []

    def function(leaves, index):
        calls.append(1)
        return torch.tanh(leaves[0].clone()).sum(1) + len(calls)

    assert split(function, *ends(5)) is None


@pytest.mark.parametrize("alias", ["view", "detached", "diagonal"])
def test_memory_that_is_overwritten_through_another_tensor_is_right_or_refused(alias):
    def function(leaves, index):
        x = 2 * leaves[0].clone()
        views = {"view": torch.Tensor.ravel, "detached": torch.detach, "diagonal": torch.diagonal}
        other = views[alias](x)
        functional.relu_(other)
        return (x * x.tanh()).sum((1, 2))

    start, end = ends(4, 4)
    found = split(function, start, end)
    if found is not None:
        before = [leaf.clone() for leaf in found.end]
        assert torch.allclose(found.value(found.end, np.arange(3)), function(end, None), rtol=1e-13)
        assert all(torch.equal(one, two) for one, two in zip(before, found.end, strict=True))


# ---- replays -------------------------------------------------------------------------------------------------


def branching(threshold):
    w, v = normal(5, 4), normal(5, 4, seed=4)

    def function(leaves, index):
        x = leaves[0].clone()
        h = torch.relu(x @ w)
        if h.sum() > threshold["at"]:
            return h.sum(1)
        return (h * (x @ v)).sum(1) if threshold.get("more", True) else torch.relu(x).sum(1)

    return function


@pytest.mark.parametrize("recorded", [1e9, -1e9])
def test_a_branch_that_flips_after_the_recording_is_noticed(recorded):
    threshold = {"at": recorded}
    function = branching(threshold)
    start, end = ends(5)
    found = assert_split(function, start, end)
    threshold["at"] = -recorded
    with pytest.raises(Diverged):
        found.value(found.end, np.arange(3))
    with pytest.raises(Diverged):
        Twice = found.pull(tuple(torch.ones_like(leaf) for leaf in found.end), np.arange(3))
        # With fewer leaves the affine map may still be pulled back: then nothing has diverged.
        assert recorded < 0 and len(Twice) == 1
        raise Diverged
    threshold["at"] = recorded
    assert_equal(function, found, start, end)


def test_the_same_function_called_with_another_tensor_is_noticed():
    which = {"second": False}
    w, v = normal(5, 4), normal(5, 4, seed=4)

    def function(leaves, index):
        x = leaves[0].clone()
        one, two = x @ w, x @ v
        return torch.tanh(two if which["second"] else one).sum(1)

    found = split(function, *ends(5))
    assert found is not None
    which["second"] = True
    with pytest.raises(Diverged):
        found.value(found.end, np.arange(3))


def test_a_replay_does_not_compute_the_prefix():
    w, v = normal(12, 7), normal(7, 3)
    function = of(lambda x: torch.tanh(x @ w) @ v)
    start, end = ends(12)
    found = split(function, start, end)
    assert found is not None and found.ends
    for rows in (3, 2):
        index = np.arange(rows)
        with FlopCounterMode(display=False) as whole:
            function((end[0][:rows],), index)
        with FlopCounterMode(display=False) as head:
            found.value((found.end[0][:rows],), index)
        assert whole.get_total_flops() == 2 * rows * (12 * 7 + 7 * 3)
        assert head.get_total_flops() == 2 * rows * 7 * 3


def test_threads_do_not_meet():
    function = of(made(lambda: WithShapes(convolutional)))
    start, end = ends(2, 8, 8)
    found = split(function, start, end)
    assert found is not None
    index, wrong = np.arange(3), []

    def work(shift):
        z = (found.end[0] + shift,)
        expected = None
        for _ in range(30):
            y = found.value(z, index)
            expected = y if expected is None else expected
            if not torch.equal(y, expected):
                wrong.append(shift)

    threads = [threading.Thread(target=work, args=(float(shift),)) for shift in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_model_and_the_inputs_stay_as_they_were():
    model = made(lambda: InPlace("methods"))
    start, end = ends(2, 8, 8)
    before = [each.detach().clone() for each in (*start, *end, *model.state_dict().values())]
    found = split(of(model), start, end)
    assert found is not None and found.end
    after = [*start, *end, *model.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(type(each) is torch.Tensor and not each.requires_grad for each in (*start, *end, *found.end))
    assert all(each.grad is None for each in model.parameters())
