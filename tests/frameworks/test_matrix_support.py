"""`whence methods --backend`: what works is found by trying."""

import json
import sys

import pytest

import whence
from whence import cli, support
from whence.backends import twins


def listed(capsys, *words):
    status = cli.main(["methods", *words])
    return status, capsys.readouterr()


def test_every_method_works_in_pytorch():
    trials = list(support.trials("torch"))
    assert [each.method for each in trials] == list(whence.methods())
    assert [each for each in trials if not each.works] == []


def test_a_black_box_has_no_gradient(capsys):
    status, said = listed(capsys, "--backend", "callable", "--json")
    assert status == 0
    found = {each["method"]: each for each in json.loads(said.out)}
    for name, record in whence.methods().items():
        free = not {"gradient", "layer"} & {*record.needs}
        assert found[name]["works"] == free, name
        assert free or found[name]["reason"].startswith("a black box has no")
    assert found["smoothgrad"]["reason"] == "of sensitivity"


def test_the_table_fits_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, said = listed(capsys, "--backend", "callable")
    assert status == 0
    assert max(map(len, said.out.splitlines())) <= 80
    assert "13 of 35 methods work" in said.out
    assert "a black box has no gradient" in said.out


def test_an_unknown_backend_offers_the_right_one(capsys):
    status, said = listed(capsys, "--backend", "jaks")
    assert status == 2
    assert "did you mean 'jax'" in said.err


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "onnx", "torch"])
def test_a_framework_that_is_not_installed_says_what_to_install(capsys, monkeypatch, backend):
    module = f"whence.backends.twins.{twins.module_of(support.BACKENDS[backend][0])}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for package in ("jax", "keras", "tensorflow", "onnx", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    status, said = listed(capsys, "--backend", backend)
    assert status == 1
    assert said.err.count("\n") == 1
    assert f"pip install 'whence[{backend}]'" in said.err


def test_what_fails_is_no_support(monkeypatch):
    def broken(*_):
        raise ValueError("a part is missing; add it")

    monkeypatch.setattr(support, "_explain", broken)
    trial = next(support.trials("callable"))
    assert (trial.works, trial.reason) == (False, "failed with ValueError: a part is missing")
