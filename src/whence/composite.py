"""Composites of LRP: which rule each linear layer takes, as data.

Layer-wise relevance propagation is said to be covered by a patent in some countries for some uses; it stands in this
module, `relevance_methods.py` and each backend's `relevance*.py`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from whence.errors import BadInput
from whence.naming import unknown

Kind = Literal["epsilon", "gamma", "alpha_beta", "box", "w_squared", "flat"]


@dataclass(frozen=True, eq=False)
class LayerRule:
    """How one linear layer z = Wx + b hands its relevance R to its inputs; made by the functions below."""

    kind: Kind
    epsilon: float = 1e-6
    gamma: float = 0.0
    alpha: float = 1.0
    beta: float = 0.0
    low: Any = None
    high: Any = None

    def _key(self) -> tuple[Any, ...]:
        ends = (id(end) if hasattr(end, "shape") else end for end in (self.low, self.high))
        return (self.kind, self.epsilon, self.gamma, self.alpha, self.beta, *ends)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerRule) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True)
class Composite:
    """Rules for the linear layers of a network; the more specific one wins: layers, positions, first, the operation.

    Attributes:
        dense: of matrix products with a constant matrix.
        convolution: of convolutions.
        first: of the layers that the input reaches before any other, if not their operation's.
        layers: by the name of the module or of one that holds it, wildcards allowed: {"features": gamma(0.25)}.
        positions: by the number of the layer in the order of the run: {0: flat(), -1: epsilon()}.
    """

    dense: LayerRule = LayerRule("epsilon")
    convolution: LayerRule = LayerRule("epsilon")
    first: LayerRule | None = None
    layers: Mapping[str, LayerRule] = field(default_factory=dict[str, LayerRule], hash=False)
    positions: Mapping[int, LayerRule] = field(default_factory=dict[int, LayerRule], hash=False)

    def __post_init__(self) -> None:
        """Take names for rules, and refuse what is none.

        Raises:
            BadInput: something that is no rule, or the name of none.
        """
        for name in ("dense", "convolution", "first"):
            given = getattr(self, name)
            if given is not None or name != "first":
                object.__setattr__(self, name, _rule(given))
        for name in ("layers", "positions"):
            given = {key: _rule(each) for key, each in getattr(self, name).items()}
            object.__setattr__(self, name, MappingProxyType(given))

    def rules(self) -> list[LayerRule]:
        """Return every rule that may be taken."""
        own = [self.dense, self.convolution, *([self.first] if self.first else [])]
        return [*own, *self.layers.values(), *self.positions.values()]

    def check_names(self, names: Iterable[str]) -> None:
        """Check that every name is one of the model's modules, or fits one.

        Raises:
            BadInput: one does not; near names are offered.
        """
        known = [name for name in names if name]
        for pattern in self.layers:
            if not any(_fits(name, pattern) for name in known):
                raise BadInput(f"composite: {unknown('layer', pattern, known)}")

    def chosen(self, module: str, position: int, count: int, first: bool, family: str | None) -> LayerRule:
        """Return the rule of a layer: of which module, the how manyth of how many, whether the input meets it first."""
        for pattern, rule in self.layers.items():
            if module and _fits(module, pattern):
                return rule
        for number in (position, position - count):
            if number in self.positions:
                return self.positions[number]
        if first and self.first is not None:
            return self.first
        return self.dense if family == "dense" else self.convolution


def _fits(name: str, pattern: str) -> bool:
    """Tell whether a pattern names a module, or one that holds it: with dots, or with Keras's and ONNX's slashes."""
    return fnmatchcase(name, pattern) or name.startswith((f"{pattern}.", f"{pattern}/"))


def _rule(given: Any) -> LayerRule:
    if isinstance(given, LayerRule):
        return given
    named: dict[str, Any] = {
        "epsilon": epsilon, "gamma": gamma, "alpha_beta": alpha_beta, "z_plus": z_plus, "box": box,
        "w_squared": w_squared, "flat": flat,
    }  # fmt: skip
    if isinstance(given, str) and given in named:
        return named[given]()
    if isinstance(given, str):
        raise BadInput(unknown("rule of a layer", given, named))
    raise BadInput(
        f"composite: {given!r} is no rule of a layer; give a name ({', '.join(named)}) or gamma(0.25) ..."
    )


def epsilon(epsilon: float = 1e-6) -> LayerRule:
    """R_i = x_i Σ_j w_ij R_j / (z_j + ε sign z_j), sign 0 = 1 (Bach et al. 2015, doi:10.1371/journal.pone.0130140)."""
    return LayerRule("epsilon", epsilon=_positive("epsilon", epsilon))


def gamma(gamma: float = 0.25, epsilon: float = 1e-6) -> LayerRule:
    """Positive contributions weigh 1 + γ times as much (Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10).

    For negative inputs and outputs the generalised form of Andéol et al. 2021, arXiv:2012.02837 (as in zennit).
    """
    return LayerRule("gamma", epsilon=_positive("epsilon", epsilon), gamma=_positive("gamma", gamma))


def alpha_beta(alpha: float = 2.0, beta: float = 1.0, epsilon: float = 1e-6) -> LayerRule:
    """R_i = α Σ_j (x_i w_ij)⁺ R_j/z_j⁺ − β Σ_j (x_i w_ij)⁻ R_j/z_j⁻, α − β = 1 (Bach et al. 2015).

    Raises:
        BadInput: α − β is not 1, so that relevance would not be conserved.
    """
    if abs(alpha - beta - 1) > 1e-9 or beta < 0:
        raise BadInput(
            f"alpha_beta: alpha is {alpha} and beta {beta}; alpha − beta is 1, and beta at least 0"
        )
    return LayerRule("alpha_beta", epsilon=_positive("epsilon", epsilon), alpha=alpha, beta=beta)


def z_plus(epsilon: float = 1e-6) -> LayerRule:
    """Only positive contributions count: alpha_beta(1, 0) (Montavon et al. 2017, doi:10.1016/j.patcog.2016.11.008)."""
    return alpha_beta(1.0, 0.0, epsilon)


def box(low: Any = None, high: Any = None, epsilon: float = 1e-6) -> LayerRule:
    """For a first layer whose inputs lie in [low, high]: R_i = Σ_j (x_i w − l_i w⁺ − h_i w⁻) R_j / Σ_i (same).

    `low` and `high` are in the units of the explained inputs (pictures in pixels: 0 and 1, which is what None means
    there; other inputs: each example's own range) (Montavon et al. 2017, the z^B rule).
    """
    if low is not None and high is not None and bool((np.asarray(low) > np.asarray(high)).any()):
        raise BadInput("box: low is above high somewhere; an input lies between them")
    low, high = (np.asarray(end) if isinstance(end, (list, tuple)) else end for end in (low, high))
    return LayerRule("box", epsilon=_positive("epsilon", epsilon), low=low, high=high)


def w_squared(epsilon: float = 1e-6) -> LayerRule:
    """R_i = Σ_j w_ij² R_j / Σ_i w_ij², whatever the input (Montavon et al. 2017)."""
    return LayerRule("w_squared", epsilon=_positive("epsilon", epsilon))


def flat(epsilon: float = 1e-6) -> LayerRule:
    """Relevance is spread evenly over all inputs of a unit (Lapuschkin et al. 2019, doi:10.1038/s41467-019-08987-4)."""
    return LayerRule("flat", epsilon=_positive("epsilon", epsilon))


def _positive(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise BadInput(f"composite: {name} is {value}; it is a finite number, at least 0")
    return float(value)


NAMED: Mapping[str, Composite] = {
    "epsilon": Composite(),
    "gamma": Composite(gamma(), gamma()),
    "alpha_beta": Composite(alpha_beta(), alpha_beta()),
    "epsilon_plus": Composite(epsilon(), z_plus()),
    "epsilon_gamma_box": Composite(epsilon(), gamma(), box()),
    "epsilon_alpha2_beta1_flat": Composite(epsilon(), alpha_beta(2.0, 1.0), flat()),
    "attention": Composite(epsilon(), gamma()),
}
"""Composites by name: Kohlbrenner et al. 2020, arXiv:1910.09840; attention: Achtibat et al. 2024, arXiv:2402.05602."""


def resolve(spec: Any) -> Composite:
    """Return a composite from its name, one rule for every layer, or a composite.

    Raises:
        BadInput: an unknown name, or something else.
    """
    if isinstance(spec, Composite):
        return spec
    if isinstance(spec, LayerRule):
        return Composite(spec, spec)
    if isinstance(spec, str) and spec in NAMED:
        return NAMED[spec]
    if isinstance(spec, str):
        raise BadInput(unknown("composite", spec, NAMED))
    raise BadInput(
        f"composite is {spec!r}; give a name ({', '.join(NAMED)}) or whence.composite.Composite(...)"
    )
