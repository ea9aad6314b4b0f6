"""`whence check`: the operations of a model and their rules on the screen and as JSON, and what fails in one line."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whence import cli

SOURCE = Path(__file__).parents[1] / "src"
RULES = ["guided_backprop", "deeplift", "deconvnet", "lrp"]
MODULE = """
    import torch
    from torch import nn

    class Running(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            shares = torch.softmax(x, -1)
            ctx.save_for_backward(shares)
            return shares.cumsum(-1)

        @staticmethod
        def backward(ctx, g):
            (shares,) = ctx.saved_tensors
            onward = g.flip(-1).cumsum(-1).flip(-1)
            return shares * (onward - (onward * shares).sum(-1, keepdim=True))

    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

        def forward(self, x):
            x = self.conv(x).relu().flatten(1)
            x = Running.apply(x)
            return self.head(x)

    def make(channels=1, activation="ReLU"):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 3, 3), getattr(nn, activation)(), nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(8, 4),
        )

    def maximum():
        class Maximum(nn.Module):
            def forward(self, x):
                return torch.maximum(x, torch.zeros_like(x))

        return nn.Sequential(nn.Conv2d(1, 3, 3), Maximum(), nn.Flatten(), nn.Linear(108, 4))

    class Crash(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            raise KeyError("weights")

    def box():
        return lambda x: x.reshape(len(x), -1)[:, :3]
"""


@dataclass
class Answer:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """What was printed, without its line breaks."""
        return " ".join(self.out.split())


Call = Callable[..., Answer]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `whence check` in this process, in a folder of its own; nothing is ever written there, and no traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("WHENCE_TRACEBACK", raising=False)

    def run(*words: str | Path) -> Answer:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        status = cli.main(["check", *map(str, words)])
        answer = Answer(status, *capsys.readouterr())
        assert "Traceback" not in answer.out + answer.err
        assert "something failed that should not" not in answer.err
        assert sorted(tmp_path.rglob("*")) == before
        return answer

    return run


@pytest.fixture
def failed(call: Call) -> Callable[..., str]:
    """Run what must fail: one line on stderr, which is returned."""

    def run(*words: str | Path, status: int = 2) -> str:
        answer = call(*words)
        assert answer.status == status
        [line] = answer.err.splitlines()
        assert line.startswith("whence: ")
        return line

    return run


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Write a module of models into the current folder and return its name."""
    name = f"checked_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return name


def picture(path: Path, *shape: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def operations(answer: Answer, method: str) -> dict[str, tuple[Any, ...]]:
    rows = answer.json["methods"][method]["operations"]
    return {row["operation"]: (row["family"], row["count"], row["rule"]) for row in rows}


# ---- what it shows -----------------------------------------------------------------------------------------


def test_a_model_of_the_zoo(call: Call):
    answer = call("digits-cnn")
    assert answer.status == 0 and answer.err == ""
    assert max(map(len, answer.out.splitlines())) <= 100
    for name in RULES:
        assert f"{name}: every operation has its rule" in answer.out
    # The whole rule: brackets are no markup.
    for part in ("max(g, 0) · 1[x > 0]", "Δy/Δx", "epsilon", "winner", "and these by their derivative"):
        assert part in answer.words
    [line] = [line for line in answer.out.splitlines() if line.split()[:1] == ["convolution"]]
    assert line.split() == ["convolution", "2", "·", "·", "·", "epsilon"]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_it_fits_the_terminal(call: Call, monkeypatch: pytest.MonkeyPatch, columns: int):
    monkeypatch.setenv("COLUMNS", str(columns))
    answer = call("digits-cnn")
    assert answer.status == 0
    assert max(map(len, answer.out.splitlines())) <= columns


def test_json_for_programs(call: Call):
    answer = call("digits-cnn", "--json")
    assert answer.status == 0 and answer.err == ""
    assert answer.json["model"] == "digits-cnn" and answer.json["complete"] is True
    assert list(answer.json["methods"]) == RULES
    assert operations(answer, "guided_backprop")["relu"] == ("relu", 2, "max(g, 0) · 1[x > 0]")
    assert operations(answer, "deeplift")["relu"] == ("relu", 2, "Δy/Δx")
    assert operations(answer, "lrp")["convolution"] == ("convolution", 2, "epsilon")
    assert all(each["notes"] == [] for each in answer.json["methods"].values())


def test_a_model_of_ones_own(call: Call, models: str):
    answer = call(f"{models}:make", "--size", "8", "--methods", "lrp")
    assert answer.status == 0
    assert f"{models}:make" in answer.out
    assert "lrp: every operation has its rule" in answer.out
    assert "deeplift" not in answer.out
    chosen = call(f"{models}:make", "--size", "8", "--methods", "lrp, guided-backprop", "--json")
    assert list(chosen.json["methods"]) == ["lrp", "guided_backprop"]
    assert operations(chosen, "lrp")["convolution"][:2] == ("convolution", 2)


def test_an_argument_of_the_factory(call: Call, models: str):
    answer = call(f"{models}:make", "--size", "8x10", "--model-arg", "activation=Tanh")
    assert answer.status == 0
    for name in ("guided_backprop", "deconvnet"):
        assert f"{name}: refused" in answer.out
        assert f"{name} is refused: there is no ReLU" in answer.words
    assert "deeplift: every operation has its rule" in answer.out


def test_a_method_that_begins_at_a_layer_meets_fewer_operations(call: Call, models: str):
    one, two = (
        call(f"{models}:make", "--size", "8", "--methods", names)
        for names in ("deepshap,gradcam", "gradcam,deepshap")
    )
    assert one.status == two.status == 0
    for answer in (one, two):
        assert [line.split() for line in answer.out.splitlines() if "Δy/Δx" in line] == [
            ["relu", "1", "Δy/Δx"]
        ]
    assert one.out.splitlines()[0] == two.out.splitlines()[0]


def test_a_relu_in_other_words_is_shown_where_it_is_one(call: Call, models: str):
    answer = call(f"{models}:maximum", "--size", "8")
    lines = [line.split(maxsplit=2)[2] for line in answer.out.splitlines() if line.split()[:1] == ["maximum"]]
    assert len(lines) == 2
    assert any("max(g, 0) · 1[x > 0]" in line and "Δ" not in line for line in lines)
    assert any("Δy/Δx" in line and "max(g" not in line for line in lines)
    assert "refused" not in answer.out


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_to_run_on(call: Call, models: str, tmp_path: Path, channels: int):
    path = picture(tmp_path / "mine.png", *((9, 11) if channels == 1 else (9, 11, 3)))
    answer = call(
        f"{models}:make", path, "--model-arg", f"channels={channels}", "--methods", "deeplift", "--json"
    )
    assert answer.status == 0
    assert operations(answer, "deeplift")["relu"] == ("relu", 1, "Δy/Δx")
    assert call("digits-cnn", path).status == 0


def test_an_unknown_operation_is_named_with_its_line(call: Call, failed: Callable[..., str], models: str):
    words = (f"{models}:Unknown", "--size", "8")
    answer = call(*words)
    line = next(n for n, text in enumerate(textwrap.dedent(MODULE).splitlines(), 1) if "cumsum(-1)" in text)
    assert f"no rule knows RunningBackward, called at {models}.py:{line}" in answer.out
    for name in RULES:
        assert f"{name}: refused" in answer.out
    assert "no rule knows RunningBackward: methods with rules refuse it" in failed(*words, status=1)


def test_a_gradient_method_does_not_refuse_it(call: Call, models: str):
    answer = call(f"{models}:Unknown", "--size", "8", "--methods", "saliency,lrp")
    assert answer.status == 1
    assert "saliency: every operation has its rule" in answer.out
    assert "lrp: refused" in answer.out


def test_an_unknown_operation_in_json(call: Call, models: str):
    answer = call(f"{models}:Unknown", "--size", "8", "--json")
    assert answer.status == 1
    assert answer.json["kind"] == "WorkFailed" and "RunningBackward" in answer.json["error"]
    assert answer.err == f"whence: {answer.json['error']}\n"


# ---- what cannot be meant ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, part",
    [
        ("", "requires an argument; see whence check --help"),
        ("digit-cnn", "did you mean 'digits-cnn'"),
        ("nothing-like-it", "there is no model 'nothing-like-it' in the zoo"),
        ("nowhere_at_all:make", "no module 'nowhere_at_all'"),
        ("{}:absent --size 8", "there is no factory 'absent'"),
        ("{}:make --size 8 --model-arg activation=Rellu", "the factory failed with AttributeError"),
        ("{}:make", "say --size, or give a picture"),
        ("{}:box --size 8", "black box"),
        ("digits-cnn absent.png", "cannot read absent.png"),
        ("digits-cnn broken.png", "broken.png"),
        ("digits-cnn --model mnist-cnn", "the model is named twice"),
        ("digits-cnn --methods lrpp", "did you mean 'lrp'"),
        ("digits-cnn --size 0", "give pixels"),
        ("digits-cnn --weights absent.safetensors", "no such file"),
        ("digits-cnn --nonsense", "--nonsense"),
    ],
)
def test_wrong_use_is_one_line(
    failed: Callable[..., str], models: str, tmp_path: Path, words: str, part: str
):
    (tmp_path / "broken.png").write_text("hello")
    assert part in failed(*words.format(models).split())


@pytest.mark.parametrize(
    "words, part",
    [
        ("{}:Crash --size 8", "failed with KeyError: 'weights'"),
        ("{}:maximum --size 9", "see that --size, --crop, --mean and --std say what it takes"),
    ],
)
def test_a_model_that_fails_is_one_line(failed: Callable[..., str], models: str, words: str, part: str):
    assert part in failed(*words.format(models).split(), status=1)


def test_help_says_what_it_is_for(call: Call):
    answer = call("--help")
    assert answer.status == 0
    for part in (
        "Show every operation of a model",
        "Exit status 1",
        "PICTURE",
        "--methods",
        "--json",
        "Examples:",
    ):
        assert part in answer.words
    assert max(map(len, answer.out.splitlines())) <= 100


def test_as_a_program(models: str, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "COLUMNS": "100"}
    for name, status in (("make", 0), ("Unknown", 1), ("absent", 2)):
        command = [
            sys.executable,
            "-m",
            "whence",
            "check",
            f"{models}:{name}",
            "--size",
            "8",
            "--methods",
            "lrp",
        ]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == (status > 0)
