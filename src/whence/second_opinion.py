"""A second opinion: the model's answers beside those of another engine that runs the same file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from whence.chunk import Chunks
from whence.errors import BadInput, Refused, UnsupportedByBackend
from whence.naming import floating
from whence.problem import Problem

# Outputs further apart than this, in parts of the largest, are worth a warning; in half precision, this.
ALIKE, ALIKE_IN_HALF = 1e-3, 1e-2
# Beyond this it is another function, and no share of it would say anything of the user's.
OTHER = 0.05
# Rows that the other engine runs at once, where the user does not say.
ROWS = 64


def wanted(problem: Problem) -> bool:
    """Tell whether there is another engine to ask."""
    return hasattr(problem.run.session, "reference")


def note(problem: Problem, outputs: Any) -> None:
    """Ask the other engine too, on all of the user's inputs, and note how far the two are apart.

    Raises:
        Refused: they are two functions.
    """
    if not wanted(problem):
        return
    run = problem.run
    whole = replace(run, neuron=None)
    session: Any = run.session
    try:
        other = replace(whole, session=session.reference(), chunks=Chunks(fixed=run.chunks.fixed or ROWS))
        theirs = _answers(Problem(other, problem.inputs, problem.rows))
        # What is explained is a unit inside, which the other engine does not show: so the answers are compared.
        ours = (
            outputs
            if run.neuron is None
            else Problem(whole, problem.inputs, problem.rows).native_value(problem.inputs)
        )
    except (UnsupportedByBackend, BadInput) as hindrance:
        run.note(f"the answers were not compared with ONNX Runtime's: {hindrance}")
        return
    _judge(problem, problem.ops.numpy(ours).astype(np.float64), theirs, floating(ours))


def _answers(problem: Problem) -> np.ndarray:
    return problem.ops.numpy(problem.native_value(problem.inputs)).astype(np.float64)


def _judge(problem: Problem, ours: np.ndarray, theirs: np.ndarray, kind: str) -> None:
    away = np.inf
    if ours.shape == theirs.shape:
        scale = float(np.abs(theirs).max(initial=0.0))
        away = float(np.abs(ours - theirs).max(initial=0.0)) / (scale or 1.0)
    if not away <= OTHER:
        raise Refused(
            f"whence's own run of the file is {away:.2g} of the largest output away from ONNX Runtime's, so that its "
            "shares would be another model's; pass the file as a callable on NumPy arrays (an ONNX Runtime session), "
            "and report it"
        )
    problem.run.record["onnxruntime_difference"] = away
    if away <= (ALIKE_IN_HALF if "16" in kind else ALIKE):
        problem.run.note(f"ONNX Runtime gives the same output to {away:.1g}")
    else:
        problem.run.note(
            f"ONNX Runtime gives another output: {away:.1%} of the largest away; the shares are those of whence's own "
            "run of the file"
        )
