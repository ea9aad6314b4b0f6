# ruff: noqa: E402 (what needs the frameworks is imported after the check for them)
"""ONNX files on the command line: what is read from the file, what flags say, and one line for every mistake."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx_models import exported, made, node, written
from PIL import Image
from torch import nn

import whence
from whence import loading_onnx
from whence.backends.onnx_graph.file import OnnxFile
from whence.cli import main
from whence.loading import Request

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A real digit as a picture, its number, and the zoo's network for digits as a file."""
    folder = tmp_path_factory.mktemp("digits")
    data = whence.data.digits()
    Image.fromarray(data.test_images[0]).save(folder / "digit.png")
    model = whence.zoo.load("digits-cnn").model
    file = exported(model, torch.rand(1, 1, 8, 8), folder / "digits.onnx")
    return folder / "digit.png", int(data.test_labels[0]), file


def run(capsys, *words):
    """Run the command; return its status, what it printed, and what it complained of."""
    status = main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_file_is_all_that_is_needed(digits, tmp_path, capsys):
    picture, label, file = digits
    status, out, _ = run(capsys, "explain", picture, "--model", file, "--out", tmp_path, "--json")
    assert status == 0
    found = json.loads(out)
    result = found["pictures"][0]["results"][0]
    assert found["pictures"][0]["prediction"][0]["class"] == label
    assert any("ONNX Runtime gives the same output" in note for note in result["notes"])
    assert (tmp_path / "digit.integrated_gradients.png").exists()


def test_it_is_the_answer_of_the_zoos_own_model(digits, tmp_path, capsys):
    picture, _, file = digits
    for model, name in ((file, "file"), ("digits-cnn", "zoo")):
        folder = tmp_path / name
        words = ["explain", picture, "--model", model, "--method", "deeplift", "--out", folder, "--save"]
        assert run(capsys, *words)[0] == 0
    ours, own = (whence.load(tmp_path / name / "digit.deeplift.npz") for name in ("file", "zoo"))
    assert np.allclose(ours.values, own.values, rtol=1e-4, atol=1e-6)


def test_a_layer_of_the_file_and_check_and_compare(digits, tmp_path, capsys):
    picture, _, file = digits
    words = ["explain", picture, "--model", file, "--method", "deeplift", "--at", "/features/features.3/Relu"]
    status, out, _ = run(capsys, *words, "--out", tmp_path)
    assert (status, "channel" in out) == (0, True)
    status, out, _ = run(capsys, "check", file)
    assert status == 0
    assert "deeplift: every operation has its rule" in out
    status, out, _ = run(capsys, "compare", picture, "--model", file, "--quick", "--out", tmp_path)
    assert status == 0
    assert (tmp_path / "digit.comparison.html").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--weights", "w.safetensors"], "an ONNX file holds its own weights"),
        (["--model-arg", "depth=3"], "an ONNX file takes only output=NAME"),
        (["--model-arg", "output=logit"], "there is no output 'logit'"),
        (["--at", "/features/features.3/Rel"], "did you mean '/features/features.3/Relu'"),
        (["--mean", "1,2,3"], "takes pictures of 1 channel"),
    ],
)
def test_mistakes_are_one_line(digits, tmp_path, capsys, words, said):
    picture, _, file = digits
    status, _, complaint = run(capsys, "explain", picture, "--model", file, "--out", tmp_path, *words)
    assert status == 2
    assert said in complaint
    assert "Traceback" not in complaint


def test_files_that_are_none_are_one_line(digits, tmp_path, capsys):
    picture = digits[0]
    (tmp_path / "no.onnx").write_bytes(b"hello")
    (tmp_path / "odd.onnx").write_bytes(custom().SerializeToString())
    for name, code, said in (
        ("no", 2, "is no ONNX file"),
        ("nowhere", 2, "there is no file"),
        ("odd", 2, "Frobnicate"),
    ):
        words = ["explain", picture, "--model", tmp_path / f"{name}.onnx", "--out", tmp_path]
        status, _, complaint = run(capsys, *words)
        assert (status, said in complaint, "Traceback" in complaint) == (code, True, False)


def custom():
    shape = ["n", 1, 8, 8]
    return made(
        [node("Frobnicate", ["x"], ["y"], domain="com.acme")],
        {"x": shape},
        {"y": shape},
        domains=("com.acme",),
    )


def shaped(*sides, **metadata):
    """Return a file whose input has these sides."""
    model = made([node("Relu", ["x"], ["y"])], {"x": list(sides)}, {"y": list(sides)})
    onnx.helper.set_model_props(model, metadata)
    return model


@pytest.mark.parametrize(
    "sides, wanted",
    [
        (("n", 3, 32, 24), {"layout": "NCHW", "channels": 3, "size": (32, 24)}),
        (("n", 1, 8, 8), {"layout": "NCHW", "channels": 1, "size": (8, 8)}),
        ((1, 32, 24, 3), {"layout": "NHWC", "channels": 3, "size": (32, 24)}),
        (("n", "h", "w", 1), {"layout": "NHWC", "channels": 1}),
        (("n", 3, "h", "w"), {"layout": "NCHW", "channels": 3}),
        (("n", "c", "h", "w"), {"layout": "NCHW"}),
        (("n", 3, 3, 3), {"layout": "NCHW", "channels": 3, "size": (3, 3)}),
    ],
)
def test_layout_channels_and_size_are_read_from_the_file(sides, wanted, tmp_path):
    path = written(shaped(*sides), tmp_path / "m.onnx")
    assert loading_onnx.read(str(path), {}).settings == wanted


@pytest.mark.parametrize(
    "metadata, wanted",
    [
        (
            {"mean": "0.5,0.4,0.3", "std": "[0.2, 0.2, 0.3]"},
            {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)},
        ),
        (
            {"mean": "123.7,116.3,103.5", "std": "58.4"},
            {"mean": (123.7, 116.3, 103.5), "std": 58.4, "range": (0, 255)},
        ),
        ({"size": "256", "crop": "224,224"}, {"size": 256, "crop": (224, 224)}),
        (
            {"whence.preprocess": '{"size": 64, "range": [-1, 1]}', "size": "9"},
            {"size": 64, "range": (-1, 1)},
        ),
    ],
)
def test_preprocessing_is_read_from_the_metadata(metadata, wanted, tmp_path):
    path = written(shaped("n", 3, "h", "w", **metadata), tmp_path / "m.onnx")
    found = loading_onnx.read(str(path), {}).settings
    assert {key: found[key] for key in wanted} == wanted
    assert set(found) - set(wanted) <= {"layout", "channels"}


@pytest.mark.parametrize(
    "metadata", [{"size": "big"}, {"mean": "1,2"}, {"layout": "CHWN"}, {"whence.preprocess": "[1]"},
                 {"whence.preprocess": '{"sise": 3}'}],
)  # fmt: skip
def test_metadata_that_cannot_be_meant_is_said(metadata, tmp_path):
    path = written(shaped("n", 3, "h", "w", **metadata), tmp_path / "m.onnx")
    with pytest.raises(whence.BadInput, match="metadata"):
        loading_onnx.read(str(path), {})


@pytest.mark.parametrize(
    "metadata", [{"labels": '["cat", "dog"]'}, {"names": "{0: 'cat', 1: 'dog'}"}, {"classes": "cat\ndog\n"},
                 {"labels": "cat, dog"}, {"labels": '{"1": "dog", "0": "cat"}'}],
)  # fmt: skip
def test_labels_are_read_from_the_metadata(metadata, tmp_path):
    path = written(shaped("n", 3, "h", "w", **metadata), tmp_path / "m.onnx")
    assert loading_onnx.read(str(path), {}).labels == ("cat", "dog")


def test_flags_go_before_the_file(tmp_path):
    path = written(shaped("n", 3, 8, 8, mean="0.5", std="0.25"), tmp_path / "m.onnx")
    source = Request(str(path), size=16, mean=(0.1,)).load()
    assert source.preprocess == whence.Preprocess(size=16, mean=0.1, std=0.25, channels=3)
    assert isinstance(source.model, OnnxFile)


def test_what_takes_no_picture_is_said(tmp_path):
    for sides in (("n", 10), ("n", 4, 8, 8), ("n", 3, 8, 8, 8)):
        path = written(shaped(*sides), tmp_path / "m.onnx")
        with pytest.raises(whence.BadInput, match=r"in Python: whence\.explain"):
            Request(str(path)).check()


def test_channels_last_in_colour_end_to_end(tmp_path, capsys):
    w = np.random.default_rng(0).normal(size=(12 * 10 * 3, 4)).astype(np.float32)
    nodes = [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"]), node("Neg", ["y"], ["z"])]
    shape = {"x": [1, 12, 10, 3]}
    model = made(nodes, shape, {"y": [1, 4], "z": [1, 4]}, {"w": w})
    path = written(model, tmp_path / "last.onnx")
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 20, 3), np.uint8)).save(tmp_path / "p.png")
    status, _, complaint = run(capsys, "explain", tmp_path / "p.png", "--model", path, "--out", tmp_path)
    assert (status, "--model-arg output=y" in complaint) == (2, True)
    words = [
        "explain",
        tmp_path / "p.png",
        "--model",
        path,
        "--model-arg",
        "output=z",
        "--out",
        tmp_path,
        "--save",
    ]
    assert run(capsys, *words, "--target", "1")[0] == 0
    result = whence.load(tmp_path / "p.integrated_gradients.npz")
    assert result.values.shape == (1, 24, 20, 3)
    assert abs(result.residual[0]) < 1e-3


def test_a_network_in_colour_gives_a_map_of_the_pictures_size(tmp_path, capsys):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    path = exported(model, torch.rand(1, 3, 16, 16), tmp_path / "colour.onnx", dynamic=False)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 30, 3), np.uint8)).save(tmp_path / "p.png")
    words = ["explain", tmp_path / "p.png", "--model", path, "--method", "gradcam", "--out", tmp_path]
    assert run(capsys, *words)[0] == 0
    assert Image.open(tmp_path / "p.gradcam.png").size[0] >= 30
