"""`whence study frameworks`: what is measured, what is said about it, and what happens without a framework."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whence import cli
from whence.study.frameworks import agreement, choice, findings, page, processes, rows, screen
from whence.study.frameworks.facts import FACTS
from whence.study.frameworks.figure import STYLES
from whence.study.frameworks.results import Agreement, Cell, Ran, Study
from whence.study.frameworks.setup import FRAMEWORKS, Setup, setup

QUICK = ("--quick", "--network", "mlp", "--samples", "2", "--method", "saliency", "--method", "occlusion")


def study(*words, folder, path=None, **more):
    """Run the command in a process; `path` comes first where it looks for modules."""
    found = os.pathsep.join([*([str(path)] if path else []), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "whence", "study", "frameworks", *words, "--out", str(folder)]
    environment = {**os.environ, "PYTHONPATH": found, "COLUMNS": "100", **more}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


# ---- the command ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """PyTorch and a black box, for a program."""
    folder = tmp_path_factory.mktemp("study")
    done = study(*QUICK, "--framework", "torch", "--framework", "callable", "--json", "--save", folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


def test_the_answer_for_programs_has_every_number(two):
    answer, _ = two
    assert answer["reference"] == "torch"
    assert [each["framework"] for each in answer["runs"]] == ["torch", "callable"]
    torch, box = (each["cells"] for each in answer["runs"])
    assert torch["saliency"]["cold"] > 0 and torch["saliency"]["warm_median"] > 0
    assert torch["saliency"]["evaluations"] == 1
    assert box["saliency"]["reason"].startswith("a black box has no gradient")
    assert box["occlusion"]["agreement"]["difference"] < 1e-5
    assert box["occlusion"]["agreement"]["rank"] > 0.999
    assert answer["runs"][0]["loaded"] > 10 > answer["runs"][1]["loaded"]
    assert answer["findings"] and answer["choices"] and answer["machine"]["cores"]


def test_the_maps_are_kept_as_numbers(two):
    answer, _ = two
    with np.load(answer["files"]["maps"]) as maps:
        assert set(maps.files) == {
            "pictures", "labels", "mlp/torch/saliency", "mlp/torch/occlusion", "mlp/callable/occlusion"
        }  # fmt: skip
        assert maps["mlp/torch/saliency"].shape == (2, 8, 8)


def test_the_page_is_one_file(two):
    answer, folder = two
    text = Path(answer["report"]).read_text(encoding="utf-8")
    assert Path(answer["report"]) == folder / "frameworks.html"
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)["']""", text)
    assert addresses and all(each.startswith("data:image/png;base64,") for each in addresses)
    assert not re.search(r"@import|url\(|<script|<link", text)
    for words in (
        "How to choose",
        "Agreement, time and cost",
        "What each is like",
        "What is not supported",
        "PyTorch",
    ):
        assert words in text
    for sentence in answer["findings"]:
        assert sentence.replace("'", "&#39;") in text
    assert "whence study frameworks --network mlp --framework torch" in text
    # The digit, the figure and three maps.
    assert len(addresses) == 5


BLOCK = "import sys\nsys.modules['jax'] = None\n"
CRASH = """
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == "jax":
            print("no room", file=sys.stderr, flush=True)
            import os
            os._exit(3)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    "program, told",
    [
        (BLOCK, "jax is not installed: pip install 'whence[jax]'"),
        (CRASH, "ended with status 3: no room (mlp)"),
    ],
)
def test_a_framework_that_is_absent_or_fails_is_named_and_the_others_are_measured(tmp_path, program, told):
    (tmp_path / "sitecustomize.py").write_text(program)
    done = study(
        *QUICK, "--framework", "jax", "--framework", "callable", folder=tmp_path / "out", path=tmp_path
    )
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert f"left out: jax: {told}" in said
    assert f"JAX (f, params) could not be measured: {told}" in said
    for heading in ("Cold: seconds", "Warm: milliseconds", "What each is like", "How to choose"):
        assert heading in said
    # Where a file lies is told whole, however long its folder is.
    assert max(len(line) for line in done.stdout.splitlines() if str(tmp_path) not in line) <= 100
    assert (tmp_path / "out" / "frameworks.html").is_file()


def test_a_thorough_study_tries_every_method(tmp_path):
    words = ("--network", "mlp", "--samples", "2", "--method", "occlusion", "--framework", "callable")
    done = study(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "13 of 35" in done.stdout
    text = (tmp_path / "frameworks.html").read_text(encoding="utf-8")
    assert "Of all registered methods" in text and "a black box has no gradient" in text


DROP = """
import os, whence.support
def tried(name, built):
    os.abort()
whence.support._tried = tried
"""


def test_a_method_that_brings_the_process_down_takes_nothing_that_was_measured_with_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(DROP)
    words = ("--network", "mlp", "--samples", "2", "--method", "occlusion", "--framework", "callable")
    done = study(*words, folder=tmp_path / "out", path=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "callable: not all registered methods could be tried: ended by signal 6" in said
    assert "1 of 1 asked" in said
    assert "could be tried" in (tmp_path / "out" / "frameworks.html").read_text(encoding="utf-8")


def test_where_nothing_can_be_measured_the_work_failed(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    done = study(*QUICK, "--framework", "jax", folder=tmp_path / "out", path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no framework could be measured: jax is not installed" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, told",
    [
        (("--framework", "jaks"), "there is no framework 'jaks'; did you mean 'jax'?"),
        (("--method", "salience"), "there is no method 'salience'; did you mean 'saliency'"),
        (("--network", "cmm"), "there is no network 'cmm'; there are: mlp, cnn, transformer"),
        (("--dtype", "float23"), "there is no dtype 'float23'; did you mean 'float32'"),
        (("--samples", "0"), "compare at least one digit"),
    ],
)
def test_wrong_use_is_one_line(capsys, tmp_path, words, told):
    assert cli.main(["study", "frameworks", *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and told in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_jax_gives_the_same_maps_and_a_seed_gives_them_again(tmp_path):
    pytest.importorskip("jax")
    words = (
        *QUICK,
        "--method",
        "lrp",
        "--framework",
        "torch",
        "--framework",
        "jax",
        "--json",
        "--save",
        "--seed",
        "3",
    )
    kept = []
    for name in ("one", "two"):
        done = study(*words, folder=tmp_path / name)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        cells = answer["runs"][1]["cells"]
        assert all(each["agreement"]["difference"] < 1e-4 for each in cells.values())
        assert all(each["programs"] > 0 for each in cells.values())
        with np.load(answer["files"]["maps"]) as maps:
            kept.append({key: maps[key] for key in maps.files})
    assert kept[0].keys() == kept[1].keys()
    for key, values in kept[0].items():
        np.testing.assert_allclose(values, kept[1][key], atol=1e-6 * np.abs(values).max())


# ---- what is said follows from the numbers -------------------------------------------------------------------


def made(differences=(1e-7, 2e-7), warm=(0.01, 0.02), cold=(0.5, 5.0), **more):
    """A study of PyTorch and JAX with these numbers, one for each framework (or method)."""
    chosen = Setup(("mlp",), ("torch", "jax"), ("saliency", "lrp"), samples=1, **more)
    runs = [
        Ran(
            name, "mlp", {name: "1.0"}, 1.0, 2.0 + place, 100.0, 50.0 * place,
            {method: Cell(cold[place], [warm[place]] * 3, 1.0) for method in chosen.methods}, {},
        )
        for place, name in enumerate(chosen.frameworks)
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    maps = {
        ("mlp", name, each): rng.normal(size=(1, 8, 8))
        for name in chosen.frameworks
        for each in chosen.methods
    }
    near = {
        ("mlp", "jax", method): Agreement(away, 1.0)
        for method, away in zip(chosen.methods, differences, strict=True)
    }
    return Study(chosen, runs, maps, np.zeros((1, 8, 8)), np.array([3]), {"cores": 1}, "torch", near)


def test_equal_maps_are_called_equal_and_others_are_not():
    same = findings.sentences(made())[0]
    assert "same maps as PyTorch" in same and "2×10⁻⁷" in same
    apart = findings.sentences(made(differences=(1e-7, 0.3)))[0]
    assert "same maps" not in apart
    assert "1 of the 2 maps" in apart and "lrp in JAX (f, params) on mlp, by 0.3" in apart
    assert all(
        each.wish != "You have the model already" for each in choice.choices(made(differences=(1e-7, 0.3)))
    )


@pytest.mark.parametrize(
    "warm, fastest", [((0.01, 0.02), "PyTorch is fastest"), ((0.02, 0.01), "JAX (f, params) is fastest")]
)
def test_the_fastest_is_the_one_with_the_least_time(warm, fastest):
    said = " ".join(findings.sentences(made(warm=warm)))
    assert f"Once warm, {fastest}" in said
    wanted = next(each for each in choice.choices(made(warm=warm)) if each.wish.startswith("Many maps"))
    assert wanted.answer == fastest.removesuffix(" is fastest")


def test_times_within_the_noise_name_no_winner():
    said = " ".join(findings.sentences(made(warm=(0.010, 0.011), cold=(1.0, 1.1))))
    assert "all are equally fast" in said
    assert "Cold" not in said


def test_all_that_is_shown_can_be_drawn_and_printed(tmp_path, capsys):
    from rich.console import Console

    whole = made()
    broken = replace(whole, runs=[*whole.runs, Ran("keras", "mlp", absent="keras is not installed")])
    screen.show(Console(width=100, color_system=None), broken)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    assert "left out: keras: keras is not installed" in said
    assert page.write(broken, tmp_path / "page.html").stat().st_size < 300_000


def test_eight_frameworks_fit_into_the_terminal(capsys):
    from rich.console import Console

    whole = made(warm=(1.234, 12.3))
    runs = [replace(whole.runs[1], framework=name) for name in FRAMEWORKS]
    screen.show(Console(width=100, color_system=None), replace(whole, runs=runs))
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    header = next(line for line in said.splitlines() if line.startswith("method"))
    assert all(name in said for name in FRAMEWORKS) and "…" not in header


def test_every_framework_has_its_facts_and_a_colour_of_its_own():
    assert set(FACTS) == set(FRAMEWORKS) == set(STYLES)
    assert len({colour for colour, _ in STYLES.values()}) == len({shape for _, shape in STYLES.values()}) == 8


# ---- numbers -------------------------------------------------------------------------------------------------


def test_the_difference_is_relative_to_the_largest_value():
    wanted = np.array([[[1.0, -4.0]], [[0.0, 2.0]]])
    assert agreement.difference(wanted, wanted) == 0
    assert agreement.difference(wanted + np.array([[[0.0, 0.0]], [[0.2, 0.0]]]), wanted) == pytest.approx(
        0.05
    )
    assert agreement.difference(np.ones((1, 2, 2)), np.zeros((1, 2, 2))) == 1
    assert agreement.difference(np.zeros((1, 2, 2)), np.zeros((1, 2, 2))) == 0


def test_the_rank_correlation_is_scipys(generator):
    from scipy.stats import spearmanr

    one, other = generator.normal(size=(2, 3, 4, 4))
    expected = np.mean([spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)])
    assert agreement.rank(one, other) == pytest.approx(expected)
    assert agreement.rank(np.zeros((1, 2, 2)), np.zeros((1, 2, 2))) == 1
    # What rounding did to equal values is no order.
    flat = np.array([[[0.0, 0.0, 1.0, 2.0]]])
    assert agreement.rank(flat + np.array([[[1e-9, -1e-9, 0.0, 0.0]]]), flat) == 1


def test_a_correlation_is_never_rounded_up_to_one():
    assert rows.rank(1.0) == "1"
    assert rows.rank(0.99999) == "0.9999"
    assert rows.rank(0.5) == "0.5000"


def test_a_setup_survives_the_way_to_the_process():
    chosen = setup(
        ["cnn"], ["jax", "jax"], ["guided-backprop"], samples=3, dtype="float64", seed=1, quick=True
    )
    assert chosen.frameworks == ("jax",) and chosen.methods == ("guided_backprop",)
    assert Setup.read(json.loads(json.dumps(chosen.record()))) == chosen


def test_methods_that_draw_a_layer_are_not_asked_of_a_network_without_one():
    chosen = setup([], [], ["gradcam", "lrp"])
    assert chosen.methods_of("mlp") == ("lrp",)
    assert chosen.methods_of("cnn") == ("gradcam", "lrp")


def test_the_seed_chooses_the_digits():
    one, same, other = (processes.digits(Setup(samples=4, seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(one[key], same[key]) for key in one)
    assert not np.array_equal(one["pictures"], other["pictures"])
    assert len(one["background"]) == 4 and one["pictures"].max() <= 1
