"""The flags that several commands share, with their help; nothing heavy is imported here."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

COMMAND: ContextVar[str] = ContextVar("command", default="whence")
"""The shell command that is being run, for results to repeat it."""

MODEL = Group("The model", sort_key=1)
QUESTION = Group("What to explain", sort_key=2)
ACCURACY = Group("How accurately", sort_key=3)
ANSWER = Group("The answer", sort_key=4)


def flag(
    help: str, metavar: str | None = None, *, short: str | None = None, signed: bool = False, **more: Any
) -> Any:
    """Return a flag's description; a `signed` value may begin with a minus."""
    names = None if short is None else tuple(short.split())
    return Parameter(name=names, help=help, metavar=metavar, allow_leading_hyphen=signed, **more)


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class ModelFlags:
    """Which model, and how it wants its pictures."""

    model: Annotated[
        str | None,
        flag(
            "One of the zoo (digits-cnn, mnist-cnn, mnist-mlp, mobilenet-v2), a file (.onnx, .keras), or a function of "
            "yours that makes the model: module.path:factory, in this folder or installed.",
            "NAME",
            short="--model -m",
        ),
    ] = None
    model_arg: Annotated[
        tuple[str, ...],
        flag("An argument of that function, such as weights=None; may be repeated.", "NAME=VALUE"),
    ] = ()
    weights: Annotated[
        tuple[Path, ...],
        flag(
            "The model's weights, .safetensors. Repeated, they are checkpoints of a training, and you see how the "
            "explanation develops.",
            "FILE",
        ),
    ] = ()
    trust: Annotated[
        bool,
        flag(
            "Also open pickled weights (.pt, .pth, .bin), which can run any code: only if you trust their source."
        ),
    ] = False
    labels: Annotated[Path | None, flag("A text file with one class name a line.", "FILE")] = None
    size: Annotated[
        str | None,
        flag(
            "Resize pictures: 224 (square; with --crop the shorter side), or height x width: 224x320.", "PX"
        ),
    ] = None
    crop: Annotated[str | None, flag("Then keep the centre: 224, or 224x320.", "PX")] = None
    mean: Annotated[
        str | None,
        flag(
            "Subtracted from pixels in [0, 1], for all channels or each; 0 by default. Most torchvision models want "
            "--size 256 --crop 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225.",
            "M,M,M",
            signed=True,
        ),
    ] = None
    std: Annotated[str | None, flag("Then divided by; 1 by default.", "S,S,S", signed=True)] = None


@Parameter(name="*", group=QUESTION)
@dataclass(frozen=True)
class QuestionFlags:
    """What is explained, and counted from where."""

    target: Annotated[
        str | None,
        flag(
            "A class by number or label; or probability:3, log_probability:3, logit:3, margin:3,5 (why 3 and not 5), "
            "loss:3, neuron:layer,index; or all classes: all. By default the top class's logit.",
            "WHAT",
            short="--target -t",
            signed=True,
        ),
    ] = None
    at: Annotated[
        str | None,
        flag(
            "Explain a layer instead of the pixels, by its name in the model: features.3, some of its channels: "
            "features.3[0,4], or weights: parameters:features.3.weight.",
            "LAYER",
        ),
    ] = None
    baseline: Annotated[
        tuple[str, ...],
        flag(
            'What "absent" means: a number (0 black, 1 white), black, white, mean, blur:10, uniform, gaussian, '
            "opposite, boundary, or a picture file. Repeated, they are averaged. Black by default.",
            "WHAT",
            signed=True,
        ),
    ] = ()
    background: Annotated[
        Path | None,
        flag("Ordinary pictures, for methods that compare with them (expected_gradients).", "FOLDER"),
    ] = None
    data_dir: Annotated[
        Path | None, flag("Where MNIST's four files are; else $WHENCE_DATA_DIR, else your cache.", "FOLDER")
    ] = None


@Parameter(name="*", group=ACCURACY)
@dataclass(frozen=True)
class AccuracyFlags:
    """Accuracy and cost."""

    rtol: Annotated[
        float | None, flag("The relative error that is asked for; 0.02 by default.", "X", signed=True)
    ] = None
    steps: Annotated[
        int | None, flag("So many steps along the path, instead of --rtol.", "N", signed=True)
    ] = None
    samples: Annotated[
        int | None, flag("So many random samples, for methods that sample.", "N", signed=True)
    ] = None
    option: Annotated[
        tuple[str, ...],
        flag(
            "Any other option of the method, such as noise=0.2 or quadrature=trapezoid; may be repeated. "
            "`whence methods` lists them.",
            "NAME=VALUE",
        ),
    ] = ()
    quick: Annotated[bool, flag("Rougher and faster: rtol 0.1, half the steps, a fifth of the samples.")] = (
        False
    )
    seed: Annotated[int, flag("Of all random draws; 0 by default.", "N", signed=True)] = 0
    chunk: Annotated[
        int | None, flag("Rows in one forward pass; by default the fastest is found.", "N", signed=True)
    ] = None


@Parameter(name="*", group=ANSWER)
@dataclass(frozen=True)
class AnswerFlags:
    """Where the answer goes."""

    out: Annotated[
        Path | None,
        flag(
            "The folder for the files; by default whence-out, for the demo whence-demo.",
            "FOLDER",
            short="--out -o",
        ),
    ] = None
    json: Annotated[bool, flag("Print one JSON object for programs instead of the tables.")] = False
    progress: Annotated[
        bool | None,
        flag("Show progress on stderr; by default in a terminal only.", negative="--no-progress"),
    ] = None

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return self.out or Path("whence-out")
