# ruff: noqa: E402 (what needs JAX is imported after the check for it)
"""The engine of rules on programs: what it recognises, what it refuses, what it remembers."""

import gc
import threading
import weakref

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax import lax

import whence
from whence import Refused, composite
from whence.backends import jax_program
from whence.backends.jax_program import ruled
from whence.rule import Rules

W = np.random.default_rng(0).standard_normal((6, 6))
X = jnp.asarray(np.random.default_rng(1).standard_normal((3, 6)))
REFERENCE = jnp.asarray(np.random.default_rng(2).standard_normal((3, 6)))
RESCALE, GRADIENT = Rules("rescale"), Rules("gradient")


def total(function):
    return lambda leaves: (function(leaves[0] @ W) @ W).sum(-1)


def families(function, rules=GRADIENT):
    """Return the operations between two layers, from the input to the output, with their families."""
    with ruled(None, total(function), (X,), rules) as answer:
        return [(met.operation, met.family) for met in answer.met][::-1][1:-2]


def multipliers(function, reference=REFERENCE, rules=RESCALE):
    with ruled(None, total(function), (X,), rules) as answer:
        y = answer.value
        y0 = answer.against(total(function), (reference,))
        (m,) = answer.pull(None, False)
        return m, y - y0, answer.notes


def assert_complete(function, reference=REFERENCE):
    m, change, notes = multipliers(function, reference)
    shares = m * (X - reference)
    assert np.abs(shares.sum(1) - change).max() <= 1e-12 * np.abs(shares).sum(1).max()
    assert notes == []


def centred(z):
    return z - z.mean(-1, keepdims=True)


def norm(z, epsilon=1e-5):
    return (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + epsilon)


# ---- what is recognised ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [
    jax.nn.relu, lambda z: jnp.maximum(z, 0), lambda z: jnp.where(z > 0, z, 0), lambda z: z * (z > 0),
    lambda z: jnp.where(z <= 0, 0.0, z), lambda z: jnp.clip(z, 0), lambda z: lax.max(z, jnp.zeros_like(z)),
    jax.jit(jax.nn.relu), jax.checkpoint(jax.nn.relu), jax.vmap(jax.nn.relu),
    jax.vmap(jax.vmap(lambda z: jnp.maximum(z, 0))),
])  # fmt: skip
def test_a_relu_is_seen_however_it_is_spelt(spelling):
    assert [family for _, family in families(spelling) if family != "move"] == ["relu"]


@pytest.mark.parametrize("function, family", [
    (norm, "norm"), (lambda z: norm(z) * W[0] + W[1], "norm"), (jax.vmap(norm), "norm"), (jax.nn.standardize, "norm"),
    (lambda z: centred(z) * lax.rsqrt((centred(z) ** 2).mean(-1, keepdims=True) + 1e-6), "norm"),
    (lambda z: norm(z.reshape(3, 2, 3)).reshape(3, 6), "norm"),
    (jax.nn.softmax, "softmax"), (jax.vmap(jax.nn.softmax), "softmax"), (jax.jit(jax.nn.softmax), "softmax"),
    (lambda z: jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True), "softmax"),
    (jax.nn.log_softmax, "log_softmax"), (lambda z: z - jax.nn.logsumexp(z, -1, keepdims=True), "log_softmax"),
    (lambda z: jax.nn.logsumexp(z, -1, keepdims=True) + jnp.zeros(6), "logsumexp"),
    (jax.nn.gelu, "activation"), (lambda z: jax.nn.gelu(z, approximate=False), "activation"),
    (jax.nn.silu, "activation"), (jax.nn.softplus, "activation"), (jax.nn.mish, "activation"),
])  # fmt: skip
def test_what_is_written_out_is_taken_whole(function, family):
    found = [each for _, each in families(function) if each not in ("move", "sum")]
    assert found == [family]
    assert_complete(function)


@pytest.mark.parametrize("function", [
    lambda z: (z - z.mean(-1, keepdims=True)) / (z.std(-1, keepdims=True) + 0.1),
    lambda z: z * lax.rsqrt((z * z).mean(-1, keepdims=True) + 1e-5),
    lambda z: (z - z.mean(-1, keepdims=True)) / jnp.sqrt((z * z).mean(-1, keepdims=True) + 1e-5),
    lambda z: (z - z[:, :3].mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-5),
    lambda z: jnp.exp(z) / (1 + jnp.exp(z).sum(-1, keepdims=True)),
    lambda z: z * (1 + jnp.tanh(0.7 * (z + 0.05 * z**3))) / 2,
    lambda z: z * (z > 0.1),
    lambda z: z * jax.nn.sigmoid(z),
])  # fmt: skip
def test_what_only_looks_like_it_stays_apart_and_complete(function):
    found = families(function)
    assert not {family for _, family in found} & {"norm", "softmax", "relu"}
    assert ("gelu", "activation") not in found
    assert_complete(function)


def test_a_bias_and_a_batch_norm_belong_to_their_layer():
    def function(z):
        z = z @ W + W[0]
        return (z - W[1]) * (lax.rsqrt(jnp.exp(jnp.asarray(W[2])) + 1e-5) * W[3]) + W[4]

    assert families(function) == [("dot_general", "dense"), ("batch_norm", "scale")]
    # Whatever else uses the product, and what is no bias, stays apart.
    assert ("add", "sum") in families(lambda z: z @ W + np.ones((3, 6)) * np.arange(3.0)[:, None])


# ---- what a program may be made of -------------------------------------------------------------------------------


def looped(z):
    return lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c) * z, z)


def scanned(z):
    _, rows = lax.scan(lambda c, row: (jnp.tanh(c + row), c * row), z[:, 0], z.T, reverse=True)
    return rows.T


@jax.custom_jvp
def doubled(z):
    return jnp.sin(z)


doubled.defjvp(lambda values, ways: (jnp.sin(values[0]), 2 * ways[0]))


@jax.custom_vjp
def stepped(z):
    return jnp.round(z)


stepped.defvjp(lambda z: (jnp.round(z), None), lambda _, g: (g,))


@jax.custom_vjp
def mixed(z):
    return jnp.sin(z).sum(-1, keepdims=True) * z


mixed.defvjp(lambda z: (mixed(z), z), lambda z, g: (g * z,))


@pytest.mark.parametrize("function", [
    looped, scanned, jax.checkpoint(lambda z: jnp.tanh(z) * z), jax.jit(lambda z: jax.jit(jnp.tanh)(z) ** 2),
    lambda z: lax.cond(True, jnp.tanh, jnp.sin, z), lambda z: lax.cond(jnp.asarray(W[0, 0]) > 0, jnp.tanh, jnp.sin, z),
    lambda z: lax.stop_gradient(z) * z, lambda z: jnp.where(z > 0.3, jnp.sin(z), jnp.cos(z)),
    lambda z: jnp.take_along_axis(z, jnp.argsort(-z, -1), -1), lambda z: jnp.sort(z, -1),
    lambda z: lax.top_k(z, 6)[0], lambda z: z.at[:, 2].set(0.0).at[:, 1].add(z[:, 0] ** 2),
    lambda z: jnp.cumprod(z, -1),
    lambda z: jnp.pad(z, ((0, 0), (1, 0)))[:, :-1] ** 2, lambda z: jnp.linalg.norm(z, axis=-1, keepdims=True) * W[0],
    lambda z: z / (1 + z**2), lambda z: jnp.power(jnp.abs(z) + 1, z), lambda z: jnp.logaddexp(z, z[:, ::-1]),
    lambda z: z.max(-1, keepdims=True) * W[0], lambda z: jnp.einsum("ni,nj->nj", z, jnp.tanh(z)), stepped,
    lambda z: jnp.prod(z.reshape(3, 2, 3), 1).repeat(2, -1), lambda z: jax.nn.glu(jnp.concatenate([z, z[:, ::-1]], -1)),
    lambda z: jnp.median(z, -1, keepdims=True) * W[0], lambda z: jnp.clip(z, -0.5, 0.5), lambda z: jnp.round(z * 2),
])  # fmt: skip
def test_deeplift_is_complete(function):
    assert all(family is not None for _, family in families(function))
    assert_complete(function)


@pytest.mark.parametrize("function, name", [
    (lambda z: lax.while_loop(lambda c: c.sum() < 100, lambda c: c + c**2, z), "while"),
    (lambda z: lax.cond(z.sum() > 0, jnp.tanh, jnp.sin, z), "cond"),
    (mixed, "mixed"), (lambda z: jnp.linalg.inv(z[:, :3] @ z[:, :3].T + jnp.eye(3)) @ z, "custom_linear_solve"),
])  # fmt: skip
def test_what_is_unknown_is_refused_by_name(function, name):
    with pytest.raises(Refused, match=f"no rule knows the operation .*{name}") as problem:
        ruled(None, total(function), (X,), RESCALE)
    assert "on_unknown" in str(problem.value)
    if name == "while":
        return
    gradient = Rules("guided", on_unknown="gradient", required=False)
    with ruled(None, total(function), (X,), gradient) as answer:
        (passed,) = answer.pull(None, False)
        assert [note for note in answer.notes if name in note and "plain derivative" in note]
    expected = jax.grad(lambda x: total(function)((x,)).sum())(X)
    assert np.abs(passed - expected).max() <= 1e-12 * np.abs(expected).max()


def test_a_derivative_of_ones_own_is_passed_where_there_is_no_rule():
    for function in (doubled, stepped):
        assert [family for _, family in families(function)] == ["cell"]
        with ruled(None, total(function), (X,), GRADIENT) as answer:
            (passed,) = answer.pull(None, False)
        expected = jax.grad(lambda x, f=function: total(f)((x,)).sum())(X)
        assert np.abs(passed - expected).max() <= 1e-12 * np.abs(expected).max()


def test_places_name_the_line():
    with ruled(None, total(jnp.tanh), (X,), GRADIENT) as answer:
        places = [met.place for met in answer.met if met.operation == "tanh"]
    assert len(places) == 1 and "test_program_rules.py:" in places[0]


def test_an_output_that_does_not_depend_on_the_leaves():
    with ruled(None, lambda leaves: jnp.round(lax.stop_gradient(leaves[0])).sum(-1), (X,), RESCALE) as answer:
        assert not answer.connected
        assert answer.value.shape == (3,)
        assert answer.pull(None, False) == (None,)


def test_leaves_that_are_not_used_get_nothing():
    with ruled(None, lambda leaves: jnp.tanh(leaves[0]).sum(-1), (X, X), RESCALE) as answer:
        answer.against(lambda leaves: jnp.tanh(leaves[0]).sum(-1), (REFERENCE, REFERENCE))
        first, second = answer.pull(None, False)
    assert first.shape == X.shape and second is None


def test_weights_on_classes_share_one_run():
    function = lambda leaves: jnp.tanh(leaves[0] @ W) @ W  # noqa: E731
    with ruled(None, function, (X,), Rules("relevance", composite.resolve("epsilon"))) as answer:
        y = answer.value
        parts = [answer.pull(jnp.zeros_like(y).at[:, k].set(1.0), True)[0] for k in range(6)]
        (whole,) = answer.pull(None, False)
    assert np.abs(sum(parts) - whole).max() <= 1e-12 * np.abs(whole).max()


# ---- what is remembered ------------------------------------------------------------------------------------------


def deep(weights):
    return lambda leaves: jnp.tanh(jax.nn.relu(leaves[0] @ weights) @ weights).sum(-1)


def counted(monkeypatch):
    made = []
    recognised = jax_program.recognised
    monkeypatch.setattr(jax_program, "recognised", lambda *given: made.append(1) or recognised(*given))
    return made


def test_other_weights_and_inputs_use_what_was_compiled(monkeypatch):
    made = counted(monkeypatch)
    for seed in range(3):
        weights = jnp.asarray(np.random.default_rng(seed).standard_normal((6, 6)) + seed)
        with ruled(None, deep(weights), (X + seed,), RESCALE) as answer:
            answer.against(deep(weights), (REFERENCE,))
            (m,) = answer.pull(None, False)
        change = deep(weights)((X + seed,)) - deep(weights)((REFERENCE,))
        assert np.abs((m * (X + seed - REFERENCE)).sum(1) - change).max() <= 1e-12
    assert len(made) <= 1


def test_another_constant_of_the_program_is_another_program():
    found = []
    for slope in (1.0, 2.0):
        with ruled(None, lambda leaves, s=slope: (s * leaves[0] @ W).sum(-1), (X,), GRADIENT) as answer:
            found.append(answer.pull(None, False)[0])
    assert np.abs(found[1] - 2 * found[0]).max() <= 1e-12


def reversed_by(strength):
    @jax.custom_vjp
    def reverse(z):
        return z

    reverse.defvjp(lambda z: (z, None), lambda _, g: (-strength * g,))
    return reverse


def test_another_derivative_of_the_same_function_is_another_program():
    found = []
    for strength in (1.0, 2.0):
        with ruled(None, total(reversed_by(strength)), (X,), GRADIENT) as answer:
            found.append(answer.pull(None, False)[0])
    assert np.abs(found[1] - 2 * found[0]).max() <= 1e-12


def test_a_derivative_of_ones_own_is_compiled_once(monkeypatch):
    made = counted(monkeypatch)
    for _ in range(2):
        multipliers(lambda z: jax.nn.relu(stepped(z)) * doubled(z))
    assert len(made) <= 1


def test_no_weights_are_kept_alive():
    weights = jnp.asarray(W * 3)
    with ruled(None, deep(weights), (X,), Rules("guided")) as answer:
        answer.pull(None, False)
    gone = weakref.ref(weights)
    del weights, answer
    gc.collect()
    assert gone() is None


def test_the_memory_is_bounded():
    for width in range(70):
        with ruled(None, lambda leaves: jnp.tanh(leaves[0]).sum(-1), (jnp.ones((1, width + 1)),), GRADIENT):
            pass
    assert len(jax_program._programs._known) <= 64


def test_threads_do_not_disturb_each_other():
    expected = {scale: multipliers(lambda z, s=scale: jnp.tanh(s * z))[0] for scale in (1.0, 2.0, 3.0)}
    wrong = []

    def work(scale):
        for _ in range(3):
            found = multipliers(lambda z: jnp.tanh(scale * z))[0]
            if np.abs(found - expected[scale]).max() > 1e-12:
                wrong.append(scale)

    threads = [threading.Thread(target=work, args=(scale,)) for scale in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_row_stands_for_all():
    m, _, _ = multipliers(lambda z: norm(z) * jax.nn.softmax(z), REFERENCE)
    with ruled(None, total(lambda z: norm(z) * jax.nn.softmax(z)), (X,), RESCALE) as answer:
        y = answer.value
        y0 = answer.against(total(lambda z: norm(z) * jax.nn.softmax(z)), (REFERENCE[:1],))
        (one,) = answer.pull(None, False)
    assert np.abs((one * (X - REFERENCE[:1])).sum(1) - (y - y0)).max() <= 1e-12
    assert np.abs(one[0] - m[0]).max() <= 1e-12 * np.abs(m).max()


def test_coverage_is_a_table():
    found = whence.coverage(lambda x: jnp.tanh(jax.nn.relu(x @ W) @ W), X, "deeplift")
    assert found.complete
    assert {row.family for row in found.rows} >= {"dense", "relu", "activation"}
