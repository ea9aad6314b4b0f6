# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
"""Class activation maps: against slow twins, on convolutions, residuals and tokens; and which layer is chosen."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional

import oracles_cam as slow
import whence
from models import assert_same, cnn, numpy_of, pictures, relative, seeded, state_of, unexpected
from whence import zoo

GRADIENT = ("gradcam", "gradcam_plus_plus", "hirescam", "xgradcam", "layercam")
FORWARD = ("scorecam", "ablationcam", "eigencam")
ANY_HEAD = GRADIENT + FORWARD
every = pytest.mark.parametrize("name", ANY_HEAD)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return seeded(seed, lambda: torch.randn(*shape, dtype=torch.float64)).to(dtype)


# ---- against the slow twins ------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """Maps z = max(conv x, 0), and f_c = Σ_k Σ_p L_ckp z_kp + Q_ckp z_kp²/2: gradients by hand are L + Q z."""

    def __init__(self, size: int = 6, stride: int = 1, classes: int = 3) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(2, 5, 3, stride, 1), nn.ReLU(inplace=True))
        # One channel that never fires, and one that is the same everywhere.
        with torch.no_grad():
            self.maps[0].weight[3:] = 0
            self.maps[0].bias[3:] = torch.tensor([-1.0, 0.5])
        side = -(-size // stride)
        self.linear = nn.Parameter(torch.randn(classes, 5, side, side) + 0.5)
        self.square = nn.Parameter(torch.randn(classes, 5, side, side))

    def head(self, z: torch.Tensor) -> torch.Tensor:
        z = z[:, None]
        return (self.linear * z + self.square * z * z / 2).sum((2, 3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.maps(x))


def quadratic(stride: int = 1) -> nn.Module:
    return seeded(3, lambda: Quadratic(stride=stride)).double().eval()


def twin(name: str, model: Quadratic, x: torch.Tensor, column: int) -> np.ndarray:
    """The slow map of one example [1, 2, 6, 6]."""
    with torch.no_grad():
        z = model.maps(x.clone())[0].numpy()
    linear, square = (each[column].detach().numpy() for each in (model.linear, model.square))
    if name in GRADIENT:
        return getattr(slow, name)(z, linear + square * z)
    if name == "scorecam":

        def f(picture: np.ndarray) -> float:
            with torch.no_grad():
                return float(model(torch.from_numpy(picture)[None])[0, column])

        return slow.scorecam(z, f, x[0].numpy(), np.zeros(x.shape[1:]))
    if name == "ablationcam":
        return slow.ablationcam(z, lambda z: float((linear * z + square * z * z / 2).sum()))
    return slow.eigencam(z)


@every
@pytest.mark.parametrize("stride", [1, 2])
def test_maps_are_those_of_the_slow_twins(name, stride):
    model, x = quadratic(stride), random(3, 2, 6, 6)
    result = whence.explain(model, x, name, target=[2, 0, 1], layer="maps")
    side = 6 // stride
    assert result.values.shape == (3, 1, side, side) and result.values.dtype == torch.float64
    for row, column in enumerate((2, 0, 1)):
        expected = twin(name, model, x[row : row + 1], column)
        assert np.abs(numpy_of(result.values[row, 0]) - expected).max() <= 1e-11 * np.abs(expected).max()
        assert np.abs(expected).max() > 0, row
    assert result.notes == []


@every
def test_every_class_at_once_is_each_class_alone(name):
    model, x = quadratic(), random(3, 2, 6, 6)
    every_class = whence.explain(model, x, name, target="all", layer="maps")
    assert every_class.values.shape == (3, 3, 1, 6, 6)
    for column in range(3):
        alone = whence.explain(model, x, name, target=column, layer="maps")
        assert relative(every_class.values[:, column], alone.values) <= 1e-12
        assert relative(every_class.for_class(column).heatmap(), alone.heatmap()) <= 1e-12


@pytest.mark.parametrize("name", ["gradcam", "hirescam"])
def test_without_relu_what_speaks_against_a_class_stays(name):
    model, x = quadratic(), random(3, 2, 6, 6)
    against = lambda y: -y[:, 0]  # noqa: E731
    both = whence.explain(model, x, name, target=against, layer="maps", relu=False).values
    cut = whence.explain(model, x, name, target=against, layer="maps", relu=True).values
    assert (both < 0).any() and torch.equal(cut, both.clip(0))


def test_masks_of_maps_with_negative_values_lie_between_0_and_1():
    model, x = quadratic(), random(1, 2, 6, 6)
    with torch.no_grad():
        z = model.maps[0](x)[0].numpy()

    def f(picture: np.ndarray) -> float:
        with torch.no_grad():
            return float(model(torch.from_numpy(picture)[None])[0, 1])

    assert z.min() < 0
    expected = slow.scorecam(z, f, x[0].numpy(), np.zeros((2, 6, 6)))
    found = whence.explain(model, x, "scorecam", target=1, layer="maps.0").values[0, 0]
    assert relative(found, expected) <= 1e-12


def test_the_baseline_of_scorecam_stands_where_the_mask_is_0():
    model, x = quadratic(), random(1, 2, 6, 6)
    start = random(1, 2, 6, 6, seed=5)

    def f(picture: np.ndarray) -> float:
        with torch.no_grad():
            return float(model(torch.from_numpy(picture)[None])[0, 1])

    with torch.no_grad():
        z = model.maps(x.clone())[0].numpy()
    expected = slow.scorecam(z, f, x[0].numpy(), start[0].numpy())
    result = whence.explain(model, x, whence.ScoreCAM(layer="maps", baseline=start), target=1)
    assert relative(result.values[0, 0], expected) <= 1e-12
    with pytest.raises(whence.Refused, match="one baseline"):
        whence.explain(model, x, "scorecam", layer="maps", baseline=[0.0, 1.0])


@every
def test_nothing_in_nothing_out(name):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).eval()
    with torch.no_grad():
        model[0].bias.fill_(-100)
    result = whence.explain(model, pictures(), name, layer="1", target=0)
    assert (result.values == 0).all() and np.isfinite(result.heatmap()).all()


# ---- CAM -----------------------------------------------------------------------------------------------------


class Pooled(nn.Module):
    """A network that ends as CAM wants it, in one of many ways to write that."""

    def __init__(self, way: str = "module") -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 7, 3), nn.BatchNorm2d(7))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(7, 3)
        self.way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.features(x)) if self.way == "relu" else self.features(x)
        mean = self.pool(maps).flatten(1) if self.way == "module" else maps.mean((2, 3))
        y = self.head(mean)
        return torch.softmax(y, 1) if self.way == "softmax" else y


def pooled(way: str = "module", dtype: torch.dtype = torch.float64) -> nn.Module:
    return seeded(1, lambda: Pooled(way)).to(dtype).eval()


@pytest.mark.parametrize("way", ["module", "mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_cam_is_the_heads_weights_times_the_maps(way, dtype):
    model, x = pooled(way, dtype), random(3, 1, 9, 9, dtype=dtype)
    result = whence.explain(model, x, "cam", target=[0, 2, 1])
    with torch.no_grad():
        z = model.features(x)
    expected = torch.einsum("bk,bkhw->bhw", model.head.weight[[0, 2, 1]].double(), z.double())
    close = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2e-2)
    assert result.values.dtype == dtype and relative(result.values[:, 0], expected) <= close
    positions = expected[0].numel()
    gradcam = whence.explain(model, x, "gradcam", target=[0, 2, 1], relu=False)
    assert relative(gradcam.values.double() * positions, result.values) <= close * 5
    every_class = whence.explain(model, x, "cam", target="all")
    assert relative(every_class.values[:, 1, 0][2], expected[2]) <= close


@pytest.mark.parametrize("way", ["relu", "softmax"])
def test_cam_is_refused_where_the_head_is_another(way):
    with pytest.raises(whence.Refused, match="global average pooling and one linear layer"):
        whence.explain(pooled(way), random(3, 1, 9, 9), "cam")


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(7 * 25, 3)),
        nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(7, 3)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3, bias=False), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3), nn.Tanh()),
    ],
    ids=["flatten", "max", "homogeneous", "tanh"],
)
def test_cam_is_refused_by_what_the_head_does_not_by_what_it_is_called(head):
    model = seeded(2, lambda: nn.Sequential(nn.Sequential(nn.Conv2d(1, 7, 5), nn.ReLU()), head)).double()
    with pytest.raises(whence.Refused, match="gradcam works for any head"):
        whence.explain(model.eval(), random(3, 1, 9, 9), "cam", target=0)


def test_the_promises_hold_for_cam_too():
    """Its head is none of the little networks' in test_promises.py."""
    model, x = (
        pooled(),
        random(4, 1, 9, 9) * torch.tensor([1.0, 1e-2, 3.0, 0.0], dtype=torch.float64)[:, None, None, None],
    )
    before = state_of(model, x)
    together = whence.explain(model, x, "cam", target=1)
    assert_same(before, state_of(model, x))
    for row in range(4):
        assert (
            relative(
                together.values[row : row + 1],
                whence.explain(model, x[row : row + 1], "cam", target=1).values,
            )
            <= 1e-12
        )
    for size in (1, 3):
        assert (
            relative(whence.explain(model, x, "cam", target=1, chunk=size).values, together.values) <= 1e-12
        )
    again = whence.explain(model, x, "cam", target=1, chunk=3, seed=7)
    assert torch.equal(again.values, whence.explain(model, x, "cam", target=1, chunk=3).values)


@pytest.mark.parametrize("name", ["cam", *ANY_HEAD])
@pytest.mark.parametrize("architecture", ["ResNet", "ViT, mean"])
def test_examples_and_chunks_do_not_mix(name, architecture):
    model, x, _, _ = made(architecture, torch.float64)
    x[1] *= 0.01
    together = whence.explain(model, x, name, target=1)
    for size in (1, 2, 7):
        assert relative(whence.explain(model, x, name, target=1, chunk=size).values, together.values) <= 1e-9
    for row in range(3):
        alone = whence.explain(model, x[row : row + 1], name, target=1)
        assert relative(alone.values[0], together.values[row]) <= 1e-9


# ---- which layer ---------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        hidden += x if self.downsample is None else self.downsample(x)
        return self.relu(hidden)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer3 = nn.Sequential(Residual(8, 8), Residual(8, 8))
        self.layer4 = nn.Sequential(Residual(8, 16, 2), Residual(16, 16))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer4(self.layer3(self.maxpool(self.relu(self.bn1(self.conv1(x))))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(256, 20), nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))


class VGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        stage = [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2), *stage)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(nn.Linear(16 * 49, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.softmax = nn.Linear(16, 48), nn.Softmax(-1)
        self.projection, self.drop = nn.Linear(16, 16), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(rows, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        mixed = self.softmax(q @ k.transpose(-1, -2) / 8**0.5) @ v
        return self.drop(self.projection(mixed.transpose(1, 2).reshape(rows, tokens, width)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(16), Attention(), nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer on pictures 32 x 32: 16 patches and a class token, or their mean."""

    def __init__(self, class_token: bool = True, blocks: nn.Module | None = None) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16)) if class_token else None
        self.place = nn.Parameter(torch.randn(1, 16 + class_token, 16))
        self.blocks = blocks or nn.ModuleList([Block(), Block()])
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
        tokens = tokens + self.place
        for block in self.blocks if isinstance(self.blocks, nn.ModuleList) else [self.blocks]:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens.mean(1) if self.token is None else tokens[:, 0])


def encoder(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Voting(nn.Module):
    """A classifier of every token, whose scores are averaged: the maps are what it sees, not what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, 16, 8, 8), Block(), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2))).mean(1)


class Shifted(nn.Module):
    """Pictures with their channels last inside, as in a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.patch(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(2, 8, 5), nn.ReLU(), nn.Conv1d(8, 12, 5, 2), nn.BatchNorm1d(12), nn.ReLU()
        )
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(x).mean(2))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0].mean(1))


class TwoHeads(nn.Module):
    """A second answer, made last, from maps that the explained one does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.other = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.fc(self.conv(x).mean((2, 3))), "maps": self.other(x)}


picture = (3, 32, 32)
ARCHITECTURES = {
    "LeNet": (LeNet, (1, 28, 28), "conv2", (8, 8)),
    "VGG": (VGG, picture, "features.4", (16, 16)),
    "ResNet": (ResNet, (3, 64, 64), "layer4", (8, 8)),
    "ViT, class token": (ViT, picture, "blocks.1.norm1", (4, 4)),
    "ViT, mean": (lambda: ViT(False), picture, "norm", (4, 4)),
    "encoder, norm first": (lambda: ViT(blocks=encoder(True)), picture, "blocks.layers.1.norm1", (4, 4)),
    "encoder, norm last": (lambda: ViT(blocks=encoder(False)), picture, "blocks.layers.0", (4, 4)),
    "votes of tokens": (Voting, picture, "block", (4, 4)),
    "channels last": (Shifted, picture, "norm", (8, 8)),
    "signal": (Signal, (2, 50), "net", (21,)),
    "LSTM": (Recurrent, (9, 4), "lstm", (9,)),
    "digits": (lambda: zoo.load("digits-cnn").model, (1, 8, 8), "features.3", (8, 8)),
    "mnist": (lambda: zoo.load("mnist-cnn").model, (1, 28, 28), "features.4", (11, 11)),
}


def made(name: str, dtype: torch.dtype = torch.float32):
    make, shape, layer, size = ARCHITECTURES[name]
    model = seeded(1, make)
    return model.to(dtype).eval(), random(3, *shape, dtype=dtype), layer, size


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ANY_HEAD)
def test_the_last_layer_with_an_extent_in_space_is_chosen_and_named(name, architecture):
    model, x, layer, size = made(architecture)
    result = whence.explain(model, x, name, target=1)
    assert result.notes[:1] == [
        f"no layer was named: this is the map of layer {layer!r}, the last with an extent in space"
    ]
    assert result.values.shape == (3, 1, *size)
    assert result.settings["at"] == repr(whence.layer(layer))
    named = whence.explain(model, x, name, target=1, at=whence.layer(layer))
    assert relative(named.values, result.values, 1e-6) <= 1e-4 and unexpected(named.notes) == []
    shape = x.shape[2:] if architecture != "LSTM" else x.shape[1:2]
    assert result.heatmap().shape == (3, *shape)
    assert np.isfinite(result.heatmap()).all()


def test_mobilenets_last_maps_are_its_heads():
    model = seeded(0, lambda: zoo.build("mobilenet-v2")) if hasattr(zoo, "build") else None
    if model is None:
        from whence.backends.torch_zoo import build

        model = build("mobilenet-v2")
    result = whence.explain(model, random(1, 3, 64, 64, dtype=torch.float32), "gradcam", target=3)
    assert "layer 'head'" in result.notes[0] and result.values.shape == (1, 1, 2, 2)


def test_an_answer_of_the_model_and_maps_it_does_not_use_are_no_places_to_look_at():
    result = whence.explain(
        TwoHeads().eval(), random(2, *picture, dtype=torch.float32), "gradcam", output="scores"
    )
    assert "'conv'" in result.notes[0]
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    result = whence.explain(dense, random(2, *picture, dtype=torch.float32), "gradcam", target=(1, 4, 4))
    assert "'1'" in result.notes[0]


@pytest.mark.parametrize("name", ["cam", *ANY_HEAD])
def test_whoever_has_no_such_layer_is_refused(name):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(whence.Refused, match="no module of this model gives one"):
        whence.explain(flat, pictures(), name)
    with pytest.raises(whence.Refused, match="plain function"):
        whence.explain(lambda x: x.flatten(1), pictures(), name)
    with pytest.raises(whence.UnsupportedByBackend, match="no layers"):
        whence.explain(lambda x: x.reshape(len(x), -1), pictures().numpy(), name)
    with pytest.raises(whence.Refused, match=r"layer '5' gives \[batch, 3\], which has no extent"):
        whence.explain(cnn(), pictures(), name, layer="5")
    with pytest.raises(whence.BadInput, match="there is no layer 'conv'"):
        whence.explain(cnn(), pictures(), name, layer="conv")


def test_the_users_site_wins_over_the_layer():
    model, x = cnn(), pictures()
    site = whence.explain(model, x, "gradcam", at=whence.layer("0"), layer="3")
    assert torch.equal(site.values, whence.explain(model, x, "gradcam", layer="0").values)
    assert site.values.shape == (3, 1, 4, 4)
    some = whence.explain(model, x, "hirescam", at=whence.layer("0", channels=[2]))
    whole = whence.explain(model, x, "input_x_gradient", target=some.target, at=whence.layer("0"))
    assert relative(some.values[:, 0], whole.values[:, 2]) <= 1e-6
    taken = whence.explain(model, x, "hirescam", at=whence.layer("1", input=True))
    assert torch.equal(taken.values, whence.explain(model, x, "hirescam", layer="0").values)


def test_a_reused_layer_is_taken_at_its_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(self.relu(self.conv(self.relu(self.conv(x)))).mean((2, 3)))

    model, x = seeded(0, Twice).eval(), random(2, 3, 6, 6, dtype=torch.float32)
    first, second = (whence.explain(model, x, "gradcam", at=whence.layer("relu", call=i)) for i in (0, 1))
    assert relative(first.values, second.values) > 0.01
    chosen = whence.explain(model, x, "gradcam")
    assert torch.equal(chosen.values, second.values)
    assert "layer 'relu' (call 1)" in chosen.notes[0]


# ---- tokens ----------------------------------------------------------------------------------------------------


def test_tokens_are_laid_out_as_the_picture_was_cut():
    """Against the activation rearranged by hand: the class token comes first and has no place."""
    model, x, _, _ = made("ViT, class token", torch.float64)
    seen = {}
    handle = model.blocks[1].norm1.register_forward_hook(lambda m, i, o: seen.update(z=o))
    (g,) = torch.autograd.grad(model(x)[:, 2].sum(), seen["z"])
    handle.remove()
    z, g = (each.detach()[:, 1:].mT.reshape(3, 16, 4, 4).numpy() for each in (seen["z"], g))

    def found(method: whence.GradCAM) -> np.ndarray:
        return whence.explain(model, x, method, target=2, layer="blocks.1.norm1").values[:, 0].numpy()

    for row in range(3):
        weights = g[row].mean((1, 2))
        assert relative(found(whence.GradCAM(relu=False))[row], slow.summed(weights, z[row])) <= 1e-10
        assert relative(found(whence.HiResCAM())[row], slow.hirescam(z[row], g[row])) <= 1e-10
        # After a layer norm the channels' mean is 0, and the principal component has no sign of its own.
        assert relative(abs(found(whence.EigenCAM())[row]), abs(slow.eigencam(z[row]))) <= 1e-10


def test_tokens_lie_as_the_picture_does_a_grid_can_be_given_and_what_makes_none_is_refused():
    wide = seeded(1, lambda: ViT(False, blocks=Block())).eval()
    wide.place = nn.Parameter(torch.zeros(1, 1, 16))
    x = random(2, 3, 16, 64, dtype=torch.float32)
    inferred = whence.explain(wide, x, "gradcam")
    assert inferred.values.shape == (2, 1, 2, 8)
    assert whence.explain(wide, x.mT, "gradcam").values.shape == (2, 1, 8, 2)
    assert whence.explain(wide, x[..., :48], "gradcam").values.shape == (2, 1, 2, 6)
    told = whence.explain(wide, x, "gradcam", reshape=(4, 4))
    assert torch.equal(told.values.reshape(2, -1), inferred.values.reshape(2, -1))
    assert told.heatmap().shape == (2, 16, 64)
    with pytest.raises(whence.BadInput, match=r"14 tokens, .* make no grid of the picture's 16 : 60"):
        whence.explain(wide, x[..., :60], "gradcam")
    with pytest.raises(whence.BadInput, match="32 positions, and the layer has 16 tokens"):
        whence.explain(wide, x, "gradcam", reshape=(4, 8))
    with pytest.raises(whence.BadInput, match="reshape is for tokens"):
        whence.explain(cnn(), pictures(), "gradcam", reshape=(2, 2))
    for wrong in ("4x4", (4.0, 4), (), (0, 4)):
        with pytest.raises(whence.BadInput, match="it is \\(height, width\\)"):
            whence.GradCAM(reshape=wrong)


# ---- the heat map --------------------------------------------------------------------------------------------


def test_the_heat_map_has_the_pictures_size_and_is_kept(tmp_path):
    model, x = cnn(), pictures()
    for name in ("gradcam", "integrated_gradients", "saliency"):
        result = whence.explain(model, x, name, at=whence.layer("3"), target=0)
        small = result.values.double().numpy().sum(1)
        assert result.size == (6, 6) and small.shape == (3, 2, 2)
        expected = np.stack([slow.bilinear(each, (6, 6)) for each in small])
        assert np.abs(result.heatmap() - expected).max() <= 1e-12 * np.abs(expected).max()
        again = whence.load(result.save(tmp_path / "result.npz"))
        assert again.size == (6, 6) and np.array_equal(again.heatmap(), result.heatmap())
    assert whence.explain(model, x, "saliency").size is None


def test_maps_of_signals_and_of_channels_last_pictures_have_the_inputs_size():
    signal, x, _, _ = made("signal")
    for name in ("gradcam", "saliency"):
        result = whence.explain(signal, x, name, at=whence.layer("net.2"))
        assert result.size == (50,) and result.heatmap().shape == (3, 50)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cnn = cnn()

        def forward(self, x):
            return self.cnn(x.permute(0, 3, 1, 2))

    result = whence.explain(Last(), pictures(3)[:, 0, :, :, None], "gradcam")
    assert result.heatmap().shape == (3, 6, 6)


def test_a_layer_of_numbers_without_places_is_not_stretched():
    result = whence.explain(cnn(), pictures(), "saliency", at=whence.layer("5"))
    assert result.size is None and result.heatmap().shape == (3, 3)


# ---- promises that this family adds to ------------------------------------------------------------------------


def test_a_gradient_map_takes_one_run_for_activation_and_gradient():
    model, x = cnn(), pictures()
    rows = []
    model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    whence.explain(model, x, "gradcam", chunk=3, layer="0")
    # The trace of its layers; the answer, with a graph from the layer on; the first example (is the model steady?).
    assert rows == [1, 3, 1]
    rows.clear()
    whence.explain(model, x, "gradcam", chunk=2, layer="0")
    # More than a chunk holds: the answer first, and the gradient then.
    assert rows == [1, 2, 1, 1, 2, 1]


@pytest.mark.parametrize("name", ["scorecam", "ablationcam"])
def test_channels_times_rows_are_never_in_one_forward(name):
    model, x = cnn(), pictures(5)
    rows = []
    model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    result = whence.explain(model, x, name, chunk=3, layer="0")
    assert max(rows) == 3 and (result.evaluations == 4).all()
    assert sum(rows) >= 5 * 4


@every
def test_noise_may_be_added_to_the_input_of_a_map(name):
    model, x = quadratic(), random(2, 2, 6, 6)
    method = whence.methods()[name].cls(layer="maps")
    result = whence.explain(model, x, whence.SmoothGrad(method, samples=3, noise=0.1), target=0)
    assert result.values.shape == (2, 1, 6, 6) and result.standard_error.shape == (2, 1, 6, 6)
    still = whence.explain(model, x, whence.SmoothGrad(method, samples=2, noise=0.0), target=0)
    assert relative(still.values, whence.explain(model, x, method, target=0).values) <= 1e-12


@every
def test_neurons_are_explained_too(name):
    model, x = cnn(), pictures()
    unit = whence.explain(model, x, name, target=whence.target.neuron("5", 1), layer="0")
    assert relative(unit.values, whence.explain(model, x, name, target=1, layer="0").values) <= 1e-6


def test_weights_have_no_map():
    with pytest.raises(whence.Refused, match=r"parameter '0\.weight' has none"):
        whence.explain(cnn(), pictures(), "gradcam", at=whence.parameters("0.weight"))


def test_a_gradient_that_is_cut_is_said():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return self.conv(x).detach().flatten(1).sum(1, keepdim=True)

    with pytest.raises(whence.Refused, match="carries no gradient"):
        whence.explain(Cut(), pictures(), "gradcam")
    assert whence.explain(Cut(), pictures(), "eigencam").values.shape == (3, 1, 4, 4)


def test_settings_are_those_of_the_papers():
    assert whence.GradCAM() == replace(whence.GradCAM(layer="0"), layer=None)
    assert whence.GradCAM().relu and not whence.HiResCAM().relu
    assert repr(whence.GradCAM(layer="layer4")) == "GradCAM(layer='layer4', relu=True)"
