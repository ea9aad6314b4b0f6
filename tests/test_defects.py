# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""The defects of today's libraries (docs/design.md names the libraries): each scenario, and what happens here.

The row numbers are those of the list that the project began with; rows 1-8, 28 and 29 belong to methods of other
wings.
"""

import gc
import math
import random
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

import whence
from models import assert_same, busy, cnn, mlp, pictures, relative, seeded, state_of
from whence import chunk


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def largest_batches(model: nn.Module) -> list[int]:
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    return seen


# ---- 9-12: memory, graphs, accuracy --------------------------------------------------------------------------


def test_row_09_all_steps_times_the_batch_are_never_one_forward():
    model = cnn()
    seen = largest_batches(model)
    whence.explain(model, pictures(8), steps=500)
    # 4,000 rows in one forward is what runs out of memory; the search begins small and may only ever double.
    assert max(seen) < 8 * 500
    loop = seen[4:]
    assert max(loop) <= 2 * max(chunk.START, *(before for before, after in pairwise(loop) if after > before))


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_row_10_a_chunk_below_the_batch_is_not_ignored(chunk):
    model, x = cnn(dtype=torch.float64), pictures(5, dtype=torch.float64)
    whole = whence.explain(model, x, steps=8, chunk=1000).values
    seen = largest_batches(model)
    assert relative(whence.explain(model, x, steps=8, chunk=chunk).values, whole) <= 1e-12
    assert max(seen) == chunk


def test_row_11_results_do_not_keep_their_graph_alive():
    def graph_nodes() -> int:
        gc.collect()
        return sum(type(each).__name__.endswith("Backward0") for each in gc.get_objects())

    model, x = cnn(), pictures().requires_grad_()
    before = graph_nodes()
    results = [whence.explain(model, x, target=target) for target in (None, "all")]
    results += [whence.explain(model, x, "input_x_gradient", at=whence.layer("0"))]
    for result in results:
        assert not result.values.requires_grad and result.values.grad_fn is None
    assert graph_nodes() == before


@pytest.mark.parametrize("rtol", [0.1, 0.02, 0.005])
def test_row_12_a_tolerance_is_asked_for_and_kept(rtol):
    model, x = cnn(dtype=torch.float64), pictures(12, dtype=torch.float64)
    truth = whence.explain(model, x, steps=40_000, quadrature="midpoint", chunk=4000).values
    result = whence.explain(model, x, rtol=rtol, max_evaluations=20_000)
    assert bool(result.converged.all()) and bool((result.error <= rtol).all())
    errors = [relative(one, two) for one, two in zip(result.values, truth, strict=True)]
    assert sum(error <= rtol for error in errors) >= 0.95 * len(errors), errors
    assert int(result.evaluations.max()) <= 20_000
    poor = whence.explain(model, x, rtol=rtol / 100, max_evaluations=20)
    assert not poor.converged.all()
    assert any("max_evaluations" in note for note in poor.notes), "advice on what to do"


# ---- 13-15: numbers --------------------------------------------------------------------------------------------


def cubic(x):
    return (x**3).sum(1)


def test_row_13_the_trapezoid_on_a_cubic_errs_as_theory_says():
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    for steps in (2, 5, 50):
        values = whence.explain(cubic, x, quadrature="trapezoid", steps=steps).values
        # ∫ 3α² by n intervals is 1 + 1/(2n²): with 50 nodes 2e-4, not the 1e-2 to 3e-2 of other libraries.
        assert relative(values, x**3 * (1 + 0.5 / (steps - 1) ** 2)) <= 1e-14
    for name, expected in (("left", 1 - 1.5 / 50 + 0.5 / 2500), ("right", 1 + 1.5 / 50 + 0.5 / 2500)):
        values = whence.explain(cubic, x, quadrature=name, steps=50).values
        assert relative(values, x**3 * expected) <= 1e-14


@pytest.mark.parametrize("quadrature", ["gauss", "midpoint", "trapezoid", "left", "right", "monte_carlo"])
@pytest.mark.parametrize("steps", [2, 3, 10, 51])
def test_row_13_weights_sum_to_one(quadrature, steps):
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    weights = torch.tensor([3.0, 1.0, -7.0], dtype=torch.float64)
    result = whence.explain(lambda x: x @ weights, x, quadrature=quadrature, steps=steps)
    assert relative(result.values, x * weights) <= 1e-14
    assert np.allclose(result.trace.weights.sum(1), 1, rtol=0, atol=1e-14)


def test_row_14_float64_reaches_its_last_digits():
    generator = np.random.default_rng(0)
    inner, outer = (torch.from_numpy(generator.normal(size=size)) for size in ((5, 4), (5,)))
    x = torch.from_numpy(generator.normal(size=(3, 4)))
    z = x @ inner.T
    exact = x * ((outer * torch.expm1(z) / z) @ inner)
    values = whence.explain(lambda x: torch.exp(x @ inner.T) @ outer, x, steps=24).values
    assert values.dtype == torch.float64
    assert relative(values, exact) <= 1e-13
    model, x = mlp(dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    result = whence.explain(model, x, steps=48, target="all")
    assert float(result.residual.abs().max()) <= 1e-12
    tight = whence.explain(model, x, rtol=1e-7, max_evaluations=200_000, target=0)
    assert bool(tight.converged.all())
    assert relative(tight.values, result.values[:, 0]) <= 1e-7


def test_row_15_black_means_black_and_not_grey():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocess = whence.Preprocess(mean=mean, std=std)
    model = seeded(0, lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 2)))
    photo = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)

    def output(pixels):
        normal = (torch.as_tensor(pixels) - torch.tensor(mean)) / torch.tensor(std)
        with torch.no_grad():
            return model(normal.permute(0, 3, 1, 2).float())[:, 1].double().numpy()

    for baseline, level in ((None, 0.0), ("black", 0.0), ("white", 1.0), (whence.baseline.black(), 0.0)):
        result = whence.explain(model, photo, target=1, preprocess=preprocess, baseline=baseline, steps=32)
        assert np.allclose(result.baseline_output, output(np.full((2, 6, 6, 3), level)), atol=1e-5)
        assert np.allclose(result.output, output(photo / 255.0), atol=1e-5)
        assert result.values.shape == photo.shape
        assert np.abs(result.residual).max() < 1e-3
    # A black picture is the baseline: nothing of it has a share; a grey one is not.
    black = whence.explain(model, photo * 0, target=1, preprocess=preprocess)
    assert np.abs(black.values).max() == 0
    with pytest.raises(whence.Refused, match="named in pixels"):
        whence.explain(model, torch.randn(2, 3, 6, 6), baseline="black")


# ---- 16-18: what models take and give ----------------------------------------------------------------------------


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor
    loss: None = None


class Structured(nn.Module):
    """Takes a batch of masks, a number, a word and perhaps a second input; gives logits in a structure."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x, extra=None, *, mask=None, scale=1.0, table=None, word=""):
        assert word in ("", "kept")
        assert table is None or len(table) == 7, "what does not carry the batch is passed on as it is"
        y = x * scale if mask is None else x * mask * scale
        y = y if extra is None else y + extra**2
        hidden = y * 100
        return {
            "dict": {"logits": y, "hidden": hidden},
            "tuple": (hidden, y),
            "object": Answer(y, hidden),
            "nested": {"all": [hidden, (y,)]},
            "only": {"logits": y},
        }[self.kind]


@pytest.mark.parametrize(
    "kind, output",
    [
        ("dict", "logits"),
        ("tuple", 1),
        ("object", "logits"),
        ("nested", lambda found: found["all"][1][0]),
        ("only", None),
    ],
)
def test_row_16_keywords_and_structured_outputs(kind, output):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    kwargs = {"mask": mask, "scale": 3.0, "table": torch.zeros(7), "word": "kept"}
    result = whence.explain(
        Structured(kind), x, target=[0, 1, 1], kwargs=kwargs, output=output, steps=5, chunk=4
    )
    assert torch.allclose(result.values, torch.tensor([[3.0, 0.0], [0.0, 12.0], [0.0, 18.0]]))


def test_row_16_none_among_the_inputs():
    x, extra = torch.ones(2, 3), torch.full((2, 3), 2.0)
    options = {"target": 0, "output": "logits", "steps": 8}
    result = whence.explain(Structured("dict"), (x, None), **options)
    assert result.values[1] is None
    assert torch.allclose(result.values[0], torch.tensor([[1.0, 0, 0]] * 2))
    result = whence.explain(Structured("dict"), {"extra": extra, "x": x}, **options)
    assert list(result.values) == ["extra", "x"]
    assert torch.allclose(result.values["extra"], torch.tensor([[4.0, 0, 0]] * 2))


def test_row_16_a_wrong_part_of_the_output_is_named():
    x = torch.ones(2, 3)
    with pytest.raises(whence.BadInput, match=r"say which: output='logits'"):
        whence.explain(Structured("dict"), x)
    with pytest.raises(whence.BadInput, match=r"'logit' is not in what the model returns.*logits"):
        whence.explain(Structured("dict"), x, output="logit")
    with pytest.raises(whence.BadInput, match="output=5 is not in what the model returns"):
        whence.explain(Structured("tuple"), x, output=5)
    with pytest.raises(whence.BadInput, match="not an array"):
        whence.explain(Structured("object"), x, output="loss")


class Words(nn.Module):
    """Token ids [B, T] -> the mean of their embeddings -> two classes."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens):
        return self.head(self.embedding(tokens).mean(1))


class Bag(Words):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(11, 4, mode="mean")

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


TOKENS = torch.tensor([[1, 5, 5, 0, 7], [10, 2, 3, 4, 0]])


@pytest.mark.parametrize("kwargs", [{}, {"steps": 5}, {"baseline": 0}, {"baseline": torch.zeros(5).long()}])
def test_row_17_token_ids_at_an_embedding(kwargs):
    model = seeded(0, Words).double()
    table, head = model.embedding.weight.detach(), model.head.weight.detach()
    target = torch.tensor([0, 1])
    result = whence.explain(model, TOKENS, target=target, at=whence.layer("embedding"), **kwargs)
    exact = (table[TOKENS] - table[0]) * head[target][:, None] / TOKENS.shape[1]
    assert result.values.shape == (2, 5, 4) and result.values.dtype == torch.float64
    assert torch.allclose(result.values, exact, rtol=0, atol=1e-15)
    assert float(result.residual.abs().max()) < 1e-14
    padding = TOKENS == 0
    assert float(result.values[padding].abs().max()) == 0, "a padding token is its own baseline"


def test_row_17_token_ids_in_a_bag():
    model = seeded(0, Bag).double()
    table, head = model.embedding.weight.detach(), model.head.weight.detach()
    result = whence.explain(model, TOKENS, target=1, at=whence.layer("embedding"), baseline=3)
    exact = (table[TOKENS].mean(1) - table[3]) * head[1]
    assert torch.allclose(result.values, exact, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "method", sorted(name for name, each in whence.methods().items() if not each.cls.switches)
)
def test_row_17_token_ids_without_a_layer_say_what_to_do(method):
    with pytest.raises(whence.BadInput, match=r'at=whence\.layer\("embedding"\)'):
        whence.explain(seeded(0, Words), TOKENS, method)


def test_row_17_numpy_token_ids_and_other_methods():
    model = seeded(0, Words)
    for name in ("saliency", "input_x_gradient", "guided_integrated_gradients"):
        result = whence.explain(model, TOKENS.numpy(), name, at=whence.layer("embedding"))
        assert result.values.shape == (2, 5, 4) and result.values.dtype == np.float32
    with pytest.raises(whence.Refused, match="noise cannot be added to integer inputs"):
        whence.explain(model, TOKENS, "smoothgrad", at=whence.layer("embedding"))


@pytest.mark.parametrize(
    "method", ["saliency", "integrated_gradients", "smoothgrad", "guided_integrated_gradients"]
)
def test_row_18_an_unused_input_has_zero_shares_and_a_note(method):
    x = (torch.randn(3, 4), torch.randn(3, 2))
    result = whence.explain(lambda used, unused: used.tanh().sum(1), x, method)
    assert float(result.values[1].abs().max()) == 0 and float(result.values[0].abs().min()) > 0
    assert any("does not use input 1" in note for note in result.notes)
    named = whence.explain(lambda a, b: b.tanh().sum(1), {"a": x[0], "b": x[1]}, method)
    assert any("does not use input 'a'" in note for note in named.notes)


def test_row_18_an_output_that_depends_on_nothing_has_zero_shares_and_a_note():
    result = whence.explain(lambda x: torch.ones(len(x), 2), torch.randn(3, 4))
    assert float(result.values.abs().max()) == 0 and bool(result.converged.all())
    assert any("does not depend on the input" in note for note in result.notes)


# ---- 19, 20: the model as it was ------------------------------------------------------------------------------


def test_row_19_batch_norm_in_train_mode_is_neither_used_nor_updated():
    trained, x = cnn(), pictures(4)
    reference = whence.explain(trained, x, chunk=8).values
    trained.train()
    trained[1].eval()
    trained[4].eval()
    before = state_of(trained)
    assert torch.equal(whence.explain(trained, x, chunk=8).values, reference)
    assert_same(before, state_of(trained))
    assert [module.training for module in trained] == [True, False, True, True, False, True]
    assert int(trained[1].num_batches_tracked) == 0


def test_row_20_after_an_exception_everything_is_as_it_was():
    model, x = busy(), pictures().requires_grad_()
    x.grad = torch.full_like(x, 2.0)
    classes = [type(module) for module in model.modules()]
    other, wide = mlp(), torch.randn(2, 7)
    before = state_of(model, x)

    def explodes(output):
        explodes.calls += 1
        if explodes.calls > 3:
            raise KeyError("in the target")
        return output[:, 0]

    explodes.calls = 0
    with pytest.raises(KeyError, match="in the target"):
        whence.explain(model, x, target=explodes, chunk=2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        whence.explain(other, wide)
    assert "inputs of shape (2, 7)" in caught.value.__notes__[0]
    assert_same(before, state_of(model, x))
    assert classes == [type(module) for module in model.modules()]


# ---- 22-27 ---------------------------------------------------------------------------------------------------


SWITCHING = [name for name, each in whence.methods().items() if each.cls.switches]


@pytest.mark.parametrize("name", SWITCHING)
def test_row_21_forwards_are_batched_and_none_is_made_twice(name):
    """Six features have 64 coalitions: thousands of samples are no reason for thousands of forwards."""
    batches = []

    def model(x):
        batches.append(x.copy())
        return np.tanh(x @ np.arange(1.0, 7.0)) + x[:, 0] * x[:, 1]

    samples = {"samples": 4000} if "samples" in whence.methods()[name].fields else {}
    whence.explain(model, np.linspace(0.5, 1, 6)[None], name, **samples)
    # The first two runs look at the answer, and whether it is the same again.
    asked = np.concatenate(batches[2:])
    assert len(asked) <= 2**6 - 1
    assert len(np.unique(asked, axis=0)) == len(asked)
    assert len(batches) - 2 <= 3 + len(asked) / 4


@pytest.mark.parametrize(
    "method", ["saliency", "integrated_gradients", "guided_integrated_gradients", "vargrad"]
)
def test_row_22_every_class_at_once_is_each_class_by_itself(method):
    model, x = cnn(dtype=torch.float64), pictures(dtype=torch.float64)
    fields = {"steps": 9} if "integrated" in method else {}
    every = whence.explain(model, x, method, target="all", **fields)
    assert every.values.shape == (3, 3, 1, 6, 6) and every.output.shape == (3, 3)
    for index in range(3):
        one = whence.explain(model, x, method, target=index, **fields)
        assert relative(every.values[:, index], one.values) <= 1e-12
        mine = every.for_class(index)
        for name in ("values", "output", "baseline_output", "residual", "error", "converged", "target"):
            found, wanted = getattr(mine, name), getattr(one, name)
            assert (found is None) == (wanted is None), name
            if found is not None:
                assert np.allclose(np.asarray(found), np.asarray(wanted), atol=1e-10), name


def test_row_22_every_class_shares_the_forward_pass():
    model, x = cnn(), pictures()
    calls = largest_batches(model)
    whence.explain(model, x, target="all", steps=16, chunk=4)
    every = len(calls)
    calls.clear()
    whence.explain(model, x, target=0, steps=16, chunk=4)
    assert every == len(calls)


def test_row_22_a_place_in_a_dense_output():
    model = nn.Conv2d(1, 2, 3, bias=False).double()
    x = torch.randn(2, 1, 5, 6, dtype=torch.float64)
    result = whence.explain(model, x, target=(1, 2, -1), steps=1)
    exact = torch.zeros_like(x)
    exact[:, :, 2:5, 3:6] = model.weight[1] * x[:, :, 2:5, 3:6]
    assert torch.allclose(result.values, exact, rtol=0, atol=1e-15)
    with pytest.raises(whence.BadInput, match="give 3 ints"):
        whence.explain(model, x, target=(1, 2))
    with pytest.raises(whence.BadInput, match="out of range"):
        whence.explain(model, x, target=(1, 2, 4))
    with pytest.raises(whence.BadInput, match="tuple of 3 ints"):
        whence.explain(model, x)
    with pytest.raises(whence.BadInput, match="needs an output"):
        whence.explain(model, x, target="all")


def test_row_23_the_variance_of_a_linear_models_gradient_is_zero():
    # E[x²] − E[x]² loses all digits at gradients of 1e4: −2 in float32 elsewhere.
    weights = torch.tensor([1e4, -3e3, 0.5, 7777.0])
    for dtype in (torch.float32, torch.float64):
        result = whence.explain(lambda x: x @ weights.to(x.dtype), torch.randn(3, 4, dtype=dtype), "vargrad")
        assert float(result.values.abs().max()) == 0
        assert float(result.standard_error.abs().max()) == 0


def test_row_23_a_variance_is_never_negative_and_right():
    x = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    # The gradient of Σ(1e4 x + x²) is 1e4 + 2x: its variance is 4σ², whatever the offset.
    result = whence.explain(lambda x: (1e4 * x + x**2).sum(1), x, "vargrad", samples=2000, noise=0.1)
    assert float(result.values.min()) >= 0
    assert torch.allclose(result.values, torch.full_like(x, 4 * 0.5**2), rtol=0.15)


def test_row_24_blur_weighs_each_example_by_its_own_way():
    generator = torch.Generator().manual_seed(0)
    busy_picture = torch.rand(1, 1, 12, 12, generator=generator, dtype=torch.float64) * 50
    calm_picture = torch.full((1, 1, 12, 12), 0.1, dtype=torch.float64)
    calm_picture[..., :2] = 0.2
    model = seeded(3, lambda: nn.Sequential(nn.Conv2d(1, 3, 5), nn.Tanh(), nn.Flatten(), nn.Linear(192, 2)))
    model = model.double()
    together = whence.explain(
        model, torch.cat([busy_picture, calm_picture]), "blur_integrated_gradients", target=0
    )
    for row, picture in enumerate((busy_picture, calm_picture)):
        alone = whence.explain(model, picture, "blur_integrated_gradients", target=0)
        assert relative(together.values[row], alone.values[0]) <= 1e-12
        assert int(together.evaluations[row]) == int(alone.evaluations[0])
        assert abs(float(alone.residual)) <= 0.05 * float(alone.values.abs().sum())


@pytest.mark.parametrize("target", [0, "all"])
@pytest.mark.parametrize(
    "options", [{}, {"quadrature": "monte_carlo"}, {"path": "stochastic"}, {"path": "blur"}]
)
def test_row_25_gradients_are_not_taken_through_numpy(monkeypatch, target, options):
    sizes = []
    for name in ("numpy", "__array__", "tolist"):
        honest = getattr(torch.Tensor, name)

        def spying(self, *args, honest=honest, **kwargs):
            # The states of random generators are bytes.
            sizes.append(self.numel() if self.is_floating_point() else 0)
            return honest(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spying)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))
    x = torch.randn(2, 1, 32, 32)
    counts = []
    options = {"quadrature": "gauss"} | options
    for steps in (8, 64):
        sizes.clear()
        whence.explain(model, x, target=target, steps=steps, chunk=16, **options)
        counts.append(sum(size >= 1024 for size in sizes))
    assert counts[0] == counts[1] <= 32, "an array of the input's size went to NumPy at every step"


def test_row_26_random_numbers_come_from_the_seed_alone():
    model, x = mlp(), torch.randn(3, 6)
    drawn = [
        whence.SmoothGrad(samples=5),
        whence.ExpectedGradients(baseline=torch.randn(9, 6), samples=7),
        whence.IntegratedGradients(quadrature="monte_carlo", steps=10),
        whence.IntegratedGradients(baseline=whence.baseline.uniform(3), steps=3),
    ]
    for method in drawn:
        answers = []
        for state in (0, 1):
            torch.manual_seed(state), np.random.seed(state), random.seed(state)
            answers.append(whence.explain(model, x, method, chunk=4).values)
        assert torch.equal(*answers), method
        other = whence.explain(model, x, method, chunk=4, seed=1).values
        assert relative(other, answers[0]) > 1e-4, method
    following = [torch.rand(3)]
    torch.manual_seed(1)
    _ = torch.rand(3)
    torch.manual_seed(1)
    whence.explain(model, x, drawn[0])
    following = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(following, torch.rand(3)), "the global generator goes on as if nothing had been"


def test_row_26_cuda_that_is_not_in_use_is_not_seeded():
    tracker = torch.cuda._lazy_seed_tracker
    model = mlp()
    before = list(tracker.get_calls())
    whence.explain(model, torch.ones(2, 6), "saliency")
    assert list(tracker.get_calls()) == before


@pytest.mark.parametrize("where", ["outside", "inside", "in place"])
def test_row_27_a_compiled_model_is_explained_through_its_original(where):
    plain, x = cnn(), pictures()
    reference = whence.explain(plain, x, chunk=8).values
    fired = []
    plain[0].register_forward_hook(lambda module, inputs, output: fired.append(1))
    plain.train()
    if where == "outside":
        model, prefix = torch.compile(plain), "_orig_mod."
    elif where == "inside":
        model, prefix = nn.Sequential(torch.compile(plain)), "0._orig_mod."
    else:
        model, prefix = plain, ""
        plain.compile()
    before = state_of(plain)
    result = whence.explain(model, x, chunk=8)
    assert torch.equal(result.values, reference)
    assert fired, "hooks must not be ignored"
    assert any("compiled" in note and "original" in note for note in result.notes)
    # Its layers answer to the names that the compiled model gives them.
    layer = whence.explain(model, x, at=whence.layer(f"{prefix}2"))
    assert relative(layer.values, whence.explain(plain, x, at=whence.layer("2")).values) <= 1e-6
    assert_same(before, state_of(plain))


def test_the_order_of_a_quadrature_is_what_its_name_says():
    """Row 13, for all rules at once: halving the step divides the error by 2 or 4."""
    x = torch.tensor([[1.0]], dtype=torch.float64)
    orders = {"left": 1, "right": 1, "midpoint": 2}
    for name, order in orders.items():
        errors = [
            abs(
                float(whence.explain(lambda x: x.exp().sum(1), x, quadrature=name, steps=n).values)
                - math.expm1(1)
            )
            for n in (20, 40)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)
