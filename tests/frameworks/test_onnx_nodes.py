# ruff: noqa: E402 (what needs the frameworks is imported after the check for them)
"""The node tests that ship inside the onnx package: every case of every operator that whence claims.

Left out are cases of types that no gradient asks for (texts, 8-bit and 4-bit floats, whole numbers of 2 and 4 bits)
and of training, each by a rule below, and their numbers are asserted, so that nothing drops out unseen.
"""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from whence.backends.onnx_graph.building import build
from whence.backends.onnx_graph.file import OnnxFile, nodes, opened
from whence.backends.onnx_graph.registry import claimed, find
from whence.backends.onnx_graph.values import TYPES, array, tensor
from whence.errors import UnsupportedByBackend

pytestmark = pytest.mark.usefixtures("one_thread")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    CASES = {case.name: case for case in load_model_tests(kind="node")}

RUN, REFUSED = 1469, 175
"""How many cases are run and hold, and how many are left out for a reason of theirs (onnx 1.23)."""
SMALL = 132
# Half precision is rounded at other places than in the reference: as many units of the last place.
ROUNDINGS = {"bfloat16": 2.0**-6, "float16": 2.0**-9}
# In training mode these draw random numbers or change their own statistics; whence explains models that are trained.
TRAINING = ("_training_mode", "test_training_dropout")


def domain_of(node):
    return "" if node.domain == "ai.onnx" else node.domain


def reason(case):
    """Return why a case is left out: None where it is run."""
    versions = {
        ("" if each.domain == "ai.onnx" else each.domain): each.version for each in case.model.opset_import
    }
    for node in nodes(case.model.graph):
        if (domain_of(node), node.op_type) not in claimed():
            return "not claimed"
        if find(domain_of(node), node.op_type, versions.get(domain_of(node), 1)) is None:
            return "of an opset that is not claimed"
    if any(name in case.name for name in TRAINING):
        return "training"
    kinds = [each.type for each in (*case.model.graph.input, *case.model.graph.output)]
    kinds = [each.sequence_type.elem_type if each.HasField("sequence_type") else each for each in kinds]
    if any(each.HasField("tensor_type") and each.tensor_type.elem_type not in TYPES for each in kinds):
        return "type"
    inside = [each for node in nodes(case.model.graph) for each in node.attribute]
    if any(each.name in ("to", "output_dtype") and each.i and each.i not in TYPES for each in inside):
        return "type"
    return None


REASONS = {name: reason(case) for name, case in CASES.items()}


def native(value):
    """Return an input of a test case: a list, a tensor, or nothing."""
    if isinstance(value, list):
        return [native(each) for each in value]
    if hasattr(value, "raw_data"):
        value = numpy_helper.to_array(value)
    return None if value is None else tensor(np.asarray(value))


def assert_alike(found, wanted, rtol, atol):
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, two in zip(found, wanted, strict=True):
            assert_alike(one, two, rtol, atol)
        return
    wanted = numpy_helper.to_array(wanted) if hasattr(wanted, "raw_data") else np.asarray(wanted)
    rtol = max(rtol, ROUNDINGS.get(wanted.dtype.name, 0.0))
    if wanted.dtype.name == "bfloat16":
        assert found.dtype == torch.bfloat16
        wanted = wanted.astype(np.float32)
    else:
        assert array(found).dtype == wanted.dtype
    assert array(found).shape == wanted.shape
    np.testing.assert_allclose(array(found), wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", [name for name, why in REASONS.items() if why is None])
def test_a_case_of_the_onnx_package_holds(name):
    case = CASES[name]
    graph = build(OnnxFile(case.model))
    for inputs, outputs in case.data_sets:
        with torch.no_grad():
            found = graph(*map(native, inputs))
        found = list(found.values()) if isinstance(found, dict) else [found]
        assert_alike(found, list(outputs), case.rtol, case.atol)


def test_no_case_drops_out_unseen():
    counted = Counter(REASONS.values())
    if onnx.__version__.startswith("1.23."):
        assert counted[None] == RUN
        assert sum(counted[why] for why in ("training", "type", "of an opset that is not claimed")) == REFUSED
    assert counted[None] >= RUN
    assert counted["of an opset that is not claimed"] <= 1


def whole_models():
    """Return the small models of the package that come as files; downloads are left where they are."""
    kinds = ("pytorch-converted", "pytorch-operator", "simple")
    every = [case for kind in kinds for case in load_model_tests(kind=kind)]
    known = [Path(case.model_dir) for case in every if case.model_dir and "strnorm" not in case.name]
    return [
        folder for folder in known if (folder / "model.onnx").exists() and "gradient_of" not in folder.name
    ]


def stored(folder, what):
    tensors = [onnx.TensorProto() for _ in folder.glob(f"{what}_*.pb")]
    for number, each in enumerate(tensors):
        each.ParseFromString((folder / f"{what}_{number}.pb").read_bytes())
    return tensors


@pytest.mark.parametrize("folder", whole_models(), ids=lambda folder: folder.name)
def test_a_small_model_of_the_onnx_package_holds(folder):
    graph = build(opened(folder / "model.onnx"))
    sets = list(folder.glob("test_data_set_*"))
    assert sets
    for each in sets:
        with torch.no_grad():
            found = graph(*map(native, stored(each, "input")))
        found = list(found.values()) if isinstance(found, dict) else [found]
        assert_alike(found, stored(each, "output"), 1e-3, 1e-5)


def test_no_small_model_drops_out_unseen():
    assert len(whole_models()) >= SMALL


@pytest.mark.parametrize("name", [name for name, why in REASONS.items() if why == "training"])
def test_training_is_refused_by_name(name):
    case = CASES[name]
    with pytest.raises(UnsupportedByBackend, match=r"Dropout|BatchNormalization"):
        build(OnnxFile(case.model))(*map(native, case.data_sets[0][0]))


def test_an_operator_that_is_not_claimed_is_named():
    for name, why in REASONS.items():
        if why in ("not claimed", "of an opset that is not claimed") and not CASES[name].model.functions:
            file = OnnxFile(CASES[name].model)
            kinds = {node.op_type for node in nodes(CASES[name].model.graph)}
            assert any(any(kind in said for kind in kinds) or "input" in said for said in file.hindrances), (
                name
            )
            with pytest.raises(UnsupportedByBackend):
                build(file)
