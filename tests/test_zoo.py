# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from whence import data, zoo
from whence.errors import BadInput, WorkFailed

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from whence.backends import torch_weights, torch_zoo

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"
MOBILENET = SHARED / "models" / "mobilenet_v2.safetensors"

needs_mnist = pytest.mark.skipif(
    not (SHARED / "mnist").is_dir(), reason=f"MNIST is not at {SHARED / 'mnist'}"
)
needs_mobilenet = pytest.mark.skipif(
    not MOBILENET.is_file(), reason=f"MobileNetV2's weights are not at {MOBILENET}"
)


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def mnist():
    return data.mnist(SHARED / "mnist", mirrors=())


@pytest.fixture
def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def written(small, tmp_path):
    """Return a function that writes the small model's tensors, changed, and gives the path."""

    def write(**changed):
        tensors = {name: tensor.clone() for name, tensor in small.state_dict().items()}
        for name, tensor in changed.items():
            key = name.replace("_", ".", 1)
            if tensor is None:
                del tensors[key]
            else:
                tensors[key] = tensor
        path = tmp_path / "weights.safetensors"
        save_file(tensors, path)
        return path

    return write


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


# The shipped models


def test_every_entry_says_what_it_needs():
    assert zoo.names() == ("digits-cnn", "mnist-cnn", "mnist-mlp", "mobilenet-v2")
    for name in zoo.names():
        entry = zoo.entry(name)
        assert entry.name == name
        assert entry.preprocess.channels == entry.channels
        model = torch_zoo.build(name)
        size = entry.preprocess.size
        with torch.no_grad():
            assert model(torch.zeros(2, entry.channels, size, size)).shape == (2, entry.classes)
        assert entry.labels is None or len(entry.labels) == entry.classes


@pytest.mark.parametrize(
    ("name", "most"), [("digits-cnn", 20_000), ("mnist-cnn", 100_000), ("mnist-mlp", 150_000)]
)
def test_shipped_models_are_small_and_ready(name, most):
    loaded = zoo.load(name)
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) < most
    assert not loaded.model.training
    assert loaded.name == name
    assert loaded.labels == tuple("0123456789")
    assert loaded.preprocess == zoo.entry(name).preprocess


def test_digits_accuracy(digits):
    assert zoo.accuracy(zoo.load("digits-cnn"), digits) >= 0.97


@needs_mnist
@pytest.mark.parametrize(("name", "least"), [("mnist-cnn", 0.99), ("mnist-mlp", 0.98)])
def test_mnist_accuracy(name, least, mnist):
    assert zoo.accuracy(zoo.load(name), mnist) >= least


def test_inputs_are_prepared_as_the_preprocess_says():
    """The training's own numpy arithmetic and the formula of Preprocess agree."""
    images = np.zeros((1, 28, 28), np.uint8)
    images[0, 0, 0] = 255
    prepared = zoo._prepared(zoo.entry("mnist-cnn"), images)
    assert prepared.shape == (1, 1, 28, 28)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared[0, 0, 0, :2], [(1 - 0.1307) / 0.3081, -0.1307 / 0.3081], rtol=1e-6)


def test_images_of_another_size_are_refused(digits):
    with pytest.raises(BadInput, match=r"mnist-cnn takes uint8 images \[n, 28, 28\].*mnist"):
        zoo.accuracy(zoo.load("mnist-cnn"), digits)


def test_loading_leaves_the_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    zoo.load("digits-cnn")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("given", "near"), [("mnist_cnn", "mnist-cnn"), ("mobilenetv2", "mobilenet-v2")])
def test_an_unknown_name_offers_near_ones(given, near):
    with pytest.raises(BadInput, match=f"{given}.*{near}"):
        zoo.load(given)


def test_a_name_like_no_other_lists_all():
    with pytest.raises(BadInput, match=r"digits-cnn.*mobilenet-v2"):
        zoo.entry("zzz")


def test_without_pytorch_the_zoo_says_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "whence.backends.torch_zoo")
    monkeypatch.delattr("whence.backends.torch_zoo", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WorkFailed, match="PyTorch"):
        zoo.load("digits-cnn")


def test_importing_the_zoo_does_not_import_pytorch():
    code = "import sys, whence.zoo; whence.zoo.names(); raise SystemExit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# MobileNetV2


def photograph(name):
    from PIL import Image

    with Image.open(SHARED / "images" / name) as picture:
        resized = picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


@needs_mobilenet
def test_mobilenet_knows_the_photographs():
    loaded = zoo.load("mobilenet-v2", MOBILENET)
    photographs = torch.stack(
        [photograph(f"{name}.jpg") for name in ("cat", "bird", "sunflower", "grace_hopper")]
    )
    with torch.inference_mode():
        top = loaded.model(photographs).argmax(1).tolist()
    assert top == [286, 20, 986, 653]
    assert [loaded.labels[label] for label in top] == [
        "Egyptian cat",
        "chickadee",
        "daisy",
        "military uniform",
    ]


def test_mobilenet_says_how_to_get_weights():
    with pytest.raises(BadInput, match=r"--weights mobilenet_v2\.safetensors"):
        zoo.load("mobilenet-v2")


def numbered(model):
    """Return the module's tensors named by position, as they lie in an exported file."""
    return {
        f"layer{i // 2:02d}.{('weight', 'bias')[i % 2]}": t for i, t in enumerate(model.state_dict().values())
    }


def test_mobilenet_takes_numbered_tensors_and_its_own_names(tmp_path):
    model = torch_zoo.build("mobilenet-v2", seed=1)
    save_file(numbered(model), tmp_path / "numbered.safetensors")
    zoo.save_weights(model, tmp_path / "own.safetensors")
    for name in ("numbered", "own"):
        loaded = zoo.load("mobilenet-v2", tmp_path / f"{name}.safetensors")
        assert loaded.labels is None
        assert equal(loaded.model.state_dict(), model.state_dict())


def test_numbered_tensors_are_sorted_by_number():
    tensors = {
        name: torch.zeros(1) for name in ("layer10.bias", "layer10.weight", "layer2.bias", "layer2.weight")
    }
    assert list(torch_weights.in_layer_order(tensors)) == [
        "layer2.weight",
        "layer2.bias",
        "layer10.weight",
        "layer10.bias",
    ]


def test_numbered_tensors_that_do_not_fit_are_refused(tmp_path):
    tensors = numbered(torch_zoo.build("mobilenet-v2"))
    path = tmp_path / "weights.safetensors"
    save_file({**tensors, "layer03.weight": torch.zeros(5, 16, 1, 1)}, path)
    with pytest.raises(
        BadInput, match=r"layer03\.weight is float32 \[5, 16, 1, 1\], but the next, blocks\.1\.expand"
    ):
        zoo.load("mobilenet-v2", path)
    del tensors["layer52.bias"]
    save_file(tensors, path)
    with pytest.raises(BadInput, match="has 106 tensors, not 105"):
        zoo.load("mobilenet-v2", path)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (8, 7), (1, 1), (2, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_tensorflows(size, stride):
    """Whatever the size, as if the input were first padded with the smaller half in front."""
    convolution = torch_zoo.SameConvolution(2, 3, 3, stride)
    images = torch.randn(1, 2, *size)
    pads = []
    for length in reversed(size):
        total = max((int(np.ceil(length / stride)) - 1) * stride + 3 - length, 0)
        pads += [total // 2, total - total // 2]
    padded = functional.pad(images, pads)
    expected = functional.conv2d(padded, convolution.weight, convolution.bias, stride)
    assert expected.shape[2:] == tuple(-(-length // stride) for length in size)
    torch.testing.assert_close(convolution(images), expected)


# Labels


def test_labels_lie_beside_the_weights(tmp_path):
    zoo.save_weights(torch_zoo.build("mobilenet-v2"), tmp_path / "weights.safetensors")
    labels = tmp_path / "imagenet_labels.txt"
    labels.write_text("".join(f"class {i}\n" for i in range(1001)))
    assert zoo.load("mobilenet-v2", tmp_path / "weights.safetensors").labels[1000] == "class 1000"
    labels.write_text("cat\ndog\n")
    with pytest.raises(BadInput, match="2 labels and the model 1001 classes"):
        zoo.load("mobilenet-v2", tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    "content", [b"cat\ndog\n", b"cat\r\ndog\r\n", b"\xef\xbb\xbfcat\ndog", b" cat \ndog\n\n"]
)
def test_labels_are_read_one_a_line(content, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert zoo.read_labels(path) == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "line 1"), (b"cat\n\ndog", "line 2"), (b"\xff\xfe\x00", "UTF-8"), (None, "No such")],
)
def test_labels_that_cannot_be_read(content, problem, tmp_path):
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=problem):
        zoo.read_labels(path)


# Weights


def test_weights_are_written_and_read_back(small, tmp_path):
    expected = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    zoo.save_weights(small, tmp_path / "new" / "weights.safetensors")
    for parameter in small.parameters():
        nn.init.zeros_(parameter)
    zoo.load_weights(small, tmp_path / "new" / "weights.safetensors")
    assert equal(small.state_dict(), expected)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights.safetensors"]


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PT"])
def test_pickles_are_refused_unopened(suffix, small, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(BadInput, match=r"pickle.*--trust"):
        zoo.load_weights(small, path)
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_in_disguise_is_not_opened(small, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(BadInput, match="as safetensors"):
        zoo.load_weights(small, path, trust=True)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".pkl", ".npz", ".onnx", ""])
def test_other_files_are_refused_even_with_trust(suffix, small, tmp_path):
    with pytest.raises(BadInput, match=r"no \.safetensors"):
        zoo.load_weights(small, tmp_path / f"weights{suffix}", trust=True)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model.state_dict(),
        lambda model: {"epoch": 3, "state_dict": model.state_dict()},
        lambda model: {"model": model, "optimizer": {}},
        lambda model: model,
    ],
)
def test_trusted_pickles_are_read(wrap, small, tmp_path):
    torch.save(wrap(small), tmp_path / "weights.pt")
    other = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    zoo.load_weights(other, tmp_path / "weights.pt", trust=True)
    assert equal(other.state_dict(), small.state_dict())


def test_trusted_pickles_can_be_wrong_too(small, tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(BadInput, match="no state dict"):
        zoo.load_weights(small, tmp_path / "list.pt", trust=True)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(BadInput, match="cannot unpickle"):
        zoo.load_weights(small, tmp_path / "text.pt", trust=True)


def test_missing_files_and_folders(small, tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        zoo.load_weights(small, tmp_path / "none.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(BadInput, match="a folder"):
        zoo.load_weights(small, tmp_path / "folder.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 60, -4])
def test_truncated_files(keep, small, written):
    path = written()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"cannot read .* as safetensors"):
        zoo.load_weights(small, path)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"0_weight": None}, r"1 missing: 0\.weight"),
        ({"9_weight": torch.zeros(1)}, r"1 unexpected: 9\.weight"),
        (
            {"0_weight": torch.zeros(3, 4)},
            r"1 mismatched: 0\.weight is float32 \[3, 4\], not float32 \[4, 3\]",
        ),
        ({"0_bias": torch.zeros(4, dtype=torch.int8)}, r"0\.bias is int8 \[4\], not float32 \[4\]"),
        ({"2_bias": torch.tensor([1.0, float("nan")])}, r"1 not finite: 2\.bias"),
        ({"2_bias": torch.tensor([1.0, float("inf")])}, r"1 not finite: 2\.bias"),
        ({f"{i}_extra": torch.zeros(1) for i in range(5)}, "5 unexpected: .* and 2 more"),
        ({"0_weight": None, "9_x": torch.zeros(1)}, r"1 missing: 0\.weight; 1 unexpected: 9\.x"),
    ],
)
def test_weights_that_do_not_fit_leave_the_model_alone(changed, problem, small, written):
    path = written(**{"2_weight": torch.zeros(2, 4), **changed})
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    with pytest.raises(BadInput, match=problem):
        zoo.load_weights(small, path)
    assert equal(small.state_dict(), before)


def test_half_precision_is_widened(small, written):
    zoo.load_weights(small, written(**{"2_bias": torch.tensor([0.5, 2.0], dtype=torch.bfloat16)}))
    assert small[2].bias.tolist() == [0.5, 2.0]
    assert small[2].bias.dtype == torch.float32


def test_what_a_file_may_leave_out(tmp_path):
    """Tied tensors are stored once, a mask may be infinite, and batches need not be counted."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    left_out = ("2.weight", "1.num_batches_tracked")
    tensors = {name: tensor + 1 for name, tensor in model.state_dict().items() if name not in left_out}
    save_file(tensors, tmp_path / "weights.safetensors")
    zoo.load_weights(model, tmp_path / "weights.safetensors")
    assert torch.equal(model[2].weight, tensors["0.weight"])


def test_only_modules_have_weights(tmp_path, written):
    with pytest.raises(BadInput, match=r"torch\.nn\.Module, not function"):
        zoo.load_weights(lambda x: x, written())


# Training


def test_training_is_reproducible(digits):
    weights = [zoo.train("digits-cnn", digits, epochs=1, seed=seed)[0].state_dict() for seed in (3, 3, 4)]
    assert equal(weights[0], weights[1])
    assert not equal(weights[0], weights[2])


def test_training_learns_and_tells_of_each_epoch(digits):
    seen = []
    model, accuracy = zoo.train(
        "digits-cnn", digits, epochs=3, after_epoch=lambda epoch, model: seen.append((epoch, model.training))
    )
    assert seen == [(1, False), (2, False), (3, False)]
    assert accuracy > 0.5
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_needs_epochs_and_a_small_model(digits):
    with pytest.raises(BadInput, match="at least 1"):
        zoo.train("digits-cnn", digits, epochs=0)
    with pytest.raises(BadInput, match="neither trained nor measured"):
        zoo.train("mobilenet-v2", digits)


@pytest.mark.slow
def test_the_script_writes_weights_and_checkpoints(tmp_path):
    script = REPOSITORY / "scripts" / "train_zoo.py"
    folders = ["--out", tmp_path / "out", "--checkpoints", tmp_path / "epochs"]
    done = subprocess.run(
        [sys.executable, script, "digits-cnn", "--epochs", "2", *folders],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "% of the test images" in done.stdout
    assert sorted(path.name for path in (tmp_path / "epochs").iterdir()) == [
        "digits-cnn-epoch-01.safetensors",
        "digits-cnn-epoch-02.safetensors",
    ]
    last = load_file(tmp_path / "epochs" / "digits-cnn-epoch-02.safetensors")
    assert equal(last, load_file(tmp_path / "out" / "digits-cnn.safetensors"))
