# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from torch import nn

import whence
from whence import pixels
from whence.backends.callable import NumpyOperations
from whence.backends.torch import TorchOperations
from whence.errors import BadInput

F64 = torch.float64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(height=33, width=47, channels=3, seed=0):
    """Return a picture with soft shapes, [H, W, C] uint8 (or [H, W])."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + k) * np.cos(y / (4 + k)) * 100 + 128 for k in range(channels)]
    noisy = np.stack(waves, -1) + generator.normal(0, 12, (height, width, channels))
    picture = np.clip(noisy, 0, 255).astype(np.uint8)
    return picture[..., 0] if channels == 1 else picture


def applied(preprocess, pictures):
    """Return what the model gets, as NumPy in float64."""
    read = pixels.read(torch.as_tensor(pictures))
    last = pixels.channels_last(tuple(read.shape))
    return preprocess.apply(TorchOperations(), read.to(F64), last).numpy()


def by_pillow(picture, size):
    """Return a picture [H, W, C] resized by Pillow channel by channel in float, in [0, 1], channels first."""
    channels = [Image.fromarray(picture[..., c].astype(np.float32)) for c in range(picture.shape[-1])]
    resized = [np.asarray(each.resize(size[::-1], Image.Resampling.BILINEAR)) for each in channels]
    return np.stack(resized) / 255


# ---- what the model gets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 20), (20, 16), (60, 90), (33, 12), (5, 5), (33, 47)])
def test_resizing_is_pillows_bilinear(size):
    given = applied(whence.Preprocess(size=size), photo()[None])[0]
    assert given.shape == (3, *size)
    assert np.abs(given - by_pillow(photo(), size)).max() < 1e-2


def test_resizing_is_pillows_on_uint8_too():
    given = applied(whence.Preprocess(size=(16, 20)), photo()[None])[0]
    whole = np.asarray(Image.fromarray(photo()).resize((20, 16), Image.Resampling.BILINEAR)) / 255
    assert np.abs(given - np.moveaxis(whole, -1, 0)).max() < 1e-2


def test_a_size_alone_is_a_square():
    assert applied(whence.Preprocess(size=16), photo()[None]).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (50, 50), (41, 63)])
def test_with_a_crop_the_size_is_the_shorter_side_and_the_centre_is_kept(height, width):
    picture = photo(height, width)
    shorter = min(height, width)
    resized = (int(height * 24 / shorter), int(width * 24 / shorter))
    whole = by_pillow(picture, resized)
    top, left = round((resized[0] - 16) / 2), round((resized[1] - 16) / 2)
    given = applied(whence.Preprocess(size=24, crop=16), picture[None])[0]
    assert np.abs(given - whole[:, top : top + 16, left : left + 16]).max() < 1e-2


def test_a_crop_without_a_size_cuts():
    given = applied(whence.Preprocess(crop=(3, 5)), photo(9, 11)[None])[0]
    assert np.allclose(given, np.moveaxis(photo(9, 11)[3:6, 3:8], -1, 0) / 255)


def test_mean_and_std_are_per_channel():
    given = applied(whence.Preprocess(mean=MEAN, std=STD), photo()[None])[0]
    wanted = (photo() / 255 - np.array(MEAN)) / np.array(STD)
    assert np.allclose(np.moveaxis(given, 0, -1), wanted, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 255), (1, 0)])
def test_black_and_white_become_the_ends_of_the_range(low, high):
    pictures = np.stack([np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 255, np.uint8)])
    given = applied(whence.Preprocess(range=(low, high)), pictures)
    assert np.allclose(given[0], low) and np.allclose(given[1], high)


def test_mean_and_std_are_in_the_units_of_the_range():
    given = applied(whence.Preprocess(range=(0, 255), mean=127.5, std=127.5), photo()[None])
    assert np.allclose(given, applied(whence.Preprocess(range=(-1, 1)), photo()[None]), atol=1e-6)


def test_the_layout_of_the_model_may_have_channels_last():
    first, last = (
        applied(whence.Preprocess(mean=MEAN, layout=each), photo()[None]) for each in ("NCHW", "NHWC")
    )
    assert np.allclose(np.moveaxis(first, 1, -1), last)


def test_grey_pictures_get_one_channel():
    assert applied(whence.Preprocess(mean=0.5), photo(channels=1)[None]).shape == (1, 1, 33, 47)


def test_numpy_and_torch_resize_alike():
    picture = pixels.read(photo()[None])
    preprocess = whence.Preprocess(size=(14, 60), mean=MEAN, std=STD)
    other = preprocess.apply(NumpyOperations(), picture, True)
    assert np.abs(applied(preprocess, photo()[None]) - other).max() < 1e-2


# ---- reading pictures --------------------------------------------------------------------------------------


def test_bytes_are_divided_by_255():
    assert np.allclose(pixels.read(np.array([[[0, 51, 255]]], np.uint8)), [[[0, 0.2, 1]]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_pictures_of_pillow_are_rgb(mode):
    picture = Image.fromarray(photo()).convert(mode)
    assert pixels.read(picture).shape == (1, 33, 47, 3)


def test_grey_pictures_of_pillow_are_grey():
    assert pixels.read(Image.fromarray(photo(channels=1))).shape == (1, 33, 47)


def test_a_list_of_pictures_is_a_batch():
    pictures = [Image.fromarray(photo(seed=seed)) for seed in range(3)]
    assert np.allclose(pixels.read(pictures)[2], photo(seed=2) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((2, 8, 9, 3), True),
        ((2, 3, 8, 9), False),
        ((2, 8, 9, 1), True),
        ((2, 1, 8, 9), False),
        ((2, 8, 9), True),
        ((2, 4, 9, 3), True),
        ((2, 3, 9, 4), False),
        ((2, 8, 9, 4), True),
    ],
)
def test_where_the_channels_are(shape, last):
    assert pixels.channels_last(shape) is last


# ---- values in the picture's own layout --------------------------------------------------------------------


class Waves(nn.Module):
    """A smooth function of a batch [B, C, 8, 10]."""

    def forward(self, x):
        assert x.shape[2:] == (8, 10)
        weights = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).reshape(x.shape[1:])
        flat = torch.tanh((x * weights).flatten(1))
        return torch.stack([flat.sum(1), flat.prod(1)], 1)


SMALL = whence.Preprocess(size=(12, 14), crop=(8, 10), mean=0.5, std=0.5)
PICTURES = {
    "bytes, channels last": photo()[None].repeat(2, 0),
    "bytes, channels first": np.moveaxis(photo(), -1, 0)[None].repeat(2, 0).copy(),
    "floats, channels last": photo()[None].repeat(2, 0) / 255,
    "grey bytes": photo(channels=1)[None].repeat(2, 0),
    "torch floats, channels first": torch.tensor(np.moveaxis(photo(), -1, 0)[None].repeat(2, 0) / 255),
    "torch bytes, channels last": torch.tensor(photo()[None].repeat(2, 0)),
    "torch grey": torch.tensor(photo(channels=1)[None].repeat(2, 0)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_values_come_back_in_the_layout_and_size_of_the_picture(name):
    pictures = PICTURES[name]
    model = Waves().double() if "floats" in name else Waves()
    result = whence.explain(model, pictures, target=0, preprocess=SMALL, steps=6)
    assert tuple(result.values.shape) == tuple(pictures.shape)
    assert isinstance(result.values, torch.Tensor) == isinstance(pictures, torch.Tensor)
    assert result.heatmap().shape == (2, 33, 47)


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_itself_is_kept_in_bytes(name):
    result = whence.explain(Waves().double() if "floats" in name else Waves(), PICTURES[name], "saliency",
                            target=0, preprocess=SMALL)  # fmt: skip
    wanted = photo(channels=1)[..., None] if "grey" in name else photo()
    assert result.picture.dtype == np.uint8 and np.array_equal(result.picture[0], wanted)


def test_values_of_pillows_pictures_are_numpy():
    pictures = [Image.fromarray(photo(seed=seed)) for seed in range(2)]
    result = whence.explain(Waves(), pictures, target=0, preprocess=SMALL, steps=6)
    assert isinstance(result.values, np.ndarray) and result.values.shape == (2, 33, 47, 3)


def test_values_of_a_single_picture_of_pillow():
    result = whence.explain(Waves(), Image.fromarray(photo()), target=0, preprocess=SMALL, steps=6)
    assert result.values.shape == (1, 33, 47, 3)


@pytest.mark.parametrize(
    "name", ["bytes, channels first", "floats, channels last", "torch floats, channels first"]
)
def test_every_layout_of_the_same_picture_gets_the_same_values(name):
    reference = whence.explain(
        Waves(), PICTURES["bytes, channels last"], target=0, preprocess=SMALL, steps=6
    ).values
    pictures = PICTURES[name].float() if "torch" in name else PICTURES[name]
    values = np.asarray(whence.explain(Waves(), pictures, target=0, preprocess=SMALL, steps=6).values)
    values = np.moveaxis(values, 1, -1) if "first" in name else values
    assert np.allclose(values, reference, atol=1e-6)


@pytest.mark.parametrize("name", PICTURES)
def test_completeness_holds_in_pixel_space(name):
    model = Waves().double() if "floats" in name else Waves()
    result = whence.explain(model, PICTURES[name], target=0, preprocess=SMALL, steps=60)
    total = np.asarray(result.values, dtype=np.float64).reshape(2, -1).sum(1)
    assert np.allclose(total, np.asarray(result.output) - np.asarray(result.baseline_output), atol=1e-4)
    assert np.abs(np.asarray(result.residual)).max() < 1e-4


def test_pixels_outside_the_crop_get_nothing():
    result = whence.explain(
        Waves(), photo()[None], target=0, steps=6, preprocess=whence.Preprocess(crop=(8, 10))
    )
    inside = np.zeros((33, 47), bool)
    inside[12:20, 18:28] = True
    assert (result.values[0][~inside] == 0).all() and (result.values[0][inside] != 0).any(-1).all()


def test_the_baseline_is_black_by_default():
    pictures = photo()[None]
    default, black = (
        whence.explain(Waves(), pictures, target=0, preprocess=SMALL, steps=6, **fields)
        for fields in ({}, {"baseline": "black"})
    )
    assert np.array_equal(default.values, black.values)


def test_a_baseline_may_be_a_picture_in_bytes():
    pictures, other = photo()[None], photo(seed=5)
    result = whence.explain(Waves(), pictures, target=0, preprocess=SMALL, steps=60, baseline=other)
    start = whence.explain(Waves(), other[None], "saliency", target=0, preprocess=SMALL)
    assert np.allclose(result.baseline_output, start.output, atol=1e-5)


def test_the_blurred_baseline_blurs_the_picture_and_not_its_channels():
    one = whence.explain(Waves(), photo()[None], target=0, preprocess=SMALL, steps=6, baseline="blur")
    first = np.moveaxis(photo(), -1, 0)[None].copy()
    two = whence.explain(Waves(), first, target=0, preprocess=SMALL, steps=6, baseline="blur")
    assert np.allclose(np.moveaxis(two.values, 1, -1), one.values, atol=1e-6)


def test_a_callable_may_preprocess():
    result = whence.explain(Waves(), photo(8, 10)[None], target=0, steps=60,
                            preprocess=lambda x: x.permute(0, 3, 1, 2) * 2 - 1)  # fmt: skip
    same = whence.explain(Waves(), photo(8, 10)[None], target=0, steps=60,
                          preprocess=whence.Preprocess(mean=0.5, std=0.5))  # fmt: skip
    assert result.values.shape == (1, 8, 10, 3) and np.allclose(result.values, same.values, atol=1e-6)


def test_the_settings_say_how_the_picture_was_prepared():
    result = whence.explain(Waves(), photo()[None], "saliency", target=0, preprocess=SMALL)
    assert eval(result.settings["preprocess"], {"Preprocess": whence.Preprocess}) == SMALL


def test_a_mask_in_pixels_keeps_the_others_at_the_picture():
    where = np.zeros((33, 47, 3), bool)
    where[:, :20] = True
    result = whence.explain(Waves(), photo()[None], target=0, preprocess=SMALL, steps=60, where=where)
    half = photo().copy()
    half[:, :20] = 0
    start = whence.explain(Waves(), half[None], "saliency", target=0, preprocess=SMALL)
    assert (result.values[0][~where] == 0).all()
    assert np.allclose(result.baseline_output, start.output, atol=1e-5)


# ---- what cannot be meant ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layout": "CHW"}, "layout is"),
        ({"std": 0}, "divides by zero"),
        ({"std": (1, 0, 1)}, "divides by zero"),
        ({"size": 0}, "at least 1 pixel"),
        ({"size": (10, -1)}, "at least 1 pixel"),
        ({"crop": 0}, "at least 1 pixel"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(fields, words):
    with pytest.raises(BadInput, match=words):
        whence.Preprocess(**fields)


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        (np.full((1, 8, 10, 3), 3.0), "lie in"),
        (np.full((1, 8, 10, 3), -0.5), "lie in"),
        (np.zeros((1, 8, 10, 3), np.int64), "these are int64"),
        (np.zeros((8, 10)), "this is"),
        (np.zeros((1, 1, 8, 10, 3)), "this is"),
        ("photo.jpg", "this is a str"),
        ([photo(8, 10), photo(9, 10)], "differ in size"),
        (np.full((1, 8, 10, 3), np.nan), "NaN|lie in"),
        (np.zeros((0, 8, 10, 3)), "this is"),
        ([], "there is no picture"),
    ],
    ids=[
        "above 1",
        "below 0",
        "integers",
        "2 axes",
        "5 axes",
        "text",
        "sizes",
        "NaN",
        "none",
        "an empty list",
    ],
)
def test_what_is_no_picture_is_refused(pictures, words):
    with pytest.raises(BadInput, match=words):
        whence.explain(Waves(), pictures, "saliency", target=0, preprocess=whence.Preprocess())


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(BadInput, match="larger than the resized picture"):
        whence.explain(Waves(), photo()[None], "saliency", target=0, preprocess=whence.Preprocess(crop=500))


@pytest.mark.parametrize("channels", [1, 4])
def test_the_wrong_channels_are_refused(channels):
    with pytest.raises(BadInput, match="the model takes 3"):
        whence.explain(Waves(), np.zeros((1, 8, 10, channels), np.uint8), "saliency", target=0,
                       preprocess=whence.Preprocess(mean=MEAN))  # fmt: skip


@pytest.mark.parametrize(
    ("picture", "size", "wanted"),
    [((427, 640), 256, (256, 383)), ((640, 427), 256, (383, 256)), ((480, 640), 232, (232, 309))],
)
def test_the_longer_side_is_cut_off_as_torchvision_does(picture, size, wanted):
    assert whence.Preprocess(size=size, crop=224).resized(*picture) == wanted


def test_the_place_of_an_odd_crop_is_rounded_as_torchvision_does():
    picture = photo(12, 9)[None]  # (12 - 5) / 2 = 3.5 and (9 - 4) / 2 = 2.5, to the even one
    given = applied(whence.Preprocess(crop=(5, 4)), picture)[0]
    assert np.allclose(given, np.moveaxis(picture[0, 4:9, 2:6] / 255, -1, 0), atol=1e-6)


@pytest.mark.parametrize("size", [np.int64(8), (np.int64(8), np.int32(8)), [8, 8]])
def test_a_size_may_be_any_whole_number(size):
    assert whence.Preprocess(size=size).resized(20, 30) == (8, 8)
    assert hash(whence.Preprocess(size=size)) is not None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"std": float("nan")}, "finite"),
        ({"mean": (0.1, float("inf"), 0.2)}, "finite"),
        ({"range": (0.0, float("nan"))}, "finite"),
        ({"size": 2.5}, "whole numbers"),
        ({"crop": (3, 4, 5)}, "height, width"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(fields, words):
    with pytest.raises(BadInput, match=words):
        whence.Preprocess(**fields)
