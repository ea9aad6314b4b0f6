"""JAX models of every kind: the same numbers as in closed form, one compilation for few shapes, nothing touched."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import weakref
from functools import partial

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name

import whence
from whence.errors import BadInput, Refused

RNG = np.random.default_rng(0)
PARAMETERS = {
    "hidden": {"kernel": RNG.normal(size=(6, 8)), "bias": RNG.normal(size=8)},
    "output": {"kernel": RNG.normal(size=(8, 3))},
}
ROWS = RNG.normal(size=(5, 6))


def network(parameters, x):
    hidden = jnp.tanh(x @ parameters["hidden"]["kernel"] + parameters["hidden"]["bias"])
    return checkpoint_name(hidden, "hidden") @ parameters["output"]["kernel"]


def gradient(x, column):
    """The closed form of the network's gradient."""
    slope = 1 - np.tanh(x @ PARAMETERS["hidden"]["kernel"] + PARAMETERS["hidden"]["bias"]) ** 2
    return (slope * PARAMETERS["output"]["kernel"][:, column]) @ PARAMETERS["hidden"]["kernel"].T


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(256, 16, rngs=rngs), nnx.Linear(16, 10, rngs=rngs)])

    def __call__(self, x):
        hidden = self.drop(nnx.relu(self.norm(self.conv(x)))).reshape(x.shape[0], -1)
        return self.layers[1](nnx.relu(self.layers[0](hidden)))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(linen.Conv(4, (3, 3))(x)))
        x = linen.Dropout(0.5, deterministic=not train)(x)
        return linen.Dense(10)(linen.max_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1))


class Equinox(equinox.Module):
    conv: equinox.nn.Conv2d
    norm: equinox.nn.LayerNorm
    drop: equinox.nn.Dropout
    mlp: equinox.nn.MLP

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.conv = equinox.nn.Conv2d(1, 4, 3, padding=1, key=one)
        self.norm = equinox.nn.LayerNorm(64)
        self.drop = equinox.nn.Dropout(0.5)
        self.mlp = equinox.nn.MLP(256, 10, 16, 1, key=two)

    def __call__(self, x):
        tokens = jax.vmap(self.norm)(jax.nn.relu(self.conv(x)).reshape(4, 64))
        return self.mlp(self.drop(tokens.reshape(-1)))


PICTURES = RNG.random((3, 8, 8, 1)).astype(np.float32)
FIRST = np.moveaxis(PICTURES, 3, 1)


def module(kind):
    """A model, its pictures, its convolution, its last dense layer, and the latter's weights."""
    if kind == "nnx":
        return Net(nnx.Rngs(0)), PICTURES, "conv", "layers.1", "layers.1.kernel"
    if kind == "equinox":
        model = jax.tree.map(
            lambda each: each.astype(jnp.float32) if equinox.is_inexact_array(each) else each,
            Equinox(jax.random.key(1)),
        )
        return model, FIRST, "conv", "mlp.layers.1", "mlp.layers.1.weight"
    model = Linen()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    found = model.bind(variables) if kind == "bound" else (model, variables)
    return found, PICTURES, "Conv_0", "Dense_0", "Dense_0.kernel"


KINDS = ("nnx", "linen", "bound", "equinox")


def answer(kind, model, x):
    if kind == "nnx":
        return nnx.view(model, deterministic=True, use_running_average=True)(x)
    if kind == "equinox":
        return jax.vmap(equinox.nn.inference_mode(model))(x)
    module, variables = model if kind == "linen" else model.unbind()
    return module.apply(variables, x)


@pytest.mark.parametrize("spelling", ["pair", "function", "partial", "jitted", "numpy arrays"])
def test_a_function_has_the_gradient_of_its_closed_form(spelling):
    models = {
        "pair": (network, PARAMETERS),
        "function": lambda x: network(PARAMETERS, x),
        "partial": partial(network, jax.tree.map(jnp.asarray, PARAMETERS)),
        "jitted": jax.jit(lambda x: network(PARAMETERS, x)),
        "numpy arrays": (network, jax.tree.map(jnp.asarray, PARAMETERS)),
    }
    x = ROWS if spelling == "numpy arrays" else jnp.asarray(ROWS)
    result = whence.explain(models[spelling], x, method="saliency", target=2)
    np.testing.assert_allclose(np.asarray(result.values), np.abs(gradient(ROWS, 2)), rtol=1e-12)
    assert isinstance(result.values, np.ndarray if spelling == "numpy arrays" else jax.Array)


def test_integrated_gradients_are_complete_and_equal_a_fine_sum():
    result = whence.explain(
        (network, PARAMETERS), jnp.asarray(ROWS), method="integrated_gradients", target=1, rtol=1e-6
    )
    nodes = (np.arange(4000) + 0.5) / 4000
    fine = np.mean([gradient(a * ROWS, 1) for a in nodes], axis=0) * ROWS
    np.testing.assert_allclose(np.asarray(result.values), fine, rtol=1e-5, atol=1e-8)
    assert np.abs(result.residual).max() < 1e-6


def test_the_versions_of_the_framework_are_told():
    result = whence.explain((network, PARAMETERS), jnp.asarray(ROWS), method="saliency", target=0)
    assert result.settings["versions"]["jax"] == jax.__version__
    assert "torch" not in result.settings["versions"]


def test_a_function_that_has_changed_is_seen_as_it_is_now():
    held = {"w": jnp.ones((6, 3))}

    def model(x):
        return jnp.sin(x) @ held["w"]

    before = whence.explain(model, jnp.asarray(ROWS), method="saliency", target=0).values
    held["w"] = 2 * held["w"]
    after = whence.explain(model, jnp.asarray(ROWS), method="saliency", target=0).values
    np.testing.assert_allclose(after, 2 * before)


@pytest.mark.parametrize(
    "method", ["integrated_gradients", "smoothgrad", "kernel_shap", "occlusion", "gradcam"]
)
def test_at_most_three_shapes_are_traced(method):
    traced = []

    def model(x):
        traced.append(x.shape)
        hidden = checkpoint_name(jnp.tanh(jnp.einsum("nhwc,cd->nhwd", x, jnp.ones((1, 4)))), "hidden")
        return hidden.mean((1, 2)) @ jnp.ones((4, 3))

    options = {"at": whence.layer("hidden")} if method == "gradcam" else {}
    whence.explain(model, jnp.asarray(RNG.random((20, 6, 6, 1))), method=method, **options)
    # At a layer, the model is traced with its names.
    assert len(set(traced)) <= 3
    assert len(traced) <= 3 * (2 if method == "gradcam" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_modules_are_explained_in_inference_mode(kind):
    model, pictures, *_ = module(kind)
    result = whence.explain(model, jnp.asarray(pictures), method="saliency", target=3)
    by_hand = jax.grad(lambda x: answer(kind, model, x)[:, 3].sum())(jnp.asarray(pictures))
    np.testing.assert_allclose(result.values, np.abs(by_hand), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.output, answer(kind, model, pictures)[:, 3], rtol=1e-5, atol=1e-6)


def leaves_of(kind, model):
    tree = nnx.state(model) if kind == "nnx" else model.unbind()[1] if kind == "bound" else model
    leaves = [each for each in jax.tree.leaves(tree) if isinstance(each, jax.Array)]
    return [
        np.asarray(jax.random.key_data(each) if jnp.issubdtype(each.dtype, jax.dtypes.prng_key) else each)
        for each in leaves
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_it_was(kind):
    model, pictures, *_ = module(kind)
    before = leaves_of(kind, model)
    known = str(nnx.graphdef(model)) if kind == "nnx" else str(model)
    for options in ({}, {"at": whence.layer(module(kind)[2])}, {"method": "gradcam"}):
        whence.explain(model, jnp.asarray(pictures), **options)
    assert (str(nnx.graphdef(model)) if kind == "nnx" else str(model)) == known
    for one, two in zip(before, leaves_of(kind, model), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_found_by_name_and_its_shares_are_complete(kind):
    model, pictures, conv, dense, _ = module(kind)
    for name in (conv, dense):
        result = whence.explain(
            model,
            jnp.asarray(pictures),
            method="integrated_gradients",
            at=whence.layer(name),
            rtol=1e-4,
            target=2,
        )
        assert np.abs(result.residual).max() < 1e-3 * max(1.0, float(np.abs(result.output).max()))
    # The last layer's own output is the answer: all of the share is the explained class's.
    values = np.asarray(result.values)
    assert np.abs(np.delete(values, 2, axis=1)).max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_layer_is_told_with_near_names(kind):
    model, pictures, conv, *_ = module(kind)
    with pytest.raises(BadInput, match=f"did you mean.*{conv}"):
        whence.explain(model, jnp.asarray(pictures), at=whence.layer(f"{conv}x"))
    with pytest.raises(BadInput, match="does not run 3 times"):
        whence.explain(model, jnp.asarray(pictures), at=whence.layer(conv, call=2))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_explained_by_name(kind):
    model, pictures, _, _, name = module(kind)
    result = whence.explain(
        model, jnp.asarray(pictures), method="saliency", at=whence.parameters(name), target=1
    )
    # Of the last layer's weights only those of the explained class matter.
    values = np.asarray(result.values)
    axis = 1 if kind == "equinox" else 2
    assert values.shape[0] == 3
    assert np.abs(np.delete(values, 1, axis)).max() == 0
    assert np.abs(np.take(values, 1, axis)).max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradcam_chooses_the_last_layer_in_space(kind):
    model, pictures, *_ = module(kind)
    result = whence.explain(model, jnp.asarray(pictures), method="gradcam")
    assert any("no layer was named" in note for note in result.notes)
    assert np.isfinite(np.asarray(result.values)).all()


def test_channels_of_a_layer_are_its_last_axis_in_flax_and_the_first_in_equinox():
    for kind, axis in (("nnx", 3), ("equinox", 1)):
        model, pictures, conv, *_ = module(kind)
        whole = whence.explain(
            model, jnp.asarray(pictures), method="saliency", at=whence.layer(conv), target=0
        )
        some = whence.explain(
            model, jnp.asarray(pictures), method="saliency", at=whence.layer(conv, channels=[2, 0]), target=0
        )
        np.testing.assert_allclose(some.values, np.take(whole.values, [2, 0], axis), rtol=1e-6)


def test_a_name_in_the_code_is_a_site():
    result = whence.explain(
        (network, PARAMETERS),
        jnp.asarray(ROWS),
        method="input_x_gradient",
        at=whence.layer("hidden"),
        target=0,
    )
    hidden = np.tanh(ROWS @ PARAMETERS["hidden"]["kernel"] + PARAMETERS["hidden"]["bias"])
    np.testing.assert_allclose(result.values, hidden * PARAMETERS["output"]["kernel"][:, 0], rtol=1e-12)


def test_the_steps_of_a_scan_are_calls():
    def model(x):
        def step(state, now):
            state = checkpoint_name(jnp.tanh(state + now), "state")
            return state, None

        return jax.lax.scan(step, jnp.zeros(x.shape[0]), x.T)[0]

    x = jnp.asarray(RNG.normal(size=(4, 3)))
    for call in range(3):
        result = whence.explain(model, x, method="saliency", at=whence.layer("state", call=call))
        assert result.values.shape == (4,) or result.values.shape == (4, 1)
    np.testing.assert_allclose(np.asarray(result.values).reshape(-1), 1.0)


def test_a_neuron_is_a_target():
    model, pictures, _, dense, _ = module("nnx")
    one = whence.explain(
        model, jnp.asarray(pictures), method="saliency", target=whence.target.neuron(dense, 4)
    )
    two = whence.explain(model, jnp.asarray(pictures), method="saliency", target=4)
    np.testing.assert_allclose(one.values, two.values, rtol=1e-6)


def test_what_looks_at_values_is_refused_with_advice_and_works_as_values():
    def model(x):
        return x.sum(1) if float(x.sum()) > 0 else 2 * x.sum(1)

    with pytest.raises(Refused, match=r"jnp\.where"):
        whence.explain(model, jnp.ones((2, 3)))
    result = whence.explain(model, jnp.ones((2, 3)), method="occlusion")
    np.testing.assert_allclose(result.values, 1.0)
    assert any("cannot be compiled" in note for note in result.notes)


def test_inputs_that_are_not_used_or_cut_off_are_noted():
    def model(a, b):
        return a.sum(1) + jax.lax.stop_gradient(b).sum(1)

    result = whence.explain(model, (jnp.ones((2, 3)), jnp.ones((2, 4))), method="saliency")
    np.testing.assert_array_equal(result.values[1], 0.0)
    assert any("cut inside the model" in note for note in result.notes)
    result = whence.explain(lambda a, b: a.sum(1), (jnp.ones((2, 3)), jnp.ones((2, 4))), method="saliency")
    assert any("does not use" in note for note in result.notes)
    # A gradient that happens to be 0 is no cut.
    result = whence.explain(lambda a: jax.nn.relu(a - 5).sum(1), jnp.ones((2, 3)), method="saliency")
    assert not result.notes


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_half_precision_keeps_its_type(kind):
    x = jnp.asarray(ROWS, kind)
    result = whence.explain(lambda x: jnp.tanh(x).sum(1), x, method="integrated_gradients", rtol=0.05)
    assert result.values.dtype == kind
    wide = whence.explain(lambda x: jnp.tanh(x).sum(1), x.astype(jnp.float32), method="integrated_gradients")
    np.testing.assert_allclose(
        np.asarray(result.values, np.float32),
        np.asarray(wide.values),
        atol=0.05 * float(jnp.abs(wide.values).max()),
    )


def test_several_outputs_and_named_inputs():
    def model(a, b):
        return {"sum": a.sum(1) + b.sum(1), "product": (a * b).sum(1)}

    given = {"a": jnp.asarray(ROWS), "b": jnp.asarray(2 * ROWS)}
    result = whence.explain(model, given, method="input_x_gradient", output="product")
    np.testing.assert_allclose(result.values["a"], 2 * ROWS**2, rtol=1e-12)
    with pytest.raises(BadInput, match="say which"):
        whence.explain(model, given)


def test_a_model_with_state_and_a_key():
    class Stateful(equinox.Module):
        norm: equinox.nn.BatchNorm

        def __call__(self, x, state, key):
            x, state = self.norm(x, state)
            return x + jax.random.normal(key, x.shape), state

    model, state = equinox.nn.make_with_state(
        lambda: Stateful(equinox.nn.BatchNorm(6, "batch", mode="batch"))
    )()
    result = whence.explain(
        (model, state),
        jnp.asarray(ROWS, jnp.float32),
        method="saliency",
        target=0,
        kwargs={"key": jax.random.key(3)},
    )
    assert np.count_nonzero(np.asarray(result.values)[0]) == 1


def test_linen_dropout_left_on_is_as_random_as_its_key():
    model, variables = module("linen")[0]
    kwargs = {"train": False, "rngs": {"dropout": jax.random.key(0)}}
    one, two = (
        whence.explain((model, variables), jnp.asarray(PICTURES), kwargs=kwargs).values for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)


def test_a_linen_module_without_variables_is_refused():
    with pytest.raises(BadInput, match="pair"):
        whence.explain(Linen(), jnp.asarray(PICTURES))


def test_two_threads_explain_one_model():
    model, pictures, conv, *_ = module("nnx")
    alone = whence.explain(model, jnp.asarray(pictures), target=0).values
    found = {}

    def work(number):
        at = whence.layer(conv) if number % 2 else None
        found[number] = whence.explain(model, jnp.asarray(pictures), target=0, at=at).values

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    np.testing.assert_allclose(found[0], alone, rtol=1e-6)
    np.testing.assert_allclose(found[1], found[3], rtol=1e-6)


def test_the_last_rows_of_a_padded_chunk_are_as_good_as_the_first():
    result = whence.explain(
        lambda x: jnp.tanh(x).sum(1), jnp.asarray(ROWS), method="integrated_gradients", rtol=0.05
    )
    np.testing.assert_allclose(result.values, np.tanh(ROWS), rtol=0.06, atol=0.02)


def test_results_depend_on_neither_chunk_nor_batch():
    whole = whence.explain((network, PARAMETERS), jnp.asarray(ROWS), target=0).values
    chunked = whence.explain((network, PARAMETERS), jnp.asarray(ROWS), target=0, chunk=3).values
    np.testing.assert_allclose(chunked, whole, rtol=1e-10)
    alone = whence.explain((network, PARAMETERS), jnp.asarray(ROWS[2:3]), target=0).values
    np.testing.assert_allclose(alone[0], whole[2], rtol=1e-10)


def test_nothing_becomes_numpy_inside_the_loop(monkeypatch):
    """Of a chunk's arrays only f and its slope, one number a row and class, leave the framework."""
    from whence.backends.jax import JaxOperations
    from whence.chunk import Chunks

    sizes, inside = [], []
    convert, run = JaxOperations.numpy, Chunks.run

    def numpy(self, array):
        if inside:
            sizes.append(int(np.prod(array.shape[1:])))
        return convert(self, array)

    def watched(self, *arguments, **options):
        inside.append(True)
        try:
            return run(self, *arguments, **options)
        finally:
            inside.pop()

    monkeypatch.setattr(JaxOperations, "numpy", numpy)
    monkeypatch.setattr(Chunks, "run", watched)
    x = jnp.asarray(RNG.random((16, 9, 9, 1)))
    for options in (
        {"quadrature": "gauss", "steps": 50},
        {},
        {"method": "smoothgrad"},
        {"method": "occlusion"},
    ):
        whence.explain(lambda x: jnp.tanh(x).mean((1, 2)) @ jnp.ones((1, 3)), x, target=0, **options)
    assert sizes
    assert max(sizes) <= 3


# ---- what a critic found ---------------------------------------------------------------------------------------------


def test_a_module_whose_settings_have_changed_is_seen_as_it_is_now():
    class Settings:
        scale = 1.0

    class Scaled(nnx.Module):
        def __init__(self):
            self.dense, self.settings = nnx.Linear(6, 3, rngs=nnx.Rngs(0)), Settings()

        def __call__(self, x):
            return self.dense(x) * self.settings.scale

    model, x = Scaled(), jnp.asarray(ROWS)
    before = whence.explain(model, x, method="saliency", target=0).values
    model.settings.scale = 10.0
    np.testing.assert_allclose(
        whence.explain(model, x, method="saliency", target=0).values, 10 * before, rtol=1e-6
    )


def test_another_custom_derivative_of_the_same_name_is_another_function():
    def made(factor):
        @jax.custom_vjp
        def function(x):
            return x * 1.0

        function.defvjp(lambda x: (function(x), None), lambda _, g: (g * factor,))
        return function

    held = [made(1.0)]

    def model(x):
        return held[0](x)

    for factor in (1.0, 5.0):
        held[0] = made(factor)
        result = whence.explain(model, jnp.ones((2, 3)), method="saliency", target=0)
        np.testing.assert_allclose(result.values[:, 0], factor)


@pytest.mark.parametrize("rows", [1, 2, 3, 16, 17])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_an_argument_with_a_row_for_each_example_goes_along(rows, kind):
    scale = kind(np.arange(rows, dtype=float))
    result = whence.explain(
        lambda x, scale: jnp.tanh(x) * scale[:, None],
        jnp.ones((rows, 4)), method="saliency", target=0, kwargs={"scale": scale},
    )  # fmt: skip
    np.testing.assert_allclose(result.values[:, 0], np.arange(rows) * (1 - np.tanh(1) ** 2))


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_deeplift_is_complete_for_any_number_of_rows_where_places_depend_on_values(rows):
    def model(x):
        return x * jnp.take_along_axis(x, jnp.argmax(x, 1)[:, None], 1)

    x = jnp.asarray(np.random.default_rng(5).normal(size=(16, 4)))
    method = whence.DeepLift(baseline=np.random.default_rng(6).normal(size=(1, 4)))
    result, alone = method(model, x[:rows], target=1), method(model, x[:1], target=1)
    assert np.abs(result.residual).max() < 1e-12
    assert not result.notes
    np.testing.assert_allclose(result.values[0], alone.values[0], rtol=1e-10, atol=1e-14)


class Doubled(equinox.Module):
    def __call__(self, x):
        return x * 2


def test_a_static_part_of_an_equinox_module_is_left_as_it_is():
    class Model(equinox.Module):
        dense: equinox.nn.Linear
        part: Doubled = equinox.field(static=True)

        def __call__(self, x):
            return self.dense(self.part(x))

    model = Model(equinox.nn.Linear(6, 3, key=jax.random.key(0)), Doubled())
    whence.explain(model, jnp.asarray(ROWS), at=whence.layer("dense"), target=0)
    assert type(model.part) is Doubled


def test_the_stacked_blocks_of_an_equinox_module_are_calls_of_one_layer():
    class Model(equinox.Module):
        blocks: equinox.Module
        output: equinox.nn.Linear

        def __call__(self, x):
            arrays, static = equinox.partition(self.blocks, equinox.is_array)

            def step(hidden, part):
                return jnp.tanh(equinox.combine(part, static)(hidden)), None

            return self.output(jax.lax.scan(step, x, arrays)[0])

    keys = jax.random.split(jax.random.key(0), 3)
    blocks = equinox.filter_vmap(lambda key: equinox.nn.Linear(6, 6, key=key))(keys)
    model = Model(blocks, equinox.nn.Linear(6, 3, key=keys[0]))
    for site in (
        whence.layer("output", input=True),
        *(whence.layer("blocks", call=call) for call in range(3)),
    ):
        result = whence.explain(model, jnp.asarray(ROWS), at=site, target=0, rtol=1e-3)
        assert result.values.shape == (5, 6)
        assert np.abs(result.residual).max() < 1e-2


def test_equinox_inputs_may_be_given_by_name():
    class Product(equinox.Module):
        def __call__(self, a, b):
            return a * b

    x = jnp.asarray(ROWS)
    result = whence.explain(Product(), {"a": x, "b": 2 * x}, method="saliency", target=0)
    np.testing.assert_allclose(result.values["a"][:, 0], np.abs(2 * ROWS[:, 0]))


def test_weights_that_a_compiled_function_holds_are_freed_with_it():
    seen = []
    for number in range(5):
        weight = jnp.full((6, 3), float(number))
        seen.append(weakref.ref(weight))
        model = jax.jit(lambda x, weight=weight: jnp.tanh(x @ weight))
        whence.explain(model, jnp.asarray(ROWS), method="saliency", target=0)
        del weight, model
    jax.clear_caches()
    gc.collect()
    assert not any(each() is not None for each in seen)


def test_jax_alone_suffices():
    code = """
        import sys
        for name in ("torch", "tensorflow", "keras", "onnx", "onnxruntime", "flax", "equinox"):
            sys.modules[name] = None
        import jax.numpy as jnp, whence
        x = jnp.ones((2, 6, 6, 1))
        model = lambda x: jnp.maximum(x - 0.5, 0).mean((1, 2)) @ jnp.ones((1, 3))
        for method in ("saliency", "integrated_gradients", "smoothgrad", "kernel_shap", "occlusion", "deeplift", "lrp",
                       "guided_backprop"):
            print(method, float(jnp.abs(whence.explain(model, x, method=method).values).sum()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\n") == 8


def test_whole_numbers_are_refused_with_advice():
    with pytest.raises(BadInput, match="whole numbers"):
        whence.explain(lambda x: jnp.tanh(x).sum(1), jnp.ones((2, 3), jnp.int32))
