# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""The promises of docs/design.md, each over every registered method: a new method is held to them unasked."""

import gc
import random
import sys
import threading
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import whence
from models import (
    Busy,
    assert_same,
    busy,
    cases,
    cnn,
    is_drawn,
    like_inputs,
    mlp,
    names,
    numpy_of,
    of_inputs,
    pictures,
    relative,
    settings_for,
    state_of,
    unexpected,
    works_without_relu,
)
from whence import chunk as chunks
from whence.attribution import Attribution
from whence.backends.callable import CallableBackend

ROWS = pictures(5, seed=9)
CASES = cases(ROWS)
METHODS = names()
GRADIENT = [name for name in METHODS if "gradient" in whence.methods()[name].needs]
# Maps of a layer need a model that has layers.
OF_INPUTS = [name for name in METHODS if of_inputs(name)]

every_case = pytest.mark.parametrize("name", CASES)
every_method = pytest.mark.parametrize("name", METHODS)
every_method_of_inputs = pytest.mark.parametrize("name", OF_INPUTS)
# Rules for rectifiers need some: not every little model here has one.
every_method_of_any_model = pytest.mark.parametrize("name", [n for n in OF_INPUTS if works_without_relu(n)])
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    """Small models are slower on several threads, and bit-for-bit promises are made for a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def converted(name: str, dtype: torch.dtype, rows=ROWS):
    """A case whose data-set baselines have the inputs' dtype."""
    return cases(rows.to(dtype))[name]


def arrays_of(result: Attribution) -> dict:
    parts = {"values": result.values, "standard_error": result.standard_error}
    for name in ("output", "baseline_output", "residual", "error", "evaluations", "converged"):
        parts[name] = getattr(result, name)
    return {name: part for name, part in parts.items() if part is not None}


# ---- the user's model is never changed -----------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("at", [None, whence.layer("conv")], ids=["input", "layer"])
def test_nothing_of_the_users_is_changed(name, at):
    model, x = busy(), pictures().requires_grad_()
    x.grad = torch.ones_like(x)
    fired = []
    model.conv.register_forward_hook(lambda module, inputs, output: fired.append(len(output)))
    model.register_forward_pre_hook(lambda module, inputs: fired.append(0))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = state_of(model, x)
    result = whence.explain(model, x, CASES[name], at=at)
    assert_same(before, state_of(model, x))
    assert 0 in fired and any(fired), "the user's hooks must still fire"
    assert unexpected(result.notes) == []


@every_method_of_any_model
def test_nothing_is_changed_by_a_model_that_draws_from_every_generator(name):
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(36, 2)

        def forward(self, x):
            noise = random.random() + np.random.rand() + torch.rand(())
            return self.line(x.flatten(1)) * (1 + noise)

    model, x = Drawing(), pictures()
    before = state_of(model, x)
    result = whence.explain(model, x, CASES[name])
    assert_same(before, state_of(model, x))
    assert any("not deterministic" in note for note in result.notes)


class Broken(Exception):
    pass


@every_case
@pytest.mark.parametrize("call", [1, 3, 6])
def test_nothing_is_changed_by_an_exception_in_the_middle(name, call):
    model, x = busy(), pictures().requires_grad_()
    calls = []

    def fails(module, inputs):
        calls.append(1)
        if len(calls) == call:
            raise Broken("in the middle")

    model.norm.register_forward_pre_hook(fails)
    before = state_of(model, x)
    with pytest.raises(Broken, match="in the middle"):
        whence.explain(model, x, CASES[name], chunk=1)
    assert_same(before, state_of(model, x))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [2, None])
def test_two_threads_explain_one_model_at_once(chunk):
    model, x = busy(), pictures()
    before = state_of(model, x)
    names = sorted(CASES)
    alone = {name: whence.explain(model, x, CASES[name], chunk=chunk) for name in names}
    together, problems = {}, []
    barrier = threading.Barrier(2)

    def work(order):
        try:
            for name in order:
                barrier.wait(30)
                together[name, order[0]] = whence.explain(model, x, CASES[name], chunk=chunk)
        except BaseException as problem:
            problems.append(problem)
            barrier.abort()

    orders = (names, names[3:] + names[:3])
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(together) == 2 * len(names)
    for (name, _), result in together.items():
        assert relative(result.values, alone[name].values) <= 1e-5, name
        assert torch.equal(result.evaluations, alone[name].evaluations), name
    assert_same(before, state_of(model, x))


def test_threads_share_the_search_for_a_chunk_size():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    problems = []
    backend = CallableBackend()

    def work(search):
        try:
            for _ in range(3):
                search.run(backend, 4096, lambda start, stop: None)
        except Exception as problem:
            problems.append(problem)

    try:
        for _ in range(30):
            search = chunks.Chunks()
            threads = [threading.Thread(target=work, args=(search,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert problems == []


def test_two_threads_run_a_model_that_cannot_be_copied_one_after_the_other():
    model = busy()
    inside, most = [], []

    def through(x):
        inside.append(1)
        most.append(len(inside))
        assert not model.training and not model.norm.training
        y = model(x)
        inside.pop()
        return y

    before = state_of(model)
    threads = [
        threading.Thread(target=whence.explain, args=(through, pictures(), "saliency")) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    for kind in ("modes", "parameters", "gradients", "buffers", "hooks", "generators"):
        assert_same(getattr(before, kind), getattr(state_of(model), kind), kind)


# ---- an example's answer does not depend on its batch mates ----------------------------------------------------


def batch_of_unequals(seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Very different examples: large, small, constant, and equal to the baseline."""
    x = pictures(5, seed=seed, dtype=dtype)
    x[1] *= 1e-2
    x[3] = 0.5
    x[4] = 0.0
    return x


# A constant example has no range to add noise to, and its decision boundary may be out of reach: see the Refused.
@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("at", [None, whence.layer("0")], ids=["input", "layer"])
def test_an_example_is_explained_as_if_it_were_alone(name, dtype, at):
    model, method = cnn(dtype=dtype), converted(name, dtype)
    x = batch_of_unequals(1, dtype)
    x = x[:3] if "boundary" in name else x
    together = whence.explain(model, x, method, at=at, target=1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    switches = getattr(type(method), "switches", False)
    for row in range(len(x)):
        alone = whence.explain(model, x[row : row + 1], method, at=at, target=1)
        for part, values in arrays_of(alone).items():
            found = arrays_of(together)[part][row : row + 1]
            if part in ("evaluations", "converged"):
                assert torch.equal(found, values), (part, row)
            elif part == "residual":
                size = float(alone.output.abs().max() + alone.baseline_output.abs().max())
                assert float((found - values).abs().max()) <= 5 * tolerance * size, (part, row)
            elif part == "standard_error":
                # Where every draw gives the same, it is the rounding error of the values.
                size = float((alone.output if switches else alone.values).abs().sum())
                assert relative(found, values, size) <= tolerance, (part, row)
            else:
                # An estimated error is a difference of nearly equal sums, so its own digits are fewer.
                floor = 1e-5 if dtype == torch.float32 else 1e-12
                close = torch.allclose(found, values, rtol=100 * tolerance, atol=floor)
                # A difference of outputs is as exact as these are, each of them.
                each = float(alone.output.abs().max()) if switches and part == "values" else 0.0
                scale = each * values.numel()
                assert close if part == "error" else relative(found, values, scale) <= tolerance, (part, row)


@pytest.mark.parametrize("name", METHODS)
def test_top_classes_and_every_class_do_not_mix_examples_either(name):
    model, x = cnn(dtype=torch.float64), batch_of_unequals(2, torch.float64)
    method = converted(name, torch.float64)
    for target in (None, "all", [2, 0, 1, 0, 2], whence.target.probability(), whence.target.margin()):
        together = whence.explain(model, x, method, target=target)
        for row in range(len(x)):
            own = [target[row]] if isinstance(target, list) else target
            alone = whence.explain(model, x[row : row + 1], method, target=own)
            scale = float(alone.output.abs().max()) if type(method).switches else 0.0
            assert relative(together.values[row : row + 1], alone.values, scale) <= 1e-10


@few
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 9),
    features=st.integers(1, 12),
    classes=st.integers(1, 4),
    size=st.integers(1, 40),
)
def test_any_shape_any_chunk_one_answer(seed, batch, features, classes, size):
    model = mlp(features, classes, seed, torch.float64)
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, features)))
    reference = whence.explain(model, x, rtol=0.01)
    chunked = whence.explain(model, x, rtol=0.01, chunk=size)
    assert chunked.values.shape == x.shape and chunked.output.shape == (batch,)
    assert relative(chunked.values, reference.values) <= 1e-12
    row = seed % batch
    alone = whence.explain(model, x[row : row + 1], rtol=0.01)
    assert relative(chunked.values[row], alone.values[0]) <= 1e-10
    assert torch.equal(chunked.evaluations[row], alone.evaluations[0])


# ---- memory is one chunk ---------------------------------------------------------------------------------------


class Watched(nn.Module):
    """Notes, outside of itself, what each forward pass looked like."""

    def __init__(self, model: nn.Module, seen: list) -> None:
        super().__init__()
        self.model = model
        self.register_forward_pre_hook(lambda module, inputs: seen.append(self.look(module, inputs[0])))

    @staticmethod
    def look(module: nn.Module, x: torch.Tensor) -> tuple[int, bool, bool]:
        wanted = any(each.requires_grad for each in module.parameters())
        return len(x), torch.is_grad_enabled() and x.requires_grad, wanted

    def forward(self, x):
        return self.model(x)


def watched(model: nn.Module) -> tuple[nn.Module, list]:
    seen: list = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(Watched.look(module, inputs[0])))
    return model, seen


@every_case
@pytest.mark.parametrize("size", [1, 4])
def test_a_chunk_is_never_exceeded_and_parameters_want_no_gradient(name, size):
    model, seen = watched(busy())
    whence.explain(model, pictures(), CASES[name], chunk=size)
    assert max(rows for rows, _, _ in seen) <= size
    assert not any(wanted for _, _, wanted in seen), "a gradient for parameters would cost memory and time"
    assert all(each.requires_grad for each in model.head.parameters())
    if name in GRADIENT:
        assert any(recorded for _, recorded, _ in seen)


def test_chunks_do_not_grow_with_the_steps():
    largest = {}
    for steps in (16, 4096):
        model, seen = watched(cnn())
        whence.explain(model, pictures(2), steps=steps)
        largest[steps] = max(rows for rows, _, _ in seen)
    assert largest[4096] <= chunks.LARGEST


def live_bytes() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    return sum(
        {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda size, rows: whence.IntegratedGradients(steps=size),
        lambda size, rows: whence.IntegratedGradients(quadrature="monte_carlo", steps=size),
        lambda size, rows: whence.GuidedIntegratedGradients(steps=size),
        lambda size, rows: whence.SmoothGrad(samples=size),
        lambda size, rows: whence.VarGrad(samples=size),
        lambda size, rows: whence.ExpectedGradients(baseline=rows, samples=size),
        lambda size, rows: whence.IntegratedGradients(baseline=whence.baseline.uniform(size), steps=2),
        lambda size, rows: whence.IntegratedGradients(path=whence.path.stochastic(size), steps=2),
    ],
    ids=["ig", "ig-random", "guided", "smoothgrad", "vargrad", "expected", "baselines", "stochastic"],
)
def test_what_is_held_does_not_grow_with_steps_or_samples(make):
    most = {}
    rows = torch.randn(4, 4096)
    for size in (64, 256):
        held, calls = [], []

        def look(module, inputs, held=held, calls=calls):
            calls.append(1)
            if len(calls) & (len(calls) - 1) == 0 or len(calls) % 64 == 0:
                held.append(live_bytes())

        model = nn.Linear(4096, 2)
        model.register_forward_pre_hook(look)
        whence.explain(model, torch.randn(2, 4096), make(size, rows), chunk=16)
        most[size] = max(held)
    # The nodes, weights and outputs of the trace are a few numbers a node; a gradient would be 4,096.
    assert most[256] - most[64] < 16 * 4096 * 4


def test_a_graph_is_freed_when_the_answer_is_there():
    def with_graph() -> int:
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(
                isinstance(each, torch.Tensor) and each.grad_fn is not None for each in gc.get_objects()
            )

    model, x = cnn(), pictures()
    before = with_graph()
    results = [whence.explain(model, x, CASES[name]) for name in CASES]
    results += [whence.explain(model, x, name, target="all", **settings_for(name, ROWS)) for name in METHODS]
    assert with_graph() == before
    assert results


# ---- same seed, same answer ------------------------------------------------------------------------------------


@every_case
def test_the_same_seed_gives_the_same_bits(name):
    model, x = cnn(), pictures()
    torch.manual_seed(1)
    one = whence.explain(model, x, CASES[name], chunk=5, seed=3)
    torch.manual_seed(2)
    np.random.seed(2)
    two = whence.explain(model, x, CASES[name], chunk=5, seed=3)
    for part, values in arrays_of(one).items():
        assert torch.equal(values.nan_to_num(), arrays_of(two)[part].nan_to_num()), part


@every_case
def test_the_chunk_size_does_not_change_the_answer(name):
    # A difference quotient multiplies the model's own rounding, which depends on the chunk, by 1/step.
    dtype = torch.float64 if "differences" in name else torch.float32
    model, x = cnn(dtype=dtype), pictures(dtype=dtype)
    answers = [whence.explain(model, x, converted(name, dtype), chunk=size) for size in (1, 3, 7, 64)]
    for each in answers[1:]:
        assert relative(each.values, answers[0].values) <= 1e-6
        assert torch.equal(each.evaluations, answers[0].evaluations)


@every_case
def test_the_seed_changes_what_is_drawn_and_nothing_else(name):
    model, x = cnn(), pictures()
    one, two = (whence.explain(model, x, CASES[name], chunk=5, seed=seed) for seed in (3, 4))
    if is_drawn(name):
        assert relative(one.values, two.values) > 1e-4
    else:
        assert torch.equal(one.values, two.values)


# ---- results: detached, and like the inputs --------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_are_like_the_inputs(name, dtype):
    model, x = cnn(dtype=dtype), pictures(dtype=dtype).requires_grad_()
    result = whence.explain(model, x, converted(name, dtype))
    shape = x.shape if like_inputs(name) else (3, 1, 4, 4)
    assert (result.values.dtype, result.values.shape, result.values.device) == (x.dtype, shape, x.device)
    for part, values in arrays_of(result).items():
        assert isinstance(values, torch.Tensor), part
        assert not values.requires_grad and values.grad_fn is None, part
        assert len(values) == len(x), part
        assert torch.isfinite(values).all(), part
    assert result.values.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert all("tolerance" in note for note in unexpected(result.notes))


@every_method
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_numpy_in_numpy_out(name, dtype):
    x = pictures().numpy().astype(dtype)
    model = cnn()
    result = whence.explain(model, x, name, **settings_for(name, x))
    # A layer's values have the model's own type.
    assert isinstance(result.values, np.ndarray)
    assert result.values.dtype == (dtype if like_inputs(name) else np.float32)
    for part, values in arrays_of(result).items():
        assert isinstance(values, np.ndarray), part
    native = whence.explain(model, torch.from_numpy(x).float(), name, **settings_for(name, ROWS))
    rows = whence.explain(model, x, name, **settings_for(name, ROWS.numpy()))
    assert relative(rows.values, native.values) <= (1e-3 if dtype == np.float16 else 1e-6)


class Pair(nn.Module):
    """Takes two inputs of which the first may be left out."""

    def __init__(self):
        super().__init__()
        self.cnn = cnn(1)

    def forward(self, extra=None, picture=None):
        y = self.cnn(picture)
        return y if extra is None else y + torch.tanh(extra).sum((1, 2), keepdim=False)[:, None] ** 2


@every_method_of_inputs
def test_the_structure_of_the_inputs_is_kept(name):
    picture, extra = pictures(), pictures(seed=4)[:, 0]
    rows, row_extra = ROWS, pictures(5, seed=5)[:, 0]
    model = Pair()
    several = settings_for(name, (row_extra, rows))
    result = whence.explain(model, (extra, picture), name, **several)
    assert isinstance(result.values, tuple)
    assert [each.shape for each in result.values] == [extra.shape, picture.shape]
    named = settings_for(name, {"picture": rows, "extra": row_extra})
    result = whence.explain(model, {"picture": picture, "extra": extra}, name, **named)
    assert list(result.values) == ["picture", "extra"]
    assert result.values["picture"].shape == picture.shape
    absent = settings_for(name, (None, rows))
    result = whence.explain(model, (None, picture), name, **absent)
    assert result.values[0] is None and result.values[1].shape == picture.shape


# ---- loud, early, clear errors ---------------------------------------------------------------------------------


def explain(name, x=None, model=None, **options):
    x = pictures() if x is None else x
    return whence.explain(cnn() if model is None else model, x, name, **(settings_for(name, ROWS) | options))


@every_method
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused(name, value):
    x = pictures()
    x[1, 0, 2, 2] = value
    with pytest.raises(whence.BadInput, match="NaN or infinity"):
        explain(name, x)


@pytest.mark.parametrize("name", [name for name in METHODS if not whence.methods()[name].cls.switches])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_are_refused_and_a_layer_is_suggested(name, dtype):
    with pytest.raises(whence.BadInput, match=r"at=whence\.layer"):
        explain(name, pictures().to(dtype))


@every_method
@pytest.mark.parametrize("target", [3, -4, [0, 1, 9], np.array([0, 1, 3]), whence.target.logit(7)])
def test_a_class_out_of_range_is_named(name, target):
    with pytest.raises(whence.BadInput, match="out of range; the model has 3"):
        explain(name, target=target)


@every_method
def test_targets_that_do_not_fit(name):
    for target in ([0, 1], "al", 1.5, (0, 1), whence.target.loss([0, 1]), lambda y: y):
        with pytest.raises(whence.BadInput):
            explain(name, target=target)


@every_method
def test_near_names_are_offered(name):
    with pytest.raises(whence.BadInput, match="did you mean 'conv'"):
        explain(name, model=busy(), at=whence.layer("cnov"))
    with pytest.raises(whence.BadInput, match=f"did you mean .*{name}"):
        whence.explain(cnn(), pictures(), name[:-1] + "_")
    for field in whence.methods()[name].fields:
        with pytest.raises(whence.BadInput, match=f"did you mean .*{field}"):
            explain(name, **{field + "s_"[: 1 + len(field) % 2]: 1})


def test_an_unknown_method_option_without_near_names_lists_what_there_is():
    with pytest.raises(whence.BadInput, match=r"there is no method 'zzzzzz'; there are: .*saliency"):
        whence.explain(cnn(), pictures(), "zzzzzz")
    with pytest.raises(whence.BadInput, match="a name, a class or an object"):
        whence.explain(cnn(), pictures(), 3)


@every_method
def test_batches_that_cannot_be(name):
    with pytest.raises(whence.BadInput, match="at least one example"):
        explain(name, pictures()[:0])
    with pytest.raises(whence.BadInput, match="axis 0 is the batch"):
        explain(name, torch.tensor(1.0))
    with pytest.raises(whence.BadInput, match="axis 0 is the batch"):
        explain(name, np.float32(1.0))
    with pytest.raises(whence.BadInput, match="batches differ"):
        explain(name, (pictures(2)[:, 0], pictures(3)), Pair())
    with pytest.raises(whence.BadInput, match="no array"):
        explain(name, (None, None), Pair())
    with pytest.raises(whence.BadInput, match="no array"):
        explain(name, ())


@every_method_of_inputs
def test_outputs_that_cannot_be(name):
    with pytest.raises(whence.BadInput, match="axis 0 must be the batch"):
        explain(name, model=lambda x: x.sum())
    with pytest.raises(whence.BadInput, match="axis 0 must be the batch"):
        explain(name, model=lambda x: x.flatten(1).sum(1)[:1])
    with pytest.raises(whence.BadInput, match="say which"):
        explain(name, model=lambda x: (x.flatten(1), x.flatten(1)))
    with pytest.raises(whence.BadInput, match="NaN or infinite"):
        explain(name, model=lambda x: x.flatten(1).sum(1) / 0)
    with pytest.raises(whence.BadInput, match="returns a str"):
        explain(name, model=lambda x: "cat")


CUTS = {
    "argmax": lambda x: x.flatten(1).argmax(1).float(),
    "detach": lambda x: x.detach().flatten(1).sum(1),
    "numpy": lambda x: torch.as_tensor(np.sin(numpy_of(x)).sum((1, 2, 3))),
    "no_grad": torch.no_grad()(lambda x: x.flatten(1).sum(1)),
    "inference_mode": torch.inference_mode()(lambda x: x.flatten(1).sum(1)),
}


@pytest.mark.parametrize("name", [name for name in GRADIENT if of_inputs(name)])
@pytest.mark.parametrize("cut", CUTS)
def test_a_model_without_a_gradient_is_refused_and_told_what_cuts_it(name, cut):
    with pytest.raises(whence.Refused, match=r"carries no gradient.*detach, argmax.*sensitivity"):
        explain(name, model=CUTS[cut])


@every_method_of_any_model
def test_a_model_that_draws_lots_is_noted(name):
    result = explain(name, model=lambda x: torch.dropout(x, 0.5, True).flatten(1).sum(1))
    assert any("not deterministic" in note for note in result.notes)


@every_method_of_any_model
def test_a_model_that_mixes_its_batch_is_noted(name):
    result = explain(name, model=lambda x: (x - x.mean(0) * 0.5).flatten(1).sum(1) + x.flatten(1)[:, 0] ** 2)
    assert any("mixes the examples" in note for note in result.notes)


@pytest.mark.parametrize("name", OF_INPUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounding_is_not_taken_for_drawing_lots(name, dtype):
    model = seeded_wide(dtype)
    x = torch.randn(24, 1, 6, 6).to(dtype)
    result = whence.explain(model, x, converted(name, dtype))
    assert not any("deterministic" in note or "mixes" in note for note in result.notes)


@pytest.mark.parametrize("dtype, bits", [(torch.float16, 10), (torch.bfloat16, 7), (torch.float32, 20)])
def test_a_unit_in_the_last_place_is_not_taken_for_mixing(dtype, bits):
    """As on a device that chooses another algorithm for another batch size."""
    model = lambda x: x.flatten(1).sum(1) * (1 + (len(x) > 1) * 2.0**-bits)  # noqa: E731
    assert whence.explain(model, pictures(dtype=dtype).abs(), steps=2).notes == []


def seeded_wide(dtype):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 256), nn.ReLU(), nn.Linear(256, 1)).to(dtype)


def test_a_gradient_that_is_not_finite_names_its_node():
    def root(x):
        return (x - 0.25).abs().sqrt().sum(1)

    x = torch.ones(2, 1)
    x[0] = 0.125
    with pytest.raises(whence.Refused, match=r"gradient is not finite at α = 0\.25 on the path of example 1"):
        whence.explain(root, x, quadrature="right", steps=4)
    with pytest.raises(whence.Refused, match=r"gradient at the input is not finite"):
        whence.explain(root, torch.full((1, 1), 0.25), "saliency")
    with pytest.raises(whence.Refused, match=r"output is not finite at α = 0\.5 on the path of example 0"):
        whence.explain(lambda x: (1 / (x - 0.5)).sum(1), torch.ones(1, 1), quadrature="right", steps=2)


@every_method_of_any_model
def test_no_method_answers_with_nan(name):
    """The gradient is NaN everywhere, whatever the path."""

    def bad(x):
        zero = x.flatten(1).sum(1) * 0
        return x.flatten(1).sum(1) + torch.where(zero == 0, zero, torch.sqrt(zero) / zero)

    def bad_without_a_feature(x):
        absent = (x.flatten(1) == 0).any(1)
        return x.flatten(1).sum(1) + torch.where(absent, torch.nan, 0.0)

    model = bad_without_a_feature if whence.methods()[name].cls.switches else bad
    with pytest.raises(whence.Refused, match="not finite"):
        explain(name, model=model)


def test_options_that_cannot_be():
    for option in ({"chunk": 0}, {"seed": -1}, {"on_unknown": "ignore"}, {"at": "conv"}):
        with pytest.raises(whence.BadInput):
            whence.explain(cnn(), pictures(), **option)


def test_the_busy_model_is_as_busy_as_it_says():
    """The checks above are worth nothing if running the model would change nothing."""
    model = busy()
    before = state_of(model)
    with torch.no_grad():
        model(pictures())
    after = state_of(model)
    for kind in ("buffers", "attributes", "generators"):
        with pytest.raises(AssertionError):
            assert_same(getattr(before, kind), getattr(after, kind))
    assert isinstance(model, Busy)
