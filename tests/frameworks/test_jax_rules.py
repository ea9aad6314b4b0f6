# ruff: noqa: E402 (what needs the frameworks is imported after the check for them)
"""The rules in JAX: the numbers of PyTorch's own engine, for the same networks and weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

from pairs import PAIRS, PICTURES, W1, W2, layer_norm, t

import whence
from whence import BadInput, Refused, composite

TOLERANCE = 1e-10
RELUS = ("relu", "maximum", "chosen", "masked", "relu6", "clip", "joined", "residual", "cnn", "strides")
LAYER_RULES = {
    "epsilon": composite.epsilon(),
    "epsilon-large": composite.epsilon(0.5),
    "gamma": composite.gamma(),
    "alpha2-beta1": composite.alpha_beta(),
    "z_plus": composite.z_plus(),
    "box": composite.box(-3.0, 4.0),
    "w_squared": composite.w_squared(),
    "flat": composite.flat(),
}
# What is whole in PyTorch and written out in JAX, or the other way round.
WRITTEN = {"softmax_written": "softmax", "cnn_at_once": "cnn"}


def both(pair, method, **fields):
    """Explain in PyTorch and in JAX."""
    return tuple(
        whence.explain(model, array, method, target=1, **{**fields, **own})
        for model, array, own in (
            (pair.in_torch, t(pair.x), _baseline(fields, pair, t)),
            (pair.in_jax, jax.numpy.asarray(pair.x), _baseline(fields, pair, jax.numpy.asarray)),
        )
    )


def _baseline(fields, pair, made):
    return {"baseline": made(pair.reference)} if fields.get("baseline") == "other" else {}


def assert_alike(one, two, tolerance=TOLERANCE):
    wanted, found = one.numpy(), two.numpy()
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1e-300)
    # Two runs of a recurrent layer of PyTorch may differ by rounding.
    assert [note for note in one.notes if "deterministic" not in note] == list(two.notes)


@pytest.mark.parametrize(
    "name, baseline",
    [
        *((name, "other") for name in PAIRS),
        *((name, 0.0) for name in ("layer_norm", "cnn", "lstm", "encoder")),
    ],
)
def test_deeplift_is_pytorchs(name, baseline):
    one, two = both(PAIRS[name], "deeplift", baseline=baseline)
    assert_alike(one, two)
    size = np.abs(two.numpy()).reshape(len(two.residual), -1).sum(1)
    assert (np.abs(two.residual) <= 1e-11 * size).all()
    assert two.converged.all()


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "variance"])
def test_lrp_is_pytorchs(name):
    assert_alike(*both(PAIRS[name], "lrp"))


@pytest.mark.parametrize("rule", LAYER_RULES)
@pytest.mark.parametrize(
    "name", ["relu", "gate", "layer_norm_affine", "cnn", "cnn_at_once", "strides", "excited"]
)
def test_layer_rules_are_pytorchs(name, rule):
    if name == "layer_norm_affine" and rule in ("flat", "w_squared"):
        pytest.skip("R/10⁻⁶ of what is nothing but rounding")
    one, two = both(PAIRS[name], "lrp", composite=LAYER_RULES[rule])
    assert_alike(one, two, 1e-8 if rule in ("flat", "w_squared") else TOLERANCE)


@pytest.mark.parametrize("name", composite.NAMED)
@pytest.mark.parametrize("network", ["cnn", "strides", "encoder", "lstm"])
def test_composites_are_pytorchs(network, name):
    assert_alike(*both(PAIRS[network], "lrp", composite=name))


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "flat"])
@pytest.mark.parametrize("network", ["cnn", "relu", "gate"])
def test_what_is_kept_is_pytorchs(network, rule):
    one, two = both(PAIRS[network], "lrp", composite=LAYER_RULES[rule], account=True)
    assert_alike(one, two, 1e-8)
    kept, other = one.settings["kept"], two.settings["kept"]
    for label, amounts in kept.items():
        assert np.abs(np.subtract(other[label], amounts)).max() <= 1e-8 * max(1, np.abs(one.output).max())
    total = np.sum(list(other.values()), 0) + two.numpy().reshape(len(two.output), -1).sum(1)
    assert np.abs(total - two.output).max() <= 1e-8 * np.abs(two.output).max()


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("name", RELUS)
def test_rectifiers_are_pytorchs(name, method):
    one, two = both(PAIRS[name], method)
    assert_alike(one, two)
    plain = whence.explain(
        PAIRS[name].in_jax, jax.numpy.asarray(PAIRS[name].x), "saliency", target=1, absolute=False
    )
    assert np.abs(two.numpy() - plain.numpy()).max() > 0, "not the plain gradient"


@pytest.mark.parametrize("name", ["gelu", "tanh", "leaky_relu", "softmax", "layer_norm_fast"])
def test_without_a_relu_there_is_nothing_to_guide(name):
    pair = PAIRS[name]
    with pytest.raises(Refused, match="there is none"):
        whence.explain(pair.in_jax, jax.numpy.asarray(pair.x), "guided_backprop")


def test_deepshap_is_pytorchs():
    pair = PICTURES["cnn"]
    found = [
        whence.explain(model, made(pair.x), "deepshap", target="all", baseline=made(pair.reference))
        for model, made in ((pair.in_torch, t), (pair.in_jax, jax.numpy.asarray))
    ]
    assert_alike(*found)


def test_positions_and_their_errors():
    chosen = composite.Composite(positions={0: composite.flat(), -1: composite.alpha_beta()})
    assert_alike(*both(PAIRS["cnn"], "lrp", composite=chosen))
    with pytest.raises(BadInput, match="position 5"):
        both(PAIRS["cnn"], "lrp", composite=composite.Composite(positions={5: "gamma"}))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 0.3), ("float16", 0.02)])
@pytest.mark.parametrize("method", ["deeplift", "lrp", "guided_backprop"])
def test_narrow_floats(method, dtype, tolerance):
    def model(x):
        first, last = (jax.numpy.asarray(each, x.dtype) for each in (W1, W2))
        hidden = jax.nn.relu(x @ first.T)
        return layer_norm(hidden) @ last.T

    wide, narrow = (jax.numpy.asarray(PAIRS["relu"].x, each) for each in ("float64", dtype))
    expected = whence.explain(model, wide, method, target=1).numpy()
    found = whence.explain(model, narrow, method, target=1)
    assert found.values.dtype == dtype
    assert (
        np.abs(np.asarray(found.numpy(), np.float64) - expected).max() <= tolerance * np.abs(expected).max()
    )
