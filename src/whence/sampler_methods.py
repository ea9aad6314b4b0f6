"""Methods that repeat another method with noise."""

from __future__ import annotations

from dataclasses import dataclass

from whence.counts import whole
from whence.errors import BadInput
from whence.gradient_methods import Saliency
from whence.problem import Problem
from whence.registry import Method, build, register
from whence.sampler import repeat
from whence.shares import Shares

ABSOLUTE, SIGNED = Saliency(), Saliency(absolute=False)


class _Sampler(Method):
    """The fields and checks that the three samplers share."""

    method: Method
    samples: int
    noise: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", build(self.method, {}))
        whole(self.samples, f"{type(self).__name__}: samples", 2)
        if not self.noise >= 0:
            raise BadInput(
                f"{type(self).__name__}: noise is {self.noise}; it is relative to the range, at least 0"
            )

    @property
    def slopes(self) -> bool:
        return self.method.slopes

    @property
    def sizes(self) -> bool:
        return self.method.sizes

    def placed(self, problem: Problem) -> Problem:
        return self.method.placed(problem)


@register(
    "smoothgrad", "A = E_ε [M(x + ε)], ε ∼ N(0, (noise · range)²)",
    "Smilkov, Thorat, Kim, Viégas, Wattenberg 2017, arXiv:1706.03825",
    needs=("what it wraps",), title="SmoothGrad",
)  # fmt: skip
@dataclass(frozen=True)
class SmoothGrad(_Sampler):
    """The mean of any method over noisy copies of the input.

    Attributes:
        method: the method M that is averaged.
        samples: how many noisy copies.
        noise: the noise's standard deviation, relative to each example's range max − min.
    """

    method: Method = ABSOLUTE
    samples: int = 50
    noise: float = 0.1

    def attribute(self, problem: Problem) -> Shares:
        return repeat(problem, self.method.attribute, self.samples, self.noise, "mean")


@register(
    "smoothgrad_squared", "A = E_ε [M(x + ε)²]", "Hooker, Erhan, Kindermans, Kim 2019, arXiv:1806.10758",
    needs=("what it wraps",), title="SmoothGrad²",
)  # fmt: skip
@dataclass(frozen=True)
class SmoothGradSquared(_Sampler):
    """The mean square of any method over noisy copies of the input.

    Attributes:
        method, samples, noise: as for SmoothGrad.
    """

    method: Method = SIGNED
    samples: int = 50
    noise: float = 0.1

    @property
    def sizes(self) -> bool:
        return True

    def attribute(self, problem: Problem) -> Shares:
        return repeat(problem, self.method.attribute, self.samples, self.noise, "square")


@register(
    "vargrad", "A = Var_ε [M(x + ε)]", "Adebayo, Gilmer, Goodfellow, Kim 2018, arXiv:1810.03307",
    needs=("what it wraps",), title="VarGrad",
)  # fmt: skip
@dataclass(frozen=True)
class VarGrad(_Sampler):
    """The variance of any method over noisy copies of the input.

    Attributes:
        method, samples, noise: as for SmoothGrad.
    """

    method: Method = SIGNED
    samples: int = 50
    noise: float = 0.1

    @property
    def sizes(self) -> bool:
        return True

    def attribute(self, problem: Problem) -> Shares:
        return repeat(problem, self.method.attribute, self.samples, self.noise, "variance")
