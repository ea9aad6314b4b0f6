"""One framework in a process of its own: reads what to do from a folder, and writes what came of it there.

`python -m whence.study.frameworks.worker FOLDER`: nothing that another framework imported, compiled or allocated is in
the way.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

STEP: Final = "whence-study: "
"""What lines of progress begin with: frameworks print too."""
ASKED, GIVEN, FOUND, MAPS = "asked.json", "given.npz", "found.json", "maps.npz"
QUIET: Final = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "KERAS_BACKEND": "tensorflow",
    # All are compared on the processor: some would take an accelerator unasked, and others not.
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
}
"""Read once, when a framework is imported."""


def main(folder: Path) -> None:
    """Do what the folder asks, and end the process."""
    asked: dict[str, Any] = json.loads((folder / ASKED).read_text())
    os.environ.update(QUIET)
    if asked["setup"]["dtype"] == "float64":
        os.environ["JAX_ENABLE_X64"] = "1"
    from whence.study.frameworks.results import Ran
    from whence.study.frameworks.setup import FRAMEWORKS, Setup
    from whence.study.frameworks.trial import Trial, short

    framework = FRAMEWORKS[asked["framework"]]
    setup = Setup.read(asked["setup"])
    with np.load(folder / GIVEN) as given:
        arrays = {name: given[name] for name in given.files}
    trial = Trial(framework, asked["network"], setup, began=asked["began"], **arrays)
    maps: dict[str, np.ndarray] = {}
    try:
        ran, maps = trial.run(_tell)
    except ModuleNotFoundError as problem:
        package = (problem.name or framework.name).partition(".")[0]
        words = f"{package} is not installed: pip install '{framework.install}'"
        ran = Ran(framework.name, asked["network"], absent=words)
    except Exception as problem:
        ran = Ran(framework.name, asked["network"], problem=f"{type(problem).__name__}: {short(problem)}")
    np.savez(folder / MAPS, **maps)  # pyright: ignore[reportArgumentType]
    _answer(folder, asdict(ran))
    if not ran.absent and not ran.problem:
        # Said again with more: a method that brings the process down takes nothing of what was measured with it.
        _answer(folder, asdict(ran) | {"unsupported": trial.supported(_tell)})
    sys.stdout.flush()
    # What a framework does while it is taken down is not of interest, and has crashed before.
    os._exit(0)


def _tell(text: str) -> None:
    print(f"{STEP}{text}", flush=True)


def _answer(folder: Path, record: dict[str, Any]) -> None:
    from whence.files import write_atomically

    with write_atomically(folder / FOUND) as handle:
        handle.write(json.dumps(record).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
