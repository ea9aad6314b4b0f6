"""TensorFlow: gradients against closed forms, models left as they were, every kind of model, few traces."""

import threading

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("keras")

import keras
import tensorflow as tf

import whence
from whence.backends import resolve, tensorflow_session
from whence.errors import BadInput, NoGradient, Refused

if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

L = keras.layers
X = np.random.default_rng(0).normal(size=(3, 6))


@pytest.fixture(autouse=True)
def forgotten():
    tensorflow_session._remembered.clear()


def net(dtype="float64", last=3):
    """Return a small functional model with named layers."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), dtype=dtype)
    hidden = L.Dense(8, activation="tanh", name="first", dtype=dtype)(x)
    hidden = L.Dense(5, activation="relu", name="second", dtype=dtype)(hidden)
    return keras.Model(x, L.Dense(last, name="out", dtype=dtype)(hidden))


def by_hand(model, x, target=0):
    """Return the gradient of one output by TensorFlow itself."""
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = model(inputs, training=False)[:, target]
    return tape.gradient(y, inputs).numpy()


def states(model):
    return [each.numpy().copy() for each in model.variables]


def unchanged(model, before):
    return all(np.array_equal(a, b.numpy()) for a, b in zip(before, model.variables, strict=True))


# ---- numbers -----------------------------------------------------------------------------------------------------


def test_gradient_is_tensorflows_own():
    model = net()
    found = whence.explain(model, X, "input_x_gradient", target=1)
    assert np.allclose(found.values, by_hand(model, X, 1) * X, atol=1e-12)


def test_closed_form_of_a_function():
    weights = tf.constant([1.0, -2.0, 3.0], tf.float64)

    @tf.function
    def cubic(x):
        return tf.reduce_sum(weights * x**3, 1)

    x = tf.constant(np.random.default_rng(1).normal(size=(4, 3)))
    found = whence.explain(cubic, x, "integrated_gradients", steps=6)
    assert isinstance(found.values, tf.Tensor)
    assert np.allclose(found.values, weights * x**3, atol=1e-12)


def test_plain_function_runs_as_it_is_written():
    def odd(x):
        # No trace could follow this.
        return tf.reduce_sum(x * 2 if float(tf.reduce_sum(x)) > -1e9 else x, 1)

    found = whence.explain(odd, tf.constant(X), "integrated_gradients", steps=4)
    assert np.allclose(found.values, 2 * X)


def test_every_class_and_probabilities():
    model = net()
    each = whence.explain(model, X, "saliency", target="all").values
    assert np.allclose(each[:, 2], abs(by_hand(model, X, 2)), atol=1e-12)
    p = whence.explain(model, X, "integrated_gradients", target=whence.target.probability(1), rtol=1e-6)
    assert abs(p.residual).max() < 1e-6


def test_hessian():
    model = net()
    found = whence.explain(model, X, "integrated_gradients", target=0, quadrature="taylor")
    x = tf.constant(X)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = model(x, training=False)[:, 0]
        gradient = inner.gradient(y, x)
        along = tf.reduce_sum(gradient * X)
    bent = outer.gradient(along, x)
    assert np.allclose(found.values, x * (gradient - bent / 2), atol=1e-10)


def test_second_derivative_of_layer_norm_is_whole():
    # TensorFlow's variance stops the gradient of its mean, which is wrong from the second derivative on.
    x = keras.Input((6,), dtype="float64")
    model = keras.Model(x, L.Dense(2, dtype="float64")(L.LayerNormalization(dtype="float64")(x)))
    found = whence.explain(model, X, "integrated_gradients", target=0, quadrature="taylor").values
    step = 1e-5 * X
    slope = (by_hand(model, X + step) - by_hand(model, X - step)) / 2e-5
    assert np.allclose(found, X * (by_hand(model, X) - slope / 2), atol=1e-5)


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "kernel_shap"])
def test_narrow_types(policy, method):
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="float32"),
            L.Dense(8, activation="relu", dtype=policy),
            L.Dense(2, dtype=policy),
        ]
    )
    wide = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="relu"), L.Dense(2)])
    wide.set_weights([np.asarray(each, dtype=np.float32) for each in model.get_weights()])
    x = X.astype(np.float32)
    found = whence.explain(model, x, method, target=0).values
    assert np.allclose(found, whence.explain(wide, x, method, target=0).values, atol=0.1)


# ---- the model is left as it was ---------------------------------------------------------------------------------


class Drawing(keras.Model):
    """Leaves dropout on, and its batch norm in training."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = L.BatchNormalization(), L.Dropout(0.5)
        self.out = L.Dense(2)

    def call(self, x):
        return self.out(self.drop(self.norm(x, training=True), training=True))


def test_dropout_left_on_is_noted_and_the_state_stays():
    model = Drawing()
    model(X.astype(np.float32))
    before = states(model)
    found = whence.explain(model, X.astype(np.float32), "integrated_gradients", steps=4)
    assert any("not deterministic" in note for note in found.notes)
    assert unchanged(model, before)
    whence.explain(model, X.astype(np.float32), "deeplift")
    assert unchanged(model, before)


class Counting(keras.layers.Layer):
    """Counts its calls in a variable that only TensorFlow knows of."""

    def __init__(self):
        super().__init__()
        self.calls = tf.Variable(0.0)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


def test_variables_generators_and_attributes_stay():
    counting = Counting()
    model = keras.Sequential([keras.Input((6,)), L.Dense(4, activation="relu"), counting, L.Dense(2)])
    seen = [set(vars(layer)) for layer in model.layers]
    tf.random.set_seed(5)
    expected = (tf.random.uniform(()).numpy(), np.random.RandomState(3).uniform())
    tf.random.set_seed(5)
    np.random.seed(3)
    for method in ("integrated_gradients", "kernel_shap", "lrp"):
        whence.explain(model, X.astype(np.float32), method)
    assert (tf.random.uniform(()).numpy(), np.random.uniform()) == expected
    assert counting.calls.numpy() == 0
    assert [set(vars(layer)) for layer in model.layers] == seen


class Noisy(keras.layers.Layer):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def call(self, x):
        return x + self.draw()


@pytest.mark.parametrize("draw", [lambda: tf.random.normal(()), np.random.normal])
def test_numbers_drawn_by_other_means_are_noted(draw):
    model = keras.Sequential([keras.Input((6,)), L.Dense(4), Noisy(draw), L.Dense(2)])
    found = whence.explain(model, X.astype(np.float32), "integrated_gradients", steps=4)
    assert any("not deterministic" in note for note in found.notes)


def test_threads():
    model = net()
    direct = model(X, training=False).numpy()
    wanted = whence.explain(
        model, X, "integrated_gradients", steps=4, target=0, at=whence.layer("first")
    ).values
    tensorflow_session._remembered.clear()
    wrong = []

    def work(number):
        for method in ("integrated_gradients", "integrated_gradients"):
            at = whence.layer("first", input=bool(number % 2))
            found = whence.explain(model, X, method, steps=4, target=0, at=at).values
            if not number % 2 and not np.allclose(found, wanted):
                wrong.append("values")
            if not np.array_equal(model(X, training=False).numpy(), direct):
                wrong.append("outputs")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_changes_of_the_model_are_seen():
    model = keras.Sequential(
        [keras.Input((6,), dtype="float64"), L.Dense(3, activation="softmax", dtype="float64")]
    )
    whence.explain(model, X, "saliency", target=0)
    model.layers[-1].activation = keras.activations.linear
    found = whence.explain(model, X, "saliency", target=0).values
    assert np.allclose(found, abs(model.get_weights()[0][:, 0]))
    model.set_weights([2 * each for each in model.get_weights()])
    assert np.allclose(whence.explain(model, X, "saliency", target=0).values, 2 * found)


# ---- places inside -----------------------------------------------------------------------------------------------


def test_layers_and_their_inputs():
    model = net()
    hidden = model.get_layer("first")(X)

    def rest(z):
        return model.get_layer("out")(model.get_layer("second")(z))

    with tf.GradientTape() as tape:
        tape.watch(hidden)
        y = rest(hidden)[:, 0]
    wanted = abs(tape.gradient(y, hidden).numpy())
    at = whence.layer("first")
    assert np.allclose(whence.explain(model, X, "saliency", target=0, at=at).values, wanted, atol=1e-12)
    at = whence.layer("second", input=True)
    assert np.allclose(whence.explain(model, X, "saliency", target=0, at=at).values, wanted, atol=1e-12)
    found = whence.explain(model, X, "saliency", target=whence.target.neuron("first", 2)).values
    kernel = model.get_layer("first").get_weights()[0]
    assert np.allclose(found, abs((1 - hidden.numpy()[:, 2:3] ** 2) * kernel[:, 2]), atol=1e-12)


def test_calls_of_a_shared_layer():
    x = keras.Input((6,), dtype="float64")
    shared = L.Dense(6, activation="tanh", name="shared", dtype="float64")
    model = keras.Model(x, L.Dense(2, name="out", dtype="float64")(shared(shared(x))))
    kernel = model.get_layer("out").get_weights()[0]
    found = whence.explain(model, X, "saliency", target=0, at=whence.layer("shared", call=1)).values
    assert np.allclose(found, abs(np.broadcast_to(kernel[:, 0], (3, 6))))
    with pytest.raises(BadInput, match="does not run 3 times"):
        whence.explain(model, X, "saliency", at=whence.layer("shared", call=2))


def test_nested_layers_by_path_and_by_name():
    block = keras.Sequential(
        [keras.Input((6,)), L.Dense(5, name="inner"), L.Dense(4, name="last")], name="block"
    )
    x = keras.Input((6,))
    model = keras.Model(x, L.Dense(2)(keras.ops.relu(block(x))))
    for name in ("block/inner", "inner"):
        at = whence.layer(name)
        assert whence.explain(model, X.astype(np.float32), "saliency", at=at).values.shape == (3, 5)
    with pytest.raises(BadInput, match="did you mean"):
        whence.explain(model, X.astype(np.float32), "saliency", at=whence.layer("block/iner"))


def test_parameters():
    model = net()
    at = whence.parameters("out/kernel")
    found = whence.explain(model, X, "integrated_gradients", target=0, at=at, baseline=0.0, steps=4)
    hidden = model.get_layer("second")(model.get_layer("first")(X)).numpy()
    wanted = np.zeros((3, 5, 3))
    wanted[:, :, 0] = hidden * model.get_layer("out").get_weights()[0][:, 0]
    assert np.allclose(found.values, wanted, atol=1e-12)
    with pytest.raises(BadInput, match="did you mean"):
        whence.explain(model, X, "saliency", at=whence.parameters("out/kernal"))


# ---- kinds of models ---------------------------------------------------------------------------------------------


class Scaled(keras.Model):
    """Takes more than arrays."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def call(self, one, two=None, scale=1.0):
        return self.inner(one if two is None else one + two) * scale


def test_subclassed_models_take_what_their_call_takes():
    model = Scaled()
    with pytest.raises(BadInput, match="run the model once first"):
        whence.explain(model, X, "saliency")
    model(X)
    plain = whence.explain(model, X, "saliency", target=0).values
    assert np.allclose(
        whence.explain(model, X, "saliency", target=0, kwargs={"scale": 3.0}).values, 3 * plain
    )
    several = whence.explain(model, (X / 2, X / 2), "saliency", target=0).values
    assert np.allclose(several[1], plain)
    named = whence.explain(model, {"one": X / 2, "two": X / 2}, "saliency", target=0).values
    assert np.allclose(named["two"], plain)


def test_several_inputs_and_outputs():
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    both = L.Concatenate()([L.Dense(5)(a), b])
    heads = {"p": L.Dense(3)(both), "q": L.Dense(2)(both)}
    x, y = X.astype(np.float32), np.ones((3, 4), np.float32)
    model = keras.Model({"a": a, "b": b}, heads)
    found = whence.explain(model, {"a": x, "b": y}, "integrated_gradients", output="p", steps=4)
    assert found.values["b"].shape == (3, 4) and abs(found.residual).max() < 1e-5
    listed = keras.Model([a, b], [heads["p"], heads["q"], L.Dense(2)(a)])
    with pytest.raises(BadInput, match="returns 3 values"):
        whence.explain(listed, (x, y), "saliency")
    unused = whence.explain(listed, (x, y), "saliency", output=2)
    assert not unused.values[1].any() and any("does not use" in note for note in unused.notes)
    picked = whence.explain(
        listed, (x, y), "saliency", output=lambda out: out[0], target=lambda out: tf.reduce_sum(out**2, 1)
    )
    assert picked.values[0].shape == (3, 6)


def test_tokens_are_explained_at_their_embedding():
    tokens = keras.Input((5,), dtype="int32")
    pooled = L.GlobalAveragePooling1D()(L.Embedding(11, 4, name="words")(tokens))
    model = keras.Model(tokens, L.Dense(2)(pooled))
    words = np.random.default_rng(0).integers(0, 11, (3, 5))
    found = whence.explain(model, words, "integrated_gradients", steps=4, at=whence.layer("words"))
    assert found.values.shape == (3, 5, 4) and abs(found.residual).max() < 1e-6
    with pytest.raises(BadInput, match="embedding"):
        whence.explain(model, words, "saliency")


class Owned(tf.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = tf.Variable(weights)

    @tf.function(input_signature=[tf.TensorSpec((None, 6), tf.float32)])
    def __call__(self, x):
        return tf.tanh(x @ self.weights)


def test_functions_modules_and_saved_models(tmp_path):
    weights = np.random.default_rng(2).normal(size=(6, 2)).astype(np.float32)
    x = X.astype(np.float32)
    module = Owned(weights)
    wanted = abs((1 - np.tanh(x @ weights)[:, :1] ** 2) * weights[:, 0])
    tf.saved_model.save(module, str(tmp_path / "module"))
    loaded = tf.saved_model.load(str(tmp_path / "module"))
    for model in (module, loaded, module.__call__.get_concrete_function()):
        assert np.allclose(whence.explain(model, x, "saliency", target=0).values, wanted, atol=1e-6)
    keras_model = net("float32")
    keras_model.export(str(tmp_path / "exported"), verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    rules = whence.explain(exported, x, "lrp", target=0).values
    assert np.allclose(rules, whence.explain(keras_model, x, "lrp", target=0).values, atol=1e-6)
    signature = exported.signatures["serving_default"]
    assert whence.explain(signature, x, "saliency").values.shape == (3, 6)
    with pytest.raises(Refused, match="Keras model it was made from"):
        whence.explain(exported, x, "saliency", at=whence.layer("first"))


class Branching(keras.Model):
    """Looks at its input in Python, which no trace can follow."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def call(self, x):
        return self.inner(x) if float(tf.reduce_sum(x)) > -1e9 else x


def test_what_cannot_be_traced_runs_by_operations():
    model = Branching()
    model(X)
    found = whence.explain(model, X, "input_x_gradient", target=1)
    assert np.allclose(found.values, by_hand(model.inner, X, 1) * X, atol=1e-12)
    assert any("cannot be traced" in note for note in whence.explain(model, X, "saliency").notes)


class Cut(keras.layers.Layer):
    def call(self, x):
        return tf.stop_gradient(x)


def test_cut_gradients_are_refused():
    model = keras.Sequential([keras.Input((6,)), Cut(), L.Dense(2)])
    with pytest.raises(NoGradient):
        whence.explain(model, X.astype(np.float32), "saliency")


def test_each_model_goes_to_its_backend():
    assert resolve(net(), X).name == "tensorflow"
    assert resolve(lambda x: x, tf.constant(X)).name == "tensorflow"
    assert resolve(lambda x: x, X).name == "callable"


# ---- traces and conversions --------------------------------------------------------------------------------------


class Traced(keras.layers.Layer):
    """Counts how often Python runs it."""

    count = 0

    def call(self, x):
        Traced.count += 1
        return 2 * x


@pytest.mark.parametrize("method", ["integrated_gradients", "kernel_shap", "smoothgrad", "deeplift", "lrp"])
def test_few_traces_and_none_when_warm(method):
    model = keras.Sequential([keras.Input((6,)), Traced(), L.Dense(4, activation="relu"), L.Dense(2)])
    Traced.count = 0
    whence.explain(model, X.astype(np.float32), method)
    assert Traced.count <= 3
    Traced.count = 0
    whence.explain(model, X[:2].astype(np.float32), method)
    assert Traced.count == 0


def test_no_array_is_converted_inside_a_loop(monkeypatch):
    model = keras.Sequential([keras.Input((400,)), L.Dense(8, activation="relu"), L.Dense(2)])
    x = tf.constant(np.random.default_rng(0).normal(size=(4, 400)).astype(np.float32))
    original, sizes = type(x).numpy, []

    def watched(self):
        sizes.append(int(np.prod(self.shape)))
        return original(self)

    monkeypatch.setattr(type(x), "numpy", watched)
    counts = []
    for steps in (8, 80):
        sizes.clear()
        whence.explain(model, x, "integrated_gradients", steps=steps, chunk=16)
        counts.append(sum(size >= 400 for size in sizes))
    assert counts[0] == counts[1] <= 2


@pytest.mark.parametrize("rows", [1, 2, 3, 17])
@pytest.mark.parametrize("kind", [np.asarray, tf.constant])
def test_an_argument_with_a_row_for_each_example_goes_along(rows, kind):
    @tf.function
    def model(x, scale):
        return tf.tanh(x) * scale[:, None]

    scale = kind(np.arange(rows, dtype=float))
    result = whence.explain(
        model, tf.ones((rows, 4), tf.float64), "saliency", target=0, kwargs={"scale": scale}
    )
    expected = np.arange(rows) * (1 - np.tanh(1) ** 2)
    np.testing.assert_allclose(np.asarray(result.values)[:, 0], expected)
