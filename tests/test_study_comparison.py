"""`whence study mnist`, `digits` and `my`: what is measured, what an interruption leaves, and what is said about it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

import whence
from whence import cli, data, metrics, zoo
from whence.errors import BadInput
from whence.question import Call
from whence.question import outputs as answers
from whence.study.comparison import findings, jobs, means, page, subject, table, tasks
from whence.study.comparison.agreement import correlations
from whence.study.comparison.results import Comparison, Row
from whence.study.comparison.run import run
from whence.study.comparison.setup import CHUNK, LOGARITHMIC, METRICS, Budgets, setup, together
from whence.study.comparison.store import Part, Store

TOGETHER = together(list(METRICS))
TINY = Budgets(metrics=12, again=2, whole=30, dear=4, cheap=20, boundary=5, pairs=2, most=120)
METHODS = ("saliency", "integrated_gradients", "gradcam", "feature_ablation", "cam")


def small(methods: tuple[str, ...] = METHODS, some: tuple[str, ...] = ()):
    return setup("digits", [], methods, some, budgets=TINY, seed=3)


def quiet(text: str, share: float) -> None:
    assert 0 <= share <= 1.0001


@pytest.fixture(scope="module")
def pictures():
    return subject.handwritten("digits", None, 3, TINY.most, False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("study")
    chosen = small()
    return Comparison(chosen, pictures, run(chosen, pictures, folder, quiet))


# ---- the parts ---------------------------------------------------------------------------------------------------


def test_agreement_is_spearmans_mean_over_pictures():
    random = np.random.default_rng(0)
    maps = [random.normal(size=(7, 4, 5)), random.integers(0, 3, size=(7, 4, 5)).astype(float)]
    maps.append(maps[0] + random.normal(size=(7, 4, 5)))
    mean, error = correlations(maps)
    for one in range(3):
        for two in range(3):
            pairs = zip(maps[one], maps[two], strict=True)
            each = np.array([spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs])
            assert mean[one, two] == pytest.approx(each.mean(), abs=1e-12)
            assert error[one, two] == pytest.approx(each.std(ddof=1) / np.sqrt(7), abs=1e-12)


def test_a_constant_map_has_no_rank_correlation():
    maps = [np.random.default_rng(0).normal(size=(3, 4, 4)), np.ones((3, 4, 4))]
    maps[1][0, 0, 0] = 2.0
    mean, _ = correlations(maps)
    one = spearmanr(maps[0][0].ravel(), maps[1][0].ravel()).statistic
    # Only the first picture's map varies, and it alone counts.
    assert mean[0, 1] == pytest.approx(one)
    assert np.isnan(correlations([maps[0], np.ones((3, 4, 4))])[0][0, 1])


def test_slices_of_mean_maps_are_put_together_as_if_they_were_one():
    random = np.random.default_rng(1)
    maps, labels = random.normal(size=(40, 3, 3)), random.integers(0, 2, size=40)

    def part(rows: slice) -> Part:
        mine, own = maps[rows], labels[rows]
        sums = {name: np.zeros((3, 3, 3)) for name in ("sum", "absolute", "squares")}
        for each, label in zip(mine, own, strict=True):
            sums["sum"][label] += each
            sums["absolute"][label] += np.abs(each)
            sums["squares"][label] += each**2
        return Part({**sums, "count": np.bincount(own, minlength=3).astype(float)}, {})

    whole = means.together([part(slice(0, 15)), part(slice(15, 40))])
    for label in (0, 1):
        mine = maps[labels == label]
        assert np.allclose(whole["mean"][label], mine.mean(0))
        assert np.allclose(whole["absolute"][label], np.abs(mine).mean(0))
        assert np.allclose(whole["error"][label], mine.std(0, ddof=1) / np.sqrt(len(mine)))
    # Of a class without pictures nothing is said.
    assert np.isnan(whole["mean"][2]).all()


def test_a_folder_of_another_question_is_refused(tmp_path):
    store = Store(tmp_path)
    store.begin({"setup": 1, "pictures": 2})
    store.begin({"setup": 1, "pictures": 2})
    with pytest.raises(BadInput, match="another pictures"):
        store.begin({"setup": 1, "pictures": 3})


def test_what_failed_is_not_finished(tmp_path):
    store = Store(tmp_path)
    store.write("a/b", Part({}, {"failed": "too little memory"}))
    store.write("a/c", Part({}, {"refused": "no layer"}))
    store.write("a/d", Part({"x": np.arange(3)}, {"mean": float("nan")}))
    assert not store.has("a/b")
    assert store.has("a/c")
    assert store.has("a/d")
    assert np.isnan(store.read("a/d").told["mean"])
    assert not store.has("a/e")


def test_dear_methods_get_fewer_pictures(finished):
    every = jobs.then(finished.setup, finished.store, 120, masked=True)
    counts = {name: finished.mean_maps("digits-cnn", name)["count"].sum() for name in METHODS[:4]}
    spent = {name: finished.explained("digits-cnn", name).told["evaluations"] for name in METHODS[:4]}
    for name, count in counts.items():
        assert count == (TINY.whole if spent[name] <= TINY.cheap else TINY.dear), name
    assert set(counts.values()) == {30, 4}
    assert not any("/cam" in job.key for job in every)


# ---- the numbers -------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_metric_asked_directly(finished):
    loaded = zoo.load("digits-cnn")
    inputs = finished.pictures.floats[: TINY.metrics]
    target = finished.predicted("digits-cnn")[: TINY.metrics]
    ask = {"preprocess": loaded.preprocess, "seed": 3, "chunk": CHUNK, "target": target}
    result = whence.explain(loaded.model, inputs, "integrated_gradients", **ask)
    for name in ("deletion", "faithfulness_correlation", "sparseness"):
        metric = metrics.build(name, METRICS.get(name, {}))
        score = metric(loaded.model, inputs, result, **ask)
        row = finished.cell("digits-cnn", "integrated_gradients", name)
        assert row.value == pytest.approx(score.mean, abs=1e-5), name
        assert row.standard_error == pytest.approx(score.error, abs=1e-5), name
        assert row.count == TINY.metrics


def test_metrics_that_explain_again_share_what_they_explain(finished):
    loaded = zoo.load("digits-cnn")
    inputs, target = finished.pictures.floats[:2], finished.predicted("digits-cnn")[:2]
    for name in TOGETHER:
        metric = metrics.build(name, METRICS[name])
        alone = metric(
            loaded.model,
            inputs,
            method="saliency",
            preprocess=loaded.preprocess,
            target=target,
            seed=3,
            chunk=CHUNK,
        )
        row = finished.cell("digits-cnn", "saliency", name)
        values = np.log10(alone.values) if name in LOGARITHMIC else alone.values
        assert row.value == pytest.approx(values.mean(), rel=1e-5), name
        assert row.count == 2


def test_the_mean_of_integrated_gradients_is_near_that_of_its_maps(finished):
    loaded = zoo.load("digits-cnn")
    inputs, labels = finished.pictures.floats[: TINY.whole], finished.pictures.labels[: TINY.whole]
    found = whence.explain(
        loaded.model, inputs, target=labels, preprocess=loaded.preprocess, rtol=1e-3
    ).values
    # Integrated gradients cost more than 20 evaluations, so that few pictures are averaged here.
    maps = finished.mean_maps("digits-cnn", "integrated_gradients")
    count = int(maps["count"].sum())
    for label in np.unique(labels[:count]):
        want = found[:count][labels[:count] == label].mean(0)
        assert np.abs(maps["mean"][label] - want).sum() < 0.4 * np.abs(want).sum()


def test_what_does_not_apply_is_told_with_its_reason(finished):
    assert finished.methods("digits-cnn") == [*METHODS[:4], "random"]
    ((network, _, reason),) = [each for each in finished.left_out() if each[1] == "cam"]
    assert network == "digits-cnn"
    assert "global average pooling" in reason
    assert finished.failures() == []


def test_random_maps_are_no_explanation(finished):
    control = finished.cell("digits-cnn", "random", "faithfulness_correlation")
    real = finished.cell("digits-cnn", "integrated_gradients", "faithfulness_correlation")
    assert abs(control.value) < 0.2 < real.value
    record = next(each for each in finished.measured if each.name == "faithfulness_correlation")
    assert "integrated_gradients" not in findings.no_better(finished, "digits-cnn", record)


def test_the_boundary_lies_where_two_classes_tie(finished):
    values = finished.store.read("boundary/digits-cnn/0").arrays
    loaded = zoo.load("digits-cnn")
    outputs = answers(Call(loaded.model, values["points"], preprocess=loaded.preprocess))
    rows = np.arange(len(outputs))
    gap = outputs[rows, values["top"]] - outputs[rows, values["rival"]]
    assert np.abs(gap).max() < 1e-4 * np.abs(outputs).max()
    assert values["points"].min() >= 0
    assert values["points"].max() <= 1
    assert (values["distance"] > 0).all()


# ---- what is said ------------------------------------------------------------------------------------------------


def _row(method: str, value: float, error: float = 0.01) -> Row:
    return Row("net", method, "deletion", value, error, 10, "lower")


class Told:
    """A study of which only the numbers are asked."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = {row.method: row for row in rows}

    def methods(self, network: str) -> list[str]:
        return list(self.rows)

    def cell(self, network: str, method: str, measure: str) -> Row | None:
        return self.rows.get(method)

    def values(self, network: str, method: str, metric: str) -> None:
        return None

    def draws(self, network: str, method: str, metric: str) -> None:
        return None


def test_near_the_best_is_what_cannot_be_told_apart():
    record = metrics.registered()["deletion"]
    rows = [_row("a", 0.10), _row("b", 0.115), _row("c", 0.2), _row("d", 0.3)]
    told = Told([*rows, _row("random", 0.25)])
    assert findings.near_best(told, "net", record) == {"a", "b"}
    assert findings.standing(told, "net", record) == {
        "a": 1.0,
        "b": pytest.approx(2 / 3),
        "c": pytest.approx(1 / 3),
        "d": 0.0,
    }
    assert findings.no_better(told, "net", record) == {"d"}
    # The best of those that random maps surpass is no best.
    told = Told([*rows, _row("random", 0.05)])
    assert findings.no_better(told, "net", record) == {"a", "b", "c", "d"}
    assert findings.near_best(told, "net", record) == set()


def test_where_all_are_alike_nobody_leads():
    record = metrics.registered()["deletion"]
    told = Told([_row(name, 0.1) for name in "abcd"])
    assert findings.near_best(told, "net", record) == set()


def test_the_page_holds_every_part_and_nothing_from_elsewhere(finished, tmp_path):
    path = page.write(finished, tmp_path / "page.html", "whence study digits")
    text = path.read_text(encoding="utf-8")
    for part in (
        "maps",
        "metrics",
        "strengths",
        "agreement",
        "global",
        "confusions",
        "boundary",
        "asked",
        "settings",
    ):
        assert f'id="{part}"' in text
    assert "Random (control)" in text
    assert "whence study digits" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert 'src="data:image/png;base64,' in text
    assert "global average pooling" in text


def test_the_table_holds_every_number(finished, tmp_path):
    path = table.write(finished, tmp_path, "csv")
    with path.open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(line for line in handle if not line.startswith("#")))
    assert '"seed": 3' in path.read_text(encoding="utf-8")
    assert len(rows) == len([row for row in finished.rows if row.measure != "milliseconds"])
    row = next(each for each in rows if each["method"] == "saliency" and each["measure"] == "deletion")
    assert float(row["value"]) == finished.cell("digits-cnn", "saliency", "deletion").value
    polars = pytest.importorskip("polars")
    again = polars.read_parquet(table.write(finished, tmp_path, "parquet"))
    assert again.height == len(rows)


def test_methods_are_told_apart_on_the_same_pictures(finished):
    # Pictures differ far more than methods do: the two standard errors by themselves would tell nothing.
    one, two = (
        finished.cell("digits-cnn", name, "deletion") for name in ("saliency", "integrated_gradients")
    )
    values = [
        finished.values("digits-cnn", name, "deletion") for name in ("saliency", "integrated_gradients")
    ]
    difference = values[0] - values[1]
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert findings._apart(finished, one, two) == (abs(difference.mean()) > 2 * error)


def test_of_a_network_that_draws_lots_the_order_of_work_does_not_matter(finished):
    torch = pytest.importorskip("torch")

    class Noisy(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return torch.nn.functional.dropout(self.inner(x), 0.3, training=True)

    def judged(*order):
        with ExitStack() as held:
            bench = tasks.Bench(finished.setup, finished.pictures, finished.store, "digits-cnn", held)
            known = bench.source
            bench.__dict__["source"] = replace(known, model=Noisy(known.model))
            parts = [tasks.run(bench, f"metric/digits-cnn/{name}/deletion") for name in order]
        values = [part.arrays["values"] for each in parts for part in each.values()]
        return dict(zip(order, values, strict=True))

    one, other = judged("saliency", "integrated_gradients"), judged("integrated_gradients", "saliency")
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


def test_methods_are_told_apart_in_the_same_draws():
    rows = [_row("a", 0.2, 0.001), _row("b", 0.3, 0.001)]
    told = Told(rows)
    values = {"a": np.full(10, 0.2), "b": np.full(10, 0.3)}
    told.values = lambda network, method, metric: values[method] + 0.001 * np.arange(10) * (method == "a")
    draws = {"a": np.array([0.1, 0.3, 0.2]), "b": np.array([0.2, 0.401, 0.3])}
    told.draws = lambda network, method, metric: draws[method]
    # What a draw does to both does not keep them from being told apart; what it does to one of them does.
    assert findings._apart(told, *rows)
    draws["b"] = np.array([0.5, 0.1, 0.3])
    assert not findings._apart(told, *rows)


def test_completeness_is_told_from_each_methods_own_baseline(finished):
    row = finished.cell("digits-cnn", "integrated_gradients", "completeness_residual")
    assert 0 <= row.value < 0.02
    # Saliency promises nothing of the kind.
    assert finished.cell("digits-cnn", "saliency", "completeness_residual") is None


def study_of(module: str) -> list[str]:
    words = ("--model", f"{module}:make", "--size", "12", "--data", "photos", "--quick", "--out", "out")
    return ["study", "my", *words]


def test_a_network_that_ignores_its_pictures_goes_through(tmp_path, monkeypatch, capsys):
    own_pictures(tmp_path / "photos", classes=2, each=4)
    (tmp_path / "still_network.py").write_text(STILL)
    monkeypatch.chdir(tmp_path)
    words = study_of("still_network")
    assert (
        cli.main([*words, "--method", "saliency", "--metric", "deletion", "--metric", "max_sensitivity"]) == 0
    )
    assert "No boundary was found" in (tmp_path / "out" / "my.html").read_text(encoding="utf-8")


def test_coloured_pictures_have_all_metrics_of_robustness(tmp_path, monkeypatch):
    own_pictures(tmp_path / "photos", classes=2, each=5)
    (tmp_path / "my_network.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    words = study_of("my_network")
    more = [word for name in TOGETHER for word in ("--metric", name)]
    assert cli.main([*words, "--method", "saliency", "--method", "integrated_gradients", *more]) == 0
    lines = (tmp_path / "out" / "my.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    for name in TOGETHER:
        values = [
            float(row["value"]) for row in rows if row["measure"] == name and row["method"] == "saliency"
        ]
        assert len(values) == 1, name
        assert np.isfinite(values[0]), name


def test_another_network_with_the_same_weights_is_another_question(tmp_path, pictures):
    from whence.study.comparison.run import _question

    wrong = subject.Pictures("x", pictures.images, pictures.labels, pictures.background, pictures.masks)
    other = subject.Pictures("x", pictures.images, pictures.labels, pictures.background, ~pictures.masks)
    assert _question(small(), wrong)["pictures"] != _question(small(), other)["pictures"]
    assert len(_question(small(), wrong)["answers"]["digits-cnn"]) == 10


def test_two_studies_in_one_folder_are_refused(tmp_path, pictures):
    import fcntl

    with (tmp_path / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another study is at work"):
            run(small(), pictures, tmp_path, quiet)


# ---- interruptions -----------------------------------------------------------------------------------------------

FEW = (
    "--method", "saliency", "--method", "integrated_gradients", "--metric", "deletion", "--metric", "max_sensitivity",
    "--metric", "sparseness",
)  # fmt: skip


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "whence", "study", "digits", "--quick", "--out", str(folder), *FEW, *more]


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
def test_killed_at_any_point_nothing_is_lost_and_nothing_counted_twice(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, capture_output=True)
    for parts in (1, 4, 9):
        process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while len(list((killed / "parts").glob("*--*.npz"))) < parts and time.monotonic() < until:
            if process.poll() is not None:
                break
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # Workers end by themselves when nobody tells them anything any more.
        time.sleep(1.5)
        before = {path.name: path.stat().st_mtime_ns for path in (killed / "parts").glob("*--*.npz")}
        assert len(before) >= parts
    subprocess.run(command(killed), check=True, capture_output=True)
    after = {path.name: path.stat().st_mtime_ns for path in (killed / "parts").glob("*--*.npz")}
    assert all(after[name] == moment for name, moment in before.items()), "finished work was done again"
    assert lines_of(killed / "digits.csv") == lines_of(whole / "digits.csv")
    with np.load(whole / "digits-maps.npz") as one, np.load(killed / "digits-maps.npz") as two:
        assert all(np.array_equal(one[name], two[name], equal_nan=True) for name in one.files)


@pytest.mark.slow
def test_no_worker_outlives_a_killed_study(tmp_path):
    process = subprocess.Popen(
        command(tmp_path / "out"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    parts = tmp_path / "out" / "parts"
    until = time.monotonic() + 120
    while not list(parts.glob("explain--*.npz")) and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 30
    while _workers_of(parts) and time.monotonic() < until:
        time.sleep(0.2)
    assert _workers_of(parts) == []


def _workers_of(folder: Path) -> list[str]:
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"whence.study.comparison.worker" in words and os.fsencode(folder) in words:
            found.append(path.parent.name)
    return found


def test_a_second_run_does_nothing_again(finished, pictures):
    folder = finished.store.folder
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*--*.npz")}
    run(finished.setup, pictures, folder, quiet)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*--*.npz")} == before


def test_half_a_group_is_done_again(finished, pictures):
    folder = finished.store.folder
    key = f"metric/digits-cnn/saliency/{TOGETHER[0]}"
    values = finished.store.read(key).arrays["values"]
    finished.store.path(key).unlink()
    store = run(finished.setup, pictures, folder, quiet)
    assert np.array_equal(store.read(key).arrays["values"], values)


# ---- one's own ---------------------------------------------------------------------------------------------------


def own_pictures(folder: Path, classes: int = 3, each: int = 6) -> Path:
    random = np.random.default_rng(0)
    for number in range(classes):
        (folder / str(number)).mkdir(parents=True)
        for place in range(each):
            levels = random.integers(0, 255, size=(12, 12, 3), dtype=np.uint8)
            Image.fromarray(levels).save(folder / str(number) / f"{place}.png")
    return folder


STILL = """
import torch
from torch import nn

class Still(nn.Module):
    def forward(self, pictures):
        return pictures.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.5])

def make():
    return Still()
"""
FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""


def test_a_model_of_ones_own_goes_through_the_same_study(tmp_path, monkeypatch, capsys):
    own_pictures(tmp_path / "photos")
    (tmp_path / "my_network.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    words = study_of("my_network")
    methods = ["saliency", "cam", "integrated_gradients"]
    assert (
        cli.main([*words, *(word for each in methods for word in ("--method", each)), "--metric", "deletion"])
        == 0
    )
    text = capsys.readouterr().out
    assert "my_network-make names" in text
    assert (tmp_path / "out" / "my.html").is_file()
    lines = (tmp_path / "out" / "my.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert {row["method"] for row in rows if row["measure"] == "deletion"} == {*methods, "random"}


def test_an_archive_of_ones_own_may_say_where_the_right_place_is(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, size=(10, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(10) % 2, masks=images > 200)
    found = subject.own(tmp_path / "mine.npz", None, 0, 100)
    assert found.masks is not None
    assert np.array_equal(found.masks, found.images > 200)
    assert len(found.images) + len(found.background) == 10


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((4, 8, 8), np.uint8)}, "lacks labels"),
        ({"images": np.zeros((4, 8, 8)), "labels": np.zeros(4, int)}, "uint8"),
        ({"images": np.zeros((4, 8, 8), np.uint8), "labels": np.zeros(3, int)}, "one whole number a picture"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(2, int)}, "too few"),
    ],
)
def test_an_archive_that_will_not_do_is_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(BadInput, match=words):
        subject.own(tmp_path / "mine.npz", None, 0, 100)


def test_labels_that_the_network_does_not_have_are_refused(tmp_path, pictures):
    wrong = subject.Pictures("wrong", pictures.images[:8], pictures.labels[:8] + 5, pictures.background)
    with pytest.raises(BadInput, match="number the labels as the network does"):
        run(small(("saliency",)), wrong, tmp_path, quiet)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mnist", "--data", "cifar"], "it is mnist or digits"),
        (["digits", "--method", "salency"], "did you mean"),
        (["digits", "--metric", "deletoin"], "did you mean"),
        (["mnist", "--network", "resnet"], "there is no network"),
        (["digits", "--table", "xlsx"], "csv or parquet"),
        (["my", "--data", "nowhere", "--model", "digits-cnn"], "nowhere"),
    ],
)
def test_wrong_use_is_one_clear_line(words, told, capsys, tmp_path):
    assert cli.main(["study", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


# ---- one picture -------------------------------------------------------------------------------------------------


@pytest.fixture
def digit(tmp_path):
    path = tmp_path / "digit.png"
    Image.fromarray(data.digits().test_images[242]).save(path)
    return path


def test_evaluate_judges_beside_a_random_map(digit, tmp_path, capsys):
    words = ["evaluate", str(digit), "--model", "digits-cnn", "--methods", "integrated_gradients,gradcam"]
    assert (
        cli.main(
            [*words, "--metrics", "deletion,insertion,max_sensitivity,sparseness", "--out", str(tmp_path)]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "Deletion ↓" in text
    assert "control" in text
    assert (tmp_path / "digit.evaluation.png").is_file()


def test_evaluate_tells_programs_the_same(digit, tmp_path, capsys):
    import json

    words = [
        "evaluate",
        str(digit),
        "--model",
        "digits-cnn",
        "--json",
        "--metrics",
        "deletion",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    loaded = zoo.load("digits-cnn")
    image = data.digits().test_images[242][None, ..., None]
    result = whence.explain(loaded.model, image, preprocess=loaded.preprocess)
    score = metrics.Deletion()(loaded.model, image, result, preprocess=loaded.preprocess)
    assert told["scores"]["integrated_gradients"]["deletion"]["value"] == pytest.approx(
        float(score.values[0]), abs=1e-6
    )
    assert {"integrated_gradients", "random"} == {*told["scores"]}


def test_evaluate_by_the_right_place(digit, tmp_path, capsys):
    levels = data.digits().test_images[242]
    Image.fromarray(np.where(levels > 0, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    words = [
        "evaluate",
        str(digit),
        "--model",
        "digits-cnn",
        "--metrics",
        "relevance_mass",
        "--out",
        str(tmp_path),
    ]
    assert cli.main([*words, "--mask", str(tmp_path / "mask.png"), "--json"]) == 0
    assert '"relevance_mass"' in capsys.readouterr().out
    assert cli.main(words) == 2
    assert "--mask" in capsys.readouterr().err


def test_evaluate_refuses_what_one_picture_cannot_tell(digit, tmp_path, capsys):
    words = ["evaluate", str(digit), "--model", "digits-cnn", "--out", str(tmp_path), "--metrics"]
    assert cli.main([*words, "sufficiency"]) == 2
    assert "compares pictures with one another" in capsys.readouterr().err
    assert cli.main([*words, "deletoin"]) == 2
    assert "did you mean" in capsys.readouterr().err
