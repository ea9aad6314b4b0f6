"""The flags that several commands share, with their help; nothing heavy is imported here."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

COMMAND: ContextVar[str] = ContextVar("command", default="whence")
"""The shell command that is being run, for results to repeat it."""

MODEL = Group("The model", sort_key=1)
QUESTION = Group("What to explain", sort_key=2)
ACCURACY = Group("How, and how accurately", sort_key=3)
ANSWER = Group("The answer", sort_key=4)

# Words that may begin with a minus: numbers.
Signed = Parameter(allow_leading_hyphen=True)


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class ModelFlags:
    """Which model, and how it wants its pictures."""

    model: Annotated[str | None, Parameter(name=("--model", "-m"))] = None
    """digits-cnn, mnist-cnn, mnist-mlp, mobilenet-v2, or a function of yours that makes the model:
    module.path:factory (found in this folder or among the installed packages)."""
    model_arg: tuple[str, ...] = ()
    """name=value for the factory, such as --model-arg weights=None; may be repeated."""
    weights: tuple[Path, ...] = ()
    """A .safetensors file. Several (repeat the flag) are checkpoints of a training: you see how the
    explanation develops."""
    trust: bool = False
    """Also read pickled weights (.pt, .pth, .bin), which can run any code: only from a source you trust."""
    labels: Path | None = None
    """A text file with one class name a line."""
    size: str | None = None
    """Resize the picture: 224 (square; with --crop the shorter side), or 224x320 (height x width)."""
    crop: str | None = None
    """Keep the centre: 224, or 224x320."""
    mean: Annotated[str | None, Signed] = None
    """Subtracted from pixels in [0, 1], per channel; 0 by default. torchvision's models want --size 256 --crop
    224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225."""
    std: Annotated[str | None, Signed] = None
    """Then divided by; 1 by default."""


@Parameter(name="*", group=QUESTION)
@dataclass(frozen=True)
class QuestionFlags:
    """What is explained, and counted from where."""

    target: Annotated[str | None, Parameter(name=("--target", "-t"), allow_leading_hyphen=True)] = None
    """A class by number or label, or probability:3, log_probability:3, logit:3, margin:3,5 (why 3 and not 5),
    loss:3, neuron:layer,index. By default the top class's logit."""
    at: str | None = None
    """Explain a layer inside instead of the pixels, by the framework's name, such as features.3."""
    baseline: Annotated[tuple[str, ...], Signed] = ()
    """What "absent" means: a number (0 black, 1 white), black, white, mean, blur:10, uniform, gaussian, opposite,
    boundary, or a picture file; repeated, they are averaged. Black by default."""
    background: Path | None = None
    """A folder of ordinary pictures, for methods that compare with them (expected_gradients)."""
    data_dir: Path | None = None
    """The folder of MNIST's four files; else $WHENCE_DATA_DIR, else your cache."""


@Parameter(name="*", group=ACCURACY)
@dataclass(frozen=True)
class AccuracyFlags:
    """Accuracy and cost."""

    rtol: float | None = None
    """The relative error of the map that is asked for; 0.02 by default."""
    steps: int | None = None
    """A fixed number of steps along the path instead of --rtol."""
    samples: int | None = None
    """How many random samples, for methods that sample."""
    option: tuple[str, ...] = ()
    """name=value: any other option of the method, such as noise=0.2 or quadrature=trapezoid; may be repeated.
    `whence methods` lists them."""
    quick: bool = False
    """Rougher and faster: a tenth of error is accepted, a fifth of the samples taken."""
    seed: int = 0
    """Of all random draws."""
    chunk: int | None = None
    """Rows in one forward pass; by default the fastest is found."""


@Parameter(name="*", group=ANSWER)
@dataclass(frozen=True)
class AnswerFlags:
    """Where the answer goes."""

    out: Annotated[Path, Parameter(name=("--out", "-o"))] = Path("whence-out")
    """The folder for pictures and report; whence-out by default."""
    json: bool = False
    """Print one JSON object for programs instead of the tables."""
    progress: Annotated[bool | None, Parameter(negative="--no-progress")] = None
    """A progress bar on stderr; by default in a terminal only."""
