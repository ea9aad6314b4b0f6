# ruff: noqa: E402 (PyTorch is imported after the check for it)
"""What a critic found where the model is run: state that leaked, arguments taken for rows, seeds, raw errors."""

import collections
import io
import random
import threading
import types
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image
from torch import nn

import whence
from whence import caption, strip, view
from whence.attribution import Attribution
from whence.backends.torch_copy import structural_copy
from whence.backends.torch_reach import reached

# ---- the model's own state -------------------------------------------------------------------------------------


class Counter:
    def __init__(self, start=0):
        self.n = start
        self.seen = []

    def count(self):
        self.n += 1
        self.seen.append(self.n)


class Slotted:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 0


class NamedList(list):
    pass


class Keeps(nn.Module):
    """Writes, in its forward pass, to an attribute of one kind; answers with twice its input's sum."""

    def __init__(self, state, write, read):
        super().__init__()
        self.state, self._write, self._read = state, write, read
        self.line = nn.Linear(3, 1)

    def forward(self, x):
        self._write(self)
        return self.line(x)[:, 0]


def bump_attribute(model):
    model.state.n += 1


def draw_torch(model):
    torch.rand(2, generator=model.state)


KINDS = {
    "tensor": (lambda: torch.zeros(1), lambda m: m.state.add_(1), lambda m: m.state.tolist()),
    "tensor in a list": (lambda: [torch.zeros(1)], lambda m: m.state[0].add_(1), lambda m: m.state[0].tolist()),
    "array": (lambda: np.zeros(2), lambda m: m.state.__iadd__(1), lambda m: m.state.tolist()),
    "deque": (
        lambda: collections.deque([1], maxlen=4),
        lambda m: m.state.append(2),
        lambda m: (list(m.state), m.state.maxlen),
    ),
    "counter": (collections.Counter, lambda m: m.state.update("a"), lambda m: dict(m.state)),
    "bytearray": (bytearray, lambda m: m.state.append(1), lambda m: bytes(m.state)),
    "object": (Counter, lambda m: m.state.count(), lambda m: (m.state.n, list(m.state.seen))),
    "method of an object": (
        lambda: Counter().count,
        lambda m: m.state(),
        lambda m: (m.state.__self__.n, list(m.state.__self__.seen)),
    ),
    "object in a dict": (
        lambda: {"x": {"y": Counter()}},
        lambda m: m.state["x"]["y"].count(),
        lambda m: m.state["x"]["y"].n,
    ),
    "slots": (Slotted, bump_attribute, lambda m: m.state.n),
    "namespace": (lambda: types.SimpleNamespace(n=0), bump_attribute, lambda m: m.state.n),
    "own kind of list": (lambda: NamedList([1]), lambda m: m.state.append(1), lambda m: list(m.state)),
    "torch generator": (torch.Generator, draw_torch, lambda m: m.state.get_state().tolist()),
    "numpy generator": (
        lambda: np.random.default_rng(0),
        lambda m: m.state.random(),
        lambda m: str(m.state.bit_generator.state),
    ),
    "random generator": (lambda: random.Random(0), lambda m: m.state.random(), lambda m: m.state.getstate()),
}  # fmt: skip


@pytest.mark.parametrize("locked", [False, True], ids=["copied", "under a lock"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_forward_pass_writes_into_its_own_attributes_does_not_stay(kind, locked):
    make, write, read = KINDS[kind]
    model = Keeps(make(), write, read)
    if locked:
        model.line.register_forward_hook(lambda module, inputs, output: output + 0 * model.line.bias)
    before, state = read(model), model.state
    result = whence.explain(model, torch.ones(3, 3), steps=4, chunk=2)
    assert read(model) == before
    assert model.state is state
    assert any("under a lock" in note for note in result.notes) == locked
    assert len(result.notes) == locked
    write(model)
    assert read(model) != before, "the check must see what the forward pass writes"


def test_what_cannot_be_copied_is_shared_with_a_note_that_names_it():
    model = nn.Sequential(nn.Linear(3, 1))
    model.stream = (i for i in range(9))
    notes = whence.explain(model, torch.ones(2, 3), steps=2).notes
    assert len(notes) == 1
    assert "generator" in notes[0] and "cannot be copied" in notes[0]


def test_a_copy_keeps_the_identities_its_parts_rely_on():
    class Wired(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(3, 2)
            self.register_buffer("memory", torch.zeros(2, 3))
            self.slot = self.memory[1]
            self.one = self.other = Counter()
            self.key = Counter()
            self.table = {self.key: 1.0}
            self.parent = weakref.ref(self)
            self.first = self.second = []
            taken = self.taken = []
            self.line.register_forward_hook(lambda module, inputs, output: taken.append(output))

    model = Wired()
    copy = structural_copy(model, reached(model))
    assert copy.one is copy.other and copy.one is not model.one
    assert copy.first is copy.second and copy.first is not model.first
    assert copy.table[copy.key] == 1.0 and copy.key is not model.key
    assert copy.parent() is copy
    copy.memory += 1
    assert copy.slot.tolist() == [1.0] * 3 and model.slot.tolist() == [0.0] * 3
    # The hook's closure holds this very list: a copy of it would never be filled.
    assert copy.taken is model.taken


MISSING = type("Missing", (), {})()


def test_a_marker_that_is_compared_by_identity_stays_itself():
    model = nn.Linear(3, 1)
    model.marker = MISSING
    assert structural_copy(model, reached(model)).marker is MISSING


def test_a_long_chain_of_objects_is_no_recursion_error():
    model = nn.Sequential(nn.Linear(3, 1))
    model.chain = None
    for _ in range(5000):
        model.chain = types.SimpleNamespace(rest=model.chain)
    notes = whence.explain(model, torch.ones(1, 3), steps=2).notes
    assert any("under a lock" in note for note in notes)


def test_a_callable_object_with_state_is_left_as_it_was():
    class Scorer:
        def __init__(self):
            self.net, self.calls = nn.BatchNorm1d(3), Counter()

        def __call__(self, x):
            self.calls.count()
            return self.net(x).sum(1)

    model = Scorer()
    mean = model.net.running_mean.clone()
    assert whence.explain(model, torch.randn(4, 3), steps=3).notes == []
    assert model.calls.n == 0 and model.net.training and torch.equal(model.net.running_mean, mean)


# ---- further arguments -----------------------------------------------------------------------------------------


def scaled(x, scale):
    return (x * scale).sum(1)


def scaled_rows(x, scale):
    return (x * scale[:, None]).sum(1)


def gated(x, scale, rows):
    return (x * scale * rows[:, None]).sum(1)


def joined(x, more):
    if isinstance(x, np.ndarray):
        return np.concatenate([x, more], 1).sum(1)
    return torch.cat([x, more], 1).sum(1)


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_an_argument_as_long_as_the_batch_is_not_always_one_row_an_example(chunk, batch):
    x = torch.arange(batch * 3.0).reshape(batch, 3) + 1
    scale = torch.tensor([1.0, 2.0, 3.0])
    result = whence.explain(scaled, x, kwargs={"scale": scale}, steps=4, chunk=chunk)
    assert torch.allclose(result.values, x * scale, atol=1e-5)
    assert result.notes == []
    narrow = torch.ones(batch, batch)
    weights = torch.arange(batch) + 1.0
    result = whence.explain(scaled, narrow, kwargs={"scale": weights}, steps=4, chunk=chunk)
    assert torch.allclose(result.values, weights.expand(batch, batch), atol=1e-5)
    result = whence.explain(scaled_rows, narrow, kwargs={"scale": weights}, steps=4, chunk=chunk)
    assert torch.allclose(result.values, weights[:, None].expand(batch, batch), atol=1e-5)
    both = {"scale": weights, "rows": weights + 1}
    result = whence.explain(gated, narrow, kwargs=both, steps=4, chunk=chunk)
    assert torch.allclose(result.values, weights * (weights + 1)[:, None], atol=1e-5)
    result = whence.explain(joined, narrow, kwargs={"more": torch.ones(batch, 2)}, steps=4, chunk=chunk)
    assert torch.allclose(result.values, narrow, atol=1e-5)
    assert result.notes == []


@pytest.mark.parametrize("batch", [1, 3])
def test_one_number_is_passed_on_as_it_is(batch):
    x = torch.ones(batch, 4)
    result = whence.explain(scaled, x, kwargs={"scale": torch.tensor([2.0])}, steps=6, chunk=6)
    assert torch.allclose(result.values, 2 * x, atol=1e-5)


def test_arguments_of_a_black_box_are_read_alike():
    x, scale = np.ones((3, 3)), np.array([1.0, 2.0, 3.0])
    result = whence.explain(scaled, x, "sensitivity", kwargs={"scale": scale}, chunk=2)
    assert np.allclose(result.values, np.tile(scale**2, (3, 1)), rtol=1e-3)
    result = whence.explain(joined, x, "sensitivity", kwargs={"more": np.ones((3, 1))}, chunk=2)
    assert np.allclose(result.values, 1.0, rtol=1e-3)


def test_an_argument_that_fits_neither_way_is_one_clear_sentence():
    def fixed(x, table):
        assert len(x) == len(table) == 3
        return (x * table).sum(1)

    with pytest.raises(whence.BadInput, match=r"argument 'table'.*one example at a time"):
        whence.explain(fixed, torch.ones(3, 2), kwargs={"table": torch.ones(3, 2)}, chunk=2)


def test_a_guess_about_an_argument_is_said():
    def mixing(x, scale):
        return (x * scale).sum(1) + 10 * x.shape[0]

    with_note = whence.explain(mixing, torch.ones(3, 3), kwargs={"scale": torch.ones(3)}, steps=2)
    assert any("'scale'" in note and "cannot be told" in note for note in with_note.notes)


# ---- raw errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk": 2.5}, "chunk is 2.5; it is a whole number"),
        ({"chunk": True}, "chunk is True"),
        ({"seed": 1.5}, "seed is 1.5; it is a whole number"),
        ({"seed": None}, "seed is None"),
        ({"kwargs": [1]}, r"kwargs is \[1\]; it is a dict"),
        ({"kwargs": {1: 2}}, "kwargs is"),
    ],
)
def test_options_of_the_wrong_kind_say_so(options, words):
    with pytest.raises(whence.BadInput, match=words):
        whence.explain(lambda x: x.sum(1), torch.ones(2, 2), **options)


def test_numbers_of_numpy_are_as_good():
    result = whence.explain(lambda x: x.sum(1), torch.ones(2, 2), seed=np.int64(1), chunk=np.int32(1))
    assert torch.allclose(result.values, torch.ones(2, 2))


@pytest.mark.parametrize("inputs", [torch.ones(2, 2), np.ones((2, 2))], ids=["torch", "numpy"])
def test_a_models_name_is_no_model(inputs):
    with pytest.raises(whence.BadInput, match="names are for the command line"):
        whence.explain("resnet", inputs)


@pytest.mark.parametrize("model", [3, [torch.nn.Linear(2, 2)]])
def test_what_cannot_be_called_is_no_model(model):
    with pytest.raises(whence.BadInput, match="cannot be called"):
        whence.explain(model, torch.ones(2, 2))


@pytest.mark.parametrize(
    "value", [np.array(3.0), np.ones(3), torch.tensor(3.0), np.float64(3.0), [np.array(1.0), 0.0]]
)
def test_methods_are_hashable_with_any_baseline(value):
    method = whence.IntegratedGradients(baseline=value)
    assert hash(method) == hash(whence.IntegratedGradients(baseline=value))
    assert method == whence.IntegratedGradients(baseline=value)


@pytest.mark.parametrize(
    "complex_input", [torch.ones(2, 2, dtype=torch.complex64), np.ones((2, 2), dtype=complex)]
)
def test_complex_inputs_are_not_called_whole_numbers(complex_input):
    with pytest.raises(whence.BadInput, match="complex") as caught:
        whence.explain(lambda x: abs(x).sum(1), complex_input, "saliency")
    assert "whole" not in str(caught.value)


# ---- random streams and threads --------------------------------------------------------------------------------


class Draws(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self._draw = draw

    def forward(self, x):
        return (x * self._draw(x)).sum(1)


SOURCES = {
    "torch": lambda x: torch.rand(x.shape),
    "numpy": lambda x: torch.from_numpy(np.random.rand(*x.shape)).float(),
    "python": lambda x: torch.tensor([[random.random() for _ in row] for row in x]),
    # Draws nothing at first.
    "late": lambda x: torch.rand(x.shape) if x.requires_grad else torch.ones(x.shape),
}


class Busily:
    """Another thread that explains and draws all the time."""

    def __enter__(self):
        self.over, self.numbers = threading.Event(), []
        self.thread = threading.Thread(target=self.work)
        self.thread.start()
        return self

    def work(self):
        while not self.over.is_set():
            whence.explain(Draws(SOURCES["torch"]), torch.ones(2, 3), steps=3, seed=1)

    def __exit__(self, *problem):
        self.over.set()
        self.thread.join()


def states():
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state(legacy=False))


@pytest.mark.parametrize("source", SOURCES)
def test_a_model_that_draws_gives_the_same_numbers_beside_another_thread(source):
    model, x = Draws(SOURCES[source]), torch.ones(2, 3)
    alone = whence.explain(model, x, steps=3, seed=5, chunk=2).values
    other = whence.explain(model, x, steps=3, seed=6, chunk=2).values
    assert not torch.equal(alone, other)
    with Busily():
        found = [whence.explain(model, x, steps=3, seed=5, chunk=2).values for _ in range(10)]
    assert all(torch.equal(each, alone) for each in found)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_a_model_that_draws_moves_nobodys_stream(source, beside):
    before = states()
    waiting = threading.Event()
    idle = threading.Thread(target=waiting.wait)
    if beside:
        idle.start()
    whence.explain(Draws(SOURCES[source]), torch.ones(2, 3), steps=3, seed=5, chunk=2)
    waiting.set()
    assert states() == before


def test_another_threads_numbers_are_its_own_and_are_not_given_back():
    torch.manual_seed(3)
    expected = [torch.rand(2).tolist() for _ in range(3)]
    torch.manual_seed(3)
    found, drawn = [], threading.Event()
    begun = threading.Event()

    def user():
        begun.wait(10)
        found.append(torch.rand(2).tolist())
        drawn.set()

    thread = threading.Thread(target=user)
    thread.start()
    calls = []

    def model(x):
        calls.append(None)
        if len(calls) == 3:
            # After the runs that show whether the model draws: no lock is held, and no stream stands in.
            begun.set()
            drawn.wait(10)
        return (x**2).sum(1)

    whence.explain(model, torch.ones(2, 3), steps=9, chunk=2, seed=0)
    thread.join()
    found += [torch.rand(2).tolist() for _ in range(2)]
    assert len(calls) > 3
    assert found == expected


def test_an_explanation_inside_a_model_has_a_stream_of_its_own():
    inner = Draws(SOURCES["torch"])

    def model(x):
        shares = whence.explain(inner, torch.ones(1, 3), steps=2, seed=7).values
        return (x * shares).sum(1)

    expected = whence.explain(inner, torch.ones(1, 3), steps=2, seed=7).values
    assert torch.allclose(whence.explain(model, torch.ones(2, 3), steps=2).values, expected.expand(2, 3))


# ---- places and options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [[1, 1], [1, -1], []])
def test_a_channel_named_twice_would_get_a_silent_zero(channels):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    with pytest.raises(whence.BadInput, match="channels"):
        whence.explain(model, torch.ones(2, 3), at=whence.layer("0", channels=channels))


def test_the_method_that_a_sampler_repeats_is_named_by_of():
    model, x = nn.Linear(3, 2), torch.ones(2, 3)
    found = whence.explain(model, x, "smoothgrad", of="sensitivity", samples=3, target=0)
    expected = whence.SmoothGrad(method=whence.Sensitivity(), samples=3)(model, x, target=0)
    assert torch.equal(found.values, expected.values)
    again = whence.explain(model, x, whence.SmoothGrad(samples=3), of=whence.Sensitivity(), target=0)
    assert torch.equal(again.values, expected.values)
    with pytest.raises(whence.BadInput, match="option of IntegratedGradients"):
        whence.explain(model, x, of="sensitivity")


# ---- pictures --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide():
    """A result on two pictures three times as wide as they are high."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    pixels = (np.random.default_rng(0).random((2, 100, 300, 3)) * 255).astype(np.uint8)
    return whence.explain(model, pixels, preprocess=whence.Preprocess(), target=1)


def blank_band(figure):
    """The longest run of rows without any ink, in inches."""
    pixels = np.asarray(Image.open(io.BytesIO(view.png(figure))).convert("L"))
    longest = run = 0
    for row in pixels:
        run = run + 1 if (row > 250).all() else 0
        longest = max(longest, run)
    return longest / 110


def test_figures_of_wide_pictures_have_no_blank_bands(wide):
    for drawn in (
        view.comparison_figure({f"method {k}": wide for k in range(7)}),
        view.development_figure([(f"epoch {k}", wide) for k in range(7)]),
    ):
        assert blank_band(drawn) <= 0.35
    assert blank_band(wide.plot()) <= 0.7


def test_an_overlay_file_says_what_it_shows_and_is_large_enough_to_see():
    picture = np.random.default_rng(0).integers(0, 255, (8, 8, 1), dtype=np.uint8)
    values = np.zeros((1, 8, 8, 1))
    values[0, 2, 3], values[0, 5, 5] = 1.0, -1.0
    given = dict(values=values, picture=picture[None], channel_axis=3, output=np.ones(1))
    result = Attribution(
        method="integrated_gradients", target=np.array([3]), settings={"baseline": "a black picture"}, **given
    )
    drawn = strip.captioned_overlay(result, picture)
    overlay = result.overlay()[0]
    side = drawn.shape[0] - drawn.shape[0] % 280
    assert drawn.shape[1] >= 2 * 280 and side == 280
    assert np.array_equal(drawn[5:280:35, 297::35][:8, :8], overlay)
    words = drawn[280:]
    assert (words.min(2) < 100).any(), "there are letters"
    red, _, blue = np.moveaxis(words.astype(int), 2, 0)
    assert (red - blue > 60).any() and (blue - red > 60).any(), "the legend shows both sides"
    positive = Attribution(
        method="saliency", target=np.array([3]), settings={}, **{**given, "values": np.abs(values)}
    )
    words = strip.captioned_overlay(positive, picture)[280:].astype(int)
    assert (words[..., 0] - words[..., 1] > 60).any(), "the legend is purple"
    nothing = Attribution(
        method="saliency", target=np.array([3]), settings={}, **{**given, "values": 0 * values}
    )
    words = strip.captioned_overlay(nothing, picture)[280:].astype(int)
    assert np.ptp(words, axis=2).max() < 30, "a map of zeros has no legend"


@pytest.mark.parametrize("shape", [(8, 8), (3, 60), (60, 3), (100, 100), (90, 1400), (600, 40)])
def test_the_strip_fits_pictures_of_every_shape(shape):
    result = Attribution(
        values=np.ones((1, *shape, 3)), method="blur_integrated_gradients", target=np.array([3]), output=np.ones(1),
        settings={"target_name": "a class with a very long name, " * 6, "baseline": "the blurred picture"},
        channel_axis=3,
    )  # fmt: skip
    drawn = strip.captioned_overlay(result, np.zeros((*shape, 3), dtype=np.uint8))
    assert drawn.dtype == np.uint8 and drawn.shape[1] >= strip.NARROWEST
    # No letter is cut off at the edges of the strip.
    assert (drawn[-3:] == 255).all() and (drawn[-60:, -2:] == 255).all()


def test_a_map_without_two_axes_names_the_way_out():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 2))
    pixels = np.zeros((1, 2, 2, 1), dtype=np.uint8)
    found = whence.explain(
        model, pixels, "saliency", at=whence.layer("1"), preprocess=whence.Preprocess(), target=0
    )
    with pytest.raises(whence.BadInput, match=r"height and a width.*\(5,\): plot\(\) draws it"):
        found.overlay()


def test_what_a_picture_is_compared_with_is_said_in_words():
    words = {
        None: "a black picture", 0.5: "the constant 0.5", "white": "a white picture", "mean": "its own mean colour",
        "blur": "the blurred picture", "boundary": "the nearest other class", (0.0, "white"): "2 baselines, averaged",
    }  # fmt: skip
    for given, expected in words.items():
        value = list(given) if isinstance(given, tuple) else given
        assert caption.baseline_text(whence.IntegratedGradients(baseline=value)) == expected, given
    one = whence.IntegratedGradients(baseline=np.zeros((1, 2, 2)))
    assert caption.baseline_text(one) == "the picture given"
