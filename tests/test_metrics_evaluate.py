"""`whence evaluate`: metrics are asked as each method means its numbers, and what cannot be told is said first."""

# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import json

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import whence
from whence import cli, data, metrics, zoo


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "digit.png"
    Image.fromarray(data.digits().test_images[242]).save(path)
    return ["evaluate", str(path), "--model", "digits-cnn", "--out", str(tmp_path)]


def told(words, capsys):
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_the_numbers_mean_and_count_from(words, capsys):
    names = ["--methods", "integrated_gradients,gradcam,saliency,lrp", "--baseline", "white"]
    found = told([*words, *names, "--metrics", "completeness_residual,infidelity"], capsys)
    loaded = zoo.load("digits-cnn")
    x = data.digits().test_images[242][None, ..., None]
    options = {"preprocess": loaded.preprocess}
    result = whence.explain(loaded.model, x, whence.IntegratedGradients(baseline="white"), **options)
    scores = found["scores"]["integrated_gradients"]
    for metric in (
        metrics.CompletenessResidual(baseline="white"), metrics.Infidelity(contributions=True, baseline="white"),
    ):  # fmt: skip
        score = metric(loaded.model, x, result, **options)
        assert scores[score.metric]["value"] == pytest.approx(float(score.values[0]), rel=1e-3, abs=1e-6)
    slopes = metrics.Infidelity()(
        loaded.model, x, whence.explain(loaded.model, x, "saliency", **options), **options
    )
    value = found["scores"]["saliency"]["infidelity"]["value"]
    assert value == pytest.approx(float(slopes.values[0]), rel=1e-3)
    assert {*found["missing"]["completeness_residual"]} == {"gradcam", "saliency", "random"}
    # LRP gives the biases their part: by its own account that much is missing.
    lrp = whence.explain(loaded.model, x, "lrp", **options)
    missed = abs(float(lrp.residual[0])) / abs(float(lrp.output[0] - lrp.baseline_output[0]))
    value = found["scores"]["lrp"]["completeness_residual"]["value"]
    assert value == pytest.approx(missed, rel=1e-3) and missed > 0.01


def test_of_several_starts_infidelity_is_left_out_for_that_method_alone(words, capsys):
    names = ["--methods", "integrated_gradients,expected_gradients"]
    names += ["--metrics", "infidelity,completeness_residual"]
    found = told([*words, *names], capsys)
    assert "several" in found["missing"]["infidelity"]["expected_gradients"]
    assert found["scores"]["integrated_gradients"]["infidelity"]["value"] > 0
    assert found["scores"]["expected_gradients"]["completeness_residual"]["value"] < 0.1
    assert cli.main([*words, *names]) == 0
    assert "infidelity of expected_gradients:" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--metrics", "implementation_invariance"], "needs a second network"),
        (["--metrics", "symmetry"], "needs told pairs"),
        (["--mask", "nowhere.png"], "there is no such file"),
        (["--mask", "large.png"], "draw it over the picture"),
    ],
)
def test_what_cannot_be_told_is_said_before_the_model_is_loaded(
    words, more, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((9, 30), dtype=np.uint8)).save("large.png")
    monkeypatch.setattr("whence.loading.Request.load", lambda *_: pytest.fail("loaded"))
    assert cli.main([*words, *more]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
