"""What is judged: explanations beside the question that they answer, checked, and open for more runs of the model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whence import registry
from whence import target as targets
from whence.attribution import Attribution, to_numpy
from whence.backends import Array, Leaves
from whence.errors import BadInput, Refused
from whence.features import laying
from whence.features.covers import Features
from whence.features.kinds import Patches
from whence.metrics import anew
from whence.metrics.given import Explain, arrays_of, check_class, checked, maker_of, part_of, told_apart
from whence.metrics.laid import element_values, in_features, mask_of
from whence.problem import Problem
from whence.question import Call, asked, check_options

# Explanations in one call of a method that explains again: their values are held at once.
AGAIN = 1024


@dataclass(eq=False)
class Judged:
    """Explanations of a batch and the open question: f at the inputs, and the model for whatever else is asked.

    `problem` is the explained function at the inputs; `values` are the explanations as float64 arrays, each shaped like
    an input (or [B, 1, H, W] for maps), and `result` is what the method told beside them; `method` explains again;
    `mask` [B, ...] says where the right place is; `index` [B] is the explained class, None where the target is none.
    `kept` is what metrics of one explanation share, such as explanations of the same moved inputs; `common` is what
    holds for every explanation of the question, such as the outputs of inputs that lots have changed.
    """

    call: Call
    problem: Problem
    index: Int[np.ndarray, "B"] | None
    description: str
    values: tuple[Float[np.ndarray, "B ..."], ...] | None
    method: registry.Method | Explain | None
    given_mask: Any
    result: Attribution | None = None
    notes: list[str] = field(default_factory=list[str])
    kept: dict[Any, Any] = field(default_factory=dict[Any, Any])
    common: dict[Any, Any] = field(default_factory=dict[Any, Any])
    evaluations: Int[np.ndarray, "B"] = field(init=False)

    def __post_init__(self) -> None:
        self.evaluations = np.zeros(self.count, dtype=np.int64)

    # ---- the question ------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """The seed of every draw."""
        return self.call.seed

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self.problem.rows)

    @property
    def raw(self) -> Problem:
        """The model's whole output [n, K] (or [n]) as the explained function: for predictions."""
        return self.once(("raw",), self._raw)

    def _raw(self) -> Problem:
        run = replace(self.problem.run, target=None, neuron=None)
        return Problem(run, self.problem.inputs, self.problem.rows)

    @cached_property
    def outputs(self) -> Float[np.ndarray, "B ..."]:
        """The model's whole output for the inputs."""
        return self.problem.ops.numpy(self._native_outputs).astype(np.float64)

    @property
    def _native_outputs(self) -> Array:
        return self.once(("outputs",), lambda: self.raw.native_value(self.raw.inputs))

    @cached_property
    def predicted(self) -> Int[np.ndarray, "B"]:
        """The top class of each example.

        Raises:
            Refused: the output has no classes.
        """
        return self.top(self.outputs)

    def top(self, outputs: Float[np.ndarray, "n ..."]) -> Int[np.ndarray, "n"]:
        """Return the top class of outputs [n, K]; of a single number, whether it is above 0."""
        if outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1):
            return (outputs.reshape(len(outputs)) > 0).astype(np.int64)
        if outputs.ndim != 2:
            raise Refused(
                f"the output has shape {outputs.shape}: it has no classes of which one is predicted"
            )
        return outputs.argmax(1)

    @property
    def probability(self) -> Problem:
        """The explained class's probability as the function; the explained number itself where there are no classes."""
        if self.index is None or self._native_outputs.ndim != 2:
            self.note("the output has no classes: its own value stands in for a probability")
            return self.problem
        return self.once(("probability",), self._probability)

    def _probability(self) -> Problem:
        found = targets.resolve(targets.probability(self.index), self._native_outputs, self.problem.ops)
        return self.problem.at_inputs(found)

    def note(self, text: str) -> None:
        """Keep a sentence for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def forget(self) -> None:
        """Start the notes and the count of runs anew: each metric has its own."""
        self.evaluations[:] = 0
        self.notes.clear()

    def random(self, purpose: str, draw: int = 0) -> np.random.Generator:
        """Return a generator that depends on the seed, the purpose and the draw, and on nothing else."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(purpose.encode()), draw))
        return np.random.Generator(np.random.Philox(sequence))

    def once(self, key: tuple[Any, ...], work: Callable[[], Any]) -> Any:
        """Return what `work` gives, worked out once for every explanation of the question.

        The key holds all settings that it depends on. Where one of them is no plain value (an array, a function), it
        may change between two explanations: nothing is kept.
        """
        if not told_apart(key):
            return work()
        # 0, 0.0 and False are the same to a dict, and not to a model.
        whole = (key, repr(key))
        if whole not in self.common:
            self.common[whole] = work()
        return self.common[whole]

    def apart(self, work: Callable[[], Any]) -> tuple[Any, Int[np.ndarray, "B"]]:
        """Return what `work` gives and the runs of the model that it took, which are not counted yet."""
        before = self.evaluations.copy()
        found = work()
        spent = self.evaluations - before
        self.evaluations -= spent
        return found, spent

    # ---- the explanations --------------------------------------------------------------------------------------

    def beside(self, explanation: Any = None, *, method: Any = None, **fields: Any) -> Judged:
        """Return the question with another explanation of the same output: what holds for both is worked out once.

        A model that draws lots goes on drawing them: its numbers depend on what was asked before.

        Args:
            explanation: as in `judged`.
            method: as in `judged`.
            **fields: settings of the method.

        Raises:
            BadInput: the explanation does not fit the inputs, is of another class, or holds NaN or infinity.
        """
        if explanation is None and method is None:
            raise BadInput("give the explanation to be judged, or method= to make it")
        whole = explanation if isinstance(explanation, Attribution) else None
        if whole is not None:
            check_class(whole, self.index)
        values = None
        if explanation is not None:
            found = arrays_of(explanation) if whole is None else element_values(whole, self.problem)
            values = checked(found, self.problem, self.count)
        return replace(
            self,
            values=values,
            method=maker_of(method, fields),
            result=whole,
            notes=list[str](),
            kept=dict[Any, Any](),
        )

    @property
    def explained(self) -> tuple[Float[np.ndarray, "B ..."], ...]:
        """The explanations' values, made by the method where none were given.

        Raises:
            BadInput: neither was given.
        """
        if self.values is None:
            self.values = self.again(self.problem.inputs, np.arange(self.count), count=False)
        return self.values

    @cached_property
    def flat(self) -> Float[np.ndarray, "B d"]:
        """All numbers of each explanation in a row."""
        return np.concatenate([each.reshape(self.count, -1) for each in self.explained], 1)

    def features(self, spec: Any = None) -> Features:
        """Return the features that are judged: the user's, or whole pixels, or single numbers."""
        return laying.lay(self.problem, spec, _whole_pixels)

    def shares(self, features: Features) -> Float[np.ndarray, "B d"]:
        """Return each feature's share: the sum of its numbers' values.

        Raises:
            Refused: the explanations are coarser than the features.
        """
        return in_features(features, self.explained, self.problem)

    @property
    def explains(self) -> bool:
        """Whether there is a method that explains again."""
        return self.method is not None

    def again(
        self,
        inputs: Leaves,
        rows: Int[np.ndarray, "n"],
        model: Any = None,
        count: bool = True,
        **options: Any,
    ) -> tuple[Float[np.ndarray, "n ..."], ...]:
        """Explain other inputs [n, ...] of examples `rows` [n], or another model, for the same targets.

        Pictures in pixels are kept within [0, 1]. `options` stand in for the call's (such as target=).

        Raises:
            BadInput: there is no method.
        """
        if self.method is None:
            raise BadInput(
                "this metric explains again, so it needs the method: method=whence.IntegratedGradients()"
            )
        parts: list[tuple[np.ndarray, ...]] = []
        for start in range(0, len(rows), AGAIN):
            some = slice(start, start + AGAIN)
            own = options | {"target": part_of(options["target"], some)} if "target" in options else options
            values, spent = anew.explained(self, tuple(leaf[some] for leaf in inputs), rows[some], model, own)
            parts.append(values)
            if count:
                np.add.at(self.evaluations, rows[some], spent)
        return tuple(np.concatenate(each) for each in zip(*parts, strict=True))

    # ---- where the right place is ------------------------------------------------------------------------------

    @cached_property
    def mask(self) -> Bool[np.ndarray, "B d"]:
        """Where the right place is, for every pixel (or single number) [B, d].

        Raises:
            BadInput: there is none, or it does not fit the inputs.
        """
        if self.given_mask is None:
            raise BadInput("this metric compares with the right place: give mask=, True where it is")
        return mask_of(self.given_mask, self.features(), self.problem)


def _whole_pixels(problem: Problem, leaf: Array) -> Any:
    return Patches(1) if laying.is_picture(problem, leaf) else laying.fine(problem, leaf)


@contextmanager
def judged(
    model: Any, inputs: Any, explanation: Any = None, *, method: Any = None, mask: Any = None, target: Any = None,
    kwargs: Mapping[str, Any] | None = None, output: Any = None, preprocess: Any = None, at: Any = None, seed: int = 0,
    chunk: int | None = None, on_unknown: str = "error", fuse: bool = True, **fields: Any,
) -> Generator[Judged]:  # fmt: skip
    """Hold a model open while explanations of its output are judged.

    Args:
        model: as in `whence.explain`; it is never changed.
        inputs: as in `whence.explain`, [B, ...].
        explanation: a `whence.Attribution`, or arrays shaped like the inputs; None lets `method` make them.
        method: what made them, for metrics that explain again: a name, a class or an object of `whence.methods()`, or a
            callable (model, inputs, targets) that returns arrays like the inputs.
        mask: where the right place is, for metrics of localisation: like the inputs or one example, true (not 0) there.
        target: what was explained; None takes it from the explanation, else each example's top class.
        kwargs: as in `whence.explain`.
        output: as in `whence.explain`.
        preprocess: as in `whence.explain`.
        at: the site that `method` explains, as in `whence.explain`.
        seed: of every draw, and of the order of ties.
        chunk: rows in one forward; None finds the fastest.
        on_unknown: as in `whence.explain`.
        fuse: as in `whence.explain`.
        **fields: settings of the method.

    Raises:
        BadInput: the explanation does not fit the inputs, or holds NaN or infinity.
    """
    check_options(on_unknown, chunk, seed)
    if isinstance(explanation, Attribution) and target is None and explanation.target is not None:
        target = explanation.target
        target = to_numpy(target) if hasattr(target, "shape") else target
    maker = maker_of(method, fields)
    call = Call(
        model, inputs, target, at, kwargs, output, preprocess, seed, chunk, False, fuse, on_unknown, switches=True
    )  # fmt: skip
    with asked(replace(call, at=None)) as question:
        problem = question.problem
        if problem.every_class:
            raise BadInput(
                'target "all": metrics judge the explanation of one target; give one, or .for_class(k)'
            )
        recorded = question.target
        index = recorded if isinstance(recorded, np.ndarray) and recorded.ndim == 1 else None
        yield Judged(call, problem, index, question.description, None, None, mask).beside(
            explanation, method=maker
        )
