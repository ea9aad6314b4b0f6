"""The command line: words in, exit status out. Nothing heavy is imported before the work begins."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, CycloptsError, Parameter

from whence import __version__
from whence.cli_failure import FAILED, INTERRUPTED, WRONG_USE, fail, failed_with
from whence.cli_options import (
    ANSWER,
    COMMAND,
    QUESTION,
    AccuracyFlags,
    AnswerFlags,
    ModelFlags,
    QuestionFlags,
)
from whence.cli_study import study
from whence.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console


app = App(
    name="whence",
    help="What a neural network based its prediction on: every pixel's share of the answer, and how accurate it is.",
    help_epilogue="""Begin with:

  whence demo
      a tour on a real handwritten digit; nothing to download
  whence explain digit.png --model mnist-cnn
      a digit of your own, white on black
  whence explain photo.jpg --model mobilenet-v2 --weights mobilenet.safetensors
      a photograph

`whence COMMAND --help` says more.
Exit status: 0 success, 2 wrong use, 1 the work failed.""",
    help_format="plaintext",
    default_parameter=Parameter(negative="", negative_iterable="", show_default=False),
    suppress_keyboard_interrupt=False,
    version=__version__,
)

app.command(study)

# Threads that wait by spinning make each other thirty times slower where other programs run too. Read once, when
# a framework is imported.
PATIENT: Final = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}

Save = Annotated[bool, Parameter(group=ANSWER)]


@app.command(
    help_epilogue="""Examples:

  whence demo
  whence demo --data mnist --out tour"""
)
def demo(
    *,
    data: str = "digits",
    data_dir: Path | None = None,
    quick: bool = False,
    answer: AnswerFlags = AnswerFlags(),  # noqa: B008
) -> None:
    """Take the tour: all methods on one real handwritten digit, and a report to look at.

    Args:
        data: digits (8 x 8, inside the install) or mnist (28 x 28, downloaded once, 11 MB).
        data_dir: The folder of MNIST's four files; else $WHENCE_DATA_DIR, else your cache.
        quick: Rougher and faster.
        answer: where the answer goes.
    """
    from whence import demo as tour

    answer = replace(answer, out=answer.out or Path("whence-demo"))
    with screened(answer.json) as (console, tell):
        tell(tour.run(data, data_dir, quick, answer, console))


@app.command(
    help_epilogue="""Examples:

  whence explain digit.png --model mnist-cnn
  whence explain digit.png --model mnist-cnn --target margin:4,9
  whence explain digit.png --model mnist-cnn --method smoothgrad --samples 100
  whence explain cat.jpg --model mobilenet-v2 --weights mobilenet.safetensors \\
      --labels imagenet.txt --target "Egyptian cat" --baseline blur:20
  whence explain photos/ --model torchvision.models:resnet50 \\
      --weights resnet50.safetensors --labels imagenet.txt \\
      --size 256 --crop 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  whence explain digit.png --model my_module:make --target loss:7 \\
      --weights epoch1.safetensors --weights epoch9.safetensors"""
)
def explain(
    images: list[Path],
    /,
    *,
    method: Annotated[str, Parameter(group=QUESTION)] = "integrated_gradients",
    model: ModelFlags = ModelFlags(),  # noqa: B008
    question: QuestionFlags = QuestionFlags(),  # noqa: B008
    accuracy: AccuracyFlags = AccuracyFlags(),  # noqa: B008
    answer: AnswerFlags = AnswerFlags(),  # noqa: B008
    save: Save = False,
) -> None:
    """Explain what a model says to one or more pictures.

    Prints the answer and how far to trust its explanation, and writes an overlay for each picture and a report.

    Args:
        images: Picture files, or folders of them.
        method: A name from `whence methods`; integrated_gradients by default.
        model: the model.
        question: the question.
        accuracy: the accuracy.
        answer: where the answer goes.
        save: Also write each result as numbers: a NumPy archive, read back by whence.load.
    """
    method, *others = _registered(method)
    if others:
        raise BadInput("explain takes one --method; several are for whence compare --methods")
    from whence import cli_explain

    with screened(answer.json) as (console, tell):
        job = cli_explain.understood(images, method, model, question, accuracy, answer, save)
        tell(cli_explain.run(job, console))


@app.command(
    help_epilogue="""Examples:

  whence compare digit.png --model mnist-cnn --data-dir mnist/
  whence compare cat.jpg --model mobilenet-v2 --weights mobilenet.safetensors \\
      --quick --background photos/
  whence compare cat.jpg --model my_module:make \\
      --methods integrated_gradients,saliency"""
)
def compare(
    image: Path,
    /,
    *,
    methods: Annotated[str | None, Parameter(group=QUESTION)] = None,
    model: ModelFlags = ModelFlags(),  # noqa: B008
    question: QuestionFlags = QuestionFlags(),  # noqa: B008
    accuracy: AccuracyFlags = AccuracyFlags(),  # noqa: B008
    answer: AnswerFlags = AnswerFlags(),  # noqa: B008
) -> None:
    """Show all methods side by side on one picture: one report and one picture of all maps.

    Args:
        image: A picture file.
        methods: A comma list of names from `whence methods`; all of them by default.
        model: the model.
        question: the question.
        accuracy: the accuracy.
        answer: where the answer goes.
    """
    names = None if methods is None else _registered(methods)
    from whence import cli_compare

    with screened(answer.json) as (console, tell):
        tell(cli_compare.run(image, names, model, question, accuracy, answer, console))


@app.command(
    help_epilogue="""Examples:

  whence evaluate digit.png --model mnist-cnn
  whence evaluate digit.png --model mnist-cnn --methods integrated_gradients,lrp,gradcam
  whence evaluate cat.jpg --model mobilenet-v2 --weights mobilenet.safetensors \\
      --metrics deletion,insertion,road --quick
  whence evaluate cat.jpg --model my_module:make --mask cat-outline.png"""
)
def evaluate(
    image: Path,
    /,
    *,
    methods: Annotated[str, Parameter(group=QUESTION)] = "integrated_gradients",
    metrics: Annotated[str | None, Parameter(group=QUESTION)] = None,
    mask: Annotated[Path | None, Parameter(group=QUESTION)] = None,
    model: ModelFlags = ModelFlags(),  # noqa: B008
    question: QuestionFlags = QuestionFlags(),  # noqa: B008
    accuracy: AccuracyFlags = AccuracyFlags(),  # noqa: B008
    answer: AnswerFlags = AnswerFlags(),  # noqa: B008
) -> None:
    """Judge the explanations of one picture: faithful, robust, simple, in the right place? Beside a random map.

    Args:
        image: A picture file.
        methods: A comma list of names from `whence methods`; integrated_gradients by default.
        metrics: A comma list of metrics; by default those that one picture allows and that do not take long.
        mask: A picture that is white where the right place is, as large as the image: for metrics of localisation.
        model: the model.
        question: the question.
        accuracy: the accuracy.
        answer: where the answer goes.
    """
    names = _registered(methods)
    wanted = None if metrics is None else [each.strip().replace("-", "_") for each in metrics.split(",")]
    from whence import cli_evaluate

    with screened(answer.json) as (console, tell):
        tell(cli_evaluate.run(image, names, wanted, mask, model, question, accuracy, answer, console))


@app.command(
    help_epilogue="""Examples:

  whence check mnist-cnn
  whence check torchvision.models:resnet50 --size 224
  whence check my_module:make picture.png --methods deeplift"""
)
def check(
    name: str,
    picture: Path | None = None,
    /,
    *,
    methods: Annotated[str | None, Parameter(group=QUESTION)] = None,
    model: ModelFlags = ModelFlags(),  # noqa: B008
    json: bool = False,
) -> None:
    """Show every operation of a model, and which rule of each method takes it.

    Exit status 1: an operation is known to no rule, and methods with rules refuse the model.

    Args:
        name: A model as for --model: of the zoo, or module.path:factory.
        picture: What the model runs on; noise of the size that it takes by default.
        methods: A comma list of names from `whence methods`; those with rules by default.
        model: the model.
        json: Print one JSON object for programs instead of the table.
    """
    names = None if methods is None else _registered(methods)
    from whence import cli_check

    with screened(json) as (console, tell):
        tell(cli_check.run(name, picture, names, model, console))


@app.command(
    help_epilogue="""Examples:

  whence methods
  whence methods --json
  whence methods --backend jax"""
)
def methods(*, backend: str | None = None, json: bool = False) -> None:
    """List the methods: what each needs, its equation, and the paper it is from.

    Args:
        backend: Instead try each method in a framework and say which work: torch, jax, tensorflow, onnx, callable.
        json: Print one JSON list for programs instead of the table.
    """
    from whence import cli_methods

    with screened(json) as (console, tell):
        tell(cli_methods.listed(console) if backend is None else cli_methods.tried(backend, console))


# ---- around the commands -----------------------------------------------------------------------------------


def _registered(names: str) -> list[str]:
    """Return the methods of a comma list, each checked before the heavier half of the command is imported."""
    from whence import registry

    chosen = [name.strip().replace("-", "_") for name in names.split(",")]
    for name in chosen:
        registry.build(name, {})
    return chosen


@contextlib.contextmanager
def screened(as_json: bool) -> Generator[tuple[Console, Callable[[Any], None]]]:
    """Yield a console, and a function that ends the command with its payload.

    With `as_json` the console is silent, and whatever else is printed (by the user's own model) goes to stderr.
    """
    from rich.console import Console

    if not as_json:
        yield Console(highlight=False, emoji=False), lambda payload: None
        return
    from whence.cli_show import to_json

    wanted: list[Any] = []
    with contextlib.redirect_stdout(sys.stderr):
        yield Console(quiet=True), wanted.append
    for payload in wanted:
        print(to_json(payload))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process by default) and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    for variable, value in PATIENT.items():
        os.environ.setdefault(variable, value)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that lacks × or █
    token = COMMAND.set(shlex.join(["whence", *words]))
    try:
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return fail(
            words,
            "stopped; what was finished, or good enough to state its error, is kept",
            "Interrupted",
            INTERRUPTED,
        )
    except BrokenPipeError:
        # Whoever read the output has gone; a second failure while Python flushes it would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except CycloptsError as problem:
        command = f"whence {words[0]}" if words and words[0] in app else "whence"
        return fail(words, f"{str(problem).rstrip('.')}; see {command} --help", "BadInput", WRONG_USE)
    except Exception as problem:
        return failed_with(words, problem)
    finally:
        COMMAND.reset(token)
