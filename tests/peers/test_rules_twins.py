"""The slow twins of the rules say what zennit and captum say, where these are right; where not, we know why."""

# ruff: noqa: E402 (the peers are imported after the check for them)
from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for peer in ("captum", "zennit"):
    # Not importorskip: zennit asks for a torchvision that is not here.
    if not find_spec(peer):
        pytest.skip(f"{peer} is not installed here; see `make test`", allow_module_level=True)

import rules_peers as peers
from torch import nn

import oracles_chain as chains
import oracles_rules as rules
from architectures import base
from whence import data, zoo

D = torch.float64


def network():
    """Convolutions, batch norm, pools that overlap and pools of means, [2, 6, 6] -> [3]."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 2),
        nn.ReLU(), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def perceptron():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def digits():
    model = zoo.load("digits-cnn").model
    return nn.Sequential(*model.features, nn.Flatten(), model.classifier)


class Case:
    """A model, inputs, a class for each, and the twin."""

    def __init__(self, make, shape, positive):
        self.model = make().double().eval() if make is digits else base.settled("peers", make).double()
        x = base.rows(3, D, shape)
        x = torch.as_tensor(data.digits().test_images[:3, None] / 255).to(D) if make is digits else x
        self.x = x.abs() if positive else x
        y = self.model(self.x).detach()
        self.target = y.argmax(1)
        self.ones = np.eye(y.shape[1])[self.target.numpy()]
        self.start = self.ones * y.numpy()
        self.chain = chains.Chain.of(self.model, shape)

    def relevance(self, choice, merged=True):
        chain = self.chain.folded() if merged else self.chain
        return self.each(lambda x, i: chain.relevance(x, self.start[i], choice))

    def each(self, function):
        return np.stack([function(x, i) for i, x in enumerate(self.x.numpy())])


@pytest.fixture(
    scope="module",
    params=[
        (network, (2, 6, 6), False),
        (network, (2, 6, 6), True),
        (perceptron, (6,), False),
        (digits, (1, 8, 8), True),
    ],
    ids=["network", "network-positive", "perceptron", "digits"],
)
def case(request):
    return Case(*request.param)


def same(ours, theirs, tolerance=1e-10):
    ours, theirs = ours.reshape(len(ours), -1), theirs.flatten(1).numpy()
    assert np.abs(theirs).sum() > 0
    assert (np.abs(ours - theirs).sum(1) <= tolerance * np.abs(theirs).sum(1)).all()


# ---- zennit --------------------------------------------------------------------------------------------------


EVERYWHERE = {
    "epsilon": (peers.zennit_epsilon, rules.epsilon, {}),
    "epsilon-large": (peers.zennit_epsilon, lambda *a: rules.epsilon(*a, 0.5), {"epsilon": 0.5}),
    "gamma": (peers.zennit_gamma, rules.gamma, {}),
    "gamma-large": (peers.zennit_gamma, lambda *a: rules.gamma(*a, 2.0), {"gamma": 2.0}),
    "alpha_beta": (peers.zennit_alpha_beta, rules.alpha_beta, {}),
    "z_plus": (peers.zennit_zplus, rules.z_plus, {}),
    "z_box": (peers.zennit_box, lambda *a: rules.z_box(*a, -3.0, 4.0), {"low": -3.0, "high": 4.0}),
    "w_square": (peers.zennit_w_square, rules.w_square, {}),
    "flat": (peers.zennit_flat, rules.flat, {}),
}


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_one_rule_for_all(case, name, merged):
    peer, twin, settings = EVERYWHERE[name]
    theirs = peer(case.model, case.x, case.target, merge=merged, **settings)
    same(case.relevance(chains.everywhere(twin), merged), theirs)


def test_composites(case):
    box = {"low": -3.0, "high": 4.0}
    pairs = [
        (peers.zennit_epsilon_plus, chains.EPSILON_PLUS, {}),
        (peers.zennit_epsilon_gamma_box, chains.epsilon_gamma_box(-3.0, 4.0), box),
        (peers.zennit_epsilon_alpha2_beta1_flat, chains.EPSILON_ALPHA2_BETA1_FLAT, {}),
    ]
    for peer, choice, settings in pairs:
        same(case.relevance(choice), peer(case.model, case.x, case.target, **settings))


def test_zennits_own_merge_leaves_the_epsilon_of_the_norm():
    case = Case(network, (2, 6, 6), False)
    composite = peers.EpsilonPlus(canonizers=[peers.SequentialMergeBatchNorm()])
    theirs = peers.zennit(case.model, case.x, case.target, composite).flatten(1).numpy()
    ours = case.relevance(chains.EPSILON_PLUS)
    distance = np.abs(ours - theirs).sum() / np.abs(theirs).sum()
    assert 1e-7 < distance < 1e-4, "1/√(1 + 1e-5) at each norm; mended? then compare it like the others"


# ---- captum --------------------------------------------------------------------------------------------------


def test_guided_and_deconvolution(case):
    if any(isinstance(module, nn.Tanh) for module in case.model):
        pytest.skip("these rules are for ReLU")
    for peer, rule in ((peers.captum_guided, rules.guided), (peers.captum_deconvolution, rules.deconvnet)):
        ours = case.each(lambda x, i, rule=rule: case.chain.gradient(x, case.ones[i], rule))
        same(ours, peer(case.model, case.x, case.target))


def apart(make):
    """Return the model with pools that do not overlap, which captum can."""
    layers = [nn.MaxPool2d(2) if isinstance(each, nn.MaxPool2d) else each for each in make()]
    return nn.Sequential(*layers)


def deeplift(case, baseline):
    return case.each(lambda x, i: case.chain.deeplift(x, baseline.numpy(), case.ones[i]))


@pytest.mark.parametrize("baseline", ["zero", "other"])
@pytest.mark.parametrize("make, shape", [(network, (2, 6, 6)), (perceptron, (6,)), (digits, (1, 8, 8))])
def test_deeplift_and_deepliftshap(make, shape, baseline):
    case = Case(make if make is digits else lambda: apart(make), shape, False)
    start = base.rows(5, D, shape)[4:] * (baseline == "other")
    same(deeplift(case, start), peers.captum_deeplift(case.model, case.x, case.target, start))
    several = torch.cat([start, start + 0.5])
    mean = (deeplift(case, several[0]) + deeplift(case, several[1])) / 2
    same(mean, peers.captum_deepliftshap(case.model, case.x, case.target, several))


def gap(values, model, x, start, target):
    """Return by how much shares miss f(x) − f(x0), at worst."""
    rise = (model(x) - model(start))[range(len(x)), target].detach()
    return float((values.flatten(1).sum(1) - rise).abs().max())


def test_captum_is_incomplete_where_two_of_its_modules_meet():
    """ReLU, MaxPool: the ReLU is given the gradient from before the pool's rule (0.9.0). A copy between mends it."""
    case = Case(digits, (1, 8, 8), True)
    start = torch.full_like(case.x, 0.25)
    asked = (case.model, case.x, case.target, start)
    assert gap(peers.captum_deeplift(*asked, apart=False), case.model, case.x, start, case.target) > 0.1
    assert gap(peers.captum_deeplift(*asked), case.model, case.x, start, case.target) < 1e-12


def test_captum_is_incomplete_where_pools_overlap():
    """PEERS row 4: what a winner gets from two windows is not added."""
    case = Case(network, (2, 6, 6), False)
    start = base.rows(5, D, (2, 6, 6))[4:]
    theirs = peers.captum_deeplift(case.model, case.x, case.target, start)
    assert gap(theirs, case.model, case.x, start, case.target) > 1e-3
    ours = torch.tensor(deeplift(case, start))
    assert gap(ours, case.model, case.x, start, case.target) < 1e-12


def test_layers():
    case = Case(digits, (1, 8, 8), True)
    start = torch.full_like(case.x[:1], 0.25)
    values = peers.captum_layer_deeplift(case.model, case.x, case.target, "3", start)
    assert values.shape == (3, 32, 8, 8) and gap(values, case.model, case.x, start, case.target) < 1e-12
    assert peers.captum_gradcam(case.model, case.x, case.target, "3").shape == (3, 1, 8, 8)
