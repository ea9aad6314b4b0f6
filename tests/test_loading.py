import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from whence import data, zoo
from whence.cli_predict import predict
from whence.errors import BadInput, WorkFailed
from whence.loading import Request, described

MODULE = """
    import numpy as np
    import torch
    from torch import nn

    def grey(width=4):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 3))

    def colour():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3))

    def box():
        return lambda x: np.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)

    def raises():
        raise RuntimeError("no luck\\n today")

    def leaves():
        raise SystemExit(3)

    def three():
        return 3

    class Single(nn.Module):
        def forward(self, x):
            return x.flatten(1).sum(1)

    class Crash(nn.Module):
        def forward(self, x):
            raise KeyError("weights")

    ready = grey()
    number = 7
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Write a module of models into the current folder and return its name."""
    name = f"models_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    return name


def refused(asked: Request, *weights: Path) -> str:
    with pytest.raises(BadInput) as caught:
        asked.check(weights)
        asked.load(weights[0] if weights else None)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_model_of_the_zoo_comes_with_everything():
    source = Request("digits-cnn").load()
    assert source.labels == zoo.DIGITS
    assert (source.channels, source.data, source.preprocess.size) == (1, "digits", 8)
    images = data.digits()
    answer = predict(source, images.test_images[:1, :, :, None])
    assert answer.top(source.labels, 1)[0][0] == images.test_labels[0]
    assert answer.probabilities is not None
    assert answer.probabilities.sum() == pytest.approx(1)


def test_flags_replace_the_preprocessing():
    source = Request("digits-cnn", size=16, crop=(8, 8), mean=(0.5,), std=(0.25,)).load()
    assert source.preprocess == zoo.Preprocess(size=16, crop=(8, 8), mean=(0.5,), std=(0.25,), channels=1)


def test_no_model_lists_the_zoo():
    assert "digits-cnn" in refused(Request(None))
    assert "module.path:factory" in refused(Request(None))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit-cnn", "did you mean 'digits-cnn'"),
        ("resnet50", "module.path:factory"),
        ("net.onnx", "there is no file"),
        ("net.keras", "there is no such file"),
        ("net.pt", "--weights net.pt"),
        ("net.safetensors", "--weights net.safetensors"),
        ("folder/net.py", "--model net:factory"),
        ("a b:c", "write module.path:factory"),
        (":make", "write module.path:factory"),
        ("mobilenet-v2", "ships no weights"),
    ],
)
def test_what_is_no_model_says_what_to_do(name: str, words: str):
    assert words in refused(Request(name))


def test_a_factory_gets_its_arguments(module: str):
    source = Request(f"{module}:grey", {"width": 6}).load()
    assert source.model[0].out_channels == 6
    assert (source.channels, source.labels) == (1, None)


def test_the_first_convolution_says_the_channels(module: str):
    assert Request(f"{module}:colour").load().channels == 3
    assert Request(f"{module}:box").load().channels is None
    assert Request(f"{module}:box", mean=(0.1, 0.2, 0.3)).load().channels == 3


def test_a_finished_model_needs_no_factory(module: str):
    assert isinstance(Request(f"{module}:ready").load().model, torch.nn.Module)
    assert "takes no --model-arg" in refused(Request(f"{module}:ready", {"width": 3}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gray", "did you mean 'grey'"),
        ("raises", "RuntimeError: no luck today"),
        ("leaves", "SystemExit: 3"),
        ("three", "returned int"),
        ("number", "this is of type int"),
    ],
)
def test_a_factory_that_fails_is_named(module: str, name: str, words: str):
    text = refused(Request(f"{module}:{name}"))
    assert words in text
    assert f"{module}:{name}" in text


def test_a_module_that_fails_is_named(tmp_path: Path, module: str):
    assert "there is no module 'nowhere_at_all'" in refused(Request("nowhere_at_all:make"))
    assert "there is no module" in refused(Request(f"{module}.inner:make"))
    (tmp_path / "needy_module.py").write_text("import a_module_nobody_has\n")
    assert "needs the module 'a_module_nobody_has'" in refused(Request("needy_module:make"))
    (tmp_path / "broken_module.py").write_text("def make(:\n")
    assert "SyntaxError" in refused(Request("broken_module:make"))


def test_arguments_are_for_factories():
    assert "takes no arguments" in refused(Request("digits-cnn", {"depth": 3}))


@pytest.mark.parametrize("values", [(0.1, 0.2), (0.1, 0.2, 0.3, 0.4)])
def test_means_are_one_or_three(values: tuple[float, ...]):
    assert f"--mean has {len(values)} values" in refused(Request("digits-cnn", mean=values))
    assert f"--std has {len(values)} values" in refused(Request("digits-cnn", std=values))


def test_three_means_need_three_channels(module: str):
    assert "takes pictures of 1 channel" in refused(Request("digits-cnn", mean=(0.1, 0.2, 0.3)))
    assert "takes pictures of 1 channel" in refused(Request(f"{module}:grey", std=(0.1, 0.2, 0.3)))


def test_weights_are_checked_before_the_model_is_made(tmp_path: Path):
    absent, pickle = tmp_path / "a.safetensors", tmp_path / "a.pt"
    torch.save({"weight": torch.zeros(2)}, pickle)
    assert "no such file" in refused(Request("nowhere_at_all:make"), absent)
    assert "pickle" in refused(Request("nowhere_at_all:make"), pickle)


def test_weights_of_a_factory(tmp_path: Path, module: str):
    model = Request(f"{module}:grey").load().model
    with torch.no_grad():
        model[0].bias.fill_(3.0)
    zoo.save_weights(model, tmp_path / "w.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        loaded = Request(f"{module}:grey", trust=True).load(tmp_path / name).model
        assert float(loaded[0].bias.detach()[0]) == 3.0
    assert "does not fit" in refused(Request(f"{module}:grey", {"width": 5}), tmp_path / "w.safetensors")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, module: str):
    model = Request(f"{module}:grey").load().model
    with torch.no_grad():
        model[0].bias.fill_(torch.nan)
    zoo.save_weights(model, tmp_path / "w.safetensors")
    assert "not finite" in refused(Request(f"{module}:grey"), tmp_path / "w.safetensors")


def test_labels_must_be_as_many_as_classes(tmp_path: Path):
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    source = Request("digits-cnn", labels=tmp_path / "labels.txt").load()
    with pytest.raises(BadInput, match="there are 2 labels and digits-cnn has 10 classes"):
        predict(source, np.zeros((1, 8, 8, 1), dtype=np.uint8))
    assert "no such file" in refused(Request("digits-cnn", labels=tmp_path / "absent.txt")).lower()


def test_probabilities_stay_as_they_are(module: str):
    answer = predict(Request(f"{module}:box").load(), np.full((1, 4, 4, 1), 51, dtype=np.uint8))
    assert answer.probabilities == pytest.approx([0.2, 0.8])
    assert answer.top(None) == [(1, "class 1", pytest.approx(0.8)), (0, "class 0", pytest.approx(0.2))]


def test_one_number_is_no_row_of_classes(module: str):
    answer = predict(Request(f"{module}:Single").load(), np.full((1, 2, 2, 1), 255, dtype=np.uint8))
    assert answer.classes is None
    assert answer.top(None) == []
    assert float(answer.output) == pytest.approx(4)


def test_a_model_that_fails_is_blamed(module: str):
    source = Request(f"{module}:Crash").load()
    with pytest.raises(
        WorkFailed, match=rf"the model {module}:Crash failed with KeyError: 'weights' \(for inputs"
    ):
        predict(source, np.zeros((1, 4, 4, 1), dtype=np.uint8))


def test_exceptions_are_described_on_one_short_line():
    assert described(ValueError("a\n  b")) == "ValueError: a b"
    assert described(ValueError()) == "ValueError"
    assert len(described(ValueError("x" * 1000))) < 330
