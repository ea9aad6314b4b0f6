"""The twins of whole networks: they compute what the network computes, and keep what the rules promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import oracles_rules as rules
from architectures import base
from oracles_chain import (
    EPSILON_ALPHA2_BETA1_FLAT,
    EPSILON_PLUS,
    Affine,
    Chain,
    by_kind,
    epsilon_gamma_box,
    everywhere,
)


def close(one, two, tolerance=1e-12):
    np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


def network():
    """A network of every kind of layer, [1, 6, 6] -> [3]."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()),
        nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 4, 2), nn.LeakyReLU(), nn.AvgPool2d(2, 1),
        nn.Flatten(), nn.Dropout(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def twins():
    """The network, its twin, an example and a baseline."""
    model = base.settled("twins", network).double()
    x, x0 = base.rows(2, torch.float64, (1, 6, 6))
    return model, Chain.of(model, (1, 6, 6)), x, x0


def test_a_chain_is_its_network(twins):
    model, chain, x, _ = twins
    close(chain.values(x.numpy())[-1], model(x[None])[0].detach().numpy())
    start = np.array([0.5, -1.0, 2.0])
    leaf = x[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad((model(leaf)[0] * torch.tensor(start)).sum(), leaf)
    close(chain.gradient(x.numpy(), start), gradient.flatten().numpy())


def test_a_folded_batch_norm_computes_the_same(twins):
    _, chain, x, _ = twins
    folded = chain.folded()
    assert len(folded.layers) == len(chain.layers) - 1
    close(folded.values(x.numpy())[-1], chain.values(x.numpy())[-1])


def test_deeplift_of_a_chain_is_complete(twins):
    _, chain, x, x0 = twins
    start = np.array([0.5, -1.0, 2.0])
    change = chain.values(x.numpy())[-1] - chain.values(x0.numpy())[-1]
    close(chain.deeplift(x.numpy(), x0.numpy(), start).sum(), start @ change)


@pytest.mark.parametrize("rule", [rules.epsilon, rules.gamma])
def test_relevance_of_a_chain_without_biases_is_conserved(twins, rule):
    _, chain, x, _ = twins
    bare = Chain(
        tuple(replace(layer, b=0 * layer.b) if isinstance(layer, Affine) else layer for layer in chain.layers)
    )
    y = bare.values(x.numpy())[-1]
    total = bare.relevance(x.numpy(), y * [0, 1, 0], everywhere(rule)).sum()
    np.testing.assert_allclose(total, y[1], rtol=1e-4)


def test_a_composite_gives_each_layer_its_rule(twins):
    _, chain, x, _ = twins
    met = []

    def spy(name):
        def rule(W, b, x, R):
            met.append(name)
            return rules.epsilon(W, b, x, R)

        return rule

    choice = by_kind(spy("convolution"), spy("linear"), spy("first"), spy("wrong"))
    chain.relevance(x.numpy(), np.ones(3), choice)
    assert met == ["linear", "linear", "convolution", "first"]


def test_batch_norm_passes_relevance_as_it_is(twins):
    _, chain, x, _ = twins
    met = []
    chain.relevance(
        x.numpy(), np.ones(3), lambda kind, first: met.append(kind) or everywhere(rules.epsilon)(kind, first)
    )
    assert met == ["linear", "linear", "average_pool", "convolution", "batch_norm", "convolution"]
    assert everywhere(rules.gamma)("batch_norm", False) is None and EPSILON_PLUS("batch_norm", False) is None
    assert everywhere(rules.gamma)("average_pool", False) is rules.epsilon


def test_composites_are_what_their_names_say(twins):
    _, chain, x, _ = twins
    first = np.array([0.0, 1.0, 0.0])
    answers = [
        chain.relevance(x.numpy(), first, choice)
        for choice in (EPSILON_PLUS, EPSILON_ALPHA2_BETA1_FLAT, epsilon_gamma_box(-3.0, 3.0))
    ]
    named = [
        by_kind(rules.z_plus, rules.epsilon),
        by_kind(rules.alpha_beta, rules.epsilon, rules.flat),
        by_kind(rules.gamma, rules.epsilon, lambda W, b, x, R: rules.z_box(W, b, x, R, -3.0, 3.0)),
    ]
    for one, choice in zip(answers, named, strict=True):
        close(one, chain.relevance(x.numpy(), first, choice))
        assert np.abs(one).sum() > 0.01


def test_a_layer_without_a_twin_is_refused():
    with pytest.raises(TypeError, match="LayerNorm has no twin"):
        Chain.of(nn.Sequential(nn.LayerNorm(4)).double(), (4,))
