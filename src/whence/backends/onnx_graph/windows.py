"""Windows that slide over the axes of space: how far they reach, and how much is added around for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

from whence.backends.onnx_graph.node import Node

Tensor = torch.Tensor


@dataclass(frozen=True)
class Windows:
    """Windows over the last axes of a tensor, one entry for each axis.

    Attributes:
        kernel, strides, dilations: how large they are, how far apart, and how far apart their own places.
        begin, end: how much is added around the tensor.
        ceil: whether a last window may hang over the end.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    ceil: bool = False

    @property
    def reach(self) -> tuple[int, ...]:
        """How many places a window spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def even(self) -> bool:
        """Whether as much is added on either side."""
        return self.begin == self.end

    @property
    def poolable(self) -> bool:
        """Whether torch's pools take them: as much on either side, and no more than half a window."""
        fits = all(2 * pad <= k for pad, k in zip(self.begin, self.kernel, strict=True))
        return self.even and fits

    def counts(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Return how many windows there are along each axis of a tensor with these sides."""
        found: list[int] = []
        for side, reach, stride, begin, end in zip(
            sides, self.reach, self.strides, self.begin, self.end, strict=True
        ):
            room = side + begin + end - reach
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            # A window that would begin in what is added at the end is none.
            if self.ceil and (count - 1) * stride >= side + begin:
                count -= 1
            found.append(count)
        return tuple(found)

    def padded(self, x: Tensor, value: float) -> Tensor:
        """Return the tensor with all that its windows need around it."""
        sides = x.shape[-len(self.kernel) :]
        flat: list[int] = []
        per_axis = zip(sides, self.counts(sides), self.reach, self.strides, self.begin, strict=True)
        for side, count, reach, stride, begin in reversed(list(per_axis)):
            flat += [begin, (count - 1) * stride + reach - side - begin]
        return torch.nn.functional.pad(x, flat, value=value)

    def places(self, x: Tensor) -> list[Tensor]:
        """Return, for each place in a window, what all windows have there, of a tensor that `padded` has made."""
        sides = x.shape[-len(self.kernel) :]
        steps = list(zip(sides, self.reach, self.strides, strict=True))
        counts = [(side - reach) // stride + 1 for side, reach, stride in steps]
        found: list[Tensor] = []
        for offsets in product(*(range(k) for k in self.kernel)):
            starts = [o * d for o, d in zip(offsets, self.dilations, strict=True)]
            parts = zip(starts, counts, self.strides, strict=True)
            index = tuple(slice(start, start + (n - 1) * stride + 1, stride) for start, n, stride in parts)
            found.append(x[(..., *index)])
        return found


def windows(node: Node, x: Tensor, kernel: Sequence[int]) -> Windows:
    """Return the windows that a node lays over a tensor [N, C, ...]."""
    kernel = tuple(kernel)
    rank = len(kernel)
    strides = tuple(node.wholes("strides") or [1] * rank)
    dilations = tuple(node.wholes("dilations") or [1] * rank)
    pads = node.wholes("pads") or [0] * (2 * rank)
    begin, end = tuple(pads[:rank]), tuple(pads[rank:])
    wanted = node.one_of("auto_pad", "NOTSET", ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"))
    if wanted == "VALID":
        begin = end = (0,) * rank
    elif wanted != "NOTSET":
        least: list[int] = []
        whole: list[int] = []
        for side, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
            room = max((-(-side // stride) - 1) * stride + (k - 1) * dilation + 1 - side, 0)
            whole.append(room)
            least.append(room // 2 if wanted == "SAME_UPPER" else room - room // 2)
        begin, end = tuple(least), tuple(all_ - one for all_, one in zip(whole, least, strict=True))
    return Windows(kernel, strides, dilations, begin, end, bool(node.whole("ceil_mode")))
