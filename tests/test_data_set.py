# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from oracles import ReluNet, midpoint_ig, relative_error

torch = pytest.importorskip("torch")

from torch import nn

import whence
from models import assert_same, busy, cnn, mlp, pictures, state_of
from whence import data_set_state, zoo
from whence.errors import BadInput, Refused

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def cut(array, *sizes):
    return list(torch.split(array, list(sizes)))


def mean(model, batches, **options):
    return whence.mean_attribution(model, batches, **options)


def same_bits(one, two):
    for name in (
        "values",
        "absolute",
        "standard_error",
        "absolute_standard_error",
        "error",
        "residual",
        "count",
    ):
        assert np.array_equal(getattr(one, name), getattr(two, name), equal_nan=True), name
    assert one.evaluations == two.evaluations


# ---- closed forms and oracles --------------------------------------------------------------------------------


def test_linear_functions_are_exact_with_one_node_and_their_moments_are_numpys():
    w, x = normal(5), normal(7, 5, seed=1)
    result = mean(lambda x: x @ w + 7, cut(x, 3, 4), nodes=1, baseline=0.5)
    maps = ((x - 0.5) * w).numpy()
    assert np.allclose(result.values, maps.mean(0), rtol=1e-12, atol=1e-14)
    assert np.allclose(result.absolute, np.abs(maps).mean(0), rtol=1e-12)
    assert np.allclose(result.standard_error, maps.std(0, ddof=1) / np.sqrt(7), rtol=1e-12)
    assert np.allclose(result.absolute_standard_error, np.abs(maps).std(0, ddof=1) / np.sqrt(7), rtol=1e-12)
    assert abs(result.residual) < 1e-12
    assert (result.count, result.evaluations, result.labels) == (7, 7, None)


def test_every_example_gets_the_nodes_of_its_own_golden_offset():
    # f = x²/2 at x = 1 has the map α at one node, and o/2 + 1/4 at the two nodes of offset o.
    def half_square(x):
        return (x**2).sum(1) / 2

    x = torch.ones(6, 1, dtype=F64)
    totals = [0.0] + [n * float(mean(half_square, [x[:n]], nodes=1, seed=3).values[0]) for n in range(1, 7)]
    offsets = np.diff(totals)
    assert ((offsets >= 0) & (offsets < 1)).all()
    steps = (np.diff(offsets) - (5**0.5 - 1) / 2) % 1
    assert np.allclose(np.minimum(steps, 1 - steps), 0, atol=1e-12)
    two = mean(half_square, [x], nodes=2, seed=3)
    assert two.values[0] == pytest.approx(offsets.mean() / 2 + 0.25, abs=1e-12)
    assert two.residual == pytest.approx(two.values[0] - 0.5, abs=1e-12)
    # Each group counts its own.
    groups = mean(half_square, [x[:2], x[2:]], nodes=1, seed=3, by=[0, 1, 0, 1, 1, 0])
    assert groups.values[:, 0].tolist() == pytest.approx([offsets[:3].mean()] * 2, abs=1e-12)
    assert mean(half_square, [x], seed=4).values[0] != mean(half_square, [x], seed=3).values[0]


def test_many_nodes_reach_the_brute_force_mean_of_a_relu_network(generator):
    net = ReluNet.random(generator, 4, 12, 1)
    layers = []
    for weight, bias in zip(net.weights, net.biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
        layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
        layers += [layer, nn.ReLU()]
    x = generator.standard_normal((9, 4))
    exact = np.mean([midpoint_ig(lambda p: net.gradient(p, 0), row, row * 0, 20_000) for row in x], axis=0)
    result = mean(nn.Sequential(*layers[:-1]), [x[:4], x[4:]], nodes=500, target=0)
    assert np.abs(result.values - exact).sum() / np.abs(exact).sum() < 1e-3
    assert abs(result.residual) < 1e-2


def test_the_mean_is_unbiased_over_seeds():
    # A steep step: one node sees 0 or everything. Weights that favour one part of the path would show here.
    x = torch.full((1, 1), 2.0, dtype=F64)

    def model(x):
        return torch.relu(x[:, 0] - 1.5)

    values = [float(mean(model, [x], nodes=2, seed=seed).values[0]) for seed in range(300)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)
    assert set(np.round(values, 12)) <= {0.0, 1.0, 2.0}


# ---- how the data are cut ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(20,), (1,) * 20, (7, 13), (3, 3, 3, 11)])
def test_the_answer_does_not_depend_on_how_the_data_are_cut(sizes):
    model, x = cnn(dtype=F64), pictures(20, dtype=F64)
    whole, parts = mean(model, cut(x, 10, 10), by="target"), mean(model, iter(cut(x, *sizes)), by="target")
    for name in ("values", "absolute", "standard_error", "absolute_standard_error", "error", "residual"):
        assert np.allclose(
            getattr(whole, name), getattr(parts, name), rtol=1e-10, atol=1e-12, equal_nan=True
        ), name
    assert whole.count.tolist() == parts.count.tolist()
    assert relative_error(whole.values, mean(model, [x], by="target", chunk=3).values).max() < 1e-12


def test_a_generator_is_consumed_once_and_its_batches_are_not_held():
    import gc
    import weakref

    alive = []

    def batches():
        for number in range(6):
            batch = normal(4, 6, seed=number)
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            gc.collect()
            # At most the one that was counted last may still be somebody's.
            assert sum(ref() is not None for ref in alive) <= 1

    assert mean(mlp(dtype=F64), batches()).count == 24


def test_numpy_torch_and_labelled_batches_give_the_same():
    model, x = mlp(), normal(8, 6).float()
    labels = torch.arange(8) % 3
    one = mean(model, cut(x, 4, 4), target=labels.numpy(), by=labels.tolist())
    two = mean(model, [[x[:5].numpy(), labels[:5]], (x[5:].numpy(), labels[5:])], target="label", by="label")
    assert np.allclose(one.values, two.values, rtol=1e-6)
    assert two.labels.tolist() == [0, 1, 2] and two.count.tolist() == [3, 3, 2]
    assert one.values.dtype == two.values.dtype == np.float64


# ---- groups ------------------------------------------------------------------------------------------------------


def test_groups_are_the_means_of_their_own_examples():
    model, x = mlp(dtype=F64), normal(30, 6)
    top = model(x).argmax(1).numpy()
    grouped = mean(model, cut(x, 11, 19), by="target")
    assert grouped.labels.tolist() == sorted(set(top.tolist())) and len(grouped.labels) > 1
    for row, label in enumerate(grouped.labels):
        alone = mean(model, [x[top == label]])
        for name in ("values", "absolute", "standard_error", "error", "residual", "count"):
            assert np.allclose(getattr(grouped, name)[row], getattr(alone, name), rtol=1e-9, atol=1e-12), name


def test_groups_by_words_from_an_array_and_from_a_callable():
    model, x = mlp(dtype=F64), normal(6, 6)
    words = np.where(x[:, 0].numpy() > 0, "up", "down")
    one = mean(model, cut(x, 2, 4), by=words)
    two = mean(model, cut(x, 5, 1), by=lambda rows: np.where(rows[:, 0].numpy() > 0, "up", "down"))
    assert one.labels.tolist() == two.labels.tolist() == ["down", "up"]
    assert np.allclose(one.values, two.values)


# ---- what else explain() can do --------------------------------------------------------------------------------


def test_layers_several_inputs_and_several_baselines():
    model, x = mlp(dtype=F64), normal(8, 6)
    layer = mean(model, [x], at=whence.layer("0"), nodes=200)
    wanted = (
        whence.explain(model, x, at=whence.layer("0"), quadrature="gauss", steps=50).values.mean(0).numpy()
    )
    assert relative_error(layer.values[None], wanted[None]).max() < 3e-3

    pair = mean(lambda a, b: (a * 2).sum(1) + b.sum(1), [(x, x[:, :2])])
    assert isinstance(pair.values, tuple)
    assert np.allclose(pair.values[0], 2 * x.mean(0)) and np.allclose(pair.values[1], x[:, :2].mean(0))

    several = mean(model, [x], baseline=[0.0, 1.0], target=1, nodes=200)
    single = [mean(model, [x], baseline=b, target=1, nodes=200).values for b in (0.0, 1.0)]
    assert relative_error(several.values[None], np.mean(single, axis=0)[None]).max() < 3e-3
    assert several.evaluations == 2 * 200 * 8


def test_the_users_model_stays_as_it_was(tmp_path):
    model, x = busy(), pictures(4)
    before = state_of(model, x)
    mean(model, [x], resume=tmp_path / "means.npz")
    assert_same(before, state_of(model, x))


# ---- accuracy on real digits -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    loaded = zoo.load("digits-cnn")
    return loaded, whence.data.digits().test_images[:200]


@pytest.fixture(scope="module")
def reference(digits):
    loaded, images = digits
    return mean(loaded.model, [images], nodes=128, preprocess=loaded.preprocess, seed=9, chunk=200)


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_few_gradients_give_the_mean_of_real_digits_and_a_calibrated_error(digits, reference, nodes):
    loaded, images = digits
    true, estimated = [], []
    for seed in range(3):
        result = mean(
            loaded.model, [images[:90], images[90:]], nodes=nodes, preprocess=loaded.preprocess, seed=seed
        )
        true.append(np.abs(result.values - reference.values).sum() / np.abs(reference.values).sum())
        estimated.append(result.error)
        # Few nodes exaggerate |map|, by as much as the docstring says.
        assert (
            -0.01 < result.absolute.sum() / reference.absolute.sum() - 1 < {2: 0.08, 4: 0.03, 8: 0.01}[nodes]
        )
    ratios = np.array(estimated) / np.array(true)
    assert max(true) < {2: 0.08, 4: 0.04, 8: 0.02}[nodes]
    assert ratios.min() > 2 / 3 and ratios.max() < 3
    assert reference.error < 0.003


def test_one_node_says_that_it_cannot_tell_its_error(digits):
    loaded, images = digits
    assert np.isnan(mean(loaded.model, [images[:9]], nodes=1, preprocess=loaded.preprocess).error)


# ---- stopping and going on ---------------------------------------------------------------------------------------


def stopping(batches, after, error=KeyboardInterrupt):
    for number, batch in enumerate(batches):
        if number == after:
            raise error
        yield batch


@pytest.mark.parametrize("by", [None, "target"])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, by):
    model, batches = cnn(), cut(pictures(40), 9, 9, 9, 13)
    whole = mean(model, batches, by=by)
    path = tmp_path / "means.npz"
    for after in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            mean(model, stopping(batches, after), by=by, resume=path)
        assert np.sum(whence.MeanAttribution.load(path).count) == 9 * after
    resumed = mean(model, batches, by=by, resume=path)
    same_bits(whole, resumed)
    same_bits(whole, whence.MeanAttribution.load(path))


def test_an_interrupt_in_the_middle_of_a_batch_leaves_no_half_of_it(tmp_path, monkeypatch):
    model, batches, path = cnn(), cut(pictures(30), 10, 10, 10), tmp_path / "means.npz"
    whole = mean(model, batches)
    merged, calls = data_set_state.Tally.merged, []

    def broken(self, other):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return merged(self, other)

    with monkeypatch.context() as patch:
        patch.setattr(data_set_state.Tally, "merged", broken)
        with pytest.raises(KeyboardInterrupt):
            mean(model, batches, resume=path)
    assert whence.MeanAttribution.load(path).count == 20
    same_bits(whole, mean(model, batches, resume=path))


CHILD = """
import sys, time
sys.path.insert(0, sys.argv[2])
import whence
from models import cnn, pictures
from whence import data_set_survey
data_set_survey.EVERY = 0.0

def batches():
    for number, batch in enumerate(pictures(40).split(8)):
        if number == 3:
            print("three are counted", flush=True)
            time.sleep(60)
        yield batch

whence.mean_attribution(cnn(), batches(), resume=sys.argv[1])
"""


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    path, here = tmp_path / "means.npz", os.path.dirname(__file__)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), here], stdout=subprocess.PIPE, text=True
    ) as child:
        assert "three" in child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert whence.MeanAttribution.load(path).count == 24
    assert list(tmp_path.iterdir()) == [path]
    batches = pictures(40).split(8)
    same_bits(mean(cnn(), batches), mean(cnn(), batches, resume=path))


def test_a_run_goes_on_over_other_cuts_and_with_more_data(tmp_path):
    model, x, path = cnn(dtype=F64), pictures(30, dtype=F64), tmp_path / "means.npz"
    mean(model, cut(x[:20], 9, 11)).save(path)
    resumed = mean(model, cut(x, 6, 6, 18), resume=path)
    assert resumed.count == 30
    assert relative_error(resumed.values[None], mean(model, [x]).values[None]).max() < 1e-12


def test_nothing_is_counted_twice_where_all_is_counted(tmp_path):
    model, x, path = cnn(), pictures(10), tmp_path / "means.npz"
    first = mean(model, [x], resume=path)
    written = path.stat().st_mtime_ns
    time.sleep(0.01)
    same_bits(first, mean(model, [x], resume=path))
    assert path.stat().st_mtime_ns == written


def retrained():
    model = cnn()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1e-6
    return model


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"nodes": 3}, "nodes 4 .now 3."),
        ({"target": 1}, "target"),
        ({"by": "target"}, "by"),
        ({"baseline": torch.ones(1, 6, 6)}, "baseline"),
        ({"seed": 1}, "seed"),
        ({"model": retrained()}, "another model"),
        ({"model": lambda x: x.flatten(1)}, "another model"),
        ({"batches": [pictures(20).flip(0)]}, "another model|not those"),
        ({"batches": [pictures(20)[[0, 2, 1, *range(3, 20)]]]}, "not those.*shuffling"),
        ({"batches": [pictures(5)]}, "hold 5 examples.*counted 10"),
        ({"batches": []}, "empty"),
    ],
)
def test_another_question_is_not_gone_on_with(tmp_path, changed, match):
    path = tmp_path / "means.npz"
    mean(cnn(), [pictures(10)], resume=path)
    before = path.read_bytes()
    options = {"model": cnn(), "batches": [pictures(20)], "resume": path} | changed
    with pytest.raises(BadInput, match=match):
        mean(**options)
    assert path.read_bytes() == before


def test_a_baseline_array_of_other_numbers_is_another_question(tmp_path):
    path = tmp_path / "means.npz"
    mean(cnn(), [pictures(4)], baseline=np.zeros((1, 6, 6)), resume=path)
    with pytest.raises(BadInput, match="baseline"):
        mean(cnn(), [pictures(4)], baseline=np.ones((1, 6, 6)), resume=path)


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "means.npz"
    path.write_text("my thesis")
    with pytest.raises(BadInput, match=r"means\.npz"):
        mean(cnn(), [pictures(4)], resume=path)
    assert path.read_text() == "my thesis"
    with pytest.raises(BadInput, match="there is no file"):
        whence.MeanAttribution.load(tmp_path / "none.npz")


def test_a_saved_result_is_read_back_with_its_groups_words_and_structure(tmp_path):
    x = normal(6, 3)
    result = mean(lambda a, b: (a**2).sum(1), [{"a": x, "b": None}], by=["x", "y", "x", "y", "y", "y"])
    back = whence.MeanAttribution.load(result.save(tmp_path / "new" / "means.npz"))
    assert back.labels.tolist() == ["x", "y"] and set(back.values) == {"a", "b"} and back.values["b"] is None
    assert np.array_equal(back.values["a"], result.values["a"])
    assert back.settings == result.settings and back.notes == result.notes


# ---- errors ------------------------------------------------------------------------------------------------------


def nan_in(row):
    x = pictures(6)
    x[row] = float("nan")
    return x


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batches": []}, "empty"),
        ({"batches": iter(())}, "empty"),
        ({"batches": pictures(4)}, "one array"),
        ({"batches": 3}, "int"),
        ({"batches": [pictures(4), pictures(4)[..., :5]]}, "batch 1.*shapes"),
        ({"batches": [pictures(6), nan_in(2)]}, r"batch 1 \(examples 6 to 11\).*NaN"),
        ({"batches": [pictures(4), pictures(4)[:0]]}, "batch 1.*no examples"),
        ({"batches": [pictures(4)], "by": [0, 1]}, "batch 0.*by has the shape"),
        ({"batches": [pictures(4)], "by": [0, 1, 2, 3, 4]}, "by has 5 entries and the batches hold 4"),
        ({"batches": [pictures(4)], "by": lambda x: np.zeros(3)}, "gave the shape"),
        ({"batches": [pictures(4)], "by": "class"}, "'class'"),
        ({"batches": [pictures(4)], "by": "target", "target": lambda y: y[:, 0]}, "names none"),
        ({"batches": [pictures(4)], "by": np.full(4, np.nan)}, "NaN"),
        ({"batches": [pictures(4)], "target": "all"}, "'all'"),
        ({"batches": [pictures(4)], "target": 7}, "batch 0.*out of range"),
        ({"batches": [pictures(4)], "target": [0, 1]}, "target has the shape"),
        ({"batches": [pictures(4)], "target": "label"}, "pair"),
        ({"batches": [(pictures(4), torch.zeros(4, dtype=torch.int64))]}, "labels=True"),
        ({"batches": [[pictures(4), torch.zeros(4, dtype=torch.int64)]]}, "labels=True"),
        ({"batches": [(pictures(4), torch.zeros(3, dtype=torch.int64))], "labels": True}, "its labels"),
        ({"batches": [pictures(4)], "nodes": 0}, "nodes is 0"),
        ({"batches": [pictures(4)], "nodes": 2.5}, "nodes is 2.5"),
        ({"batches": [pictures(4)], "nodes": None}, "nodes is None"),
        ({"batches": [pictures(4)], "seed": -1}, "seed"),
        ({"batches": [pictures(4)], "chunk": 0}, "chunk"),
        ({"batches": [pictures(4)], "baseline": float("nan")}, "baseline"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_place(options, match):
    with pytest.raises(BadInput, match=match):
        mean(cnn(), **options)


def test_a_gradient_that_is_not_finite_is_refused_with_its_batch():
    def model(x):
        kept = (x + 1) * (x > -1)
        return (kept * kept).sqrt().sum(1)

    x = normal(3, 2).abs()
    with pytest.raises(Refused, match=r"batch 1 .*not finite"):
        mean(model, [x, -2 - x])


def test_the_state_does_not_grow_with_the_number_of_examples(tmp_path):
    paths = [tmp_path / name for name in ("few.npz", "many.npz")]
    for path, size in zip(paths, (4, 400), strict=True):
        mean(cnn(), pictures(size).split(50), resume=path)
    few, many = (path.stat().st_size for path in paths)
    assert abs(few - many) < 100


def test_a_model_that_jumps_is_not_said_to_be_integrated_without_error():
    model = lambda x: x.sum(1) + 10.0 * (x[:, 0] > 0.3)  # noqa: E731
    mean = whence.mean_attribution(model, [torch.ones(4, 2)], target=None)
    assert mean.error >= 5 - 1e-6, "10 of 12 are missing from shares of 2"
    assert any("jumps" in note for note in mean.notes)


def test_other_labels_are_another_question(tmp_path):
    x, labels = torch.rand(8, 3), np.array([0, 1] * 4)
    ask = {"by": "label", "labels": True, "resume": tmp_path / "means.npz"}
    model = lambda x: (x**2).sum(1)  # noqa: E731
    whence.mean_attribution(model, [(x[:4], labels[:4])], **ask)
    with pytest.raises(whence.BadInput):
        whence.mean_attribution(model, [(x[:4], 1 - labels[:4]), (x[4:], labels[4:])], **ask)
    assert whence.mean_attribution(
        model, [(x[:4], labels[:4]), (x[4:], labels[4:])], **ask
    ).count.tolist() == [4, 4]
