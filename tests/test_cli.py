import json
import os
import re
import resource
import shlex
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import whence
from whence import cli, cli_parse, data, registry, zoo

SHARED = Path(__file__).parents[1].parent / "shared"
SOURCE = Path(__file__).parents[1] / "src"
WEIGHTS = SHARED / "models" / "mobilenet_v2.safetensors"
needs_photographs = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"there is no {WEIGHTS}")
needs_mnist = pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason=f"there is no {SHARED / 'mnist'}")

MODULE = """
    import numpy as np
    import torch
    from torch import nn

    def make(width=3, channels=3):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, 4)
        )

    def raises():
        raise RuntimeError("no luck")

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make()

    class Crash(Around):
        def forward(self, x):
            raise KeyError("weights")

    class Cut(Around):
        def forward(self, x):
            return self.inner(x.detach())

    class Dropping(Around):
        def forward(self, x):
            return self.inner(nn.functional.dropout(x, 0.3, training=True))

    class Nan(Around):
        def forward(self, x):
            return self.inner(x) * float("nan")

    class Single(Around):
        def forward(self, x):
            return self.inner(x)[:, 0]

    def wide():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 50))

    def box():
        weights = np.random.default_rng(0).standard_normal((64, 3))

        def model(x):
            print("the model speaks")
            return x.reshape(len(x), -1) @ weights

        return model
"""


@dataclass
class Answer:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Answer]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("WHENCE_DATA_DIR", raising=False)

    def run(*words: str | Path) -> Answer:
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(call: Call, tmp_path: Path) -> Callable[..., str]:
    """Run what must be refused: status 2, one line that is an error, no file left; returns the line."""

    def run(*words: str | Path, status: int = 2) -> str:
        before = sorted(tmp_path.rglob("*"))
        answer = call(*words)
        assert answer.status == status
        lines = answer.err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("whence: ")
        assert "Traceback" not in answer.out
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    return data.digits()


@pytest.fixture
def digit(tmp_path: Path, digits: data.Dataset) -> Path:
    """Write a real handwritten digit, an 8 that is a little like a 3."""
    path = tmp_path / "digit.png"
    Image.fromarray(digits.test_images[242]).save(path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Write a module of models into the current folder and return its name."""
    name = f"mine_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return name


class Page(HTMLParser):
    """Counts what a report holds, and collects every address in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.addresses: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def process(*words: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "whence", *words]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


# ---- quick answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ((), 0),
        (("--help",), 0),
        (("explain", "--help"), 0),
        (("nonsense",), 2),
        (("explain", "a", "--nonsense"), 2),
    ],
)
def test_help_and_wrong_use_import_nothing_heavy(tmp_path: Path, words: tuple[str, ...], status: int):
    script = (
        "import sys, whence.cli\n"
        f"status = whence.cli.main({list(words)!r})\n"
        "heavy = {'numpy', 'torch', 'matplotlib', 'sklearn', 'PIL', 'scipy'} & set(sys.modules)\n"
        "print(status, sorted(heavy), file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == f"{status} []"


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("explain", "--help"),
        ("nonsense",),
        ("explain", "a.png", "--model", "digits-cnn", "--method", "lime2"),
    ],
)
def test_help_and_wrong_use_answer_at_once(tmp_path: Path, words: tuple[str, ...]):
    # Half a second is the promise, of processor time since other programs may be running here; twice that for
    # machines that are slow, and compile every module anew.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process(*words, folder=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_help_is_for_strangers(call: Call):
    answer = call()
    assert answer.status == 0
    assert answer.out == call("--help").out
    for command in ("demo", "explain", "compare", "methods"):
        assert command in answer.out
        own = call(command, "--help")
        assert own.status == 0
        assert "Examples:" in own.out
        assert max(map(len, own.out.splitlines())) <= 80
    assert call("--version").out.strip() == whence.__version__


def test_every_flag_of_the_design_is_there(call: Call):
    text = call("explain", "--help").out
    flags = (
        "model model-arg weights labels method target at baseline rtol steps samples size mean std seed chunk data-dir "
        "out quick trust json progress crop save"
    )
    for flag in flags.split():
        assert re.search(rf"--{flag}\b", text)


def test_a_wrong_command_or_flag_offers_the_right_one(refused: Callable[..., str]):
    assert 'Did you mean "explain"' in refused("explian")
    assert "--weights" in refused("explain", "a.png", "--weight", "x")
    assert "explain --help" in refused("explain")


# ---- methods -----------------------------------------------------------------------------------------------


def test_methods_are_the_registry(call: Call):
    listed = call("methods", "--json").json
    assert [each["name"] for each in listed] == list(registry.methods())
    for each in listed:
        record = registry.methods()[each["name"]]
        assert (each["equation"], each["citation"]) == (record.equation, record.citation)
        assert each["needs"] == list(record.needs)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_table_of_methods_fits_the_terminal(call: Call, monkeypatch: pytest.MonkeyPatch, columns: int):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = call("methods").out
    assert max(map(len, text.splitlines())) <= columns
    for name in registry.methods():
        assert name in text


# ---- explain -----------------------------------------------------------------------------------------------


def test_a_digit_is_explained(call: Call, digit: Path, tmp_path: Path):
    answer = call("explain", digit, "--model", "digits-cnn")
    assert answer.status == 0
    assert answer.err == ""
    assert max(map(len, answer.out.splitlines())) <= 80
    for words in (
        "digit.png",
        "82.2 %",
        "Integrated gradients",
        "estimated error",
        "gradients used",
        "seconds",
    ):
        assert words in answer.out
    overlay = tmp_path / "whence-out" / "digit.integrated_gradients.png"
    assert str(overlay.relative_to(tmp_path)) in answer.out
    # The digit and its overlay, enlarged, side by side on a strip of words.
    width, height = Image.open(overlay).size
    assert width >= 500 and height >= 300
    page = Page(tmp_path / "whence-out" / "report.html")
    assert page.tags["img"] >= 3
    assert all(each.startswith(("data:", "#")) for each in page.addresses)


def test_json_holds_the_numbers(call: Call, digit: Path, tmp_path: Path):
    command = ["explain", str(digit), "--model", "digits-cnn", "--json", "--out", "my answer"]
    answer = call(*command)
    [picture] = answer.json["pictures"]
    [result] = picture["results"]
    assert (picture["width"], picture["height"]) == (8, 8)
    assert picture["prediction"][0] == {
        "class": 8,
        "label": "8",
        "probability": pytest.approx(0.8216, abs=1e-3),
    }
    assert result["target"] == {"description": "logit of class 8", "class": 8, "label": "8"}
    assert result["sum"] == pytest.approx(result["output"] - result["baseline_output"] + result["residual"])
    assert 0 <= result["error"] <= 0.02
    assert result["converged"] is True
    assert result["evaluations"] > 0
    assert Path(answer.json["report"]).is_file()
    assert Path(picture["files"]["overlay"]).is_file()
    assert shlex.split(result["settings"]["command"]) == ["whence", *command]


def test_a_saved_result_is_read_back(call: Call, digit: Path):
    answer = call("explain", digit, "--model", "digits-cnn", "--save", "--json").json
    saved = whence.load(answer["pictures"][0]["files"]["numbers"])
    model = zoo.load("digits-cnn")
    again = whence.explain(model.model, data.read_image(digit)[None], preprocess=model.preprocess)
    assert saved.values == pytest.approx(again.values, abs=1e-6)
    assert saved.settings["target_name"] == "8"
    assert saved.settings["input"] == "digit.png"


def test_python_minus_m_and_pipes(tmp_path: Path, digit: Path):
    done = process("explain", "digit.png", "--model", "digits-cnn", "--json", folder=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["model"] == "digits-cnn"
    assert done.stderr == ""
    script = f"{shlex.quote(sys.executable)} -m whence methods | true"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    piped = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert piped.stderr == ""


@pytest.mark.parametrize(
    ("target", "description"),
    [
        ("3", "logit of class 3"),
        ("-1", "logit of class 9"),
        ("logit:3", "logit of class 3"),
        ("probability:3", "probability of class 3"),
        ("probability", "probability of class 8"),
        ("log_probability:3", "log-probability of class 3"),
        ("margin:3,5", "margin of class 3 over class 5"),
        ("margin:3", "margin of class 3 over class 8"),
        ("margin", "margin of class 8 over class 3"),
        ("loss:3", "loss of class 3"),
        ("neuron:features.3,2", "neuron('features.3', 2)"),
        ("neuron:features.3,2,1,1", "neuron('features.3', (2, 1, 1))"),
    ],
)
def test_targets(call: Call, digit: Path, target: str, description: str):
    answer = call(
        "explain", digit, "--model", "digits-cnn", "--target", target, "--method", "saliency", "--json"
    )
    assert answer.json["pictures"][0]["results"][0]["target"]["description"] == description


def test_a_label_is_a_target(call: Call, refused: Callable[..., str], digit: Path, tmp_path: Path):
    names = "zero one two three four five six seven eight nine"
    (tmp_path / "names.txt").write_text("\n".join(names.split()))
    words = ("explain", digit, "--model", "digits-cnn", "--labels", "names.txt", "--method", "saliency")
    answer = call(*words, "--target", "margin:Three,eight", "--json")
    [result] = answer.json["pictures"][0]["results"]
    assert result["target"]["description"] == "margin of class 3 over class 8"
    assert result["settings"]["target_name"] == "three rather than eight"
    assert "did you mean 'three'" in refused(*words, "--target", "thre")


def test_all_classes(call: Call, digit: Path, tmp_path: Path):
    answer = call("explain", digit, "--model", "digits-cnn", "--target", "all", "--json")
    results = answer.json["pictures"][0]["results"]
    assert [each["name"] for each in results][:2] == ["8", "3"]
    assert len(results) == 10
    page = Page(tmp_path / "whence-out" / "report.html")
    assert page.tags["img"] >= 20
    single = call("explain", digit, "--model", "digits-cnn", "--target", "3", "--json").json
    assert results[1]["output"] == pytest.approx(single["pictures"][0]["results"][0]["output"], rel=1e-4)


def test_all_of_many_classes_are_the_most_probable(call: Call, models: str, digit: Path):
    words = (
        "explain",
        digit,
        "--model",
        f"{models}:wide",
        "--target",
        "all",
        "--method",
        "saliency",
        "--json",
    )
    [picture] = call(*words).json["pictures"]
    assert len(picture["results"]) == 10
    assert "50 classes; the 10 most probable" in " ".join(picture["results"][0]["notes"])


@pytest.mark.parametrize(
    "baseline", ["0", "-0.5", "0.5", "black", "white", "mean", "blur:2", "uniform:2", "digit.png"]
)
def test_baselines(call: Call, digit: Path, photo: Path, models: str, baseline: str):
    answer = call("explain", photo, "--model", f"{models}:make", "--baseline", baseline, "--json", "--quick")
    assert answer.status == 0
    [result] = answer.json["pictures"][0]["results"]
    assert abs(result["residual"]) < 0.2 * max(abs(result["output"] - result["baseline_output"]), 0.01)


def test_several_baselines_are_averaged(call: Call, digit: Path):
    def start(*names: str) -> float:
        flags = [word for name in names for word in ("--baseline", name)]
        answer = call("explain", digit, "--model", "digits-cnn", "--quick", "--json", *flags)
        return answer.json["pictures"][0]["results"][0]["baseline_output"]

    assert start("black", "white") == pytest.approx((start("black") + start("white")) / 2, rel=1e-5)


def test_options_of_the_method(call: Call, refused: Callable[..., str], digit: Path):
    words = ("explain", digit, "--model", "digits-cnn")
    answer = call(*words, "--steps", "5", "--option", "quadrature=midpoint", "--json").json
    [result] = answer["pictures"][0]["results"]
    assert result["evaluations"] == 5
    assert "quadrature='midpoint'" in result["settings"]["method"]
    inner = call(
        *words, "--method", "smoothgrad", "--option", "method=input_x_gradient", "--samples", "3", "--json"
    ).json
    assert inner["pictures"][0]["results"][0]["evaluations"] == 3
    line = refused(*words, "--method", "smoothgrad", "--rtol", "0.1")
    assert "smoothgrad has no --rtol" in line
    assert "--samples" in line
    assert "wants a whole number" in refused(*words, "--option", "max_evaluations=many")
    assert "write name=value" in refused(*words, "--option", "quadrature")


def test_quick_says_what_it_changed(call: Call, digit: Path):
    words = ("explain", digit, "--model", "digits-cnn", "--quick", "--json")
    [result] = call(*words).json["pictures"][0]["results"]
    assert "made with --quick: rtol=0.1" in result["notes"]
    [given] = call(*words, "--rtol", "0.05").json["pictures"][0]["results"]
    assert not given["notes"]


def test_a_layer_is_laid_over_the_picture(call: Call, digit: Path, tmp_path: Path):
    answer = call("explain", digit, "--model", "digits-cnn", "--at", "features.3", "--json")
    assert answer.status == 0
    assert Image.open(answer.json["pictures"][0]["files"]["overlay"]).width >= 500
    assert call("explain", digit, "--model", "digits-cnn", "--at", "classifier").status == 0


def test_a_folder_gets_an_overlay_each_and_one_report(call: Call, digits: data.Dataset, tmp_path: Path):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(5):
        Image.fromarray(digits.test_images[index]).save(folder / f"{index}.png")
    Image.fromarray(digits.test_images[0]).save(folder / "twin.png")
    (folder / "notes.txt").write_text("not a picture")
    answer = call("explain", folder, "--model", "digits-cnn", "--quick")
    assert answer.status == 0
    assert answer.out.count("\n") < 20
    made = sorted(path.name for path in (tmp_path / "whence-out").iterdir())
    assert made == [f"{each}.integrated_gradients.png" for each in range(5)] + [
        "report.html",
        "twin.integrated_gradients.png",
    ]
    page = Page(tmp_path / "whence-out" / "report.html")
    for name in ("0.png", "4.png", "twin.png"):
        assert name in page.text


def test_pictures_of_the_same_name_get_files_of_their_own(call: Call, digit: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    Image.open(digit).rotate(180).save(tmp_path / "other" / "digit.png")
    answer = call(
        "explain", digit, "other/digit.png", "--model", "digits-cnn", "--method", "saliency", "--json"
    )
    files = [each["files"]["overlay"] for each in answer.json["pictures"]]
    assert len({*files}) == 2
    assert all(Path(file).is_file() for file in files)


def test_a_large_picture_keeps_its_size(call: Call, models: str, tmp_path: Path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 1400, 3), dtype=np.uint8)).save(
        "large.png"
    )
    answer = call(
        "explain", "large.png", "--model", f"{models}:make", "--size", "16", "--method", "saliency", "--json"
    )
    [picture] = answer.json["pictures"]
    width, height = Image.open(picture["files"]["overlay"]).size
    assert width == 1400 and 750 <= height <= 950
    assert "1400 × 700 pixels; it was explained at 1024 × 512" in " ".join(picture["results"][0]["notes"])


def test_colours_fit_the_model(call: Call, models: str, digit: Path, photo: Path):
    [grey] = call("explain", digit, "--model", f"{models}:make", "--method", "saliency", "--json").json[
        "pictures"
    ]
    assert "the picture is grey" in " ".join(grey["results"][0]["notes"])
    [colour] = call("explain", photo, "--model", "digits-cnn", "--method", "saliency", "--json").json[
        "pictures"
    ]
    assert "the picture is in colour" in " ".join(colour["results"][0]["notes"])


def test_a_factory_with_arguments_and_preprocessing(call: Call, models: str, photo: Path):
    flags = [
        "--model-arg",
        "width=5",
        "--size",
        "20x20",
        "--crop",
        "16",
        "--mean",
        "0.4,0.5,0.6",
        "--std",
        "0.2",
    ]
    answer = call("explain", photo, "--model", f"{models}:make", *flags, "--json")
    assert answer.status == 0
    settings = answer.json["pictures"][0]["results"][0]["settings"]
    assert settings["model"] == f"{models}:make"
    assert settings["preprocess"].startswith(
        "Preprocess(size=(20, 20), crop=16, mean=(0.4, 0.5, 0.6), std=(0.2,)"
    )


def test_a_black_box_speaks_to_stderr_in_json(call: Call, models: str, digit: Path):
    answer = call("explain", digit, "--model", f"{models}:box", "--method", "sensitivity", "--json")
    assert answer.json["pictures"][0]["results"][0]["evaluations"] > 1
    assert "the model speaks" in answer.err
    plain = call("explain", digit, "--model", f"{models}:box")
    assert plain.status == 2
    assert "sensitivity" in plain.err


def test_an_output_of_one_number(call: Call, models: str, photo: Path):
    answer = call("explain", photo, "--model", f"{models}:Single", "--json")
    assert answer.json["pictures"][0]["prediction"] == []
    assert answer.status == 0
    assert "no row of classes" in call("explain", photo, "--model", f"{models}:Single", "--target", "all").err


def test_an_unsteady_model_is_noticed(call: Call, models: str, photo: Path):
    answer = call("explain", photo, "--model", f"{models}:Dropping", "--method", "saliency")
    assert answer.status == 0
    assert "not deterministic" in answer.out


def test_checkpoints_show_the_development(call: Call, digit: Path, digits: data.Dataset, tmp_path: Path):
    flags: list[str] = []

    def keep(epoch: int, model: Any) -> None:
        zoo.save_weights(model, tmp_path / f"epoch{epoch}.safetensors")
        flags.extend(("--weights", f"epoch{epoch}.safetensors"))

    zoo.train("digits-cnn", digits, 3, after_epoch=keep)
    words = ("explain", digit, "--model", "digits-cnn", *flags)
    answer = call(*words, "--target", "loss:8", "--json")
    [picture] = answer.json["pictures"]
    assert [each["name"] for each in picture["results"]] == ["epoch1", "epoch2", "epoch3"]
    losses = [each["output"] for each in picture["results"]]
    assert losses[0] > losses[-1] > 0
    assert Path(picture["files"]["picture"]).name == "digit.development.png"
    assert Image.open(picture["files"]["picture"]).size[0] > 400
    text = call(*words)
    assert text.status == 0
    assert "checkpoint" in text.out
    targets = {each["target"]["class"] for each in call(*words, "--json").json["pictures"][0]["results"]}
    assert len(targets) == 1
    assert "one --weights" in call(*words, "--target", "all").err


# ---- compare and demo --------------------------------------------------------------------------------------


def test_all_methods_are_compared(call: Call, digit: Path, tmp_path: Path):
    answer = call("compare", digit, "--model", "digits-cnn", "--quick", "--json")
    assert sorted([*answer.json["methods"], *answer.json["skipped"]]) == sorted(registry.methods())
    # The network does not end in global average pooling.
    assert list(answer.json["skipped"]) == ["cam"]
    assert Image.open(answer.json["files"]["picture"]).size[0] > 500
    page = Page(Path(answer.json["report"]))
    for record in (each for each in registry.methods().values() if each.name != "cam"):
        assert record.citation.split(",")[0] in page.text
    text = call("compare", digit, "--model", "digits-cnn", "--methods", "saliency, vargrad", "--quick")
    assert text.status == 0
    assert "VarGrad" in text.out
    assert "SmoothGrad" not in text.out


def test_what_cannot_run_is_left_out_with_the_reason(call: Call, models: str, digit: Path):
    box = call("compare", digit, "--model", f"{models}:box", "--json").json
    assert "sensitivity" in box["methods"]
    assert "no gradient" in box["skipped"]["integrated_gradients"]
    plain = call("compare", digit, "--model", f"{models}:wide", "--quick", "--json").json
    assert "--background" in plain["skipped"]["expected_gradients"]
    folder = call(
        "compare", digit, "--model", f"{models}:wide", "--quick", "--json", "--background", digit.parent
    ).json
    assert "expected_gradients" in folder["methods"]


def test_a_background_is_never_downloaded(
    call: Call, digit: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(data, "download", lambda *_, **__: pytest.fail("a download"))
    words = ("--model", "mnist-mlp", "--method", "expected_gradients", "--data-dir", tmp_path)
    answer = call("explain", digit, *words)
    assert answer.status == 2
    assert "MNIST is not in" in answer.err


def test_compare_refuses_what_belongs_to_explain(refused: Callable[..., str], digit: Path, tmp_path: Path):
    assert "--target all" in refused("compare", digit, "--model", "digits-cnn", "--target", "all")
    assert "none of the methods" in refused(
        "compare", digit, "--model", "digits-cnn", "--methods", "saliency", "--rtol", "0.1"
    )
    assert "there is no method" in refused(
        "compare", digit, "--model", "digits-cnn", "--methods", "saliency,foo"
    )


@pytest.mark.slow
def test_the_demo_needs_nothing(call: Call, tmp_path: Path):
    answer = call("demo")
    assert answer.status == 0
    assert max(len(line) for line in answer.out.splitlines() if "--model" not in line) <= 80
    report = tmp_path / "whence-demo" / "report.html"
    assert "whence-demo/report.html" in answer.out
    page = Page(report)
    assert all(each.startswith(("data:", "#")) for each in page.addresses)
    assert page.tags["img"] >= 2 * len(registry.methods())
    # What it says to try next works.
    [command] = [line.split() for line in answer.out.splitlines() if "margin" in line]
    assert call(*command[command.index("explain") :]).status == 0


def test_the_demo_in_json(call: Call, tmp_path: Path):
    answer = call("demo", "--quick", "--json", "--out", "tour").json
    assert answer["truth"] == answer["prediction"][0]["class"] == 8
    assert list(answer["methods"]) == [name for name in registry.methods() if name != "cam"]
    assert all(0 <= each["on_the_ink"] <= 1 for each in answer["methods"].values())
    assert answer["methods"]["integrated_gradients"]["on_the_ink"] > answer["ink"]
    assert (tmp_path / "tour" / "report.html").is_file()


@needs_mnist
@pytest.mark.slow
def test_the_demo_with_mnist(call: Call):
    answer = call("demo", "--data", "mnist", "--data-dir", SHARED / "mnist", "--quick", "--json").json
    assert answer["truth"] == answer["prediction"][0]["class"] == 9
    assert list(answer["methods"]) == [name for name in registry.methods() if name != "cam"]


@needs_mnist
def test_a_real_digit_of_mnist(call: Call, tmp_path: Path):
    mnist = data.mnist(SHARED / "mnist", progress=False)
    Image.fromarray(mnist.test_images[0]).save(tmp_path / "seven.png")
    words = ("seven.png", "--model", "mnist-cnn", "--data-dir", SHARED / "mnist", "--json")
    [picture] = call("explain", *words).json["pictures"]
    assert picture["prediction"][0]["class"] == int(mnist.test_labels[0]) == 7
    assert picture["results"][0]["error"] <= 0.02
    background = call("explain", *words, "--method", "expected_gradients", "--samples", "60")
    assert background.json["pictures"][0]["results"][0]["evaluations"] == 60


@needs_photographs
@pytest.mark.slow
def test_a_real_photograph(call: Call, tmp_path: Path):
    photo = SHARED / "images" / "cat.jpg"
    words = (
        "explain",
        photo,
        "--model",
        "mobilenet-v2",
        "--weights",
        WEIGHTS,
        "--target",
        "egyptian cat",
        "--quick",
    )
    answer = call(*words, "--json").json
    [picture] = answer["pictures"]
    assert picture["prediction"][0]["label"] == "Egyptian cat"
    assert picture["results"][0]["target"]["class"] == 286
    with Image.open(picture["files"]["overlay"]) as overlay, Image.open(photo) as original:
        assert overlay.width == original.width and overlay.height > original.height
        drawn = np.asarray(overlay.convert("RGB")).astype(int)[: original.height]
    # The colours are on the cat, which sits right of the middle, more than elsewhere.
    strength = np.abs(drawn[..., 0] - drawn[..., 2])
    assert strength[:, 200:370].mean() > 1.5 * np.delete(strength, slice(200, 370), axis=1).mean()


# ---- errors ------------------------------------------------------------------------------------------------


def bomb(path: Path, side: int) -> None:
    """Write a PNG of a few bytes that announces side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 100)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_bad_pictures(refused: Callable[..., str], photo: Path, tmp_path: Path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:300])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    bomb(tmp_path / "bomb.png", 10_000)
    for name in ("text.png", "cut.png", "empty.png", "bomb.png", "absent.png", "folder"):
        assert name in refused("explain", name, "--model", "digits-cnn")
        assert name in refused("compare", name, "--model", "digits-cnn")


def test_one_bad_picture_stops_all_before_the_work(refused: Callable[..., str], photo: Path, tmp_path: Path):
    (tmp_path / "zzz.png").write_text("hello")
    assert "zzz.png" in refused("explain", tmp_path, "--model", "digits-cnn")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("", "--model is missing; give one of the zoo (digits-cnn"),
        ("--model digit-cnn", "did you mean 'digits-cnn'"),
        ("--model nowhere_at_all:make", "no module 'nowhere_at_all'"),
        ("--model digits-cnn --method integrated_gradient", "did you mean 'integrated_gradients'"),
        ("--model digits-cnn --method saliency,vargrad", "whence compare --methods"),
        ("--model digits-cnn --at features.9", "did you mean 'features.4'"),
        ("--model digits-cnn --target 10", "class 10 is out of range; the model has 10, 0 to 9"),
        ("--model digits-cnn --target logitt:3", "did you mean 'logit'"),
        ("--model digits-cnn --target margin:3,4,5", "write margin:3,5"),
        ("--model digits-cnn --target neuron:features.3", "write neuron:layer,index"),
        ("--model digits-cnn --target 1,2", "target (1, 2)"),
        ("--model digits-cnn --mean 0.1,0.2,0.3", "--mean has 3 values"),
        ("--model digits-cnn --mean 0.1,,", "give one number or a comma list"),
        ("--model digits-cnn --std 0", "std of 0"),
        ("--model digits-cnn --size 0", "give pixels"),
        ("--model digits-cnn --baseline blakc", "did you mean 'black'"),
        ("--model digits-cnn --baseline blur:wide", "after the colon comes a number"),
        ("--model digits-cnn --weights absent.safetensors", "no such file"),
        ("--model digits-cnn --weights w.pt", "pickle"),
        ("--model digits-cnn --labels absent.txt", "cannot read labels"),
        ("--model digits-cnn --rtol 0", "rtol is 0"),
        ("--model digits-cnn --steps 0", "steps"),
        ("--model digits-cnn --steps many", "--steps"),
        ("--model digits-cnn --seed -1", "seed is -1"),
        ("--model digits-cnn --chunk 0", "chunk is 0"),
        ("--model digits-cnn --method saliency --rtol 0.1", "saliency has no --rtol"),
        ("--model digits-cnn --method expected_gradients --background absent", "absent"),
        ("--model net.onnx", "there is no file"),
    ],
)
def test_wrong_use_is_one_line(
    refused: Callable[..., str], photo: Path, tmp_path: Path, words: str, part: str
):
    (tmp_path / "w.pt").write_bytes(b"pickle")
    assert part in refused("explain", photo, *words.split())


@pytest.mark.parametrize(
    ("name", "status", "part"),
    [
        ("raises", 2, "RuntimeError: no luck"),
        ("absent", 2, "there is no factory 'absent'"),
        ("Crash", 1, "Crash failed with KeyError: 'weights'"),
        ("Cut", 2, "no gradient"),
        ("Nan", 2, "NaN or infinite"),
    ],
)
def test_models_that_fail(
    refused: Callable[..., str], models: str, photo: Path, name: str, status: int, part: str
):
    assert part in refused("explain", photo, "--model", f"{models}:{name}", status=status)


def test_weights_of_nan(refused: Callable[..., str], digit: Path, tmp_path: Path):
    model = zoo.load("digits-cnn").model
    model.classifier.bias.data[0] = float("nan")
    zoo.save_weights(model, tmp_path / "nan.safetensors")
    assert "not finite" in refused("explain", digit, "--model", "digits-cnn", "--weights", "nan.safetensors")


@pytest.mark.parametrize(
    "command", ["explain digit.png --model digits-cnn", "compare digit.png --model digits-cnn", "demo"]
)
def test_an_unwritable_place(refused: Callable[..., str], digit: Path, tmp_path: Path, command: str):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/inside", "/proc/nowhere/inside"):
        assert f"--out {out}" in refused(*command.split(), "--out", out)


def test_errors_in_json(call: Call, models: str, photo: Path):
    for words, kind, status in (
        (("explain", "absent.png", "--model", "digits-cnn"), "BadInput", 2),
        (("explain", "absent.png", "--nonsense", "3"), "BadInput", 2),
        (("explain", photo, "--model", f"{models}:Cut"), "Refused", 2),
        (("explain", photo, "--model", f"{models}:Crash"), "WorkFailed", 1),
    ):
        answer = call(*words, "--json")
        assert answer.status == status
        assert answer.json["kind"] == kind
        assert answer.err == f"whence: {answer.json['error']}\n"


def test_an_interruption_and_a_surprise(call: Call, monkeypatch: pytest.MonkeyPatch, digit: Path):
    def raising(problem: BaseException) -> Callable[..., Any]:
        def function(*_: Any, **__: Any) -> Any:
            raise problem

        return function

    from whence import cli_explain

    for problem, status, words in (
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 1, "not enough memory"),
        (ZeroDivisionError("a\nb"), 1, "ZeroDivisionError: a b"),
    ):
        monkeypatch.setattr(cli_explain, "run", raising(problem))
        answer = call("explain", digit, "--model", "digits-cnn")
        assert answer.status == status
        assert len(answer.err.splitlines()) == 1
        assert words in answer.err


# ---- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("None", None),
        ("none", None),
        ("(1, 2)", (1, 2)),
        ("'a'", "a"),
        ("a b", "a b"),
    ],
)
def test_literals(text: str, value: Any):
    assert cli_parse.literal(text) == value


def test_labels_that_stand_for_several_classes():
    labels = ("crane", "crane", "Bird")
    with pytest.raises(whence.BadInput, match="stands for classes 0, 1"):
        cli_parse.class_number("crane", labels)
    assert cli_parse.class_number("bird", labels) == 2
    with pytest.raises(whence.BadInput, match="no labels"):
        cli_parse.class_number("bird", None)
