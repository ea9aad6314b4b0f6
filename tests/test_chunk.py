# ruff: noqa: E402 (what needs PyTorch is imported after the check for it)
import gc
import threading
import weakref
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode

import whence
from whence import chunk
from whence.chunk import Chunks, chunks_for
from whence.errors import BadInput, WorkFailed

F64 = torch.float64


class Full(Exception):
    """No memory, in a pretended framework."""


class Framework:
    """As much of a backend as the search needs."""

    def __init__(self):
        self.waited = 0

    def is_out_of_memory(self, problem):
        return isinstance(problem, Full)

    def synchronize(self, array):
        self.waited += 1


def visited(chunks, total, room=None):
    """Return the (start, stop) that were worked off, with room for so many rows."""
    done = []

    def work(start, stop):
        if room is not None and stop - start > room:
            raise Full
        done.append((start, stop))

    chunks.run(Framework(), total, work)
    return done


def assert_all_rows_once(done, total):
    assert np.array_equal(np.concatenate([np.arange(*each) for each in done]), np.arange(total))


# ---- the search --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 2, 7, 8, 9, 100, 5000])
@pytest.mark.parametrize("fixed", [None, 1, 3, 64, 10_000])
def test_every_row_is_worked_off_once_and_in_order(fixed, total):
    assert_all_rows_once(visited(Chunks(fixed=fixed), total), total)


@pytest.mark.parametrize("fixed", [1, 3, 64])
def test_a_fixed_size_is_kept(fixed):
    done = visited(Chunks(fixed=fixed), 200)
    assert {stop - start for start, stop in done[:-1]} == {fixed}


def test_no_rows_are_no_work():
    assert visited(Chunks(), 0) == []


def test_sizes_stay_below_the_largest():
    chunks = Chunks()
    done = [each for _ in range(20) for each in visited(chunks, 50_000)]
    assert max(stop - start for start, stop in done) <= chunk.LARGEST


def test_the_search_grows_where_a_call_costs_the_same_whatever_its_rows(monkeypatch):
    clock = count()
    monkeypatch.setattr(chunk, "time", SimpleNamespace(perf_counter=lambda: next(clock) / 1000))
    chunks = Chunks()
    sizes = [stop - start for _ in range(30) for start, stop in visited(chunks, 5000)]
    assert max(sizes) >= 256, "a thousandth of a second a call: the more rows, the cheaper"


def test_the_search_stays_small_where_a_row_costs_the_same_whatever_the_chunk(monkeypatch):
    now = 0.0
    monkeypatch.setattr(chunk, "time", SimpleNamespace(perf_counter=lambda: now))
    sizes = []

    def work(start, stop):
        nonlocal now
        now += 0.001 * (stop - start)
        sizes.append(stop - start)

    chunks = Chunks()
    for _ in range(30):
        chunks.run(Framework(), 5000, work)
    assert max(sizes[-20:]) <= 64


def test_the_device_has_finished_before_the_clock_is_read():
    framework = Framework()
    Chunks().run(framework, 500, lambda start, stop: None)
    assert framework.waited > 0


# ---- out of memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 2, 3, 5, 31, 100])
@pytest.mark.parametrize("fixed", [None, 64])
def test_a_chunk_that_does_not_fit_is_halved_until_it_does(fixed, room):
    assert_all_rows_once(visited(Chunks(fixed=fixed), 300, room), 300)


def test_what_did_not_fit_is_not_tried_again():
    chunks, failures = Chunks(), 0

    def work(start, stop):
        nonlocal failures
        if stop - start > 5:
            failures += 1
            raise Full

    for _ in range(20):
        chunks.run(Framework(), 300, work)
    assert failures <= 4


def test_a_single_row_that_does_not_fit_is_said_in_one_line():
    with pytest.raises(WorkFailed, match="a single example does not fit") as caught:
        visited(Chunks(), 10, room=0)
    assert isinstance(caught.value.__cause__, Full) and "\n" not in str(caught.value)


def test_another_error_is_raised_at_once_and_as_it_is():
    calls = 0

    def work(start, stop):
        nonlocal calls
        calls += 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Chunks().run(Framework(), 10, work)
    assert calls == 1


# ---- what is remembered ------------------------------------------------------------------------------------


class Model:
    """Something that can be weakly referenced."""


def test_a_model_and_shape_share_one_search():
    model = Model()
    assert chunks_for(model, "a", None) is chunks_for(model, "a", None)
    assert chunks_for(model, "a", None) is not chunks_for(model, "b", None)
    assert chunks_for(model, "a", None) is not chunks_for(Model(), "a", None)


def test_a_fixed_size_leaves_no_trace_on_what_is_remembered():
    model = Model()
    remembered = chunks_for(model, "a", None)
    assert chunks_for(model, "a", 3).fixed == 3
    assert chunks_for(model, "a", None) is remembered and remembered.fixed is None


def test_the_memory_does_not_keep_a_model_alive():
    model = Model()
    chunks_for(model, "a", None)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None


def test_an_explained_model_is_not_kept_alive():
    net = torch.nn.Linear(3, 2)
    whence.explain(net, torch.ones(2, 3))
    seen = weakref.ref(net)
    del net
    gc.collect()
    assert seen() is None


def test_what_cannot_be_weakly_referenced_is_searched_anew():
    assert chunks_for(abs, "a", None) is not None


# ---- through explain ---------------------------------------------------------------------------------------

W = torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
X = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
METHODS = {
    "integrated_gradients": {"rtol": 0.05},
    "blur_integrated_gradients": {"steps": 20},
    "guided_integrated_gradients": {"steps": 9},
    "expected_gradients": {"baseline": X[:3], "samples": 12},
    "saliency": {},
    "sensitivity": {"step": 0.01},
    "smoothgrad": {"samples": 7},
    "vargrad": {"samples": 7},
}


def function(x):
    flat = x.flatten(1)
    return torch.relu(flat @ W).sum(1) + torch.tanh(flat).prod(1)


def inputs_of(method):
    return X.reshape(5, 2, 2) if method.startswith("blur") else X


def cramped(room, error):
    """Return the function on a machine with room for so many rows."""

    def model(x):
        if len(x) > room:
            raise error
        return function(x)

    return model


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"
        ),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
@pytest.mark.parametrize("room", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_little_memory_gives_the_same_answer(method, room, error):
    x, fields = inputs_of(method), METHODS[method]
    wanted = whence.explain(function, x, method, **fields)
    result = whence.explain(cramped(room, error), x, method, **fields)
    assert torch.allclose(result.values, wanted.values, rtol=1e-10, atol=1e-12)
    assert torch.equal(result.evaluations, wanted.evaluations)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("method", METHODS)
def test_the_answer_does_not_depend_on_the_chunk(method, size):
    x, fields = inputs_of(method), METHODS[method]
    wanted, result = (whence.explain(function, x, method, chunk=each, **fields) for each in (None, size))
    assert torch.allclose(result.values, wanted.values, rtol=1e-10, atol=1e-12)


def test_the_same_chunk_gives_the_same_bits():
    one, same = (whence.explain(function, X, chunk=3).values for _ in range(2))
    assert torch.equal(one, same)


def test_no_memory_for_one_row_is_work_that_failed():
    with pytest.raises(WorkFailed, match="a single example does not fit"):
        whence.explain(cramped(0, torch.OutOfMemoryError("CUDA out of memory")), X)


def test_no_forward_is_larger_than_the_chunk():
    largest = 0

    def watched(x):
        nonlocal largest
        largest = max(largest, len(x))
        return function(x)

    whence.explain(watched, X, steps=50, chunk=4)
    assert largest == 4


@pytest.mark.parametrize("size", [0, -1])
def test_a_chunk_has_at_least_one_row(size):
    with pytest.raises(BadInput, match="at least 1"):
        whence.explain(function, X, chunk=size)


def test_a_memory_error_in_the_users_shape_logic_is_still_an_error():
    def broken(x):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        whence.explain(broken, X)


class Exhausted(TorchDispatchMode):
    """Runs out of memory at the n-th operation that allocates any."""

    def __init__(self, at):
        super().__init__()
        self.left, self.happened = at, False

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        allocates = not operation.overloadpacket.__name__.endswith("_") and not operation.is_view
        self.left -= allocates
        if allocates and self.left == 0:
            self.happened = True
            raise torch.OutOfMemoryError("CUDA out of memory")
        return operation(*args, **(kwargs or {}))


def pair(a, b):
    return torch.stack([(torch.relu(a @ W) * torch.tanh(b)).sum(1), (a * a).sum(1) + b[:, 0]], 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 3},
        {"quadrature": "monte_carlo", "steps": 3},
        {"target": "all", "steps": 2},
        {"path": "guided", "steps": 2},
        {"quadrature": "taylor"},
        {"method": "sensitivity", "step": 0.1},
    ],
    ids=["fixed", "monte carlo", "all classes", "guided", "taylor", "differences"],
)
def test_memory_may_run_out_at_any_operation_and_nothing_is_counted_twice(monkeypatch, fields):
    x, fields = (X[:2], X[2:4]), {"target": 0, **fields}
    wanted = whence.explain(pair, x, **fields)
    run = Chunks.run
    for at in range(1, 1000):
        mode = Exhausted(at)

        def watched(self, backend, total, work, mode=mode):
            def trial(start, stop):
                if stop - start == 1:
                    return work(start, stop)
                with mode:
                    return work(start, stop)

            run(self, backend, total, trial)

        monkeypatch.setattr(Chunks, "run", watched)
        result = whence.explain(lambda a, b: pair(a, b), x, **fields)  # noqa: PLW0108 (a new model: no size is known)
        if not mode.happened:
            break
        for one, two in zip(result.values, wanted.values, strict=True):
            assert torch.allclose(one, two, rtol=1e-10, atol=1e-12), f"at operation {at}"
    assert at > 20


def test_one_threads_layout_is_not_anothers():
    shared = chunk.Chunks(layouts=True)
    with shared.any_layout():
        shared._search("work")
        other = []
        thread = threading.Thread(target=lambda: other.append((shared._is_free, shared.channels_last)))
        thread.start()
        thread.join()
        assert shared._is_free and shared.channels_last is False
    assert other == [(False, None)] and not shared._is_free
