# ruff: noqa: E402 (what needs the frameworks is imported after the check for them)
"""ONNX files: the gradients, rules and sites of the PyTorch model that was exported, and ONNX Runtime's answers."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_models import exported, made, node, written
from torch import nn

import whence
from architectures import ARCHITECTURES
from models import relative
from whence import second_opinion
from whence.backends.onnx_graph import registry, runtime
from whence.backends.onnx_graph.file import OnnxFile, opened
from whence.backends.onnx_graph.torch_backend import graph_of, rows_of
from whence.errors import BadInput, Refused, UnsupportedByBackend

pytestmark = pytest.mark.usefixtures("one_thread")
D = torch.float64
SMOOTH = ("cnn_1d", "lstm", "efficientnet", "vit", "transformer")


def close(one, two, limit=1e-10):
    return relative(torch.as_tensor(one), torch.as_tensor(two)) <= limit


def kinds(model):
    """Return the operators that a model's graph is run as, in order."""
    graph = graph_of(model if isinstance(model, OnnxFile) else opened(model))
    return [graph._modules[step.module].kind for step in graph.steps]


# ---- the same answers as PyTorch's own model ----------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_rule_gives_what_it_gives_for_the_exported_model(name, opset, tmp_path):
    if opset == 13 and name in ("vit", "transformer"):
        pytest.skip("PyTorch exports attention from opset 14 on")
    model, x = ARCHITECTURES[name].make().to(D), ARCHITECTURES[name].inputs(3, D)
    file = exported(model, x, tmp_path / f"{name}.onnx", opset)
    methods = [("saliency", {}), ("deeplift", {}), ("lrp", {}), ("lrp", {"composite": "epsilon_plus"})]
    methods += [] if name in SMOOTH else [("guided_backprop", {}), ("deconvnet", {})]
    for method, fields in methods:
        ours = whence.explain(file, x.numpy(), method, 1, **fields)
        own = whence.explain(model, x.numpy(), method, 1, **fields)
        assert ours.values.dtype == own.values.dtype == np.float64
        assert close(ours.values, own.values), method
        assert close(ours.output, own.output, 1e-12)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small convolutional network in float32, some inputs, and its file."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    ).eval()  # fmt: skip
    x = torch.randn(3, 1, 8, 8)
    return model, x.numpy(), exported(model, x, tmp_path_factory.mktemp("small") / "small.onnx")


PLAIN = {
    "integrated_gradients": {"steps": 8}, "input_x_gradient": {}, "smoothgrad": {"samples": 4}, "occlusion": {},
    "kernel_shap": {"samples": 100}, "sensitivity": {}, "expected_gradients": {"samples": 6},
    "guided_integrated_gradients": {"steps": 6}, "rise": {"samples": 30},
}  # fmt: skip


@pytest.mark.parametrize("method", PLAIN)
def test_other_methods_give_what_they_give_for_the_exported_model(small, method):
    model, x, file = small
    fields = PLAIN[method] | ({"baseline": x} if method == "expected_gradients" else {})
    ours, own = (whence.explain(each, x, method, 2, **fields) for each in (file, model))
    assert close(ours.values, own.values, 1e-4)
    assert ours.settings["backend"] == "onnx"
    assert ours.settings["model"] == "small.onnx"


@pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam", "cam", "eigencam", "guided_gradcam"])
def test_maps_choose_the_layer_that_they_choose_in_pytorch(small, method):
    model, x, file = small
    ours, own = (whence.explain(each, x, method, 2) for each in (file, model))
    assert close(ours.values, own.values, 1e-4)


def test_a_layer_and_a_weight_have_the_names_of_the_file(small):
    model, x, file = small
    for ours, own in (("/3/Conv", "3"), ("/7/Gemm", "7")):
        here = whence.explain(file, x, "integrated_gradients", 1, whence.layer(ours), steps=6)
        there = whence.explain(model, x, "integrated_gradients", 1, whence.layer(own), steps=6)
        assert close(here.values, there.values, 1e-4)
    here, there = (
        whence.explain(each, x, "input_x_gradient", 1, whence.parameters("7.weight"))
        for each in (file, model)
    )
    assert here.values.shape == (3, 5, 6)
    assert close(here.values, there.values, 1e-4)
    unit = whence.target.neuron("/3/Conv", (2, 1, 1))
    other = whence.target.neuron("3", (2, 1, 1))
    assert close(
        whence.explain(file, x, "saliency", unit).values,
        whence.explain(model, x, "saliency", other).values,
        1e-4,
    )
    with pytest.raises(BadInput, match="did you mean '/3/Conv'"):
        whence.explain(file, x, "saliency", 1, whence.layer("/3/Con"))
    with pytest.raises(BadInput, match=r"did you mean '7.weight'"):
        whence.explain(file, x, "saliency", 1, whence.parameters("7.weigh"))


def test_a_file_is_a_path_a_text_a_proto_or_opened(small):
    _, x, file = small
    first = whence.explain(file, x, "saliency", 1)
    for each in (str(file), onnx.load(str(file)), opened(file)):
        assert np.array_equal(whence.explain(each, x, "saliency", 1).values, first.values)
    assert opened(file) is opened(str(file))
    assert whence.explain(file, torch.from_numpy(x), "saliency", 1).values.dtype == torch.float32


def test_coverage_names_the_nodes(small):
    _, x, file = small
    table = whence.coverage(file, x, "deeplift")
    assert table.complete
    assert any("/3/Conv" in row.place for row in table.rows)


# ---- operations that exporters take apart --------------------------------------------------------------------

SCALE = np.array([1.5, 0.5, -1.0, 2.0])
BIAS = np.array([0.1, -0.2, 0.3, 0.0])


def weights(**numbers):
    return {name: np.asarray(value, np.float64) for name, value in numbers.items()}


def layer_norm(axes=(-1,), squares="Pow"):
    square = node("Pow", ["d", "two"], ["p"]) if squares == "Pow" else node("Mul", ["d", "d"], ["p"])
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=list(axes)), node("Sub", ["x", "m"], ["d"]), square,
        node("ReduceMean", ["p"], ["v"], axes=list(axes)), node("Add", ["v", "eps"], ["e"]), node("Sqrt", ["e"], ["s"]),
        node("Div", ["d", "s"], ["q"]), node("Mul", ["q", "w"], ["k"]), node("Add", ["k", "b"], ["y"], name="norm"),
    ]  # fmt: skip
    return nodes, weights(two=2.0, eps=1e-5) | {"w": SCALE, "b": BIAS}


def gelu():
    nodes = [node("Div", ["x", "root"], ["a"]), node("Erf", ["a"], ["e"]), node("Add", ["e", "one"], ["g"]),
             node("Mul", ["x", "g"], ["p"]), node("Mul", ["p", "half"], ["y"])]  # fmt: skip
    return nodes, weights(root=np.sqrt(2), one=1.0, half=0.5)


def gelu_tanh():
    nodes = [
        node("Mul", ["x", "x"], ["x2"]), node("Mul", ["x2", "x"], ["x3"]), node("Mul", ["c", "x3"], ["t"]),
        node("Add", ["x", "t"], ["u"]), node("Mul", ["r", "u"], ["a"]), node("Tanh", ["a"], ["e"]),
        node("Add", ["one", "e"], ["g"]), node("Mul", ["half", "x"], ["h"]), node("Mul", ["h", "g"], ["y"]),
    ]  # fmt: skip
    return nodes, weights(c=0.044715, r=np.sqrt(2 / np.pi), one=1.0, half=0.5)


def silu():
    return [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])], {}


def mish():
    return [node("Softplus", ["x"], ["p"]), node("Tanh", ["p"], ["t"]), node("Mul", ["x", "t"], ["y"])], {}


def hard_swish():
    nodes = [node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "low", "high"], ["c"]),
             node("Mul", ["x", "c"], ["p"]), node("Div", ["p", "six"], ["y"])]  # fmt: skip
    return nodes, weights(three=3.0, low=0.0, high=6.0, six=6.0)


def norm():
    layer = nn.LayerNorm(4).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(SCALE))
        layer.bias.copy_(torch.from_numpy(BIAS))
    return layer


PARTS = {
    "layer norm": (layer_norm, norm, "MergedLayerNorm"),
    "layer norm by products": (lambda: layer_norm((1,), "Mul"), norm, "MergedLayerNorm"),
    "gelu": (gelu, nn.GELU, "Gelu"),
    "gelu by tanh": (gelu_tanh, lambda: nn.GELU("tanh"), "Gelu"),
    "silu": (silu, nn.SiLU, "MergedSwish"),
    "mish": (mish, nn.Mish, "Mish"),
    "hard swish": (hard_swish, nn.Hardswish, "HardSwish"),
}


@pytest.mark.parametrize("name", PARTS)
def test_what_was_taken_apart_is_whole_again(name):
    parts, module, kind = PARTS[name]
    nodes, held = parts()
    file = OnnxFile(made(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, held, kind=np.float64))
    assert kinds(file) == [kind]
    x = np.random.default_rng(1).normal(size=(3, 4)) * 2
    for method in ("saliency", "deeplift", "lrp"):
        ours, own = (
            whence.explain(file, x, method, 1),
            whence.explain(module(), torch.from_numpy(x), method, 1),
        )
        assert close(ours.values, own.values), method


@pytest.mark.parametrize("name", PARTS)
def test_what_is_used_elsewhere_too_stays_in_parts(name):
    nodes, held = PARTS[name][0]()
    other = nodes[-2].output[0]
    file = OnnxFile(made([*nodes, node("Relu", [other], ["z"])], {"x": ["n", 4]}, {"y": ["n", 4], "z": ["n", 4]},
                         held, kind=np.float64))  # fmt: skip
    # Of a layer norm the rest is whole still: all but its bias.
    assert PARTS[name][2] not in kinds(file) or kinds(file)[:2] == ["MergedLayerNorm", "Add"]
    x = np.random.default_rng(1).normal(size=(3, 4))
    own = PARTS[name][1]()(torch.from_numpy(x)).detach().numpy()
    assert close(whence.explain(file, x, "saliency", 1, output="y").output, own[:, 1], 1e-8)


def test_weights_that_an_exporter_found_equal_are_each_their_own(tmp_path):
    model = nn.Sequential(
        nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)
    ).eval()
    x = torch.randn(2, 4)
    file = exported(model, x, tmp_path / "norms.onnx", 13)
    assert any(each.op_type == "Identity" for each in opened(file).proto.graph.node)
    assert kinds(opened(file)) == ["Gemm", "MergedLayerNorm"] * 2 + ["Gemm"]
    for name in ("1.weight", "3.weight"):
        at = whence.parameters(name)
        ours, own = (whence.explain(each, x.numpy(), "input_x_gradient", 1, at) for each in (file, model))
        assert close(ours.values, own.values, 1e-5)


def test_numbers_that_are_others_are_no_gelu():
    nodes, held = gelu()
    file = OnnxFile(made(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, held | weights(one=1.1), kind=np.float64))
    assert "Gelu" not in kinds(file)


def test_a_mean_over_axes_in_the_middle_is_no_layer_norm_of_torch_and_right_all_the_same():
    nodes, held = layer_norm((1,))
    file = OnnxFile(made(nodes, {"x": ["n", 3, 4]}, {"y": ["n", 3, 4]}, held, kind=np.float64))
    x = np.random.default_rng(1).normal(size=(2, 3, 4))
    wanted = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * SCALE + BIAS
    assert close(whence.explain(file, x, "saliency", (0, 1)).output, wanted[:, 0, 1])


# ---- branches and loops --------------------------------------------------------------------------------------


def inner(name, nodes, inputs, outputs, kind=onnx.TensorProto.DOUBLE):
    info = onnx.helper.make_tensor_value_info
    kinds = {"i": onnx.TensorProto.INT64, "go": onnx.TensorProto.BOOL, "on": onnx.TensorProto.BOOL}
    return onnx.helper.make_graph(
        nodes, name, [info(each, kinds.get(each, kind), None) for each in inputs],
        [info(each, kinds.get(each, kind), None) for each in outputs],
    )  # fmt: skip


def test_a_branch_is_differentiated_and_its_nodes_have_names():
    yes = inner("yes", [node("Mul", ["x", "two"], ["a"], name="twice")], [], ["a"])
    no = inner("no", [node("Neg", ["x"], ["b"])], [], ["b"])
    nodes = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "zero"], ["c"]),
             node("If", ["c"], ["y"], name="either", then_branch=yes, else_branch=no)]  # fmt: skip
    file = OnnxFile(made(nodes, {"x": [1, 3]}, {"y": [1, 3]}, weights(two=2.0, zero=0.0), kind=np.float64))
    for sign, slope in ((1.0, 2.0), (-1.0, 1.0)):
        result = whence.explain(file, sign * np.array([[1.0, 2.0, 3.0]]), "saliency", 1)
        assert result.values[0].tolist() == [0.0, slope, 0.0]
    at = whence.layer("either.then_branch.twice")
    assert whence.explain(file, np.ones((1, 3)), "input_x_gradient", 1, at).values[0].tolist() == [
        0.0,
        2.0,
        0.0,
    ]


def test_a_loop_and_a_scan_are_differentiated():
    steps = [node("Identity", ["go"], ["on"]), node("Mul", ["h", "x"], ["k"])]
    loop = [node("Loop", ["count", "", "x"], ["y"], body=inner("body", steps, ["i", "go", "h"], ["on", "k"]))]
    file = OnnxFile(made(loop, {"x": ["n", 2]}, {"y": ["n", 2]}, {"count": np.int64(2)}, kind=np.float64))
    x = np.array([[2.0, 3.0]])
    assert close(whence.explain(file, x, "saliency", 1).values, [[0.0, 27.0]])
    steps = [node("Add", ["s", "r"], ["t"]), node("Mul", ["t", "t"], ["o"])]
    scan = [
        node("Transpose", ["x"], ["xt"], perm=[1, 0]),
        node("Scan", ["start", "xt"], ["end", "ot"], num_scan_inputs=1,
             body=inner("body", steps, ["s", "r"], ["t", "o"])),
        node("Transpose", ["ot"], ["y"], perm=[1, 0]),
    ]  # fmt: skip
    file = OnnxFile(made(scan, {"x": [1, 2]}, {"y": [1, 2]}, {"start": np.zeros(1)}, kind=np.float64))
    assert close(whence.explain(file, x, "saliency", 1).values, [[10.0, 10.0]])


# ---- batches of a fixed size -------------------------------------------------------------------------------


def test_a_file_for_one_example_takes_many_where_its_graph_does(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    x = torch.randn(5, 1, 6, 6)
    file = exported(model, x[:1], tmp_path / "one.onnx", dynamic=False)
    assert opened(file).batch == 1
    assert rows_of(opened(file)) is None
    ours, own = (whence.explain(each, x.numpy(), "deeplift", 1) for each in (file, model))
    assert close(ours.values, own.values, 1e-5)
    assert ours.notes == ["ONNX Runtime gives the same output to " + ours.notes[0].rpartition(" ")[2]]


def fixed(batch):
    """A graph with its number of examples written into the middle of a shape."""
    flat = {"w": np.linspace(-1, 1, 24).reshape(6, 4).astype(np.float32), "shape": np.array([2 * batch, 3]),
            "back": np.array([batch, 6])}  # fmt: skip
    nodes = [node("Reshape", ["x", "shape"], ["a"], name="two"), node("Softmax", ["a"], ["s"], name="soft"),
             node("Reshape", ["s", "back"], ["b"]), node("Relu", ["b"], ["r"], name="hidden"),
             node("MatMul", ["r", "w"], ["y"])]  # fmt: skip
    return made(nodes, {"x": [batch, 6]}, {"y": [batch, 4]}, flat)


class Twin(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.ReLU()
        self.w = torch.linspace(-1, 1, 24).reshape(6, 4)

    def forward(self, x):
        return self.hidden(torch.softmax(x.reshape(-1, 3), -1).reshape(-1, 6)) @ self.w


def test_a_file_that_says_it_takes_any_number_and_runs_one_is_run_one_by_one():
    model = fixed(1)
    for each in (model.graph.input[0], model.graph.output[0]):
        each.type.tensor_type.shape.dim[0].dim_param = "batch"
    assert rows_of(OnnxFile(model)) == 1
    x = np.random.default_rng(3).normal(size=(5, 6)).astype(np.float32)
    result = whence.explain(model, x, "saliency", target=0)
    for row in range(5):
        alone = whence.explain(fixed(1), x[row : row + 1], "saliency", target=0)
        np.testing.assert_allclose(result.values[row], alone.values[0], rtol=1e-5)
    assert any("one" in note or "1 example" in note for note in result.notes)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_file_that_runs_no_other_number_is_run_in_parts(batch):
    file = OnnxFile(fixed(batch))
    assert rows_of(file) == batch
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    for method, fields in (("saliency", {}), ("integrated_gradients", {"steps": 6}), ("occlusion", {}),
                           ("deeplift", {}), ("lrp", {}), ("kernel_shap", {"samples": 62})):  # fmt: skip
        ours, own = (whence.explain(each, x, method, 1, **fields) for each in (file, Twin()))
        assert close(ours.values, own.values, 1e-5), method
        assert any(f"made for batches of {batch}" in note for note in ours.notes)
        assert any("ONNX Runtime gives the same output" in note for note in ours.notes)
    for method, fields in (("saliency", {}), ("integrated_gradients", {"steps": 6}), ("deeplift", {})):
        for chunk in (None, 5):
            at = whence.layer("hidden")
            ours, own = (
                whence.explain(each, x, method, 1, at, chunk=chunk, **fields) for each in (file, Twin())
            )
            assert close(ours.values, own.values, 1e-5), (method, chunk)
    ours, own = (whence.explain(each, x, "saliency", "all") for each in (file, Twin()))
    assert close(ours.values, own.values, 1e-5)


# ---- what a file may hold ------------------------------------------------------------------------------------


def test_the_file_says_the_precision(tmp_path):
    w = np.linspace(-1, 1, 12).reshape(4, 3)
    x = np.random.default_rng(0).normal(size=(2, 4))
    for kind, given in ((np.float64, np.float32), (np.float32, np.float64), (np.float16, np.float32)):
        held = {"w": w.astype(kind)}
        file = OnnxFile(
            made([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 3]}, held, kind=kind)
        )
        result = whence.explain(file, x.astype(given), "saliency", 1)
        assert result.values.dtype == given
        assert str(graph_of(file)._parameters["w"].dtype) == f"torch.{np.dtype(kind).name}"
        assert np.allclose(result.values, np.abs(w[:, 1]), rtol=2e-3)


def test_half_precision_is_compared_with_onnx_runtime(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).half().eval()
    x = torch.randn(2, 1, 6, 6).half()
    file = exported(model, x, tmp_path / "half.onnx")
    result = whence.explain(file, x.numpy(), "integrated_gradients", 1)
    assert result.values.dtype == np.float16
    assert any(note.startswith("ONNX Runtime gives the same output to") for note in result.notes)


def two_inputs():
    nodes = [node("MatMul", ["a", "w"], ["p"]), node("Cast", ["ids"], ["f"], to=1), node("Mul", ["p", "f"], ["y"]),
             node("Neg", ["y"], ["z"])]  # fmt: skip
    model = made(nodes, {"a": ["n", 3]}, {"y": ["n", 2], "z": ["n", 2]},
                 {"w": np.arange(6, dtype=np.float32).reshape(3, 2)})  # fmt: skip
    model.graph.input.append(onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT32, ["n", 1]))
    return OnnxFile(model)


def test_several_inputs_and_outputs_go_by_name():
    file, a = two_inputs(), np.ones((2, 3), np.float32)
    ids = np.array([[2], [3]])
    with pytest.raises(BadInput, match="say which"):
        whence.explain(file, a, "saliency", 1, kwargs={"ids": ids})
    for which, given in (("y", ids), ("z", torch.from_numpy(ids))):
        result = whence.explain(file, a, "saliency", 1, kwargs={"ids": given}, output=which)
        assert result.values.tolist() == [[2.0, 6.0, 10.0], [3.0, 9.0, 15.0]]
        assert any("ONNX Runtime gives the same output" in note for note in result.notes)
    floats = whence.explain(file, {"ids": ids.astype(np.float32), "a": a}, "feature_ablation", 1, output="y")
    assert floats.values["a"].tolist() == [[2.0, 6.0, 10.0], [3.0, 9.0, 15.0]]
    with pytest.raises(BadInput, match="also takes ids"):
        whence.explain(file, a, "saliency", 1, output="y")
    with pytest.raises(BadInput, match="did you mean 'ids'"):
        whence.explain(file, a, "saliency", 1, output="y", kwargs={"idz": ids})
    assert whence.explain(file.showing("z"), a, "saliency", 1, kwargs={"ids": ids}).values[0, 2] == 10


def test_functions_of_the_file_are_put_in():
    function = onnx.helper.make_function(
        "mine", "Twice", ["u"], ["v"], [node("Add", ["u", "u"], ["v"])], [onnx.helper.make_opsetid("", 17)]
    )
    model = made(
        [node("Twice", ["x"], ["y"], domain="mine")], {"x": ["n", 2]}, {"y": ["n", 2]}, domains=("mine",)
    )
    model.functions.append(function)
    result = whence.explain(model, np.ones((1, 2), np.float32), "saliency", 0)
    assert result.values.tolist() == [[2.0, 0.0]]


def test_old_files_that_stretch_by_attributes_are_renewed():
    nodes = [node("Mul", ["x", "w"], ["y"], broadcast=1, axis=1)]
    model = made(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {"w": np.array([1.0, 2.0, 3.0], np.float32)}, opset=6)
    result = whence.explain(model, np.ones((2, 3), np.float32), "saliency", 2)
    assert result.values[0].tolist() == [0.0, 0.0, 3.0]


def external(tmp_path, location, **more):
    """Write a model whose weight lies in another file."""
    folder = tmp_path / "model"
    folder.mkdir()
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    model = made([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 3]}, {"y": ["n", 2]}, {"w": values})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for key, value in {"location": location, "length": "24", **more}.items():
        tensor.external_data.add(key=key, value=value)
    return written_as_is(model, folder / "model.onnx"), values.tobytes()


def written_as_is(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_file_are_read(tmp_path):
    file, values = external(tmp_path, "w.bin", offset="8")
    (file.parent / "w.bin").write_bytes(b"\0" * 8 + values)
    result = whence.explain(file, np.ones((1, 3), np.float32), "saliency", 1)
    assert result.values.tolist() == [[1.0, 3.0, 5.0]]
    assert any("ONNX Runtime gives the same output" in note for note in result.notes)


@pytest.mark.parametrize("way", ["..", "absolute", "link"])
def test_weights_outside_of_the_folder_are_not_read(tmp_path, way):
    secret = tmp_path / "secret.bin"
    location = {"..": "../secret.bin", "absolute": str(secret), "link": "w.bin"}[way]
    file, values = external(tmp_path, location)
    secret.write_bytes(values)
    if way == "link":
        (file.parent / "w.bin").symlink_to(secret)
    with pytest.raises(BadInput, match="outside of the model's folder, and was not read"):
        whence.explain(file, np.ones((1, 3), np.float32), "saliency", 1)


def test_weights_that_are_missing_or_cut_off_are_named(tmp_path):
    file, values = external(tmp_path, "w.bin")
    with pytest.raises(BadInput, match=r"its data file 'w.bin' is missing"):
        whence.explain(file, np.ones((1, 3), np.float32), "saliency", 1)
    (file.parent / "w.bin").write_bytes(values[:-1])
    with pytest.raises(BadInput, match="shorter than the model says"):
        whence.explain(file, np.ones((1, 3), np.float32), "saliency", 1)
    with pytest.raises(BadInput, match="nothing says where"):
        whence.explain(
            onnx.load(str(file), load_external_data=False), np.ones((1, 3), np.float32), "saliency", 1
        )


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>no such page</html>", bytes(range(256))])
def test_what_is_no_onnx_file_is_said_so(tmp_path, content):
    (tmp_path / "no.onnx").write_bytes(content)
    with pytest.raises(BadInput, match="is no ONNX file"):
        whence.explain(tmp_path / "no.onnx", np.ones((1, 3)), "saliency", 1)
    with pytest.raises(BadInput, match="there is no file"):
        whence.explain("nowhere.onnx", np.ones((1, 3)), "saliency", 1)


# ---- what whence does not run --------------------------------------------------------------------------------


def test_a_custom_operator_is_named():
    odd = node("Frobnicate", ["x"], ["y"], domain="com.acme", name="odd")
    model = made([odd], {"x": ["n", 2]}, {"y": ["n", 2]}, domains=("com.acme",))
    said = r"Frobnicate of the domain com.acme \(node 'odd'\).*ONNX Runtime cannot run it"
    with pytest.raises(UnsupportedByBackend, match=said):
        whence.explain(model, np.ones((1, 2), np.float32), "saliency", 0)


def test_what_only_onnx_runtime_runs_is_a_black_box():
    scaler = node(
        "Scaler", ["x"], ["y"], domain="ai.onnx.ml", name="scale", offset=[0.0, 0.0], scale=[2.0, -3.0]
    )
    model = made([scaler], {"x": ["n", 2]}, {"y": ["n", 2]}, domains=("ai.onnx.ml",))
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    result = whence.explain(model, x, "exact_shapley", 1)
    assert np.allclose(result.values, [[0, -6], [0, -12]])
    assert result.settings["backend"] == "onnxruntime"
    assert any("Scaler of the domain ai.onnx.ml (node 'scale')" in note for note in result.notes)
    for method, at in (("saliency", None), ("deeplift", None), ("occlusion", whence.layer("scale"))):
        with pytest.raises(
            UnsupportedByBackend, match=r"Scaler.*node 'scale'.*works through ONNX Runtime: .*occlusion"
        ):
            whence.explain(model, x, method, 1, at)


def test_an_opset_that_is_too_new_is_named():
    model = made([node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, {"y": ["n", 2]}, opset=99)
    with pytest.raises(UnsupportedByBackend, match=r"opset 99, and whence knows them up to 28"):
        whence.explain(model, np.ones((1, 2), np.float32), "saliency", 0)


def test_a_setting_that_is_not_known_is_named():
    nodes = [node("Dropout", ["x", "", "on"], ["y"], name="drop")]
    model = made(nodes, {"x": ["n", 2]}, {"y": ["n", 2]}, {"on": np.array(True)})
    with pytest.raises(UnsupportedByBackend, match=r"Dropout \(node 'drop'\) has training_mode"):
        whence.explain(model, np.ones((1, 2), np.float32), "saliency", 0)


# ---- ONNX Runtime's answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("away", [1e-6, 0.01, 0.5])
def test_another_answer_than_onnx_runtimes_is_said(small, monkeypatch, away):
    _, x, file = small
    fresh = OnnxFile(opened(file).proto)
    last = graph_of(fresh)._modules["/7/Gemm"]
    right = last.operation
    last.operation = lambda *values: right(*values) * (1 + away)
    if away > second_opinion.OTHER:
        with pytest.raises(Refused, match="away from ONNX Runtime's"):
            whence.explain(fresh, x, "saliency", 1)
        return
    result = whence.explain(fresh, x, "saliency", 1)
    said = (
        "gives the same output to"
        if away < second_opinion.ALIKE
        else r"gives another output: 1.0% of the largest"
    )
    assert any(said in note for note in result.notes)
    assert abs(result.settings["onnxruntime_difference"] - away) < 1e-5


def test_all_of_the_users_inputs_are_compared_each_time(small, monkeypatch):
    _, x, file = small
    seen = []
    right = runtime.Runtime._run
    monkeypatch.setattr(
        runtime.Runtime, "_run", lambda self, given: seen.append(given["x"]) or right(self, given)
    )
    for part in (x, x[:2], x[1:]):
        seen.clear()
        whence.explain(file, part, "saliency", 1)
        assert np.array_equal(np.concatenate(seen), part)


def test_without_onnx_runtime_the_note_says_so(small, monkeypatch):
    _, x, file = small
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = whence.explain(OnnxFile(opened(file).proto), x, "saliency", 1)
    (note,) = result.notes
    assert "were not compared with ONNX Runtime's" in note
    assert "pip install onnxruntime" in note


def in_a_process(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_pytorch_the_file_is_a_black_box(small, tmp_path):
    model, x, file = small
    np.save(tmp_path / "x.npy", x)
    said = in_a_process(
        """
        import sys
        sys.modules["torch"] = None
        import numpy as np, whence
        x = np.load(sys.argv[2])
        shares = {name: whence.explain(sys.argv[1], x, name, 1, **fields) for name, fields in (
            ("occlusion", {}), ("kernel_shap", {"samples": 100}), ("sensitivity", {}))}
        np.savez(sys.argv[3], **{name: each.values for name, each in shares.items()})
        print(shares["occlusion"].notes)
        for method in ("saliency", "deeplift", "integrated_gradients", "gradcam"):
            try:
                whence.explain(sys.argv[1], x, method, 1)
            except whence.UnsupportedByBackend as problem:
                print(method, "refused:", problem)
        """,
        file, tmp_path / "x.npy", tmp_path / "shares.npz",
    )  # fmt: skip
    assert said.count("pip install torch") >= 4
    assert "deeplift refused" in said and "gradcam refused" in said
    shares = np.load(tmp_path / "shares.npz")
    assert close(shares["occlusion"], whence.explain(model, x, "occlusion", 1).values, 1e-4)
    assert close(shares["kernel_shap"], whence.explain(model, x, "kernel_shap", 1, samples=100).values, 1e-3)
    assert close(shares["sensitivity"], whence.explain(model, x, "sensitivity", 1).values, 0.05)


def test_nothing_of_onnx_is_imported_for_other_models():
    said = in_a_process(
        """
        import sys, numpy as np, torch, whence
        whence.explain(lambda x: x, np.ones((1, 2)), "occlusion", 1)
        whence.explain(torch.nn.Linear(2, 2), np.ones((1, 2)), "saliency", 1)
        print([name for name in ("onnx", "onnxruntime") if name in sys.modules])
        """
    )
    assert said.strip() == "[]"


def test_every_operator_is_registered_once_for_each_opset():
    for domain, name in registry.claimed():
        for opset in range(1, 29):
            known = [
                each for each in registry._operators[domain, name]
                if each.since <= opset and (each.until is None or opset <= each.until)
            ]  # fmt: skip
            assert len(known) <= 1, (name, opset)


def test_the_users_file_is_left_as_it_is(small):
    _, x, file = small
    before, proto = file.read_bytes(), onnx.load(str(file))
    copy = proto.SerializeToString()
    whence.explain(file, x, "deeplift", 1)
    whence.explain(proto, x, "deeplift", 1)
    assert file.read_bytes() == before
    assert proto.SerializeToString() == copy


def test_a_file_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "m.onnx"
    for number in (1.0, 2.5):
        held = {"w": np.full((2, 2), number, np.float32)}
        written(made([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 2]}, {"y": ["n", 2]}, held), path)
        assert whence.explain(path, np.ones((1, 2), np.float32), "saliency", 1).values[0, 0] == number
