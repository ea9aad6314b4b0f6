# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import json
import os
from dataclasses import fields

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

import whence
from whence import target
from whence.attribution import ARRAYS, Attribution, Trace
from whence.errors import BadInput


def ones(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def product(*inputs, **named):
    parts = [part.flatten(1).sum(1) for part in (*inputs, *named.values()) if part is not None]
    return torch.stack([torch.stack(parts, 1).prod(1), parts[0]], 1)


def both(left, right):
    return product(left, right)


INPUTS = {
    "an array": (product, ones(3, 4)),
    "a tuple": (product, (ones(3, 4), ones(3, 2, 5))),
    "a tuple with None": (lambda a, b, c: product(a, c), (ones(3, 4), None, ones(3, 2))),
    "a dict": (both, {"left": ones(3, 4), "right": ones(3, 2, 5)}),
    "a dict with None": (lambda left, right: product(left), {"left": ones(3, 4), "right": None}),
}


def explained(name="an array", method="integrated_gradients", **options):
    model, inputs = INPUTS[name]
    return whence.explain(model, inputs, method, **({"target": 0} | options))


def assert_same(one, two):
    """Compare two structures of arrays."""
    if isinstance(one, dict):
        assert list(one) == list(two)
        pairs = [(one[key], two[key]) for key in one]
    elif isinstance(one, tuple):
        assert isinstance(two, tuple) and len(one) == len(two)
        pairs = list(zip(one, two, strict=True))
    else:
        if one is None:
            assert two is None
        else:
            assert np.array_equal(
                np.asarray(one), np.asarray(two), equal_nan=np.asarray(one).dtype.kind == "f"
            )
        return
    for pair in pairs:
        assert_same(*pair)


def assert_equal_results(one, two):
    for name in ("values", "standard_error", *ARRAYS):
        assert_same(getattr(one, name), getattr(two, name))
    for name in ("method", "notes", "channel_axis", "every_class"):
        assert getattr(one, name) == getattr(two, name)
    assert json.dumps(one.settings, default=str) == json.dumps(two.settings, default=str)
    assert (one.trace is None) == (two.trace is None)
    if one.trace is not None:
        for part in fields(Trace):
            assert_same(getattr(one.trace, part.name), getattr(two.trace, part.name))


# ---- saving and loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "smoothgrad"])
@pytest.mark.parametrize("name", INPUTS)
def test_a_saved_result_comes_back(tmp_path, name, method):
    result = explained(name, method)
    assert_equal_results(result, whence.load(result.save(tmp_path / "result.npz")))


@pytest.mark.parametrize(
    ("which", "kept"),
    [
        ("all", "all"),
        (target.neuron("0", 1), "neuron('0', 1)"),
        (lambda y: y[:, 0], None),
        (target.margin(), [0, 0]),
    ],
    ids=["all", "neuron", "callable", "margin"],
)
def test_every_kind_of_target_survives_the_file(tmp_path, which, kept):
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.bias[0] = 100.0
    result = whence.explain(nn.Sequential(net), ones(2, 4), "saliency", target=which)
    loaded = whence.load(result.save(tmp_path / "result.npz"))
    found = loaded.target.tolist() if isinstance(loaded.target, np.ndarray) else loaded.target
    assert found == kept


@pytest.mark.parametrize("place", [(1, 2), (0, np.int64(1))])
def test_a_place_in_a_dense_output_survives_the_file(tmp_path, place):
    result = whence.explain(lambda x: x[:, :, None] * x[:, None, :], ones(2, 4), "saliency", target=place)
    assert whence.load(result.save(tmp_path / "result.npz")).target == tuple(map(int, place)) == result.target


def test_bfloat16_is_saved_as_float32(tmp_path):
    result = whence.explain(product, ones(3, 4).bfloat16(), "saliency", target=0)
    assert result.values.dtype == torch.bfloat16
    loaded = whence.load(result.save(tmp_path / "result.npz"))
    assert loaded.values.dtype == np.float32
    assert np.array_equal(loaded.values, result.values.float().numpy())


def test_the_picture_is_saved(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    result = whence.explain(
        lambda x: x.flatten(1).sum(1), torch.tensor(pictures), "saliency", preprocess=whence.Preprocess()
    )
    assert np.array_equal(whence.load(result.save(tmp_path / "r.npz")).picture, pictures)


def test_a_loaded_result_can_be_looked_at_and_saved_again(tmp_path):
    result = explained("an array", target="all")
    loaded = whence.load(result.save(tmp_path / "one.npz"))
    assert_equal_results(loaded.for_class(1), result.for_class(1))
    assert_equal_results(loaded, whence.load(loaded.save(tmp_path / "two.npz")))


def test_the_file_is_readable_without_this_library(tmp_path):
    path = explained().save(tmp_path / "result.npz")
    with np.load(path, allow_pickle=False) as archive:
        assert archive["values"].shape == (3, 4)
        assert json.loads(str(archive["header"]))["method"] == "integrated_gradients"


def test_any_file_name_is_kept_as_it_is(tmp_path):
    path = explained().save(str(tmp_path / "new folder" / "result.whence"))
    assert path.name == "result.whence" and path.is_file()
    assert [each.name for each in path.parent.iterdir()] == ["result.whence"]


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not an archive")


def cut(path):
    explained().save(path)
    path.write_bytes(path.read_bytes()[:200])


def other_archive(path):
    with path.open("wb") as handle:
        np.savez(handle, values=np.zeros(3))


def empty_header(path):
    with path.open("wb") as handle:
        np.savez(handle, header=np.array("{}"))


def list_header(path):
    with path.open("wb") as handle:
        np.savez(handle, header=np.array("[1, 2]"))


def one_array(path):
    with path.open("wb") as handle:
        np.save(handle, np.zeros(3))


def pickled(path):
    with path.open("wb") as handle:
        np.savez(handle, header=np.array([{"a": print}], dtype=object))


@pytest.mark.parametrize(
    "write",
    [empty, text, cut, other_archive, empty_header, list_header, one_array, pickled],
    ids=lambda f: f.__name__,
)
def test_loading_a_wrong_file_is_one_clear_line(tmp_path, write):
    write(tmp_path / "wrong.npz")
    with pytest.raises(BadInput, match="is not a saved attribution") as caught:
        whence.load(tmp_path / "wrong.npz")
    assert "\n" not in str(caught.value)


def test_loading_a_missing_file_says_so(tmp_path):
    with pytest.raises(BadInput, match="there is no file"):
        whence.load(tmp_path / "missing.npz")


def test_loading_a_folder_says_so(tmp_path):
    with pytest.raises(BadInput, match="is not a saved attribution"):
        whence.load(tmp_path)


@pytest.mark.parametrize("place", ["a folder", "below a file", "a read-only folder"])
def test_an_unwritable_path_leaves_nothing(tmp_path, place):
    if place == "a folder":
        path = tmp_path / "folder"
        path.mkdir()
    elif place == "below a file":
        (tmp_path / "file").write_text("here first")
        path = tmp_path / "file" / "result.npz"
    else:
        if os.geteuid() == 0:
            pytest.skip("root may write anywhere")
        (tmp_path / "locked").mkdir(mode=0o500)
        path = tmp_path / "locked" / "result.npz"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match="cannot write"):
        explained().save(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_write_that_breaks_leaves_the_old_file(tmp_path, monkeypatch):
    path = explained().save(tmp_path / "result.npz")
    before = path.read_bytes()

    def full(handle, **arrays):
        handle.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(BadInput, match="No space left"):
        explained(method="saliency").save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# ---- one example, one class --------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 2, -1, -3])
@pytest.mark.parametrize("name", INPUTS)
def test_one_example_of_a_batch(name, row):
    model, inputs = INPUTS[name]
    whole = explained(name, steps=6)
    one = whole.example(row)

    def part(array):
        return None if array is None else array[row % 3 : row % 3 + 1]

    if isinstance(inputs, dict):
        alone = {key: part(array) for key, array in inputs.items()}
    else:
        alone = tuple(map(part, inputs)) if isinstance(inputs, tuple) else part(inputs)
    single = whence.explain(model, alone, "integrated_gradients", target=0, steps=6)
    for left, right in zip(flat(one.values), flat(single.values), strict=True):
        assert left.shape == right.shape and torch.allclose(left, right)
    assert one.output.shape == one.residual.shape == (1,)
    assert one.trace.nodes.shape == (1, 6)


def flat(structure):
    if isinstance(structure, dict):
        structure = tuple(structure.values())
    return [
        part for part in (structure if isinstance(structure, tuple) else (structure,)) if part is not None
    ]


@pytest.mark.parametrize("row", [3, -4, 100])
def test_an_example_that_is_not_there_is_refused(row):
    with pytest.raises(BadInput, match="3 examples"):
        explained().example(row)


def test_for_class_keeps_the_structure():
    every = explained("a dict with None", target="all")
    assert every.values["left"].shape == (3, 2, 4)
    one = every.for_class(1)
    assert one.values["left"].shape == (3, 4) and one.values["right"] is None
    assert one.trace.output.shape == one.trace.nodes.shape


def test_numpy_keeps_the_structure():
    values = explained("a tuple with None").numpy()
    assert values[1] is None and isinstance(values[0], np.ndarray)


def test_the_result_holds_no_graph_and_shares_no_memory_with_the_input():
    x = ones(3, 4).requires_grad_()
    result = whence.explain(product, x, "saliency", target=0)
    for part in (result.values, result.output, result.evaluations, result.converged):
        assert not part.requires_grad and part.grad_fn is None
    before = x.detach().clone()
    result.values.zero_()
    assert torch.equal(x.detach(), before)


def test_an_attribution_cannot_be_changed():
    with pytest.raises(AttributeError):
        explained().values = 3


def test_an_attribution_prints_on_one_short_line():
    text = repr(explained("a tuple with None", rtol=0.001))
    assert len(text) < 400 and "\n" not in text and "3 x 4" in text and "None" in text


# ---- pictures ----------------------------------------------------------------------------------------------


def picture_result(shape=(2, 6, 5, 3), **options):
    pictures = torch.tensor(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    options = {"preprocess": whence.Preprocess()} | options
    return whence.explain(
        lambda x: torch.tanh(x - 0.4).flatten(1).sum(1), pictures, "integrated_gradients", **options
    )


REDUCED = {
    "sum": lambda values: values.sum(-1),
    "abs": lambda values: np.abs(values).sum(-1),
    "norm": lambda values: np.sqrt((values**2).sum(-1)),
}


@pytest.mark.parametrize("reduce", REDUCED)
def test_the_heat_map_is_one_number_per_pixel(reduce):
    result = picture_result()
    maps = result.heatmap(reduce)
    assert maps.shape == (2, 6, 5) and maps.dtype == np.float64
    assert np.allclose(maps, REDUCED[reduce](result.numpy().astype(np.float64)))


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 6, 5, 3), (2, 6, 5), (2, 6, 5, 1)])
def test_every_layout_of_pictures_gives_a_map_of_their_size(shape):
    result = picture_result(shape)
    assert result.values.shape == shape and result.heatmap().shape == (2, 6, 5)
    assert result.picture.shape[:3] == (2, 6, 5)


def test_the_mask_lies_between_zero_and_one():
    mask = picture_result().mask()
    assert mask.shape == (2, 6, 5) and mask.min() >= 0 and mask.max() == 1


def test_the_overlay_is_a_picture():
    overlay = picture_result().overlay()
    assert (
        overlay.dtype == np.uint8 and overlay.ndim == 4 and overlay.shape[0] == 2 and overlay.shape[-1] == 3
    )


def test_an_overlay_needs_a_picture():
    result = whence.explain(lambda x: x.flatten(1).sum(1), ones(1, 3, 6, 5), "saliency")
    with pytest.raises(BadInput, match="holds no picture"):
        result.overlay()
    assert result.overlay(np.zeros((6, 5, 3), dtype=np.uint8)).shape[-1] == 3


def test_as_many_pictures_as_examples():
    with pytest.raises(BadInput, match="3 pictures for 2"):
        picture_result().overlay(np.zeros((3, 6, 5, 3), dtype=np.uint8))


def test_the_map_of_a_layer_is_stretched_to_the_picture():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, 3, 16, 12))
    pictures = torch.zeros(2, 16, 12, 3, dtype=torch.uint8) + 7
    result = whence.explain(net, pictures, target=0, at=whence.layer("0"), preprocess=whence.Preprocess())
    assert result.values.shape == (2, 4, 7, 5) and result.heatmap().shape == (2, 16, 12)


def test_a_map_of_all_classes_is_refused():
    with pytest.raises(BadInput, match="for_class"):
        explained("an array", target="all").heatmap()


def test_a_reduction_that_is_none_of_the_three_is_refused():
    with pytest.raises(BadInput, match='"sum", "abs" or "norm"'):
        picture_result().heatmap("mean")


def test_a_result_made_by_hand_can_be_saved(tmp_path):
    made = Attribution(values=np.eye(3), method="mine", target=None, output=np.ones(3))
    assert_equal_results(made, whence.load(made.save(tmp_path / "made.npz")))
