"""The driver of methods that switch features: what it asks of a black box, and what it does when that misbehaves."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import gc
import time
import tracemalloc

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

import whence
from models import assert_same, busy, pictures, relative, seeded, state_of
from oracles_coalition import Recorder, game_of, leave_one_out, shapley_by_subsets, smooth
from whence import features
from whence.errors import BadInput, Refused

D = 13
SWITCHING = {
    "occlusion": {}, "feature_ablation": {}, "lime": {"samples": 200}, "kernel_shap": {"samples": 200},
    "shapley_sampling": {"samples": 12}, "rise": {"samples": 200}, "partition_shap": {"max_evaluations": 100},
    "shapley_interaction": {"samples": 1100},
}  # fmt: skip
every_method = pytest.mark.parametrize("name", SWITCHING)
SAMPLED = ("lime", "kernel_shap", "shapley_sampling", "rise", "shapley_interaction")


def rows_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_list_of_methods_here_is_that_of_the_registry():
    known = {name for name, each in whence.methods().items() if each.cls.switches}
    assert known == {*SWITCHING, "exact_shapley"}


# ---- chunks, batch mates, seeds -----------------------------------------------------------------------------------


@every_method
def test_a_chunk_changes_nothing_and_is_never_exceeded(name):
    x, whole = rows_of(3, D), None
    for chunk in (None, 1, 3, 64):
        black_box = Recorder(smooth(D))
        found = whence.explain(black_box, x, name, chunk=chunk, **SWITCHING[name])
        whole = whole or found
        assert np.abs(found.values - whole.values).max() <= 1e-12
        if whole.standard_error is not None:
            assert np.abs(found.standard_error - whole.standard_error).max() <= 1e-12
        assert np.array_equal(found.evaluations, whole.evaluations)
        assert max(black_box.batches) <= (chunk or 4096)


@every_method
def test_an_example_does_not_depend_on_its_batch_mates(name):
    f, x = smooth(D, 3), rows_of(3, D)
    x[1] *= 0.01
    options = SWITCHING[name] if name not in SAMPLED else {"rtol": 0.2, "max_evaluations": 3000}
    if name == "shapley_interaction":
        options = SWITCHING[name]
    together = whence.explain(f, x, name, **options)
    for row in range(3):
        alone = whence.explain(f, x[row : row + 1], name, **options)
        assert relative(together.values[row], alone.values[0]) <= 1e-10
        assert together.evaluations[row] == alone.evaluations[0]
        if together.error is not None:
            assert together.error[row] == pytest.approx(alone.error[0], rel=1e-6)


@every_method
def test_the_seed_changes_what_is_sampled_and_nothing_else(name):
    f, x = smooth(D), rows_of(1, D)
    one, same, other = (
        whence.explain(f, x, name, seed=seed, chunk=16, **SWITCHING[name]) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.values, same.values)
    assert np.array_equal(one.values, other.values) == (name not in SAMPLED)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    whence.explain(f, x, name, **SWITCHING[name])
    assert np.array_equal(np.random.get_state()[1], before)


@every_method
def test_a_row_is_never_in_a_larger_batch_than_a_chunk_and_masks_are_made_for_one(name):
    class Wide:
        most = 0

        def __call__(self, x):
            self.most = max(self.most, len(x))
            return np.tanh(x[:, ::100].sum(1))

    model, x = Wide(), rows_of(1, 20_000)
    spec = np.arange(20_000) % D
    whence.explain(model, x, name, features=spec, chunk=16, **SWITCHING[name])
    gc.collect()
    tracemalloc.start()
    whence.explain(model, x, name, features=spec, chunk=16, **SWITCHING[name])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Inputs of a chunk, their copies and masks: some 16 x 20,000 doubles; 200 coalitions would be 32 MB each.
    assert model.most <= 16 and most < 20e6


@every_method
@pytest.mark.parametrize("pick", ["full", "empty"])
def test_the_whole_and_the_empty_subset_are_not_asked_again(name, pick):
    black_box, x = Recorder(smooth(D)), rows_of(1, D)
    whence.explain(black_box, x, name, **SWITCHING[name])
    asked = black_box.after(2)
    if pick == "full":
        assert not (asked == x).all(1).any()
    else:
        assert (asked == 0).all(1).sum() <= 1


# ---- fusion --------------------------------------------------------------------------------------------------------


def wide_mlp():
    return seeded(
        0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    ).eval()


@pytest.mark.parametrize(
    "name", ["kernel_shap", "lime", "shapley_sampling", "partition_shap", "exact_shapley"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fusion_gives_the_same_shares_and_says_so(name, dtype):
    model, x = wide_mlp().to(dtype), torch.rand(2, 1, 28, 28, dtype=dtype)
    spec = features.grid(3) if name == "exact_shapley" else features.patches(4)
    one, two = (
        whence.explain(model, x, name, features=spec, fuse=fuse, target=3, baseline=0.1)
        for fuse in (True, False)
    )
    assert relative(one.values, two.values) <= (1e-4 if dtype == torch.float32 else 1e-10)
    assert torch.equal(one.evaluations, two.evaluations)
    assert "fused" not in two.settings
    if name != "partition_shap":
        # Subsets that are asked in small groups do not pay for a table.
        assert one.settings.get("fused") is True


def test_fusion_is_not_claimed_where_it_is_not_done():
    # A convolution costs less than a product with the table of what each feature adds.
    model = seeded(
        0, lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
    )
    x = torch.rand(1, 1, 28, 28)
    found = whence.explain(model, x, "kernel_shap", features=features.patches(2), samples=2000, target=0)
    plain = whence.explain(
        model, x, "kernel_shap", features=features.patches(2), samples=2000, target=0, fuse=False
    )
    assert relative(found.values, plain.values) <= 1e-4 and "fused" not in found.settings


# ---- models that misbehave -------------------------------------------------------------------------------------------


def after(calls, trouble):
    """A model that is well until so many calls, and then gives `trouble(x)`."""
    f, count = smooth(D), [0]

    def model(x):
        count[0] += 1
        return f(x) if count[0] <= calls else trouble(x)

    return model


@every_method
@pytest.mark.parametrize(
    ("trouble", "error", "word"),
    [
        (lambda x: np.full(len(x), np.nan), (Refused, BadInput), "not finite"),
        (lambda x: np.full(len(x), np.inf), (Refused, BadInput), "not finite"),
        (lambda x: smooth(D)(x)[:-1], BadInput, "rows|examples|shape"),
        (lambda x: np.zeros((len(x) + 1, 2)), BadInput, "rows|examples|shape"),
        (lambda x: None, BadInput, "returns None"), (lambda x: "good", BadInput, "str"),
        (lambda x: [[1.0], [2.0, 3.0]], BadInput, "differ in length"),
    ],
    ids=["nan", "inf", "short", "long", "none", "text", "ragged"],
)  # fmt: skip
def test_an_answer_that_is_none_is_said_clearly(name, trouble, error, word):
    with pytest.raises(error, match=word):
        whence.explain(after(3, trouble), rows_of(2, D), name, chunk=5, **SWITCHING[name])


@every_method
def test_an_error_of_the_models_own_shows_the_batch_it_was_raised_for(name):
    def trouble(x):
        raise ConnectionError("the server is down")

    with pytest.raises(ConnectionError, match="the server is down") as problem:
        whence.explain(after(3, trouble), rows_of(2, D), name, chunk=5, **SWITCHING[name])
    assert any(", 13)" in note for note in problem.value.__notes__)


@every_method
def test_lists_and_single_precision_are_answers_too(name):
    f, x = smooth(D), rows_of(1, D)
    wanted = whence.explain(f, x, name, **SWITCHING[name]).values
    listed = whence.explain(lambda x: [float(each) for each in f(x)], x, name, **SWITCHING[name])
    assert relative(listed.values, wanted) <= 1e-12
    single = whence.explain(lambda x: f(x).astype(np.float32), x, name, **SWITCHING[name])
    assert relative(single.values, wanted) <= 1e-3


@every_method
def test_a_constant_model_gives_nothing_and_is_sure_of_it(name):
    options = {"rtol": 0.01} if name in SAMPLED else {}
    found = whence.explain(lambda x: np.full(len(x), 7.0), rows_of(2, D), name, **options)
    assert np.abs(found.values - (7.0 if name == "rise" else 0.0)).max() <= 1e-9
    assert found.converged.all() and (found.error is None or np.nan_to_num(found.error, nan=9).max() <= 1e-6)


@every_method
def test_an_interrupt_leaves_nothing_broken(name):
    model, x = busy(), pictures().requires_grad_()
    calls = []

    def stops(module, inputs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = model.norm.register_forward_pre_hook(stops)
    before = state_of(model, x)
    options = {key: value for key, value in SWITCHING[name].items() if name != "shapley_interaction"}
    with pytest.raises(KeyboardInterrupt):
        whence.explain(
            model, x, name, chunk=2, features=None if name == "rise" else features.grid(3), **options
        )
    assert_same(before, state_of(model, x))
    handle.remove()
    one, two = (whence.explain(model, x, name, target=0, **options) for _ in range(2))
    assert torch.equal(one.values, two.values)


# ---- odd inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["feature_ablation", "kernel_shap", "exact_shapley", "occlusion"])
def test_tokens_stay_whole_numbers(name):
    table, x = rows_of(10, 3), np.array([[1, 4, 2, 9], [3, 3, 0, 0]])
    seen = []

    def model(ids):
        seen.append(ids.dtype)
        return np.tanh(table[ids].sum(1)).sum(1)

    fields = {"window": 1} if name == "occlusion" else {}
    found = whence.explain(model, x, name, baseline=0, **fields)
    oracle = leave_one_out if name in ("feature_ablation", "occlusion") else shapley_by_subsets
    wanted = np.stack([oracle(*game_of(model, row, np.zeros((1, 4), int))) for row in x])
    assert np.allclose(found.values, wanted) and found.values.dtype.kind == "f"
    assert all(kind.kind == "i" for kind in seen)
    ids = torch.as_tensor(x)
    network = lambda ids: torch.tanh(torch.as_tensor(table)[ids].sum(1)).sum(1)  # noqa: E731
    found = whence.explain(network, ids, name, baseline=0, **fields)
    assert np.allclose(found.values, wanted, atol=1e-6)
    with pytest.raises(BadInput, match="whole numbers"):
        whence.explain(model, x, name, baseline=0.5)


HUGE = {
    "kernel_shap": Refused, "exact_shapley": Refused, "partition_shap": Refused, "shapley_interaction": Refused,
    "lime": None, "rise": None,
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_a_hundred_thousand_features_are_refused_or_sampled_in_little_memory(name):
    x, calls = np.ones((1, 100_000)), {"lime": {"samples": 50}, "rise": {"samples": 50}}
    began = time.perf_counter()
    tracemalloc.start()
    try:
        if HUGE[name] is None:
            found = whence.explain(lambda x: x[:, :5].sum(1), x, name, **calls[name])
            assert np.isfinite(found.values).all()
        else:
            with pytest.raises(Refused, match="100,000"):
                whence.explain(lambda x: x[:, :5].sum(1), x, name)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A table of d x d would be 10 GB.
    assert most < 600e6 and time.perf_counter() - began < 20


@pytest.mark.slow
def test_orders_of_very_many_features_are_never_a_table_of_pairs():
    x, d = np.ones((1, 3000)), 3000
    tracemalloc.start()
    found = whence.explain(lambda x: x[:, :5].sum(1), x, "shapley_sampling", samples=4, chunk=64)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < d * d and np.allclose(found.values[0, :6], [1, 1, 1, 1, 1, 0])
